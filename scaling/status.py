"""The status of a study: what is done and what is left, read only from its directories.

Losses of held-out cells stay hidden until their forecasts are sealed. So do the losses of their stems: the stem of a
size that was never fitted reveals almost as much as its branch.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import Code, NewerVersion, UserError
from scaling.index import Index, ManifestFacts, MetricsFacts, ProgramOutline, ResultFacts, RunOutline
from scaling.records import RESTORED, Record, read_study
from scaling.records.order import in_order
from scaling.records.types import Kind, ProgramSpec, Role
from scaling.records.value import Value
from scaling.spend import Prices, Spend, cost_left
from scaling.worker.lease_file import LeaseRecord, holder

SETTLED = ("done", "diverged", "rejected", "failed", "damaged")
STATES = (*SETTLED, "running", "stopped", "waiting")
PRIOR = 0.1  # share of a study as which its estimate counts beside the time spent, for the ETA


class RunStatus(Value, kw_only=True):
    """Status of one run: its identity, state (one of ``STATES``) and progress.

    Attributes:
      parents: runs of the study that it starts from, which are trained before it.
      hidden: whether its loss must not be shown yet. loss, se: None while hidden or unknown.
      seconds: of training, also of steps that were trained again, and of evaluation. attempts: starts of its program.
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
    parents: tuple[str, ...] = ()
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
      spend: by kind of device, the most used first. cost_left: of the remaining work, if it goes on as so far; None if
        a price is missing or nothing was trained.
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
    spend: tuple[Spend, ...] = ()
    cost_left: float | None = None
    running: tuple[Running, ...]
    failures: tuple[Failure, ...]
    retry: str | None
    unplanned: tuple[str, ...]
    warnings: tuple[str, ...]
    runs: tuple[RunStatus, ...]


def study_status(workdir: str | Path, prices: Mapping[str, float] | None = None) -> StudyStatus:
    """The status of a study now; see ``StatusReader.read``.

    Args:
      prices: as of ``StatusReader``.

    Raises:
      UserError: as ``StatusReader``.
    """
    return StatusReader(workdir, prices).read()


@dataclass
class _RunLook:
    """The state of a run as read from its directory.

    Attributes:
      share, flops_done: progress in its own steps. compile: seconds of compilation. problems: of its checkpoints.
      newer: whether a newer version of this program wrote its result, which this one does not touch.
      manifest: whether its manifest can be read. device_kind, devices: that it trains on.
    """

    spec: RunOutline
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
    newer: bool = False
    manifest: bool = False
    device_kind: str | None = None
    devices: int = 1

    @property
    def settled(self) -> bool:
        return self.state in SETTLED


@dataclass
class _ProgramLook:
    """The state of a program. ``lease`` is that of a live worker, or None; ``share`` is the share of its FLOPs done."""

    program: ProgramOutline
    runs: list[_RunLook]
    hidden: bool
    attempts: int
    lease: LeaseRecord | None

    @property
    def share(self) -> float:
        """Share of the program's FLOPs that is done, from the records or from its worker, whichever is more."""
        total = self.program.flops
        settled = all([run.state in SETTLED for run in self.runs])
        if settled or not total:
            return 1.0 if settled else 0.0
        recorded = sum(run.spec.flops * run.share for run in self.runs)
        reported = self.lease.progress.flops if self.lease is not None and self.lease.progress is not None else 0
        return min(1.0, max(recorded, reported) / total)

    @property
    def over(self) -> bool:
        """Whether it is not to be trained: every run is settled, or the result of one is damaged."""
        states = {run.state for run in self.runs}
        return "damaged" in states or states.issubset(SETTLED)

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
        spec = look.spec
        return RunStatus(
            run=spec.run,
            program=self.program.program,
            kind=spec.kind,
            role=spec.role,
            dataset=spec.dataset,
            size=spec.size,
            seed=spec.seed,
            N=spec.N,
            D=spec.D,
            steps=spec.steps,
            step=look.step,
            state=look.state,
            parents=spec.parents,
            hidden=self.hidden,
            loss=look.loss,
            se=look.se,
            seconds=look.seconds,
            attempts=self.attempts,
            reason=look.reason,
        )


