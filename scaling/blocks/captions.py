"""A text encoder that is not trained, and whose vectors of a caption condition another model: what such a model needs.

It is three parts, ``text_embedding``, ``text_encoder`` and ``text_norm``, which a run of t5 has as ``embedding``,
``encoder`` and ``encoder_norm``. It computes in the dtype of these; nothing of it is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.blocks import head, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import TOKENIZER, Component
from scaling.records.types import MOST_BITS
from scaling.settings import setting

PARTS = {"text_embedding": "embedding", "text_encoder": "encoder", "text_norm": "encoder_norm"}  # of t5, by part here
REPEATED = ("vocab", "width", "layers", "heads", "mlp_ratio", "activation", "weight_bits")  # here with "text_" before
FIELDS = tuple((f"text_{name}", name) for name in REPEATED)


@dataclass(frozen=True)
class Shape:
    """Fields of a family that is conditioned on captions, for its ``Config`` to inherit.

    Attributes:
      text: positions of a caption with its end token.
      sentinels: rows of the encoder's table behind those of words: two more than the spans that its run hid of a text.
      text_vocab, text_width, text_layers, text_heads, text_mlp_ratio, text_activation, text_weight_bits: those that the
        run which gives the encoder has without ``text_``: by default those of t5's size 1.
    """

    text: int = setting(6, least=1, later=True)
    sentinels: int = setting(3, least=3, later=True)
    text_vocab: int = setting(19, least=1, later=True)
    text_width: int = setting(24, least=1, later=True)
    text_layers: int = setting(2, least=1, later=True)
    text_heads: int = setting(3, least=1, later=True)
    text_mlp_ratio: int = setting(4, least=1, later=True)
    text_activation: str = setting("relu2", choices=stack.ACTIVATIONS, later=True)
    text_weight_bits: int = setting(0, least=0, most=MOST_BITS, later=True)


def _stack(c: Shape) -> stack.Stack:
    shape = c.text_layers, c.text_width, c.text_heads, c.text_mlp_ratio * c.text_width, c.text_activation
    return stack.Stack(*shape, mask="bidirectional")


def init(key: jax.Array, c: Shape) -> Parameters:
    """The parts, drawn as t5 draws them; to be replaced by those of a run."""
    first, second = jax.random.split(key)
    rows, empty = (c.text_vocab + c.sentinels, c.text_width), jnp.zeros((1, c.text, c.text_width))
    return {
        "text_embedding": jax.random.normal(first, rows) * c.text_width**-0.5 / 16,
        "text_encoder": _stack(c).init(second, empty)["params"],
        "text_norm": jnp.ones(c.text_width),
    }


def emptied(tokens_BS: jax.Array, dropped_B: jax.Array) -> jax.Array:
    """Captions, of which the dropped ones are empty: nothing but end tokens, the highest of each caption."""
    return jnp.where(dropped_B[:, None], tokens_BS.max(axis=1, keepdims=True), tokens_BS)


def encoded(parameters: Any, tokens_BS: jax.Array, c: Shape) -> tuple[jax.Array, jax.Array]:
    """Vectors of the words of captions and of their ends, (B, S, W), and which these are, bool (B, S)."""
    # Gradients are stopped at the weights, so that no product of the encoder is differentiated.
    own: Any = {part: jax.lax.stop_gradient(parameters[part]) for part in PARTS}
    keep_BS = jnp.arange(tokens_BS.shape[1]) <= tokens_BS.argmax(axis=1)[:, None]
    x_BSW: Any = stack.rms_norm(head.look_up(own["text_embedding"], tokens_BS))
    x_BSW = _stack(c).apply({"params": own["text_encoder"]}, x_BSW, keep_BT=keep_BS)
    return stack.rms_norm(x_BSW, own["text_norm"]), keep_BS


class Read(nn.Module):
    """Maps vectors of captions, (B, S, W), those that are kept, to vectors of unit RMS, (B, S, D), and to one of each
    caption, (B, D), linear in the direction of their mean; in the dtype of its parameters."""

    width: int

    @nn.compact
    def __call__(self, text_BSW: jax.Array, keep_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide, normal = text_BSW.shape[-1], nn.initializers.normal
        words_WD = self.param("words", normal(wide**-0.5), (wide, self.width))
        whole_DD = self.param("whole", normal(self.width**-0.5), (self.width, self.width))
        x_BSD = stack.rms_norm(jnp.einsum("bsw,wd->bsd", text_BSW.astype(words_WD.dtype), words_WD))
        # The sum is the mean but for a factor, which the norm takes away.
        sum_BD = jnp.where(keep_BS[..., None], x_BSD, 0).sum(axis=1, dtype=jnp.float32)
        return x_BSD, jnp.einsum("bd,de->be", stack.rms_norm(sum_BD).astype(x_BSD.dtype), whole_DD)


def components(c: Shape, width: int) -> list[Component]:
    """The counted components: the encoder, forward only, and ``Read``."""
    rows, wide = c.text_vocab + c.sentinels, c.text_width
    words, whole = wide * width, width**2
    parts = [
        Component("text_embedding", "embedding", rows * wide),
        *stack.stack_components(c.text_layers, wide, c.text_heads, c.text_mlp_ratio * wide, c.text, "text_encoder_"),
        Component("text_norm", "norm", wide),
    ]
    return [
        *(replace(part, group=TOKENIZER, k=2) for part in parts),
        Component("read_words", "projection", words, words, c.text, first=True, part="read"),
        Component("read_whole", "projection", whole, whole, 1, part="read"),
    ]


def axes() -> Axes:
    """Logical axes of every parameter."""
    read: Axes = {"words": ("embed", "mlp"), "whole": ("embed", "mlp")}
    return {"text_embedding": ("vocab", "embed"), "text_encoder": stack.axes(), "text_norm": ("embed",), "read": read}
