"""Tokens that ``scaling data prepare`` wrote: ``{"source": "prepared", "path": "data/mine"}``.

    scaling data prepare books/ --tokenizer=tokenizer.json --out=data/mine

The shards are memory-mapped: a window costs only the pages that it touches, and each process touches only its own rows.
Evaluation documents are named by the hash of their text, so that the losses of two runs can be paired. Sizes are always
checked against the manifest, and contents up to 256 MiB; `scaling data prepare`, run again, checks everything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.data import _prepare, _tokens
from scaling.data._preparation import Manifest
from scaling.data._tokens import CheckedTokens, Document, TokenSource
from scaling.errors import Code, UserError
from scaling.records import canonical, read_typed


@dataclass(frozen=True)
class Config:
    path: str = ""
    """The folder that `scaling data prepare --out` wrote. Its name is not part of the data's identity."""


@dataclass(frozen=True)
class Shards:
    """Several arrays as one: ``parts`` (1-D each), and the ``ends`` of the parts."""

    parts: list[np.ndarray]
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """See ``scaling.data._tokens.Tokens``."""
        windows = np.empty((len(starts), length), self.parts[0].dtype)
        first = np.searchsorted(self.ends, starts, side="right")
        for row, (start, part) in enumerate(zip(starts.tolist(), first.tolist())):
            filled = 0
            while filled < length:
                begin = start + filled - int(self.ends[part]) + len(self.parts[part])
                taken = self.parts[part][begin : begin + length - filled]
                windows[row, filled : filled + len(taken)] = taken
                filled, part = filled + len(taken), part + 1
        return windows


def joined(parts: list[np.ndarray]) -> Shards:
    """``parts`` as one sequence, as plain views, which slice faster than a memory map."""
    return Shards([np.asarray(part) for part in parts], np.cumsum([len(part) for part in parts]))


def _manifest(config: Config) -> tuple[Path, Manifest]:
    folder = Path(config.path).expanduser()
    if not config.path or not folder.is_dir():
        remedy = "does not exist; write it with `scaling data prepare FILES --out=DIR`"
        raise UserError("data.path", config.path, remedy, Code.MISSING)
    try:
        remedy = "prepare the folder again, with this version"
        return folder, read_typed(folder / _prepare.MANIFEST, Manifest, field="data.path", remedy=remedy)
    except FileNotFoundError as error:
        begun = (folder / _prepare.PROGRESS).exists()
        remedy = "is not finished; run the same `scaling data prepare` again" if begun else "holds no manifest.json"
        raise UserError("data.path", config.path, remedy, Code.MISSING) from error


def make(config: Config) -> TokenSource:
    """Maps the shards.

    Raises:
      UserError: there is no finished preparation (MISSING), or a shard is missing, cut short or damaged (DAMAGED).
    """
    folder, manifest = _manifest(config)
    dtype, tokenizer = np.dtype(manifest.dtype), manifest.tokenizer
    small = sum(entry.tokens for entry in manifest.shards) * dtype.itemsize <= _tokens.HASH_WHOLE
    train, documents = [], []
    for entry in manifest.shards:
        tokens = _prepare.opened(folder, entry, dtype)
        if small:
            _prepare.check(folder, entry)
        if entry.split == _prepare.TRAIN:
            train.append(tokens)
            continue
        index = _prepare.index(folder, entry)
        begin, plain = 0, np.asarray(tokens)
        for end, mark in index.tolist():
            digest = mark.to_bytes(8, "big")
            documents.append(Document(f"{len(documents)}-{digest.hex()}", plain[begin:end], digest))
            begin = end
    held, text = manifest.evaluation, (manifest.train.text_bytes, manifest.evaluation.text_bytes)
    shards = [[entry.split, entry.tokens, entry.sha256] for entry in manifest.shards]
    about = {
        "source": "prepared",
        "sha256": hashlib.sha256(canonical([tokenizer.sha256, tokenizer.vocab, shards]).encode()).hexdigest(),
        "bytes": sum(text) or None,
        "evaluation_bytes": text[1] or None,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab": tokenizer.vocab,
        "documents": manifest.train.documents,
        "evaluation_documents": held.documents,
    }
    # Bits/byte refer to the evaluation text; a column of tokens has no text.
    known = text[1] / held.tokens if text[1] else None
    told = _prepare.marks(folder, manifest)
    return CheckedTokens(joined(train), documents, tokenizer.vocab, known, about, marks=told, path=config.path)
