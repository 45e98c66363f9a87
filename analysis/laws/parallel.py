"""Parallel streams of one set of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.laws.base import E, amplitude, exponent, ratio
from analysis.laws.smooth import Smooth, Value


def _logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    return {"A": -(p["alpha"] * (m.log(c["N"]) + m.log(p["k"] * m.log(c["streams"]) + 1.0)))}


parallel = Smooth(
    "parallel",
    "L = E + A (N (k log streams + 1))^-alpha",
    (
        E,
        amplitude("A", "what too few parameters cost at N = 1 with one stream"),
        exponent("alpha", "slope in parameters"),
        ratio("k", "what e-fold more streams are worth, as a share of the parameters", (0.03, 3.0), 1e-6),
    ),
    (),
    "parallel scaling, arXiv 2505.10475; its A is A^(1/alpha) here",
    inputs=("N", "streams"),
    logs=_logs,
    amplitudes=("A",),
    no_optimum="D is constant in it: a budget does not split into N and D",
    example={"E": 0.7, "A": 30.0, "alpha": 0.19, "k": 0.4},
)
