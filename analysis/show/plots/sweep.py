"""The figure of a sweep over learning rates."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.decide.tune import Table, optima
from analysis.show.numbers import percent, plural
from analysis.show.plots.style import MARKERS, Canvas, Sizes, log_axis, plain, span, styled
from analysis.table.rounding import rounded
from scaling.errors import Code, UserError

RATES = 3  # different rates that make a sweep of a cell


@styled
def learning_rates(table: Table, *, level: float = 0.95, ax: Axes | None = None) -> Figure:
    """Loss above the best of its cell against the learning rate, with the best rate of each cell and its interval.

    Args:
      table: columns N, D, loss, learning_rate and, where it varies, batch.
      level: confidence of the intervals.
      ax: axes to draw into; by default those of a new figure.

    Raises:
      UserError: TOO_FEW: no cell (N, D, batch) has three learning rates.
    """
    rows = table if "batch" in table else table.assign(batch=1.0)
    rows = rows.assign(**{name: rounded(rows[name]) for name in ("N", "D", "batch", "learning_rate")})
    swept = rows.groupby(["N", "D", "batch"])["learning_rate"].transform("nunique") >= RATES
    if not swept.any():
        raise UserError("learning_rate", "no sweep", f"no size and D has {RATES} learning rates or more", Code.TOO_FEW)
    rows = rows[swept]
    cells = optima(rows, level)
    inside = [cell for cell in cells if cell.learning_rate is not None]
    bars = f"bars: its {percent(level)} interval from the scatter about all parabolas"
    if inside and inside[0].learning_rate is not None and inside[0].learning_rate.lo is None:
        bars = "no interval: no run is left to measure the noise"
    caption = (
        f"{plural(len(rows), 'run')} in {plural(len(cells), 'cell')} of one N, D and batch; points: means over seeds. "
        f"Stars: the minimum of a parabola through the best rate and its neighbours; {bars}. "
        f"{len(cells) - len(inside)} of {len(cells)} cells are best at an end of their sweep and have none."
    )
    canvas = Canvas("Loss against learning rate", caption, (7.6, 4.6), ax=ax)
    ax, sizes = canvas.only, Sizes(rows["N"].to_numpy(dtype=float))
    d_values = sorted(set(rows["D"]))
    for cell in cells:
        own = rows[(rows["N"] == cell.N) & (rows["D"] == cell.D) & (rows["batch"] == cell.batch)]
        mean = np.exp(np.log(own["loss"].astype(float)).groupby(own["learning_rate"]).mean())
        colour, marker = sizes.colour(cell.N), MARKERS[d_values.index(cell.D) % len(MARKERS)]
        excess = 100 * np.log(mean.to_numpy() / cell.loss)
        ax.plot(mean.index.to_numpy(), excess, "-", marker=marker, color=colour, linewidth=0.9, markersize=4)
        if cell.learning_rate is not None:
            best = cell.learning_rate
            if best.lo is not None and best.hi is not None:
                ax.plot([best.lo, best.hi], [0, 0], color=colour, linewidth=3, alpha=0.5, solid_capstyle="butt")
            ax.plot(best.value, 0, "*", color=colour, markeredgecolor="white", markersize=11, zorder=5)
    log_axis(ax, "x", span(rows["learning_rate"], 0.1), plain)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss above the cell's best, %")
    sizes.explain(canvas, ax, markers=False)
    return canvas.figure
