"""Figures of one fit: loss against its columns, and the compute-optimal frontier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from analysis.engine.frontier import Cost, cost_table, flops_for
from analysis.engine.frontier import frontier as optima
from analysis.fitting import Fit
from analysis.fitting.below_zero import require_above
from analysis.show.numbers import percent, plain_formula, plural, power_text, short
from analysis.show.plots.style import (
    D_LABEL,
    INK,
    KINDS,
    MANY_POINTS,
    MUTED,
    Array,
    Canvas,
    Sizes,
    c_label,
    log_axis,
    loss_label,
    n_label,
    plain,
    span,
    styled,
)
from analysis.show.sentences import rows_word
from analysis.show.workdir_summary import RunSummary
from scaling.errors import UserError

CORNER = 0.06  # share of the axes
PATHS = 40  # draws of the frontier that are shown


@styled
def loss(
    fit: Fit, *, entropy: float | None = None, opened: Sequence[RunSummary] = (), ax: Axes | None = None
) -> Figure:
    """Loss against D, a line for each size, with the fitted law's curves and their band.

    A law of one column is drawn against that column, a law of others as measured against fitted loss.

    Args:
      entropy: of the source where it is known, in the unit of the loss; drawn as a line.
      opened: sealed held-out runs with their outcomes, drawn as stars.
      ax: axes to draw into; by default those of a new figure.
    """
    require_above(fit, "figure")
    if len(fit.law.columns) == 1:
        return _loss_of_one(fit, entropy, ax)
    if set(fit.law.columns) != {"N", "D"}:
        return _loss_of_many(fit, ax)
    stars = _stars(fit, opened)
    data = fit.columns
    caption = (
        f"{plural(len(data['loss']), 'run')} of {fit.data.dataset or Path(fit.data.source).name}. Lines: "
        f"{fit.law.name}, {plain_formula(fit.law.formula)}; shaded: {percent(fit.level)} interval of the "
        "curve (the noise of a single run comes on top)."
    )
    if stars is not None:
        caption += f" Stars: {len(stars.loss)} held-out outcomes, read after the forecasts; dashed: the law at their N."
    canvas = Canvas("Loss against training tokens", caption, (7.6, 4.6), ax=ax)
    ax, sizes, seen = canvas.only, Sizes(data["N"]), data["loss"]
    limits = span(data["D"] if stars is None else np.concatenate([data["D"], stars.D]))
    grid = np.geomspace(*limits, 70)
    for n in sizes.drawn:
        band = fit.predict({"N": np.full_like(grid, n), "D": grid}, level=fit.level, new_run=False)
        ax.plot(grid, band.value, color=sizes.colour(n), zorder=2)
        ax.fill_between(grid, band.lo, band.hi, color=sizes.colour(n), alpha=0.16, linewidth=0)
    sizes.scatter(ax, data["N"], data["D"], data["loss"])
    if stars is not None:
        seen = np.concatenate([seen, stars.loss, stars.loss * 0.97])
        _draw_stars(ax, fit, stars, sizes, grid)
    if entropy is not None:
        seen = np.append(seen, entropy)
        _entropy_line(ax, entropy)
        text = {"xytext": (-4, 4), "textcoords": "offset points", "ha": "right", "fontsize": 8.5}
        ax.annotate(f"exact entropy {entropy:.4f}", (limits[1], entropy), **text)
    log_axis(ax, "x", limits, short)
    log_axis(ax, "y", span(seen), plain)
    ax.set_xlabel(D_LABEL)
    ax.set_ylabel(loss_label(fit.conventions))
    sizes.explain(canvas, ax)
    return canvas.figure


class _Stars(NamedTuple):
    """Held-out outcomes: N by the count of the fit, D and loss, each (k,)."""

    N: Array
    D: Array
    loss: Array


def _stars(fit: Fit, opened: Sequence[RunSummary]) -> _Stars | None:
    points = [(run.count(fit.conventions.n), run.manifest.tokens.D, run.loss) for run in opened]
    if not points or any(n is None for n, _, _ in points):
        return None
    return _Stars(*np.array(points, dtype=float).T)


def _draw_stars(ax: Axes, fit: Fit, stars: _Stars, sizes: Sizes, grid: Array) -> None:
    for n in dict.fromkeys(map(float, stars.N)):
        if np.abs(np.log(sizes.levels / n)).min() > 0.03:
            curve = fit.law.predict(fit.theta, {"N": np.full_like(grid, n), "D": grid})
            ax.plot(grid, curve, color=MUTED, linestyle=(0, (4, 2)), linewidth=1.0, zorder=2)
    ax.plot(stars.D, stars.loss, "*", color=INK, markersize=11, markeredgecolor="white", zorder=4)
    for size, d, value in zip(*stars, strict=True):
        label = {"xytext": (0, -12), "textcoords": "offset points", "fontsize": 7.5, "ha": "center"}
        ax.annotate(short(size), (d, value), color=INK, **label)


def _entropy_line(ax: Axes, entropy: float) -> None:
    ax.axhline(entropy, color=INK, linestyle=(0, (5, 3)), linewidth=1.1)


def _points(ax: Axes, x: Array, y: Array) -> None:
    size = 5 if len(x) < 60 else 3
    ax.plot(x, y, "o", color=MUTED, markersize=size, rasterized=len(x) > MANY_POINTS)


def _loss_of_one(fit: Fit, entropy: float | None, ax: Axes | None) -> Figure:
    """Loss against the one column of a one-variable law."""
    (column,), data = fit.law.columns, fit.columns
    caption = (
        f"{plural(len(data['loss']), 'run')}. Line: {plain_formula(fit.law.formula)}; shaded: {percent(fit.level)} "
        "interval of the curve."
    )
    canvas = Canvas(f"Loss against {column}", caption, (6.8, 4.2), ax=ax)
    ax, limits = canvas.only, span(data[column])
    grid = np.geomspace(*limits, 80)
    band = fit.predict({column: grid}, level=fit.level, new_run=False)
    ax.plot(grid, band.value, color=KINDS[1], zorder=4)
    ax.fill_between(grid, band.lo, band.hi, color=KINDS[1], alpha=0.25, linewidth=0, zorder=3)
    _points(ax, data[column], data["loss"])
    if entropy is not None:
        _entropy_line(ax, entropy)
    labels = {"N": n_label(fit.conventions), "D": D_LABEL, "C": c_label(fit.conventions)}
    log_axis(ax, "x", limits, power_text if column == "C" else short)
    log_axis(ax, "y", span(data["loss"]), plain)
    ax.set_xlabel(labels.get(column, column))
    ax.set_ylabel(loss_label(fit.conventions))
    return canvas.figure


def _loss_of_many(fit: Fit, ax: Axes | None) -> Figure:
    """Measured against fitted loss, for a law with more columns than fit into a plane."""
    data = fit.columns
    rms = 100 * float(np.sqrt(np.mean(data["residual_log"] ** 2)))
    caption = (
        f"{rows_word(fit.conventions, len(data['loss']), 'row')}. Line: measured as fitted by {fit.law.name}, "
        f"{plain_formula(fit.law.formula)}. The points' root mean square distance from it is {rms:.2g} % of the loss; "
        "no interval is drawn."
    )
    canvas = Canvas("Measured against fitted", caption, (6.8, 4.6), ax=ax)
    ax, limits = canvas.only, span(np.concatenate([data["loss"], data["fitted"]]))
    ax.plot(limits, limits, color=KINDS[1], zorder=4)
    _points(ax, data["fitted"], data["loss"])
    log_axis(ax, "x", limits, plain)
    log_axis(ax, "y", limits, plain)
    ax.set_xlabel(loss_label(fit.conventions, "fitted loss"))
    ax.set_ylabel(loss_label(fit.conventions, "measured loss"))
    return canvas.figure


# --- the frontier


class _Path(NamedTuple):
    """The compute-optimal N and D (1 + S, k) at k budgets, the estimate first; or why there is none."""

    budget: Array
    N: Array | None
    D: Array | None
    why: str = ""


@styled
def compute(fit: Fit, *, ax: Sequence[Axes] | None = None) -> Figure:
    """``frontier`` and ``contours`` side by side.

    Args:
      ax: two axes to draw into; by default those of a new figure.
    """
    path = _path(fit)
    caption = (
        f"{plural(len(fit.columns['loss']), 'run')}. Left: {_about_frontier(fit)} Right: {_about_contours()}{path.why}"
    )
    canvas = Canvas("Compute frontier and optimal allocation", caption, (10.4, 4.8), (1, 2), ax=ax)
    left, right = canvas.axes[0]
    sizes = Sizes(fit.columns["N"])
    _frontier(left, fit, sizes, path)
    _plane(right, fit, sizes, path)
    sizes.explain(canvas, right)
    return canvas.figure


@styled
def frontier(fit: Fit, *, ax: Axes | None = None) -> Figure:
    """Loss above the fitted floor against C, with the lowest loss that the law gives at each compute.

    Args:
      fit: of a law of N and D.
      ax: axes to draw into; by default those of a new figure.
    """
    path = _path(fit)
    caption = f"{plural(len(fit.columns['loss']), 'run')}: {_about_frontier(fit)}{path.why}"
    canvas = Canvas("Loss against compute", caption, (7.6, 4.6), ax=ax)
    sizes = Sizes(fit.columns["N"])
    _frontier(canvas.only, fit, sizes, path)
    sizes.explain(canvas, canvas.only)
    return canvas.figure


@styled
def contours(fit: Fit, *, ax: Axes | None = None) -> Figure:
    """Contours of the fitted loss over N and D, the runs, and the compute-optimal path with draws of the fit.

    Args:
      fit: of a law of N and D.
      ax: axes to draw into; by default those of a new figure.
    """
    path = _path(fit)
    caption = f"{plural(len(fit.columns['loss']), 'run')}, and {_about_contours()}{path.why}"
    canvas = Canvas("Fitted loss over N and D", caption, (7.6, 4.8), ax=ax)
    sizes = Sizes(fit.columns["N"])
    _plane(canvas.only, fit, sizes, path)
    sizes.explain(canvas, canvas.only)
    return canvas.figure


def _path(fit: Fit) -> _Path:
    budget = np.geomspace(*span(fit.columns["C"], 0.1), 24)
    try:
        log_n, log_d = optima(fit, budget, cost_table(fit))
    except UserError as error:
        return _Path(budget, None, None, f" No frontier: {fit.law.name} {error.remedy}.")
    return _Path(budget, np.exp(log_n), np.exp(log_d))


def _about_frontier(fit: Fit) -> str:
    what = f"nothing ({fit.law.name} has no floor)"
    if fit.law.floor:
        what = f"the fitted floor {fit.law.floor} = {fit.params[fit.law.floor]:.3g}"
    return (
        f"the loss less {what}, held at its estimate; heavy: the lowest loss that the law gives at each compute, with "
        f"its {percent(fit.level)} interval."
    )


def _about_contours() -> str:
    return f"contours of the fitted loss; heavy: the compute-optimal N and D; thin: {PATHS} draws of the fit."


def _frontier(ax: Axes, fit: Fit, sizes: Sizes, path: _Path) -> None:
    """Draws runs, curves of each size and the frontier, less the floor."""
    seen = [_excess(ax, fit, sizes, cost_table(fit))]
    if path.N is not None and np.isfinite(path.N[0]).any():
        seen.append(_envelope(ax, fit, path))
    log_axis(ax, "x", span(fit.columns["C"], 0.1), power_text)
    log_axis(ax, "y", span(np.concatenate(seen)), plain)
    ax.set_xlabel(c_label(fit.conventions))
    ax.set_ylabel(loss_label(fit.conventions, "loss less floor" if fit.law.floor else "loss"))


def _floor(fit: Fit) -> float:
    return fit.params[fit.law.floor] if fit.law.floor else 0.0


def _excess(ax: Axes, fit: Fit, sizes: Sizes, cost: Cost | None) -> Array:
    """Draws the loss less the floor of every run and size against C; the values above zero."""
    data, floor = fit.columns, _floor(fit)
    excess = data["loss"] - floor
    good = excess > 0
    for n in sizes.drawn:
        own = np.abs(np.log(data["N"] / n)) < 0.03
        d = np.geomspace(data["D"][own].min() / 1.3, data["D"][own].max() * 1.3, 40)
        value = np.atleast_1d(fit.law.predict(fit.theta, {"N": np.full_like(d, n), "D": d})) - floor
        ax.plot(flops_for(n, d, cost), value, color=sizes.colour(n), linewidth=1.1)
    sizes.scatter(ax, data["N"][good], data["C"][good], excess[good])
    return excess[good]


def _envelope(ax: Axes, fit: Fit, path: _Path) -> Array:
    """Draws the lowest loss at each compute, less the floor, with its band; the values."""
    assert path.N is not None and path.D is not None
    budget, n, d, floor = path.budget, path.N[0], path.D[0], _floor(fit)
    ok = np.isfinite(n) & np.isfinite(d)
    band = fit.predict({"N": n[ok], "D": d[ok]}, level=fit.level, new_run=False)
    low, high = (np.maximum(end - floor, 1e-9) for end in (band.lo, band.hi))
    ax.plot(budget[ok], band.value - floor, color=INK, linewidth=1.8, zorder=4)
    ax.fill_between(budget[ok], low, high, color=INK, alpha=0.15, linewidth=0)
    return band.value - floor


def _plane(ax: Axes, fit: Fit, sizes: Sizes, path: _Path) -> None:
    """Contours of the fitted loss over N and D, the runs, and the compute-optimal path."""
    data = fit.columns
    across, up = span(data["N"], 0.12), span(data["D"], 0.12)
    n, d = np.geomspace(*across, 50), np.geomspace(*up, 50)
    mesh = np.meshgrid(n, d)
    surface = np.atleast_1d(fit.law.predict(fit.theta, {"N": mesh[0].ravel(), "D": mesh[1].ravel()})).reshape(50, 50)
    levels = ax.contour(n, d, surface, levels=7, colors=MUTED, linewidths=0.7, alpha=0.8)
    if path.N is not None and path.D is not None:
        draws = np.linspace(1, len(path.N) - 1, min(PATHS, len(path.N) - 1)).astype(int)
        lines = np.stack([path.N[draws], path.D[draws]], axis=-1)
        ax.add_collection(LineCollection(list(lines), colors=MUTED, linewidths=0.6, alpha=0.35, zorder=1))
        ax.plot(path.N[0], path.D[0], color=INK, linewidth=1.8, zorder=4)
    sizes.scatter(ax, data["N"], data["N"], data["D"])
    log_axis(ax, "x", across, short)
    log_axis(ax, "y", up, short)
    drawn = [np.stack([data["N"], data["D"]], axis=-1)]
    if path.N is not None and path.D is not None:
        drawn.append(np.stack([path.N[0], path.D[0]], axis=-1))
    places = _free_places(ax, levels, np.concatenate(drawn))
    ax.clabel(levels, fontsize=7, fmt=lambda v: f"{v:.3g}", manual=places)  # after the axes have their scales
    ax.set_xlabel(n_label(fit.conventions))
    ax.set_ylabel(D_LABEL)


def _free_places(ax: Axes, levels: QuadContourSet, taken: Array) -> list[tuple[float, float]]:
    """A place (N, D) on each contour, as far as one can be from the borders and what is drawn at ``taken`` (n, 2).

    None of a contour that only cuts a corner: a label would leave the axes.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    taken, places = to_axes.transform(taken[np.isfinite(taken).all(1)]), []
    for contour in levels.get_paths():
        vertices = np.asarray(contour.vertices, dtype=np.float64)
        if len(vertices) == 0:
            continue
        at = to_axes.transform(vertices)
        free = np.linalg.norm(at[:, None] - taken[None], axis=-1).min(1)
        inside = np.minimum(at, 1 - at).min(1)
        best = int(np.argmax(np.minimum(free, inside)))
        if inside[best] < CORNER:
            continue
        taken = np.concatenate([taken, at[best : best + 1]])
        x, y = vertices[best]
        places.append((float(x), float(y)))
    return places
