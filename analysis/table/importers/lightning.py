"""metrics.csv of Lightning's CSVLogger: training and validation in rows of their own, the cells of the other empty."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.table.importers.contract import Entry, Importer, Names
from analysis.table.importers.source import Source
from analysis.table.importers.steps import logged


def recognise(source: Source) -> float | None:
    if source.kind != "csv" or not {"epoch", "step"} <= set(source.columns):
        return None
    others = set(source.columns) - {"epoch", "step"}
    return 0.8 if any("loss" in name or name.startswith(("lr-", "val", "train")) for name in others) else None


def read(source: Source) -> Iterator[Entry]:
    return logged(source, ("step",), (), offset=1)


IMPORTER = Importer(
    "lightning",
    "metrics.csv of Lightning's CSVLogger (its step 49 is after 50 steps)",
    recognise,
    read,
    Names(
        loss=(r"(val|valid|validation)[_/]loss(_epoch)?", r"test[_/]loss(_epoch)?", r"train[_/]loss(_step)?"),
        learning_rate=(r"lr-.*", r"learning_rate"),
    ),
)
