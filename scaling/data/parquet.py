"""Tables of Hugging Face's ``datasets``: Parquet files, or a folder of ``save_to_disk`` (Arrow). Needs pyarrow alone.

Text, ``{"source": "parquet", "path": "wiki/", "text": "text"}``: each row is a document, of UTF-8 or of tokens (lists
of integers). It is tokenized into memory each time the source is made, so it is for up to 1 GiB of text; for more, or
for a slow tokenizer, `scaling data prepare` does it once.

Pictures, ``{"source": "parquet", "path": "cifar/", "image": "img", "label": "label", "classes": 10, "text": ""}``: the
column holds encoded pictures, as bytes or as ``datasets`` stores them ({"bytes", "path"}), and the caption is ``text``.
An Arrow file is mapped, and a row costs itself. Parquet is packed by row groups, of which 512 MiB are kept unpacked: in
a larger table nearly every example unpacks its group again, so save such a table with ``save_to_disk`` first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling.data import _documents, _prepare, _tokenizer
from scaling.data._documents import Input
from scaling.data._extras import need
from scaling.data._pairs import Pairs, Pictures, Sample, sample_digest
from scaling.data._tokens import CheckedTokens, Document, below, content_hash, digest, split
from scaling.errors import Code, UserError

LARGEST = 2**30  # bytes of text in memory
HELD = 2**29  # bytes of unpacked row groups


@dataclass(frozen=True)
class Config(Pictures):
    path: str = ""
    """A Parquet or Arrow file, or a folder of them."""
    glob: str = ""
    """Which files below the folder; empty: all that end in .parquet or .arrow."""
    text: str = "text"
    """Column of the text (or tokens), or of the caption; empty: no captions."""
    image: str = ""
    """Column of the picture; empty: text alone."""
    label: str = "label"
    """Column of the label, read where there are ``classes``."""
    end: str = "auto"
    """Token after each document: none, auto (the tokenizer's own) or its name."""

    def __post_init__(self):
        super().__post_init__()
        if not self.text and not self.image:
            remedy = "name the column of the text, or of an image"
            raise UserError("data.text", "''", remedy, Code.MISSING)


def _inputs(config: Config) -> list[Input]:
    found = _documents.inputs([config.path], config.glob) if config.path else []
    tables = [each for each in found if each.kind in ("parquet", "arrow")]
    if not tables:
        remedy = "holds no .parquet or .arrow file; give a file or a folder of them"
        raise UserError("data.path", config.path, remedy, Code.MISSING)
    return tables


def make(config: Config) -> CheckedTokens | Pairs:
    """Reads the text, or indexes the pictures.

    Raises:
      UserError: there is no such file or column (MISSING), a file is damaged (DAMAGED), or there is too little text
        (TOO_FEW) or too much of it (UNSUPPORTED).
    """
    tables, reads = _inputs(config), _columns(config)
    for each in tables:
        names = _names(each)
        for name, column in reads.items():
            if column not in names:
                remedy = f"is not in {each.name}, which has {', '.join(names)}"
                raise UserError(f"data.{name}", column, remedy, Code.MISSING)
    sha256, extent = digest([_mapped(each) for each in tables])
    columns = [config.text, config.image, config.label if config.classes else ""]
    about = {
        "source": "parquet",
        "sha256": content_hash([(column, sha256.encode()) for column in columns]),
        "sha256_of": extent,
    }
    return _pairs(config, tables, about) if config.image else _text(config, tables, about)


@contextlib.contextmanager
def _damage(each: Input) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into a UserError that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0][:150]
        # Without a number it is about the data, not about the machine, as a worker would take an OSError to be.
        cause = error if getattr(error, "errno", None) else None
        raise UserError("data.path", each.name, f"cannot be read ({reason}); copy it again", Code.DAMAGED) from cause


def _columns(config: Config) -> dict[str, str]:
    """The columns that are read, by the fields of the configuration that name them."""
    found = {"image": config.image, "text": config.text, "label": config.label if config.classes else ""}
    return {name: column for name, column in found.items() if column}


def _names(each: Input) -> list[str]:
    arrow, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
    with _damage(each):
        if each.kind == "parquet":
            return parquet.read_schema(each.path).names
        with arrow.memory_map(str(each.path)) as mapped, arrow.ipc.open_stream(mapped) as stream:
            return stream.schema.names


def _mapped(each: Input) -> np.ndarray:
    with _damage(each):
        return np.memmap(each.path, np.uint8, mode="r")


