"""export: feeds a tracker from the records of a study, or writes them as tables."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec

from scaling.errors import Code, UserError, choose, library
from scaling.flags import Flag
from scaling.records import Record, read_typed, records, write_atomic, write_json
from scaling.records.files import make_folder
from scaling.records.types import StepRow
from scaling.records.value import Value
from scaling.status import SETTLED, study_status
from scaling.verbs import _tables
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("csv", "parquet")
TARGETS = (*TABLES, "tensorboard", "wandb")
STATE = "exported.json"


class Exported(Value):
    """What a tracker has of a run: its last step, and whether it has the result."""

    step: int = -1
    result: bool = False


class State(Value):
    """exported.json: what a tracker has, by run."""

    runs: dict[str, Exported] = msgspec.field(default_factory=dict)


@dataclass
class Count:
    """What one pass wrote; ``sealed`` are held-out runs whose losses may not be read yet."""

    runs: int = 0
    steps: int = 0
    results: int = 0
    sealed: int = 0
    files: list[str] = field(default_factory=list)


def export(options: SimpleNamespace) -> int:
    """Exports once, or with ``--follow`` until every run of the study has ended."""
    if options.to not in TARGETS:
        raise UserError("to", options.to or "nothing", choose(options.to or "", TARGETS), Code.UNKNOWN)
    if not 0 < options.every < math.inf:
        raise UserError("every", options.every, "must be a number of seconds above 0")
    workdir = options.path
    if not workdir.is_dir() or not (records(workdir) or (workdir / "study.json").exists()):
        raise UserError("workdir", workdir, "holds no records; give the work directory of a study", Code.MISSING)
    if options.to in TABLES:
        _tables.check(options.to, "to", options.to)
    else:
        library(options.to, "trackers", "to", options.to)
    out = Path(options.out) if options.out else workdir / "export" / options.to
    make_folder(out, inside=out.parent if options.out else workdir)
    looks = 0
    while True:
        left = _left(workdir)  # before the pass: what ends during it is seen by the next
        count = _tabulate(workdir, out, options.to) if options.to in TABLES else _track(workdir, out, options.to)
        if options.json:
            print_json({"kind": "export", "to": options.to, "path": str(out), **vars(count)})
        elif looks == 0 or not left.open or (count.files if options.to in TABLES else count.runs):
            print("\n".join(_said(count, out, options.to)), flush=True)
        if not options.follow or not left.open:
            if options.follow and left.said and not options.json:
                print(left.said)
            return 0
        if looks == 0 and not options.json:
            print("following until every run has ended; Ctrl-C ends it, the same command goes on", flush=True)
        looks += 1
        time.sleep(options.every)


def _visible(workdir: Path, count: Count) -> Iterator[Record]:
    """The records whose losses may be read: not those of held-out runs before their forecasts are sealed."""
    from analysis.table.seal import sealed_runs

    opened = sealed_runs(workdir)
    for record in records(workdir):
        if record.manifest.role == "holdout" and record.manifest.run not in opened:
            count.sealed += 1
        else:
            yield record


@dataclass(frozen=True)
class _Left:
    """What may still change: whether runs are left to train, and a line on those that ended without a result."""

    open: bool
    said: str | None = None


def _left(workdir: Path) -> _Left:
    """The runs of the study, or all runs where there is no study, which have no result."""
    try:
        status = study_status(workdir)
    except UserError as error:
        if error.code is not Code.MISSING:
            raise
        return _Left(any(record.result is None for record in records(workdir)))
    retry = f": {status.retry} trains them again" if status.retry else ""
    said = f"ended without a result that can be read: {len(status.failures)} runs{retry}" if status.failures else None
    return _Left(any(row.state not in SETTLED for row in status.runs), said)


def _track(workdir: Path, out: Path, to: str) -> Count:
    """Gives a tracker what it lacks; what it has is noted run by run, so that a repetition adds nothing."""
    from scaling.verbs._trackers import TRACKERS

    count, path = Count(), out / STATE
    try:
        known = read_typed(path, State, remedy="delete it and the export, and export again").runs
    except FileNotFoundError:
        known = {}
    for record in _visible(workdir, count):
        manifest, result, before = record.manifest, record.result, known.get(record.path.name, Exported())
        rows = [row for row in record.steps() if row.step > before.step]
        ended = result is not None and not before.result
        if not rows and not ended:
            continue
        tracker = TRACKERS[to](out, manifest, before.step + 1)
        last = before.step
        for row in rows:
            tracker.log(row.step, _values(row))
            last = row.step
        if ended and result is not None:
            losses = {f"eval/{term}": evaluation.value for term, evaluation in result.evaluation.items()}
            if losses:
                tracker.log(max(result.steps, last), losses)
        tracker.close()
        known[record.path.name] = Exported(last, before.result or ended)
        write_json(path, State(known))
        count.runs += 1
        count.steps += len(rows)
        count.results += ended
    return count


def _values(row: StepRow) -> dict[str, float]:
    return {
        "train/loss": row.loss,
        "train/gradient_norm": row.norm,
        "train/learning_rate": row.learning_rate,
        "train/tokens": float(row.tokens),
    }


def _tabulate(workdir: Path, out: Path, to: str) -> Count:
    """Writes runs, which `scaling fit` takes, and steps, for laws of learning curves; equal files are left alone."""
    import pandas as pd

    count = Count()
    steps: list[dict[str, str | float]] = []
    for record in _visible(workdir, count):
        rows = record.steps()
        dataset = record.manifest.dataset
        steps += [{"run": record.path.name, "dataset": dataset, "step": row.step, **_columns(row)} for row in rows]
    tables = {"runs": _runs(workdir, count), "steps": pd.DataFrame(steps)}
    count.runs, count.steps = len(tables["runs"]), len(steps)
    for name, table in tables.items():
        if len(table) == 0:
            continue
        path = out / f"{name}.{to}"
        content = _tables.content(table, to)
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)
            count.files.append(str(path))
    return count


def _columns(row: StepRow) -> dict[str, float]:
    return {name: getattr(row, name) for name in ("tokens", "loss", "learning_rate", "norm")}


def _runs(workdir: Path, count: Count) -> pd.DataFrame:
    """The finished runs of every data set, and held-out ones whose forecasts are sealed."""
    import pandas as pd

    from analysis.table import runs as tables

    found = []
    for dataset in tables.datasets(workdir):
        try:
            found.append(tables.load(workdir, dataset=dataset).table)
            found.append(tables.open_holdouts(workdir, dataset))
        except UserError as error:
            if error.code not in (Code.TOO_FEW, Code.MISSING):  # no finished run of the data set, or nothing sealed
                raise
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    count.results = len(table)
    return table


def _said(count: Count, out: Path, to: str) -> list[str]:
    if to in TABLES:
        done = f"written: {', '.join(count.files)}" if count.files else f"up to date: the tables in {out}"
        lines = [f"{done} ({count.runs} runs, {count.steps} steps)"]
    elif count.runs:
        lines = [f"exported: {count.steps} steps and {count.results} results of {count.runs} runs to {out}"]
    else:
        lines = [f"up to date: {out} has every step"]
    if count.sealed:
        lines.append(f"left out: {count.sealed} held-out runs, until `scaling predict` has sealed their forecasts")
    return lines


VERB = Verb(
    summary="feed TensorBoard or W&B from the records of a study, or write them as tables",
    positional=("WORKDIR",),
    flags=(
        Flag(
            "to",
            str,
            "csv, parquet, tensorboard, wandb (these two by pip install 'scaling-lab[trackers]')",
            offers=lambda: TARGETS,
        ),
        Flag("out", str, "folder to write to (default: WORKDIR/export/TO)"),
        Flag("follow", bool, "go on while the study trains, until every run has ended", False),
        Flag("every", float, "seconds between two looks with --follow", 10.0),
        JSON,
    ),
    example="scaling export runs/demo-smoke --to=csv",
    call=export,
)
