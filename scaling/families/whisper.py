"""Whisper: an encoder-decoder that reads a log-mel spectrogram and writes what was said (arXiv 2212.04356).

Two convolutions of three frames, the second at every other one, bring ``frames`` of ``mel`` bands to frames / 2
positions of the encoder, with fixed sinusoids. The decoder has learned positions, and each of its blocks attends to the
encoder. Its text begins with a prompt (start, language, task) that says what to write and is not predicted: the mask of
the source counts the text and its end. The features are the source's, with its clip's own maximum
(``scaling.data._mel``): no example depends on the others of its batch.

From openai/whisper's ``model.py`` it differs as all families here do: RMSNorm, QK-norm, no biases (there, all but the
keys' have one), output projections that start at zero, squared ReLU in the blocks (the stem has GELU), and norms after
the stem and the look-ups. An untied head starts at zero and the loss at ln V. The tied head, as in the reference, sees
the token that it has just been given, row w, as the most probable: with rows of length 1/16 and c the share of the
token in the state, which the position has too, the loss starts near

    ln((V - 1) exp(1/512) + exp(c sqrt(width) / 16))

less c sqrt(width) / 16 for targets that repeat what precedes them. Convolutions are counted as weights x frames:
3 mel d + 3 d^2 / 2 a mel frame, since the second runs at half the rate; they are computed as products of three frames
each with the weights, which the count equals. D counts mel frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import convolution, head, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

TAPS = 3  # frames that a convolution reads
LONGEST_PERIOD = 10000.0  # of the sinusoids, over 2 pi


@dataclass(frozen=True)
class Config(stack.Shape):
    """Shape, in addition to the fields of ``stack.Shape``.

    Attributes:
      layers: number of blocks of the encoder, and of the decoder.
      mel: bands of a spectrogram. frames: of a clip, an even number.
      text: positions of the decoder: a prompt, the text and its end, less one.
    """

    vocab: int = setting(256, least=1)
    mel: int = setting(80, least=1)
    frames: int = setting(64, least=2)
    text: int = setting(16, least=1)
    tied: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.frames % 2:
            remedy = "must be even: the second convolution reads every other frame"
            raise UserError("model.frames", self.frames, remedy, Code.CONFLICT)

    @property
    def places(self) -> int:
        """Positions of the encoder."""
        return self.frames // 2


ladder = gpt.ladder


def sinusoids(places: int, width: int) -> jax.Array:
    """Fixed positions, (places, width) float32: sines, then cosines, of periods 2 pi to 2 pi ``LONGEST_PERIOD``."""
    steps = width // 2
    frequency = LONGEST_PERIOD ** (-jnp.arange(steps, dtype=jnp.float32) / max(1, steps - 1))
    angle_PK = jnp.arange(places, dtype=jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle_PK), jnp.cos(angle_PK)], axis=1)


class Stem(nn.Module):
    """Maps a spectrogram x_BTM to x_BPD of unit RMS, P = T / 2, with positions."""

    width: int

    @nn.compact
    def __call__(self, x_BTM: jax.Array) -> jax.Array:
        for name, stride in (("first", 1), ("second", 2)):
            fan_in = TAPS * x_BTM.shape[-1]
            weight_XD = self.param(name, nn.initializers.normal(fan_in**-0.5), (fan_in, self.width))
            x_BTM = jax.nn.gelu(convolution.convolve(x_BTM, weight_XD, stride), approximate=False)
        x_BPD = stack.rms_norm(x_BTM)
        return stack.rms_norm(x_BPD + sinusoids(*x_BPD.shape[1:]).astype(x_BPD.dtype))


class Model(nn.Module):
    """Maps (mel_BTM, given_BU) to logits_BUV, or to nats_BU of target_BU. ``given_BU`` precedes each target."""

    config: Config

    @nn.compact
    def __call__(self, mel_BTM: jax.Array, given_BU: jax.Array, target_BU: jax.Array | None = None) -> jax.Array:
        c = self.config
        small, ones = nn.initializers.normal(c.width**-0.5 / 16), nn.initializers.ones  # as in gpt
        table_VD = self.param("embedding", small, (c.vocab, c.width))
        place_UD = self.param("position", nn.initializers.normal(1.0), (c.text, c.width))
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        x_BPD = Stem(c.width, name="stem")(mel_BTM)
        memory_BPD = stack.Stack(*shape, mask="bidirectional", rotary=False, name="encoder")(x_BPD)
        memory_BPD = stack.rms_norm(memory_BPD, self.param("encoder_norm", ones, (c.width,)))
        x_BUD = stack.rms_norm(stack.rms_norm(head.look_up(table_VD, given_BU)) + place_UD)
        x_BUD = stack.Stack(*shape, rotary=False, cross=True, name="decoder")(x_BUD, memory_BPD)
        x_BUD = stack.rms_norm(x_BUD, self.param("norm", ones, (c.width,)))
        weight = table_VD if c.tied else self.param("head", nn.initializers.zeros, (c.width, c.vocab))
        return head.vocabulary(x_BUD, weight, target_BU, tied=c.tied)


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    empty = jnp.zeros((1, config.frames, config.mel)), jnp.zeros((1, config.text), jnp.int32)
    return dict(Model(config).init(key, *empty)["params"])


def logits(parameters: Parameters, mel_BTM: jax.Array, given_BU: jax.Array, config: Config) -> jax.Array:
    """Logits of what follows each token of a prompt and text, (B, U, V)."""
    return _apply(parameters, config, mel_BTM, given_BU)


def _apply(parameters: Parameters, config: Config, *arguments: jax.Array) -> Any:
    return Model(config).apply({"params": parameters}, *arguments)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"text": (nats_BU, count_BU)} of the tokens that the source's mask counts."""
    del key  # nothing here is random
    tokens = batch["tokens"]
    nats_BU = _apply(parameters, config, batch["mel"], tokens[:, :-1], tokens[:, 1:])
    return {"text": objectives.clm(nats_BU, batch.get("mask"))}


