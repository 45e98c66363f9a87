"""Terms of N and D whose amplitude and exponent change with N."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.laws.base import Param, amplitude, exponent, slope
from analysis.laws.smooth import Smooth, Value

MIDDLE = 1e9  # parameters at which amplitudes and slopes are stated; the family is the same at any


def _bent(m: Any, x: Value, bend: Value) -> Value:
    """x, the logarithm of N / MIDDLE, bent into ((N / MIDDLE)^bend - 1) / bend, with a slope of one at MIDDLE."""
    return m.expm1(bend * x) / bend


def _logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    x, d = m.log(c["N"] / MIDDLE), m.log(c["D"])
    beta = p["beta"] * m.exp(-(p["h"] * _bent(m, x, p["a"])))
    return {"K": -(p["s"] * _bent(m, x, p["q"])), "M": p["t"] * _bent(m, x, -p["b"]) - beta * d}


def _bend(name: str, of: str) -> Param:
    return Param(name, "exponent", 1e-4, 1.0, f"how that slope changes with parameters, {of}", (0.02, 0.5))


farseer = Smooth(
    "farseer",
    "L = K exp(-s (n^q - 1) / q) + M exp(t (1 - n^-b) / b) D^-(beta exp(-h (n^a - 1) / a)), n = N / 10^9",
    (
        amplitude("K", "loss with tokens without end at n = 1"),
        amplitude("M", "what too few tokens cost at D = 1 and n = 1"),
        exponent("beta", "slope in tokens at n = 1", grid=(0.05, 1.0)),
        slope("s", "slope in parameters of the loss with tokens without end, at n = 1", 3.0, (0.01, 0.5)),
        _bend("q", "upwards"),
        slope("t", "slope in parameters of the token term, at n = 1", 5.0, (-2.0, 0.0)),
        _bend("b", "towards zero"),
        slope("h", "slope in parameters of log beta, at n = 1", 3.0, (0.0, 0.5)),
        _bend("a", "upwards"),
    ),
    (),
    "Farseer, arXiv 2506.10972: exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E), stated at N = 10^9",
    inputs=("N", "D"),
    logs=_logs,
    amplitudes=("K", "M"),
    no_optimum="its best N is no power of the budget: look for the least loss along 6 N D = C with predict",
    example={
        "K": 0.4512,
        "M": 130.2,
        "beta": 0.3074,
        "s": 0.1201,
        "q": 0.13,
        "t": -1.1087,
        "b": 0.1729,
        "h": 0.198,
        "a": 0.0459,
    },
)
