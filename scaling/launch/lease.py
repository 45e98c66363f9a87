"""A lease on a directory: at most one process works there, also over NFS and between machines. Standard library only.

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
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

NAME = "lease.json"
BEAT = 2.0  # seconds between two renewals
TTL = 30.0  # seconds without a change after which an observer takes the lease away
SETTLE = 0.2  # seconds that a lease taken from somebody must last before it counts
SIZE = 1024  # bytes; a lease is rewritten in place, so its length never changes and a full disk does not stop it


class LeaseLost(Exception):
    """The lease is gone: another process may be at work here. Whoever gets this must write nothing more."""


def _clock() -> float:
    """Seconds that also pass while the machine sleeps, so that a laptop that wakes up knows that time has passed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str | None:
    """Names the set of process numbers that this process can see: the boot and the process namespace."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None when it is dead or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is certainly dead. False when it lives, or lives where this process cannot look."""
    machine, pid = _machine(), holder.get("pid")
    if machine is None or holder.get("machine") != machine or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it belongs to another user
    return _born(pid) != holder.get("born")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None  # read while it was being written
    return value if isinstance(value, dict) else None


def holder(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the lease of a directory says ({owner, host, pid, started, beat, progress}), or None where there is none.

    ``dead`` is added: True when the holder certainly no longer lives, so that the lease means nothing.
    """
    for _ in range(3):
        content = _read(Path(directory) / NAME)
        if content is None:
            return None
        value = _parse(content)
        if value is not None:
            return {**value, "dead": _dead(value)}
    return None


class Lease:
    """Held from ``acquire`` until ``release``, the death of the process, or the loss of the lease.

    A daemon thread renews it. ``alive`` costs nothing unless the last renewal is old, so it can be asked every chunk.
    """

    def __init__(self, path: Path, descriptor: int, content: dict[str, Any], beat: float, ttl: float):
        self.path, self.owner = path, str(content["owner"])
        self._descriptor, self._content, self._written = descriptor, content, _pack(content)
        self._beat, self._ttl = beat, ttl
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

    def report(self, progress: Any) -> None:
        """A small JSON value that the next renewal shows to observers."""
        self._content["progress"] = progress

    def release(self) -> None:
        """Gives the lease back, unless it is somebody else's by now. May be called twice."""
        self._closed.set()
        self._thread.join()
        with self._lock:
            if self._descriptor < 0:
                return
            if self._mine():
                with contextlib.suppress(OSError):
                    _take_away(self.path, self._written)
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
                self._content["beat"] += 1
                self._written = _pack(self._content)
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


def _pack(content: dict[str, Any]) -> bytes:
    data = json.dumps(content).encode()
    if len(data) >= SIZE:
        data = json.dumps({**content, "progress": None}).encode()
    return data.ljust(SIZE - 1) + b"\n"


def _take_away(path: Path, expected: bytes) -> bool:
    """Removes the lease if its content is the expected one; puts it back otherwise."""
    if _read(path) != expected:
        return False
    tomb = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, tomb)
    except FileNotFoundError:
        if not tomb.exists():  # it does when the answer of a file server was lost and the request repeated
            return False
    same = _read(tomb) == expected
    if not same:
        with contextlib.suppress(FileExistsError):
            os.link(tomb, path)
    os.unlink(tomb)
    return same


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
    content = {
        "schema": 1,
        "owner": owner,
        "host": socket.gethostname()[:200],
        "machine": _machine(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "beat": 0,
        "progress": None,
    }
    made = path.with_name(f".{NAME}.{owner}")
    descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.pwrite(descriptor, _pack(content), 0)
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


class Watch:
    """One observer's memory of leases that others hold.

    A lease counts as abandoned when it was seen unchanged for ``ttl`` seconds in total, where the time between two
    looks counts at most a quarter of it: an observer that slept together with the owner must look a few times more.
    """

    def __init__(self, ttl: float = TTL, beat: float = BEAT):
        self.ttl, self.beat = ttl, beat
        self._seen: dict[Path, tuple[bytes, float, float]] = {}  # content, last look, evidence in seconds

    def take(self, directory: str | os.PathLike[str]) -> Lease | None:
        """The lease, if it is free or its holder is dead or silent for long enough; else None.

        Waits only after a takeover, for ``SETTLE`` seconds: a rival that had looked at the old lease just before may
        move the new one by mistake, so the new one counts when no rival can still be between its look and its move.
        """
        path = Path(directory) / NAME
        content = _read(path)
        if content is not None and not (self._abandoned(path, content) and _take_away(path, content)):
            return None
        contested = content is not None or self._seen.pop(path, None) is not None
        lease = acquire(directory, beat=self.beat, ttl=self.ttl)
        if lease is None or not contested:
            return lease
        time.sleep(SETTLE)
        if lease.confirm():
            return lease
        lease.release()
        return None

    def _abandoned(self, path: Path, content: bytes) -> bool:
        value = _parse(content)
        if value is not None and _dead(value):
            return True
        now = time.monotonic()
        before, looked, evidence = self._seen.get(path, (b"", now, 0.0))
        evidence = evidence + min(now - looked, self.ttl / 4) if before == content else 0.0
        self._seen[path] = (content, now, evidence)
        return evidence >= self.ttl
