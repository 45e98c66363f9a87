"""A lease on a directory: at most one process works there, also over NFS and between machines.

``lease.json`` is created by hard-linking a complete file into place, so exactly one process can create it. The owner
keeps the file open and rewrites a beat counter *through that descriptor*: if the file has been moved away, the
owner writes into the moved file and never overwrites its successor's lease. An observer takes a lease away when

* its holder was a process of this machine that is dead (same boot, same process namespace, and the process number is
  free or now belongs to a process that began at another time), or
* its content did not change for ``ttl`` seconds of the *observer's own* clock. Two clocks are never compared.

Who takes it away first creates a claim on it, by another exclusive link under a name made from the holder's id, and
then looks again. So only one process at a time can be between its look and its move, however long it sleeps there, and
nobody can put a lease of their own in between. A claim is itself taken over if the process that made it is dead, or
silent for ``ttl``.

What is promised: two leases on one directory are held at once in one case only. A process that is stopped for longer
than ``ttl`` between its last look and its move (two system calls) may move its successor's lease. It puts it back,
unless another process took the free place at that moment; then two believe that they hold it, until the first beats (at
most ``beat`` seconds later), or asks by ``confirm`` or ``require``. A process that was stopped elsewhere and
lost its lease knows when it next asks ``alive``, since that looks again if the last renewal is old. Therefore nothing
is published without ``require``, and what is published is never replaced (``records.Record.finish``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import uuid
from pathlib import Path

import msgspec

from scaling.errors import Code, UserError
from scaling.records.files import make_folder
from scaling.worker.lease_file import NAME, LeaseRecord, Progress, pack, remove, take_over, this_process

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

    def require(self) -> None:
        """Raises LeaseLost unless the directory shows now that the lease is held. Waits while it cannot be read."""
        begun = _clock()
        while not self._lost and self._confirmed < begun:
            self._renew()
            if not self._lost and self._confirmed < begun:
                time.sleep(min(1.0, self._beat))
        if self._lost:
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
            for _ in range(3):  # a disk that fails for longer leaves it to the observers, which take it after a while
                with contextlib.suppress(OSError, UserError):
                    self._give_back()
                    break
                time.sleep(0.05)
            os.close(self._descriptor)
            self._descriptor, self._lost = -1, True

    def _give_back(self) -> None:
        if self._mine():
            # While its beat is fresh no observer is about to take it away, so it needs no claim.
            fresh = _clock() - self._confirmed < self._ttl / 2
            (remove if fresh else take_over)(self.path, self._written)

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
            handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                return False
            raise
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
                content = msgspec.structs.replace(self._content, beat=beat, progress=self._progress)
                written = pack(content)
                os.pwrite(self._descriptor, written, 0)
                self._content, self._written = content, written  # not before: release compares it with the disk
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
      UserError: the directory cannot be written, or is a link (ENVIRONMENT).
    """
    path = Path(directory) / NAME
    make_folder(path.parent, inside=path.parent.parent.parent)
    content = this_process(uuid.uuid4().hex)
    staged = path.with_name(f".{NAME}.{content.owner}")
    try:
        descriptor = _link(staged, path, pack(content))
    except OSError as error:
        raise UserError("path", path, f"cannot be written ({error.strerror})", Code.ENVIRONMENT) from error
    return None if descriptor is None else Lease(path, descriptor, content, beat, ttl)


def _link(staged: Path, path: Path, content: bytes) -> int | None:
    """Creates a file with this content, unless there is one; returns a descriptor to rewrite it, or None."""
    descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.pwrite(descriptor, content, 0)
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
    if linked:
        return descriptor
    os.close(descriptor)
    return None
