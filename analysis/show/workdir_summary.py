"""The contents of a work directory, read once for figures and report: fits, approaches, forecasts, outcomes, runs.

Before ``prediction.json`` seals a held-out run, nothing here, and so no figure or report, contains its loss or the
training curve of the run or its stem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import pandas as pd

from analysis import laws
from analysis.card import Kind
from analysis.check.approaches import Approaches, compare_approaches
from analysis.decide.entropy import EntropyCheck, EntropyChecks, check_entropy
from analysis.decide.forecast import DatasetScore, Score, score
from analysis.decide.ranking import Ranked, rank
from analysis.fitting import Fit, load_fit
from analysis.fitting.below_zero import require_above
from analysis.table import seal as sealed
from analysis.table.runs import Runs, datasets, entropy, load
from scaling.errors import Code, UserError
from scaling.records import Manifest, Record, Result, read_study, read_typed, records
from scaling.records.files import listed
from scaling.records.types import DataDescription, Evaluation, StudyRecord
from scaling.records.unit import NATS_PER_TOKEN, Unit

FIRST = "nonembedding"  # the count of N that the headline uses where several were fitted
T = TypeVar("T")


@dataclass(frozen=True)
class RunSummary:
    """A planned or trained run that is not a stem.

    Attributes:
      status: done, diverged, rejected, failed, unfinished, or planned.
      hidden: held out and not sealed, so that its outcome is not included.
      result: None where it is unfinished or hidden.
    """

    manifest: Manifest
    status: str
    hidden: bool
    result: Result | None

    @property
    def name(self) -> str:
        return self.manifest.run

    @property
    def evaluation(self) -> Evaluation | None:
        """Evaluation of the headline loss of a finished run."""
        if self.result is None or self.result.status != "done":
            return None
        return self.result.evaluation.get(self.manifest.headline)

    @property
    def loss(self) -> float | None:
        return None if self.evaluation is None else self.evaluation.value

    def count(self, n: str | None) -> float | None:
        """Its N by the name of a count or parameter group; None where it has none of that name."""
        counts = {**self.manifest.parameters.groups, **msgspec.structs.asdict(self.manifest.parameters)}
        value = counts.get(n or "")
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class TrainingCurve:
    """Mean training loss of each chunk of steps against tokens, of a stem, a branch or a whole run."""

    manifest: Manifest
    tokens: tuple[float, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class Provenance:
    """Hardware, software, data and cost of the runs shown.

    Attributes:
      environment: all values that occur in manifests, by name.
      data: by data set.
      train, compile, evaluate: device seconds, summed.
      flops: training FLOPs; a stem counts once.
      finished: when the last run ended.
    """

    environment: dict[str, tuple[str, ...]]
    data: dict[str, DataDescription]
    train: float
    compile: float
    evaluate: float
    flops: float
    finished: str | None


@dataclass(frozen=True)
class DatasetSummary:
    """The summary of one data set: its fits, and reasons why something is missing.

    Attributes:
      fits: by count of N and law, the best by AICc first.
      ranks: by count of N, the best first; empty where the fits are not of the same runs.
      approaches: by count of N.
      entropy: nats per token of the source, where it is known exactly and bounds the loss.
      opened: sealed and finished held-out runs.
      problems: messages about what could not be read, by name.
    """

    name: str
    fits: dict[str, dict[str, Fit]] = field(default_factory=dict)
    ranks: dict[str, tuple[Ranked, ...]] = field(default_factory=dict)
    approaches: dict[str, Approaches] = field(default_factory=dict)
    runs: Runs | None = None
    entropy: float | None = None
    opened: tuple[RunSummary, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def n(self) -> str | None:
        """The count of N that the headline uses."""
        return FIRST if FIRST in self.fits else next(iter(self.fits), None)

    def best(self) -> Fit | None:
        """The law that describes the runs best, by AICc."""
        return next(iter(self.fits.get(self.n or "", {}).values()), None)

    def forms(self, n: str) -> list[laws.Law]:
        """The laws that are fitted on a count of N."""
        return [fit.law for fit in self.fits.get(n, {}).values()]

    def main(self) -> Fit | None:
        """The law used for allocations: the default law if fitted, else the best law with an optimal N.

        Approaches 1 and 2 are compared with its optimum. Where no law has an optimum, it is the best of all.
        """
        fits, default = self.fits.get(self.n or "", {}), laws.default().name
        able = [name for name, f in fits.items() if {"N", "D"} <= set(f.law.columns) and not f.law.no_optimum]
        return fits[default if default in able else able[0]] if able else self.best()


@dataclass(frozen=True)
class WorkdirSummary:
    """A work directory, finished or not."""

    workdir: Path
    name: str
    datasets: tuple[DatasetSummary, ...]
    prediction: sealed.Prediction | None
    score: Score | None
    entropy: EntropyChecks | None
    runs: tuple[RunSummary, ...]
    curves: tuple[TrainingCurve, ...]
    provenance: Provenance
    problems: dict[str, str]

    def of(self, dataset: str) -> tuple[RunSummary, ...]:
        """The runs of a data set."""
        return tuple(run for run in self.runs if run.manifest.dataset == dataset)

    def unit(self, dataset: str) -> Unit:
        """Unit of the headline loss of a data set's runs."""
        return next((run.manifest.unit for run in self.of(dataset)), NATS_PER_TOKEN)

    def scored(self, dataset: str) -> DatasetScore | None:
        """Scores of a data set's sealed forecasts."""
        return None if self.score is None else self.score.datasets.get(dataset)

    def theory(self, dataset: str) -> EntropyCheck | None:
        """Losses of a data set against its entropy, where that is known."""
        return None if self.entropy is None else self.entropy.datasets.get(dataset)


