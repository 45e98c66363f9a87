"""How much compute a change saves: the runs of a variant against the law of its base.

The base's compute-optimal runs give L = E + A C^-a, the floor E pinned by leave-the-future-out or given
(``engine.pinned_floor``). The multiplier of a variant's run is the compute at which the base reaches its loss, over the
compute that the run took; above 1 it saves. Between two runs of one budget it is
((L_base - E) / (L_variant - E))^(1/a), the effective speed-up of marin-community/marin issue 8096. The multiplier of
the variant is the geometric mean over its runs.

Its interval is Student t: the residuals of the base about its law and of the variant about the law moved by the
multiplier give the noise of a run, and the errors of the base's law, of the variant's runs and of the floor enter it.
The exponent of the variant is not assumed to be the base's: where they differ the multiplier is that at the budgets of
its runs, and ``trend`` says how it changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from scipy import optimize, stats

from analysis.card import SCHEMA, AnyWarning, Conventions, Interval, Value
from analysis.decide.compare import LossName
from analysis.decide.multiplier import LARGEST, Multiplier
from analysis.decide.optimal_runs import Chosen, OptimalRuns, optimal_runs
from analysis.engine.pinned_floor import BUDGETS, PinnedLaw, mixture_interval, pin_floor
from analysis.table.runs import Runs
from scaling.errors import Code, UserError

Array = np.ndarray
LAW = "power_floor:C"  # of the base, and what its table is read for
MARGIN = 0.05  # default: a twentieth of the compute
NOISES = 40  # values of the true noise over which power is averaged
POWER = 0.8  # probability with which the smallest saving that can be shown is shown
LEAST = 3  # runs of a variant
BITS = math.log(2)  # nats of a bit
ALIKE = 0.03  # how close to a factor of bits and nats a ratio of losses must be to be taken for one
BEYOND = 1.1  # a base that must go further than this past its largest run is extrapolated


@dataclass(frozen=True)
class Side:
    """Runs to gate with; ``data`` is the hash of the data they were evaluated on, None where it is not known."""

    label: str
    runs: Runs
    data: str | None = None


class GateSide(Value):
    """The base or the variant: where its runs come from, what they are, and which were used.

    Attributes:
      flops: what C is (``card.Conventions``).
      dropped: rows that the table itself marks as unusable.
      sd: residual standard deviation of log loss, about the law and about the moved law; None where there is one run.
      warnings: about the table.
    """

    label: str
    dataset: str | None
    loss: LossName
    flops: Literal["exact", "column", "6ND"] | None
    chosen: Chosen
    dropped: int
    C: tuple[float, float]
    sd: float | None
    warnings: tuple[AnyWarning, ...] = ()


class BaseLaw(Value):
    """L = E + A C^-a of the base.

    Attributes:
      floor: E; its interval is that of the floors that fit the base's runs (profile t), open at the lowest loss.
      given: whether the user gave it.
      identified: whether a floor of zero is refuted, by runs at five budgets or more.
      A: None where it is too large for a number.
      budgets: number of different C.
      forecasts, forecast_error: of dearer runs by cheaper ones, which chose the floor: their number and rms error of
        log loss.
      df: degrees of freedom of the residuals.
    """

    floor: Interval
    given: bool
    identified: bool
    A: float | None
    a: Interval
    budgets: int
    forecasts: int
    forecast_error: float | None
    df: int


class GatedRun(Value):
    """A run of the variant: its compute and loss, the base's loss there by its law, and its own multiplier."""

    run: str
    C: float
    loss: float
    base_loss: float
    multiplier: Interval


class GatePower(Value):
    """What a gate of this design can tell.

    Attributes:
      runs, C: of the variant: their number and budgets.
      noise, df: standard deviation of a run's log loss, and the degrees of freedom from which it is known. The
        probabilities are means over what it may truly be.
      half_width: of the interval of the log multiplier; None, as ``saves`` and ``costs``, where it is open.
      detect: probability that a change that truly saves the margin has an interval above 1.
      saves: true multiplier that is told to save more than the margin with a probability of ``POWER``.
      costs: likewise for one that costs more.
    """

    runs: int
    C: tuple[float, ...]
    margin: float
    level: float
    noise: float
    df: int
    half_width: float | None
    detect: float
    saves: float | None
    costs: float | None


class Notice(Value, tag_field="code"):
    """Base class of what a reader of the verdict should know."""

    @property
    def code(self) -> str:
        """The tag: what programs and tests match."""
        return str(self.__struct_config__.tag)


