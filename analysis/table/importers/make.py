"""The table that a law is fitted to, from collected runs and from what the user says that their logs do not."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from analysis.table import curves, names
from analysis.table.importers.collect import Collected, Left, Run, Series
from analysis.table.importers.contract import Cell, Names, number
from analysis.table.select import compute
from analysis.table.units import check, written
from analysis.table.units import number as as_numbers
from scaling.errors import Code, UserError
from scaling.errors import choose as nearest

Points = Literal["final", "all", "curves"]
TOLERANCE = 0.01  # between tokens that were logged and those of tokens_per_step
DECAYED = 0.12  # a rate below this share of its peak has decayed: cosines commonly end at a tenth
SMOOTHED = re.compile(r"smooth", re.IGNORECASE)
NO_LOSS = re.compile(r"(.*[/_ .-])?(best|min|max|std|stderr|ema)([/_ .-].*)?", re.IGNORECASE)  # of steps elsewhere
# Names of losses that many trainers use, after those that a fit knows: validation, then training.
HELD = r"(val|valid|validation|eval|test|dev)"
LOSSES = (
    rf"(.*[/_ .-])?{HELD}[/_ .-]((avg|lm|ce)[/_ .-]?)?loss|(.*/)?loss[/_ .-]{HELD}|(.*/)?lm loss validation",
    r"(.*/)?(reduced_)?(train|training)[/_ .-]((avg|lm|ce)[/_ .-]?)?loss|(.*/)?loss[/_ .-]train(ing)?",
    r"(.*/)?(lm loss|(global_avg_)?loss)",
)
NUMBERS = ("N", "D", "C", "loss")
GIVEN = (*NUMBERS, "learning_rate", "run", "step", *names.OTHERS)  # what ``columns`` may name
COUNTED = ("total", "nonembedding", "active", "trainable", "nonembedding_active")
COUNTS = ("N", "D", "C", "tokens_per_step")  # facts that are numbers as people write them, 31M
RATE = (*curves.ALIASES["learning_rate"], r"learning[-_]rate(/.*)?", r"lr[-/].*", r".*/learning[-_]rate", ".*/lr")
TOKENS = (
    *(name for tier in names.ALIASES["D"] for name in tier),
    r"(.*/)?(consumed|total|train)[-_ ]tokens",
    r"(.*/)?(total_)?tokens(_seen)?",
)
ROWS = ("loss", "step")  # which every row has of its own


@dataclass(frozen=True)
class Told:
    """What the user says that a log does not.

    Attributes:
      columns: {name: column}: which name of the log, or arithmetic of facts, is loss, N, D, C, learning_rate, run.
      units: {name: unit}, as in ``analysis.load``.
      n: which count of parameters N is: total, nonembedding, ...
      facts: {name: value} of every run: N, tokens_per_step, seed, ...
      runs: the same by run.
      pattern: regular expression with named groups, searched in the names of the runs: each group is a fact.
      points: ``final``: a row a run, its last loss. ``all``: a row a logged loss. ``curves``: and a row a logged rate.
      average: over how many logged losses the final one is a mean.
      smoothed: whether series that say they are smoothed may be the loss.
      decayed: whether the rate had decayed at the last loss; None for what the logged rates say.
      restarted: whether steps that start over belong to the same run.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str | float] = field(default_factory=dict)
    n: str | None = None
    facts: Mapping[str, Cell] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)
    pattern: str | None = None
    points: Points = "final"
    average: int = 1
    smoothed: bool = False
    decayed: bool | None = None
    restarted: bool = False

    def __post_init__(self) -> None:
        if self.points not in get_args(Points):
            raise UserError("points", self.points, nearest(self.points, get_args(Points)), Code.UNKNOWN)
        if self.average < 1:
            raise UserError("average", self.average, "must be a number of logged losses, at least 1")
        if self.n is not None and self.n not in COUNTED:
            raise UserError("n", self.n, nearest(self.n, COUNTED), Code.UNKNOWN)
        for name, column in self.columns.items():
            if name not in GIVEN:
                raise UserError("columns", f"{name}={column}", nearest(name, dict.fromkeys(GIVEN)), Code.UNKNOWN)
            if name in self.facts:
                remedy = f"is also given as --columns={name}={column}; leave one of them out"
                raise UserError("set", f"{name}={self.facts[name]}", remedy, Code.CONFLICT)
        if (name := next((name for name in ROWS if name in self.facts), None)) is not None:
            remedy = f"differs from row to row; say which name of the log it is with --columns={name}=NAME"
            raise UserError("set", f"{name}={self.facts[name]}", remedy, Code.UNSUPPORTED)
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise UserError("pattern", self.pattern, f"is no regular expression ({error})") from error
            if not groups:
                raise UserError("pattern", self.pattern, "has no named group, such as (?P<N>[0-9.]+M)")


