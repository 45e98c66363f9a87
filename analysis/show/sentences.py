"""Sentences about a fit: its warnings and remedies, its verdict, and the meaning of its numbers.

Every value of ``analysis.card`` that needs explaining has its sentence here, chosen by type. Programs read the values,
never these sentences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import TYPE_CHECKING

from analysis import card
from analysis.check.diagnose import REFUTED, standing
from analysis.engine.inference import HUGE, SAMPLED_ROWS
from analysis.laws.base import Law, Quantity
from analysis.show.numbers import percent, plural, some, span

if TYPE_CHECKING:
    from analysis.fitting import Fit

SEEDS_SOURCE = "moderated as in Smyth 2004 (doi 10.2202/1544-6115.1027)"


@singledispatch
def sentence(said: object) -> str:
    """The sentence for a value of a card, with a remedy where there is one.

    Args:
      said: a warning, a dropped row, a scheme, a discrepancy, weights, an evaluation error or a published fit.

    Raises:
      TypeError: a value of another type.
    """
    raise TypeError(f"no sentence for {type(said).__name__}")


# --- warnings of the table


@sentence.register
def _(w: card.StrayValue) -> str:
    cells = ", ".join(f"{row} ({value:.4g})" for row, value in list(zip(w.rows, w.values))[:5])
    lies, it = ("lies", "it") if len(w.rows) == 1 else ("lie", "them")
    return (
        f"{'column' if len(w.column) == 1 else 'columns'} {w.column}: {len(w.rows)} of {w.of} rows ({cells}) {lies} "
        f"{w.factor:.2g} times {w.side} all others, which leave no gap of that size: a typing error or another unit? "
        f"Correct {it} or leave {it} out (--where); a value that is right dominates the fit"
    )


@sentence.register
def _(w: card.MixedUnits) -> str:
    other = "nats" if w.looks_like == "bits" else "bits"
    return (
        f"column loss: {len(w.rows)} of {w.of} rows ({some(w.rows)}) differ from the others by the factor of "
        f"{w.looks_like} over {other}: are they in {w.looks_like}? Give one unit (nats = 0.6931 × bits)"
    )


@sentence.register
def _(w: card.QuestionedUnits) -> str:
    ends = (("at least", w.below), ("at most", w.above))
    usual = " and ".join(f"{word} {value:.3g}" for word, value in ends if value is not None)
    remedy = {
        "N": "--units=N=M for millions, N=B for billions, N=log10 for logarithms",
        "D/N": "--units=N=M,D=B for millions and billions, C=EFLOPs or C=PF-days where D comes from C",
        "6ND": "--units=N=M,D=B for millions and billions",
        "C/6ND": "--units=C=forward for 2ND, C=PF-days, C=EFLOPs; or another count of N (--columns=N=...)",
        "loss": "--units=loss=ppl for perplexity",
    }[w.column]
    where = f"column{'s' if len(w.column) == 3 else ''} {w.column}"
    return (
        f"{where}: {w.lo:.3g} to {w.hi:.3g} in {'most' if w.column == 'loss' else 'all'} rows, where {usual} is usual: "
        f"another unit? Declare it ({remedy}); "
        "as it stands, predictions in parameters, tokens or FLOPs may be far off"
    )


@sentence.register
def _(w: card.SweptSettings) -> str:
    names = " and ".join(w.columns)
    law = f", or fit a law that knows it (--law={' or --law='.join(w.laws)})" if w.laws else ""
    remedy = (
        f"bad settings are fitted together with good ones. Fit the best of each cell (--best_of_cell){law}, or choose"
    )
    if w.groups:
        remedy = f"{some(w.groups, 4)} are fitted as one, and such rows are no seeds. Choose"
    differ = f"{names} differ{'s' if len(w.columns) == 1 else ''} within {w.cells} of {w.of} cells of one N and D"
    return f"{differ}, and the loss by {math.expm1(w.spread_log):.1%} (median): {remedy} rows (--where)"


@sentence.register
def _(w: card.Duplicates) -> str:
    return (
        f"columns N, D, loss: {len(w.rows)} rows are equal to another in all three ({some(w.rows, 6)}); if they are "
        "copies of one run, leave them out: a copy is no second measurement"
    )


@sentence.register
def _(w: card.CurveStartsLate) -> str:
    return (
        f"{plural(len(w.runs), 'run')} logged from step {w.first_step} on ({w.runs[0]}): the learning rate before is "
        "taken as that of the first logged step; give --warmup=STEPS for a linear rise from 0, or the rate of every "
        "step"
    )


@sentence.register
def _(w: card.MixedEpochs) -> str:
    return (
        f"{plural(w.rows, 'run')} repeat data (up to {w.largest:.3g} epochs): D counts repeated tokens as new ones; "
        "fit single-epoch runs or a law with repeats"
    )


@sentence.register
def _(w: card.MixedSchedules) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in w.rows.items())
    return f"runs of different schedules are fitted together ({parts}): choose one with --where"


@sentence.register
def _(w: card.LeftOut) -> str:
    head = f"{len(w.rows)} of {w.of} runs ({some(w.rows)})"
    if w.why == "undecayed":
        return (
            f"{head} were left out because their learning rate had not decayed: their losses are above those of "
            "finished runs; decay them"
        )
    return (
        f"{head} diverged and are left out: where the large ones diverge, the law describes those that happened not "
        "to; train them again at a lower learning rate"
    )


@sentence.register
def _(w: card.Checkpoints) -> str:
    return (
        f"{w.rows} of {w.of} rows are earlier checkpoints of {plural(w.runs, 'run')}: before its learning rate has "
        "decayed, a run's loss is above that of one which ends there; fit final losses, or say decayed = True in a "
        "column if each was decayed"
    )


# --- warnings of the design


@sentence.register
def _(w: card.TooFewValues) -> str:
    return f"{w.found} distinct {w.column}, {w.needed} needed to see the curve's bend: add values of {w.column}"


@sentence.register
def _(w: card.TooFewRuns) -> str:
    return f"{plural(w.rows, 'run')} for {w.parameters} parameters: aim at {2 * w.parameters} or more"


@sentence.register
def _(w: card.Collinear) -> str:
    return (
        f"log N and log D correlate {w.correlation:.3f}: the exponents of N and D cannot be told apart; vary D at "
        "fixed N"
    )


@sentence.register
def _(w: card.ParameterAtBound) -> str:
    bound = "limit" if w.bound is None else f"bound {w.bound:g}"
    return (
        f"{w.parameter} lies at its {w.side} {bound}: these runs do not determine it; use a law without it, fix it "
        "(--fixed) or add runs"
    )


@sentence.register
def _(w: card.NotIdentified) -> str:
    fit_equally = f"{w.parameter} is not identified: {_range(w)} fit equally well"
    match w.why:
        case "floor":
            return f"{fit_equally}; {FLOOR_REMEDY}"
        case "scale":
            return f"{fit_equally}; add runs where it matters, or fix it (--fixed)"
        case "flat":
            return (
                f"{w.parameter} is not identified: both exponents are zero, the loss does not fall in these runs; add "
                "larger ones"
            )
        case "collinear":
            return f"{w.parameter} is not identified: D follows from N in these runs; vary D at fixed N"
        case "wide":
            return f"{w.parameter} is not identified: {_expected(w)}; add sizes, tokens or seeds"


@sentence.register
def _(w: card.Doubtful) -> str:
    if w.why == "floor":
        return (
            f"{w.parameter} may not be identified ({_range(w)}): with a little more noise {w.bound:.3g} would fit as "
            f"well; {FLOOR_REMEDY}"
        )
    return (
        f"{w.parameter} may not be identified: {_expected(w)}, and a width as large as this is itself uncertain; add "
        "sizes, tokens or seeds"
    )


FLOOR_REMEDY = "add larger N and D together, or fix it to what is known of the source (--fixed)"


def _range(w: card.NotIdentified | card.Doubtful) -> str:
    precise = ".3g" if w.why == "scale" else ".2g"
    lo = f"{w.lo or 0.0:{precise}}"
    return f"{lo} and more" if w.hi is None else f"{lo} to {w.hi:{precise}}"


def _expected(w: card.NotIdentified | card.Doubtful) -> str:
    ends = span(w.lo, w.hi, lambda v: f"{v:.2f}")
    expected = "" if w.expected_half_width is None else f" (this design expects ± {w.expected_half_width:.2f})"
    return f"its interval is {ends}{expected}"


@sentence.register
def _(w: card.SeveralOptima) -> str:
    where = ", ".join(f"{name} from {lo:.3g} to {hi:.3g}" for name, (lo, hi) in w.ranges.items())
    valley = f", a flat valley with {where}: these runs do not tell them apart" if where else ""
    return (
        f"{w.count} different optima fit within 1 % of the best objective{valley}; see optima on the card, and add "
        "runs where these differ, or fix a parameter (--fixed)"
    )


# --- warnings of rows


@sentence.register
def _(w: card.Outliers) -> str:
    rows = ", ".join(f"{row.run} ({row.residual:+.1f})" for row in w.rows[:10])
    held = "gives them full weight" if w.full_weight else "gives them less weight, and keeps them"
    return (
        f"{plural(w.count, 'run')} {'lies' if w.count == 1 else 'lie'} more than {w.limit:g} standard deviations of "
        f"the noise off the law of the others: {rows}; the fit {held}: look at them, and leave out what is broken "
        "(--where)"
    )


@sentence.register
def _(w: card.Diverged) -> str:
    rows = ", ".join(f"{row} ({ratio:.2g} times)" for row, ratio in list(zip(w.rows, w.ratios))[:10])
    return (
        f"{len(w.rows)} of {w.of} losses lie {w.limit - 1:.0%} or more above the law ({rows}): did they diverge? Leave "
        "them out (--where), or train them again at a lower learning rate"
    )


@sentence.register
def _(w: card.Heteroscedastic) -> str:
    return (
        f"residuals of the half of the runs with more compute are {w.ratio:.2g} times those of the other half: check "
        "the recipes of those that scatter, or weight rows by the noise between their seeds (--weights=seeds)"
    )


@sentence.register
def _(w: card.Influential) -> str:
    parts = []
    if w.group is not None:
        group = w.group
        parts.append(
            f"{group.quantity} moves by {group.change:+.3f} when {len(group.runs)} runs that pull the law to one side "
            f"are left out together: {some(group.runs, 10)} (one at a time by at most {group.largest_alone:.3f}: each "
            "hides the others)"
        )
    single = [row for row in w.rows if row.change_of_others is None]
    if single:
        shown = ", ".join(f"{row.run} ({row.change:+.3f})" for row in single[:5])
        parts.append(
            f"{single[0].quantity} moves by more than {w.share:.2g} of its half-width when one is left out: {shown}"
        )
    return "; ".join([*parts, "look at those runs"])


@sentence.register
def _(w: card.NotMonotone) -> str:
    worse = 100 * math.expm1(w.rise_log)
    return (
        f"loss is not monotone in N: at D = {w.D:.3g} N = {w.N_large:.3g} is {worse:.1f} % worse "
        f"than N = {w.N_small:.3g}; check learning rates before believing the law"
    )


# --- warnings of the form


@sentence.register
def _(w: card.StemEffects) -> str:
    return (
        f"the estimated standard deviation between stems, {w.sd:.1%}, lets the posterior leave the data; it is capped "
        "at the scatter of the stems' residuals. The law probably misfits along D: compare others (--law=all)"
    )


@sentence.register
def _(w: card.NotLinear) -> str:
    size = "without limit" if w.size_log is None else f"by {w.size_log:.2%}"
    return (
        f"the linearised law does not hold over its draws: they miss the fitted values {size}, where "
        f"{w.expected_log:.2%} is expected. Do not trust intervals and forecasts of this fit; try "
        "--scheme=likelihood-t, or another law"
    )


@sentence.register
def _(w: card.Refuted) -> str:
    return (
        f"the form is rejected on these runs: its misfit exceeds the noise between seeds (F {w.F:.1f} on {w.df1} and "
        f"{w.df2} degrees of freedom, p = {w.p:.2g}); compare another law"
    )


@sentence.register
def _(w: card.Misfit) -> str:
    floors = ", ".join(f"{value:.3g} ({name})" for name, value in w.floors.items())
    apart = len({f"{value:.3g}" for value in w.floors.values()}) > 1
    spread = f" Laws that fit as well or better put the floor at {floors}." if apart else ""
    return (
        f"the form is rejected on these runs: a smooth trend in the law's columns explains {w.share:.0%} of its "
        f"squared residuals, {w.size_log:.2%} of the fitted values (F {w.F:.1f} on {w.df1} and {w.df2} degrees of "
        f"freedom, p = {w.p:.2g}).{spread} Its parameters are those of this form; compare others (--law=all)"
    )


@sentence.register
def _(w: card.ApproachesDisagree) -> str:
    text = f"approaches 2 and 3 {disagreement(w.a, w.a_values, w.N_values, w.C)}"
    if w.parabola_window:
        text += f"; {parabola_window(w.parabola_window)}"
    return f"{text}. Look at both before choosing an allocation (scaling report, or scaling plot)"


def parabola_window(a: dict[str, float | None]) -> str:
    """Sentence for approach 2 depending on the sizes that its parabolas use: ``a`` by window."""
    text = ", ".join(f"{value:.3f} {name}" for name, value in a.items() if value is not None)
    return f"a depends on which sizes the parabola sees ({text}): its known bias, which the interval leaves out"


def exponents(a: card.Interval, b: card.Interval) -> str:
    """a of two approaches, each with its interval."""
    return f"a = {_value_to(a, '.3f')} and {_value_to(b, '.3f')}"


def disagreement(
    difference: card.ApproachesDifference,
    a: tuple[card.Interval, card.Interval],
    N: tuple[card.Interval, card.Interval],
    C: float | None,
) -> str:
    """How two approaches disagree: on the exponent, or on N at a given compute."""
    if difference.disagree:
        exclude = " and the intervals exclude each other" if difference.exclude else ""
        apart = f"{abs(difference.difference):.3f} apart where noise allows {difference.allowed:.3f}{exclude}"
        return f"disagree: {exponents(*a)}, {apart}"
    sizes = " and ".join(_value_to(n, ".3g") for n in N)
    return f"agree on the exponent ({exponents(*a)}) but disagree on N at {C or 0.0:.2g} FLOPs: {sizes}"


def _value_to(cell: card.Interval, form: str) -> str:
    ends = span(cell.lo, cell.hi, lambda v: f"{v:{form}}")
    return f"{cell.value:{form}} ({ends})"


# --- parts of a card


@sentence.register
def _(row: card.Dropped) -> str:
    match row.why:
        case "unfinished":
            return "unfinished"
        case "status":
            return f"{row.detail}: {row.reason}" if row.reason else f"its status is {row.detail}"
        case "undecayed":
            return "its learning rate was not decayed"
        case "role":
            return f"its role is {row.detail}"
        case "no_loss":
            return f"it has no positive {row.detail}"
        case "warmup":
            return f"{row.detail} logged steps of its warm-up"
        case "not_best":
            return f"{row.detail} of the same N and D has a lower loss"
        case "copy":
            return f"the same in every cell as {row.detail}"
        case "unplanned":
            return "the study asks for it no longer"


@sentence.register
def _(scheme: card.Scheme) -> str:
    """Why the intervals were made this way, and from how many rows and groups."""
    shared = "none sharing a stem or a size"
    runs = f"{scheme.runs} runs, {shared}"
    if scheme.grouped is not None:
        runs = f"{scheme.runs} runs on {scheme.groups} {scheme.grouped}s"
        if scheme.why == "huge":
            runs += f", scores summed by {scheme.grouped}"
        elif scheme.random_effect:
            runs += f", each {scheme.grouped} with a random effect"
    return f"{_why(scheme)}; {runs}"


def _why(scheme: card.Scheme) -> str:
    match scheme.why:
        case "asked":
            return "asked for"
        case "few_rows":
            return f"{SAMPLED_ROWS} runs or fewer"
        case "many_rows":
            return f"more than {SAMPLED_ROWS} runs"
        case "bent":
            return f"more than {SAMPLED_ROWS} runs, but a linearised law does not hold over its draws"
        case "huge":
            return f"more than {HUGE} runs"
        case "curves":
            few = "" if scheme.name == "jackknife-t" else ", too few to leave one out: steps count as independent"
            return f"learning curves{few}"
        case "many_clusters":
            share = "" if scheme.converged is None else f", {scheme.converged:.0%} converged"
            return f"percentiles of {scheme.draws} refits that resample {scheme.grouped or 'run'}s{share}"


def quantity_word(of: Quantity) -> str:
    """What a law gives, in a word."""
    return {"other_loss": "loss"}.get(of, of)


@sentence.register
def _(wrong: card.Discrepancy) -> str:
    if wrong.setting == "off":
        return "discrepancy switched off: intervals beyond these runs hold only if the law does"
    source = "given by the user"
    if wrong.setting == "auto":
        losses = "" if wrong.of == "loss" else "losses of "
        source = f"learned from {losses}{wrong.sets} studies of {wrong.sources} sources (benchmarks/league.py)"
    return f"discrepancy: {wrong.k:.2%} of the {quantity_word(wrong.of)} per e-fold beyond these runs, {source}"


@sentence.register
def _(weights: card.Weights) -> str:
    if not weights.sizes:
        return f"rows weighted by {weights.name}: precisions from the table, geometric mean one"
    return (
        f"rows weighted by {weights.name}: the inverse variance between seeds, pooled by {weights.by} and "
        f"{SEEDS_SOURCE}; geometric mean one, so sigma_run is of a run of weight one"
    )


@sentence.register
def _(error: card.EvaluationError) -> str:
    return (
        f"standard error {error.se:.2g} of the loss on the one evaluation set that all runs share: other text would "
        "have shifted every loss, and so the floor, by about this much; it weights no run and is in no interval"
    )


@sentence.register
def _(fit: card.PublishedFit) -> str:
    """The parameters in which a published fit of the same form agrees with this one or differs from it."""
    apart = [name for name, p in fit.params.items() if p.outside_here or p.outside_published]
    same = [name for name in fit.params if name not in apart]
    said = [f"{word} in {', '.join(names)}" for word, names in (("agrees", same), ("differs", apart)) if names]
    return "; ".join(said)


@sentence.register
def _(regret: card.Regret) -> str:
    return (
        f"of a tuned recipe; the most regret is at N {regret.N:.4g}, D {regret.D:.4g}: {regret.value:.2%} of the loss, "
        f"at most {regret.hi:.2%}"
    )


def refuted(warnings: Iterable[card.AnyWarning]) -> bool:
    """Whether the lack of fit refutes the form."""
    return any(isinstance(w, card.Refuted | card.Misfit) for w in warnings)


# --- what N, D, C and loss mean

COUNTS = {"nonembedding": "non-embedding", "total": "total"}


def count_word(n: str | None) -> str:
    """Which parameters N counts, as an adjective: ``non-embedding``, or ``table's`` where the table does not tell."""
    return "the table's" if n in (None, "table") else COUNTS.get(n, n)


