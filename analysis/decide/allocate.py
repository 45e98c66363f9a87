"""How to spend a budget under a fitted law: N, D and loss with intervals, or a refusal with its reason.

A law gives L(N, D); a cost gives the training FLOPs C(N, D); the optimum at a budget is the N that minimises L along
C(N, D) = C. Every draw of the fit has its own optimum, and an interval is the spread of those; beyond the fitted range
each is moved by what the law may be wrong by there (``displaced``, the card's discrepancy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from analysis.check import discrepancy
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
from scaling.errors import UserError

BEND = 0.1  # of log N, for the curvature of log loss along a budget
MOST = 100.0  # times the largest fitted compute
WIDEST = 25.0  # ratio of the ends of the fit's own interval of N or D from which on it says nothing: 5 either way
CARRIED = ("not_identified", "collinear", "approaches_disagree", "refuted")  # warnings of a fit that its answers repeat
OF_THE_FIT = "of the fit: "  # how such a message begins
OPEN = 0.10  # share of draws without an interior optimum above which the allocation is refused


def displaced(
    fit: Any,
    log_n: np.ndarray,
    log_d: np.ndarray,
    cost: Cost | None,
    *,
    given: str = "flops",
    more: Mapping[str, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Optima ln N and ln D, the estimate's and every draw's (1 + S,), the draws with the term for the law being wrong.

    The budget's optimal N is moved by ``discrepancy.shift`` times Student's t, at its compute. Where N is given
    ("params") the same error of the slope moves D, and where D is given ("tokens") it moves N: by the ratio of the
    slope's changes. The third value is the t scale of the move in e-folds: zero within the fitted range, or with the
    discrepancy switched off.
    """
    if not fit.discrepancy["k"] > 0 or not np.isfinite([log_n[0], log_d[0]]).all():
        return log_n, log_d, 0.0
    n, d = float(np.exp(log_n[0])), float(np.exp(log_d[0]))
    x = float(discrepancy.beyond(fit.scope, {"N": n, "D": d, "C": flops_for(n, d, cost)})[0])
    scale = discrepancy.shift(fit.discrepancy, x)
    if scale > 0 and given != "flops":
        scale *= abs(_bend(fit, n, d, cost, "flops", more) / _bend(fit, n, d, cost, given, more))
    if not 0 < scale < math.inf:
        return log_n, log_d, 0.0
    t = np.random.default_rng([fit.seed, 3]).standard_t(fit.discrepancy["df"], len(log_n) - 1)
    moved = np.concatenate([[0.0], scale * t])
    if given != "flops":
        return (log_n, log_d + moved, scale) if given == "params" else (log_n + moved, log_d, scale)
    good, out_n, out_d = np.isfinite(log_n), log_n + moved, np.array(log_d)
    flops = flops_for(np.exp(log_n[good]), np.exp(log_d[good]), cost)
    out_d[good] = np.log(tokens_for(flops, np.exp(out_n[good]), cost))
    return out_n, out_d, scale


def _bend(fit: Any, n: float, d: float, cost: Cost | None, given: str, more: Mapping[str, float] | None) -> float:
    """Change of d log L / d log N along the budget, per e-fold of what is free at the cell: see ``displaced``."""
    step = np.exp(BEND * np.array([-1.0, 1.0]))
    if given == "params":
        sizes, tokens = np.full(2, n), d * step
    elif given == "tokens":
        sizes, tokens = n * step, np.full(2, d)
    else:
        sizes, tokens = n * step, tokens_for(flops_for(n, d, cost), n * step, cost)
    flops, theta = flops_for(sizes, tokens, cost), fit.law.vector(fit.params)[None]
    above, below = (
        log_losses(fit.law, theta, sizes * s, tokens_for(flops, sizes * s, cost), more)[0] for s in step[::-1]
    )
    slope = (above - below) / (2 * BEND)
    return float(slope[1] - slope[0]) / (2 * BEND)


