"""What ``faults.py`` notes, a row a trial or a group of faults, and the trial of a command whose calls fail."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

import msgspec
from faults_workers import Page

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)  # of which each call fails with one by turns, or with each
UNREACHED = 2**30  # the number of a call that no command gets to


class Trial(msgspec.Struct, tag_field="part", tag="calls"):
    """A command of which calls failed, in a study of ``ground``.

    Attributes:
      error: name of the errno. first: number of the first call that failed. for_good: all from there on did.
      calls: how many it made. struck: how many failed. what: the last of those. exit: its exit code.
      problems: what must not happen, in words.
    """

    ground: str
    error: str
    first: int
    for_good: bool
    calls: int
    struck: int
    what: str
    exit: int
    problems: list[str]


class Sealing(Trial, tag="seal"):
    """The same of ``scaling predict``."""


class Fault(msgspec.Struct):
    """A fault of the storm, and what it met."""

    kind: str
    met: str


class Group(msgspec.Struct, tag_field="part", tag="storm"):
    """Faults of the storm and the studies that they struck.

    Attributes:
      ends: how many workers ended with each exit code.
    """

    ground: str
    seed: int
    faults: list[Fault]
    studies: int
    ends: dict[str, int]
    seconds: float
    problems: list[str]


Row = Trial | Sealing | Group
KindOfTrial = TypeVar("KindOfTrial", bound=Trial)


def tried(
    kind: type[KindOfTrial],
    ground: str,
    page: Page,
    command: Callable[[], tuple[int, str]],
    error: int,
    first: int,
    for_good: bool,
) -> KindOfTrial:
    """A command (its exit code, and what it said) while its call ``first`` fails, or all from there on.

    Nothing fails any longer afterwards. An exit other than 0, or than 2 with one line, is a problem.
    """
    page.fail(error, first, UNREACHED if for_good else first)
    code, said = command()
    page.heal()
    fields, allowed = page.fields, code in (0, 2) and (code == 2) == (len(said.splitlines()) == 1)
    problems = [] if allowed else [f"exit {code}: {said[-1500:]}"]
    name = errno.errorcode[error]
    return kind(ground, name, first, for_good, fields.calls, fields.struck, fields.what.decode(), code, problems)
