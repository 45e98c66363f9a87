"""Pictures with captions and labels in files: the body of ``webdataset`` and of ``parquet`` with pictures.

A picture is cut to its middle square and scaled to ``side``. As tokens an example is the tokenizer's end token (the
highest; 256 for bytes), the caption, the end token again, and more of them as padding. A caption that does not fit is
cut and still ends with the end token, by which a tower of text may pool; the loss of that false end does not count.

A sample goes to evaluation by the hash of its caption and of the first 4 KiB of its picture, so copies stay on one
side. An example is read when it is needed: a process that trains with others reads its own rows only.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from scaling.data._extras import need
from scaling.data._random import shuffled
from scaling.data._tokenizer import Tokenizer
from scaling.data._tokens import below, split
from scaling.errors import Code, UserError
from scaling.settings import check, setting

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded. Not everything that Pillow knows: some formats run other programs."""
HEAD = 4096
SAMPLED = 4096


@dataclass(frozen=True)
class Pictures:
    """Fields of every source of pictures, for its ``Config`` to inherit."""

    side: int = setting(32, least=1, most=4096)
    """Pictures are scaled to this."""
    classes: int = setting(0, least=0)
    """Labels are below this; 0: no labels."""
    tokenizer: str = "bytes"
    """bytes, or a tokenizer.json of Hugging Face's tokenizers."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Sample:
    """One example as it lies in its file; ``label`` is -1 where there is none."""

    picture: bytes
    caption: bytes
    label: int


class Store(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """File and key, which is what a person needs to find the sample."""
        ...

    def read(self, number: int) -> Sample: ...

    def caption(self, number: int) -> bytes: ...


def sample_digest(size: int, head: bytes, caption: bytes) -> bytes:
    """sha256 by which a sample is split: of the picture's size and first ``HEAD`` bytes, and the caption."""
    return hashlib.sha256(b"%d %d " % (size, len(caption)) + caption + head[:HEAD]).digest()


