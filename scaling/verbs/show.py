"""What the verbs print with: JSON, aligned tables, numbers with intervals; and NAME=VALUE lists of a flag."""

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
    """The study in whose fits/ a card lies, or in whose fits/TERM/."""
    folders = [folder for folder in card.resolve().parents[:2] if folder.name == "fits"]
    return next((folder.parent for folder in folders if (folder.parent / "study.json").exists()), None)


def card_name(label: str, law: str, n: str) -> str:
    """The file of a fit's card among others: by data set, law and count of N, in letters that every system takes."""
    return safe(f"{label}-{law}-{n}.json")


def law_name(law: str | None) -> str:
    """The name of the law that ``--law`` asks for, the default one where it is not given."""
    from analysis import laws

    return (laws.default() if law is None else laws.get(law)).name


def safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def print_json(value: Any) -> None:
    """JSON of a value, of which any part may be a typed one."""
    print(json.dumps(value, indent=1, allow_nan=False, default=plain))


def table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], object]]) -> list[str]:
    """Lines of an aligned table: a title and a function of the row for each column. Numbers go to the right."""
    from analysis.show.numbers import aligned

    return aligned([list(columns), *([str(show(row)) for show in columns.values()] for row in rows)])


def count(value: float) -> str:
    """A count for people: 6,144, 98.3k, 1.05M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    return f"{value:,.0f}"


def interval(cell: Cell | None, count: int = 4) -> str:
    """A number and its interval, to ``count`` digits."""
    from analysis.show.numbers import digits
    from analysis.show.numbers import interval as text

    return text(cell, digits(count))


def pairs(field: str, text: str | None, kind: Callable[[str], Any], form: str = "VALUE") -> dict[str, Any]:
    """``a=1,b=2`` as a dictionary; ``kind`` reads a value, and raises ValueError where it is not of the ``form``."""
    found = {}
    for item in filter(None, (text or "").split(",")):
        name, sign, value = item.partition("=")
        try:
            found[name.strip()] = kind(value.strip())
        except ValueError:
            sign = ""
        if not sign or not value.strip():
            raise UserError(field, item, f"must be NAME={form}[,NAME={form} ...]")
    return found
