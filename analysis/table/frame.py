"""Turns a table in memory, from any trainer, into runs that a law may be fitted to.

Units: N parameters, D training tokens, C training FLOPs, loss in nats per token unless the conventions say otherwise.
A row that cannot be used is either dropped and listed (an unfinished or diverged run, an exact duplicate) or, where
the table is wrong (text in a number column, a negative loss), raises a ``UserError`` that names line and column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.card import AnyWarning, Conventions, Dropped
from analysis.laws import Law, get
from analysis.table import curves, quality
from analysis.table import read as tables
from analysis.table.names import COPIES, RUN, Named, name_columns
from analysis.table.select import select
from analysis.table.units import Units
from scaling.errors import Code, UserError


@dataclass(frozen=True)
class Runs:
    """Rows that a law may be fitted to.

    Attributes:
      table: one row per run; columns ``run, N, D, C, loss`` (float64 except ``run``; N, D and C may be missing where
        the law does not need them), others where known. Rows with the same ``stem`` share noise: the stem of a branch,
        or the run of several checkpoints.
      dropped: the rows left out, with the reason.
      conventions: what N, D, C and loss mean here.
      source, dataset: origin of the rows; ``dataset`` is None where the table does not name one.
      sha256: hash of the numbers used (N, D, C, loss), independent of the order of the rows.
      warnings: what looks wrong in the table without being an error; copied to the fit card.
    """

    table: pd.DataFrame
    dropped: tuple[Dropped, ...]
    conventions: Conventions
    source: str
    dataset: str | None
    sha256: str
    warnings: tuple[AnyWarning, ...] = ()

    def __len__(self) -> int:
        return len(self.table)


def runs_of(
    table: Any,
    dropped: list[Dropped],
    conventions: Conventions,
    source: str,
    dataset: str | None,
    warnings: tuple[AnyWarning, ...] = (),
) -> Runs:
    """Checked rows as ``Runs``: orders the columns, hashes the numbers and adds warnings about the data.

    Args:
      table: DataFrame with columns run, loss and those of the law.
      dropped: the rows left out.
      source, dataset: origin of the rows.
      warnings: what is known to look wrong.
    """
    first = [c for c in ("run", "N", "D", "C", "loss") if c in table]
    table = table[first + [c for c in table.columns if c not in first]].reset_index(drop=True)
    named = first[1:-1] or [c for c in table.columns if c != "loss" and table[c].dtype.kind in "fiu"]
    values = table[[*named, "loss"]].to_numpy(dtype="<f8")
    values = values[np.lexsort(values.T[::-1])]
    sha256 = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    if {"N", "D"} <= set(table):
        warnings = (*warnings, *quality.warnings(table, unit_known=conventions.origin == "records"))
    return Runs(table, tuple(dropped), conventions, source, dataset, sha256, warnings)


# wide: the keywords of `load`, and the names of the rows
def from_frame(
    frame: pd.DataFrame,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    units: Units | None = None,
    keep: Iterable[str] = (),
    best_of_cell: bool = False,
    law: str | Law | None = None,
    warmup: int | None = None,
    below_zero: bool = False,
    source: str = "memory",
    rows: list[str] | None = None,
) -> Runs:
    """Checks a table that is already in memory, as ``load`` does; ``rows`` are the names of its rows in messages.

    Raises:
      UserError: an unusable table (row and column are named), or a selection without rows.
    """
    if len(frame) == 0:
        raise UserError("table", source, "has no rows; give one line a run with N, D and loss", Code.MISSING)
    rows = rows or [f"row {i + 1}" for i in range(len(frame))]
    form = None if law is None else get(law)
    if form is not None and form.curve:
        for name, value in (("dataset", dataset), ("units", units), ("best_of_cell", best_of_cell)):
            if value:
                remedy = "is not known of learning curves; choose rows with --where"
                raise UserError(name, value, remedy, Code.UNSUPPORTED)
        return _curves(frame, form, rows, dict(columns or {}), where, warmup, source)
    if warmup is not None:
        remedy = "is for laws of learning curves (annealing, multipower)"
        raise UserError("warmup", warmup, remedy, Code.UNSUPPORTED)
    cells: Any = frame.reset_index(drop=True)
    named = name_columns(cells, n, columns or {}, form, units)
    table, labels = _numbers(cells, named), pd.Series(rows)
    kept, dropped = tables.mask_rows(table, labels, keep)
    kept &= _selected(table, where, dataset)
    if not kept.any():
        field, value = ("where", where) if where else ("table", source)
        raise UserError(field, value, f"leaves none of the {len(table)} rows{_why(dropped)}", Code.TOO_FEW)
    if form is not None and not {"N", "D"} <= set(form.columns):  # ignore bad values in columns this law does not use
        for name in {"N", "D", "C"} & set(named.cells) - set(form.columns):
            if not bool((table.loc[kept, name] > 0).all()):
                del table[name]
    tables.reject_bad_cells(table, named, kept, rows, below_zero)
    dropped += tables.duplicates(cells, kept, rows)
    if "dataset" in table and dataset is None:
        dataset = _one_dataset(table, kept)
    conventions = _conventions(table, named)
    _add_compute(table, kept, rows)
    quality.reject_mixed_scales(table, named, kept, rows)
    _add_runs(table, kept, labels)
    if best_of_cell:
        dropped += _best_of_cell(table, kept, rows)
    fitted = table[kept]
    warnings = (*quality.questioned(fitted, named.columns, form), *quality.swept(fitted, form))
    return runs_of(fitted, dropped, conventions, source, dataset, warnings)


def _why(dropped: list[Dropped]) -> str:
    """How many rows each mark left out, and the flag that fits them."""
    marks = {"status": "status", "undecayed": "decayed", "role": "role"}
    counts = {mark: sum(row.why == why for row in dropped) for why, mark in marks.items()}
    said = [f"{count} by {mark}" for mark, count in counts.items() if count]
    flags = ",".join(mark for mark, count in counts.items() if count)
    return f" ({' and '.join(said)}; --keep={flags} fits them)" if said else ""


def _conventions(table: Any, named: Named) -> Conventions:
    """What the columns mean, before C or D are added."""
    present = {name: column for name, column in named.columns.items() if name in table}
    both = "N" in table and ("D" in table or "C" in table)
    return Conventions(
        origin="table",
        n=named.count,
        flops="column" if "C" in table else "6ND" if both else None,
        tokens="C/6N" if both and "D" not in table else None,
        columns=present,
        units={name: unit for name, unit in named.units.items() if name in present},
        aside=named.aside,
    )


def _numbers(cells: Any, named: Named) -> Any:
    """The table with text converted to numbers, and its columns under their standard names."""
    table: Any = pd.DataFrame({c: tables.typed(cells[c]) for c in cells.columns})
    table = table.drop(columns=[c for c in ("N", "D", "C") if c in table and c not in named.values])  # it is none
    for name, values in named.values.items():
        table[name] = values
    for old, new in COPIES.items():
        if old in table and new not in table:
            table[new] = table[old]
    return table


def _add_runs(table: Any, kept: Any, labels: Any) -> None:
    """Adds the name of each run, and the stem that rows of one run share.

    Checkpoints of one run share its noise. Where every row has a run of its own, runs say nothing about noise.
    """
    named = next((c for c in RUN if c in table), None)
    table["run"] = labels if named is None else table[named].astype(str)
    if "stem" not in table and named is not None and bool(table.loc[kept, "run"].duplicated().any()):
        table["stem"] = table["run"]


def _best_of_cell(table: Any, kept: Any, rows: list[str]) -> list[Dropped]:
    """Leaves out all but the lowest loss of rows with equal N and D.

    Raises:
      UserError: the table has no N and D.
    """
    if not {"N", "D"} <= set(table):
        raise UserError("best_of_cell", True, "needs columns N and D", Code.UNSUPPORTED)
    chosen = table[kept]
    best = chosen.groupby(list(quality.cell_of(chosen)), sort=False)["loss"].transform("idxmin")
    others = chosen.index[best != chosen.index]
    kept.loc[others] = False
    return [Dropped(row=rows[i], why="not_best", detail=rows[int(best[i])]) for i in others]


def _selected(table: Any, where: str | None, dataset: str | None) -> Any:
    keep = pd.Series(True, index=table.index)
    if where is not None:
        keep &= select(table, where)
    if dataset is not None:
        keep &= tables.dataset_mask(table, dataset)
    return keep


def _one_dataset(table: Any, keep: Any) -> str:
    names = [str(name) for name in pd.unique(table.loc[keep, "dataset"])]
    if len(names) > 1:
        remedy = "losses on different data are never mixed; choose one"
        raise UserError("dataset", ", ".join(names), remedy, Code.MIXED)
    return names[0]


def _add_compute(table: Any, keep: Any, rows: list[str]) -> None:
    """Adds column C_6ND and, where they are missing, D = C / 6N or C = 6ND."""
    if "D" not in table and {"N", "C"} <= set(table):
        table["D"] = table["C"] / (6.0 * table["N"])
    if not ("N" in table and "D" in table):
        return
    with np.errstate(over="ignore"):
        table["C_6ND"] = 6.0 * table["N"] * table["D"]
    for i in np.flatnonzero(keep & ~(np.isfinite(table["C_6ND"]) & (table["C_6ND"] > 0))):
        what = f"N {table['N'][i]:g} and D {table['D'][i]:g}"
        raise UserError(rows[i], what, "have no finite compute; check their units")
    if "C" not in table:
        table["C"] = table["C_6ND"]


def _curves(
    frame: Any,
    law: Law,
    rows: list[str],
    columns: dict[str, str],
    where: str | None,
    warmup: int | None,
    source: str,
) -> Runs:
    if warmup is not None and warmup < 1:
        raise UserError("warmup", warmup, "must be a number of steps, at least 1")
    read = curves.read(frame, law, rows, columns, where, warmup, source)
    conventions = Conventions(origin="curves", columns=read.columns, warmup=warmup)
    return Runs(read.table, read.dropped, conventions, source, None, read.sha256, read.warnings)
