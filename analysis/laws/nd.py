"""Laws of parameters N and tokens D, which determine how to split a compute budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, E, Law, Param, Term, amplitude, exponent, floor
from analysis.laws.smooth import Smooth, Value

_DRIFT = "N^-alpha D^-beta at fixed N D is monotone in N: the budget goes to one side unless alpha = beta"
product = Law(
    "product",
    "L = A N^-alpha D^-beta",
    (
        amplitude("A", "loss at N = D = 1"),
        exponent("alpha", "slope in parameters", grid=(0.01, 1.0)),
        exponent("beta", "slope in tokens", grid=(0.01, 1.0)),
    ),
    (Term("A", (("N", "alpha"), ("D", "beta"))),),
    "log-linear in N and D; compare Hernandez 2021, arXiv 2102.01293",
    in_all=True,
    style=3,
    no_optimum=_DRIFT,
    example={"A": 20.0, "alpha": 0.05, "beta": 0.1},
)
product_floor = Law(
    "product_floor",
    "L = E + A N^-alpha D^-beta",
    (E, *product.params),
    product.terms,
    "log-linear above a floor; compare Hernandez 2021, arXiv 2102.01293",
    in_all=True,
    style=2,
    no_optimum=_DRIFT,
    example={"E": 1.0, "A": 100.0, "alpha": 0.2, "beta": 0.25},
)
chinchilla = Law(
    "chinchilla",
    "L = E + A N^-alpha + B D^-beta",
    (
        E,
        amplitude("A", "what too few parameters cost at N = 1"),
        amplitude("B", "what too few tokens cost at D = 1"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in tokens"),
    ),
    (Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))),
    "Hoffmann 2022, arXiv 2203.15556",
    default=True,
    in_all=True,
    style=0,
    example={"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
)

chinchilla_outer = Law(
    "chinchilla_outer",
    "L = (E + A N^-alpha + B D^-beta)^q",
    (
        floor("E", "what no scale removes: the floor of the loss is E^q", "loss^(1/q)"),
        amplitude("A", "what too few parameters cost at N = 1", "loss^(1/q)"),
        amplitude("B", "what too few tokens cost at D = 1", "loss^(1/q)"),
        exponent("alpha", "slope in parameters, inside"),
        exponent("beta", "slope in tokens, inside"),
        Param("q", "exponent", 0.02, 10.0, "outer exponent; 1 is Hoffmann's law", (0.1, 3.0), kind="exponent"),
    ),
    chinchilla.terms,
    "Kaplan 2020's form (arXiv 2001.08361, eq. 1.5) with a floor inside and both exponents free; compare Droppo and "
    "Elibol 2021, arXiv 2106.09488, of which the abstract was read, not the formula",
    outer="q",
    style=4,
    example={"E": 2.0, "A": 4000.0, "B": 3000.0, "alpha": 0.45, "beta": 0.38, "q": 0.6},
)


_LARGEST = 700.0


def _kaplan_power(theta: Array) -> Array:
    """(Nc, Dc, alpha_N, alpha_D) -> (A, B, p, q) of (A N^-p + B / D)^q."""
    nc, dc, alpha_n, alpha_d = theta.T
    p = alpha_n / alpha_d
    with np.errstate(divide="ignore"):
        return np.stack([np.exp(np.minimum(p * np.log(nc), _LARGEST)), dc, p, alpha_d], 1)


def _kaplan_natural(power: Array) -> Array:
    a, b, p, q = power.T
    with np.errstate(divide="ignore", over="ignore"):
        # Nc of a term that the data do not identify goes to infinity: cap it at the largest number that JSON can hold
        return np.stack([np.exp(np.minimum(np.log(a) / p, _LARGEST)), b, p * q, q], 1)


_FORM = "L = [(Nc / N)^(alpha_N / alpha_D) + Dc / D]^alpha_D"


def _kaplan_logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    model = p["alpha_N"] / p["alpha_D"] * (m.log(p["Nc"]) - m.log(c["N"]))
    return {"*": p["alpha_D"] * m.logaddexp(model, m.log(p["Dc"]) - m.log(c["D"]))}


def _kaplan_balance(theta: Array) -> tuple[Array, Array, Array, Array]:
    a, b, p, _ = _kaplan_power(theta).T
    return a, p, b, np.ones(len(theta))


_kaplan_explicit = Smooth(
    "kaplan",
    _FORM,
    (
        Param(
            "Nc", "parameters", 1e-30, 1e300, "parameters at which the model-limited loss is 1", log=True, kind="scale"
        ),
        Param("Dc", "tokens", 1e-30, 1e300, "tokens at which the data-limited loss is 1", log=True, kind="scale"),
        Param("alpha_N", "exponent", 1e-4, 10.0, "slope in parameters", kind="exponent"),
        Param("alpha_D", "exponent", 1e-3, 3.0, "slope in tokens", kind="exponent"),
    ),
    (),
    "Kaplan 2020, arXiv 2001.08361, eq. 1.5",
    inputs=("N", "D"),
    logs=_kaplan_logs,
    starts_from="kaplan",
    balance=_kaplan_balance,
)
kaplan = Law(
    "kaplan",
    _FORM,
    (
        amplitude("Nc", "parameters at which the model-limited loss is 1", "parameters"),
        amplitude("Dc", "tokens at which the data-limited loss is 1", "tokens"),
        exponent("alpha_N", "slope in parameters"),
        exponent("alpha_D", "slope in tokens"),
    ),
    (Term("A", (("N", "p"),)), Term("B", (("D", 1.0),))),
    "Kaplan 2020, arXiv 2001.08361, eq. 1.5",
    outer="q",
    in_all=True,
    style=1,
    coordinates=(
        amplitude("A", "Nc^p"),
        amplitude("B", "Dc"),
        Param("p", "exponent", 0.02, 30.0, "alpha_N / alpha_D", (0.1, 10.0), kind="exponent"),
        Param("q", "exponent", 1e-3, 3.0, "alpha_D", (0.02, 1.0), kind="exponent"),
    ),
    to_power=_kaplan_power,
    from_power=_kaplan_natural,
    explicit=_kaplan_explicit,
    example={"Nc": 88000000000000.0, "Dc": 54000000000000.0, "alpha_N": 0.076, "alpha_D": 0.095},
)
