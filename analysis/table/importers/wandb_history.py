"""The history of runs of Weights & Biases, as ``run.history()`` and ``run.scan_history()`` return it.

W&B's own ``_step`` counts calls of ``log``, of which a step of training may have several or none: the steps are those
that the trainer logged, where it did.
"""

from __future__ import annotations

from collections.abc import Iterator

from analysis.table.importers.contract import Entry, Importer
from analysis.table.importers.source import Source
from analysis.table.importers.steps import STEPS, logged

STEP = "_step"
HISTORY = tuple(name for name in (*STEPS, STEP) if name != "batch")  # which may be the size of one


def recognise(source: Source) -> float | None:
    return 0.85 if STEP in source.columns else None


def read(source: Source) -> Iterator[Entry]:
    return logged(source, HISTORY)


IMPORTER = Importer("wandb_history", "the history of W&B runs as CSV, Parquet or JSON Lines", recognise, read)
