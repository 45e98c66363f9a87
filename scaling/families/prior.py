"""DALL-E 2's diffusion prior (arXiv 2204.06125): from a caption to the vector that CLIP has of its picture.

A run of ``clip`` gives both towers, ``image`` and ``text``, which nothing trains here: 2 FLOPs per weight and position,
at every step, in N_total and in C but no part of N, since they make the data. They compute in float32 whatever the
``dtype``. The target x_0 is the picture's unit vector times the root of its length, so that its mean square is 1
(``image_embed_scale`` of the public DALLE2-pytorch). A causal stack reads

    the states of the caption's tokens, CLIP's vector of it (scaled alike), the time, x_t = a_t x_0 + s_t eps, a query

and predicts x_0, not the noise, from the state of the query, a learned vector. The loss is the squared error, not a
likelihood; it starts at 1, the mean square of x_0. Times are those of the cosine schedule (arXiv 2102.09672), one for
each example; times, noise and whose caption is hidden (``drop``, as guidance needs it) are fixed in evaluation, as in
``dit``. States and vector of a hidden caption are learned vectors, one for each place, and so are states of padding.

In evaluation, ``with_text`` and ``without_text`` are the errors of all examples with their captions and without, at the
times and the noise of the loss: their difference is what the caption is worth.

Vectors of another CLIP are other data, so the unit names the run that gave it.

What differs from the public code: RMSNorm, QK-norm, rotary positions without a bias beside them, the house's
activation, no biases; vectors of CLIP's width are projected to the stack's, where its code has one width; states and
vector are hidden together; times are stratified. Not here: the choice of the better of two samples, and the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling import objectives
from scaling.blocks import dense, patches, stack, tower
from scaling.blocks.logical import Axes, Parameters
from scaling.count import TOKENIZER, Component
from scaling.families import Origin, Term, clip, dit, gpt
from scaling.records.types import MOST_BITS
from scaling.records.unit import Unit
from scaling.settings import setting

PARTS = ("image", "text")  # of a run of clip
REPEATED = ("width", "layers", "heads", "mlp_ratio", "activation", "weight_bits")  # here with "clip_" before the name
SHARED = ("image", "patch", "vocab", "text")
ORIGIN = Origin(("clip",), (*((f"clip_{name}", name) for name in REPEATED), *((name, name) for name in SHARED)))
OFFSET, LARGEST_BETA = 0.008, 0.999  # of the cosine schedule
FURTHER = 4  # positions behind those of the text


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape of the stack and of the towers, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      text: positions of a caption with its end token.
      drop: share of the examples whose caption is hidden.
      clip_width, clip_layers, clip_heads, clip_mlp_ratio, clip_activation, clip_weight_bits: of the towers, as the run
        that gives them has them without ``clip_``: by default those of clip's size 1.
    """

    vocab: int = setting(19, least=1)
    text: int = setting(6, least=1)
    drop: float = setting(0.1, least=0, most=1)
    clip_width: int = setting(24, least=1)
    clip_layers: int = setting(2, least=1)
    clip_heads: int = setting(3, least=1)
    clip_mlp_ratio: int = setting(4, least=1)
    clip_activation: str = setting("relu2", choices=stack.ACTIVATIONS)
    clip_weight_bits: int = setting(0, least=0, most=MOST_BITS)

    def __post_init__(self):
        super().__post_init__()
        tower.require_pairs("clip", self.clip_width, self.clip_heads)

    @property
    def positions(self) -> int:
        """Positions of the stack."""
        return self.text + FURTHER

    @property
    def towers(self) -> clip.Config:
        """The configuration of the towers."""
        return clip.Config(**{there: getattr(self, here) for here, there in ORIGIN.fields})


ladder = gpt.ladder


def inherits(config: Config) -> dict[str, Origin]:
    """The towers, which a run of clip gives."""
    del config
    return dict.fromkeys(PARTS, ORIGIN)


def noise_levels() -> tuple[np.ndarray, np.ndarray]:
    """(a, s) of each time, (1000,) float64: x_t = a_t x_0 + s_t eps."""
    share = (np.arange(dit.TIMES + 1) / dit.TIMES + OFFSET) / (1 + OFFSET)
    kept = np.cos(share * np.pi / 2) ** 2
    kept = np.cumprod(1 - np.minimum(1 - kept[1:] / kept[:-1], LARGEST_BETA))
    return np.sqrt(kept), np.sqrt(1 - kept)


