"""Numbers as text: counts, FLOPs, levels, intervals. Does not import matplotlib, so that printing is fast."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Protocol

Text = Callable[[float], str]
_NUMBER = re.compile(r"[-+]?[\d.][\d.,e+%-]*|-?")  # text of a table's cell; a dash or nothing for None
_SUPERSCRIPT = str.maketrans("-0123456789.abcdpxαβγ", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹·ᵃᵇᶜᵈᵖˣᵅᵝᵞ")


class Cell(Protocol):
    """A number with the ends of its interval, None where an end is open: ``card.Interval`` and its like."""

    @property
    def value(self) -> float | None: ...
    @property
    def lo(self) -> float | None: ...
    @property
    def hi(self) -> float | None: ...


def short(value: float) -> str:
    """Three significant digits with k, M, B, T: how people write parameters and tokens."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}" if value < 999.5e12 else power_text(value)
    return f"{value:.3g}"


def power_text(value: float, digits: int = 2) -> str:
    """3×10¹²: how people write FLOPs."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    head = f"{value / 10.0**exponent:.{digits}g}"
    if head == "10":  # 9.99 rounds up
        head, exponent = "1", exponent + 1
    tail = f"10{str(exponent).translate(_SUPERSCRIPT)}"
    return tail if head == "1" else f"{head}×{tail}"


def percent(level: float) -> str:
    """A level such as 0.95 as ``95 %``."""
    return f"{100 * level:g} %"


def number(value: float) -> str:
    """Three significant digits, in powers of ten where the number is very small or large."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.2e}"


def digits(count: int) -> Text:
    """A number to ``count`` significant digits."""
    return lambda value: f"{value:.{count}g}"


def loss(value: float) -> str:
    """A loss, with the four decimals that an evaluation set resolves."""
    return f"{value:.4f}"


def interval(cell: Cell | None, text: Text = number, reason: str = "not identified") -> str:
    """A number with its interval, as ``0.399 [0.333, 0.476]``.

    Args:
      text: formats a number.
      reason: replaces a missing number, and explains a missing interval where both ends are open.

    Returns:
      The text; an open end is written ``open``, and a number whose ends are equal was ``given``.
    """
    if cell is None or cell.value is None:
        return reason
    value, lo, hi = cell.value, cell.lo, cell.hi
    if lo is None and hi is None:
        return f"{text(value)} (no interval{': ' if reason else ''}{reason})"
    if lo == hi:
        return f"{text(value)} (given)"
    return f"{text(value)} [{'open' if lo is None else text(lo)}, {'open' if hi is None else text(hi)}]"


def span(lo: float | None, hi: float | None, text: Text) -> str:
    """``1.2 to 3.4``; an open end is ``unbounded``."""
    ends = ("unbounded" if end is None else text(end) for end in (lo, hi))
    return " to ".join(ends)


def plural(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def some(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table whose first row holds the titles. Columns of numbers are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    numbers = [all(map(_NUMBER.fullmatch, column)) and len(column) > 0 for column in zip(*rows[1:])]
    numbers = numbers or [False] * len(widths)
    pads = [str.rjust if right else str.ljust for right in numbers]
    return ["  ".join([pad(text, width) for pad, text, width in zip(pads, row, widths)]).rstrip() for row in rows]


def greek(text: str) -> str:
    """Names of parameters as people write them."""
    for name, sign in (("alpha", "α"), ("beta", "β")):
        text = re.sub(rf"(?<![a-zA-Z]){name}(?![a-zA-Z])", sign, text)
    return text


def plain_formula(text: str) -> str:
    """A formula as text without markup: Greek letters, and exponents of one name or number raised."""
    powers = re.compile(r"\^(-?(?:\d+(?:\.\d+)?|[abcdpxαβγ](?![\w])))")
    return powers.sub(lambda found: found[1].translate(_SUPERSCRIPT), greek(text))
