"""Figures of approaches 1, 2 and 3 (see ``check.approaches``): isoFLOP parabolas, and N_opt(C) side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from scipy import stats

from analysis.check.approaches import WINDOW, budgets
from analysis.engine.frontier import cost_table, frontier
from analysis.fitting import Fit
from analysis.show.style import (
    KINDS,
    MARKERS,
    MUTED,
    Array,
    count_runs,
    log_axis,
    loss_label,
    n_kind,
    n_label,
    new_figure,
    percent,
    plain,
    power_text,
    round_ticks,
    short,
    span,
    styled,
)
from analysis.table.runs import Runs
from scaling.errors import UserError


@styled
def isoflop(runs: Runs, approach2: Mapping[str, Any]) -> Figure:
    """Approach 2: loss against N at each common budget, the parabolas, and their minima with intervals."""
    mode, groups, curves = budgets(runs, math.log(2.0))
    minima = {round(math.log(p["C"]), 6): p for p in approach2["points"] if p["N"] is not None}
    colours = colormaps["viridis"]
    found = {i: minima[key] for i, g in enumerate(groups) if (key := round(math.log(g.C), 6)) in minima}
    parabolas = {i: _parabola(groups[i], p) for i, p in found.items()}
    df = sum(len(x) - 3 for _, x, _ in parabolas.values())
    squares = sum(float(np.sum(r**2)) for _, _, r in parabolas.values())
    half = float(stats.t.ppf(0.975, df)) * math.sqrt(squares / df) if df > 0 else 0.0
    how = "isoFLOP groups as they are" if mode == "isoflop" else f"losses of {len(curves)} sizes interpolated along D"
    ends = "No interval: three sizes a budget leave no residual." if found else "No budget has a bracketed minimum."
    if df > 0:
        freedom = f"{df} degree{'s' if df > 1 else ''} of freedom"
        ends = f"Bars: 95 % interval of a minimum from the scatter about all parabolas ({freedom})."
    edges = "open stars lie at an edge of the sizes and are not used"
    caption = f"{count_runs(len(runs))}; {how}. Stars: minima; {edges}. {ends}"
    figure, axes = new_figure("Approach 2: isoFLOP parabolas", caption, (7.6, 4.8))
    ax = axes[0, 0]
    for i, g in enumerate(groups):
        colour = colours(0.8 * i / max(1, len(groups) - 1))
        marker = MARKERS[i % len(MARKERS)]
        ax.plot(g.N, g.loss, marker, color=colour, markeredgecolor="white", label=f"C = {power_text(g.C)}")
        if i not in found:
            continue
        p, (bend, x, _) = found[i], parabolas[i]
        at = math.log(p["N"])
        reach = np.linspace(min(x.min(), at), max(x.max(), at), 60)
        ax.plot(np.exp(reach), p["loss"] + bend * (reach - at) ** 2, color=colour, linewidth=1.1)
        if bend > 0 and half > 0:
            spread = half * _minimum_error(x - at, bend)
            ax.plot(np.exp([at - spread, at + spread]), [p["loss"]] * 2, color=colour, linewidth=3, alpha=0.6)
        face = "none" if p["edge"] else colour
        ax.plot(p["N"], p["loss"], "*", color=colour, markerfacecolor=face, markersize=12, zorder=4)
    log_axis(ax, "x", span(np.concatenate([g.N for g in groups]) if groups else runs.table["N"], 0.1), short)
    values = np.concatenate([g.loss for g in groups]) if groups else np.asarray(runs.table["loss"], float)
    log_axis(ax, "y", span(values, 0.1), plain)
    ax.set_xlabel(n_label(runs.conventions))
    ax.set_ylabel(loss_label(runs.conventions))
    if groups:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), title="budget")
    else:
        ax.text(0.5, 0.5, str(approach2.get("reason")), ha="center", transform=ax.transAxes, wrap=True)
    return figure


def _parabola(group: Any, point: Mapping[str, Any]) -> tuple[float, Array, Array]:
    """Curvature of the parabola whose minimum is known, log N of the sizes that it saw, and its residuals."""
    log_n = np.log(group.N)
    away = np.abs(log_n - log_n[np.argmin(group.loss)])
    near = away <= max(math.log(WINDOW), float(np.sort(away)[min(2, len(away) - 1)])) + 1e-9
    x, y = log_n[near], group.loss[near] - point["loss"]
    square = (x - math.log(point["N"])) ** 2
    bend = float(square @ y / (square @ square))
    return bend, x, y - bend * square


def _minimum_error(x: Array, bend: float) -> float:
    """Standard error of a parabola's minimum at x = 0 over that of a loss, to first order: that of c1 / (2 c2)."""
    design = np.stack([np.ones_like(x), x, x * x], 1)
    return float(np.sqrt(np.linalg.pinv(design.T @ design)[1, 1])) / (2 * bend)


