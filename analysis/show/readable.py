"""Results of ``Fit.optimal``, ``analysis.compare``, ``gate`` and ``plan_gate``, which print as text."""

from __future__ import annotations

from analysis.decide.allocate import Allocation
from analysis.decide.compare import Comparison
from analysis.decide.gate import Gate, GatePlan
from analysis.show.allocations import allocation
from analysis.show.comparisons import comparison
from analysis.show.gate_sentences import gate, plan


class ReadableAllocation(Allocation):
    """An allocation; ``repr`` is its text."""

    def __repr__(self) -> str:
        return "\n".join(allocation(self, self.law))


class ReadableComparison(Comparison):
    """A comparison of fits; ``repr`` is its text."""

    def __repr__(self) -> str:
        return "\n".join(comparison(self))


class ReadableGate(Gate):
    """A gate; ``repr`` is its text."""

    def __repr__(self) -> str:
        return "\n".join(gate(self))


class ReadableGatePlan(GatePlan):
    """What a gate could tell; ``repr`` is its text."""

    def __repr__(self) -> str:
        return "\n".join(plan(self))
