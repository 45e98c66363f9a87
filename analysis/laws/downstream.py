"""From one loss to another quantity: downstream error, or the loss on other data. ``x`` is the column of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, Columns, Param, amplitude, exponent, floor
from analysis.laws.smooth import Smooth, Value

_NO = "it maps a loss to another quantity"
_ERROR = "the error of a task (column loss of the table; name it with --columns=loss=NAME)"

downstream = Smooth(
    "downstream",
    "error = eps - k exp(-gamma x)",
    (
        floor("eps", "error of a model that knows nothing", "error"),
        amplitude("k", "how far the error can fall, at x = 0", "error"),
        exponent("gamma", "error's fall per unit of loss", 20.0, (0.1, 10.0)),
    ),
    (),
    "Gadre 2024, arXiv 2403.08540",
    inputs=("x",),
    logs=lambda m, p, c: {"k": -p["gamma"] * c["x"]},
    amplitudes=("k",),
    negative=("k",),
    quantity="error",
    response=_ERROR,
    of_a_loss=True,
    no_optimum=_NO,
    example={"eps": 0.86, "k": 2.5, "gamma": 0.8},
)


def _sigmoid(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    return {"k": -m.logaddexp(0.0, -(p["s"] * (c["x"] - p["x0"])))}


downstream_sigmoid = Smooth(
    "downstream_sigmoid",
    "error = e + k / (1 + exp(-s (x - x0)))",
    (
        floor("e", "error of a perfect model", "error"),
        amplitude("k", "from the perfect model to one that knows nothing", "error"),
        exponent("s", "steepness per unit of loss", 50.0, (0.3, 20.0)),
        Param("x0", "loss", 0.0, 1e3, "loss half-way", "x"),
    ),
    (),
    "sigmoid of the loss, Llama 3 report 2024, arXiv 2407.21783",
    inputs=("x",),
    logs=_sigmoid,
    amplitudes=("k",),
    quantity="error",
    response=_ERROR,
    of_a_loss=True,
    no_optimum=_NO,
    example={"e": 0.1, "k": 0.8, "s": 3.0, "x0": 3.3},
)


def _pair(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    return {"K": p["kappa"] * m.log(c["x"] - p["E0"])}


def _pair_guess(columns: Columns, loss: Array) -> dict[str, float]:
    ((_, x),) = columns.items()
    return {"E0": 0.6 * float(np.min(x))}


loss_to_loss = Smooth(
    "loss_to_loss",
    "y = E1 + K (x - E0)^kappa",
    (
        floor("E1", "floor of the other loss"),
        amplitude("K", "other loss less its floor where x - E0 = 1"),
        exponent("kappa", "slope", 10.0, (0.2, 4.0)),
        Param("E0", "loss", 0.0, 1e3, "floor of the loss x"),
    ),
    (),
    "Brandfonbrener 2024, arXiv 2411.12925",
    inputs=("x",),
    logs=_pair,
    amplitudes=("K",),
    guess=_pair_guess,
    quantity="other_loss",
    response="the loss on other data or of another family",
    of_a_loss=True,
    no_optimum=_NO,
    example={"E1": 1.1, "K": 0.9, "kappa": 1.2, "E0": 1.5},
)
