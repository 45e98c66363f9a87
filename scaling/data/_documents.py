"""Reads documents from files, in order and from any position: plain text, JSON Lines, Parquet, Arrow, ArrayRecord.

A document is UTF-8 text (bytes), or tokens from a column of integer lists. A position is one integer: the next byte of
a (decompressed) text or JSON Lines file, the next row of the others. So reading resumes after a crash where it stopped,
and only a row (or a piece of text) is in memory at a time.

Arrow files are those of ``datasets.Dataset.save_to_disk``. pyarrow reads them and Parquet without Hugging Face's
``datasets``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scaling.data import _files
from scaling.data._extras import need
from scaling.errors import Code, UserError

KINDS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".array_record": "records",
    ".arrayrecord": "records",
}
ROWS = 256  # rows of a table that are in memory at once
LARGE, SMALL, SMALLEST, FEW = 2**20, 2**16, 2**12, 20


@dataclass(frozen=True)
class Input:
    """One input file; ``name`` is relative to the given path, and is used in messages and manifests."""

    path: Path
    name: str

    @property
    def kind(self) -> str:
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        if suffixes[-1:] == [".gz"]:
            suffixes.pop()
        return KINDS.get(suffixes[-1] if suffixes else "", "text")

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        opener: Any = gzip.open if self.path.suffix.lower() == ".gz" else open
        return opener(self.path, "rb")


def inputs(paths: Sequence[str], pattern: str = "") -> list[Input]:
    """The files at ``paths``, those of a folder sorted.

    Args:
      paths: files and folders.
      pattern: glob pattern of the files of a folder; empty for all supported formats.

    Raises:
      UserError: a path does not exist or has no such file (MISSING), or all files are empty (TOO_FEW).
    """
    files = []
    for given in paths:
        root = Path(given).expanduser()
        if root.is_file():
            files.append(Input(root, root.name))
            continue
        if not root.is_dir():
            remedy = "is not there; give files or folders of text, jsonl, parquet or arrow"
            raise UserError("path", given, remedy, Code.MISSING)
        below = _files.matching(root, pattern or "**/*", "glob")
        # A saved data set also has json files, and cache files with the prefix that _known excludes.
        known = [path for path in below if pattern or _known(path)]
        if not known:
            remedy = f"holds no {pattern or ', '.join(KINDS)} file; give a pattern such as --glob='**/*.py'"
            raise UserError("path", given, remedy, Code.MISSING)
        files += [Input(path, path.relative_to(root).as_posix()) for path in known]
    if not sum(input_file.size for input_file in files):
        raise UserError("path", " ".join(paths), "is empty; give files that hold text", Code.TOO_FEW)
    return files


def _known(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix in KINDS and not name.startswith("cache-")


def piece(files: Sequence[Input]) -> int:
    """Bytes above which plain text is cut into documents: 1 MiB for many files, less for a few."""
    if len(files) >= FEW:
        return LARGE
    return min(SMALL, max(SMALLEST, sum(input_file.size for input_file in files) // 40))


def documents(input_file: Input, column: str, cut: int, start: int = 0) -> Iterator[tuple[Any, int]]:
    """Yields (document, position of the next one) from position ``start`` on. The document of a null row is None.

    Args:
      column: for JSON Lines, Parquet and Arrow.
      cut: plain text is cut into documents of at most this many bytes, preferably at the end of a line.

    Raises:
      UserError: the file cannot be read or is damaged (DAMAGED), or has no such column (MISSING).
    """
    read = {"text": _text, "jsonl": _jsonl, "parquet": _parquet, "arrow": _arrow, "records": _records}[input_file.kind]
    try:
        yield from read(input_file, cut if input_file.kind == "text" else column, start)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # pyarrow's errors are OSErrors or ValueErrors
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:200]
        raise UserError("path", input_file.name, f"cannot be read ({reason}); copy it again", Code.DAMAGED) from error


def _text(input_file: Input, cut: Any, start: int) -> Iterator[tuple[Any, int]]:
    with input_file.open() as file:
        file.seek(start)
        block = b""
        while block := block + file.read(cut + 1 - len(block)):
            end = _cut(block, cut) if len(block) > cut else len(block)
            start += end
            yield block[:end], start
            block = block[end:]


def _cut(block: bytes, cut: int) -> int:
    """Where to end a piece: after the last line or space in its second half; else between two characters."""
    for mark in (b"\n", b" "):
        if (end := block.rfind(mark, 0, cut) + 1) > cut // 2:
            return end
    back = 0
    while back < 3 and block[cut - back] & 0xC0 == 0x80:
        back += 1
    return cut - back


def _value(value: Any, where: Callable[[], str], column: str) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, list) and all(type(token) is int for token in value):
        return np.array(value, np.int64)
    remedy = f"holds {type(value).__name__}, neither text nor a list of tokens"
    raise UserError(f"column {column}", where(), remedy, Code.DAMAGED)


def _jsonl(input_file: Input, column: Any, start: int) -> Iterator[tuple[Any, int]]:
    begin = start

    def where() -> str:
        with input_file.open() as again:
            return f"{input_file.name}, line {again.read(begin).count(10) + 1}"

    with input_file.open() as file:
        file.seek(start)
        for line in file:
            begin, start = start, start + len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                remedy = f"is not JSON ({error}); mend or delete it"
                raise UserError("path", where(), remedy, Code.DAMAGED) from error
            if not isinstance(row, dict) or column not in row:
                has = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
                remedy = f"is not in {where()}, which has {has}; name one that it has"
                raise UserError("column", column, remedy, Code.MISSING)
            yield _value(row[column], where, column), start


def _parquet(input_file: Input, column: Any, start: int) -> Iterator[tuple[Any, int]]:
    parquet = need("pyarrow.parquet", input_file.name)
    with parquet.ParquetFile(input_file.path) as file:
        _has(column, file.schema_arrow.names, input_file)
        row = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row + count <= start:
                row += count
                continue
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column]):
                yield from _rows(batch, column, row, start, input_file)
                row += batch.num_rows


def _arrow(input_file: Input, column: Any, start: int) -> Iterator[tuple[Any, int]]:
    arrow = need("pyarrow", input_file.name)
    with arrow.memory_map(str(input_file.path)) as mapped, arrow.ipc.open_stream(mapped) as file:
        _has(column, file.schema.names, input_file)
        row = 0
        for batch in file:
            for begin in range(0, batch.num_rows, ROWS):
                part = batch.slice(begin, ROWS)
                if row + part.num_rows > start:
                    yield from _rows(part, column, row, start, input_file)
                row += part.num_rows


def _has(column: str, names: Sequence[str], input_file: Input) -> None:
    if column not in names:
        remedy = f"is not in {input_file.name}, which has {', '.join(names)}; name one of these"
        raise UserError("column", column, remedy, Code.MISSING)


def _rows(batch: Any, column: str, row: int, start: int, input_file: Input) -> Iterator[tuple[Any, int]]:
    values = batch.column(batch.schema.get_field_index(column)).to_pylist()
    for number, value in enumerate(values, row):
        if number >= start:
            yield _value(value, lambda number=number: f"{input_file.name}, row {number}", column), number + 1


def _records(input_file: Input, column: Any, start: int) -> Iterator[tuple[Any, int]]:
    module = need("array_record.python.array_record_data_source", input_file.name)
    try:
        with module.ArrayRecordDataSource([str(input_file.path)]) as source:
            for row in range(start, len(source), ROWS):
                for record in source.__getitems__(range(row, min(row + ROWS, len(source)))):
                    row += 1
                    yield record, row
    except RuntimeError as error:
        remedy = f"is damaged or not an ArrayRecord ({str(error)[:150]}); copy it again"
        raise UserError("path", input_file.name, remedy, Code.DAMAGED) from error
