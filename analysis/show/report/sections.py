"""What each section of the report says, as typed values that the template lays out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import special

from analysis.card import Misfit
from analysis.check.approaches import Approach, Approaches
from analysis.decide.allocate import Extrapolation, OpenDraws, Sensitivity, optimal
from analysis.decide.entropy import EntropyCheck
from analysis.decide.forecast import Ranked as RankedForecaster
from analysis.decide.forecast import ScoredForecast
from analysis.fitting import Fit
from analysis.interval import Interval
from analysis.show import tables
from analysis.show.answers import cost_words, outcome
from analysis.show.approach_sentences import (
    approach_method,
    approach_name,
    approach_notes,
    approach_scheme,
    compared,
    why_not,
)
from analysis.show.numbers import Text, interval, number, percent, short
from analysis.show.numbers import loss as loss_text
from analysis.show.report.headline import NO_FIT, NO_SEAL, behind, exponents, headline, warnings
from analysis.show.sentences import count_word, counted_word, sentence
from analysis.show.workdir_summary import FIRST, DatasetSummary, Provenance, RunSummary, WorkdirSummary
from analysis.table.seal import Entry, Forecast, Forecaster, Power, SealedCell
from scaling.errors import UserError

BUDGETS = (1.0, 10.0, 100.0)  # times the largest fitted compute; above 100 no prediction is made
UNFINISHED = ("planned", "unfinished", "failed")


@dataclass(frozen=True)
class ParameterRow:
    name: str
    value: str
    identified: str
    meaning: str


@dataclass(frozen=True)
class LawSection:
    """One fit: its formula and numbers."""

    name: str
    formula: str
    source: str
    rows: tuple[ParameterRow, ...]
    level: str
    scheme: str
    runs: int
    counted: str  # which parameters N counts; empty for a law without N
    beyond: str  # what intervals beyond the runs hold
    data: str  # where its rows come from


@dataclass(frozen=True)
class BudgetRow:
    """The answer at one budget, or the ``reason`` why there is none."""

    ratio: float
    C: float
    reason: str | None = None
    N: str = ""
    D: str = ""
    tokens_per_parameter: str = ""
    loss: str = ""
    notes: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None


@dataclass(frozen=True)
class Predictions:
    """Answers at a few budgets; ``of_fit`` are warnings of the fit that bear on all of them."""

    rows: tuple[BudgetRow, ...]
    cost: str | None
    of_fit: tuple[str, ...]


@dataclass(frozen=True)
class ForecastCell:
    value: str
    ends: str
    error: str | None
    inside: bool | None


@dataclass(frozen=True)
class PowerTable:
    """Expected power: a row a truth, with the probabilities that each forecaster is refuted, and that it is chosen."""

    sentence: str
    n: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...], float], ...]


@dataclass(frozen=True)
class Forecasts:
    """Sealed forecasts of a data set beside the outcomes that are known."""

    seals: tuple[Entry, ...]
    power: tuple[PowerTable, ...]
    cells: tuple[tuple[SealedCell, float | None], ...]
    lines: tuple[tuple[str, tuple[ForecastCell | None, ...]], ...]
    ranking: tuple[tuple[str, RankedForecaster], ...]
    outcome: str | None
    naive: str | None

    @property
    def waiting(self) -> int:
        """Sealed cells whose outcome is not known yet."""
        return sum(value is None for _, value in self.cells)


@dataclass(frozen=True)
class LawRow:
    """A law among those fitted to the same runs."""

    law: str
    formula: str
    params: tuple[tuple[str, str], ...]
    rms: float
    p: float | None
    optima: int
    share: float | None
    aicc: float | None
    delta_aicc: float | None
    loo_rms: float | None
    rolling_rms: float | None
    rejected: Literal["seeds", "trend", "no"] | None


@dataclass(frozen=True)
class ApproachRow:
    name: str
    a: str
    b: str
    N: str
    D: str
    reason: str | None
    method: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ApproachTable:
    n: str
    rows: tuple[ApproachRow, ...]
    sentence: str
    reference: float | None  # FLOPs at which N and D are compared
    level: str


@dataclass(frozen=True)
class WarningRow:
    """One warning and the fits that have it."""

    name: str
    sentence: str
    fits: tuple[str, ...]


@dataclass(frozen=True)
class Positions:
    """Loss by position in the context of a few of the ``runs`` that have it: columns, and a line a bin of positions."""

    columns: tuple[tuple[RunSummary, str], ...]
    lines: tuple[tuple[str, tuple[tuple[float, float | None] | None, ...]], ...]
    runs: int
    above: bool


@dataclass(frozen=True)
class DatasetSection:
    """The report's content for one data set."""

    name: str
    unit: str
    sentences: tuple[str, ...]
    law: LawSection | None
    main: LawSection | None
    behind: str | None
    forecasts: Forecasts | None
    theory: EntropyCheck | None
    laws: tuple[tuple[str, tuple[LawRow, ...]], ...]
    approaches: tuple[ApproachTable, ...]
    warnings: tuple[WarningRow, ...]
    noise: tuple[tuple[str, str], ...]
    positions: Positions | None
    dropped: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    no_fit: str


