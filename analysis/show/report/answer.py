"""The first screen of a report: for each budget N, D and loss with intervals, what it is worth, and its one figure.

Every text is made here, for each step of the slider, so that the page's script only looks up what to show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from analysis.check.diagnose import standing
from analysis.decide.allocate import Allocation, OpenDraws, optimal
from analysis.fitting import Fit
from analysis.show.answers import cost_words
from analysis.show.numbers import number, percent, plural, power_text, short, span
from analysis.show.plots.style import c_label
from analysis.show.report.chart import Chart, Path, loss_chart
from analysis.show.report.headline import exponents, warnings
from analysis.show.sentences import counted_word, quantity_word, sentence
from analysis.show.workdir_summary import DatasetSummary, WorkdirSummary
from analysis.warning import (
    AnyWarning,
    ApproachesDisagree,
    Collinear,
    Diverged,
    Doubtful,
    Influential,
    Misfit,
    MixedUnits,
    NotIdentified,
    ParameterAtBound,
    QuestionedUnits,
    Refuted,
    SweptSettings,
)
from scaling.errors import UserError

PER_DECADE = 10  # budgets of the slider
BELOW, BEYOND = 0.1, 100.0  # its ends, over the largest C of the fitted runs
SHOWN = (1.0, 3.0, 10.0, 100.0)  # budgets of the small table, over the largest C of the fitted runs
FIRST = 10.0  # where the slider stands at first
# The same for a law that makes an error, or another loss, of a loss: lower ones are to come. Over the smallest fitted.
LOWER, LOWEST, FIRST_LOWER = (1.0, 0.95, 0.9, 0.8), 0.7, 0.9
STEPS = 40
# The gravest first: what makes the number another one, then what makes it uncertain.
GRAVE: tuple[type[AnyWarning], ...] = (
    QuestionedUnits,
    MixedUnits,
    Diverged,
    NotIdentified,
    Refuted,
    Misfit,
    ApproachesDisagree,
    Collinear,
    SweptSettings,
    ParameterAtBound,
    Doubtful,
    Influential,
)


class Step(msgspec.Struct, frozen=True):
    """What the page shows at one budget.

    Attributes:
      c: the budget in FLOPs, as text.
      x, y, lo, hi: the budget, and the expected loss with its ends (None: no answer, or open).
      reason: why there is no answer; the other texts are then empty.
      note: how far it extrapolates, and what half or twice N costs.
      warning: of the answer itself, such as open intervals.
      cost: how a budget is counted between and beyond the sizes.
      where: the budget over the largest C of the fitted runs, in words.
      below: said where the loss lies below the known entropy.
    """

    c: str
    x: float
    y: float | None = None
    lo: float | None = None
    hi: float | None = None
    n: str = ""
    n_ends: str = ""
    d: str = ""
    d_ends: str = ""
    loss: str = ""
    loss_ends: str = ""
    ratio: str = ""
    ratio_ends: str = ""
    note: str = ""
    warning: str = ""
    cost: str = ""
    reason: str = ""
    where: str = ""
    below: str = ""


@dataclass(frozen=True)
class Tile:
    """A fact beside the answer: its number, and what it is."""

    number: str
    meaning: str


@dataclass(frozen=True)
class Answer:
    """The first screen for one data set.

    Attributes:
      title: the runs in one line.
      law, formula: of the fit that answers.
      quantity: what the law gives, in a word: the loss.
      column: the one of a law that has one, at which the loss is asked; None where a budget is.
      steps: of the slider; empty where the law gives no compute-optimal N.
      start: index of the step that is shown first.
      table: the steps of the small table.
      why: why there are no steps.
      tiles: the exponent, the floor, the sealed forecasts.
      warning: the gravest of the fit; None if it has none.
      counted: how N, D, C and the loss are counted.
      chart: loss against compute; None where the runs have no C.
      after: what to train before the budget is spent; None where there are no steps.
    """

    title: str
    law: str
    formula: str
    quantity: str
    column: str | None
    steps: tuple[Step, ...]
    start: int
    table: tuple[Step, ...]
    why: str
    tiles: tuple[Tile, ...]
    warning: str | None
    counted: str
    chart: Chart | None
    after: str | None


def answer(summary: WorkdirSummary, part: DatasetSummary) -> Answer | None:
    """The first screen of a data set; None where nothing is fitted."""
    fit = part.main()
    if fit is None:
        return None
    steps, why, start, table = (), "", 0, ()
    columns, entropy = set(fit.law.columns), part.entropy
    alone = fit.law.columns[0] if len(columns) == 1 else None
    name = fit.conventions.columns.get(alone, alone) if alone == "x" else alone
    if alone is None and (columns != {"N", "D"} or fit.law.no_optimum):
        why = f"{fit.law.name} gives no compute-optimal N and D."
    elif (asked := _asked(fit, alone)) is None:
        why = "The runs have no compute."
    else:

        def at(x: float) -> Step:
            return _value(fit, alone, str(name), x, entropy) if alone else _optimum(fit, x, entropy)

        steps, table = (tuple(map(at, places)) for places in (asked.slider, asked.table))
        start = int(np.argmin(np.abs(np.log(np.array(asked.slider) / asked.first))))
        if all(step.y is None for step in steps):
            why, steps, table = steps[start].reason, (), ()
    return Answer(
        title=_title(fit),
        law=fit.law.name,
        formula=fit.law.formula,
        quantity=quantity_word(fit.law.quantity),
        column=name,
        steps=steps,
        start=start,
        table=table,
        why=why,
        tiles=_tiles(summary, part, fit),
        warning=_gravest(warnings(part, fit)),
        counted=_counted(fit),
        chart=loss_chart(fit, _path(steps), part.opened),
        after=_after(table, name, quantity_word(fit.law.quantity)),
    )


@dataclass(frozen=True)
class _Asked:
    """Budgets, or values of a law's column, at which the page answers: of the slider, which starts near ``first``."""

    slider: tuple[float, ...]
    first: float
    table: tuple[float, ...]


