"""The files that a source's ``path`` and ``glob`` name."""

from __future__ import annotations

from pathlib import Path

from scaling.errors import Code, UserError


def matching(root: Path, pattern: str, field: str) -> list[Path]:
    """The files below a folder that match a glob pattern, sorted.

    Args:
      field: that gave the pattern, for the message.

    Raises:
      UserError: it is no pattern (INVALID).
    """
    try:
        return sorted(path for path in root.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise UserError(field, pattern, f"is no pattern ({error}); for example **/*.txt") from error


def below(path: str, pattern: str, what: str) -> list[tuple[Path, str]]:
    """(path, name) of the file ``path``, or of those of a folder that match ``pattern``, sorted.

    A name is relative to the folder. ``what`` says what there should be.

    Raises:
      UserError: there is nothing at the path, or no file that matches (MISSING).
    """
    root = Path(path).expanduser()
    if not path or not root.exists():
        raise UserError("data.path", path, f"is not there; give {what}", Code.MISSING)
    if root.is_file():
        return [(root, root.name)]
    found = matching(root, pattern, "data.glob")
    if not found:
        raise UserError("data.glob", pattern, f"matches no file in {path}", Code.MISSING)
    return [(each, each.relative_to(root).as_posix()) for each in found]
