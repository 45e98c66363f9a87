"""The run record, the only interface between training and analysis. Imports the standard library and msgspec only.

A record is one directory::

    manifest.json    what the run is: identity, configuration, role, counts, data, versions; written first
    metrics.jsonl    what happened, one JSON object per line, append-only; the last row of a step counts
    result.json      how it ended; published once, last and atomically. Its presence, not a scheduler, says "finished"
    result.json.sha256    its hash, as ``sha256sum -c`` reads it

``types`` defines what the files hold, ``record.schema.json`` is generated from it, and ``typed`` reads and writes them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from scaling.errors import Code, UserError
from scaling.records import guard
from scaling.records.files import (
    append,
    damaged,
    exists,
    listed,
    make_folder,
    publish,
    read_bytes,
    remove,
    set_aside,
    write_atomic,
)
from scaling.records.typed import finite, plain, read_json, read_typed, to_json, write_json
from scaling.records.types import SCHEMA, AnyRow, Beginning, Manifest, Result, Role, Row, StepRow, StudyRecord

ROLES: tuple[str, ...] = get_args(Role)
AGAIN = "`scaling run --retry_failed` keeps it aside and trains the run again"
HASH = "result.json.sha256"
MOST_ROWS, MOST_CELLS = 2**30, 2**32  # bytes of metrics.jsonl, and of study.json: 100,000 cells have some 2**29
_NO_HASH = b'"sha256": null\n}\n'  # the end of study.json before it has one
RESTORED = "`scaling run` writes it again from study.json; import the run again if it was imported"
EventRow = TypeVar("EventRow", bound=Row)

__all__ = [
    "ROLES",
    "SCHEMA",
    "Manifest",
    "Record",
    "Result",
    "canonical",
    "finite",
    "identity",
    "read_json",
    "read_study",
    "read_typed",
    "records",
    "write_atomic",
    "write_json",
    "write_study",
]

_rows = msgspec.json.Decoder(AnyRow)


def canonical(value: Any) -> str:
    """Canonical JSON of a configuration: sorted keys, no spaces, no NaN. Equal configurations have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True, default=plain)


