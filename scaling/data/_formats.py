"""What a file holds, told by its first bytes; its name only decides where those leave a choice.

``recognise`` never guesses: what would train as something else than it is (an archive, a pickle, tokens, UTF-16, the
pointer that git LFS leaves) is a UserError with what to do about it. Compressed files are recognised by what is inside.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from scaling.data._extras import need
from scaling.errors import Code, UserError

HEAD = 2**16  # bytes that are looked at
BOM = b"\xef\xbb\xbf"
LLMC = {20240520: (1, "<u2"), 20240801: (7, "<u4")}
"""llm.c's token files: magic of the header (of GPT-2 and of Llama 3), its version, and the type of the tokens."""
CLAIMS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".array_record": "records",
    ".arrayrecord": "records",
}
KINDS = tuple(dict.fromkeys(CLAIMS.values()))
TABLES = ("parquet", "arrow", "records")  # binary; their readers say what is damaged
PACKED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}
PACKINGS = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),  # or a skippable frame before the first
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P)"), "bz2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
    (re.compile(rb"\x04\x22\x4d\x18"), "lz4"),
)
SIGNATURES = (
    (re.compile(rb"PAR1"), "parquet"),
    (re.compile(rb"ARROW1\x00\x00|\xff\xff\xff\xff[^\xff]..\x00", re.DOTALL), "arrow"),  # a file, or a stream
    (re.compile(rb"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f"), "records"),
)
_TOKENS = b"|".join(re.escape(magic.to_bytes(4, "little")) for magic in LLMC)
REFUSED = (
    (rb"PK\x03\x04|PK\x05\x06|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|\x1f\x9d", "is an archive; unpack it first"),
    (rb"\x93NUMPY", "is an array of numpy; write its tokens with tofile, for the source bin"),
    (rb"\x80[\x02-\x05]", "is a pickle, which is never loaded; write its text as JSON Lines"),
    (rb"version https://git-lfs", "is a pointer that git LFS left in place of the file; run git lfs pull"),
    (rb"\xff\xfe|\xfe\xff|\x00\x00\xfe\xff", "is UTF-16 or UTF-32; convert it: iconv -t UTF-8"),
    (rb"%PDF-", "is a PDF; extract its text first"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\*\x00|MM\x00\*", "is a picture; see the source webdataset"),
    (
        rb"Obj\x01|ORC[\x00-\x1f]|FEA1|\x89HDF\r\n|SQLite format 3\x00",
        "is no table that is read; convert it to Parquet",
    ),
    (_TOKENS, "holds tokens of llm.c; train on it as it is, with the source bin"),
)
_REFUSED = tuple((re.compile(pattern, re.DOTALL), remedy) for pattern, remedy in REFUSED)
_CONTROLS = bytes({*range(32), 127} - {*b"\t\n\v\f\r\b\x1b"})
_KEY = rb'"(?:[^"\\]|\\.)*"\s*:'
_OBJECT, _ARRAY = re.compile(rb"\{\s*" + _KEY), re.compile(rb"\[\s*(\{\s*(" + _KEY + rb"|\})|\]\s*$)")
_PAGE = re.compile(rb"<(!doctype\s+html|html|\?xml)", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
AS_TEXT = "or read it as text with --kind=text"


@dataclass(frozen=True)
class Format:
    """What a file holds: its ``kind``, one of ``KINDS``, and how it is compressed, if at all."""

    kind: str
    packing: str = ""

    def __str__(self) -> str:
        return self.kind + (f" ({self.packing})" if self.packing else "")


class OneObject(UserError):
    """The file is one JSON object: it may describe others, as ``metadata.json`` does."""


class _Unpacked(io.BufferedReader):
    """A stream of pyarrow's, read from its beginning; it cannot seek, so ``seek`` reads up to the position."""

    def seek(self, offset: int, whence: int = 0) -> int:
        left = offset
        while left and (block := self.read(min(left, 2**20))):
            left -= len(block)
        return offset - left


def unpack(path: Path, packing: str) -> BinaryIO:
    """Opens a file, decompressed.

    Raises:
      UserError: it needs pyarrow, which is not installed (ENVIRONMENT).
    """
    openers: dict[str, Callable[..., Any]] = {"": open, "gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    if packing in openers:
        return openers[packing](path, "rb")
    arrow = need("pyarrow", path.name)
    raw: Any = arrow.CompressedInputStream(arrow.OSFile(str(path)), packing)
    return _Unpacked(raw)


def claim(name: str) -> str:
    """The kind that a file's name promises, whether compressed or not; empty if it promises none."""
    path = Path(name.lower())
    if path.suffix in PACKED:
        path = path.with_suffix("")
    return CLAIMS.get(path.suffix, "")


def recognise(path: Path, name: str, kind: str = "") -> Format:
    """What a file holds.

    Args:
      name: for messages; its ending decides where the content leaves a choice.
      kind: what the user says that it holds, which is taken instead (compression is still found by content).

    Raises:
      UserError: it is of a kind that is not read (UNSUPPORTED), or cannot be read (DAMAGED).
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
        packing = _packing(head)
        if packing:
            with unpack(path, packing) as file:
                head = file.read(HEAD)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0][:200]
        raise UserError("path", name, f"cannot be read ({reason}); copy it again", Code.DAMAGED) from error
    found = kind or kind_of(head, name, unpacked=bool(packing))
    if packing and found in TABLES:
        raise UserError("path", name, f"is {found}, compressed once more; decompress it", Code.UNSUPPORTED)
    return Format(found, packing)


def _packing(head: bytes) -> str:
    return next((packing for pattern, packing in PACKINGS if pattern.match(head)), "")


def kind_of(head: bytes, name: str, *, unpacked: bool = False) -> str:
    """The kind of a file, one of ``KINDS``.

    Args:
      head: its first ``HEAD`` bytes, decompressed.
      name: as for ``recognise``.
      unpacked: it was compressed.

    Raises:
      UserError: it is of a kind that is not read (UNSUPPORTED).
    """
    promised = claim(name)
    for pattern, found in SIGNATURES:
        if pattern.match(head):
            return found
    for pattern, remedy in _REFUSED:
        if pattern.match(head):
            raise UserError("path", name, remedy, Code.UNSUPPORTED)
    if head[257:262] == b"ustar":
        remedy = "is a tar; unpack it (pictures with captions: see the source webdataset)"
        raise UserError("path", name, remedy, Code.UNSUPPORTED)
    if _packing(head):
        remedy = "is compressed twice; decompress it once" if unpacked else "is compressed; see scaling data prepare"
        raise UserError("path", name, remedy, Code.UNSUPPORTED)
    if promised in TABLES:
        return promised
    if is_binary(head):
        remedy = "holds binary data, no text; tokens of another trainer are for the source bin"
        raise UserError("path", name, remedy, Code.UNSUPPORTED)
    start = head.removeprefix(BOM).lstrip()
    packed = not unpacked and Path(name.lower()).suffix in PACKED
    if _PAGE.match(start) and (packed or promised in ("jsonl", "json", "csv", "tsv")):
        remedy = "is a web page, perhaps instead of a download that failed; download it again"
        raise UserError("path", name, remedy, Code.UNSUPPORTED)
    return _kind_of_text(start, name, promised, whole=len(head) < HEAD)


def is_binary(head: bytes) -> bool:
    """Whether more than one byte in a hundred is a control character that text does not have."""
    return len(head) - len(head.translate(None, _CONTROLS)) > len(head) // 100


def _kind_of_text(start: bytes, name: str, promised: str, *, whole: bool) -> str:
    if _ARRAY.match(start):
        return "json"
    if promised in ("jsonl", "csv", "tsv"):
        return promised
    if _OBJECT.match(start):
        lines = start.split(b"\n")
        complete = lines if whole else lines[:-1]
        objects = [_is_object(line) for line in complete if line.strip()][:20]
        if all(objects):  # none is complete if the first is longer than what was read
            return "jsonl"
        if not objects[0]:
            remedy = f"is one JSON object; write JSON Lines (a document a line) or an array of objects, {AS_TEXT}"
            raise OneObject("path", name, remedy, Code.UNSUPPORTED)
        return "jsonl" if promised == "json" else "text"
    if promised == "json":
        return "json"
    return "csv" if _is_table(start, whole) else "text"


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def delimiter(header: str) -> str:
    """The separator of a table's cells, by its first line."""
    return max(",\t;|", key=header.count)


def _is_table(start: bytes, whole: bool) -> bool:
    """Whether a text without a telling name is a table: names in its first line, and as many cells in all others."""
    lines = start.decode("utf-8", "replace").split("\n")
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter(lines[0])) if row]
    except csv.Error:
        return False
    rows = rows if whole else rows[:-1]
    header = rows[0] if rows else []
    named = len(header) > 1 and len(set(header)) == len(header) and all(_NAME.fullmatch(cell) for cell in header)
    return named and len(rows) > 2 and all(len(row) == len(header) for row in rows)
