"""Documents of pictures, each followed by its caption, made of the scenes of ``scenes``.

A document is a start token, then for each of its pictures the picture's mark, the five words of the caption and an end
token; marks are no targets. Captions are true and complete: given its picture a caption costs 0 nats. Without the
pictures, the first costs ln 4096 = 8.318 nats. Each choice of a later scene is that of the scene before with
probability ``alike``, else it is drawn anew, so that a language model that sees text alone has something to learn of
every word; ``entropy`` is what the best one has, exactly, in nats per target.

``pictures`` holds the pictures of a document in the order of their marks, uint8 (n, pictures, 32, 32, 3).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from scaling.data import scenes
from scaling.data._random import key
from scaling.errors import Code, UserError
from scaling.settings import check, setting

WORDS = len(scenes.CHOICES) + 1  # of a caption with its end token: its targets
MARK = len(scenes.WORDS) + 3  # behind the words of ``scenes``
TRAIN, EVALUATE = 11, 12


@dataclass(frozen=True)
class Config:
    pictures: int = setting(3, least=1, most=64)
    """Pictures of a document."""
    alike: float = setting(0.75, least=0, most=1)
    """Probability that a choice is kept from one scene to the next."""
    noise: int = setting(16, least=0, most=60)
    """Amplitude of the noise added to each byte of a picture."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the sample of scenes."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Interleaved:
    """See ``scaling.data.Source`` for the methods."""

    config: Config
    vocab: int = MARK + 1
    bytes_per_token: float | None = None

    @property
    def supplies(self) -> dict[str, int]:
        return {"vocab": self.vocab, "pictures": self.config.pictures, "side": scenes.SIDE, "mark": MARK}

    @property
    def length(self) -> int:
        """Positions of a document: of each picture its mark and its caption with the end token."""
        return self.config.pictures * (WORDS + 1)

    @property
    def entropy(self) -> float:
        """Nats per target of the best prediction from the text alone; from the pictures too it is 0."""
        later = 0.0
        for count in scenes.CHOICES:
            other = (1 - self.config.alike) / count
            each = ((1, self.config.alike + other), (count - 1, other))
            later -= sum(n * p * math.log(p) for n, p in each if p > 0)
        nats = math.log(math.prod(scenes.CHOICES)) + (self.config.pictures - 1) * later
        return nats / (WORDS * self.config.pictures)

    def describe(self) -> dict[str, str | float | None]:
        own = asdict(self.config)
        text = json.dumps({"source": "interleaved", "version": 1, **own}, sort_keys=True)
        return {
            "source": "interleaved",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": self.entropy,
            **own,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return scenes.UNBOUNDED // context * context

    def _batch(self, secret: np.ndarray, indices: np.ndarray, context: int) -> dict[str, np.ndarray]:
        count = self.config.pictures
        if context < self.length:
            remedy = f"must hold a document of {count} pictures: at least {self.length}"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        each = (np.asarray(indices, np.int64)[:, None] * count + np.arange(count)).ravel()
        start, u = scenes.numbers(secret, each)
        scene = scenes.choices(u).reshape(-1, count, len(scenes.CHOICES))
        kept = (u[:, 5:10] < self.config.alike).reshape(scene.shape)
        for later in range(1, count):
            scene[:, later] = np.where(kept[:, later], scene[:, later - 1], scene[:, later])
        tokens = np.full((len(scene), context + 1), scenes.END, np.int32)
        tokens[:, 0] = scenes.START
        inside = tokens[:, 1 : self.length + 1].reshape(len(scene), count, WORDS + 1)
        inside[..., 0], inside[..., 1:-1] = MARK, scene + scenes.FIRST
        tokens[:, 1 : self.length + 1] = inside.reshape(len(scene), -1)
        place, scene = np.arange(context), scene.reshape(-1, len(scenes.CHOICES))
        mask = (place < self.length) & (place % (WORDS + 1) > 0)
        image = self._scenes.render(scene, scenes.places(scene, u), start)
        return {
            "tokens": tokens,
            "mask": np.tile(mask.astype(np.float32), (len(tokens), 1)),
            "pictures": image.reshape(-1, count, *image.shape[1:]),
        }

    @cached_property
    def _scenes(self) -> scenes.Scenes:
        return scenes.make(scenes.Config(noise=self.config.noise))

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        return self._batch(key(self.config.world, TRAIN, seed), indices, context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, np.ndarray | list[str]]:
        targets, count = self.config.pictures * WORDS, scenes.DOCUMENT * scenes.DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // targets)))
        block = np.arange(count) // scenes.DOCUMENT
        return {
            **self._batch(key(self.config.world, EVALUATE), np.arange(count), context),
            "document": block.astype(np.int32),
            "documents": [f"block {number}" for number in range(block[-1] + 1)],
        }


def make(config: Config) -> Interleaved:
    """The documents of a configuration."""
    return Interleaved(config)