def runs_of(fit: Fit) -> Runs:
    """The fitted rows, from the card of a fit."""
    table, data = pd.DataFrame({"run": fit.card.runs.run, **fit.columns}), fit.data
    return Runs(table, (), fit.conventions, data.source, data.dataset, data.sha256)


def of_fit(fit: Fit) -> DatasetSummary:
    """The summary of a single fit, with the approaches computed from the card's rows."""
    require_above(fit, "figure and no report")
    problems: dict[str, str] = {}
    n, approaches = _count(fit.conventions.n), {}
    if set(fit.law.columns) == {"N", "D"}:
        compared = _try(lambda: compare_approaches(runs_of(fit), fit, level=fit.level), problems, "approaches")
        approaches = {} if compared is None else {n: compared}
    return DatasetSummary(
        name=str(fit.data.dataset or Path(fit.data.source).stem),
        fits={n: {fit.law.name: fit}},
        ranks={n: ()},
        approaches=approaches,
        problems=problems,
    )


def of_one(fit: Fit, path: Path) -> WorkdirSummary:
    """The summary of one fit, of a card or a table, without a study.

    Args:
      path: the card or table, whose folder takes the place of the work directory.
    """
    nothing = Provenance(environment={}, data={}, train=0.0, compile=0.0, evaluate=0.0, flops=0.0, finished=None)
    return WorkdirSummary(
        workdir=path.parent,
        name=path.stem,
        datasets=(of_fit(fit),),
        prediction=None,
        score=None,
        entropy=None,
        runs=(),
        curves=(),
        provenance=nothing,
        problems={},
    )


def collect(workdir: str | Path | WorkdirSummary) -> WorkdirSummary:
    """Reads a work directory, finished or not. Missing or damaged parts are listed in ``problems``, not raised.

    What was collected before is returned as it is: ranking the laws of a study takes seconds.

    Raises:
      UserError: the directory holds neither a study nor a run.
    """
    if isinstance(workdir, WorkdirSummary):
        return workdir
    workdir = Path(workdir)
    problems: dict[str, str] = {}
    study = _try(lambda: _study(workdir), problems, "study")
    names = datasets(workdir)
    prediction = _try(lambda: sealed.read(workdir), problems, "prediction")
    opened = sealed.sealed_runs(workdir) if prediction else frozenset()
    runs, shown = _runs(workdir, study, opened)
    return WorkdirSummary(
        workdir=workdir,
        name=workdir.name if study is None else study.name,
        datasets=tuple(_dataset(workdir, name, runs) for name in names),
        prediction=prediction,
        score=_try(lambda: score(workdir), problems, "score") if prediction else None,
        entropy=_try(lambda: check_entropy(workdir), problems, "entropy") if "prediction" not in problems else None,
        runs=runs,
        curves=tuple(_curves(shown)),
        provenance=_provenance(shown),
        problems=problems,
    )


def _try(read: Callable[[], T], problems: dict[str, str], name: str) -> T | None:
    try:
        return read()
    except UserError as error:
        problems[name] = str(error)
        return None


def _count(n: str | None) -> str:
    return "table" if n is None else n


def _study(workdir: Path) -> StudyRecord | None:
    try:
        return read_study(workdir)
    except UserError as error:
        if error.code is Code.MISSING:
            return None
        raise


# --- fits


class _Data(msgspec.Struct, frozen=True):
    dataset: str | None = None


class _Conventions(msgspec.Struct, frozen=True):
    n: str | None = None


class _Card(Kind, frozen=True):
    """The fields of a file in ``fits/`` that tell its data set, without reading all of it."""

    data: _Data
    conventions: _Conventions = _Conventions()


