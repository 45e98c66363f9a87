"""Rows of text files: CSV and TSV as spreadsheets of any language write them, JSON Lines, a JSON array of rows."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from analysis.table.names import is_loss
from analysis.table.units import DECIMAL_COMMA, DECIMAL_POINT
from scaling.errors import Code, UserError

_SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # a first line by which Excel is told the separator
_PACKED: dict[bytes, tuple[str, Callable[[BinaryIO], io.BufferedIOBase]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
}
LONGEST = 1 << 26  # bytes of a line
_PIECE = 1 << 20


def text_of(path: Path) -> str:
    """The text of a file: UTF-8, or UTF-16 by its byte order mark or zero bytes; gzip, bzip2 and xz are unpacked.

    Raises:
      UserError: it is neither, or damaged (DAMAGED), or a pipe (INVALID). OSError: it cannot be read.
    """
    if path.is_fifo():  # without a writer, reading would never end
        raise UserError("path", path, "is a pipe; write the table to a file first")
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        name, unpack = next((_PACKED[mark] for mark in _PACKED if start.startswith(mark)), ("", None))
        try:
            data = _pieces(path, file if unpack is None else unpack(file))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            if unpack is None:
                raise
            raise UserError("path", path, f"is damaged {name} ({error}); copy it again", Code.DAMAGED) from error
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        remedy = f"is not {encoding.upper().removesuffix('-SIG')} text ({error.reason}); save it again as UTF-8"
        raise UserError("path", path, remedy, Code.DAMAGED) from error
    if "\0" in text:
        raise UserError("path", path, "holds zero bytes, which no text has; save it again as UTF-8", Code.DAMAGED)
    return text


def encoding_of(data: bytes) -> str:
    """The encoding of a text of which this is all or the beginning: UTF-16 by its mark or zero bytes, else UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = data[:64:2].count(0), data[1:64:2].count(0)
    if min(even, odd) == 0 and 2 * max(even, odd) > len(data[:64:2]):  # of Latin letters every second byte
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8-sig"


def _pieces(path: Path, file: io.BufferedIOBase) -> bytes:
    """The content of a file, which is read no further than the end of a line that is too long."""
    pieces, lines, length = [], 1, 0
    while piece := file.read(_PIECE):
        pieces.append(piece)
        lines += (breaks := piece.count(b"\n"))
        length = len(piece) - piece.rfind(b"\n") - 1 if breaks else length + len(piece)
        if length > LONGEST:
            remedy = f"is longer than {LONGEST:,} bytes; write a row on each line, as CSV or JSON Lines"
            raise UserError("table", f"{path}, line {lines}", remedy, Code.DAMAGED)
    return b"".join(pieces)


def delimited(path: Path, delimiter: str) -> tuple[pd.DataFrame, list[str]]:
    """Cells of a CSV or TSV as text, and the name of each row: its line.

    The separator is what a ``sep=`` line says, else ``delimiter``, or the semicolon or tab of a header that lacks it,
    or white space where every line has as many words as the header, as numpy writes it. Lines that begin with # before
    the header are comments, but a last one with as many separators as the line behind it is the header. Columns
    without a title that are empty in every row are left out, and so is a first one that numbers the rows, as pandas and
    R write it.

    Raises:
      UserError: rows of unequal length, a title twice, cells without a title, no header, a last loss that was cut.
    """
    text, skipped = _without_comments(text_of(path))
    if match := _SEPARATOR.match(text):
        delimiter, text, skipped = match[1], text[match.end() :], skipped + 1
    else:
        first = text.split("\n", 1)[0]
        if delimiter not in first:
            delimiter = next((other for other in ";\t," if other in first), delimiter)
            text = text if delimiter in first else _spaced(text, delimiter)
    cells: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for row in reader:
            if any(cell.strip() for cell in row):
                cells.append(row)
                lines.append(reader.line_num + skipped)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num + skipped}"
        raise UserError("table", where, f"is not a table ({error})", Code.DAMAGED) from error
    while header and not header[-1] and not any(cell.strip() for row in cells for cell in row[len(header) - 1 :]):
        header.pop()
    if header[:1] == [""] and len(header) > 1 and _numbers(row[0] for row in cells):
        header, cells = header[1:], [row[1:] for row in cells]
    _check(path, header, cells, lines)
    kept = [row[: len(header)] for row in cells]
    if not text.endswith(("\n", "\r")) and is_loss(header[-1]):
        _check_end(path, kept, lines)
    if delimiter == ";":
        kept = _with_points(kept)
    return pd.DataFrame(kept, columns=pd.Index(header), dtype=object), [f"line {line}" for line in lines]


def _without_comments(text: str) -> tuple[str, int]:
    """The text from the header on, and how many lines of comments stood before it."""
    skipped = 0
    while text.startswith("#"):
        line, _, rest = text.partition("\n")
        behind = rest.partition("\n")[0]
        if not rest or (not rest.startswith("#") and _alike(line.removeprefix("#"), behind)):
            return text.removeprefix("#").lstrip(" "), skipped
        text, skipped = rest, skipped + 1
    return text, skipped


