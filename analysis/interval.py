"""A number with its interval."""

from __future__ import annotations

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

    @property
    def half_width(self) -> float:
        """Half the distance between the ends; infinite where one is open."""
        return float("inf") if self.lo is None or self.hi is None else (self.hi - self.lo) / 2
