"""What is wrong or unknowable about a fit: named warnings with the number and the remedy, and a plain verdict.

Identification is a property of the design (sizes, tokens, noise), judged at the fitted law without the noise that
happened: judging the estimate instead selects lucky studies (winner's curse).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimate import Estimate, minimise, refit
from analysis.uncertainty import Groups, Inference, gls, groups_of, ratio_of

Array = np.ndarray
FLOOR_REACHED = 0.01  # a floor whose expected interval reaches this is not identified
WIDE_A = 0.15  # nor is an allocation exponent with a wider expected half-width
REFUTED = 0.01
# rows that agree in all of these, as far as the table has them, are replicates
_SETTING = ("N", "D", "C", "learning_rate", "batch", "width", "depth", "unique_tokens")


def warning(name: str, message: str, **numbers: Any) -> dict[str, Any]:
    return {"name": name, "message": message, **numbers}


def levels(values: Any, tolerance: float = 0.02) -> list[float]:
    """Distinct values, those within ``tolerance`` of their neighbour counted once; ascending."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return [float(v) for i, v in enumerate(ordered) if i == 0 or v > ordered[i - 1] * (1 + tolerance)]


def pure_error(y: Array, table: pd.DataFrame, point: Estimate) -> dict[str, Any]:
    """Noise from replicates (rows of equal columns), and the lack-of-fit F test of the law against it.

    With shared stems both models get the random effect, its ratio taken from the saturated one (cell means), and the
    denominator's degrees of freedom are the extra stems: conservative. Returns {"sd", "df", "cells", "F", "df1",
    "df2", "p"}; p and sd are None without replicates.
    """
    law, n = point.surface.law, len(y)
    same = [c for c in dict.fromkeys((*law.columns, *_SETTING)) if c in table]
    key = table[same].astype(float).apply(lambda row: " ".join(f"{v:.9g}" for v in row), axis=1)
    cells, _ = pd.factorize(key)
    count = int(cells.max()) + 1
    out: dict[str, Any] = {"sd": None, "df": n - count, "cells": count, "F": None, "df1": None, "df2": None, "p": None}
    if n == count:
        return out
    groups = groups_of(table)
    if groups is not None and groups.kind != "stem":
        groups = None  # a size effect common to all replicates of a size cannot be told from the law's misfit
    design = np.eye(count)[cells]
    rho, extra = 0.0, n - count
    free = point.free
    if groups is not None:
        rho, extra = _saturated(y, design, groups)
    if rho > 0 and groups is not None:
        z = gls(point.surface, point.z, y, groups, rho, free)
        white, e = groups.whiten(design.T, rho).T, groups.whiten(y, rho)
        residual = groups.whiten(y - point.surface.evaluate(z[None])[0][0], rho)
    else:
        z, _, _ = minimise(point.surface, point.z[None], y, free=free)
        white, e = design, y
        residual = y - point.surface.evaluate(z)[0][0]
    within = float(((e - white @ np.linalg.lstsq(white, e, rcond=None)[0]) ** 2).sum())
    total = float((residual**2).sum())
    df1, df2 = count - int(free.sum()), (extra if rho > 0 else n - count)
    out["sd"] = math.sqrt(within / (n - count) * (1 + rho))
    if df1 > 0 and df2 > 0 and within > 0:
        F = max(total - within, 0.0) / df1 / (within / (n - count))
        out.update(F=F, df1=df1, df2=df2, p=float(stats.f.sf(F, df1, df2)))
    return out


def _saturated(y: Array, design: Array, groups: Groups) -> tuple[float, int]:
    """REML variance ratio of the cell-mean model and the number of stems beyond one per connected set of cells."""
    rank = int(np.linalg.matrix_rank(np.column_stack([design, np.eye(len(groups.names))[groups.codes]])))
    extra = rank - design.shape[1]
    return (ratio_of(design, y, groups), extra) if extra > 0 else (0.0, 0)