def identity(value: Any) -> str:
    """First 12 hexadecimal digits of the sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Record:
    """One run directory. Reading never fails on a run that is still being written.

    Args:
      path: the directory.
      strict: whether a line of metrics.jsonl that has the wrong form is an error. For training, which could only start
        over, it is a line less.

    Raises:
      UserError: a file does not have the form that ``types`` defines (DAMAGED); from everything that reads.
    """

    path: Path
    strict: bool = True

    @property
    def manifest(self) -> Manifest:
        """What the run is. Raises FileNotFoundError if it has not begun."""
        return read_typed(f"{self.path}/manifest.json", Manifest, remedy=RESTORED)

    @property
    def begun(self) -> bool:
        """Whether it has a manifest."""
        return exists(self.path / "manifest.json")

    @property
    def result(self) -> Result | None:
        """The result, or None while the run is unfinished."""
        try:
            return read_typed(f"{self.path}/result.json", Result, remedy=AGAIN)
        except FileNotFoundError:
            return None

    @property
    def status(self) -> str:
        """done | diverged | rejected | failed, or unfinished."""
        result = self.result
        return "unfinished" if result is None else result.status

    def begin(self, manifest: Manifest) -> None:
        """Writes the manifest. An existing one is kept: it describes the run as it began."""
        self.make()
        if not self.begun:
            write_json(self.path / "manifest.json", manifest)

    def make(self) -> None:
        """Makes the folder. Raises UserError (ENVIRONMENT) if it cannot be made, or is a link out of the workdir."""
        make_folder(self.path, inside=self.path.parent.parent)

    def append(self, *rows: AnyRow) -> None:
        """Appends metric rows in one write. If a crash left an incomplete line, it is terminated first."""
        text = "".join(canonical(row) + "\n" for row in rows)
        if text:
            append(self.path / "metrics.jsonl", text.encode())

    def rows(self) -> Iterator[AnyRow]:
        """Every complete row, steps and events, in the order written."""
        return rows_of(f"{self.path}/metrics.jsonl", strict=self.strict)

    def steps(self) -> list[StepRow]:
        """The last row written for each step, sorted by step."""
        last = {row.step: row for row in self.rows() if isinstance(row, StepRow)}
        return [last[step] for step in sorted(last)]

    def events(self, kind: type[EventRow]) -> list[EventRow]:
        """Rows of one type, such as ``StartRow``, in the order written."""
        return [row for row in self.rows() if isinstance(row, kind)]

    def starts(self) -> int:
        """Number of its rows of type ``StartRow``, without decoding the others. Raises FileNotFoundError."""
        return read_bytes(self.path / "metrics.jsonl", MOST_ROWS).count(b'"event":"start"')

    def finish(self, result: Result, *, replaces: Result | None = None) -> bool:
        """Publishes the result, atomically and last: it marks the run as finished. What is published is never replaced.

        Args:
          result: how the run ended.
          replaces: a result that is not final, which this one follows: of a shorter stem, or of a failed attempt. It is
            kept as result.<time>.json.

        Returns:
          Whether it was published; False if the run has another result already, which stays.

        Raises:
          Exception: what the ``guard`` of this run raises, if its worker must not publish any more.
        """
        guard.check(self.path)
        path = self.path / "result.json"
        if replaces is not None and self.result == replaces:
            set_aside(path)
        hashed = self.path / HASH
        if exists(hashed) and not exists(path):
            remove(hashed)  # of a result that was set aside: a crash must not leave it beside another
        content = to_json(msgspec.structs.replace(result, metrics=self._metrics()))
        if not publish(path, content):
            return False
        write_atomic(hashed, f"{hashlib.sha256(content.encode()).hexdigest()}  {path.name}\n")
        return True

    def _metrics(self, most: int | None = None) -> Beginning | None:
        """metrics.jsonl as it is, or its first ``most`` bytes; None if there is none, or what is there is no file."""
        try:
            content = read_bytes(self.path / "metrics.jsonl", MOST_ROWS)[:most]
        except FileNotFoundError:
            return None
        except UserError as error:
            if error.code is not Code.DAMAGED:
                raise
            return None
        return Beginning(len(content), hashlib.sha256(content).hexdigest())

    def grown(self) -> bool | None:
        """Whether metrics.jsonl still begins as it did when the run ended; None if that is not known."""
        result = self.result
        if result is None or (then := result.metrics) is None:
            return None
        return self._metrics(then.bytes) == then

    def intact(self) -> bool | None:
        """Whether result.json has the hash that was written with it; None if either is missing."""
        try:
            hashed, content = read_bytes(self.path / HASH), read_bytes(self.path / "result.json")
        except FileNotFoundError:
            return None
        return hashed.split()[:1] == [hashlib.sha256(content).hexdigest().encode()]


def rows_of(path: str, *, strict: bool) -> Iterator[AnyRow]:
    """The rows of a metrics.jsonl; see ``Record``."""
    try:
        lines = read_bytes(path, MOST_ROWS).split(b"\n")
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        try:
            yield _rows.decode(line)
        except msgspec.ValidationError as error:
            if not strict:
                continue
            raise damaged(path, f"line {number}: {str(error)[:300]}", "delete the line") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # torn by a crash, or empty


def records(workdir: str | os.PathLike[str]) -> list[Record]:
    """The records of a work directory that have a manifest, sorted by name; none if the directory is missing.

    Raises:
      UserError: the folder of a run is closed to this user, so that nobody knows what it holds (ENVIRONMENT).
    """
    return [Record(path) for path in listed(Path(workdir) / "runs") if exists(path / "manifest.json")]


def read_study(workdir: str | os.PathLike[str]) -> StudyRecord:
    """Reads study.json of a work directory.

    Raises:
      UserError: the file or the directory is missing (MISSING), is not a study of this version, or differs from its
        hash (DAMAGED).
    """
    if Path(workdir).is_file():
        problem = "is no directory"
        raise UserError("workdir", workdir, f"{problem}; give that of a study", Code.MISSING, problem=problem)
    try:
        path, again = Path(workdir) / "study.json", "run the study again with --config"
        study = read_typed(path, StudyRecord, remedy=again, most=MOST_CELLS, check=_differs_from_hash)
        return msgspec.structs.replace(study, sha256=None)
    except FileNotFoundError:
        problem = "holds no study.json"
        remedy = f"{problem}; give the work directory of a study"
        raise UserError("workdir", workdir, remedy, Code.MISSING, problem=problem) from None


def write_study(workdir: str | os.PathLike[str], study: StudyRecord) -> None:
    """Writes study.json, atomically. Its last field is the hash of all that precedes it.

    Manifests are written again from it, and workers train what it says: a bit of it must not go unnoticed.
    """
    content = to_json(study).encode()
    covered = content[: -len(_NO_HASH)]
    hashed = f'"sha256": "{hashlib.sha256(covered).hexdigest()}"\n}}\n'.encode()
    write_atomic(Path(workdir) / "study.json", covered + hashed)


def _differs_from_hash(content: bytes, study: StudyRecord) -> str | None:
    """What is wrong with a study.json that has a hash; nothing is known of one without."""
    if study.sha256 is None:
        return None
    covered = memoryview(content)[: -len(f'"sha256": "{study.sha256}"\n}}\n')]
    return None if hashlib.sha256(covered).hexdigest() == study.sha256 else "differs from its hash"
