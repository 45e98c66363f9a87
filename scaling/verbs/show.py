"""What the verbs print with: JSON, aligned tables, numbers with intervals; and NAME=VALUE lists of a flag."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import UserError


def study_of(card: Path) -> Path | None:
    """The study in whose fits/ a card lies, or in whose fits/TERM/."""
    folders = [folder for folder in card.resolve().parents[:2] if folder.name == "fits"]
    return next((folder.parent for folder in folders if (folder.parent / "study.json").exists()), None)


def card_name(label: str, law: str, n: str) -> str:
    """The file of a fit's card among others: by data set, law and count of N, in letters that every system takes."""
    return safe(f"{label}-{law}-{n}.json")


def safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def table(rows: Sequence[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], object]]) -> list[str]:
    """Lines of an aligned table: a title and a function of the row for each column. Numbers go to the right."""
    cells = [[str(show(row)) for show in columns.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(list(columns), *cells)]
    right = [all(re.fullmatch(r"[-+]?[\d.][\d.,e+%-]*|-?", cell) for cell in column) for column in zip(*cells)]
    right = right or [False] * len(columns)
    lines = []
    for line in [list(columns), *cells]:
        padded = (text.rjust(width) if end else text.ljust(width) for text, width, end in zip(line, widths, right))
        lines.append("  ".join(padded).rstrip())
    return lines


def count(value: float) -> str:
    """A count for people: 6,144, 98.3k, 1.05M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    return f"{value:,.0f}"


def interval(cell: dict[str, Any] | None, digits: int = 4) -> str:
    """``value [lo, hi]`` with open ends where they are not known."""
    if not cell or cell.get("value") is None:
        return "not identified"
    lo, hi = cell.get("lo"), cell.get("hi")
    ends = ("-inf" if lo is None else f"{lo:.{digits}g}", "inf" if hi is None else f"{hi:.{digits}g}")
    return f"{cell['value']:.{digits}g} [{ends[0]}, {ends[1]}]"


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
