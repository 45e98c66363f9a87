"""The Q-Former (BLIP-2, arXiv 2301.12597): layers over [queries; text], where the queries alone attend to a picture.

The queries are learned vectors. A layer attends over both, under a mask that the caller gives; in every ``every``-th
layer, from the first on, the queries then attend to a memory; at last, queries and text have an MLP each. The weights
are two parts: those of the queries, with the attention, and ``reader``, the MLPs of the text, without which it reads
none. Weights of all layers are stacked on a leading axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from scaling.blocks import cross, layers, stack
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component

MLP = ("mlp_norm", "up", "down")
Weights = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """Of a Q-Former with ``mlp`` hidden units and a memory of width ``memory``."""

    layers: int
    width: int
    heads: int
    mlp: int
    activation: str
    queries: int
    memory: int
    every: int

    @property
    def crossing(self) -> int:
        """Number of layers whose queries attend to the memory."""
        return -(-self.layers // self.every)

    @property
    def leaves(self) -> dict[str, cross.Leaves]:
        """The weights of the queries' part, by group."""
        seeing = cross.leaves(self.crossing, self.width, self.memory, self.heads, self.mlp)
        return {
            "layers": cross.leaves(self.layers, self.width, self.width, self.heads, self.mlp),
            "cross": {name: leaf for name, leaf in seeing.items() if name not in MLP},
            "ends": {
                "queries": ((self.queries, self.width), ("vocab", "embed")),
                "memory_norm": ((self.memory,), ("embed",)),
                "norm": ((self.width,), ("embed",)),
            },
        }

    @property
    def reader(self) -> cross.Leaves:
        """The weights of the text's part."""
        return {name: self.leaves["layers"][name] for name in MLP}


def init(key: jax.Array, shape: Shape, *, reads: bool) -> Parameters:
    """The part ``qformer`` and, if it ``reads`` text, the part ``reader``, drawn."""
    first, *keys = jax.random.split(key, 4)
    own = {group: cross.draw(each, leaves) for each, (group, leaves) in zip(keys, shape.leaves.items())}
    return {"qformer": own, "reader": cross.draw(first, shape.reader)} if reads else {"qformer": own}


def axes(shape: Shape, *, reads: bool) -> Axes:
    """Logical axes of every parameter."""

    def names(leaves: cross.Leaves) -> dict[str, tuple[str, ...]]:
        return {name: own for name, (_, own) in leaves.items()}

    own: Axes = {"qformer": {group: names(leaves) for group, leaves in shape.leaves.items()}}
    return {**own, "reader": names(shape.reader)} if reads else own


def states(w: Weights, reader: Any, memory_BPW: Any, text_BTD: Any, see_BSS: jax.Array, shape: Shape) -> jax.Array:
    """The last states of [queries; text], (B, S, D).

    Args:
      w, reader: weights of the two parts.
      memory_BPW: normalised; None: there are no queries. text_BTD: normalised; None: there is no text.
      see_BSS: True where a position sees another; its B may be 1.
    """
    count, by_layer = 0 if memory_BPW is None else shape.queries, {"own": w["layers"]}
    if text_BTD is not None:
        by_layer["text"] = reader

    def layer(x_BSD: jax.Array, w: Weights) -> tuple[jax.Array, None]:
        x_BSD = constrain(x_BSD, "batch", "time", "embed")
        h_BSD = stack.rms_norm(x_BSD, w["own"]["query_norm"])
        x_BSD += cross.attention(h_BSD, h_BSD, w["own"], see_BSS)
        x_BQD, x_BTD = x_BSD[:, :count], x_BSD[:, count:]
        if memory_BPW is not None and "cross" in w:
            x_BQD += cross.attention(stack.rms_norm(x_BQD, w["cross"]["query_norm"]), memory_BPW, w["cross"])
        if count:
            x_BQD += cross.feedforward(x_BQD, w["own"], shape.activation)
        if "text" in w:
            x_BTD += cross.feedforward(x_BTD, w["text"], shape.activation)
        return jnp.concatenate([x_BQD, x_BTD], axis=1), None

    def group(x_BSD: jax.Array, w: tuple[Weights, Weights]) -> tuple[jax.Array, None]:
        """Layers of which the first attends to the memory."""
        first, rest = (jax.tree.map(lambda leaf, part=part: leaf[part], w[0]) for part in (0, slice(1, None)))
        more = len(rest["own"]["o"])
        x_BSD, _ = layers.kept(layer, shape.crossing)(x_BSD, {**first, "cross": w[1]})
        return layers.each(layers.kept(layer, more), x_BSD, rest, more) if more else (x_BSD, None)

    x_BSD, whole = _given(w, memory_BPW, text_BTD, shape), shape.layers // shape.every
    if whole:
        cut = whole, shape.every
        grouped = jax.tree.map(lambda leaf: leaf[: math.prod(cut)].reshape(*cut, *leaf.shape[1:]), by_layer)
        x_BSD, _ = layers.each(group, x_BSD, (grouped, jax.tree.map(lambda leaf: leaf[:whole], w["cross"])), whole)
    if whole < shape.crossing:
        last = jax.tree.map(lambda leaf: leaf[whole * shape.every :], by_layer)
        x_BSD, _ = group(x_BSD, (last, jax.tree.map(lambda leaf: leaf[whole], w["cross"])))
    return stack.rms_norm(x_BSD, w["ends"]["norm"])


