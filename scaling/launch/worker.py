"""The worker: a long-lived process that takes programs of a study under a lease, largest first, until all are final.

    python -m scaling.launch.worker --workdir=runs/demo --core=0

It is the same under every engine. SIGTERM or SIGINT makes it checkpoint and exit 75. A program that raises is recorded
and retried by a fresh process (exit 76), at most ``max_attempts`` times without progress; then its unfinished runs are
``failed``. A ``UserError`` of the program makes them ``rejected`` at once. What can only be mended outside (a full
disk) ends the worker with exit 2, its one line on the standard output, and no run is blamed for it.

With ``--ensemble`` it takes several programs that are alike at a time and trains them as one compiled program, each
under its own lease, with its own records, attempts and end; when one ends the next takes its place.

Several processes may be one worker, on a mesh that spans their devices:

    python -m scaling.launch.worker --workdir=runs/big --processes=2 --process=0 --coordinator=host:port

and likewise for process 1, or by the environment of SLURM (``srun``) and Kubernetes, see ``scaling.distributed``.
Process 0 takes the leases, writes the records and says what to train; each builds its own rows of every batch. Should
one of them die the others end too, and the launcher starts them again.

Affinity and threads are set before JAX is imported: JAX sizes its thread pool by the affinity, and the bits of a run
depend on the number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from scaling import distributed
from scaling.errors import UserError
from scaling.launch import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER
from scaling.launch.failures import one_line, outside
from scaling.launch.lease import BEAT, TTL, Lease, LeaseLost, Watch, holder
from scaling.records import Record, canonical, read_json

MAX_ATTEMPTS = 3
POLL = 1.0  # seconds between two looks at what other workers hold
EXECUTE = "scaling.train:execute"
AUTO = 8  # programs at a time with --ensemble=auto, on an accelerator that is measured to be faster so
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(cache: str | None, *, single: bool) -> dict[str, str]:
    """What must stand in the environment before JAX is imported.

    Args:
      cache: directory of the persistent compilation cache; None for none.
      single: one thread, for a worker that has one core.
    """
    found = {"PYTHONUNBUFFERED": "1"}
    if single:
        found |= dict.fromkeys(THREADS, "1")
    if cache is not None:
        # Every program of a study is small and is compiled again and again: cache all of them (SPEED: 39 s against 3).
        found |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return found


def default_cache() -> str:
    """The compilation cache: $SCALING_CACHE, else ~/.cache/scaling/xla."""
    return os.environ.get("SCALING_CACHE") or str(Path.home() / ".cache" / "scaling" / "xla")


def usable_cache(cache: str | None) -> str | None:
    """The directory, made if missing; None where it cannot be written (JAX would warn at every compilation)."""
    path = Path(cache or default_cache()).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(path.resolve()) if os.access(path, os.W_OK | os.X_OK) else None


def load_programs(workdir: Path) -> list[dict[str, Any]]:
    """The programs of study.json, the one with the most estimated seconds first.

    Raises:
      UserError: there is no study, or it cannot be read.
    """
    path = Path(workdir) / "study.json"
    try:
        programs = read_json(path)["programs"]
        return sorted(programs, key=lambda program: (-program["seconds"], program["program"]))
    except FileNotFoundError:
        raise UserError("workdir", workdir, "holds no study.json; give --config to plan a study there") from None
    except (KeyError, TypeError) as error:
        raise UserError("study", path, f"lacks {error}; run the study again with --config") from error


def settled(workdir: Path, spec: dict[str, Any]) -> bool:
    """Whether a run needs nothing more: done, diverged, rejected or failed. A stem that a study made longer does."""
    result = Record(Path(workdir) / "runs" / spec["run"]).result
    if result is None:
        return False
    return spec["kind"] != "stem" or result["status"] != "done" or result["steps"] >= spec["steps"]


def reset(workdir: Path, programs: Sequence[dict[str, Any]]) -> list[str]:
    """Makes failed and rejected runs trainable again, with all their attempts; the names of those runs.

    A program that somebody works on is left alone. The old result is kept as result.<time>.json.
    """
    found = []
    for program in programs:
        records = [Record(Path(workdir) / "runs" / spec["run"]) for spec in program["runs"]]
        if not any(record.status in ("failed", "rejected") for record in records):
            continue
        lease = Watch().take(records[0].path)
        if lease is None:
            continue
        with lease:
            for record in records:
                if record.status in ("failed", "rejected"):
                    os.replace(record.path / "result.json", record.path / f"result.{time.time_ns()}.json")
                    found.append(record.path.name)
            records[0].append([{"event": "retry", "time": _now()}])
    return found


def attempts(record: Record, marks: dict[str, int]) -> int:
    """How many starts of a program count against it: those since it last got further, without interrupted ones.

    Args:
      record: of the program's first run, which holds the program's events.
      marks: how far the program is now, as ``progress_marks`` says. Each start row holds what it was then.
    """
    count, before = 0, None
    for row in record.rows():
        event = row.get("event")
        if event == "start":
            count = count + 1 if row.get("marks") == before else 1
            before = row.get("marks")
        elif event == "interrupted":
            count = max(0, count - 1)
        elif event in ("finish", "retry"):
            count = 0
    return count if before == marks else 0


def progress_marks(workdir: Path, program: dict[str, Any]) -> dict[str, int]:
    """How far a program is: settled runs, and distinct steps with a row. A step that is repeated is no progress."""
    records = [Record(Path(workdir) / "runs" / spec["run"]) for spec in program["runs"]]
    return {
        "settled": sum(record.result is not None for record in records),
        "rows": sum(len(record.steps()) for record in records),
    }


def _shape(program: dict[str, Any]) -> str:
    """What the executables of a program depend on, roughly: a wrong guess costs a compilation, nothing else."""
    manifest = program["runs"][0]["manifest"]
    return canonical([manifest.get("family"), manifest.get("config"), (manifest.get("recipe") or {}).get("batch")])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _log(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not hide why
        print(f"{_now()} {os.getpid()} {text}", file=sys.stderr, flush=True)


class _Never(Exception):
    """Stands for the Interrupted of a module that has none."""


def most_together(text: str) -> int | None:
    """How many programs at a time ``--ensemble`` says; None for auto. UserError where it says nothing."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError("ensemble", text, "must be a whole number of at least 1, or auto")
    return int(text)


