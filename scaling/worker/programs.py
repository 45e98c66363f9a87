"""Progress of the programs of a study, read from their run directories."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from scaling.records import Record, read_study
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

UNTRAINED = ("failed", "rejected")  # statuses that a new attempt may change


def load_programs(workdir: Path) -> list[ProgramSpec]:
    """The programs of study.json, longest estimated time first.

    Raises:
      UserError: there is no study (MISSING), or it cannot be read (DAMAGED).
    """
    return sorted(read_study(workdir).programs, key=lambda program: (-program.seconds, program.program))


def record_of(workdir: Path, run: str) -> Record:
    """The record of a run."""
    return Record(Path(workdir) / "runs" / run)


def settled(workdir: Path, spec: RunSpec) -> bool:
    """Whether a run needs no more training: it has a result, and is not a stem that has since been extended."""
    result = record_of(workdir, spec.run).result
    if result is None:
        return False
    return spec.kind != "stem" or result.status != "done" or result.steps >= spec.steps


def reset(workdir: Path, programs: Sequence[ProgramSpec]) -> list[str]:
    """Makes failed and rejected runs trainable again with a full set of attempts; returns their names.

    Programs that a worker holds are skipped. The old result is kept as result.<time>.json.
    """
    names = []
    for program in programs:
        records = [record_of(workdir, spec.run) for spec in program.runs]
        if not any(record.status in UNTRAINED for record in records):
            continue
        lease = Watch().take(records[0].path)
        if lease is None:
            continue
        with lease:
            for record in records:
                if record.status in UNTRAINED:
                    os.replace(record.path / "result.json", record.path / f"result.{time.time_ns()}.json")
                    names.append(record.path.name)
            records[0].append(RetryRow(time=now()))
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
        settled=sum(record.result is not None for record in records),
        rows=sum(len(record.steps()) for record in records),
    )
