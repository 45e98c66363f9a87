"""Memory-mapped token files of other trainers: ``{"source": "bin", "path": "tokens/", "vocab": 50257}``.

Two layouts, distinguished by the first four bytes. Raw (nanoGPT): only little-endian integers of ``dtype``. llm.c: 256
int32, the first three being magic 20240520, version and number of tokens; then the tokens, uint16 for version 1. The
number of tokens is checked against the size of the file, so a truncated download is an error and not a strange loss. (A
raw file that starts with the magic by chance would need the tokens 55,432 and 308 in a row.)

``path`` is a folder with ``train.bin`` and optionally ``val.bin``, or the training file. Without validation tokens, the
last ``fraction`` of the training file is for evaluation, separated from training by one block. Evaluation documents are
blocks of ``block`` tokens. Tokens at or above ``vocab`` are an error: a sample is checked at the start, and every
batch.

The content hash covers every byte if the files have up to 256 MiB in total, else their sizes and 4,096 evenly spaced
pieces of 4 KiB each; ``sha256_of`` records which ("all" or "sample").
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
SAMPLES, SAMPLE = 64, 4096  # number and length of the pieces checked against the vocabulary on opening


@dataclass(frozen=True)
class Config:
    path: str = ""
    """A folder with train.bin (and val.bin), or the training file."""
    val: str = ""
    """The validation file; empty: val.bin in the folder, or else the last ``fraction`` of the training file."""
    vocab: int = setting(50257, least=2)
    """Size of the vocabulary; tokens are below it. 50257 is GPT-2's."""
    dtype: str = setting("uint16", choices=DTYPES)
    """Type of the tokens in raw files: uint16 or uint32."""
    fraction: float = setting(0.01, above=0, below=1)
    """Share of the training file used for evaluation if there is no validation file."""
    block: int = setting(8192, least=2)
    """Tokens of an evaluation document."""
    bytes_per_token: float = setting(0.0, least=0)
    """Mean bytes of text per token, if known: losses are then also given in bits/byte. 0: not known."""

    def __post_init__(self):
        check(self, "data")


def open_tokens(path: Path, dtype: str) -> np.ndarray:
    """The tokens of one file, memory-mapped: uint16 or uint32 (n,).

    Raises:
      UserError: the file is missing (MISSING) or empty (TOO_FEW), its llm.c version is not 1 (UNSUPPORTED), or its size
        is not a multiple of a token or differs from its header (DAMAGED).
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
            remedy = f"should hold {count} tokens by its header, but has {held:g}; copy it again"
            raise UserError("data.path", path, remedy, Code.DAMAGED)
    else:
        kind = np.dtype(dtype).newbyteorder("<")
        offset, count = 0, size // kind.itemsize
        if size % kind.itemsize:
            remedy = f"has {size} bytes, not a multiple of {kind.itemsize} ({dtype}); copy it again"
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
    """The tokens of the files, those of training, and those of evaluation."""
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
    """Checks a sample of the tokens against the vocabulary, including the first and last of each part."""
    rng = np.random.Generator(np.random.Philox(0))
    for part in parts:
        last = max(0, len(part) - SAMPLE)
        for start in (0, *rng.integers(0, max(1, len(part) - SAMPLE), SAMPLES), last):
            check_vocab(part[start : start + SAMPLE], config.vocab, config.path)


def _block_digest(content: str, start: int) -> bytes:
    return hashlib.sha256(f"{content}:{start}".encode()).digest()