@styled
def allocation(fit: Fit | None, approaches: Mapping[str, Any]) -> Figure:
    """N_opt(C) by approaches 1, 2 and 3 with their bands, side by side on the same axes."""
    results = approaches["approaches"]
    low, high = approaches["range"]["C_min"], approaches["range"]["C_max"]
    limits = span([low, high * 10], 0.0)
    grid = np.geomspace(*limits, 24)
    level = percent(results["1"]["interval"]["level"])
    caption = (
        f"{count_runs(approaches['data']['rows'])}. Shaded: {level} band; of 1 and 2 from the intervals of N at the "
        "middle of the range and of the exponent, added in squares, of 3 from the draws of the fit. Dotted: the "
        "largest fitted compute. Open points lie at an edge of the sizes and are not used."
    )
    columns = len(results)
    figure, axes = new_figure(
        "Compute-optimal N by each approach", caption, (3.5 * columns, 4.5), 1, columns, sharey=True
    )
    values: list[float] = []
    for k, (name, result) in enumerate(results.items()):
        ax, colour = axes[0, k], KINDS[k]
        for p in result.get("points") or []:
            if p["N"] is not None:
                face = "white" if p["edge"] else colour
                ax.plot(p["C"], p["N"], MARKERS[k], color=colour, markerfacecolor=face, zorder=3)
                values.append(p["N"])
        at = result["at_reference"]
        a = result["a"]
        if a["value"] is not None and at["N"]["value"] is not None:
            x = np.log(grid / at["C"])
            line = math.log(at["N"]["value"]) + a["value"] * x
            band = _draw_band(fit, grid) if name == "3" else _line_band(result, x)
            middle = line if band is None else band[0]
            ax.plot(grid, np.exp(middle), color=colour, linestyle="-" if band is not None else "--")
            values += [float(v) for v in np.exp(middle[[0, -1]])]
            if band is not None:
                ax.fill_between(grid, np.exp(band[1]), np.exp(band[2]), color=colour, alpha=0.18, linewidth=0)
        ax.axvline(high, color=MUTED, linestyle=":", linewidth=1)
        ax.set_title(f"{name}. {result['name']}\n{_exponent_text(a, result)}")
        log_axis(ax, "x", limits, power_text)
        ax.xaxis.set_major_locator(FixedLocator(round_ticks(*limits, 4)))
        ax.set_xlabel("C (training FLOPs)")
    for ax in axes[0]:
        log_axis(ax, "y", span(values or [1.0, 10.0], 0.15), short)
    axes[0, 0].set_ylabel(f"optimal N ({n_kind(approaches['conventions'])})")
    return figure


def _exponent_text(a: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if a["value"] is None:
        return "\n".join(textwrap.wrap(f"not identified: {result['reason']}", 40)[:3])
    ends = f" [{a['lo']:.3g}, {a['hi']:.3g}]" if a["lo"] is not None and a["hi"] is not None else ", not identified"
    return f"a = {a['value']:.3g}{ends}"


def _line_band(result: Mapping[str, Any], x: Array) -> tuple[Array, Array, Array] | None:
    a, n = result["a"], result["at_reference"]["N"]
    if None in (a["lo"], a["hi"], n["lo"], n["hi"]):
        return None
    middle = math.log(n["value"]) + a["value"] * x
    sides = []
    for end, sign in (("lo", -1.0), ("hi", 1.0)):
        half = np.hypot(math.log(n[end] / n["value"]), (a["hi"] - a["lo"]) / 2 * x)
        sides.append(middle + sign * half)
    return middle, sides[0], sides[1]


def _draw_band(fit: Fit | None, grid: Array) -> tuple[Array, Array, Array] | None:
    if fit is None:
        return None
    try:
        log_n = frontier(fit, grid, cost_table(fit))[0]
    except UserError:
        return None
    if not np.isfinite(log_n[0]).all() or np.isnan(log_n).mean() > 0.1:
        return None
    tail = (1 - fit.level) / 2
    low, high = np.nanquantile(log_n[1:], [tail, 1 - tail], axis=0)
    return log_n[0], low, high
