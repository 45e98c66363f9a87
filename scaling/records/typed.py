"""Files that are checked when they are read: what is damaged or of another shape is one line that names it."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from scaling.errors import Code, UserError

T = TypeVar("T")
RESTORE = "delete it or restore it"
_LONGEST = 300  # characters of a message: a damaged value may be a megabyte


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises:
      FileNotFoundError: there is none.
      UserError: DAMAGED where it is a directory or a loop of links; ENVIRONMENT where it may not be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise UserError("file", path, "cannot be read: no permission", Code.ENVIRONMENT) from error
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error


def read_json(path: str | os.PathLike[str], remedy: str = RESTORE) -> Any:
    """JSON of any shape, for files whose owner checks them; otherwise as ``read_typed``."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # of ValueError: bad JSON, bad UTF-8, an integer of 5,000 digits
        raise damaged(path, f"is not JSON ({_why(error)})", remedy) from error


def read_typed(path: str | os.PathLike[str], kind: type[T], *, field: str = "file", remedy: str = RESTORE) -> T:
    """A JSON file as a value of a msgspec type. Missing, additional and mistyped fields are errors.

    Args:
      path: of the file.
      kind: what it holds: a ``msgspec.Struct``, or anything else that msgspec decodes.
      field: what the file is to the user: the name of the flag or the kind of file.
      remedy: the end of the line that says what is wrong: what to do about it.

    Raises:
      FileNotFoundError: there is no file.
      UserError: DAMAGED: a directory, no JSON, or not of this type; the line names the file and the field.
    """
    return decode(read_bytes(path), kind, path, field=field, remedy=remedy)


def decode(
    content: bytes, kind: type[T], path: str | os.PathLike[str], *, field: str = "file", remedy: str = RESTORE
) -> T:
    """``content`` as a value of a type; ``path`` says where it is from. Raises as ``read_typed``."""
    try:
        return _decoder(kind).decode(content)
    except msgspec.ValidationError as error:
        raise damaged(path, _why(error), remedy, field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(path, f"is not JSON ({_why(error)})", remedy, field) from error


def damaged(path: str | os.PathLike[str], problem: str, remedy: str = RESTORE, field: str = "file") -> UserError:
    """The error to raise for a file that cannot be what it should be."""
    return UserError(field, path, f"{problem}; {remedy}", Code.DAMAGED)


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(error)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def plain(value: Any) -> Any:
    """A Struct as dicts, lists, strings and numbers, as JSON has them; the ``default`` of ``json.dumps``."""
    return msgspec.to_builtins(value)


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Raises:
      UserError: ENVIRONMENT: the directory cannot be written or the disk is full.
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
        remedy = f"cannot be written ({error.strerror}); free space or choose another"
        raise UserError("path", path, remedy, Code.ENVIRONMENT) from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Atomic JSON of a value or a Struct, for people and programs: indented, and refusing NaN, which is no JSON."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, default=plain) + "\n")


def finite(value: float) -> float | None:
    """The number as JSON can hold it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None