@dataclass(frozen=True)
class Contents:
    """The content of the report."""

    name: str
    datasets: tuple[DatasetSection, ...]
    runs: tuple[RunSummary, ...]
    groups: tuple[str, ...]
    states: dict[str, int]
    provenance: Provenance
    problems: tuple[str, ...]
    no_seal: str = NO_SEAL

    @property
    def unfinished(self) -> int:
        """Cells without a result."""
        return sum(self.states.get(state, 0) for state in UNFINISHED)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the losses of all runs."""
        return tuple(dict.fromkeys(str(run.manifest.unit) for run in self.runs))


def contents(summary: WorkdirSummary) -> Contents:
    """The content of a work directory's report."""
    states: dict[str, int] = {}
    for run in summary.runs:
        states[run.status] = states.get(run.status, 0) + 1
    return Contents(
        name=summary.name,
        datasets=tuple(_dataset(summary, part) for part in summary.datasets),
        runs=summary.runs,
        groups=tuple(dict.fromkeys(g for run in summary.runs for g in run.manifest.parameters.groups)),
        states=states,
        provenance=summary.provenance,
        problems=tuple(summary.problems.values()),
    )


def _dataset(summary: WorkdirSummary, part: DatasetSummary) -> DatasetSection:
    best, main = part.best(), part.main()
    # without a fit, why there are no runs stands where the fit would
    problems = [text for name, text in part.problems.items() if best is not None or name != "runs"]
    return DatasetSection(
        name=part.name,
        unit=_unit(summary, part),
        sentences=tuple(headline(summary, part).sentences),
        law=None if best is None else _law(part, best),
        main=None if main is None else _law(part, main),
        behind=behind(part),
        forecasts=_forecasts(summary, part.name),
        theory=summary.theory(part.name),
        laws=tuple((counted_word(n, part.forms(n)), _laws(part, n)) for n in part.fits),
        approaches=tuple(_approaches(n, result) for n, result in part.approaches.items()),
        warnings=_warnings(part),
        noise=_noise(best),
        positions=_positions(summary.of(part.name)),
        dropped=() if part.runs is None else tuple((row.row, sentence(row)) for row in part.runs.dropped),
        problems=tuple(problems),
        no_fit=part.problems.get("runs", NO_FIT),
    )


def _unit(summary: WorkdirSummary, part: DatasetSummary) -> str:
    """Unit of the headline loss in words; empty where a table does not say it."""
    main = part.main()
    unit = summary.unit(part.name) if summary.runs or main is None else main.conventions.unit
    return "" if unit is None else str(unit)


def _law(part: DatasetSummary, fit: Fit) -> LawSection:
    scheme, shown = fit.card.scheme, exponents(part, fit)
    # compute-optimal tokens per parameter stand in the table of budgets, by the page's count of C
    rows = [(name, shown[name], how, what) for name, _, how, what in tables.parameters(fit) if name in shown]
    beyond = "allow for a wrong law: they hold how far laws of this kind missed on published runs"
    return LawSection(
        name=fit.law.name,
        formula=fit.law.formula,
        source=fit.law.source,
        rows=tuple(ParameterRow(name, interval(cell), how, what) for name, cell, how, what in rows),
        level=percent(fit.level),
        scheme=f"{scheme.name}, {scheme.df:g} degrees of freedom: {sentence(scheme)}",
        runs=fit.data.rows,
        counted=counted_word(fit.conventions.n, [fit.law]),
        data=f"{Path(fit.data.source).name}, sha256 {fit.data.sha256}",
        beyond=beyond if fit.discrepancy.k > 0 else "hold only if the law does (--discrepancy=off)",
    )


# --- predictions


