"""Predictions of a recipe file's fit for a cell: the best learning rate and batch with intervals, and regrets.

``fit`` is the result of ``analysis.decide.tune``, as an object or as the ``fit`` section of a recipe file. ``point``
and each draw are nine numbers of its parabola of log loss: curvatures h, r, g; log k, p, q of the learning rate; and
log k, p, q of the batch in tokens.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

Interval = dict[str, float]


class Fit(msgspec.Struct, frozen=True):
    """The fields of a fit that are read here.

    Attributes:
      level: confidence level of its intervals.
      point: the estimate, (9,).
      draws: draws of the estimate, (draws, 9).
      batch_law: None if only the learning rate was fitted.
    """

    level: float
    point: tuple[float, ...]
    draws: tuple[tuple[float, ...], ...]
    batch_law: Any

    def __post_init__(self):
        if not 0 < self.level < 1 or not self.draws or {len(draw) for draw in (self.point, *self.draws)} != {9}:
            raise ValueError("has a level from 0 to 1, and draws of nine numbers")

    @property
    def samples(self) -> np.ndarray:
        """The point and the draws, (1 + draws, 9)."""
        return np.array([self.point, *self.draws])


def read(fit: object) -> Fit:
    """Reads a fit from an object or a dictionary.

    Raises:
      msgspec.ValidationError: a field is missing or has the wrong type.
    """
    return fit if isinstance(fit, Fit) else msgspec.convert(fit, Fit, from_attributes=True)


def best(fit: object, parameters: float, tokens: float) -> dict[str, Interval]:
    """The best hyperparameters of a cell.

    Args:
      parameters, tokens: N (non-embedding) and D of the cell.

    Returns:
      "learning_rate" and, if it was fitted, "batch" in tokens, each as {"value", "lo", "hi"}.
    """
    fitted = read(fit)
    rate, batch = _best(fitted, parameters, tokens)
    answer = {"learning_rate": _interval(fitted, np.exp(rate))}
    return answer if fitted.batch_law is None else {**answer, "batch": _interval(fitted, np.exp(batch))}


def regret(fit: object, parameters: float, tokens: float, learning_rate: float, batch: float) -> Interval:
    """Relative excess of a cell's loss at ``learning_rate`` and ``batch`` (in tokens) over the best.

    Without a fitted batch law, it is the regret of the learning rate alone, at the batch of the sweep.
    """
    fitted = read(fit)
    h, r, g = fitted.samples[:, :3].T
    best_rate, best_batch = _best(fitted, parameters, tokens)
    x = np.log(learning_rate) - best_rate
    b = np.zeros_like(x) if fitted.batch_law is None else np.log(batch) - best_batch
    return _interval(fitted, np.expm1(np.maximum(0.0, h * x * x + r * x * b + g * b * b)))


def _best(fit: Fit, parameters: float, tokens: float) -> tuple[np.ndarray, np.ndarray]:
    """Logs of the best learning rate and batch for each sample, (1 + draws,) each."""
    draws, n, d = fit.samples, np.log(parameters), np.log(tokens)
    return draws[:, 3] + draws[:, 4] * n + draws[:, 5] * d, draws[:, 6] + draws[:, 7] * n + draws[:, 8] * d


def _interval(fit: Fit, values: np.ndarray) -> Interval:
    """The point's value with the central interval of the draws."""
    value, tail = float(values[0]), (1 - fit.level) / 2
    lo, hi = np.quantile(values[1:], [tail, 1 - tail])
    return {"value": value, "lo": min(float(lo), value), "hi": max(float(hi), value)}
