"""Mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, Columns, E, Law, Param, Term, amplitude, exponent, scale, slope
from analysis.laws.smooth import Smooth, Value


def _experts(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    start = 1.0 / (1.0 / p["E_start"] - 1.0 / p["E_max"])
    log_e = -m.log(1.0 / (c["experts"] - 1.0 + start) + 1.0 / p["E_max"])
    log_n, ten = m.log(c["N"]), np.log(10.0)
    return {"*": p["d"] * ten + p["a"] * log_n + p["b"] * log_e + p["c"] * (log_e * (log_n / ten))}


def _guess(columns: Columns, loss: Array) -> dict[str, float]:
    n, e = np.log10(np.asarray(columns["N"])), np.log10(np.asarray(columns["experts"]) + 1.0)
    fit = np.linalg.lstsq(np.stack([n, e, n * e, np.ones_like(n)], 1), np.log10(loss), rcond=None)[0]
    return dict(zip("abcd", fit.tolist()))


routing = Smooth(
    "routing",
    "log10 L = a log10 N + b log10 E^ + c log10 N log10 E^ + d, "
    "1/E^ = 1/(experts - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max",
    (
        slope("a", "slope in dense parameters", 3.0, None),
        slope("b", "slope in effective experts", 3.0, None),
        Param("c", "exponent per decade", -1.0, 1.0, "how parameters take the gain of experts away"),
        Param("d", "decades of loss", -20.0, 20.0, "loss at N = E^ = 1"),
        scale("E_start", "experts", "effective experts of a dense model", (1.0, 10.0), 1e-2),
        scale("E_max", "experts", "effective experts never exceed it", (20.0, 3000.0), 1e-2),
    ),
    (),
    "Clark 2022, arXiv 2202.01169",
    inputs=("N", "experts"),
    logs=_experts,
    guess=_guess,
    no_optimum="D is constant in it: a budget does not split into N and D",
    example={"a": -0.08, "b": -0.12, "c": 0.01, "d": 1.1, "E_start": 2.0, "E_max": 300.0},
)

granularity = Law(
    "granularity",
    "L = E + (A + G granularity^-gamma) N^-alpha + B D^-beta",
    (
        E,
        amplitude("A", "what too few parameters cost at N = 1 with experts cut infinitely fine"),
        amplitude("G", "what coarse experts cost on top"),
        amplitude("B", "what too few tokens cost at D = 1"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in tokens"),
        exponent("gamma", "slope in granularity"),
    ),
    (
        Term("A", (("N", "alpha"),)),
        Term("G", (("N", "alpha"), ("granularity", "gamma"))),
        Term("B", (("D", "beta"),)),
    ),
    "fine-grained experts, Krajewski 2024, arXiv 2402.07871",
    no_optimum="it depends on the granularity: hold that, then a = beta / (alpha + beta)",
    example={"E": 0.9, "A": 60.0, "G": 30.0, "B": 300.0, "alpha": 0.25, "beta": 0.25, "gamma": 0.6},
)
