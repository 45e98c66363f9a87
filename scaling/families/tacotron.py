"""Tacotron 2: a recurrent decoder that writes a log-mel spectrogram from text, frame by frame (arXiv 1712.05884).

Three convolutions and a bidirectional LSTM read the text. For each frame an LSTM, given the frame before through a
prenet and what it last read, asks by location-sensitive attention where to read. A second LSTM and a linear layer
write the frame and whether it is the last; five convolutions, the post-net, correct all frames. The frame before is the
true one, in evaluation too (teacher forcing), and zeros before the first.

The prenet drops half of its units, in evaluation too as in the reference, by a key of the example: a model reaches 0
only by what it does not read through the prenet. ``before`` is the error of frames told from those that precede them.
``after`` is not: the post-net reads ``REACH`` frames on both sides, and those that follow were written with the true
frame at hand.

Widths are the reference's as shares of its 512. From NVIDIA/tacotron2's ``model.py`` it differs in RMSNorm for batch
norm (a family has no running statistics) and none behind the last convolution, no other dropout, no biases but 1 on
the forget gates, and zeros beyond the end of a text. Frames are not padded: clips of a source have one length, so that
the stop is told by counting. D counts mel frames.

The layers of the frame and the stop and the last convolution start at zero: both errors at the mean square of the
frames, which no Config knows (``Term.start`` None), and the stop's nats at ln 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import convolution, dense, head, recurrent, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.blocks.recurrent import GATES
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import check, setting

TAPS = 5  # positions that a convolution of the encoder or the post-net reads
ENCODER, POSTNET = 3, 5  # convolutions
REACH = POSTNET * (TAPS // 2)  # frames on either side that the post-net sees
DROP = 0.5  # share of the prenet's units


@dataclass(frozen=True)
class Config:
    """Shape. Both decoder LSTMs have 2 ``width`` cells, each direction of the encoder's and the prenet half of it.

    Attributes:
      width: of the text's states; a multiple of 4.
      mel: bands of a spectrogram. frames: of a clip.
      text: positions of a caption, less one.
      filters: of the convolution over attention weights. reach: positions that it reads, an odd number.
      dtype: of the computation; parameters and their updates stay float32.
    """

    width: int = setting(64, least=4)
    vocab: int = setting(256, least=1)
    mel: int = setting(80, least=1)
    frames: int = setting(64, least=1)
    text: int = setting(16, least=1)
    filters: int = setting(32, least=1)
    reach: int = setting(31, least=1)
    dtype: str = setting("float32", choices=stack.DTYPES)

    def __post_init__(self):
        check(self, "model")
        if self.width % 4:
            raise UserError("model.width", self.width, "must be a multiple of 4: attention has that", Code.CONFLICT)
        if self.reach % 2 == 0:
            raise UserError("model.reach", self.reach, "must be odd: as many before as behind", Code.CONFLICT)

    @property
    def half(self) -> int:
        """Units of a layer of the prenet, and of a direction of the encoder."""
        return self.width // 2

    @property
    def cells(self) -> int:
        """Of each LSTM of the decoder."""
        return 2 * self.width

    @property
    def scores(self) -> int:
        """Length of the vectors that give a position's energy."""
        return self.width // 4


def ladder(size: int) -> dict[str, int]:
    """The widths of gpt's ladder."""
    return {"width": gpt.ladder(size)["width"]}


class Encoder(nn.Module):
    """Maps tokens_BS to states (B, S, D), which are zero where not kept."""

    config: Config

    @nn.compact
    def __call__(self, tokens_BS: jax.Array, keep_BS: jax.Array) -> jax.Array:
        c, normal, fan_in = self.config, nn.initializers.normal, TAPS * self.config.width
        table_VD = self.param("embedding", normal(c.width**-0.5 / 16), (c.vocab, c.width))
        filters_LXD = self.param("filters", normal(fan_in**-0.5), (ENCODER, fan_in, c.width))
        norm_LD = self.param("norm", nn.initializers.ones, (ENCODER, c.width))
        cells = {"input": (2, c.width, GATES, c.half), "recurrent": (2, c.half, GATES, c.half)}
        both = zip(*(self.param(name, normal(shape[1] ** -0.5), shape) for name, shape in cells.items()))
        x_BSD = stack.rms_norm(head.look_up(table_VD, tokens_BS))
        for filter_XD, norm_D in zip(filters_LXD, norm_LD):
            x_BSD = convolution.convolve(jnp.where(keep_BS[..., None], x_BSD, 0), filter_XD)
            x_BSD = jax.nn.relu(stack.rms_norm(x_BSD, norm_D))
        ways = [recurrent.lstm(x_BSD, *each, keep_BT=keep_BS, back=way > 0) for way, each in enumerate(both)]
        return jnp.concatenate(ways, axis=2)


