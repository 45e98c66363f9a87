"""LSTMs over time, and one that attends to a text by what it asks for and by where it has been.

On a mesh, weights are gathered before a scan, which then sends nothing from one time to the next: each device runs its
examples alone. Split within the scan, losses came out wrong on a mesh of all axes, by 6e-3 (jax 0.10.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.blocks import convolution, dense
from scaling.blocks.logical import constrain

GATES = 4  # of an LSTM: forget, in, out, update


def cell(gates_BGE: jax.Array, memory_BE: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(output in the dtype of the gates, memory in float32) of an LSTM, both (B, E); 1 is added to the forget gate."""
    forget_BE, in_BE, out_BE, update_BE = jnp.moveaxis(gates_BGE.astype(jnp.float32), 1, 0)
    memory_BE = jax.nn.sigmoid(forget_BE + 1) * memory_BE + jax.nn.sigmoid(in_BE) * jnp.tanh(update_BE)
    return (jax.nn.sigmoid(out_BE) * jnp.tanh(memory_BE)).astype(gates_BGE.dtype), memory_BE


def _given(x_BTD: jax.Array, weight_DGE: jax.Array) -> jax.Array:
    """What inputs add to the gates, for all times at once and time first, (T, B, G, E)."""
    given_BTX = dense.product(x_BTD, _whole(weight_DGE).reshape(len(weight_DGE), -1))
    return (
        constrain(given_BTX, "batch", "time", "embed").reshape(*x_BTD.shape[:2], *weight_DGE.shape[1:]).swapaxes(0, 1)
    )


def _whole(weight_: jax.Array) -> jax.Array:
    return constrain(weight_, *["embed"] * weight_.ndim)


def _recurrent(x_BD: jax.Array, weight_DGE: jax.Array) -> jax.Array:
    return jnp.einsum("bd,dge->bge", x_BD, weight_DGE)


def _start(given_TBGE: jax.Array) -> tuple[jax.Array, jax.Array]:
    zeros_BE = jnp.zeros_like(given_TBGE[0, :, 0])
    return zeros_BE, zeros_BE.astype(jnp.float32)


def _batch_first(out_TBE: jax.Array) -> jax.Array:
    return constrain(out_TBE.swapaxes(0, 1), "batch", "time", "embed")


def lstm(
    x_BTD: jax.Array, input_DGE: jax.Array, own_EGE: jax.Array, keep_BT: jax.Array | None = None, *, back: bool = False
) -> jax.Array:
    """Outputs of an LSTM, (B, T, E).

    Args:
      input_DGE, own_EGE: weights to the gates of its inputs and of its output before.
      keep_BT: where False, output and state are zero.
      back: whether it runs from the last time to the first.
    """
    given_TBGE, own_EGE = _given(x_BTD, input_DGE), _whole(own_EGE)

    def step(state: Any, each: Any) -> tuple[Any, jax.Array]:
        given_BGE, keep_B = each
        state = cell(given_BGE + _recurrent(state[0], own_EGE), state[1])
        if keep_B is not None:
            state = tuple(jnp.where(keep_B[:, None], part, 0) for part in state)
        return state, state[0]

    keep_TB = None if keep_BT is None else keep_BT.swapaxes(0, 1)
    return _batch_first(jax.lax.scan(step, _start(given_TBGE), (given_TBGE, keep_TB), reverse=back)[1])


class Attention(NamedTuple):
    """Weights of location-sensitive attention (arXiv 1506.07503): energies v . tanh(question + text + location).

    The location is a convolution over the previous weights and the sum of all previous ones, and a product behind it.
    """

    query_EA: jax.Array
    memory_DA: jax.Array
    filter_XF: jax.Array  # X = taps x 2
    location_FA: jax.Array
    energy_A: jax.Array

    def weights(self, query_BE: jax.Array, memory_BSA: jax.Array, seen_BS2: jax.Array, keep_BS: jax.Array) -> jax.Array:
        """Of each position, (B, S) float32, with the sum 1; none of a position that is not kept."""
        location_BSA = dense.product(convolution.convolve(seen_BS2, self.filter_XF), self.location_FA)
        query_BA = jnp.einsum("be,ea->ba", query_BE, self.query_EA)
        energy_BS = jnp.einsum("bsa,a->bs", jnp.tanh(query_BA[:, None] + location_BSA + memory_BSA), self.energy_A)
        return jax.nn.softmax(jnp.where(keep_BS, energy_BS.astype(jnp.float32), -jnp.inf), axis=1)


def attending_lstm(
    x_BTD: jax.Array, gates: dict[str, jax.Array], attention: Attention, states_BSD: jax.Array, keep_BS: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An LSTM whose output asks at each time for a mean of states, which it is given at the next.

    Args:
      gates: weights to the gates: "input", "recurrent" as in ``lstm``, and "read" (D, G, E), of what it read.

    Returns:
      Its outputs (B, T, E), what it reads after each (B, T, D), and by which weights (B, T, S) float32.
    """
    gates, attention = jax.tree.map(_whole, (gates, attention))
    given_TBGE, memory_BSA = _given(x_BTD, gates["input"]), dense.product(states_BSD, attention.memory_DA)

    def step(state: Any, given_BGE: jax.Array) -> tuple[Any, tuple[jax.Array, ...]]:
        out_BE, cell_BE, read_BD, seen_BS2 = state
        given_BGE += _recurrent(read_BD, gates["read"]) + _recurrent(out_BE, gates["recurrent"])
        out_BE, cell_BE = cell(given_BGE, cell_BE)
        weight_BS = attention.weights(out_BE, memory_BSA, seen_BS2, keep_BS)
        read_BD = jnp.einsum("bs,bsd->bd", weight_BS.astype(states_BSD.dtype), states_BSD)
        seen_BS2 = jnp.stack([weight_BS, seen_BS2[..., 1] + weight_BS], axis=2)
        return (out_BE, cell_BE, read_BD, seen_BS2), (out_BE, read_BD, weight_BS)

    unseen_BS2 = jnp.zeros((*keep_BS.shape, 2), jnp.float32)
    start = *_start(given_TBGE), jnp.zeros_like(states_BSD[:, 0]), unseen_BS2
    out_TBE, read_TBD, weight_TBS = jax.lax.scan(step, start, given_TBGE)[1]
    return _batch_first(out_TBE), _batch_first(read_TBD), _batch_first(weight_TBS)
