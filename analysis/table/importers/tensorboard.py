"""Event files of TensorBoard, and the CSV of a chart that it downloads. Event files need the extra ``trackers``."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

from analysis.table.importers.contract import Entry, Importer, Logged, Names, Resumed, Skipped, number
from analysis.table.importers.source import LONGEST, Source
from scaling.errors import library

MARK = b"brain.Event:"  # the version that the first event of a file names
NUMBERS = (1, 2, 3, 9, 14, 19)  # types of tensors: float, double, int32, int64, bfloat16, half
CHART = ("Wall time", "Step", "Value")
START = 1  # status of a session: what an earlier one had logged from this step on counts no more
KERAS = ("train", "validation")  # folders in which Keras' callback writes one run
KERAS_TAGS = ("epoch_", "evaluation_", "batch_")  # epochs are counted from 0
TAG = re.compile(r"(?:run-(?P<run>.+)-)?tag-(?P<tag>.+)")  # of the name that TensorBoard gives the CSV of a chart


def recognise(source: Source) -> float | None:
    if source.columns == CHART:
        return 0.95
    return 0.95 if source.kind in ("binary", "text") and MARK in source.head[:256] else None


def read(source: Source) -> Iterator[Entry]:
    yield from _chart(source) if source.columns == CHART else _events(source)


def _chart(source: Source) -> Iterator[Entry]:
    match = TAG.match(source.path.name.split(".")[0])
    run, tag = (match["run"] or "", match["tag"]) if match else ("", CHART[2])
    for item in source.rows():
        if isinstance(item, Skipped):
            yield item
            continue
        where, cells = item
        step = number(cells.get(source.step or "Step"))
        if step is None:
            yield Skipped("no_step", where)
            continue
        source.axis = source.step
        yield Logged(run, step, {tag: cells.get("Value")}, where)


def _events(source: Source) -> Iterator[Entry]:
    names = "tensorboard.compat.proto.event_pb2", "google.protobuf.message", "tensorboard.util.tensor_util"
    event_pb2, protobuf, tensors = (library(name, "trackers", "path", source.path) for name in names)
    folder = source.path.absolute().parent
    for index, record in enumerate(_records(source), start=1):
        where = f"event {index}"
        if isinstance(record, Skipped):
            yield record
            return
        try:
            event = event_pb2.Event.FromString(record)
        except protobuf.DecodeError:
            yield Skipped("damaged", where)
            continue
        if event.session_log.status == START:
            yield Resumed("", float(event.step), where)
        for value in event.summary.value:
            run, step, tag = "", float(event.step), value.tag
            if folder.name in KERAS and tag.startswith(KERAS_TAGS):
                run, step, tag = _above(source), step + tag.startswith("epoch_"), f"{folder.name}/{tag}"
            if (found := _scalar(value, tensors)) is not None:
                yield Logged(run, step, {tag: found}, where)


def _above(source: Source) -> str:
    """The name of the run of which a file's folder is a part."""
    above, _, _ = source.run.rpartition("/")
    return above or source.path.absolute().parents[1].name


def _records(source: Source) -> Iterator[bytes | Skipped]:
    """The records of a file: length, its checksum, data, its checksum. One that is cut off at the end is skipped."""
    if len(source.head) < 12 or MARK not in source.head[:256]:
        raise source.damaged("is no event file")
    with source.open() as file:
        place = 0
        while header := file.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else LONGEST + 1
            data = file.read(length + 4) if length <= LONGEST else b""
            if len(data) < length + 4:
                yield Skipped("truncated", f"byte {place}")
                return
            place = file.tell()
            yield data[:-4]


def _scalar(value: Any, tensors: Any) -> float | None:
    """The number of a summary: a simple value, or a tensor of one number, as TensorFlow 2 writes; None for others."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.dtype not in NUMBERS:
        return None
    if value.metadata.plugin_data.plugin_name not in ("scalars", ""):
        return None
    array = tensors.make_ndarray(value.tensor)
    return float(array) if array.size == 1 else None


IMPORTER = Importer(
    "tensorboard",
    "event files of TensorBoard, and its charts as CSV (a folder a run)",
    recognise,
    read,
    Names(
        loss=(
            r"(.*/)?(val|valid|validation|eval|test)[_/ ]?(avg_|epoch_)?loss",
            r"(train[_/ ]?|training[_/ ]?|learning/)?loss",
            r"(train/)?epoch_loss",
        ),
        learning_rate=(r"train/epoch_(learning_rate|lr)",),
    ),
)
