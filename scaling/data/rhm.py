"""The random hierarchy model: text with a tree behind every block, and an exactly known entropy (arXiv 2307.02129).

A block is a tree of ``depth`` levels: its root is one of ``symbols``, and a symbol of each level becomes ``split``
symbols of the next by one of its ``rules`` rules, all uniform and independent. No two rules of a level have the same
right side (drawn once, from ``world``), so a block has one tree, and every block that exists has the same probability:

    entropy = (ln symbols + (split^depth - 1) / (split - 1) * ln rules) / split^depth    nats per token.

A window is a start token and whole blocks, so its context must be a multiple of split^depth; every position counts. The
sample has no noise around the entropy, since all blocks are equally likely. A model that has learnt the lower levels
only stays at a higher plateau, ``staircase`` (arXiv 2406.00048).

Examples are pure functions of (world, seed, index); evaluation draws from a key that no seed has, in documents of 16
windows.
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


@dataclass(frozen=True)
class Config:
    symbols: int = setting(16, least=2, most=4096)
    """Symbols of every level, v."""
    rules: int = setting(4, least=1)
    """Right sides of a symbol, m."""
    split: int = setting(2, least=2)
    """Symbols on a right side, s."""
    depth: int = setting(5, least=1)
    """Levels of the tree, L."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Names the rules."""

    def __post_init__(self):
        check(self, "data")
        if self.depth * math.log2(self.split) > 64 or self.split**self.depth > 65536:
            raise UserError("data.depth", self.depth, "must keep split^depth at most 65536", Code.CONFLICT)
        if self.split * math.log2(self.symbols) > 64 or self.symbols**self.split > 2**24:
            raise UserError("data.split", self.split, "must keep symbols^split at most 2^24", Code.CONFLICT)
        if self.rules * self.symbols > self.symbols**self.split:
            most = self.symbols ** (self.split - 1)
            remedy = f"must be from 1 to {most}, or two rules would have the same right side"
            raise UserError("data.rules", self.rules, remedy, Code.CONFLICT)


@dataclass(frozen=True)
class Hierarchy:
    """See ``scaling.data.Source`` for the methods."""

    config: Config
    bytes_per_token: float | None = None

    @property
    def vocab(self) -> int:
        """The symbols and a start token, the last."""
        return self.config.symbols + 1

    @property
    def block(self) -> int:
        """Tokens of a block."""
        return self.config.split**self.config.depth

    @property
    def entropy(self) -> float:
        """Nats per token."""
        nodes = (self.block - 1) // (self.config.split - 1)
        return (math.log(self.config.symbols) + nodes * math.log(self.config.rules)) / self.block

    @cached_property
    def grammar(self) -> np.ndarray:
        """Right sides, (depth, symbols, rules, split) int32: a level's are distinct rows of all symbols^split ones."""
        c, rng = self.config, np.random.Generator(np.random.Philox(key=int(key(self.config.world, _WORLD)[0])))
        levels = [
            rng.permutation(c.symbols**c.split)[: c.symbols * c.rules].reshape(c.symbols, c.rules)
            for _ in range(c.depth)
        ]
        powers = c.symbols ** np.arange(c.split)[::-1]
        return (np.stack(levels)[..., None] // powers % c.symbols).astype(np.int32)

    def describe(self) -> dict[str, Any]:
        world = asdict(self.config)
        text = json.dumps({"source": "rhm", "version": 1, **world}, sort_keys=True)
        return {
            "source": "rhm",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": self.entropy,
            "block": self.block,
            **world,
        }

    @cached_property
    def staircase(self) -> np.ndarray:
        """Nats per token of the best model that knows the rules of the lowest l levels, (depth + 1,), l from 0.

        To it a block is a row of independent trees of l levels, each at its place in the block: the root of one costs
        the entropy of the symbols that stand there, and its rules ln ``rules`` each. The last is ``entropy``.
        """
        c, symbols_PV, roots = self.config, np.full((1, self.config.symbols), 1 / self.config.symbols), []
        for level in self.grammar:
            roots.append(-(symbols_PV * np.log(np.maximum(symbols_PV, 1e-300))).sum(axis=1).mean())
            below_SVW = np.stack([np.eye(c.symbols)[level[:, :, i]].mean(axis=1) for i in range(c.split)])
            symbols_PV = np.einsum("pv,svw->psw", symbols_PV, below_SVW).reshape(-1, c.symbols)
        roots.append(-(symbols_PV * np.log(np.maximum(symbols_PV, 1e-300))).sum(axis=1).mean())
        leaves = c.split ** np.arange(c.depth + 1)
        return (np.array(roots[::-1]) + (leaves - 1) // (c.split - 1) * math.log(c.rules)) / leaves

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def _draw(self, secret: np.ndarray, indices: np.ndarray, context: int) -> np.ndarray:
        """Tokens (n, T + 1) int32."""
        if context % self.block:
            remedy = f"must be whole blocks: a multiple of {self.block}"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        blocks = len(indices) * (context // self.block)
        nodes = (self.block - 1) // (self.config.split - 1)
        start = mix(secret ^ mix(indices.astype(np.uint64)))
        counter = np.arange((context // self.block) * (nodes + 1), dtype=np.uint64)
        u = uniform(mix(start[:, None] + counter)).reshape(blocks, nodes + 1)
        symbols, used = (u[:, :1] * self.config.symbols).astype(np.int32), 1
        for level in self.grammar:
            width = symbols.shape[1]
            rule = (u[:, used : used + width] * self.config.rules).astype(np.int32)
            symbols, used = level[symbols, rule].reshape(blocks, -1), used + width
        tokens = np.full((len(indices), context + 1), self.config.symbols, np.int32)
        tokens[:, 1:] = symbols.reshape(len(indices), context)
        return tokens

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        return {"tokens": self._draw(key(self.config.world, _TRAIN, seed), np.asarray(indices, np.int64), context)}

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        count = DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // context)))
        indices = np.arange(count)
        return {
            "tokens": self._draw(key(self.config.world, _EVALUATE), indices, context),
            "mask": np.ones((count, context), np.float32),
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-count // DOCUMENT))],
        }


def make(config: Config) -> Hierarchy:
    """The model that the configuration names."""
    return Hierarchy(config)
