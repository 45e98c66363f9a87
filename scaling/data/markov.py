"""A Markov chain of order k with an exactly known entropy rate, and a learner whose excess loss is known too.

The distribution of the next token in each of the V^k contexts is drawn once, from a symmetric Dirichlet distribution of
``concentration``, seeded by ``world``. Windows start from the stationary distribution, so every target with k tokens
before it costs

    entropy = sum_c pi(c) H(p(. | c))    nats on average,

which no model beats. Targets with fewer than k tokens before them do not count. A table of counts, the best learner
without further knowledge, has an excess loss of about V^k (V - 1) / (2 D) nats after D tokens, for D well above V^(k +
1) (``_tabular.py``): the data exponent of a model that can represent the chain is 1.

Examples are pure functions of (world, seed, index). Evaluation uses a key that no seed has, in documents of 16
windows, with the exact -log p of every target.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scaling.data._random import key, mix, uniform
from scaling.errors import Code, UserError
from scaling.settings import check, setting

_WORLD, _TRAIN, _EVALUATE = 0, 1, 2
DOCUMENT = 16
DOCUMENTS = 4096
UNBOUNDED = 2**62
MOST = 2**22


@dataclass(frozen=True)
class Config:
    vocab: int = setting(64, least=2)
    """Number of tokens, V."""
    order: int = setting(1, least=1)
    """Number of tokens that the next one depends on, k."""
    concentration: float = setting(0.1, least=0.01, most=1e6)
    """Concentration of the Dirichlet distribution of each row: small is predictable, large is uniform."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the table."""

    def __post_init__(self):
        check(self, "data")
        if (self.order + 1) * math.log2(self.vocab) > 64 or self.vocab ** (self.order + 1) > MOST:
            remedy = f"must be at least 1, with vocab^(order + 1) at most {MOST}"
            raise UserError("data.order", self.order, remedy, Code.CONFLICT)


@dataclass(frozen=True)
class Markov:
    """See ``scaling.data.Source`` for the methods. A context is a number of k base-V digits, oldest token first."""

    config: Config
    bytes_per_token: float | None = None

    @property
    def vocab(self) -> int:
        return self.config.vocab

    @cached_property
    def table(self) -> np.ndarray:
        """p(next | context), (V^k, V) float64, every entry positive."""
        rng = np.random.Generator(np.random.Philox(key=int(key(self.config.world, _WORLD)[0])))
        shape = (self.config.vocab**self.config.order, self.config.vocab)
        drawn = rng.standard_gamma(self.config.concentration, shape) + 1e-9
        return drawn / drawn.sum(axis=1, keepdims=True)

    @cached_property
    def stationary(self) -> np.ndarray:
        """pi(context), (V^k,) float64: the stationary distribution, by fixed-point iteration."""
        contexts, vocab = self.table.shape
        share = np.full(contexts, 1 / contexts)
        for _ in range(100_000):
            # From context (a, b...) by token y to (b..., y): sum over the oldest token a.
            joint = (share[:, None] * self.table).reshape(vocab, contexts // vocab, vocab)
            new = joint.sum(axis=0).reshape(contexts)
            new = 0.5 * (share + new)  # half a step, so that periodic chains converge too
            if np.abs(new - share).sum() < 1e-14:
                break
            share = new / new.sum()
        return share

    @cached_property
    def entropy(self) -> float:
        """Nats per target."""
        return float(self.stationary @ -(self.table * np.log(self.table)).sum(axis=1))

    @cached_property
    def _cumulative(self) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative distributions for searchsorted: of contexts, and of all rows in one array, as context + cdf."""
        start, rows = np.cumsum(self.stationary), np.cumsum(self.table, axis=1)
        start[-1], rows[:, -1] = 1.0, 1.0
        return start, (np.arange(len(rows))[:, None] + rows).ravel()

    def describe(self) -> dict[str, Any]:
        world = asdict(self.config)
        text = json.dumps({"source": "markov", "version": 1, **world}, sort_keys=True)
        return {
            "source": "markov",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": self.entropy,
            "contexts": len(self.table),
            **world,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def _draw(self, secret: np.ndarray, indices: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n, T + 1) int32 and the context of each target from the k-th on, (n, T + 1 - k) int64."""
        vocab, order = self.config.vocab, self.config.order
        if context < order:
            remedy = f"must hold a whole context: at least {order}"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        start = mix(secret ^ mix(indices.astype(np.uint64)))
        u = uniform(mix(start[:, None] + np.arange(context + 2 - order, dtype=np.uint64)))
        first, rows = self._cumulative
        state = np.searchsorted(first, u[:, 0], side="right")
        tokens = np.empty((len(indices), context + 1), np.int32)
        states = np.empty((len(indices), context + 1 - order), np.int64)
        tokens[:, :order] = state[:, None] // vocab ** np.arange(order)[::-1] % vocab
        for step in range(context + 1 - order):
            states[:, step] = state
            drawn = np.searchsorted(rows, state + u[:, step + 1], side="right") - state * vocab
            chosen = np.minimum(drawn, vocab - 1)  # rounding may reach the next row
            tokens[:, order + step] = chosen
            state = state % (len(self.table) // vocab) * vocab + chosen
        return tokens, states

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """p(context), (V^k,), and p(next | context), (V^k, V): all that there is to learn."""
        return self.stationary, self.table

    def looks(self, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and targets, (count,) each, of the training windows of 64 tokens, in their order."""
        order, context = self.config.order, max(64, self.config.order)
        windows = np.arange(-(-count // (context + 1 - order)))
        tokens, states = self._draw(key(self.config.world, _TRAIN, seed), windows, context)
        return states.ravel()[:count], tokens[:, order:].ravel()[:count]

    def _mask(self, context: int) -> np.ndarray:
        return (np.arange(context) >= self.config.order - 1).astype(np.float32)

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        tokens, _ = self._draw(key(self.config.world, _TRAIN, seed), np.asarray(indices, np.int64), context)
        if self.config.order == 1:
            return {"tokens": tokens}
        return {"tokens": tokens, "mask": np.tile(self._mask(context), (len(tokens), 1))}

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        mask, count = self._mask(context), DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // max(1, int(mask.sum())))))
        indices = np.arange(count)
        tokens, states = self._draw(key(self.config.world, _EVALUATE), indices, context)
        reference = np.zeros((count, context), np.float32)
        reference[:, self.config.order - 1 :] = -np.log(self.table[states, tokens[:, self.config.order :]])
        return {
            "tokens": tokens,
            "mask": np.tile(mask, (count, 1)),
            "reference": reference,
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-count // DOCUMENT))],
        }


def make(config: Config) -> Markov:
    """The chain of a configuration."""
    return Markov(config)
