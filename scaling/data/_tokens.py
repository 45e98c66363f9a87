"""Windows over one array of training tokens and a list of evaluation documents: the body of stdlib, text and bin.

The training text is the concatenation of the training documents, cut into windows of ``context`` tokens that share
their last token with the next window's first (the target of the one is the input of the other): a token is a target
exactly once an epoch. A window is the shuffled unit, so the order depends on the context and on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling.data._random import key, mix, permute

EVALUATION = 0.05
"""Share of the bytes, in expectation, whose documents go to evaluation."""


def held_out(digest: bytes, share: float = EVALUATION) -> bool:
    """Whether the document with this sha256 belongs to evaluation. Copies of a document land on the same side."""
    return int.from_bytes(digest[:8], "big") < int(share * 2.0**64)


@dataclass(frozen=True)
class Document:
    """An evaluation document: its name in the records, its tokens (integers, 1-D), and what orders its windows."""

    name: str
    tokens: np.ndarray
    digest: bytes


@dataclass(frozen=True)
class TokenSource:
    """A source that holds its tokens, in memory or mapped from a file. See ``scaling.data.Source`` for the methods."""

    train: np.ndarray
    documents: Sequence[Document]
    vocab: int
    bytes_per_token: float | None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def supplies(self) -> dict[str, int]:
        return {"vocab": self.vocab, "context": max(len(document.tokens) for document in self.documents)}

    def describe(self) -> dict[str, Any]:
        return {"unique_tokens": len(self.train), "entropy": None, **self.about}

    def windows(self, context: int) -> int:
        """Whole windows in the training text; the rest after the last one is not used."""
        return max(0, (len(self.train) - 1) // context)

    def unique_tokens(self, context: int) -> int:
        return self.windows(context) * context

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        windows = self.windows(context)
        if windows == 0:
            raise ValueError(f"no window of {context} tokens in {len(self.train)}")
        epochs, positions = np.divmod(np.asarray(indices, np.int64), windows)
        chosen = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = permute(positions[here], windows, key(seed, int(epoch)))
        rows = self.train[(chosen * context)[:, None] + np.arange(context + 1)]
        return {"tokens": rows.astype(np.int32)}

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
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
            "mask": mask,
            "document": document.astype(np.int32),
            "documents": [self.documents[number].name for number in present],
        }


def content_hash(items: Sequence[tuple[str, bytes]]) -> str:
    """sha256 over (name, content), each preceded by its length, so that no two lists share a byte stream."""
    total = hashlib.sha256()
    for name, content in items:
        encoded = name.encode("utf-8", "surrogateescape")
        total.update(len(encoded).to_bytes(8, "big") + encoded + len(content).to_bytes(8, "big"))
        total.update(content)
    return total.hexdigest()


def join(parts: Sequence[bytes]) -> np.ndarray:
    """Concatenated bytes as uint8 (total,), read-only."""
    return np.frombuffer(b"".join(parts), np.uint8)
