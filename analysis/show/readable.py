"""Results of ``Fit.optimal`` and ``analysis.compare``, which print as text."""

from __future__ import annotations

from analysis.decide.allocate import Allocation
from analysis.decide.compare import Comparison
from analysis.show.allocations import allocation
from analysis.show.comparisons import comparison


class ReadableAllocation(Allocation):
    """An allocation; ``repr`` is its text."""

    def __repr__(self) -> str:
        return "\n".join(allocation(self, self.law))


class ReadableComparison(Comparison):
    """A comparison of fits; ``repr`` is its text."""

    def __repr__(self) -> str:
        return "\n".join(comparison(self))
