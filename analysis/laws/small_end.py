"""A power law that bends at the small end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.laws.base import amplitude, exponent, floor, scale
from analysis.laws.smooth import Smooth, Value


def _logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    return {"A": -(p["s"] * m.log(c["x"] + p["x0"]))}


shifted_power = Smooth(
    "shifted_power",
    "L = E + A (x + x0)^-s",
    (
        floor("E", "what x does not remove"),
        amplitude("A", "what stands above the floor at x + x0 = 1"),
        exponent("s", "slope far above x0"),
        scale("x0", "of x", "below it x hardly counts", "x"),
    ),
    (),
    "Zhai 2021, arXiv 2106.04560, section on E = a (C + d)^-b + c",
    inputs=("x",),
    logs=_logs,
    amplitudes=("A",),
    no_optimum="one variable: nothing to allocate",
    example={"E": 1.2, "A": 40.0, "s": 0.3, "x0": 3e5},
)
