"""A lease on a directory: at most one process works there, also over NFS and between machines.

``lease.json`` is made by hard-linking a finished file into place, so exactly one process can make it. Its owner keeps
the file open and rewrites a beat counter *through that descriptor*: should somebody have moved the file away, the
owner writes into what was moved and can never overwrite its successor's lease. An observer takes a lease away when

* it belongs to a process of this machine that no longer lives (same boot, same process namespace, and the process
  number is free or has been given to a process that began at another time), or
* its content did not change for ``ttl`` seconds of the *observer's own* clock. Two clocks are never compared.

Taking away is a rename to a unique name, followed by a look at what was renamed: had it changed in the last moment it
is linked back, and should a third process have been faster, the inode at the path says who holds the lease.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
import uuid
from pathlib import Path

import msgspec

from scaling.worker import processes
from scaling.worker.lease_file import NAME, LeaseRecord, Progress, pack, take_away

BEAT = 2.0  # seconds between two renewals
TTL = 30.0  # seconds without a change after which an observer takes the lease away


class LeaseLost(Exception):
    """The lease is gone: another process may be at work here. Whoever gets this must write nothing more."""


def _clock() -> float:
    """Seconds that also pass while the machine sleeps, so that a laptop that wakes up knows that time has passed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """Held from ``acquire`` until ``release``, the death of the process, or the loss of the lease.

    A daemon thread renews it. ``alive`` costs nothing unless the last renewal is old, so it can be asked every chunk.
    """

    def __init__(self, path: Path, descriptor: int, content: LeaseRecord, beat: float, ttl: float):
        self.path, self.owner = path, content.owner
        self._descriptor, self._content, self._written = descriptor, content, pack(content)
        self._beat, self._ttl, self._progress = beat, ttl, content.progress
        self._lock = threading.RLock()
        self._lost, self._confirmed = False, _clock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{path.parent.name}", daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """False once the lease is lost, for ever. A lease that could not be confirmed for long counts as lost."""
        if not self._lost and _clock() - self._confirmed > self._ttl / 2:
            self._renew()
        return not self._lost

    def confirm(self) -> bool:
        """As ``alive``, and asks the directory now."""
        self._renew()
        return not self._lost

    def check(self) -> None:
        """Raises LeaseLost unless alive."""
        if not self.alive():
            raise LeaseLost(str(self.path.parent))

    def report(self, progress: Progress) -> None:
        """What the next renewal shows to observers."""
        self._progress = progress

    def release(self) -> None:
        """Gives the lease back, unless it is somebody else's by now. May be called twice."""
        self._closed.set()
        self._thread.join()
        with self._lock:
            if self._descriptor < 0:
                return
            if self._mine():
                with contextlib.suppress(OSError):
                    take_away(self.path, self._written)
            os.close(self._descriptor)
            self._descriptor, self._lost = -1, True

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _run(self) -> None:
        while not self._closed.wait(self._beat) and not self._lost:
            self._renew()

    def _mine(self) -> bool:
        """Whether the file at the path is the one that is held open. It is opened, since NFS then asks the server."""
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return os.path.samestat(os.fstat(handle), os.fstat(self._descriptor))
        finally:
            os.close(handle)

    def _renew(self) -> None:
        """Writes the next beat, then looks whether the path still leads to it."""
        with self._lock:
            if self._lost or self._descriptor < 0:
                return
            now = _clock()
            try:
                beat = self._content.beat + 1
                self._content = msgspec.structs.replace(self._content, beat=beat, progress=self._progress)
                self._written = pack(self._content)
                os.pwrite(self._descriptor, self._written, 0)
                os.fsync(self._descriptor)
                mine = self._mine()
                for _ in range(10):  # an observer that erred moves the file away and links it back at once
                    if mine:
                        break
                    time.sleep(0.05)
                    mine = self._mine()
            except OSError as error:
                # A file server that is away may come back before observers lose patience, but not a file that is gone.
                self._lost = error.errno == errno.ESTALE or now - self._confirmed > 0.75 * self._ttl
                return
            if mine:
                self._confirmed = now
            else:
                self._lost = True


def acquire(directory: str | os.PathLike[str], *, beat: float = BEAT, ttl: float = TTL) -> Lease | None:
    """Takes the lease of a directory, which is made if missing. None when somebody holds it.

    Args:
      beat: seconds between renewals. ttl: what the observers use; both only tell the owner when to doubt itself.

    Raises:
      OSError: the directory cannot be written.
    """
    path = Path(directory) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = uuid.uuid4().hex
    content = LeaseRecord(
        owner=owner,
        host=socket.gethostname()[:200],
        machine=processes.machine(),
        pid=os.getpid(),
        born=processes.born(os.getpid()),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    made = path.with_name(f".{NAME}.{owner}")
    descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.pwrite(descriptor, pack(content), 0)
            os.fsync(descriptor)
            try:
                os.link(made, path)
                held = True
            except FileExistsError:
                # An NFS server may have linked, lost its answer and refused the repeated request.
                held = os.fstat(descriptor).st_nlink == 2
        finally:
            os.unlink(made)
    except BaseException:
        os.close(descriptor)
        raise
    if not held:
        os.close(descriptor)
        return None
    return Lease(path, descriptor, content, beat, ttl)
