"""The CSV of Keras' CSVLogger: a row an epoch, with loss and val_loss. A step is an epoch here."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.table.importers.contract import Entry, Importer, Names
from analysis.table.importers.source import Source
from analysis.table.importers.steps import STEPS, logged


def recognise(source: Source) -> float | None:
    columns = set(source.columns)
    if source.kind != "csv" or "epoch" not in columns or columns & {*STEPS, source.step} - {"epoch"}:
        return None
    return 0.8 if columns & {"loss", "val_loss"} else None


def read(source: Source) -> Iterator[Entry]:
    return logged(source, ("epoch",), (), offset=1)


IMPORTER = Importer(
    "keras",
    "the CSV of Keras' CSVLogger (a step is an epoch)",
    recognise,
    read,
    Names(loss=(r"val_loss", r"loss"), learning_rate=(r"learning_rate|lr",)),
)
