"""How layers run one after another: scanned or unrolled, and what is kept of each for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from scaling.blocks import execution

Layer: TypeAlias = Callable[[jax.Array, Any], tuple[jax.Array, Any]]  # from x and weights: x, and what it tells


def kept(layer: Layer, count: int) -> Layer:
    """A layer, one of ``count``, of which ``Execution.remat`` says what is kept for its gradient."""
    how = execution.current()
    if how.remat == "none":
        return layer
    # Inside a scan, XLA cannot merge the two passes, so the barriers against that would only cost time.
    return jax.checkpoint(layer, policy=execution.REMAT[how.remat], prevent_cse=not _scanned(count))


def each(layer: Layer, x_BTD: jax.Array, weights: Any, count: int) -> tuple[jax.Array, Any]:
    """x after ``count`` layers whose weights are stacked on a leading axis, and what they tell, stacked likewise."""
    if _scanned(count):
        return jax.lax.scan(layer, x_BTD, weights)
    told = []
    for index in range(count):
        x_BTD, more = layer(x_BTD, jax.tree.map(lambda leaf, index=index: leaf[index], weights))
        told.append(more)
    return x_BTD, jax.tree.map(lambda *layers: jnp.stack(layers), *told)


def _scanned(count: int) -> bool:
    return count > execution.current().unroll
