"""Shared by all figures: palette, markers, round ticks on logarithmic axes, labels with units, sizes as colours.

Sizes (an order) run along viridis, laws and approaches (kinds) take the Okabe-Ito palette, and each has a marker of its
own, so that no figure needs its colours. pyplot and its state are not used.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.card import Conventions
from analysis.check.diagnose import levels
from analysis.laws import Law
from analysis.show.numbers import plural, short
from analysis.show.sentences import COUNTS
from scaling.errors import UserError

Array = np.ndarray
INK, MUTED, GRID = "#1b1b1f", "#5c5c66", "#d9d9e0"
KINDS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito 2008
D_LABEL = "D (training tokens)"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
MANY_SIZES = 8  # above, sizes are told by a colour bar instead of a legend
MANY_POINTS = 3000  # above, points are drawn as pixels so that an SVG stays small
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # names of files and data sets hold dollars
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "figure.autolayout": False,  # the layout is given with each figure
    "figure.constrained_layout.use": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "axes.unicode_minus": True,
}
styled = matplotlib.rc_context(STYLE)


# --- text and axes


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """A few round ticks for a logarithmic axis: decades if there are enough of them, else parts of a decade."""
    if not (0 < low < high):
        return []
    if high / low < 5:
        steps = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(t) for t in steps if low <= t <= high]
    ticks: list[float] = []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for parts in ((1,), (1, 3), (1, 2, 5)):
        ticks = [p * 10.0**e for e in range(first, last + 1) for p in parts]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / most)]
    return ticks


def log_axis(ax: Axes, which: str, limits: tuple[float, float], text: Any) -> None:
    """A logarithmic axis with labels at a few round values, and no minor labels."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    (ax.set_xlim if which == "x" else ax.set_ylim)(*limits)
    axis.set_major_locator(FixedLocator(round_ticks(*limits)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: text(v)))


def span(values: Any, pad: float = 0.06) -> tuple[float, float]:
    """Limits of a logarithmic axis around positive values."""
    x = np.asarray(values, dtype=float)
    x = np.log(x[np.isfinite(x) & (x > 0)])
    low, high = float(x.min()), float(x.max())
    edge = pad * max(high - low, 0.3)
    return math.exp(low - edge), math.exp(high + edge)


def plain(value: float) -> str:
    return f"{value:.4g}"


class NotebookFigure(Figure):
    """A figure that a notebook shows, also where pyplot was never imported."""

    @styled
    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=80)
        return buffer.getvalue()


class Canvas:
    """The panels of one figure: a figure of its own with a title above and a caption below, or axes that were given.

    Attributes:
      figure: that the panels belong to.
      axes: the panels (rows, columns).
    """

    @styled
    def __init__(
        self,
        title: str,
        caption: str,
        size: tuple[float, float],
        shape: tuple[int, int] = (1, 1),
        *,
        ax: Axes | Sequence[Axes] | None = None,
        sharex: bool = False,
        sharey: bool = False,
    ):
        self._own = ax is None
        if ax is not None:
            self.axes = np.array([ax], dtype=object) if isinstance(ax, Axes) else np.array(list(ax), dtype=object)
            if len(self.axes) != shape[0] * shape[1]:
                remedy = f"this figure has {plural(shape[0] * shape[1], 'panel')}; give one axes for each"
                raise UserError("ax", len(self.axes), remedy)
            self.axes = self.axes.reshape(shape)
            figure = self.only.get_figure(root=True)
            assert figure is not None, "axes without a figure"
            self.figure: Figure = figure
            if self.axes.size == 1:
                self.only.set_title(title)
            return
        self.figure = NotebookFigure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
        self.figure.suptitle(title, x=0.012, ha="left", fontweight="bold", fontsize=11.5)
        wrapped = textwrap.fill(caption, int(size[0] * 15))
        self.figure.supxlabel(wrapped, x=0.012, ha="left", fontsize=8.5, color=MUTED)
        self.axes = self.figure.subplots(*shape, squeeze=False, sharex=sharex, sharey=sharey)

    @property
    def only(self) -> Axes:
        """The panel of a figure that has one."""
        return self.axes[0, 0]

    def first(self, count: int) -> list[Axes]:
        """The first ``count`` panels in reading order; the others are taken out of a figure of its own."""
        for spare in self.axes.ravel()[count:] if self._own else ():
            spare.remove()
        return list(self.axes.ravel()[:count])

    def legend(self, ax: Axes, **options: Any) -> None:
        """A legend right of the panel; within it where the axes were given, whose surroundings are not known."""
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if self._own else {"loc": "best"}
        ax.legend(**place, **options)


