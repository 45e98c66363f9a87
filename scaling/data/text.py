"""A folder (or one file) of raw text as bytes: ``{"source": "text", "path": "books", "glob": "**/*.txt"}``.

The tokenizer is the byte: exact, reversible, vocabulary 256, and the loss is bits/byte after division by ln 2. A folder
of at least 20 files is split by the hash of a file's content, as ``stdlib`` is. Fewer or larger files are first cut
into blocks of 64 kB (less for a small text, which needs enough blocks), and the blocks are split by their hash; the
first and the last bytes of an evaluation block, where it touches training text, then belong to neither side. Where the
threshold happens to take less than 1 % or more than 25 % of the bytes, the documents of smallest hash are taken
instead, until they hold 5 %.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from scaling.data import _files
from scaling.data._tokens import Document, TokenSource, below, content_hash, join, split
from scaling.errors import Code, UserError

SMALLEST = 32 * 1024
BLOCK = 64 * 1024
FEW_FILES = 20


@dataclass(frozen=True)
class Config:
    path: str = ""
    """A folder, or one file. Its name is no part of the data's identity."""
    glob: str = "**/*.txt"
    """Which files below the folder."""


def read(config: Config) -> list[tuple[str, bytes]]:
    """(relative posix path, content) of the files, sorted by path, empty ones left out.

    Raises:
      UserError: the path is missing or holds no such file (MISSING), cannot be read (DAMAGED), or holds less than 32 kB
        of text (TOO_FEW).
    """
    files = _files.below(config.path, config.glob, "the folder (or file) of your text")
    try:
        found = [(name, path.read_bytes()) for path, name in files]
    except OSError as error:
        raise UserError("data.path", error.filename, f"cannot be read ({error.strerror})", Code.DAMAGED) from error
    found = sorted((name, content) for name, content in found if content)
    total = sum(len(content) for _, content in found)
    if total < SMALLEST:
        remedy = f"holds {total} bytes; a study needs at least {SMALLEST}"
        raise UserError("data.path", config.path, remedy, Code.TOO_FEW)
    return [("text", content) for _, content in found] if Path(config.path).expanduser().is_file() else found


def _blocks(found: list[tuple[str, bytes]]) -> tuple[list[tuple[str, bytes]], int]:
    """The documents to split (name, content) and how many bytes at their ends an evaluation document gives up."""
    total = sum(len(content) for _, content in found)
    largest = max(len(content) for _, content in found)
    if len(found) >= FEW_FILES and largest <= max(BLOCK, total // 10):
        return found, 0
    size = min(BLOCK, max(SMALLEST // 8, total // 40))
    cut = [
        (f"{name}:{start}", content[start : start + size])
        for name, content in found
        for start in range(0, len(content), size)
    ]
    return cut, size // 64


def make(config: Config) -> TokenSource:
    """Reads and splits the text. Raises UserError as ``read`` does."""
    found = read(config)
    documents, gap = _blocks(found)
    digests = [hashlib.sha256(content).digest() for _, content in documents]
    usable = [len(content) > 2 * gap + 1 for _, content in documents]
    total = sum(len(content) for _, content in documents)
    may = [(digest, len(content)) for (_, content), digest, long in zip(documents, digests, usable) if long]
    threshold = split([digest for digest, _ in may], [size for _, size in may], total)
    held = [below(digest, threshold) and long for digest, long in zip(digests, usable)]
    if all(held):
        remedy = "holds the same text many times over; it cannot be split"
        raise UserError("data.path", config.path, remedy, Code.TOO_FEW)
    train = join([content for (_, content), out in zip(documents, held) if not out])
    evaluation = [
        Document(name, join([content[gap : len(content) - gap]]), digest)
        for (name, content), digest, out in zip(documents, digests, held)
        if out
    ]
    about = {
        "source": "text",
        "sha256": content_hash(found),
        "bytes": sum(len(content) for _, content in found),
        "evaluation_bytes": sum(len(each.tokens) for each in evaluation),
        "files": len(found),
    }
    return TokenSource(train, evaluation, vocab=256, bytes_per_token=1.0, about=about)