def load_execute(name: str) -> tuple[Callable[..., None], type[Exception], ModuleType]:
    """The function that trains a program (as ``scaling.train.execute``), what its module raises when told to stop, and
    the module.

    Args:
      name: ``module:function``; the module may define ``Interrupted``, and ``work``, ``alike``, ``speedup`` and
        ``prepare`` as ``scaling.train`` does.
    """
    from absl import flags

    module, _, function = name.partition(":")
    loaded = importlib.import_module(module)
    flags.FLAGS.mark_as_parsed()  # libraries such as grain read absl flags, and raise where nobody parsed them
    return getattr(loaded, function), getattr(loaded, "Interrupted", _Never), loaded


class _Attempt:
    """One attempt at a program, under its lease."""

    def __init__(self, worker: Worker, program: dict[str, Any], lease: Lease, number: int):
        self.worker, self.program, self.lease, self.number = worker, program, lease, number
        self.over = False
        self.asked = {"progress": self._progress, "should_stop": self._should_stop}

    def _progress(self, run: str, flops: int) -> None:
        self.lease.report({"run": run, "flops": int(flops)})
        self.lease.check()

    def _should_stop(self) -> bool:
        self.lease.check()
        return self.worker.stopping()

    def ended(self, problem: Exception | None) -> None:
        """Records the end and gives the lease back. Raises what no run is to blame for."""
        self.worker._record_end(self, problem)
        self.over = True
        self.lease.release()


