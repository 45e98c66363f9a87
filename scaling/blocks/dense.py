"""Products with weights, in a form whose gradient is fast on a CPU.

XLA's CPU compiler has a fast routine for products of matrices as they lie in memory, and a slow one for the rest. What
differentiation makes of ``x @ w`` ends in a transposition of the gradient of w, which the compiler draws into the
product, and that takes two to three times as long as the same product written down directly (experiments/LOG.md).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def on_cpu(x_: jax.Array) -> bool:
    """Whether to trace the form that is fast on a CPU: in float32, on one device.

    The forms agree to rounding. bfloat16 was not measured, and a mesh of CPU devices stands for one of accelerators.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and x_.dtype == jnp.float32


def product(x_BTI: jax.Array, weight_IO: jax.Array) -> jax.Array:
    """``einsum("bti,io->bto", x_BTI, weight_IO)``."""
    if not on_cpu(x_BTI):
        return jnp.einsum("bti,io->bto", x_BTI, weight_IO)
    # The gradient of the transposed weight is the product as it is; the barrier keeps its transposition out of it.
    return jnp.einsum("bti,oi->bto", x_BTI, jax.lax.optimization_barrier(weight_IO.T))
