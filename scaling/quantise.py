"""Weights rounded to few bits: symmetric, to multiples of one scale for each output channel (absmax).

Rounded are the matrices of the blocks (``recipe.parametrisation.by_muon``: of a stack, but no router). Look-ups,
patches, projections, heads, norms and what ``scaling.adapt`` adds stay as they are. A channel is one index of a
matrix's output axes, in one layer (and one expert); its scale is its largest absolute weight over 2^(bits-1) - 1, so
that no weight moves by more than half a scale. The products are computed with the rounded weights in the model's dtype,
so their FLOPs do not change.

After training that is done on the host, in NumPy, so that a checkpoint becomes the same weights on every machine
(``quantise``). During training (``weight_bits`` of a model) every pass computes with rounded weights, whose gradient is
that of the weights that are kept (``straight_through``, arXiv 1308.3432); scales have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling.blocks.logical import Axes, Parameters
from scaling.recipe.parametrisation import by_muon
from scaling.records.types import Quantisation

SCALE_BITS = 32


class Rounded(NamedTuple):
    """A matrix after rounding, in float32, and the scale of each channel, of the same rank with 1 for input axes."""

    weight: np.ndarray
    scale: np.ndarray


def round_matrix(weight: np.ndarray, names: tuple[str, ...], bits: int) -> Rounded:
    """Rounds a matrix to ``bits`` bits.

    Args:
      weight: float32. names: its logical axes, inputs before outputs.
    """
    return Rounded(*_rounded(np, weight, names, bits))


def _rounded(m: Any, weight: Any, names: tuple[str, ...], bits: int) -> tuple[Any, Any]:
    """The weights and scales of ``Rounded``, by NumPy or jax.numpy."""
    scale = m.max(m.abs(weight), axis=_inputs(names), keepdims=True) / np.float32(2 ** (bits - 1) - 1)
    return m.rint(weight / m.where(scale > 0, scale, np.float32(1))) * scale, scale


def straight_through(parameters: Parameters, axes: Axes, bits: int) -> Parameters:
    """The parameters with the matrices of the blocks rounded, and the gradients of parameters that are not; traced.

    Args:
      parameters: nested, in float32. axes: the logical axes of each, nested in the same way.
    """

    def through(names: tuple[str, ...], leaf: jax.Array) -> jax.Array:
        if not by_muon(names):
            return leaf
        held = jax.lax.stop_gradient(leaf)
        return _rounded(jnp, held, names, bits)[0] + (leaf - held)  # exactly the rounded weight

    return jax.tree.map(through, axes, parameters, is_leaf=_is_names)


def _inputs(names: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of the input axes: the residual stream where it comes first, else all but the residual stream."""
    own = [index for index, name in enumerate(names) if name not in ("layers", "experts")]
    return tuple(own[:1] if names[own[0]] == "embed" else own[:-1])


def quantise(parameters: Mapping[str, Any], axes: Axes, bits: int) -> Mapping[str, Any]:
    """The parameters with the matrices of the blocks rounded, placed on the devices as before.

    Args:
      parameters: nested, of jax.Arrays. axes: the logical axes of each, nested in the same way.
    """

    def place(names: tuple[str, ...], leaf: jax.Array) -> jax.Array:
        if not by_muon(names):
            return leaf
        return jax.device_put(round_matrix(np.asarray(leaf), names, bits).weight, leaf.sharding)

    return jax.tree.map(place, axes, parameters, is_leaf=_is_names)


def stored(shapes: Mapping[str, Any], axes: Axes, bits: int) -> Quantisation:
    """How many parameters are rounded, how many are not, and the number of scales.

    Args:
      shapes: anything with a ``shape`` for each parameter, nested like ``axes``.
    """
    counts = {"weights": 0, "scales": 0, "kept": 0}

    def count(names: tuple[str, ...], leaf: Any) -> None:
        size = math.prod(leaf.shape)
        if by_muon(names):
            counts["weights"] += size
            counts["scales"] += size // math.prod(leaf.shape[axis] for axis in _inputs(names))
        else:
            counts["kept"] += size

    jax.tree.map(count, axes, shapes, is_leaf=_is_names)
    return Quantisation(bits=bits, **counts)


def size_in_bytes(parameters: int, dtype: str, quantisation: Quantisation | None) -> int:
    """Bytes of a model whose rounded weights take their bits, each scale 32, and the rest those of ``dtype``."""
    wide = 32 if dtype == "float32" else 16
    if quantisation is None:
        return parameters * wide // 8
    q = quantisation
    return math.ceil((q.weights * q.bits + q.scales * SCALE_BITS + q.kept * wide) / 8)


def _is_names(leaf: Any) -> bool:
    return isinstance(leaf, tuple)
