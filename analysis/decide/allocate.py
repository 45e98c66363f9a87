"""How to spend a budget under a fitted law: N, D and loss with intervals, or a refusal with its reason.

A law gives L(N, D), a cost function the training FLOPs C(N, D); the optimum at a budget is the N that minimises L along
C(N, D) = C. Every draw of the fit has its own optimum, and intervals are the spread of these; beyond the fitted range
each optimum is moved by the possible error of the law there (``displaced``, the card's discrepancy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np
from scipy import special

from analysis.card import (
    SCHEMA,
    AnyWarning,
    ApproachesDisagree,
    Collinear,
    Conventions,
    Interval,
    Misfit,
    NotIdentified,
    NotLinear,
    Refuted,
    Value,
    Warning,
)
from analysis.check import diagnose, discrepancy
from analysis.engine.frontier import (
    CHUNK,
    RATIOS,
    STEP,
    Cost,
    cost_table,
    estimate_and_draws,
    flops_for,
    frontier,
    log_losses,
    size_for,
    tokens_for,
)
from analysis.fitting.below_zero import moved
from analysis.laws.base import Quantity
from scaling.errors import Code, UserError

if TYPE_CHECKING:
    from analysis.fitting import Fit

Array = np.ndarray
Given = Literal["flops", "params", "tokens"]
CURVATURE_STEP = 0.1  # step of log N for the curvature of log loss along a budget
MAX_EXTRAPOLATION = 100.0  # times the largest fitted compute
MAX_RATIO = 25.0  # ratio of the ends of the fit's own interval of N or D: a factor beyond 5 either way is uninformative
MAX_OPEN_DRAWS = 0.10  # share of draws without an interior optimum above which the allocation is refused
CARRIED = (
    NotIdentified,
    Collinear,
    ApproachesDisagree,
    Refuted,
    Misfit,
    NotLinear,
)  # warnings of a fit that whatever is read from it repeats


class Extrapolation(Warning, tag="extrapolation"):
    """The cell costs more than the largest fitted run.

    Attributes:
      ratio: ``compute`` of the cell over the ``largest`` fitted compute, both in FLOPs.
      held: which intervals include the discrepancy term: all, only that of the loss, or none.
      forced: beyond ``MAX_EXTRAPOLATION``, answered because the caller insists.
    """

    ratio: float
    compute: float
    largest: float
    held: Literal["all", "loss", "none"]
    forced: bool = False


class OpenDraws(Warning, tag="open_draws"):
    """A share of the draws has no interior optimum, so the intervals are open. ``forced``: refused without force."""

    share: float
    forced: bool = False


class WideInterval(Warning, tag="wide_interval"):
    """The fit's own interval of N or D is too wide to be informative; answered because the caller insists."""

    quantity: Literal["N", "D"]
    lo: float
    hi: float


class Unreachable(Warning, tag="unreachable"):
    """A share of the draws never has the asked loss up to ``reach`` FLOPs: their intervals are open above."""

    share: float
    reach: float


AllocationWarning = Extrapolation | OpenDraws | WideInterval | Unreachable


class DiscrepancyTerm(Value):
    """The discrepancy term at a cell.

    Attributes:
      e_folds_beyond: e-folds by which the cell lies beyond the fitted range.
      k: t scale of log loss per e-fold.
      log_loss: t scale of log loss at the cell.
      optimum: t scale of the optimum's shift, in e-folds; None where it is not derived.
    """

    e_folds_beyond: float
    k: float
    log_loss: float
    optimum: float | None


class Sensitivity(Value):
    """Relative change of the loss at half and at twice the N for the same compute.

    It is negative where a condition keeps N away from the optimum.
    """

    half_N: float
    double_N: float


class Allocation(Value):
    """What to train: N, D, their ratio, training FLOPs and the loss of a new run there, each with its interval.

    Attributes:
      asked: the given numbers by name.
      extrapolation_ratio: compute over the largest fitted compute.
      discrepancy: None where the card's term is switched off.
      cost: C = 6ND with the N of the fit, exact FLOPs per token ``by_size``, or a ``function`` of N and D.
      warnings: warnings about this allocation.
      of_fit: warnings of the fit that affect it.
      quantity: what ``loss`` is: what the law gives.
    """

    law: str
    asked: dict[str, float]
    level: float
    N: Interval
    D: Interval
    tokens_per_parameter: Interval
    flops: Interval
    loss: Interval
    extrapolation_ratio: float
    discrepancy: DiscrepancyTerm | None
    sensitivity: Sensitivity
    cost: Literal["6ND", "by_size", "function"]
    conventions: Conventions
    warnings: tuple[AllocationWarning, ...]
    of_fit: tuple[AnyWarning, ...]
    quantity: Quantity = "loss"
    kind: Literal["allocation"] = "allocation"
    schema: Literal[2] = SCHEMA


