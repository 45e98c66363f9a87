"""Compares laws of several data sets, families or recipes: which numbers differ, are equal, or cannot be told apart.

The numbers compared mean the same in every fit: the exponents of the optimum, parameters among fits of one law, the
exponent of the reducible loss and, where the losses are the same quantity, the compute for equal loss. Losses of
different data, objectives or units are never put on one axis. Outcomes are tests at the stated level: ``different``
(the interval of the difference excludes zero), ``equal`` (within the margin, by two one-sided tests: Schuirmann 1987,
doi 10.1007/BF01068419), ``both``, or ``unknown``. Members are pooled as random effects (Paule and Mandel 1982,
doi 10.6028/jres.087.022; interval of Hartung and Knapp 2001, doi 10.1002/sim.791), and each is shrunk towards the mean
by its share of the variance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from scipy import special

from analysis import laws
from analysis.card import SCHEMA, AnyWarning, Interval, Value
from analysis.decide.allocate import carried
from analysis.decide.design import ExpectedPrecision, Prior, plan_targets
from analysis.engine.frontier import cost_table, estimate_and_draws, optimum_along
from analysis.fitting.below_zero import require_above
from scaling.errors import Code, UserError, choose
from scaling.records.unit import Unit

if TYPE_CHECKING:
    from analysis.fitting import Fit

Array = np.ndarray
MARGIN = 0.05  # default margin of equality: a tenth of an exponent of one half
MARGINS = {"c": 0.02, "log2_compute_to_halve": 0.5}
POINTS = 9  # number of losses at which compute is compared
POWER = 0.8  # share of comparisons that should detect a difference
MAX_OPEN_DRAWS = 0.10  # share of draws without a value above which none is given
SAMPLES = 4000  # draws of a difference of two fits
MAX_CURVES = 300  # draws of each fit whose frontiers are compared at equal loss

Axis = Literal["auto", "bits_per_byte"]
Offer = Literal["exponents", "c", "bits_per_byte"]


@dataclass(frozen=True)
class Member:
    """A fit to compare: its label, the fit, the bits per byte of one nat of its loss (None: not bytes), and the hash of
    the evaluation data (None: not known)."""

    label: str
    fit: Fit
    bits_per_byte: float | None = None
    data: str | None = None


class LossName(Value):
    """The loss of a fit: the ``term`` of a record and its unit, or the ``column`` of a table."""

    term: str | None
    unit: Unit | None
    column: str | None

    @classmethod
    def of(cls, fit: Fit) -> LossName:
        """The loss that a law was fitted to."""
        conventions = fit.conventions
        return cls(term=conventions.term, unit=conventions.unit, column=conventions.columns.get("loss"))


class ComparedMember(Value):
    """A fit that was compared; ``n`` is its parameter count convention, ``rows`` its number of runs, ``of_fit`` the
    warnings of the fit that bear on whatever is read from it."""

    label: str
    law: str
    dataset: str | None
    n: str | None
    loss: LossName
    rows: int
    of_fit: tuple[AnyWarning, ...] = ()


class Pair(Value):
    """Two members compared in one quantity.

    Attributes:
      difference: ``one`` minus ``two``, with its interval; None where a member has no value.
      equivalence: the interval of the two one-sided tests: equal where it lies within the margin.
      outcome: ``both`` means different, but within the margin.
    """

    one: str
    two: str
    difference: Interval | None
    margin: float
    equivalence: tuple[float, float] | None
    outcome: Literal["different", "equal", "both", "unknown"]


class Pooled(Value):
    """A random-effects mean.

    Attributes:
      mean: None where fewer than two members have a value with a finite error.
      tau: sd between members beyond their errors.
      prediction: interval of a new member; None with two members.
      shrunk: each member's value, shrunk towards the mean.
      left_out: members without a finite error.
    """

    mean: Interval | None = None
    tau: float | None = None
    prediction: tuple[float, float] | None = None
    shrunk: dict[str, float] = msgspec.field(default_factory=dict)
    left_out: tuple[str, ...] = ()


class Quantity(Value):
    """A number that several members have; None for a member whose fit does not give it."""

    members: dict[str, Interval | None]
    margin: float
    pairs: tuple[Pair, ...]
    pooled: Pooled


class Reason(Value, tag_field="code"):
    """Base class of reasons why no compute for equal loss is given."""


class UnknownData(Reason, tag="unknown_data"):
    """A table does not name the data of its loss."""


class DifferentData(Reason, tag="different_data"):
    """The losses are of different data sets, or of two versions of one."""

    members: tuple[str, str]
    datasets: tuple[str, str]


class DifferentLosses(Reason, tag="different_losses"):
    """The losses are different quantities."""

    losses: tuple[LossName, LossName]


class NotBytes(Reason, tag="not_bytes"):
    """The loss of a member is not known to be a likelihood of bytes."""

    member: str


class NoCost(Reason, tag="no_cost"):
    """The cost of the runs fitted by this law is not known."""

    law: str


class NoOptimum(Reason, tag="no_optimum"):
    """A compute budget alone does not determine N under this law."""

    law: str


class NoCommonLoss(Reason, tag="no_common_loss"):
    """No loss is reached by both within the compute that was fitted."""


AnyReason = UnknownData | DifferentData | DifferentLosses | NotBytes | NoCost | NoOptimum | NoCommonLoss


class LossRow(Value):
    """The loss of one at compute ``C``, and the compute of two for the same loss as a multiple of C."""

    C: float
    loss: float
    compute_ratio: Interval


class EqualLoss(Value, tag_field="status", tag="compared"):
    """How much compute ``two`` needs for the losses that ``one`` reaches; ``axis`` is None for bits per byte."""

    one: str
    two: str
    axis: LossName | None
    rows: tuple[LossRow, ...]


class NotComparable(Value, tag_field="status", tag="refused"):
    """Two members whose losses cannot share an axis, with the reason."""

    one: str
    two: str
    why: AnyReason
    offers: tuple[Offer, ...]


class Comparison(Value):
    """All pairs of members in every number that they share, the pooled means, and compute for equal loss."""

    level: float
    members: tuple[ComparedMember, ...]
    quantities: dict[str, Quantity]
    equal_loss: tuple[EqualLoss | NotComparable, ...]
    kind: Literal["comparison"] = "comparison"
    schema: Literal[2] = SCHEMA


class PairPower(Value):
    """What two planned studies can tell about one exponent; None where one has too few cells.

    Attributes:
      half_width: expected half-width of the interval of the difference.
      seen: the true difference that a share ``POWER`` of such pairs of studies would detect.
      equal: the probability that studies without a true difference are found equal within the margin.
    """

    quantity: str
    one: str
    two: str
    margin: float
    half_width: float | None = None
    seen: float | None = None
    equal: float | None = None


class PlannedStudy(msgspec.Struct, frozen=True):
    """The part of ``scaling plan --json`` that ``power`` needs: the expected precision by data set."""

    study: str
    expected_precision: dict[str, ExpectedPrecision]


class ComparisonPower(Value):
    """``PairPower`` for each pair and exponent, and the prior of each plan."""

    level: float
    pairs: tuple[PairPower, ...]
    priors: dict[str, Prior]
    kind: Literal["power"] = "power"
    schema: Literal[2] = SCHEMA


def compare(
    members: Sequence[Member],
    *,
    level: float = 0.95,
    margins: Mapping[str, float] | None = None,
    axis: Axis = "auto",
    seed: int = 0,
) -> Comparison:
    """Compares all pairs of members in every number that they share, and pools them.

    Args:
      level: confidence of the intervals and tests.
      margins: by quantity, the difference below which two values are called equal; by default MARGIN and MARGINS.
      axis: of equal loss. auto: the loss itself where it is the same quantity; bits_per_byte: where every loss is a
        likelihood of bytes, of any data (the comparison then includes how hard the data are).

    Raises:
      UserError: TOO_FEW: fewer than two fits; CONFLICT: fits of the same runs or name; MIXED: counts of N that differ.
    """
    margins = dict(margins or {})
    _check(members, level, margins, axis)
    for member in members:
        require_above(member.fit, "comparison")
    several = len({m.fit.law.name for m in members}) > 1
    values = {m.label: _quantities(m.fit, several) for m in members}
    names = dict.fromkeys(name for own in values.values() for name in own)
    shared = [name for name in names if sum(name in own for own in values.values()) > 1]
    unknown = set(margins) - set(shared)
    if unknown:
        remedy = f"is not shared by the fits; {choose(min(unknown), shared)}"
        raise UserError("margin", min(unknown), remedy, Code.UNKNOWN)
    rng = np.random.default_rng(seed)
    quantities = {}
    for name in shared:
        own = {label: v[name] for label, v in values.items() if name in v}
        margin = margins.get(name, MARGINS.get(name, MARGIN))
        quantities[name] = Quantity(
            members={label: _interval(draws, level) for label, draws in own.items()},
            margin=margin,
            pairs=tuple(_pair(pair, own, level, margin, rng) for pair in itertools.combinations(own, 2)),
            pooled=pool({label: (float(d[0]), _spread(d)) for label, d in own.items()}, level=level),
        )
    equal = [_equal_loss(one, two, axis, level, rng) for one, two in itertools.combinations(members, 2)]
    told = tuple(
        ComparedMember(
            label=m.label,
            law=m.fit.law.name,
            dataset=m.fit.data.dataset,
            n=m.fit.conventions.n,
            loss=LossName.of(m.fit),
            rows=m.fit.data.rows,
            of_fit=carried(m.fit),
        )
        for m in members
    )
    return Comparison(level=level, members=told, quantities=quantities, equal_loss=tuple(equal))


def power(
    plans: Mapping[str, ExpectedPrecision], *, level: float = 0.95, margins: Mapping[str, float] | None = None
) -> ComparisonPower:
    """What a comparison of planned studies will be able to tell, from the precision expected of each.

    Args:
      plans: {label: the result of ``design.expected_precision`` at ``level``}.

    Raises:
      UserError: TOO_FEW: fewer than two plans; INVALID: an invalid level or margin; UNKNOWN: an exponent that no plan
        has.
    """
    if len(plans) < 2:
        raise UserError("compare", len(plans), "needs two planned studies or more", Code.TOO_FEW)
    margins = dict(margins or {})
    _valid(level, margins)
    for label, plan in plans.items():
        if plan.level != level:
            remedy = f"the plan {label} holds intervals of {plan.level:g}; leave --level out"
            raise UserError("level", level, remedy, Code.CONFLICT)
    names = [name for name in plan_targets() if name != laws.default().floor]
    for name in margins:
        if name not in names:
            remedy = f"is no exponent of a plan; {choose(name, names)}"
            raise UserError("margin", name, remedy, Code.UNKNOWN)
    pairs = [
        _pair_power(name, one, two, plans, level, margins.get(name, MARGIN))
        for name, (one, two) in itertools.product(names, itertools.combinations(plans, 2))
    ]
    return ComparisonPower(level=level, pairs=tuple(pairs), priors={k: plan.prior for k, plan in plans.items()})


def _pair_power(
    name: str, one: str, two: str, plans: Mapping[str, ExpectedPrecision], level: float, margin: float
) -> PairPower:
    first, second = (plans[label].half_widths[name] for label in (one, two))
    if first is None or second is None:
        return PairPower(quantity=name, one=one, two=two, margin=margin)
    width = math.hypot(first, second)
    error = width / float(special.ndtri(0.5 + level / 2))
    equal = 2 * float(special.ndtr(margin / error - special.ndtri(level))) - 1
    return PairPower(
        quantity=name,
        one=one,
        two=two,
        margin=margin,
        half_width=width,
        seen=width + float(special.ndtri(POWER)) * error,
        equal=max(0.0, equal),
    )


def pool(members: Mapping[str, tuple[float, float]], *, level: float = 0.95) -> Pooled:
    """Random-effects mean and partial pooling of {label: (value, standard error)}."""
    used = {k: v for k, v in members.items() if math.isfinite(v[0]) and math.isfinite(v[1]) and v[1] > 0}
    left_out = tuple(sorted(set(members) - set(used)))
    if len(used) < 2:
        return Pooled(left_out=left_out)
    y, se = np.array(list(used.values())).T
    k = len(y)

    def excess(tau2: float) -> float:
        w = 1 / (se**2 + tau2)
        return float((w * (y - (w * y).sum() / w.sum()) ** 2).sum()) - (k - 1)

    tau2 = 0.0
    if excess(0.0) > 0:
        from scipy import optimize  # slow to import, and not needed by a report

        root: Any = optimize.brentq(excess, 0.0, float(np.ptp(y) ** 2 * k + 1e-300))
        tau2 = float(root)
    w = 1 / (se**2 + tau2)
    mean = float((w * y).sum() / w.sum())
    # Hartung and Knapp's factor; at least 1, or two members that agree by chance would give a point.
    factor = max(1.0, float((w * (y - mean) ** 2).sum()) / (k - 1))
    error = math.sqrt(factor / w.sum())
    t = float(special.stdtrit(k - 1, 0.5 + level / 2))
    prediction = None
    if k > 2:
        wide = float(special.stdtrit(k - 2, 0.5 + level / 2)) * math.sqrt(tau2 + error**2)
        prediction = (mean - wide, mean + wide)
    weight = tau2 / (tau2 + se**2)
    return Pooled(
        mean=Interval(value=mean, lo=mean - t * error, hi=mean + t * error),
        tau=math.sqrt(tau2),
        prediction=prediction,
        shrunk={label: float(mean + weight[i] * (y[i] - mean)) for i, label in enumerate(used)},
        left_out=left_out,
    )


def comparable(one: Member, two: Member) -> AnyReason | None:
    """None where the losses of two fits are the same quantity, else the reason why they are not."""
    a, b = one.fit.data.dataset, two.fit.data.dataset
    if a is None or b is None:
        return UnknownData()
    if a != b or (None not in (one.data, two.data) and one.data != two.data):
        return DifferentData(members=(one.label, two.label), datasets=(a, b))
    x, y = LossName.of(one.fit), LossName.of(two.fit)
    return DifferentLosses(losses=(x, y)) if x != y else None


def _check(members: Sequence[Member], level: float, margins: Mapping[str, float], axis: str) -> None:
    if len(members) < 2:
        remedy = "needs two fits or more; give cards or work directories"
        raise UserError("compare", len(members), remedy, Code.TOO_FEW)
    _valid(level, margins)
    if axis not in ("auto", "bits_per_byte"):
        raise UserError("axis", axis, "choose auto or bits_per_byte", Code.UNKNOWN)
    for one, two in itertools.combinations(members, 2):
        both = f"{one.label}, {two.label}"
        if one.fit.data.sha256 == two.fit.data.sha256:
            remedy = (
                "are of the same runs: their errors are shared; laws on one table are ranked by `scaling fit --law=all`"
            )
            raise UserError("compare", both, remedy, Code.CONFLICT)
        a, b = one.fit.conventions.n, two.fit.conventions.n
        if a != b:
            remedy = f"count N differently ({a}; {b}), which moves every exponent; fit both with one --n"
            raise UserError("compare", both, remedy, Code.MIXED)
    labels = [m.label for m in members]
    if len(set(labels)) < len(labels):
        remedy = "two fits have one name; give cards with names of their own"
        raise UserError("compare", ", ".join(labels), remedy, Code.CONFLICT)


def _valid(level: float, margins: Mapping[str, float]) -> None:
    if not 0.5 <= level < 1:
        raise UserError("level", level, "give a probability from 0.5 to 1, such as 0.95")
    for name, margin in margins.items():
        if not (math.isfinite(margin) and margin > 0):
            raise UserError("margin", f"{name}={margin}", "must be a positive number")


def _quantities(fit: Fit, several: bool) -> dict[str, Array]:
    """Numbers that mean the same in every fit, (1 + S,) each: the estimate first, then the draws.

    Parameters are comparable between fits of one law only; with ``several`` laws their names include the law.
    """
    law, theta = fit.law, estimate_and_draws(fit)
    out = {}
    pair = law.exponents(theta)
    if pair is not None:
        out["a"] = pair["a"]
    for name in law.exponent_names:
        out[f"{name} of {law.name}" if several else name] = theta[:, law.index(name)]
    # along the optimum the reducible loss falls as C^-c
    c = law.reducible_exponent(theta)
    if c is not None:
        with np.errstate(divide="ignore"):
            out |= {"c": c, "log2_compute_to_halve": 1 / c}
    return out


def _spread(draws: Array) -> float:
    """Standard error of the draws: half the width of the central 68 %, which is robust to heavy tails."""
    good = draws[1:][np.isfinite(draws[1:])]
    if len(good) < (1 - MAX_OPEN_DRAWS) * (len(draws) - 1) or len(good) == 0:
        return math.inf
    lo, hi = np.quantile(good, [0.15866, 0.84134])
    return float(hi - lo) / 2


def _interval(draws: Array, level: float) -> Interval | None:
    """Interval from an estimate and its draws (1 + S,); None without an estimate, open where draws have no value."""
    value, rest = float(draws[0]), draws[1:]
    if not math.isfinite(value):
        return None
    if not np.isfinite(rest).mean() > 1 - (1 - level) / 2:
        return Interval(value=value, lo=None, hi=None)
    lo, hi = np.quantile(rest[np.isfinite(rest)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, lo=float(lo), hi=float(hi))


def _pair(
    pair: tuple[str, str], own: Mapping[str, Array], level: float, margin: float, rng: np.random.Generator
) -> Pair:
    """The difference of two independent fits, its interval, and the outcome of the tests."""
    x, y = (own[label] for label in pair)
    with np.errstate(invalid="ignore"):
        gap = rng.choice(x[1:], SAMPLES) - rng.choice(y[1:], SAMPLES)
        cell = _interval(np.concatenate([[x[0] - y[0]], gap]), level)
    one, two = pair
    if cell is None or cell.lo is None or cell.hi is None:
        return Pair(one=one, two=two, difference=cell, margin=margin, equivalence=None, outcome="unknown")
    low, high = (float(v) for v in np.quantile(gap[np.isfinite(gap)], [1 - level, level]))
    different = cell.lo > 0 or cell.hi < 0
    equal = -margin < low and high < margin
    outcome = "both" if different and equal else "different" if different else "equal" if equal else "unknown"
    return Pair(one=one, two=two, difference=cell, margin=margin, equivalence=(low, high), outcome=outcome)


def _equal_loss(
    one: Member, two: Member, axis: Axis, level: float, rng: np.random.Generator
) -> EqualLoss | NotComparable:
    """Compute that ``two`` needs for the losses of ``one``, within the fitted compute of both; or why not."""
    bytes_each = [m.bits_per_byte for m in (one, two)]
    offers: list[Offer] = ["exponents", "c"]
    if None not in bytes_each and axis == "auto":
        offers.append("bits_per_byte")
    scale = (1.0, 1.0)
    why: AnyReason | None
    if axis == "auto":
        why = comparable(one, two)
    elif one.bits_per_byte is None or two.bits_per_byte is None:
        why = NotBytes(member=one.label if one.bits_per_byte is None else two.label)
    else:
        why, scale = None, (one.bits_per_byte, two.bits_per_byte)
    why = why or _no_cost(one.fit) or _no_cost(two.fit)
    rows: tuple[LossRow, ...] = ()
    if why is None:
        try:
            rows = _compute_for_loss(one.fit, two.fit, scale, level, rng)
        except UserError as error:
            if error.code not in (Code.UNSUPPORTED, Code.MISSING):
                raise
            why = NoOptimum(law=str(error.value))
    if not rows:
        return NotComparable(one=one.label, two=two.label, why=why or NoCommonLoss(), offers=tuple(offers))
    named = LossName.of(one.fit) if axis == "auto" else None
    return EqualLoss(one=one.label, two=two.label, axis=named, rows=rows)


def _no_cost(fit: Fit) -> NoCost | None:
    return NoCost(law=fit.law.name) if fit.scope.C_min is None or fit.scope.C_max is None else None


def _frontier(fit: Fit, flops: Array, most: int, rng: np.random.Generator, scale: float) -> Array:
    """Log of the lowest loss at budgets, (1 + S, k): the estimate, then up to ``most`` draws in random order."""
    theta = np.vstack([fit.theta[None], fit.draws[rng.choice(len(fit.draws), most)]])
    log_n, log_d = optimum_along(fit.law, theta, flops, cost_table(fit))
    out = np.full(log_n.shape, np.nan)
    for i, t in enumerate(theta):
        good = np.isfinite(log_n[i])
        if good.any():
            out[i, good] = np.log(fit.law.predict(t, {"N": np.exp(log_n[i, good]), "D": np.exp(log_d[i, good])}))
    return out + math.log(scale)


def _compute_for_loss(
    one: Fit, two: Fit, scale: tuple[float, float], level: float, rng: np.random.Generator
) -> tuple[LossRow, ...]:
    """At each compute C of one: its loss, and C' / C with its interval, where two reaches that loss at C'."""
    ranges = [(fit.scope.C_min or 0.0, fit.scope.C_max or 0.0) for fit in (one, two)]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    budgets = np.geomspace(*ranges[0], POINTS)
    wide = np.geomspace(ranges[1][0] / 10, ranges[1][1] * 10, 61)
    most = min(MAX_CURVES, len(one.draws), len(two.draws))
    first, second = _frontier(one, budgets, most, rng, scale[0]), _frontier(two, wide, most, rng, scale[1])
    rows = []
    for k, c in enumerate(budgets):
        if not low * 0.999 <= c <= high * 1.001:
            continue
        ratio = np.full(len(first), np.nan)
        for i, curve in enumerate(second):
            good = np.isfinite(curve)
            if np.isfinite(first[i, k]) and good.sum() > 1:
                falling = curve[good][::-1]
                if falling[0] <= first[i, k] <= falling[-1]:
                    ratio[i] = np.interp(first[i, k], falling, np.log(wide[good])[::-1]) - math.log(c)
        cell = _interval(ratio, level)
        if cell is not None:
            lo, hi = (None if end is None else math.exp(end) for end in (cell.lo, cell.hi))
            ratio_cell = Interval(value=math.exp(cell.value), lo=lo, hi=hi)
            rows.append(LossRow(C=float(c), loss=float(np.exp(first[0, k])), compute_ratio=ratio_cell))
    return tuple(rows)
