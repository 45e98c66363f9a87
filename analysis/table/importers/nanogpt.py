"""What nanoGPT prints, and its relatives: modded-nanogpt, build-nanogpt's log.txt, llm.c's main.log."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.table.importers.contract import Cell, Entry, Facts, Importer, Logged, Names
from analysis.table.importers.source import Source

NUMBER = r"([-+.\w]+)"
# Each pattern names what it finds; step is the step.
LINES = tuple(
    re.compile(pattern.replace("#", NUMBER))
    for pattern in (
        r".*\bstep (?P<step>\d+): train loss (?P<train_eval_loss>#), val loss (?P<val_loss>#)",
        r".*\biter (?P<step>\d+): loss (?P<train_loss>#), time",
        r"(?:step|s):(?P<step>\d+)/\d+ (?:val_loss|tel):(?P<val_loss>#)",
        r"(?:step|s):(?P<step>\d+)/\d+ (?:train_loss|trl):(?P<train_loss>#)",
        r"s:(?P<step>\d+) tel:(?P<val_loss>#)",
        r"s:(?P<step>\d+) trl:(?P<train_loss>#)(?: lr:(?P<learning_rate>#))?",
        r"(?P<step>\d+) val (?P<val_loss>#)$",
        r"(?P<step>\d+) train (?P<train_loss>#)$",
    )
)
PER_STEP = re.compile(r"tokens per iteration will be: ([\d,]+)")
PARAMETERS = re.compile(r"number of parameters: ([\d.]+)M")
LEAST = 0.5  # million parameters, which two places give to 1 %


MARKS = (
    "train loss",
    "iter ",
    "val_loss:",
    "train_loss:",
    "tel:",
    "trl:",
    " val ",
    " train ",
)  # one is in each of LINES


def recognise(source: Source) -> float | None:
    if not any(mark in source.text for mark in MARKS):
        return None
    return 0.95 if any(_match(line) for line in source.beginning) else None


def read(source: Source) -> Iterator[Entry]:
    """N is what nanoGPT prints, in millions to two places: all parameters but the embeddings of positions.

    So those of tokens, which are the output layer's as well, count once. Below ``LEAST`` two places say too little.
    """
    for number, line in source.lines():
        if match := _match(line):
            values: dict[str, Cell] = {name: text for name, text in match.groupdict().items() if text is not None}
            yield Logged("", float(str(values.pop("step"))), values, f"line {number}")
        elif match := PER_STEP.search(line):
            yield Facts("", {"tokens_per_step": float(match[1].replace(",", ""))}, f"line {number}")
        elif (match := PARAMETERS.search(line)) and float(match[1]) >= LEAST:
            yield Facts("", {"N": round(float(match[1]) * 1e6)}, f"line {number}")


def _match(line: str) -> re.Match[str] | None:
    return next((match for pattern in LINES if (match := pattern.match(line)) is not None), None)


IMPORTER = Importer(
    "nanogpt",
    "the log of nanoGPT (whose N is all parameters but those of positions), modded-nanogpt, build-nanogpt or llm.c",
    recognise,
    read,
    Names(loss=(r"val_loss", r"train_loss")),
)
