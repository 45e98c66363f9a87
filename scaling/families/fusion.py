"""Fusion: a decoder that reads a picture and then writes its caption, with early or late fusion.

``early``: patches and text enter one stack together. ``late``: the first ``vision_layers`` of the same ``layers``
blocks are a ViT for the patches only, followed by a projection into the stack of the remaining blocks (arXiv 2504.07951
compares the two). Their N differ by the projection and a norm; late fusion has fewer FLOPs, as text passes through
fewer blocks. With ``frozen``, the patch embedding and the ViT keep their initial values and have no backward pass.

The stack's mask is causal, or a ``prefix`` in which all patches see each other. Objective ``text`` predicts the
caption; ``joint`` also predicts each patch from earlier ones, which requires early fusion and a causal mask.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import dense, head, patches, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

OBJECTIVES = ("text", "joint")


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape and fusion, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      layers: number of all blocks, including those of the ViT.
      text: positions of a caption with its end token.
      fusion: ``early`` or ``late``.
      vision_layers: blocks of the ViT, for late fusion.
      frozen: whether the patch embedding and the ViT are not trained.
      mask: of the stack: ``causal``, or ``prefix``, in which all patches see each other.
    """

    vocab: int = setting(19, least=1)
    text: int = setting(6, least=1)
    tied: bool = True
    objective: str = setting("text", choices=OBJECTIVES)
    fusion: str = setting("early", choices=("early", "late"))
    vision_layers: int = setting(1, least=1)
    frozen: bool = False
    mask: str = setting("causal", choices=("causal", "prefix"))

    def __post_init__(self):
        super().__post_init__()
        if self.fusion == "late" and self.vision_layers >= self.layers:
            remedy = f"must leave some of {self.layers} to the stack"
            raise UserError("model.vision_layers", self.vision_layers, remedy, Code.CONFLICT)
        if self.frozen and self.fusion == "early":
            raise UserError("model.frozen", self.frozen, "goes with fusion late", Code.CONFLICT)
        if self.objective == "joint" and (self.fusion, self.mask) != ("early", "causal"):
            remedy = "goes with fusion early and mask causal"
            raise UserError("model.objective", self.objective, remedy, Code.CONFLICT)

    @property
    def vision(self) -> int:
        """Blocks of the ViT."""
        return self.vision_layers if self.fusion == "late" else 0


