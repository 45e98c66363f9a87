"""Both ends of a model: rows of a table, and from the last hidden states to logits, or to the nats of the targets
without all logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import execution
from scaling.blocks.logical import constrain


def look_up(table_VD: jax.Array, index_BT: jax.Array) -> jax.Array:
    """Rows of a table, (B, T, D).

    The table is whole in D there, since its split would split the activations; and the rows are put where activations
    belong at once, since XLA would else put their gradient where the table is, and find no way back but by copying all.
    """
    return constrain(constrain(table_VD, "vocab", "embed")[index_BT], "batch", "time", "embed")


def vocabulary(x_BTD: jax.Array, weight: jax.Array, targets_BT: jax.Array | None = None, *, tied: bool) -> jax.Array:
    """Logits (B, T, V) in the dtype of x; with targets -log p(target) in nats instead, (B, T) float32.

    Args:
      weight: (V, D) of the embedding where ``tied``, else (D, V).

    With ``Execution.loss_chunk`` = C, logits of C positions of each example exist at once, in the backward pass too:
    it computes them again, one product more than the model's FLOPs count.
    """

    def logits(x_BTD: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.einsum("btd,vd->btv" if tied else "btd,dv->btv", x_BTD, weight.astype(x_BTD.dtype))

    if targets_BT is None:
        return logits(x_BTD, weight)
    weight32 = weight.astype(jnp.float32)  # cast back inside: its gradient is then added up over chunks in float32

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
