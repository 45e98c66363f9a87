"""Tables of learning curves: several logged steps per run, with the learning rates up to each.

Two layouts: a long table (columns run, step, learning_rate, loss; one line per logged step), or one row per run whose
cells hold arrays (JSONL, Parquet). An array of learning rates has one entry per logged step, or one for every step
from 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.card import AnyWarning, CurveStartsLate, Dropped
from analysis.laws import Law
from analysis.table import names as naming
from analysis.table import read as tables
from analysis.table.select import select
from scaling.errors import Code, UserError, choose

Array = np.ndarray
NAMES = ("run", "step", "learning_rate", "loss")
ALIASES = {
    "learning_rate": ("learning_rate", "lr"),
    "step": ("step",),
    "run": ("run",),
    "loss": sum(naming.ALIASES["loss"], ()),
}
LEAST = 1e-4  # a learning rate of zero is replaced by this share of the run's highest


@dataclass(frozen=True)
class Curves:
    """Learning curves as a table, one row per logged step.

    Attributes:
      columns: which column of the source is step, learning_rate, loss and, where there is one, run.
      sha256: of the numbers, whatever the order of the rows.
    """

    table: Any
    dropped: tuple[Dropped, ...]
    warnings: tuple[AnyWarning, ...]
    columns: dict[str, str]
    sha256: str


def read(
    frame: Any,
    law: Law,
    rows: list[str],
    columns: Mapping[str, str],
    where: str | None,
    warmup: int | None,
    source: str,
) -> Curves:
    """The table that ``law`` is fitted to.

    Args:
      rows: names of the rows in messages.
      warmup: steps of a linear rise from 0 to a run's first logged rate.

    Raises:
      UserError: a missing column, an invalid cell or repeated steps.
    """
    names = _columns(frame, columns)
    long = _long(frame, names, rows)
    if where is not None:
        long = long[select(long.drop(columns=["whole", "row"]), where)]
        if len(long) == 0:
            raise UserError("where", where, f"leaves none of the {len(frame)} rows of {source}", Code.TOO_FEW)
    _check(long, frame.reset_index(drop=True), names)
    parts, dropped, late = [], [], []
    for run, curve in long.groupby("run", sort=False):
        curve = curve.sort_values("step", kind="stable")
        rate = _schedule(str(run), curve, warmup)
        without = int(curve["loss"].isna().sum())
        if without:
            dropped.append(Dropped(row=str(run), why="no_loss", detail=f"loss at {without} logged steps"))
        curve = curve[curve["loss"].notna()]
        if curve["step"].iloc[0] > 0 and warmup is None and not isinstance(curve["whole"].iloc[0], np.ndarray):
            late.append((str(run), int(curve["step"].iloc[0])))
        rising = np.flatnonzero(np.diff(rate) <= 0)
        first = int(rising[0]) if len(rising) else len(rate) - 1
        early = (curve["step"] < first).to_numpy()
        if early.any():
            dropped.append(Dropped(row=str(run), why="warmup", detail=str(early.sum())))
        curve = curve[~early]
        assert law.curve is not None
        made = law.curve(rate, curve["step"].to_numpy(dtype=int), first)
        parts.append((curve, made))
    table = pd.concat([curve for curve, _ in parts], ignore_index=True).drop(columns=["whole", "row"])
    table["stem"] = table["run"]
    for name in law.columns:
        table[name] = _joined(name, [made[name] for _, made in parts])
    numbers = np.stack([table[c].to_numpy(dtype="<f8") for c in ("step", "learning_rate", "loss")], 1)
    sha256 = hashlib.sha256(np.ascontiguousarray(numbers[np.lexsort(numbers.T[::-1])]).tobytes()).hexdigest()
    warnings = (CurveStartsLate(runs=tuple(run for run, _ in late), first_step=late[0][1]),) if late else ()
    return Curves(table, tuple(dropped), warnings, names, sha256)


def _columns(frame: Any, columns: Mapping[str, str]) -> dict[str, str]:
    present, chosen = [str(c) for c in frame.columns], dict(columns)
    for name, column in chosen.items():
        if name not in NAMES or column not in present:
            remedy = choose(name, NAMES) if name not in NAMES else choose(column, present)
            raise UserError("columns", f"{name}={column}", remedy, Code.UNKNOWN)
    for name, aliases in ALIASES.items():
        matches = [c for c in present if c == name] or [c for c in present if c.lower() in aliases]
        if name not in chosen and len(matches) == 1:
            chosen[name] = matches[0]
    missing = [name for name in NAMES if name not in chosen and name != "run"]
    if missing:
        what = f"a learning curve needs run, step, learning_rate and loss; its columns are {', '.join(present)}"
        raise UserError(
            "table", f"no column {missing[0]}", f"{what}; name it with --columns={missing[0]}=...", Code.MISSING
        )
    return chosen


def _long(frame: Any, names: Mapping[str, str], rows: list[str]) -> Any:
    """One row per logged step: run, step, learning_rate, loss, ``whole`` (the rates of every step, where given),
    ``row`` (its name in messages) and the other columns of the table. A cell without a number is not a number."""
    cells = frame.reset_index(drop=True)
    others = [c for c in cells.columns if c not in (names["step"], names["learning_rate"], names["loss"])]
    arrays = any(isinstance(v, list | tuple | np.ndarray) for v in cells[names["loss"]])
    kept = {c: tables.typed(cells[c]) for c in others if not _holds_arrays(cells[c])}
    out = pd.DataFrame(kept, index=cells.index)
    out["run"] = cells[names["run"]].astype(str) if "run" in names else (rows if arrays else "run")
    if not arrays:
        for name in ("step", "learning_rate", "loss"):
            out[name] = tables.number(cells[names[name]])
        return out.assign(whole=None, row=rows)
    twice = [str(name) for name in out.loc[out["run"].duplicated(), "run"]]
    if twice:
        raise UserError("run", twice[0], "has two rows; an array row is a whole run", Code.CONFLICT)
    parts = []
    for i in range(len(cells)):
        step, loss = (_array(cells[names[c]][i], rows[i], c) for c in ("step", "loss"))
        rate = _array(cells[names["learning_rate"]][i], rows[i], "learning_rate")
        if len(step) != len(loss):
            raise UserError(rows[i], f"{len(step)} steps and {len(loss)} losses", "give one step for each loss")
        rate = np.full(len(step), rate[0]) if len(rate) == 1 else rate
        whole = len(rate) != len(step)
        if whole and not (len(step) and np.isfinite(step).all() and len(rate) > step.max()):
            what = f"{len(rate)} learning rates"
            raise UserError(rows[i], what, f"give one a logged step ({len(step)}) or one for each step from 0 on")
        part = out.loc[[i] * len(step)].reset_index(drop=True)
        at = rate[step.astype(int)] if whole and (step >= 0).all() else rate[: len(step)]
        part = part.assign(step=step, learning_rate=at, loss=loss, whole=None)
        part["whole"] = pd.Series([rate if whole else None] * len(step), dtype=object)
        parts.append(part.assign(row=[f"{rows[i]}, entry {k + 1}" for k in range(len(step))]))
    return pd.concat(parts, ignore_index=True)


def _holds_arrays(cells: Any) -> bool:
    return bool(cells.map(lambda v: isinstance(v, list | tuple | dict | np.ndarray)).any())


def _array(cell: Any, row: str, name: str) -> Array:
    try:
        values = np.atleast_1d(np.asarray(cell, dtype=np.float64))
    except (TypeError, ValueError):
        raise UserError(f"{row}, column {name}", str(cell)[:60], "must be an array of numbers") from None
    if values.ndim != 1:
        raise UserError(f"{row}, column {name}", f"of shape {values.shape}", "must be an array of numbers")
    return values


def _check(long: Any, cells: Any, names: Mapping[str, str]) -> None:
    """Raises a UserError with row and column for a cell of the wrong type.

    Logs that alternate between training and evaluation leave the rate or the loss of a row empty: one is enough.
    """
    flat = not _holds_arrays(cells[names["loss"]])
    empty = {name: _empty(cells[names[name]])[long.index] if flat else np.zeros(len(long), bool) for name in NAMES[1:]}
    for name, other in (("loss", "learning_rate"), ("learning_rate", "loss")):
        empty[name] = np.asarray(empty[name]) & ~np.asarray(empty[other]) & (not bool(np.all(empty[name])))
    empty["step"] = np.zeros(len(long), bool)
    rules = (
        ("step", lambda v: (v >= 0) & (v == np.round(v)), "a whole number, zero or more"),
        ("learning_rate", lambda v: v >= 0, "a number, zero or more"),
        ("loss", lambda v: v > 0, "a positive number"),
    )
    for name, good, wanted in rules:
        values = long[name].to_numpy(dtype=np.float64)
        bad = ~(np.isfinite(values) & good(values)) & ~empty[name]
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            shown = cells[names[name]][long.index[i]] if flat else values[i]
            raise UserError(f"{long['row'].iloc[i]}, column {names[name]}", shown, f"must be {wanted}")


def _empty(cells: Any) -> Any:
    """Mask (rows,) of cells in which nothing was logged."""
    return cells.map(lambda cell: cell is None or str(cell).strip().lower() in tables.MISSING)


def _schedule(run: str, curve: Any, warmup: int | None) -> Array:
    """The learning rate of every step of a run up to its last logged one."""
    for name in ("loss", "learning_rate"):
        step = curve.loc[curve[name].notna(), "step"].to_numpy(dtype=int)
        if len(step) == 0:
            raise UserError("run", run, f"has no {name} in the rows that are fitted", Code.TOO_FEW)
        if len(again := step[1:][np.diff(step) == 0]):
            remedy = "is logged twice; is a column that tells runs apart missing?"
            raise UserError("step", f"{again[0]} of run {run}", remedy, Code.CONFLICT)
    logged = curve.loc[curve["learning_rate"].notna(), "learning_rate"].to_numpy(dtype=np.float64)
    last, whole = int(curve["step"].max()), curve["whole"].iloc[0]
    if isinstance(whole, np.ndarray):
        rate = whole[: last + 1].astype(np.float64)
    else:
        at, values = step, logged
        if warmup:
            if step[0] < warmup:
                remedy = f"run {run} was logged from step {step[0]} on: its table has the rates"
                raise UserError("warmup", warmup, remedy, Code.CONFLICT)
            at, values = np.r_[0, warmup, step], np.r_[0.0, logged[0], logged]
        rate = np.interp(np.arange(last + 1), at, values)
    if not rate.max() > 0:
        raise UserError("learning_rate", f"0 in all of run {run}", "there is nothing to learn from")
    return np.maximum(rate, LEAST * rate.max())


def _joined(name: str, parts: list[Array]) -> Any:
    """Concatenates the columns of several runs; arrays are padded to one width with values without effect."""
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    wide = max(p.shape[1] for p in parts)
    fill = 1.0 if name == "eta" else 0.0
    return pd.Series(
        [row for p in parts for row in np.pad(p, ((0, 0), (0, wide - p.shape[1])), constant_values=fill)], dtype=object
    )
