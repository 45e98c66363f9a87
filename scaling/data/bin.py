"""Memory-mapped token files, as other trainers leave them: ``{"source": "bin", "path": "tokens/", "vocab": 50257}``.

Two layouts, told apart by the first four bytes. Raw (nanoGPT): little-endian integers of ``dtype`` and nothing else.
llm.c: 256 int32 of which the first three are magic 20240520, version and number of tokens, then the tokens, uint16 for
version 1. The number of tokens is held against the size of the file, so a truncated download is an error here and not
a strange loss later. (A raw file that begins with the magic by chance would need the tokens 55,432 and 308 in a row.)

``path`` is a folder with ``train.bin`` and perhaps ``val.bin``, or the training file. Without validation tokens the
last ``fraction`` of the training file is evaluation, one block away from training. Evaluation documents are blocks of
``block`` tokens. Tokens at or above ``vocab`` are an error: looked for in a sample at the start and in every batch.

The content hash covers every byte of files up to 256 MiB together; of larger ones the sizes and 4,096 evenly spaced
pieces of 4 KiB, which ``sha256_of`` says ("all" or "sample").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.data._tokens import CheckedTokens, Document, TokenSource, check_vocab, digest
from scaling.errors import Code, UserError
from scaling.settings import check, setting

MAGIC, HEADER = 20240520, 256
DTYPES = ("uint16", "uint32")
SAMPLES, SAMPLE = 64, 4096  # where tokens are held against the vocabulary when the files are opened


@dataclass(frozen=True)
class Config:
    path: str = ""
    """A folder with train.bin (and val.bin), or the training file."""
    val: str = ""
    """The validation file; empty: val.bin of the folder, or the last ``fraction`` of the training file."""
    vocab: int = setting(50257, least=2)
    """Tokens are below this; 50257 is GPT-2's."""
    dtype: str = setting("uint16", choices=DTYPES)
    """Of raw files: uint16 or uint32."""
    fraction: float = setting(0.01, above=0, below=1)
    """Evaluation share of the training file where there is no validation file."""
    block: int = setting(8192, least=2)
    """Tokens of an evaluation document."""
    bytes_per_token: float = setting(0.0, least=0)
    """Mean bytes of text for a token, if you know it: losses are then also given in bits/byte. 0: not known."""

    def __post_init__(self):
        check(self, "data")


def open_tokens(path: Path, dtype: str) -> np.ndarray:
    """The tokens of one file, memory-mapped: uint16 or uint32 (n,).

    Raises:
      UserError: the file is missing (MISSING) or empty (TOO_FEW), or its size is no multiple of a token or not that of
        its header (DAMAGED).
    """
    try:
        size = path.stat().st_size
        head = np.fromfile(path, "<i4", count=min(3, size // 4)) if path.is_file() else None
    except OSError as error:
        code = Code.MISSING if isinstance(error, FileNotFoundError) else Code.DAMAGED
        raise UserError("data.path", path, f"cannot be read ({error.strerror})", code) from error
    if head is None:
        remedy = "is no file; give the token file or the folder of train.bin"
        raise UserError("data.path", path, remedy, Code.MISSING)
    if len(head) == 3 and head[0] == MAGIC:
        if head[1] != 1:
            remedy = f"has the llm.c header of version {head[1]}; version 1 (uint16) is read"
            raise UserError("data.path", path, remedy, Code.UNSUPPORTED)
        offset, count, kind = HEADER * 4, int(head[2]), np.dtype("<u2")
        if size != offset + count * kind.itemsize:
            held = max(0, size - offset) / kind.itemsize
            remedy = f"should hold {count} tokens by its header, but has {held:g}; copy again"
            raise UserError("data.path", path, remedy, Code.DAMAGED)
    else:
        kind = np.dtype(dtype).newbyteorder("<")
        offset, count = 0, size // kind.itemsize
        if size % kind.itemsize:
            remedy = f"has {size} bytes, no multiple of {kind.itemsize} ({dtype}); copy again"
            raise UserError("data.path", path, remedy, Code.DAMAGED)
    if count < 2:
        raise UserError("data.path", path, "holds no tokens", Code.TOO_FEW)
    return np.memmap(path, kind, mode="r", offset=offset, shape=(count,))


def make(config: Config) -> TokenSource:
    """Opens and checks the files.

    Raises:
      UserError: see ``open_tokens``; or training is empty (TOO_FEW), or a token is not below ``vocab`` (CONFLICT).
    """
    parts, train, held = _split(config)
    _sample(config, train, held)
    sha256, extent = digest(parts)
    documents = [
        Document(f"block {start // config.block}", held[start : start + config.block], _block_digest(sha256, start))
        for start in range(0, len(held) - 1, config.block)
    ]
    about = {
        "source": "bin",
        "sha256": sha256,
        "sha256_of": extent,
        "bytes": sum(part.nbytes for part in parts),
        "evaluation_bytes": held.nbytes,
        "vocab": config.vocab,
        "fraction": 0.0 if len(parts) == 2 else config.fraction,
        "block": config.block,
    }
    return CheckedTokens(train, documents, config.vocab, config.bytes_per_token or None, about, path=config.path)


def _split(config: Config) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The files' tokens, and those of training and of evaluation."""
    root = Path(config.path).expanduser()
    if not config.path or not root.exists():
        remedy = "is not there; give the token file or the folder of train.bin"
        raise UserError("data.path", config.path, remedy, Code.MISSING)
    train = open_tokens(root / "train.bin" if root.is_dir() else root, config.dtype)
    beside = Path(config.val).expanduser() if config.val else root / "val.bin"
    if config.val or (root.is_dir() and beside.exists()):
        held = open_tokens(beside, config.dtype)
        return [train, held], train, held
    cut = len(train) - max(2, round(len(train) * config.fraction))
    kept = train[: max(0, cut - config.block)]
    if len(kept) < 2:
        remedy = f"leaves no training tokens of {len(train)}; or make block smaller"
        raise UserError("data.fraction", config.fraction, remedy, Code.TOO_FEW)
    return [train], kept, train[cut:]


def _sample(config: Config, *parts: np.ndarray) -> None:
    """Holds a sample of the tokens against the vocabulary, the first and the last of each part among them."""
    rng = np.random.Generator(np.random.Philox(0))
    for part in parts:
        last = max(0, len(part) - SAMPLE)
        for start in (0, *rng.integers(0, max(1, len(part) - SAMPLE), SAMPLES), last):
            check_vocab(part[start : start + SAMPLE], config.vocab, config.path)


def _block_digest(content: str, start: int) -> bytes:
    return hashlib.sha256(f"{content}:{start}".encode()).digest()
