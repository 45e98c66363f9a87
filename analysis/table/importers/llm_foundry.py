"""llm-foundry, and other trainers on Composer: what the console logger prints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.table.importers.contract import Cell, Entry, Importer, Logged, Names, Skipped, number
from analysis.table.importers.source import Source

# What heads a block: [batch=3/9], [epoch=2][batch=3/9], counted within the epoch, or [token=3/9] and other durations.
HEAD = re.compile(r".*?\[(?:epoch=(?P<epoch>\d+)(?:/\d+)?\]\[)?(?P<unit>[a-z]+)=(?P<at>\d+)(?:/(?P<of>\d+))?\]")
METRIC = re.compile(r".*?\b(?:Train|Eval) ([^\s:]+): ([-+.,\w]+)\s*$")
FIRST = re.compile(r".*?\b(?:Train|Eval) (?:time|loss|metrics)/")
EVALUATED = "[Eval batch="
BATCH, TOKENS = "time/batch", "time/token"  # as they were before the batch


def recognise(source: Source) -> float | None:
    if "Train " not in source.text and "Eval " not in source.text:
        return None
    found = any(map(HEAD.match, source.beginning)) and any(map(FIRST.match, source.beginning))
    return 0.95 if found else None


def read(source: Source) -> Iterator[Entry]:
    """A batch is a step. An evaluation is of the batch that was printed last: exactly where every batch is printed."""
    step: float | None = None
    for head, block, where in _blocks(source):
        if head is not None:
            step = _step(head, block)
        if block:
            yield Skipped("no_step", where) if step is None else Logged("", step, _counted(block, step), where)


def _blocks(source: Source) -> Iterator[tuple[re.Match[str] | None, dict[str, Cell], str]]:
    """The metrics under each head, None for that of an evaluation, and where they begin."""
    head: re.Match[str] | None = None
    block: dict[str, Cell] = {}
    where = ""
    for line_number, line in source.lines():
        if match := METRIC.match(line):
            where = where if block else f"line {line_number}"
            block[match[1]] = match[2].replace(",", "")
        elif (match := HEAD.match(line)) or EVALUATED in line:
            yield head, block, where
            head, block = match, {}
    yield head, block, where


def _step(head: re.Match[str], block: dict[str, Cell]) -> float | None:
    """The batches done: as the head counts them, or one more than before the batch; None where neither says it."""
    earlier = int(head["epoch"] or 1) - 1
    if head["unit"] == "batch" and (not earlier or head["of"] is not None):
        return earlier * int(head["of"] or 0) + float(head["at"])
    before = number(block.get(BATCH))
    return None if before is None else before + 1


def _counted(block: dict[str, Cell], step: float) -> dict[str, Cell]:
    """The block with the tokens after its batch instead of those before: those before the first give no number."""
    before, batches = number(block.get(TOKENS)), number(block.get(BATCH))
    cells = {name: cell for name, cell in block.items() if name != TOKENS}
    return cells | ({TOKENS: before / batches * step} if before and batches else {})


IMPORTER = Importer(
    "llm_foundry",
    "the console log of llm-foundry and Composer",
    recognise,
    read,
    Names(
        loss=(r"metrics/eval(/.*)?/LanguageCrossEntropy", r"metrics/train/LanguageCrossEntropy", r"loss/train/total"),
        learning_rate=(r"lr-.*/group0", r"lr-.*"),
        tokens=(TOKENS,),
    ),
)
