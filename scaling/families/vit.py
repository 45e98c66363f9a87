"""ViT: a bidirectional Transformer over the patches of an image, with one of four objectives.

``class``: predicts the image's label from the mean of the patches (arXiv 2010.11929; mean pooling as in 2106.04560).
``mim``: masked image modelling as in MAE (arXiv 2111.06377): the encoder sees only the visible patches, and a narrow
decoder, of the same width at every size, predicts the hidden ones: by default each patch's pixels, less their mean and
over their standard deviation, in squared error. ``simmim`` (arXiv 2111.09886): the encoder sees all patches, the
hidden ones as a blank, and one linear layer predicts them, in absolute error. Both hide single patches; SimMIM's paper
hides squares of several, and its ``target`` is pixels. ``rotation``: predicts by how many quarters an image was turned,
from all four turns of each in one batch (arXiv 1803.07728). D counts patches of images, however often they are seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import dense, head, patches, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.blocks.patches import Embed, patchify
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

OBJECTIVES = ("class", "mim", "simmim", "rotation")
TURNS = 4


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape and objective, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      classes: number of labels, for objective ``class``.
      rate: share of the patches that mim and simmim hide (MAE: 0.75; SimMIM: 0.6).
      target: what of a hidden patch they predict: its pixels in [-1, 1], or these ``normalised`` by their mean and
        standard deviation in the patch.
      decoder_width, decoder_layers, decoder_heads: shape of mim's decoder, which does not grow with the encoder.
    """

    classes: int = setting(32, least=1)
    objective: str = setting("class", choices=OBJECTIVES)
    rate: float = setting(0.75, least=0, most=1)
    target: str = setting("normalised", choices=("normalised", "pixels"), later=True)
    decoder_width: int = setting(16, least=1, later=True)
    decoder_layers: int = setting(1, least=1)
    decoder_heads: int = setting(2, least=1, later=True)

    def __post_init__(self):
        super().__post_init__()
        if self.hides and not 0 < self.hidden < self.patches:
            remedy = f"must hide some of {self.patches} patches, not all"
            raise UserError("model.rate", self.rate, remedy, Code.CONFLICT)
        if self.decoder_width % self.decoder_heads:
            remedy = f"must be a multiple of decoder_heads = {self.decoder_heads}"
            raise UserError("model.decoder_width", self.decoder_width, remedy, Code.CONFLICT)

    @property
    def hides(self) -> bool:
        """Whether patches are hidden."""
        return self.objective in ("mim", "simmim")

    @property
    def hidden(self) -> int:
        """Number of patches that mim and simmim hide."""
        return round(self.rate * self.patches)

    @property
    def seen(self) -> int:
        """Positions of the encoder per image."""
        if self.objective == "mim":
            return self.patches - self.hidden
        return self.patches * (TURNS if self.objective == "rotation" else 1)

    @property
    def labels(self) -> int:
        """Number of classes that are told apart."""
        return TURNS if self.objective == "rotation" else self.classes

    @property
    def unit(self) -> Unit:
        """Of the error of a hidden patch."""
        per = "normalised pixel value" if self.target == "normalised" else "pixel value"
        return Unit(quantity="squared error" if self.objective == "mim" else "absolute error", per=per)


ladder = gpt.ladder


def revision(config: Config) -> int:
    """3: mim has a narrow decoder and normalised pixels, rotation sees all four turns; N counts patch projections."""
    del config
    return 3