@dataclass(frozen=True)
class Work:
    """What a study has to do.

    Attributes:
      pending: programs to be trained, as ``worker.programs.over`` decides, in the order in which workers take them.
      torn: programs with a run whose manifest is missing or cannot be read.
      status: at the same moment.
    """

    pending: list[ProgramSpec]
    torn: list[ProgramSpec]
    status: StudyStatus


class StatusReader:
    """Reads the status repeatedly; each file is read again only if it changed, see ``index``.

    Args:
      workdir: the directory with study.json.
      prices: of a device hour, by the beginning of the device's kind; "" stands for every device. They come before
        ``config.price_per_hour``, and that before the table of ``devices``.

    Raises:
      UserError: there is no study (MISSING), or one of its files is damaged (DAMAGED).
    """

    def __init__(self, workdir: str | Path, prices: Mapping[str, float] | None = None):
        self.workdir = Path(workdir)
        if not self.workdir.is_dir():
            what = "is not a directory" if self.workdir.exists() else "does not exist"
            remedy = f"{what}; give the directory of a study"
            raise UserError("workdir", workdir, remedy, Code.MISSING, problem=what)
        self._prices = dict(prices or {})
        self._index = Index(self.workdir)
        self._outline = self._index.outline()
        self._sealed_as: tuple[tuple[int, ...], frozenset[str]] | None = None

    @property
    def name(self) -> str:
        """Of the study."""
        return self._outline.name

    @functools.cached_property
    def programs(self) -> list[ProgramSpec]:
        """The planned programs, in the order in which workers take them; all of study.json is read for them."""
        return in_order(read_study(self.workdir).programs)

    def work(self) -> Work:
        """What is to be done, and the status, by one look at the directories."""
        warnings: list[str] = []
        looks = self._looks(self._sealed(warnings))
        pending = {look.program.program for look in looks if not look.over}
        torn = {look.program.program for look in looks if not all(run.manifest for run in look.runs)}
        return Work(self._chosen(pending), self._chosen(torn), self._status(looks, warnings, None))

    def _chosen(self, names: Set[str]) -> list[ProgramSpec]:
        return [program for program in self.programs if program.program in names] if names else []

    def read(self, workers: int | None = None, crowding: float = 1.0) -> StudyStatus:
        """The status now.

        Args:
          workers: number that will share the remaining work, for the ETA; default the number that hold a lease, at
            least one.
          crowding: how many of them share a core, which counts until they have been timed.
        """
        warnings: list[str] = []
        return self._status(self._looks(self._sealed(warnings)), warnings, workers, crowding)

    def _status(
        self, looks: list[_ProgramLook], warnings: list[str], workers: int | None, crowding: float = 1.0
    ) -> StudyStatus:
        running = tuple(at for look in looks if (at := look.running) is not None)
        rows = tuple(row for look in looks for row in look.rows())
        warnings += [f"{run.spec.run}: {problem}" for look in looks for run in look.runs for problem in run.problems]
        failures = tuple(self._failure(row) for row in rows if row.state in ("failed", "rejected", "damaged"))
        newer = {run.spec.run for look in looks for run in look.runs if run.newer}
        again = f"scaling run --workdir={shlex.quote(str(self.workdir))} --retry_failed"
        retry = again if any(each.run not in newer for each in failures) else None
        estimated, total = sum(look.program.seconds * look.share for look in looks), self._seconds
        left = sum(look.program.seconds * (1 - look.share) for look in looks)
        workers = max(1, len(running) if workers is None else workers)
        seconds, spend = self._time(looks, workers, crowding), self._spend(looks)
        return StudyStatus(
            study=self.name,
            workdir=str(self.workdir),
            counts=_counts(rows),
            programs=ProgramCounts(
                total=len(looks),
                final=sum(all(run.settled for run in look.runs) for look in looks),
                running=len(running),
            ),
            share=1.0 if not left else estimated / total if total else 1.0,
            flops=FlopCounts(
                total=round(sum(look.program.flops for look in looks)),
                done=round(sum(run.flops_done for look in looks for run in look.runs)),
            ),
            seconds=seconds,
            spend=spend,
            cost_left=cost_left(spend, seconds.spent, seconds.left),
            running=running,
            failures=failures,
            retry=retry,
            unplanned=self._unplanned({row.run for row in rows}),
            warnings=tuple(warnings),
            runs=rows,
        )

    @property
    def _seconds(self) -> float:
        return sum(program.seconds for program in self._outline.programs)

    def _time(self, looks: Sequence[_ProgramLook], workers: int, crowding: float) -> DeviceSeconds:
        spent = sum(run.seconds + run.compile for look in looks for run in look.runs)
        estimated = sum(look.program.seconds * look.share for look in looks)
        left = [look.program.seconds * (1 - look.share) for look in looks]
        # The plan's estimate weighs as much as PRIOR of the study, so that the first minutes, in which compilation is
        # not yet counted, move the ETA little, and it never jumps.
        prior = PRIOR * self._seconds
        slower = (spent + prior * crowding) / (estimated + prior) if prior else 1.0
        ends: dict[str, float] = {}  # of the chain of programs up to and with that of a run; parents come first
        for look, seconds in zip(looks, left):
            before = max((ends.get(run, 0.0) for spec in look.program.runs for run in spec.parents), default=0.0)
            ends |= dict.fromkeys((spec.run for spec in look.program.runs), before + seconds)
        longest = max(ends.values(), default=0.0)
        return DeviceSeconds(spent=spent, left=sum(left) * slower, eta=max(sum(left) / workers, longest) * slower)

    def _failure(self, row: RunStatus) -> Failure:
        return Failure(row.run, row.state, row.reason, str(self.workdir / "runs" / row.program / "error.log"))

    def _looks(self, sealed: frozenset[str]) -> list[_ProgramLook]:
        self._index.begin()
        self._outline = self._index.outline()
        looks = [self._program(program, sealed) for program in self._outline.programs]
        self._index.save()
        return looks

    def _spend(self, looks: Sequence[_ProgramLook]) -> tuple[Spend, ...]:
        hours: dict[str | None, float] = {}
        for run in (run for look in looks for run in look.runs):
            if spent := run.seconds + run.compile:
                hours[run.device_kind] = hours.get(run.device_kind, 0.0) + spent * run.devices / 3600
        prices = Prices(self._prices, self._outline.price_per_hour)
        return tuple(prices.spend(kind, hours[kind]) for kind in sorted(hours, key=lambda kind: -hours[kind]))

    def losses(self, run: str) -> list[float]:
        """Training losses of a run so far, by step; none if they must not be shown yet."""
        sealed = self._sealed([])
        for program in self._outline.programs:
            if any(spec.run == run for spec in program.runs):
                return [] if _hidden(program, sealed) else [row.loss for row in self._record(run).steps()]
        return []

    def _sealed(self, warnings: list[str]) -> frozenset[str]:
        """Names of the runs whose forecasts are sealed; none if prediction.json was tampered with."""
        from analysis.table.seal import sealed_runs

        try:
            about = os.stat(self.workdir / "prediction.json")
            stamp = about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino
        except OSError:
            if not os.path.lexists(self.workdir / "prediction.json"):
                return frozenset()
            stamp = ()  # a loop of links: reading it says so
        try:
            if self._sealed_as is None or self._sealed_as[0] != stamp:
                self._sealed_as = stamp, sealed_runs(self.workdir)
            return self._sealed_as[1]
        except UserError as error:
            warnings.append(str(error))
            return frozenset()

    def _record(self, run: str) -> Record:
        return Record(self.workdir / "runs" / run, strict=False)

    def _program(self, program: ProgramOutline, sealed: frozenset[str]) -> _ProgramLook:
        hidden = _hidden(program, sealed)
        runs = [self._run(spec, hidden) for spec in program.runs]
        metrics = self._index.metrics(program.program)
        lease = None
        if not all(run.settled for run in runs):
            lease = holder(f"{self.workdir}/runs/{program.program}")
            lease = None if lease is None or lease.dead else lease
        if lease is not None:
            at = program.program if lease.progress is None else lease.progress.run
            for run in runs:
                if run.spec.run == at and not run.settled:
                    run.state = "running"
        return _ProgramLook(program, runs, hidden, 0 if metrics is None else metrics.starts, lease)

    def _unplanned(self, planned: Set[str]) -> tuple[str, ...]:
        """Names of the folders of runs that are not in the study."""
        try:
            names = {entry.name for entry in os.scandir(self.workdir / "runs") if not entry.name.startswith(".")}
        except OSError:
            return ()
        return tuple(sorted(names - planned))

    def _run(self, spec: RunOutline, hidden: bool) -> _RunLook:
        reason, newer = None, False
        try:
            result = self._index.result(spec.run)
        except UserError as error:
            if error.code is not Code.DAMAGED:
                raise
            result, reason, newer = None, str(error), isinstance(error, NewerVersion)
        manifest, problem = self._manifest(spec)
        metrics = self._index.metrics(spec.run)
        problems = [] if result is None or problem is None else [problem]
        if result is not None:
            problems += result.checkpoint_problems
        if reason is not None:
            seconds = 0.0 if metrics is None else metrics.seconds
            look = _RunLook(spec, "damaged", 0, 1.0, flops_done=0.0, seconds=seconds, reason=reason, newer=newer)
        elif result is not None and not spec.is_longer(result):
            look = _ended(spec, result, metrics, hidden, problems)
        else:
            look = _unended(spec, metrics, hidden, problems)
        if manifest is not None:
            look.manifest, look.device_kind, look.devices = True, manifest.device_kind, manifest.devices
        return look

    def _manifest(self, spec: RunOutline) -> tuple[ManifestFacts | None, str | None]:
        """The manifest, and what is wrong with it."""
        try:
            found = self._index.manifest(spec.run)
        except UserError as error:
            if error.code is not Code.DAMAGED:
                raise
            return None, str(error)
        path = f"{self.workdir}/runs/{spec.run}/manifest.json"
        return found, f"file = {path}: is missing; {RESTORED}" if found is None else None


