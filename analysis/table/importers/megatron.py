"""Megatron-LM, and its relatives Megatron-DeepSpeed, Megatron Bridge and GPT-NeoX: what they print."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.table.importers.contract import Cell, Entry, Facts, Importer, Logged, Names, Skipped, number
from analysis.table.importers.source import Source

STEP = re.compile(r"\biteration +(\d+)(?: *\[ *\d+ *\])? */ *\d+ \|")  # [of this start]
CELL = re.compile(r"([^|:]+): +([-+.\w]+) *(?=\||$)")
EVALUATED = re.compile(r"validation (?:loss|results) at (?P<where>[^|]*)\|(?P<cells>.*)")
VALUE = re.compile(r"([^|]+?) value: ([-+.\w]+)")
AT = re.compile(r"\biteration (\d+)")
TEST = re.compile(r"\btest\b")
LENGTH = re.compile(r"\bseq(?:uence)?_length \.{2,} ?(\d+)\s*$")
PARAMETERS = re.compile(r"number of parameters on \(tensor, pipeline\) model parallel rank \(0, 0\): (\d+)")
PARALLEL = re.compile(r"\b(tensor|pipeline|expert)_model_parallel_size \.{2,} ?(\d+)\s*$")
SAMPLES, TOKENS = "consumed samples", "consumed tokens"


def recognise(source: Source) -> float | None:
    if not STEP.search(source.text) and not EVALUATED.search(source.text):
        return None
    marks = ("elapsed time per iteration (ms)", "validation loss at ", "validation results at ")
    return 0.95 if any(mark in source.text for mark in marks) else None


def read(source: Source) -> Iterator[Entry]:
    """Tokens are samples times the length of a sequence, which the printed arguments say.

    N is what the only rank holds, tables of tokens and positions included; of several ranks each prints its own, of
    which they hold some twice: N is then not known. The evaluation at the end names no iteration: it is of the last one
    that was printed.
    """
    step: float | None = None
    length: int | None = None
    held: int | None = None
    parallel: dict[str, str] = {}
    for line_number, line in source.lines():
        where = f"line {line_number}"
        if match := EVALUATED.search(line):
            at = AT.search(match["where"])
            step = float(at[1]) if at else step
            kind = "test" if TEST.search(match["where"]) else "validation"
            values: dict[str, Cell] = {f"{kind} {name.strip()}": cell for name, cell in VALUE.findall(match["cells"])}
            yield Skipped("no_step", where) if step is None else Logged("", step, values, where)
        elif match := STEP.search(line):
            step = float(match[1])
            cells: dict[str, Cell] = {name.strip(): cell for name, cell in CELL.findall(line[match.end() :])}
            yield Logged("", step, cells | _tokens(cells, length), where)
        elif match := LENGTH.search(line):
            length = int(match[1])
        elif match := PARAMETERS.search(line):
            held = int(match[1])
        elif match := PARALLEL.search(line):
            parallel[match[1]] = match[2]
    if {"tensor", "pipeline"} <= set(parallel) and set(parallel.values()) == {"1"}:
        yield Facts("", {"N": held}, "the printed parameters")


def _tokens(cells: dict[str, Cell], length: int | None) -> dict[str, Cell]:
    samples = number(cells.get(SAMPLES))
    return {} if TOKENS in cells or samples is None or length is None else {TOKENS: samples * length}


IMPORTER = Importer(
    "megatron",
    "the log of Megatron-LM, Megatron-DeepSpeed, Megatron Bridge or GPT-NeoX",
    recognise,
    read,
    Names(
        loss=(r"validation lm[ _]loss", r"lm[ _]loss"), learning_rate=(r"learning rate",), tokens=(re.escape(TOKENS),)
    ),
)
