"""A mixture of experts that replaces an MLP: top-k routing with a capacity, shared experts, and a load-balance term.

Routing is within each example, in the order of its positions: whether an expert is full at position t depends only on
earlier positions, so a causal stack stays causal, and an example's loss does not depend on its batch. Tokens are moved
by gathers, not by products with one-hot matrices, so the counted FLOPs are those of the experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from scaling.count import Component


@dataclass(frozen=True)
class Experts:
    """A mixture of ``count`` routed experts of ``hidden`` units, of which a token uses ``top``, and ``shared`` experts.

    ``capacity``: an expert processes at most capacity * top * T / count positions of an example, rounded up; the others
    skip it, keeping only their residual. At 1.0 the products are those of ``top`` experts for every token.
    """

    count: int
    top: int
    hidden: int
    shared: int = 0
    capacity: float = 1.25

    def slots(self, time: int) -> int:
        """Largest number of positions that one expert processes in an example of ``time`` positions."""
        return min(time, math.ceil(self.capacity * self.top * time / self.count))


def shapes(experts: Experts, layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights, by name."""
    weights: dict[str, tuple[int, ...]] = {
        "router": (layers, width, experts.count),
        "expert_up": (layers, experts.count, width, experts.hidden),
        "expert_down": (layers, experts.count, experts.hidden, width),
    }
    if experts.shared:
        weights["shared_up"] = (layers, width, experts.shared * experts.hidden)
        weights["shared_down"] = (layers, experts.shared * experts.hidden, width)
    return weights


def axes(experts: Experts) -> dict[str, tuple[str, ...]]:
    """Logical axes of the weights, inputs before outputs."""
    tree: dict[str, tuple[str, ...]] = {
        "router": ("layers", "embed", "experts"),
        "expert_up": ("layers", "experts", "embed", "mlp"),
        "expert_down": ("layers", "experts", "mlp", "embed"),
    }
    if experts.shared:
        tree |= {"shared_up": ("layers", "embed", "mlp"), "shared_down": ("layers", "mlp", "embed")}
    return tree


def route(scores_BTE: jax.Array, experts: Experts) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Routes every position: (chosen_BTC, slot_BTC, gate_BTC) for its ``top`` choices C, from router scores.

    ``slot`` is the position's place in the expert's queue; from ``slots(T)`` on, the expert is full. Gates are the
    probabilities of the chosen experts, normalised to sum to one for top > 1.
    """
    probability_BTE = jax.nn.softmax(scores_BTE, axis=-1)
    gate_BTC, chosen_BTC = jax.lax.top_k(probability_BTE, experts.top)
    if experts.top > 1:
        gate_BTC = gate_BTC / gate_BTC.sum(axis=-1, keepdims=True)
    taken_BTE = jax.nn.one_hot(chosen_BTC, experts.count, dtype=jnp.int32).sum(axis=-2)
    before_BTE = jnp.cumsum(taken_BTE, axis=1) - taken_BTE
    return chosen_BTC, jnp.take_along_axis(before_BTE, chosen_BTC, axis=-1), gate_BTC


def mixture(h_BTD: jax.Array, w: dict[str, jax.Array], experts: Experts, activation: Callable[[jax.Array], jax.Array]):
    """Applies the mixture: (y_BTD, balance_B), the experts' output and the load-balance term.

    The term is E * sum_e (share of choices) * (mean probability), which is 1 for a router that spreads each example
    evenly (Switch Transformer, arXiv 2101.03961, equation 4).
    """
    size, time, width = h_BTD.shape
    slots, count = experts.slots(time), experts.count
    scores_BTE = jnp.einsum("btd,de->bte", h_BTD, w["router"], preferred_element_type=jnp.float32)
    chosen_BTC, slot_BTC, gate_BTC = route(scores_BTE, experts)
    share_BE = jax.nn.one_hot(chosen_BTC, count).mean(axis=(1, 2))
    balance_B = count * (jax.lax.stop_gradient(share_BE) * jax.nn.softmax(scores_BTE, axis=-1).mean(axis=1)).sum(
        axis=-1
    )
    # Places beyond the last slot are dropped by the scatter and filled with zeros by the gather.
    place_BTC = jnp.where(slot_BTC < slots, chosen_BTC * slots + slot_BTC, count * slots)
    source_BTC = jnp.broadcast_to(jnp.arange(time)[None, :, None], place_BTC.shape)
    rows = jnp.arange(size)[:, None]
    empty = jnp.full((size, count * slots), time, jnp.int32)
    source_BP = empty.at[rows, place_BTC.reshape(size, -1)].set(source_BTC.reshape(size, -1), mode="drop")
    picked_BPD = h_BTD.at[rows, source_BP].get(mode="fill", fill_value=0)
    picked_BESD = picked_BPD.reshape(size, count, slots, width)
    hidden_BESF = activation(jnp.einsum("besd,edf->besf", picked_BESD, w["expert_up"]))
    out_BPD = jnp.einsum("besf,efd->besd", hidden_BESF, w["expert_down"]).reshape(size, count * slots, width)
    back_BPD = out_BPD.at[rows, place_BTC.reshape(size, -1)].get(mode="fill", fill_value=0)
    back_BTCD = back_BPD.reshape(size, time, experts.top, width)
    y_BTD = (back_BTCD * gate_BTC[..., None].astype(back_BTCD.dtype)).sum(axis=2)
    if experts.shared:
        hidden_BTF = activation(jnp.einsum("btd,df->btf", h_BTD, w["shared_up"]))
        y_BTD = y_BTD + jnp.einsum("btf,fd->btd", hidden_BTF, w["shared_down"])
    return y_BTD, balance_B


def components(experts: Experts, layers: int, width: int, time: int, prefix: str = "") -> list[Component]:
    """Router, routed and shared experts. FLOPs count every slot, filled or not; ``top`` experts are active."""
    one, router = 2 * layers * width * experts.hidden, layers * width * experts.count
    parts = [
        Component(f"{prefix}router", f"{prefix}router", router, router, time),
        Component(
            f"{prefix}experts",
            f"{prefix}experts",
            experts.count * one,
            one,
            experts.count * experts.slots(time),
            active=experts.top * one,
        ),
    ]
    shared = experts.shared * one
    return [*parts, Component(f"{prefix}shared", f"{prefix}mlp", shared, shared, time)] if shared else parts