def expected(inference: Inference, level: float) -> dict[str, float | None]:
    """What the design can hope for at the fitted law and noise.

    ``a_half_width``: linearised half-width of a. ``floor_reach``: the profile statistic of floor = 0.01 over its
    critical value (below 1 the expected interval reaches it). None where the law has no such quantity.
    """
    surface, free = inference.surface, inference.free
    out: dict[str, float | None] = {"a_half_width": None, "floor_reach": None}
    t = float(stats.t.ppf(0.5 + level / 2, inference.df))
    z = inference.z_hat
    base = surface.law.exponents(surface.to_theta(z[None]))
    if base is not None and inference.sigma_hat > 0:
        step = 1e-5
        grad = np.zeros(surface.P)
        for i in np.flatnonzero(free):
            up, down = z.copy(), z.copy()
            up[i], down[i] = z[i] + step, max(z[i] - step, 0.0 if z[i] >= 0 else -math.inf)
            pair = surface.law.exponents(surface.to_theta(np.stack([up, down])))
            if pair is not None and up[i] > down[i]:
                grad[i] = (pair["a"][0] - pair["a"][1]) / (up[i] - down[i])
        gram = inference.gram[np.ix_(free, free)]
        cover = np.linalg.pinv(gram, rcond=1e-13, hermitian=True) * inference.sigma_hat**2
        width = t * math.sqrt(max(float(grad[free] @ cover @ grad[free]), 0.0))
        out["a_half_width"] = width if math.isfinite(width) else math.inf
    if surface.floor is not None and free[surface.floor]:
        at = FLOOR_REACHED / surface.scale
        if z[surface.floor] <= at:
            out["floor_reach"] = 0.0
        else:
            fitted = surface.evaluate(z[None])[0][0]
            held = free.copy()
            held[surface.floor] = False
            # from the fit a flat valley is followed down in steps: a jump to E = 0 may leave it
            path, w = z.copy(), inference.groups
            for value in np.linspace(z[surface.floor], at, 6)[1:]:
                path[surface.floor] = value
                path = minimise(surface, path[None], fitted, free=held)[0][0]
            if w is not None and inference.rho > 0:
                path = gls(surface, path, fitted, w, inference.rho, held)
            gap = fitted - surface.evaluate(path[None])[0][0]
            rise = float((gap**2).sum()) if w is None else float(w.quadratic(gap, inference.rho))
            out["floor_reach"] = rise / inference.sigma_hat**2 / t**2
    return out


def influence(point: Estimate, y: Array, ids: list[str], top: int = 10) -> list[dict[str, Any]]:
    """Refits without each row: {"run", "residual" in units of scale, "change": {exponent or a: shift}}, largest first.

    Rows are the 400 with the largest leverage on the objective when there are more.
    """
    n, law = len(y), point.surface.law
    f, _ = point.surface.evaluate(point.z[None])
    r = (y - f[0]) / point.scale
    rows = np.arange(n) if n <= 400 else np.argsort(-np.abs(r), kind="stable")[:400]
    w = np.ones((len(rows), n))
    w[np.arange(len(rows)), rows] = 0.0
    z, _ = refit(point, y, w=w)
    theta = point.surface.to_theta(z)
    name, base, values = _watched(law, point.theta, theta)
    change = values - base
    order = np.argsort(-np.abs(change), kind="stable")[:top]
    return [
        {"run": ids[rows[k]], "residual": float(r[rows[k]]), "quantity": name, "change": float(change[k])}
        for k in order
    ]


def _watched(law: Any, base: Array, theta: Array) -> tuple[str, float, Array]:
    """The quantity whose influence is shown: a where the law has one, else its first exponent."""
    pair = law.exponents(theta)
    if pair is not None:
        return "a", float(law.exponents(base[None])["a"][0]), pair["a"]
    i = law.index(law.main_exponent)
    return law.main_exponent, float(base[i]), theta[:, i]


