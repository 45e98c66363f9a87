"""A mixture of experts that replaces an MLP: top-k routing, with a capacity or dropless, shared experts, load balance.

Tokens are routed, balanced and given capacity in groups of ``together`` examples of consecutive index, about 1,024
tokens as in Mesh TensorFlow: a balance or a capacity by the example hurts (arXiv 2501.11873). Within a group an expert
serves example after example, position after position. So whether it is full depends on earlier positions of the same
example and on other examples, and a causal stack stays causal. Groups are cut by the index of an example, and neither
microbatches nor the evaluation's batch cut them; on a mesh a group that lies on several devices costs communication
and changes nothing.

Tokens are moved by gathers, not by products with one-hot matrices, so the counted FLOPs are those of the experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.blocks import dense, execution
from scaling.count import Component

Activation = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Experts:
    """A mixture of ``count`` routed experts of ``hidden`` units, of which a token uses ``top``, and ``shared`` experts.

    Attributes:
      capacity: an expert serves at most capacity * top * T / count positions for each example of a group, rounded up;
        the others skip it, keeping only their residual. At 1.0 the products are those of ``top`` experts for every
        token.
      evaluation_capacity: the same in evaluation, where it is never less than in training.
      together: examples of a group; the last group of a batch may have fewer.
      dropless: experts serve every token that chooses them, by products of ragged groups, whatever the capacity.
    """

    count: int
    top: int
    hidden: int
    shared: int = 0
    capacity: float = 1.25
    evaluation_capacity: float = 2.0
    together: int = 1
    dropless: bool = False

    def slots(self, time: int, capacity: float) -> int:
        """Largest number of positions that one expert serves for each example of ``time`` positions."""
        return min(time, math.ceil(capacity * self.top * time / self.count))


class Load(NamedTuple):
    """How evenly a mixture is used, (B,) each, the same for all examples of a group.

    Attributes:
      balance: E * sum_e (share of choices) * (mean probability), 1 for a router that spreads the group evenly (Switch
        Transformer, arXiv 2101.03961, equation 4).
      dropped, dropped_evaluation: share of the choices that find their expert full at the capacity of training and at
        that of evaluation.
    """

    balance: jax.Array
    dropped: jax.Array
    dropped_evaluation: jax.Array


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


def route(scores_GNE: jax.Array, experts: Experts) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Routes every position: (chosen_GNC, slot_GNC, gate_GNC) for its ``top`` choices C, from router scores.

    ``slot`` is the position's place in the expert's queue: below the expert's slots it is served. Gates are the
    probabilities of the chosen experts, normalised to sum to one for top > 1.
    """
    probability_GNE = jax.nn.softmax(scores_GNE, axis=-1)
    gate_GNC, chosen_GNC = jax.lax.top_k(probability_GNE, experts.top)
    if experts.top > 1:
        gate_GNC = gate_GNC / gate_GNC.sum(axis=-1, keepdims=True)
    taken_GNE = jax.nn.one_hot(chosen_GNC, experts.count, dtype=jnp.int32).sum(axis=-2)
    before_GNE = jnp.cumsum(taken_GNE, axis=1) - taken_GNE
    return chosen_GNC, jnp.take_along_axis(before_GNE, chosen_GNC, axis=-1), gate_GNC


def mixture(
    h_BTD: jax.Array, w: dict[str, jax.Array], experts: Experts, activation: Activation
) -> tuple[jax.Array, Load]:
    """Applies the mixture: (y_BTD, load), the experts' output and how evenly they are used."""
    size, time, width = h_BTD.shape
    whole = size - size % experts.together
    ends = [(0, whole, experts.together), (whole, size, size - whole)]
    parts = []
    for first, last, examples in ends:
        if first < last:
            h_GND = h_BTD[first:last].reshape(-1, examples * time, width)
            y_GND, load = _groups(h_GND, examples, w, experts, activation)
            by_example = [jnp.repeat(each_G, examples) for each_G in load]
            parts.append((y_GND.reshape(-1, time, width), Load(*by_example)))
    y_BTD, load = parts[0] if len(parts) == 1 else jax.tree.map(lambda *some: jnp.concatenate(some), *parts)
    if experts.shared:
        hidden_BTF = activation(dense.product(h_BTD, w["shared_up"]))
        y_BTD = y_BTD + dense.product(hidden_BTF, w["shared_down"])
    return y_BTD, load