@dataclass(frozen=True)
class Imported:
    """The table, and what is known of it.

    Attributes:
      table: a row a run or a point, columns run, N, D, C, step, learning_rate, loss and others where they are known.
      kind: the importer that read the files.
      files, runs: how many had something to read.
      columns: which names of the log were taken for loss, N, D, C, learning_rate.
      aside: other names that could be the loss.
      units: of those that were converted.
      left: what was left out.
      lacking: of N and D, those that the table lacks.
      decayed: how it is known whether the rates had decayed; None for a table of finished runs.
    """

    table: pd.DataFrame
    kind: str
    files: int
    runs: int
    columns: dict[str, str]
    aside: tuple[str, ...]
    units: dict[str, str]
    left: tuple[Left, ...]
    lacking: tuple[str, ...]
    decayed: Literal["told", "logged", "unknown"] | None


def wanted(told: Told, of: Names) -> list[str]:
    """Regular expressions of the names of a log that a table may need."""
    given = [re.escape(told.columns[name]) for name in (*NUMBERS, "learning_rate") if name in told.columns]
    rates = (*of.learning_rate, *RATE, *of.schedule)
    return [*given, *(name for tier in _tiers(of) for name in tier), *rates, *of.tokens, *TOKENS]


def is_loss(name: str) -> bool:
    """Whether a name is one that losses have, in the log of any trainer."""
    return any(_matches(name, tier) for tier in _tiers(Names())) and not NO_LOSS.fullmatch(name)


def is_tokens(name: str) -> bool:
    """Whether a name is one that the tokens seen have, in the log of any trainer."""
    return _matches(name, TOKENS)


def _tiers(of: Names) -> list[tuple[str, ...]]:
    """Regular expressions of losses, the preferred ones first."""
    usual = [tuple(map(re.escape, tier)) for tier in names.ALIASES["loss"]]
    return [*((name,) for name in of.loss), *usual, *((name,) for name in LOSSES)]


def _losses(present: Sequence[str], told: Told, of: Names) -> tuple[list[str], list[str]]:
    """Names that could be the loss: the preferred ones, which are alike, and the others."""
    usable = [name for name in present if told.smoothed or not SMOOTHED.search(name)]
    usable = [name for name in usable if not NO_LOSS.fullmatch(name)]
    found = [[name for name in usable if _matches(name, tier)] for tier in _tiers(of)]
    best = next((tier for tier in found if tier), [])
    return best, list(dict.fromkeys(name for tier in found for name in tier if name not in best))


def choose(seen: Sequence[str], told: Told, of: Names) -> tuple[str | None, tuple[str, ...]]:
    """The name of the loss among the names of a log, None if none can be it, and the others that could.

    Raises:
      UserError: several that are alike (CONFLICT), or the chosen name is not in the log (MISSING).
    """
    if (given := told.columns.get("loss")) is not None:
        if given not in seen:
            remedy = f"is nowhere in the log; it has {some(seen)}"
            raise UserError("columns", f"loss={given}", remedy, Code.MISSING)
        return given, ()
    best, others = _losses(seen, told, of)
    if len(best) > 1:
        remedy = "could each be the loss; say which one with --columns=loss=NAME"
        raise UserError("column", some(best), remedy, Code.CONFLICT)
    return (best[0] if best else None), tuple(others)


