"""Reads documents from files, in order and from any position: plain text, JSON, CSV, Parquet, Arrow, ArrayRecord.

A document is UTF-8 text (bytes), or tokens from a column of integer lists. A position is one integer: the next byte of
a (decompressed) file of text, JSON or CSV, the next row of the others. So reading resumes after a crash where it
stopped, and only a row (or a piece of text) is in memory at a time. ``_formats`` tells by its content what a file is.

Arrow files are those of ``datasets.Dataset.save_to_disk``, or Feather. pyarrow reads them and Parquet without Hugging
Face's ``datasets``.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scaling.data import _files, _formats
from scaling.data._extras import need
from scaling.data._formats import Format
from scaling.errors import Code, UserError

ROWS = 256  # rows of a table that are in memory at once
LARGE, SMALL, SMALLEST, FEW = 2**20, 2**16, 2**12, 20


BLOCK, LONGEST = 2**20, 2**30  # characters of a JSON array that are read at once; of one of its elements
_GAP = re.compile(r"\s*[\[,]?\s*")  # before an element of an array
OWN = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"))  # of saved data sets


@dataclass(frozen=True)
class Input:
    """One input file; ``name`` is relative to the given path, and is used in messages and manifests.

    ``asked`` is the kind that the user gave, if any.
    """

    path: Path
    name: str
    asked: str = ""

    @functools.cached_property
    def format(self) -> Format:
        """What it holds; raises UserError as ``_formats.recognise`` does."""
        return _formats.recognise(self.path, self.name, self.asked)

    @property
    def kind(self) -> str:
        return self.format.kind

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        return _formats.unpack(self.path, self.format.packing)


@dataclass(frozen=True)
class Found:
    """The ``files`` of some paths, and those of folders that were left out.

    Attributes:
      held: files named test or validation. unknown: files of other names than those of known formats.
      lacking: JSON and CSV files that are empty, one object, or without the column, beside others that have documents.
    """

    files: list[Input]
    held: list[str]
    unknown: list[str]
    lacking: list[str]


def inputs(paths: Sequence[str], pattern: str = "") -> list[Input]:
    """The files at ``paths``; see ``find``."""
    return find(paths, pattern).files


def find(
    paths: Sequence[str], pattern: str = "", *, kind: str = "", column: str = "", evaluation: bool = False
) -> Found:
    """The files at ``paths``, those of a folder sorted.

    Args:
      paths: files and folders.
      pattern: glob pattern of the files of a folder; empty for the names of all supported formats. Files named test or
        validation are only taken by a pattern that says so.
      kind: what the files hold, for ``Input.asked``.
      column: if given, JSON and CSV files of a folder that are one object or have no such column are left out beside
        others that have: they describe those, as ``metadata.json`` or ``labels.csv`` do.
      evaluation: the files are for evaluation, so any name will do.

    Raises:
      UserError: a path does not exist or has no such file (MISSING), or all files are empty (TOO_FEW).
    """
    found = Found([], [], [], [])
    for given in paths:
        root = Path(given).expanduser()
        if root.is_file():
            found.files.append(Input(root, root.name, kind))
            continue
        if not root.is_dir():
            remedy = "is not there; give files or folders of text, JSON Lines, CSV, Parquet or Arrow"
            raise UserError("path", given, remedy, Code.MISSING)
        names = {path.relative_to(root).as_posix(): path for path in _files.matching(root, pattern or "**/*", "glob")}
        known = [name for name in names if pattern or _known(names[name])]
        if not pattern and any(_formats.claim(name) != "text" for name in known):
            known = [name for name in known if name.lower() != "readme.md"]  # it describes the others
        taken, apart = (known, []) if evaluation else _files.apart(known, pattern)
        if not taken:
            remedy = f"holds no {pattern or ', '.join(_formats.CLAIMS)} file; give a pattern such as --glob='**/*.py'"
            if apart:
                remedy = f"holds only test or validation files ({apart[0]}); give their folder itself to train on them"
            raise UserError("path", given, remedy, Code.MISSING)
        listed = [Input(names[name], name, kind) for name in taken]
        files, lacking = (listed, []) if pattern or kind or not column else _with_documents(listed, column)
        found.files.extend(files)
        found.held.extend(apart)
        found.lacking.extend(lacking)
        said = frozenset(known)
        found.unknown.extend(name for name in names if name not in said and not _own(names[name]))
    if not sum(input_file.size for input_file in found.files):
        raise UserError("path", " ".join(paths), "is empty; give files that hold text", Code.TOO_FEW)
    return found


def _with_documents(listed: list[Input], column: str) -> tuple[list[Input], list[str]]:
    """The files to read, and the names of the JSON and CSV files left out: empty, one object, or without the column.

    If that leaves none, all are read. A file that is refused for another reason stays, so that its error is raised.
    """
    kept, lacking = [], []
    for input_file in listed:
        if _formats.claim(input_file.name) in ("json", "csv", "tsv") and _lacks(input_file, column):
            lacking.append(input_file.name)
        else:
            kept.append(input_file)
    return (kept, lacking) if kept else (listed, [])


def _lacks(input_file: Input, column: str) -> bool:
    try:
        next(documents(input_file, column, SMALLEST), None)
        with input_file.open() as file:
            return not file.read(1)
    except UserError as error:
        return error.code is Code.MISSING or isinstance(error, _formats.OneObject)


def _own(path: Path) -> bool:
    """Whether the file describes a data set that ``datasets`` saved, or is of its cache."""
    return path.name in OWN or path.name.startswith("cache-")


def _known(path: Path) -> bool:
    return bool(_formats.claim(path.name)) and not _own(path)


def piece(files: Sequence[Input]) -> int:
    """Bytes above which plain text is cut into documents: 1 MiB for many files, less for a few."""
    if len(files) >= FEW:
        return LARGE
    return min(SMALL, max(SMALLEST, sum(input_file.size for input_file in files) // 40))


def documents(
    input_file: Input, column: str, cut: int, start: int = 0, *, tolerant: bool = False
) -> Iterator[tuple[Any, int]]:
    """Yields (document, position of the next one) from position ``start`` on. The document of a null row is None.

    Args:
      column: for JSON, CSV, Parquet and Arrow.
      cut: plain text is cut into documents of at most this many bytes, preferably at the end of a line.
      tolerant: yield the UserError of a row that is damaged, or has no such column, in place of its document.

    Raises:
      UserError: the file is of a kind that is not read (UNSUPPORTED), cannot be read or is damaged (DAMAGED), or has no
        such column (MISSING).
    """
    readers = {"text": _text, "jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _csv}
    read = (readers | {"parquet": _parquet, "arrow": _arrow, "records": _records})[input_file.kind]
    try:
        for document, after in read(input_file, cut if input_file.kind == "text" else column, start):
            if isinstance(document, UserError) and not tolerant:
                raise document
            yield document, after
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, csv.Error) as error:  # pyarrow's are the first
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
    """A document of a cell's value, or the UserError that says why it is none."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, list) and all(type(token) is int for token in value):
        return np.array(value, np.int64)
    remedy = f"holds {type(value).__name__}, neither text nor a list of tokens"
    return UserError(f"column {column}", where(), remedy, Code.DAMAGED)


