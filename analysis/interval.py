"""A number with its interval."""

from __future__ import annotations

import math

from scaling.records.value import Value


class Interval(Value):
    """A number and its interval, at the confidence level stated by its owner.

    Attributes:
      lo, hi: ends of the interval; None where that end is open.
      unit: of all three; empty where it is obvious.
    """

    value: float
    lo: float | None
    hi: float | None
    unit: str = ""

    def moved(self, by: float) -> Interval:
        """The interval of a number that is higher ``by`` so much."""
        lo, hi = (None if end is None else end + by for end in (self.lo, self.hi))
        return Interval(value=self.value + by, lo=lo, hi=hi, unit=self.unit)

    def exp(self) -> Interval:
        """The interval of a ratio, from that of its logarithm; above e^700 it is e^700, and the unit is none."""
        lo, hi = (None if end is None else math.exp(min(end, 700.0)) for end in (self.lo, self.hi))
        return Interval(value=math.exp(min(self.value, 700.0)), lo=lo, hi=hi)

    @property
    def half_width(self) -> float:
        """Half the distance between the ends; infinite where one is open."""
        return float("inf") if self.lo is None or self.hi is None else (self.hi - self.lo) / 2