class Worker:
    """One worker process's loop; see the module's docstring."""

    def __init__(
        self,
        workdir: Path,
        *,
        core: str = "all",
        execute: str = EXECUTE,
        max_attempts: int = MAX_ATTEMPTS,
        ensemble: int | None = None,
        only: Sequence[str] = (),
        parent: int | None = None,
        ttl: float = TTL,
        beat: float = BEAT,
    ):
        self.workdir, self.core, self.max_attempts, self.parent = workdir, core, max_attempts, parent
        self.watch = Watch(ttl, beat)
        self._stop = threading.Event()
        self._execute, self._ensemble = execute, ensemble
        self._code: int | None = None  # with which this process must end, and no longer train
        self._settled: set[str] = set()
        self._together: dict[str, int] = {}  # how many at a time, of programs that are alike
        self._seen: set[str] = set()  # what programs are like that train, or whose steps were compiled ahead
        self._ahead: threading.Thread | None = None
        self.programs = [p for p in load_programs(workdir) if not only or p["program"] in only]

    def stop(self, *_: object) -> None:
        """Signal handler: end at the next chunk."""
        self._stop.set()

    def stopping(self) -> bool:
        """Whether this worker must end, was asked to, or its parent is gone: a pool leaves no worker behind."""
        if self.parent is not None and os.getppid() != self.parent and not self._stop.is_set():
            _log("the parent is gone")
            self._stop.set()
        return self._stop.is_set() or self._code is not None

    def run(self) -> int:
        """Works until every program is settled (0) or somebody says stop (75)."""
        if not distributed.primary():
            return self._follow()
        code = self._lead()
        if code != EXIT_AGAIN:  # else the others are lost in the program, or have raised too
            distributed.agree({"exit": code})
        return code

    def _follow(self) -> int:
        """Trains what process 0 of the group says, until it says how to end."""
        _log(f"process {distributed.index()} of {distributed.count()} on {socket.gethostname()}")
        execute, interrupted, _ = load_execute(self._execute)
        programs = {program["program"]: program for program in load_programs(self.workdir)}
        while "exit" not in (word := distributed.agree(patience=None)):
            try:
                execute(programs[word["program"]], self.workdir, progress=lambda *_: None, should_stop=self.stopping)
            except interrupted:
                _log(f"{word['program']}: interrupted")
                return EXIT_INTERRUPTED
            except UserError as error:
                if outside(error):
                    raise
            except Exception as error:
                _log(f"{word['program']}: {one_line(error)}\n{traceback.format_exc().rstrip()}")
                return EXIT_AGAIN
        return word["exit"]

    def _lead(self) -> int:
        _log(f"worker on core {self.core} of {socket.gethostname()}, {len(self.programs)} programs")
        if all(self._is_settled(program) for program in self.programs):
            return EXIT_DONE
        # Before any lease: a broken installation is no program's fault.
        self._train_one, self._interrupted, self._module = load_execute(self._execute)
        if self._ensemble not in (None, 1) and not hasattr(self._module, "work"):
            raise UserError("ensemble", self._ensemble, f"{self._execute} trains one program at a time")
        while not self.stopping():
            if all(self._is_settled(program) for program in self.programs):
                _log("all programs are final")
                return EXIT_DONE
            attempt = self._claim()
            if attempt is None:
                self._stop.wait(POLL)  # what others hold may become free: a dead peer's program is taken over
            else:
                self._train(attempt)
        return EXIT_INTERRUPTED if self._code is None else self._code

    def _claim(self, like: str | None = None) -> _Attempt | None:
        """Begins an attempt at the largest program that is free; ``like``: of those that are alike so."""
        while True:
            left = [program for program in self.programs if not self._is_settled(program)]
            found = self._take([p for p in left if like is None or self._module.alike(p) == like])
            if found is None:
                return None
            attempt = self._begin(*found)
            if attempt is not None:
                return attempt

    def _train(self, first: _Attempt) -> None:
        """Trains a program, and others beside it where this worker takes several at a time."""
        begun = [first]

        def claims() -> Iterator[_Attempt]:
            while attempt := self._claim(self._module.alike(first.program)):
                begun.append(attempt)
                yield attempt

        def member(attempt: _Attempt) -> tuple[Any, Callable[[Exception | None], None]]:
            return self._module.work(attempt.program, self.workdir, **attempt.asked), attempt.ended

        try:
            more = claims()
            beside = list(itertools.islice(more, self._most(first.program) - 1))
            self._compile_ahead(first.program)
            if beside:
                from scaling import drive

                _log(f"together: {', '.join(attempt.program['program'] for attempt in begun)}")
                ways = first.program["options"]["mesh"].get("ensemble", 1)
                members = map(member, itertools.chain([first, *beside], more))
                drive.drive(members, -(-len(begun) // ways) * ways)
            else:
                self._train_one(first.program, self.workdir, **first.asked)
                first.ended(None)
        except Exception as problem:  # nobody's own
            for attempt in begun:
                if not attempt.over:
                    attempt.ended(problem)
        finally:
            for attempt in begun:
                attempt.lease.release()

    def _compile_ahead(self, program: dict[str, Any]) -> None:
        """While ``program`` trains, compiles the steps of the next one that is not like it, in a thread of its own.

        The workers of a pool, each bound to its core, have each other for this.
        """
        if self.core != "all" or distributed.count() > 1 or not hasattr(self._module, "prepare") or self.compiling:
            return
        self._seen.add(self._module.alike(program))
        left = (each for each in self.programs if not self._is_settled(each))
        if (other := next((each for each in left if self._module.alike(each) not in self._seen), None)) is None:
            return
        self._seen.add(self._module.alike(other))

        def compile_(compile_steps: Callable[[], None]) -> None:
            with contextlib.suppress(Exception):  # it will say so again when it trains, and then it counts
                compile_steps()
                _log(f"{other['program']}: compiled ahead")

        with contextlib.suppress(Exception):
            self._ahead = threading.Thread(target=compile_, args=[self._module.prepare(other)], daemon=True)
            self._ahead.start()

    @property
    def compiling(self) -> bool:
        """Whether a thread compiles ahead."""
        return self._ahead is not None and self._ahead.is_alive()

    def _most(self, program: dict[str, Any]) -> int:
        """How many programs that are alike to take at a time: as ``--ensemble`` says, else by a measurement here."""
        if self._ensemble is not None:
            return self._ensemble
        if distributed.count() > 1 or not hasattr(self._module, "work"):
            return 1
        import jax

        kind = self._module.alike(program)
        alike = sum(not self._is_settled(each) and self._module.alike(each) == kind for each in self.programs)
        if jax.default_backend() == "cpu" or alike == 1:
            return 1
        if kind not in self._together:
            size = min(alike, AUTO)
            faster = self._module.speedup(program, size, self.workdir)
            _log(f"{size} programs together are {faster:.2f} times as fast as one by one")
            self._together[kind] = AUTO if faster > 1 else 1
        return self._together[kind]

    def _take(self, left: list[dict[str, Any]]) -> tuple[dict[str, Any], Lease] | None:
        """Leases the largest program that is free; one whose shape another worker is just compiling comes last, since
        its executable will be in the cache in a few seconds."""
        compiling = set()
        for program in left:
            held = holder(self._record(program).path)
            if held is not None and held["progress"] is None and not held["dead"]:
                compiling.add(_shape(program))
        for program in sorted(left, key=lambda program: _shape(program) in compiling):
            if self.stopping():
                break
            if lease := self.watch.take(self._record(program).path):
                return program, lease
        return None

    def _record(self, program: dict[str, Any]) -> Record:
        return Record(self.workdir / "runs" / program["program"])

    def _is_settled(self, program: dict[str, Any]) -> bool:
        for spec in program["runs"]:
            if spec["run"] not in self._settled:
                if not settled(self.workdir, spec):
                    return False
                self._settled.add(spec["run"])
        return True

    def _begin(self, program: dict[str, Any], lease: Lease) -> _Attempt | None:
        """Records the start of an attempt; None, and the lease is given back, where there is nothing to attempt."""
        if self._is_settled(program):
            lease.release()
            return None  # its last holder finished it between the look and the lease
        name, record, marks = program["program"], self._record(program), progress_marks(self.workdir, program)
        spent = attempts(record, marks)
        if spent >= self.max_attempts:
            last = [row for row in record.rows() if "event" in row][-1]
            why = last.get("reason", "the worker died (killed, or out of memory)")
            self._end(program, "failed", f"{spent} attempts without progress; the last: {why}")
            lease.release()
            return None
        start = {"event": "start", "time": _now(), "marks": marks, "host": socket.gethostname(), "pid": os.getpid()}
        record.append([{**start, "core": self.core}])
        _log(f"{name}: start, attempt {spent + 1} of {self.max_attempts}")
        distributed.agree({"program": name})
        return _Attempt(self, program, lease, spent + 1)

    def _record_end(self, attempt: _Attempt, problem: Exception | None) -> None:
        """Writes how an attempt ended, and notes when this process must end too."""
        program, lease = attempt.program, attempt.lease
        name, record = program["program"], self._record(program)
        if problem is None:
            missing = [spec["run"] for spec in program["runs"] if not settled(self.workdir, spec)]
            problem = RuntimeError(f"{self._execute} returned, but {missing[0]} has no result") if missing else None
        if problem is None:
            record.append([{"event": "finish", "time": _now()}])
            _log(f"{name}: finished")
        elif isinstance(problem, LeaseLost):
            _log(f"{name}: the lease was lost, leaving it to its new owner")
            if distributed.count() > 1:  # the others are still at it, and must end
                self._code = EXIT_AGAIN
        elif isinstance(problem, self._interrupted):
            record.append([{"event": "interrupted", "time": _now()}])
            _log(f"{name}: interrupted")
            self._code = self._code or EXIT_INTERRUPTED
        elif outside(problem):
            if isinstance(problem, UserError):
                raise problem
            raise UserError("workdir", self.workdir, f"{one_line(problem)}; free space or mend access") from problem
        elif isinstance(problem, UserError):
            if lease.alive():
                self._end(program, "rejected", str(problem))
        else:
            _log(f"{name}: {one_line(problem)}")
            if lease.alive():
                with open(record.path / "error.log", "a") as file:
                    text = "".join(traceback.format_exception(problem)).rstrip()
                    file.write(f"{_now()} attempt {attempt.number}\n{text}\n")
                record.append([{"event": "error", "time": _now(), "reason": one_line(problem)}])
            self._code = EXIT_AGAIN  # a fresh process: an accelerator may be unusable after an error

    def _end(self, program: dict[str, Any], status: str, reason: str) -> None:
        """Writes the result of every unfinished run of a program."""
        for spec in program["runs"]:
            if settled(self.workdir, spec):
                continue
            record = Record(self.workdir / "runs" / spec["run"])
            record.begin(spec["manifest"])
            steps = [row["step"] for row in record.steps()][-1:]
            record.finish(
                {
                    "status": status,
                    "reason": reason,
                    "steps": steps[0] if steps else 0,
                    "tokens": (steps[0] if steps else 0) * spec["manifest"]["tokens"]["per_step"],
                    "decayed": False,
                    "train_loss": None,
                    "evaluation": {},
                    "seconds": {"train": 0.0, "compile": 0.0, "evaluate": 0.0},
                    "tokens_per_second": None,
                    "mfu": None,
                    "attempts": len(self._record(program).events("start")),
                    "finished": _now(),
                }
            )
        _log(f"{program['program']}: {status}: {reason}")


def _redirect(workdir: Path, core: str) -> int:
    """Sends this process's output to its log. Returns a descriptor of the former standard output."""
    report = os.dup(1)
    path = workdir / "logs" / f"worker-{core}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UserError("workdir", workdir, f"cannot be written ({error.strerror}); choose another") from error
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return report


def _bind(core: str) -> None:
    """Binds this process to one core, before anything starts a thread."""
    if core == "all" or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, {int(core)})
    except (ValueError, OSError) as error:
        usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise UserError("core", core, f"is not a core of this process; choose one of {usable}, or all") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser("python -m scaling.launch.worker", description="Trains programs of a study.")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--core", default="all", help="bind to this core with one thread; all: no binding")
    parser.add_argument("--cache", default=None, help="compilation cache (default $SCALING_CACHE or ~/.cache/scaling)")
    parser.add_argument("--execute", default=EXECUTE, help="module:function that trains a program")
    parser.add_argument("--max_attempts", default=MAX_ATTEMPTS, type=int)
    parser.add_argument("--ensemble", default="auto", help="programs at a time, or auto (see scaling run --help)")
    parser.add_argument("--only", default="", help="comma-separated programs; default all of study.json")
    parser.add_argument("--parent", default=None, type=int, help="end when this process is no longer the parent")
    parser.add_argument("--ttl", default=TTL, type=float, help="seconds of silence after which a lease is void")
    parser.add_argument("--processes", default=None, type=int, help="of a group that trains as one (1: never a group)")
    parser.add_argument("--process", default=None, type=int, help="index of this one, from 0")
    parser.add_argument("--coordinator", default=None, help="HOST:PORT of process 0, free there")
    parser.add_argument("--beat", default=BEAT, type=float, help="seconds between renewals of a lease")
    options = parser.parse_args(arguments)
    report, worker = 1, None
    try:
        options.workdir = options.workdir.absolute()  # orbax takes no relative path
        ensemble = most_together(options.ensemble)
        group = distributed.detect(os.environ, options.processes, options.process, options.coordinator)
        if group is not None and ensemble not in (None, 1):
            raise UserError("ensemble", ensemble, "a group of processes trains one program at a time")
        report = _redirect(options.workdir, options.core + (f"-{group.process}" if group else ""))
        _bind(options.core)
        os.environ.update(environment(usable_cache(options.cache), single=options.core != "all"))
        worker = Worker(
            options.workdir,
            core=options.core,
            execute=options.execute,
            max_attempts=options.max_attempts,
            ensemble=ensemble,
            only=[name for name in options.only.split(",") if name],
            parent=options.parent,
            ttl=options.ttl,
            beat=options.beat,
        )
        if group is not None:
            _log(f"joining a group of {group.processes} at {group.coordinator}")
            distributed.join(group)
        signal.signal(signal.SIGTERM, worker.stop)
        signal.signal(signal.SIGINT, worker.stop)
        code = worker.run()
    except (UserError, OSError) as error:
        if not isinstance(error, UserError) and not outside(error):
            raise
        text = str(error) if isinstance(error, UserError) else f"workdir = {options.workdir}: {one_line(error)}"
        _log(text)
        with contextlib.suppress(OSError):
            os.write(report, (text + "\n").encode())
        code = EXIT_USER
    if (distributed.count() > 1 and code in (EXIT_AGAIN, EXIT_USER)) or (worker is not None and worker.compiling):
        os._exit(code)  # leaving in order would wait for the others, or for the compiler
    return code


if __name__ == "__main__":
    sys.exit(main())
