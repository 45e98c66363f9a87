"""Training in low precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.laws.base import E, amplitude, exponent, scale
from analysis.laws.smooth import Smooth, Value


def _bits(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    kept = m.log(-m.expm1(-c["bits"] / p["gamma"]))
    return {"A": -p["alpha"] * (m.log(c["N"]) + kept), "B": -p["beta"] * m.log(c["D"])}


precision = Smooth(
    "precision",
    "L = E + A N_eff^-alpha + B D^-beta, N_eff = N (1 - exp(-bits / gamma))",
    (
        E,
        amplitude("A", "what too few effective parameters cost at N_eff = 1"),
        amplitude("B", "what too few tokens cost at D = 1"),
        exponent("alpha", "slope in effective parameters"),
        exponent("beta", "slope in tokens"),
        scale("gamma", "bits", "bits that keep 63 % of the parameters", (0.3, 10.0), 1e-2),
    ),
    (),
    "Kumar 2024, arXiv 2411.04330",
    inputs=("N", "D", "bits"),
    logs=_bits,
    amplitudes=("A", "B"),
    no_optimum="it depends on the bits: hold those, then a = beta / (alpha + beta)",
    example={"E": 1.7, "A": 400.0, "B": 800.0, "alpha": 0.34, "beta": 0.3, "gamma": 2.5},
)
