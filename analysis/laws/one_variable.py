"""Laws of one variable: ``power:C`` is the law in column C. They do not determine N or D for a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, E, Law, Param, Term, amplitude, exponent, floor, scale, slope
from analysis.laws.smooth import Smooth, Value

_ALONE = "a law of one variable does not weigh N against D"

power = Law(
    "power",
    "L = A x^-a",
    (amplitude("A", "loss at x = 1"), exponent("a", "slope")),
    (Term("A", (("x", "a"),)),),
    "Hestness 2017, arXiv 1712.00409",
    no_optimum=_ALONE,
    example={"A": 20.0, "a": 0.2},
)
power_floor = Law(
    "power_floor",
    "L = E + A x^-a",
    (E, amplitude("A", "reducible loss at x = 1"), exponent("a", "slope")),
    (Term("A", (("x", "a"),)),),
    "Henighan 2020, arXiv 2010.14701",
    no_optimum=_ALONE,
    example={"E": 1.2, "A": 20.0, "a": 0.3},
)


growth = Smooth(
    "growth",
    "y = k x^a",
    (amplitude("k", "value at x = 1", "of y"), slope("a", "slope")),
    (),
    "the optimum's power law: N_opt = k C^a, Kaplan 2020, arXiv 2001.08361; Hoffmann 2022, arXiv 2203.15556",
    inputs=("x",),
    logs=lambda m, p, c: {"k": p["a"] * m.log(c["x"])},
    amplitudes=("k",),
    quantity="value",
    response="N_opt, a best batch, a best learning rate or anything else that grows as a power",
    no_optimum=_ALONE,
    example={"k": 0.01, "a": 0.55},
)


def _saturating(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    # E + R / (1 + (x / x0)^a): R at x -> 0, nothing at x -> infinity
    u = p["a"] * (m.log(c["x"]) - m.log(p["x0"]))
    return {"R": -m.logaddexp(0.0, u)}


saturating = Smooth(
    "saturating",
    "L = E + R / (1 + (x / x0)^a)",
    (
        E,
        amplitude("R", "what training can remove: the loss at x = 0 less E"),
        scale("x0", "of x", "where half of R is gone", "x"),
        exponent("a", "slope far beyond x0", 12.0, (0.1, 8.0)),
    ),
    (),
    "a power law that saturates at both ends; compare Zhai 2021, arXiv 2106.04560. Of the error it is the law of "
    "rewards of arXiv 2510.13786 (abstract read), of fine-tuning data the rectified law of arXiv 2402.02314 (too)",
    inputs=("x",),
    logs=_saturating,
    amplitudes=("R",),
    no_optimum=_ALONE,
    example={"E": 1.5, "R": 8.0, "x0": 300000.0, "a": 0.6},
)


def broken(breaks: int) -> Smooth:
    """b x^-c0 prod (1 + (x / d_i)^(1 / f_i))^(-c_i f_i) above a floor a, breaks in the order of x."""

    def logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
        x = m.log(c["x"])
        u = -p["c0"] * x
        for i in range(1, breaks + 1):
            u = u - p[f"c{i}"] * p[f"f{i}"] * m.logaddexp(0.0, (x - m.log(p[f"d{i}"])) / p[f"f{i}"])
        return {"b": u}

    def ordered(theta: Array) -> Array:
        triples = theta[:, 3:].reshape(len(theta), breaks, 3)
        order = np.argsort(triples[:, :, 0], axis=1)
        sorted_ = np.take_along_axis(triples, order[:, :, None], 1)
        return np.concatenate([theta[:, :3], sorted_.reshape(len(theta), -1)], 1)

    params = [
        floor("a", "value at x = infinity", "of y"),
        amplitude("b", "value at x = 1 before the first break", "of y"),
        slope("c0", "slope before the first break", 3.0, (0.02, 1.0)),
    ]
    for i in range(1, breaks + 1):
        params += [
            scale(f"d{i}", "of x", f"where break {i} lies", "x"),
            slope(f"c{i}", f"change of slope at break {i}", 3.0, (-1.0, 1.0)),
            Param(f"f{i}", "e-folds of x", 0.02, 20.0, f"width of break {i}", (0.1, 2.0)),
        ]
    example = {"a": 0.8, "b": 6.0, "c0": 0.05}
    for i in range(1, breaks + 1):
        example |= {f"d{i}": 10.0 ** (4 + 4 * i / (breaks + 1)), f"c{i}": 0.3 / i, f"f{i}": 0.3}
    factor = " ".join(f"(1 + (x / d{i})^(1 / f{i}))^(-c{i} f{i})" for i in range(1, breaks + 1))
    return Smooth(
        f"bnsl{breaks}",
        f"y = a + b x^-c0 {factor}",
        tuple(params),
        (),
        "broken neural scaling law, Caballero 2022, arXiv 2210.14891",
        inputs=("x",),
        logs=logs,
        amplitudes=("b",),
        ordered=ordered if breaks > 1 else None,
        no_optimum=_ALONE,
        example=example,
    )


bnsl1, bnsl2 = broken(1), broken(2)
NUMBERED = {"bnsl": broken}  # bnsl3 and so on, when they are named
