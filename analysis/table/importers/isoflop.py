"""isoFLOP profiles as JSON: an array of runs (parameters, compute_budget, final_loss), or one by budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analysis.table.importers.contract import Entry, Facts, Importer, Names, Skipped, number
from analysis.table.importers.source import Source, flat

NAMES = Names(
    N=(r"parameters|params|n_params|num_params|n|model_size",),
    loss=(r"final_loss|val_loss|loss",),
)
BUDGET = "compute_budget"


def recognise(source: Source) -> float | None:
    if source.kind != "json":
        return None
    lower = {name.lower() for name in source.columns}
    if {BUDGET, "flops_budget", "flop_budget", "compute"} & lower:
        return 0.6
    return 0.6 if lower and all(number(name) is not None for name in source.columns) else None


def read(source: Source) -> Iterator[Entry]:
    """The runs of the array, or of the arrays by budget: {"6e18": [{"parameters": ..., "final_loss": ...}]}."""
    found = source.document()
    if not isinstance(found, list | dict):
        raise source.damaged("is neither an array nor an object")
    profiles: list[tuple[str | None, Any]] = [(None, found)] if isinstance(found, list) else list(found.items())
    number_of_row = 0
    for budget, rows in profiles:
        for row in rows if isinstance(rows, list) else []:
            number_of_row += 1
            where = f"row {number_of_row}"
            if not isinstance(row, dict):
                yield Skipped("damaged", where)
            else:
                cells = flat(row)
                if budget is not None and cells.get(BUDGET) is None:
                    cells[BUDGET] = number(budget)
                yield Facts(f"{source.path}, {where}", cells, where, row=True)


IMPORTER = Importer("isoflop", "isoFLOP profiles as JSON, an array or one by budget", recognise, read, NAMES)
