"""Lays a figure out for one column of a paper: 3.3 inches wide, no text below 7 points, legend and caption below."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import blended_transform_factory

from analysis.show.plots.style import MUTED, styled

WIDTH = 3.3  # inches: a column of ICML, IEEE and ACM papers
SMALLEST, LARGEST = 7.0, 7.5  # points of text; titles are bold
CHARACTERS = 62  # of SMALLEST that fit into a line
LINE = 0.135  # inches of such a line
MANY = 4  # panels, from which two stand side by side
THIN = 0.75  # of lines and markers
LEFT = 0.012  # of the width: where title, legend and caption begin


@styled
def column(figure: Figure) -> None:
    """Changes a figure of ``style.Canvas`` so that it is read in one column of a paper."""
    if figure.get_size_inches()[0] == WIDTH:
        return  # it is laid out already
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    words = max(map(_words, panels))
    across = 2 if len(panels) >= MANY and not words else 1
    rows = -(-len(panels) // across)
    height = 0.16 * words + 1.0 if words else 1.35 if across > 1 else 2.2 if rows == 1 else 1.7
    legend = _Legend.out_of(panels)
    below = legend.height
    heights = [*[height] * rows, *([below] if below else [])]
    grid = figure.add_gridspec(len(heights), across, height_ratios=heights)
    ylabels = {ax.get_ylabel() for ax in panels} - {""}
    for index, ax in enumerate(panels):
        ax.set_subplotspec(grid[index // across, index % across])
        if across > 1 and index + across < len(panels) and ax.get_xlabel() == panels[-1].get_xlabel():
            ax.set_xlabel("")
        if len(ylabels) == 1:
            ax.set_ylabel("" if index % across else next(iter(ylabels)))
        _panel(ax, across, height)
    if below:
        legend.draw(figure, figure.add_subplot(grid[-1, :]))
    _thin(figure)
    heading = textwrap.fill(figure.get_suptitle().replace("\n", " "), 50)
    caption = textwrap.fill(figure.get_supxlabel().replace("\n", " "), CHARACTERS)
    figure.suptitle(heading, x=LEFT, ha="left", fontweight="bold", fontsize=8)
    figure.supxlabel(caption, x=LEFT, ha="left", fontsize=SMALLEST, color=MUTED)
    lines = heading.count("\n") + caption.count("\n") + 2
    figure.set_size_inches(WIDTH, sum(heights) + LINE * lines + 0.25)


def _words(ax: Axes) -> int:
    """Labels in words beside a panel, which take too much of its width to set two side by side."""
    return sum(len(label.get_text()) > 8 for label in ax.get_yticklabels())


class _Legend(NamedTuple):
    """The entries of the legends of all panels, which go below the figure."""

    handles: list[Artist]
    labels: list[str]
    title: str

    @classmethod
    def out_of(cls, panels: list[Axes]) -> _Legend:
        """Takes the legends out of their panels."""
        found = cls([], [], "")
        for ax in panels:
            legend = ax.get_legend()
            if legend is not None:
                found.handles.extend(handle for handle in legend.legend_handles if handle is not None)
                found.labels.extend(text.get_text() for text in legend.get_texts())
                found = found._replace(title=found.title or legend.get_title().get_text())
                legend.remove()
        return found

    @property
    def columns(self) -> int:
        widest = max(map(len, self.labels), default=0) + 7  # the handle and the space between columns
        return max(1, min(4, CHARACTERS // widest, len(self.labels)))

    @property
    def height(self) -> float:
        """Inches; 0 where there is no legend."""
        return LINE * (-(-len(self.labels) // self.columns) + bool(self.title)) + 0.08 if self.labels else 0.0

    def draw(self, figure: Figure, ax: Axes) -> None:
        """Draws it into a row of its own, from the left edge of the figure."""
        ax.set_axis_off()
        legend = ax.legend(
            self.handles,
            self.labels,
            title=self.title or None,
            title_fontsize=SMALLEST,
            fontsize=SMALLEST,
            ncols=self.columns,
            loc="upper left",
            bbox_to_anchor=(LEFT, 1.0),
            bbox_transform=blended_transform_factory(figure.transFigure, ax.transAxes),
            borderaxespad=0.0,
            borderpad=0.0,
            columnspacing=1.0,
            handlelength=2.2,
            alignment="left",
        )
        legend.set_in_layout(False)


def _panel(ax: Axes, across: int, height: float) -> None:
    """Ticks, titles and labels of one panel."""
    ax.tick_params(labelsize=SMALLEST, labelbottom=True, labelleft=True, pad=2, length=2)
    most = 5 if across == 1 else 3
    ticks = list(map(float, ax.get_xticks()))
    if isinstance(ax.xaxis.get_major_locator(), FixedLocator) and len(ticks) > most:
        ax.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // most)]))
    ax.xaxis.labelpad = ax.yaxis.labelpad = 2
    lines = ax.get_title(loc="left").replace(" = ", "\xa0=\xa0").split("\n")
    ax.set_title("\n".join(textwrap.fill(line, 54 // across) for line in lines), loc="left", fontsize=SMALLEST, pad=3)
    ax.set_xlabel(_wrapped(ax.get_xlabel(), 50 if across == 1 else 24))
    ax.set_ylabel(_wrapped(ax.get_ylabel(), max(int(72 * (height - 0.5) / (0.58 * LARGEST)), 12)))


def _wrapped(label: str, most: int) -> str:
    """A label in lines of at most that many letters, its unit in lines of its own."""
    if len(label) <= most:
        return label
    head, bracket, unit = label.partition(" (")
    parts = [head, f"({unit}"] if bracket and len(head) > 3 else [label]
    return "\n".join(textwrap.fill(part, most, break_on_hyphens=False) for part in parts)


def _thin(figure: Figure) -> None:
    """Text, lines and markers at the size of a column."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_fontsize(min(max(float(text.get_fontsize()), SMALLEST), LARGEST))
    for line in figure.findobj(Line2D):
        assert isinstance(line, Line2D)
        line.set_linewidth(max(THIN * line.get_linewidth(), 0.5))
        line.set_markersize(THIN * line.get_markersize())
