"""The critical batch size, twice: from gradients during training, and from the steps that each batch needs.

The gradient noise scale tr(S) / |G|^2 predicts the batch at which noise and signal are equal; a sweep of batches to one
loss measures the trade of steps against examples, S = S_min + E_min / batch, whose knee is E_min / S_min (both
McCandlish 2018, arXiv 1812.06162). Batches are in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.records import finite


def noise_scale(rows: Iterable[Mapping[str, Any]], context: int, *, level: float = 0.95) -> dict[str, Any] | None:
    """tr(S) / |G|^2 in tokens over the metric rows of runs, from their mean ``gradient_noise`` and ``gradient_signal``.

    The ratio of means, with an interval that leaves out each tenth of the rows in turn (gradients of neighbouring steps
    are alike). None where no row has them. ``hi`` is None, and ``lo`` 0, where the signal is not surely above zero.
    """
    from scipy import stats

    pairs = np.array([(r["gradient_noise"], r["gradient_signal"]) for r in rows if "gradient_noise" in r], np.float64)
    if len(pairs) == 0:
        return None
    blocks = [block for block in np.array_split(pairs, min(10, len(pairs))) if len(block)]
    sums, total = np.array([block.sum(0) for block in blocks]), pairs.sum(0)
    value = float(total[0] / total[1]) * context if total[1] > 0 else None
    found: dict[str, Any] = {"value": value, "lo": 0.0, "hi": None, "rows": len(pairs)}
    left = total - sums
    if value is None or len(blocks) < 3 or np.any(left <= 0):
        return found
    logs = np.log(left[:, 0] / left[:, 1])
    count = len(blocks)
    error = math.sqrt((count - 1) / count * float(np.sum((logs - logs.mean()) ** 2)))
    wide = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return {**found, "lo": value * math.exp(-wide), "hi": value * math.exp(wide)}


def steps_to(rows: Sequence[Mapping[str, Any]], loss: float) -> float | None:
    """Steps at which the training loss of a run passes ``loss``; None where it does not, or not yet after its start.

    A line of loss in log step through the rows near the crossing, so that the noise of one row does not decide.
    """
    step = np.array([row["step"] for row in rows], np.float64)
    y = np.array([row["loss"] for row in rows], np.float64)
    below = np.flatnonzero(y <= loss)
    if len(below) == 0 or below[0] == 0:
        return None
    near = np.abs(np.log(step / step[below[0]])) < 0.5
    if near.sum() < 3:
        near = np.zeros(len(step), bool)
        near[max(0, below[0] - 1) : below[0] + 2] = True
    slope, at = np.polyfit(np.log(step[near]), y[near], 1)
    found = math.exp((loss - at) / slope) if slope < 0 else math.inf
    return found if step[0] < found < step[-1] else None


def sweep(runs: Mapping[str, tuple[float, Sequence[Mapping[str, Any]]]], losses: Iterable[float], *,
          level: float = 0.95) -> list[dict[str, Any]]:  # fmt: skip
    """The critical batch at each target loss by the law ``critical_batch`` over runs of several batches.

    Args:
      runs: name -> (batch in tokens, metric rows).

    Returns ``{"loss", "runs", "critical": {"value", "lo", "hi"} or None, "reason"}`` a target.
    """
    import pandas as pd

    from analysis.fitting import fit
    from analysis.laws.hyper import critical
    from analysis.table.runs import Runs

    answers = []
    for loss in losses:
        rows = [{"run": name, "stem": name, "batch": batch, "loss": steps}
                for name, (batch, rows) in runs.items() if (steps := steps_to(rows, loss)) is not None]  # fmt: skip
        answer: dict[str, Any] = {"loss": float(loss), "runs": len(rows), "critical": None, "reason": None}
        answers.append(answer)
        if len({row["batch"] for row in rows}) < 3:
            answer["reason"] = "fewer than three batches reach it"
            continue
        try:
            made = fit(Runs(pd.DataFrame(rows), [], {"loss": "steps to the target"}, "a sweep of batches", None, ""),
                       "critical_batch", level=level, discrepancy="off")  # fmt: skip
        except UserError as error:
            answer["reason"] = str(error)
            continue
        with np.errstate(divide="ignore", invalid="ignore"):  # no least number of steps: no knee
            draws, value = np.nan_to_num(critical(made.draws), nan=np.inf), float(critical(made.theta)[0])
        if not math.isfinite(value):
            answer["reason"] = "steps fall with the batch without end"
            continue
        lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        answer["critical"] = {"value": value, "lo": min(float(lo), value), "hi": finite(max(float(hi), value))}
        answer["S_min"], answer["E_min"] = (made.intervals[name] for name in ("S_min", "E_min"))
    return answers
