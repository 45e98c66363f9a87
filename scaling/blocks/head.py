"""The two ends of a model: look-ups in a table, and logits, or the nats of targets, from the last hidden states."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import dense, execution
from scaling.blocks.logical import constrain


def look_up(table_VD: jax.Array, index_BT: jax.Array) -> jax.Array:
    """Rows of a table, (B, T, D).

    The table is gathered along D first, since its sharding would spread to the activations. The rows are sharded like
    activations at once, since XLA would otherwise shard their gradient like the table, and have to replicate it later.
    """
    return constrain(constrain(table_VD, "vocab", "embed")[index_BT], "batch", "time", "embed")


def vocabulary(x_BTD: jax.Array, weight: jax.Array, targets_BT: jax.Array | None = None, *, tied: bool) -> jax.Array:
    """Logits (B, T, V) in the dtype of x; with targets, -log p(target) in nats instead, (B, T) float32.

    With ``Execution.loss_chunk`` = C, only logits of C positions per example exist at once. The backward pass
    recomputes them, which is one product more than the model's FLOPs count.

    Args:
      weight: (V, D), the embedding, if ``tied``, else (D, V).
    """

    def logits(x_BTD: jax.Array, weight: jax.Array) -> jax.Array:
        weight = weight.astype(x_BTD.dtype)
        return jnp.einsum("btd,vd->btv", x_BTD, weight) if tied else dense.product(x_BTD, weight)

    if targets_BT is None:
        return logits(x_BTD, weight)
    weight32 = weight.astype(jnp.float32)  # cast back inside, so that its gradient is summed over chunks in float32

    def nats(x_BTD: jax.Array, targets_BT: jax.Array) -> jax.Array:
        return objectives.cross_entropy(logits(x_BTD, weight32), targets_BT)

    size, time, width = x_BTD.shape
    chunk = execution.current().loss_chunk
    if not 0 < chunk < time:
        return nats(x_BTD, targets_BT)
    whole = time // chunk * chunk
    x_NBCD = x_BTD[:, :whole].reshape(size, -1, chunk, width).swapaxes(0, 1)
    targets_NBC = targets_BT[:, :whole].reshape(size, -1, chunk).swapaxes(0, 1)
    recomputed = jax.checkpoint(nats, prevent_cse=False)
    nats_NBC = jax.lax.map(lambda part: recomputed(*part), (x_NBCD, targets_NBC))
    nats_BT = nats_NBC.swapaxes(0, 1).reshape(size, whole)
    if whole == time:
        return nats_BT
    return jnp.concatenate([nats_BT, jax.checkpoint(nats)(x_BTD[:, whole:], targets_BT[:, whole:])], axis=1)