def predictions(fit: Fit, entropy: float | None) -> Predictions:
    """Compute-optimal N, D and loss at a few budgets, or the reason why not; a loss below the entropy is called so."""
    rows, cost, of_fit = [], None, ()
    for ratio in BUDGETS:
        budget = math.nan if fit.scope.C_max is None else ratio * fit.scope.C_max
        try:
            # 100 times is allowed, but not 100 times and a rounding error
            optimum = optimal(fit, flops=budget * (1 - 1e-9), level=fit.level)
        except UserError as error:
            rows.append(BudgetRow(ratio, budget, f"{error.field} {error.value} {error.problem}"))
            continue
        notes = [sentence(w) for w in optimum.warnings if not isinstance(w, Extrapolation)]
        reason = next((sentence(w) for w in optimum.warnings if isinstance(w, OpenDraws)), "not identified")
        if entropy is not None and optimum.loss.value < entropy:
            notes.append(f"below the exact entropy {entropy:.4f}: this law's floor is too low")
        rows.append(
            BudgetRow(
                ratio,
                budget,
                N=interval(optimum.N, short, reason),
                D=interval(optimum.D, short, reason),
                tokens_per_parameter=interval(optimum.tokens_per_parameter, reason=reason),
                loss=interval(optimum.loss, loss_text, reason),
                notes=tuple(notes),
                sensitivity=optimum.sensitivity,
            )
        )
        cost, of_fit = cost_words(optimum.cost), tuple(f"of the fit: {sentence(w)}" for w in optimum.of_fit)
    return Predictions(tuple(rows), cost, of_fit)


# --- forecasts


def _forecasts(summary: WorkdirSummary, dataset: str) -> Forecasts | None:
    """Expected power as it was sealed, and forecasts beside outcomes; None where nothing of the data set is sealed."""
    entries = () if summary.prediction is None else summary.prediction.entries
    entries = tuple(entry for entry in entries if any(cell.dataset == dataset for cell in entry.cells))
    cells = [cell for entry in entries for cell in entry.cells if cell.dataset == dataset]
    if not cells:
        return None
    rows = {} if summary.score is None else {(r.run, r.forecaster): r for r in summary.score.rows}
    made = {(f.run, f.forecaster): f for entry in entries for f in entry.forecasts if f.dataset == dataset}
    outcomes = {run: row.outcome for (run, _), row in rows.items()}
    scored = summary.scored(dataset)
    ranking = () if scored is None else scored.ranking
    who = [entry.forecaster for entry in ranking] or list(dict.fromkeys(who for _, who in made))
    lines = [(label(w), tuple(_cell(made.get((cell.run, w)), rows.get((cell.run, w))) for cell in cells)) for w in who]
    naive = next((noise for entry in entries for noise in entry.naive.get(dataset, ())), None)
    return Forecasts(
        seals=entries,
        power=tuple(_power(entry.power[dataset]) for entry in entries if dataset in entry.power),
        cells=tuple((cell, outcomes.get(cell.run)) for cell in cells),
        lines=tuple(lines),
        ranking=tuple((label(entry.forecaster), entry) for entry in ranking),
        outcome=outcome(dataset, ranking) if ranking else None,
        naive=None if naive is None else sentence(naive),
    )


def label(who: Forecaster) -> str:
    """A forecaster in a table."""
    return f"{'naive' if who.law is None else who.law}, N {count_word(who.n)}"


def _cell(f: Forecast | None, row: ScoredForecast | None) -> ForecastCell | None:
    if f is None:
        return None
    low, high = map(loss_text, f.interval95)
    error = None if row is None else f"{row.error_percent:+.2f} %"
    return ForecastCell(loss_text(f.value), f"[{low}, {high}]", error, None if row is None else row.inside95)


def _power(power: Power) -> PowerTable:
    """The part of the forecasters on one count of N, the headline's where it has some."""
    counts = [who.n for who in power.forecasters]
    n = FIRST if FIRST in counts else counts[0]
    own = [i for i, count in enumerate(counts) if count == n]
    names = ["naive" if who.law is None else who.law for who in power.forecasters]
    rows = [(names[i], tuple(power.refute[i][j] for j in own), power.choose[i]) for i in own]
    return PowerTable(sentence(power), count_word(n), tuple(names[i] for i in own), tuple(rows))


# --- laws, approaches, warnings


def _laws(part: DatasetSummary, n: str) -> tuple[LawRow, ...]:
    ranks, rows = {row.law: row for row in part.ranks[n]}, []
    for name, fit in part.fits[n].items():
        rank, optima = ranks.get(name), fit.card.optima
        rows.append(
            LawRow(
                law=name,
                formula=fit.law.formula,
                params=tuple((k, interval(fit.intervals[k])) for k in fit.law.names),
                rms=fit.card.objective.rms_log_residual,
                p=fit.noise.lack_of_fit.p,
                optima=len(optima),
                share=optima[0].share_of_starts if optima else None,
                aicc=None if rank is None else rank.aicc,
                delta_aicc=None if rank is None else rank.delta_aicc,
                loo_rms=None if rank is None else rank.loo_rms,
                rolling_rms=None if rank is None else rank.rolling_rms,
                rejected=_rejected(fit, None if rank is None else rank.refuted),
            )
        )
    return tuple(rows)


def _rejected(fit: Fit, by_seeds: bool | None) -> Literal["seeds", "trend", "no"] | None:
    """What rejects a form: the noise between seeds, or a trend in its residuals; None if neither was tested."""
    if by_seeds:
        return "seeds"
    if any(isinstance(w, Misfit) for w in fit.warnings):
        return "trend"
    return None if by_seeds is None and fit.noise.structure is None else "no"