def _dataset(workdir: Path, name: str, runs: Iterable[RunSummary]) -> DatasetSummary:
    own, problems = [run for run in runs if run.manifest.dataset == name], {}
    fits, approaches = _cards(workdir, name, problems)
    table = _try(lambda: load(workdir, dataset=name), problems, "runs")
    order = sorted(fits, key=lambda n: (n != FIRST, n))
    ranks: dict[str, tuple[Ranked, ...]] = {}
    for n in order:
        ranks[n] = tuple(_try(lambda n=n: rank(list(fits[n].values())), problems, "rank") or ())
        fits[n] = {row.law: fits[n][row.law] for row in ranks[n]} or fits[n]
    if table is not None and any(f.data.sha256 != table.sha256 for f in fits.get(FIRST, {}).values()):
        problems["stale"] = "the runs have changed since these fits were made; fit again (scaling fit)"
    known = (entropy(run.manifest) for run in own)
    return DatasetSummary(
        name=name,
        fits={n: fits[n] for n in order},
        ranks=ranks,
        approaches=approaches,
        runs=table,
        entropy=next((value for value in known if value is not None), None),
        opened=tuple(run for run in own if run.manifest.role == "holdout" and run.loss is not None),
        problems=problems,
    )


def _cards(
    workdir: Path, dataset: str, problems: dict[str, str]
) -> tuple[dict[str, dict[str, Fit]], dict[str, Approaches]]:
    """Fits by count of N and law, and approaches by count of N, of the files in ``fits/``."""
    fits: dict[str, dict[str, Fit]] = {}
    approaches: dict[str, Approaches] = {}
    for path in (path for path in listed(workdir / "fits") if path.suffix == ".json"):
        head = _try(lambda p=path: read_typed(p, _Card), problems, path.name)
        if head is None or head.data.dataset != dataset:
            continue
        if head.kind == "fit":
            fit = _try(lambda p=path: load_fit(p), problems, path.name)
            if fit is not None:
                fits.setdefault(_count(head.conventions.n), {})[fit.law.name] = fit
        elif head.kind == "approaches":
            compared = _try(lambda p=path: read_typed(p, Approaches), problems, path.name)
            if compared is not None:
                approaches[_count(head.conventions.n)] = compared
    return fits, approaches


# --- runs


def _runs(
    workdir: Path, study: StudyRecord | None, opened: frozenset[str]
) -> tuple[tuple[RunSummary, ...], list[tuple[Manifest, Record]]]:
    """All runs except stems, and all records that may be shown.

    A held-out run that is not sealed, and the stem that it grew from, is listed with its status and nothing more.
    """
    planned = [] if study is None else [spec.manifest for program in study.programs for spec in program.runs]
    begun = {record.path.name: record for record in records(workdir)}
    manifests = {m.run: m for m in planned} | {name: record.manifest for name, record in begun.items()}
    hidden = {run for run, m in manifests.items() if m.role == "holdout" and run not in opened}
    hidden |= {str(manifests[run].stem) for run in hidden}
    runs = []
    for run, manifest in manifests.items():
        if manifest.kind == "stem":
            continue
        result = begun[run].result if run in begun else None
        status = "planned" if run not in begun else "unfinished" if result is None else result.status
        runs.append(RunSummary(manifest, status, run in hidden, None if run in hidden else result))
    order = {} if study is None else {name: i for i, name in enumerate(study.datasets)}
    runs.sort(key=lambda run: _order(run.manifest, order))
    return tuple(runs), [(manifests[run], record) for run, record in begun.items() if run not in hidden]


def _order(m: Manifest, datasets: dict[str, int]) -> tuple[int, str, bool, int, int, int]:
    """Sort key: data set in the study's order, fitted before held-out, then size, D and seed."""
    place = datasets.get(m.dataset, len(datasets))
    return place, m.dataset, m.role == "holdout", m.parameters.nonembedding, m.tokens.D, m.seed


def _curves(shown: Iterable[tuple[Manifest, Record]]) -> Iterable[TrainingCurve]:
    for manifest, record in shown:
        if rows := record.steps():
            yield TrainingCurve(manifest, tuple(float(row.tokens) for row in rows), tuple(row.loss for row in rows))


def _provenance(shown: Iterable[tuple[Manifest, Record]]) -> Provenance:
    environment: dict[str, list[str]] = {}
    data: dict[str, DataDescription] = {}
    finished: list[str] = []
    train = compile = evaluate = flops = 0.0
    for manifest, record in shown:
        known = {} if manifest.environment is None else msgspec.structs.asdict(manifest.environment)
        for key, value in known.items():
            if value not in (None, {}) and str(value) not in environment.setdefault(key, []):
                environment[key].append(str(value))
        data.setdefault(manifest.dataset, manifest.data)
        if (result := record.result) is None:
            continue
        train, compile = train + result.seconds.train, compile + result.seconds.compile
        evaluate += result.seconds.evaluate
        finished.append(result.finished)
        own = manifest.steps - (manifest.branch_step or 0)
        flops += manifest.flops.training / max(1, manifest.steps) * own
    values = {key: tuple(texts) for key, texts in environment.items()}
    return Provenance(values, data, train, compile, evaluate, flops, max(finished, default=None))