class Model(nn.Module):
    """Maps states_BTE and vectors_BE of captions, noised_BE and times_B to predictions_BE of x_0.

    False in ``shown_BS`` (S = T + 1, the vector last) puts a learned vector in the place of a state or the vector.
    """

    config: Config

    @nn.compact
    def __call__(
        self, states_BTE: jax.Array, caption_BE: jax.Array, noised_BE: jax.Array, time_B: jax.Array, shown_BS: jax.Array
    ) -> jax.Array:
        c, normal = self.config, nn.initializers.normal

        def weight(name: str, size: int) -> jax.Array:
            return self.param(name, normal(size**-0.5), (size, c.width))

        words_ED, caption_ED, noised_ED = (weight(name, c.clip_width) for name in ("words", "caption", "noised"))
        blank_SD = self.param("blank", normal(1.0), (c.text + 1, c.width))
        query_D = self.param("query", normal(1.0), (c.width,))
        dtype = query_D.dtype

        def vector(inputs_: jax.Array, weight_ID: jax.Array) -> jax.Array:
            return jnp.einsum("bi,id->bd", inputs_.astype(dtype), weight_ID)[:, None]

        told_BSD = [dense.product(states_BTE.astype(dtype), words_ED), vector(caption_BE, caption_ED)]
        told_BSD = jnp.where(shown_BS[..., None], jnp.concatenate(told_BSD, axis=1), blank_SD)
        sinusoids_BF = dit.sinusoids(time_B, dit.SINUSOIDS)
        inner_BD = jax.nn.silu(vector(sinusoids_BF, weight("time_in", dit.SINUSOIDS))[:, 0])
        time_B1D = vector(inner_BD, weight("time_out", c.width))
        query_B1D = jnp.broadcast_to(query_D, time_B1D.shape)
        x_BSD = jnp.concatenate([told_BSD, time_B1D, vector(noised_BE, noised_ED), query_B1D], axis=1)
        # Read at one position, which would otherwise not depend on the others at the start.
        blocks = stack.Stack(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation, mixing=True, name="stack")
        x_BD = stack.rms_norm(blocks(x_BSD)[:, -1], self.param("norm", nn.initializers.ones, (c.width,)))
        return jnp.einsum("bd,de->be", x_BD, self.param("head", nn.initializers.zeros, (c.width, c.clip_width)))


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; a study puts the parent's in the place of the towers'.

    A clip's own projection of pictures starts at zero, where a picture has no vector; this one does not.
    """
    c, (first, second, third) = config, jax.random.split(key, 3)
    vector, shown = jnp.zeros((1, c.clip_width)), jnp.ones((1, c.text + 1), bool)
    own = Model(c).init(first, jnp.zeros((1, c.text, c.clip_width)), vector, vector, jnp.zeros(1), shown)["params"]
    drawn: Any = clip.init(second, c.towers)
    head = jax.random.normal(third, (c.clip_width, c.clip_width)) * c.clip_width**-0.5
    return {**own, "image": {**drawn["image"], "head": head}, "text": drawn["text"]}


def frozen(config: Config) -> tuple[str, ...]:
    """The towers."""
    del config
    return PARTS


def beside(config: Config) -> tuple[str, ...]:
    """The towers: an evaluation in few bits rounds the model, and predicts the same vectors."""
    return frozen(config)


def exact(config: Config) -> tuple[str, ...]:
    """The towers, so that their vectors are those of float32."""
    return frozen(config)


def weight_bits(config: Config) -> dict[str, int]:
    """Those that the towers were trained with."""
    return dict.fromkeys(PARTS, config.clip_weight_bits)


class Given(NamedTuple):
    """Of examples: states of the text, vectors of text and picture (mean square 1), times, x_t; which states are of
    words, and whose text is told, bool."""

    states_BTE: jax.Array
    caption_BE: jax.Array
    image_BE: jax.Array
    time_B: jax.Array
    noised_BE: jax.Array
    words_BT: jax.Array
    told_B: jax.Array

    @property
    def shown_BS(self) -> jax.Array:
        """As in ``Model``: no state of padding, and nothing of a text that is not told."""
        return jnp.pad(self.words_BT, ((0, 0), (0, 1)), constant_values=True) & self.told_B[:, None]


def give(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config) -> Given:
    """What the towers make of captions and pictures, noised: by ``key`` and an example's number alone."""
    c, towers = config, config.towers
    # Gradients are stopped at the weights, so that no product of the towers is differentiated.
    still: Any = {part: jax.lax.stop_gradient(parameters[part]) for part in PARTS}
    patches_BPX = patches.patchify(batch["image"], c.patch)
    pictures = clip.Tower(towers, c.patches).apply({"params": still["image"]}, patches_BPX)
    texts = clip.Tower(towers, 0).apply({"params": still["text"]}, batch["tokens"][:, 1:])
    # Divided by their length again: that of clip's vectors is 1 only where what it projects is not small.
    image_BE, caption_BE = (stack.rms_norm(each[1] * c.clip_width**0.5) for each in (pictures, texts))
    keys_B, time_B = objectives.keys(key, batch), dit.times(key, objectives.index(batch))
    a_B1, s_B1 = (jnp.asarray(each, jnp.float32)[time_B][:, None] for each in noise_levels())
    noised_BE = a_B1 * image_BE + s_B1 * objectives.normal(keys_B, image_BE.shape[1:])
    hiding_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, 1)
    told_B = objectives.uniform(hiding_B, 1)[:, 0] >= c.drop
    words_BT = objectives.before_padding(batch["mask"]) if "mask" in batch else jnp.ones(texts[0].shape[:2], bool)
    return Given(texts[0], caption_BE, image_BE, time_B, noised_BE, words_BT, told_B)


