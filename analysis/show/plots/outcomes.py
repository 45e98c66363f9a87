"""The figure of a study's outcome: what was fitted, what was forecast beyond it, and what came out.

With ``words`` it is wide, for README and slides; ``scaling plot`` draws it without, for a column of a paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.decide.forecast import ScoredForecast
from analysis.fitting import Fit
from analysis.show.numbers import plain_formula, plural, power_text, short
from analysis.show.plots.style import INK, KINDS, MUTED, Canvas, c_label, log_axis, loss_label, plain, span, styled
from analysis.table.seal import SealedCell
from scaling.errors import Code, UserError

LABELLED = 6  # held-out runs beyond which their numbers would lie on each other
ROOM = 40.0  # times the largest C, for what is written beside the dearest run


@styled
def outcomes(
    fit: Fit,
    rows: Sequence[ScoredForecast],
    cells: Sequence[SealedCell],
    *,
    words: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Loss against compute: the fitted runs, one law's sealed forecasts of held-out runs, and their outcomes.

    Args:
      fit: the law that was fitted, with its runs.
      rows: its forecasts with their outcomes; those of other forecasters are left out.
      cells: the held-out cells, for their N, D and C.
      words: up to six held-out runs have their forecast, outcome and error written beside them.
      ax: axes to draw into; by default those of a new figure.

    Raises:
      UserError: no row is a forecast of this law on this count of N (MISSING).
    """
    law, n = fit.law.name, fit.conventions.n or "table"
    own = [row for row in rows if (row.forecaster.law, row.forecaster.n) == (law, n)]
    if not own:
        remedy = f"none is by {law} on {n} N; seal and open some"
        raise UserError("rows", f"{len(rows)} forecasts", remedy, Code.MISSING)
    places = {cell.run: cell for cell in cells}
    x, y = fit.columns["C"], fit.columns["loss"]
    c = np.array([places[row.run].C for row in own])
    error = float(np.mean([abs(row.error_percent) for row in own]))
    inside = sum(row.inside95 for row in own)
    caption = (
        f"{plural(len(x), 'run')} of {fit.data.dataset} fitted by {law}, {plain_formula(fit.law.formula)}. "
        f"The forecasts were written and hashed before the losses of these {plural(len(own), 'held-out run')} "
        f"were read; bars: 95 % interval of one new run. Mean error {error:.1f} %; {inside} of {len(own)} inside."
    )
    canvas = Canvas("Forecast first, then opened", caption, (8.2, 4.6), ax=ax)
    ax = canvas.only
    ax.plot(x, y, "o", color=MUTED, alpha=0.6, markersize=4, markeredgewidth=0, label=plural(len(x), "fitted run"))
    low, value, high = np.array([(row.interval95[0], row.value, row.interval95[1]) for row in own]).T
    bars = {"fmt": "o", "color": KINDS[0], "elinewidth": 1.8, "capsize": 4, "zorder": 3}
    ax.errorbar(c, value, yerr=[value - low, high - value], label="forecast, 95 % interval", **bars)
    found = np.array([row.outcome for row in own])
    star = {"color": KINDS[1], "markersize": 12, "markeredgecolor": "white", "zorder": 4}
    ax.plot(c, found, "*", label="outcome, read afterwards", **star)
    words = words and len(own) <= LABELLED
    if words:
        _write(ax, own, places, n)
    ax.axvline(x.max(), color=INK, linestyle=(0, (2, 2)), linewidth=1)
    ends = span(np.concatenate([y, low, high]))
    beside = {"xytext": (-4, 2), "textcoords": "offset points", "ha": "right", "va": "bottom", "fontsize": 8.5}
    ax.annotate("largest fitted C", (x.max(), ends[0]), color=INK, **beside)
    start = span(np.concatenate([x, c]))[0]
    log_axis(ax, "x", (start, c.max() * (ROOM if words else 1.3)), power_text)
    log_axis(ax, "y", ends, plain)
    ax.set_xlabel(c_label(fit.conventions))
    ax.set_ylabel(loss_label(fit.conventions))
    ax.legend(loc="upper right")
    return canvas.figure


def _write(ax: Axes, rows: Sequence[ScoredForecast], places: dict[str, SealedCell], n: str) -> None:
    """Writes beside each held-out run what it is, its forecast, its outcome and the error."""
    for row in rows:
        cell = places[row.run]
        text = (
            f"N {short(cell.N[n])}, D {short(cell.D)}, {cell.compute_ratio:.1f}× the largest fitted C:\n"
            f"forecast {row.value:.3f}, outcome {row.outcome:.3f}, error {abs(row.error_percent):.1f} %"
        )
        place = {"xytext": (9, 0), "textcoords": "offset points", "va": "center", "fontsize": 8.5, "linespacing": 1.25}
        ax.annotate(text, (cell.C, row.value), color=INK, **place)
