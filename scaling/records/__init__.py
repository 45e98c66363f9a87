"""The run record: the only place where training and analysis meet. Standard library only.

A record is one directory::

    manifest.json    what the run is: identity, configuration, role, counts, data, versions; written first
    metrics.jsonl    what happened, one JSON object a line, append-only; readers keep the last row of a step
    result.json      how it ended; written last and atomically. Its presence, not a scheduler, says "finished"

``record.schema.json`` beside this file is the JSON Schema of the first and the last, versioned by ``schema``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError

SCHEMA = 1
ROLES = ("fit", "seed", "holdout", "stem")


def canonical(value: Any) -> str:
    """The one JSON text of a configuration: sorted keys, no spaces, no NaN. Equal texts are equal configurations."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def identity(value: Any) -> str:
    """First 12 hexadecimal digits of the sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Raises:
      UserError: the directory cannot be written or the disk is full.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise UserError("path", path, f"cannot be written ({error.strerror}); free space or choose another") from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Atomic JSON for people and programs: indented, and refusing NaN, which is no JSON."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads JSON; a damaged file is a UserError that names it. FileNotFoundError passes through."""
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("file", path, f"is not JSON ({error}); delete it or restore it") from error


def finite(value: float) -> float | None:
    """The number as JSON can hold it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Record:
    """One run directory. Reading never fails on a run that is still being written."""

    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.path / "manifest.json")

    @property
    def result(self) -> dict[str, Any] | None:
        """The result, or None while the run is unfinished."""
        try:
            return read_json(self.path / "result.json")
        except FileNotFoundError:
            return None

    @property
    def status(self) -> str:
        """done | diverged | rejected | failed, or unfinished."""
        result = self.result
        return "unfinished" if result is None else str(result["status"])

    def begin(self, manifest: dict[str, Any]) -> None:
        """Writes the manifest. A record that exists keeps its first manifest: what it says was true when it began."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "manifest.json").exists():
            write_json(self.path / "manifest.json", manifest)

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Appends metric rows in one write. A line torn by an earlier crash is ended first, so that it stays alone."""
        text = "".join(canonical(row) + "\n" for row in rows)
        if not text:
            return
        with open(self.path / "metrics.jsonl", "ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text
            file.write(text.encode())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every whole row as it was written: steps (key ``step``) and events (key ``event``)."""
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines:
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue  # torn by a crash, or empty
            if isinstance(row, dict):
                yield row

    def steps(self) -> list[dict[str, Any]]:
        """Metric rows by step, the last written of each, in order of the step."""
        last = {row["step"]: row for row in self.rows() if "step" in row and "event" not in row}
        return [last[step] for step in sorted(last)]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Rows of one kind of event (``start``, ``interrupted``, ``finish``), in order of writing."""
        return [row for row in self.rows() if row.get("event") == name]

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the result: the last and atomic act of a run."""
        write_json(self.path / "result.json", {"schema": SCHEMA, **result})


def records(workdir: str | os.PathLike[str]) -> list[Record]:
    """Every record of a work directory that has a manifest, by name. A missing directory holds none."""
    root = Path(workdir) / "runs"
    if not root.is_dir():
        return []
    return [Record(path) for path in sorted(root.iterdir()) if (path / "manifest.json").is_file()]