def of_steps(
    collected: Collected, told: Told, of: Names
) -> tuple[list[dict[str, Cell]], dict[str, str], tuple[str, ...]]:
    """Rows of runs that logged steps, which names were taken for what, and other names that could be the loss.

    Raises:
      UserError: the log has no loss (MISSING), or several.
    """
    _check_of_steps(told)
    seen = list(collected.seen)
    loss, aside = choose(seen, told, of)
    if loss is None:
        smooth = [name for name in seen if SMOOTHED.search(name)]
        remedy = f"has no loss that it names so; say which name is the loss with --columns=loss=NAME: {some(seen)}"
        if smooth:
            remedy = f"has smoothed losses alone ({some(smooth)}); export them as logged, or say --smoothed"
        raise UserError("loss", "none", remedy, Code.MISSING)
    for name in seen:
        if SMOOTHED.search(name) and name != loss:
            collected.leave("smoothed", name)
    chosen = {"loss": loss, **_beside(collected, told, of)}
    rows: list[dict[str, Cell]] = []
    for run in collected.runs.values():
        rows += _rows(run, chosen, told, collected)
    if "D" in chosen and not any("D" in row for row in rows):
        del chosen["D"]
    return rows, chosen, aside


def _check_of_steps(told: Told) -> None:
    """Refuses what is said of runs and cannot be used for logs of steps: it would be left out in silence."""
    for given in (told.facts, *told.runs.values()):
        if (name := next((name for name in ROWS if name in given), None)) is not None:
            remedy = f"is logged step by step here; leave the column {name} out"
            raise UserError("runs", f"{name}={given[name]}", remedy, Code.UNSUPPORTED)
        name = next((name for name in ("D", "learning_rate") if name in given), None)
        if name is not None and told.points != "final":
            remedy = f"is one number for a run, and --points={told.points} needs one for each point; leave it out"
            raise UserError("set", f"{name}={given[name]}", remedy, Code.UNSUPPORTED)


def check_of_facts(told: Told) -> None:
    """Refuses what is said of steps where a log has none: it would be left out in silence.

    Raises:
      UserError: UNSUPPORTED.
    """
    usual = Told()
    for name in ("points", "average", "restarted"):
        if getattr(told, name) != getattr(usual, name):
            remedy = "is for logs of steps; this is a table with a row a finished run"
            raise UserError(name, getattr(told, name), remedy, Code.UNSUPPORTED)
    for given in (told.facts, *told.runs.values()):
        if "tokens_per_step" in given:
            remedy = "is for logs of steps; of finished runs say D, or --columns='D=STEPS * NUMBER'"
            raise UserError("set", f"tokens_per_step={given['tokens_per_step']}", remedy, Code.UNSUPPORTED)


def _beside(collected: Collected, told: Told, of: Names) -> dict[str, str]:
    """Which names of the log are N, D, C, the rate or its factor: those that the user gave, or the first that can be.

    Raises:
      UserError: a name that is to be D does not count tokens seen (CONFLICT).
    """
    seen = list(collected.seen)
    chosen = {name: told.columns[name] for name in ("N", "D", "C", "learning_rate") if told.columns.get(name) in seen}
    if "D" in chosen and not _grows(collected, chosen["D"]):
        remedy = "falls, or stays as it is: no count of the tokens seen so far; say --set=tokens_per_step=NUMBER"
        raise UserError("columns", f"D={chosen['D']}", remedy, Code.CONFLICT)
    if "D" not in told.columns:
        could = (name for p in (*of.tokens, *TOKENS) for name in seen if _matches(name, (p,)))
        if (name := next((name for name in could if _grows(collected, name)), None)) is not None:
            chosen["D"] = name
    for what, patterns in (("learning_rate", (*of.learning_rate, *RATE)), ("schedule", of.schedule)):
        name = next((name for p in patterns for name in seen if _matches(name, (p,))), None)
        if name is not None and "learning_rate" not in (*chosen, *told.columns):
            chosen[what] = name
    return chosen


def _grows(collected: Collected, name: str) -> bool:
    """Whether a logged name counts something up: it falls in no run, and does not stay as it is in all of them."""
    series = (run.series[name].value for run in collected.runs.values() if name in run.series)
    pairs, rises = 0, False
    for earlier, later in (pair for values in series for pair in pairwise(filter(math.isfinite, values))):
        if later < earlier:
            return False
        pairs, rises = pairs + 1, rises or later > earlier
    return rises or not pairs


