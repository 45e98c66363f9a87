"""Every figure by its name: what it is drawn from, and why it cannot be drawn from some data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from matplotlib.figure import Figure

from analysis.check.approaches import Approaches
from analysis.decide.compare import Member, compare
from analysis.fitting import Fit
from analysis.fitting.profiles import profiles as profiles_of
from analysis.show import workdir_summary
from analysis.show.approach_sentences import why_not
from analysis.show.plots.approaches import allocation, isoflop
from analysis.show.plots.checks import floor, residuals
from analysis.show.plots.law import compute, contours, frontier, loss
from analysis.show.plots.optimum import optimum
from analysis.show.plots.outcomes import outcomes
from analysis.show.plots.profiles import compared, profiles
from analysis.show.plots.runs import forecasts, training
from analysis.show.plots.sweep import learning_rates
from analysis.show.workdir_summary import DatasetSummary, WorkdirSummary
from scaling.errors import Code, UserError


class Source(NamedTuple):
    """What the figures of one data set are drawn from; a card or a table has no study."""

    part: DatasetSummary
    study: WorkdirSummary | None = None


Draw = Callable[[Source], Figure]


def _fitted(part: DatasetSummary) -> Fit:
    """The best law. UserError where none is fitted."""
    if (best := part.best()) is None:
        raise UserError("fit", part.name, "no law is fitted yet; run `scaling fit`", Code.MISSING)
    return best


def _plane(part: DatasetSummary) -> Fit:
    """The law of N and D that allocations come from."""
    _fitted(part)
    main = part.main()
    if main is None or set(main.law.columns) != {"N", "D"}:
        name = "none" if main is None else main.law.name
        raise UserError("law", name, "is no law of N and D; fit one (chinchilla)", Code.UNSUPPORTED)
    return main


def _approaches(part: DatasetSummary, main: Fit) -> Approaches:
    found = part.approaches.get(part.n or "")
    if found is None:
        reason = part.problems.get("approaches", f"the approaches are not compared yet; run `scaling fit {part.name}`")
        raise UserError("approaches", main.law.name, reason, Code.MISSING)
    return found


def _loss(source: Source) -> Figure:
    return loss(_fitted(source.part), entropy=source.part.entropy, opened=source.part.opened)


def _isoflop(source: Source) -> Figure:
    main = _plane(source.part)
    found = _approaches(source.part, main)
    second = found.approaches["2"]
    if not second.points and second.why is not None:
        raise UserError("approach", "2", why_not(second.why), Code.NOT_IDENTIFIED)
    return isoflop(workdir_summary.runs_of(main), found)


def _allocation(source: Source) -> Figure:
    main = _plane(source.part)
    return allocation(main, _approaches(source.part, main))


def _residuals(source: Source) -> Figure:
    best = _fitted(source.part)
    plane = {
        name: fit
        for name, fit in source.part.fits[source.part.n or ""].items()
        if {"N", "D"} <= set(fit.law.columns) and "C" in fit.columns
    }
    if not plane:
        remedy = "is no law of N and D; residuals are drawn against their C"
        raise UserError("law", best.law.name, remedy, Code.UNSUPPORTED)
    return residuals(plane)


def _profiles(source: Source) -> Figure:
    fit = source.part.main() or _fitted(source.part)
    runs = source.part.runs
    table = None if runs is None else runs.table.reset_index(drop=True)
    if table is not None and ("run" not in table or tuple(map(str, table["run"])) != fit.runs):
        table = None  # the runs have changed since the fit: the card's rows are those that were fitted
    return profiles(fit, profiles_of(fit, table))


def _floor(source: Source) -> Figure:
    _fitted(source.part)
    return floor(source.part.fits[source.part.n or ""], entropy=source.part.entropy)


def _forecasts(source: Source) -> Figure:
    part, study = source
    sealed = None if study is None else study.prediction
    if study is None or sealed is None or not any(c.dataset == part.name for e in sealed.entries for c in e.cells):
        raise UserError("forecasts", part.name, "no forecast is sealed (scaling predict WORKDIR)", Code.MISSING)
    rows = [] if study.score is None else [row for row in study.score.rows if row.dataset == part.name]
    return forecasts(sealed, part.name, rows, unit=study.unit(part.name))


def _outcomes(source: Source) -> Figure:
    part, study = source
    best = _fitted(part)
    if study is None or study.prediction is None or study.score is None:
        raise UserError("outcomes", part.name, "no forecast is sealed (scaling predict WORKDIR)", Code.MISSING)
    cells = [cell for entry in study.prediction.entries for cell in entry.cells if cell.dataset == part.name]
    return outcomes(best, [row for row in study.score.rows if row.dataset == part.name], cells)


def _training(source: Source) -> Figure:
    part, study = source
    if study is None or not any(c.manifest.dataset == part.name for c in study.curves):
        raise UserError("training", part.name, "no run has a training curve here", Code.MISSING)
    return training(study.curves, part.name)


def _learning_rates(source: Source) -> Figure:
    part, study = source
    if part.runs is None or "learning_rate" not in part.runs.table:
        raise UserError("learning_rate", part.name, "the runs have no column of learning rates", Code.MISSING)
    table = part.runs.table
    if study is not None and study.runs:
        steps = {run.name: float(run.manifest.tokens.per_step) for run in study.runs}
        table = table.assign(batch=[steps.get(name, 1.0) for name in table["run"]])
    return learning_rates(table)


FIGURES: Mapping[str, Draw] = {
    "loss": _loss,
    "frontier": lambda source: frontier(_plane(source.part)),
    "contours": lambda source: contours(_plane(source.part)),
    "optimum": lambda source: optimum(_plane(source.part)),
    "allocation": _allocation,
    "isoflop": _isoflop,
    "residuals": _residuals,
    "profiles": _profiles,
    "floor": _floor,
    "forecasts": _forecasts,
    "outcomes": _outcomes,
    "training": _training,
    "learning_rates": _learning_rates,
}
COMPARED = "compared"  # the figure of several data sets or studies
NAMES = (*FIGURES, COMPARED)
PAGE: Mapping[str, Draw] = {  # of the report, which may hold no more bytes
    "loss": _loss,
    "compute": lambda source: compute(_plane(source.part)),
    **{name: FIGURES[name] for name in ("isoflop", "allocation", "residuals", "floor", "forecasts", "training")},
}


class Drawn(NamedTuple):
    """Figures by name, and why the others cannot be drawn."""

    figures: dict[str, Figure]
    left_out: dict[str, UserError]


def draw(source: Source, wanted: Mapping[str, Draw] = FIGURES) -> Drawn:
    """Those of the wanted figures that the data allow, by name, and the reasons of the others."""
    drawn = Drawn({}, {})
    for name, make in wanted.items():
        try:
            drawn.figures[name] = make(source)
        except UserError as error:
            drawn.left_out[name] = error
    return drawn


def draw_compared(parts: Iterable[tuple[str, DatasetSummary]]) -> Figure:
    """The exponents of several data sets or studies side by side.

    Args:
      parts: labels and summaries.

    Raises:
      UserError: as ``decide.compare.compare``, such as TOO_FEW: fewer than two fits.
    """
    members = [Member(label, fit) for label, part in parts if (fit := part.main()) is not None]
    return compared(compare(members))
