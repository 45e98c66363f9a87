"""A source with a power-law spectrum and an exactly known entropy, which is the floor that a fit should recover.

The world has K = base^digits contexts. Context c (by rank, from 0) comes with probability proportional to
(c + 1)^-(1 + exponent), independently of everything before it, and has a fixed distribution over ``targets`` symbols:
softmax(peak * z_c), with z_c standard normal, drawn once from ``world``. Text is blocks of ``digits`` digit tokens
that spell the context (ranks are assigned to codes at random, so digits do not reveal frequency) and one target token::

    d1 d2 y  d1 d2 y  d1 d2 y ...

Each digit place has its own ``base`` tokens, and targets have theirs: vocab = digits * base + targets. The mask counts
only targets, one in digits + 1 tokens. A target depends only on its own context, so the smallest loss per target is

    entropy = sum_c p(c) H(p(. | c))    in nats, a finite sum

up to rounding (uniforms have 53 bits). The excess loss of a model is due to the contexts whose tables it has not
learned, as in Zipf memorisation (Hutter 2021, arXiv 2102.04074): the power-law spectrum makes the excess a power law in
D and in N until the K contexts are exhausted, with exponents that are exact for a table (``_tabular.py``).

The default world is chosen so that the floor is in reach of a laptop: a GPT (context 64, batch 16, WSD, seed 0) has
these measured excess losses, in nats per target above the entropy of 0.5160, which fall by 8.4x from corner to corner::

    non-embedding N    D = 0.25M   0.5M     1M       (standard error 0.004 to 0.001)
              6,256      0.2091   0.1315   0.0782
             13,976      0.2009   0.1052   0.0474
             24,768      0.1526   0.0743   0.0345
             55,568      0.1477   0.0704   0.0295
             98,688      0.1226   0.0558   0.0250

Examples are pure functions of (world, seed, index) by a counter-based hash: stateless and unbounded. Evaluation uses a
key that no seed has, in documents of 16 sequences, and gives the exact -log p of every target: mean(model nats -
reference) + entropy estimates the same loss as mean(model nats), with much smaller sampling error.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scaling.data._random import key, mix, uniform
from scaling.errors import Code, UserError
from scaling.settings import check, setting

DOCUMENT = 16
"""Sequences in an evaluation document."""
DOCUMENTS = 4096
"""Number of evaluation documents."""
UNBOUNDED = 2**62
_WORLD, _TRAIN, _EVALUATE = 1, 2, 3


@dataclass(frozen=True)
class Config:
    digits: int = setting(2, least=1, most=8)
    base: int = setting(16, least=2, most=4096)
    targets: int = setting(64, least=2, most=65536)
    exponent: float = setting(0.6, above=-1, most=10)
    """a in p(c) ~ (c + 1)^-(1 + a)."""
    peak: float = setting(8.0, least=0, most=100)
    """Scale of a context's logits: 0 is uniform, large is deterministic."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the tables and codes; another world is another data set."""

    def __post_init__(self):
        check(self, "data")
        if self.base**self.digits * self.targets > 2**24:
            remedy = "makes more than 2^24 table entries (base^digits * targets)"
            raise UserError("data.base", self.base, remedy, Code.CONFLICT)


