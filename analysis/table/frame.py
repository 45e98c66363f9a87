"""Turns a table in memory, from any trainer, into runs that a law may be fitted to.

Units: N parameters, D training tokens, C training FLOPs, loss in nats per token unless the conventions say otherwise.
A row that cannot be used is either dropped and listed (an unfinished or diverged run, an exact duplicate) or, where
the table is wrong (text in a number column, a negative loss), raises a ``UserError`` that names line and column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.card import AnyWarning, Conventions, Dropped
from analysis.laws import Law, get
from analysis.table import curves, quality
from analysis.table import read as tables
from analysis.table.select import select
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


def runs_of(table: Any, dropped: list[Dropped], conventions: Conventions, source: str, dataset: str | None) -> Runs:
    """Checked rows as ``Runs``: orders the columns, hashes the numbers and adds warnings about the data.

    Args:
      table: DataFrame with columns run, loss and those of the law.
      dropped: the rows left out.
      source, dataset: origin of the rows.
    """
    first = [c for c in ("run", "N", "D", "C", "loss") if c in table]
    table = table[first + [c for c in table.columns if c not in first]].reset_index(drop=True)
    named = first[1:-1] or [c for c in table.columns if c != "loss" and table[c].dtype.kind in "fiu"]
    values = table[[*named, "loss"]].to_numpy(dtype="<f8")
    values = values[np.lexsort(values.T[::-1])]
    sha256 = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    warnings = quality.warnings(table) if {"N", "D"} <= set(table) else ()
    return Runs(table, tuple(dropped), conventions, source, dataset, sha256, warnings)


# wide: the keywords of `load`, and the names of the rows
def from_frame(
    frame: pd.DataFrame,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    law: str | Law | None = None,
    warmup: int | None = None,
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
        if dataset is not None:
            remedy = "is not known of learning curves; choose rows with --where"
            raise UserError("dataset", dataset, remedy, Code.UNSUPPORTED)
        return _curves(frame, form, rows, dict(columns or {}), where, warmup, source)
    if warmup is not None:
        remedy = "is for laws of learning curves (annealing, multipower)"
        raise UserError("warmup", warmup, remedy, Code.UNSUPPORTED)
    cells: Any = frame.reset_index(drop=True)
    given, count = tables.name_columns(cells, n, columns or {}, form)
    raw = {name: cells[column] for name, column in given.items()}
    table = _numbers(cells, raw)
    names = pd.Series(rows)
    keep, dropped = tables.mask_rows(table, names)
    keep &= _selected(table, where, dataset)
    if not keep.any():
        field, value = ("where", where) if where else ("table", source)
        raise UserError(field, value, f"leaves none of the {len(table)} rows", Code.TOO_FEW)
    if form is not None and not {"N", "D"} <= set(form.columns):  # ignore bad values in columns this law does not use
        for name in {"N", "D", "C"} & set(raw) - set(form.columns):
            if not bool((table.loc[keep, name] > 0).all()):
                del raw[name], table[name]
    tables.reject_bad_cells(table, raw, keep, rows)
    dropped += tables.duplicates(cells, keep, rows)
    if "dataset" in table and dataset is None:
        dataset = _one_dataset(table, keep)
    _add_compute(table, keep, rows)
    table["run"] = table["run"].astype(str) if "run" in table else names
    if "stem" not in table and "run" in frame:
        table["stem"] = table["run"]  # checkpoints of one run share its noise
    quality.reject_mixed_scales(table, raw, keep, rows)
    flops = "column" if "C" in raw else "6ND" if {"N", "D"} <= set(raw) else None
    named = {name: given[name] for name in raw}
    conventions = Conventions(origin="table", n=count, flops=flops, columns=named)
    return runs_of(table[keep], dropped, conventions, source, dataset)


def _numbers(cells: Any, raw: Mapping[str, Any]) -> Any:
    """The table with text converted to numbers, and its columns under their standard names."""
    table: Any = pd.DataFrame({c: tables.typed(cells[c]) for c in cells.columns})
    for name, column in raw.items():
        table[name] = tables.number(column)
    for old, new in tables.COPIES.items():
        if old in table and new not in table:
            table[new] = table[old]
    return table


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
    """Adds column C_6ND and, where it is missing, C to a table with N and D."""
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
