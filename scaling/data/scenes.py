"""Rendered scenes: pictures of two objects with captions and labels, whose mutual information is known exactly.

A scene is a large object and a small one, each with one of 4 shapes and 8 colours, and the position of the large one
relative to the small: left, right, above or below. Its caption is ``colour shape relation colour shape``, five
independent uniform choices, ln(8 * 4 * 4 * 8 * 4) = 8.318 nats, and the picture (32 x 32 x 3 bytes) shows all five:
H(caption | picture) = 0 for a caption that is true and complete. Two settings remove information, and
``caption_information`` is the exact amount that remains: ``swap``, the share of captions that belong to another scene
(noise as in ALIGN, arXiv 2102.05918), and ``drop``, the share of words that are blanked. ``noise`` is the amplitude of
the pixels' own noise, out of 255.

``label`` is the large object's shape and colour, 32 classes, certain given the picture. The rotation of a picture can
be told only from triangles and bars: circles, squares and positions look alike in all four orientations, a bar in two.
So the smallest loss of rotation prediction is 5/16 ln 2 + 4/16 ln 4 = 0.5632 nats.

As tokens, an example is a start token, the caption, an end token (the highest of all), and padding that does not count.
With ``sound``, a scene also has a sound: one tone for each of the five choices in turn, with random phases. Each label
has ``PROMPTS`` true captions, in which the other words are balanced: zero-shot classification averages them. With
``held``, no scene has the combination of any prompt, in training or in evaluation: 256 of 4,096 are left out, so that
the prompts are captions that were never seen. Then a caption has ln 3840 = 8.253 nats.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from scaling.data._random import key, mix, uniform
from scaling.errors import Code, UserError
from scaling.settings import check, fields_of, setting

SIDE = 32
SHAPES = ("circle", "square", "triangle", "bar")
COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta", "white", "orange")
RELATIONS = ("left", "right", "above", "below")
CHOICES = (len(COLOURS), len(SHAPES), len(RELATIONS), len(COLOURS), len(SHAPES))
WORDS = (*COLOURS, *SHAPES, *RELATIONS)
# Words, then a blank, start, end; padding repeats the end.
BLANK, START, END = len(WORDS), len(WORDS) + 1, len(WORDS) + 2
FIRST = np.array([0, len(COLOURS), len(COLOURS) + len(SHAPES), 0, len(COLOURS)])

RGB = np.array(
    [
        (220, 40, 40),
        (40, 190, 60),
        (50, 80, 230),
        (230, 220, 50),
        (50, 210, 220),
        (220, 60, 210),
        (240, 240, 240),
        (240, 140, 30),
    ],
    np.uint8,
)
BACKGROUND = 60
RADII = (5, 3)  # of the large object and of the small one
_TRAIN, _EVALUATE = 1, 2
DOCUMENT = 16
DOCUMENTS = 2048
UNBOUNDED = 2**62
PROMPTS = 8
SLOT, PHASES, LOUDNESS = 64, 16, 60
ROTATION_ENTROPY = 5 / 16 * math.log(2) + 4 / 16 * math.log(4)


@dataclass(frozen=True)
class Config:
    swap: float = setting(0.0, least=0, most=1)
    """Share of captions that describe another scene."""
    drop: float = setting(0.0, least=0, most=1)
    """Share of words that are blanked."""
    noise: int = setting(16, least=0, most=60)
    """Amplitude of the noise added to each byte of a picture; above 60, colours could be confused."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the sample of scenes."""
    sound: bool = False
    """Whether scenes also have a sound: 5 x 64 samples."""
    held: bool = setting(False, later=True)
    """Whether the combinations of the prompts are kept out of all scenes."""

    def __post_init__(self):
        check(self, "data")
        if self.held and self.drop:
            raise UserError("data.drop", self.drop, "goes without held: words would not be independent", Code.CONFLICT)


def outline(shape: str, radius: int) -> np.ndarray:
    """A shape as a mask, (2 * radius + 1, 2 * radius + 1)."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    if shape == "circle":
        return x * x + y * y <= radius * radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= radius - 1
    if shape == "triangle":
        return 2 * abs(x) <= y + radius
    return abs(y) <= radius // 2


def _prompted() -> np.ndarray:
    """The choices of the prompts of each label, (32 * 8, 5)."""
    shape, colour, number = np.indices((len(SHAPES), len(COLOURS), PROMPTS)).reshape(3, -1)
    return np.stack([colour, shape, number % 4, number, number // 2], axis=1)


def _information(swap: float, values: int) -> float:
    """Information in nats of a caption of ``values`` equally likely ones, of which ``swap`` are of another scene."""
    other = swap / values
    entropy = -sum(n * p * math.log(p) for n, p in ((1, 1 - swap + other), (values - 1, other)) if n * p > 0)
    return math.log(values) - entropy


_PROMPTED = _prompted()
_OTHERS = np.setdiff1d(np.arange(math.prod(CHOICES)), np.ravel_multi_index(_PROMPTED.T, CHOICES))
_SEEN = np.stack(np.unravel_index(_OTHERS, CHOICES), axis=1)  # scenes that no prompt describes, (3840, 5)


def numbers(secret: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a scene is drawn by: its start (n,), and uniform numbers (n, 20)."""
    start = mix(secret ^ mix(indices.astype(np.uint64)))
    return start, uniform(mix(start[:, None] + np.arange(20, dtype=np.uint64)))


