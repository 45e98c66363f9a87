"""What is wrong or unknowable about a fit: named warnings with the number and the remedy, and a plain verdict.

Identification is a property of the design (sizes, tokens, noise), judged at the fitted law without the noise that
happened: judging the estimate instead selects lucky studies (winner's curse).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.check.influence import FAR, LARGE, outlying, together
from analysis.engine import profile as valley
from analysis.engine.estimate import Estimate, minimise
from analysis.engine.inference import Inference, prior_cost
from analysis.engine.random_effects import gls
from analysis.laws import Law

Array = np.ndarray
FLOOR_REACHED = 0.01  # a floor whose expected interval reaches this is not identified
WIDE_A = 0.15  # nor is an allocation exponent with a wider expected half-width
KNOWN = 2.0  # nor is a positive scale that is not known within this factor either way
# a design at that width shows a smaller one in most studies; below this one in less than 3 % (benchmarks/coverage.py)
DOUBTFUL_A = 0.085
REFUTED = 0.01
STANDINGS = ("yes", "roughly", "no", "by the form")
DIVERGED = math.log(1.5)  # of log loss above the law of the others, from which on a run looks diverged


def warning(name: str, message: str, **numbers: Any) -> dict[str, Any]:
    return {"name": name, "message": message, **numbers}


def levels(values: Any, tolerance: float = 0.02) -> list[float]:
    """Distinct values, those within ``tolerance`` of their neighbour counted once; ascending."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return [float(v) for i, v in enumerate(ordered) if i == 0 or v > ordered[i - 1] * (1 + tolerance)]


