"""MaxText: its metrics file (JSON Lines), and what it prints: all parameters, losses of steps and evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.table.importers.contract import Entry, Facts, Importer, Logged, Names
from analysis.table.importers.source import Source
from analysis.table.importers.steps import logged

STEP = re.compile(r".*completed step: (\d+), .*?\bloss: ([-+.\w]+)")
PARAMETERS = re.compile(r".*number parameters: ([\d.]+) billion")
LEAST = 0.05  # billion parameters, which three places give to 1 %
EVALUATED = re.compile(r".*eval metrics after step: (\d+), loss=([-+.\w]+)")


def recognise(source: Source) -> float | None:
    if source.kind == "jsonl":
        return 0.95 if {"learning/loss", "eval/avg_loss"} & set(source.columns) else None
    printed = "completed step: " in source.text and any(STEP.match(line) for line in source.beginning)
    return 0.95 if printed else None


def read(source: Source) -> Iterator[Entry]:
    """A logged step is the one that was just done: after step 0, one step was taken."""
    if source.kind == "jsonl":
        yield from logged(source, ("step",), ("run_name",), offset=1)
        return
    for line_number, line in source.lines():
        where = f"line {line_number}"
        if match := STEP.match(line):
            yield Logged("", float(match[1]) + 1, {"learning/loss": match[2]}, where)
        elif match := EVALUATED.match(line):
            yield Logged("", float(match[1]) + 1, {"eval/avg_loss": match[2]}, where)
        elif (match := PARAMETERS.match(line)) and float(match[1]) >= LEAST:
            yield Facts("", {"N": round(float(match[1]) * 1e9)}, where)


IMPORTER = Importer(
    "maxtext",
    "the metrics file or the log of MaxText",
    recognise,
    read,
    Names(
        loss=(r"eval/avg_loss", r"learning/lm_loss", r"learning/loss"),
        learning_rate=(r"learning/current_learning_rate",),
    ),
)
