"""Several attempts at a problem: how many problems are solved by at least one of k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import amplitude, exponent, scale
from analysis.laws.smooth import Smooth, Value

_NO = "it maps attempts to solved problems"

coverage = Smooth(
    "coverage",
    "missed = a k^-b, missed = -log(share of problems that one of k attempts solves)",
    (
        amplitude("a", "-log of the share that one attempt solves", "-log share"),
        exponent("b", "slope in attempts"),
    ),
    (),
    "Brown 2024, arXiv 2407.21787 (its abstract was read); k is the column attempts",
    inputs=("attempts",),
    logs=lambda m, p, c: {"a": -(p["b"] * m.log(c["attempts"]))},
    amplitudes=("a",),
    quantity="value",
    response="-log of the share of problems that one of so many attempts solves",
    no_optimum=_NO,
    example={"a": 1.5, "b": 0.3},
)


def _log_gamma(m: Any, x: Value) -> Value:
    """log Gamma(x) by Stirling's series at x + 10, exact to 1e-12, of nothing but logarithms: see ``smooth``."""
    y, product = x + 10.0, x
    for i in range(1, 10):
        product = product * (x + float(i))
    r = 1.0 / y
    series = r * (1 / 12 - r * r * (1 / 360 - r * r * (1 / 1260 - r * r / 1680)))
    return (y - 0.5) * m.log(y) - y + 0.5 * np.log(2 * np.pi) + series - m.log(product)


def _failed(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    """log of the mean of (1 - chance)^k for chances that are beta distributed with mean 1 - error."""
    s, k, hard = p["s"], c["attempts"], p["s"] * c["error"]
    return {"*": _log_gamma(m, hard + k) - _log_gamma(m, hard) + _log_gamma(m, s) - _log_gamma(m, s + k)}


pass_at_k = Smooth(
    "pass_at_k",
    "1 - pass@k = Gamma(s error + k) Gamma(s) / (Gamma(s error) Gamma(s + k)), k = attempts",
    (scale("s", "1", "how alike the problems are: near 0 each is solved always or never", (0.1, 30.0)),),
    (),
    "chances by problem beta distributed, s the sum of its parameters; compare arXiv 2407.21787",
    inputs=("error", "attempts"),
    logs=_failed,
    quantity="error",
    response="1 - pass@k: the share of problems that none of so many attempts solves, by the error of one attempt",
    no_optimum=_NO,
    example={"s": 1.5},
)