class UnnamedData(Notice, tag="unnamed_data"):
    """Tables that do not say what their loss was measured on: taken to be the same data."""

    sides: tuple[str, ...]


class RecordsAndTable(Notice, tag="records_and_table"):
    """One is a work directory and the other a table, whose loss and count of C are taken to be the records' own."""

    table: str


class Extrapolated(Notice, tag="extrapolated"):
    """The base reaches the loss of some runs only beyond its largest compute, by up to ``ratio``."""

    ratio: float
    runs: tuple[str, ...]


class BelowRange(Notice, tag="below_range"):
    """Runs whose losses lie above the base's cheapest run, which costs ``ratio`` times as much as the base needs."""

    ratio: float
    runs: tuple[str, ...]


class FloorNotIdentified(Notice, tag="floor_not_identified"):
    """The base does not determine its floor: ``few`` budgets, or a floor of ``zero`` fits as well."""

    why: Literal["few", "zero"]
    budgets: int


class Trend(Notice, tag="trend"):
    """The multiplier changes with compute: beyond the variant's budgets it is another."""

    per_decade: Interval


class BestOfMany(Notice, tag="best_of_many"):
    """One study's points are the best of several noisy runs, which read low, and the other's are not."""

    side: str


AnyNotice = UnnamedData | RecordsAndTable | Extrapolated | BelowRange | FloorNotIdentified | Trend | BestOfMany


class Gate(Value):
    """Whether a change saves compute.

    Attributes:
      level: confidence of the intervals.
      margin: smallest change that counts, of the multiplier.
      outcome: ``saves``: the interval of the multiplier lies above 1 + margin; ``costs``: below 1 / (1 + margin);
        ``unknown``: neither.
      within: whether the multiplier is shown to lie within the margin (two one-sided tests).
      multiplier: compute at which the base reaches the variant's loss, over the variant's; geometric mean of its runs.
      largest: largest compute of the variant, in FLOPs, at which ``loss_change`` is given: the variant's loss minus
        the base's, by the law moved by the multiplier.
      trend: factor by which the multiplier changes per decade of compute; None where the runs have one budget.
      noise, df: standard deviation of a run's log loss from the residuals of both, and its degrees of freedom.
    """

    level: float
    margin: float
    outcome: Literal["saves", "costs", "unknown"]
    within: bool
    multiplier: Interval
    largest: float
    loss_change: Interval
    trend: Interval | None
    noise: float
    df: int
    law: BaseLaw
    base: GateSide
    variant: GateSide
    runs: tuple[GatedRun, ...]
    power: GatePower
    notices: tuple[AnyNotice, ...]
    kind: Literal["gate"] = "gate"
    schema: Literal[2] = SCHEMA


class GatePlan(Value):
    """What a gate against this base will be able to tell, before the variant is trained."""

    level: float
    margin: float
    law: BaseLaw
    base: GateSide
    power: GatePower
    notices: tuple[AnyNotice, ...]
    kind: Literal["gate_plan"] = "gate_plan"
    schema: Literal[2] = SCHEMA


