"""Figures of several fits of the same runs: their residuals, and the floors that they allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from analysis.card import PureError
from analysis.fitting import Fit
from analysis.show.numbers import percent, plural, power_text
from analysis.show.plots.style import (
    INK,
    KINDS,
    Canvas,
    Sizes,
    c_label,
    law_styles,
    log_axis,
    loss_label,
    round_ticks,
    span,
    styled,
)
from scaling.errors import Code, UserError


@styled
def residuals(fits: Mapping[str, Fit], *, ax: Sequence[Axes] | Axes | None = None) -> Figure:
    """Residuals of each law against C on one scale, with the band of seed noise.

    Args:
      fits: by law, of the same runs, with columns N and C.
      ax: axes to draw into, one a fit; by default those of a new figure.
    """
    first = next(iter(fits.values()))
    columns = min(4, len(fits))
    rows = math.ceil(len(fits) / columns)
    caption = (
        f"{plural(len(first.columns['loss']), 'run')}, natural-log residuals in percent of the loss. "
        f"{_seed_noise(first.noise.pure_error)} Points that trend with C or N show a form that is wrong."
    )
    size, shape = (max(4.6, 2.9 * columns + 1.2), 2.7 * rows + 1.1), (rows, columns)
    if ax is not None:
        shape = 1, len(fits)
    canvas = Canvas("Residuals of each law", caption, size, shape, ax=ax, sharex=True, sharey=True)
    sizes = Sizes(first.columns["N"])
    panels = canvas.first(len(fits))
    largest = max(_residuals(panel, name, fit, sizes) for panel, (name, fit) in zip(panels, fits.items()))
    for panel in panels if ax is not None else panels[:1]:
        panel.set_ylim(-1.12 * largest - 1e-3, 1.12 * largest + 1e-3)
    for row in canvas.axes:
        row[0].set_ylabel("loss over law, % of loss")
    sizes.explain(canvas, canvas.axes[0, -1])
    return canvas.figure


def _seed_noise(pure: PureError) -> str:
    if pure.sd is None:
        return "No seed noise: no two runs differ only in their seed."
    return (
        f"Shaded: ±2 standard deviations between seeds (one is {100 * pure.sd:.2g} % of the loss, from {pure.df} "
        "degrees of freedom)."
    )


def _residuals(ax: Axes, name: str, fit: Fit, sizes: Sizes) -> float:
    """Draws the residuals of one law; the largest, in percent."""
    data, noise = fit.columns, fit.noise.pure_error.sd
    miss = 100 * data["residual_log"]
    if noise is not None:
        ax.axhspan(-200 * noise, 200 * noise, color=KINDS[4], alpha=0.22, linewidth=0)
    ax.axhline(0, color=INK, linewidth=0.8)
    sizes.scatter(ax, data["N"], data["C"], miss)
    rms = 100 * float(np.sqrt(np.mean(data["residual_log"] ** 2)))
    p = fit.noise.lack_of_fit.p
    ax.set_title(f"{name}\nrms {rms:.2g} %" + ("" if p is None else f", lack of fit p = {p:.2g}"), fontsize=9)
    limits = span(data["C"], 0.1)
    log_axis(ax, "x", limits, power_text)
    ax.xaxis.set_major_locator(FixedLocator(round_ticks(*limits, 4)))
    ax.set_xlabel(c_label(fit.conventions))
    return float(np.abs(miss).max())


@styled
def floor(fits: Mapping[str, Fit], *, entropy: float | None = None, ax: Axes | None = None) -> Figure:
    """The floor of each law that has one: draws, estimate and interval, with the entropy where it is known.

    Args:
      fits: by law, of the same runs.
      entropy: of the source where it is known, in the unit of the loss.
      ax: axes to draw into; by default those of a new figure.

    Raises:
      UserError: no law here has a floor.
    """
    having = {name: fit for name, fit in fits.items() if fit.law.floor}
    if not having:
        raise UserError("law", ", ".join(fits), "has no floor; fit one that has", Code.UNSUPPORTED)
    first = next(iter(having.values()))
    known = f"Dashed: the exact entropy {entropy:.4f}." if entropy is not None else "The source's entropy is not known."
    caption = (
        f"{plural(len(first.columns['loss']), 'run')}. Outlines: density of the draws of each fit, over its own peak; "
        f"bars: estimate and {percent(first.level)} interval. Floors across which a law is spread fit equally well. "
        f"{known}"
    )
    canvas = Canvas("Which floor the runs allow", caption, (7.6, 3.9), ax=ax)
    ax, styles = canvas.only, law_styles(fit.law for fit in having.values())
    shown = [] if entropy is None else [entropy]
    for k, (name, fit) in enumerate(having.items()):
        shown += _density(ax, name, fit, styles[fit.law.name], -0.08 - 0.09 * k)
    if entropy is not None:
        ax.axvline(entropy, color=INK, linestyle=(0, (5, 3)), linewidth=1.2)
    pad = 0.04 * (max(shown) - min(shown) + 1e-9)
    ax.set_xlim(min(shown) - pad, max(shown) + pad)
    ax.set_ylim(-0.1 - 0.09 * len(having), 1.08)
    ax.set_yticks([0, 0.5, 1])
    ax.set_xlabel(loss_label(first.conventions, "floor E"))
    ax.set_ylabel("density over its peak")
    canvas.legend(ax)
    return canvas.figure


def _density(ax: Axes, name: str, fit: Fit, style: tuple[str, str], y: float) -> list[float]:
    """Draws the density of a floor and, at height ``y``, its interval; the values between which it lies."""
    parameter = str(fit.law.floor)
    draws, cell = fit.draws[:, fit.law.index(parameter)], fit.intervals[parameter]
    low, high = (float(v) for v in np.quantile(draws, [0.002, 0.998]))
    density, edges = np.histogram(draws, bins=np.linspace(low, max(high, low + 1e-6), 30))
    colour, marker = style
    ax.stairs(density / density.max(), edges, color=colour, fill=True, alpha=0.18)
    ax.stairs(density / density.max(), edges, color=colour, linewidth=1.2)
    ends = [low if cell.lo is None else cell.lo, high if cell.hi is None else cell.hi]
    ax.plot(ends, [y, y], color=colour, linewidth=2.2)
    ax.plot(cell.value, y, marker, color=colour, markersize=7, markeredgecolor="white", label=name)
    return [low, high, *ends]
