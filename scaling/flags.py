"""One flag of the command line. Standard library only: verbs declare theirs, and engines too."""

from __future__ import annotations

from dataclasses import dataclass

Value = str | int | float | bool


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      name: without the dashes.
      kind: str, int, float or bool; a bool is given as ``--name`` or ``--noname``.
      help: one line that says what it does, in words of somebody who has never used it.
      default: its value where it is not given.
    """

    name: str
    kind: type[Value]
    help: str
    default: Value | None = None
