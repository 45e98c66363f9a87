"""Instructions with answers that are known: prompts of a task and symbols, and what the task makes of them.

Windows are a start token and whole blocks of 2 ``symbols`` + 2 tokens::

    task x1 .. xn answer y1 .. yn

The task is one of ``tasks``, the x are symbols of a ``vocabulary``, all uniform and independent. y is what the task
makes of x (``TASKS``), but for a share ``noise`` of its symbols, each replaced by another one. With ``loss`` = "answer"
the mask counts y alone, as in instruction tuning, where the prompt is given and costs nothing; with "all" every token,
as in pre-training. With e = noise and V = vocabulary

    H = -(1 - e) ln(1 - e) - e ln(e / (V - 1))                         nats per token, of answers,
    (ln(number of tasks) + n ln V + n H) / (2 n + 2)                   of all.

Both kinds have the same tokens, also for tasks that are not in the data, so a run starts from one of the other kind, or
of other tasks. D counts all positions, the loss those of the mask.

Examples are pure functions of (world, seed, index); evaluation uses a key that no seed has, in documents of 16 windows,
with the exact -log p of every target.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from scaling.data._random import key, mix, uniform
from scaling.errors import Code, UserError
from scaling.records.types import JSON
from scaling.settings import check, require_known, setting

_TRAIN, _EVALUATE = 1, 2
DOCUMENT = 16
DOCUMENTS = 4096
UNBOUNDED = 2**62
ANSWER, ALL = "answer", "all"
# What each task makes of the rows of x (n, symbols), of V symbols; the order is that of their tokens.
TASKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "copy": lambda x, v: x,
    "reverse": lambda x, v: x[:, ::-1],
    "next": lambda x, v: (x + 1) % v,
    "sort": lambda x, v: np.sort(x, axis=1),
}


@dataclass(frozen=True)
class Config:
    tasks: tuple[str, ...] = tuple(TASKS)
    """Names of the tasks."""
    symbols: int = setting(3, least=1, most=1024)
    """Symbols of a prompt, and of its answer, n."""
    vocabulary: int = setting(16, least=2, most=65536)
    """Number of symbols, V."""
    noise: float = setting(0.1, above=0, below=1)
    """Share of the symbols of answers that are wrong, so that the best loss is above zero."""
    loss: str = setting(ANSWER, choices=(ANSWER, ALL))
    """What is predicted: the answers, or every token."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the draws; another world has other examples of the same kind."""

    def __post_init__(self):
        check(self, "data")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError("data.tasks", self.tasks, "must be names of tasks, each once, at least one")
        for name in self.tasks:
            require_known("data.tasks", name, TASKS)


@dataclass(frozen=True)
class Instructions:
    """See ``scaling.data.Source`` for the methods. Tokens: symbols, one of each task, the marker, the start."""

    config: Config
    bytes_per_token: float | None = None

    @property
    def vocab(self) -> int:
        """Symbols, a token for each task of ``TASKS``, the marker before the answer, and the start."""
        return self.config.vocabulary + len(TASKS) + 2

    @property
    def block(self) -> int:
        """Tokens of a prompt and its answer."""
        return 2 * self.config.symbols + 2

    @property
    def costs(self) -> tuple[float, float]:
        """-log p of a right and of a wrong symbol of an answer."""
        wrong = self.config.noise / (self.config.vocabulary - 1)
        return -math.log(1 - self.config.noise), -math.log(wrong)

    @property
    def entropy(self) -> float:
        """Nats per token that counts."""
        c, (right, wrong) = self.config, self.costs
        answer = (1 - c.noise) * right + c.noise * wrong
        if c.loss == ANSWER:
            return answer
        return (math.log(len(c.tasks)) + c.symbols * (math.log(c.vocabulary) + answer)) / self.block

    def describe(self) -> dict[str, JSON]:
        world = asdict(self.config)
        text = json.dumps({"source": "instructions", "version": 1, **world}, sort_keys=True)
        return {
            "source": "instructions",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": self.entropy,
            "block": self.block,
            **world,
            "tasks": " ".join(self.config.tasks),
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def _draw(self, secret: np.ndarray, indices: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n, T + 1) int32, and -log p of each but the first, (n, T)."""
        c = self.config
        if context % self.block:
            remedy = f"must be whole prompts and answers: a multiple of {self.block}"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        blocks = context // self.block
        start = mix(secret ^ mix(indices.astype(np.uint64)))
        draws = uniform(mix(start[:, None] + np.arange(blocks * (1 + 3 * c.symbols), dtype=np.uint64)))
        draws = draws.reshape(len(indices) * blocks, -1)
        task = (draws[:, 0] * len(c.tasks)).astype(np.int64)
        given, spoilt, other = np.split(draws[:, 1:], 3, axis=1)
        x = (given * c.vocabulary).astype(np.int64)
        y = np.empty_like(x)
        for number, name in enumerate(c.tasks):
            y[task == number] = TASKS[name](x[task == number], c.vocabulary)
        wrong = spoilt < c.noise
        y = np.where(wrong, (y + 1 + (other * (c.vocabulary - 1)).astype(np.int64)) % c.vocabulary, y)
        asked = c.vocabulary + np.array([list(TASKS).index(name) for name in c.tasks])[task]
        marker = np.full((len(x), 1), c.vocabulary + len(TASKS))
        tokens = np.full((len(indices), context + 1), self.vocab - 1, np.int32)
        tokens[:, 1:] = np.concatenate([asked[:, None], x, marker, y], axis=1).reshape(len(indices), context)
        nats = np.zeros((len(x), self.block))
        nats[:, 0], nats[:, 1 : c.symbols + 1] = math.log(len(c.tasks)), math.log(c.vocabulary)
        nats[:, c.symbols + 2 :] = np.where(wrong, self.costs[1], self.costs[0])
        return tokens, nats.reshape(len(indices), context) * self._mask(context)

    def _mask(self, context: int) -> np.ndarray:
        """1 where the predicted token counts, (T,) float32."""
        place = np.arange(context) % self.block
        return (place > self.config.symbols + 1 if self.config.loss == ANSWER else place >= 0).astype(np.float32)

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        tokens, _ = self._draw(key(self.config.world, _TRAIN, seed), np.asarray(indices, np.int64), context)
        return {"tokens": tokens, "mask": np.tile(self._mask(context), (len(tokens), 1))}

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, np.ndarray | list[str]]:
        mask, count = self._mask(context), DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // max(1, int(mask.sum())))))
        indices = np.arange(count)
        tokens, nats = self._draw(key(self.config.world, _EVALUATE), indices, context)
        return {
            "tokens": tokens,
            "mask": np.tile(mask, (count, 1)),
            "reference": nats.astype(np.float32),
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-count // DOCUMENT))],
        }


def make(config: Config) -> Instructions:
    """The source of a configuration."""
    return Instructions(config)
