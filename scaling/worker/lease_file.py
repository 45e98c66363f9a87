"""The file lease.json: what it says, and how it is taken away. ``lease`` and ``watch`` decide who does so when."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

import msgspec

from scaling.records.value import Value
from scaling.worker import processes

NAME = "lease.json"
SIZE = 1024  # bytes; a lease is rewritten in place, so its length never changes and a full disk does not stop it


class Progress(Value):
    """What a holder reports: the run that it trains, and the FLOPs of the program done so far."""

    run: str
    flops: int


class LeaseRecord(Value, kw_only=True):
    """The content of lease.json.

    Attributes:
      owner: unique. machine, born: see ``processes``. beat: renewals so far.
      progress: None until the first chunk is trained: the holder compiles.
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
        """Whether the holder certainly no longer lives, so that the lease means nothing."""
        return processes.certainly_dead(self.machine, self.pid, self.born)


def read(path: Path) -> bytes | None:
    """The content of a lease, None where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse(content: bytes) -> LeaseRecord | None:
    """The lease, None where it was read while it was being written, or is damaged."""
    try:
        return msgspec.json.decode(content, type=LeaseRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def holder(directory: str | os.PathLike[str]) -> LeaseRecord | None:
    """What the lease of a directory says, or None where there is none that can be read."""
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
    data = msgspec.json.encode(content)
    if len(data) >= SIZE:
        data = msgspec.json.encode(msgspec.structs.replace(content, progress=None))
    return data.ljust(SIZE - 1) + b"\n"


def take_away(path: Path, expected: bytes) -> bool:
    """Removes the lease if its content is the expected one; puts it back otherwise."""
    if read(path) != expected:
        return False
    tomb = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, tomb)
    except FileNotFoundError:
        if not tomb.exists():  # it does when the answer of a file server was lost and the request repeated
            return False
    same = read(tomb) == expected
    if not same:
        with contextlib.suppress(FileExistsError):
            os.link(tomb, path)
    os.unlink(tomb)
    return same