def _asked(fit: Fit, column: str | None) -> _Asked | None:
    """None where the runs have no compute."""
    if column is not None and fit.law.of_a_loss:
        low, high = float(fit.columns[column].min()), float(fit.columns[column].max())
        slider = tuple(map(float, np.geomspace(LOWEST * low, high, STEPS)))
        return _Asked(slider, FIRST_LOWER * low, tuple(share * low for share in LOWER))
    largest = float(fit.columns[column].max()) if column else fit.scope.C_max
    if largest is None:
        return None
    first, last = (math.ceil(PER_DECADE * math.log10(share * largest)) for share in (BELOW, BEYOND))
    slider = tuple(10 ** (i / PER_DECADE) for i in range(first, last))
    return _Asked(slider, FIRST * largest, tuple(share * largest * (1 - 1e-9) for share in SHOWN))


def _path(steps: tuple[Step, ...]) -> Path | None:
    if not steps:
        return None
    rows = np.array([(step.x, step.y, step.lo, step.hi) for step in steps], dtype=float)  # None is NaN
    return Path(*rows.T)


def _value(fit: Fit, column: str, name: str, x: float, entropy: float | None) -> Step:
    """The loss of one new run at a value of the law's only column, which the table calls ``name``."""
    found = fit.predict({column: x}, level=fit.level)
    value, lo, hi = (float(np.ravel(end)[0]) for end in (found.value, found.lo, found.hi))
    lo = max(lo, 0.0) if fit.law.quantity == "error" else lo
    ends = float(fit.columns[column].min()), float(fit.columns[column].max())
    share, end = (x / ends[0], "smallest") if fit.law.of_a_loss else (x / ends[1], "largest")
    where = f"{100 * share:.3g} % of the smallest" if end == "smallest" else f"{share:.3g}× the largest"
    outside = share < 0.995 if end == "smallest" else share > 1.05
    c = power_text(x, 3) if column == "C" else short(x)
    if value <= 0:
        return Step(c, x, where=where, reason=f"No answer at {c}: the law is below zero there.")
    note = f"Extrapolates to {where} {name}." if outside else f"Within the {name} of the runs."
    return Step(
        c=c,
        x=x,
        y=value,
        lo=lo,
        hi=hi,
        loss=f"{value:.4g}",
        loss_ends=span(lo, hi, lambda end: f"{end:.4g}"),
        note=note + _brackets(fit),
        where=where,
        below=_below(value, entropy),
    )


def _below(value: float, entropy: float | None) -> str:
    return "" if entropy is None or value >= entropy else f"below the exact entropy {entropy:.4f}"


def _optimum(fit: Fit, budget: float, entropy: float | None) -> Step:
    """N, D and loss that are compute-optimal at a budget."""
    c, where = power_text(budget, 3), f"{budget / (fit.scope.C_max or math.nan):.3g}× the largest run"
    try:
        best = optimal(fit, flops=budget, level=fit.level)
    except UserError as error:
        return Step(c, budget, where=where, reason=f"No answer at {c} FLOPs: {error.value} {error.problem}.")
    return Step(
        c=c,
        x=budget,
        y=best.loss.value,
        lo=best.loss.lo,
        hi=best.loss.hi,
        n=short(best.N.value),
        n_ends=span(best.N.lo, best.N.hi, short),
        d=short(best.D.value),
        d_ends=span(best.D.lo, best.D.hi, short),
        loss=f"{best.loss.value:.4g}",
        loss_ends=span(best.loss.lo, best.loss.hi, lambda value: f"{value:.4g}"),
        ratio=short(best.tokens_per_parameter.value),
        ratio_ends=span(best.tokens_per_parameter.lo, best.tokens_per_parameter.hi, short),
        note=_note(best) + _brackets(fit),
        cost=cost_words(best.cost),
        warning=" ".join(sentence(w) for w in best.warnings if isinstance(w, OpenDraws)),
        where=where,
        below=_below(best.loss.value, entropy),
    )


def _brackets(fit: Fit) -> str:
    return f" In brackets: {percent(fit.level)} intervals."


