"""``scaling data prepare``: writes documents as memory-mapped shards of tokens, which the source ``prepared`` reads.

The output folder holds, written in this order::

    train-00003.bin         tokens only: little-endian uint8, uint16 or uint32, as in nanoGPT's files
    train-00003.documents   for each document, its end in the shard and the first 8 bytes of its sha256, as two uint64
    evaluation-00003.bin, evaluation-00003.documents
    progress.json           until the end: the complete shards, and where reading continues
    tokens.marks            which tokens begin words and end sentences, as bytes; none for a tokenizer of bytes
    manifest.json           at the end: tokenizer, inputs and shards with their sha256, split, counts

The hash of its content assigns a document to training or evaluation, so copies stay on one side. Or evaluation has
files of its own, and copies of them are dropped from training. Text is read once and in order, one shard of each split
is open at a time, and a shard is complete before progress.json lists it: after a crash at any moment the same command
writes the same bytes. Memory use does not grow with the text.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from scaling.data import _documents, _formats
from scaling.data._documents import Input
from scaling.data._preparation import (
    Amounts,
    Asked,
    InputEntry,
    Manifest,
    Progress,
    ShardEntry,
    Split,
    SplitRule,
)
from scaling.data._tokenizer import Tokenizer
from scaling.data._tokens import below, split
from scaling.errors import Code, UserError
from scaling.records import read_typed, write_atomic, write_json

SCHEMA: Literal[1] = 1
MANIFEST, PROGRESS, MARKS = "manifest.json", "progress.json", "tokens.marks"
TRAIN: Split = "train"
EVALUATION: Split = "evaluation"
SPLITS: tuple[Split, Split] = (TRAIN, EVALUATION)
INDEX = np.dtype([("end", "<u8"), ("digest", "<u8")])
SHARD_TOKENS = 2**26
SCAN = 64 * 2**20
"""Inputs up to this many bytes are scanned before they are split, since few documents need a different threshold."""
BATCH_BYTES, BATCH = 2**21, 512


@dataclass(frozen=True)
class Job:
    """What to prepare.

    Attributes:
      cut: bytes above which plain text is cut into documents; 0 chooses from the inputs.
      damaged: rows that may be damaged; they are skipped, and more are an error.
    """

    inputs: Sequence[Input]
    out: Path
    tokenizer: Tokenizer
    evaluation: Sequence[Input] = ()
    column: str = "text"
    share: float = 0.05
    cut: int = 0
    shard_tokens: int = SHARD_TOKENS
    damaged: int = 0

    @property
    def every(self) -> list[Input]:
        """All files, those of evaluation first."""
        return [*self.evaluation, *self.inputs]

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise UserError("share", self.share, "must be above 0 and below 1")
        if self.shard_tokens < 1:
            raise UserError("shard_tokens", self.shard_tokens, "must be at least 1")
        if self.cut < 0 or 0 < self.cut < 16:
            raise UserError("cut", self.cut, "must be 0 or at least 16 bytes")
        if self.damaged < 0:
            raise UserError("damaged", self.damaged, "must be at least 0")


@dataclass
class _Shard:
    """A shard while it is written; its files get their final names when it is complete."""

    folder: Path
    split: Split
    number: int
    dtype: np.dtype
    tokens: int = 0
    text: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)
    index: list[tuple[int, int]] = field(default_factory=list)
    file: BinaryIO | None = None

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05}.bin"

    def add(self, tokens: np.ndarray, mark: int, text: int) -> None:
        if self.file is None:
            self.file = open(self.folder / f"{self.name}.part", "wb")  # noqa: SIM115 (closed by ``_Shards``)
        raw = tokens.astype(self.dtype).tobytes()
        self.file.write(raw)
        self.sha256.update(raw)
        self.tokens += len(tokens)
        self.text += text
        self.index.append((self.tokens, mark))

    def finish(self) -> ShardEntry | None:
        """Gives the files their final names; returns their manifest entry, or None if the shard has no document."""
        if self.file is None:
            return None
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        index = np.array(self.index, INDEX).tobytes()
        write_atomic((self.folder / self.name).with_suffix(".documents"), index)
        os.replace(self.folder / f"{self.name}.part", self.folder / self.name)
        return ShardEntry(
            file=self.name,
            split=self.split,
            tokens=self.tokens,
            documents=len(self.index),
            text_bytes=self.text,
            sha256=self.sha256.hexdigest(),
            documents_sha256=hashlib.sha256(index).hexdigest(),
        )


class _Shards:
    """The open shard of each split. ``commit`` completes them, records them in progress.json, and opens the next."""

    def __init__(self, job: Job, state: Progress):
        self._job, self._state = job, state
        self._next()

    def _next(self) -> None:
        number, dtype = self._state.segment, self._job.tokenizer.dtype
        self.open = {name: _Shard(self._job.out, name, number, dtype) for name in SPLITS}

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.open.values())

    def commit(self) -> None:
        self._state.shards += [entry for entry in (shard.finish() for shard in self.open.values()) if entry]
        self._state.segment += 1
        write_json(self._job.out / PROGRESS, self._state)
        self._next()

    def close(self) -> None:
        for shard in self.open.values():
            if shard.file is not None:
                shard.file.close()


Say = Callable[[str, int, int, int], None]


def prepare(job: Job, say: Say = lambda *_: None) -> tuple[Manifest, bool]:
    """Writes what is missing in ``job.out``; returns its manifest and whether anything was missing.

    Args:
      say: called with the name of the phase, bytes done, total bytes, and tokens so far.

    Raises:
      UserError: an input is of a kind that is not read (UNSUPPORTED), damaged (DAMAGED) or changed (CHANGED); there is
        too little text (TOO_FEW); ``out`` holds other files or is being prepared by another process
        (CONFLICT), was begun with other settings (CHANGED), is damaged (DAMAGED), or cannot be written (ENVIRONMENT).
    """
    for input_file in job.every:  # before anything is written
        _ = input_file.format
    try:
        job.out.mkdir(parents=True, exist_ok=True)
        with _alone(job.out):
            for name in (PROGRESS, MANIFEST, f"{TRAIN}-*.documents", f"{EVALUATION}-*.documents"):
                for path in job.out.glob(f".{name}.*"):  # leftovers of an atomic write that was killed
                    path.unlink()
            return _prepare(job, say)
    except OSError as error:
        remedy = f"cannot be written ({error.strerror}); free space or choose another"
        raise UserError("out", job.out, remedy, Code.ENVIRONMENT) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            remedy = "is being prepared by another process; wait for it"
            raise UserError("out", folder, remedy, Code.CONFLICT) from error
        # The file system cannot lock folders; two writers would still write the same bytes.
    try:
        yield
    finally:
        os.close(handle)


def _prepare(job: Job, say: Say) -> tuple[Manifest, bool]:
    every = job.every
    state = _found(job.out)
    # The cut depends on the inputs. If those have changed since, report that and not a different cut.
    cut = job.cut or (_documents.piece(every) if state is None else state.asked.cut)
    asked = Asked(
        tokenizer=job.tokenizer.about(),
        column=job.column,
        share=0.0 if job.evaluation else job.share,
        cut=cut,
        shard_tokens=job.shard_tokens,
        evaluation_inputs=len(job.evaluation),
        kind=next((input_file.asked for input_file in every), ""),
    )
    if state is None:
        _require_empty(job.out)
    elif state.asked != asked:
        other = next(name for name in asked.__struct_fields__ if getattr(state.asked, name) != getattr(asked, name))
        remedy = f"was begun with another {other}; delete it or choose another directory"
        raise UserError("out", job.out, remedy, Code.CHANGED)
    identified = _identify(every, () if state is None else state.inputs, job.out, say)
    if isinstance(state, Manifest):
        _verify(job.out, state, say)
        return state, False
    if state is None:
        state = Progress(SCHEMA, asked, identified, 0 if job.evaluation else _threshold(job, cut))
        write_json(job.out / PROGRESS, state)
    state.inputs = identified
    for entry in state.shards:
        _sizes(job.out, entry, job.tokenizer.dtype)
    _write(job, every, cut, state, say)
    manifest = _manifest(job, state)
    if job.tokenizer.marks is not None:
        write_atomic(job.out / MARKS, job.tokenizer.marks.tobytes())
    write_json(job.out / MANIFEST, manifest)
    for path in [job.out / PROGRESS, *job.out.glob("*.part")]:
        path.unlink(missing_ok=True)
    return manifest, True


def _require_empty(folder: Path) -> None:
    """Raises UserError (CONFLICT) if the folder has files that are not of a preparation."""
    stray = sorted(path.name for path in folder.iterdir() if path.suffix != ".part")
    if stray:
        remedy = f"holds {stray[0]}, which does not belong to a preparation; choose another directory"
        raise UserError("out", folder, remedy, Code.CONFLICT)


def _found(folder: Path) -> Manifest | Progress | None:
    """The manifest if there is one, else the progress, else None."""
    remedy = "choose another directory"
    with contextlib.suppress(FileNotFoundError):
        return read_typed(folder / MANIFEST, Manifest, field="out", remedy=remedy)
    with contextlib.suppress(FileNotFoundError):
        return read_typed(folder / PROGRESS, Progress, field="out", remedy=remedy)
    return None


def _stamp(input_file: Input) -> tuple[int, int]:
    status = input_file.path.stat()
    return status.st_size, status.st_mtime_ns


def _identify(every: Sequence[Input], known: Sequence[InputEntry], out: Path, say: Say) -> list[InputEntry]:
    """Name, bytes and sha256 of each input. Raises UserError (CHANGED) if they differ from ``known``."""
    if known and [input_file.name for input_file in every] != [entry.name for entry in known]:
        remedy = f"are not the {len(known)} of {out}; delete it or choose another"
        raise UserError("path", f"{len(every)} files", remedy, Code.CHANGED)
    identified, total, done = [], sum(input_file.size for input_file in every), 0
    for number, input_file in enumerate(every):
        stamp, before = _stamp(input_file), known[number] if known else None
        if before is not None and before.stamp == stamp:
            identified.append(before)
            continue
        digest = hashlib.sha256()
        try:
            with open(input_file.path, "rb") as file:
                while block := file.read(2**22):
                    digest.update(block)
                    done += len(block)
                    say("hashing", done, total, 0)
        except OSError as error:
            raise UserError("path", input_file.name, f"cannot be read ({error.strerror})", Code.DAMAGED) from error
        entry = InputEntry(input_file.name, stamp[0], digest.hexdigest(), stamp)
        if before is not None and before.sha256 != entry.sha256:
            remedy = f"changed since {out} was begun; delete {out.name} and prepare again"
            raise UserError("path", input_file.name, remedy, Code.CHANGED)
        identified.append(entry)
    return identified


def document_digest(document: Any) -> bytes:
    """sha256 of a document's text, or of its tokens; it decides to which split the document goes."""
    return hashlib.sha256(document if isinstance(document, bytes) else document.astype("<i8").tobytes()).digest()


