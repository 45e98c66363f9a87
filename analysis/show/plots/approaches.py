"""Figures of approaches 1, 2 and 3 (see ``check.approaches``): isoFLOP parabolas, and N_opt(C) side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from scipy import special

from analysis.card import Interval
from analysis.check.approaches import WINDOW, Approach, Approaches, Budget, Point, budgets
from analysis.engine.frontier import cost_table, frontier
from analysis.fitting import Fit
from analysis.show.approach_sentences import approach_name, why_not
from analysis.show.numbers import percent, plural, power_text, short
from analysis.show.plots.style import (
    INK,
    KINDS,
    MARKERS,
    MUTED,
    Array,
    Canvas,
    log_axis,
    loss_label,
    n_kind,
    n_label,
    plain,
    round_ticks,
    span,
    styled,
)
from analysis.table.runs import Runs
from scaling.errors import UserError


@styled
def isoflop(runs: Runs, compared: Approaches, *, ax: Axes | None = None) -> Figure:
    """Approach 2: loss against N at each common budget, the parabolas, and their minima with intervals.

    Args:
      runs: the runs that the approaches were applied to.
      ax: axes to draw into; by default those of a new figure.
    """
    mode, groups, curves = budgets(runs, math.log(2.0))
    approach = compared.approaches["2"]
    minima = {round(math.log(p.C), 6): p for p in approach.points if p.N is not None}
    bracketed = {i: minima[key] for i, g in enumerate(groups) if (key := round(math.log(g.C), 6)) in minima}
    parabolas = {i: _parabola(groups[i], p) for i, p in bracketed.items()}
    df = sum(len(x) - 3 for _, x, _ in parabolas.values())
    squares = sum(float(np.sum(r**2)) for _, _, r in parabolas.values())
    half = float(special.stdtrit(df, 0.975)) * math.sqrt(squares / df) if df > 0 else 0.0
    how = "isoFLOP groups as they are" if mode == "isoflop" else f"losses of {len(curves)} sizes interpolated along D"
    ends = "No interval: three sizes a budget leave no residual." if bracketed else "No budget has a bracketed minimum."
    if df > 0:
        freedom = f"{plural(df, 'degree')} of freedom"
        ends = f"Bars: 95 % interval of a minimum from the scatter about all parabolas ({freedom})."
    edges = "open stars lie at an edge of the sizes and are not used"
    caption = f"{plural(len(runs), 'run')}; {how}. Stars: minima; {edges}. {ends}"
    canvas = Canvas("Approach 2: isoFLOP parabolas", caption, (7.6, 4.8), ax=ax)
    ax, colours = canvas.only, colormaps["viridis"]
    for i, g in enumerate(groups):
        colour, marker = colours(0.8 * i / max(1, len(groups) - 1)), MARKERS[i % len(MARKERS)]
        ax.plot(g.N, g.loss, marker, color=colour, markeredgecolor="white", label=f"C = {power_text(g.C)}")
        if i in bracketed:
            _minimum(ax, bracketed[i], parabolas[i], colour, half)
    log_axis(ax, "x", span(np.concatenate([g.N for g in groups]) if groups else runs.table["N"], 0.1), short)
    values = np.concatenate([g.loss for g in groups]) if groups else np.asarray(runs.table["loss"], float)
    log_axis(ax, "y", span(values, 0.1), plain)
    ax.set_xlabel(n_label(runs.conventions))
    ax.set_ylabel(loss_label(runs.conventions))
    if groups:
        canvas.legend(ax, title="budget")
    elif approach.why is not None:
        ax.text(0.5, 0.5, why_not(approach.why), ha="center", transform=ax.transAxes, wrap=True)
    return canvas.figure


def _minimum(ax: Axes, p: Point, parabola: tuple[float, Array, Array], colour: Any, half: float) -> None:
    """The parabola of one budget and its minimum; ``half`` of an interval in standard errors of the loss."""
    assert p.N is not None and p.loss is not None
    (bend, x, _), at = parabola, math.log(p.N)
    reach = np.linspace(min(x.min(), at), max(x.max(), at), 60)
    ax.plot(np.exp(reach), p.loss + bend * (reach - at) ** 2, color=colour, linewidth=1.1)
    if bend > 0 and half > 0:
        spread = half * _minimum_error(x - at, bend)
        ax.plot(np.exp([at - spread, at + spread]), [p.loss] * 2, "-|", color=INK, linewidth=1.2, zorder=5)
    face = "none" if p.edge else colour
    ax.plot(p.N, p.loss, "*", color=colour, markerfacecolor=face, markersize=10, zorder=4)


def _parabola(group: Budget, point: Point) -> tuple[float, Array, Array]:
    """Curvature of the parabola whose minimum is known, log N of the sizes that it saw, and its residuals."""
    log_n = np.log(group.N)
    away = np.abs(log_n - log_n[np.argmin(group.loss)])
    near = away <= max(math.log(WINDOW), float(np.sort(away)[min(2, len(away) - 1)])) + 1e-9
    assert point.N is not None and point.loss is not None
    x, y = log_n[near], group.loss[near] - point.loss
    square = (x - math.log(point.N)) ** 2
    bend = float(square @ y / (square @ square))
    return bend, x, y - bend * square


def _minimum_error(x: Array, bend: float) -> float:
    """Standard error of a parabola's minimum at x = 0 over that of a loss, to first order: that of c1 / (2 c2)."""
    design = np.stack([np.ones_like(x), x, x * x], 1)
    return float(np.sqrt(np.linalg.pinv(design.T @ design)[1, 1])) / (2 * bend)