def gate(base: Side, variant: Side, *, margin: float = MARGIN, level: float = 0.95, floor: float | None = None) -> Gate:
    """How much compute the variant saves against the base.

    Args:
      margin: smallest change of the multiplier that counts, such as 0.05.
      level: confidence of the intervals.
      floor: irreducible loss E of the base, where it is known; by default pinned by leave-the-future-out.

    Raises:
      UserError: MIXED: losses, data or compute that must not be compared; CONFLICT: the same runs twice; TOO_FEW: fewer
        than three runs of the variant or four of the base; NOT_IDENTIFIED: losses of the base that do not fall with
        compute; BEYOND: a variant's loss at or below the pinned floor; INVALID: an invalid margin, level or floor.
    """
    _valid(margin, level)
    _comparable(base, variant)
    (ours, law), theirs = _base(base, floor), optimal_runs(variant.runs)
    if len(theirs.C) < LEAST:
        remedy = f"a gate needs {LEAST} runs of the variant; {_left_out(theirs.chosen)}"
        raise UserError("variant", f"{len(theirs.C)} of {theirs.chosen.rows} runs", remedy, Code.TOO_FEW)
    _same_unit(law, theirs)
    _above_floor(law, theirs)
    x = np.log(theirs.C)
    at = Multiplier.of(law, x, np.log(theirs.loss))
    mean = np.full(len(x), 1 / len(x))
    pooled, trend = at.interval(mean, level), at.trend(level)
    low, high = at.ends(mean, 2 * level - 1)  # of the two one-sided tests
    limit = math.log1p(margin)
    cells = [at.interval(run, level) for run in np.eye(len(x))]
    runs = tuple(
        GatedRun(run=name, C=float(c), loss=float(loss), base_loss=float(there), multiplier=cell)
        for name, c, loss, there, cell in zip(theirs.names, theirs.C, theirs.loss, np.exp(law.log_loss(x)), cells)
    )
    rms = [math.sqrt(float((r**2).sum()) / df) for r, df in at.residuals]
    return Gate(
        level=level,
        margin=margin,
        outcome=_outcome(pooled, margin),
        within=-limit < low and high < limit,
        multiplier=pooled,
        largest=float(theirs.C.max()),
        loss_change=_loss_change(law, float(x.max()), pooled),
        trend=trend,
        noise=at.sd,
        df=at.df,
        law=_law(law, level),
        base=_side(base, ours, rms[0]),
        variant=_side(variant, theirs, rms[1]),
        runs=runs,
        power=_power(at, theirs.C, margin, level),
        notices=(*_notices(base, variant, ours, theirs), *_range(law, runs), *_floor(law, level), *_trend(trend)),
    )


def plan(
    base: Side,
    budgets: int | Sequence[float] = LEAST,
    *,
    margin: float = MARGIN,
    level: float = 0.95,
    floor: float | None = None,
) -> GatePlan:
    """What a gate will be able to tell, from the base alone.

    Args:
      budgets: compute in FLOPs of each planned run of the variant, or their number: then at the base's dearest budgets,
        over again where there are more runs than budgets.
      margin, level, floor: as in ``gate``.

    Raises:
      UserError: as ``gate``; INVALID or TOO_FEW: invalid budgets, or fewer than three.
    """
    _valid(margin, level)
    ours, law = _base(base, floor)
    if isinstance(budgets, int):
        own = np.unique(ours.C)[::-1]
        budgets = [float(c) for c in np.resize(own, max(budgets, 0))]
    c = np.array(sorted(budgets), dtype=float)
    if len(c) < LEAST:
        raise UserError("power", len(c), f"a gate needs {LEAST} runs of the variant or more", Code.TOO_FEW)
    if not (np.isfinite(c).all() and (c > 0).all()):
        raise UserError("power", ", ".join(f"{v:g}" for v in budgets), "budgets are positive FLOPs, such as 1e18,1e19")
    at = Multiplier.of(law, np.log(c), law.log_loss(np.log(c)), planned=True)
    return GatePlan(
        level=level,
        margin=margin,
        law=_law(law, level),
        base=_side(base, ours, law.sd),
        power=_power(at, c, margin, level),
        notices=_floor(law, level),
    )


# --- the verdict


def _outcome(multiplier: Interval, margin: float) -> Literal["saves", "costs", "unknown"]:
    if multiplier.lo is not None and multiplier.lo > 1 + margin:
        return "saves"
    return "costs" if multiplier.hi is not None and multiplier.hi < 1 / (1 + margin) else "unknown"


def _loss_change(law: PinnedLaw, x: float, multiplier: Interval) -> Interval:
    """The variant's loss minus the base's at log C ``x``; a larger multiplier is a lower loss."""
    before = float(np.exp(law.log_loss(np.array(x))))

    def change(times: float | None) -> float:
        after = law.floor if times is None else float(np.exp(law.log_loss(np.array(x + math.log(times)))))
        return after - before

    hi = change(multiplier.lo) if multiplier.lo else None
    return Interval(value=change(multiplier.value), lo=change(multiplier.hi), hi=hi)


