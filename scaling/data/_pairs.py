"""Pictures or sounds with captions and labels in files, shared by ``webdataset`` and ``parquet``.

A picture is cropped to its central square and scaled to ``side``; a sound, read in its place if ``frames`` are asked
for, is given as a log-mel spectrogram (``scaling.data._mel``). The tokens of an example are the tokenizer's end
token (the highest; 256 for bytes), the caption, and the end token again, repeated as padding. A caption that is too
long is cut but still ends with the end token, at which a text tower may pool; the loss of that token is masked.

A sample that cannot be read is an error, unless ``damaged`` allows for it: then the next one in the order of the files
takes its place in a batch, and evaluation goes without it. A run that never meets it trains on the same batches with
and without the allowance, which is therefore not part of the identity; a run that meets it has a result only with it.

A hash of the caption and the first 4 KiB of the picture assigns a sample to training or evaluation, so copies stay on
one side. Examples are read when needed: each process of a group reads only its own rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from scaling.data import _audio
from scaling.data._decode import BACKGROUNDS, decode
from scaling.data._mel import Spectrogram, log_mel
from scaling.data._random import shuffled
from scaling.data._remarks import Remark, remark
from scaling.data._tokenizer import SPECIALS, Tokenizer
from scaling.data._tokens import below, split
from scaling.errors import Code, UserError
from scaling.settings import setting

HEAD = 4096
SAMPLED = 4096
HELD = 2**32  # bytes of the spectrograms of an evaluation, which are held in memory


@dataclass(frozen=True)
class Pictures(Spectrogram):
    """Fields of every source of pictures and sounds, for its ``Config`` to inherit; those of ``Spectrogram`` are of
    sounds."""

    side: int = setting(32, least=1, most=4096)
    """Side in pixels to which pictures are scaled."""
    classes: int = setting(0, least=0)
    """Number of labels; 0: no labels are read."""
    tokenizer: str = "bytes"
    """bytes, or a tokenizer.json of Hugging Face's tokenizers."""
    specials: str = setting("token", choices=SPECIALS)
    """Whether the name of a special token within a text is read as this token or as text."""
    background: str = setting("white", choices=BACKGROUNDS)
    """Colour that is seen where a picture is transparent: white, black or grey."""
    frames: int = setting(0, least=0)
    """Frames of a spectrogram: sounds are cut off, or silent at their end. 0: pictures are read, and no sounds."""
    damaged: int = setting(0, least=0)
    """Samples that may be damaged or lack a part, together. Each is counted; a damaged one is replaced by the next that
    is not, one without a part is left out. More are an error."""


@dataclass(frozen=True)
class Sample:
    """One example as stored in its file, ``picture`` a sound if these are read; ``label`` is -1 if there is none."""

    picture: bytes
    caption: bytes
    label: int


def allow(found: Sequence[UserError], allowed: int) -> tuple[Remark, ...]:
    """What to say of the samples without a part that were found in the files; raises the first that is not allowed."""
    if len(found) > allowed:
        raise found[allowed]
    return remark("damaged", [str(error.value) for error in found])


def literals(store: Store, tokenizer: Tokenizer) -> tuple[Remark, ...]:
    """What to say of captions that spell a special token."""
    if tokenizer.literals is None:
        return ()
    found = [number for number in range(len(store)) if tokenizer.count_literals(store.caption(number))]
    return remark("literals", [store.name(number) for number in found])


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


@dataclass
class Damage:
    """Samples that could not be read, by number; and which rows of the latest batch others replaced, (n,) bool."""

    samples: set[int] = field(default_factory=set)
    replaced: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