@dataclass(frozen=True)
class Cells:
    """Cells chosen by the estimate and every draw: ln N and ln D, (1 + S,) each, or (1,) where they are given.

    Attributes:
      moved: t scale in e-folds by which the discrepancy moves the draws: 0 within the fitted range or where it is
        switched off, None where the move applies but is not derived.
      columns: the law's other columns at the cell.
    """

    log_n: Array
    log_d: Array
    moved: float | None = 0.0
    columns: Mapping[str, float] | None = None

    @property
    def undefined(self) -> Array:
        """Mask of parameter sets without a cell."""
        return ~(np.isfinite(self.log_n) & np.isfinite(self.log_d))


def displaced(fit: Fit, cells: Cells, cost: Cost | None, given: Given = "flops") -> Cells:
    """Optima with the draws moved by the discrepancy term.

    At a given budget the optimal N is moved by ``discrepancy.shift`` times Student's t. The same error of the slope
    moves D where N is given ("params") and N where D is given ("tokens"), scaled by the ratio of the slope's changes.
    """
    log_n, log_d, columns = cells.log_n, cells.log_d, cells.columns
    if not fit.discrepancy.k > 0 or cells.undefined[0]:
        return cells
    n, d = float(np.exp(log_n[0])), float(np.exp(log_d[0]))
    x = float(discrepancy.beyond(fit.scope, {"N": n, "D": d, "C": flops_for(n, d, cost)})[0])
    scale = discrepancy.shift(fit.discrepancy, x)
    if scale > 0 and given != "flops":
        scale *= abs(_slope_change(fit, n, d, cost, "flops", columns) / _slope_change(fit, n, d, cost, given, columns))
    if not 0 < scale < math.inf:
        return cells
    t = np.random.default_rng([fit.seed, 3]).standard_t(fit.discrepancy.df, len(log_n) - 1)
    move = np.concatenate([[0.0], scale * t])
    if given == "params":
        return Cells(log_n, log_d + move, scale, columns)
    if given == "tokens":
        return Cells(log_n + move, log_d, scale, columns)
    good, moved_n, moved_d = np.isfinite(log_n), log_n + move, np.array(log_d)
    flops = flops_for(np.exp(log_n[good]), np.exp(log_d[good]), cost)
    moved_d[good] = np.log(tokens_for(flops, np.exp(moved_n[good]), cost))
    return Cells(moved_n, moved_d, scale, columns)


def _slope_change(
    fit: Fit, n: float, d: float, cost: Cost | None, given: Given, columns: Mapping[str, float] | None
) -> float:
    """Change of d log L / d log N along the budget per e-fold of the free variable; see ``displaced``."""
    step = np.exp(CURVATURE_STEP * np.array([-1.0, 1.0]))
    if given == "params":
        sizes, tokens = np.full(2, n), d * step
    elif given == "tokens":
        sizes, tokens = n * step, np.full(2, d)
    else:
        sizes, tokens = n * step, tokens_for(flops_for(n, d, cost), n * step, cost)
    flops, theta = flops_for(sizes, tokens, cost), fit.theta[None]
    above, below = (
        log_losses(fit.law, theta, sizes * s, tokens_for(flops, sizes * s, cost), columns)[0] for s in step[::-1]
    )
    slope = (above - below) / (2 * CURVATURE_STEP)
    return float(slope[1] - slope[0]) / (2 * CURVATURE_STEP)