def expected(inference: Inference, level: float) -> dict[str, float | None]:
    """What the design can hope for at the fitted law and noise.

    ``a_half_width``: linearised half-width of a. ``floor_reach``: the profile statistic of floor = 0.01 over its
    critical value (below 1 the expected interval reaches it). None where the law has no such quantity.
    """
    surface, free = inference.surface, inference.free
    out: dict[str, float | None] = {"a_half_width": None, "floor_reach": None}
    t = float(special.stdtrit(inference.df, 0.5 + level / 2))
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
            rise += prior_cost(inference, path) - prior_cost(inference, z)
            out["floor_reach"] = rise / inference.sigma_hat**2 / t**2
    return out


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
    z, lower, upper = inference.z_hat, point.surface.lower, point.surface.upper
    for i, c in enumerate(law.coordinates):
        if point.free[i] and (z[i] <= lower[i] + 1e-9 or z[i] >= upper[i] - 1e-9):
            side = "lower" if z[i] <= lower[i] + 1e-9 else "upper"
            remedy = "these runs do not show it; use a law without it, fix it or add runs"
            out.append(
                warning(
                    "parameter_at_bound",
                    f"{c.name} lies at its {side} bound {getattr(c, side):g}: {remedy}",
                    parameter=c.name,
                    bound=side,
                )
            )
    if inference.astray is not None:
        message = (
            f"stem effects of {inference.astray:.1%} would free the law of its levels, far from the runs; they are "
            "held to what its residuals show: the form is wrong along D, compare others (--law=all)"
        )
        out.append(warning("stem_effects", message, sd=inference.astray))
    out += _identification(inference, level, intervals)
    out += _scales(point, inference, level, intervals)
    for column in law.columns:
        if table[column].dtype == object or column in law.steady:
            continue  # an array a row: a schedule; or what has no bend of its own
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
    off, apart = outlying(point, y) if point.scale > 1e-10 else (np.zeros(0, dtype=int), np.zeros(n))
    out += _influential(point, y, names_of(table), off, apart, influential, intervals)
    if len(off):
        names = names_of(table)
        rows = ", ".join(f"{names[i]} ({apart[i]:+.1f})" for i in off[:10])
        held = "gives them full weight" if math.isinf(point.delta) else "holds them down, not out"
        lie = "run lies" if len(off) == 1 else "runs lie"
        message = (
            f"{len(off)} {lie} more than {FAR} noise units off the law of the others: {rows}; the fit {held}: look at "
            "them, and leave out what is broken (--where)"
        )
        listed = [{"run": names[i], "residual": float(apart[i])} for i in off[:50]]
        out.append(warning("outliers", message, rows=listed))
        out += _diverged(law, inference.theta_hat, table, off, names)
    residual = (y - point.surface.evaluate(z[None])[0][0]) / point.scale
    if n >= 20 and "C" in table and point.scale > 1e-10:
        cost = np.asarray(table["C"], dtype=np.float64)
        from scipy import stats  # a third of a second, which other tables need not wait for

        test: Any = stats.spearmanr(np.abs(residual), cost)
        rank, p = float(test.statistic), float(test.pvalue)
        if p < 0.01:
            half = np.argsort(cost, kind="stable")
            low, high = np.abs(residual[half[: n // 2]]), np.abs(residual[half[n // 2 :]])
            ratio = float(np.median(high) / max(np.median(low), 1e-12))
            message = (
                f"residuals of the larger half of the runs are {ratio:.2g} times those of the smaller: check the "
                "recipes of those that scatter, or weigh rows by what seeds say of their noise (--weights=seeds)"
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
            + "; see optima on the card, and add runs where these differ, or fix a parameter (--fixed)"
        )
        out.append(warning("several_optima", message, count=len(point.optima), ranges=ranges))
    epochs = np.asarray(table["epochs"], dtype=np.float64) if "epochs" in table else np.ones(1)
    if (epochs > 1.0001).any() and "U" not in law.columns:
        repeated = int((epochs > 1.0001).sum())
        message = (
            f"{repeated} runs repeat data: D overstates what they saw; fit single-epoch runs or a law with repeats"
        )
        out.append(warning("mixed_epochs", message, rows=repeated, largest=float(np.nanmax(epochs))))
    if "schedule" in table and not law.curve:
        kinds = table["schedule"].dropna().astype(str).value_counts()
        if len(kinds) > 1:
            parts = ", ".join(f"{count} {name}" for name, count in kinds.items())
            message = f"runs of different schedules are fitted together ({parts}): choose one with --where"
            out.append(warning("mixed_schedules", message, rows={str(k): int(v) for k, v in kinds.items()}))
    lack = noise["lack_of_fit"]
    if lack["p"] is not None and lack["p"] < REFUTED:
        message = (
            f"{law.formula} is refuted on these runs: it misses by more than seed noise explains "
            f"(F {lack['F']:.1f} on {lack['df1']} and {lack['df2']} df, p = {lack['p']:.2g}); compare another law"
        )
        out.append(warning("refuted", message, p=lack["p"]))
    return out


def _influential(
    point: Estimate,
    y: Array,
    names: list[str],
    off: Array,
    residual: Array,
    alone: list[dict[str, Any]],
    intervals: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Rows that decide a (or the first exponent): one by one, and those that hide each other."""
    # one standard error, or in large tables eight times what a row moves it by on average: normal noise moves it by six
    share = 0.5 * min(1.0, 8 / math.sqrt(len(y)))
    single = [row for row in alone if abs(row["change"]) > _half(intervals, row["quantity"]) * share]
    parts, rows, numbers = [], [], {}
    curve = point.surface.law.curve  # whole curves are left out, not steps of them
    group = None if curve else together(point, y, off)
    if group is not None and abs(group["change"]) > _half(intervals, group["quantity"]) * share:
        rows = [
            {
                "run": names[i],
                "residual": float(residual[i]),
                "quantity": group["quantity"],
                "change": change,
                "change_of_others": -back,
            }
            for i, change, back in zip(group["rows"], group["alone"], group["back"])
        ]
        shown = ", ".join(row["run"] for row in rows[:10]) + (" ..." if len(rows) > 10 else "")
        parts.append(
            f"{group['quantity']} moves by {group['change']:+.3f} when the {len(rows)} runs that lie off the law of "
            f"the others and pull it one way are left out together: {shown} (one by one at most "
            f"{max(map(abs, group['alone'])):.3f}: they hide each other)"
        )
        numbers["together"] = {"runs": [row["run"] for row in rows], "change": group["change"]}
    if single:
        shown = ", ".join(f"{row['run']} ({row['change']:+.3f})" for row in single[:5])
        quantity = single[0]["quantity"]
        parts.append(f"{quantity} moves by more than {share:.2g} of its half-width when one is left out: {shown}")
    named = {row["run"] for row in rows}
    rows += [row for row in single if row["run"] not in named]
    return [warning("influential", "; ".join(parts) + "; look at those runs", rows=rows, **numbers)] if rows else []


def _half(intervals: dict[str, dict[str, Any]], name: str) -> float:
    cell = intervals.get(name)
    if cell is None or cell["lo"] is None or cell["hi"] is None:
        return math.inf
    return (cell["hi"] - cell["lo"]) / 2


def _identification(inference: Inference, level: float, intervals: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    out, hope = [], expected(inference, level)
    floor = inference.surface.law.floor
    if floor and hope["floor_reach"] is not None:
        cell, reach = intervals[floor], hope["floor_reach"]
        numbers = {"parameter": floor, "lo": cell["lo"], "hi": cell["hi"], "expected_statistic": reach}
        remedy = "add larger N and D together, or fix it from what is known of the source"
        span = f"{cell['lo']:.2g} to {cell['hi']:.2g}"
        # where the noise is as large as its upper 95 % bound
        worst = reach * float(2 * special.gammaincinv(inference.df / 2, 0.05)) / inference.df
        if reach < 1 or cell["lo"] < FLOOR_REACHED:
            message = f"{floor} is not identified: {span} fit equally; {remedy}"
            out.append(warning("not_identified", message, **numbers))
        elif worst < 1:
            message = f"{floor} may not be identified ({span}): with a little more noise 0 would fit, too; {remedy}"
            out.append(warning("doubtful", message, **numbers))
    width = hope["a_half_width"]
    if width is not None and "a" not in intervals:
        message = "a is not identified: both exponents are zero, the loss does not fall in these runs; add larger ones"
        out.append(warning("not_identified", message, parameter="a"))
    elif width is not None:
        cell, seen = intervals["a"], _half(intervals, "a")
        numbers = {"parameter": "a", "half_width": seen, "expected_half_width": min(width, 1e9)}
        span = f"{cell['lo']:.2f} to {cell['hi']:.2f} (this design expects +-{width:.2f})"
        if max(width, seen) > WIDE_A:
            message = f"a is not identified: {span}; add sizes, tokens or seeds"
            out.append(warning("not_identified", message, **numbers))
        elif max(width, seen) > DOUBTFUL_A:
            message = (
                f"a may not be identified: {span}, and such a width is itself uncertain; add sizes, tokens or seeds"
            )
            out.append(warning("doubtful", message, **numbers))
    return out


def _scales(
    point: Estimate, inference: Inference, level: float, intervals: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Half-lives, breaks and other positive scales that are not known within a factor ``KNOWN`` either way, or of which
    the card's interval, made around the estimate, stops short of what fits equally by that factor."""
    out = []
    for name, (low, high) in valley.ranges(point, inference, level).items():
        ends = intervals[name]["lo"] or 0.0, math.inf if intervals[name]["hi"] is None else intervals[name]["hi"]
        lo, hi = min(low, ends[0]), max(high, ends[1])
        short = max(hi / ends[1] if ends[1] < math.inf else 1.0, ends[0] / max(lo, 1e-300))  # of the printed interval
        if hi > KNOWN**2 * lo or short > KNOWN:
            span = f"{lo:.3g} to {hi:.3g}" if math.isfinite(hi) else f"{lo:.3g} and more"
            message = f"{name} is not identified: {span} fit equally; add runs where it matters, or fix it"
            numbers = {"parameter": name, "lo": lo, "hi": hi if math.isfinite(hi) else None}
            out.append(warning("not_identified", message, **numbers))
    return out


def _diverged(law: Law, theta: Array, table: pd.DataFrame, off: Array, names: list[str]) -> list[dict[str, Any]]:
    """Rows ``off`` the law of the others that lie so far above it that training must have failed."""
    if law.response != "loss" or law.curve:
        return []
    gap = np.log(np.asarray(table["loss"], dtype=np.float64)) - np.log(law.predict(theta, table))
    rows = [i for i in off if gap[i] > DIVERGED]
    if not rows:
        return []
    shown = ", ".join(f"{names[i]} ({math.exp(gap[i]):.2g} times)" for i in rows[:10])
    message = (
        f"{len(rows)} of {len(gap)} losses lie {math.exp(DIVERGED) - 1:.0%} or more above the law ({shown}): did they "
        "diverge? Leave them out (--where), or train them again at a lower learning rate"
    )
    return [warning("diverged", message, rows=[names[i] for i in rows])]


def left_out(dropped: list[dict[str, str]], table: pd.DataFrame, law: Law) -> list[dict[str, Any]]:
    """What the rows that a table lost, and checkpoints among those it kept, do to the law of the rest."""
    out = []
    lucky = "where the large ones do, the law is of those that were lucky; train them again at a lower learning rate"
    for name, starts, what in (
        ("diverged", ("diverged", "status is diverged"), f"diverged and are left out: {lucky}"),
        (
            "undecayed",
            ("the learning rate was not decayed", "decayed is"),
            "were not decayed and are left out: their losses are above those of finished runs; decay them",
        ),
    ):
        rows = [row["row"] for row in dropped if row["reason"].startswith(starts)]
        if rows:
            shown = ", ".join(rows[:5]) + (" ..." if len(rows) > 5 else "")
            out.append(warning(name, f"{len(rows)} of {len(rows) + len(table)} runs ({shown}) {what}", rows=rows))
    if "run" in table and "decayed" not in table and not law.curve:
        runs = len(set(table["run"]))
        if early := len(table) - runs:
            message = (
                f"{early} of {len(table)} rows are earlier checkpoints of {runs} runs: before its "
                "learning rate has decayed, a run's loss is above that of one which ends there; fit final losses, or "
                "say decayed = True in a column if each was decayed"
            )
            out.append(warning("undecayed", message, checkpoints=early))
    return out


def names_of(table: pd.DataFrame) -> list[str]:
    """The rows' names: column ``run``, with the step or D of a checkpoint where several rows are of one run, else
    their numbers."""
    if "run" not in table:
        return [str(v) for v in table.index]
    again, names = table["run"].duplicated(keep=False), table["run"].astype(str)
    column = next((c for c in ("step", "D") if c in table and table[c].dtype.kind in "iuf"), None)
    if column is not None and again.any():
        names = names.where(~again, names + table[column].map(f" at {column} {{:.6g}}".format))
    return names.tolist()


def _monotone(table: pd.DataFrame, noise: dict[str, Any]) -> list[dict[str, Any]]:
    """A larger model that is worse at equal D, beyond three standard deviations of a difference of two runs."""
    sd = noise["pure_error"]["sd"] or noise["sigma_run"]  # a badly tuned size hides in sigma_stem
    if len(table) > LARGE:
        table = table.iloc[np.linspace(0, len(table) - 1, LARGE // 4).astype(int)]  # of pairs, enough
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


def missing(warnings: list[dict[str, Any]]) -> set[str]:
    """Parameters, and derived numbers such as a, that the warnings of a fit call not identified."""
    return {w["parameter"] for w in warnings if w["name"] in ("not_identified", "parameter_at_bound")}


def standing(law: Law, intervals: dict[str, dict[str, Any]], warnings: list[dict[str, Any]]) -> dict[str, str]:
    """How well a fit knows its exponents, its floor and those of the optimum: one of ``STANDINGS``, by name."""
    lost, derived = missing(warnings), [name for name in ("a", "b") if name in intervals and name not in law.names]
    own = [p.name for p in law.params if p.unit == "exponent" or p.name == law.floor]
    out = {}
    for name in dict.fromkeys([*own, *derived[:1], *sorted(lost & set(intervals))]):
        cell, vague = intervals[name], name not in (law.floor, *derived)
        given = name in derived and cell["lo"] == cell["hi"]
        out[name] = "no" if name in lost else "by the form" if given else "yes"
        if out[name] == "yes" and vague and not _within_factor(cell):
            out[name] = "roughly"
    return out | ({"b": out["a"]} if "b" in derived else {})  # b is 1 - a


def verdict(
    law: Law, intervals: dict[str, dict[str, Any]], warnings: list[dict[str, Any]], noise: dict[str, Any], level: float
) -> str:
    """Plain sentences: what these runs identify, what they do not, and whether the form survives."""

    def show(name: str) -> str:
        cell = intervals[name]
        return f"{name} = {cell['value']:.3g} ({_text(cell['lo'])} to {_text(cell['hi'])})"

    known = standing(law, intervals, warnings)
    if "b" not in law.names:
        known.pop("b", None)  # it says what a does
    good, rough, bad, form = ([n for n, how in known.items() if how == word] for word in STANDINGS)
    parts = []
    if good:
        parts.append(f"Identified at this scale, {100 * level:g} % intervals: {', '.join(show(n) for n in good)}.")
    if form:
        parts.append(f"The form itself gives a = {intervals['a']['value']:.3g}.")
    if rough:
        parts.append(f"Known roughly, if at all: {', '.join(show(n) for n in rough)}.")
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


def _within_factor(cell: dict[str, Any]) -> bool:
    """Whether an interval is a point, or has one sign and ends within a factor ``KNOWN`` either way."""
    lo, hi = cell["lo"], cell["hi"]
    if lo is None or hi is None:
        return False
    return lo == hi or (lo * hi > 0 and max(abs(lo), abs(hi)) < KNOWN**2 * min(abs(lo), abs(hi)))


def _text(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"