@dataclass(frozen=True)
class Zipf:
    """See ``scaling.data.Source`` for the methods."""

    config: Config
    bytes_per_token: float | None = None

    @property
    def vocab(self) -> int:
        return self.config.digits * self.config.base + self.config.targets

    @cached_property
    def frequencies(self) -> np.ndarray:
        """p(c), (K,) float64, by rank."""
        weights = np.arange(1.0, self.config.base**self.config.digits + 1) ** -(1 + self.config.exponent)
        return weights / weights.sum()

    @cached_property
    def log_table(self) -> np.ndarray:
        """log p(target | c), (K, targets) float64, by rank."""
        shape = (len(self.frequencies), self.config.targets)
        bits = mix(key(self.config.world, _WORLD) + np.arange(2 * shape[0] * shape[1], dtype=np.uint64))
        radius, angle = uniform(bits).reshape(2, *shape)
        logits = self.config.peak * np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)  # Box-Muller
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    @cached_property
    def codes(self) -> np.ndarray:
        """The number that the digits of each context spell, (K,), by rank: a permutation."""
        return np.argsort(mix(key(self.config.world, _WORLD, 1) + np.arange(len(self.frequencies), dtype=np.uint64)))

    @cached_property
    def _spelling(self) -> np.ndarray:
        """Digit tokens of each context, (K, digits) int32, most significant first."""
        powers = self.config.base ** np.arange(self.config.digits)[::-1]
        digits = self.codes[:, None] // powers % self.config.base
        return (digits + self.config.base * np.arange(self.config.digits)).astype(np.int32)

    @cached_property
    def _cumulative(self) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative distributions for searchsorted: of contexts (K,), and of all targets in one array, as c + cdf."""
        contexts = np.cumsum(self.frequencies)
        targets = np.cumsum(np.exp(self.log_table), axis=1)
        contexts[-1], targets[:, -1] = 1.0, 1.0
        return contexts, (np.arange(len(contexts))[:, None] + targets).ravel()

    @cached_property
    def entropy(self) -> float:
        """Nats per target: the loss of the source's own distribution, which no model beats."""
        return float(self.frequencies @ -(np.exp(self.log_table) * self.log_table).sum(axis=1))

    @cached_property
    def marginal_entropy(self) -> float:
        """Nats per target of the best model that ignores the context."""
        marginal = self.frequencies @ np.exp(self.log_table)
        return float(-(marginal * np.log(marginal)).sum())

    def describe(self) -> dict[str, Any]:
        world = asdict(self.config)
        text = json.dumps({"source": "zipf", "version": 1, **world}, sort_keys=True)
        return {
            "source": "zipf",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": self.entropy,
            "marginal_entropy": self.marginal_entropy,
            "contexts": len(self.frequencies),
            "loss_share": 1 / (self.config.digits + 1),
            **world,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def _draw(self, secret: np.ndarray, indices: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens (n, T + 1) int32, contexts and targets of their blocks (n, blocks) int64."""
        block = self.config.digits + 1
        if context < self.config.digits:
            remedy = f"must hold a target: at least {self.config.digits}"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        count = (len(indices), -(-(context + 1) // block))
        start = mix(secret ^ mix(indices.astype(np.uint64)))
        draws = uniform(mix(start[:, None] + np.arange(2 * count[1], dtype=np.uint64))).reshape(-1, 2)
        of_context, of_target = self._cumulative
        chosen = np.searchsorted(of_context, draws[:, 0], side="right")
        drawn = np.searchsorted(of_target, chosen + draws[:, 1], side="right") - chosen * self.config.targets
        target = np.minimum(drawn, self.config.targets - 1)  # c + u rounds up to c + 1 once in about 2^44 draws
        tokens = np.empty((len(chosen), block), np.int32)
        tokens[:, :-1] = self._spelling[chosen]
        tokens[:, -1] = target + self.config.digits * self.config.base
        return tokens.reshape(len(indices), -1)[:, : context + 1], chosen.reshape(count), target.reshape(count)

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """p(c), (K,), and p(target | c), (K, targets), by rank: all that there is to learn."""
        return self.frequencies, np.exp(self.log_table)

    def looks(self, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and targets, (count,) each, of the training windows of 64 blocks, in their order."""
        context = 64 * (self.config.digits + 1) - 1
        windows = np.arange(-(-count // 64))
        _, contexts, targets = self._draw(key(self.config.world, _TRAIN, seed), windows, context)
        return contexts.ravel()[:count], targets.ravel()[:count]

    def _mask(self, context: int) -> np.ndarray:
        """1 where the predicted token is a target, (T,) float32."""
        block = self.config.digits + 1
        return (np.arange(1, context + 1) % block == block - 1).astype(np.float32)

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        tokens, _, _ = self._draw(key(self.config.world, _TRAIN, seed), np.asarray(indices, np.int64), context)
        return {"tokens": tokens, "mask": np.tile(self._mask(context), (len(tokens), 1))}

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        mask = self._mask(context)
        sequences = DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            sequences = max(1, min(sequences, -(-limit_tokens // max(1, int(mask.sum())))))
        indices = np.arange(sequences)
        tokens, contexts, targets = self._draw(key(self.config.world, _EVALUATE), indices, context)
        reference = np.zeros((sequences, context), np.float32)
        scored = np.flatnonzero(mask)
        reference[:, scored] = -self.log_table[contexts, targets][:, : len(scored)]
        return {
            "tokens": tokens,
            "mask": np.tile(mask, (sequences, 1)),
            "reference": reference,
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-sequences // DOCUMENT))],
        }


def make(config: Config) -> Zipf:
    """The source of a configuration."""
    return Zipf(config)