def _alike(header: str, row: str) -> bool:
    """Whether a line could head a row of numbers: as many separators, or as many words where the row has none."""
    if not any(sign.isdigit() for sign in row):
        return False
    marks = [mark for mark in ",;\t" if mark in row]
    if not marks:
        return len(header.split()) == len(row.split())
    return any(header.count(mark) == row.count(mark) for mark in marks)


def _spaced(text: str, delimiter: str) -> str:
    """Lines of words with ``delimiter`` between them.

    The text as it is where lines differ in their number of words, or have one.
    """
    lines = [line.split() for line in text.splitlines()]
    counts = {len(parts) for parts in lines if parts}
    if delimiter in text or '"' in text or len(counts) != 1 or counts == {1}:
        return text
    return "\n".join(delimiter.join(parts) for parts in lines) + ("\n" if text.endswith(("\n", "\r")) else "")


def _check_end(path: Path, cells: list[list[str]], lines: list[int]) -> None:
    """Refuses a last loss that is shorter than all above it, and by three digits than most: it may have been cut.

    Settings such as 0.00125, 0.0025, 0.1 are written with as many digits as they need, losses as they come.
    """
    last = [row[-1].strip() for row in cells]
    lengths = sorted(map(len, last[:-1]))
    if len(last) < 3 or not all(map(DECIMAL_POINT.fullmatch, last[:-1])):
        return
    if len(last[-1]) >= lengths[0] or len(last[-1]) > lengths[len(lengths) // 2] - 3:
        return
    what = f"has the last number {last[-1]}, shorter than all others, and no end: was the file cut? End the line"
    raise UserError("table", f"{path}, line {lines[-1]}", f"{what}, or delete it", Code.DAMAGED)


def _numbers(cells: Iterable[str]) -> bool:
    """Whether cells are whole numbers that ascend, as those of rows do, some of which may have been selected."""
    found = [int(cell) if cell.strip().isdecimal() else -1 for cell in cells]
    return bool(found) and found[0] >= 0 and all(a < b for a, b in itertools.pairwise(found))


def _with_points(cells: list[list[str]]) -> list[list[str]]:
    """The cells with decimal points for decimal commas, as spreadsheets of many languages write beside semicolons.

    Unchanged where any cell has a decimal point: there a comma is none.
    """
    if any(DECIMAL_POINT.fullmatch(cell.strip()) for row in cells for cell in row):
        return cells
    return [
        [cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell.strip()) else cell for cell in row] for row in cells
    ]


def _check(path: Path, header: list[str], cells: list[list[str]], lines: list[int]) -> None:
    if not header:
        raise UserError("table", path, "is empty; the first line names the columns N, D and loss", Code.MISSING)
    filled = min((sum(bool(cell.strip()) for cell in row) for row in cells), default=0)
    if sum(map(bool, header)) == 1 and filled > 1:
        what = f"has one cell where every row has {filled} or more; delete what stands above the header"
        raise UserError("table", f"{path}, first line", what, Code.DAMAGED)
    for row, line in zip(cells, lines):
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            what = f"has {len(row)} cells where the header has {len(header)}; mend or delete it"
            raise UserError("table", f"{path}, line {line}", what, Code.DAMAGED)
    if not all(header):
        where = f"{path}, column {header.index('') + 1}"
        raise UserError("table", where, "has no title in the first line; name it or delete it", Code.MISSING)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        remedy = "appears twice in the first line; rename one of them"
        raise UserError("column", ", ".join(repeated), remedy, Code.CONFLICT)


def json_lines(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Cells of one JSON object a line, and the name of each row: its line."""
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            remedy = f"is not JSON ({error}); mend or delete it"
            raise UserError("table", f"{path}, line {number}", remedy, Code.DAMAGED) from error
        if not isinstance(row, dict):
            remedy = "is not a JSON object; write one object a line"
            raise UserError("table", f"{path}, line {number}", remedy, Code.DAMAGED)
        rows.append(row)
        lines.append(f"line {number}")
    return pd.DataFrame(rows, dtype=object), lines


def json_array(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Cells of a JSON array of objects, or of an object of columns, and the name of each row: its place from 1."""
    try:
        rows = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise UserError("table", path, f"is not JSON ({error}); mend it", Code.DAMAGED) from error
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)) and not _are_columns(rows):
        remedy = "is not an array of objects; write [{...}, {...}], one object a run"
        if isinstance(rows, dict) and {"kind", "schema"} <= set(rows):
            remedy = f"is a card of kind {rows['kind']}, no table; give the table of runs that it was made from"
        raise UserError("table", path, remedy, Code.DAMAGED)
    frame = pd.DataFrame(rows, dtype=object).reset_index(drop=True)
    return frame, [f"row {i + 1}" for i in range(len(frame))]


def _are_columns(value: Any) -> bool:
    """Whether a JSON value is one object of columns: arrays of one length, or objects of one set of keys, as pandas."""
    if not isinstance(value, dict) or not value:
        return False
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns):
        return len({len(column) for column in columns}) == 1
    return all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns)
