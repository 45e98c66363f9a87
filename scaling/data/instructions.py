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

Not ``named``, a block begins with the marker in place of its task, and all blocks of a window have one task, which only
their answers tell. -log p of a symbol is then that of the mixture of the tasks, by the answers before it: it falls from
block to block, and its mean depends on the context, so that there is no ``entropy``.

Questions (``scaling run --evaluate --shots``) are prompts after answered ones of their kind; candidates are what each
of the tasks makes of the last prompt, no two of them equal. So if tasks are not named, none is likelier than another
before the first answer, and after it the right one is known but for the noise.

Examples are pure functions of (world, seed, index); evaluation uses a key that no seed has, in documents of 16 windows,
with the exact -log p of every target.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scaling.data._random import key, mix, uniform
from scaling.errors import Code, UserError
from scaling.records.types import JSON
from scaling.settings import check, fields_of, require_known, setting

_TRAIN, _EVALUATE, _ASK = 1, 2, 3
ATTEMPTS = 64  # draws of a prompt
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
    named: bool = setting(True, later=True)
    """Whether a prompt begins with its task."""

    def __post_init__(self):
        check(self, "data")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserError("data.tasks", self.tasks, "must be names of tasks, each once, at least one")
        for name in self.tasks:
            require_known("data.tasks", name, TASKS)