class Decoder(nn.Module):
    """Maps states_BSD of a text and the frames before, given_BTM, to frames (B, T, M), logits of the stop (B, T) and
    attention weights (B, T, S). Attention is asked by the first LSTM alone, so that the second runs over its outputs.
    """

    config: Config

    @nn.compact
    def __call__(
        self, states_BSD: jax.Array, keep_BS: jax.Array, given_BTM: jax.Array, kept_NBTP: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        c, normal, zeros = self.config, nn.initializers.normal, nn.initializers.zeros

        def block(name: str, fan_in: int, *shape: int) -> jax.Array:  # a layer, as what rounds or prunes blocks sees it
            return self.param(name, normal(fan_in**-0.5), (1, *shape))[0]

        prenet = (c.mel, c.half), (c.half, c.half)
        x_BTP = given_BTM
        for name, shape, kept_BTP in zip(("prenet_first", "prenet_second"), prenet, kept_NBTP):
            weight = self.param(name, normal(shape[0] ** -0.5), shape)
            hidden_BTP = jax.nn.relu(dense.product(x_BTP.astype(weight.dtype), weight))
            x_BTP = jnp.where(kept_BTP, hidden_BTP / (1 - DROP), 0)
        sizes, fan_in = {"input": c.half, "read": c.width, "recurrent": c.cells}, c.half + c.width + c.cells
        first = {name: block(f"attention_{name}", fan_in, size, GATES, c.cells) for name, size in sizes.items()}
        both = (block(name, size, size, c.scores) for name, size in (("query", c.cells), ("memory", c.width)))
        named = zip(("filter", "location", "energy"), ((2 * c.reach, c.filters), (c.filters, c.scores), (c.scores,)))
        others = (self.param(name, normal(shape[0] ** -0.5), shape) for name, shape in named)
        attention = recurrent.Attention(*both, *others)
        own_BTE, read_BTD, weight_BTS = recurrent.attending_lstm(x_BTP, first, attention, states_BSD, keep_BS)
        sizes, fan_in = (("input", c.cells + c.width), ("recurrent", c.cells)), 2 * c.cells + c.width
        second = (block(name, fan_in, size, GATES, c.cells) for name, size in sizes)
        out_BTE = recurrent.lstm(jnp.concatenate([own_BTE, read_BTD], axis=2), *second)
        both_BTX = jnp.concatenate([out_BTE, read_BTD], axis=2)
        frame_XM = self.param("frame", zeros, (c.cells + c.width, c.mel))
        stop_X1 = self.param("stop", zeros, (c.cells + c.width, 1))
        # In float32 whatever the weights are, since a frame is held against another to the last digit.
        frames_BTM = jnp.einsum("btx,xm->btm", both_BTX, frame_XM, preferred_element_type=jnp.float32)
        return frames_BTM, dense.product(both_BTX, stop_X1)[..., 0], weight_BTS


class PostNet(nn.Module):
    """Maps frames_BTM to what is added to them."""

    width: int

    @nn.compact
    def __call__(self, frames_BTM: jax.Array) -> jax.Array:
        bands, fan_in = frames_BTM.shape[2], TAPS * self.width
        normal, inner = nn.initializers.normal, POSTNET - 2
        first_XD = self.param("first", normal((TAPS * bands) ** -0.5), (TAPS * bands, self.width))
        inner_LXD = self.param("inner", normal(fan_in**-0.5), (inner, fan_in, self.width))
        norm_LD = self.param("norm", nn.initializers.ones, (1 + inner, self.width))
        x_BTD = frames_BTM
        for filter_XD, norm_D in zip((first_XD, *inner_LXD), norm_LD):
            x_BTD = jnp.tanh(stack.rms_norm(convolution.convolve(x_BTD, filter_XD), norm_D))
        return convolution.convolve(x_BTD, self.param("last", nn.initializers.zeros, (fan_in, bands)))


class Outputs(NamedTuple):
    """Frames before and after the post-net, logits of the stop, and weights of attention."""

    before_BTM: jax.Array
    after_BTM: jax.Array
    stop_BT: jax.Array
    weight_BTS: jax.Array


class Model(nn.Module):
    """Maps (tokens_BS, mel_BTM, kept_NBTP) to ``Outputs``; the text ends with its highest token."""

    config: Config

    @nn.compact
    def __call__(self, tokens_BS: jax.Array, mel_BTM: jax.Array, kept_NBTP: jax.Array) -> Outputs:
        keep_BS = jnp.arange(tokens_BS.shape[1]) <= tokens_BS.argmax(axis=1)[:, None]
        states_BSD = Encoder(self.config, name="encoder")(tokens_BS, keep_BS)
        given_BTM = jnp.pad(mel_BTM[:, :-1], ((0, 0), (1, 0), (0, 0)))
        decoder = Decoder(self.config, name="decoder")
        frames_BTM, stop_BT, weight_BTS = decoder(states_BSD, keep_BS, given_BTM, kept_NBTP)
        after_BTM = frames_BTM + PostNet(self.config.width, name="postnet")(frames_BTM)
        return Outputs(frames_BTM, after_BTM, stop_BT.astype(jnp.float32), weight_BTS)


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    text, mel = jnp.zeros((1, config.text + 1), jnp.int32), jnp.zeros((1, config.frames, config.mel))
    return dict(Model(config).init(key, text, mel, jnp.ones((2, 1, config.frames, config.half), bool))["params"])


def kept(keys_B: jax.Array, config: Config) -> jax.Array:
    """Which units of the prenet's two layers are not dropped, bool (2, B, T, P): other ones at each frame."""
    shape = (2, config.frames, config.half)
    return jnp.moveaxis(objectives.uniform(keys_B, math.prod(shape)).reshape(-1, *shape) >= DROP, 1, 0)


def outputs(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config) -> Outputs:
    """What the model makes of a batch's text and of the frame before each."""
    kept_NBTP = kept(objectives.keys(key, batch), config)
    found: Any = Model(config).apply({"params": parameters}, batch["tokens"], batch["mel"], kept_NBTP)
    return found


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"before", "after": squared errors of the frames, "stop": nats of whether a frame is the last}; counts frames."""
    found = outputs(parameters, batch, key, config)
    nats_BT = jax.nn.softplus(found.stop_BT).sum(axis=1) - found.stop_BT[:, -1]
    return {
        "before": objectives.squared_error(found.before_BTM, batch["mel"]),
        "after": objectives.squared_error(found.after_BTM, batch["mel"]),
        "stop": (nats_BT, jnp.full(len(nats_BT), config.frames, jnp.float32)),
    }


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    units = {
        "before": Unit(quantity="squared error", per="mel value", given="the text and the frames before"),
        "after": Unit(quantity="squared error", per="mel value", given="the text and the frames around"),
        "stop": Unit(per="frame", given="the text and the frames before"),
    }
    starts = {"stop": math.log(2)}
    return {name: Term(unit, count=config.frames, start=starts.get(name)) for name, unit in units.items()}


def counted(config: Config) -> str:
    """What D counts."""
    return f"mel frames, {config.frames} a clip, each written once"


def batch_spec(config: Config) -> dict[str, int]:
    """Mel frames of an example and their bands, positions of text, and size of the vocabulary."""
    return {name: getattr(config, name) for name in ("text", "vocab", "mel", "frames")} | {"context": config.frames}


def components(config: Config) -> list[Component]:
    """The encoder on the text, the decoder and the post-net on the frames, the location of attention on both."""
    c, places = config, config.text + 1
    table, filters = c.vocab * c.width, ENCODER * TAPS * c.width**2
    encoder, out = 2 * GATES * c.half * (c.width + c.half), c.cells + c.width
    attention = GATES * c.cells * (c.half + c.width + c.cells) + c.cells * c.scores
    location = 2 * c.reach * c.filters + c.filters * c.scores + c.scores
    decoder, inner = GATES * c.cells * (out + c.cells), (POSTNET - 2) * TAPS * c.width**2
    ends = TAPS * c.mel * c.width

    def part(name: str, group: str, weights: int, tokens: int, *, first: bool = False, attention: int = 0) -> Component:
        owner = name.partition("_")[0]
        return Component(name, group, weights, weights, tokens, first=first, attention=attention, part=owner)

    return [
        Component("embedding", "embedding", table, part="encoder"),
        part("encoder_filters", "convolution", filters, places),
        part("encoder_cells", "recurrent", encoder, places),
        part("decoder_prenet_first", "prenet", c.mel * c.half, c.frames, first=True),
        part("decoder_prenet_second", "prenet", c.half**2, c.frames),
        part("decoder_memory", "attention", c.width * c.scores, places),
        part("decoder_attention", "recurrent", attention, c.frames, attention=2 * c.frames * places * c.width),
        part("decoder_location", "attention", location, c.frames * places),
        part("decoder_cells", "recurrent", decoder, c.frames),
        part("decoder_frame", "head", out * c.mel, c.frames),
        part("decoder_stop", "head", out, c.frames),
        part("postnet_first", "convolution", ends, c.frames),
        part("postnet_inner", "convolution", inner, c.frames),
        part("postnet_last", "head", ends, c.frames),
        Component("encoder_norm", "norm", ENCODER * c.width, part="encoder"),
        Component("postnet_norm", "norm", (POSTNET - 1) * c.width, part="postnet"),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. Bands and what attention's filters read do not grow with the width."""
    del config
    cells = ("layers", "embed", "head", "mlp")
    filters, norm = ("layers", "embed", "mlp"), ("layers", "embed")
    encoder: Axes = {"embedding": ("vocab", "embed"), "filters": filters, "norm": norm}
    encoder = {**encoder, **dict.fromkeys(("input", "recurrent"), cells)}
    prenet: Axes = {"prenet_first": ("pixels", "mlp"), "prenet_second": ("embed", "mlp")}
    energy: Axes = {"query": filters, "memory": filters, "energy": ("mlp",)}
    place: Axes = {"filter": ("pixels", "head"), "location": ("pixels", "mlp")}
    names = "attention_input", "attention_read", "attention_recurrent", "input", "recurrent"
    ends: Axes = {"frame": ("embed", "pixels"), "stop": ("embed", "pixels")}
    postnet: Axes = {"first": ("pixels", "embed"), "inner": filters, "norm": norm, "last": ("embed", "pixels")}
    decoder: Axes = {**prenet, **energy, **place, **dict.fromkeys(names, cells), **ends}
    return {"encoder": encoder, "decoder": decoder, "postnet": postnet}