def _given(w: Weights, memory_BPW: Any, text_BTD: Any, shape: Shape) -> jax.Array:
    if memory_BPW is None:
        return text_BTD
    query_QD = stack.rms_norm(w["ends"]["queries"])
    query_BQD = jnp.broadcast_to(query_QD, (len(memory_BPW), *query_QD.shape))
    return query_BQD if text_BTD is None else jnp.concatenate([query_BQD, text_BTD], axis=1)


def among(keep_BS: jax.Array) -> jax.Array:
    """The mask by which every position sees all that are kept, (B, S, S)."""
    return jnp.broadcast_to(keep_BS[:, None], (*keep_BS.shape, keep_BS.shape[1]))


def behind(queries: int, text: int) -> jax.Array:
    """The mask of a causal text behind queries that do not see it, (1, S, S)."""
    place_S = jnp.arange(queries + text)
    return ((place_S <= place_S[:, None]) | (place_S < queries))[None]


def components(shape: Shape, passes: Sequence[tuple[int, int]], memory: int) -> list[Component]:
    """The counted components of the parts ``qformer`` and, if any pass has text, ``reader``.

    Args:
      passes: positions an example of queries (none or all) and of text, of each pass. memory: those of the memory.
    """
    own, seeing, ends = (
        {name: math.prod(size) for name, (size, _) in leaves.items()} for leaves in shape.leaves.values()
    )
    mixing, asked, kept = (
        own["q"] + own["k"] + own["v"] + own["o"],
        seeing["q"] + seeing["o"],
        seeing["k"] + seeing["v"],
    )
    mlp, seen = own["up"] + own["down"], sum(1 for queries, _ in passes if queries)
    queries, text = (sum(each[kind] for each in passes) for kind in (0, 1))
    pairs = sum(sum(each) ** 2 for each in passes)
    vectors = sum(own.values()) - mixing - mlp + sum(seeing.values()) - asked - kept + sum(ends.values())
    part, wide = "qformer", 4 * shape.width
    mixed, found = shape.layers * pairs, shape.crossing * queries * memory  # scores of each head
    parts = [
        Component(
            f"{part}_attention",
            part,
            mixing,
            mixing,
            queries + text,
            attention=wide * mixed,
            scores=shape.heads * mixed,
        ),
        Component(f"{part}_query", part, asked, asked, queries, attention=wide * found, scores=shape.heads * found),
        Component(f"{part}_memory", part, kept, kept, seen * memory),
        Component(f"{part}_mlp", part, mlp, mlp, queries),
        Component(f"{part}_vectors", part, vectors),
    ]
    reader = [Component("reader_mlp", "reader", mlp, mlp, text), Component("reader_norm", "reader", own["mlp_norm"])]
    return [*parts, *reader] if text else parts
