"""The worker's main loop: leases one program, or several of one shape, trains them, and takes the next."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling import distributed
from scaling.errors import Code, UserError
from scaling.records import canonical
from scaling.records.types import ProgramSpec
from scaling.worker import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED
from scaling.worker.attempt import Attempt, begin, under
from scaling.worker.compile_ahead import CompileAhead
from scaling.worker.ensembles import EnsembleSize
from scaling.worker.failures import as_exception, is_environment_error, one_line
from scaling.worker.lease import BEAT, TTL, Lease, LeaseLost
from scaling.worker.lease_file import holder
from scaling.worker.log import log
from scaling.worker.programs import load_programs, over, record_of, waits
from scaling.worker.training import EXECUTE, Training
from scaling.worker.watch import Watch

MAX_ATTEMPTS = 3
POLL = 1.0  # seconds between two looks at what other workers hold


@dataclass(frozen=True)
class Settings:
    """Settings of a worker.

    Attributes:
      core: the core to bind to, or all.
      execute: ``module:function`` that trains a program.
      max_attempts: attempts at a program without progress before it is ``failed``.
      ensemble: programs of one shape to train at a time; None measures what is best.
      only: names of programs to take; empty for all of study.json.
      parent: process number; the worker ends when this is no longer its parent. None: it does not check.
      ttl, beat: timeout and renewal interval of leases, in seconds.
      idle: seconds after which it ends if all that is left is in the hands of others; None: it waits for them.
    """

    core: str = "all"
    execute: str = EXECUTE
    max_attempts: int = MAX_ATTEMPTS
    ensemble: int | None = None
    only: tuple[str, ...] = ()
    parent: int | None = None
    ttl: float = TTL
    beat: float = BEAT
    idle: float | None = None


class Worker:
    """One worker process.

    Raises:
      UserError: the work directory has no readable study (MISSING, DAMAGED).
    """

    def __init__(self, workdir: Path, settings: Settings):
        self.workdir, self.settings = workdir, settings
        self.watch = Watch(settings.ttl, settings.beat)
        study = load_programs(workdir)
        self.programs = [p for p in study if not settings.only or p.program in settings.only]
        self._specs = {spec.run: spec for program in study for spec in program.runs}
        self._waiting: list[ProgramSpec] = []  # those that start from runs which are not final yet
        self._stopped = False  # no Event: a signal handler that sets one can meet its own thread holding the lock
        self._code: int | None = None  # exit code, once this process must stop training
        self._idle_since: float | None = None  # when it first had nothing to do, since it last had
        self._over: set[str] = set()  # programs
        self._begins = 0  # all programs before this one are over
        self._keys: dict[str, str] = {}  # batching keys by program
        self._ahead: CompileAhead | None = None

    def stop(self, *_: object) -> None:
        """Signal handler: stops at the next chunk."""
        self._stopped = True

    def stopping(self) -> bool:
        """Whether this worker must end: it was asked to, an attempt requires it, or its parent is gone."""
        parent = self.settings.parent
        if parent is not None and os.getppid() != parent and not self._stopped:
            log("the parent is gone")
            self._stopped = True
        return self._stopped or self._code is not None

    @property
    def compiling(self) -> bool:
        """Whether a thread compiles ahead."""
        return self._ahead is not None and self._ahead.compiling

    def run(self) -> int:
        """Trains until every program is settled or the worker must stop; returns the exit code."""
        if not distributed.primary():
            return self._follow()
        code = self._lead()
        if code != EXIT_AGAIN:  # otherwise the others are stuck in the program, or have raised too
            distributed.agree({"exit": code})
        return code

    def _follow(self) -> int:
        """Trains the programs that process 0 of the group announces, until it announces an exit code."""
        log(f"process {distributed.index()} of {distributed.count()} on {socket.gethostname()}")
        training = Training(self.settings.execute)
        programs = {program.program: program for program in load_programs(self.workdir)}
        while "exit" not in (word := distributed.agree(patience=None)):
            name = word["program"]
            try:
                training.execute(programs[name], self.workdir, progress=lambda *_: None, should_stop=self.stopping)
            except training.interrupted:
                log(f"{name}: interrupted")
                return EXIT_INTERRUPTED
            except UserError as error:
                if is_environment_error(error):
                    raise
            except (Exception, SystemExit) as raised:
                error = as_exception(raised)
                log(f"{name}: {one_line(error)}\n{traceback.format_exc().rstrip()}")
                return EXIT_AGAIN
        return word["exit"]

    def _lead(self) -> int:
        settings = self.settings
        log(f"worker on core {settings.core} of {socket.gethostname()}, {len(self.programs)} programs")
        if not self._is_anything_left():
            return EXIT_DONE
        # Before any lease: a broken installation must not count against a program.
        self._training = training = Training(settings.execute)
        if settings.ensemble not in (None, 1) and not training.batches:
            remedy = f"{settings.execute} trains one program at a time"
            raise UserError("ensemble", settings.ensemble, remedy, Code.UNSUPPORTED)
        self._size = EnsembleSize(training, self.workdir, settings.ensemble)
        # Workers bound to cores share a compilation cache instead; a group has no thread to spare.
        if settings.core == "all" and distributed.count() == 1 and training.compiles_ahead:
            self._ahead = CompileAhead(training)
        while not self.stopping():
            if (attempt := self._claim()) is not None:
                self._train(attempt)
            elif not self.stopping() and not self._is_anything_left():
                log("all programs are final")
                return EXIT_DONE
            else:
                self._wait()
        return EXIT_INTERRUPTED if self._code is None else self._code

    def _wait(self) -> None:
        """Waits a while: a lease of another worker may become free, for example when it dies. Ends idle workers."""
        begun = time.monotonic()
        if self._idle_since is None:
            self._idle_since = begun
        idle = self.settings.idle
        if idle is not None and begun - self._idle_since >= idle and not self._will_be_needed():
            log("others train all that is left")
            self._code = EXIT_DONE
        while time.monotonic() < begun + POLL and not self.stopping():
            time.sleep(POLL / 10)

    def _will_be_needed(self) -> bool:
        """Whether more programs wait for those that are held than the workers that hold these can take after them."""
        later = {spec.run for program in self._waiting for spec in program.runs}
        following = sum(later.isdisjoint(program.parents) for program in self._waiting)
        return following > len(self._left()) - len(self._waiting)

    def _claim(self, key: str | None = None) -> Attempt | None:
        """Begins an attempt at the largest free program, among those with this batching key if ``key`` is given."""
        while True:
            taken = self._take(key)
            if taken is None:
                return None
            attempt = self._begin(*taken)
            if attempt is not None:
                return attempt

    def _take(self, key: str | None) -> tuple[ProgramSpec, Lease] | None:
        """Leases the first free program that waits for no other. Shapes that another worker is compiling come last,
        since their executable will be in the cache soon. It looks no further than it must: a study may have thousands
        of programs."""
        compiling: set[str] = set()
        later = []
        self._waiting.clear()
        while self._begins < len(self.programs) and self.programs[self._begins].program in self._over:
            self._begins += 1
        for program in itertools.islice(self.programs, self._begins, None):
            if program.program in self._over or (key is not None and self._key(program) != key):
                continue
            if self.stopping():
                return None
            if self._is_over(program):
                continue
            if waits(self.workdir, program, self._specs):
                self._waiting.append(program)
                continue
            path = record_of(self.workdir, program.program).path
            lease = holder(path)
            if lease is not None and lease.progress is None and not lease.dead:
                compiling.add(_compiled_for(program))
            if compiling and _compiled_for(program) in compiling:
                later.append((program, path))
            elif lease := self.watch.take(path):
                return program, lease
        for program, path in later:
            if self.stopping():
                return None
            if lease := self.watch.take(path):
                return program, lease
        return None

    def _key(self, program: ProgramSpec) -> str:
        """The batching key of a program."""
        if program.program not in self._keys:
            self._keys[program.program] = self._training.batching_key(program)
        return self._keys[program.program]

    def _begin(self, program: ProgramSpec, lease: Lease) -> Attempt | None:
        """Records the start of an attempt. If there is nothing to attempt, releases the lease and returns None."""
        number = None
        try:
            if not self._is_over(program):  # its last holder may have finished it before we got the lease
                with under(self.workdir, program, lease):
                    number = begin(self.workdir, program, self.settings.core, self.settings.max_attempts)
        except LeaseLost:
            log(f"{program.program}: the lease was lost, leaving it to its new owner")
        finally:
            if number is None:
                lease.release()
        if number is None:
            return None
        self._idle_since = None
        distributed.agree({"program": program.program})
        return Attempt(self.workdir, program, lease, number, training=self._training, stopping=self.stopping)

    def _train(self, first: Attempt) -> None:
        """Trains a program, together with others of its shape if this worker takes several at a time."""
        begun = [first]

        def claims() -> Iterator[Attempt]:
            while attempt := self._claim(self._key(first.program)):
                begun.append(attempt)
                yield attempt

        try:
            more = claims()
            beside = list(itertools.islice(more, self._size.of(first.program, self._left) - 1))
            if self._ahead is not None:  # which may compile for a program that another worker has finished
                self._ahead.during(first.program, [p for p in self.programs if p.program not in self._over])
            if beside:
                self._drive(first, itertools.chain([first, *beside], more), begun)
            else:
                self._training.execute(first.program, self.workdir, **first.callbacks)
                self._end(first, None)
        except (Exception, SystemExit) as raised:  # concerns all of them, not one
            problem = as_exception(raised)
            left = [attempt for attempt in begun if not attempt.over]
            if not left:
                raise  # from the end of an attempt, or from the claim on the next
            with contextlib.ExitStack() as ends:  # each gets its end, though the first may raise
                for attempt in reversed(left):
                    ends.callback(self._end, attempt, problem)
        finally:
            for attempt in begun:
                attempt.close()

    def _drive(self, first: Attempt, attempts: Iterator[Attempt], begun: Sequence[Attempt]) -> None:
        """Trains attempts together, as many at a time as have begun, rounded up to a multiple of mesh.ensemble."""
        from scaling import drive

        log(f"together: {', '.join(attempt.program.program for attempt in begun)}")
        ways = first.program.options.mesh.get("ensemble", 1)
        members = (
            (
                self._training.work(attempt.program, self.workdir, **attempt.callbacks),
                lambda problem, attempt=attempt: self._end(attempt, problem),
            )
            for attempt in attempts
        )
        drive.drive(members, -(-len(begun) // ways) * ways)

    def _end(self, attempt: Attempt, problem: Exception | None) -> None:
        """Records the end of an attempt, and whether this process must exit after it."""
        attempt.end(problem)
        if attempt.exit_code is not None:
            # An exception in any attempt requires a fresh process, however the others ended.
            again = EXIT_AGAIN in (self._code, attempt.exit_code)
            self._code = EXIT_AGAIN if again else attempt.exit_code

    def _left(self) -> list[ProgramSpec]:
        return [program for program in self.programs if not self._is_over(program)]

    def _is_anything_left(self) -> bool:
        return not all(self._is_over(program) for program in self.programs)

    def _is_over(self, program: ProgramSpec) -> bool:
        if program.program not in self._over and over(self.workdir, program):
            self._over.add(program.program)
        return program.program in self._over


def _compiled_for(program: ProgramSpec) -> str:
    """Approximate key of a program's executables; a wrong guess only costs a compilation."""
    manifest = program.runs[0].manifest
    return canonical([manifest.family, manifest.config, manifest.recipe.get("batch")])
