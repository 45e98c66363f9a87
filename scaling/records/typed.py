"""Reads and writes JSON. Contents are validated on reading; an error is one line that names the file."""

from __future__ import annotations

import functools
import json
import math
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from scaling.errors import Code, UserError
from scaling.records.files import RESTORE, damaged, read_bytes, write_atomic

T = TypeVar("T")
_LONGEST = 300  # characters quoted in a message: a damaged value may be a megabyte


def read_json(path: str | os.PathLike[str], remedy: str = RESTORE) -> Any:
    """Reads JSON of any form, for callers that validate it themselves. Raises as ``read_typed``."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, an integer of 5,000 digits
        raise damaged(path, f"is not JSON ({_why(error)})", remedy) from error


def read_typed(path: str | os.PathLike[str], kind: type[T], *, field: str = "file", remedy: str = RESTORE) -> T:
    """Reads a JSON file as a value of a msgspec type. Missing, unknown and mistyped fields are errors.

    Args:
      path: the file.
      kind: its type: a ``msgspec.Struct``, or anything else that msgspec decodes.
      field: the name of the file to the user, such as a flag, for the message.
      remedy: what to do about a damaged file, for the message.

    Raises:
      FileNotFoundError: the file does not exist.
      UserError: it is a directory, not JSON, or not of this type (DAMAGED); the message names file and field.
    """
    return decode(read_bytes(path), kind, path, field=field, remedy=remedy)


def decode(
    content: bytes, kind: type[T], path: str | os.PathLike[str], *, field: str = "file", remedy: str = RESTORE
) -> T:
    """Decodes ``content`` as a value of a type; ``path`` is for the message. Raises as ``read_typed``."""
    try:
        return _decoder(kind).decode(content)
    except msgspec.ValidationError as error:
        raise damaged(path, _why(error), remedy, field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(path, f"is not JSON ({_why(error)})", remedy, field) from error


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
    return json.dumps(value, indent=1, allow_nan=False, default=plain) + "\n"


def finite(value: float) -> float | None:
    """The number, or None if it is not finite: JSON has no NaN or infinity."""
    return float(value) if math.isfinite(value) else None
