"""ViT: a bidirectional Transformer over the patches of an image, with one of three objectives.

``class``: predicts the image's label from the mean of the patches (arXiv 2010.11929; mean pooling as in 2106.04560).
``mim``: masked image modelling as in MAE (arXiv 2111.06377): the encoder sees only the visible patches, and a light
decoder of ``decoder_layers`` blocks predicts the pixels of the hidden ones. ``rotation``: predicts by how many quarters
the image was turned (arXiv 1803.07728). D counts patches of images, whether or not the encoder sees them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import head, patches, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.blocks.patches import Embed, patchify
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

OBJECTIVES = ("class", "mim", "rotation")


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape and objective, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      classes: number of labels, for objective ``class``.
      rate: share of the patches that mim hides.
      decoder_layers: number of blocks of mim's decoder.
    """

    classes: int = setting(32, least=1)
    objective: str = setting("class", choices=OBJECTIVES)
    rate: float = setting(0.75, least=0, most=1)
    decoder_layers: int = setting(1, least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.objective == "mim" and not 0 < self.hidden < self.patches:
            remedy = f"must hide some of {self.patches} patches, not all"
            raise UserError("model.rate", self.rate, remedy, Code.CONFLICT)

    @property
    def hidden(self) -> int:
        """Number of patches that mim hides from the encoder."""
        return round(self.rate * self.patches)


ladder = gpt.ladder


class Model(nn.Module):
    """Maps patches_BPX to logits_BC; for mim, with their order (visible first), to pixels of the hidden ones."""

    config: Config

    @nn.compact
    def __call__(self, patches_BPX: jax.Array, order_BP: jax.Array | None = None) -> jax.Array:
        c = self.config
        small, ones, zeros = nn.initializers.normal(0.02), nn.initializers.ones, nn.initializers.zeros
        shape = (c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        visible_BV = None
        if order_BP is not None:
            visible_BV = order_BP[:, : c.patches - c.hidden]
            patches_BPX = jnp.take_along_axis(patches_BPX, visible_BV[..., None], axis=1)
        x_BVD = Embed(c.patches, c.width, name="patches")(patches_BPX, visible_BV)
        x_BVD = stack.Stack(c.layers, *shape, mask="bidirectional", rotary=False, name="stack")(x_BVD)
        x_BVD = stack.rms_norm(x_BVD, self.param("norm", ones, (c.width,)))
        if order_BP is None:
            classes = 4 if c.objective == "rotation" else c.classes
            head_DC = self.param("head", zeros, (c.width, classes))
            return jnp.einsum("bd,dc->bc", x_BVD.mean(axis=1), head_DC)
        # The decoder sees every patch with its position, the hidden ones as a blank.
        blank_D = self.param("blank", small, (c.width,))
        blank_BHD = jnp.broadcast_to(blank_D, (len(x_BVD), c.hidden, c.width))
        decoder_PD = self.param("decoder_position", nn.initializers.normal(1.0), (c.patches, c.width))
        x_BPD = jnp.concatenate([x_BVD, blank_BHD], axis=1) + head.look_up(decoder_PD, order_BP)
        x_BPD = stack.Stack(c.decoder_layers, *shape, mask="bidirectional", rotary=False, name="decoder")(
            stack.rms_norm(x_BPD)
        )
        x_BHD = stack.rms_norm(x_BPD[:, -c.hidden :], self.param("decoder_norm", ones, (c.width,)))
        head_DX = self.param("head", zeros, (c.width, c.pixels))
        return jnp.einsum("bhd,dx->bhx", x_BHD, head_DX)


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    order = jnp.arange(config.patches)[None] if config.objective == "mim" else None
    return dict(Model(config).init(key, jnp.zeros((1, config.patches, config.pixels)), order)["params"])


def outputs(parameters: Parameters, patches_BPX: jax.Array, config: Config, order_BP=None) -> jax.Array:
    """Logits (B, classes); for mim, the pixels of the hidden patches, those last in ``order_BP``."""
    predictions: Any = Model(config).apply({"params": parameters}, patches_BPX, order_BP)
    return predictions


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"class" or "rotation": nats per image, "error": share wrong} or {"mim": squared error per hidden patch}."""
    if config.objective == "mim":
        patches_BPX = patchify(batch["image"], config.patch)
        order_BP = jnp.argsort(jax.random.uniform(key, patches_BPX.shape[:2]), axis=1)
        hidden_BH1 = order_BP[:, config.patches - config.hidden :, None]
        predicted_BHX = outputs(parameters, patches_BPX, config, order_BP)
        return {"mim": objectives.squared_error(predicted_BHX, jnp.take_along_axis(patches_BPX, hidden_BH1, axis=1))}
    image, labels_B = batch["image"], batch.get("label")
    if config.objective == "rotation":
        image, labels_B = objectives.turn(key, image)
    assert labels_B is not None
    logits_BC = outputs(parameters, patchify(image, config.patch), config)
    return {
        config.objective: objectives.classify(logits_BC, labels_B),
        "error": objectives.error(logits_BC, labels_B),
    }


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    if config.objective == "mim":
        return {"mim": Term(patches.SQUARED_ERROR, count=config.hidden)}
    classes = 4 if config.objective == "rotation" else config.classes
    return {
        config.objective: Term(Unit(per="image"), start=math.log(classes), count=1),
        "error": Term(Unit(quantity="share", per="image"), weight=0.0, count=1),
    }


def counted(config: Config) -> str:
    """What D counts."""
    seen = config.patches - (config.hidden if config.objective == "mim" else 0)
    return f"patches of images; of {config.patches}, the encoder sees {seen}"


def batch_spec(config: Config) -> dict[str, int]:
    """Patches per image, its side, and the number of labels."""
    spec = {"context": config.patches, "image": config.image}
    return {**spec, "classes": config.classes} if config.objective == "class" else spec


def components(config: Config) -> list[Component]:
    """Patch embedding, stack and head; for mim the encoder runs on visible patches and the decoder on all."""
    c = config
    shape = (c.width, c.heads, c.mlp_ratio * c.width)
    seen = c.patches - (c.hidden if c.objective == "mim" else 0)
    parts = [
        *patches.components(c.pixels, c.patches, c.width, seen),
        *stack.stack_components(c.layers, *shape, seen),
        Component("final_norm", "norm", c.width),
    ]
    if c.objective != "mim":
        head = c.width * (4 if c.objective == "rotation" else c.classes)
        return [*parts, Component("head", "head", head, head, 1)]
    head = c.width * c.pixels
    return [
        *parts,
        Component("blank", "position", c.width),
        Component("decoder_position", "position", c.patches * c.width),
        *stack.stack_components(c.decoder_layers, *shape, c.patches, "decoder_"),
        Component("decoder_final_norm", "decoder_norm", c.width),
        Component("head", "head", head, head, c.hidden),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    encoder: Axes = {"patches": patches.axes(), "norm": ("embed",), "stack": stack.axes()}
    if config.objective != "mim":
        return {**encoder, "head": ("embed", "vocab")}
    decoder: Axes = {"decoder_position": ("vocab", "embed"), "decoder": stack.axes(), "decoder_norm": ("embed",)}
    return {**encoder, **decoder, "blank": ("embed",), "head": ("embed", "pixels")}
