"""Reads and writes JSON. Contents are validated on reading; an error is one line that names the file."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from scaling.errors import Code, NewerVersion, UserError
from scaling.records.files import MOST, RESTORE, damaged, read_bytes, write_atomic

T = TypeVar("T")
_once: dict[tuple[str, Any], Any] | None = None  # what was read within ``reading_once``
_LONGEST = 300  # characters quoted in a message: a damaged value may be a megabyte
UPDATE = "pip install --upgrade scaling-lab"


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Within the block, a file that ``read_typed`` has read is not read again: what is said is of one moment.

    For a process that reads the same thousands of records in many places. Values are kept until the block ends.
    """
    global _once
    before, _once = _once, {} if _once is None else _once
    try:
        yield
    finally:
        _once = before


def read_json(path: str | os.PathLike[str], remedy: str = RESTORE) -> Any:
    """Reads JSON of any form, for callers that validate it themselves. Raises as ``read_typed``."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, an integer of 5,000 digits
        raise damaged(path, f"is not JSON ({_why(error)})", remedy) from error


def read_typed(
    path: str | os.PathLike[str],
    kind: type[T],
    *,
    field: str = "file",
    remedy: str = RESTORE,
    most: int = MOST,
    check: Callable[[bytes, T], str | None] = lambda content, value: None,
) -> T:
    """Reads a JSON file as a value of a msgspec type. Missing, unknown and mistyped fields are errors.

    Args:
      path: the file.
      kind: its type: a ``msgspec.Struct``, or anything else that msgspec decodes.
      field: the name of the file to the user, such as a flag, for the message.
      remedy: what to do about a damaged file, for the message.
      most: bytes that the file may have.
      check: what else is wrong with its content and value, if anything.

    Raises:
      FileNotFoundError: the file does not exist.
      UserError: it is a directory, not JSON, or not of this type (DAMAGED); the message names file and field. It is a
        NewerVersion if its ``schema`` is one that the type does not know yet.
    """
    key = os.fspath(path), kind
    if _once is not None and key in _once:
        return _once[key]
    content = read_bytes(path, most)
    value = decode(content, kind, path, field=field, remedy=remedy)
    if (problem := check(content, value)) is not None:
        raise damaged(path, problem, remedy, field)
    if _once is not None:
        _once[key] = value
    return value


def decode(
    content: bytes, kind: type[T], path: str | os.PathLike[str], *, field: str = "file", remedy: str = RESTORE
) -> T:
    """Decodes ``content`` as a value of a type; ``path`` is for the message. Raises as ``read_typed``."""
    try:
        return _decoder(kind).decode(content)
    except msgspec.ValidationError as error:
        if (schema := _newer(content, kind)) is not None:
            problem = f"was written by a newer version of this program (schema {schema})"
            raise NewerVersion(field, path, f"{problem}: {UPDATE}", Code.DAMAGED, problem=problem) from error
        raise damaged(path, _why(error), remedy, field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(path, f"is not JSON ({_why(error)})", remedy, field) from error


class _Versioned(msgspec.Struct):
    schema: int | None = None


def _newer(content: bytes, kind: Any) -> int | None:
    """The schema of what cannot be decoded, if it is one after those that the type has."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return None
    declared = {field.name: field.type for field in msgspec.structs.fields(kind)}.get("schema")
    known = max(get_args(declared), default=None)  # a Literal
    try:
        found = _decoder(_Versioned).decode(content).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if known is not None and found is not None and found > known else None


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(error)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def plain(value: Any) -> Any:
    """Converts a Struct to dicts, lists, strings and numbers; serves as the ``default`` of ``json.dumps``."""
    return msgspec.to_builtins(value)


def check_writable(path: str | os.PathLike[str], field: str) -> None:
    """Checks that the file that ``field`` names can be written, before the work that leads to it. Makes nothing.

    Raises:
      UserError: it is a directory (CONFLICT), or its directory cannot be made or written (ENVIRONMENT).
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(field, path, "is a directory; give the name of a file", Code.CONFLICT)
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise UserError(field, path, f"cannot be written: {place} is no directory of yours", Code.ENVIRONMENT)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a value or a Struct as indented JSON, atomically. Raises ValueError for NaN, which JSON lacks."""
    write_atomic(path, to_json(value))


def to_json(value: Any) -> str:
    """A value or a Struct as indented JSON. Raises ValueError for NaN, which JSON lacks."""
    # As json.dumps(indent=1) writes it, which is Python code and three times as slow.
    return msgspec.json.format(json.dumps(value, allow_nan=False, default=plain), indent=1) + "\n"


def finite(value: float) -> float | None:
    """The number, or None if it is not finite: JSON has no NaN or infinity."""
    return float(value) if math.isfinite(value) else None