def _jsonl(input_file: Input, column: Any, start: int) -> Iterator[tuple[Any, int]]:
    number, before = 0, functools.cache(functools.partial(_count_lines, input_file, start))  # only damage asks for it

    def where() -> str:
        return f"{input_file.name}, line {before() + number}"

    with input_file.open() as file:
        file.seek(start)
        for line in file:
            number, start = number + 1, start + len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                remedy = f"is not JSON ({error}); mend or delete it, or allow for it with --damaged"
                yield UserError("path", where(), remedy, Code.DAMAGED), start
                continue
            yield _field(row, column, where), start


def _count_lines(input_file: Input, end: int) -> int:
    """Lines that end in the first ``end`` bytes of a file."""
    lines = 0
    with input_file.open() as file:
        while end and (block := file.read(min(BLOCK, end))):
            lines, end = lines + block.count(b"\n"), end - len(block)
    return lines


def _field(row: Any, column: str, where: Callable[[], str]) -> Any:
    if not isinstance(row, dict) or column not in row:
        has = ", ".join(row) if isinstance(row, dict) else f"a {type(row).__name__}"
        remedy = f"is not in {where()}, which has {has}; name one that it has"
        return UserError("column", column, remedy, Code.MISSING)
    return _value(row[column], where, column)


def _json(input_file: Input, column: Any, start: int) -> Iterator[tuple[Any, int]]:
    """The objects of one JSON array. A position is the byte after an object. An empty file has none."""
    parse, decoder = json.JSONDecoder().raw_decode, codecs.getincrementaldecoder("utf-8")()
    with input_file.open() as file:
        file.seek(start)
        text, at, more = "", 0, True
        while True:
            begin = _gap(text, at)
            if text[begin : begin + 1] == "]" and not text[begin + 1 :].strip():
                return
            try:
                row, end = parse(text, begin)
                if end == len(text) and more:
                    raise ValueError("may go on")
            except ValueError as error:
                if not more and not start and not text:
                    return
                if not more or len(text) - at > LONGEST:
                    where = f"{input_file.name}, after byte {start}"
                    remedy = f"is not an array of JSON objects ({error}); mend it, or write JSON Lines"
                    raise UserError("path", where, remedy, Code.DAMAGED) from error
                block = file.read(max(BLOCK, len(text) - at))
                text, at, more = text[at:] + decoder.decode(block, final=not block), 0, bool(block)
                continue
            start += len(text[at:end].encode())
            at = end
            yield _field(row, column, lambda end=start: f"{input_file.name}, before byte {end}"), start


