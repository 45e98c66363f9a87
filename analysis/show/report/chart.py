"""The figure of the first screen: loss against compute, its runs under the pointer, the answer's path through them.

Drawn here as SVG, once for a desk and once for a phone, each at the width at which it is shown. Colours are the page's
variables, so that light, dark and print need no other drawing.
"""

from __future__ import annotations

import html
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import markupsafe
import numpy as np

from analysis.check.diagnose import levels
from analysis.fitting import Fit
from analysis.show.numbers import loss as loss_text
from analysis.show.numbers import percent, plural, power_text, short
from analysis.show.plots.style import D_LABEL, Array, c_label, loss_label, n_label, plain, round_ticks, span
from analysis.show.sentences import quantity_word
from analysis.show.workdir_summary import RunSummary

COLOURS = 6  # variables --n0 to --n5 of the page, small N to large
MANY = 400  # runs; above, those that would cover each other are drawn as one
BAND = 0.35  # of the logarithmic height of points and path that the band may add on either side
NARROW = 2.0  # ratio of the ends of the axis of x, below which it is widened
SIDES = {"wide": (760, 400, 12), "narrow": (360, 330, 12)}  # width, height, font size: pixels


@dataclass(frozen=True)
class Path:
    """The line of the law: where it is, with the interval of one new run. Each (k,)."""

    x: Array
    value: Array
    lo: Array
    hi: Array


@dataclass(frozen=True)
class Drawing:
    """One SVG, and where it shows the step of the same index: None where a step has no answer."""

    svg: markupsafe.Markup
    marks: tuple[tuple[float, float] | None, ...]


@dataclass(frozen=True)
class Chart:
    """The figure.

    Attributes:
      drawings: by width, ``wide`` and ``narrow``.
      sizes: N as text and the number of its colour, for the legend; empty where the law has no N.
      caption: what is drawn.
    """

    drawings: dict[str, Drawing]
    sizes: tuple[tuple[str, int], ...]
    caption: str


@dataclass(frozen=True)
class Point:
    """A run, or several that cover each other: place, colour, and what the pointer is told."""

    x: float
    y: float
    colour: int
    said: str
    held_out: bool = False


def loss_chart(fit: Fit, path: Path | None, opened: Sequence[RunSummary] = ()) -> Chart | None:
    """Loss against C, or against the one column of a law that has one.

    Args:
      path: the compute-optimal loss, or that of the law's one column; None draws no line.
      opened: held-out runs whose outcomes are known.

    Returns:
      The figure; None where the runs have neither.
    """
    column = fit.law.columns[0] if len(fit.law.columns) == 1 else "C"
    data = fit.columns
    if column not in data or not np.isfinite(data[column]).all():
        return None
    points, sizes = _points(fit, column), _sizes(fit)
    points += _held_out(fit, opened) if column == "C" else []
    labels = {"C": c_label(fit.conventions), "N": n_label(fit.conventions), "D": D_LABEL}
    text = power_text if column == "C" else short
    ends, what = (0.0, float(data[column].max())), quantity_word(fit.law.quantity)
    if fit.law.of_a_loss:
        ends = float(data[column].min()), math.inf
    title = fit.conventions.columns.get(column, column) if column == "x" else column
    drawings = {}
    for name, (width, height, font) in SIDES.items():
        frame = _Frame(width, height, font, points, path, text)
        drawings[name] = frame.draw(name, labels.get(column, title), loss_label(fit.conventions, what), ends)
    return Chart(drawings, sizes, _caption(fit, points, path))


def _caption(fit: Fit, points: list[Point], path: Path | None) -> str:
    rows, drawn = fit.data.rows, sum(not point.held_out for point in points)
    said = f"{plural(rows, 'run')}" + (f", drawn as {drawn} points: near ones are one" if drawn < rows else "")
    if path is not None:
        what = "law" if len(fit.law.columns) == 1 else "lowest loss at each compute"
        said += f". Line: the {what}, dashed beyond the runs; band: {percent(fit.level)} interval of one new run"
    stars = sum(point.held_out for point in points)
    return (
        f"{said}. "
        + (f"Stars: {plural(stars, 'held-out run')}, at N and D of their own. " if stars else "")
        + "Both axes are logarithmic."
    )


def _levels(fit: Fit) -> Array:
    """Distinct sizes, ascending."""
    return np.log(levels(fit.columns["N"])) if "N" in fit.columns else np.zeros(0)


