"""What an importer is, and what it yields: logged steps, facts of a run, and what it leaves out with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from analysis.table.importers.source import Source

Cell = float | str | bool | None

# damaged: a line, row or record that cannot be read. truncated: the file ends within a record or a printed line.
# unended: the last row of a CSV has no end of line, so its last cell may be cut: it counts as it is. no_step: a row
# without a step. not_a_number: a logged value that is none, or infinite. repeated: a step logged again, the last value
# counts. superseded: steps of an attempt that a later one, resumed earlier, logged again. summary: a mean or a best
# value over the run, which is no loss at a step. smoothed: a series that was smoothed. no_loss: a run without the loss.
# untrained: the loss before the first step, where each loss is a point of N and D. no_N, no_tokens: a run of which
# these are not known, where they are of others. unmatched: a row of the user's table that names no run of the log.
# diverged: a run whose last loss is no number. short: a run with fewer losses than its final one is a mean of. other:
# no log.
Why = Literal[
    "damaged",
    "truncated",
    "unended",
    "no_step",
    "not_a_number",
    "repeated",
    "superseded",
    "summary",
    "smoothed",
    "no_loss",
    "no_N",
    "no_tokens",
    "untrained",
    "unmatched",
    "diverged",
    "short",
    "other",
]


@dataclass(frozen=True, slots=True)
class Logged:
    """What a run logged at a step.

    Attributes:
      run: its name; empty for the run that the file is.
      step: number of steps done.
      values: cells by the log's own names; one without a number is no value.
      where: line or row, for messages.
    """

    run: str
    step: float
    values: Mapping[str, Cell]
    where: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for a whole run, such as N, tokens_per_step or its configuration; a table of finished runs is facts.

    Attributes:
      run, values, where: as those of ``Logged``.
      row: whether this is a row of a table: each has a ``run`` of its own, and its name, which rows may share and which
        may be missing, is the value ``run``.
    """

    run: str
    values: Mapping[str, Cell]
    where: str
    row: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was left out, ``count`` times; ``where`` is its line, row or run, or the first of them."""

    why: Why
    where: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run was started again: what it had logged at ``step`` and later counts no more."""

    run: str
    step: float
    where: str


Entry = Logged | Facts | Skipped | Resumed


@dataclass(frozen=True)
class Names:
    """What the names of a log mean, beyond those of ``analysis.table.names``: regular expressions of whole names.

    Attributes:
      loss: in tiers, the preferred one first; names of one tier are a choice of the user.
      learning_rate, tokens: of the rate at a step and of the tokens seen up to it.
      schedule: of a factor of the rate, which tells whether it has decayed and not what it is.
      N: of the parameters, among the facts.
      units: units of names that the format defines, such as bits for a loss.
    """

    loss: tuple[str, ...] = ()
    learning_rate: tuple[str, ...] = ()
    schedule: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    N: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Importer:
    """Reads the logs of one trainer or tracker. An importer is a file of this package that ends with ``IMPORTER``.

    Attributes:
      name: for ``--from``.
      about: what is read, in a few words.
      recognise: how sure it is, from 0 to 1, that a file is of this kind, by its beginning alone; None if it is not.
      read: yields the entries of a file, one after the other, in the file's order.
      names: what the log's names mean.
    """

    name: str
    about: str
    recognise: Callable[[Source], float | None]
    read: Callable[[Source], Iterator[Entry]]
    names: Names = Names()


def number(cell: Cell) -> float | None:
    """A cell as a number, also where it is text; None if it is none."""
    if cell is None or isinstance(cell, bool):
        return None
    try:
        return float(cell)
    except ValueError:
        return None
    except OverflowError:  # an integer beyond the range of floats
        return math.inf
