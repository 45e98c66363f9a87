"""Regressions in context (arXiv 2208.01066): points of a linear function that is drawn anew for every example.

An example has ``context`` points x with their y, where w and every x are of ``dims`` standard normal numbers, e is one,
and s = noise:

    y = (w . x / sqrt(dims) + s e) / sqrt(1 + s^2),    so that E[y^2] = 1.

The best prediction of y from the k points before it, in squared error, is ridge regression with the weight s^2 dims of
the prior; without noise least squares of the smallest norm, whose expected error is known for every k:

    max(0, 1 - k / dims).

``reference`` of the evaluation is the squared error of that prediction for each y that was drawn, so that a model's
excess has little noise. As tokens, which only identify an example, y is rounded to 32 levels a unit, of 256.

Examples are pure functions of (world, seed, index) by a counter-based hash: stateless and unbounded; a shorter context
has the first points of a longer one. Evaluation uses a key that no seed has.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from scaling.data._random import key, mix, uniform
from scaling.records.types import JSON
from scaling.settings import check, setting

LEVELS, UNIT = 256, 32
DOCUMENT, DOCUMENTS = 16, 2048
UNBOUNDED = 2**62
_TRAIN, _EVALUATE = 1, 2


@dataclass(frozen=True)
class Config:
    dims: int = setting(4, least=1, most=1024)
    """Numbers of an x."""
    noise: float = setting(0.0, least=0, most=1000)
    """Of y, in units of the standard deviation of the function."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the draws; another world has other examples of the same kind."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Linear:
    """See ``scaling.data.Source`` for the methods. ``points`` are (n, T, dims + 1) float32: x, then y."""

    config: Config
    vocab: int = LEVELS
    bytes_per_token: float | None = None

    @property
    def supplies(self) -> dict[str, int]:
        return {"points": self.config.dims + 1}

    def describe(self) -> dict[str, JSON]:
        world = asdict(self.config)
        text = json.dumps({"source": "linear", "version": 1, **world}, sort_keys=True)
        return {
            "source": "linear",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": None,
            **world,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def expected_reference(self, context: int) -> float | None:
        """The smallest expected squared error per point, exact; None with noise, where there is no such formula."""
        dims = self.config.dims
        return None if self.config.noise else sum(max(0.0, 1 - k / dims) for k in range(context)) / context

    def _draw(self, secret: np.ndarray, indices: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
        """x (n, T, dims) and y (n, T), float64."""
        dims, noise = self.config.dims, self.config.noise
        start = mix(secret ^ mix(np.asarray(indices, np.int64).astype(np.uint64)))
        count = dims + context * (dims + 1)
        first, second = uniform(mix(start[:, None] + np.arange(2 * count, dtype=np.uint64))).reshape(-1, count, 2).T
        normal = (np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)).T  # Box-Muller
        w, points = normal[:, None, :dims], normal[:, dims:].reshape(-1, context, dims + 1)
        x, e = points[..., :dims], points[..., dims]
        return x, ((w * x).sum(axis=-1) / math.sqrt(dims) + noise * e) / math.sqrt(1 + noise**2)

    def best(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The best prediction of each y from its x and the points before, (n, T); of their arrays, see ``_draw``."""
        dims, weight, predicted = self.config.dims, self.config.noise**2 * self.config.dims, np.zeros_like(y)
        for k in range(1, y.shape[1]):
            if not weight and k >= dims:
                predicted[:, k:] = y[:, k:]  # the function is known
                break
            seen, here = x[:, :k], x[:, k]
            similar = seen @ seen.swapaxes(1, 2) + weight * np.eye(k)
            solved = np.linalg.solve(similar, y[:, :k, None])
            predicted[:, k] = ((seen @ here[..., None]) * solved).sum(axis=(1, 2))
        return predicted

    def _batch(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        levels = np.clip(np.round(y * UNIT) + LEVELS // 2, 0, LEVELS - 1).astype(np.int32)
        points = np.concatenate([x, y[..., None]], axis=-1).astype(np.float32)
        return {"tokens": np.pad(levels, ((0, 0), (1, 0))), "points": points}

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        return self._batch(*self._draw(key(self.config.world, _TRAIN, seed), indices, context))

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, np.ndarray | list[str]]:
        count = DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // context)))
        indices = np.arange(count)
        x, y = self._draw(key(self.config.world, _EVALUATE), indices, context)
        return {
            **self._batch(x, y),
            "mask": np.ones(y.shape, np.float32),
            "reference": np.square(y - self.best(x, y)).astype(np.float32),
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-count // DOCUMENT))],
        }


def make(config: Config) -> Linear:
    """The source of a configuration."""
    return Linear(config)
