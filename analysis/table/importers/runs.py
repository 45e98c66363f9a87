"""A table of finished runs, of any trainer: CSV, Excel, Parquet, JSON Lines or a JSON array with a row a run."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.table.importers.contract import Entry, Facts, Importer, Skipped
from analysis.table.importers.source import Source
from analysis.table.names import ALIASES, RUN


def facts(source: Source) -> Iterator[Entry]:
    """The rows of a table as runs, called by the table's name of them or by their rows; several may be of one run."""
    for item in source.rows():
        if isinstance(item, Skipped):
            yield item
            continue
        where, cells = item
        run = next((str(cells[name]) for name in RUN if cells.get(name) is not None), None)
        yield Facts(f"{source.path}, {where}", {**cells, "run": run}, where, row=True)


def recognise(source: Source) -> float | None:
    lower = {name.lower() for name in source.columns}
    known = [any(lower & set(tier) for tier in (*ALIASES[name], (name.lower(),))) for name in ("N", "D", "C", "loss")]
    return 0.35 if sum(known) >= 2 else None


IMPORTER = Importer("runs", "a table of finished runs: CSV, Excel, Parquet, JSON", recognise, facts)