def _approaches(n: str, result: Approaches) -> ApproachTable:
    every = list(result.approaches.values())
    reference = next((approach.C for approach in every if approach.C is not None), None)
    rows = tuple(_approach(name, approach) for name, approach in result.approaches.items())
    return ApproachTable(count_word(n), rows, compared(result), reference, percent(every[0].level))


def _approach(name: str, approach: Approach) -> ApproachRow:
    method = "; ".join(text for text in (approach_method(approach), approach_scheme(approach)) if text)
    return ApproachRow(
        name=f"{name}. {approach_name(approach)}",
        a=_ended(approach.a),
        b=_ended(approach.b),
        N=_ended(approach.N, short),
        D=_ended(approach.D, short),
        reason=None if approach.why is None else why_not(approach.why),
        method=method,
        notes=tuple(approach_notes(approach)),
    )


def _ended(cell: Interval | None, text: Text = number) -> str:
    """A number with its interval; a dash where it has none, since such an approach identifies nothing."""
    return "–" if cell is None or cell.lo is None or cell.hi is None else interval(cell, text)


def _warnings(part: DatasetSummary) -> tuple[WarningRow, ...]:
    """Each distinct warning once, with the fits that have it."""
    fits_of: dict[tuple[str, str], list[str]] = {}
    for n, fits in part.fits.items():
        for law, fit in fits.items():
            for w in warnings(part, fit):
                name = f"{law}, N {count_word(n)}" if "N" in fit.law.columns else law
                fits_of.setdefault((w.code, sentence(w)), []).append(name)
    return tuple(WarningRow(code.replace("_", " "), said, tuple(fits)) for (code, said), fits in fits_of.items())


# --- noise and positions


def _noise(fit: Fit | None) -> tuple[tuple[str, str], ...]:
    """Noise of log loss in percent of the loss, each with an interval or why it has none."""
    if fit is None:
        return ()
    noise = fit.noise
    pure, rows = noise.pure_error, []
    if pure.sd is None:
        rows.append(("between seeds", "not measured: no two runs differ only in their seed"))
    else:
        ends = [100 * pure.sd * math.sqrt(pure.df / special.chdtri(pure.df, q)) for q in (0.025, 0.975)]
        text = f"{100 * pure.sd:.2g} % [{ends[0]:.2g}, {ends[1]:.2g}] (chi-squared, {pure.df} degrees of freedom)"
        rows.append(("between seeds, whatever the law", text))
    rows.append(("of a run about the law", _percent(noise.sigma_run, fit.sigma_run)))
    if noise.groups is None:
        rows.append(("shared by runs that branch off one training", "not estimated: no two runs share one"))
    else:
        kind, count = noise.groups.kind, noise.groups.count
        what = "runs that branch off one training" if kind == "stem" else f"the runs of a {kind}"
        rows.append((f"shared by {what}", f"{_percent(noise.sigma_stem, fit.sigma_stem)} ({count} of them)"))
    return tuple(rows)


def _percent(value: float, draws: np.ndarray) -> str:
    """A standard deviation of log loss in percent, with the central 95 % of its draws."""
    low, high = (100 * float(v) for v in np.quantile(draws, [0.025, 0.975]))
    return f"{100 * value:.2g} % [{low:.2g}, {high:.2g}]"


def _positions(runs: tuple[RunSummary, ...]) -> Positions | None:
    """Loss by position of the cheapest and the most expensive run that have it, and names of the bins of positions."""
    able = [run for run in runs if run.evaluation is not None and run.evaluation.positions is not None]
    able.sort(key=lambda run: run.manifest.flops.training)
    columns: list[tuple[RunSummary, str, dict[int, tuple[float, float | None]]]] = []
    for run in able[:1] + able[1:][-1:]:
        by = run.evaluation.positions if run.evaluation is not None else None
        assert by is not None
        columns.append((run, "loss", dict(zip(by.upto, zip(by.value, by.se)))))
        if by.excess is not None and by.excess_se is not None:
            columns.append((run, "above the source", dict(zip(by.upto, zip(by.excess, by.excess_se)))))
    if not columns:
        return None
    lines = []
    for end in sorted({end for _, _, values in columns for end in values}):
        first = 2 ** (math.ceil(math.log2(end)) - 1) + 1 if end > 1 else 1
        lines.append((f"{first}–{end}" if first < end else f"{end}", tuple(v.get(end) for _, _, v in columns)))
    heads, above = tuple((run, what) for run, what, _ in columns), any(what != "loss" for _, what, _ in columns)
    return Positions(heads, tuple(lines), len(able), above)