def _power(at: Multiplier, c: Array, margin: float, level: float) -> GatePower:
    """Power of the design: t tests with the interval's own standard error, over the noise that there may truly be."""
    low, high = at.ends(np.full(len(c), 1 / len(c)), level)
    limit, t = math.log1p(margin), float(stats.t.ppf(0.5 + level / 2, at.df))
    half = (high - low) / 2
    error, seen = half / t, math.inf
    larger = np.sqrt(at.known / stats.chi2.ppf((np.arange(NOISES) + 0.5) / NOISES, at.known))

    def above(shift: float) -> float:
        return float(stats.nct.sf(t, at.df, np.maximum(shift, 0.0) / larger).mean())

    if math.isfinite(half):
        end = t + 4.0
        while above(end) < POWER:
            end *= 2
        seen = limit + cast(float, optimize.brentq(lambda shift: above(shift) - POWER, 0.0, end, xtol=1e-6)) * error
    closed = seen < LARGEST
    return GatePower(
        runs=len(c),
        C=tuple(float(v) for v in c),
        margin=margin,
        level=level,
        noise=at.sd,
        df=at.known,
        half_width=half if closed else None,
        detect=above(limit / error) if closed else 0.0,
        saves=math.exp(seen) if closed else None,
        costs=math.exp(-seen) if closed else None,
    )


# --- what may be compared


def _valid(margin: float, level: float) -> None:
    if not 0.5 <= level < 1:
        raise UserError("level", level, "give a probability from 0.5 to 1, such as 0.95")
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError("margin", margin, "must be a share of compute from zero up, such as 0.05")


def _loss(conventions: Conventions) -> LossName:
    return LossName(term=conventions.term, unit=conventions.unit, column=conventions.columns.get("loss"))


def _comparable(base: Side, variant: Side) -> None:
    """Refuses losses that are not the same quantity on the same data, and computes that are counted differently."""
    one, two = base.runs, variant.runs
    both = f"{base.label}, {variant.label}"
    if one.sha256 == two.sha256:
        raise UserError("gate", both, "are the same runs; give those of the base and of the change", Code.CONFLICT)
    if None not in (one.dataset, two.dataset) and one.dataset != two.dataset:
        remedy = "losses of different data are never compared; evaluate both on one data set"
        raise UserError("dataset", f"{one.dataset}, {two.dataset}", remedy, Code.MIXED)
    if None not in (base.data, variant.data) and base.data != variant.data:
        remedy = f"are versions of {one.dataset} with different content; losses of different data are never compared"
        raise UserError("data", f"{(base.data or '')[:12]}, {(variant.data or '')[:12]}", remedy, Code.MIXED)
    x, y = _loss(one.conventions), _loss(two.conventions)
    named = f"{x.term or x.column}, {y.term or y.column}"
    if x.unit != y.unit and None not in (x.unit, y.unit):
        remedy = f"are in different units ({x.unit}; {y.unit}), which are never compared"
        raise UserError("loss", named, remedy, Code.MIXED)
    if (x.term, x.column) != (y.term, y.column) and (x.term is None) == (y.term is None):
        remedy = (
            "are different losses; choose one (--term), or give both columns one name if they are the same quantity"
        )
        raise UserError("loss", named, remedy, Code.MIXED)
    flops = [side.runs.conventions.flops for side in (base, variant)]
    for side, counted in zip((base, variant), flops):
        if "C" not in side.runs.table:
            raise UserError("C", side.label, "has no compute; it needs a column C, or N and D", Code.MISSING)
        if counted == "6ND" and flops.count("6ND") == 1:
            remedy = "has no column C, so that C is 6ND, and the other is counted otherwise; give both one count of C"
            raise UserError("C", side.label, remedy, Code.MIXED)
    n = [c.conventions.n for c in (one, two)]
    if flops == ["6ND", "6ND"] and n[0] != n[1]:
        raise UserError("n", f"{n[0]}, {n[1]}", "count N differently, and with it C = 6ND; choose one --n", Code.MIXED)


def _same_unit(law: PinnedLaw, variant: OptimalRuns) -> None:
    """Refuses losses that differ from the base's by the factor between bits and nats at every budget."""
    ratio = np.log(variant.loss) - law.log_loss(np.log(variant.C))
    for factor, unit in ((math.log(1 / BITS), "bits"), (math.log(BITS), "nats")):
        if (np.abs(ratio - factor) < ALIKE).all():
            value = f"{np.exp(ratio.mean()):.3f} times the base's"
            remedy = f"look like {unit} where the base's are not; convert one of them"
            raise UserError("variant", f"losses {value}", remedy, Code.MIXED)


def _above_floor(law: PinnedLaw, variant: OptimalRuns) -> None:
    """Refuses losses that the base's law reaches at no compute that can be said."""
    lowest = float(variant.loss.min())
    over = lowest - law.floor
    if over <= 0 or (law.log_amplitude - math.log(over)) / law.exponent > LARGEST:
        remedy = (
            f"is not above the floor {law.floor:.4g} of the base's law, so the base reaches it at no compute; train a "
            "larger base, or give the floor (--floor)"
        )
        raise UserError("variant", f"loss {lowest:.4g}", remedy, Code.BEYOND)