def optimal(
    fit: Fit,
    *,
    flops: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    level: float = 0.95,
    cost: Cost | None = None,
    force: bool = False,
) -> Allocation:
    """What to train under a fitted law, and the loss that a new run would have there.

    Given one of ``flops``, ``params`` and ``tokens``, finds the compute-optimal others; given two, which fix the cell,
    predicts its loss.

    Args:
      level: confidence of the intervals.
      cost: C(N, D) as a callable, or exact FLOPs per token by size ``{"N": [...], "flops_per_token": [...]}``
        (interpolated smoothly). By default that table of the fit's own runs (``cost_table``), else C = 6ND on its N.
      force: answer instead of refusing, with the reason as a warning.

    Returns:
      The allocation: parameters, training tokens, FLOPs and the loss in the unit of the fit.

    Raises:
      UserError: NOT_IDENTIFIED: no interior optimum, or an allocation that the runs do not identify; BEYOND: more than
        100 times the largest fitted compute; UNSUPPORTED: a law without an optimum; INVALID: invalid arguments.
    """
    if fit.card.offset:
        whole = moved(fit, fit.card.offset)
        found = optimal(whole, flops=flops, params=params, tokens=tokens, level=level, cost=cost, force=force)
        return lowered(found, fit)
    asked = positive(flops=flops, params=params, tokens=tokens)
    if len(asked) not in (1, 2):
        raise UserError("predict", ", ".join(asked) or "nothing", "give one or two of --flops, --params, --tokens")
    cost = cost_table(fit) if cost is None else cost
    if len(asked) == 2:
        cells = _cell(asked, cost)
    elif "flops" in asked:
        log_n, log_d = (x[:, 0] for x in frontier(fit, np.array([asked["flops"]]), cost))
        cells = displaced(fit, Cells(log_n, log_d), cost)
    else:
        given: Given = "params" if "params" in asked else "tokens"
        cells = displaced(fit, _partner(fit, given, asked[given], cost), cost, given)
    return answer(fit, asked, cells, level=level, cost=cost, force=force)


def carried(fit: Fit) -> tuple[AnyWarning, ...]:
    """The warnings of a fit that bear on whatever is read from it."""
    return tuple(w for w in fit.warnings if isinstance(w, CARRIED))


def positive(**numbers: float | None) -> dict[str, float]:
    """The numbers that are not None. UserError names one that is not a positive number."""
    given = {name: float(value) for name, value in numbers.items() if value is not None}
    for name, value in given.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(name, value, "must be a positive number")
    return given


def answer(
    fit: Fit, asked: Mapping[str, float], cells: Cells, *, level: float, cost: Cost | None, force: bool
) -> Allocation:
    """The allocation for chosen cells; refuses, or warns, where the runs do not support it."""
    if len(cells.log_n) > 1 and not force:
        require_separable(fit)
    require_interior(fit, cells)
    undefined = cells.undefined
    n, d = float(np.exp(cells.log_n[0])), float(np.exp(cells.log_d[0]))
    compute = float(flops_for(n, d, cost))
    warnings = extrapolation(fit, compute, cells.moved, force)
    share = float(undefined[1:].mean()) if len(undefined) > 1 else 0.0
    open_ended = share > (1 - level) / 2
    warnings += _open_draws(fit, share, open_ended, force)
    log_c = np.full_like(cells.log_n, np.nan)
    log_c[~undefined] = np.log(flops_for(np.exp(cells.log_n[~undefined]), np.exp(cells.log_d[~undefined]), cost))
    logs = {"params": cells.log_n, "tokens": cells.log_d, "flops": log_c}
    given = {name: Interval(value=value, lo=value, hi=value) for name, value in asked.items()}
    size, tokens, spent = (given.get(name) or _interval(logs[name], level, open_ended) for name in logs)
    warnings += _wide_interval(fit, size, tokens, cells.moved, level, force)
    ratio = _interval(cells.log_d - cells.log_n, level, open_ended)
    spans = Spans(size, tokens, ratio, spent)
    return assemble(fit, asked, cells, spans, warnings, level=level, cost=cost)


def lowered(answer: Allocation, fit: Fit) -> Allocation:
    """The answer of a fit of losses below zero, from that of the same losses with its offset."""
    offset, asked = fit.card.offset, dict(answer.asked)
    if "loss" in asked:
        asked["loss"] -= offset
    loss = answer.loss.moved(-offset)
    size = answer.loss.value / abs(loss.value) if loss.value else math.inf
    near = Sensitivity(half_N=answer.sensitivity.half_N * size, double_N=answer.sensitivity.double_N * size)
    return msgspec.structs.replace(answer, asked=asked, loss=loss, sensitivity=near, of_fit=carried(fit))


class Spans(NamedTuple):
    """Intervals of an allocation's N, D, D/N and FLOPs."""

    size: Interval
    tokens: Interval
    ratio: Interval
    flops: Interval


