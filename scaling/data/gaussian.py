"""Gaussian fields with a known spectrum: a world in which the smallest loss of denoising is known exactly.

An example is an array of side x side x 3 real numbers of mean 0. Its coefficients in the orthonormal cosine basis of
each channel (DCT-II along both axes) are independent, with variances

    l(u, v) ~ (1 + u^2 + v^2)^(-decay / 2),    u, v = 0 ... side - 1,    of mean 1 over all numbers.

For x_t = a x_0 + s eps the best prediction is linear, and its mean squared error per number, over the eigenvalues l, is

    eps: mean of a^2 l / (a^2 l + s^2)    v: mean of l / (a^2 l + s^2)    x0: mean of s^2 l / (a^2 l + s^2)

(v where a^2 + s^2 = 1). No model has a smaller expected loss (``floor``), and the excess is what it has not learnt.

As tokens, an example is its numbers, row by row, rounded to 32 levels a unit, of 256. Examples are pure functions of
(world, seed, index) by a counter-based hash: stateless and unbounded. Evaluation uses a key that no seed has.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from scaling.data._random import key, mix, uniform
from scaling.settings import check, require_choice, setting

CHANNELS = 3
LEVELS, UNIT = 256, 32
DOCUMENT, DOCUMENTS = 16, 2048
UNBOUNDED = 2**62
_TRAIN, _EVALUATE = 1, 2


@dataclass(frozen=True)
class Config:
    side: int = setting(8, least=2, most=256)
    decay: float = setting(2.0, least=0, most=16)
    """Of the variances with the frequency; 0 is white."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the sample of fields."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Gaussian:
    """See ``scaling.data.Source`` for the methods."""

    config: Config
    vocab: int = LEVELS
    bytes_per_token: float | None = None

    @property
    def supplies(self) -> dict[str, int]:
        return {"vocab": self.vocab, "field": self.config.side}

    @property
    def _numbers(self) -> int:
        return CHANNELS * self.config.side**2

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Variances of the coefficients, (side, side) float64, the same in each channel; their mean is 1."""
        squares = np.arange(self.config.side) ** 2
        variances = (1.0 + squares[:, None] + squares) ** (-self.config.decay / 2)
        return variances / variances.mean()

    @cached_property
    def basis(self) -> np.ndarray:
        """The orthonormal cosine basis of one axis, (frequency, place) float64."""
        side = self.config.side
        frequency, place = np.mgrid[:side, :side]
        rows = np.cos(np.pi * frequency * (2 * place + 1) / (2 * side)) * math.sqrt(2 / side)
        rows[0] /= math.sqrt(2)
        return rows

    def floor(self, signal: np.ndarray, noise: np.ndarray, target: str = "eps") -> np.ndarray:
        """The smallest expected squared error per number at each level of noise, exact; the shape of ``signal``.

        Args:
          signal, noise: a and s of each level.
          target: what is predicted: ``eps``, ``v`` (a eps - s x0; needs a^2 + s^2 = 1), or ``x0``.

        Raises:
          UserError: there is no such target (INVALID).
        """
        require_choice("target", target, ("eps", "v", "x0"))
        a2, s2 = (np.square(np.asarray(each, np.float64))[..., None] for each in (signal, noise))
        weight = {"eps": a2, "v": np.ones_like(a2), "x0": s2}[target]
        variances = self.eigenvalues.ravel()
        return (weight * variances / (a2 * variances + s2)).mean(axis=-1)

    def describe(self) -> dict[str, str | float | None]:
        world = asdict(self.config)
        text = json.dumps({"source": "gaussian", "version": 1, **world}, sort_keys=True)
        return {
            "source": "gaussian",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": None,
            "largest_variance": float(self.eigenvalues.max()),
            "smallest_variance": float(self.eigenvalues.min()),
            **world,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def _draw(self, secret: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Fields (n, side, side, 3) float64."""
        side, half = self.config.side, -(-self._numbers // 2)
        start = mix(secret ^ mix(np.asarray(indices, np.int64).astype(np.uint64)))
        first, second = np.split(uniform(mix(start[:, None] + np.arange(2 * half, dtype=np.uint64))), 2, axis=1)
        radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second  # Box-Muller
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, : self._numbers]
        coefficients = normal.reshape(-1, side, side, CHANNELS) * np.sqrt(self.eigenvalues)[..., None]
        # A product for each example, since one for all would be rounded by how many there are.
        rows = self.basis.T @ coefficients.reshape(-1, side, side * CHANNELS)
        return self.basis.T @ rows.reshape(-1, side, side, CHANNELS)

    def _batch(self, secret: np.ndarray, indices: np.ndarray, context: int) -> dict[str, np.ndarray]:
        field = self._draw(secret, indices)
        levels = np.clip(np.round(field * UNIT) + LEVELS // 2, 0, LEVELS - 1).astype(np.int32)
        tokens = np.zeros((len(field), context + 1), np.int32)
        held = min(context + 1, self._numbers)
        tokens[:, :held] = levels.reshape(len(field), -1)[:, :held]
        mask = np.tile((np.arange(context) < held - 1).astype(np.float32), (len(field), 1))
        return {"tokens": tokens, "mask": mask, "field": field.astype(np.float32)}

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        return self._batch(key(self.config.world, _TRAIN, seed), indices, context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, np.ndarray | list[str]]:
        count = DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // min(context, self._numbers - 1))))
        indices = np.arange(count)
        return {
            **self._batch(key(self.config.world, _EVALUATE), indices, context),
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-count // DOCUMENT))],
        }


def make(config: Config) -> Gaussian:
    """The world of a configuration."""
    return Gaussian(config)
