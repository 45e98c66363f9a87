"""Repeated data, with overfitting and a loss that is never above that of a model that knows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.laws.base import E, amplitude, exponent, scale
from analysis.laws.smooth import Smooth, Value


def _logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    n = m.log(c["N"])
    small = p["alpha"] * (m.log(p["N0"]) - n)
    short = p["beta"] * (m.log(p["D0"]) - m.log(c["D"]))
    known = p["delta"] * (m.log(p["U0"]) + p["g"] * n - m.log(c["U"]))
    log_h = m.logaddexp(m.logaddexp(small, short), known)
    return {"R": -m.logaddexp(0.0, -log_h)}


overfitting = Smooth(
    "overfitting",
    "L = E + R h / (1 + h), h = (N0/N)^alpha + (D0/D)^beta + (U0 N^g / U)^delta",
    (
        E,
        amplitude("R", "loss of a model that knows nothing, less E"),
        scale("N0", "parameters", "parameters that are far too few", (1e3, 1e7), 1e-6),
        scale("D0", "tokens", "tokens, repeated ones too, that are far too few", (1e5, 1e9), 1e-6),
        scale("U0", "tokens", "unique tokens that are far too few, at N = 1", (1e-3, 1e6), 1e-12),
        exponent("alpha", "slope in parameters", grid=(0.1, 1.0)),
        exponent("beta", "slope in tokens", grid=(0.1, 1.0)),
        exponent("g", "how the unique tokens that are needed grow with parameters", 2.0, (0.1, 1.0)),
        exponent("delta", "slope in unique tokens", grid=(0.2, 1.5)),
    ),
    (),
    "compare arXiv 2605.09189 (its abstract was read): E + (L0 - E) h/(1+h), h = a N^-al + b T^-be + c N^ga D^-de",
    inputs=("N", "D", "U"),
    steady=("U",),
    logs=_logs,
    amplitudes=("R",),
    no_optimum="it depends on the unique tokens: hold those",
    example={
        "E": 1.7,
        "R": 9.0,
        "N0": 1e5,
        "D0": 1e7,
        "U0": 50.0,
        "alpha": 0.4,
        "beta": 0.45,
        "g": 0.6,
        "delta": 0.7,
    },
)
