"""Training in low precision, and rounding the weights after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analysis.laws.base import E, amplitude, exponent, scale
from analysis.laws.smooth import Smooth, Value

_BITS = "it depends on the bits: hold those, then a = beta / (alpha + beta)"


def _effective(**scale_of: str) -> Callable[[Any, Mapping[str, Value], Mapping[str, Value]], dict[str, Value]]:
    """Logarithms of the terms where each column of bits leaves a share of the parameters, by its own scale."""

    def logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
        kept = sum(m.log(-m.expm1(-c[bits] / p[gamma])) for bits, gamma in scale_of.items())
        return {"A": -p["alpha"] * (m.log(c["N"]) + kept), "B": -p["beta"] * m.log(c["D"])}

    return logs


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
    logs=_effective(bits="gamma"),
    amplitudes=("A", "B"),
    no_optimum=_BITS,
    example={"E": 1.7, "A": 400.0, "B": 800.0, "alpha": 0.34, "beta": 0.3, "gamma": 2.5},
)

precision_parts = Smooth(
    "precision_parts",
    "L = E + A N_eff^-alpha + B D^-beta, N_eff = N K_w K_a K_c, K = 1 - exp(-bits / gamma) of each part",
    (
        E,
        amplitude("A", "what too few effective parameters cost at N_eff = 1"),
        amplitude("B", "what too few tokens cost at D = 1"),
        exponent("alpha", "slope in effective parameters"),
        exponent("beta", "slope in tokens"),
        *(
            scale(f"gamma_{part[0]}", "bits", f"bits of the {part} that keep 63 % of the parameters", (0.3, 10.0), 1e-2)
            for part in ("weights", "activations", "cache")
        ),
    ),
    (),
    "Kumar 2024, arXiv 2411.04330",
    inputs=("N", "D", "weight_bits", "activation_bits", "cache_bits"),
    logs=_effective(weight_bits="gamma_w", activation_bits="gamma_a", cache_bits="gamma_c"),
    amplitudes=("A", "B"),
    no_optimum=_BITS,
    example={
        "E": 1.7,
        "A": 400.0,
        "B": 800.0,
        "alpha": 0.34,
        "beta": 0.3,
        "gamma_w": 2.5,
        "gamma_a": 2.2,
        "gamma_c": 0.9,
    },
)


def _rounded(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    return {"C": p["gamma_D"] * m.log(c["D"]) - p["gamma_N"] * m.log(c["N"]) - c["bits"] / p["gamma"]}


post_training = Smooth(
    "post_training",
    "delta = C D^gamma_D N^-gamma_N exp(-bits / gamma)",
    (
        amplitude("C", "increase at N = D = 1 without bits"),
        exponent("gamma_D", "slope in the tokens of training, with which the increase grows"),
        exponent("gamma_N", "slope in parameters, with which it falls"),
        scale("gamma", "bits", "bits that divide the increase by e", (0.3, 10.0), 1e-2),
    ),
    (),
    "compare Kumar 2024, arXiv 2411.04330, delta_PTQ (digests of it were read)",
    inputs=("N", "D", "bits"),
    logs=_rounded,
    amplitudes=("C",),
    quantity="value",
    response="increase of the loss by rounding the weights to so many bits",
    no_optimum="it is the price of rounding, to which that of training is to be added",
    example={"C": 3.0, "gamma_D": 0.5, "gamma_N": 0.5, "gamma": 0.7},
)
