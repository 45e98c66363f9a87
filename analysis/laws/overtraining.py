"""Training beyond the compute optimum: the loss at compute C and tokens per parameter M."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Array, E, Law, Term, amplitude, exponent


def _compute(logs: dict[str, Array]) -> dict[str, Array]:
    """The columns C / M and C M of the terms, from C = 6 N D and M = D / N."""
    return {"C/M": np.log(6) + 2 * logs["N"], "C M": np.log(6) + 2 * logs["D"]}


def _balance(theta: Array) -> tuple[Array, Array, Array, Array]:
    _, a, b, eta = np.atleast_2d(theta).T
    return a * 6**-eta, 2 * eta, b * 6**-eta, 2 * eta


overtraining = Law(
    "overtraining",
    "L = E + (A M^eta + B M^-eta) C^-eta, M = D / N, C = 6 N D",
    (
        E,
        amplitude("A", "what too few parameters cost"),
        amplitude("B", "what too few tokens cost"),
        exponent("eta", "slope in compute at fixed tokens per parameter"),
    ),
    (Term("A", (("C/M", "eta"),)), Term("B", (("C M", "eta"),))),
    "Gadre 2024, arXiv 2403.08540; Chinchilla's form with alpha = beta = 2 eta",
    inputs=("N", "D"),
    derive=_compute,
    balance=_balance,
    example={"E": 1.84, "A": 212.0, "B": 367.0, "eta": 0.136},
)