def _groups(
    h_GND: jax.Array, examples: int, w: dict[str, jax.Array], experts: Experts, activation: Activation
) -> tuple[jax.Array, Load]:
    """The routed experts on G groups of ``examples``, N tokens each: (y_GND, load by group)."""
    time = h_GND.shape[1] // examples
    scores_GNE = jnp.einsum("gnd,de->gne", h_GND, w["router"], preferred_element_type=jnp.float32)
    chosen_GNC, slot_GNC, gate_GNC = route(scores_GNE, experts)
    share_GE = jax.lax.stop_gradient(jax.nn.one_hot(chosen_GNC, experts.count).mean(axis=(1, 2)))
    balance_G = experts.count * (share_GE * jax.nn.softmax(scores_GNE, axis=-1).mean(axis=1)).sum(axis=-1)
    capacities = experts.capacity, max(experts.capacity, experts.evaluation_capacity)
    slots, later = (examples * experts.slots(time, capacity) for capacity in capacities)
    dropped_G, dropped_later_G = ((slot_GNC >= limit).mean(axis=(1, 2), dtype=jnp.float32) for limit in (slots, later))
    if experts.dropless:
        out_GNCD = _ragged(h_GND, chosen_GNC, w, activation)
    else:
        limit = later if execution.evaluating() else slots
        out_GNCD = _slotted(h_GND, chosen_GNC, slot_GNC, limit, w, activation)
    y_GND = (out_GNCD * gate_GNC[..., None].astype(out_GNCD.dtype)).sum(axis=2)
    return y_GND, Load(balance_G, dropped_G, dropped_later_G)


def _slotted(
    h_GND: jax.Array,
    chosen_GNC: jax.Array,
    slot_GNC: jax.Array,
    slots: int,
    w: dict[str, jax.Array],
    activation: Activation,
) -> jax.Array:
    """Output of each token's chosen experts, (G, N, C, D), each of which has ``slots`` places; 0 where it is full."""
    (size, tokens, width), count = h_GND.shape, w["expert_up"].shape[0]
    # Places beyond the last slot are dropped by the scatter and filled with zeros by the gather.
    place_GNC = jnp.where(slot_GNC < slots, chosen_GNC * slots + slot_GNC, count * slots)
    source_GNC = jnp.broadcast_to(jnp.arange(tokens)[None, :, None], place_GNC.shape)
    rows, place_GP = jnp.arange(size)[:, None], place_GNC.reshape(size, -1)
    empty = jnp.full((size, count * slots), tokens, jnp.int32)
    source_GP = empty.at[rows, place_GP].set(source_GNC.reshape(size, -1), mode="drop")
    picked_GESD = h_GND.at[rows, source_GP].get(mode="fill", fill_value=0).reshape(size, count, slots, width)
    hidden_GESF = activation(jnp.einsum("gesd,edf->gesf", picked_GESD, w["expert_up"]))
    out_GPD = jnp.einsum("gesf,efd->gesd", hidden_GESF, w["expert_down"]).reshape(size, count * slots, width)
    return out_GPD.at[rows, place_GP].get(mode="fill", fill_value=0).reshape(*chosen_GNC.shape, width)


def _ragged(h_GND: jax.Array, chosen_GNC: jax.Array, w: dict[str, jax.Array], activation: Activation) -> jax.Array:
    """Output of each token's chosen experts, (G, N, C, D), none of which is ever full: the tokens of the batch are
    sorted by expert, and each run is multiplied by its expert's weights (``jax.lax.ragged_dot``; on a CPU that costs
    the products of all experts)."""
    count, top = w["expert_up"].shape[0], chosen_GNC.shape[-1]
    chosen_P = chosen_GNC.reshape(-1)
    order_P = jnp.argsort(chosen_P, stable=True)
    sizes_E = jnp.bincount(chosen_P, length=count).astype(jnp.int32)
    picked_PD = h_GND.reshape(-1, h_GND.shape[-1])[order_P // top]
    hidden_PF = activation(_by_expert(picked_PD, w["expert_up"], sizes_E))
    out_PD = _by_expert(hidden_PF, w["expert_down"], sizes_E)
    return out_PD[jnp.argsort(order_P)].reshape(*chosen_GNC.shape, -1)


def _by_expert(x_PD: jax.Array, weight_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Products (P, F) of consecutive runs of rows with the weights of one expert each."""
    one = jax.lax.stop_gradient(x_PD[0, 0] + weight_EDF[0, 0, 0])

    def lead(y_: jax.Array) -> jax.Array:
        # Under vmap a ragged product and its gradient (jax 0.10.2) need the members first, where a reshape puts them,
        # and in every operand, also in what is the same for all: zeros at the start. XLA removes both.
        y_ = jnp.where(False, one.astype(y_.dtype), y_)
        return y_.reshape(1, *y_.shape).reshape(y_.shape)

    return lead(jax.lax.ragged_dot(lead(x_PD), lead(weight_EDF), lead(sizes_E)))


def components(experts: Experts, layers: int, width: int, time: int, prefix: str = "") -> list[Component]:
    """Router, routed and shared experts; ``top`` experts are active.

    FLOPs count every slot of training, filled or not; dropless, every token's ``top`` experts and nothing else.
    """
    one, router = 2 * layers * width * experts.hidden, layers * width * experts.count
    served = experts.top * time if experts.dropless else experts.count * experts.slots(time, experts.capacity)
    parts = [
        Component(f"{prefix}router", f"{prefix}router", router, router, time),
        Component(f"{prefix}experts", f"{prefix}experts", experts.count * one, one, served, active=experts.top * one),
    ]
    shared = experts.shared * one
    return [*parts, Component(f"{prefix}shared", f"{prefix}mlp", shared, shared, time)] if shared else parts
