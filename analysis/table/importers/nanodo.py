"""NanoDO and others that log by CLU: lines of the logging writer, ``[100] train_loss=3.2, learning_rate=0.01``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.table.importers.contract import Cell, Entry, Importer, Logged, Names
from analysis.table.importers.source import Source

LINE = re.compile(r".*logging_writer\.py:\d+\] \[(\d+)\] (?:collection=(\S+) )?(.*=.*)")


def recognise(source: Source) -> float | None:
    found = "logging_writer.py" in source.text and any(LINE.match(line) for line in source.beginning)
    return 0.95 if found else None


def read(source: Source) -> Iterator[Entry]:
    for number, line in source.lines():
        if match := LINE.match(line):
            place = f"{match[2]}/" if match[2] else ""
            pairs = [pair.partition("=") for pair in match[3].split(",")]
            values: dict[str, Cell] = {f"{place}{name.strip()}": text.strip() for name, sign, text in pairs if sign}
            yield Logged("", float(match[1]), values, f"line {number}")


IMPORTER = Importer(
    "nanodo",
    "the log of NanoDO and others that write by CLU",
    recognise,
    read,
    Names(loss=(r"eval[_/]loss", r"(train[_/])?loss"), learning_rate=(r"learning_rate",)),
)
