"""Layers that attend to a memory of another width, each followed by an MLP: of a resampler, or between other layers.

The weights of all layers are stacked on a leading axis, as in ``stack``. Output projections do not start at zero, since
they stand behind gates that do, or are read by nothing else. Queries have T positions, the memory S positions of width
W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from scaling.blocks import stack
from scaling.blocks.added import product
from scaling.blocks.attention import attend
from scaling.count import Component

Leaves = dict[str, tuple[tuple[int, ...], tuple[str, ...]]]  # shape and logical axes, by name
Weights = Mapping[str, jax.Array]


def leaves(count: int, width: int, memory: int, heads: int, mlp: int) -> Leaves:
    """The weights of ``count`` layers; ``memory`` is its width, ``mlp`` the number of hidden units."""
    split, norm, names = (heads, width // heads), ("layers", "embed"), ("layers", "embed", "heads", "head")
    return {
        "query_norm": ((count, width), norm),
        "q": ((count, width, *split), names),
        "k": ((count, memory, *split), names),
        "v": ((count, memory, *split), names),
        "q_norm": ((count, split[1]), stack.AXES["q_norm"]),
        "k_norm": ((count, split[1]), stack.AXES["k_norm"]),
        "o": ((count, *split, width), stack.AXES["o"]),
        "mlp_norm": ((count, width), norm),
        "up": ((count, width, mlp), stack.AXES["up"]),
        "down": ((count, mlp, width), stack.AXES["down"]),
    }


def draw(key: jax.Array, own: Leaves) -> dict[str, jax.Array]:
    """Norms are one, gates zero, vectors and matrices normal: of unit variance, over the inputs of a product."""
    found = {}
    for number, (name, (shape, names)) in enumerate(own.items()):
        inputs = 1 if names[0] != "layers" else math.prod(shape[1:-1] if name in ("o", "down") else shape[1:2])
        value = jax.random.normal(jax.random.fold_in(key, number), shape) * inputs**-0.5
        found[name] = jnp.ones(shape) if name.endswith("norm") else value * (not name.endswith("gate"))
    return found


def attention(x_BTD: jax.Array, memory_BSW: jax.Array, w: Weights, see_BTS: jax.Array | None = None) -> jax.Array:
    """What queries of the normalised x find in the memory, (B, T, D); ``see_BTS`` as in ``attend``."""
    q_BHTK = product("btd,dhk->bhtk", x_BTD, w, "q")
    k_BHSK, v_BHSK = (product("bsw,whk->bhsk", memory_BSW, w, name) for name in ("k", "v"))
    q_BHTK, k_BHSK = stack.rms_norm(q_BHTK, w["q_norm"]), stack.rms_norm(k_BHSK, w["k_norm"])
    return product("bhtk,hkd->btd", attend(q_BHTK, k_BHSK, v_BHSK, "bidirectional", see_BTS=see_BTS), w, "o")


def feedforward(x_BTD: jax.Array, w: Weights, activation: str) -> jax.Array:
    """The MLP of x, which it normalises."""
    h_BTF = product("btd,df->btf", stack.rms_norm(x_BTD, w["mlp_norm"]), w, "up")
    return product("btf,fd->btd", stack.ACTIVATIONS[activation](h_BTF), w, "down")


def components(part: str, own: Leaves, queries: int, memory: int, pairs: int) -> list[Component]:
    """The counted components of a part with the weights of ``leaves`` and others that no product reads.

    Args:
      part: its top-level name, which is also the group.
      queries, memory: positions an example of the queries, and of the memory. pairs: of the two that have a score.
    """
    size = {name: math.prod(shape) for name, (shape, _) in own.items()}
    count, heads, head = own["o"][0][:3]
    query, keys, mlp = size["q"] + size["o"], size["k"] + size["v"], size["up"] + size["down"]
    mixed, scores = 4 * count * heads * head * pairs, count * heads * pairs
    return [
        Component(f"{part}_query", part, query, query, queries, attention=mixed, scores=scores),
        Component(f"{part}_memory", part, keys, keys, memory),
        Component(f"{part}_mlp", part, mlp, mlp, queries),
        Component(f"{part}_vectors", part, sum(size.values()) - query - keys - mlp),
    ]
