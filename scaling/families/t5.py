"""T5: an encoder-decoder that reads a text with missing spans and writes them (arXiv 1910.10683).

Span corruption: a share ``rate`` of each example, in spans of mean length ``span``, is replaced by sentinels; the
decoder writes each sentinel and its tokens. Encoder and decoder are stacks as in gpt, with ``layers`` blocks
each; every block of the decoder attends to the encoder. Both lengths are fixed by the shape, so D (tokens of text)
determines them: for 64 tokens at the default rate, the encoder has 57 positions and the decoder 14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import head, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting


@dataclass(frozen=True)
class Config(stack.Shape):
    """Shape and noise, in addition to the fields of ``stack.Shape``.

    Attributes:
      layers: number of blocks of the encoder, and of the decoder.
      rate: share of an example's tokens that is removed.
      span: mean length of a removed span.
    """

    vocab: int = setting(256, least=1)
    context: int = setting(64, least=2)
    tied: bool = True
    rate: float = setting(0.15, above=0, below=1)
    span: float = setting(3.0, least=1)

    @property
    def noise(self) -> tuple[int, int]:
        """(removed tokens, spans) per example."""
        return objectives.span_shape(self.context, self.rate, self.span)

    @property
    def outputs(self) -> int:
        """Number of symbols that the decoder may write: tokens, a sentinel for each span, and a final sentinel."""
        return self.vocab + self.noise[1] + 1

    @property
    def lengths(self) -> tuple[int, int]:
        """Positions of the encoder and of the decoder."""
        noise, spans = self.noise
        return self.context - noise + spans, noise + spans + 1


ladder = gpt.ladder


def revision(config: Config) -> int:
    """2: what is random is keyed by example."""
    del config
    return 2


class Model(nn.Module):
    """Maps (input_BS, given_BU, keep_BS or None) to logits_BUO, or to nats_BU of target_BU.

    ``given_BU`` is the target shifted by one: what precedes each position of the decoder.
    """

    config: Config

    @nn.compact
    def __call__(self, input_BS: jax.Array, given_BU: jax.Array, keep_BS=None, target_BU=None) -> jax.Array:
        c = self.config
        small, ones = nn.initializers.normal(c.width**-0.5 / 16), nn.initializers.ones  # as in gpt
        # One table for tokens, sentinels and (last) the decoder's first input.
        table_OD = self.param("embedding", small, (c.outputs + 1, c.width))
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        encoder = stack.Stack(*shape, mask="bidirectional", name="encoder")
        memory_BSD = encoder(stack.rms_norm(head.look_up(table_OD, input_BS)), keep_BT=keep_BS)
        memory_BSD = stack.rms_norm(memory_BSD, self.param("encoder_norm", ones, (c.width,)))
        decoder = stack.Stack(*shape, cross=True, name="decoder")
        x_BUD = decoder(stack.rms_norm(head.look_up(table_OD, given_BU)), memory_BSD, keep_BS=keep_BS)
        x_BUD = stack.rms_norm(x_BUD, self.param("norm", ones, (c.width,)))
        weight = table_OD[: c.outputs] if c.tied else self.param("head", nn.initializers.zeros, (c.width, c.outputs))
        return head.vocabulary(x_BUD, weight, target_BU, tied=c.tied)


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    source, target = (jnp.zeros((1, length), jnp.int32) for length in config.lengths)
    return dict(Model(config).init(key, source, target)["params"])


def logits(parameters: Parameters, input_BS, given_BU, config: Config) -> jax.Array:
    """Logits over tokens and sentinels, (B, U, outputs)."""
    return _apply(parameters, config, input_BS, given_BU)


def _apply(parameters: Parameters, config: Config, *arguments: jax.Array | None) -> Any:
    return Model(config).apply({"params": parameters}, *arguments)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"span": (nats_BU, count_BU)} of the decoder's targets, including sentinels."""
    tokens_BT = batch["tokens"][:, 1:]
    weight_BT = batch.get("mask", jnp.ones(tokens_BT.shape, jnp.float32))
    noise_BT = objectives.span_noise(objectives.keys(key, batch), config.context, config.rate, config.span)
    input_BS, kept_BS, target_BU, weight_BU = objectives.span_corruption(
        tokens_BT, noise_BT, weight_BT, config.noise, config.vocab
    )
    keep_BS = None
    if "mask" in batch:
        keep_BS = jnp.take_along_axis(objectives.before_padding(weight_BT), kept_BS, axis=1)
    given_BU = jnp.pad(target_BU[:, :-1], ((0, 0), (1, 0)), constant_values=config.outputs)
    nats_BU = _apply(parameters, config, input_BS, given_BU, keep_BS, target_BU)
    return {"span": objectives.clm(nats_BU, weight_BU)}


def terms(config: Config) -> dict[str, Term]:
    """The term of ``loss``."""
    share = config.lengths[1] / config.context
    return {"span": Term(Unit(per="target token"), start=math.log(config.outputs), share=share)}


def counted(config: Config) -> str:
    """What D counts."""
    source, target = config.lengths
    return f"tokens of text; of {config.context}, the encoder sees {source} and the decoder {target}"


def batch_spec(config: Config) -> dict[str, int]:
    """Tokens of text per example, and size of the vocabulary."""
    return {"context": config.context, "vocab": config.vocab}


def components(config: Config) -> list[Component]:
    """Encoder, decoder and head, each on its positions; keys and values of cross attention on the encoder's."""
    c = config
    source, target = c.lengths
    shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width)
    table = c.outputs * c.width
    return [
        Component("embedding", "embedding", table + c.width),
        *stack.stack_components(*shape, source, "encoder_"),
        Component("encoder_final_norm", "encoder_norm", c.width),
        *stack.stack_components(*shape, target, "decoder_", memory=source),
        Component("decoder_final_norm", "decoder_norm", c.width, part="norm"),
        Component("head", "head", 0 if c.tied else table, table, target),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    norms: Axes = {"norm": ("embed",), "encoder_norm": ("embed",)}
    blocks: Axes = {"encoder": stack.axes(), "decoder": stack.axes(cross=True)}
    tree: Axes = {"embedding": ("vocab", "embed"), **norms, **blocks}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
