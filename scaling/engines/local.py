"""The local engine: one long-lived worker per core or, where JAX has GPUs of NVIDIA, per GPU or mesh of them.

Other accelerators have a single worker, which sees all of them.

Workers are started as subprocesses, never forked, each in its own session: Ctrl-C reaches only the parent, which then
asks them to checkpoint. A worker whose parent is gone exits too. Several parents may serve one work directory: their
workers share the programs through leases.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from scaling import distributed
from scaling.engines import Engine, Pool, _workers
from scaling.engines._cores import Claims
from scaling.errors import Code, UserError
from scaling.records.files import make_folder, write_atomic
from scaling.records.types import Marks, ProgramSpec
from scaling.worker import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER
from scaling.worker.environment import usable_cache, variables
from scaling.worker.failures import Problem
from scaling.worker.loop import MAX_ATTEMPTS
from scaling.worker.programs import load_programs, over, progress_marks

# Prefixes of jax plugins (jax_plugins.xla_cuda13 ...), and device files that exist on machines with such a device.
ACCELERATORS = {"xla_cuda": ("/dev/nvidiactl", "/dev/dxg"), "xla_rocm": ("/dev/kfd",)}
TPU = ("/dev/accel0", "/dev/vfio/0")
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # 1.5 to 1.9x on small models on CPU, see benchmarks
_ONE_EACH = "a GPU or TPU takes one worker"

FLAGS = _workers.FLAGS


def accelerators() -> set[str]:
    """The kinds of accelerators that JAX will find here, without importing it: of ``ACCELERATORS``, or tpu."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and all(name.strip() == "cpu" for name in platforms.split(",")):
        return set()
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return set()
    plugins = importlib.util.find_spec("jax_plugins")
    places = [] if plugins is None else list(plugins.submodule_search_locations or [])
    names = [module.name for module in pkgutil.iter_modules(places)]
    devices = {kind: ACCELERATORS[kind] for kind in ACCELERATORS if any(name.startswith(kind) for name in names)}
    devices |= {"tpu": TPU} if importlib.util.find_spec("libtpu") is not None else {}
    return {kind for kind, paths in devices.items() if any(Path(path).exists() for path in paths)}


def accelerated() -> bool:
    """Whether JAX will find an accelerator here, without importing it."""
    return bool(accelerators())


def gpus() -> list[str]:
    """The GPUs of NVIDIA that JAX will find here, as CUDA_VISIBLE_DEVICES names them; none if that cannot be told."""
    if accelerators() != {"xla_cuda"}:
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:  # CUDA numbers those that it finds, whatever their devices are called in a container
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    names = [name.strip() for name in given.split(",")]
    return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))  # as CUDA does


@dataclass(frozen=True)
class _Place:
    """Where a worker runs: its core, or all; the GPUs that it sees, None for all of them; and the name of its log."""

    core: str = "all"
    gpus: str | None = None
    label: str = ""


def cores() -> list[int]:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def worker_environment(cache: str | None, *, cpu: bool) -> dict[str, str]:
    """The environment of a worker: that of this process, plus what must be set before a process starts.

    Args:
      cache: directory of the persistent compilation cache; None disables it.
      cpu: whether it is bound to a core.
    """
    environment = {**os.environ, **variables(cache, single=cpu)}
    environment["PYTHONPATH"] = _workers.python_path()
    if cpu and sys.platform == "linux" and "hugetlb" not in environment.get("GLIBC_TUNABLES", ""):
        environment["GLIBC_TUNABLES"] = ":".join(filter(None, [environment.get("GLIBC_TUNABLES"), HUGE_PAGES]))
    return environment