def choices(u: np.ndarray) -> np.ndarray:
    """Scenes (n, 5) as choices, by the first five uniform numbers of each."""
    return (u[:, :5] * CHOICES).astype(np.int64)


def places(scene: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Centres (n, 4): y of the large and of the small object, and x of the two."""
    # Along the relation, the large object's centre is 6 to 9 from its edge and the small one's 4 to 9 from the other;
    # across it, both are within 4 of the middle, so that no picture fits two relations.
    near, far = 6 + (u[:, 16] * 4).astype(np.int64), SIDE - 5 - (u[:, 17] * 6).astype(np.int64)
    across = 12 + (u[:, 18:20] * 8).astype(np.int64)
    flip, vertical = scene[:, 2] % 2 == 1, scene[:, 2] >= 2
    near, far = np.where(flip, SIDE - 1 - near, near), np.where(flip, SIDE - 1 - far, far)
    y = np.where(vertical[:, None], np.stack([near, far], 1), across)
    x = np.where(vertical[:, None], across, np.stack([near, far], 1))
    return np.concatenate([y, x], axis=1)


def noisy(bytes_: np.ndarray, start: np.ndarray, amplitude: int) -> np.ndarray:
    """Bytes (n, count), count a multiple of 8, with noise of an ``amplitude`` up to 60, by the start of each row."""
    if not amplitude:
        return bytes_
    words = mix(start[:, None] + np.arange(1 << 32, (1 << 32) + bytes_.shape[1] // 8, dtype=np.uint64))
    moved = words.view(np.uint8).astype(np.uint16)
    moved *= 2 * amplitude + 1
    moved >>= 8
    moved += bytes_
    moved -= np.uint16(amplitude)  # bytes start at 30, so this wraps only where noise is above it
    return np.clip(moved.view(np.int16), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Scenes:
    """See ``scaling.data.Source`` for the methods."""

    config: Config
    vocab: int = len(WORDS) + 3
    bytes_per_token: float | None = None

    @property
    def supplies(self) -> dict[str, int]:
        supplied = {"vocab": self.vocab, "image": SIDE, "classes": len(COLOURS) * len(SHAPES), "prompts": PROMPTS}
        return {**supplied, "sound": SLOT * len(CHOICES)} if self.config.sound else supplied

    @cached_property
    def _stamps(self) -> list[np.ndarray]:
        """Masks of the large and of the small object, (4 shapes * places**2, 32 * 32), by shape, y and x of centre."""
        tables = []
        for radius in RADII:
            table = np.zeros((len(SHAPES), SIDE, SIDE, SIDE, SIDE), bool)
            for number, shape in enumerate(SHAPES):
                stamp = outline(shape, radius)
                for y, x in product(range(radius, SIDE - radius), repeat=2):
                    table[number, y, x, y - radius : y + radius + 1, x - radius : x + radius + 1] = stamp
            tables.append(table.reshape(-1, SIDE * SIDE))
        return tables

    @cached_property
    def caption_information(self) -> float:
        """Mutual information of caption and picture in nats, exact.

        The remaining words, of M possible values, are those of the scene with probability 1 - swap, else of an
        independent scene. The information is ln M minus the entropy of a distribution with one value at
        1 - swap + swap / M and M - 1 values at swap / M.
        """
        swap, drop, total = self.config.swap, self.config.drop, 0.0
        if self.config.held:  # captions are whole, and equally likely
            return _information(swap, len(_SEEN))
        for kept in product((False, True), repeat=len(CHOICES)):
            values = math.prod(choice for choice, keep in zip(CHOICES, kept) if keep)
            weight = math.prod(1 - drop if keep else drop for keep in kept)
            total += weight * _information(swap, values)
        return total

    @property
    def caption_entropy(self) -> float:
        """Entropy of a caption in nats: which words are blank, and the remaining words."""
        drop = self.config.drop
        if self.config.held:
            return math.log(len(_SEEN))
        blanks = -sum(p * math.log(p) for p in (drop, 1 - drop) if p > 0)
        return sum(blanks + (1 - drop) * math.log(choice) for choice in CHOICES)

    def describe(self) -> dict[str, Any]:
        world = fields_of(self.config)
        if not self.config.sound:
            del world["sound"]  # keeps the hash of scenes from before this field
        text = json.dumps({"source": "scenes", "version": 1, **world}, sort_keys=True)
        return {
            "source": "scenes",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": self.caption_entropy / (len(CHOICES) + 1),
            "caption_entropy": self.caption_entropy,
            "caption_information": self.caption_information,
            "rotation_entropy": None if self.config.held else ROTATION_ENTROPY,  # of shapes that are independent
            **world,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def _draw(self, secret: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Scenes (n, 5) as choices, their captions (n, 5) as tokens, places (n, 4) of centres, and starts (n,)."""
        start, u = numbers(secret, indices)
        if self.config.held:
            scene, other = (_SEEN[(u[:, column] * len(_SEEN)).astype(np.int64)] for column in (0, 5))
        else:
            scene, other = choices(u), choices(u[:, 5:])
        told = np.where(u[:, 10:11] < self.config.swap, other, scene)
        caption = np.where(u[:, 11:16] < self.config.drop, BLANK, told + FIRST)
        return scene, caption, places(scene, u), start

    def render(self, scene: np.ndarray, places: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Pictures (n, 32, 32, 3) uint8."""
        image = np.full((len(scene), SIDE * SIDE, 3), BACKGROUND, np.uint8)
        for thing, stamps in enumerate(self._stamps):
            where = (scene[:, 3 * thing + 1] * SIDE + places[:, thing]) * SIDE + places[:, 2 + thing]
            row, pixel = np.nonzero(stamps[where])
            image[row, pixel] = RGB[scene[row, 3 * thing]]
        image = noisy(image.reshape(len(scene), SIDE * SIDE * 3), start, self.config.noise)
        return image.reshape(-1, SIDE, SIDE, 3)

    def _play(self, scene: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Sounds (n, 320) uint8: choice c is a tone of c + 2 periods in its slot."""
        words = mix(start[:, None] + np.arange(1 << 33, (1 << 33) + len(CHOICES) * (SLOT // 8 + 1), dtype=np.uint64))
        phase, words = words[:, : len(CHOICES)] % PHASES, np.ascontiguousarray(words[:, len(CHOICES) :])
        moved = self._tones[scene, phase.astype(np.int64)].reshape(len(scene), -1)
        moved = moved + (words.view(np.uint8).astype(np.int16) * (2 * self.config.noise + 1) >> 8) - self.config.noise
        return np.clip(moved, 0, 255).astype(np.uint8)

    @cached_property
    def _tones(self) -> np.ndarray:
        """(8 tones, 16 phases, 64 samples) int16."""
        tone, phase, time = np.ogrid[: max(CHOICES), :PHASES, :SLOT]
        angle = 2 * np.pi * ((tone + 2) * time / SLOT + phase / PHASES)
        return np.round(128 + LOUDNESS * np.sin(angle)).astype(np.int16)

    def _prompts(self, context: int) -> np.ndarray:
        """True captions of each label, int32 (32, 8, context + 1)."""
        return self._tokens(_PROMPTED + FIRST, context).reshape(-1, PROMPTS, context + 1)

    def _tokens(self, caption: np.ndarray, context: int) -> np.ndarray:
        if context < len(CHOICES) + 1:
            remedy = f"must hold a caption and its end: at least {len(CHOICES) + 1}"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        tokens = np.full((len(caption), context + 1), END, np.int32)
        tokens[:, 0] = START
        tokens[:, 1 : len(CHOICES) + 1] = caption
        return tokens

    def _mask(self, context: int) -> np.ndarray:
        return (np.arange(context) < len(CHOICES) + 1).astype(np.float32)

    def _batch(self, secret: np.ndarray, indices: np.ndarray, context: int) -> dict[str, np.ndarray]:
        scene, caption, places, start = self._draw(secret, np.asarray(indices, np.int64))
        sound = {"sound": self._play(scene, start)} if self.config.sound else {}
        return {
            "tokens": self._tokens(caption, context),
            "mask": np.tile(self._mask(context), (len(scene), 1)),
            "image": self.render(scene, places, start),
            "label": (scene[:, 1] * len(COLOURS) + scene[:, 0]).astype(np.int32),
            **sound,
        }

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        return self._batch(key(self.config.world, _TRAIN, seed), indices, context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        count = DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // (len(CHOICES) + 1))))
        indices = np.arange(count)
        return {
            **self._batch(key(self.config.world, _EVALUATE), indices, context),
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-count // DOCUMENT))],
            "prompts": self._prompts(context),
        }


def make(config: Config) -> Scenes:
    """The scenes of a configuration."""
    return Scenes(config)