def counted_word(n: str | None, laws: Iterable[Law]) -> str:
    """``N = non-embedding parameters``; empty where none of the laws has N."""
    return f"N = {count_word(n)} parameters" if any("N" in law.columns for law in laws) else ""


def meaning(conventions: card.Conventions) -> dict[str, str]:
    """The meaning of N, D, C and loss of the fitted rows, in words; missing columns are left out."""
    if conventions.origin == "records":
        unit = "" if conventions.unit is None else f", {conventions.unit}"
        words = {
            "N": f"{conventions.n} parameters of the records",
            "D": "tokens seen in training, the stem's part included",
            "C": "exact training FLOPs of D tokens, by the family's own count",
            "loss": f"{conventions.term} on the evaluation set{unit}",
        }
    elif conventions.origin == "curves":
        rise = f", after a linear rise from 0 over {conventions.warmup} steps" if conventions.warmup else ""
        words = {
            "loss": f"column {conventions.columns.get('loss', 'loss')} of the table, at the logged steps",
            "learning rate": f"of every step, linear between the logged ones{rise}",
        }
    else:
        words = {name: _column(name, column, conventions) for name, column in conventions.columns.items()}
        if conventions.flops == "6ND":
            words["C"] = "6ND, as the table has no C"
        if conventions.tokens is not None:
            words["D"] = "C / 6N, as the table has no D"
    if conventions.regret is not None:
        words["learning rate"] = sentence(conventions.regret)
    return words