def assemble(
    fit: Fit,
    asked: Mapping[str, float],
    cells: Cells,
    spans: Spans,
    warnings: Sequence[AllocationWarning],
    *,
    level: float,
    cost: Cost | None,
) -> Allocation:
    """The allocation with these intervals, and what follows from the estimate's cell: the loss of a new run there."""
    n, d = float(np.exp(cells.log_n[0])), float(np.exp(cells.log_d[0]))
    compute = float(flops_for(n, d, cost))
    further = {name: np.array([value]) for name, value in (cells.columns or {}).items()}
    cell = {"N": np.array([n]), "D": np.array([d]), "C": np.array([compute]), **further}
    loss = fit.predict(cell, level=level, new_run=True)
    return Allocation(
        law=fit.law.name,
        asked=dict(asked),
        level=level,
        N=spans.size,
        D=spans.tokens,
        tokens_per_parameter=spans.ratio,
        flops=spans.flops,
        loss=Interval(value=float(loss.value[0]), lo=float(loss.lo[0]), hi=float(loss.hi[0])),
        extrapolation_ratio=compute / largest(fit),
        discrepancy=_term(fit, cell, cells.moved),
        sensitivity=_sensitivity(fit, n, compute, cost, cells.columns),
        cost="6ND" if cost is None else "function" if callable(cost) else "by_size",
        conventions=fit.conventions,
        warnings=tuple(warnings),
        of_fit=carried(fit),
        quantity=fit.law.quantity,
    )


def require_separable(fit: Fit) -> None:
    """Raises a UserError, with the fit's own reason, where its runs cannot tell N from D: one budget, or D = k N."""
    correlation = next((w.correlation for w in fit.warnings if isinstance(w, Collinear)), None)
    if correlation is None:
        return
    unknown = any(isinstance(w, NotIdentified) and w.parameter == "a" for w in fit.warnings)
    if unknown or abs(correlation) > diagnose.CONFOUNDED:
        problem = (
            f"is not identified: log N and log D of the runs correlate {correlation:.3f}, so that the exponents of N "
            "and D cannot be told apart"
        )
        raise _refusal("allocation", fit.law.name, problem, Code.NOT_IDENTIFIED, "train other D at fixed N")


def require_interior(fit: Fit, cells: Cells) -> None:
    """Raises a UserError where the estimate has no interior optimum."""
    if cells.undefined[0]:
        remedy = (
            "is not identified: the fitted law has no interior optimum here (one term explains all, or an exponent is "
            "at its bound); train more sizes and tokens"
        )
        raise UserError("allocation", fit.law.name, remedy, Code.NOT_IDENTIFIED)


def largest(fit: Fit) -> float:
    """The largest compute of the fitted runs. UserError where their cost is not known."""
    if fit.scope.C_max is None:
        raise UserError("law", fit.law.name, "the cost of its runs is not known; fit a law of N and D", Code.MISSING)
    return float(fit.scope.C_max)


def extrapolation(fit: Fit, compute: float, moved: float | None, force: bool) -> list[AllocationWarning]:
    """Warns of compute beyond the fitted range; refuses it beyond ``MAX_EXTRAPOLATION``."""
    top = largest(fit)
    ratio = compute / top
    if ratio > MAX_EXTRAPOLATION and not force:
        far = f"is {ratio:.3g} times the largest fitted compute ({top:.3g} FLOPs)"
        raise _refusal("extrapolation", f"{compute:.4g} FLOPs", far, Code.BEYOND)
    if ratio <= 1:
        return []
    held = "none" if not fit.discrepancy.k > 0 else "loss" if moved is None else "all"
    forced = ratio > MAX_EXTRAPOLATION
    return [Extrapolation(ratio=ratio, compute=compute, largest=top, held=held, forced=forced)]


def _open_draws(fit: Fit, share: float, open_ended: bool, force: bool) -> list[AllocationWarning]:
    if share > MAX_OPEN_DRAWS and not force:
        problem = f"is not identified: {share:.0%} of the draws have no optimum"
        raise _refusal("allocation", fit.law.name, problem, Code.NOT_IDENTIFIED)
    if share > MAX_OPEN_DRAWS or open_ended:
        return [OpenDraws(share=share, forced=share > MAX_OPEN_DRAWS)]
    return []


def _wide_interval(
    fit: Fit, size: Interval, tokens: Interval, moved: float | None, level: float, force: bool
) -> list[AllocationWarning]:
    """Refuses, or warns, where the wider of the two intervals is uninformative even without the discrepancy."""
    intervals: dict[Literal["N", "D"], Interval] = {"N": size, "D": tokens}
    name, cell = max(intervals.items(), key=lambda item: (item[1].hi or 1.0) / (item[1].lo or 1.0))
    if not cell.lo or not cell.hi or _own_ratio(cell.hi / cell.lo, fit, moved, level) <= MAX_RATIO:
        return []
    if not force:
        problem = f"does not determine {name}: {cell.lo:.2g} to {cell.hi:.2g} by these runs"
        raise _refusal("allocation", fit.law.name, problem, Code.NOT_IDENTIFIED)
    return [WideInterval(quantity=name, lo=cell.lo, hi=cell.hi)]


