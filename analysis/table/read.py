"""Reads tables of other trainers: finds their columns, and rejects invalid cells by line and column."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.card import Dropped
from analysis.table import text_files
from analysis.table.names import Named
from analysis.table.units import number
from scaling.errors import STORAGE, Code, UserError, choose

DONE = ("done", "finished", "completed", "complete", "success", "succeeded", "ok")  # of a run's status, in lower case
MARKS = ("status", "decayed", "role")  # columns that mark rows which are not fitted
MISSING = {"", "na", "n/a", "nan", "null", "none", "-"}
FORMATS = (
    ".csv",
    ".tsv",
    ".txt",
    ".dat",
    ".jsonl",
    ".ndjson",
    ".json",
    ".parquet",
)  # text also with one of PACKED behind it
PACKED = (".gz", ".bz2", ".xz")


def read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Cells, as text (csv, tsv) or typed (others), and the name of each row: its line in the file.

    Raises:
      UserError: an unknown kind of file (UNSUPPORTED), or one that cannot be read (DAMAGED, ENVIRONMENT).
    """
    name = path.name.lower()
    name = next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)
    suffix = next((kind for kind in FORMATS if name.endswith(kind)), None)
    if suffix is None:
        remedy = f"is neither a work directory nor a table; known are {', '.join(FORMATS)}"
        raise UserError("path", path, remedy, Code.UNSUPPORTED)
    try:
        match suffix:
            case ".parquet":
                return _read_parquet(path)
            case ".jsonl" | ".ndjson":
                return text_files.json_lines(path)
            case ".json":
                return text_files.json_array(path)
            case _:
                return text_files.delimited(path, "\t" if suffix == ".tsv" else ",")
    except ImportError as error:
        remedy = "needs pyarrow, which is not installed: pip install 'scaling-lab[data]', or give a CSV"
        raise UserError("path", path, remedy, Code.ENVIRONMENT) from error
    except OSError as error:
        code = Code.ENVIRONMENT if error.errno in STORAGE else Code.DAMAGED
        raise UserError("path", path, f"cannot be read ({error.strerror or error})", code) from error


def _read_parquet(path: Path) -> tuple[pd.DataFrame, list[str]]:
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ValueError as error:  # what pyarrow raises is one, or an OSError
        reason = str(error).split("\n")[0].replace(f" '{path}'", "")[:200]
        raise UserError(
            "table", path, f"is no Parquet that can be read ({reason}); write it again", Code.DAMAGED
        ) from error
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()  # pandas keeps a column that was its index apart
    return frame, [f"row {i + 1}" for i in range(len(frame))]


def typed(cells: Any) -> Any:
    """A column as numbers or truth values if all its non-missing cells are such, else as text."""
    if cells.dtype.kind in "biuf":
        return cells
    stripped = cells.map(lambda cell: "" if cell is None else str(cell).strip())
    missing = stripped.str.lower().isin(MISSING)
    known = stripped[~missing].str.lower()
    if len(known) and known.isin(("true", "false")).all() and not missing.any():
        return stripped.str.lower() == "true"
    numbers = number(stripped.mask(missing))
    if len(known) and numbers[~missing].notna().all():
        return numbers
    return stripped


def mask_rows(table: Any, names: Any, kept: Iterable[str] = ()) -> tuple[Any, list[Dropped]]:
    """Mask of rows to fit, and the others: rows that a table marks as unfinished, undecayed or held out.

    Args:
      kept: columns of ``MARKS`` that leave out no row.

    Raises:
      UserError: ``kept`` has another word.
    """
    for column in kept:
        if column not in MARKS:
            raise UserError("keep", column, choose(column, MARKS), Code.UNKNOWN)
    keep = pd.Series(True, index=table.index)
    dropped: list[Dropped] = []
    rules: tuple[tuple[str, Literal["status", "undecayed", "role"], Any], ...] = (
        ("status", "status", lambda c: c.astype(str).str.strip().str.lower().isin(DONE)),
        ("decayed", "undecayed", lambda c: c.astype(str).str.lower().isin(("true", "1", "1.0"))),
        ("role", "role", lambda c: ~c.astype(str).isin(("holdout", "stem"))),
    )
    for column, why, good in rules:
        if column in table and column not in kept:
            bad = keep & ~good(table[column])
            cells = zip(names[bad], table.loc[bad, column], strict=True)
            dropped += [Dropped(row=row, why=why, detail=str(cell)) for row, cell in cells]
            keep &= ~bad
    return keep, dropped


def dataset_mask(table: Any, dataset: str) -> Any:
    if "dataset" not in table:
        raise UserError("dataset", dataset, "the table has no column dataset; leave it out", Code.MISSING)
    mask = table["dataset"].astype(str) == dataset
    if not mask.any():
        names = [str(d) for d in pd.unique(table["dataset"])]
        raise UserError("dataset", dataset, f"is not in the table; {choose(dataset, names)}", Code.UNKNOWN)
    return mask


def reject_bad_cells(table: Any, named: Named, keep: Any, rows: list[str], below_zero: bool = False) -> None:
    """UserError for the first cell of N, D, C or loss that is no positive number; a loss may be ``below_zero``."""
    for name in ("N", "D", "C", "loss"):
        if name not in named.cells or name not in table:
            continue
        signed = below_zero and name == "loss"
        bad = keep & ~(np.isfinite(table[name]) & ((table[name] > 0) | signed))
        if not bad.any():
            continue
        i = int(np.flatnonzero(bad)[0])
        cell, others = named.cells[name][i], int(bad.sum()) - 1
        shown = "empty" if str(cell).strip() == "" or cell is None else str(cell).strip()
        more = f" ({others} more such cell{'s' if others > 1 else ''})" if others else ""
        kind = "number" if signed else "positive number"
        remedy = f"must be a {kind}{more}; mend the cell, or leave the row out (delete it, or --where)"
        if name == "loss" and not signed and bool((table["loss"][bad] <= 0).any()):
            remedy += "; losses that may be negative, as of densities, are fitted with --objective=raw:auto"
        raise UserError(f"{rows[i]}, column {named.columns[name]}", shown, remedy)


def duplicates(frame: Any, keep: Any, rows: list[str]) -> list[Dropped]:
    """Removes rows that repeat an earlier one in every cell from the mask; a copy is no second measurement."""
    text = frame[keep].astype(str)
    again = text.duplicated()
    if not again.any():
        return []
    first: dict[int, int] = {}
    seen: dict[tuple[str, ...], int] = {}
    for i, cells in zip(text.index, text.itertuples(index=False, name=None), strict=True):
        first[i] = seen.setdefault(cells, i)
    copies = [int(i) for i in text.index[again]]
    keep.loc[copies] = False
    return [Dropped(row=rows[i], why="copy", detail=rows[first[i]]) for i in copies]
