"""The SLURM engine: batch jobs of workers, as an array, or as a step of the allocation that the launcher is inside of.

Which runs are done is in the run directories alone. ``squeue`` is asked, once a poll, only whether jobs of ours are
still there; ``sacct`` is not. A job that is told to stop (SIGTERM, SIGUSR2) checkpoints and goes back into the queue
by itself, see ``_slurm.TEMPLATE``. A job that is gone without that is submitted again while the study gets further.
Jobs are found by their name, which is made from the path of the work directory; what was submitted is in
``jobs/slurm.json``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scaling import distributed
from scaling.engines import Engine, Pool, _slurm, _workers
from scaling.engines._requeue import FOLDER, marks_of, report_of
from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.flags import Value as FlagValue
from scaling.records import read_typed, write_json
from scaling.records.files import exclusive, make_folder, write_atomic
from scaling.records.types import Marks, ProgramSpec
from scaling.records.value import Value
from scaling.worker import EXIT_DONE, EXIT_INTERRUPTED
from scaling.worker.failures import Problem
from scaling.worker.lease_file import LeaseRecord, holder
from scaling.worker.log import now
from scaling.worker.programs import over, record_of, waits

JOBS = 32  # at once, unless --jobs says otherwise
PATIENCE = 60.0  # seconds that a command of SLURM may take
MAX_SUBMISSIONS = 3  # of jobs in place of lost ones, without progress of the study
COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")

SITE_FLAGS = (
    Flag("jobs", int, f"jobs at once (default: as many as there are programs for them, at most {JOBS})"),
    Flag("nodes", int, "nodes that train every run together, by srun and jax.distributed (default 1)"),
    Flag("gpus", int, "GPUs of a node"),
    Flag("account", str, "account of the jobs"),
    Flag("partition", str, "partition of the jobs"),
    Flag("time", str, "time limit of a job, such as 4:00:00; at its end it goes back into the queue"),
    Flag("container", str, "command that Python runs under, such as 'apptainer exec --nv lab.sif'"),
    Flag("setup", str, "shell command before the workers start, such as 'module load cuda'"),
    Flag("sbatch", str, "more options of sbatch, such as '--mem=8G --qos=low'"),
)
FLAGS = (
    *SITE_FLAGS,
    Flag("site", str, "TOML file of such settings, which flags overrule (docs/slurm.md)"),
    Flag("follow", bool, "stay, show progress and replace lost jobs; --nofollow leaves after submitting", True),
    *_workers.FLAGS,
)


class Batch(Value):
    """Jobs that were submitted at once: the number that SLURM gave the array, the number of its tasks, and the time."""

    job: str
    tasks: int
    time: str


class Submitted(Value):
    """What was submitted for a work directory: jobs/slurm.json.

    Attributes:
      name: of all jobs. batches: in the order submitted.
      cancelled: when ``scaling cancel`` ended them; None if nothing was submitted before that, or since.
    """

    name: str
    batches: tuple[Batch, ...] = ()
    cancelled: str | None = None


class Slurm(Engine):
    """Jobs of workers under SLURM.

    Args:
      workdir: the directory with study.json, on a file system that the nodes share.
      options: the flags, by name.

    Raises:
      UserError: an option is out of range or cannot be written into a script (INVALID), two exclude each other
        (CONFLICT), or the site file cannot be used (MISSING, DAMAGED).
    """

    def __init__(self, workdir: Path, **options: FlagValue | None):
        self.workdir = Path(workdir)
        given = {name: value for name, value in options.items() if value is not None}
        _workers.check(given)
        asked = {flag.name: given[flag.name] for flag in SITE_FLAGS if flag.name in given}
        self.site = _slurm.read_site(str(given["site"]) if "site" in given else None, asked)
        self._allocation = os.environ.get("SLURM_JOB_ID")
        self.detached = self._allocation is None
        if self._allocation is not None:
            _refuse_in_allocation(self._allocation, asked)
        self._workers = int(given.get("workers", 1))
        if self.site.processes > 1 and self._workers > 1:
            remedy = f"{self.site.processes} processes train every run together, one worker each; leave it out"
            raise UserError("workers", self._workers, remedy, Code.CONFLICT)
        worker = {
            flag.name: given[flag.name] for flag in _workers.FLAGS if flag.name in given and flag.name != "workers"
        }
        if self.site.processes > 1 and worker.pop("ensemble", "auto") not in ("auto", "1"):
            remedy = "a group of processes trains one program at a time; leave it out"
            raise UserError("ensemble", given["ensemble"], remedy, Code.CONFLICT)
        self._worker = [f"--{name}={value}" for name, value in worker.items()]
        if self._allocation is None:
            self._worker.append(f"--idle={self.site.idle:g}")
        self._follow = bool(given.get("follow", True))
        self._name = _slurm.job_name(self.workdir)
        self._programs: list[ProgramSpec] = []
        self._step: subprocess.Popen[bytes] | None = None  # of the allocation
        self._cancelled = False
        self._next, self._pool = 0.0, Pool(0, False)
        self._seen: set[str] = set()  # tasks that this launcher submitted or found
        self._ended: dict[str, UserError] = {}  # tasks that are not to be replaced, and why
        self._leases: dict[str, LeaseRecord | None] | None = (
            None  # if jobs were missing at the last look: who held what
        )
        self._tries, self._marks = 0, Marks(settled=0, rows=0)

    @property
    def size(self) -> int:
        """Number of workers that run at once, if all jobs do."""
        return self._wanted(len(self._programs)) * self._workers

    def _wanted(self, programs: int) -> int:
        return max(1, min(self.site.jobs or JOBS, -(-programs // self._workers)))

    # --- before anything is written

    def check(self, programs: Sequence[ProgramSpec]) -> None:
        """Checks the mesh of runs that several processes train, the script, and that SLURM's commands are there.

        Raises:
          UserError: see there; also a command is not on PATH (ENVIRONMENT).
        """
        self._check_script(programs)
        group = distributed.detect(os.environ)
        if group is not None:
            remedy = f"srun started {group.processes} of this command; start it once, and it calls srun itself"
            raise UserError("engine", "slurm", remedy, Code.CONFLICT)
        if self._allocation is not None and self.site.nodes > int(os.environ.get("SLURM_JOB_NUM_NODES", 1)):
            remedy = f"the allocation {self._allocation} has {os.environ.get('SLURM_JOB_NUM_NODES', 1)}"
            raise UserError("nodes", self.site.nodes, remedy, Code.CONFLICT)
        for command in COMMANDS if self._allocation is None else ("srun",):
            if shutil.which(command) is None:
                remedy = (
                    f"{command} is not on PATH; use a login node of the cluster, or print the script with --dry_run"
                )
                raise UserError("engine", "slurm", remedy, Code.ENVIRONMENT)

    def preview(self, programs: Sequence[ProgramSpec]) -> str:
        """The script of a job, and how many would be submitted. Asks nothing of SLURM."""
        self._programs = list(programs)
        text = self._check_script(programs)
        jobs = 0 if not programs else self._wanted(len(programs))
        return f"{text}\n# {jobs} jobs for {len(programs)} programs: sbatch --array=0-{max(0, jobs - 1)}"

    def _check_script(self, programs: Sequence[ProgramSpec]) -> str:
        if self.site.processes > 1 and programs:
            group = distributed.Group("n1:1", self.site.processes, 0)
            distributed.check_mesh(group, programs[0].options.mesh)
        text = self._script()
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise UserError("setup", "; ".join(self.site.setup), f"makes no valid script ({said})")
        return text

    def _script(self) -> str:
        return _slurm.script(self.workdir, self.site, self._worker, self._workers)

    # --- submitting

    def submit(self, programs: Sequence[ProgramSpec]) -> None:
        """Submits as many jobs as are missing, or starts a step of the allocation.

        Raises:
          UserError: SLURM refuses or does not answer, or the work directory cannot be written (ENVIRONMENT).
        """
        self._programs = list(programs)
        for folder in ("logs", FOLDER):
            make_folder(self.workdir / folder, inside=self.workdir)
        script = self.workdir / FOLDER / "slurm.sh"
        write_atomic(script, self._script())
        if self._allocation is not None:
            environment = {**os.environ, "SCALING_JOINED": "1"}
            self._step = subprocess.Popen(
                ["bash", str(script)], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
            return
        self._marks = marks_of(self.workdir, self._programs)
        with _locked(self.workdir):
            there = tasks_of(self._name)
            self._seen |= there
            missing = self._wanted(len(programs)) - len(there)
            if there:
                _say(f"{len(there)} jobs of {self.workdir} are in the queue already")
            self._record(cancelled=None)
            self._send(missing)

    def _send(self, count: int) -> None:
        """Submits this many jobs, in arrays that the site allows. The caller has the lock."""
        if count <= 0:
            return
        script, output = self.workdir / FOLDER / "slurm.sh", f"{self.workdir.absolute()}/logs/slurm-"
        environment = _slurm.submitting(self.site)
        sent = 0
        for tasks in cut(count, array_limit()):
            where = [f"--array=0-{tasks - 1}"] if tasks else [f"--output={output.replace('%', '%%')}%j.log"]
            try:
                said = call("sbatch", "--parsable", *where, str(script), environment=environment)
            except UserError as error:
                done = f"; {sent} of {count} jobs are submitted" if sent else ""
                raise UserError(error.field, error.value, f"{error.remedy}{done}", error.code) from error
            job = _number(said)
            self._record(Batch(job, max(tasks, 1), now()))
            self._seen |= {f"{job}_{index}" for index in range(tasks)} if tasks else {job}
            sent += max(tasks, 1)
            _say(f"submitted {job}, {max(tasks, 1)} jobs; logs/slurm-{job}*.log")

    def _record(self, *batches: Batch, cancelled: str | None = None) -> None:
        before = read_submitted(self.workdir)
        batches = (*(() if before is None else before.batches), *batches)
        write_json(self.workdir / FOLDER / "slurm.json", Submitted(self._name, batches, cancelled))

    # --- afterwards

    def poll(self) -> Pool:
        """Looks at the step, or asks squeue if the last time is a while ago; replaces jobs that are lost."""
        if self._allocation is not None:
            return self._poll_step()
        if not self._follow:
            return Pool(len(self._seen), True)
        if time.monotonic() >= self._next:
            self._pool = self._look()
            self._next = time.monotonic() + self.site.poll
        return self._pool

    def _look(self) -> Pool:
        tasks: set[str] | None = None
        try:
            tasks = tasks_of(self._name)  # before the directories: a job ends after its last run is published
        except UserError as error:
            _say(f"{error.remedy}; waiting")
        self._programs = [program for program in self._programs if not over(self.workdir, program)]
        if tasks is None:  # jobs may well be there, so none is submitted
            return Pool(self._pool.workers, not self._programs)
        if not self._programs:
            if tasks:
                with contextlib.suppress(UserError):  # those that would start later, to find nothing
                    call("scancel", *_ours(self._name), "--state=PENDING")
            return Pool(len(tasks), True)
        for task in self._seen - tasks - self._ended.keys():
            with contextlib.suppress(FileNotFoundError, UserError):
                self._ended[task] = read_typed(report_of(self.workdir, task), Problem).error
        self._seen |= tasks
        problem = self._cancelled_by()
        if problem is not None:
            return Pool(len(tasks), not tasks, problem)
        problem = self._replace(len(tasks))
        return Pool(len(tasks), not tasks and problem is not None, problem)

    def _replace(self, there: int) -> UserError | None:
        """Submits jobs for those that are gone while programs are left. Returns why not, if it does not."""
        missing = self._wanted(len(self._programs)) - there - len(self._ended)
        if missing <= 0:
            self._leases = None
            return next(iter(self._ended.values()), None)
        before, self._leases = self._leases, self._holders()
        if before is None:  # the result of a run may not be visible here yet: look twice
            return None
        # Those whose lease was renewed meanwhile are trained, by a job or by somebody else. Those that wait for a run
        # need no job yet: it would end idle, and be replaced again and again.
        idle = {name for name, lease in self._leases.items() if lease is None or lease == before.get(name)}
        specs = {spec.run: spec for each in self._programs for spec in each.runs}
        free = [each for each in self._programs if each.program in idle and not waits(self.workdir, each, specs)]
        missing = min(missing, -(-len(free) // self._workers))
        if missing <= 0:
            return None
        marks = marks_of(self.workdir, self._programs)
        self._tries = self._tries + 1 if marks == self._marks else 1
        self._marks = marks
        if self._tries > MAX_SUBMISSIONS:
            lost = f"{missing} gone, after {MAX_SUBMISSIONS} more without progress"
            return UserError("jobs", lost, f"see {self.workdir / 'logs'}/slurm-*.log", Code.ENVIRONMENT)
        self._leases = None
        try:
            with _locked(self.workdir):
                # Another launcher may have been faster, or `scaling cancel`.
                problem = self._cancelled_by()
                if problem is None:
                    self._send(missing + there - len(tasks_of(self._name)))
        except UserError as error:
            return error
        return problem

    def _cancelled_by(self) -> UserError | None:
        """The end of this launcher if ``scaling cancel`` has ended the jobs that it follows."""
        submitted = None
        with contextlib.suppress(UserError):  # a damaged record is said where it is written
            submitted = read_submitted(self.workdir)
        if submitted is None or submitted.cancelled is None:
            return None
        remedy = f"`scaling cancel` ended them at {submitted.cancelled}; the same command submits them again"
        return UserError("jobs", "cancelled", remedy, Code.ENVIRONMENT)

    def _holders(self) -> dict[str, LeaseRecord | None]:
        """The leases of the unfinished programs, by program."""
        return {each.program: holder(record_of(self.workdir, each.program).path) for each in self._programs}

    def _poll_step(self) -> Pool:
        code = None if self._step is None else self._step.poll()
        if code is None:
            return Pool(self._workers, False)
        if code == EXIT_DONE or self._cancelled:
            return Pool(0, True)
        if code == EXIT_INTERRUPTED:
            remedy = "ended before the study did; the same command in another one continues"
            return Pool(0, True, UserError("allocation", self._allocation, remedy, Code.ENVIRONMENT))
        problem = UserError("srun", f"exit code {code}", f"see {self.workdir / 'logs'}", Code.ENVIRONMENT)
        return Pool(0, True, problem)

    def cancel(self, *, force: bool = False) -> None:
        """Tells the step of an allocation to checkpoint and end, or kills it; cancels jobs."""
        if self._allocation is None:
            self.withdraw(self.workdir, force=force)
            return
        self._cancelled = True
        if self._step is not None and self._step.poll() is None:
            if force:
                os.killpg(self._step.pid, signal.SIGKILL)
            else:
                self._step.send_signal(signal.SIGTERM)

    @classmethod
    def withdraw(cls, workdir: Path, *, force: bool = False) -> list[str]:
        """See ``Engine``. Launchers that follow the jobs submit no others."""
        submitted = read_submitted(workdir)
        if submitted is None:
            return []
        if shutil.which("scancel") is None:
            remedy = "scancel is not on PATH; cancel on a login node of the cluster"
            raise UserError("engine", "slurm", remedy, Code.ENVIRONMENT)
        make_folder(workdir / FOLDER, inside=workdir)  # it refuses a link, which could lead elsewhere
        with _locked(workdir):
            name = _slurm.job_name(workdir)
            submitted = Submitted(name, submitted.batches, now())
            write_json(workdir / FOLDER / "slurm.json", submitted)
            tasks = tasks_of(name)
            if tasks:
                call("scancel", *(["--full", "--signal=KILL"] if force else []), *_ours(name))
        return sorted({task.partition("_")[0] for task in tasks}, key=int)


def _refuse_in_allocation(allocation: str, asked: Mapping[str, FlagValue]) -> None:
    for name in ("jobs", "account", "partition", "time", "gpus", "sbatch"):
        if name in asked:
            remedy = f"this shell is inside the allocation {allocation}; leave it out, or unset SLURM_JOB_ID to submit"
            raise UserError(name, asked[name], remedy, Code.CONFLICT)


def read_submitted(workdir: Path) -> Submitted | None:
    """What was submitted for a work directory; None if nothing was. Raises UserError (DAMAGED)."""
    try:
        return read_typed(workdir / FOLDER / "slurm.json", Submitted, remedy="delete it; jobs are found by their name")
    except FileNotFoundError:
        return None


def cut(count: int, limit: int) -> list[int]:
    """Sizes of the arrays for ``count`` tasks, at most ``limit`` each; zeros, for single jobs, if arrays are off.

    The limit (MaxArraySize) bounds the largest index of an array, so each begins at 0 again.
    """
    if limit < 1:
        return [0] * count
    return [min(limit, count - first) for first in range(0, count, limit)]


def array_limit() -> int:
    """MaxArraySize of the site, one more than the largest index of an array; 0 if there are no arrays."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
    return 1 if match is None else int(match[1])


