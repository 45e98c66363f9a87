"""Reads, writes and removes lease.json. ``lease`` and ``watch`` decide when."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

import msgspec

from scaling.records.value import Value
from scaling.worker import processes

NAME = "lease.json"
SIZE = 1024  # bytes; fixed, so that a lease can be rewritten in place even on a full disk


class Progress(Value):
    """What the holder reports: the run that it is training, and the FLOPs of the program done so far."""

    run: str
    flops: int


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
    """The content of a lease file; None if there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


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
        except OSError:
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


def take_away(path: Path, expected: bytes) -> bool:
    """Removes the lease if its content is as expected, else restores it. Returns whether it was removed."""
    if read(path) != expected:
        return False
    tomb = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, tomb)
    except FileNotFoundError:
        if not tomb.exists():  # it exists if a file server's answer was lost and the request repeated
            return False
    same = read(tomb) == expected
    if not same:
        with contextlib.suppress(FileExistsError):
            os.link(tomb, path)
    os.unlink(tomb)
    return same