def _left_out(chosen: Chosen) -> str:
    if chosen.how == "minima":
        return f"{chosen.edges} budgets have no bracketed minimum"
    return f"{chosen.left_out} are beaten by a run that costs no more" if chosen.left_out else "train more of it"


# --- parts of the result


def _base(base: Side, floor: float | None) -> tuple[OptimalRuns, PinnedLaw]:
    if "C" not in base.runs.table:
        raise UserError("C", base.label, "has no compute; it needs a column C, or N and D", Code.MISSING)
    ours = optimal_runs(base.runs)
    return ours, pin_floor(np.log(ours.C), np.log(ours.loss), floor)


def _side(side: Side, points: OptimalRuns, sd: float | None) -> GateSide:
    runs = side.runs
    return GateSide(
        label=side.label,
        dataset=runs.dataset,
        loss=_loss(runs.conventions),
        flops=runs.conventions.flops,
        chosen=points.chosen,
        dropped=len(runs.dropped),
        C=(float(points.C.min()), float(points.C.max())),
        sd=sd,
        warnings=runs.warnings,
    )


def _law(law: PinnedLaw, level: float) -> BaseLaw:
    low, high = law.floor_interval(level)
    weight = law.weights(law.sd, law.df)
    slope, error = -law.lines.slope[0], law.sd / np.sqrt(law.lines.spread[0])
    ends = mixture_interval(slope, error, weight, law.df, level)
    return BaseLaw(
        floor=Interval(value=law.floor, lo=low, hi=high),
        given=law.given,
        identified=law.given or _why(law, level) is None,
        A=math.exp(law.log_amplitude) if law.log_amplitude < LARGEST else None,
        a=Interval(value=law.exponent, lo=min(ends[0], law.exponent), hi=max(ends[1], law.exponent)),
        budgets=law.budgets,
        forecasts=law.forecasts,
        forecast_error=law.forecast_error,
        df=law.df,
    )


def _why(law: PinnedLaw, level: float) -> Literal["few", "zero"] | None:
    """Why the base does not determine its floor; None where it does, or where the floor was given."""
    if law.given:
        return None
    if law.budgets < BUDGETS:
        return "few"
    return "zero" if law.floor_interval(level)[0] <= 0 else None


def _floor(law: PinnedLaw, level: float) -> tuple[AnyNotice, ...]:
    why = _why(law, level)
    return () if why is None else (FloorNotIdentified(why=why, budgets=law.budgets),)


def _trend(trend: Interval | None) -> tuple[AnyNotice, ...]:
    if trend is None or trend.lo is None or trend.hi is None or trend.lo <= 1 <= trend.hi:
        return ()
    return (Trend(per_decade=trend),)


def _notices(base: Side, variant: Side, ours: OptimalRuns, theirs: OptimalRuns) -> tuple[AnyNotice, ...]:
    """What was assumed of the data, of C and of the choice of runs."""
    sides = (base, variant)
    found: list[AnyNotice] = []
    if unnamed := tuple(side.label for side in sides if side.runs.dataset is None):
        found.append(UnnamedData(sides=unnamed))
    records = [side.runs.conventions.origin == "records" for side in sides]
    if records[0] != records[1]:
        found.append(RecordsAndTable(table=sides[records.index(False)].label))
    best = [points.chosen.how == "frontier" and points.chosen.left_out > 0 for points in (ours, theirs)]
    if best[0] != best[1]:
        found.append(BestOfMany(side=sides[best.index(True)].label))
    return tuple(found)


def _range(law: PinnedLaw, runs: Sequence[GatedRun]) -> tuple[AnyNotice, ...]:
    """Runs whose losses the base reaches only outside its own compute."""
    found: list[AnyNotice] = []
    needed = {run.run: run.C * run.multiplier.value for run in runs}
    least, most = (float(np.exp(end)) for end in (law.x.min(), law.x.max()))
    if above := {name: c / most for name, c in needed.items() if c > most * BEYOND}:
        found.append(Extrapolated(ratio=max(above.values()), runs=tuple(above)))
    if below := {name: least / c for name, c in needed.items() if c < least / BEYOND}:
        found.append(BelowRange(ratio=max(below.values()), runs=tuple(below)))
    return tuple(found)
