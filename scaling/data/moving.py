"""Videos of one shape that moves or changes its size, with captions whose action no single frame tells.

A video has ``frames`` pictures of 16 x 16 pixels: one of 4 shapes and 8 colours on a plane whose ends meet (what leaves
on the right comes back on the left), and an action, one of 6. Four of them move the shape by two pixels a frame; grow
and shrink change its radius by one, in a circle of four radii, 2 to 5. Place and radius of the first frame are uniform,
so that they are uniform in every frame whatever the action: one frame tells colour and shape and nothing of the action,
two that follow each other tell all. ``noise`` is the amplitude of the pixels' own noise, out of 255.

The caption is ``colour shape action``, independent and uniform: ln(8 * 4 * 6) = 5.257 nats, of which a video leaves 0
and one frame ln 6 = 1.792. Given the caption, a video without noise has ln(16 * 16 * 4) = 6.931 nats.

As tokens, an example is a start token, the caption, an end token (the highest of all), and padding that does not count.
``video`` is uint8 (n, frames, 16, 16, 3), and ``image``, uint8 (n, 16, 16, 3), one of its frames, drawn uniformly.
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

SIDE, SPEED = 16, 2
RADII = range(2, 6)
ACTIONS = ("left", "right", "up", "down", "grow", "shrink")
CHOICES = (len(scenes.COLOURS), len(scenes.SHAPES), len(ACTIONS))
FIRST = np.cumsum((0, *CHOICES[:-1]))  # token of the first value of each choice
START, END = sum(CHOICES), sum(CHOICES) + 1
# What a frame adds, by action, to y, x and the number of the radius.
STEPS = np.array([(0, -SPEED, 0), (0, SPEED, 0), (-SPEED, 0, 0), (SPEED, 0, 0), (0, 0, 1), (0, 0, -1)])
STATES = np.array([SIDE, SIDE, len(RADII)])
TRAIN, EVALUATE = 31, 32


@dataclass(frozen=True)
class Config:
    frames: int = setting(4, least=2, most=16)
    """Pictures of a video."""
    noise: int = setting(16, least=0, most=60)
    """Amplitude of the noise added to each byte of a frame."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the sample of videos."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Moving:
    """See ``scaling.data.Source`` for the methods."""

    config: Config
    vocab: int = END + 1
    bytes_per_token: float | None = None

    @property
    def supplies(self) -> dict[str, int]:
        return {"vocab": self.vocab, "words": len(CHOICES), "image": SIDE, "video": self.config.frames}

    def describe(self) -> dict[str, str | float | None]:
        own, whole = asdict(self.config), math.log(math.prod(CHOICES))
        text = json.dumps({"source": "moving", "version": 1, **own}, sort_keys=True)
        return {
            "source": "moving",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": whole / (len(CHOICES) + 1),
            "caption_entropy": whole,
            "caption_entropy_given_frame": math.log(len(ACTIONS)),
            "caption_entropy_given_video": 0.0,
            **own,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return scenes.UNBOUNDED // context * context

    @cached_property
    def _stamps(self) -> np.ndarray:
        """Masks (4 shapes * 16 * 16 places * 4 radii, 16 * 16), by shape, y, x and radius."""
        middle = SIDE // 2
        drawn = np.zeros((len(scenes.SHAPES), len(RADII), SIDE, SIDE), bool)
        for number, shape in enumerate(scenes.SHAPES):
            for size, radius in enumerate(RADII):
                inside = slice(middle - radius, middle + radius + 1)
                drawn[number, size, inside, inside] = scenes.outline(shape, radius)
        place, pixel = np.ogrid[:SIDE, :SIDE]
        shift = (pixel - place + middle) % SIDE  # by place, then pixel
        moved = drawn[:, :, shift[:, None, :, None], shift[None, :, None, :]]  # shape, radius, y, x and a picture
        return moved.transpose(0, 2, 3, 1, 4, 5).reshape(-1, SIDE * SIDE)

    def render(self, caption: np.ndarray, first: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Videos (n, frames, 16, 16, 3) uint8.

        Args:
          caption: choices of colour, shape and action, (n, 3).
          first: y, x and number of the radius in the first frame, (n, 3).
          start: of each video's noise, (n,).
        """
        colour, shape, action = caption.T
        time = np.arange(self.config.frames)[:, None]
        state = (first[:, None] + time * STEPS[action][:, None]) % STATES
        where = np.ravel_multi_index((shape[:, None], *np.moveaxis(state, -1, 0)), (len(scenes.SHAPES), *STATES))
        shown = self._stamps[where][..., None]
        video = np.where(shown, scenes.RGB[colour][:, None, None], np.uint8(scenes.BACKGROUND))
        flat = video.reshape(len(caption), self.config.frames * SIDE * SIDE * 3)
        return scenes.noisy(flat, start, self.config.noise).reshape(-1, self.config.frames, SIDE, SIDE, 3)

    def _batch(self, secret: np.ndarray, indices: np.ndarray, context: int) -> dict[str, np.ndarray]:
        if context <= len(CHOICES):
            remedy = f"must hold a caption and its end: at least {len(CHOICES) + 1}"
            raise UserError("model.text", context, remedy, Code.CONFLICT)
        start, u = scenes.numbers(secret, np.asarray(indices, np.int64))
        caption = (u[:, :3] * CHOICES).astype(np.int64)
        video = self.render(caption, (u[:, 3:6] * STATES).astype(np.int64), start)
        tokens = np.full((len(caption), context + 1), END, np.int32)
        tokens[:, 0] = START
        tokens[:, 1 : 1 + len(CHOICES)] = caption + FIRST
        return {
            "tokens": tokens,
            "mask": np.tile((np.arange(context) <= len(CHOICES)).astype(np.float32), (len(caption), 1)),
            "video": video,
            "image": video[np.arange(len(caption)), (u[:, 6] * self.config.frames).astype(np.int64)],
        }

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        return self._batch(key(self.config.world, TRAIN, seed), indices, context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, np.ndarray | list[str]]:
        count = scenes.DOCUMENT * scenes.DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // (len(CHOICES) + 1))))
        block = np.arange(count) // scenes.DOCUMENT
        return {
            **self._batch(key(self.config.world, EVALUATE), np.arange(count), context),
            "document": block.astype(np.int32),
            "documents": [f"block {number}" for number in range(block[-1] + 1)],
        }


def make(config: Config) -> Moving:
    """The videos of a configuration."""
    return Moving(config)
