"""The critical batch size, by two methods: from gradients during training, and from the steps that each batch needs.

The gradient noise scale tr(S) / |G|^2 predicts the batch at which noise and signal are equal; a sweep of batches to one
loss measures the trade-off between steps and examples, S = S_min + E_min / batch, whose knee is E_min / S_min (both
McCandlish 2018, arXiv 1812.06162). Batches are in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from analysis.card import Conventions, Interval, Value, finite
from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.records.types import StepRow

MIN_BATCHES = 3  # batches that must reach a loss to fit the law of its steps
BLOCKS = 10  # blocks of metric rows left out in turn, since gradients of neighbouring steps are correlated
NEAR = 0.5  # half-width in log step around a crossing, over which the loss is taken as a parabola
PARABOLA = 10  # rows at least for one


class NoiseScale(Value):
    """The gradient noise scale in tokens, from ``rows`` rows; None where noise and signal give no positive ratio.

    The interval runs from 0 to an open end where the signal is not significantly above zero.
    """

    interval: Interval | None
    rows: int


class CriticalBatch(Value):
    """The critical batch in tokens at a training loss that ``runs`` runs pass.

    Attributes:
      critical: the knee; its upper end is open where some draws have none.
      why: why there is no knee: fewer than three batches reach the loss, the law cannot be fitted, or steps keep
        falling with the batch.
      S_min, E_min: minimum steps, and minimum examples in tokens.
    """

    loss: float
    runs: int
    critical: Interval | None = None
    why: Literal["few_batches", "no_fit", "no_knee"] | None = None
    S_min: Interval | None = None
    E_min: Interval | None = None


def noise_scale(rows: Iterable[StepRow], context: int, *, level: float = 0.95) -> NoiseScale | None:
    """tr(S) / |G|^2 in tokens over the metric rows of runs, from their mean ``gradient_noise`` and ``gradient_signal``.

    The ratio of means, with a jackknife interval over tenths of the rows. None where no row has these metrics.

    Args:
      context: tokens per example; the gradient noise is per example.
    """
    from scipy import special

    measured = [(row.gradient_noise, row.gradient_signal) for row in rows if row.gradient_noise is not None]
    if not measured:
        return None
    pairs = np.array(measured, np.float64)
    blocks = [block for block in np.array_split(pairs, min(BLOCKS, len(pairs))) if len(block)]
    sums, total = np.array([block.sum(0) for block in blocks]), pairs.sum(0)
    if not total[1] > 0:
        return NoiseScale(interval=None, rows=len(pairs))
    value = float(total[0] / total[1]) * context
    left = total - sums
    if len(blocks) < 3 or np.any(left <= 0):
        return NoiseScale(interval=Interval(value=value, lo=0.0, hi=None), rows=len(pairs))
    logs = np.log(left[:, 0] / left[:, 1])
    count = len(blocks)
    error = math.sqrt((count - 1) / count * float(np.sum((logs - logs.mean()) ** 2)))
    wide = float(special.stdtrit(count - 1, (1 + level) / 2)) * error
    ends = Interval(value=value, lo=value * math.exp(-wide), hi=value * math.exp(wide))
    return NoiseScale(interval=ends, rows=len(pairs))


def steps_to(rows: Sequence[StepRow], loss: float) -> float | None:
    """Steps at which the training loss of a run passes ``loss``; None where it never does, or is below from the start.

    Fits a parabola in log step to the rows near the crossing, to average out the noise of single rows: the bend of the
    curve in the window of a line moves all crossings by .1 % or so. A line where rows are few, or where the parabola
    does not fall through the loss.
    """
    step = np.array([row.step for row in rows], np.float64)
    y = np.array([row.loss for row in rows], np.float64)
    below = np.flatnonzero(y <= loss)
    if len(below) == 0 or below[0] == 0:
        return None
    near = np.abs(np.log(step / step[below[0]])) < NEAR
    if near.sum() < 3:
        near = np.zeros(len(step), bool)
        near[max(0, below[0] - 1) : below[0] + 2] = True
    x = np.log(step[near] / step[below[0]])
    roots = (_falling(x, y[near] - loss, 2) if len(x) >= PARABOLA else []) or _falling(x, y[near] - loss, 1)
    crossing = float(step[below[0]]) * math.exp(min(roots, key=abs)) if roots else math.inf
    return crossing if step[0] < crossing < step[-1] else None


def _falling(x: np.ndarray, y: np.ndarray, degree: int) -> list[float]:
    """Where the polynomial through the points falls through 0."""
    fitted = np.polyfit(x, y, degree)
    slope = np.polyder(fitted)
    return [root.real for root in np.roots(fitted) if root.imag == 0 and np.polyval(slope, root.real) < 0]


def sweep(
    runs: Mapping[str, tuple[float, Sequence[StepRow]]], losses: Iterable[float], *, level: float = 0.95
) -> tuple[CriticalBatch, ...]:
    """The critical batch at each target loss, by fitting the law ``critical_batch`` to runs of several batches.

    Args:
      runs: name -> (batch in tokens, metric rows).
    """
    return tuple(_at(runs, loss, level) for loss in losses)


def _at(runs: Mapping[str, tuple[float, Sequence[StepRow]]], loss: float, level: float) -> CriticalBatch:
    """The critical batch at one loss."""
    import pandas as pd

    from analysis.fitting import fit
    from analysis.laws.hyper import critical, critical_batch
    from analysis.table.frame import Runs

    table = [
        {"run": name, "stem": name, "batch": batch, "loss": steps}
        for name, (batch, rows) in runs.items()
        if (steps := steps_to(rows, loss)) is not None
    ]
    loss = float(loss)
    if len({row["batch"] for row in table}) < MIN_BATCHES:
        return CriticalBatch(loss=loss, runs=len(table), why="few_batches")
    conventions = Conventions(origin="table", columns={"loss": "steps to the target"})
    try:
        made = fit(
            Runs(pd.DataFrame(table), (), conventions, "a sweep of batches", None, ""),
            critical_batch,
            level=level,
            discrepancy="off",
        )
    except UserError:
        return CriticalBatch(loss=loss, runs=len(table), why="no_fit")
    with np.errstate(divide="ignore", invalid="ignore"):  # without a minimum number of steps there is no knee
        draws, value = np.nan_to_num(critical(made.draws), nan=np.inf), float(critical(made.theta)[0])
    if not math.isfinite(value):
        return CriticalBatch(loss=loss, runs=len(table), why="no_knee")
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return CriticalBatch(
        loss=loss,
        runs=len(table),
        critical=Interval(value=value, lo=min(float(lo), value), hi=finite(max(float(hi), value))),
        S_min=made.intervals["S_min"],
        E_min=made.intervals["E_min"],
    )
