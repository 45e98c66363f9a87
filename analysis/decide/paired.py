"""Paired comparison of two runs on the same documents, whose common variation cancels in the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import special

from analysis.card import SCHEMA, Interval, Value
from analysis.table import seal as sealed
from scaling.errors import Code, UserError
from scaling.records import Record
from scaling.records.unit import Unit

Array = np.ndarray


class RunLoss(Value):
    """The mean loss of a run, and its standard error by document."""

    run: str
    loss: float
    se: float


class PairedDifference(Value):
    """Mean loss of run ``one`` minus that of ``two``, per prediction, over the documents of both.

    Attributes:
      se: standard error of the paired difference.
      se_unpaired: standard error if each run had its own documents.
      correlation: of the two runs' residuals over documents; None where a run's do not vary.
      term, unit: of the loss.
    """

    level: float
    difference: Interval
    se: float
    se_unpaired: float
    correlation: float | None
    documents: int
    term: str
    unit: Unit
    one: RunLoss
    two: RunLoss
    kind: Literal["paired_difference"] = "paired_difference"
    schema: Literal[2] = SCHEMA


@dataclass(frozen=True)
class _Documents:
    """Summed loss and number of predictions of each document (n,), the hash of their data, and the name of the loss."""

    data: str
    id: tuple[str, ...]
    sum: Array
    count: Array
    term: str
    unit: Unit


def difference(one: str | Path, two: str | Path, *, level: float = 0.95) -> PairedDifference:
    """Mean loss of run directory ``one`` minus that of ``two``, with standard errors of ratio estimators by document.

    Args:
      level: confidence of the interval.

    Raises:
      UserError: MISSING: a run is not finished or has no sums by document; CONFLICT: a held-out run without a sealed
        forecast; MIXED: different losses or documents.
    """
    if not 0.5 <= level < 1:
        raise UserError("level", level, "give a probability from 0.5 to 1, such as 0.95")
    a, b = _evaluated(Path(one)), _evaluated(Path(two))
    names = f"{Path(one).name}, {Path(two).name}"
    if (a.term, a.unit) != (b.term, b.unit):
        remedy = f"have losses of two kinds ({a.term} in {a.unit}; {b.term} in {b.unit})"
        raise UserError("runs", names, remedy, Code.MIXED)
    if (a.data, a.id) != (b.data, b.id) or not np.array_equal(a.count, b.count):
        remedy = "were not evaluated on the same documents: only runs of one study and one evaluation set can be paired"
        raise UserError("runs", names, remedy, Code.MIXED)
    count = a.count
    value, se = _ratio(a.sum - b.sum, count)
    single = [_ratio(x.sum, count) for x in (a, b)]
    residual = [x.sum - mean * count for x, (mean, _) in zip((a, b), single)]
    size = float(np.sqrt((residual[0] ** 2).sum() * (residual[1] ** 2).sum()))
    wide = float(special.stdtrit(len(count) - 1, 0.5 + level / 2)) * se
    return PairedDifference(
        level=level,
        difference=Interval(value=value, lo=value - wide, hi=value + wide),
        se=se,
        se_unpaired=math.hypot(single[0][1], single[1][1]),
        correlation=float((residual[0] * residual[1]).sum()) / size if size > 0 else None,
        documents=len(count),
        term=a.term,
        unit=a.unit,
        one=RunLoss(run=Path(one).name, loss=single[0][0], se=single[0][1]),
        two=RunLoss(run=Path(two).name, loss=single[1][0], se=single[1][1]),
    )


def _ratio(sums: Array, count: Array) -> tuple[float, float]:
    """sum / count over documents, and its standard error by document, as in ``scaling.evaluate``."""
    value, k = float(sums.sum() / count.sum()), len(count)
    residual = sums - value * count
    return value, math.sqrt(k / (k - 1) * float((residual**2).sum())) / float(count.sum())


def _evaluated(path: Path) -> _Documents:
    """The headline loss of a finished run by document."""
    record = Record(path)
    manifest = record.manifest
    if manifest.role == "holdout" and path.name not in sealed.sealed_runs(path.resolve().parent.parent):
        remedy = "is held out and no forecast of it is sealed; its loss stays closed"
        raise UserError("run", path.name, remedy, Code.CONFLICT)
    result = record.result
    if result is None or result.status != "done":
        raise UserError("run", path.name, "is not finished; compare runs that are done", Code.MISSING)
    evaluation = result.evaluation.get(manifest.headline)
    documents = None if evaluation is None else evaluation.documents
    if documents is None or len(documents.id) < 2:
        remedy = f"keeps no sums of {manifest.headline} by document; evaluate it again"
        raise UserError("run", path.name, remedy, Code.MISSING)
    return _Documents(
        data=manifest.data.sha256,
        id=documents.id,
        sum=np.asarray(documents.sum, dtype=np.float64),
        count=np.asarray(documents.count, dtype=np.float64),
        term=manifest.headline,
        unit=manifest.unit,
    )