class Blocks(NamedTuple):
    """Tasks by their place in ``tasks``, (n, blocks); prompts, what every task makes of them, (tasks, n, blocks,
    symbols), and their answers, (n, blocks, symbols)."""

    task: np.ndarray
    x: np.ndarray
    made: np.ndarray
    y: np.ndarray


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
    def candidates(self) -> int:
        """Candidates for the answer of a question."""
        return len(self.config.tasks)

    @property
    def entropy(self) -> float | None:
        """Nats per token that counts; None if that depends on the context."""
        if not self.config.named:
            return None
        c, (right, wrong) = self.config, self.costs
        answer = (1 - c.noise) * right + c.noise * wrong
        if c.loss == ANSWER:
            return answer
        return (math.log(len(c.tasks)) + c.symbols * (math.log(c.vocabulary) + answer)) / self.block

    def describe(self) -> dict[str, JSON]:
        world = fields_of(self.config)
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

    def _blocks(self, secret: np.ndarray, indices: np.ndarray, count: int, *, distinct: bool = False) -> Blocks:
        """``count`` blocks of each example; ``distinct``: every task makes another answer of a prompt."""
        c = self.config
        start = mix(secret ^ mix(indices.astype(np.uint64)))
        draws = uniform(mix(start[:, None] + np.arange(count * (1 + 3 * c.symbols), dtype=np.uint64)))
        draws = draws.reshape(len(indices), count, -1)
        task = (draws[..., 0] * len(c.tasks)).astype(np.int64)
        task = task if c.named else np.tile(task[:, :1], (1, count))
        given, spoilt, other = np.split(draws[..., 1:], 3, axis=-1)
        x = (given * c.vocabulary).astype(np.int64)
        x = self._told_apart(x, start) if distinct else x
        made = self._made(x)
        right = np.take_along_axis(made, task[None, ..., None], axis=0)[0]
        shift = 1 + (other * (c.vocabulary - 1)).astype(np.int64)
        return Blocks(task, x, made, np.where(spoilt < c.noise, (right + shift) % c.vocabulary, right))

    def _made(self, x: np.ndarray) -> np.ndarray:
        """What each task makes of prompts (..., symbols), (tasks, ..., symbols)."""
        rows, v = x.reshape(-1, self.config.symbols), self.config.vocabulary
        return np.stack([TASKS[name](rows, v).reshape(x.shape) for name in self.config.tasks])

    def _told_apart(self, x: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The prompts, drawn again until no two tasks make the same of one."""
        for attempt in range(ATTEMPTS):
            made = self._made(x)
            pairs = itertools.combinations(range(len(made)), 2)
            again = np.any([(made[i] == made[j]).all(axis=-1) for i, j in pairs], axis=0)
            if not again.any():
                return x
            fresh = mix(
                mix(start ^ mix(np.array([attempt + 1], np.uint64)))[:, None] + np.arange(x[0].size, dtype=np.uint64)
            )
            drawn = (uniform(fresh).reshape(x.shape) * self.config.vocabulary).astype(np.int64)
            x = np.where(again[..., None], drawn, x)
        remedy = f"make the same of too many prompts of {self.config.symbols} symbols; give more symbols"
        raise UserError("data.tasks", self.config.tasks, remedy, Code.CONFLICT)

    def _laid(self, blocks: Blocks) -> np.ndarray:
        """The tokens of blocks, (n, blocks x block)."""
        names, marker = list(TASKS), self.config.vocabulary + len(TASKS)
        marked = np.full((*blocks.task.shape, 1), marker)
        known = self.config.vocabulary + np.array([names.index(name) for name in self.config.tasks])[blocks.task]
        asked = known[..., None] if self.config.named else marked
        return np.concatenate([asked, blocks.x, marked, blocks.y], axis=-1).reshape(len(marked), -1)

    def _nats(self, blocks: Blocks) -> np.ndarray:
        """-log p of these tokens, each given those before it, (n, blocks x block)."""
        c, (right, wrong) = self.config, self.costs
        nats = np.zeros((*blocks.task.shape, self.block))
        nats[..., 0], nats[..., 1 : c.symbols + 1] = math.log(len(c.tasks)) if c.named else 0, math.log(c.vocabulary)
        cost = np.where(blocks.made == blocks.y, right, wrong)
        if c.named:
            answers = np.take_along_axis(cost, blocks.task[None, ..., None], axis=0)[0]
        else:
            so_far = -np.cumsum(cost.reshape(len(cost), len(blocks.task), -1), axis=-1)
            likely = np.logaddexp.reduce(np.pad(so_far, ((0, 0), (0, 0), (1, 0))), axis=0)
            answers = -np.diff(likely, axis=-1).reshape(blocks.y.shape)
        nats[..., c.symbols + 2 :] = answers
        return nats.reshape(len(nats), -1)

    def _draw(self, secret: np.ndarray, indices: np.ndarray, context: int) -> tuple[np.ndarray, Blocks]:
        """Tokens (n, T + 1) int32, and their blocks."""
        if context % self.block:
            remedy = f"must be whole prompts and answers: a multiple of {self.block}"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        blocks = self._blocks(secret, indices, context // self.block)
        tokens = np.full((len(indices), context + 1), self.vocab - 1, np.int32)
        tokens[:, 1:] = self._laid(blocks)
        return tokens, blocks

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
        tokens, blocks = self._draw(key(self.config.world, _EVALUATE), indices, context)
        return {
            "tokens": tokens,
            "mask": np.tile(mask, (count, 1)),
            "reference": (self._nats(blocks) * mask).astype(np.float32),
            **_documents(indices),
        }

    def questions(self, context: int, shots: int, limit_tokens: int | None = None) -> dict[str, Any]:
        c, needed = self.config, (shots + 1) * self.block
        if needed > context:
            remedy = f"with the question needs a context of {needed}, and the model has {context}"
            raise UserError("shots", shots, remedy, Code.CONFLICT)
        if len(c.tasks) < 2:
            raise UserError(
                "data.tasks", c.tasks, "has one candidate for every answer; name two at least", Code.CONFLICT
            )
        count = DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // (len(c.tasks) * c.symbols))))
        blocks = self._blocks(key(c.world, _ASK), np.arange(count), shots + 1, distinct=True)
        last = Blocks(*(np.roll(each, -1, axis=axis) for each, axis in zip(blocks, (1, 1, 2, 1))))
        tokens = np.full((count, len(c.tasks), context + 1), self.vocab - 1, np.int32)
        tokens[:, :, 1 : needed + 1] = self._laid(last)[:, None]  # the question is the same whatever is before it
        tokens[:, :, needed + 1 - c.symbols : needed + 1] = last.made[:, :, -1].swapaxes(0, 1)
        mask = np.zeros(context, np.float32)
        mask[needed - c.symbols : needed] = 1
        every = np.repeat(np.arange(count), len(c.tasks))
        return {
            "tokens": tokens.reshape(len(every), -1),
            "mask": np.tile(mask, (len(every), 1)),
            "right": (last.task[:, -1:] == np.arange(len(c.tasks))).ravel(),
            **_documents(every),
        }


def _documents(indices: np.ndarray) -> dict[str, np.ndarray | list[str]]:
    return {
        "document": (indices // DOCUMENT).astype(np.int32),
        "documents": [f"block {number}" for number in range(int(indices.max()) // DOCUMENT + 1)],
    }


def make(config: Config) -> Instructions:
    """The source of a configuration."""
    return Instructions(config)
