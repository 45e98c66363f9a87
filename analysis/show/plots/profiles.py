"""Figures of what the runs leave open: profiles of a law's parameters, and exponents of several fits side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from analysis.card import Interval
from analysis.decide.compare import Comparison
from analysis.fitting import Fit
from analysis.fitting.profiles import Profile, Profiles
from analysis.show.numbers import greek, number, percent, plural, short
from analysis.show.plots.style import INK, KINDS, MARKERS, MUTED, Canvas, log_axis, loss_label, round_ticks, styled
from scaling.errors import Code, UserError

HIGHEST = 1.8  # of a panel, in rises at which an interval ends
SCALE = ("log2_compute_to_halve",)  # quantities that are no exponents and would need an axis of their own


@styled
def profiles(fit: Fit, found: Profiles, *, ax: Sequence[Axes] | Axes | None = None) -> Figure:
    """How much worse the law becomes when one parameter is held at another value and the rest is fitted again.

    Args:
      fit: the fit, whose intervals are drawn beside.
      found: ``fitting.profiles.profiles`` of it.
      ax: axes to draw into, one a parameter; by default those of a new figure.
    """
    names = list(found.parameters)
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    others = [greek(name) for name in fit.law.names if name not in (*names, *fit.card.fixed)]
    why = "amplitudes, which move with the exponents, and what lies at a bound"
    left_out = f" Not drawn: {', '.join(others)}, {why}." if others else ""
    caption = (
        f"{plural(len(fit.card.runs), 'run')}, law {fit.law.name}. Lines: rise of the residual sum of squares over the "
        "variance of a run when the parameter is held and the others are fitted again. Dashed: the rise at which a "
        f"{percent(fit.level)} profile interval ends. Points and shading: estimate and {percent(fit.level)} interval "
        f"of the fit ({fit.card.scheme.name}). A flat line is a parameter that the runs do not determine."
        f"{left_out}"
    )
    shape = (down, across) if ax is None else (1, len(names))
    canvas = Canvas("Profiles of the parameters", caption, (3.0 * across, 2.4 * down + 1.0), shape, ax=ax, sharey=True)
    for k, (panel, name) in enumerate(zip(canvas.first(len(names)), names)):
        _profile(panel, found.parameters[name], fit.intervals[name], found.limit, k)
        unit = loss_label(fit.conventions, f"floor {name}") if name == fit.law.floor else greek(name)
        panel.set_xlabel(unit)
        panel.set_ylim(0, HIGHEST * found.limit)
    for row in canvas.axes:
        row[0].set_ylabel("rise of squares")
    return canvas.figure


def _profile(ax: Axes, profile: Profile, cell: Interval, limit: float, k: int) -> None:
    colour = KINDS[k % len(KINDS)]
    value, rise = profile
    low, high = float(value.min()), float(value.max())
    ends = [low if cell.lo is None else cell.lo, high if cell.hi is None else cell.hi]
    ax.axvspan(max(ends[0], low), min(ends[1], high), color=colour, alpha=0.16, linewidth=0)
    ax.axhline(limit, color=MUTED, linestyle=(0, (4, 2)), linewidth=1.0)
    ax.plot(value, rise, color=colour)
    ax.plot(
        cell.value,
        min(float(np.interp(cell.value, value, rise)), HIGHEST * limit),  # beyond the panel it would claim all space
        MARKERS[k % len(MARKERS)],
        color=colour,
        zorder=4,
        clip_on=False,
    )
    if low > 0 and high / low > 20:
        log_axis(ax, "x", (low, high), _tick)
        ax.xaxis.set_major_locator(FixedLocator(round_ticks(low, high, 3)))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _tick(v)))
    ax.set_xlim(low, high)


def _tick(value: float) -> str:
    return short(value) if abs(value) >= 1000 else number(value)


@styled
def compared(comparison: Comparison, *, ax: Axes | None = None) -> Figure:
    """The exponents of several families, data sets or recipes, each with its interval.

    Args:
      comparison: of ``analysis.compare`` or ``decide.compare.compare``.
      ax: axes to draw into; by default those of a new figure.

    Raises:
      UserError: the fits share no exponent (``UNSUPPORTED``).
    """
    shared = {
        name: [(label, cell) for label, cell in quantity.members.items() if cell is not None]
        for name, quantity in comparison.quantities.items()
        if name not in SCALE
    }
    shared = {name: cells for name, cells in shared.items() if len(cells) > 1}
    if not shared:
        raise UserError("compare", ", ".join(m.label for m in comparison.members), "share no number", Code.UNSUPPORTED)
    labels = [member.label for member in comparison.members]
    rows = "; ".join(f"{member.label}: {plural(member.rows, 'run')}, {member.law}" for member in comparison.members)
    caption = (
        f"{rows}. Bars: {percent(comparison.level)} intervals; an open end has an arrow. a: exponent of C in the "
        "optimal N; c: of the reducible loss in C. Overlapping bars do not show that two are equal."
    )
    height = 0.24 * sum(len(cells) + 1 for cells in shared.values()) + 1.6
    canvas = Canvas("Exponents compared", caption, (7.2, height), ax=ax)
    ax, y, ticks = canvas.only, 0.0, dict[float, str]()
    for name, cells in shared.items():
        ticks[y + (len(cells) - 1) / 2] = name
        for label, cell in cells:
            _bar(ax, cell, y, labels.index(label))
            y += 1.0
        y += 0.8
    for k, label in enumerate(labels):
        ax.plot([], [], MARKERS[k % len(MARKERS)], color=KINDS[k % len(KINDS)], label=label)
    ax.set_yticks(list(ticks), [greek(name) for name in ticks.values()])
    ax.set_ylim(y - 0.9, -0.9)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("exponent")
    canvas.legend(ax)
    return canvas.figure


def _bar(ax: Axes, cell: Interval, y: float, k: int) -> None:
    colour = KINDS[k % len(KINDS)]
    ends = [cell.value if end is None else end for end in (cell.lo, cell.hi)]
    ax.plot(ends, [y, y], color=colour, linewidth=1.8)
    for end, sign in ((cell.lo, "<"), (cell.hi, ">")):
        if end is None:
            away = {"xytext": (8 if sign == ">" else -8, 0), "textcoords": "offset points", "ha": "center"}
            ax.annotate(sign, (cell.value, y), va="center", color=INK, **away)
    ax.plot(cell.value, y, MARKERS[k % len(MARKERS)], color=colour, markeredgecolor="white", zorder=4)