def tasks_of(name: str) -> set[str]:
    """The jobs of this user and name that SLURM still knows, pending or running: JOB_INDEX each."""
    # All: by default it leaves out partitions that are hidden, whoever has jobs there.
    words = call("squeue", "--all", "--noheader", "--array", "--format=%i", *_ours(name)).split()
    return {word for word in words if re.fullmatch(r"[0-9]+(_[0-9]+)?", word)}  # what a site's wrapper says is no job


def _number(said: str) -> str:
    """The number of a job in what sbatch said, which is the last line, perhaps with the name of a cluster.

    Raises:
      UserError: there is none (ENVIRONMENT).
    """
    match = re.search(r"^([0-9]+)(;.*)?\s*\Z", said, re.MULTILINE)
    if match is None:
        raise UserError("sbatch", said.strip()[:200], "is not the number of a job", Code.ENVIRONMENT)
    return match[1]


def _ours(name: str) -> list[str]:
    return [f"--user={os.getuid()}", f"--name={name}"]


def _unfiltered(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables by which squeue and scancel see some of the jobs only: of a state, partition, account."""
    return {name: each for name, each in environment.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}


def call(*words: str, environment: dict[str, str] | None = None) -> str:
    """Standard output of a command of SLURM.

    Args:
      words: the command and its arguments.
      environment: default that of this process; without the filters of the user in either case.

    Raises:
      UserError: it fails or does not answer in time (ENVIRONMENT); the remedy is what it said, in one line.
    """
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=_unfiltered(os.environ if environment is None else environment),
            check=False,
        )
    except subprocess.TimeoutExpired:
        remedy = f"does not answer within {PATIENCE:.0f} s; try again"
        raise UserError(words[0], " ".join(words[1:]), remedy, Code.ENVIRONMENT) from None
    except OSError as error:
        raise UserError(words[0], " ".join(words[1:]), str(error.strerror), Code.ENVIRONMENT) from error
    if done.returncode != 0:
        said = [re.sub(rf"^{words[0]}: (error: )?", "", line) for line in done.stderr.splitlines() if line.strip()]
        reason = "; ".join(said)[:400] or f"exit code {done.returncode}"
        raise UserError(words[0], " ".join(words[1:]), reason, Code.ENVIRONMENT)
    return done.stdout


def _locked(workdir: Path) -> contextlib.AbstractContextManager[None]:
    return exclusive(workdir / FOLDER / ".slurm.lock")


def _say(text: str) -> None:
    print(f"slurm: {text}", file=sys.stderr, flush=True)


ENGINE = Slurm
