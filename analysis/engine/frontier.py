"""The compute-optimal frontier of a law: the N and D of lowest loss along C(N, D) = C.

The training cost C is 6ND, exact FLOPs per token by size (interpolated), or a function of N and D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from analysis.card import Derived, FitCard
from analysis.laws import Law
from analysis.table.rounding import rounded
from scaling.errors import Code, UserError

Cost = Callable[[np.ndarray, np.ndarray], np.ndarray] | Mapping[str, Sequence[float]]
RATIOS = (1e-4, 1e7)  # tokens per parameter: an optimum outside this range does not count as interior
STEP = 0.025  # step of log N; a parabola through the best three points refines the optimum
CHUNK = 500  # draws evaluated at once
UNIQUE = ("U", "unique_tokens")  # the column of a law with repeats (Muennighoff 2023, arXiv 2305.16264)


class Fitted(Protocol):
    """The part of ``fitting.Fit`` that packages below ``fitting`` read."""

    @property
    def card(self) -> FitCard: ...
    @property
    def law(self) -> Law: ...
    @property
    def params(self) -> dict[str, float]: ...
    @property
    def derived(self) -> Derived: ...
    @property
    def level(self) -> float: ...
    @property
    def draws(self) -> np.ndarray: ...
    @property
    def columns(self) -> dict[str, np.ndarray]: ...


def cost_table(fit: Fitted) -> dict[str, list[float]] | None:
    """Exact training FLOPs per token by size, from the fitted runs.

    None where C is 6ND, or where C / D varies within a size, so that size alone does not determine the cost.
    """
    if not {"N", "D", "C"} <= set(fit.columns):
        return None
    n, d, c = (fit.columns[k] for k in ("N", "D", "C"))
    surplus, n = np.log(c / (6.0 * n * d)), rounded(n)
    sizes = [surplus[n == size] for size in np.unique(n)]
    if np.abs(surplus).max() < 0.01 or max(np.ptp(s) for s in sizes) > 0.02:
        return None
    sizes = np.unique(n)
    return {"N": sizes.tolist(), "flops_per_token": [float(np.median((c / d)[n == size])) for size in sizes]}


def tokens_for(flops: np.ndarray | float, n: np.ndarray, cost: Cost | None) -> np.ndarray:
    """Tokens D that ``flops`` pay for at sizes ``n`` (shapes broadcast). ``cost`` as in ``optimal``."""
    flops, n = np.broadcast_arrays(np.asarray(flops, dtype=float), np.asarray(n, dtype=float))
    if not callable(cost):
        return flops / _per_token(n, cost)
    with np.errstate(over="ignore"):
        return np.exp(bisect(lambda log_d: cost(n, np.exp(log_d)) > flops, np.log(flops / n)))


def bisect(above: Callable[[Any], Any], middle: Any, reach: float = 40.0) -> Any:
    """Where ``above``, which must be monotone, turns true within ``reach`` of ``middle`` (any shape), by bisection."""
    low, high = middle - reach, middle + reach
    for _ in range(54):  # from a range of 80 down to the last digit
        at = (low + high) / 2
        too_far = above(at)
        low, high = np.where(too_far, low, at), np.where(too_far, at, high)
    return (low + high) / 2


def size_for(flops: float, tokens: float, cost: Cost | None) -> float:
    """ln N of the size whose training on ``tokens`` costs ``flops``."""
    return float(bisect(lambda log_n: flops_for(np.exp(log_n), tokens, cost) > flops, np.log(flops / 6 / tokens)))


def flops_for(n: np.ndarray | float, d: np.ndarray | float, cost: Cost | None) -> np.ndarray:
    """Training FLOPs of ``d`` tokens at sizes ``n``."""
    n, d = np.asarray(n, dtype=float), np.asarray(d, dtype=float)
    return np.asarray(cost(n, d), dtype=float) if callable(cost) else _per_token(n, cost) * d


def frontier(fit: Fitted, flops: np.ndarray, cost: Cost | None = None) -> tuple[np.ndarray, np.ndarray]:
    """ln N_opt and ln D_opt at budgets ``flops`` (k,), for the estimate and every draw.

    Returns:
      Two arrays (1 + S, k), the estimate first. NaN where a parameter set has no optimum with tokens per parameter
      within ``RATIOS``.

    Raises:
      UserError: the law has no interior optimum under any parameters.
    """
    return optimum_along(fit.law, estimate_and_draws(fit), flops, cost)


def optimum_along(
    law: Law, theta: np.ndarray, flops: np.ndarray, cost: Cost | None = None, *, sharp: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """``frontier`` for parameters ``theta`` (S, P): ln N_opt and ln D_opt, each (S, k).

    A numerical search is accurate to about 1e-4; ``sharp`` refines it to 1e-9, as derivatives need.
    """
    flops = np.atleast_1d(np.asarray(flops, dtype=float))
    if law.no_optimum or not {"N", "D"} <= set(law.columns):
        reason = law.no_optimum or f"it is a law of {', '.join(law.columns)} and needs N and D"
        alone = "give the value of its column (--x), or " if len(law.columns) == 1 else ""
        remedy = f"has no optimal N at a budget: {reason}; {alone}fit another law (chinchilla)"
        raise UserError("law", law.name, remedy, Code.UNSUPPORTED)
    if more := sorted(set(law.columns) - {"N", "D"}):
        remedy = "give --unique_tokens" if set(more) <= set(UNIQUE) else "fit a law of N and D where they are held"
        raise UserError("law", law.name, f"also depends on {', '.join(more)}; {remedy}", Code.MISSING)
    if cost is None and law.exponents(theta) is not None:
        n, d = law.optimum(theta, flops)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_n, log_d = np.log(n), np.log(d)
            bad = ~((log_d - log_n > np.log(RATIOS[0])) & (log_d - log_n < np.log(RATIOS[1])))
        return np.where(bad, np.nan, log_n), np.where(bad, np.nan, log_d)
    optima = [minimum_along(law, theta, float(c), cost) for c in flops]
    if sharp:
        optima = [_sharpen(law, theta, float(c), cost, n) for c, (n, _) in zip(flops, optima)]
    return np.stack([n for n, _ in optima], 1), np.stack([d for _, d in optima], 1)


def _sharpen(
    law: Law, theta: np.ndarray, flops: float, cost: Cost | None, log_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Refines the search's optimum by Newton steps on d log L / d log N along the budget."""
    h, out = 1e-3, np.array(log_n)
    for i in np.flatnonzero(np.isfinite(log_n)):
        for _ in range(6):
            n = np.exp(out[i] + h * np.array([-1.0, 0.0, 1.0]))
            down, at, up = log_losses(law, theta[i : i + 1], n, tokens_for(flops, n, cost))[0]
            bend = up - 2 * at + down
            if not bend > 0:
                break
            move = float(np.clip(-h * (up - down) / (2 * bend), -STEP, STEP))
            out[i] += move
            if abs(move) < 1e-10:
                break
    with np.errstate(invalid="ignore"):
        return out, np.log(tokens_for(flops, np.exp(out), cost))


