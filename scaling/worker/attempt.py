"""One attempt at a program under its lease: how it begins, and how its end is recorded."""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from scaling import distributed
from scaling.errors import Code, UserError
from scaling.records.files import append
from scaling.records.guard import publishing
from scaling.records.types import (
    ErrorRow,
    FinishRow,
    InterruptedRow,
    ProgramSpec,
    Result,
    StartRow,
)
from scaling.worker import EXIT_AGAIN, EXIT_INTERRUPTED
from scaling.worker.failures import is_environment_error, one_line
from scaling.worker.lease import Lease, LeaseLost
from scaling.worker.lease_file import Progress
from scaling.worker.log import log, now
from scaling.worker.programs import attempts, progress_marks, record_of, restore_manifests, settled
from scaling.worker.training import Training


class Attempt:
    """One attempt at a program.

    Args:
      workdir, program, lease: what is attempted, and the lease that protects it.
      number: of the attempt, from 1. training: the module that trains.
      stopping: whether the worker was asked to stop.

    Attributes:
      over: whether it has ended, and its end is recorded if the machine allowed that.
      exit_code: with which the process must exit after the attempt; None if it may continue.
    """

    def __init__(
        self,
        workdir: Path,
        program: ProgramSpec,
        lease: Lease,
        number: int,
        *,
        training: Training,
        stopping: Callable[[], bool],
    ):
        self.workdir, self.program, self.lease, self.number = workdir, program, lease, number
        self.training, self._stopping = training, stopping
        self.record = record_of(workdir, program.program)
        self.over = False
        self.exit_code: int | None = None
        self._open = contextlib.ExitStack()
        self._open.callback(lease.release)
        self._open.enter_context(under(workdir, program, lease))

    def close(self) -> None:
        """Ends the protection by the lease, then releases it: nothing may be published after that. May be called twice.

        It records no end: a start without one counts as an attempt.
        """
        self._open.close()

    @property
    def callbacks(self) -> dict[str, Callable[..., Any]]:
        """``progress`` and ``should_stop``, the callbacks that training calls at every chunk."""
        return {"progress": self._progress, "should_stop": self._should_stop}

    def _progress(self, run: str, flops: int) -> None:
        self.lease.report(Progress(run, int(flops)))
        self.lease.check()

    def _should_stop(self) -> bool:
        self.lease.check()
        return self._stopping()

    def end(self, problem: Exception | None) -> None:
        """Records the end of the attempt and releases the lease.

        Args:
          problem: the exception that ended it; None if training returned.

        Raises:
          UserError: the machine caused ``problem``, not the run, or lets the end not be recorded (ENVIRONMENT). Then
            the attempt is over too, and does not count against the program if the machine lets us say so.
        """
        try:
            self._record_end(self._missing_result() if problem is None else problem)
        except LeaseLost:  # found when the end was to be recorded
            self._leave()
        except UserError:
            with contextlib.suppress(UserError):
                self.record.append(InterruptedRow(time=now()))
            raise
        finally:
            self.over = True
            self.close()

    def _missing_result(self) -> Exception | None:
        missing = [spec.run for spec in self.program.runs if not settled(self.workdir, spec)]
        return RuntimeError(f"{self.training.name} returned, but {missing[0]} has no result") if missing else None

    def _record_end(self, problem: Exception | None) -> None:
        name = self.program.program
        if problem is None:
            self.record.append(FinishRow(time=now()))
            log(f"{name}: finished")
        elif isinstance(problem, LeaseLost):
            self._leave()
        elif isinstance(problem, self.training.interrupted):
            self.record.append(InterruptedRow(time=now()))
            log(f"{name}: interrupted")
            self.exit_code = EXIT_INTERRUPTED
        elif is_environment_error(problem):
            if isinstance(problem, UserError):
                raise problem
            remedy = f"{one_line(problem)}; free space or restore access"
            raise UserError("workdir", self.workdir, remedy, Code.ENVIRONMENT) from problem
        elif isinstance(problem, UserError):
            if self.lease.alive():
                give_up(self.workdir, self.program, "rejected", str(problem))
        else:
            log(f"{name}: {one_line(problem)}")
            if self.lease.alive():
                self._record_error(problem)
            self.exit_code = EXIT_AGAIN  # restart the process: an accelerator may be unusable after an error

    def _leave(self) -> None:
        log(f"{self.program.program}: the lease was lost, leaving it to its new owner")
        if distributed.count() > 1:  # the others are still training, and must end
            self.exit_code = EXIT_AGAIN

    def _record_error(self, problem: Exception) -> None:
        text = "".join(traceback.format_exception(problem)).rstrip()
        append(self.record.path / "error.log", f"{now()} attempt {self.number}\n{text}\n".encode())
        self.record.append(ErrorRow(time=now(), reason=one_line(problem)))


def under(workdir: Path, program: ProgramSpec, lease: Lease) -> contextlib.AbstractContextManager[None]:
    """Within the block, results of the program's runs are published only while its lease is held."""
    return publishing([record_of(workdir, spec.run).path for spec in program.runs], lease.require)


def begin(workdir: Path, program: ProgramSpec, core: str, max_attempts: int) -> int | None:
    """Records the start of an attempt. The caller holds the program's lease.

    Returns:
      The attempt's number, from 1; None if the program has no attempts left, in which case its unfinished runs fail.
    """
    for run in restore_manifests(workdir, [program]):
        log(f"{run}: manifest.json could not be read, and is written again from study.json")
    record, marks = record_of(workdir, program.program), progress_marks(workdir, program)
    spent = attempts(record, marks)
    if spent >= max_attempts:
        last = [row for row in record.rows() if isinstance(row, StartRow | ErrorRow)][-1]
        why = last.reason if isinstance(last, ErrorRow) else "the worker died (killed, or out of memory)"
        give_up(workdir, program, "failed", f"{spent} attempts without progress; the last: {why}")
        return None
    record.append(StartRow(time=now(), marks=marks, host=socket.gethostname(), pid=os.getpid(), core=core))
    log(f"{program.program}: start, attempt {spent + 1} of {max_attempts}")
    return spent + 1


def give_up(workdir: Path, program: ProgramSpec, status: Literal["failed", "rejected"], reason: str) -> None:
    """Writes a result with this status and reason for every unfinished run of a program."""
    starts = len(record_of(workdir, program.program).events(StartRow))
    for spec in program.runs:
        if settled(workdir, spec):
            continue
        record = record_of(workdir, spec.run)
        record.begin(spec.manifest)
        steps = record.steps()
        step = steps[-1].step if steps else 0
        result = Result(
            status=status,
            reason=reason,
            steps=step,
            tokens=step * spec.manifest.tokens.per_step,
            decayed=False,
            attempts=starts,
            finished=now(),
        )
        if not record.finish(result, replaces=record.result):  # of a stem that has since been extended
            log(f"{spec.run}: has another result already, which stays")
    log(f"{program.program}: {status}: {reason}")
