"""ArrayRecord files, as Grain reads: ``{"source": "arrayrecord", "path": "c4/", "dtype": "uint16", "vocab": 32000}``.

A record is one document: its tokens as little-endian ``dtype``, or with ``uint8`` its UTF-8 bytes; a vocabulary below
256 says that they are tokens (amino acids, codes of sound). Records are never
unpickled or parsed as protocol buffers. Write them with ``group_size:1``, as Grain expects::

    writer = ArrayRecordWriter("c4-00000.array_record", "group_size:1")
    writer.write(np.array(tokens, "<u2").tobytes())

The reader is the one that ``grain.sources.ArrayRecordDataSource`` uses, without the JAX that Grain imports. One pass
over the records computes lengths and hashes of the documents when the source is made, 24 bytes per document; tokens
stay in the files, and a window reads only the records that it touches. The order is that of all text sources here:
``prepared`` shards of the same documents give the same batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.data import _files
from scaling.data._extras import need
from scaling.data._formats import is_binary
from scaling.data._remarks import Remark, remark
from scaling.data._tokens import CheckedTokens, Document, below, check_vocab, check_width, split
from scaling.errors import Code, UserError
from scaling.settings import check, setting

ROWS = 256  # records that are read at once


@dataclass(frozen=True)
class Config:
    path: str = ""
    """A file, or a folder of them."""
    glob: str = "**/*.array*record*"
    """Glob pattern of the files in the folder."""
    dtype: str = setting("uint8", choices=("uint8", "uint16", "uint32"))
    """Type of the tokens: uint8, uint16 or uint32."""
    vocab: int = setting(256, least=2)
    """Size of the vocabulary; tokens are below it."""
    bytes_per_token: float = setting(0.0, least=0)
    """Mean bytes of text per token, if known (1 for uint8). 0: not known."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Records:
    """The records of several files, by a common number; errors name file and number."""

    source: Any
    names: list[str]
    counts: list[int]
    remarks: tuple[Remark, ...] = ()

    def __len__(self) -> int:
        return sum(self.counts)

    def name(self, number: int) -> str:
        for name, count in zip(self.names, self.counts):
            if number < count:
                return f"{name}:{number}"
            number -= count
        raise IndexError(number)

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        try:
            return list(self.source.__getitems__(numbers))
        except RuntimeError as error:
            for number in numbers:
                try:
                    self.source[number]
                except RuntimeError as own:
                    reason = str(own).split(";")[0][:120]
                    remedy = f"is damaged ({reason}); write or copy the file again"
                    raise UserError("data.path", self.name(number), remedy, Code.DAMAGED) from error
            raise


@dataclass(frozen=True)
class Joined:
    """The tokens of some records (numbers ``which``), concatenated; ``ends`` is where each ends."""

    records: Records
    which: np.ndarray
    ends: np.ndarray
    dtype: np.dtype

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """See ``scaling.data._tokens.Tokens``."""
        first = np.searchsorted(self.ends, starts, side="right")
        last = np.searchsorted(self.ends, starts + length - 1, side="right")
        needed = sorted({part for low, high in zip(first, last) for part in range(low, high + 1)})
        raw = self.records.read([int(self.which[part]) for part in needed])
        documents = {part: np.frombuffer(record, self.dtype) for part, record in zip(needed, raw)}
        rows = np.empty((len(starts), length), self.dtype)
        for row, (start, low, high) in enumerate(zip(starts.tolist(), first.tolist(), last.tolist())):
            whole = np.concatenate([documents[part] for part in range(low, high + 1)])
            begin = start - int(self.ends[low]) + len(documents[low])
            rows[row] = whole[begin : begin + length]
        return rows


@dataclass(frozen=True)
class _Lazy:
    """The tokens of one record, read on access."""

    records: Records
    number: int
    length: int
    dtype: np.dtype

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.frombuffer(self.records.read([self.number])[0], self.dtype)[part]


