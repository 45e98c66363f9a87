"""Weights that are pruned during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.laws.base import amplitude, exponent, floor
from analysis.laws.smooth import Smooth, Value


def _logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    size = -(p["b_N"] * m.log(c["N"]))
    return {"c_S": size, "a_S": size + p["b_S"] * m.log(1.0 - c["sparsity"]), "B": -(p["b_D"] * m.log(c["D"]))}


sparsity = Smooth(
    "sparsity",
    "L = E + (a_S (1 - sparsity)^b_S + c_S) N^-b_N + B D^-b_D",
    (
        floor("E", "loss that no scale removes"),
        amplitude("a_S", "what a dense model costs on top at N = 1"),
        amplitude("c_S", "what too few non-zero parameters cost at N = 1, infinitely sparse"),
        amplitude("B", "what too few tokens or steps cost at D = 1"),
        exponent("b_S", "slope in density"),
        exponent("b_N", "slope in non-zero parameters"),
        exponent("b_D", "slope in tokens or steps"),
    ),
    (),
    "Frantar 2023, arXiv 2309.08520; N counts non-zero parameters, its (a_D / D)^b_D is B D^-b_D here",
    inputs=("N", "sparsity", "D"),
    logs=_logs,
    amplitudes=("a_S", "c_S", "B"),
    signed=("sparsity",),
    no_optimum="it depends on the sparsity: hold that, then a = b_D / (b_N + b_D)",
    example={"E": 0.83, "a_S": 6.0, "c_S": 24.0, "B": 100.0, "b_S": 1.3, "b_N": 0.23, "b_D": 0.3},
)
