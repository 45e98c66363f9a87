"""OLMo and OLMo-core: CSV files of their ladders, downloaded from W&B, and what their trainers print."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.table.importers.contract import Cell, Entry, Importer, Logged, Names
from analysis.table.importers.source import Source
from analysis.table.importers.steps import logged

TOKENS = ("throughput/total_tokens", "throughput/total tokens")
STEP = re.compile(r".*\[step=([\d,]+)/(?:[\d,]+|\?\?\?)")  # ??? of a training without a number of steps
EVALUATED = re.compile(r".*\bFinished (\S+) evals in ")  # lines of metrics follow, whose names lack eval/NAME/
METRIC = re.compile(r"\s+([^\s=][^=]*)=([-+.,\w]+)$")


def recognise(source: Source) -> float | None:
    if set(TOKENS) & set(source.columns):
        return 0.9
    printed = "[step=" in source.text and any(STEP.match(line) for line in source.beginning)
    return 0.9 if printed else None


def read(source: Source) -> Iterator[Entry]:
    """Steps; a CSV without a column of steps is read in steps of its tokens.

    In a log, an evaluation is of the step that was printed last. Where metrics are printed less often than every step,
    that may be a few steps too early.
    """
    if set(TOKENS) & set(source.columns):
        yield from logged(source, ("_step", "step", *TOKENS), (), without=("learning_rate_peak",))
        return
    step: float | None = None
    prefix = ""
    for line_number, line in source.lines():
        if match := STEP.match(line):
            step, prefix = float(match[1].replace(",", "")), ""
        elif match := EVALUATED.match(line):
            prefix = f"eval/{match[1]}/"
        elif match := METRIC.match(line):
            if step is not None:
                cells: dict[str, Cell] = {f"{prefix}{match[1]}": match[2].replace(",", "")}
                yield Logged("", step, cells, f"line {line_number}")
        else:
            prefix = ""


IMPORTER = Importer(
    "olmo",
    "CSV files of OLMo's and OLMo-core's ladders, and the log of their trainers",
    recognise,
    read,
    Names(
        loss=(r"eval/(lm/)?.*/(CrossEntropyLoss|CE loss)", r"train/(CrossEntropyLoss|CE loss)"),
        learning_rate=(r"optim/(learning_rate_group0|LR \(group 0\))", r"optim/learning_rate.*"),
        tokens=tuple(map(re.escape, TOKENS)),
    ),
)
