"""Windows over training tokens, and evaluation documents: shared by all sources of text.

The training text is the concatenation of the training documents, cut into windows of ``context`` tokens. The last
target of a window is the first input of the next, so every token is a target exactly once per epoch. Windows are
shuffled, so the order depends on the context as well as the seed.

Evaluation cuts each document into windows of its own, of which the last is padded. If the context is longer than every
document, there would be none in full: then documents are packed as in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from scaling.data._random import mix, shuffled
from scaling.data._remarks import Remark
from scaling.errors import Code, UserError

EVALUATION = 0.05
"""Expected share of the bytes that goes to evaluation."""
HASH_WHOLE = 256 * 2**20
"""Bytes up to which content is hashed in full."""
PIECES, PIECE = 4096, 4096


class Tokens(Protocol):
    """Tokens that are not stored in one array, but in several files, or one document per record."""

    def __len__(self) -> int: ...

    def gather(self, starts: np.ndarray, length: int) -> np.ndarray:
        """``length`` tokens from each of ``starts`` (n,): integers (n, length)."""
        ...


def gather(tokens: np.ndarray | Tokens, starts: np.ndarray, length: int) -> np.ndarray:
    """``length`` tokens from each of ``starts`` (n,), (n, length)."""
    if isinstance(tokens, np.ndarray):
        return tokens[starts[:, None] + np.arange(length)]
    return tokens.gather(starts, length)


def held_out(digest: bytes, share: float = EVALUATION) -> bool:
    """Whether the document with this sha256 belongs to evaluation. Copies of a document go to the same side."""
    return below(digest, int(share * 2.0**64))


def split(digests: Sequence[bytes], sizes: Sequence[int], total: int, share: float = EVALUATION) -> int:
    """The hash below which a document goes to evaluation: ``share`` of 2**64.

    If that takes less than a fifth or more than five times the share of the bytes, as it may for few documents, the
    threshold is instead put just above the smallest hashes whose documents hold the share.

    Args:
      digests, sizes: sha256 and bytes of the documents that may be held out.
      total: bytes of all documents.
    """
    numbers = np.array([int.from_bytes(digest[:8], "big") for digest in digests], np.uint64)
    bytes_of, plain = np.asarray(sizes, np.int64), int(share * 2.0**64)
    if share / 5 <= bytes_of[numbers < plain].sum() / total <= min(5 * share, 0.5 + share / 2):
        return plain
    order = np.argsort(numbers, kind="stable")
    last = int(np.searchsorted(np.cumsum(bytes_of[order]), share * total))
    return int(numbers[order[min(last, len(order) - 1)]]) + 1 if len(order) else plain


def below(digest: bytes, threshold: int) -> bool:
    """Whether the document with this sha256 has a hash below the threshold, and so belongs to evaluation."""
    return int.from_bytes(digest[:8], "big") < threshold


@dataclass(frozen=True)
class Document:
    """An evaluation document: name in the records, tokens (integers, 1-D), and the digest that orders its windows.

    ``tokens`` need not be an array: only its length and slices are used.
    """

    name: str
    tokens: Any
    digest: bytes


@dataclass(frozen=True)
class TokenSource:
    """A source that holds its tokens, in memory or mapped from a file. See ``scaling.data.Source`` for the methods.

    ``train`` is an array (1-D) or other ``Tokens``. ``marks`` tell of every token whether it begins words or ends
    sentences (``scaling.data._tokenizer``); None if that is not known.
    """

    train: Any
    documents: Sequence[Document]
    vocab: int
    bytes_per_token: float | None
    about: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()
    marks: np.ndarray | None = None

    @property
    def supplies(self) -> dict[str, int]:
        supplied = {"vocab": self.vocab, "context": sum(len(document.tokens) for document in self.documents)}
        return supplied if self.marks is None else {**supplied, "marks": self.vocab}

    def marked(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """{"marks": those of each of the tokens, uint8}, if they are known."""
        return {} if self.marks is None else {"marks": self.marks[np.clip(tokens, 0, self.vocab - 1)]}

    @property
    def longest(self) -> int:
        """Tokens of the longest evaluation document; for a longer context they are packed."""
        return max(len(document.tokens) for document in self.documents)

    def describe(self) -> dict[str, Any]:
        return {"unique_tokens": len(self.train), "entropy": None, **self.about}

    def windows(self, context: int) -> int:
        """Complete windows in the training text; the remainder is not used."""
        return max(0, (len(self.train) - 1) // context)

    def unique_tokens(self, context: int) -> int:
        return self.windows(context) * context

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        windows = self.windows(context)
        if windows == 0:
            raise ValueError(f"no window of {context} tokens in {len(self.train)}")
        chosen = shuffled(indices, windows, seed)
        tokens = gather(self.train, chosen * context, context + 1).astype(np.int32)
        return {"tokens": tokens, **self.marked(tokens)}

    def _packed(self, context: int, limit_tokens: int | None) -> dict[str, np.ndarray | list[str]]:
        """Windows over all evaluation documents, one after another as in training; each counts as one document."""
        lengths = np.array([len(document.tokens) for document in self.documents])
        ends = np.cumsum(lengths)
        start = np.arange(0, int(ends[-1]) - 1, context)
        first = np.searchsorted(ends, start, side="right")  # no two start in one, since each is shorter than a window
        digests = b"".join(self.documents[number].digest[:8] for number in first.tolist())
        secrets = np.frombuffer(digests, ">u8").astype(np.uint64)
        start = start[np.argsort(mix(secrets ^ mix(start.astype(np.uint64))), kind="stable")]
        count = np.minimum(context, int(ends[-1]) - 1 - start)
        if limit_tokens is not None:
            keep = int(np.searchsorted(np.cumsum(count), limit_tokens)) + 1
            start, count = start[:keep], count[:keep]
        tokens, names = np.zeros((len(start), context + 1), np.int32), []
        for row, (begin, used) in enumerate(zip(start.tolist(), count.tolist())):
            low, high = np.searchsorted(ends, (begin, begin + used), side="right").tolist()
            whole = np.concatenate(
                [document.tokens[0 : len(document.tokens)] for document in self.documents[low : high + 1]]
            )
            offset = begin - int(ends[low] - lengths[low])
            tokens[row, : used + 1] = whole[offset : offset + used + 1]
            names.append(f"{self.documents[low].name} and {high - low} more")
        return {
            "tokens": tokens,
            **self.marked(tokens),
            "mask": (np.arange(context) < count[:, None]).astype(np.float32),
            "document": np.arange(len(start), dtype=np.int32),
            "documents": names,
        }

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        if context > self.longest:
            return self._packed(context, limit_tokens)
        where, first, order = [], [], []
        for number, document in enumerate(self.documents):
            starts = np.arange(0, len(document.tokens) - 1, context)
            where.append(np.full(len(starts), number, np.int32))
            first.append(starts)
            secret = np.frombuffer(document.digest[:8], ">u8").astype(np.uint64)
            order.append(mix(secret ^ mix(starts.astype(np.uint64))))
        document, start = np.concatenate(where), np.concatenate(first)
        ranking = np.argsort(np.concatenate(order), kind="stable")
        document, start = document[ranking], start[ranking]
        lengths = np.array([len(each.tokens) for each in self.documents])
        count = np.minimum(context, lengths[document] - 1 - start)
        if limit_tokens is not None:
            keep = int(np.searchsorted(np.cumsum(count), limit_tokens)) + 1
            document, start, count = document[:keep], start[:keep], count[:keep]
        tokens = np.zeros((len(start), context + 1), np.int32)
        for row, (owner, begin, used) in enumerate(zip(document, start, count)):
            tokens[row, : used + 1] = self.documents[owner].tokens[begin : begin + used + 1]
        mask = (np.arange(context) < count[:, None]).astype(np.float32)
        present, document = np.unique(document, return_inverse=True)
        return {
            "tokens": tokens,
            **self.marked(tokens),
            "mask": mask,
            "document": document.astype(np.int32),
            "documents": [self.documents[number].name for number in present],
        }


@dataclass(frozen=True)
class CheckedTokens(TokenSource):
    """A TokenSource that raises on tokens outside the vocabulary, which an embedding would clip silently."""

    path: str = ""

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        batch = super().batch(indices, seed=seed, context=context)
        check_vocab(batch["tokens"], self.vocab, self.path)
        return batch

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        evaluation = super().evaluation(context, limit_tokens)
        check_vocab(evaluation["tokens"], self.vocab, self.path)
        return evaluation


def check_vocab(tokens: np.ndarray, vocab: int, path: str) -> None:
    """Checks that tokens are within the vocabulary; an int32 that overflowed is negative, so it is outside.

    Raises:
      UserError: a token is outside [0, vocab) (CONFLICT).
    """
    if tokens.size and (int(tokens.max()) >= vocab or int(tokens.min()) < 0):
        worst = int(tokens.max()) if tokens.max() >= vocab else int(tokens.min()) % 2**32
        remedy = f"{path} has the token {worst}; give the tokenizer's size, or the dtype"
        raise UserError("data.vocab", vocab, remedy, Code.CONFLICT)


def check_width(pieces: Sequence[np.ndarray], vocab: int, path: str) -> None:
    """Checks that stored tokens are not halves of wider integers, and that their type can hold the vocabulary.

    Read as half as wide, every second token is 0, or the little that larger tokens need, or -1.

    Args:
      pieces: of the tokens, unsigned and of one type; each begins at a multiple of four tokens of what was written.

    Raises:
      UserError: the type is not what was written, or too narrow (CONFLICT).
    """
    bits = pieces[0].dtype.itemsize * 8
    if vocab > 2**bits:
        remedy = f"uint{bits}, the type of {path}, holds only tokens below {2**bits:,}; lower it, or set data.dtype"
        raise UserError("data.vocab", vocab, remedy, Code.CONFLICT)
    low, high = np.concatenate([piece[: len(piece) // 4 * 4].reshape(-1, 2) for piece in pieces]).T
    upper = (0, 1, 2, 3, 2**bits - 1) if bits == 16 else (0, 2**bits - 1)  # of vocabularies up to 262,144, and of -1
    halves = bool(len(high)) and np.isin(high, upper).all() and (high == 0).mean() > 0.25
    if not halves or np.isin(low, upper).mean() > 0.75:  # the others are as small: tokens of a tiny vocabulary
        return
    twice = bits == 32 or not low[1::2].any()
    written = "int64: write it again with astype('uint32')" if twice else "int32 or uint32: set data.dtype to uint32"
    remedy = f"every second token of {path} is 0, so it holds {written}"
    raise UserError("data.dtype", f"uint{bits}", remedy, Code.CONFLICT)


def content_hash(items: Sequence[tuple[str, bytes]]) -> str:
    """sha256 over (name, content), each preceded by its length, so that no two lists share a byte stream."""
    total = hashlib.sha256()
    for name, content in items:
        encoded = name.encode("utf-8", "surrogateescape")
        total.update(len(encoded).to_bytes(8, "big") + encoded + len(content).to_bytes(8, "big"))
        total.update(content)
    return total.hexdigest()


def digest(parts: Sequence[np.ndarray]) -> tuple[str, str]:
    """(sha256, "all" | "sample") over arrays (1-D), each preceded by its type and length.

    Above ``HASH_WHOLE`` bytes in total, only 4,096 evenly spaced pieces of 4 KiB of each array are hashed.
    """
    total = hashlib.sha256()
    whole = sum(part.nbytes for part in parts) <= HASH_WHOLE
    for part in parts:
        raw = part.view(np.uint8)
        total.update(f"{part.dtype.str} {part.size};".encode())
        if whole:
            total.update(raw.data)
        else:
            for start in np.linspace(0, max(0, raw.size - PIECE), PIECES).astype(np.int64):
                total.update(raw[start : start + PIECE].data)
    return total.hexdigest(), "all" if whole else "sample"


def join(parts: Sequence[bytes]) -> np.ndarray:
    """Concatenated bytes as uint8 (total,), read-only."""
    return np.frombuffer(b"".join(parts), np.uint8)
