"""Sentences about decisions: allocations, forecasts and their outcomes, comparisons, next cells.

Registers the types of ``analysis.decide`` with ``sentences.sentence``; a fit alone needs none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from analysis.decide import allocate, compare, entropy, forecast, next_cells, one_variable, spending
from analysis.show import precision_sentences
from analysis.show.numbers import interval, loss, plural, span
from analysis.show.sentences import count_word, sentence
from analysis.table import seal

# --- allocations


@sentence.register
def _(w: allocate.Extrapolation) -> str:
    held = {
        "all": "; the intervals include a term for that, the discrepancy",
        "loss": "; the interval of the loss includes a term for that, those of N and D do not",
        "none": ", which no interval here includes",
    }[w.held]
    forced = "; forced" if w.forced else ""
    return (
        f"{w.ratio:.3g} times the largest fitted compute ({w.largest:.3g} FLOPs): the law itself may bend{held}; train "
        f"nearer to it{forced}"
    )


@sentence.register
def _(w: one_variable.OutsideRange) -> str:
    held = "; the interval includes a term for that, the discrepancy"
    return (
        f"{w.ratio:.3g} times away from the nearest fitted {w.column} ({w.nearest:.3g}): the law itself may "
        f"bend{held if w.held else ', which the interval does not include'}"
    )


@sentence.register
def _(w: allocate.OpenDraws) -> str:
    forced = "; forced" if w.forced else ""
    return f"{w.share:.0%} of the draws have no interior optimum; the intervals are open: train more sizes{forced}"


@sentence.register
def _(w: allocate.Unreachable) -> str:
    return f"not reachable under {w.share:.0%} of the draws, with up to {w.reach:.3g} FLOPs"


@sentence.register
def _(w: allocate.WideInterval) -> str:
    return f"these runs do not determine {w.quantity}: {span(w.lo, w.hi, lambda v: f'{v:.2g}')}; forced"


def cost_words(cost: Literal["6ND", "by_size", "function"]) -> str:
    """The meaning of C in an allocation."""
    return {
        "6ND": "C = 6ND on the N of the fit",
        "by_size": "exact FLOPs per token by size; between and beyond the sizes the surplus over 6N follows a power "
        "of N",
        "function": "C(N, D) as given",
    }[cost]


@sentence.register
def _(condition: spending.MaxParams) -> str:
    return "the cap binds: the rest goes into tokens" if condition.binds else "the optimum is below the cap"


@sentence.register
def _(_: spending.FixedRatio) -> str:
    return "N and D follow from the budget and D/N; only the loss is uncertain"


@sentence.register
def _(condition: spending.UniqueTokens) -> str:
    if condition.binds:
        return "D stops at the unique tokens and the rest goes into N: this law does not model repeats"
    return "the optimum needs no repeats"


@sentence.register
def _(condition: spending.Repeats) -> str:
    return f"{condition.epochs:.3g} epochs of the unique tokens, by the law's own value of repeated tokens"


@sentence.register
def _(condition: spending.Inference) -> str:
    return (
        f"least training and inference compute for the loss that {condition.budget:.3g} FLOPs reach at best; it saves "
        f"{condition.saving:.1%} of the lifetime compute"
    )


@sentence.register
def _(_: spending.DeviceHours) -> str:
    return "tokens per second by size as measured; beyond the sizes, at constant FLOPs per second"


# --- forecasts


def forecaster(who: seal.Forecaster) -> str:
    """Name of a law or of the naive rival, with its count of N."""
    return f"{'naive' if who.law is None else who.law} on {count_word(who.n)} N"


@sentence.register
def _(sealing: forecast.Sealing) -> str:
    if sealing.status == "unchanged":
        return f"all {sealing.sealed} held-out cells are sealed already, with these fits; nothing changed"
    entry = sealing.entry
    return f"sealed {plural(len(entry.cells), 'held-out cell')} with {plural(len(entry.forecasts), 'forecast')}"


@sentence.register
def _(power: seal.Power) -> str:
    """What the outcomes can be expected to show if one of the laws is true."""
    named = (
        f"{plural(power.cells, 'held-out run')} would name the true law, were it one of these, with probability "
        f"{power.chosen:.0%} (chance {power.chance:.0%})"
    )
    wrong = power.wrong_forms
    if wrong is None:
        return f"{named}."
    ends = f"{wrong.lowest:.0%} to {wrong.highest:.0%}, by chance at most {1 - power.level:.0%}"
    return f"{named} and reject a wrong form with probability {wrong.mean:.0%} ({ends})."


@sentence.register
def _(noise: seal.NaiveNoise) -> str:
    source = f"from seeds ({plural(noise.df, 'degree')} of freedom)"
    if noise.of == "residuals":
        source = "from the residuals of the best law, as no run has a second seed"
    return f"noise {noise.sd:.2%} of the loss, {source}"


def outcome(dataset: str, ranking: Sequence[forecast.Ranked]) -> str:
    """How the sealed forecasts of a data set came out, ``ranking`` them by mean CRPS."""
    best, of = ranking[0], len(ranking)
    text = (
        f"{dataset}: of {of} forecasters {forecaster(best.forecaster)} came out best on {best.cells} held-out runs "
        f"(mean error {best.mean_error_percent:.2f} %, {best.inside95} of {best.cells} inside 95 %)."
    )
    fits = [entry for entry in ranking if not entry.forecaster.naive]
    naive = next(((place, entry) for place, entry in enumerate(ranking, 1) if entry.forecaster.naive), None)
    if naive and fits:
        place, rival = naive
        figures = f"mean error {rival.mean_error_percent:.2f} %, CRPS {rival.crps:.4f} against {fits[0].crps:.4f}"
        beaten = sum(entry.crps > rival.crps for entry in fits)
        stand = "beat every law" if place == 1 else f"took place {place} of {of}, ahead of {beaten} fits"
        text += f" The naive rival (last loss and local slope) {stand} ({figures})."
    tested = [entry for entry in fits if entry.refuted is not None]
    if refuted := [forecaster(entry.forecaster) for entry in tested if entry.refuted]:
        return f"{text} Rejected at 95 %: {', '.join(refuted)}."
    return f"{text} No law is rejected at 95 %." if tested else text


@sentence.register
def _(score: forecast.Score) -> str:
    """The outcome of each data set, and the number of sealed cells that are not finished."""
    said = [outcome(dataset, scored.ranking) for dataset, scored in score.datasets.items()]
    if count := len(score.waiting):
        said.append(f"{plural(count, 'held-out run')} {'is' if count == 1 else 'are'} not finished yet.")
    return " ".join(said)


@sentence.register
def _(check: entropy.EntropyCheck) -> str:
    """Losses and fitted floors against the exact entropy of the source."""
    exact = loss(check.entropy)
    if check.below:
        text = (
            f"{len(check.below)} of {check.runs} losses lie more than {entropy.BELOW:g} standard errors BELOW the "
            f"entropy {exact}: an error in the source, the split or the evaluation."
        )
    else:
        lowest = f"lowest {loss(check.lowest.loss)} ± {loss(check.lowest.se)}"
        text = f"all {check.runs} losses are at or above the entropy {exact} ({lowest})."
    for floor in check.floors:
        holds = "holds" if floor.holds else "does not hold"
        value = interval(floor.interval, lambda v: f"{v:.3f}")
        text += f" {floor.law} on {count_word(floor.n)} N: E = {value} {holds} it."
    return text


# --- comparisons

OUTCOMES = {
    "different": "different",
    "equal": "equal within the margin",
    "both": "different, but within the margin",
    "unknown": "cannot tell",
}
OFFERS = {
    "exponents": "exponents (a, alpha, beta)",
    "c": "c: how fast the loss above its floor falls with compute",
    "bits_per_byte": "bits per byte (--axis=bits_per_byte): both are likelihoods of bytes",
}


def pair(quantity: str, result: compare.Pair) -> str:
    """The difference of a quantity between two fits, and the outcome of the test."""
    words = interval(result.difference)
    return f"{quantity}: {result.one} - {result.two} = {words}: {OUTCOMES[result.outcome]} (margin {result.margin:g})."


def loss_words(name: compare.LossName) -> str:
    """Name of a loss: a term and its unit, or a table's column."""
    if name.term is None:
        return f"column {name.column}" if name.unit is None else f"column {name.column}, {name.unit}"
    return name.term if name.unit is None else f"{name.term}, {name.unit}"


