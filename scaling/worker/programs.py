"""Progress of the programs of a study, read from their run directories."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scaling.errors import Code, NewerVersion, UserError
from scaling.records import AGAIN, Record, read_study, read_typed
from scaling.records.files import exists, set_aside
from scaling.records.order import in_order
from scaling.records.types import (
    FinishRow,
    InterruptedRow,
    Marks,
    ProgramSpec,
    Result,
    RetryRow,
    RunSpec,
    StartRow,
)
from scaling.worker.lease import Lease
from scaling.worker.lease_file import NAME, read
from scaling.worker.log import now
from scaling.worker.watch import Watch

DAMAGED = "damaged"  # in place of a status: the result is there and cannot be read
NEWER = "newer"  # likewise: a newer version of this program wrote it
UNTRAINED = ("failed", "rejected", DAMAGED)  # statuses that a new attempt may change


def load_programs(workdir: Path) -> list[ProgramSpec]:
    """The programs of study.json, in the order in which workers take them.

    Raises:
      UserError: there is no study (MISSING), or it cannot be read (DAMAGED).
    """
    return in_order(read_study(workdir).programs)


def record_of(workdir: Path, run: str) -> Record:
    """The record of a run, for its training: damaged rows of its metrics count as missing."""
    return Record(Path(workdir) / "runs" / run, strict=False)


def outcome(record: Record) -> str:
    """The status of a run, or ``DAMAGED``, or ``NEWER``."""
    try:
        return record.status
    except NewerVersion:
        return NEWER
    except UserError as error:
        if error.code is not Code.DAMAGED:
            raise
        return DAMAGED


def settled(workdir: Path, spec: RunSpec) -> bool:
    """Whether a run is not to be trained: it has a result, and is not a stem that has since been extended.

    A damaged result is not trained again unasked (see ``reset``), and one of a newer version of this program never.
    """
    return _state(workdir, spec) != "open"


def over(workdir: Path, program: ProgramSpec) -> bool:
    """Whether a program is not to be trained: every run is settled, or the result of one is damaged."""
    states = [_state(workdir, spec) for spec in program.runs]
    return DAMAGED in states or "open" not in states


def waits(workdir: Path, program: ProgramSpec, specs: Mapping[str, RunSpec]) -> bool:
    """Whether a run that a program starts from, of those of the study, is still to be trained. One that is lost for
    good is not waited for."""
    return any(name in specs and not settled(workdir, specs[name]) for name in program.parents)


def _state(workdir: Path, spec: RunSpec) -> str:
    """``open``, ``settled`` or ``DAMAGED``."""
    try:
        result = read_typed(f"{workdir}/runs/{spec.run}/result.json", Result, remedy=AGAIN)
    except FileNotFoundError:
        return "open"
    except UserError as error:
        if error.code is not Code.DAMAGED:
            raise
        return DAMAGED
    return "open" if spec.is_longer(result) else "settled"


def reset(workdir: Path, programs: Sequence[ProgramSpec]) -> list[str]:
    """Makes failed, rejected and damaged runs trainable again with a full set of attempts; returns their names.

    Programs that a worker holds are skipped. The old result is kept as result.<time>.json.

    Raises:
      UserError: a run's directory cannot be read or written, or is a link (ENVIRONMENT).
    """
    names = []
    for program in programs:
        records = [record_of(workdir, spec.run) for spec in program.runs]
        if not any(outcome(record) in UNTRAINED for record in records):
            continue
        lease = _take(records[0].path)
        if lease is None:
            continue
        with lease:
            for record in records:
                if outcome(record) in UNTRAINED:
                    record.make()  # first, since nothing is renamed behind a link
                    set_aside(record.path / "result.json")
                    names.append(record.path.name)
            records[0].append(RetryRow(time=now()))
    return names


def _take(folder: Path) -> Lease | None:
    """Takes the lease of a program, unless a worker holds it; waits for as long as that cannot be told.

    A lease that is damaged, or that a machine left which is gone, is void once it has not changed for a while.
    """
    watch, before = Watch(), read(folder / NAME)
    while (lease := watch.take(folder)) is None and read(folder / NAME) == before:
        time.sleep(watch.ttl / 20)
    return lease


def restore_manifests(workdir: Path, programs: Sequence[ProgramSpec]) -> list[str]:
    """Writes manifests again, from the study, that are damaged or missing beside a result; returns their runs' names.

    What was damaged is kept as manifest.<time>.json. That of a finished run is left, if a newer version wrote it.

    Raises:
      UserError: a run's directory cannot be read or written, or is a link (ENVIRONMENT); or a newer version of this
        program has begun a run (NewerVersion), which this one cannot continue.
    """
    names = []
    for spec in (spec for program in programs for spec in program.runs):
        record = record_of(workdir, spec.run)
        path = record.path / "manifest.json"
        try:
            _ = record.manifest
            continue
        except FileNotFoundError:
            if not exists(record.path / "result.json"):
                continue
        except NewerVersion:
            if settled(workdir, spec):
                continue
            raise
        except UserError as error:
            if error.code is not Code.DAMAGED:
                raise
        record.make()  # first, since nothing is renamed behind a link
        with contextlib.suppress(FileNotFoundError):  # missing, or another launcher was faster
            set_aside(path)
        record.begin(spec.manifest)
        names.append(spec.run)
    return names


def attempts(record: Record, marks: Marks) -> int:
    """Number of attempts that count against a program: starts since its last progress, except interrupted ones.

    Args:
      record: of the program's first run, which holds the program's events.
      marks: the program's progress now, see ``progress_marks``. Each start row holds the progress at that time.
    """
    count, before = 0, None
    for row in record.rows():
        if isinstance(row, StartRow):
            count = count + 1 if row.marks == before else 1
            before = row.marks
        elif isinstance(row, InterruptedRow):
            count = max(0, count - 1)
        elif isinstance(row, FinishRow | RetryRow):
            count = 0
    return count if before == marks else 0


def progress_marks(workdir: Path, program: ProgramSpec) -> Marks:
    """Progress of a program: settled runs, and distinct steps with a row, so that a repeated step is no progress."""
    records = [record_of(workdir, spec.run) for spec in program.runs]
    return Marks(
        settled=sum(exists(record.path / "result.json") for record in records),
        rows=sum(len(record.steps()) for record in records),
    )
