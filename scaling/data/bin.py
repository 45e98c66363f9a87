"""Memory-mapped token files of other trainers: ``{"source": "bin", "path": "tokens/", "vocab": 50257}``.

Two layouts, distinguished by the first four bytes. Raw (nanoGPT): only little-endian integers of ``dtype``. llm.c: 256
int32, the first three being magic, version and number of tokens; then the tokens, uint16 for GPT-2's magic 20240520 and
uint32 for Llama 3's 20240801. The number of tokens is checked against the size of the file, so a truncated download is
an error and not a strange loss. (A raw file that starts with a magic by chance would need two certain tokens in a row.)

A raw file does not say its type. Read as half as wide, every second of its tokens is 0 (or -1, or the few that a
vocabulary above 65,536 needs): that is refused, as is a vocabulary that the type cannot hold. nanoGPT keeps the
vocabulary of characters in ``meta.pkl``, which is never loaded: where one lies beside the tokens, give ``vocab``.

``path`` is a folder with ``train.bin`` and optionally ``val.bin``, or the training file. Without validation tokens, the
last ``fraction`` of the training file is for evaluation, separated from training by one block. Evaluation documents are
blocks of ``block`` tokens. Tokens at or above ``vocab`` are an error: a sample is checked at the start, and every
batch.

The content hash covers every byte if the files have up to 256 MiB in total, else their sizes and 4,096 evenly spaced
pieces of 4 KiB each; ``sha256_of`` records which ("all" or "sample").
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.data._formats import LLMC
from scaling.data._tokens import CheckedTokens, Document, TokenSource, check_vocab, check_width, digest
from scaling.errors import Code, UserError
from scaling.settings import check, setting

HEADER, GPT2 = 256, 50257
DTYPES = ("uint16", "uint32")
SAMPLES, SAMPLE = 64, 4096  # number and length of the pieces checked against the vocabulary on opening


@dataclass(frozen=True)
class Config:
    path: str = ""
    """A folder with train.bin (and val.bin), or the training file."""
    val: str = ""
    """The validation file; empty: val.bin in the folder, or else the last ``fraction`` of the training file."""
    vocab: int = setting(0, least=0)
    """Size of the vocabulary; tokens are below it. 0: GPT-2's 50257, unless a meta.pkl says that it is another."""
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
        if self.vocab == 1:
            raise UserError("data.vocab", self.vocab, "must be at least 2, or 0 for GPT-2's")


def open_tokens(path: Path, dtype: str) -> np.ndarray:
    """The tokens of one file, memory-mapped: uint16 or uint32 (n,).

    Raises:
      UserError: the file is missing (MISSING) or empty (TOO_FEW), the version of its llm.c header is not known
        (UNSUPPORTED), or its size is not a multiple of a token or differs from its header (DAMAGED).
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
    if len(head) == 3 and int(head[0]) in LLMC:
        version, stored = LLMC[int(head[0])]
        if head[1] != version:
            remedy = f"has llm.c's header {head[0]} of version {head[1]}; version {version} is read"
            raise UserError("data.path", path, remedy, Code.UNSUPPORTED)
        offset, count, kind = HEADER * 4, int(head[2]), np.dtype(stored)
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
      UserError: see ``open_tokens``; or training is empty (TOO_FEW), the vocabulary must be given (MISSING), a token is
        not below it, or ``dtype`` is not the type of the file or too small for the vocabulary (CONFLICT).
    """
    config = dataclasses.replace(config, vocab=config.vocab or _default_vocab(config))
    parts, train, held = _split(config)
    for part in parts:
        check_width(list(_samples(part)), config.vocab, config.path)
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


def _default_vocab(config: Config) -> int:
    """GPT-2's vocabulary. Raises UserError (MISSING) if a meta.pkl beside the tokens says that theirs is another."""
    root = Path(config.path).expanduser()
    meta = (root if root.is_dir() else root.parent) / "meta.pkl"
    if config.path and meta.is_file():
        remedy = f"give the vocabulary that {meta} holds (vocab_size); a pickle is never loaded"
        raise UserError("data.vocab", "nothing", remedy, Code.MISSING)
    return GPT2


def _samples(part: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of the tokens, the first and the last among them, each from a multiple of four tokens."""
    rng = np.random.Generator(np.random.Philox(0))
    last = max(0, len(part) - SAMPLE)
    for start in (0, *rng.integers(0, max(1, len(part) - SAMPLE), SAMPLES), last):
        yield part[start - start % 4 : start + SAMPLE]


def _sample(config: Config, *parts: np.ndarray) -> None:
    """Checks a sample of the tokens against the vocabulary, including the first and last of each part."""
    for part in parts:
        for piece in _samples(part):
            check_vocab(piece, config.vocab, config.path)


def _block_digest(content: str, start: int) -> bytes:
    return hashlib.sha256(f"{content}:{start}".encode()).digest()
