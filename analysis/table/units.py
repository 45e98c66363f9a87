"""Numbers as people write them: 31M, 1,250,000 or 4,93, in millions, PF-days or bits, converted to the units of a fit.

The units of a fit are parameters, tokens, FLOPs and nats. A unit is declared (``units={"D": "B"}``) or written in the
cell; the unit of a bare number is never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import Code, UserError, choose

Units = Mapping[str, float | str]
SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}  # B and G are both 10^9; never powers of 2
_SUFFIX = re.compile(r"([-+]?[0-9][0-9.,]*(?:e[-+]?[0-9]+)?)\s*([KMBGT])", re.IGNORECASE)
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
_MARKS = " _'\u00a0\u2009\u202f\u2019"  # between thousands, beside commas and points
_MARKED = re.compile(rf"[-+]?[0-9]{{1,3}}(?:[{_MARKS}][0-9]{{3}})+(?:\.[0-9]*)?")
_DOTTED = re.compile(r"[-+]?[0-9]{1,3}(?:\.[0-9]{3}){2,}")
DECIMAL_POINT = re.compile(r"[-+]?[0-9]*\.[0-9]+(?:e[-+]?[0-9]+)?", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+(?:e[-+]?[0-9]+)?", re.IGNORECASE)
_COMMA_E = re.compile(r"[-+]?[0-9]*,[0-9]+e[-+]?[0-9]+", re.IGNORECASE)
DAY = 86400.0  # seconds


@dataclass(frozen=True)
class Unit:
    """A unit that a column may be in: ``to_base`` converts its numbers to parameters, tokens, FLOPs or nats."""

    to_base: Callable[[Any], Any]
    of: tuple[str, ...]  # the columns it is for


def _times(factor: float, *of: str) -> Unit:
    return Unit(lambda x: x * factor, of)


_COUNTS = {name: _times(factor, "N", "D") for name, factor in {**SUFFIXES, "k": 1e3}.items()}
_COUNTS |= {"thousands": _times(1e3, "N", "D"), "millions": _times(1e6, "N", "D"), "billions": _times(1e9, "N", "D")}
_FLOPS = {f"{prefix}FLOPs": 10.0**power for prefix, power in zip("MGTPEZY", range(6, 27, 3), strict=True)}
_LOSSES = {
    "nats": Unit(lambda x: x, ("loss",)),
    "bits": _times(math.log(2), "loss"),
    "ppl": Unit(np.log, ("loss",)),
}
UNITS: dict[str, Unit] = {
    **_COUNTS,
    **{name: _times(factor, "C") for name, factor in _FLOPS.items()},
    "PF-days": _times(1e15 * DAY, "C"),
    "log10": Unit(lambda x: 10.0**x, ("N", "D", "C")),
    "ln": Unit(np.exp, ("N", "D", "C")),
    "forward": _times(3.0, "C"),  # C counts the forward pass, 2ND; the backward pass costs twice as much
    **_LOSSES,
}


def unit_of(name: str, unit: float | str) -> Unit:
    """The unit ``unit`` of the column ``name``: a name of ``UNITS`` or a factor (also as text).

    Raises:
      UserError: UNKNOWN: no unit of that name for this column; INVALID: a factor that is not positive.
    """
    if isinstance(unit, str):
        if (known := UNITS.get(unit)) is not None and (
            name in known.of or (unit in _COUNTS and name not in ("C", "loss"))
        ):
            return known
        try:
            unit = float(unit)
        except ValueError:
            fit_for = [u for u, known in UNITS.items() if name in known.of] or list(_COUNTS)
            remedy = f"{choose(unit, fit_for)}, or give a number"
            raise UserError("units", f"{name}={unit}", remedy, Code.UNKNOWN) from None
    if not (math.isfinite(unit) and unit > 0):
        raise UserError("units", f"{name}={unit:g}", "must be a positive number")
    return _times(unit, name)


def check(units: Units, named: Mapping[str, object]) -> dict[str, Unit]:
    """The units by column.

    Raises:
      UserError: UNKNOWN: a column that the table lacks, or an unknown unit; INVALID: a factor that is not positive.
    """
    for name in units:
        if name not in named:
            raise UserError("units", name, f"is no column here; {choose(name, named)}", Code.UNKNOWN)
    return {name: unit_of(name, unit) for name, unit in units.items()}


def number(cells: Any) -> Any:
    """Cells (rows,) as float64; not a number where a cell is none."""
    values: Any = pd.to_numeric(cells, errors="coerce")
    return values.astype(float)


def written(cells: Any, column: str, *, count: bool = False) -> Any:
    """Cells (rows,) as float64, also where people wrote separators or suffixes; not a number where a cell is none.

    Args:
      column: the table's name, for messages.
      count: whether the column counts something, so that 31M is 31e6.

    Raises:
      UserError: CONFLICT: commas that can be decimal or separate thousands.
    """
    values = number(cells)
    if cells.dtype.kind in "biuf" or not bool(values.isna().any()):
        return values
    text = cells.map(lambda cell: "" if cell is None else str(cell).strip())
    texts = text[values.isna() & (text != "")]
    suffixed = texts.map(lambda cell: _SUFFIX.fullmatch(cell) if count else None)
    bare = texts.where(suffixed.isna(), suffixed.map(lambda match: match[1] if match else ""))
    factor = suffixed.map(lambda match: SUFFIXES[match[2].upper()] if match else 1.0)
    whole = count and bool(suffixed.isna().all())
    points = bool(text.drop(texts.index).str.contains(".", regex=False).any())
    values[texts.index] = number(_plain(bare, column, whole, points)) * factor.astype(float)
    return values


def _plain(cells: Any, column: str, whole: bool, points: bool) -> Any:
    """Texts with a point for the decimal and nothing between thousands; others unchanged.

    Args:
      whole: whether the column holds whole numbers, so that 31,000 is 31 thousand and 31,5 is a mistake.
      points: whether other cells have a decimal point, so that a comma is none.
    """
    dotted = cells.map(lambda cell: bool(_DOTTED.fullmatch(cell)))
    cells = cells.where(~dotted, cells.str.replace(".", "", regex=False))
    marked = cells.map(lambda cell: bool(_MARKED.fullmatch(cell)))
    cells = cells.where(~marked, cells.str.replace(f"[{_MARKS}]", "", regex=True))
    with_comma = cells[cells.str.contains(",", regex=False)]
    grouped = with_comma.map(lambda cell: bool(_GROUPED.fullmatch(cell)))
    fraction = _COMMA_E if whole else DECIMAL_COMMA
    decimal = with_comma.map(lambda cell: not points and bool(fraction.fullmatch(cell)))
    if len(with_comma) == 0 or not (grouped.all() or decimal.all()):
        return cells
    if grouped.all() and decimal.all():
        remedy = "can be a decimal or separate thousands; write the numbers with a point and without separators"
        raise UserError(f"column {column}", with_comma.iloc[0], remedy, Code.CONFLICT)
    mark = "" if grouped.all() else "."
    return cells.str.replace(",", mark, regex=False)
