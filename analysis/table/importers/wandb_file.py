"""The local file of a run of Weights & Biases, ``run-ID.wandb``, also of offline runs. Needs the extra ``trackers``.

It is read twice: which names it has for the step decides what its numbers are the steps of (see ``wandb_history``).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from analysis.table.importers.contract import Cell, Entry, Facts, Importer, Logged, Names, Skipped, number
from analysis.table.importers.make import is_tokens
from analysis.table.importers.source import Source, flat
from analysis.table.importers.wandb_history import HISTORY, STEP
from scaling.errors import library

MARK = b":W&B"
HEADER, BLOCK = 7, 32768  # of a file: mark, magic number, version; blocks as in LevelDB's logs
RECORD = struct.Struct("<IHB")  # checksum, length and kind of a piece
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def recognise(source: Source) -> float | None:
    return 0.95 if source.head.startswith(MARK) else None


def read(source: Source) -> Iterator[Entry]:
    if not source.head.startswith(MARK):
        raise source.damaged("is no file of W&B")
    axis, run = source.step or _axis(source), ""
    for where, record in _decoded(source):
        if isinstance(record, Skipped):
            yield record
            continue
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run.run_id
            config = _cells(record.run.config.update, "config/")
            yield Facts(run, {"run": record.run.display_name or run, **config}, where)
        elif kind == "config":
            yield Facts(run, _cells(record.config.update, "config/"), where)
        elif kind == "history":
            cells = _cells(record.history.item)
            step = number(cells.get(axis))
            if step is None and axis == STEP:
                step = float(record.history.step.num)
            if step is None:
                yield Skipped("no_step", where)
                continue
            source.axis = axis
            aside = {STEP, *([] if is_tokens(axis) else [axis])}
            yield Logged(run, step, {name: cell for name, cell in cells.items() if name not in aside}, where)


def _axis(source: Source) -> str:
    """Which of the names of the step the history has."""
    found: dict[str, str] = {}
    for _, record in _decoded(source):
        if not isinstance(record, Skipped) and record.WhichOneof("record_type") == "history":
            found |= {name.lower(): name for name in _cells(record.history.item)}
            if HISTORY[0] in found:
                break
    return next((found[name] for name in HISTORY if name in found), STEP)


def _decoded(source: Source) -> Iterator[tuple[str, Any]]:
    """Where each record is, and the record; ``Skipped`` where it cannot be read."""
    names = "wandb.proto.wandb_internal_pb2", "google.protobuf.message"
    records, protobuf = (library(name, "trackers", "path", source.path) for name in names)
    for index, data in enumerate(_records(source), start=1):
        where = f"record {index}"
        if isinstance(data, Skipped):
            yield where, data
            return
        try:
            yield where, records.Record.FromString(data)
        except protobuf.DecodeError:
            yield where, Skipped("damaged", where)


def _records(source: Source) -> Iterator[bytes | Skipped]:
    """The records of a file, put together from their pieces; what a writer had begun at the end is skipped."""
    with source.open() as file:
        file.read(HEADER)
        place, parts = HEADER, b""
        while True:
            left = BLOCK - place % BLOCK
            if left < RECORD.size:
                file.read(left)
                place += left
                continue
            header = file.read(RECORD.size)
            if not header:
                break
            length, kind = RECORD.unpack(header)[1:] if len(header) == RECORD.size else (0, 0)
            data = file.read(length)
            if kind not in (FULL, FIRST, MIDDLE, LAST) or len(data) < length:
                yield Skipped("truncated", f"byte {place}")
                return
            place += RECORD.size + length
            parts = data if kind in (FULL, FIRST) else parts + data
            if kind in (FULL, LAST):
                yield parts
                parts = b""
    if parts:
        yield Skipped("truncated", f"byte {place}")


def _cells(items: Any, prefix: str = "") -> dict[str, Cell]:
    """Numbers and texts among items of keys and JSON values; those of nested objects by their path."""
    cells: dict[str, Cell] = {}
    for item in items:
        name = item.key or "/".join(item.nested_key)
        try:
            value = json.loads(item.value_json, parse_int=float)
        except (ValueError, RecursionError):
            continue
        if name and not name.startswith("_wandb"):
            cells |= flat({name: value}, prefix)
    return cells


IMPORTER = Importer(
    "wandb_file",
    "the local file of a W&B run, run-ID.wandb",
    recognise,
    read,
    Names(
        N=(r"config/(n_params|num_params|parameters|params)",),
    ),
)
