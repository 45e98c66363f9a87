"""Hugging Face's Trainer: trainer_state.json, its log_history as JSON Lines, what it prints; LLaMA-Factory's log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from analysis.table.importers.contract import Entry, Importer, Logged, Names, Skipped, number
from analysis.table.importers.source import Source, flat

STEPS = ("step", "current_steps")
SUMMARY = "train_runtime"  # the row that ends a training holds means over all of it
PRINTED = re.compile(r"\{'(?:eval_)?loss': .*'epoch': .*\}")
PLAIN = ("text", "csv")  # a progress bar has commas
NO_NUMBER = re.compile(r"(?<=: )(-?inf|nan)\b")


def recognise(source: Source) -> float | None:
    columns = set(source.columns)
    if source.kind == "json":
        return 0.95 if '"log_history"' in source.text or "log_history" in columns else None
    if source.kind in PLAIN:
        return 0.9 if any(map(PRINTED.search, source.beginning)) else None
    if source.kind != "jsonl":
        return None
    if {"current_steps", "total_steps"} <= columns:
        return 0.95
    return 0.85 if {"step", "epoch"} <= columns and columns & {"loss", "eval_loss"} else None


def read(source: Source) -> Iterator[Entry]:
    for item in _rows(source):
        if isinstance(item, Skipped):
            yield item
            continue
        where, row = item
        cells = flat(row)
        names = STEPS if source.step is None else (source.step,)
        step = next((at for name in names if (at := number(cells.get(name))) is not None), None)
        if SUMMARY in cells:
            yield Skipped("summary", where)
        elif step is None:
            yield Skipped("no_step", where)
        else:
            source.axis = source.step
            yield Logged("", step, {name: cell for name, cell in cells.items() if name not in STEPS}, where)


def _rows(source: Source) -> Iterator[tuple[str, dict[str, object]] | Skipped]:
    if source.kind == "jsonl":
        yield from source.objects()
        return
    if source.kind in PLAIN:
        yield from _printed(source)
        return
    state = source.document()
    history = state.get("log_history") if isinstance(state, dict) else state
    if not isinstance(history, list):
        raise source.damaged("has no log_history")
    for i, row in enumerate(history, start=1):
        yield (f"log_history entry {i}", row) if isinstance(row, dict) else Skipped("damaged", f"log_history entry {i}")


def _printed(source: Source) -> Iterator[tuple[str, dict[str, object]] | Skipped]:
    """Dictionaries as the Trainer prints them beside its progress bar. They say no step, only the epoch."""
    for line_number, line in source.lines():
        if match := PRINTED.search(line):
            try:
                yield f"line {line_number}", ast.literal_eval(NO_NUMBER.sub(r"'\1'", match[0]))
            except (ValueError, SyntaxError):
                yield Skipped("damaged", f"line {line_number}")


IMPORTER = Importer(
    "huggingface",
    "trainer_state.json and trainer_log.jsonl of Hugging Face's Trainer and LLaMA-Factory, or what the Trainer prints",
    recognise,
    read,
    Names(loss=(r"eval_loss", r"eval_\w+_loss", r"loss"), tokens=(r"num_input_tokens_seen", r"num_tokens")),
)
