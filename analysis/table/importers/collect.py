"""The entries of files, run by run: series of the values that are wanted, facts, and what was left out, counted."""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from analysis.table.importers.contract import Cell, Entry, Facts, Logged, Resumed, Skipped, Why, number
from analysis.table.read import MISSING
from scaling.errors import Code, UserError

NOTHING = MISSING - {"nan"}  # cells in which nothing was logged; nan is a loss that diverged


@dataclass(frozen=True)
class Left:
    """Things that were left out for one reason: how many, and the first of them."""

    why: Why
    count: int
    first: str


@dataclass
class Series:
    """What a run logged under one name, in steps that increase."""

    step: array[float] = field(default_factory=lambda: array("d"))
    value: array[float] = field(default_factory=lambda: array("d"))

    def at(self, step: float) -> float | None:
        """The value at a step, on a line between logged ones, or the last of them for as long again; else None."""
        if not self.step or step < self.step[0]:
            return None
        i = bisect_left(self.step, step)
        if i < len(self.step) and self.step[i] == step:
            return None if math.isnan(self.value[i]) else self.value[i]
        if i == len(self.step):
            i -= 1
            if i == 0 or step - self.step[i] > self.step[i] - self.step[i - 1]:
                return None
        share = (step - self.step[i - 1]) / (self.step[i] - self.step[i - 1])
        value = self.value[i - 1] + share * (self.value[i] - self.value[i - 1])
        return None if math.isnan(value) else value


@dataclass
class Run:
    """One run, or a row of a table; ``first`` and ``last`` are of all steps that were logged, wanted or not."""

    name: str
    facts: dict[str, Cell] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    first: float = math.inf
    last: float = -math.inf
    row: bool = False

    @property
    def label(self) -> str:
        """What the run is called: its fact ``run``, by which rows of a table may share a run, or its name."""
        return str(self.facts.get("run") or self.name)


class Collected:
    """Collects entries, keeping only what is wanted, so that a log may be larger than memory.

    Args:
      wanted: regular expressions of the names to keep (whole, whatever the case).
      run: the column that names the run, of logs that hold several; None if the importer names them.
      restarted: whether steps that start over belong to the same run.

    Attributes:
      runs: by name, in the order of the log.
      seen: every name that was logged at a step.
      named: whether an entry had the column that names the run.
    """

    def __init__(self, wanted: Sequence[str], *, run: str | None = None, restarted: bool = False):
        self.runs: dict[str, Run] = {}
        self.seen: dict[str, None] = {}
        self.named = False
        self._wanted = re.compile("|".join(f"(?:{name})" for name in wanted) or r"(?!)", re.IGNORECASE)
        self._keep: dict[str, bool] = {}
        self._run, self._restarted = run, restarted
        self._left: dict[Why, tuple[int, str]] = {}

    @property
    def left(self) -> tuple[Left, ...]:
        """What was left out so far, one entry a reason."""
        return tuple(Left(why, count, first) for why, (count, first) in self._left.items())

    def leave(self, why: Why, where: str, count: int = 1) -> None:
        """Counts something that is left out."""
        if count:
            before, first = self._left.get(why, (0, where))
            self._left[why] = (before + count, first)

    def add(self, entries: Iterable[Entry], run: str, file: str) -> int:
        """Collects the entries of a file.

        Args:
          run: name of the run, where the entries name none.
          file: its name, for messages.

        Returns:
          Number of entries with something of a run.

        Raises:
          UserError: steps of a run start over (CONFLICT).
        """
        count = 0
        for entry in entries:
            if isinstance(entry, Skipped):
                self.leave(entry.why, f"{file}, {entry.where}", entry.count)
                continue
            name = entry.run or run
            if isinstance(entry, Resumed):
                self._resume(name, entry, f"{file}, {entry.where}")
                continue
            count += 1
            given = entry.values.get(self._run) if self._run is not None else None
            self.named |= given is not None
            if given is not None and isinstance(entry, Logged):
                name = str(given)
            known = self.runs.setdefault(name, Run(name))
            if isinstance(entry, Facts):
                known.facts |= {key: cell for key, cell in entry.values.items() if cell is not None}
                known.row |= entry.row
                known.facts |= {} if given is None else {"run": str(given)}
            else:
                self._log(known, entry, f"{file}, {entry.where}")
        return count

    def _resume(self, name: str, entry: Resumed, where: str) -> None:
        """Takes back what a run had logged from a step on."""
        for series in self.runs[name].series.values() if name in self.runs else ():
            at = bisect_left(series.step, entry.step)
            self.leave("superseded", where, len(series.step) - at)
            del series.step[at:], series.value[at:]

    def _log(self, run: Run, entry: Logged, where: str) -> None:
        step = entry.step
        if not (math.isfinite(step) and step >= 0):
            self.leave("no_step", where)
            return
        for name, cell in entry.values.items():
            if cell is None or (isinstance(cell, str) and cell.strip().lower() in NOTHING):
                continue
            keep = self._keep.get(name)
            if keep is None:
                keep = self._keep[name] = self._wanted.fullmatch(name) is not None
                self.seen[name] = None
            if not keep:
                continue
            value = number(cell)
            if value is None or not math.isfinite(value):
                self.leave("not_a_number", where)
                value = math.nan
            self._append(run, name, step, value, where)
        run.first, run.last = min(run.first, step), max(run.last, step)

    def _append(self, run: Run, name: str, step: float, value: float, where: str) -> None:
        """Adds a value; a step that was logged before is replaced, with all after it, as after a resumption."""
        series = run.series.get(name)
        if series is None:
            series = run.series[name] = Series()
        if series.step and step <= series.step[-1]:
            at = bisect_left(series.step, step)
            if series.step[at] == step and series.value[at] == value:  # a copy, as in the states of later checkpoints
                self.leave("repeated", where)
                return
            if step == series.step[-1]:
                self.leave("repeated", where)
            elif at == 0 and step <= run.first and not self._restarted:
                remedy = (
                    f"comes again after step {series.step[-1]:g} ({where}): several runs under one name, or one that "
                    "was started again? Name the column of runs with --columns=run=COLUMN, or say --restarted"
                )
                raise UserError("step", f"{step:g} of run {run.name}", remedy, Code.CONFLICT)
            else:
                self.leave("superseded", where, len(series.step) - at)
            del series.step[at:], series.value[at:]
        series.step.append(step)
        series.value.append(value)