def _rows(run: Run, chosen: Mapping[str, str], told: Told, collected: Collected) -> list[dict[str, Cell]]:
    losses = run.series.get(chosen["loss"])
    if losses is None:
        collected.leave("no_loss", f"run {run.name}")
        return []
    facts = known(run, told)
    named = ("learning_rate", "schedule", "D", "C", "N")
    rate, schedule, tokens, flops, sizes = (run.series.get(chosen.get(name, ""), Series()) for name in named)
    shape = rate if rate.step else schedule
    peak = max((value for value in shape.value if math.isfinite(value)), default=None)
    top = math.inf if peak is None else shape.step[shape.value.index(peak)]
    given = {**told.facts, **told.runs.get(run.label, {})}
    per_step = number(facts.pop("tokens_per_step", None))
    if sizes.value:
        facts["N"] = _constant(run.name, chosen["N"], sizes)
    fixed = {key: facts.pop(key) for key in ("D", "step", "loss", "learning_rate") if key in facts}

    def row(step: float, loss: float | None) -> dict[str, Cell]:
        seen = tokens.at(step)
        if told.points == "final" and (all_of_them := number(fixed.get("D"))) is not None:
            _agree("D", run.name, step, all_of_them, seen)
            seen = all_of_them
        elif per_step and (seen is None or "tokens_per_step" in given):
            _agree("tokens_per_step", run.name, step, step * per_step, seen)
            seen = step * per_step
        there = shape.at(step)
        cells: dict[str, Cell] = {"run": run.label, **facts, "step": step, "loss": loss, "D": seen}
        cells["learning_rate"] = max(there, 0.0) if there is not None and rate.step else None
        cells |= {"C": flops.at(step) or facts.get("C")}
        if told.decayed is not None:
            cells["decayed"] = told.decayed and step == losses.step[-1]
        elif told.points != "curves" and there is not None and peak:
            cells["decayed"] = step > top and there <= DECAYED * peak  # before the peak it is low from warming up
        if told.points == "final":
            highest = peak if rate.step else None
            cells["learning_rate"] = given.get("learning_rate", highest) or fixed.get("learning_rate")
        return {key: cell for key, cell in cells.items() if cell is not None}

    if told.points == "final":
        last = list(losses.value[-told.average :])
        if len(last) < told.average:
            collected.leave("short", f"run {run.name}")
            return []
        if not all(map(math.isfinite, last)):
            collected.leave("diverged", f"run {run.name}")
            return []
        return [row(losses.step[-1], sum(last) / len(last))]
    points = dict(zip(losses.step, losses.value))
    if told.points == "all" and points.pop(0.0, None) is not None:  # no tokens were seen
        collected.leave("untrained", f"run {run.name}")
    steps = sorted({*points, *rate.step}) if told.points == "curves" else list(points)
    return [row(step, points.get(step)) for step in steps if math.isfinite(points.get(step, 0.0))]


def _constant(run: str, name: str, series: Series) -> float:
    """The value of a series that does not change.

    Raises:
      UserError: it does (CONFLICT).
    """
    if len(values := set(series.value)) > 1:
        remedy = f"is {min(values):g} and {max(values):g} in run {run}; N of a run is one number"
        raise UserError("columns", f"N={name}", remedy, Code.CONFLICT)
    return values.pop()


def _agree(name: str, run: str, step: float, said: float, logged: float | None) -> None:
    """Raises a UserError where the tokens that the user's words give are not those that were logged."""
    if logged is not None and abs(said - logged) > TOLERANCE * max(said, logged):
        what = f"{said:.4g} tokens at step {step:g} of run {run}"
        raise UserError(name, what, f"the log says {logged:.4g}; leave {name} out", Code.CONFLICT)