class Model(nn.Module):
    """Maps patches_BPX to logits_BC; with their order (visible first), to predictions_BHX of the hidden ones."""

    config: Config

    @nn.compact
    def __call__(self, patches_BPX: jax.Array, order_BP: jax.Array | None = None) -> jax.Array:
        c = self.config
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        embed, place_BV, hidden_BP = Embed(c.patches, c.width, c.objective == "simmim", name="patches"), None, None
        if c.objective == "mim":
            assert order_BP is not None
            place_BV = order_BP[:, : c.seen]
            patches_BPX = jnp.take_along_axis(patches_BPX, place_BV[..., None], axis=1)
        if c.objective == "simmim":
            assert order_BP is not None
            hidden_BP = jnp.argsort(order_BP, axis=1) >= c.patches - c.hidden
        x_BVD = embed(patches_BPX, place_BV, hidden_BP)
        shape = (c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        x_BVD = stack.Stack(c.layers, *shape, mask="bidirectional", rotary=False, name="stack")(x_BVD)
        x_BVD = stack.rms_norm(x_BVD, self.param("norm", ones, (c.width,)))
        if not c.hides:
            head_DC = self.param("head", zeros, (c.width, c.labels))
            return jnp.einsum("bd,dc->bc", x_BVD.mean(axis=1), head_DC)
        assert order_BP is not None
        if c.objective == "mim":
            x_BHD = self._decode(x_BVD, order_BP)
        else:
            x_BHD = jnp.take_along_axis(x_BVD, order_BP[:, -c.hidden :, None], axis=1)
        head_DX = self.param("head", zeros, (x_BHD.shape[-1], c.pixels))
        return dense.product(x_BHD, head_DX)

    def _decode(self, x_BVD: jax.Array, order_BP: jax.Array) -> jax.Array:
        """The decoder's last states of the hidden patches: it sees every patch with its position, those as a blank."""
        c, width = self.config, self.config.decoder_width
        project_DE = self.param("projection", nn.initializers.normal(c.width**-0.5), (c.width, width))
        blank_E = self.param("blank", nn.initializers.normal(0.02), (width,))
        place_PE = self.param("decoder_position", nn.initializers.normal(1.0), (c.patches, width))
        x_BVE = dense.product(x_BVD, project_DE)
        blank_BHE = jnp.broadcast_to(blank_E, (len(x_BVD), c.hidden, width))
        x_BPE = jnp.concatenate([x_BVE, blank_BHE], axis=1) + head.look_up(place_PE, order_BP)
        shape = (c.decoder_layers, width, c.decoder_heads, c.mlp_ratio * width, c.activation)
        decoder = stack.Stack(*shape, mask="bidirectional", rotary=False, name="decoder")
        x_BPE = decoder(stack.rms_norm(x_BPE))
        return stack.rms_norm(x_BPE[:, -c.hidden :], self.param("decoder_norm", nn.initializers.ones, (width,)))


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    order = jnp.arange(config.patches)[None] if config.hides else None
    return dict(Model(config).init(key, jnp.zeros((1, config.patches, config.pixels)), order)["params"])


def outputs(parameters: Parameters, patches_BPX: jax.Array, config: Config, order_BP=None) -> jax.Array:
    """Logits (B, classes); for mim and simmim, ``target`` of the hidden patches, those last in ``order_BP``."""
    predictions: Any = Model(config).apply({"params": parameters}, patches_BPX, order_BP)
    return predictions


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"class" or "rotation": nats per image, "error": share wrong} or {"mim" or "simmim": error per hidden patch}."""
    image = batch["image"]
    if config.hides:
        patches_BPX = patchify(image, config.patch)
        order_BP = jnp.argsort(objectives.uniform(objectives.keys(key, batch), config.patches), axis=1)
        predicted_BHX = outputs(parameters, patches_BPX, config, order_BP)
        target_BPX = patches.normalised(patches_BPX) if config.target == "normalised" else patches_BPX
        target_BHX = jnp.take_along_axis(target_BPX, order_BP[:, -config.hidden :, None], axis=1)
        error = objectives.squared_error if config.objective == "mim" else objectives.absolute_error
        return {config.objective: error(predicted_BHX, target_BHX)}
    if config.objective == "class":
        logits_BC, labels_B = outputs(parameters, patchify(image, config.patch), config), batch["label"]
        return {"class": objectives.classify(logits_BC, labels_B), "error": objectives.error(logits_BC, labels_B)}
    turned, turns = objectives.turns(image)
    logits_TC = outputs(parameters, patchify(turned, config.patch), config)
    found = {"rotation": objectives.classify(logits_TC, turns), "error": objectives.error(logits_TC, turns)}
    by_image = {name: tuple(each_T.reshape(-1, TURNS).sum(axis=1) for each_T in term) for name, term in found.items()}
    return by_image  # in this order, which a map over the tree would sort


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    if config.hides:
        return {config.objective: Term(config.unit, count=config.hidden)}
    count = TURNS if config.objective == "rotation" else 1
    return {
        config.objective: Term(Unit(per="image"), start=math.log(config.labels), count=count),
        "error": Term(Unit(quantity="share", per="image"), weight=0.0, count=count),
    }


def counted(config: Config) -> str:
    """What D counts."""
    turned = "each seen in four turns" if config.objective == "rotation" else None
    return f"patches of images; {turned or f'of {config.patches}, the encoder sees {config.seen}'}"


def batch_spec(config: Config) -> dict[str, int]:
    """Patches per image, its side, and the number of labels."""
    spec = {"context": config.patches, "image": config.image}
    return {**spec, "classes": config.classes} if config.objective == "class" else spec


def components(config: Config) -> list[Component]:
    """Patch embedding, stack and head, once for each turn of an image; for mim the decoder runs on all patches."""
    c = config
    passes = TURNS if c.objective == "rotation" else 1
    blocks = stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.seen // passes)
    parts = [
        *patches.components(c.pixels, c.patches, c.width, c.seen, blank=c.objective == "simmim"),
        *(part.times(passes) for part in blocks),
        Component("final_norm", "norm", c.width),
    ]
    if not c.hides:
        table = c.width * c.labels
        return [*parts, Component("head", "head", table, table, passes)]
    if c.objective == "simmim":
        table = c.width * c.pixels
        return [*parts, Component("head", "head", table, table, c.hidden)]
    width = c.decoder_width
    shape = (c.decoder_layers, width, c.decoder_heads, c.mlp_ratio * width)
    table, project = width * c.pixels, c.width * width
    return [
        *parts,
        Component("projection", "projection", project, project, c.seen),
        Component("blank", "position", width),
        Component("decoder_position", "position", c.patches * width),
        *stack.stack_components(*shape, c.patches, "decoder_"),
        Component("decoder_final_norm", "decoder_norm", width),
        Component("head", "head", table, table, c.hidden),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. The decoder's width is its own, so its matrices have rates of their own."""
    embed = patches.axes(blank=config.objective == "simmim")
    encoder: Axes = {"patches": embed, "norm": ("embed",), "stack": stack.axes()}
    if not config.hides:
        return {**encoder, "head": ("embed", "vocab")}
    encoder = {**encoder, "head": ("embed", "pixels")}
    if config.objective == "simmim":
        return encoder
    decoder: Axes = {"decoder_position": ("vocab", "embed"), "decoder": stack.axes(), "decoder_norm": ("embed",)}
    return {**encoder, **decoder, "blank": ("embed",), "projection": ("embed", "mlp")}