def ladder(size: int) -> dict[str, int]:
    """The ladder of gpt; with late fusion, half of the blocks are the ViT's."""
    grown = gpt.ladder(size)
    return {**grown, "vision_layers": grown["layers"] // 2}


def revision(config: Config) -> int:
    """2: N counts the projection of patches."""
    del config
    return 2


class Model(nn.Module):
    """Maps (patches_BPX, tokens_BT) to logits_BTV, or to nats_BT of targets_BT; and, for objective joint, to pixels of
    all patches except the first, (B, P - 1, X), else None."""

    config: Config

    @nn.compact
    def __call__(self, patches_BPX: jax.Array, tokens_BT: jax.Array, targets_BT: jax.Array | None = None) -> Any:
        c = self.config
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        shape = (c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        small = nn.initializers.normal(c.width**-0.5 / 16)  # as in gpt
        table_VD = self.param("embedding", small, (c.vocab, c.width))
        image_BPD = patches.Embed(c.patches, c.width, name="patches")(patches_BPX)
        if c.vision:
            vit = stack.Stack(c.vision, *shape, mask="bidirectional", rotary=False, name="vision")
            image_BPD = stack.rms_norm(vit(image_BPD), self.param("vision_norm", ones, (c.width,)))
            project_DD = self.param("projection", nn.initializers.normal(c.width**-0.5), (c.width, c.width))
            image_BPD = dense.product(image_BPD, project_DD)
        x_BSD = jnp.concatenate([image_BPD, stack.rms_norm(head.look_up(table_VD, tokens_BT))], axis=1)
        x_BSD = stack.Stack(c.layers - c.vision, *shape, mask=c.mask, prefix=c.patches, name="stack")(x_BSD)
        x_BSD = stack.rms_norm(x_BSD, self.param("norm", ones, (c.width,)))
        weight = table_VD if c.tied else self.param("head", zeros, (c.width, c.vocab))
        predictions = head.vocabulary(x_BSD[:, c.patches :], weight, targets_BT, tied=c.tied)
        if c.objective == "text":
            return predictions, None
        pixels_DX = self.param("pixel_head", zeros, (c.width, c.pixels))
        return predictions, dense.product(x_BSD[:, : c.patches - 1], pixels_DX)


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    empty = jnp.zeros((1, config.patches, config.pixels)), jnp.zeros((1, config.text), jnp.int32)
    return dict(Model(config).init(key, *empty)["params"])


def frozen(config: Config) -> tuple[str, ...]:
    """Top-level names of the parameters that are not trained."""
    return ("patches", "vision", "vision_norm") if config.frozen else ()


def outputs(parameters: Parameters, config: Config, *arguments: jax.Array) -> Any:
    """The output of ``Model`` for patches (B, P, X), tokens (B, T) and, for nats instead of logits, targets (B, T)."""
    # Gradients are stopped at the weights, so that no product of the frozen part is differentiated.
    still = {name: jax.lax.stop_gradient(parameters[name]) for name in frozen(config)}
    return Model(config).apply({"params": {**parameters, **still}}, *arguments)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"text": nats per token of the caption and its end, "patches": squared error per patch but the first}."""
    del key  # nothing here is random
    patches_BPX, tokens_BT = patches.patchify(batch["image"], config.patch), batch["tokens"]
    nats_BT, pixels_BPX = outputs(parameters, config, patches_BPX, tokens_BT[:, :-1], tokens_BT[:, 1:])
    terms = {"text": objectives.clm(nats_BT, batch.get("mask"))}
    if pixels_BPX is None:
        return terms
    return {**terms, "patches": objectives.squared_error(pixels_BPX, patches_BPX[:, 1:])}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    terms = {"text": Term(Unit(given="the image"), likelihood=True, start=math.log(config.vocab))}
    if config.objective == "text":
        return terms
    return {**terms, "patches": Term(patches.SQUARED_ERROR, count=config.patches - 1)}


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of the stack: {config.patches} patches, then {config.text} of text"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of the stack, of which text, size of the vocabulary, and side of the image."""
    c = config
    return {"context": c.patches + c.text, "text": c.text, "vocab": c.vocab, "image": c.image}


def components(config: Config) -> list[Component]:
    """Patch embedding; for late fusion, ViT and projection on patches; stack on all positions; heads on targets."""
    c = config
    shape, k = (c.width, c.heads, c.mlp_ratio * c.width), 2 if c.frozen else 6
    square, table, pixels = c.width**2, c.vocab * c.width, c.pixels * c.width
    parts = [
        Component("embedding", "embedding", table),
        *patches.components(c.pixels, c.patches, c.width, c.patches, k=k),
        *stack.stack_components(c.layers - c.vision, *shape, c.patches + c.text),
        Component("final_norm", "norm", c.width),
        Component("head", "head", 0 if c.tied else table, table, c.text),
    ]
    if c.vision:
        vision = stack.stack_components(c.vision, *shape, c.patches, "vision_")
        vision.append(Component("vision_final_norm", "vision_norm", c.width))
        parts += [dataclasses.replace(part, k=k) for part in vision]
        parts.append(Component("projection", "projection", square, square, c.patches, first=c.frozen))
    if c.objective == "joint":
        parts.append(Component("pixel_head", "head", pixels, pixels, c.patches - 1))
    return parts


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    tree: Axes = {"embedding": ("vocab", "embed"), "norm": ("embed",), "stack": stack.axes()}
    vision: Axes = {"vision": stack.axes(), "vision_norm": ("embed",), "projection": ("embed", "embed")}
    head: Axes = {} if config.tied else {"head": ("embed", "vocab")}
    pixels: Axes = {"pixel_head": ("embed", "pixels")} if config.objective == "joint" else {}
    return {**tree, "patches": patches.axes(), **(vision if config.vision else {}), **head, **pixels}
