"""Model and data terms under one outer exponent, with the floor outside of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, E, Param, amplitude, exponent, scale
from analysis.laws.smooth import Smooth, Value


def _logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    model, data = -(p["alpha"] * m.log(c["N"])), m.log(p["R"]) - p["beta"] * m.log(c["D"])
    return {"A": p["k"] * m.logaddexp(model, data)}


def _balance(theta: Array) -> tuple[Array, Array, Array, Array]:
    """The optimum of (N^-alpha + R D^-beta)^k is that of what stands inside."""
    _, _, r, alpha, beta, _ = theta.T
    return np.ones(len(theta)), alpha, r, beta


skaling = Smooth(
    "skaling",
    "L = E + A (N^-alpha + R D^-beta)^k",
    (
        E,
        amplitude("A", "what stands above the floor at N = 1 and D without end"),
        scale("R", "ratio", "what too few tokens cost at D = 1 beside too few parameters at N = 1", (1e-3, 1e3), 1e-9),
        exponent("alpha", "slope in parameters, inside"),
        exponent("beta", "slope in tokens, inside"),
        Param("k", "exponent", 0.05, 5.0, "outer exponent; 1 is Hoffmann's law", (0.2, 2.0), kind="exponent"),
    ),
    (),
    "Skaling, arXiv 2608.07222",
    inputs=("N", "D"),
    logs=_logs,
    amplitudes=("A",),
    balance=_balance,
    example={"E": 1.7, "A": 300.0, "R": 2.0, "alpha": 0.65, "beta": 0.58, "k": 0.5},
)
