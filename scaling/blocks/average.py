"""Exponential moving averages of parameters and statistics, for what a family changes in ``after``."""

from __future__ import annotations

from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def moving(average: Tree, value: Tree, decay: float) -> Tree:
    """``decay * average + (1 - decay) * value``, leaf by leaf.

    After n steps from a, of values v_1 ... v_n, it is decay^n a + (1 - decay) sum_i decay^(n - i) v_i. A teacher is
    ``moving(parameters["teacher"], parameters["student"], decay)``.

    Args:
      average, value: trees of the same structure and shapes.
      decay: share of the average that is kept, from 0 to 1.
    """
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, value)