@sentence.register
def _(refused: compare.NotComparable) -> str:
    """Why the compute for equal loss of two fits is not compared, and what to compare instead."""
    return f"refused: {sentence(refused.why)}; compare instead {'; '.join(OFFERS[name] for name in refused.offers)}"


@sentence.register
def _(_: compare.UnknownData) -> str:
    return "a table does not say what its loss was measured on; name its data set in a column `dataset`"


@sentence.register
def _(why: compare.DifferentData) -> str:
    named = " and ".join(f"{dataset} of {member}" for dataset, member in zip(why.datasets, why.members))
    return f"the losses are of different data ({named}), which are never put on one axis"


@sentence.register
def _(why: compare.DifferentLosses) -> str:
    losses = "; ".join(map(loss_words, why.losses))
    return f"the losses are different quantities ({losses}), which are never put on one axis"


@sentence.register
def _(why: compare.NotBytes) -> str:
    return f"the loss of {why.member} is not known to be a likelihood of bytes"


@sentence.register
def _(why: compare.NoCost) -> str:
    return f"the cost of the runs of {why.law} is not known"


@sentence.register
def _(why: compare.NoOptimum) -> str:
    return f"{why.law} has no optimal N at a budget"


@sentence.register
def _(_: compare.NoCommonLoss) -> str:
    return "no loss is reached by both within the compute that was fitted"


# --- next cells and plans


@sentence.register
def _(w: next_cells.TopDecadeUnfilled) -> str:
    return (
        f"only {w.share:.0%} of the spend is in the top decade of compute, less than the {w.least:.0%} asked for: "
        "nothing more was left there"
    )


@sentence.register
def _(_: next_cells.RoughHalfWidths) -> str:
    return "the fit is not identified in full: half-widths by linearisation are rough; fit again after each list"


sentence.register(precision_sentences.half_widths)
sentence.register(precision_sentences.prior_words)