def text_bytes(document: Any) -> int:
    """Bytes of a document's text; 0 for a column of tokens."""
    return len(document) if isinstance(document, bytes) else 0


def _threshold(job: Job, cut: int) -> int:
    """The hash below which documents go to evaluation. Large inputs are not scanned for it; see ``split``."""
    total = sum(input_file.size for input_file in job.inputs)
    if total > SCAN:
        return int(job.share * 2.0**64)
    digests, sizes = [], []
    for input_file in job.inputs:
        for document, _ in _documents.documents(input_file, job.column, cut, tolerant=job.damaged > 0):
            if document is not None and not isinstance(document, UserError) and len(document):
                digests.append(document_digest(document))
                sizes.append(len(document))
    if len(set(digests)) < 2:
        remedy = f"the inputs hold {len(set(digests))} different documents; give more text"
        raise UserError("path", job.out, remedy, Code.TOO_FEW)
    return split(digests, sizes, sum(sizes), job.share)


def _write(job: Job, every: Sequence[Input], cut: int, state: Progress, say: Say) -> None:
    known = _known(job.out, state.shards) if job.evaluation else set()
    total, before = (
        sum(input_file.size for input_file in every),
        sum(input_file.size for input_file in every[: state.input]),
    )
    tokens, shards = sum(entry.tokens for entry in state.shards), _Shards(job, state)
    with contextlib.closing(shards):
        for number in range(state.input, len(every)):
            input_file, own, stamp = every[number], number < len(job.evaluation), state.inputs[number].stamp
            begin, length = state.position if number == state.input else 0, _length(input_file)
            for batch in batches(_documents.documents(input_file, job.column, cut, begin, tolerant=job.damaged > 0)):
                for document, tokenized, after in encoded(job.tokenizer, input_file.name, batch):
                    if isinstance(document, UserError):
                        state.damaged += 1
                        if state.damaged > job.damaged:
                            remedy = f"more rows are damaged: {document}"
                            raise UserError("damaged", job.damaged, remedy, Code.DAMAGED) from document
                    elif tokenized is None:
                        state.empty += 1
                    else:
                        digest = document_digest(document)
                        mark = int.from_bytes(digest[:8], "big")
                        if own:
                            known.add(mark)
                        if mark in known and not own:
                            state.copies += 1
                        else:
                            held = own or below(digest, state.threshold)
                            shards.open[EVALUATION if held else TRAIN].add(tokenized, mark, text_bytes(document))
                            tokens += len(tokenized)
                            state.literals += job.tokenizer.count_literals(document) if text_bytes(document) else 0
                    state.input, state.position = number, after
                    if shards.tokens >= job.shard_tokens:
                        shards.commit()
                done = min(input_file.size, input_file.size * state.position // length) if length else 0
                say("tokenizing", before + done, total, tokens)
            before += input_file.size
            if _stamp(input_file) != stamp:
                remedy = f"changed while it was read; delete {job.out} and prepare again"
                raise UserError("path", input_file.name, remedy, Code.CHANGED)
        shards.commit()
    say("tokenizing", total, total, tokens)


def _length(input_file: Input) -> int | None:
    """The last position in an input, if known without reading it; else None."""
    by_byte = input_file.kind not in _formats.TABLES and not input_file.format.packing
    return input_file.size if by_byte else None


def batches(stream: Iterator[tuple[Any, int]]) -> Iterator[list[tuple[Any, int]]]:
    """Groups what ``_documents.documents`` yields into batches of a good size for a tokenizer."""
    batch, size = [], 0
    for document, after in stream:
        batch.append((document, after))
        size += 0 if document is None or isinstance(document, UserError) else len(document)
        if size >= BATCH_BYTES or len(batch) >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encoded(
    tokenizer: Tokenizer, where: str, batch: list[tuple[Any, int]]
) -> Iterator[tuple[Any, np.ndarray | None, int]]:
    """Yields (document, its tokens with the end token or None if it is empty, position of the next document).

    Args:
      where: name of the file, for the message.

    Raises:
      UserError: text is not UTF-8 although the tokenizer needs that (DAMAGED), or a column of tokens has a token
        outside the tokenizer's vocabulary (CONFLICT).
    """
    texts = [document for document, _ in batch if isinstance(document, bytes)]
    try:
        encodings = iter(tokenizer.encode(texts))
    except UnicodeDecodeError as error:
        remedy = f"is not UTF-8 text ({error.reason}); convert it, or use bytes"
        raise UserError("path", where, remedy, Code.DAMAGED) from error
    end = [np.array([tokenizer.end])] if tokenizer.end is not None else []
    for document, after in batch:
        tokens = next(encodings) if isinstance(document, bytes) else document
        if tokens is None or isinstance(tokens, UserError) or not len(tokens):
            yield document, None, after
            continue
        wrong = tokens[(tokens < 0) | (tokens >= tokenizer.vocab)]
        if len(wrong):
            remedy = f"does not have the token {wrong[0]} of {where}; give the tokenizer that wrote it"
            raise UserError("tokenizer", tokenizer.name, remedy, Code.CONFLICT)
        yield document, np.concatenate([tokens, *end]) if end else tokens, after


def _known(folder: Path, shards: Sequence[ShardEntry]) -> set[int]:
    """Hashes of the evaluation documents written so far."""
    indices = [index(folder, entry)["digest"] for entry in shards if entry.split == EVALUATION]
    return set(chain.from_iterable(index.tolist() for index in indices))


def index(folder: Path, entry: ShardEntry) -> np.ndarray:
    """Ends and hashes of the documents of a shard, (documents,) of ``INDEX``.

    Raises:
      UserError: the file cannot be read, or does not match its hash (DAMAGED).
    """
    path = (folder / entry.file).with_suffix(".documents")
    try:
        rows = np.fromfile(path, INDEX)
    except OSError as error:
        remedy = f"cannot be read ({error.strerror}); prepare the folder again"
        raise UserError("path", path, remedy, Code.DAMAGED) from error
    if hashlib.sha256(rows.tobytes()).hexdigest() != entry.documents_sha256:
        raise UserError("path", path, "does not match the manifest; prepare the folder again", Code.DAMAGED)
    return rows


def _sizes(folder: Path, entry: ShardEntry, dtype: np.dtype) -> Path:
    path = folder / entry.file
    size, due = path.stat().st_size if path.is_file() else None, entry.tokens * dtype.itemsize
    if size != due:
        has = "is not there" if size is None else f"has {size} bytes of {due}"
        remedy = f"{has}; copy it again, or delete the folder and prepare again"
        raise UserError("path", path, remedy, Code.DAMAGED)
    return path


def opened(folder: Path, entry: ShardEntry, dtype: np.dtype) -> np.ndarray:
    """The tokens of a shard, memory-mapped.

    Raises:
      UserError: the file is missing or of another size (DAMAGED).
    """
    return np.memmap(_sizes(folder, entry, dtype), dtype, mode="r")


def check(folder: Path, entry: ShardEntry) -> None:
    """Verifies the sha256 of a shard.

    Raises:
      UserError: it does not match the manifest (DAMAGED).
    """
    with open(folder / entry.file, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            remedy = "is damaged: its sha256 is not the manifest's; copy it again"
            raise UserError("path", folder / entry.file, remedy, Code.DAMAGED)


def _verify(folder: Path, manifest: Manifest, say: Say) -> None:
    total, done = sum(entry.tokens for entry in manifest.shards), 0
    for entry in manifest.shards:
        _sizes(folder, entry, np.dtype(manifest.dtype))
        index(folder, entry)
        check(folder, entry)
        done += entry.tokens
        say("checking", done, total, done)
    marks(folder, manifest)


def marks(folder: Path, manifest: Manifest) -> np.ndarray | None:
    """The marks of the tokens, uint8 (vocab,); None if the preparation has none.

    Raises:
      UserError: they are missing, or not those that were written (DAMAGED).
    """
    if not manifest.marks_sha256:
        return None
    path = folder / MARKS
    held = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(held).hexdigest() != manifest.marks_sha256:
        raise UserError("data.path", path, "is missing or damaged; prepare the folder again", Code.DAMAGED)
    return np.frombuffer(held, np.uint8)


def _amounts(shards: Sequence[ShardEntry], side: Split) -> Amounts:
    own = [entry for entry in shards if entry.split == side]
    sums = (sum(getattr(entry, name) for entry in own) for name in Amounts.__struct_fields__)
    return Amounts(*sums)


def _manifest(job: Job, state: Progress) -> Manifest:
    train, evaluation = (_amounts(state.shards, side) for side in SPLITS)
    for name, here, other, there in (
        (EVALUATION, evaluation, TRAIN, train),
        (TRAIN, train, EVALUATION, evaluation),
    ):
        if here.tokens < 2:
            remedy = f"all {there.documents} documents went to {other}; change --share, or give more text"
            raise UserError(name, "nothing", f"{remedy}, and delete {job.out}", Code.TOO_FEW)
    own = "own files, copies left out of training"
    return Manifest(
        schema=SCHEMA,
        kind="tokens",
        done=True,
        asked=state.asked,
        tokenizer=job.tokenizer.about(),
        dtype=job.tokenizer.dtype.str,
        inputs=tuple(InputEntry(entry.name, entry.bytes, entry.sha256) for entry in state.inputs),
        split=SplitRule(own if job.evaluation else "first 8 bytes of sha256 < threshold", state.threshold),
        empty=state.empty,
        copies=state.copies,
        train=train,
        evaluation=evaluation,
        shards=tuple(state.shards),
        literals=state.literals,
        damaged=state.damaged,
        marks_sha256="" if (marks := job.tokenizer.marks) is None else hashlib.sha256(marks.tobytes()).hexdigest(),
    )