class Local(Engine):
    """The local pool.

    Args:
      workdir: the directory with study.json.
      workers: number of workers; default one per core of this process, or one per mesh of GPUs, or one if JAX has
        another accelerator or the process is one of a group (``distributed``). They take cores and GPUs that no other
        launcher of this machine has taken, while there are any; after that they share.
      cache: directory of the compilation cache.
      max_attempts: attempts at a program without progress before it is ``failed``.
      execute: ``module:function`` that trains a program.
      ensemble: programs of one shape that a worker trains at a time, or auto.
      label: distinguishes the logs of machines that share the work directory.
      idle: seconds after which a worker ends if all that is left is in the hands of others; default: it waits.
      ttl, beat: timeout and renewal interval of leases, in seconds.

    Raises:
      UserError: an option is out of range (INVALID), or several workers would share an accelerator, or
        a process of a group (CONFLICT); so also from ``check`` and ``submit``, which know the mesh.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        workers: int | None = None,
        cache: str | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        execute: str | None = None,
        ensemble: str | None = None,
        label: str | None = None,
        idle: float | None = None,
        ttl: float | None = None,
        beat: float | None = None,
    ):  # wide: one argument per flag, two for jobs of a scheduler, and the two of leases, which tests shorten
        _workers.check({"workers": workers, "max_attempts": max_attempts, "ensemble": ensemble})
        self.workdir = Path(workdir)
        accelerator = accelerated()
        bound = not accelerator and hasattr(os, "sched_setaffinity")
        self._cores = cores() if bound else []
        group = distributed.detect(os.environ)
        found = gpus() if accelerator and group is None else []
        self._gpus = found if len(found) > 1 else []
        self._claims = Claims("gpu" if self._gpus else "core")
        self._places = [_Place(str(core)) for core in self._cores] or [_Place()]
        self._asked = workers
        self._size = workers or (1 if accelerator or group else len(cores()))
        if group is not None and self._size > 1:
            remedy = f"{group.processes} processes train every run together, with one worker each: give --workers=1"
            raise UserError("workers", workers, remedy, Code.CONFLICT)
        if accelerator and self._size > max(1, len(self._gpus)):
            remedy = f"{_ONE_EACH}; set JAX_PLATFORMS=cpu to use cores"
            raise UserError("workers", workers, remedy, Code.CONFLICT)
        self.crowding = max(1.0, self._size / len(self._cores)) if self._cores else 1.0
        self._environment = worker_environment(usable_cache(cache), cpu=not accelerator)
        options = {"max_attempts": max_attempts, "execute": execute, "ttl": ttl, "beat": beat, "cache": cache}
        options |= {"ensemble": ensemble, "idle": idle}
        self._label = label or ""
        self._options = [f"--{name}={value}" for name, value in options.items() if value is not None]
        self._max_attempts = max_attempts
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._programs: list[ProgramSpec] = []
        self._only: list[str] = []
        self._cancelled, self._problem = False, None
        self._deaths = 0
        self._last_marks: list[Marks] | None = None

    def check(self, programs: Sequence[ProgramSpec]) -> None:
        """Checks the mesh: that workers have GPUs for it, and if this process is one of a group that trains together
        (``srun`` started it several times), that each has a part of it.

        Raises:
          UserError: the mesh has no part for every process (ENVIRONMENT), or too few GPUs for the workers (CONFLICT).
        """
        self._devices(programs)
        group = distributed.detect(os.environ)
        if group is not None and programs:
            distributed.check_mesh(group, programs[0].options.mesh)

    def submit(self, programs: Sequence[ProgramSpec]) -> None:
        """Starts workers for these programs of study.json, at most one per program.

        Raises:
          UserError: the work directory cannot be written, or no process be started (ENVIRONMENT).
        """
        each = self._devices(programs)
        # Every worker first writes its log; if the directory cannot be written, that is reported here, once.
        make_folder(self.workdir / "logs", inside=self.workdir)
        write_atomic(self.workdir / "logs" / ".probe", "")
        (self.workdir / "logs" / ".probe").unlink(missing_ok=True)
        self._programs = list(programs)
        requested = {program.program for program in programs}
        rest = [program for program in load_programs(self.workdir) if program.program not in requested]
        others = any(not over(self.workdir, program) for program in rest)
        self._only = [f"--only={','.join(sorted(requested))}"] if others else []
        if self._cores:
            self._places = [_Place(str(core)) for core in self._claims.claim(self._cores, self.size)]
        elif each:
            self._size = self._asked or max(1, len(self._gpus) // each)
            free = self._claims.claim(self._gpus, self.size * each)
            shares = [free[first : first + each] for first in range(0, self.size * each, each)]
            self._places = [_Place(gpus=",".join(s), label=f"gpu{self._gpus.index(s[0])}") for s in shares]
        for index in range(min(self.size, len(self._programs))):
            self._start(index)

    def poll(self) -> Pool:
        """Checks every worker. One that died is replaced, unless too many died without any progress."""
        for index, process in list(self._workers.items()):
            code = process.poll()
            if code is None:
                continue
            output = process.communicate()[0]
            del self._workers[index]
            if code == EXIT_DONE or self._cancelled:
                continue
            if code == EXIT_USER:
                self._problem = self._said(index, output)
                self.cancel()
            elif self._may_replace():
                self._start(index)
            elif self._problem is None:
                died = f"{self._deaths} died without progress, last {_ending(code)}"
                self._problem = UserError("workers", died, f"see {self._log(index)}", Code.ENVIRONMENT)
                self.cancel()
        if not self._workers:
            self._claims.release()
        return Pool(len(self._workers), not self._workers, self._problem)

    def cancel(self, *, force: bool = False) -> None:
        """Sends every worker SIGTERM, or SIGKILL with ``force``. None is replaced from then on."""
        self._cancelled = True
        for process in self._workers.values():
            process.send_signal(signal.SIGKILL if force else signal.SIGTERM)

    @property
    def size(self) -> int:
        """Number of workers that run at once."""
        return min(self._size, max(1, len(self._programs)))

    def _devices(self, programs: Sequence[ProgramSpec]) -> int:
        """GPUs of a worker, one for each device of the mesh; 0 if workers are not told which to use."""
        each = math.prod(programs[0].options.mesh.values()) if self._gpus and programs else 0
        if each > len(self._gpus):
            return 0  # the worker says so
        if (self._asked or 1) * each > len(self._gpus):
            remedy = f"{_ONE_EACH}, {each} for its mesh, and there are {len(self._gpus)}"
            raise UserError("workers", self._asked, remedy, Code.CONFLICT)
        return each

    def _log(self, index: int) -> Path:
        place = self._place(index)
        name = "-".join(filter(None, ("worker", self._label, place.label, place.core)))
        return self.workdir / "logs" / f"{name}.log"

    def _place(self, index: int) -> _Place:
        return self._places[index % len(self._places)]

    def _start(self, index: int) -> None:
        place = self._place(index)
        label = "-".join(filter(None, (self._label, place.label)))
        # -P: a folder named scaling or analysis in the current directory must not be imported as the package.
        command = [sys.executable, "-P", "-m", "scaling.worker", f"--workdir={self.workdir}", f"--core={place.core}"]
        command += [f"--label={label}"] if label else []
        seen = {} if place.gpus is None else {"CUDA_VISIBLE_DEVICES": place.gpus}
        try:
            self._workers[index] = subprocess.Popen(
                [*command, "--json", f"--parent={os.getpid()}", *self._only, *self._options],
                env={**self._environment, **seen},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:  # too many processes, too little memory
            remedy = f"cannot be started ({error.strerror}); give fewer --workers"
            raise UserError("workers", self.size, remedy, Code.ENVIRONMENT) from error

    def _said(self, index: int, output: bytes) -> UserError:
        """The error that a worker ended with."""
        try:
            return msgspec.json.decode(output, type=Problem).error
        except (msgspec.DecodeError, UnicodeDecodeError):  # it was killed while reporting
            return UserError("workers", "one ended", f"see {self._log(index)}", Code.ENVIRONMENT)

    def _may_replace(self) -> bool:
        """Counts deaths since the last progress, and says whether another worker may be started. The bound allows
        programs that kill their worker to use up their attempts on every worker at once."""
        marks = [progress_marks(self.workdir, program) for program in self._programs]
        self._deaths = self._deaths + 1 if marks == self._last_marks else 1
        self._last_marks = marks
        return self._deaths < max(5, self._max_attempts * self._size + 2)


def _ending(code: int) -> str:
    if code < 0:
        names = {each.value: each.name for each in signal.Signals}  # those for real time have none
        return f"by {names.get(-code, f'signal {-code}')}"
    return {EXIT_INTERRUPTED: "interrupted", EXIT_AGAIN: "by an exception"}.get(code, f"with exit code {code}")


ENGINE = Local
