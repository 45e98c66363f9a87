"""Finds the files of a source's ``path`` and ``glob``, without those that are named test or validation.

Hubs lay data out in folders or files named train, validation and test (``test/a.txt``, ``validation-00000-of-00002``,
``c4-validation.00000.json.gz``). Such files of a folder are not trained on; one that is given itself is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scaling.data._formats import PACKED
from scaling.errors import Code, UserError

HELD = frozenset(("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"))
COLLECTIONS = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|feather|tar|array_record|arrayrecord)")
# Tests of source code hold no evaluation data, whatever they are called.
CODE = re.compile(r"\.(c|cc|cpp|cs|go|h|hpp|hs|java|jl|js|kt|lua|m|ml|php|pl|py|r|rb|rs|scala|sh|swift|ts)")
_WORD = re.compile(r"[A-Za-z]+|\d+")
_LAST = re.compile(rf"(.*[-_.])?({'|'.join(sorted(HELD))})([-_.]?\d.*)?", re.IGNORECASE)


def is_held(name: str) -> bool:
    """Whether a file (its path below the folder that was given) is named test or validation, as hubs do.

    A folder of its path, or the file without its ending, is such a word, perhaps after others or before a number. In
    the name of a file with many documents the word may stand anywhere, as in ``validation_matched.jsonl``.
    """
    path = Path(name.lower())
    if path.suffix in PACKED:
        path = path.with_suffix("")
    if CODE.fullmatch(path.suffix):
        return False
    if COLLECTIONS.fullmatch(path.suffix) and not names_held(path.stem, "train"):
        stem = names_held(path.stem)
    else:
        stem = _LAST.fullmatch(path.stem) is not None
    return stem or any(_LAST.fullmatch(folder) for folder in path.parts[:-1])


def names_held(text: str, *words: str) -> bool:
    """Whether one of the words of a text is one of ``words``; by default, of those for test and validation."""
    return not set(words or HELD).isdisjoint(_WORD.findall(text.lower()))


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


def apart(names: Iterable[str], pattern: str) -> tuple[list[str], list[str]]:
    """The names that are taken, and those named test or validation; a pattern that says so itself takes these too."""
    taken, held, asked = [], [], names_held(pattern)
    for name in names:
        (held if not asked and is_held(name) else taken).append(name)
    return taken, held


@dataclass(frozen=True)
class Found:
    """Files (path, name relative to the folder), and the names of those that are named test or validation."""

    files: list[tuple[Path, str]]
    held: list[str]


def below(path: str, pattern: str, what: str) -> Found:
    """The file ``path``, or those of a folder that match ``pattern``, sorted, without those named test or validation.

    Args:
      pattern: one that says test or validation itself takes such files.
      what: what the path should be, for the message.

    Raises:
      UserError: the path does not exist, or no file matches (MISSING).
    """
    root = Path(path).expanduser()
    if not path or not root.exists():
        raise UserError("data.path", path, f"is not there; give {what}", Code.MISSING)
    if root.is_file():
        return Found([(root, root.name)], [])
    paths = {file.relative_to(root).as_posix(): file for file in matching(root, pattern, "data.glob")}
    taken, held = apart(paths, pattern)
    if not taken:
        only = f" but those named test or validation ({held[0]}): give their folder as the path" if held else ""
        raise UserError("data.glob", pattern, f"matches no file in {path}{only}", Code.MISSING)
    return Found([(paths[name], name) for name in taken], held)