@dataclass(frozen=True)
class Pairs:
    """See ``scaling.data.Source`` for the methods. The digest of a sample that is not used is empty."""

    store: Store
    digests: Sequence[bytes]
    tokenizer: Tokenizer
    config: Pictures
    captions: bool
    about: dict[str, Any]
    remarks: tuple[Remark, ...] = ()
    damage: Damage = field(default_factory=Damage)

    @property
    def side(self) -> int:
        """Side of the images, in pixels."""
        return self.config.side

    @property
    def classes(self) -> int:
        """Number of labels; 0 if none are read."""
        return self.config.classes

    @property
    def replaced(self) -> np.ndarray:
        """Which rows of the latest batch hold another sample than the one that is damaged, (n,) bool."""
        return self.damage.replaced

    @property
    def vocab(self) -> int:
        return self.tokenizer.vocab

    @property
    def bytes_per_token(self) -> float | None:
        return None

    @property
    def _allowed(self) -> int:
        """Samples that may be damaged besides those without a part, which were found when the source was made."""
        return self.config.damaged - sum(remark.count for remark in self.remarks if remark.code == "damaged")

    @property
    def supplies(self) -> dict[str, int]:
        text = {"vocab": self.vocab} if self.captions else {}
        c = self.config
        seen = {"mel": c.mel, "frames": c.frames} if c.frames else {"image": self.side}
        return {**text, **seen, **({"classes": self.classes} if self.classes else {})}

    @cached_property
    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training samples in order, and of the evaluation samples sorted by hash."""
        whole = np.array([bool(digest) for digest in self.digests], bool)
        digests = [digest for digest in self.digests if digest]
        threshold = split(digests, [1] * len(digests), len(digests))
        held = np.array([bool(digest) and below(digest, threshold) for digest in self.digests], bool)
        if not (whole & ~held).any() or not held.any():
            remedy = "are too few, or all the same, to be split"
            raise UserError("data.path", f"{len(held)} samples", remedy, Code.TOO_FEW)
        ranking = sorted(np.flatnonzero(held).tolist(), key=lambda number: (self.digests[number], number))
        return np.flatnonzero(whole & ~held), np.array(ranking, np.int64)

    def describe(self) -> dict[str, Any]:
        train, evaluation = self._sides
        c = self.config
        form = {"rate": c.rate, "window": c.window, "hop": c.hop, "mel": c.mel, "frames": c.frames}
        return {
            "unique_tokens": None,
            "entropy": None,
            "samples": len(train),
            "evaluation_samples": len(evaluation),
            "vocab": self.vocab,
            "tokenizer": self.tokenizer.name,
            "tokenizer_sha256": self.tokenizer.sha256,
            **(form if c.frames else {"side": self.side}),
            "classes": self.classes,
            **({} if self.config.background == "white" else {"background": self.config.background}),
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
        if self.config.damaged and self.tokenizer.name != "bytes":
            captions = [caption if _is_text(caption) else b"" for caption in captions]
        return self._text(numbers, captions, context)[1].sum(axis=1)

    def _no_text(self, number: int) -> UserError:
        remedy = "is not UTF-8 text; repair or remove it, or allow for it with data.damaged"
        return UserError("data.text", self.store.name(number), remedy, Code.DAMAGED)

    def _text(self, numbers: np.ndarray, captions: Sequence[bytes], context: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n, T + 1) and mask (n, T) of the samples' captions."""
        assert self.tokenizer.end is not None
        try:
            encoded = self.tokenizer.encode(captions)
        except UnicodeDecodeError as error:
            wrong = next(number for number, caption in zip(numbers.tolist(), captions) if not _is_text(caption))
            raise self._no_text(wrong) from error
        tokens = np.full((len(captions), context + 1), self.tokenizer.end, np.int32)
        mask = np.zeros((len(captions), context), np.float32)
        for row, text_tokens in enumerate(encoded):
            kept = text_tokens[: context - 1]
            tokens[row, 1 : 1 + len(kept)] = kept
            mask[row, : len(kept) + (len(kept) == len(text_tokens))] = float(self.captions)
        return tokens, mask

    def _read(self, number: int) -> tuple[Sample, np.ndarray] | None:
        """A sample and its picture, (side, side, 3) uint8, or its spectrogram, (frames, bands) float32; None if it is
        damaged and that is allowed for."""
        if number in self.damage.samples:
            return None
        try:
            sample = self.store.read(number)
            image = self._decoded(sample.picture, self.store.name(number))
            if not _is_text(sample.caption) and self.tokenizer.name != "bytes":
                raise self._no_text(number)
        except UserError as error:
            if error.code is not Code.DAMAGED or not self.config.damaged:
                raise
            if len(self.damage.samples) >= self._allowed:
                remedy = f"more samples are damaged: {error}"
                raise UserError("data.damaged", self.config.damaged, remedy, Code.DAMAGED) from None
            self.damage.samples.add(number)
            return None
        if self.classes and not 0 <= sample.label < self.classes:
            remedy = f"the label of {self.store.name(number)} is not from 0 to {self.classes - 1}; give classes"
            raise UserError("data.label", sample.label, remedy, Code.CONFLICT)
        return sample, image

    def _decoded(self, stored: bytes, where: str) -> np.ndarray:
        c = self.config
        if not c.frames:
            return decode(stored, self.side, where, c.background)
        return log_mel(_audio.decode(stored, c.rate, c.frames * c.hop, where)[None], c)[0]

    def _examples(self, read: Sequence[tuple[int, Sample, np.ndarray]], context: int) -> dict[str, np.ndarray]:
        """Arrays of samples, given as (number, sample, picture or spectrogram)."""
        numbers = np.array([number for number, _, _ in read], np.int64)
        tokens, mask = self._text(numbers, [sample.caption for _, sample, _ in read], context)
        kind = "mel" if self.config.frames else "image"
        examples = {"tokens": tokens, "mask": mask, kind: np.stack([decoded for _, _, decoded in read])}
        if self.classes:
            examples["label"] = np.array([sample.label for _, sample, _ in read], np.int32)
        return examples

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        train = self._sides[0]
        places = shuffled(indices, len(train), seed).tolist()
        read, replaced = [], np.zeros(len(places), bool)
        for row, place in enumerate(places):
            for tried in range(len(train)):
                number = int(train[(place + tried) % len(train)])
                if (sample := self._read(number)) is not None:
                    read.append((number, *sample))
                    replaced[row] = tried > 0
                    break
            else:
                raise UserError("data.damaged", self.config.damaged, "no sample can be read", Code.DAMAGED)
        self.damage.replaced = replaced
        return self._examples(read, context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        held = self._sides[1]
        if limit_tokens is not None:
            # Without captions every sample counts as its whole context.
            counts = np.full(len(held), context, np.float64)
            if self.captions:
                counts = self._loss_tokens(held, context)
            held = held[: int(np.searchsorted(np.cumsum(counts), limit_tokens)) + 1]
        clip = 4 * self.config.frames * self.config.mel
        if len(held) * clip > HELD:
            what = f"are {len(held):,} clips of {clip / 2**20:.2f} MiB, above the {HELD / 2**30:g} GiB that are held"
            raise UserError(
                "evaluation.tokens", limit_tokens, f"{what} in memory; lower it, or frames", Code.UNSUPPORTED
            )
        samples = [(number, self._read(number)) for number in held.tolist()]
        read = [(number, *sample) for number, sample in samples if sample is not None]
        if not read:
            raise UserError("data.damaged", self.config.damaged, "no evaluation sample can be read", Code.DAMAGED)
        return {
            **self._examples(read, context),
            "document": np.arange(len(read), dtype=np.int32),
            "documents": [self.store.name(number) for number, _, _ in read],
        }


def _is_text(caption: bytes) -> bool:
    try:
        caption.decode()
    except UnicodeDecodeError:
        return False
    return True