def decode(picture: bytes, side: int, where: str) -> np.ndarray:
    """(side, side, 3) uint8: the middle square, scaled with an antialiasing filter.

    Raises:
      UserError: the picture is damaged, of a format that is not read, or larger than Pillow holds for safe.
    """
    pillow = need("PIL.Image", where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a picture too large to be safe, or damaged data, only warns
            with pillow.open(io.BytesIO(picture), formats=FORMATS) as image:
                image.draft("RGB", (side, side))  # JPEG: decoded at the smallest scale that is at least this large
                width, height = image.size
                square = min(width, height)
                left, top = (width - square) // 2, (height - square) // 2
                box = (left, top, left + square, top + square)
                return np.asarray(image.convert("RGB").resize((side, side), pillow.Resampling.BICUBIC, box), np.uint8)
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything: SyntaxError, struct.error, zlib.error ...
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        # From None: many are OSErrors, which a worker takes for a fault of its machine and not of the data.
        remedy = f"is no picture that can be read ({reason}); mend or remove it"
        raise UserError("data.image", where, remedy, Code.DAMAGED) from None


@dataclass(frozen=True)
class Pairs:
    """See ``scaling.data.Source`` for the methods."""

    store: Store
    digests: Sequence[bytes]
    tokenizer: Tokenizer
    side: int
    classes: int
    captions: bool
    about: dict[str, Any]

    @property
    def vocab(self) -> int:
        return self.tokenizer.vocab

    @property
    def bytes_per_token(self) -> float | None:
        return None

    @property
    def supplies(self) -> dict[str, int]:
        text = {"vocab": self.vocab} if self.captions else {}
        return {**text, "image": self.side, **({"classes": self.classes} if self.classes else {})}

    @cached_property
    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the training samples in their order, and of the evaluation samples by hash."""
        threshold = split(self.digests, [1] * len(self.digests), len(self.digests))
        held = np.array([below(digest, threshold) for digest in self.digests], bool)
        if held.all() or not held.any():
            remedy = "are too few, or all the same, to be split"
            raise UserError("data.path", f"{len(held)} samples", remedy, Code.TOO_FEW)
        ranking = sorted(np.flatnonzero(held).tolist(), key=lambda number: (self.digests[number], number))
        return np.flatnonzero(~held), np.array(ranking, np.int64)

    def describe(self) -> dict[str, Any]:
        train, held = self._sides
        return {
            "unique_tokens": None,
            "entropy": None,
            "samples": len(train),
            "evaluation_samples": len(held),
            "vocab": self.vocab,
            "tokenizer": self.tokenizer.name,
            "tokenizer_sha256": self.tokenizer.sha256,
            "side": self.side,
            "classes": self.classes,
            **self.about,
        }

    def unique_tokens(self, context: int) -> int:
        return len(self._sides[0]) * context

    def loss_tokens(self, context: int) -> float:
        """Mean of the targets that count in an example: of 4,096 training samples where there are more."""
        train = self._sides[0]
        some = train[np.linspace(0, len(train) - 1, min(len(train), SAMPLED)).astype(np.int64)]
        return float(self._loss_tokens(some, context).mean())

    def _loss_tokens(self, numbers: np.ndarray, context: int) -> np.ndarray:
        captions = [self.store.caption(number) for number in numbers.tolist()]
        return self._text(numbers, captions, context)[1].sum(axis=1)

    def _text(self, numbers: np.ndarray, captions: Sequence[bytes], context: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n, T + 1) and mask (n, T) of the samples' captions."""
        assert self.tokenizer.end is not None
        try:
            encoded = self.tokenizer.encode(captions)
        except UnicodeDecodeError as error:
            wrong = next(number for number, caption in zip(numbers.tolist(), captions) if not _is_text(caption))
            remedy = "is not UTF-8 text; mend or remove it"
            raise UserError("data.text", self.store.name(wrong), remedy, Code.DAMAGED) from error
        tokens = np.full((len(captions), context + 1), self.tokenizer.end, np.int32)
        mask = np.zeros((len(captions), context), np.float32)
        for row, found in enumerate(encoded):
            kept = found[: context - 1]
            tokens[row, 1 : 1 + len(kept)] = kept
            mask[row, : len(kept) + (len(kept) == len(found))] = float(self.captions)
        return tokens, mask

    def _examples(self, numbers: np.ndarray, context: int) -> dict[str, np.ndarray]:
        samples = []
        images = np.empty((len(numbers), self.side, self.side, 3), np.uint8)
        for row, number in enumerate(numbers.tolist()):
            sample = self.store.read(number)
            images[row] = decode(sample.picture, self.side, self.store.name(number))
            if self.classes and not 0 <= sample.label < self.classes:
                remedy = f"the label of {self.store.name(number)} is not from 0 to {self.classes - 1}; give classes"
                raise UserError("data.label", sample.label, remedy, Code.CONFLICT)
            samples.append(sample)
        tokens, mask = self._text(numbers, [sample.caption for sample in samples], context)
        found = {"tokens": tokens, "mask": mask, "image": images}
        if self.classes:
            found["label"] = np.array([sample.label for sample in samples], np.int32)
        return found

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        train = self._sides[0]
        return self._examples(train[shuffled(indices, len(train), seed)], context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        held = self._sides[1]
        if limit_tokens is not None:
            # Without captions every sample stands for its context.
            counts = np.full(len(held), context, np.float64)
            if self.captions:
                counts = self._loss_tokens(held, context)
            held = held[: int(np.searchsorted(np.cumsum(counts), limit_tokens)) + 1]
        return {
            **self._examples(held, context),
            "document": np.arange(len(held), dtype=np.int32),
            "documents": [self.store.name(number) for number in held.tolist()],
        }


def _is_text(caption: bytes) -> bool:
    try:
        caption.decode()
    except UnicodeDecodeError:
        return False
    return True