def _column(name: str, column: str, conventions: card.Conventions) -> str:
    unit = f" in {conventions.units[name]}" if name in conventions.units else ""
    aside = f", not {' or '.join(conventions.aside)}" if name == "loss" and conventions.aside else ""
    what = "column " if column.isidentifier() else ""
    return f"{what}{column} of the table{unit}{aside}"


def rows_word(conventions: card.Conventions, count: int, noun: str = "run") -> str:
    """``28 runs``, or ``28 logged steps`` of learning curves."""
    return plural(count, "logged step" if conventions.origin == "curves" else noun)


# --- verdict


def verdict(fit: Fit, intervals: Mapping[str, card.Interval] | None = None) -> str:
    """What the runs identify, what they do not, and whether replicates refute the form.

    Args:
      intervals: by name, as they are shown beside; by default the card's.
    """
    law, intervals = fit.law, dict(fit.intervals if intervals is None else intervals)

    def shown(names: list[str]) -> str:
        cells = ((name, intervals[name]) for name in names)
        return ", ".join(f"{name} = {cell.value:.3g} ({span(cell.lo, cell.hi, _three)})" for name, cell in cells)

    known = standing(law, intervals, fit.warnings)
    if "b" not in law.names:
        known.pop("b", None)  # b repeats a
    known = {name: how for name, how in known.items() if name not in fit.card.fixed}  # given, not found
    having = {word: [name for name, how in known.items() if how == word] for word in known.values()}
    parts = []
    if good := having.get("yes"):
        where = "in this form" if refuted(fit.warnings) else "at this scale"
        parts.append(f"Identified {where}, {percent(fit.level)} intervals: {shown(good)}.")
    if having.get("by_form"):
        parts.append(f"The form itself gives a = {intervals['a'].value:.3g}.")
    if rough := having.get("roughly"):
        parts.append(f"Known roughly, if at all: {shown(rough)}.")
    if bad := having.get("no"):
        parts.append(f"Not identified at this scale: {shown(bad)}.")
    parts.append(_survives(fit.noise.lack_of_fit, fit.noise.structure, refuted(fit.warnings)))
    if law.no_optimum:
        parts.append(f"This law gives no compute-optimal N: {law.no_optimum}.")
    return " ".join(parts)


def _three(value: float) -> str:
    return f"{value:.3g}"


def _survives(lack: card.LackOfFit, structure: card.Structure | None, wrong: bool) -> str:
    """What seeds and the structure of the residuals say of the form."""
    if lack.p is not None and lack.p < REFUTED:
        return f"The form is rejected: its misfit exceeds the noise between seeds (p = {lack.p:.2g})."
    if wrong and structure is not None:
        return f"The form is rejected: its residuals have structure (p = {structure.p:.2g})."
    if lack.p is not None:
        return f"Seeds do not reject the form (p = {lack.p:.2g})."
    if structure is None:
        return "No replicates: noise is judged by the law's own residuals, so the form cannot be rejected here."
    if structure.p < REFUTED:
        return (
            f"No replicates; the residuals have structure, but of {structure.size_log:.1g} of the fitted values only."
        )
    return f"No replicates; the residuals show no structure that rejects the form (p = {structure.p:.2g})."