def _refusal(field: str, value: object, problem: str, code: Code, advice: str = "train nearer to it") -> UserError:
    told = f"{problem}; {advice}"
    return UserError(field, value, f"{told}, or insist with --force", code, problem=told)


def _term(fit: Fit, cell: Mapping[str, Array], moved: float | None) -> DiscrepancyTerm | None:
    k = fit.discrepancy.k
    if not k > 0:
        return None
    x = float(discrepancy.beyond(fit.scope, cell)[0])
    return DiscrepancyTerm(e_folds_beyond=x, k=k, log_loss=k * x, optimum=None if moved is None else float(moved))


def _own_ratio(ratio: float, fit: Fit, moved: float | None, level: float) -> float:
    """Ratio of an interval's ends without the discrepancy, which is subtracted in quadrature of logarithms."""
    added = float(special.stdtrit(fit.discrepancy.df, 0.5 + level / 2)) * moved if moved else 0.0
    return math.exp(2 * math.sqrt(max((math.log(ratio) / 2) ** 2 - added**2, 0.0)))


def _cell(asked: Mapping[str, float], cost: Cost | None) -> Cells:
    """The cell determined by two of FLOPs, N and D."""
    if "flops" not in asked:
        n, d = asked["params"], asked["tokens"]
    elif "params" in asked:
        n = asked["params"]
        d = float(tokens_for(asked["flops"], np.array(n), cost))
    else:
        d = asked["tokens"]
        n = math.exp(size_for(asked["flops"], d, cost))
    return Cells(np.log([n]), np.log([d]))


def _partner(fit: Fit, given: Given, value: float, cost: Cost | None) -> Cells:
    """The D for which a given N is compute-optimal, or the N for a given D: the loss is stationary along C there."""
    law, theta = fit.law, estimate_and_draws(fit)
    frontier(fit, np.array([1.0]), None)  # raises for a law without an optimum
    fixed, given_n = np.log(value), given == "params"
    ratio = np.arange(np.log(RATIOS[0]), np.log(RATIOS[1]), 2 * STEP)
    log_n = np.full_like(ratio, fixed) if given_n else (fixed - ratio)[::-1]
    log_d = fixed + ratio if given_n else np.full_like(ratio, fixed)
    free = log_d if given_n else log_n
    flops = flops_for(np.exp(log_n), np.exp(log_d), cost)
    sides = [(np.exp(log_n + s), tokens_for(flops, np.exp(log_n + s), cost)) for s in (STEP, -STEP)]
    partner = np.empty(len(theta))
    for start in range(0, len(theta), CHUNK):
        part = theta[start : start + CHUNK]
        gain = log_losses(law, part, *sides[0]) - log_losses(law, part, *sides[1])  # > 0: N is too large
        gain = -gain if given_n else gain  # the sign that makes it rise through zero along ``free``
        crossed = (gain[:, 1:] > 0) & (gain[:, :-1] <= 0)
        i, rows = np.argmax(crossed, axis=1), np.arange(len(part))
        low, high = gain[rows, i], gain[rows, i + 1]
        weight = np.where(crossed.any(1), -low / np.where(high > low, high - low, 1.0), np.nan)
        partner[start : start + CHUNK] = free[i] + weight * (free[1] - free[0])
    other = np.where(np.isfinite(partner), fixed, np.nan)
    return Cells(other, partner) if given_n else Cells(partner, other)


def _interval(logs: Array, level: float, open_ended: bool) -> Interval:
    """Interval of exp(logs), logs (1 + S,): the estimate's value and the central interval of the draws."""
    value, draws = float(np.exp(logs[0])), logs[1:][np.isfinite(logs[1:])]
    if len(logs) == 1 or np.ptp(logs[np.isfinite(logs)]) == 0:
        return Interval(value=value, lo=value, hi=value)
    if open_ended or len(draws) == 0:
        return Interval(value=value, lo=None, hi=None)
    lo, hi = np.exp(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(value=value, lo=float(lo), hi=float(hi))


def _sensitivity(
    fit: Fit, n: float, flops: float, cost: Cost | None, columns: Mapping[str, float] | None
) -> Sensitivity:
    sizes = n * np.array([1.0, 0.5, 2.0])
    loss = np.exp(log_losses(fit.law, fit.theta[None], sizes, tokens_for(flops, sizes, cost), columns))[0]
    return Sensitivity(half_N=float(loss[1] / loss[0] - 1), double_N=float(loss[2] / loss[0] - 1))
