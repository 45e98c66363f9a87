"""Which figures a fit or a work directory supports, and figures as files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from analysis.fitting import Fit, load_fit
from analysis.show import workdir_summary
from analysis.show.plots.approaches import allocation, isoflop
from analysis.show.plots.checks import floor, residuals
from analysis.show.plots.law import compute, loss
from analysis.show.plots.runs import forecasts, training
from analysis.show.plots.style import styled
from analysis.show.workdir_summary import DatasetSummary, WorkdirSummary
from scaling.records import write_atomic


def of_dataset(part: DatasetSummary) -> dict[str, Figure]:
    """The figures that one data set supports without its forecasts, by name."""
    figures: dict[str, Figure] = {}
    best, main, n = part.best(), part.main(), part.n
    if best is None or main is None or n is None:
        return figures
    fits = part.fits[n]
    plane = {name: fit for name, fit in fits.items() if {"N", "D"} <= set(fit.law.columns)}
    figures["loss"] = loss(best, entropy=part.entropy, opened=part.opened)
    if set(main.law.columns) == {"N", "D"}:
        figures["compute"] = compute(main)
    if n in part.approaches:
        figures["isoflop"] = isoflop(workdir_summary.runs_of(main), part.approaches[n])
        figures["allocation"] = allocation(main, part.approaches[n])
    if plane:
        figures["residuals"] = residuals(plane)
    if any(fit.law.floor for fit in fits.values()):
        figures["floor"] = floor(fits, entropy=part.entropy)
    return figures


def of_workdir(summary: WorkdirSummary) -> dict[str, dict[str, Figure]]:
    """Every figure that a work directory supports: data set -> name -> figure."""
    figures = {}
    for part in summary.datasets:
        own, sealed = of_dataset(part), summary.prediction
        if sealed is not None and any(c.dataset == part.name for e in sealed.entries for c in e.cells):
            rows = [] if summary.score is None else [row for row in summary.score.rows if row.dataset == part.name]
            own["forecasts"] = forecasts(sealed, part.name, rows, unit=summary.unit(part.name))
        if any(c.manifest.dataset == part.name for c in summary.curves):
            own["training"] = training(summary.curves, part.name)
        figures[part.name] = own
    return figures


@styled
def render(figure: Figure, kind: str, salt: str = "") -> bytes:
    """A figure as ``svg`` or ``png`` bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": salt or "scaling"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def save(figures: Mapping[str, Figure], out: str | Path, prefix: str = "") -> list[Path]:
    """Writes each figure as ``<prefix><name>.svg`` and ``.png``. UserError where ``out`` cannot be written."""
    paths = []
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            path = Path(out) / f"{prefix}{name}.{kind}"
            write_atomic(path, render(figure, kind, prefix + name))
            paths.append(path)
    return paths


def save_all(workdir: str | Path, out: str | Path) -> list[Path]:
    """Every figure that the work directory supports, as SVG and PNG named ``<dataset>-<figure>``. Returns the paths."""
    figures = of_workdir(workdir_summary.collect(workdir))
    return [path for name, own in figures.items() for path in save(own, out, f"{name}-")]


def save_fit(fit: Fit | str | Path, out: str | Path) -> list[Path]:
    """Saves the figures of one fit or card, of a table or a work directory. Returns the paths."""
    fit = fit if isinstance(fit, Fit) else load_fit(fit)
    return save(of_dataset(workdir_summary.of_fit(fit)), out)