def optimal(
    fit: Any,
    *,
    flops: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    level: float = 0.95,
    cost: Cost | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """What to train: the allocation and its loss, each ``{value, lo, hi}``. JSON.

    One of ``flops``, ``params``, ``tokens`` asks for the compute-optimal partner(s) of it; two of them fix the cell
    and ask for its loss.

    Args:
      cost: C(N, D) as a callable, or exact FLOPs per token by size ``{"N": [...], "flops_per_token": [...]}``
        (interpolated smoothly). By default that table of the fit's own runs (``cost_table``), else C = 6ND on its N.
      force: answer where the answer would be refused, with the reason as a warning.

    Raises:
      UserError: no interior optimum, an allocation that is not identified, a compute above 100 times the largest that
        was fitted, or nothing asked.
    """
    asked = {k: float(v) for k, v in (("flops", flops), ("params", params), ("tokens", tokens)) if v is not None}
    for name, value in asked.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(name, value, "must be a positive number")
    if len(asked) not in (1, 2):
        raise UserError("predict", ", ".join(asked) or "nothing", "give one or two of --flops, --params, --tokens")
    cost = cost_table(fit) if cost is None else cost
    moved = 0.0
    if len(asked) == 2:
        log_n, log_d = _cell(asked, cost)
    elif "flops" in asked:
        log_n, log_d = (x[:, 0] for x in frontier(fit, np.array([asked["flops"]]), cost))
        log_n, log_d, moved = displaced(fit, log_n, log_d, cost)
    else:
        log_n, log_d = _partner(fit, asked, cost)
        log_n, log_d, moved = displaced(fit, log_n, log_d, cost, given=next(iter(asked)))
    return answer(fit, asked, log_n, log_d, level=level, cost=cost, force=force, moved=moved)


def answer(
    fit: Any,
    asked: Mapping[str, float],
    log_n: np.ndarray,
    log_d: np.ndarray,
    *,
    level: float,
    cost: Cost | None,
    force: bool,
    more: Mapping[str, float] | None = None,
    moved: float | None = 0.0,
) -> dict[str, Any]:
    """The result of ``optimal`` for cells chosen by the estimate and every draw, ln N and ln D (1 + S,) or (1,).

    Refuses, or warns, where the answer is not supported. ``more``: further columns of the law at the cell. ``moved``:
    the t scale by which the discrepancy moves the draws (``displaced``), None where it should and does not.
    """
    warnings: list[dict[str, Any]] = []
    bad = ~(np.isfinite(log_n) & np.isfinite(log_d))
    if bad[0]:
        what = "the fitted law has no interior optimum here (one term explains all, or an exponent is at its bound)"
        raise UserError("allocation", fit.law.name, f"is not identified: {what}; train more sizes and tokens")
    n, d = float(np.exp(log_n[0])), float(np.exp(log_d[0]))
    compute = float(flops_for(n, d, cost))
    ratio = compute / float(fit.scope["C_max"])
    if ratio > MOST:
        reason = f"is {ratio:.3g} times the largest fitted compute ({fit.scope['C_max']:.3g} FLOPs)"
        _refuse(force, warnings, "extrapolation", f"{compute:.4g} FLOPs", reason)
    elif ratio > 1:
        held = "; the intervals hold a term for that, the discrepancy"
        if moved is None:
            held = "; the interval of the loss holds a term for that, those of N and D do not"
        held = held if fit.discrepancy["k"] > 0 else ", which no interval here holds"
        message = f"{ratio:.3g} times the largest fitted compute: the law itself may bend{held}; train nearer to it"
        warnings.append({"name": "extrapolation", "message": message})
    share = float(bad[1:].mean()) if len(bad) > 1 else 0.0
    if share > OPEN:
        _refuse(
            force, warnings, "allocation", fit.law.name, f"is not identified: {share:.0%} of the draws have no optimum"
        )
    elif share > (1 - level) / 2:
        message = f"{share:.0%} of the draws have no interior optimum; the intervals are open: train more sizes"
        warnings.append({"name": "allocation", "message": message})
    further = {name: np.array([value]) for name, value in (more or {}).items()}
    cell = {"N": np.array([n]), "D": np.array([d]), "C": np.array([compute]), **further}
    loss = fit.predict(cell, level=level, new_run=True)
    log_c = np.full_like(log_n, np.nan)
    log_c[~bad] = np.log(flops_for(np.exp(log_n[~bad]), np.exp(log_d[~bad]), cost))
    open_ended = share > (1 - level) / 2
    cells = {"N": _interval(log_n, level, open_ended), "D": _interval(log_d, level, open_ended)}
    name, wide = max(cells.items(), key=lambda item: (item[1]["hi"] or 1.0) / (item[1]["lo"] or 1.0))
    if wide["lo"] and wide["hi"] and _own(wide["hi"] / wide["lo"], fit, moved, level) > WIDEST:
        reason = f"says nothing of {name}: {wide['lo']:.2g} to {wide['hi']:.2g} by these runs"
        _refuse(force, warnings, "allocation", fit.law.name, reason)
    warnings += [
        {"name": w["name"], "message": f"{OF_THE_FIT}{w['message']}"} for w in fit.warnings if w["name"] in CARRIED
    ]
    return {
        "schema": 1,
        "kind": "allocation",
        "law": fit.law.name,
        "asked": dict(asked),
        "level": level,
        **cells,
        "tokens_per_parameter": _interval(log_d - log_n, level, open_ended),
        "flops": _interval(log_c, level, open_ended),
        "loss": {k: float(np.asarray(loss[k])[0]) for k in ("value", "lo", "hi")},
        "extrapolation_ratio": ratio,
        "discrepancy": _wrong(fit, cell, moved),
        "sensitivity": _sensitivity(fit, n, compute, cost, more),
        "conventions": {**fit.conventions, "cost": _cost_words(cost)},
        "warnings": warnings,
    }


def _wrong(fit: Any, cell: Mapping[str, np.ndarray], moved: float | None) -> dict[str, Any] | None:
    """The term for the law being wrong at a cell: t scales of log loss and of the move of the optimum in e-folds."""
    k = fit.discrepancy["k"]
    if not k > 0:
        return None
    x = float(discrepancy.beyond(fit.scope, cell)[0])
    return {"e_folds_beyond": x, "k": k, "log_loss": k * x, "optimum": moved if moved is None else float(moved)}


def _own(ratio: float, fit: Any, moved: float | None, level: float) -> float:
    """The ratio of an interval's ends without what the discrepancy adds, the two taken in squares of logarithms."""
    other = float(special.stdtrit(fit.discrepancy["df"], 0.5 + level / 2)) * moved if moved else 0.0
    return math.exp(2 * math.sqrt(max((math.log(ratio) / 2) ** 2 - other**2, 0.0)))


def _refuse(force: bool, warnings: list[dict[str, Any]], name: str, value: object, reason: str) -> None:
    if not force:
        raise UserError(name, value, f"{reason}; train nearer to it, or insist with --force")
    warnings.append({"name": name, "message": f"{value} {reason}; forced"})


def _cost_words(cost: Cost | None) -> str:
    if cost is None:
        return "C = 6ND on the N of the fit"
    if callable(cost):
        return "C(N, D) as given by the family"
    return "exact FLOPs per token by size; between and beyond the sizes the surplus over 6N follows a power of N"


def _cell(asked: dict[str, float], cost: Cost | None) -> tuple[np.ndarray, np.ndarray]:
    if "flops" not in asked:
        n, d = asked["params"], asked["tokens"]
    elif "params" in asked:
        n = asked["params"]
        d = float(tokens_for(asked["flops"], np.array(n), cost))
    else:
        d = asked["tokens"]
        n = math.exp(size_for(asked["flops"], d, cost))
    return np.log([n]), np.log([d])


def _partner(fit: Any, asked: dict[str, float], cost: Cost | None) -> tuple[np.ndarray, np.ndarray]:
    """The D for which a given N is compute-optimal, or the N for a given D: where moving along C changes nothing."""
    law, theta = fit.law, estimate_and_draws(fit)
    frontier(fit, np.array([1.0]), None)  # refuses a law without an optimum
    given_n = "params" in asked
    fixed = np.log(asked["params"] if given_n else asked["tokens"])
    ratio = np.arange(np.log(RATIOS[0]), np.log(RATIOS[1]), 2 * STEP)
    log_n = np.full_like(ratio, fixed) if given_n else (fixed - ratio)[::-1]
    log_d = fixed + ratio if given_n else np.full_like(ratio, fixed)
    free = log_d if given_n else log_n
    flops = flops_for(np.exp(log_n), np.exp(log_d), cost)
    sides = [(np.exp(log_n + s), tokens_for(flops, np.exp(log_n + s), cost)) for s in (STEP, -STEP)]
    found = np.empty(len(theta))
    for start in range(0, len(theta), CHUNK):
        part = theta[start : start + CHUNK]
        gain = log_losses(law, part, *sides[0]) - log_losses(law, part, *sides[1])  # > 0: N is too large
        gain = -gain if given_n else gain  # now rises through zero along ``free``
        crossed = (gain[:, 1:] > 0) & (gain[:, :-1] <= 0)
        i, rows = np.argmax(crossed, axis=1), np.arange(len(part))
        low, high = gain[rows, i], gain[rows, i + 1]
        weight = np.where(crossed.any(1), -low / np.where(high > low, high - low, 1.0), np.nan)
        found[start : start + CHUNK] = free[i] + weight * (free[1] - free[0])
    other = np.where(np.isfinite(found), fixed, np.nan)
    return (other, found) if given_n else (found, other)


def _interval(logs: np.ndarray, level: float, open_ended: bool) -> dict[str, float | None]:
    value, draws = float(np.exp(logs[0])), logs[1:][np.isfinite(logs[1:])]
    if len(logs) == 1 or np.ptp(logs[np.isfinite(logs)]) == 0:
        return {"value": value, "lo": value, "hi": value}
    if open_ended or len(draws) == 0:
        return {"value": value, "lo": None, "hi": None}
    lo, hi = np.exp(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
    return {"value": value, "lo": float(lo), "hi": float(hi)}


def _sensitivity(
    fit: Any, n: float, flops: float, cost: Cost | None, more: Mapping[str, float] | None = None
) -> dict[str, float]:
    """By how much the loss rises, as a fraction, where N is half or twice this at the same compute; below zero where
    it falls, as beyond a condition that holds N off the optimum."""
    sizes = n * np.array([1.0, 0.5, 2.0])
    theta = fit.law.vector(fit.params)[None]
    loss = np.exp(log_losses(fit.law, theta, sizes, tokens_for(flops, sizes, cost), more))[0]
    return {"half_N": float(loss[1] / loss[0] - 1), "double_N": float(loss[2] / loss[0] - 1)}
