"""Helpers that the verbs print with (JSON, aligned tables, intervals), and the reading of NAME=VALUE lists."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scaling.errors import UserError
from scaling.records.typed import plain

if TYPE_CHECKING:
    from analysis.show.numbers import Cell

Row = TypeVar("Row")


def study_of(card: Path) -> Path | None:
    """The work directory of the study whose fits/ or fits/TERM/ contains the card; None if there is none."""
    try:
        place = card.resolve()
    except (OSError, RuntimeError):  # a loop of links, which whoever reads the card names
        return None
    folders = [folder for folder in place.parents[:2] if folder.name == "fits"]
    return next((folder.parent for folder in folders if (folder.parent / "study.json").exists()), None)


def card_name(label: str, law: str, n: str) -> str:
    """The file name of a card: data set, law and count of N, in characters that every file system accepts."""
    return safe(f"{label}-{law}-{n}.json")


def law_name(law: str | None) -> str:
    """The name of the law given by ``--law``, or of the default law."""
    from analysis import laws

    return (laws.default() if law is None else laws.get(law)).name


def safe(name: str) -> str:
    """The name with characters that a file system may refuse replaced by underscores."""
    return re.sub(r"[^\w.-]", "_", name)


def print_json(value: Any) -> None:
    """Prints a value as JSON; any part of it may be a Struct."""
    print(json.dumps(value, indent=1, allow_nan=False, default=plain))


def table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], object]]) -> list[str]:
    """Lines of an aligned table; ``columns`` maps each title to a function of the row. Numbers are right-aligned."""
    from analysis.show.numbers import aligned

    return aligned([list(columns), *([str(show(row)) for show in columns.values()] for row in rows)])


def count(value: float) -> str:
    """A count for people: 6,144, 98.3k, 1.05M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    return f"{value:,.0f}"


def interval(cell: Cell | None, count: int = 4) -> str:
    """A number and its interval as text, to ``count`` digits."""
    from analysis.show.numbers import digits
    from analysis.show.numbers import interval as text

    return text(cell, digits(count))


def pairs(field: str, text: str | None, kind: Callable[[str], Any], form: str = "VALUE") -> dict[str, Any]:
    """Parses ``a=1,b=2`` into a dictionary.

    Args:
      field: name of the flag, for the message.
      text: what was given; None and the empty string give an empty dictionary.
      kind: parses one value; raises ValueError if it cannot.
      form: how a value is written, for the message.

    Raises:
      UserError: an item is not NAME=VALUE, or ``kind`` cannot parse its value (INVALID).
    """
    values = {}
    for item in filter(None, (text or "").split(",")):
        name, sign, value = item.partition("=")
        try:
            values[name.strip()] = kind(value.strip())
        except ValueError:
            sign = ""
        if not sign or not value.strip():
            raise UserError(field, item, f"must be NAME={form}[,NAME={form} ...]")
    return values
