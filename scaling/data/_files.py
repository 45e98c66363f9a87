"""Finds the files of a source's ``path`` and ``glob``."""

from __future__ import annotations

from pathlib import Path

from scaling.errors import Code, UserError


def matching(root: Path, pattern: str, field: str) -> list[Path]:
    """The files below a folder that match a glob pattern, sorted.

    Args:
      field: the field that gave the pattern, for the message.

    Raises:
      UserError: the pattern is malformed (INVALID).
    """
    try:
        return sorted(path for path in root.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise UserError(field, pattern, f"is not a valid pattern ({error}); give one such as **/*.txt") from error


def below(path: str, pattern: str, what: str) -> list[tuple[Path, str]]:
    """(path, name) of the file ``path``, or of those of a folder that match ``pattern``, sorted.

    Names are relative to the folder.

    Args:
      what: what the path should be, for the message.

    Raises:
      UserError: the path does not exist, or no file matches (MISSING).
    """
    root = Path(path).expanduser()
    if not path or not root.exists():
        raise UserError("data.path", path, f"is not there; give {what}", Code.MISSING)
    if root.is_file():
        return [(root, root.name)]
    paths = matching(root, pattern, "data.glob")
    if not paths:
        raise UserError("data.glob", pattern, f"matches no file in {path}", Code.MISSING)
    return [(file, file.relative_to(root).as_posix()) for file in paths]
