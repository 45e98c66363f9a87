"""A gate and its plan as text (``decide.gate``)."""

from __future__ import annotations

from analysis.decide import gate as gating
from analysis.decide.optimal_runs import Chosen
from analysis.show.answers import loss_words
from analysis.show.numbers import aligned, digits, interval, loss, percent, plural, power_text, some
from analysis.show.sentences import sentence

_THREE, _FOUR = digits(3), digits(4)
OUTCOMES = {
    "saves": "saves more than",
    "costs": "costs more than",
    "unknown": "cannot tell whether it saves or costs",
}


def gate(found: gating.Gate) -> list[str]:
    """Lines of text: the verdict, the base's law, the runs, the power, and what was assumed."""
    base, variant, level = found.base.label, found.variant.label, percent(found.level)
    margin = percent(found.margin)
    within = "; it is within the margin" if found.within else ""
    rows = [["run of the variant", "C", "loss", "base there", "multiplier"]]
    for run in found.runs:
        cells = [run.run, f"{run.C:.3g}", loss(run.loss), loss(run.base_loss), interval(run.multiplier, _THREE)]
        rows.append(cells)
    lines = [
        f"{variant} against {base}: {OUTCOMES[found.outcome]} {margin} of compute{within}",
        f"compute multiplier {interval(found.multiplier, _FOUR)} ({level}): the compute at which the base reaches the "
        "variant's loss, over the variant's",
        f"loss at {power_text(found.largest)} FLOPs, variant minus base: {interval(found.loss_change, loss)}",
        "",
        *_base(found.law, found.base),
        f"{variant}: {_side(found.variant)}",
        f"noise of a run {found.noise:.2%} of the loss, from the residuals of both "
        f"({plural(found.df, 'degree')} of freedom)",
        "",
        *aligned(rows),
    ]
    if found.trend is not None:
        lines.append(f"multiplier per decade of compute: times {interval(found.trend, _THREE)}")
    lines += ["", *_power(found.power), *_notes(found.notices, found.base, found.variant)]
    return lines


def plan(found: gating.GatePlan) -> list[str]:
    """Lines of text: what a gate against this base can tell, before its runs."""
    return [*_base(found.law, found.base), *_power(found.power), *_notes(found.notices, found.base)]


def _base(law: gating.BaseLaw, side: gating.GateSide) -> list[str]:
    floor, amplitude = interval(law.floor, _FOUR), "beyond numbers" if law.A is None else _FOUR(law.A)
    pinned = "given" if law.given else "pinned by leave-the-future-out"
    lines = [
        f"{side.label}: {_side(side)}",
        f"  L = E + A C^-a with E = {floor}, {pinned}; A = {amplitude}, a = {interval(law.a, _THREE)}",
    ]
    if law.forecast_error is not None:
        lines.append(
            f"  {plural(law.forecasts, 'forecast')} of dearer runs from cheaper ones miss by {law.forecast_error:.2%} "
            "under this floor, before the error of the law itself"
        )
    return lines


def _side(side: gating.GateSide) -> str:
    low, high = (power_text(c) for c in side.C)
    dropped = f", {plural(side.dropped, 'row')} of the table unusable" if side.dropped else ""
    scatter = "" if side.sd is None else f", scatter {side.sd:.2%}"
    counted = {"exact": "exact C", "column": "C as in the table", "6ND": "C = 6ND", None: "no C"}[side.flops]
    return f"{sentence(side.chosen)}{dropped}, {low} to {high} FLOPs ({counted}), {loss_words(side.loss)}{scatter}"


@sentence.register
def _(chosen: Chosen) -> str:
    match chosen.how:
        case "all":
            return f"{plural(chosen.used, 'run')}, each taken as compute-optimal (the table has no N and D)"
        case "minima":
            edges = f", {plural(chosen.edges, 'budget')} without a bracketed minimum left out" if chosen.edges else ""
            return f"minima of {plural(chosen.used, 'isoFLOP budget')} from {plural(chosen.rows, 'run')}{edges}"
        case "frontier":
            if not chosen.left_out:
                return f"{plural(chosen.used, 'run')}, none beaten by one that costs no more"
            left = f"the other {chosen.left_out} are beaten by one that costs no more and are left out"
            return f"{chosen.used} of {plural(chosen.rows, 'run')}; {left}"


def _power(power: gating.GatePower) -> list[str]:
    margin = percent(power.margin)
    told = "  no saving would be told: the interval is open, as floors fit under which the base never gets there"
    if power.saves is not None and power.costs is not None:
        told = (
            f"  told with probability {gating.POWER:.0%}: saves more than {margin} from a multiplier of "
            f"{power.saves:.3g} up, costs more from {power.costs:.3g} down"
        )
    return [
        f"power of {plural(power.runs, 'run')} at {some([power_text(c) for c in power.C], 8)} FLOPs, noise "
        f"{power.noise:.2%} on {plural(power.df, 'degree')} of freedom:",
        f"  a change that saves {margin} has an interval above 1 with probability {power.detect:.0%}",
        told,
    ]


def _notes(notices: tuple[gating.AnyNotice, ...], *sides: gating.GateSide) -> list[str]:
    notes = [sentence(notice) for notice in notices]
    notes += [f"{side.label}: {sentence(warning)}" for side in sides for warning in side.warnings]
    return [f"note: {note}" for note in notes]


@sentence.register
def _(notice: gating.UnnamedData) -> str:
    verb = "does" if len(notice.sides) == 1 else "do"
    return (
        f"{' and '.join(notice.sides)} {verb} not name the data of the loss (column `dataset`): taken to be the same "
        "loss on the same data"
    )


@sentence.register
def _(notice: gating.RecordsAndTable) -> str:
    return f"the loss and C of the table {notice.table} are taken to be counted as in the records of the other"


@sentence.register
def _(notice: gating.Extrapolated) -> str:
    return (
        f"the base reaches the loss of {some(notice.runs)} only by its law, at up to {notice.ratio:.3g} times its "
        "largest compute: train a larger base to be sure"
    )


@sentence.register
def _(notice: gating.BelowRange) -> str:
    return (
        f"the loss of {some(notice.runs)} is above all of the base: its law is continued down to 1/{notice.ratio:.3g} "
        "of its smallest compute"
    )


@sentence.register
def _(notice: gating.FloorNotIdentified) -> str:
    why = {
        "few": f"{notice.budgets} budgets are too few for it",
        "zero": "a floor of zero fits the base's runs as well",
    }[notice.why]
    return (
        f"the floor is not identified ({why}); the interval of the multiplier holds every floor that fits, but do not "
        "continue this law beyond the runs"
    )


@sentence.register
def _(notice: gating.Trend) -> str:
    grows = "grows" if notice.per_decade.value > 1 else "shrinks"
    return (
        f"the multiplier {grows} with compute (times {interval(notice.per_decade, _THREE)} per decade): at larger "
        "budgets it is another"
    )


@sentence.register
def _(notice: gating.BestOfMany) -> str:
    return (
        f"{notice.side} is represented by the best of its runs, which read low by part of the noise, and the other by "
        "all of its runs"
    )
