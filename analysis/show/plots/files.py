"""Figures as files: PDF, SVG and PNG, laid out for one column of a paper."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import collections
from matplotlib.backend_bases import get_registered_canvas_class
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.fitting import Fit, load_fit
from analysis.show import workdir_summary
from analysis.show.plots.catalogue import COMPARED, FIGURES, NAMES, PAGE, Source, draw, draw_compared
from analysis.show.plots.column import column
from analysis.show.plots.style import styled
from analysis.show.workdir_summary import DatasetSummary, WorkdirSummary
from scaling.errors import Code, UserError, choose
from scaling.records import write_atomic

FORMATS = ("pdf", "svg", "png")
PICTURES = (".jpg", ".jpeg", ".eps", ".ps", ".tif", ".tiff", ".gif", ".webp")  # a file of another format, no folder
MANY = 2000  # points of one panel beyond which they are drawn as a picture


def of_dataset(part: DatasetSummary) -> dict[str, Figure]:
    """The figures of the report that one data set supports without its forecasts and training curves, by name."""
    return draw(Source(part), PAGE).figures


def of_workdir(summary: WorkdirSummary) -> dict[str, dict[str, Figure]]:
    """Every figure of the report that a work directory supports: data set -> name -> figure."""
    return {part.name: draw(Source(part, summary), PAGE).figures for part in summary.datasets}


def _points(artist: Line2D | collections.Collection) -> int:
    """Points of a line, a scatter or an area."""
    if isinstance(artist, Line2D):
        return np.shape(artist.get_xydata())[0]
    return np.shape(artist.get_offsets())[0] + sum(np.shape(path.vertices)[0] for path in artist.get_paths())


@styled
def render(figure: Figure, kind: str, salt: str = "", *, dpi: int = 150) -> bytes:
    """A figure as bytes of ``FORMATS``; the same figure gives the same bytes.

    Axes with more than ``MANY`` points have them as one picture, also in an SVG, which else would be of megabytes. A
    PDF embeds its fonts as TrueType.
    """
    buffer = io.BytesIO()
    for axes in figure.axes:
        drawn = [*axes.lines, *axes.collections]
        if sum(map(_points, drawn)) > MANY:
            for artist in drawn:
                artist.set_rasterized(True)
    unsaid = {"svg": ("Date", "Creator"), "png": ("Software",), "pdf": ("CreationDate", "Creator", "Producer")}
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": salt or "scaling"}):
        if kind == "svg":  # whose text is drawn by the reader's fonts
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        with _laid_out(figure, kind, dpi):
            figure.savefig(buffer, format=kind, dpi=dpi, metadata=dict.fromkeys(unsaid[kind]))
    return buffer.getvalue()


@contextlib.contextmanager
def _laid_out(figure: Figure, kind: str, dpi: int) -> Iterator[None]:
    """Places the parts of a figure once, for one format; ``savefig`` would draw all of it for that, and then again."""
    engine, canvas, before = figure.get_layout_engine(), figure.canvas, figure.get_dpi()
    if engine is None:
        yield
        return
    get_registered_canvas_class(kind)(figure)  # text is as wide as this format draws it
    figure.set_dpi(dpi if kind == "png" else 72)  # those of a vector are points
    engine.execute(figure)
    figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_layout_engine(engine)
        figure.set_canvas(canvas)
        figure.set_dpi(before)


def save(
    figures: Mapping[str, Figure], out: str | Path, prefix: str = "", formats: Collection[str] = FORMATS
) -> list[Path]:
    """Lays each figure out for a column and writes it as ``<prefix><name>.<format>``. Returns the paths.

    Raises:
      UserError: ``out`` cannot be written.
    """
    paths = []
    for name, figure in figures.items():
        column(figure)
        for kind in formats:
            path = Path(out) / f"{prefix}{name}.{kind}"
            write_atomic(path, render(figure, kind, prefix + name, dpi=300))
            paths.append(path)
    return paths


@dataclass(frozen=True)
class Saved:
    """The files that were written, and by name why other figures were not."""

    paths: list[Path] = field(default_factory=list)
    left_out: dict[str, UserError] = field(default_factory=dict)


def save_summaries(
    summaries: Sequence[WorkdirSummary],
    out: str | Path,
    *,
    only: Sequence[str] = (),
    formats: Collection[str] | None = None,
) -> Saved:
    """Writes the figures that studies, cards or tables support.

    Those of a study are named ``<dataset>-<figure>``, those of a card or table ``<figure>``; ``compared`` sets the data
    sets of all side by side. Of several summaries only that one is drawn.

    Args:
      summaries: what ``workdir_summary.collect`` or ``of_one`` returned.
      out: a folder, or one file whose suffix is a format, for which ``only`` must leave one figure.
      only: names of figures, with or without their data set; by default all.
      formats: some of ``FORMATS``, by default all, or that of one file.

    Raises:
      UserError: UNKNOWN: a name or format; INVALID: one file for several figures; CONFLICT: one file and other formats;
        the reason why none of the figures that were asked for can be drawn; or ``out`` cannot be written.
    """
    out, one = Path(out), Path(out).suffix.lower()[1:] in FORMATS
    for kind in (*(formats or ()), *([out.suffix[1:]] if out.suffix.lower() in PICTURES else [])):
        if kind not in FORMATS:
            raise UserError("format", kind, choose(kind, FORMATS), Code.UNKNOWN)
    if one and formats and set(formats) != {out.suffix.lower()[1:]}:
        raise UserError("format", ",".join(formats), f"{out} is one file of one format", Code.CONFLICT)
    figures, left_out = _drawn(summaries, only)
    if only and not figures:
        raise next(iter(left_out.values()))
    if not one:
        return Saved(save(figures, out, formats=formats or FORMATS), left_out)
    if len(figures) != 1:
        remedy = f"is one file; name one figure with --only ({', '.join(figures) or 'none can be drawn'})"
        raise UserError("out", out, remedy)
    (figure,) = figures.values()
    column(figure)
    write_atomic(out, render(figure, out.suffix.lower()[1:], out.stem, dpi=300))
    return Saved([out], left_out)


def _drawn(summaries: Sequence[WorkdirSummary], only: Sequence[str]) -> tuple[dict[str, Figure], dict[str, UserError]]:
    """The wanted figures by the names of their files, and the reasons of those that cannot be drawn."""
    parts = [(summary, part) for summary in summaries for part in summary.datasets]
    known = [*NAMES, *(f"{_prefix(*each)}{name}" for each in parts for name in FIGURES)]
    for name in only:
        if name not in known:
            raise UserError("only", name, choose(name, dict.fromkeys(known)), Code.UNKNOWN)
    figures: dict[str, Figure] = {}
    left_out: dict[str, UserError] = {}
    if len(summaries) > 1:
        remedy = f"is a figure of one study, card or table, and these are {len(summaries)}; plot each by itself"
        left_out |= {name: UserError("only", name, remedy, Code.CONFLICT) for name in only if name != COMPARED}
    for summary, part in parts if len(summaries) == 1 else ():
        prefix = _prefix(summary, part)
        wanted = {k: make for k, make in FIGURES.items() if not only or {k, prefix + k} & set(only)}
        drawn = draw(Source(part, summary), wanted)
        figures |= {prefix + name: figure for name, figure in drawn.figures.items()}
        left_out |= {prefix + name: error for name, error in drawn.left_out.items()}
    if len(parts) > 1 and (not only or COMPARED in only):
        labels = [
            part.name if len(summaries) == 1 else " ".join([summary.name, part.name][: len(summary.datasets)])
            for summary, part in parts
        ]
        try:
            figures[COMPARED] = draw_compared(zip(labels, (part for _, part in parts)))
        except UserError as error:
            left_out[COMPARED] = error
    elif COMPARED in only:
        left_out[COMPARED] = UserError("compare", len(parts), "needs two data sets, cards or studies", Code.TOO_FEW)
    return figures, left_out


def _prefix(summary: WorkdirSummary, part: DatasetSummary) -> str:
    return f"{part.name}-" if summary.runs else ""


def save_all(workdir: str | Path, out: str | Path) -> list[Path]:
    """Every figure that the work directory supports, named ``<dataset>-<figure>``. Returns the paths."""
    return save_summaries([workdir_summary.collect(workdir)], out).paths


def save_fit(fit: Fit | str | Path, out: str | Path) -> list[Path]:
    """Saves the figures of one fit or card. Returns the paths."""
    fit = fit if isinstance(fit, Fit) else load_fit(fit)
    return save_summaries([workdir_summary.of_one(fit, Path(out))], out).paths