def n_kind(conventions: Conventions) -> str:
    """Which parameters N counts, in words."""
    return f"{COUNTS[conventions.n]} parameters" if conventions.n in COUNTS else "parameters"


def n_label(conventions: Conventions) -> str:
    return f"N ({n_kind(conventions)})"


def c_label(conventions: Conventions) -> str:
    how = {"exact": ", exact", "6ND": ", 6ND"}.get(conventions.flops or "", "")
    return f"C (training FLOPs{how})"


def loss_label(conventions: Conventions, prefix: str = "loss") -> str:
    """Loss with its unit where the runs have one; a table may say none."""
    return prefix if conventions.unit is None else f"{prefix} ({conventions.unit})"


class Sizes:
    """Colour and marker of each size; a legend for few sizes, a colour bar for many."""

    def __init__(self, n: Array):
        self.levels = np.array(levels(n))
        self.low, self.high = float(np.log(n.min())), float(np.log(n.max()))
        self.map = colormaps["viridis"]

    @property
    def few(self) -> bool:
        return len(self.levels) <= MANY_SIZES

    @property
    def drawn(self) -> Array:
        """The sizes whose curves are drawn."""
        if self.few:
            return self.levels
        return self.levels[np.unique(np.linspace(0, len(self.levels) - 1, 6).round().astype(int))]

    def colour(self, n: float) -> Any:
        share = (math.log(n) - self.low) / max(self.high - self.low, 1e-9)
        return self.map(0.8 * share)

    def scatter(self, ax: Axes, n: Array, x: Array, y: Array) -> None:
        for i, level in enumerate(self.levels if self.few else []):
            own = np.abs(np.log(n / level)) < 0.03
            style = {"marker": MARKERS[i % len(MARKERS)], "color": self.colour(level), "markeredgecolor": "white"}
            ax.plot(x[own], y[own], linestyle="", markeredgewidth=0.6, zorder=3, **style)
        if not self.few:
            colours = [self.colour(v) for v in n]
            small = 14 if len(n) < 300 else 6
            ax.scatter(x, y, c=colours, s=small, linewidths=0, zorder=3, rasterized=len(n) > MANY_POINTS)

    def explain(self, canvas: Canvas, ax: Axes, *, markers: bool = True) -> None:
        """Adds the legend or colour bar of the sizes to a panel."""
        if self.few:
            marker = MARKERS if markers else ("",)
            handles = [
                Line2D([], [], color=self.colour(n), marker=marker[i % len(marker)], label=f"N = {short(n)}")
                for i, n in enumerate(self.levels)
            ]
            canvas.legend(ax, handles=handles)
            return
        norm = Normalize(self.low, self.low + (self.high - self.low) / 0.8)
        ticks = round_ticks(math.exp(self.low), math.exp(self.high), 5)
        bar = canvas.figure.colorbar(ScalarMappable(norm, self.map), ax=ax, pad=0.02, aspect=30)
        bar.ax.set_ylim(self.low, self.high)
        bar.set_ticks([math.log(t) for t in ticks], labels=[short(t) for t in ticks])
        bar.set_label("N (parameters)")
        bar.outline.set_visible(False)


def law_styles(laws: Iterable[Law]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each law by its name: its own in every figure, by the law's ``style``.

    Where two laws of one figure would look the same, the later one takes the next free marker.
    """
    styles: dict[str, tuple[str, str]] = {}
    for law in laws:
        if law.name in styles:
            continue
        key = law.style or 0
        colour, own = KINDS[key % len(KINDS)], key % len(MARKERS)
        order = [MARKERS[(own + i) % len(MARKERS)] for i in range(len(MARKERS))]
        free = [marker for marker in order if (colour, marker) not in styles.values()]
        styles[law.name] = colour, (free or order)[0]
    return styles