def estimate_and_draws(fit: Fitted) -> np.ndarray:
    """The estimate and the draws, (1 + S, P).

    UserError for a fit of losses below zero (UNSUPPORTED): what is computed from these is a ratio of losses.
    """
    if fit.card.offset:
        remedy = "is not possible with losses below zero; predict takes --flops, --params, --tokens, --x and --loss"
        raise UserError("fit", fit.law.name, remedy, Code.UNSUPPORTED)
    return np.vstack([fit.law.vector(fit.params)[None], np.asarray(fit.draws, dtype=float)])


def _per_token(n: np.ndarray, cost: Any) -> np.ndarray:
    if cost is None:
        return 6.0 * n
    try:
        log_n, log_f = np.log(np.asarray(cost["N"], float)), np.log(np.asarray(cost["flops_per_token"], float))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "cost", cost, 'must be a function of (N, D) or {"N": [...], "flops_per_token": [...]}'
        ) from error
    order = np.argsort(log_n)
    log_n, log_f, x = log_n[order], log_f[order], np.log(n)
    if len(log_n) == 0 or len(log_n) != len(log_f) or not np.all(np.diff(log_n) > 0):
        raise UserError("cost", cost, "needs one FLOPs per token for each of one or more different sizes")
    surplus = log_f - log_n - np.log(6.0)
    if len(log_n) > 1 and np.all(surplus > 1e-6):
        # The share of attention and head in the cost falls nearly as a power of N, so the table is nearly straight in
        # these logs and the optimum does not stick to its sizes. Beyond it the last slope continues, but never rises.
        share = np.log(np.expm1(surplus))
        low, high = (min(0.0, float(np.diff(share)[i] / np.diff(log_n)[i])) for i in (0, -1))
        inside = np.interp(x, log_n, share)
        inside = inside + low * np.minimum(x - log_n[0], 0.0) + high * np.maximum(x - log_n[-1], 0.0)
        return 6.0 * np.exp(x) * (1.0 + np.exp(inside))
    # A count of N that holds more than what is multiplied: no such rule, so the ratio to 6N keeps its last value.
    if len(log_n) > 2:
        from scipy.interpolate import PchipInterpolator  # slow to import, and seldom needed

        return 6.0 * np.exp(x + PchipInterpolator(log_n, surplus)(np.clip(x, log_n[0], log_n[-1])))
    return 6.0 * np.exp(x + np.interp(x, log_n, surplus))


def log_losses(
    law: Law, theta: np.ndarray, n: np.ndarray, d: np.ndarray, more: Mapping[str, float] | None = None
) -> np.ndarray:
    constant = {name: np.full(len(n), value) for name, value in (more or {}).items()}
    with np.errstate(over="ignore", invalid="ignore"):
        return np.log(law.predict(theta, {"N": n, "D": d, **constant}))


def minimum_along(
    law: Law, theta: np.ndarray, flops: float, cost: Cost | None, more: Mapping[str, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """ln N and ln D of the lowest loss along one budget, each (S,); NaN where it lies at an end of the search.

    ``more`` gives the law's other columns a constant value each.
    """
    ends = 0.5 * np.log(flops / 6.0 / np.array(RATIOS[::-1]))
    log_n = np.arange(ends[0], ends[1], STEP)
    n = np.exp(log_n)
    log_d = np.log(tokens_for(flops, n, cost))
    log_n_opt = np.empty(len(theta))
    for start in range(0, len(theta), CHUNK):
        loss = log_losses(law, theta[start : start + CHUNK], n, np.exp(log_d), more)
        i = np.argmin(np.where(np.isfinite(loss), loss, np.inf), axis=1)
        corner = (i == 0) | (i == len(n) - 1)
        k = np.clip(i, 1, len(n) - 2)
        rows = np.arange(len(loss))
        left, middle, right = (loss[rows, k + s] for s in (-1, 0, 1))
        bend = left - 2 * middle + right
        shift = np.where(bend > 0, (left - right) / (2 * np.where(bend > 0, bend, 1.0)), 0.0)
        log_n_opt[start : start + CHUNK] = np.where(corner, np.nan, log_n[k] + STEP * np.clip(shift, -1, 1))
    return log_n_opt, np.interp(log_n_opt, log_n, log_d)
