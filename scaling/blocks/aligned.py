"""Encoders of pictures and of texts whose vectors are compared, and fusion blocks that read a text with its picture.

A ViT sees the picture, a bidirectional stack reads the text behind a class token, and fusion blocks read the states of
that text again, with cross-attention to those of the patches; text and fusion have half of the ViT's layers each. The
picture's vector is of its mean patch, the text's of its class token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.blocks import head, patches, stack
from scaling.blocks.logical import Axes
from scaling.count import Component
from scaling.settings import setting


@dataclass(frozen=True)
class Shape(patches.ImageShape):
    """Shape of the ViT, in addition to the fields of ``patches.ImageShape``; and:

    Attributes:
      text: positions of a text.
      project: length of the vectors that are compared.
    """

    vocab: int = setting(19, least=1)
    text: int = setting(6, least=1)
    project: int = setting(16, least=1)

    @property
    def half(self) -> int:
        """Layers of the text stack and of the fusion blocks, each."""
        return (self.layers + 1) // 2


class Encoders(nn.Module):
    """Encoders, fusion blocks and head. Token ``vocab`` is a blank; S = T + 1 positions, the class token first."""

    shape: Shape

    def setup(self):
        c, ones, fan_in = self.shape, nn.initializers.ones, nn.initializers.normal(self.shape.width**-0.5)
        blocks = (c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        self.patches = patches.Embed(c.patches, c.width)
        self.vision = stack.Stack(c.layers, *blocks, mask="bidirectional", rotary=False)
        small = nn.initializers.normal(c.width**-0.5 / 16)  # as in gpt
        self.embedding = self.param("embedding", small, (c.vocab + 2, c.width))
        # Both are read at the class token, which would otherwise not depend on the words at the start.
        self.text = stack.Stack(c.half, *blocks, mask="bidirectional", mixing=True)
        self.fusion = stack.Stack(c.half, *blocks, mask="bidirectional", mixing=True, cross=True)
        norms = ("vision_norm", "text_norm", "norm")
        self.vision_norm, self.text_norm, self.norm = (self.param(name, ones, (c.width,)) for name in norms)
        self.image_head = self.param("image_head", nn.initializers.zeros, (c.width, c.project))
        self.text_head = self.param("text_head", fan_in, (c.width, c.project))
        self.head = self.param("head", nn.initializers.zeros, (c.width, c.vocab))

    def see(self, patches_BPX: jax.Array) -> jax.Array:
        """The states of a picture's patches, (B, P, D)."""
        return stack.rms_norm(self.vision(self.patches(patches_BPX)), self.vision_norm)

    def read(self, words_BT: jax.Array, keep_BS: jax.Array) -> jax.Array:
        """The states of the class token and the words, (B, S, D)."""
        ids_BS = jnp.pad(words_BT, ((0, 0), (1, 0)), constant_values=self.shape.vocab + 1)
        return self.text(stack.rms_norm(head.look_up(self.embedding, ids_BS)), keep_BT=keep_BS)

    def vectors(self, memory_BPD: jax.Array, x_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The unit vectors of pictures and of texts, (B, E) each, in float32: a temperature amplifies rounding."""
        pooled = memory_BPD.astype(jnp.float32).mean(axis=1), stack.rms_norm(x_BSD[:, 0], self.text_norm)
        return _unit(pooled[0], self.image_head), _unit(pooled[1], self.text_head)

    def fuse(self, x_BSD: jax.Array, keep_BS: jax.Array, memory_BPD: jax.Array) -> jax.Array:
        """The states of texts that are read with pictures, (B, S, D)."""
        return stack.rms_norm(self.fusion(x_BSD, memory_BPD, keep_BT=keep_BS), self.norm)

    def words(self, x_BSD: jax.Array) -> jax.Array:
        """Logits of the words, (B, T, V)."""
        return head.vocabulary(x_BSD[:, 1:], self.head, tied=False)

    def __call__(self, patches_BPX: jax.Array, words_BT: jax.Array) -> jax.Array:
        """Logits of the words of texts without padding."""
        keep_BS = jnp.ones((len(words_BT), words_BT.shape[1] + 1), bool)
        return self.words(self.fuse(self.read(words_BT, keep_BS), keep_BS, self.see(patches_BPX)))


def _unit(pooled_BD: jax.Array, head_DE: jax.Array) -> jax.Array:
    vector_BE = jnp.einsum("bd,de->be", pooled_BD.astype(jnp.float32), head_DE.astype(jnp.float32))
    return stack.rms_norm(vector_BE) * head_DE.shape[1] ** -0.5


def init(key: jax.Array, shape: Shape) -> Mapping[str, Any]:
    """Parameters of ``Encoders``: heads of pictures and words are zero, so that every score of a pair and logit is."""
    empty = jnp.zeros((1, shape.patches, shape.pixels)), jnp.zeros((1, shape.text), jnp.int32)
    return Encoders(shape).init(key, *empty)["params"]


def apply(method: str, parameters: Any, shape: Shape, *arguments: jax.Array) -> Any:
    """What a method of ``Encoders`` gives."""
    return Encoders(shape).apply({"params": parameters}, *arguments, method=method)


class Encoded(NamedTuple):
    """States of each example's patches and of its N texts, and unit vectors of the picture and of the first text."""

    memory_BPD: jax.Array
    states_BNSD: jax.Array
    image_BE: jax.Array
    text_BE: jax.Array


def encode(parameters: Any, image_BHWC: jax.Array, words_BNT: jax.Array, keep_BS: jax.Array, shape: Shape) -> Encoded:
    """What the encoders make of pictures of bytes and of N texts of each, all with the same padding (not in keep)."""
    size, count, time = words_BNT.shape
    memory_BPD = apply("see", parameters, shape, patches.patchify(image_BHWC, shape.patch))
    flat = words_BNT.reshape(-1, time), jnp.repeat(keep_BS, count, axis=0)
    read = apply("read", parameters, shape, *flat)
    states_BNSD = read.reshape(size, count, *read.shape[1:])
    return Encoded(memory_BPD, states_BNSD, *apply("vectors", parameters, shape, memory_BPD, states_BNSD[:, 0]))


def components(shape: Shape, texts: int, fused: int) -> list[Component]:
    """The counted components: pictures, ``texts`` texts of each, and ``fused`` passes of the fusion blocks."""
    c, blocks = shape, (shape.width, shape.heads, shape.mlp_ratio * shape.width)
    narrow, table = c.width * c.project, c.width * c.vocab
    text = stack.stack_components(c.half, *blocks, 1 + c.text, "text_")
    fusion = stack.stack_components(c.half, *blocks, 1 + c.text, "fusion_", memory=c.patches)
    return [
        *patches.components(c.pixels, c.patches, c.width, c.patches),
        *stack.stack_components(c.layers, *blocks, c.patches, "vision_"),
        Component("embedding", "embedding", (c.vocab + 2) * c.width),
        *(each.times(texts) for each in text),
        *(each.times(fused) for each in fusion),
        Component("final_norms", "norm", 3 * c.width),
        *(Component(f"{name}_head", "projection", narrow, narrow, 1) for name in ("image", "text")),
        Component("head", "head", table, table, c.text),
    ]


def axes() -> Axes:
    """Logical axes of ``Encoders``."""
    blocks: Axes = {"vision": stack.axes(), "text": stack.axes(), "fusion": stack.axes(cross=True)}
    norms: Axes = dict.fromkeys(("vision_norm", "text_norm", "norm"), ("embed",))
    heads: Axes = dict.fromkeys(("image_head", "text_head", "head"), ("embed", "vocab"))
    return {"patches": patches.axes(), **blocks, **norms, **heads, "embedding": ("vocab", "embed")}
