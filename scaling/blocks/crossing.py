"""Two streams that ask each other: co-attention layers (ViLBERT, arXiv 1908.02265) between the layers of two stacks.

In a co-attention layer the queries of each stream read keys and values of the other, both from the states before the
layer, and an MLP for each stream follows. Every product has weights of its own; attention has the width and heads of
the stream that asks. One such layer stands before each of the last layers of both stacks; what it adds starts at zero.
x (B, T, D) is the first stream, y (B, P, W) the second.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from scaling.blocks import cross, layers, stack
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component


def leaves(count: int, first: stack.Stack, second: stack.Stack) -> dict[str, cross.Leaves]:
    """The weights of ``count`` co-attention layers between two stacks, by the stream that asks."""
    found = {}
    for part, own, other in (("crossing", first, second), ("vision_crossing", second, first)):
        found[part] = cross.leaves(count, own.width, other.width, own.heads, own.mlp)
        found[part]["memory_norm"] = ((count, other.width), ("layers", "embed"))
    return found


def draw(key: jax.Array, own: dict[str, cross.Leaves]) -> Parameters:
    """The weights of ``leaves``."""
    found = {part: cross.draw(jax.random.fold_in(key, n), each) for n, (part, each) in enumerate(own.items())}
    return {
        part: {name: w * (name not in ("o", "down")) for name, w in weights.items()} for part, weights in found.items()
    }


def layer(x_BTD: jax.Array, y_BPW: jax.Array, weights: Any, keep_BT: jax.Array, activation: str) -> Any:
    """Both streams after one co-attention layer; False in ``keep_BT`` hides a position of x from y.

    Args:
      weights: of one layer, of the stream x and of the stream y.
    """
    first, second = weights
    x_asks, y_told = stack.rms_norm(x_BTD, first["query_norm"]), stack.rms_norm(y_BPW, first["memory_norm"])
    y_asks, x_told = stack.rms_norm(y_BPW, second["query_norm"]), stack.rms_norm(x_BTD, second["memory_norm"])
    see_BPT = jnp.broadcast_to(keep_BT[:, None], (len(keep_BT), y_BPW.shape[1], keep_BT.shape[1]))
    x_BTD += cross.attention(x_asks, y_told, first)
    y_BPW += cross.attention(y_asks, x_told, second, see_BPT)
    return x_BTD + cross.feedforward(x_BTD, first, activation), y_BPW + cross.feedforward(y_BPW, second, activation)


def through(stacks: Any, weights: Any, x_BTD: jax.Array, y_BPW: jax.Array, keep_BT: jax.Array) -> Any:
    """Both streams after all layers.

    Args:
      stacks: the two, with all of their own layers.
      weights: of the two stacks, and of the co-attention layers of x and of y.
    """
    (first, second), (x_weights, y_weights, *crossing) = stacks, weights
    count = len(crossing[0]["o"])

    def own(states: Any, w: Any, which: stack.Stack, many: int, keep: jax.Array | None) -> Any:
        return which.clone(layers=many).apply({"params": w}, states, keep_BT=keep) if many else states

    def both(x: Any, y: Any, w: Any, many: tuple[int, int]) -> Any:
        return own(x, w[0], first, many[0], keep_BT), own(y, w[1], second, many[1], None)

    def crossed(streams: Any, w: Any) -> tuple[Any, None]:
        x_BTD, y_BPW = (constrain(each, "batch", "time", "embed") for each in streams)
        return layer(x_BTD, y_BPW, w, keep_BT, first.activation), None

    def group(streams: Any, w: Any) -> tuple[Any, None]:
        (x_BTD, y_BPW), _ = layers.kept(crossed, count)(streams, w[:2])
        return both(x_BTD, y_BPW, w[2:], (1, 1)), None

    alone = first.layers - count, second.layers - count
    before = [jax.tree.map(lambda leaf, n=n: leaf[:n], w) for n, w in zip(alone, (x_weights, y_weights))]
    after = [jax.tree.map(lambda leaf, n=n: leaf[n:, None], w) for n, w in zip(alone, (x_weights, y_weights))]
    return layers.each(group, both(x_BTD, y_BPW, before, alone), (*crossing, *after), count)[0]


def components(own: dict[str, cross.Leaves], first: int, second: int) -> list[Component]:
    """The counted components of ``leaves``, between so many positions of x and of y."""
    found = []
    for (part, each), (asks, told) in zip(own.items(), ((first, second), (second, first))):
        found += cross.components(part, each, asks, told, first * second)
    return found


def axes(own: dict[str, cross.Leaves]) -> Axes:
    """Logical axes of ``leaves``."""
    return {part: {name: names for name, (_, names) in each.items()} for part, each in own.items()}
