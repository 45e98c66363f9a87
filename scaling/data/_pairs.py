"""Pictures with captions and labels in files, shared by ``webdataset`` and ``parquet``.

A picture is cropped to its central square and scaled to ``side``. The tokens of an example are the tokenizer's end
token (the highest; 256 for bytes), the caption, and the end token again, repeated as padding. A caption that is too
long is cut but still ends with the end token, at which a text tower may pool; the loss of that token is masked.

A hash of the caption and the first 4 KiB of the picture assigns a sample to training or evaluation, so copies stay on
one side. Examples are read when needed: each process of a group reads only its own rows.
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
from scaling.data._remarks import Remark
from scaling.data._tokenizer import Tokenizer
from scaling.data._tokens import below, split
from scaling.errors import Code, UserError
from scaling.settings import check, setting

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are decoded. Not all that Pillow supports, since some of those run external programs."""
HEAD = 4096
SAMPLED = 4096


@dataclass(frozen=True)
class Pictures:
    """Fields of every source of pictures, for its ``Config`` to inherit."""

    side: int = setting(32, least=1, most=4096)
    """Side in pixels to which pictures are scaled."""
    classes: int = setting(0, least=0)
    """Number of labels; 0: no labels are read."""
    tokenizer: str = "bytes"
    """bytes, or a tokenizer.json of Hugging Face's tokenizers."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Sample:
    """One example as stored in its file; ``label`` is -1 if there is none."""

    picture: bytes
    caption: bytes
    label: int


class Store(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """File and key of a sample, for messages."""
        ...

    def read(self, number: int) -> Sample: ...

    def caption(self, number: int) -> bytes: ...


def sample_digest(size: int, head: bytes, caption: bytes) -> bytes:
    """sha256 that decides the split: of the picture's size and first ``HEAD`` bytes, and the caption."""
    return hashlib.sha256(b"%d %d " % (size, len(caption)) + caption + head[:HEAD]).digest()


def decode(picture: bytes, side: int, where: str) -> np.ndarray:
    """Decodes a picture to (side, side, 3) uint8: its central square, scaled with an antialiasing filter.

    Args:
      picture: encoded bytes.
      where: file and key, for the message.

    Raises:
      UserError: the picture is damaged, of an unsupported format, or larger than Pillow considers safe (DAMAGED).
    """
    pillow = need("PIL.Image", where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # for oversized pictures and damaged data Pillow only warns
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
        # From None: many are OSErrors, which a worker would take for a problem of the machine.
        remedy = f"is not a readable picture ({reason}); repair or remove it"
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
    remarks: tuple[Remark, ...] = ()

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
        """Indices of the training samples in order, and of the evaluation samples sorted by hash."""
        threshold = split(self.digests, [1] * len(self.digests), len(self.digests))
        held = np.array([below(digest, threshold) for digest in self.digests], bool)
        if held.all() or not held.any():
            remedy = "are too few, or all the same, to be split"
            raise UserError("data.path", f"{len(held)} samples", remedy, Code.TOO_FEW)
        ranking = sorted(np.flatnonzero(held).tolist(), key=lambda number: (self.digests[number], number))
        return np.flatnonzero(~held), np.array(ranking, np.int64)

    def describe(self) -> dict[str, Any]:
        train, evaluation = self._sides
        return {
            "unique_tokens": None,
            "entropy": None,
            "samples": len(train),
            "evaluation_samples": len(evaluation),
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
        """Mean number of targets that count in an example, over at most 4,096 training samples."""
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
            remedy = "is not UTF-8 text; repair or remove it"
            raise UserError("data.text", self.store.name(wrong), remedy, Code.DAMAGED) from error
        tokens = np.full((len(captions), context + 1), self.tokenizer.end, np.int32)
        mask = np.zeros((len(captions), context), np.float32)
        for row, text_tokens in enumerate(encoded):
            kept = text_tokens[: context - 1]
            tokens[row, 1 : 1 + len(kept)] = kept
            mask[row, : len(kept) + (len(kept) == len(text_tokens))] = float(self.captions)
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
        examples = {"tokens": tokens, "mask": mask, "image": images}
        if self.classes:
            examples["label"] = np.array([sample.label for sample in samples], np.int32)
        return examples

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        train = self._sides[0]
        return self._examples(train[shuffled(indices, len(train), seed)], context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        held = self._sides[1]
        if limit_tokens is not None:
            # Without captions every sample counts as its whole context.
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
