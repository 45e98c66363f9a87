"""A folder (or one file) of raw text as bytes: ``{"source": "text", "path": "books", "glob": "**/*.txt"}``.

The tokenizer is the byte: exact, reversible, vocabulary 256, and the loss is bits/byte after division by ln 2. A folder
of at least 20 files is split by the hash of a file's content, as in ``stdlib``. Fewer or larger files are first cut
into blocks of 64 kB (smaller for a small text, so that there are enough), and the blocks are split by their hash; the
first and last bytes of an evaluation block, next to training text, then belong to neither side. If the threshold
happens to select less than 1 % or more than 25 % of the bytes, the documents of smallest hash that hold 5 % are
selected instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from scaling.data import _files, _formats
from scaling.data._remarks import Remark, remark
from scaling.data._tokens import Document, TokenSource, below, content_hash, join, split
from scaling.errors import Code, UserError
from scaling.settings import check, setting

SMALLEST = 32 * 1024
BLOCK = 64 * 1024
FEW_FILES = 20


@dataclass(frozen=True)
class Config:
    path: str = ""
    """A folder, or one file. Its name is not part of the data's identity."""
    glob: str = "**/*.txt"
    """Glob pattern of the files in the folder."""
    kind: str = setting("auto", choices=("auto", "text"))
    """auto: files that hold JSON Lines, tables or archives are refused; text: their bytes are trained on as such."""

    def __post_init__(self):
        check(self, "data")


def read(config: Config) -> tuple[list[tuple[str, bytes]], tuple[Remark, ...]]:
    """(relative posix path, content) of the files, sorted by path; empty files are skipped. And what to say of them.

    Raises:
      UserError: the path is missing or holds no such file (MISSING), cannot be read (DAMAGED), holds another thing than
        text (UNSUPPORTED), or less than 32 kB of it (TOO_FEW).
    """
    found = _files.below(config.path, config.glob, "the folder (or file) of your text")
    try:
        texts = [(name, path.read_bytes()) for path, name in found.files]
    except OSError as error:
        raise UserError("data.path", error.filename, f"cannot be read ({error.strerror})", Code.DAMAGED) from error
    texts = sorted((name, content) for name, content in texts if content)
    for name, content in texts if config.kind == "auto" else []:
        _require_text(name, content[: _formats.HEAD])
    total = sum(len(content) for _, content in texts)
    if total < SMALLEST:
        remedy = f"holds {total} bytes; a study needs at least {SMALLEST}"
        raise UserError("data.path", config.path, remedy, Code.TOO_FEW)
    if Path(config.path).expanduser().is_file():
        texts = [("text", content) for _, content in texts]
    return texts, remark("held", found.held)


def _require_text(name: str, head: bytes) -> None:
    """Raises UserError (UNSUPPORTED) if a file would be trained on as another thing than it is."""
    try:
        kind = _formats.kind_of(head, name)
        remedy = f"holds {kind}, which would be trained on as it is written; read it with `scaling data prepare`"
    except UserError as error:
        kind, remedy = "", error.remedy.removesuffix(f", {_formats.AS_TEXT}")
    if kind != "text":
        raise UserError("data.path", name, f"{remedy}, or set data.kind to text", Code.UNSUPPORTED)


def _blocks(texts: list[tuple[str, bytes]]) -> tuple[list[tuple[str, bytes]], int]:
    """The documents (name, content) to split, and the bytes to drop at either end of an evaluation document."""
    total = sum(len(content) for _, content in texts)
    largest = max(len(content) for _, content in texts)
    if len(texts) >= FEW_FILES and largest <= max(BLOCK, total // 10):
        return texts, 0
    size = min(BLOCK, max(SMALLEST // 8, total // 40))
    cut = [
        (f"{name}:{start}", content[start : start + size])
        for name, content in texts
        for start in range(0, len(content), size)
    ]
    return cut, size // 64


def make(config: Config) -> TokenSource:
    """Reads and splits the text. Raises UserError as ``read`` does."""
    texts, remarks = read(config)
    documents, gap = _blocks(texts)
    digests = [hashlib.sha256(content).digest() for _, content in documents]
    usable = [len(content) > 2 * gap + 1 for _, content in documents]
    total = sum(len(content) for _, content in documents)
    may = [(digest, len(content)) for (_, content), digest, long in zip(documents, digests, usable) if long]
    threshold = split([digest for digest, _ in may], [size for _, size in may], total)
    held = [below(digest, threshold) and long for digest, long in zip(digests, usable)]
    if all(held):
        remedy = "holds copies of one text; it cannot be split"
        raise UserError("data.path", config.path, remedy, Code.TOO_FEW)
    train = join([content for (_, content), out in zip(documents, held) if not out])
    evaluation = [
        Document(name, join([content[gap : len(content) - gap]]), digest)
        for (name, content), digest, out in zip(documents, digests, held)
        if out
    ]
    about = {
        "source": "text",
        "sha256": content_hash(texts),
        "bytes": sum(len(content) for _, content in texts),
        "evaluation_bytes": sum(len(document.tokens) for document in evaluation),
        "files": len(texts),
    }
    return TokenSource(train, evaluation, vocab=256, bytes_per_token=1.0, about=about, remarks=remarks)