@styled
def allocation(fit: Fit | None, compared: Approaches, *, ax: Sequence[Axes] | Axes | None = None) -> Figure:
    """N_opt(C) by approaches 1, 2 and 3 with their bands, side by side on the same axes.

    Args:
      fit: the fit of approach 3; its draws give the band.
      ax: axes to draw into, one per approach; by default those of a new figure.
    """
    results = compared.approaches
    limits = span([compared.C_min, compared.C_max * 10], 0.0)
    grid = np.geomspace(*limits, 24)
    caption = (
        f"{plural(compared.data.rows, 'run')}. Shaded: {percent(results['1'].level)} band; of 1 and 2 from the "
        "intervals of N at the middle of the range and of the exponent, added in squares, of 3 from the draws of the "
        "fit. Dotted: the largest fitted compute. Open points lie at an edge of the sizes and are not used."
    )
    columns = len(results)
    size = 3.5 * columns, 4.5
    canvas = Canvas("Compute-optimal N by each approach", caption, size, (1, columns), ax=ax, sharey=True)
    values: list[float] = []
    for k, (name, approach) in enumerate(results.items()):
        panel = canvas.axes[0, k]
        values += _approach(panel, approach, fit if name == "3" else None, grid, k)
        panel.axvline(compared.C_max, color=MUTED, linestyle=":", linewidth=1)
        panel.set_title(f"{name}. {approach_name(approach)}\n{_exponent_text(approach)}")
        log_axis(panel, "x", limits, power_text)
        panel.xaxis.set_major_locator(FixedLocator(round_ticks(*limits, 4)))
        panel.set_xlabel("C (training FLOPs)")
    for panel in canvas.axes[0]:
        log_axis(panel, "y", span(values or [1.0, 10.0], 0.15), short)
    canvas.only.set_ylabel(f"optimal N ({n_kind(compared.conventions)})")
    return canvas.figure


def _approach(ax: Axes, approach: Approach, fit: Fit | None, grid: Array, k: int) -> list[float]:
    """Draws the optima, line and band of the ``k``-th approach; values of N that the axis should show."""
    colour, values = KINDS[k], [p.N for p in approach.points if p.N is not None]
    for edge, face in ((False, colour), (True, "white")):  # one artist each: there may be hundreds of points
        own = [(p.C, p.N) for p in approach.points if p.N is not None and p.edge == edge]
        if own:
            ax.plot(*zip(*own), MARKERS[k], color=colour, markerfacecolor=face, zorder=3)
    if approach.a is None or approach.N is None or approach.C is None:
        return values
    x = np.log(grid / approach.C)
    line = math.log(approach.N.value) + approach.a.value * x
    band = _line_band(approach.a, approach.N, x) if fit is None else _draw_band(fit, grid)
    middle = line if band is None else band[0]
    ax.plot(grid, np.exp(middle), color=colour, linestyle="-" if band is not None else "--")
    if band is not None:
        ax.fill_between(grid, np.exp(band[1]), np.exp(band[2]), color=colour, alpha=0.18, linewidth=0)
    return values + [float(v) for v in np.exp(middle[[0, -1]])]


def _exponent_text(approach: Approach) -> str:
    if (a := approach.a) is None or a.lo is None or a.hi is None:
        reason = "" if approach.why is None else f": {why_not(approach.why)}"
        return "\n".join(textwrap.wrap(f"not identified{reason}", 40)[:3])
    return f"a = {a.value:.3g} [{a.lo:.3g}, {a.hi:.3g}]"


def _line_band(a: Interval, n: Interval, x: Array) -> tuple[Array, Array, Array] | None:
    if a.lo is None or a.hi is None or n.lo is None or n.hi is None:
        return None
    middle = math.log(n.value) + a.value * x
    low, high = (np.hypot(math.log(end / n.value), (a.hi - a.lo) / 2 * x) for end in (n.lo, n.hi))
    return middle, middle - low, middle + high


def _draw_band(fit: Fit, grid: Array) -> tuple[Array, Array, Array] | None:
    try:
        log_n = frontier(fit, grid, cost_table(fit))[0]
    except UserError:
        return None
    if not np.isfinite(log_n[0]).all() or np.isnan(log_n).mean() > 0.1:
        return None
    tail = (1 - fit.level) / 2
    low, high = np.nanquantile(log_n[1:], [tail, 1 - tail], axis=0)
    return log_n[0], low, high
