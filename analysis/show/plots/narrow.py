"""Lays a figure out for a phone: panels below each other, legends below them, text at the size at which it is read."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from analysis.show.plots.style import MUTED, styled

WIDTH, HEIGHT = 4.1, 3.4  # inches of the figure, and of a panel
TICKS = 4  # labels that fit below a panel
SMALLEST = 8.0  # points, which are more than 9 pixels on a phone


@styled
def narrow(figure: Figure) -> None:
    """Changes a figure of ``style.Canvas`` so that it is read at the width of a phone, 390 pixels."""
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    grid = figure.add_gridspec(len(panels), 1)
    below = 0.0
    for index, ax in enumerate(panels):
        ax.set_subplotspec(grid[index])
        ticks = list(map(float, ax.get_xticks()))
        if isinstance(ax.xaxis.get_major_locator(), FixedLocator) and len(ticks) > TICKS:
            ax.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // TICKS)]))
        ax.tick_params(labelbottom=True, labelleft=True)  # shared axes are labelled on one panel only
        legend = ax.get_legend()
        if legend is not None:
            legend.set_loc("upper left")
            legend.set_bbox_to_anchor((0.0, -0.22), ax.transAxes)
            legend.set_ncols(2)
            below += 0.2 * -(-len(legend.get_texts()) // 2)
    for text in figure.findobj(Text):
        if isinstance(text, Text) and float(text.get_fontsize()) < SMALLEST:
            text.set_fontsize(SMALLEST)
    title, caption = (text.replace("\n", " ") for text in (figure.get_suptitle(), figure.get_supxlabel()))
    wrapped = textwrap.fill(caption.replace("Left:", "Above:").replace("Right:", "Below:"), 58)
    figure.suptitle(textwrap.fill(title, 34), x=0.02, ha="left", fontweight="bold", fontsize=11)
    figure.supxlabel(wrapped, x=0.02, ha="left", fontsize=8.5, color=MUTED)
    figure.set_size_inches(WIDTH, HEIGHT * len(panels) + below + 0.17 * wrapped.count("\n"))
