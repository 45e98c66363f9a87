"""Repeated data: repeated tokens, and parameters in excess of the unique tokens, have diminishing value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, E, Param, exponent, ratio
from analysis.laws.smooth import Smooth, Value


def _worth(m: Any, log_unique: Any, repeats: Any, half: Any) -> Any:
    """log of U (1 + R* (1 - exp(-R / R*))): the effective amount of U repeated R times."""
    return log_unique + m.log1p(-half * m.expm1(-repeats / half))


def _repeats(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    log_n, log_u = m.log(c["N"]), m.log(m.minimum(c["U"], c["D"]))
    log_d = _worth(m, log_u, m.maximum(c["D"] / c["U"] - 1.0, 0.0), p["R_D"])
    # the compute-optimal N for one epoch of U tokens: D_opt = U on Chinchilla's frontier
    log_g = (m.log(p["alpha"] * p["A"]) - m.log(p["beta"] * p["B"])) / (p["alpha"] + p["beta"])
    fed = m.minimum(p["beta"] / p["alpha"] * (log_u + log_g) + log_g, log_n)
    log_np = _worth(m, fed, m.exp(log_n - fed) - 1.0, p["R_N"])
    return {"parameters": m.log(p["A"]) - p["alpha"] * log_np, "tokens": m.log(p["B"]) - p["beta"] * log_d}


def _balance(theta: Array) -> tuple[Array, Array, Array, Array]:
    _, a, b, alpha, beta, _, _ = np.atleast_2d(theta).T
    return a, alpha, b, beta


repeats = Smooth(
    "repeats",
    "L = E + A N'^-alpha + B D'^-beta; D' = U (1 + R_D (1 - exp(-(D/U - 1) / R_D))), "
    "N' = U_N (1 + R_N (1 - exp(-(N/U_N - 1) / R_N))), U_N = min(N, N_opt where D_opt = U)",
    (
        E,
        Param("A", "loss", 1e-12, 1e30, "what too few parameters cost at N' = 1", log=True, kind="amplitude"),
        Param("B", "loss", 1e-12, 1e30, "what too few tokens cost at D' = 1", log=True, kind="amplitude"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in tokens"),
        ratio("R_D", "repetitions after which more are worth little", (0.5, 300.0), 1e-3, "epochs"),
        ratio("R_N", "excess of parameters after which more is worth little", (0.5, 300.0), 1e-3),
    ),
    (),
    "Muennighoff 2023, arXiv 2305.16264",
    inputs=("N", "D", "U"),
    steady=("U",),  # one corpus, read for less than an epoch and for many
    logs=_repeats,
    starts_from="chinchilla",
    balance=_balance,  # for unlimited data; with U unique tokens `allocate` searches
    example={"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.4, "R_N": 5.3},
)