def _gap(text: str, at: int) -> int:
    found = _GAP.match(text, at + text.startswith("\ufeff", at))
    return found.end() if found else at


def _csv(input_file: Input, column: Any, start: int) -> Iterator[tuple[Any, int]]:
    """Rows of a table in text, the first of which names the columns. A position is the byte after a row."""
    csv.field_size_limit(sys.maxsize)  # the default refuses documents above 128 kB
    position = 0

    def lines(file: BinaryIO) -> Iterator[str]:
        nonlocal position
        for line in file:
            position += len(line)
            yield line.decode("utf-8-sig" if position == len(line) else "utf-8")

    with input_file.open() as file:
        first = file.readline().decode("utf-8-sig", "replace")
    if not first:  # an empty file: no table, and no documents
        return
    separator = "\t" if input_file.kind == "tsv" else _formats.delimiter(first)
    with input_file.open() as file:
        header = next(csv.reader(lines(file), delimiter=separator, strict=True), [])
        if header.count(column) != 1:
            remedy = (
                f"is {'not' if column not in header else 'twice'} in {input_file.name}, which has {', '.join(header)}"
            )
            raise UserError("column", column, f"{remedy}; name one of these, {_formats.AS_TEXT}", Code.MISSING)
    with input_file.open() as file:
        file.seek(position := max(start, position))
        for row in csv.reader(lines(file), delimiter=separator, strict=True):
            if row and len(row) != len(header):
                where = f"{input_file.name}, before byte {position}"
                remedy = f"has {len(row)} cells where the first line has {len(header)}; mend or delete the row"
                yield UserError("path", where, f"{remedy}, or allow for it with --damaged", Code.DAMAGED), position
            elif row:
                yield _value(row[header.index(column)], lambda: input_file.name, column), position


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
    with arrow_file(input_file) as (names, batches):
        _has(column, names, input_file)
        row = 0
        for batch in batches:
            for begin in range(0, batch.num_rows, ROWS):
                part = batch.slice(begin, ROWS)
                if row + part.num_rows > start:
                    yield from _rows(part, column, row, start, input_file)
                row += part.num_rows


@contextlib.contextmanager
def arrow_file(input_file: Input) -> Iterator[tuple[list[str], Iterator[Any]]]:
    """Names of the columns and the batches of an Arrow file, memory-mapped: a stream, or a file (Feather)."""
    arrow = need("pyarrow", input_file.name)
    with arrow.memory_map(str(input_file.path)) as mapped:
        seekable = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        with (arrow.ipc.open_file if seekable else arrow.ipc.open_stream)(mapped) as file:
            count = file.num_record_batches if seekable else 0
            yield file.schema.names, (file.get_batch(number) for number in range(count)) if seekable else iter(file)


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
