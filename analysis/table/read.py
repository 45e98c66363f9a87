"""Reads tables of other trainers: finds their columns, and rejects invalid cells by line and column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.card import Dropped
from analysis.laws import Law
from analysis.table import text_files
from scaling.errors import STORAGE, Code, UserError

REQUIRED = ("N", "D", "loss")
# Other names of the columns, in lower case. Only unambiguous ones: "size" or "compute" could mean GPU hours.
ALIASES = {
    "N": ("n", "params", "parameters", "n_params", "num_params", "num_parameters"),
    "D": ("d", "tokens", "train_tokens", "training_tokens", "n_tokens", "num_tokens"),
    "C": ("c", "flops", "training_flops", "train_flops"),
    "loss": ("loss", "eval_loss", "val_loss", "validation_loss", "test_loss", "final_loss"),
}
OTHERS = ("run", "stem", "seed", "dataset", "unique_tokens", "epochs", "learning_rate", "batch", "tokens_per_second")
COPIES = {"lr": "learning_rate", "U": "unique_tokens"}  # canonical name beside the one in the table
DONE = ("done", "finished", "completed", "complete", "success", "succeeded", "ok")  # of a run's status, in lower case
MISSING = {"", "na", "n/a", "nan", "null", "none", "-"}
FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")  # text also with .gz behind it


def read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Cells, as text (csv, tsv) or typed (others), and the name of each row: its line in the file.

    Raises:
      UserError: an unknown kind of file (UNSUPPORTED), or one that cannot be read (DAMAGED, ENVIRONMENT).
    """
    name = path.name.lower().removesuffix(".gz")
    suffix = next((kind for kind in FORMATS if name.endswith(kind)), None)
    if suffix is None:
        remedy = f"is neither a work directory nor a table; known are {', '.join(FORMATS)}"
        raise UserError("path", path, remedy, Code.UNSUPPORTED)
    try:
        match suffix:
            case ".parquet":
                return _read_parquet(path)
            case ".jsonl":
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


def name_columns(
    frame: Any, n: str, columns: Mapping[str, str], law: Law | None = None
) -> tuple[dict[str, str], str | None]:
    """Which columns of the table are N, D, C, loss and the others in ``columns``, and which count N is, if known.

    N and D are required, or the columns of ``law`` where one is given; its ``x`` is determined when it is fitted.

    Args:
      n: as in ``load``.
      columns: {name: column of the table}, chosen by the user.

    Returns:
      {name: column of the table}, and the count of parameters that N is.

    Raises:
      UserError: an unknown name, or a missing or ambiguous column.
    """
    present, given = [str(c) for c in frame.columns], dict(columns)
    own = () if law is None else law.columns
    known = tuple(dict.fromkeys((*ALIASES, *own, *OTHERS)))
    for name, column in given.items():
        if name not in known:
            raise UserError("columns", f"{name}={column}", f"is for {', '.join(known)}", Code.UNKNOWN)
        if column not in present:
            raise UserError(
                "columns", f"{name}={column}", f"the table's columns are {', '.join(present)}", Code.MISSING
            )
    count = next((c for c in (n, f"N_{n}") if c in present), None)
    if count is not None:
        given.setdefault("N", count)
    elif n != "nonembedding":
        raise UserError("n", n, f"is no column of this table (nor is N_{n}); it has {', '.join(present)}", Code.MISSING)
    for name, aliases in ALIASES.items():
        matches = [c for c in present if c == name] or [c for c in present if c.lower() in aliases]
        if name in given or not matches:
            continue
        if len(matches) > 1:
            remedy = f"could each be {name}; rename one of them to {name}"
            raise UserError("column", ", ".join(matches), remedy, Code.CONFLICT)
        given[name] = matches[0]
    needed = REQUIRED if law is None else (*(c for c in own if c in ALIASES), "loss")
    for name in needed:
        if name not in given and not (name == "C" and {"N", "D"} <= set(given)):
            raise _no_column(name, needed, present, law)
    return given, None if count is None else n


def _no_column(name: str, needed: tuple[str, ...], present: list[str], law: Law | None) -> UserError:
    close = [c for c in present if name.lower() in c.lower()] if name == "loss" else []
    hint = f"rename {' or '.join(close)} to {name}" if close else f"its columns are {', '.join(present)}"
    hint += f"; say which one with --columns={name}=COLUMN"
    if law is not None and len(law.columns) > 1:
        hint += ", or fit a law of one variable, such as --law=power_floor"
    who = "a fit" if law is None else f"law {law.name}"
    wanted = " and ".join(needed) if len(needed) < 3 else f"{', '.join(needed[:-1])} and {needed[-1]}"
    return UserError("table", f"no column {name}", f"{who} needs {wanted}; {hint}", Code.MISSING)


def number(cells: Any) -> Any:
    values: Any = pd.to_numeric(cells, errors="coerce")
    return values.astype(float)


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


def mask_rows(table: Any, names: Any) -> tuple[Any, list[Dropped]]:
    """Mask of rows to fit, and the others: rows that a table marks as unfinished, undecayed or held out."""
    keep = pd.Series(True, index=table.index)
    dropped: list[Dropped] = []
    rules: tuple[tuple[str, Literal["status", "undecayed", "role"], Any], ...] = (
        ("status", "status", lambda c: c.astype(str).str.strip().str.lower().isin(DONE)),
        ("decayed", "undecayed", lambda c: c.astype(str).str.lower().isin(("true", "1", "1.0"))),
        ("role", "role", lambda c: ~c.astype(str).isin(("holdout", "stem"))),
    )
    for column, why, good in rules:
        if column in table:
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
        names = ", ".join(str(d) for d in pd.unique(table["dataset"]))
        raise UserError("dataset", dataset, f"is not in the table; it has {names}", Code.UNKNOWN)
    return mask


def reject_bad_cells(table: Any, raw: Mapping[str, Any], keep: Any, rows: list[str]) -> None:
    for name in ("N", "D", "C", "loss"):
        if name not in raw:
            continue
        bad = keep & ~(np.isfinite(table[name]) & (table[name] > 0))
        if not bad.any():
            continue
        i = int(np.flatnonzero(bad)[0])
        cell, others = raw[name][i], int(bad.sum()) - 1
        shown = "empty" if str(cell).strip() == "" or cell is None else str(cell).strip()
        more = f" ({others} more such cell{'s' if others > 1 else ''})" if others else ""
        remedy = f"must be a positive number{more}; mend the cell, or leave the row out (delete it, or --where)"
        raise UserError(f"{rows[i]}, column {raw[name].name}", shown, remedy)


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