def _hidden(program: ProgramOutline, sealed: frozenset[str]) -> bool:
    """Whether losses of a program must not be shown: one of its runs is held out, and not sealed yet."""
    return any(spec.role == "holdout" and spec.run not in sealed for spec in program.runs)


def _counts(rows: Sequence[RunStatus]) -> dict[str, int]:
    counts: dict[str, int] = dict.fromkeys(STATES, 0)
    for row in rows:
        counts[row.state] += 1
    return counts | {"total": len(rows)}


def _unended(spec: RunOutline, metrics: MetricsFacts | None, hidden: bool, problems: Sequence[str]) -> _RunLook:
    if metrics is None or not metrics.step:
        share = _share(spec, spec.branch_step or 0)
        return _RunLook(spec, "waiting", step=0, share=share, flops_done=spec.flops * share, problems=problems)
    share = _share(spec, metrics.step)
    return _RunLook(
        spec,
        state="stopped",
        step=metrics.step,
        share=share,
        flops_done=spec.flops * share,
        seconds=metrics.seconds,
        loss=None if hidden else metrics.loss,
        problems=problems,
    )


def _ended(
    spec: RunOutline, result: ResultFacts, metrics: MetricsFacts | None, hidden: bool, problems: Sequence[str]
) -> _RunLook:
    tells = not hidden or result.status != "diverged"  # the reason of a diverged run quotes its loss
    loss = se = None
    if not hidden and result.status == "done":
        loss, se = result.losses.get(spec.headline, (result.train_loss, None))
    return _RunLook(
        spec,
        state=result.status,
        step=result.steps,
        share=1.0,
        flops_done=spec.flops * _share(spec, result.steps),
        seconds=max(result.train, 0.0 if metrics is None else metrics.seconds) + result.evaluate,
        compile=result.compile,
        loss=loss,
        se=se,
        reason=result.reason if tells else None,
        problems=(*problems, *_replaced(result)),
    )


def _replaced(result: ResultFacts) -> list[str]:
    return [f"{result.replaced} examples of damaged samples were replaced by others"] if result.replaced else []


def _share(spec: RunOutline, step: int) -> float:
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
    parts += [f"{counts[state]} {state}" for state in SETTLED[1:] if counts[state]]
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
