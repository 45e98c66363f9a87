"""What every figure shares: palette, markers, round ticks on logarithmic axes, labels with units, sizes as colours.

Sizes (an order) run along viridis, laws and approaches (kinds) take the Okabe-Ito palette, and each has a marker of its
own, so that no figure needs its colours. pyplot and its state are not used.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
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

from analysis import laws
from analysis.check.diagnose import levels
from analysis.fitting import Fit

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
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "axes.unicode_minus": True,
}
_SUPER = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
styled = matplotlib.rc_context(STYLE)


# --- text and axes


def short(value: float) -> str:
    """3 significant digits with k, M, B, T: how people write parameters and tokens."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}" if value < 999.5e12 else power_text(value)
    return f"{value:.3g}"


def power_text(value: float, digits: int = 2) -> str:
    """3×10¹²: how people write FLOPs."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    head = f"{value / 10.0**exponent:.{digits}g}"
    if head == "10":  # 9.99 rounds up
        head, exponent = "1", exponent + 1
    tail = f"10{str(exponent).translate(_SUPER)}"
    return tail if head == "1" else f"{head}×{tail}"


def percent(level: float) -> str:
    return f"{100 * level:g} %"


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Few round ticks of a logarithmic axis: decades where there are enough of them, else parts of a decade."""
    if not (0 < low < high):
        return []
    if high / low < 5:
        steps = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(t) for t in steps if low <= t <= high]
    found: list[float] = []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for parts in ((1,), (1, 3), (1, 2, 5)):
        found = [p * 10.0**e for e in range(first, last + 1) for p in parts]
        found = [t for t in found if low * 0.999 <= t <= high * 1.001]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / most)]
    return found


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


@styled
def new_figure(
    title: str, caption: str, size: tuple[float, float], rows: int = 1, columns: int = 1, **share: Any
) -> Any:
    """A figure, its title above and its caption below, and its axes (rows, columns)."""
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    width = int(size[0] * 15)
    figure.suptitle(title, x=0.012, ha="left", fontweight="bold", fontsize=11.5)
    figure.supxlabel(textwrap.fill(caption, width), x=0.012, ha="left", fontsize=8.5, color=MUTED)
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def n_kind(conventions: Mapping[str, Any]) -> str:
    """Which parameters N counts, in words."""
    kinds = {"nonembedding": "non-embedding parameters", "total": "total parameters"}
    return kinds.get(str(conventions.get("n", "")), "parameters")


def n_label(conventions: Mapping[str, Any]) -> str:
    return f"N ({n_kind(conventions)})"


def c_label(conventions: Mapping[str, Any]) -> str:
    words = str(conventions.get("C", ""))
    return f"C (training FLOPs{', exact' if 'exact' in words else ', 6ND' if '6ND' in words else ''})"


def loss_label(conventions: Mapping[str, Any], prefix: str = "loss") -> str:
    """Loss with its unit, which runs of records have; a table says none."""
    unit = str(conventions.get("loss", "")).partition(" on the evaluation set, ")[2]
    return f"{prefix} ({unit})" if unit else prefix


def columns_of(fit: Fit) -> dict[str, Array]:
    rows = fit.card()["runs"]
    return {k: np.array([row[k] for row in rows], dtype=float) for k in rows[0] if k != "run"}


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

    def explain(self, figure: Any, ax: Axes, *, markers: bool = True) -> None:
        if self.few:
            handles = [
                Line2D(
                    [],
                    [],
                    color=self.colour(n),
                    marker=MARKERS[i % len(MARKERS)] if markers else "",
                    label=f"N = {short(n)}",
                )
                for i, n in enumerate(self.levels)
            ]
            ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
            return
        norm = Normalize(self.low, self.low + (self.high - self.low) / 0.8)
        ticks = round_ticks(math.exp(self.low), math.exp(self.high), 5)
        bar = figure.colorbar(ScalarMappable(norm, self.map), ax=ax, pad=0.02, aspect=30)
        bar.ax.set_ylim(self.low, self.high)
        bar.set_ticks(np.log(ticks), labels=[short(t) for t in ticks])
        bar.set_label("N (parameters)")
        bar.outline.set_visible(False)


def law_style(name: str) -> tuple[str, str]:
    """Colour and marker of a law, the same in every figure."""
    known = list(laws.REGISTRY)
    place = known.index(name) if name in known else 0
    return KINDS[(place - 2) % len(KINDS)], MARKERS[(place - 2) % len(MARKERS)]


def count_runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
