"""Workers and launchers for ``faults.py``: cheap to start, and with calls and clocks that can be made to fail.

A worker is a fork of this process, which has imported everything that a worker imports but has not started JAX: then it
has one thread, and the fork is a worker as ``python -m scaling.worker`` is, which takes 2 CPU-seconds to get that far.
Below it stands ``faults.c``, which fails calls of libc, also those of the C++ that writes the arrays of a checkpoint.
A launcher is a real ``scaling run``, with workers that it starts itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.worker.environment import variables
from scaling.worker.main import GRACE

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "SCALING_FAULTS"  # the compiled faults.c, in the environment of a process under it
HARD = 600.0  # seconds after which a process counts as hanging


def under_library(folder: Path) -> None:
    """Starts this process again under ``faults.c``, unless it is. Raises RuntimeError without a C compiler."""
    if LIBRARY in os.environ:
        return
    library, compiler = folder / "faults.so", os.environ.get("CC", "cc")
    source = str(Path(__file__).with_suffix("").parent / "faults.c")
    try:
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    except OSError as error:
        raise RuntimeError(f"no C compiler: {error}") from error
    os.umask(0o022)
    settings = variables(str(folder / "cache"), single=True)  # read when JAX is imported, which forks have behind them
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= {"LD_PRELOAD": str(library), LIBRARY: str(library)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


class _Fields(ctypes.Structure):
    """As ``struct page`` of faults.c, and two clocks that it does not know."""

    _fields_ = [
        ("calls", ctypes.c_int),
        ("first", ctypes.c_int),
        ("last", ctypes.c_int),
        ("error", ctypes.c_int),
        ("struck", ctypes.c_int),
        ("root", ctypes.c_char * 492),
        ("what", ctypes.c_char * 512),
        ("wall", ctypes.c_double),
        ("suspended", ctypes.c_double),
    ]


class Page:
    """Shared memory by which this process makes the calls of a worker fail, and shifts its clocks.

    Args:
      root: the directory whose files it is about.

    Attributes:
      fields: of the page. ``wall`` is by how many seconds the clock jumped, ``suspended`` how long the machine slept.
    """

    def __init__(self, root: Path):
        self._memory = mmap.mmap(-1, 4096)
        self.fields = _Fields.from_buffer(self._memory)
        self.fields.root = os.fsencode(f"{root}/")

    def fail(self, error: int, first: int = 1, last: int = 2**30) -> None:
        """From now on, calls from number ``first`` to ``last`` fail with this errno."""
        self.fields.calls = self.fields.struck = 0
        self.fields.error, self.fields.last = error, last
        self.fields.first = first

    def heal(self) -> None:
        """From now on, no call fails."""
        self.fields.first = 2**30

    def attach(self) -> None:
        """Puts this process under the page: its calls may fail, and its clocks jump."""
        ctypes.CDLL(os.environ[LIBRARY]).faults_page(ctypes.byref(self.fields))
        from scaling.worker import lease

        fields, clock, wall, wall_ns, gmtime = self.fields, lease._clock, time.time, time.time_ns, time.gmtime
        lease._clock = lambda: clock() + fields.suspended
        time.time = lambda: wall() + fields.wall
        time.time_ns = lambda: wall_ns() + int(fields.wall * 1e9)
        time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)


class Worker:
    """A forked worker.

    Args:
      call: what the process does; its result is the exit code.
      said: file that takes its standard output, and one beside it its standard error until a worker redirects that.
      page: under which it stands. user: number of the user who runs it; None: this one.
    """

    def __init__(self, call: Callable[[], int], said: Path, page: Page | None = None, user: int | None = None):
        if len(os.listdir("/proc/self/task")) != 1:
            raise RuntimeError("this process has threads, which a fork would lose")
        self.page, self.said, self.user, self.code = page, said, user, None
        self.pid = os.fork()
        if self.pid == 0:
            _become(call, said, page, user)

    def poll(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def send(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = HARD) -> int:
        """Waits for its end; returns its exit code. RuntimeError if it does not end."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise RuntimeError(f"worker {self.pid} hangs; {self.text()}{self.traceback()[-2000:]}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def text(self) -> str:
        """What it said on standard output."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def traceback(self) -> str:
        """What it said on standard error."""
        errors = self.said.with_suffix(".err")
        return errors.read_text(errors="replace") if errors.exists() else ""


def _become(call: Callable[[], int], said: Path, page: Page | None, user: int | None) -> None:
    """The life of a forked process, which it does not survive."""
    code = 1
    try:
        os.setsid()
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, 1)
        os.dup2(os.open(said.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
        os.umask(0)  # users who share a work directory let each other write
        if user is not None:
            os.setgid(user)
            os.setuid(user)
        if page is not None:
            page.attach()
        code = call()
        deadline = time.monotonic() + GRACE
        for thread in threading.enumerate():  # as a worker's process does at its end
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join(max(0.0, deadline - time.monotonic()))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def worker_call(workdir: Path, cache: Path, core: int, arguments: Sequence[str] = ()) -> Callable[[], int]:
    """What a worker does: the command ``python -m scaling.worker`` with these arguments, bound to a core."""

    def call() -> int:
        from scaling.worker.main import main

        return main([f"--workdir={workdir}", f"--core={core}", f"--cache={cache}", *arguments])

    return call


def verb_call(*arguments: str) -> Callable[[], int]:
    """A verb of the command line."""

    def call() -> int:
        from scaling.cli import main

        return main(list(arguments))

    return call


def import_what_is_used(call: Callable[[], int], said: Path) -> None:
    """Runs ``call`` in a process, and imports here what it imported there, so that no later fork must.

    Also a worker of another user then needs nothing from a folder that is closed to them.
    """

    def listing() -> int:
        code = call()
        said.with_suffix(".modules").write_text("\n".join(sys.modules))
        return code

    if code := Worker(listing, said).wait():
        raise RuntimeError(f"exit {code}: {said.with_suffix('.err').read_text()[-2000:]}")
    for name in said.with_suffix(".modules").read_text().splitlines():
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(Exception):
                __import__(name)


class Launcher:
    """A real ``scaling run``, in a session of its own.

    Args:
      arguments: of the verb. said: file for what it says. modules: folder of what trains, if it is no package.
    """

    def __init__(self, arguments: Sequence[str], said: Path, cache: Path, modules: Path):
        environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", LIBRARY)}
        environment |= {"PYTHONPATH": f"{ROOT}:{modules}", "SCALING_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
        self.said = said
        with said.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "scaling.cli", "run", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def workers(self) -> list[int]:
        """Process numbers of its workers."""
        try:
            text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except OSError:
            return []
        return [int(number) for number in text.split()]

    def send(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, seconds: float = HARD) -> int:
        """Waits for its end; returns its exit code. RuntimeError if it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            raise RuntimeError(f"scaling run hangs: {self.said.read_text()[-2000:]}") from error
