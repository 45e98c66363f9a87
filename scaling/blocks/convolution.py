"""Convolutions over time as products, whose gradients cost what the forward pass does."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scaling.blocks import dense
from scaling.blocks.logical import constrain


def convolve(x_BTM: jax.Array, weight_XD: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution with zeros beyond both ends: (B, T / stride, D), in the dtype of the weights.

    As a product of the positions that each output reads with all weights; the gradient of a strided convolution
    multiplies zeros.

    Args:
      weight_XD: X = taps x M, the first position's M rows first; an odd number of taps.
    """
    time, bands = x_BTM.shape[1:]
    taps = len(weight_XD) // bands
    padded = jnp.pad(x_BTM.astype(weight_XD.dtype), ((0, 0), (taps // 2, taps // 2), (0, 0)))
    near_BTX = jnp.concatenate([padded[:, tap : tap + time : stride] for tap in range(taps)], axis=2)
    # Without these, gradients behind several convolutions came out wrong on a mesh of all axes (jax 0.10.2).
    near_BTX = constrain(near_BTX, "batch", "time", "embed")
    return constrain(dense.product(near_BTX, weight_XD), "batch", "time", "embed")
