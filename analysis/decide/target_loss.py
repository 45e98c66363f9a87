"""The least compute that reaches a given loss, and the N and D to spend it on.

Every draw of the fit, with its own share of the discrepancy, follows its loss along its compute-optimal frontier down
to the asked one. The discrepancy never takes the loss above that at the end of the fitted range: more compute does not
raise the best loss. A draw whose floor lies above the asked loss never arrives, and opens the intervals above.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from analysis.card import Interval
from analysis.check import discrepancy
from analysis.decide.allocate import (
    MAX_OPEN_DRAWS,
    Allocation,
    AllocationWarning,
    Cells,
    OpenDraws,
    Spans,
    Unreachable,
    assemble,
    displaced,
    extrapolation,
    largest,
    lowered,
    positive,
    require_separable,
)
from analysis.engine.frontier import Cost, cost_table, estimate_and_draws, flops_for, frontier
from analysis.fitting.below_zero import moved
from scaling.errors import Code, UserError

if TYPE_CHECKING:
    from analysis.fitting import Fit

Array = np.ndarray
REACH = 1e4  # times the largest fitted compute, as far as a loss is looked for
CHEAPER = 1e-2  # times the smallest, below which it is not
STEP = 1 / 3  # of log compute


def reaching(
    fit: Fit, loss: float, *, level: float = 0.95, cost: Cost | None = None, force: bool = False
) -> Allocation:
    """The compute, N and D whose compute-optimal expected loss is ``loss``.

    Args:
      loss: in the unit of the fit.
      level, cost, force: as in ``allocate.optimal``.

    Returns:
      The allocation; its own ``loss`` is that of a new run there. Upper ends are open where more of the draws than the
      interval leaves out never reach the loss, and a warning says how many.

    Raises:
      UserError: NOT_IDENTIFIED: the fitted law never reaches the loss, or the runs do not tell N from D; BEYOND: only
        far from the fitted runs; UNSUPPORTED: a law without an optimum; INVALID: no positive number.
    """
    if offset := fit.card.offset:
        try:
            found = reaching(moved(fit, offset), loss + offset, level=level, cost=cost, force=force)
        except UserError as error:
            if error.field == "loss":
                raise _out_of_reach(fit, loss, error.code is not Code.BEYOND) from None
            raise
        return lowered(found, fit)
    (loss,) = positive(loss=loss).values()
    cost = cost_table(fit) if cost is None else cost
    path = _path(fit, cost)
    if not force:
        require_separable(fit)
    log_c = path.first(math.log(loss))
    if not np.isfinite(log_c[0]):
        raise _out_of_reach(fit, loss, bool(log_c[0] > 0))
    found = np.isfinite(log_c)
    log_n, log_d = (path.at(x, log_c, found) for x in (path.log_n, path.log_d))
    cells = displaced(fit, Cells(log_n, log_d), cost)
    compute = float(flops_for(np.exp(cells.log_n[0]), np.exp(cells.log_d[0]), cost))
    warnings = extrapolation(fit, compute, cells.moved, force)
    warnings += _open(fit, log_c, level, REACH * largest(fit), force)
    with np.errstate(invalid="ignore"):
        ends = [np.where(found, logs, log_c) for logs in (cells.log_n, cells.log_d)]
    ratio = (cells.log_d - cells.log_n)[np.isfinite(cells.log_d)]
    size, tokens, ratio, spent = (_interval(logs, level) for logs in (*ends, ratio, log_c))
    spans = Spans(size, tokens, ratio, spent)
    return assemble(fit, {"loss": loss}, cells, spans, warnings, level=level, cost=cost)


class _Path:
    """Frontiers of the estimate and the draws, (1 + S, k) each: log N, log D and log loss at log compute (k,)."""

    def __init__(self, log_c: Array, log_n: Array, log_d: Array, log_loss: Array):
        self.log_c, self.log_n, self.log_d, self.log_loss = log_c, log_n, log_d, log_loss

    def first(self, goal: float) -> Array:
        """Log compute (1 + S,) at which each first has the log loss ``goal``.

        Infinite where it never has, -infinite where it has from the start, NaN without an optimum anywhere.
        """
        under = self.log_loss <= goal
        i, rows = np.argmax(under, axis=1), np.arange(len(under))
        before = np.maximum(i - 1, 0)
        high, low = self.log_loss[rows, before], self.log_loss[rows, i]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(np.isfinite(high) & (high > low), (high - goal) / (high - low), 1.0)
        out = self.log_c[before] + share * (self.log_c[i] - self.log_c[before])
        out = np.where(under.any(1), np.where(i == 0, -np.inf, out), np.inf)
        return np.where(np.isfinite(self.log_n).any(1), out, np.nan)

    def at(self, values: Array, log_c: Array, found: Array) -> Array:
        """``values`` (1 + S, k) at ``log_c`` (1 + S,); NaN where it is not ``found``."""
        out = np.full(len(log_c), np.nan)
        for i in np.flatnonzero(found):
            good = np.isfinite(values[i])
            out[i] = np.interp(log_c[i], self.log_c[good], values[i, good])
        return out


def _path(fit: Fit, cost: Cost | None) -> _Path:
    top = largest(fit)
    ends = math.log(CHEAPER * float(fit.scope.C_min or top)), math.log(REACH * top)
    log_c = np.linspace(*ends, math.ceil((ends[1] - ends[0]) / STEP) + 1)
    log_n, log_d = frontier(fit, np.exp(log_c), cost)
    good = np.isfinite(log_n) & np.isfinite(log_d)
    cells = [np.exp(np.where(good, x, 0.0)) for x in (log_n, log_d)]
    theta = estimate_and_draws(fit)
    log_loss = np.log([fit.law.predict(p, {"N": n, "D": d}) for p, n, d in zip(theta, *cells)])
    log_loss = np.where(good, log_loss, np.inf)
    if fit.discrepancy.k > 0:
        scope = fit.scope
        most = (log_c, scope.C_max), (log_n, scope.N_max), (log_d, scope.D_max)
        over = [np.broadcast_to(x, log_n.shape) - math.log(end) for x, end in most if end]
        beyond = np.maximum(np.max(np.where(good, np.stack(over), 0.0), axis=0), 0.0)
        log_loss[1:] += _deviations(fit, beyond[1:], log_loss[1:])
    return _Path(log_c, log_n, log_d, log_loss)


def _deviations(fit: Fit, beyond: Array, log_loss: Array) -> Array:
    """Deviations of log loss (S, k), one t a draw, ``beyond`` (S, k) e-folds outside the range."""
    t = np.random.default_rng([fit.seed, 4]).standard_t(fit.discrepancy.df, (len(beyond), 1))
    last = np.argmax(beyond > 0, axis=1) - 1  # the last budget within the range
    with np.errstate(invalid="ignore"):
        gained = np.take_along_axis(log_loss, np.maximum(last, 0)[:, None], 1) - log_loss
    gained = np.where(np.isfinite(gained) & (gained > 0), gained, np.inf)
    return discrepancy.below(fit.discrepancy, beyond, fit.discrepancy.k * beyond * t, gained)


def _open(fit: Fit, log_c: Array, level: float, reach: float, force: bool) -> list[AllocationWarning]:
    draws, warnings = log_c[1:], list[AllocationWarning]()
    lost = float(np.isnan(draws).mean())
    if lost > MAX_OPEN_DRAWS and not force:
        remedy = f"is not identified: {lost:.0%} of the draws have no optimum; train more sizes, or insist with --force"
        raise UserError("allocation", fit.law.name, remedy, Code.NOT_IDENTIFIED)
    if lost > (1 - level) / 2:
        warnings.append(OpenDraws(share=lost, forced=lost > MAX_OPEN_DRAWS))
    if (never := float(np.isposinf(draws).mean())) > 0:
        warnings.append(Unreachable(share=never, reach=reach))
    return warnings


def _out_of_reach(fit: Fit, loss: float, never: bool) -> UserError:
    if not never:
        remedy = f"costs less than {CHEAPER:g} times the smallest fitted run: look at the runs themselves"
        return UserError("loss", loss, remedy, Code.BEYOND)
    cell = fit.intervals[fit.law.irreducible] if fit.law.irreducible else None
    floor = "" if cell is None else f" (its floor: {cell.value:.4g}, {cell.lo or 0:.4g} to {cell.hi or math.inf:.4g})"
    remedy = f"is not reached within {REACH:g} times the largest fitted compute under this law{floor}; ask for more"
    return UserError("loss", loss, remedy, Code.NOT_IDENTIFIED)


def _interval(logs: Array, level: float) -> Interval:
    """The estimate and the central interval of the draws; an infinite end is open, draws that are NaN are left out."""
    draws = logs[1:][~np.isnan(logs[1:])]
    if not len(draws):
        return Interval(value=float(np.exp(logs[0])), lo=None, hi=None)
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    low, high = (float(np.exp(end)) if np.isfinite(end) else None for end in (lo, hi))
    return Interval(value=float(np.exp(logs[0])), lo=low, hi=high)