def of_facts(collected: Collected, told: Told) -> list[dict[str, Cell]]:
    """Rows of runs of which only facts are known, such as those of a table of finished runs."""
    decayed: dict[str, Cell] = {} if told.decayed is None else {"decayed": told.decayed}
    runs = [run for run in collected.runs.values() if run.facts and not run.series]
    # Rows that no table names have no run: names of their own would hide that a row is a copy of another.
    named = any("run" in run.facts or not run.row for run in runs)
    rows = [
        {**({"run": Path(run.name).name if run.row else run.name} if named else {}), **known(run, told), **decayed}
        for run in runs
    ]
    return [{name: cell for name, cell in row.items() if name != "tokens_per_step"} for row in rows]


def known(run: Run, told: Told) -> dict[str, Cell]:
    """The facts of a run: of its log, of its name by the pattern, of the table of runs, and of every run."""
    match = re.search(told.pattern, run.label) if told.pattern else None
    named = {key: text for key, text in match.groupdict().items() if text is not None} if match else {}
    facts: dict[str, Cell] = {**run.facts, **named, **told.facts, **told.runs.get(run.label, {})}
    for name in COUNTS:
        if isinstance(facts.get(name), str) and (
            name in named or name in told.facts or name in told.runs.get(run.label, {})
        ):
            facts[name] = amount(name, str(facts[name]))
    return facts


def amount(name: str, text: str) -> float:
    """A number as people write it: 31M, 1,250,000, or a product, 512*1024.

    Raises:
      UserError: it is no positive number.
    """
    product = 1.0
    for factor in text.split("*"):
        value = float(written(pd.Series([factor.strip()], dtype=object), name, count=True).iloc[0])
        product *= value
    if not (math.isfinite(product) and product > 0):
        raise UserError(name, text, "must be a positive number, such as 31M or 512*1024")
    return product


def named(frame: Any, told: Told, of: Names, chosen: dict[str, str]) -> tuple[Any, dict[str, str], tuple[str, ...]]:
    """The frame with N, D, C and loss under these names in the units of a fit, the converted units, columns left aside.

    Args:
      chosen: what is what already; what is found is added.

    Raises:
      UserError: columns that could each be one of them (CONFLICT), an unknown column or unit.
    """
    present = [str(column) for column in frame.columns]
    source: dict[str, str] = {}
    for name in NUMBERS:
        given = told.columns.get(name) if name not in chosen else None
        if given is not None:
            source[name] = given
        elif name not in present or (name == "loss" and name not in chosen):
            patterns = {"N": of.N, "D": of.tokens}.get(name, ())
            found = next((hit for p in patterns if (hit := [c for c in present if _matches(c, (p,))])), None)
            best = _losses(present, told, of)[0] if name == "loss" else found or names.find(name, present)[0]
            if len(best) > 1:
                remedy = f"could each be {name}; say which one with --columns={name}=NAME, or arithmetic of them"
                raise UserError("column", some(best), remedy, Code.CONFLICT)
            source |= {name: best[0]} if best and best[0] != name else {}
    aside = tuple(name for name in ("loss",) if name in source and name in present)
    frame = frame.drop(columns=list(aside))
    others = {name: column for name, column in told.columns.items() if name not in (*NUMBERS, *chosen, "run")}
    for name, column in {**source, **others}.items():
        if column not in present and column.isidentifier():
            raise UserError("columns", f"{name}={column}", f"its columns are {some(present)}", Code.MISSING)
        frame = _computed(frame, name, column)
    for name in NUMBERS:
        if name in frame:
            frame[name] = written(frame[name], name, count=name != "loss")
    declared = {name: unit for name, unit in of.units.items() if chosen.get("loss", source.get("loss")) == name}
    units = {**({"loss": next(iter(declared.values()))} if declared else {}), **told.units}
    for name, unit in check(units, {**frame, **told.columns}).items():
        if name in frame:
            frame[name] = unit.to_base(frame[name])
    chosen |= source
    return frame, {name: str(unit) for name, unit in units.items()}, aside


def _computed(frame: Any, name: str, column: str) -> Any:
    if column in frame.columns:
        return frame.rename(columns={column: name})
    numbers = {c: values for c in frame.columns if bool((values := as_numbers(frame[c])).notna().any())}
    return frame.assign(**{name: compute(pd.DataFrame(numbers, index=frame.index), column, name)})


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, name, re.IGNORECASE) for pattern in patterns)


def some(found: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "nothing"