def _note(best: Allocation) -> str:
    beyond = best.extrapolation_ratio
    where = (
        f"Extrapolates to {beyond:.2g}× the compute of the largest run."
        if beyond > 1.05
        else "Within the compute of the runs."
    )
    half, twice = 100 * best.sensitivity.half_N, 100 * best.sensitivity.double_N
    ratio = best.tokens_per_parameter
    return (
        f"{short(ratio.value)} tokens per parameter ({span(ratio.lo, ratio.hi, short)}). {where} At the same compute, "
        f"half of N costs {half:.2g} % more loss, twice N {twice:.2g} % more."
    )


def _title(fit: Fit) -> str:
    scope, parts = fit.scope, [plural(fit.data.rows, "run")]
    if scope.N_min is not None and scope.N_max is not None:
        parts.append(f"{short(scope.N_min)} to {short(scope.N_max)} parameters")
    if scope.D_min is not None and scope.D_max is not None:
        parts.append(f"{short(scope.D_min)} to {short(scope.D_max)} tokens")
    if scope.C_max is not None:
        parts.append(f"up to {power_text(scope.C_max)} FLOPs")
    return ", ".join(parts)


def _tiles(summary: WorkdirSummary, part: DatasetSummary, fit: Fit) -> tuple[Tile, ...]:
    tiles, unit = [], summary.unit(part.name) if summary.runs else fit.conventions.unit
    known = exponents(part, fit)
    lost = {name for name, how in standing(fit.law, known, fit.warnings).items() if how == "no"}
    if (a := known.get("a")) is not None and (b := known.get("b")) is not None and not fit.law.no_optimum:
        open_ = "not identified: " if "a" in lost else ""
        said = f"{open_}{span(a.lo, a.hi, number)}; D ∝ C^({number(b.value)})"
        tiles.append(Tile(f"N ∝ C^({number(a.value)})", said))
    if fit.law.irreducible and (floor := fit.intervals.get(fit.law.irreducible)) is not None:
        open_ = "not identified, " if fit.law.irreducible in lost else ""
        said = f"{open_}{span(floor.lo, floor.hi, number)}{'' if unit is None else f' {unit}'}"
        if part.entropy is not None:
            said += f"; exactly known: {part.entropy:.4g}"
        tiles.append(Tile(f"{fit.law.irreducible} = {number(floor.value)}", f"irreducible loss: {said}"))
    scored = summary.scored(part.name)
    ranking = () if scored is None else scored.ranking
    own = next((r for r in ranking if (r.forecaster.law, r.forecaster.n) == (fit.law.name, part.n)), None)
    if own is not None:
        naive = next((r for r in ranking if r.forecaster.naive and r.forecaster.n == part.n), None)
        rival = "" if naive is None else f" (last loss and local slope: {naive.mean_error_percent:.2g} %)"
        inside = f"{own.inside95} of {own.cells} forecasts"
        missed = f"mean miss {own.mean_error_percent:.2g}\u00a0%{rival}"
        said = f"made before the run were right: outcome inside 95\u00a0%; {missed}"
        tiles.append(Tile(inside, said))
    return tuple(tiles)


def _after(table: tuple[Step, ...], column: str | None, quantity: str) -> str | None:
    """The cheap test of the answer: a run a little beyond the fitted ones, with the loss that it should reach."""
    if not table:
        return None
    step = next((step for step in table[1:] if step.y is not None and step.lo is not None), None)
    narrow = "" if column else " `scaling next` names the runs that narrow the intervals most."
    if step is None:
        return f"Beyond the runs there is no answer yet.{narrow}"
    what = f"at {column} = {step.c}" if column else f"with N = {step.n} on D = {step.d} tokens"
    return (
        f"Before spending more, test the law at {step.where}: a run {what} should end at "
        f"{quantity} {step.loss} ({step.loss_ends}).{narrow}"
    )


def _gravest(told: tuple[AnyWarning, ...]) -> str | None:
    order = {kind: rank for rank, kind in enumerate(GRAVE)}
    worst = min((w for w in told if type(w) in order), key=lambda w: order[type(w)], default=None)
    if worst is None:
        return None
    others = len(told) - 1
    return _brief(worst) + (f" ({plural(others, 'more warning')} below.)" if others else "")


def _brief(worst: AnyWarning) -> str:
    """The warning where its numbers stand in a table below."""
    if isinstance(worst, Misfit):
        share = f"{100 * worst.share:.2g} % of its squared residuals are a smooth trend (p = {worst.p:.2g})"
        return (
            f"The form is rejected: {share}. Every number here is of this form; compare others (scaling fit --law=all)."
        )
    return sentence(worst)


def _counted(fit: Fit) -> str:
    how, c = fit.conventions, c_label(fit.conventions).removeprefix("C (").removesuffix(")")
    told = (
        counted_word(how.n, [fit.law]),
        "" if fit.scope.C_max is None else f"C = {c}",
        "" if how.unit is None else f"loss in {how.unit}",
    )
    counts = ", ".join(text for text in told if text)
    ranges = f"ranges are {percent(fit.level)} intervals, of the {quantity_word(fit.law.quantity)} for one new run."
    return f"{counts}; {ranges}" if counts else ranges[0].upper() + ranges[1:]
