"""Tables of Hugging Face's ``datasets``: Parquet files, or a folder of ``save_to_disk`` (Arrow). Needs only pyarrow.

Text, ``{"source": "parquet", "path": "wiki/", "text": "text"}``: each row is a document, as text or as tokens (lists
of integers). The text is tokenized into memory whenever the source is made, so it is limited to 1 GiB; for more text,
or a slow tokenizer, use `scaling data prepare`, which does it once.

Pictures, ``{"source": "parquet", "path": "cifar/", "image": "img", "label": "label", "classes": 10, "text": ""}``: the
column holds encoded pictures, as bytes or as ``datasets`` stores them ({"bytes", "path"}), and the caption is ``text``.
Sounds likewise, ``{"source": "parquet", "path": "speech/", "sound": "audio", "frames": 3000}``.
An Arrow file is memory-mapped, so reading a row is cheap. Parquet is compressed by row groups, of which 512 MiB are
kept decompressed: in a larger table nearly every example decompresses its group again, so convert it with
``save_to_disk``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data import _documents, _prepare, _tokenizer
from scaling.data._documents import Input
from scaling.data._extras import need
from scaling.data._formats import claim
from scaling.data._pairs import Pairs, Pictures, Sample, allow, sample_digest
from scaling.data._remarks import Remark, remark
from scaling.data._tokens import CheckedTokens, Document, below, content_hash, digest, split
from scaling.errors import Code, UserError

LARGEST = 2**30  # bytes of text in memory
HELD = 2**29  # bytes of unpacked row groups


@dataclass(frozen=True)
class Config(Pictures):
    path: str = ""
    """A Parquet or Arrow file, or a folder of them."""
    glob: str = ""
    """Glob pattern of the files in the folder; empty: all that end in .parquet or .arrow."""
    text: str = "text"
    """Column of the text (or tokens), or of the caption; empty: no captions."""
    image: str = ""
    """Column of the picture; empty: text only."""
    sound: str = ""
    """Column of the sound, which is read in the picture's place if ``frames`` is not 0."""
    label: str = "label"
    """Column of the label, read if ``classes`` is not 0."""
    end: str = "auto"
    """Token after each document: none, auto (the tokenizer's own) or its name."""

    def __post_init__(self):
        super().__post_init__()
        if bool(self.sound) != bool(self.frames):
            remedy = "names the column of sounds, of which frames says how long they are: give both or neither"
            raise UserError("data.sound", self.sound, remedy, Code.CONFLICT)
        if self.sound and self.image:
            remedy = f"would not be read, since data.sound = {self.sound} is in its place; give one of the two"
            raise UserError("data.image", self.image, remedy, Code.CONFLICT)
        if not self.text and not self.media[1]:
            remedy = "name the column of the text, or of an image"
            raise UserError("data.text", "''", remedy, Code.MISSING)

    @property
    def media(self) -> tuple[str, str]:
        """The name of the field, and the column, of what a row must have besides its caption."""
        return ("sound", self.sound) if self.frames else ("image", self.image)


def _inputs(config: Config) -> tuple[list[Input], tuple[Remark, ...]]:
    found = _documents.find([config.path], config.glob) if config.path else None
    tables = [input_file for input_file in (found.files if found else []) if _is_table(config, input_file)]
    if found is None or not tables:
        remedy = "holds no .parquet or .arrow file; give a file or a folder of them"
        raise UserError("data.path", config.path, remedy, Code.MISSING)
    return tables, remark("held", found.held)


def _is_table(config: Config, input_file: Input) -> bool:
    given = bool(config.glob) or input_file.path == Path(config.path).expanduser()
    return (given or claim(input_file.name) in ("parquet", "arrow")) and input_file.kind in ("parquet", "arrow")


