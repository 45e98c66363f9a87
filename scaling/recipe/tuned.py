"""What a recipe file's fit says of a cell: the best learning rate and batch with intervals, and the regret of others.

``fit`` is the section of that name which ``analysis.tune`` made; each draw and ``point`` are (h, r, g, log k, p, q of
the learning rate, log k, p, q of the batch in tokens) of its parabola of log loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Interval = dict[str, float]


def best(fit: dict[str, Any], parameters: float, tokens: float) -> dict[str, Interval]:
    """{"learning_rate"} and, where it was fitted, {"batch"} in tokens at N and D, each {"value", "lo", "hi"}."""
    rate, batch = _best(fit, parameters, tokens)
    found = {"learning_rate": _interval(fit, np.exp(rate))}
    return {**found, "batch": _interval(fit, np.exp(batch))} if fit["batch_law"] else found


def regret(
    fit: dict[str, Any], parameters: float, tokens: float, learning_rate: float, batch: float
) -> dict[str, float]:
    """The share by which the loss at ``learning_rate`` and ``batch`` (in tokens) exceeds the best one's.

    Without a fitted batch law it is the regret of the learning rate alone, at the batch that was swept.
    """
    h, r, g = _draws(fit)[:, :3].T
    best_rate, best_batch = _best(fit, parameters, tokens)
    x = np.log(learning_rate) - best_rate
    b = np.log(batch) - best_batch if fit["batch_law"] else np.zeros_like(x)
    return _interval(fit, np.expm1(np.maximum(0.0, h * x * x + r * x * b + g * b * b)))


def _draws(fit: dict[str, Any]) -> np.ndarray:
    return np.array([fit["point"], *fit["draws"]])


def _best(fit: dict[str, Any], parameters: float, tokens: float) -> tuple[np.ndarray, np.ndarray]:
    draws, n, d = _draws(fit), np.log(parameters), np.log(tokens)
    return draws[:, 3] + draws[:, 4] * n + draws[:, 5] * d, draws[:, 6] + draws[:, 7] * n + draws[:, 8] * d


def _interval(fit: dict[str, Any], values: np.ndarray) -> Interval:
    """The point's value, and the central interval of the draws'."""
    value, tail = float(values[0]), (1 - fit["level"]) / 2
    lo, hi = np.quantile(values[1:], [tail, 1 - tail])
    return {"value": value, "lo": min(float(lo), value), "hi": max(float(hi), value)}