def _text(config: Config, tables: list[Input], about: dict[str, Any]) -> CheckedTokens:
    tokenizer = _tokenizer.load(config.tokenizer, config.end)
    found, sizes, texts, total = [], [], [], 0
    for each in tables:
        for batch in _prepare.batches(_documents.documents(each, config.text, 0)):
            for document, tokens, after in _prepare.encoded(tokenizer, each.name, batch):
                if tokens is None:
                    continue
                total += len(document)
                if total > LARGEST:
                    remedy = "holds more than 1 GiB of text; tokenize it once, with scaling data prepare"
                    raise UserError("data.path", config.path, remedy, Code.UNSUPPORTED)
                sizes.append(len(document))
                texts.append(_prepare.text_bytes(document))
                kept = tokens.astype(tokenizer.dtype)
                found.append(Document(f"{each.name}:{after - 1}", kept, _prepare.document_digest(document)))
    threshold = split([document.digest for document in found], sizes, max(1, total))
    held = np.array([below(document.digest, threshold) for document in found], bool)
    if held.all() or not held.any():
        remedy = f"holds {len(found)} documents, too few or all the same; give more"
        raise UserError("data.path", config.path, remedy, Code.TOO_FEW)
    train = np.concatenate([document.tokens for document, out in zip(found, held) if not out])
    documents = [document for document, out in zip(found, held) if out]
    evaluated = int(np.array(texts)[held].sum())
    about |= {
        "bytes": sum(texts) or None,
        "evaluation_bytes": evaluated or None,
        "documents": len(found),
        "vocab": tokenizer.vocab,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": tokenizer.sha256,
    }
    # A column of tokens has no bytes of text.
    known = evaluated / sum(len(each.tokens) for each in documents) if evaluated else None
    return CheckedTokens(train, documents, tokenizer.vocab, known, about, path=config.path)


@dataclass
class _Table:
    """The rows of the tables by number; see ``scaling.data._pairs.Store``. ``starts``: the first row of each group."""

    config: Config
    groups: list[tuple[Input, int, Any]]
    starts: np.ndarray
    total: int
    held: dict[int, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.total

    def _row(self, number: int, columns: list[str]) -> list[Any]:
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        each, index, opened = self.groups[group]
        batch = opened if each.kind == "arrow" else self.held.get(group)
        if batch is None:
            with _damage(each):
                batch = opened.read_row_group(index, columns=list(_columns(self.config).values()))
            while self.held and sum(other.nbytes for other in self.held.values()) + batch.nbytes > HELD:
                del self.held[next(iter(self.held))]
            self.held[group] = batch
        return [batch.column(column)[number - int(self.starts[group])].as_py() for column in columns]

    def name(self, number: int) -> str:
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        each, _, _ = self.groups[group]
        first = next(start for (other, _, _), start in zip(self.groups, self.starts) if other is each)
        return f"{each.name}:{number - int(first)}"

    def _caption(self, value: Any, number: int) -> bytes:
        if not isinstance(value, str):
            remedy = f"is {type(value).__name__}, no text; mend or remove it"
            raise UserError("data.text", self.name(number), remedy, Code.DAMAGED)
        return value.encode("utf-8", "surrogatepass")

    def caption(self, number: int) -> bytes:
        return self._caption(self._row(number, [self.config.text])[0], number) if self.config.text else b""

    def read(self, number: int) -> Sample:
        columns = list(_columns(self.config).values())
        row = dict(zip(columns, self._row(number, columns)))
        picture, label = row[self.config.image], row.get(self.config.label, -1)
        picture = picture.get("bytes") if isinstance(picture, dict) else picture
        if not isinstance(picture, bytes):
            remedy = "holds no encoded picture; save the data with its pictures"
            raise UserError("data.image", self.name(number), remedy, Code.DAMAGED)
        caption = self._caption(row[self.config.text], number) if self.config.text else b""
        return Sample(picture, caption, label if isinstance(label, int) else -1)


def _pairs(config: Config, tables: list[Input], about: dict[str, Any]) -> Pairs:
    tokenizer = _tokenizer.load(config.tokenizer, config.end, closed=True)
    arrow, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
    groups, counts = [], []
    for each in tables:
        with _damage(each):
            if each.kind == "parquet":
                opened = parquet.ParquetFile(each.path)
                found = [(each, group, opened) for group in range(opened.num_row_groups)]
                rows = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            else:
                batches = list(arrow.ipc.open_stream(arrow.memory_map(str(each.path))))
                found, rows = [(each, 0, batch) for batch in batches], [batch.num_rows for batch in batches]
        groups += [each for each, count in zip(found, rows) if count]
        counts += [count for count in rows if count]
    store = _Table(config, groups, np.cumsum([0, *counts])[:-1], sum(counts))
    digests = []
    for number in range(len(store)):
        sample = store.read(number)
        digests.append(sample_digest(len(sample.picture), sample.picture, sample.caption))
    if not digests:
        raise UserError("data.path", config.path, "holds no row; give a table with rows", Code.TOO_FEW)
    about["bytes"] = sum(each.size for each in tables)
    return Pairs(store, digests, tokenizer, config.side, config.classes, bool(config.text), about)
