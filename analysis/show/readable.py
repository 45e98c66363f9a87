"""Results of ``Fit.optimal`` and ``analysis.compare``, which print as text."""

from __future__ import annotations

from typing import Self

from analysis.decide.allocate import Allocation
from analysis.decide.compare import Comparison
from analysis.show.allocations import allocation
from analysis.show.comparisons import comparison


class ReadableAllocation(Allocation):
    """An allocation; ``repr`` is its text."""

    @classmethod
    def of(cls, answer: Allocation) -> Self:
        return cls(**{name: getattr(answer, name) for name in answer.__struct_fields__})

    def __repr__(self) -> str:
        return "\n".join(allocation(self, self.law))


class ReadableComparison(Comparison):
    """A comparison of fits; ``repr`` is its text."""

    @classmethod
    def of(cls, answer: Comparison) -> Self:
        return cls(**{name: getattr(answer, name) for name in answer.__struct_fields__})

    def __repr__(self) -> str:
        return "\n".join(comparison(self))