def terms(config: Config) -> dict[str, Term]:
    """The term of ``loss``."""
    return {"text": Term(Unit(given="the sound"), likelihood=True, causal=True, start=math.log(config.vocab))}


def counted(config: Config) -> str:
    """What D counts."""
    return f"mel frames; of {config.frames}, the encoder sees {config.places} and the decoder {config.text} of text"


def batch_spec(config: Config) -> dict[str, int]:
    """Mel frames of an example and their bands, positions of text, and size of the vocabulary."""
    c = config
    return {"context": c.frames, "text": c.text, "vocab": c.vocab, "mel": c.mel, "frames": c.frames}


def components(config: Config) -> list[Component]:
    """Convolutions on the frames that they give, encoder on half of the frames, decoder and head on the text."""
    c = config
    shape, table = (c.layers, c.width, c.heads, c.mlp_ratio * c.width), c.vocab * c.width
    first, second = TAPS * c.mel * c.width, TAPS * c.width**2
    return [
        Component("stem_first", "convolution", first, first, c.frames, first=True, part="stem"),
        Component("stem_second", "convolution", second, second, c.places, part="stem"),
        *stack.stack_components(*shape, c.places, "encoder_"),
        Component("encoder_final_norm", "encoder_norm", c.width),
        Component("embedding", "embedding", table),
        Component("position", "position", c.text * c.width),
        *stack.stack_components(*shape, c.text, "decoder_", memory=c.places),
        Component("decoder_final_norm", "decoder_norm", c.width, part="norm"),
        Component("head", "head", 0 if c.tied else table, table, c.text),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. The bands do not grow with the width; three rows of ``second`` do, for each."""
    stem: Axes = {"first": ("pixels", "embed"), "second": ("mlp", "embed")}
    tables: Axes = {"embedding": ("vocab", "embed"), "position": ("vocab", "embed")}
    norms: Axes = {"norm": ("embed",), "encoder_norm": ("embed",)}
    blocks: Axes = {"encoder": stack.axes(), "decoder": stack.axes(cross=True)}
    tree: Axes = {"stem": stem, **tables, **norms, **blocks}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
