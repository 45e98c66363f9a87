"""Reads, writes and removes lease.json. ``lease`` and ``watch`` decide when."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
import uuid
from pathlib import Path

import msgspec

from scaling.errors import Code, UserError
from scaling.records.fields import WideCount, require_possible
from scaling.records.files import publish, read_bytes
from scaling.records.value import Value
from scaling.worker import processes

NAME = "lease.json"
SIZE = 1024  # bytes; fixed, so that a lease can be rewritten in place even on a full disk


class Progress(Value):
    """What the holder reports: the run that it is training, and the FLOPs of the program done so far."""

    run: str
    flops: WideCount

    def __post_init__(self) -> None:
        require_possible(self.flops)


class LeaseRecord(Value, kw_only=True):
    """The content of lease.json.

    Attributes:
      owner: a unique id. machine, born: see ``processes``. beat: number of renewals.
      progress: None until the first chunk is trained, while the holder compiles.
    """

    schema: int = 1
    owner: str
    host: str
    machine: str | None
    pid: int
    born: str | None
    started: str
    beat: int = 0
    progress: Progress | None = None

    @property
    def dead(self) -> bool:
        """Whether the holder is certainly dead, so that the lease is void."""
        return processes.certainly_dead(self.machine, self.pid, self.born)


def read(path: Path) -> bytes | None:
    """The content of a lease file; None if there is none. What is there but is no file counts as empty, not as free.

    Raises:
      UserError: the file system fails, or there is no permission (ENVIRONMENT).
    """
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None
    except UserError as error:
        if error.code is not Code.DAMAGED:
            raise
        return b"" if os.path.lexists(path) else None  # a folder, a FIFO, a link that leads nowhere; or below a file


def parse(content: bytes) -> LeaseRecord | None:
    """The decoded lease; None if it is damaged, or was read while being written."""
    try:
        return msgspec.json.decode(content, type=LeaseRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def holder(directory: str | os.PathLike[str]) -> LeaseRecord | None:
    """The lease of a directory; None if there is none, or it cannot be read."""
    for _ in range(3):
        try:
            content = read(Path(directory) / NAME)
        except UserError:
            return None
        if content is None:
            return None
        if (record := parse(content)) is not None:
            return record
    return None


def pack(content: LeaseRecord) -> bytes:
    """The lease as ``SIZE`` bytes of JSON; ``progress`` is left out if it does not fit."""
    data = msgspec.json.encode(content)
    if len(data) >= SIZE:
        data = msgspec.json.encode(msgspec.structs.replace(content, progress=None))
    return data.ljust(SIZE - 1) + b"\n"


def this_process(owner: str) -> LeaseRecord:
    """The record of a lease that this process holds."""
    return LeaseRecord(
        owner=owner,
        host=socket.gethostname()[:200],
        machine=processes.machine(),
        pid=os.getpid(),
        born=processes.born(os.getpid()),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def claim_of(path: Path, content: bytes) -> Path:
    """The file that a process must create, and only one can, before it takes away the lease with this content.

    It is the same for every beat of one holder, and another for every holder; a claim, too, has a claim of its own.
    """
    record = parse(content)
    whose = content if record is None else record.owner.encode()
    return path.with_name(f".{NAME}.after-{hashlib.sha256(path.name.encode() + whose).hexdigest()[:16]}")


def take_over(path: Path, expected: bytes) -> bool:
    """Removes the lease of another holder, if no other process is doing so and its content is as expected.

    Returns:
      Whether it was removed.

    Raises:
      UserError: the directory cannot be read or written (ENVIRONMENT).
      OSError: the lease cannot be moved or removed.
    """
    claim, content = claim_of(path, expected), pack(this_process(uuid.uuid4().hex))
    if not publish(claim, content):
        return False
    try:
        return remove(path, expected)
    finally:
        if read(claim) == content:
            claim.unlink(missing_ok=True)


def remove(path: Path, expected: bytes) -> bool:
    """Removes the lease if its content is as expected, else restores it. Returns whether it was removed.

    Only its holder, and who has the claim on it, may do this: then nobody else can put another lease in its place
    between the look and the move. Restoring is for a process that was stopped in between until its claim was void.
    """
    if read(path) != expected:
        return False
    tomb = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, tomb)
    except FileNotFoundError:
        if not os.path.lexists(tomb):  # it exists if a file server's answer was lost and the request repeated
            return False
    same = read(tomb) == expected
    if not same:
        with contextlib.suppress(FileExistsError):
            os.link(tomb, path)
    try:
        os.unlink(tomb)
    except (IsADirectoryError, PermissionError):  # a folder in place of a lease, perhaps with something in it
        with contextlib.suppress(OSError):
            os.rmdir(tomb)
    return same
