"""A lease on a directory: at most one process works there, also over NFS and between machines.

``lease.json`` is created by hard-linking a complete file into place, so exactly one process can create it. The owner
keeps the file open and rewrites a beat counter *through that descriptor*: if the file has been moved away, the
owner writes into the moved file and never overwrites its successor's lease. An observer takes a lease away when

* its holder was a process of this machine that is dead (same boot, same process namespace, and the process number is
  free or now belongs to a process that began at another time), or
* its content did not change for ``ttl`` seconds of the *observer's own* clock. Two clocks are never compared.

It is taken away by renaming it to a unique name and reading the renamed file: if it changed at the last moment, it is
linked back. If a third process was faster, the inode at the path decides who holds the lease.
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
    """The lease is lost: another process may be working here, so the caller must write nothing more."""


def _clock() -> float:
    """A clock that keeps running during suspend, so that a laptop that wakes up notices the lost time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """A held lease, from ``acquire`` until ``release``, death of the process, or loss to another process.

    A daemon thread renews it. ``alive`` is free unless the last renewal is old, so it can be called at every chunk.
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
        """Whether the lease is still held. One that could not be confirmed for too long counts as lost, for good."""
        if not self._lost and _clock() - self._confirmed > self._ttl / 2:
            self._renew()
        return not self._lost

    def confirm(self) -> bool:
        """As ``alive``, but checks the directory now."""
        self._renew()
        return not self._lost

    def check(self) -> None:
        """Raises LeaseLost unless ``alive()``."""
        if not self.alive():
            raise LeaseLost(str(self.path.parent))

    def report(self, progress: Progress) -> None:
        """Sets the progress that the next renewal shows to observers."""
        self._progress = progress

    def release(self) -> None:
        """Releases the lease, unless another process holds it by now. May be called twice."""
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
        """Whether the file at the path is the one held open. Opening it makes NFS ask the server."""
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return os.path.samestat(os.fstat(handle), os.fstat(self._descriptor))
        finally:
            os.close(handle)

    def _renew(self) -> None:
        """Writes the next beat, then checks that the path still leads to this file."""
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
                for _ in range(10):  # a mistaken observer moves the file away and links it back at once
                    if mine:
                        break
                    time.sleep(0.05)
                    mine = self._mine()
            except OSError as error:
                # A file server may come back before observers lose patience; a stale file handle will not.
                self._lost = error.errno == errno.ESTALE or now - self._confirmed > 0.75 * self._ttl
                return
            if mine:
                self._confirmed = now
            else:
                self._lost = True


def acquire(directory: str | os.PathLike[str], *, beat: float = BEAT, ttl: float = TTL) -> Lease | None:
    """Takes the lease of a directory, which is created if missing. None if another process holds the lease.

    Args:
      beat: seconds between renewals.
      ttl: seconds without a change after which observers take the lease away.

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
    staged = path.with_name(f".{NAME}.{owner}")
    descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.pwrite(descriptor, pack(content), 0)
            os.fsync(descriptor)
            try:
                os.link(staged, path)
                linked = True
            except FileExistsError:
                # An NFS server may have linked, lost its answer and refused the repeated request.
                linked = os.fstat(descriptor).st_nlink == 2
        finally:
            os.unlink(staged)
    except BaseException:
        os.close(descriptor)
        raise
    if not linked:
        os.close(descriptor)
        return None
    return Lease(path, descriptor, content, beat, ttl)