def make(config: Config) -> CheckedTokens | Pairs:
    """Reads the text, or indexes the pictures.

    Raises:
      UserError: a file or column does not exist (MISSING), a file is damaged (DAMAGED), or there is too little text
        (TOO_FEW) or too much (UNSUPPORTED).
    """
    (tables, remarks), reads = _inputs(config), _columns(config)
    for input_file in tables:
        names = _names(input_file)
        for name, column in reads.items():
            if column not in names:
                remedy = f"is not in {input_file.name}, which has {', '.join(names)}"
                raise UserError(f"data.{name}", column, remedy, Code.MISSING)
    sha256, extent = digest([_mapped(input_file) for input_file in tables])
    columns = [config.text, config.media[1], config.label if config.classes else ""]
    about = {
        "source": "parquet",
        "sha256": content_hash([(column, sha256.encode()) for column in columns]),
        "sha256_of": extent,
    }
    source = _pairs(config, tables, about) if config.media[1] else _text(config, tables, about)
    return replace(source, remarks=(*remarks, *source.remarks))


@contextlib.contextmanager
def _damage(input_file: Input) -> Iterator[None]:
    """Turns pyarrow's exceptions for a damaged file into a UserError that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0][:150]
        # An OSError without errno is about the data; as a cause, a worker would take it for a problem of the machine.
        cause = error if getattr(error, "errno", None) else None
        raise UserError(
            "data.path", input_file.name, f"cannot be read ({reason}); copy it again", Code.DAMAGED
        ) from cause


def _columns(config: Config) -> dict[str, str]:
    """The columns to read, by the field of the configuration that names them."""
    kind, media = config.media
    columns = {kind: media, "text": config.text, "label": config.label if config.classes else ""}
    return {name: column for name, column in columns.items() if column}


def _names(input_file: Input) -> list[str]:
    parquet = need("pyarrow.parquet", "parquet")
    with _damage(input_file):
        if input_file.kind == "parquet":
            return parquet.read_schema(input_file.path).names
        with _documents.arrow_file(input_file) as (names, _):
            return names


def _mapped(input_file: Input) -> np.ndarray:
    with _damage(input_file):
        return np.memmap(input_file.path, np.uint8, mode="r")


def _text(config: Config, tables: list[Input], about: dict[str, Any]) -> CheckedTokens:
    tokenizer = _tokenizer.load(config.tokenizer, config.end, specials=config.specials)
    every, sizes, texts, spelled, total = [], [], [], [], 0
    for input_file in tables:
        for batch in _prepare.batches(_documents.documents(input_file, config.text, 0)):
            for document, tokens, after in _prepare.encoded(tokenizer, input_file.name, batch):
                if tokens is None:
                    continue
                total += len(document)
                if total > LARGEST:
                    remedy = "holds more than 1 GiB of text; tokenize it once, with `scaling data prepare`"
                    raise UserError("data.path", config.path, remedy, Code.UNSUPPORTED)
                sizes.append(len(document))
                texts.append(_prepare.text_bytes(document))
                kept = tokens.astype(tokenizer.dtype)
                every.append(Document(f"{input_file.name}:{after - 1}", kept, _prepare.document_digest(document)))
                if isinstance(document, bytes) and tokenizer.count_literals(document):
                    spelled.append(every[-1].name)
    threshold = split([document.digest for document in every], sizes, max(1, total))
    held = np.array([below(document.digest, threshold) for document in every], bool)
    if held.all() or not held.any():
        remedy = f"holds {len(every)} documents, too few or all the same; give more"
        raise UserError("data.path", config.path, remedy, Code.TOO_FEW)
    train = np.concatenate([document.tokens for document, out in zip(every, held) if not out])
    documents = [document for document, out in zip(every, held) if out]
    evaluated = int(np.array(texts)[held].sum())
    about |= {
        "bytes": sum(texts) or None,
        "evaluation_bytes": evaluated or None,
        "documents": len(every),
        "vocab": tokenizer.vocab,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": tokenizer.sha256,
    }
    # A column of tokens has no bytes of text.
    known = evaluated / sum(len(document.tokens) for document in documents) if evaluated else None
    remarks = remark("literals", spelled)
    return CheckedTokens(train, documents, tokenizer.vocab, known, about, remarks, path=config.path)


@dataclass
class _Table:
    """Rows of the tables by number, see ``scaling.data._pairs.Store``. ``starts``: number of each group's first row."""

    config: Config
    groups: list[tuple[Input, int, Any]]
    starts: np.ndarray
    total: int
    held: dict[int, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.total

    def _row(self, number: int, columns: list[str]) -> list[Any]:
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        input_file, index, opened = self.groups[group]
        batch = opened if input_file.kind == "arrow" else self.held.get(group)
        if batch is None:
            with _damage(input_file):
                batch = opened.read_row_group(index, columns=list(_columns(self.config).values()))
            while self.held and sum(other.nbytes for other in self.held.values()) + batch.nbytes > HELD:
                del self.held[next(iter(self.held))]
            self.held[group] = batch
        return [batch.column(column)[number - int(self.starts[group])].as_py() for column in columns]

    def name(self, number: int) -> str:
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        input_file, _, _ = self.groups[group]
        first = next(start for (other, _, _), start in zip(self.groups, self.starts) if other is input_file)
        return f"{input_file.name}:{number - int(first)}"

    def _caption(self, value: Any, number: int) -> bytes:
        if not isinstance(value, str):
            remedy = f"is {type(value).__name__}, not text; repair or remove it"
            raise UserError("data.text", self.name(number), remedy, Code.DAMAGED)
        return value.encode("utf-8", "surrogatepass")

    def caption(self, number: int) -> bytes:
        return self._caption(self._row(number, [self.config.text])[0], number) if self.config.text else b""

    def read(self, number: int) -> Sample:
        columns = list(_columns(self.config).values())
        row = dict(zip(columns, self._row(number, columns)))
        kind, column = self.config.media
        picture, label = row[column], row.get(self.config.label, -1)
        picture = picture.get("bytes") if isinstance(picture, dict) else picture
        if not isinstance(picture, bytes):
            remedy = f"is not an encoded {kind}; save the data with its {kind}s"
            raise UserError(f"data.{kind}", self.name(number), remedy, Code.DAMAGED)
        caption = self._caption(row[self.config.text], number) if self.config.text else b""
        return Sample(picture, caption, label if isinstance(label, int) else -1)


def _pairs(config: Config, tables: list[Input], about: dict[str, Any]) -> Pairs:
    tokenizer = _tokenizer.load(config.tokenizer, config.end, closed=True, specials=config.specials)
    parquet = need("pyarrow.parquet", "parquet")
    groups, counts = [], []
    for input_file in tables:
        with _damage(input_file):
            if input_file.kind == "parquet":
                opened = parquet.ParquetFile(input_file.path)
                row_groups = [(input_file, group, opened) for group in range(opened.num_row_groups)]
                rows = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
            else:
                with _documents.arrow_file(input_file) as (_, stored):
                    batches = list(stored)  # they keep the file mapped
                row_groups, rows = [(input_file, 0, batch) for batch in batches], [batch.num_rows for batch in batches]
        groups += [group for group, count in zip(row_groups, rows) if count]
        counts += [count for count in rows if count]
    store = _Table(config, groups, np.cumsum([0, *counts])[:-1], sum(counts))
    digests, incomplete, spelled = [], [], []
    for number in range(len(store)):
        try:
            sample = store.read(number)
            digests.append(sample_digest(len(sample.picture), sample.picture, sample.caption))
            if tokenizer.count_literals(sample.caption):
                spelled.append(store.name(number))
        except UserError as error:
            if error.field not in ("data.image", "data.sound", "data.text"):
                raise
            digests.append(b"")
            incomplete.append(error)
            allow(incomplete, config.damaged)
    if not digests:
        raise UserError("data.path", config.path, "holds no row; give a table with rows", Code.TOO_FEW)
    about["bytes"] = sum(input_file.size for input_file in tables)
    remarks = (*allow(incomplete, config.damaged), *remark("literals", spelled))
    return Pairs(store, digests, tokenizer, config, bool(config.text), about, remarks)
