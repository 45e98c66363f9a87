"""The compute-optimal N and D of a fit, beside published laws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.card import Conventions
from analysis.engine.frontier import cost_table, frontier, optimum_along
from analysis.fitting import Fit
from analysis.laws import get, published
from analysis.show.numbers import percent, plural, power_text, short
from analysis.show.plots.style import D_LABEL, INK, KINDS, MUTED, Array, Canvas, log_axis, n_kind, span, styled
from scaling.errors import Code, UserError

BEYOND = 10.0  # times the largest fitted compute that is shown
DASHES = ((0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)), (0, (2, 3)))


@styled
def optimum(fit: Fit, *, ax: Sequence[Axes] | None = None) -> Figure:
    """N_opt and D_opt against C with the fit's interval, beside published laws of text.

    Args:
      fit: of a law of N and D that has an optimum.
      ax: two axes to draw into, for N and D; by default those of a new figure.

    Raises:
      UserError: the law has no optimum (as ``engine.frontier.frontier``), or none inside at these budgets
        (``NOT_IDENTIFIED``).
    """
    low, high = (float(end) for end in span(fit.columns["C"], 0.0))
    grid = np.geomspace(low, high * BEYOND, 30)
    log_n, log_d = frontier(fit, grid, cost_table(fit))
    if not np.isfinite(log_n[0]).all():
        remedy = "has no optimal N at these budgets; see the warnings of the fit"
        raise UserError("law", fit.law.name, remedy, Code.NOT_IDENTIFIED)
    others = _published(fit.conventions, grid)
    beside = (
        "Broken lines: published laws at C = 6ND, of other data, tokenizers, budgets and counts of N, without their "
        "intervals."
        if others
        else "No published law beside: the loss is not of tokens of text."
    )
    open_ = float(np.isnan(log_n[1:]).any(axis=1).mean())
    left = f" {percent(round(open_, 3))} of the draws have no optimum here and are left out." if open_ > 0 else ""
    caption = (
        f"{plural(len(fit.card.runs), 'run')}, law {fit.law.name}. Shaded: {percent(fit.level)} interval from the "
        f"draws of the fit.{left} Dotted: the largest fitted compute; beyond it the law is extrapolated. {beside}"
    )
    canvas = Canvas("Compute-optimal N and D", caption, (9.6, 4.4), (1, 2), ax=ax)
    panels, names = canvas.axes[0], (f"optimal N ({n_kind(fit.conventions)})", f"optimal {D_LABEL}")
    for k, (panel, name, logs) in enumerate(zip(panels, names, (log_n, log_d))):
        seen = [_band(panel, grid, logs, fit.level)]
        for (label, lines), colour, dash in zip(others.items(), (*KINDS[:4], MUTED, INK), DASHES):
            panel.plot(grid, lines[k], color=colour, linestyle=dash, linewidth=1.1, label=label)
            seen.append(lines[k])
        panel.axvline(high, color=MUTED, linestyle=":", linewidth=1)
        log_axis(panel, "x", (low, high * BEYOND), power_text)
        log_axis(panel, "y", span(np.concatenate(seen)), short)
        panel.set_xlabel("C (training FLOPs)")
        panel.set_ylabel(name)
    canvas.legend(panels[-1])
    return canvas.figure


def _band(ax: Axes, grid: Array, logs: Array, level: float) -> Array:
    """Draws the estimate and the interval of the draws; their values."""
    tail = (1 - level) / 2
    low, high = np.exp(np.nanquantile(logs[1:], [tail, 1 - tail], axis=0))
    ax.plot(grid, np.exp(logs[0]), color=INK, linewidth=1.8, zorder=4, label="this fit")
    ax.fill_between(grid, low, high, color=INK, alpha=0.15, linewidth=0)
    return np.concatenate([np.exp(logs[0]), low, high])


def _published(conventions: Conventions, grid: Array) -> dict[str, tuple[Array, Array]]:
    """N_opt and D_opt of every published law of N and D alone whose coefficients are all known."""
    unit = conventions.unit
    if unit is not None and not (unit.bounded_by_entropy and unit.quantity == "nats"):
        return {}
    found: dict[str, tuple[Array, Array]] = {}
    for entry in published.REGISTRY.values():
        law = get(entry.law)
        if entry.complete and set(law.columns) == {"N", "D"} and law.quantity == "loss" and not law.no_optimum:
            log_n, log_d = optimum_along(law, law.vector(entry.params)[None], grid)
            if np.isfinite(log_n).all():
                found[entry.name] = np.exp(log_n[0]), np.exp(log_d[0])
    return found
