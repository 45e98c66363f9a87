"""The tabular learner: a row of counts for each context, with its exact loss on the worlds whose tables are known.

After D targets, n of them y in context c, it says p(y | c) = (n_cy + prior) / (n_c + prior V), and 1 / V in contexts
for which it has no row: with ``rows`` = N it keeps those of the N most frequent ones. Its exponents are exact:

- Markov of order k: the excess over the entropy is V^k (V - 1) / (2 D) once every row is well known, so 1 in D.
- Zipf, p(c) ~ c^-(1 + a): with rows for all, contexts down to c ~ D^(1 / (1 + a)) are known and the excess falls as
  D^(-a / (1 + a)); with all data, it is the probability of the contexts without a row, N^-a (Hutter 2021, arXiv
  2102.04074, and the tail of the sum). Both hold while the K contexts of the world are not exhausted. The two do not
  add up: a context without a row is lost once, known or not, so an additive law in N and D is wrong near the corner.

What a fit makes of such losses is the fitter's own bias, before any training (experiments/known_answers.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Known(Protocol):
    """A world whose table is known: ``markov`` and ``zipf``."""

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """p(c), (C,), and p(target | c), (C, V), float64."""
        ...

    def looks(self, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and targets, (count,) integers each, as training meets them under ``seed``."""
        ...


def losses(
    world: Known, amounts: Sequence[int], *, seed: int = 0, rows: int | None = None, prior: float = 0.5
) -> np.ndarray:
    """Exact loss after each of ``amounts`` targets of one stream, nats per target, (len(amounts),)."""
    share_C, table_CV = world.rows
    contexts, targets = world.looks(max(amounts), seed=seed)
    without = np.argsort(-share_C, kind="stable")[len(share_C) if rows is None else rows :]
    seen_CV, before, found = np.zeros(table_CV.shape), 0, {}
    for amount in sorted(set(amounts)):
        np.add.at(seen_CV, (contexts[before:amount], targets[before:amount]), 1)
        said_CV = (seen_CV + prior) / (seen_CV.sum(axis=1, keepdims=True) + prior * table_CV.shape[1])
        said_CV[without] = 1 / table_CV.shape[1]
        found[amount], before = -float(share_C @ (table_CV * np.log(said_CV)).sum(axis=1)), amount
    return np.array([found[amount] for amount in amounts])
