"""The status of a study: what is done and what is left, read only from its directories.

Losses of held-out cells stay hidden until their forecasts are sealed. So do the losses of their stems: the stem of a
size that was never fitted reveals almost as much as its branch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import Code, UserError
from scaling.records import RESTORED, Record, read_study
from scaling.records.types import Kind, ProgramSpec, Result, Role, RunSpec, StepRow
from scaling.records.value import Value
from scaling.worker.lease_file import LeaseRecord, holder

SETTLED = ("done", "diverged", "rejected", "failed", "damaged")
STATES = (*SETTLED, "running", "stopped", "waiting")


class RunStatus(Value, kw_only=True):
    """Status of one run: its identity, state (one of ``STATES``) and progress.

    Attributes:
      hidden: whether its loss must not be shown yet. loss, se: None while hidden or unknown.
      seconds: of training and evaluation. attempts: starts of its program.
    """

    run: str
    program: str
    kind: Kind
    role: Role
    dataset: str
    size: int
    seed: int
    N: int
    D: int
    steps: int
    step: int
    state: str
    hidden: bool
    loss: float | None = None
    se: float | None = None
    seconds: float
    attempts: int
    reason: str | None = None


class ProgramCounts(Value):
    """Number of programs: total, with every run settled, and held by a worker."""

    total: int
    final: int
    running: int


class FlopCounts(Value):
    """Training FLOPs: total and done."""

    total: int
    done: int


class DeviceSeconds(Value):
    """Device seconds: spent; left (the plan's estimate, scaled by the time spent so far); and until the end (eta)."""

    spent: float
    left: float
    eta: float


class Running(Value, kw_only=True):
    """A program that a live worker holds; ``run`` is None until its first chunk is trained."""

    program: str
    run: str | None
    step: int | None
    steps: int | None
    loss: float | None
    host: str
    pid: int
    since: str


class Failure(Value):
    """A run that failed, was rejected, or whose result is damaged; the reason, and a log file with details."""

    run: str
    status: str
    reason: str | None
    log: str


class StudyStatus(Value, kw_only=True):
    """The status of a study at one moment.

    Attributes:
      counts: number of runs by state, and in ``total``.
      share: share of the estimated time that is done, 0 to 1.
      retry: the command that trains failed runs again; None if none failed.
      unplanned: runs of the directory that the study asks for no longer; they are kept and not counted.
      warnings: problems with files of the study or with checkpoints, and damaged samples that were skipped.
    """

    schema: int = 1
    study: str
    workdir: str
    counts: dict[str, int]
    programs: ProgramCounts
    share: float
    flops: FlopCounts
    seconds: DeviceSeconds
    running: tuple[Running, ...]
    failures: tuple[Failure, ...]
    retry: str | None
    unplanned: tuple[str, ...]
    warnings: tuple[str, ...]
    runs: tuple[RunStatus, ...]


def study_status(workdir: str | Path) -> StudyStatus:
    """The status of a study now; see ``StatusReader.read``.

    Raises:
      UserError: as ``StatusReader``.
    """
    return StatusReader(workdir).read()


@dataclass
class _RunLook:
    """The state of a run as read from its directory.

    Attributes:
      share, flops_done: progress in its own steps. compile: seconds of compilation. problems: of its checkpoints.
    """

    spec: RunSpec
    state: str
    step: int
    share: float
    flops_done: float
    seconds: float = 0.0
    compile: float = 0.0
    loss: float | None = None
    se: float | None = None
    reason: str | None = None
    problems: Sequence[str] = ()

    @property
    def settled(self) -> bool:
        return self.state in SETTLED


@dataclass
class _ProgramLook:
    """The state of a program. ``lease`` is that of a live worker, or None; ``share`` is the share of its FLOPs done."""

    program: ProgramSpec
    runs: list[_RunLook]
    hidden: bool
    attempts: int
    lease: LeaseRecord | None

    @property
    def share(self) -> float:
        """Share of the program's FLOPs that is done, from the records or from its worker, whichever is more."""
        total = self.program.flops
        if all(run.settled for run in self.runs) or not total:
            return 1.0 if all(run.settled for run in self.runs) else 0.0
        recorded = sum(run.spec.flops * run.share for run in self.runs)
        reported = self.lease.progress.flops if self.lease is not None and self.lease.progress is not None else 0
        return min(1.0, max(recorded, reported) / total)

    @property
    def running(self) -> Running | None:
        """What its worker is doing; None if no worker holds it."""
        if self.lease is None:
            return None
        at = next((run for run in self.runs if run.state == "running"), None)
        return Running(
            program=self.program.program,
            run=None if at is None else at.spec.run,
            step=None if at is None else at.step,
            steps=None if at is None else at.spec.steps,
            loss=None if at is None else at.loss,
            host=self.lease.host,
            pid=self.lease.pid,
            since=self.lease.started,
        )

    def rows(self) -> list[RunStatus]:
        """One row per run."""
        return [self._row(run) for run in self.runs]

    def _row(self, look: _RunLook) -> RunStatus:
        spec, manifest = look.spec, look.spec.manifest
        return RunStatus(
            run=spec.run,
            program=self.program.program,
            kind=spec.kind,
            role=spec.role,
            dataset=manifest.dataset,
            size=manifest.size,
            seed=manifest.seed,
            N=manifest.parameters.nonembedding,
            D=manifest.tokens.D,
            steps=spec.steps,
            step=look.step,
            state=look.state,
            hidden=self.hidden,
            loss=look.loss,
            se=look.se,
            seconds=look.seconds,
            attempts=self.attempts,
            reason=look.reason,
        )


class StatusReader:
    """Reads the status repeatedly; each file is read again only if it changed.

    Args:
      workdir: the directory with study.json.

    Raises:
      UserError: there is no study (MISSING), or one of its files is damaged (DAMAGED).
    """

    def __init__(self, workdir: str | Path):
        self.workdir = Path(workdir)
        if not self.workdir.is_dir():
            what = "is not a directory" if self.workdir.exists() else "does not exist"
            raise UserError("workdir", workdir, f"{what}; give the directory of a study", Code.MISSING)
        self.study = read_study(self.workdir)
        self.name = self.study.name
        # In the order in which workers take them.
        self.programs = sorted(self.study.programs, key=lambda program: (-program.seconds, program.program))
        self._cache: dict[tuple[str, str], tuple[tuple[int, int, int], Any]] = {}
        self._records: dict[str, Record] = {}

    def read(self, workers: int | None = None) -> StudyStatus:
        """The status now.

        Args:
          workers: number that will share the remaining work, for the ETA; default the number that hold a lease, at
            least one.
        """
        warnings: list[str] = []
        sealed = self._sealed(warnings)
        looks = [self._program(program, sealed) for program in self.programs]
        running = tuple(at for look in looks if (at := look.running) is not None)
        rows = tuple(row for look in looks for row in look.rows())
        warnings += [f"{run.spec.run}: {problem}" for look in looks for run in look.runs for problem in run.problems]
        failures = tuple(self._failure(row) for row in rows if row.state in ("failed", "rejected", "damaged"))
        retry = f"scaling run --workdir={shlex.quote(str(self.workdir))} --retry_failed" if failures else None
        estimated, total = sum(look.program.seconds * look.share for look in looks), self._seconds
        left = sum(look.program.seconds * (1 - look.share) for look in looks)
        return StudyStatus(
            study=self.name,
            workdir=str(self.workdir),
            counts={state: sum(row.state == state for row in rows) for state in STATES} | {"total": len(rows)},
            programs=ProgramCounts(
                total=len(looks),
                final=sum(all(run.settled for run in look.runs) for look in looks),
                running=len(running),
            ),
            share=1.0 if not left else estimated / total if total else 1.0,
            flops=FlopCounts(
                total=sum(program.flops for program in self.programs),
                done=round(sum(run.flops_done for look in looks for run in look.runs)),
            ),
            seconds=self._time(looks, max(1, workers if workers is not None else len(running))),
            running=running,
            failures=failures,
            retry=retry,
            unplanned=self._unplanned({row.run for row in rows}),
            warnings=tuple(warnings),
            runs=rows,
        )

    @property
    def _seconds(self) -> float:
        return sum(program.seconds for program in self.programs)

    def _time(self, looks: Sequence[_ProgramLook], workers: int) -> DeviceSeconds:
        spent = sum(run.seconds + run.compile for look in looks for run in look.runs)
        estimated = sum(look.program.seconds * look.share for look in looks)
        left = [look.program.seconds * (1 - look.share) for look in looks]
        # Until a tenth of the estimate is done, compilation distorts the comparison: use the plan's estimate.
        speed = spent / estimated if estimated > 0.1 * self._seconds and spent > 0 else 1.0
        longest = max(left, default=0.0)
        return DeviceSeconds(spent=spent, left=sum(left) * speed, eta=max(sum(left) / workers, longest) * speed)

    def _failure(self, row: RunStatus) -> Failure:
        return Failure(row.run, row.state, row.reason, str(self.workdir / "runs" / row.program / "error.log"))

    def _sealed(self, warnings: list[str]) -> frozenset[str]:
        """Names of the runs whose forecasts are sealed; none if prediction.json was tampered with."""
        path = str(self.workdir / "prediction.json")

        def load() -> frozenset[str]:
            from analysis.table.seal import sealed_runs

            return sealed_runs(self.workdir)

        try:
            return self._cached("sealed", path, load) or frozenset()
        except UserError as error:
            warnings.append(str(error))
            return frozenset()

    def _cached(self, kind: str, path: str, load: Callable[[], Any]) -> Any:
        """``load()``, cached until the file at ``path`` changes; None if there is no file."""
        try:
            stat = os.stat(path)
        except OSError:
            if os.path.lexists(path):
                return load()  # a loop of links: load() raises an error that names it
            return None
        key = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if (kind, path) not in self._cache or self._cache[kind, path][0] != key:
            self._cache[kind, path] = (key, load())
        return self._cache[kind, path][1]

    def _record(self, run: str) -> Record:
        """The record of a run, made once: with thousands of runs, making paths takes longer than reading files."""
        if run not in self._records:
            self._records[run] = Record(self.workdir / "runs" / run, strict=False)
        return self._records[run]

    def _program(self, program: ProgramSpec, sealed: frozenset[str]) -> _ProgramLook:
        hidden = any(spec.role == "holdout" and spec.run not in sealed for spec in program.runs)
        first = self._record(program.program)
        starts = self._cached("starts", f"{first.path}/metrics.jsonl", first.starts) or 0
        runs = [self._run(spec, hidden) for spec in program.runs]
        lease = None
        if not all(run.settled for run in runs):
            lease = holder(first.path)
            lease = None if lease is None or lease.dead else lease
        if lease is not None:
            at = program.program if lease.progress is None else lease.progress.run
            for run in runs:
                if run.spec.run == at and not run.settled:
                    run.state = "running"
        return _ProgramLook(program, runs, hidden, starts, lease)

    def _unplanned(self, planned: Set[str]) -> tuple[str, ...]:
        """Names of the folders of runs that are not in the study."""
        try:
            names = {entry.name for entry in os.scandir(self.workdir / "runs") if not entry.name.startswith(".")}
        except OSError:
            return ()
        return tuple(sorted(names - planned))

    def _run(self, spec: RunSpec, hidden: bool) -> _RunLook:
        record = self._record(spec.run)
        try:
            result: Result | None = self._cached("result", f"{record.path}/result.json", lambda: record.result)
        except UserError as error:
            if error.code is not Code.DAMAGED:
                raise
            return _RunLook(spec, state="damaged", step=0, share=1.0, flops_done=0.0, reason=str(error))
        problems = [] if result is None else [*self._manifest_problem(record), *result.checkpoint_problems]
        longer = spec.kind == "stem" and result is not None and result.status == "done" and result.steps < spec.steps
        if result is not None and not longer:
            return _ended(spec, result, hidden, problems)
        begun = spec.branch_step or 0
        steps: list[StepRow] = self._cached("steps", f"{record.path}/metrics.jsonl", record.steps) or []
        share = _share(spec, steps[-1].step if steps else begun)
        return _RunLook(
            spec,
            state="stopped" if steps else "waiting",
            step=steps[-1].step if steps else 0,
            share=share,
            flops_done=spec.flops * share,
            seconds=sum(row.seconds for row in steps),
            loss=steps[-1].loss if steps and not hidden else None,
            problems=problems,
        )

    def _manifest_problem(self, record: Record) -> list[str]:
        """What is wrong with the manifest of a run that has a result."""

        def look() -> str:
            try:
                _ = record.manifest
            except UserError as error:
                return str(error)
            return ""

        path = f"{record.path}/manifest.json"
        found = self._cached("manifest", path, look)
        problem = f"file = {path}: is missing; {RESTORED}" if found is None else found
        return [problem] if problem else []


def _ended(spec: RunSpec, result: Result, hidden: bool, problems: Sequence[str]) -> _RunLook:
    tells = not hidden or result.status != "diverged"  # the reason of a diverged run quotes its loss
    loss = se = None
    if not hidden and result.status == "done":
        term = result.evaluation.get(spec.manifest.headline)
        loss, se = (result.train_loss, None) if term is None else (term.value, term.se)
    return _RunLook(
        spec,
        state=result.status,
        step=result.steps,
        share=1.0,
        flops_done=spec.flops * _share(spec, result.steps),
        seconds=result.seconds.train + result.seconds.evaluate,
        compile=result.seconds.compile,
        loss=loss,
        se=se,
        reason=result.reason if tells else None,
        problems=(*problems, *_replaced(result)),
    )


def _replaced(result: Result) -> list[str]:
    return [f"{result.replaced} examples of damaged samples were replaced by others"] if result.replaced else []


def _share(spec: RunSpec, step: int) -> float:
    """Share of a run's own steps that is done at ``step``."""
    return min(1.0, max(0, step - (spec.branch_step or 0)) / max(1, spec.own_steps))


def duration(seconds: float) -> str:
    """Formats seconds: 8 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def headline(status: StudyStatus) -> str:
    """A one-line summary of the study."""
    counts, programs = status.counts, status.programs
    ended = sum(counts[state] for state in SETTLED)
    parts = [f"{status.study}: {100 * status.share:.0f} %", f"runs {ended}/{counts['total']}"]
    parts.append(f"programs {programs.final}/{programs.total}")
    parts += [f"{counts[state]} {state}" for state in ("diverged", "rejected", "failed") if counts[state]]
    if ended < counts["total"]:
        parts.append(f"ETA {duration(status.seconds.eta)}")
    return ", ".join(parts)


def activity(status: StudyStatus) -> list[str]:
    """One line for each running program."""
    lines = []
    for work in status.running:
        if work.run is None:
            lines.append(f"{work.program} starting")
            continue
        loss = "" if work.loss is None else f", loss {work.loss:.4f}"
        lines.append(f"{work.run} step {work.step}/{work.steps}{loss}")
    return lines
