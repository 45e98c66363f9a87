"""A learner that counts targets in a table with a row per context, and its exact loss on sources with known tables.

After D targets, n_cy of them y in context c, it predicts p(y | c) = (n_cy + prior) / (n_c + prior V), and 1 / V in
contexts without a row: with ``rows`` = N it has rows for the N most frequent contexts. Its exponents are exact:

- Markov of order k: the excess over the entropy is V^k (V - 1) / (2 D) once every row is well known, so the exponent in
D is 1. - Zipf, p(c) ~ c^-(1 + a): with rows for all, contexts down to c ~ D^(1 / (1 + a)) are known and the excess
falls as
  D^(-a / (1 + a)); with all data, it is the probability of the contexts without a row, N^-a (Hutter 2021, arXiv
  2102.04074, and the tail of the sum). Both hold while the K contexts of the world are not exhausted. The two do not
  add up: a context without a row is lost once, known or not, so an additive law in N and D is wrong near the corner.

The error of a fit to such losses is the bias of the fit alone, without training (experiments/known_answers.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Known(Protocol):
    """A source whose table is known: ``markov`` and ``zipf``."""

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """p(c), (C,), and p(target | c), (C, V), float64."""
        ...

    def looks(self, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and targets, (count,) integers each, in the order of training under ``seed``."""
        ...


def losses(
    world: Known, amounts: Sequence[int], *, seed: int = 0, rows: int | None = None, prior: float = 0.5
) -> np.ndarray:
    """Exact loss after each of ``amounts`` targets of one stream, in nats per target, (len(amounts),).

    Args:
      world: the source.
      amounts: values of D, in targets.
      rows: contexts that the learner has a row for; None for all.
      prior: pseudo-count of every target."""
    share_C, table_CV = world.rows
    contexts, targets = world.looks(max(amounts), seed=seed)
    without = np.argsort(-share_C, kind="stable")[len(share_C) if rows is None else rows :]
    seen_CV, before, loss_at = np.zeros(table_CV.shape), 0, {}
    for amount in sorted(set(amounts)):
        np.add.at(seen_CV, (contexts[before:amount], targets[before:amount]), 1)
        predicted_CV = (seen_CV + prior) / (seen_CV.sum(axis=1, keepdims=True) + prior * table_CV.shape[1])
        predicted_CV[without] = 1 / table_CV.shape[1]
        loss_at[amount], before = -float(share_C @ (table_CV * np.log(predicted_CV)).sum(axis=1)), amount
    return np.array([loss_at[amount] for amount in amounts])
