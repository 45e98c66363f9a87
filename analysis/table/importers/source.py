"""A file that is imported: what kind it is by its content, and its lines, rows or document, read as a stream."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

from analysis.table.importers.contract import Cell, Skipped
from analysis.table.text_files import encoding_of
from analysis.table.units import DECIMAL_COMMA, DECIMAL_POINT
from scaling.errors import STORAGE, Code, UserError, choose, library

HEAD = 1 << 18  # bytes of a file's beginning by which it is recognised; some logs begin with a program
LONGEST = 1 << 26  # bytes of a line or of a JSON document that are read at most
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of terminals
WIDE = 1000  # characters of a line by which a printed log is recognised
FEW = 20  # rows whose columns are looked at
DEEPEST = 8  # nested objects whose values are read
PACKED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
UNPACK = (EOFError, zlib.error, lzma.LZMAError)  # what a damaged archive raises beside OSError
Kind = Literal["empty", "binary", "parquet", "xlsx", "json", "jsonl", "csv", "text"]
Row = tuple[str, dict[str, Cell]]


class Source:
    """One file.

    Args:
      path: the file.
      run: what its run is called, where the file does not say.
      sheet: of an Excel file; by default its only one.
      step: the name of the step, where the user says it; it comes before those that the importer knows.

    Attributes:
      axis: the name under which the steps were found, once they are read; None where steps have no name.
      cut: where a printed log ends within a line, which is left out, once it is read; None where it does not.

    Raises:
      UserError: the path is a pipe, or cannot be read; from everything that reads.
    """

    def __init__(self, path: Path, run: str = "", sheet: str | None = None, step: str | None = None):
        self.path, self.run, self.sheet, self.step = path, run, sheet, step
        self.axis: str | None = None
        self.cut: str | None = None
        self._ended = True  # whether the line that was read last has an end

    def forget(self) -> None:
        """Drops the beginning of the file, which is read again if it is needed again: of many files, one is kept."""
        for name in ("head", "text", "beginning"):
            self.__dict__.pop(name, None)

    @cached_property
    def head(self) -> bytes:
        """The beginning, unpacked."""
        with self.open() as file:
            return file.read(HEAD)

    @cached_property
    def text(self) -> str:
        """The beginning as text; empty if the file is binary."""
        if b"\0" in self.head and not self._utf16:
            return ""
        return COLOUR.sub("", io.TextIOWrapper(io.BytesIO(self.head), self._encoding, errors="replace").read())

    @cached_property
    def beginning(self) -> list[str]:
        """The lines at the beginning, each cut at ``WIDE`` characters; none if the file is binary."""
        return [line[:WIDE] for line in self.text.splitlines()]

    @property
    def _utf16(self) -> bool:
        return self._encoding.startswith("utf-16")

    @property
    def _encoding(self) -> str:
        return encoding_of(self.head)

    @cached_property
    def kind(self) -> Kind:
        """What the file holds, by its content."""
        if not self.head.strip():
            return "empty"
        if self.head.startswith(b"PAR1"):
            return "parquet"
        if self.head.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in self.head:
            return "xlsx"
        if not self.text:
            return "binary"
        lines = [line for line in self.text.splitlines() if line.strip()]
        if lines[0].lstrip().startswith(("{", "[")):
            first = _loads(lines[0])
            if isinstance(first, dict) and (len(lines) > 1 or "step" in first):
                return "jsonl"
            return "json" if _starts_json(self.text) else "text"
        names, _ = self._header(line + "\n" for line in lines[:2])
        return "csv" if len(names) > 1 and all(names[1:]) else "text"

    @cached_property
    def delimiter(self) -> str:
        """Of a CSV: what its ``sep=`` line says, or the first of comma, semicolon and tab in its header."""
        first = self.text.lstrip().split("\n", 1)[0]
        if first.lower().startswith("sep=") and len(first.strip()) == 5:
            return first[4]
        return next((mark for mark in ",;\t" if mark in first), ",")

    @cached_property
    def decimal_comma(self) -> bool:
        """Whether the numbers of a CSV have a decimal comma: some at its beginning do, and none has a point."""
        if self.delimiter == ",":
            return False
        cells = [cell.strip() for line in self.text.splitlines()[1:] for cell in line.split(self.delimiter)]
        return any(map(DECIMAL_COMMA.fullmatch, cells)) and not any(map(DECIMAL_POINT.fullmatch, cells))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a table, those of the first rows for JSON; none if the file is no table."""
        if self.kind == "csv":
            return tuple(self._header(io.StringIO(self.text))[0])
        if self.kind == "parquet":
            return tuple(str(name) for name in self._parquet().schema_arrow.names)
        if self.kind == "xlsx":
            return tuple(name for name in next(self._cells(), ("", ()))[1] if name)
        if self.kind not in ("jsonl", "json"):
            return ()
        rows = [_loads(line) for line in self.text.splitlines()[:FEW]] if self.kind == "jsonl" else self._first()
        return tuple(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))

    def _first(self) -> list[Any]:
        """The objects at the beginning of a JSON array, or its only object; none where they do not fit in the head."""
        text = self.text.lstrip()
        decoder, found, at = json.JSONDecoder(), [], 1 if text.startswith("[") else 0
        while len(found) < FEW:
            try:
                value, end = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip(" \t\r\n,")))
            except (ValueError, RecursionError):
                break
            found.append(value)
            at = end
        return found

    def lines(self) -> Iterator[tuple[int, str]]:
        """Number and text of each line of a printed log; a last one without an end is cut, perhaps within a number."""
        for number, line in self._lines():
            if self._ended:
                yield number, line
            else:
                self.cut = f"line {number}"

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Number and text of each line; one that is longer than ``LONGEST`` is an error."""
        with self.open() as file:
            reader = io.TextIOWrapper(file, encoding=self._encoding, errors="replace", newline=None)
            number = 0
            while line := reader.readline(LONGEST):
                number += 1
                if len(line) >= LONGEST:
                    raise self.damaged(f"line {number} is longer than {LONGEST:,} characters")
                self._ended = line.endswith("\n")
                line = line.rstrip("\n")
                yield number, COLOUR.sub("", line) if "\x1b" in line else line

    def objects(self) -> Iterator[tuple[str, dict[str, object]] | Skipped]:
        """The objects of JSON Lines, or of a JSON array; a line that is none is skipped."""
        if self.kind != "jsonl":
            found = self.document()
            for number, row in enumerate(found if isinstance(found, list) else [found], start=1):
                yield (f"row {number}", row) if isinstance(row, dict) else Skipped("damaged", f"row {number}")
            return
        for number, line in self._lines():
            if not line.strip():
                continue
            value = _loads(line)
            yield (f"line {number}", value) if isinstance(value, dict) else self._unread(f"line {number}")

    def document(self) -> Any:
        """The whole file as a JSON value.

        Raises:
          UserError: it is none (DAMAGED).
        """
        with self.open() as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise self.damaged(f"is a JSON value of more than {LONGEST:,} bytes; write it as JSON Lines")
        try:
            return json.loads(data.decode(self._encoding), parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"is not JSON ({str(error)[:100]})") from error

    def rows(self) -> Iterator[Row | Skipped]:
        """The rows of a table by their columns, whatever the file is: CSV, Parquet, Excel, JSON Lines, a JSON array."""
        if self.kind == "parquet":
            yield from self._parquet_rows()
        elif self.kind == "csv":
            yield from self._csv_rows()
        elif self.kind == "xlsx":
            yield from self._excel_rows()
        elif self.kind in ("json", "jsonl"):
            for row in self.objects():
                yield row if isinstance(row, Skipped) else (row[0], flat(row[1]))

    def damaged(self, problem: str) -> UserError:
        """The error of a file that cannot be used."""
        return UserError("path", self.path, f"{problem}; write or copy it again", Code.DAMAGED)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes of the file, unpacked."""
        if self.path.is_fifo() or not (self.path.is_file() or self.path.is_dir()):  # reading a pipe may never end
            known = self.path.exists()
            remedy = "is no regular file; write the log to one" if known else "does not exist"
            raise UserError("path", self.path, remedy, Code.INVALID if known else Code.MISSING)
        try:
            with self.path.open("rb") as file:
                start = file.peek(6)
                opened = next((unpack for magic, unpack in PACKED.items() if start.startswith(magic)), None)
                if opened is None:
                    yield file
                else:
                    with opened(file) as unpacked:
                        yield unpacked
        except UNPACK as error:
            raise self.damaged(f"is a damaged archive ({error})") from error
        except OSError as error:
            code = Code.ENVIRONMENT if error.errno in STORAGE else Code.DAMAGED
            reason = error.strerror or str(error)
            raise UserError("path", self.path, f"cannot be read ({reason})", code) from error
        except UnicodeError as error:
            raise self.damaged("is not text of the encoding that it begins with") from error

    def _header(self, lines: Any) -> tuple[list[str], Any]:
        """Titles of a CSV, and a reader that stands behind them."""
        csv.field_size_limit(LONGEST)  # a cell may hold a whole configuration
        reader = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True)
        names = next((row for row in reader if any(row) and not row[0].lower().startswith("sep=")), [])
        names = [name.strip() for name in names]
        while names and not names[-1]:
            names.pop()
        return names, reader

    def _checked(self, names: Sequence[str]) -> None:
        """Raises a UserError (CONFLICT) where a title names two columns, of which only one could be read."""
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UserError("column", ", ".join(twice), "appears twice in the header; rename one", Code.CONFLICT)

    def _csv_rows(self) -> Iterator[Row | Skipped]:
        names, reader = self._header(line + "\n" for _, line in self._lines())
        self._checked(names)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise self.damaged(f"is no CSV at line {reader.line_num} ({error})") from error
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            where = f"line {reader.line_num}"
            if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
                yield self._unread(where)
                continue
            if not self._ended:
                yield Skipped("unended", where)
            yield where, {name: self._pointed(cell.strip()) or None for name, cell in zip(names, cells) if name}

    def _pointed(self, cell: str) -> str:
        """A cell with a decimal point for a decimal comma."""
        return cell.replace(",", ".") if self.decimal_comma and DECIMAL_COMMA.fullmatch(cell) else cell

    def _unread(self, where: str) -> Skipped:
        """What is said of a line that cannot be read: that the file is cut there, if the line has no end."""
        return Skipped("damaged" if self._ended else "truncated", where)

    def _parquet(self) -> Any:
        parquet = library("pyarrow.parquet", "data", "path", self.path)
        try:
            return parquet.ParquetFile(self.path)
        except (ValueError, OSError) as error:  # what pyarrow raises is one of them
            raise self.damaged("is no Parquet that can be read") from error

    def _parquet_rows(self) -> Iterator[Row]:
        number = 0
        self._checked(self.columns)
        try:
            for batch in self._parquet().iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", flat(row)
        except (ValueError, OSError) as error:  # of pages, which are unpacked as they are read
            raise self.damaged(f"is no Parquet that can be read after row {number}") from error

    def _cells(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Rows of a sheet as texts, from its header: what stands above a table in one cell is a title."""
        rows = self._filled()
        above = list(itertools.islice(rows, FEW))
        header = next((i for i, (_, cells) in enumerate(above) if sum(map(bool, cells)) > 1), 0)
        return itertools.chain(above[header:], rows)

    def _filled(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Rows of a sheet as texts, without those that are empty."""
        openpyxl = library("openpyxl", "data", "path", self.path)
        book = None
        try:
            book = openpyxl.load_workbook(self.path, read_only=True, data_only=True)
            titles = [sheet.title for sheet in book.worksheets]
            if self.sheet is not None and self.sheet not in titles:
                raise UserError(
                    "sheet", self.sheet, f"is not in {self.path}; {choose(self.sheet, titles)}", Code.UNKNOWN
                )
            if self.sheet is None and len(titles) != 1:
                remedy = f"has the sheets {', '.join(titles)}; say which one with --sheet"
                raise UserError("path", self.path, remedy, Code.CONFLICT)
            for number, row in enumerate(book[self.sheet or titles[0]].iter_rows(values_only=True), start=1):
                if any(cell is not None for cell in row):
                    yield f"row {number}", tuple("" if cell is None else str(cell).strip() for cell in row)
        except UserError:
            raise
        except Exception as error:  # the library lets errors of zip, XML and its own parsers through, also of a row
            raise self.damaged(f"is no Excel file that can be read ({type(error).__name__})") from error
        finally:
            if book is not None:
                book.close()

    def _excel_rows(self) -> Iterator[Row]:
        rows = self._cells()
        _, names = next(rows, ("", ()))
        self._checked([name for name in names if name])
        for where, cells in rows:
            yield where, {name: cell or None for name, cell in zip(names, cells) if name}


def flat(value: Any, prefix: str = "") -> dict[str, Cell]:
    """Nested objects as cells named ``outer/inner``; lists and other values that are no cells are left out."""
    cells: dict[str, Cell] = {}
    for name, inner in value.items():
        whole = f"{prefix}{name}"
        if isinstance(inner, dict) and prefix.count("/") < DEEPEST:
            cells |= flat(inner, f"{whole}/")
        elif inner is None or isinstance(inner, str | bool | int | float):
            cells[whole] = inner
    return cells


def _integer(text: str) -> float:
    """An integer of JSON; too long ones, which Python refuses, as floats."""
    return int(text) if len(text) < 19 else float(text)


def _loads(line: str) -> Any:
    try:
        return json.loads(line, parse_int=_integer)
    except (ValueError, RecursionError):
        return None


def _starts_json(text: str) -> bool:
    """Whether a text begins as JSON does: with an object or an array of values."""
    start = "".join(text.split()[:2])[:2]
    return start[1:] in {"{": ('"', "}"), "[": ("{", "[", "]")}.get(start[:1], ())