def outputs(parameters: Parameters, given: Given, config: Config) -> Any:
    """Predictions of the pictures' vectors, (B, E), in the dtype of the parameters."""
    own = {name: value for name, value in parameters.items() if name not in PARTS}
    inputs = given.states_BTE, given.caption_BE, given.noised_BE, given.time_B, given.shown_BS
    return Model(config).apply({"params": own}, *inputs)


def _error(parameters: Parameters, given: Given, config: Config) -> objectives.Term:
    return objectives.squared_error(outputs(parameters, given, config)[:, None], given.image_BE[:, None])


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"x0": mean squared error, "from_0", "from_250" ...: the same, of the times of a bin}; counts pictures."""
    given = give(parameters, batch, key, config)
    error_B, count_B = _error(parameters, given, config)
    return {"x0": (error_B, count_B), **dit.by_time(error_B, count_B, given.time_B)}


def metrics(parameters: Parameters, batch: dict[str, jax.Array], config: Config):
    """{"with_text", "without_text": the loss with every caption, and with none}, of the times and noise of the loss."""
    given = give(parameters, batch, jax.random.key(0), config)  # the key of every evaluation
    twice = jax.tree.map(lambda each: jnp.repeat(each, 2, axis=0), given)
    told_N = jnp.arange(len(twice.told_B)) % 2 == 0
    error_N, count_N = _error(parameters, twice._replace(told_B=told_N), config)
    return {"with_text": (error_N[::2], count_N[::2]), "without_text": (error_N[1::2], count_N[1::2])}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss`` and ``metrics``, the headline first. The parent's vectors have mean square 1."""

    def term(text: str, weight: float = 0.0, first: int = 0, times: int = dit.TIMES) -> Term:
        given = f"t uniform in {first} to {first + times - 1} of {dit.TIMES}, cosine schedule, {text}"
        unit = Unit(quantity="squared error", per="value of a picture's vector", given=given)
        return Term(unit, weight=weight, start=1.0, count=1, made_by="image")

    text, width = f"text but for {config.drop:g}", dit.TIMES // dit.BINS
    parts = {name: term(text, 0.0, number * width, width) for number, name in enumerate(dit.bins())}
    parts = {name: replace(part, count=1 / dit.BINS, uneven=True) for name, part in parts.items()}
    return {"x0": term(text, 1.0), **parts, "with_text": term("the text"), "without_text": term("no text")}


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of the stack, {config.positions} an example, of which {config.text} of text"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of the stack, of which text, size of the vocabulary, and side of the image."""
    return {"context": config.positions, "text": config.text, "vocab": config.vocab, "image": config.image}


def components(config: Config) -> list[Component]:
    """Stack on all positions, read at the last; the towers, forward only."""
    c, vector, time = config, config.clip_width * config.width, dit.SINUSOIDS * config.width
    inner = c.width**2
    made = [each for each in clip.components(c.towers) if each.name != "similarity"]
    return [
        Component("words", "projection", vector, vector, c.text, first=True),
        Component("caption", "projection", vector, vector, 1, first=True),
        Component("noised", "projection", vector, vector, 1, first=True),
        Component("time_in", "time", time, time, 1, first=True),
        Component("time_out", "time", inner, inner, 1),
        Component("blank", "position", (c.text + 1) * c.width),
        Component("query", "position", c.width),
        *stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.positions),
        Component("final_norm", "norm", c.width),
        Component("head", "head", vector, vector, 1),
        *(replace(each, group=TOKENIZER, k=2, first=False, part=each.name.partition("_")[0]) for each in made),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. The numbers of a vector of CLIP and of sinusoids do not grow with the width."""
    given: Axes = dict.fromkeys(("words", "caption", "noised"), ("pixels", "embed"))
    time: Axes = {"time_in": ("pixels", "mlp"), "time_out": ("mlp", "embed")}
    own: Axes = {"blank": ("vocab", "embed"), "query": ("embed",), "norm": ("embed",), "head": ("embed", "pixels")}
    made = clip.axes(config.towers)
    return {**given, **time, **own, "stack": stack.axes(), **{part: made[part] for part in PARTS}}
