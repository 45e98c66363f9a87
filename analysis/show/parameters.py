"""The numbers of a fit in rows, as tables of every format hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.check.diagnose import standing
from analysis.show.numbers import power_text

if TYPE_CHECKING:
    from analysis.card import Interval
    from analysis.fitting import Fit


def parameters(fit: Fit) -> list[tuple[str, Interval, str, str]]:
    """Parameters and derived numbers: (name, interval, how well it is known (may be empty), meaning)."""
    meanings = {"a": "N_opt grows as C^a", "b": "D_opt grows as C^b"}
    meanings |= {p.name: p.meaning for p in fit.law.params}  # a law may have an a of its own
    standings = standing(fit.law, fit.intervals, fit.warnings)
    known = {name: how.replace("_", " the ") for name, how in standings.items()}  # by_form is "by the form"
    known |= dict.fromkeys(fit.card.fixed, "given")
    rows = [(name, cell, known.get(name, ""), meanings.get(name, "")) for name, cell in fit.intervals.items()]
    for budget, cell in fit.derived.tokens_per_parameter.items():
        what = (
            f"compute-optimal tokens per parameter at {power_text(float(budget), 3)} FLOPs, C = 6 N D on the card's N"
        )
        rows.append(("D/N", cell, known.get("a", ""), what))
    return rows