def _open(config: Config) -> Records:
    found = _files.below(config.path, config.glob, "an ArrayRecord file or a folder of them")
    files = found.files
    module = need("array_record.python.array_record_data_source", "arrayrecord")
    counts = []
    for path, name in files:
        try:
            with module.ArrayRecordDataSource([str(path)]) as opened:
                counts.append(len(opened))
        except RuntimeError as error:
            reason = str(error).split(";")[0][:120]
            remedy = f"is damaged or not an ArrayRecord ({reason}); copy it again"
            raise UserError("data.path", name, remedy, Code.DAMAGED) from error
    names = [name for _, name in files]
    source = module.ArrayRecordDataSource([str(path) for path, _ in files])
    return Records(source, names, counts, remark("held", found.held))


def _scan(records: Records, dtype: np.dtype, config: Config) -> Iterator[tuple[int, bytes]]:
    """(number of tokens, sha256) of each record."""
    for start in range(0, len(records), ROWS):
        numbers = range(start, min(start + ROWS, len(records)))
        for number, record in zip(numbers, records.read(numbers)):
            if len(record) % dtype.itemsize:
                remedy = f"has {len(record)} bytes, not a multiple of {dtype.itemsize} ({config.dtype}); give its dtype"
                raise UserError("data.path", records.name(number), remedy, Code.DAMAGED)
            check_vocab(np.frombuffer(record, dtype), config.vocab, records.name(number))
            yield len(record) // dtype.itemsize, hashlib.sha256(record).digest()


def _check_type(records: Records, dtype: np.dtype, config: Config) -> None:
    """Raises UserError (CONFLICT) if the first records hold integers of another width, or bytes that are no text."""
    first = [record for record in records.read(range(min(ROWS, len(records)))) if len(record) % dtype.itemsize == 0]
    if dtype.itemsize > 1 and first:
        check_width([np.frombuffer(record, dtype) for record in first], config.vocab, config.path)
    elif config.vocab >= 256 and is_binary(b"".join(first)):
        remedy = f"{config.path} holds no text; give the type of its tokens and their vocabulary"
        raise UserError("data.dtype", config.dtype, remedy, Code.CONFLICT)


def make(config: Config) -> CheckedTokens:
    """Opens the files and scans the records.

    Raises:
      UserError: there is no such file (MISSING), a record is damaged or of another type (DAMAGED, named by file and
        number; or CONFLICT, if only its values tell), or there are too few documents (TOO_FEW).
    """
    records, dtype = _open(config), np.dtype(config.dtype).newbyteorder("<")
    _check_type(records, dtype, config)
    lengths, digests, total = [], [], hashlib.sha256(dtype.str.encode())
    for length, digest in _scan(records, dtype, config):
        lengths.append(length)
        digests.append(digest)
        total.update(digest)
    count = sum(lengths)
    threshold = split(digests, lengths, count) if count else 0
    held = np.array([below(digest, threshold) for digest in digests], bool)
    sizes = np.array(lengths, np.int64)
    if not count or held.all() or not sizes[held].sum():
        remedy = f"holds {len(held)} documents, too few or all the same; give more"
        raise UserError("data.path", config.path, remedy, Code.TOO_FEW)
    train = np.flatnonzero(~held & (sizes > 0))
    documents = [
        Document(records.name(number), _Lazy(records, number, lengths[number], dtype), digests[number])
        for number in np.flatnonzero(held & (sizes > 0)).tolist()
    ]
    about = {
        "source": "arrayrecord",
        "sha256": total.hexdigest(),
        "bytes": count * dtype.itemsize,
        "evaluation_bytes": int(sizes[held].sum()) * dtype.itemsize,
        "documents": len(held),
        "vocab": config.vocab,
    }
    known = config.bytes_per_token or (1.0 if config.dtype == "uint8" else None)
    joined = Joined(records, train, np.cumsum(sizes[train]), dtype)
    return CheckedTokens(joined, documents, config.vocab, known, about, records.remarks, path=config.path)
