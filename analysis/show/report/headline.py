"""The main results of a data set in sentences, by topic, so that page and summary can choose among them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from analysis.card import Misfit
from analysis.check.diagnose import REFUTED
from analysis.decide.entropy import EntropyCheck
from analysis.fitting import Fit
from analysis.interval import Interval
from analysis.show.answers import outcome
from analysis.show.approach_sentences import compared
from analysis.show.numbers import interval, loss, plural
from analysis.show.sentences import counted_word, quantity_word, verdict
from analysis.show.workdir_summary import DatasetSummary, WorkdirSummary
from analysis.warning import AnyWarning, Doubtful, NotIdentified

NO_FIT = "No law is fitted yet: run `scaling fit` on this work directory."
NO_SEAL = (
    "No forecast is made yet: run `scaling predict` on this work directory. Held-out losses stay unread until then."
)


@dataclass(frozen=True)
class Headline:
    """Sentences about a data set by topic; None where there is nothing to report.

    Attributes:
      missing: why there is no fit; all other topics are then empty.
      best: which law describes the runs best.
      verdicts: of that law and, if it is another one, of the law used for allocations.
      behind: how far the law used for allocations is behind the best.
      refuted: which forms are refuted, or that none is.
      forecasts: outcome of the sealed forecasts.
      theory: losses and floor against the known entropy.
      approaches: whether approaches 1, 2 and 3 agree.
    """

    missing: str | None = None
    best: str | None = None
    verdicts: tuple[str, ...] = ()
    behind: str | None = None
    refuted: str | None = None
    forecasts: str | None = None
    theory: str | None = None
    approaches: str | None = None

    @property
    def sentences(self) -> list[str]:
        """All sentences, in reading order."""
        first, *others = self.verdicts or (None,)
        order = (self.missing, self.best, first, self.behind, *others, self.refuted)
        return [text for text in (*order, self.forecasts, self.theory, self.approaches) if text is not None]


def exponents(part: DatasetSummary, fit: Fit) -> dict[str, Interval]:
    """The intervals of a fit as the page shows them: its a and b are those of the page's count of C.

    A card's a and b hold under C = 6ND. Where the runs have exact FLOPs, those of approach 3, which counts by them,
    take their place, and a law that approach 3 does not have shows none.
    """
    shown, compared_ = dict(fit.intervals), part.approaches.get(fit.conventions.n or "")
    if fit.conventions.flops != "exact" or "a" in fit.law.names:
        return shown
    third = None if compared_ is None else compared_.approaches.get("3")
    for name in ("a", "b"):
        shown.pop(name, None)
        cell = None if third is None or third.law != fit.law.name else getattr(third, name)
        if cell is not None:
            shown[name] = cell
    return shown


def warnings(part: DatasetSummary, fit: Fit) -> tuple[AnyWarning, ...]:
    """The warnings of a fit as the page shows them: with the ends that a and b have there (see ``exponents``)."""
    known, told = exponents(part, fit), []
    for w in fit.warnings:
        if isinstance(w, Doubtful | NotIdentified) and w.parameter in ("a", "b") and w.parameter in known:
            w = msgspec.structs.replace(w, lo=known[w.parameter].lo, hi=known[w.parameter].hi)
        told.append(w)
    return tuple(told)


def headline(summary: WorkdirSummary, part: DatasetSummary) -> Headline:
    """The main results of one data set."""
    best, main, n = part.best(), part.main(), part.n
    if best is None or main is None or n is None:
        return Headline(missing=part.problems.get("runs", NO_FIT))
    gap, scored, theory = behind(part), summary.scored(part.name), summary.theory(part.name)
    fits = [best] if gap is None else [best, main]
    return Headline(
        best=_best(part, n),
        verdicts=tuple(f"{fit.law.name}: {verdict(fit, exponents(part, fit))}" for fit in fits),
        behind=gap,
        refuted=_refuted(summary, part, n),
        forecasts=None if scored is None else f"Forecasts made before the runs, {outcome(part.name, scored.ranking)}",
        theory=None if theory is None else f"Theory: {theory_sentence(part, theory)}",
        approaches=compared(part.approaches[n]) if n in part.approaches else None,
    )


def _best(part: DatasetSummary, n: str) -> str | None:
    ranks, best = [row for row in part.ranks[n] if row.aicc is not None], part.best()
    if not ranks or best is None:
        return None
    counted = counted_word(n, part.forms(n))
    text = (
        f"Best of {plural(len(ranks), 'law')} by AICc: {ranks[0].law} ({plural(best.data.rows, 'run')}"
        f"{', ' if counted else ''}{counted}; rms residual {100 * best.card.objective.rms_log_residual:.2g} % of the "
        f"{quantity_word(best.law.quantity)})"
    )
    if len(ranks) > 1:
        text += f"; {ranks[1].law} is next, {ranks[1].delta_aicc:.3g} behind"
    return f"{text}."


def _refuted(summary: WorkdirSummary, part: DatasetSummary, n: str) -> str | None:
    scored, words = summary.scored(part.name), counted_word(n, part.forms(n))
    on = f" on {words}" if words else ""
    ranking = () if scored is None else scored.ranking
    misfit = [row.law for row in part.ranks[n] if row.aicc is not None and row.refuted]
    trend = [law for law, fit in part.fits.get(n, {}).items() if any(isinstance(w, Misfit) for w in fit.warnings)]
    # the naive rival is a forecaster too, but no form
    failed = [row.forecaster.law for row in ranking if row.refuted and row.forecaster.n == n and row.forecaster.law]
    refuted = []
    if misfit:
        refuted.append(f"{', '.join(misfit)} by seed noise (lack of fit, p < {REFUTED:g})")
    if trend:
        refuted.append(f"{', '.join(trend)} by structure in the residuals (p < {REFUTED:g})")
    if failed:
        refuted.append(f"{', '.join(failed)} by the held-out runs (outside the joint 95 % region)")
    if refuted:
        return f"Rejected{on}: {'; '.join(refuted)}."
    tested = any(fit.noise.structure is not None for fit in part.fits.get(n, {}).values())
    if ranking or tested or any(row.refuted is not None for row in part.ranks[n]):
        return f"No form is rejected{on}."
    return None


def theory_sentence(part: DatasetSummary, check: EntropyCheck) -> str:
    """The losses of a known source, and the floor of the best law that has one, beside the exact entropy."""
    side = "at or above" if check.ok else "NOT all at or above"
    text = f"{part.name}: {check.runs} losses are {side} the exact entropy {loss(check.entropy)}"
    fits = part.fits.get(part.n or "", {})
    first = next((name for name, fit in fits.items() if fit.law.floor), None)
    for floor in check.floors:
        if (floor.n, floor.law) == (part.n, first):
            holds = "holds" if floor.holds else "misses"
            text += f"; {floor.law} puts its floor at {interval(floor.interval)}, which {holds} it"
    return f"{text}."


def behind(part: DatasetSummary) -> str | None:
    """A note where the law used for allocations is not the one that describes the runs best."""
    best, main = part.best(), part.main()
    if best is None or main is None or best is main:
        return None
    row = next((row for row in part.ranks[part.n or ""] if row.law == main.law.name), None)
    gap = None if row is None else row.delta_aicc
    far = "" if gap is None else f", though {gap:.3g} AICc behind {best.law.name}"
    why = f" ({best.law.name} gives no compute-optimal N)" if best.law.no_optimum else ""
    return f"Predictions of N and D use {main.law.name}{far}{why}."