def _colour(sizes: Array, n: float) -> int:
    if len(sizes) < 2:
        return COLOURS - 1
    if len(sizes) <= COLOURS:  # a colour each, however near two are
        share = int(np.argmin(np.abs(sizes - math.log(n)))) / (len(sizes) - 1)
    else:
        share = (math.log(n) - sizes[0]) / max(sizes[-1] - sizes[0], 1e-9)
    return round(min(max(share, 0.0), 1.0) * (COLOURS - 1))


def _sizes(fit: Fit) -> tuple[tuple[str, int], ...]:
    sizes = _levels(fit)
    some = np.linspace(0, len(sizes) - 1, min(len(sizes), COLOURS)).round().astype(int)
    chosen = sizes[np.unique(some)]
    return tuple((short(math.exp(size)), _colour(sizes, math.exp(size))) for size in chosen)


def _points(fit: Fit, column: str) -> list[Point]:
    data, sizes = fit.columns, _levels(fit)
    x, y = data[column], data["loss"]
    cells: dict[tuple[int, int, int], list[int]] = {}
    across, up = ((np.log(values / values.min()) / max(np.ptp(np.log(values)), 1e-9)) for values in (x, y))
    for i in range(len(y)):
        colour = _colour(sizes, float(data["N"][i])) if len(sizes) else COLOURS - 1
        # 1 in 100 of the logarithmic range: points nearer than that cover each other
        place = (round(100 * float(across[i])), round(60 * float(up[i])), colour) if len(y) > MANY else (i, 0, colour)
        cells.setdefault(place, []).append(i)
    points = []
    for (_, _, colour), rows in cells.items():
        i = rows[len(rows) // 2]
        said = f"{len(rows)} runs near " if len(rows) > 1 else ""
        if not said and (name := str(fit.card.runs.run[i])):
            said = f"{name}: "
        numbers = [f"{k} {short(float(data[k][i]))}" for k in ("N", "D") if k in data]
        if column not in ("N", "D"):
            numbers.append(f"{column} {power_text(float(x[i])) if column == 'C' else short(float(x[i]))}")
        what = quantity_word(fit.law.quantity)
        said += ", ".join([*numbers, f"{what} {loss_text(float(y[i]))}, fitted {loss_text(float(data['fitted'][i]))}"])
        points.append(Point(float(x[i]), float(y[i]), colour, said))
    return points


def _held_out(fit: Fit, opened: Sequence[RunSummary]) -> list[Point]:
    points, sizes = [], _levels(fit)
    for run in opened:
        n, flops = run.count(fit.conventions.n), run.manifest.flops
        c = flops.six_nd if fit.conventions.flops == "6ND" else flops.training
        if n is None or run.loss is None or c is None:
            continue
        said = f"{run.name}, held out: N {short(n)}, D {short(run.manifest.tokens.D)}, C {power_text(c)}, "
        points.append(Point(float(c), run.loss, _colour(sizes, n), said + f"loss {loss_text(run.loss)}", True))
    return points


def _heights(points: list[Point], path: Path | None) -> Array:
    """Losses that the frame holds: all points, the path, and of its band what does not squash them."""
    told = np.array([p.y for p in points])
    if path is None:
        return told
    told = np.concatenate([told, path.value[np.isfinite(path.value)]])
    ends = np.concatenate([path.lo, path.hi])
    room = (told.max() / told.min()) ** BAND
    return np.concatenate([told, np.clip(ends[np.isfinite(ends)], told.min() / room, told.max() * room)])


class _Frame:
    """Axes of a given size in pixels around points and a path."""

    def __init__(
        self, width: int, height: int, font: int, points: list[Point], path: Path | None, text: Callable[[float], str]
    ):
        self.width, self.height, self.font, self.points, self.path, self.text = width, height, font, points, path, text
        self.x = span(np.array([*(p.x for p in points), *([] if path is None else path.x)]), 0.03)
        if self.x[1] / self.x[0] < NARROW:  # runs of one compute stand in the middle, between ticks that differ
            middle = math.sqrt(self.x[0] * self.x[1])
            self.x = (middle / NARROW, middle * NARROW)
        self.y = span(_heights(points, path), 0.08)
        self.left, self.right, self.top, self.bottom = 4.2 * font, width - font, 0.8 * font, height - 3.4 * font

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point; heights are kept within the frame."""
        across = math.log(x / self.x[0]) / math.log(self.x[1] / self.x[0])
        up = min(max(math.log(y / self.y[0]) / math.log(self.y[1] / self.y[0]), -0.5), 1.5)
        return (
            round(self.left + across * (self.right - self.left), 1),
            round(self.bottom - up * (self.bottom - self.top), 1),
        )

    def draw(self, kind: str, across: str, up: str, ends: tuple[float, float]) -> Drawing:
        """The SVG, of class ``kind``; the path is dashed beyond ``ends``, where the runs end."""
        parts = [
            f'<svg class="{kind}" viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}" '
            f'role="img" font-size="{self.font}" aria-label="{html.escape(up)} against {html.escape(across)}">',
            *self._grid(),
        ]
        if self.path is not None:
            parts += self._law(self.path, ends)
        parts += [self._point(point) for point in self.points]
        parts.append('<circle class="mark" r="7" visibility="hidden"/>')
        middle, centre = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        turned = f'transform="translate({self.font} {centre:.0f}) rotate(-90)"'
        for where, label in ((f'x="{middle:.0f}" y="{self.height - 4}"', across), (turned, up)):
            parts.append(f'<text class="ink" {where} text-anchor="middle">{html.escape(label)}</text>')
        text = "".join([*parts, "</svg>"])
        svg = text.replace("CLIP", f"clip{zlib.crc32(text.encode()):08x}")  # several data sets share a page
        marks: list[tuple[float, float] | None] = []
        for x, y in [] if self.path is None else zip(self.path.x, self.path.value):
            marks.append(self.place(float(x), float(y)) if math.isfinite(y) else None)
        return Drawing(markupsafe.Markup(svg), tuple(marks))

    def _grid(self) -> list[str]:
        parts, below = [], self.bottom + 1.4 * self.font
        for tick in round_ticks(*self.x, 7 if self.width > 500 else 4):
            x, _ = self.place(tick, self.y[0])
            parts.append(f'<path class="grid" d="M{x} {self.top:.0f}V{self.bottom:.0f}"/>')
            parts.append(f'<text x="{x}" y="{below:.0f}" text-anchor="middle">{self.text(tick)}</text>')
        for tick in round_ticks(*self.y, 6):
            _, y = self.place(self.x[0], tick)
            place = f'x="{self.left - 5:.0f}" y="{y + 0.35 * self.font:.1f}"'
            parts.append(f'<path class="grid" d="M{self.left:.0f} {y}H{self.right:.0f}"/>')
            parts.append(f'<text {place} text-anchor="end">{plain(tick)}</text>')
        return parts

    def _law(self, path: Path, ends: tuple[float, float]) -> list[str]:
        good = np.isfinite(path.value)
        closed = good & np.isfinite(path.lo) & np.isfinite(path.hi) & (path.lo > 0)
        parts = []
        if closed.sum() > 1:
            edge = [self.place(x, y) for x, y in zip(path.x[closed], path.hi[closed])]
            edge += [self.place(x, y) for x, y in zip(path.x[closed][::-1], path.lo[closed][::-1])]
            parts.append(f'<path class="band" d="{_line(edge)}Z" clip-path="url(#CLIP)"/>')
        size = f'width="{self.right - self.left:.0f}" height="{self.bottom - self.top:.0f}"'
        frame = f'<clipPath id="CLIP"><rect x="{self.left:.0f}" y="{self.top:.0f}" {size}/></clipPath>'
        inside = (path.x >= ends[0] * 0.999) & (path.x <= ends[1] * 1.001)
        beyond = ~inside
        beyond[:-1] |= ~inside[1:]  # begins where the other one ends
        beyond[1:] |= ~inside[:-1]
        for kind, own in (("law", inside), ("law beyond", beyond)):
            line = [self.place(x, y) for x, y in zip(path.x[good & own], path.value[good & own])]
            if len(line) > 1:
                parts.append(f'<path class="{kind}" d="{_line(line)}" clip-path="url(#CLIP)"/>')
        return [frame, *parts]

    def _point(self, point: Point) -> str:
        x, y = self.place(point.x, point.y)
        said = f"<title>{html.escape(point.said)}</title>"
        if not point.held_out:
            return f'<circle class="n{point.colour}" cx="{x}" cy="{y}" r="4.5">{said}</circle>'
        turns = [(k * math.pi / 5, 3.2 if k % 2 else 8.0) for k in range(10)]
        tips = [(x + r * math.sin(turn), y - r * math.cos(turn)) for turn, r in turns]
        return f'<path class="star" d="{_line(tips)}Z">{said}</path>'


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