def diagnose(
    point: Estimate,
    inference: Inference,
    y: Array,
    table: pd.DataFrame,
    *,
    level: float,
    noise: dict[str, Any],
    influential: list[dict[str, Any]],
    intervals: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Every warning of a fit, each {"name", "message", numbers}."""
    law, n, P = point.surface.law, len(y), int(point.free.sum())
    out = []
    z, lower, upper = inference.z_hat, point.lower, point.upper
    for i, c in enumerate(law.coordinates):
        if point.free[i] and (z[i] <= lower[i] + 1e-9 or z[i] >= upper[i] - 1e-9):
            side = "lower" if z[i] <= lower[i] + 1e-9 else "upper"
            out.append(
                warning(
                    "parameter_at_bound",
                    f"{c.name} lies at its {side} bound: these runs do not show it; use a law without it or add runs",
                    parameter=c.name,
                    bound=side,
                )
            )
    out += _identification(inference, level, intervals)
    for column in law.columns:
        count = len(levels(table[column]))
        need = P + 1 if len(law.columns) == 1 else 2 + (law.floor is not None) + (column == "N")
        if count < need:
            name = "too_few_sizes" if column == "N" else "too_few_budgets" if column == "C" else "too_few_tokens"
            message = f"{count} distinct {column}, {need} needed to see the curve's bend: add values of {column}"
            out.append(warning(name, message, column=column, found=count, needed=need))
    if n < 2 * P:
        out.append(
            warning("too_few_runs", f"{n} runs for {P} parameters: aim at {2 * P} or more", rows=n, parameters=P)
        )
    if {"N", "D"} <= set(law.columns):
        r = float(np.corrcoef(np.log(table["N"]), np.log(table["D"]))[0, 1])
        if abs(r) > 0.95:
            message = f"log N and log D correlate {r:.3f}: alpha and beta cannot be told apart; vary D at fixed N"
            out.append(warning("collinear", message, correlation=r))
        if set(law.columns) == {"N", "D"}:  # with repeats, bits or a learning rate, N is not all that differs
            out += _monotone(table, noise)
    # one standard error, or in large tables four times what a row moves it by on average
    share = 0.5 * min(1.0, 4 / math.sqrt(n))
    big = [row for row in influential if abs(row["change"]) > _half(intervals, row["quantity"]) * share]
    if big:
        rows = ", ".join(f"{row['run']} ({row['change']:+.3f})" for row in big[:5])
        message = (
            f"{big[0]['quantity']} moves by more than {share:.2g} of its half-width when one of these is left out: "
            f"{rows}; look at those runs"
        )
        out.append(warning("influential", message, rows=big))
    f = point.surface.evaluate(z[None])[0][0]
    residual = (y - f) / point.scale
    far = np.flatnonzero(np.abs(residual) > 4.5)
    if len(far) and point.scale > 1e-10:
        names = names_of(table)
        worst = far[np.argsort(-np.abs(residual[far]))]
        rows = ", ".join(f"{names[i]} ({residual[i]:+.1f})" for i in worst[:8])
        message = f"{len(far)} runs lie more than 4.5 noise units off the law: {rows}; the fit holds them down, not out"
        listed = [{"run": names[i], "residual": float(residual[i])} for i in worst[:50]]
        out.append(warning("outliers", message, rows=listed))
    if n >= 20 and "C" in table and point.scale > 1e-10:
        cost = np.asarray(table["C"], dtype=np.float64)
        test: Any = stats.spearmanr(np.abs(residual), cost)
        rank, p = float(test.statistic), float(test.pvalue)
        if p < 0.01:
            half = np.argsort(cost, kind="stable")
            low, high = np.abs(residual[half[: n // 2]]), np.abs(residual[half[n // 2 :]])
            ratio = float(np.median(high) / max(np.median(low), 1e-12))
            message = (
                f"residuals of the larger half of the runs are {ratio:.2g} times those of the smaller: check recipes"
            )
            out.append(warning("heteroscedastic", message, spearman=rank, p=p, ratio=ratio))
    if len(point.optima) > 1:
        ranges = {}
        for name in law.names:
            seen = [o["params"][name] for o in point.optima]
            if max(seen) > 1.5 * min(seen) > 0 or max(seen) - min(seen) > abs(max(seen)) / 3:
                ranges[name] = [min(seen), max(seen)]
        where = ", ".join(f"{k} from {lo:.3g} to {hi:.3g}" for k, (lo, hi) in ranges.items())
        message = (
            f"{len(point.optima)} different optima fit within 1 % of the best objective"
            + (f", a flat valley with {where}: these runs do not tell them apart" if where else "")
            + "; see optima on the card"
        )
        out.append(warning("several_optima", message, count=len(point.optima), ranges=ranges))
    epochs = np.asarray(table["epochs"], dtype=np.float64) if "epochs" in table else np.ones(1)
    if (epochs > 1.0001).any() and "U" not in law.columns:
        repeated = int((epochs > 1.0001).sum())
        message = (
            f"{repeated} runs repeat data: D overstates what they saw; fit single-epoch runs or a law with repeats"
        )
        out.append(warning("mixed_epochs", message, rows=repeated, largest=float(np.nanmax(epochs))))
    lack = noise["lack_of_fit"]
    if lack["p"] is not None and lack["p"] < REFUTED:
        message = (
            f"{law.formula} is refuted on these runs: it misses by more than seed noise explains "
            f"(F {lack['F']:.1f} on {lack['df1']} and {lack['df2']} df, p = {lack['p']:.2g}); compare another law"
        )
        out.append(warning("refuted", message, p=lack["p"]))
    return out


def _half(intervals: dict[str, dict[str, Any]], name: str) -> float:
    cell = intervals.get(name)
    if cell is None or cell["lo"] is None or cell["hi"] is None:
        return math.inf
    return (cell["hi"] - cell["lo"]) / 2


def _identification(inference: Inference, level: float, intervals: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    out, hope = [], expected(inference, level)
    floor = inference.surface.law.floor
    if floor and hope["floor_reach"] is not None:
        cell = intervals[floor]
        if hope["floor_reach"] < 1 or cell["lo"] < FLOOR_REACHED:
            lo, hi = cell["lo"], cell["hi"]
            message = (
                f"{floor} is not identified: {lo:.2g} to {hi:.2g} fit equally; "
                "add larger N and D together, or fix it from what is known of the source"
            )
            numbers = {"parameter": floor, "lo": lo, "hi": hi, "expected_statistic": hope["floor_reach"]}
            out.append(warning("not_identified", message, **numbers))
    if hope["a_half_width"] is not None and "a" not in intervals:
        message = "a is not identified: both exponents are zero, the loss does not fall in these runs"
        out.append(warning("not_identified", message, parameter="a"))
    elif hope["a_half_width"] is not None:
        seen = _half(intervals, "a")
        if max(hope["a_half_width"], seen) > WIDE_A:
            cell = intervals["a"]
            message = (
                f"a is not identified: {cell['lo']:.2f} to {cell['hi']:.2f} "
                f"(this design expects +-{hope['a_half_width']:.2f}); add sizes, tokens or seeds"
            )
            numbers = {"parameter": "a", "half_width": seen, "expected_half_width": min(hope["a_half_width"], 1e9)}
            out.append(warning("not_identified", message, **numbers))
    return out


def names_of(table: pd.DataFrame) -> list[str]:
    """The rows' names: column ``run``, else their numbers."""
    return [str(v) for v in (table["run"].tolist() if "run" in table else table.index.tolist())]


def _monotone(table: pd.DataFrame, noise: dict[str, Any]) -> list[dict[str, Any]]:
    """A larger model that is worse at equal D, beyond three standard deviations of a difference of two runs."""
    sd = noise["pure_error"]["sd"] or noise["sigma_run"]  # a badly tuned size hides in sigma_stem
    D = np.log(np.asarray(table["D"], dtype=np.float64))
    N, y = np.asarray(table["N"], dtype=np.float64), np.log(np.asarray(table["loss"], dtype=np.float64))
    worst: tuple[float, int, int] | None = None
    count = 0
    for i in range(len(y)):
        rise = np.where((np.abs(D - D[i]) < 0.02) & (N[i] * 1.02 < N), y - y[i], -np.inf)
        j = int(np.argmax(rise))
        if rise[j] > 3 * math.sqrt(2) * max(sd, 1e-6):
            count += 1
            if worst is None or rise[j] > worst[0]:
                worst = (float(rise[j]), i, j)
    if worst is None:
        return []
    rise, i, j = worst
    message = (
        f"loss is not monotone in N: at D = {math.exp(D[i]):.3g} N = {N[j]:.3g} is {100 * math.expm1(rise):.1f} % "
        f"worse than N = {N[i]:.3g}; check learning rates before believing the law"
    )
    return [warning("not_monotone", message, rows=count, rise_log=rise, N_small=float(N[i]), N_large=float(N[j]))]


def verdict(
    law: Any, intervals: dict[str, dict[str, Any]], warnings: list[dict[str, Any]], noise: dict[str, Any], level: float
) -> str:
    """Plain sentences: what these runs identify, what they do not, and whether the form survives."""
    missing = {w["parameter"] for w in warnings if w["name"] in ("not_identified", "parameter_at_bound")}

    def show(name: str) -> str:
        cell = intervals[name]
        return f"{name} = {cell['value']:.3g} ({_text(cell['lo'])} to {_text(cell['hi'])})"

    shown = [p.name for p in law.params if p.unit == "exponent" or p.name == law.floor]
    shown += ["a"] if "a" in intervals else []
    shown = list(dict.fromkeys(shown))
    good, bad = [n for n in shown if n not in missing], [n for n in shown if n in missing]
    parts = []
    if good:
        parts.append(f"Identified at this scale, {100 * level:g} % intervals: {', '.join(show(n) for n in good)}.")
    if bad:
        parts.append(f"Not identified at this scale: {', '.join(show(n) for n in bad)}.")
    lack = noise["lack_of_fit"]
    if lack["p"] is None:
        parts.append("No replicates: noise is judged by the law's own residuals, so the form cannot be refuted here.")
    elif lack["p"] < REFUTED:
        parts.append(f"The form is refuted: it misses by more than seed noise explains (p = {lack['p']:.2g}).")
    else:
        parts.append(f"Seed noise does not refute the form (p = {lack['p']:.2g}).")
    if law.no_optimum:
        parts.append(f"This law gives no compute-optimal N: {law.no_optimum}.")
    return " ".join(parts)


def _text(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"
