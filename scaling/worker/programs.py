"""Progress of the programs of a study, read from their run directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from scaling.errors import Code, UserError
from scaling.records import Record, read_study
from scaling.records.files import set_aside
from scaling.records.types import (
    FinishRow,
    InterruptedRow,
    Marks,
    ProgramSpec,
    RetryRow,
    RunSpec,
    StartRow,
)
from scaling.worker.log import now
from scaling.worker.watch import Watch

DAMAGED = "damaged"  # in place of a status: the result is there and cannot be read
UNTRAINED = ("failed", "rejected", DAMAGED)  # statuses that a new attempt may change


def load_programs(workdir: Path) -> list[ProgramSpec]:
    """The programs of study.json, longest estimated time first.

    Raises:
      UserError: there is no study (MISSING), or it cannot be read (DAMAGED).
    """
    return sorted(read_study(workdir).programs, key=lambda program: (-program.seconds, program.program))


def record_of(workdir: Path, run: str) -> Record:
    """The record of a run, for its training: damaged rows of its metrics count as missing."""
    return Record(Path(workdir) / "runs" / run, strict=False)


def outcome(record: Record) -> str:
    """The status of a run, or ``DAMAGED``."""
    try:
        return record.status
    except UserError as error:
        if error.code is not Code.DAMAGED:
            raise
        return DAMAGED


def settled(workdir: Path, spec: RunSpec) -> bool:
    """Whether a run is not to be trained: it has a result, and is not a stem that has since been extended.

    A damaged result is not trained again unasked (see ``reset``): it may be of a newer version of this program.
    """
    return _state(workdir, spec) != "open"


def over(workdir: Path, program: ProgramSpec) -> bool:
    """Whether a program is not to be trained: every run is settled, or the result of one is damaged."""
    states = [_state(workdir, spec) for spec in program.runs]
    return DAMAGED in states or "open" not in states


def _state(workdir: Path, spec: RunSpec) -> str:
    """``open``, ``settled`` or ``DAMAGED``."""
    try:
        result = record_of(workdir, spec.run).result
    except UserError as error:
        if error.code is not Code.DAMAGED:
            raise
        return DAMAGED
    if result is None:
        return "open"
    longer = spec.kind == "stem" and result.status == "done" and result.steps < spec.steps
    return "open" if longer else "settled"


def reset(workdir: Path, programs: Sequence[ProgramSpec]) -> list[str]:
    """Makes failed, rejected and damaged runs trainable again with a full set of attempts; returns their names.

    Programs that a worker holds are skipped. The old result is kept as result.<time>.json.
    """
    names = []
    for program in programs:
        records = [record_of(workdir, spec.run) for spec in program.runs]
        if not any(outcome(record) in UNTRAINED for record in records):
            continue
        lease = Watch().take(records[0].path)
        if lease is None:
            continue
        with lease:
            for record in records:
                if outcome(record) in UNTRAINED:
                    set_aside(record.path / "result.json")
                    names.append(record.path.name)
            records[0].append(RetryRow(time=now()))
    return names


def restore_manifests(workdir: Path, programs: Sequence[ProgramSpec]) -> list[str]:
    """Writes manifests again, from the study, that are damaged or missing beside a result; returns their runs' names.

    What was damaged is kept as manifest.<time>.json.
    """
    names = []
    for spec in (spec for program in programs for spec in program.runs):
        record = record_of(workdir, spec.run)
        path = record.path / "manifest.json"
        try:
            _ = record.manifest
            continue
        except FileNotFoundError:
            if not os.path.lexists(record.path / "result.json"):
                continue
        except UserError as error:
            if error.code is not Code.DAMAGED:
                raise
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
        settled=sum(os.path.lexists(record.path / "result.json") for record in records),
        rows=sum(len(record.steps()) for record in records),
    )
