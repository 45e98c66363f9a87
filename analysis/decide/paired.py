"""Two runs on the same documents: what is common to both (easy and hard text) cancels in their difference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from analysis.table import seal as sealed
from scaling.errors import UserError
from scaling.records import Record

Array = np.ndarray


def difference(one: str | Path, two: str | Path, *, level: float = 0.95) -> dict[str, Any]:
    """Mean loss of run directory ``one`` minus that of ``two``, per prediction, over the documents of both. JSON.

    {"difference": {value, lo, hi}, "se" (paired), "se_unpaired" (as if each had its own documents), "correlation",
    "documents", "one", "two" {run, loss, se}, "unit"}. Standard errors are those of ratio estimators by document.
    UserError where a run is not finished or still sealed, or the two were not evaluated on the same documents.
    """
    if not 0.5 <= level < 1:
        raise UserError("level", level, "give a probability from 0.5 to 1, such as 0.95")
    (a, unit), (b, other) = _evaluated(Path(one)), _evaluated(Path(two))
    if unit != other:
        raise UserError("runs", f"{Path(one).name}, {Path(two).name}", f"have losses of two kinds ({unit}; {other})")
    if a["id"] != b["id"] or not np.array_equal(a["count"], b["count"]):
        what = "were not evaluated on the same documents: only runs of one study and one evaluation set can be paired"
        raise UserError("runs", f"{Path(one).name}, {Path(two).name}", what)
    count = a["count"]
    gap = a["sum"] - b["sum"]
    value, se = _ratio(gap, count)
    single = [_ratio(x["sum"], count) for x in (a, b)]
    residual = [x["sum"] - mean * count for x, (mean, _) in zip((a, b), single)]
    size = float(np.sqrt((residual[0] ** 2).sum() * (residual[1] ** 2).sum()))
    wide = float(stats.t.ppf(0.5 + level / 2, len(count) - 1)) * se
    return {
        "schema": 1,
        "kind": "paired difference",
        "level": level,
        "difference": {"value": value, "lo": value - wide, "hi": value + wide},
        "se": se,
        "se_unpaired": math.hypot(single[0][1], single[1][1]),
        "correlation": float((residual[0] * residual[1]).sum()) / size if size > 0 else None,
        "documents": len(count),
        "unit": unit,
        "one": {"run": Path(one).name, "loss": single[0][0], "se": single[0][1]},
        "two": {"run": Path(two).name, "loss": single[1][0], "se": single[1][1]},
    }


def _ratio(sums: Array, count: Array) -> tuple[float, float]:
    """sum / count over documents and its standard error by document, as ``scaling.evaluate`` has it."""
    value, k = float(sums.sum() / count.sum()), len(count)
    residual = sums - value * count
    return value, math.sqrt(k / (k - 1) * float((residual**2).sum())) / float(count.sum())


def _evaluated(path: Path) -> tuple[dict[str, Any], str]:
    """Sums and counts of the headline loss by document, and what it is in words."""
    record = Record(path)
    manifest = record.manifest
    if manifest.get("role") == "holdout" and path.name not in sealed.sealed_runs(path.resolve().parent.parent):
        raise UserError("run", path.name, "is held out and no forecast of it is sealed; its loss stays closed")
    result = record.result
    if result is None or result.get("status") != "done":
        raise UserError("run", path.name, "is not finished; compare runs that are done")
    headline = str(manifest.get("headline", "loss"))
    documents = ((result.get("evaluation") or {}).get(headline) or {}).get("documents") or {}
    if len(documents.get("id", ())) < 2:
        raise UserError("run", path.name, f"keeps no sums of {headline} by document; evaluate it again")
    arrays = {k: np.asarray(documents[k], dtype=np.float64) for k in ("sum", "count")}
    data = (manifest.get("data") or {}).get("sha256")
    unit = f"{headline} in {manifest.get('loss_unit', 'nats/token')}"
    return {"id": [data, *documents["id"]], **arrays}, unit
