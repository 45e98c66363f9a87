"""Fusion: a decoder that reads a picture, then writes its caption; early or late, one flag apart.

``early``: patches enter the one stack beside the text. ``late``: of the same ``layers`` blocks the first
``vision_layers`` are a ViT, which only patches visit, and a projection leads from there into the stack of the rest
(arXiv 2504.07951 compares the two). N of the two differs by the projection and a norm; the FLOPs of late are fewer, as
text visits fewer blocks. ``frozen`` leaves the patches' embedding and the ViT as they were drawn: no backward pass.

The stack's mask is causal, or a ``prefix`` of all patches that see each other. Objective ``text`` predicts the caption;
``joint`` also each patch from those before it, which wants them unseen: fusion early and a causal mask.
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
from scaling.blocks import head, patches, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

OBJECTIVES = ("text", "joint")


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape and wiring, beside what ``patches.ImageShape`` says.

    Attributes:
      layers: every block, those of the ViT among them.
      text: positions of a caption with its end.
      fusion: where patches enter: ``early`` or ``late``.
      vision_layers: blocks of the ViT, of fusion late.
      frozen: patches' embedding and ViT stay as they were drawn.
      mask: of the stack: ``causal``, or a ``prefix`` of all patches.
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
    """That of gpt; late fusion gives half of the blocks to the ViT."""
    grown = gpt.ladder(size)
    return {**grown, "vision_layers": grown["layers"] // 2}


class Model(nn.Module):
    """(patches_BPX, tokens_BT) -> logits_BTV, or nats_BT of targets_BT; and for joint, pixels of all patches but the
    first (B, P - 1, X), else None."""

    config: Config

    @nn.compact
    def __call__(self, patches_BPX: jax.Array, tokens_BT: jax.Array, targets_BT: jax.Array | None = None) -> Any:
        c = self.config
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        shape = (c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        small = nn.initializers.normal(c.width**-0.5 / 16)  # as in gpt
        table_VD = self.param("embedding", small, (c.vocab, c.width))
        seen_BPD = patches.Embed(c.patches, c.width, name="patches")(patches_BPX)
        if c.vision:
            vit = stack.Stack(c.vision, *shape, mask="bidirectional", rotary=False, name="vision")
            seen_BPD = stack.rms_norm(vit(seen_BPD), self.param("vision_norm", ones, (c.width,)))
            project_DD = self.param("projection", nn.initializers.normal(c.width**-0.5), (c.width, c.width))
            seen_BPD = jnp.einsum("bpd,de->bpe", seen_BPD, project_DD)
        x_BSD = jnp.concatenate([seen_BPD, stack.rms_norm(head.look_up(table_VD, tokens_BT))], axis=1)
        x_BSD = stack.Stack(c.layers - c.vision, *shape, mask=c.mask, prefix=c.patches, name="stack")(x_BSD)
        x_BSD = stack.rms_norm(x_BSD, self.param("norm", ones, (c.width,)))
        weight = table_VD if c.tied else self.param("head", zeros, (c.width, c.vocab))
        found = head.vocabulary(x_BSD[:, c.patches :], weight, targets_BT, tied=c.tied)
        if c.objective == "text":
            return found, None
        pixels_DX = self.param("pixel_head", zeros, (c.width, c.pixels))
        return found, jnp.einsum("bpd,dx->bpx", x_BSD[:, : c.patches - 1], pixels_DX)


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    empty = jnp.zeros((1, config.patches, config.pixels)), jnp.zeros((1, config.text), jnp.int32)
    return dict(Model(config).init(key, *empty)["params"])


def frozen(config: Config) -> tuple[str, ...]:
    """Parameters that are not trained."""
    return ("patches", "vision", "vision_norm") if config.frozen else ()


def outputs(parameters: Parameters, config: Config, *arguments: jax.Array) -> Any:
    """What ``Model`` gives for patches (B, P, X), tokens (B, T) and, where nats are wanted, targets (B, T)."""
    # Stopped at the weights: no product of the frozen part has a gradient.
    still = {name: jax.lax.stop_gradient(parameters[name]) for name in frozen(config)}
    return Model(config).apply({"params": {**parameters, **still}}, *arguments)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"text": nats per token of the caption and its end, "patches": squared error per patch but the first}."""
    del key  # nothing here is random
    patches_BPX, tokens_BT = patches.patchify(batch["image"], config.patch), batch["tokens"]
    nats_BT, pixels_BPX = outputs(parameters, config, patches_BPX, tokens_BT[:, :-1], tokens_BT[:, 1:])
    found = {"text": objectives.clm(nats_BT, batch.get("mask"))}
    if pixels_BPX is None:
        return found
    return {**found, "patches": objectives.squared_error(pixels_BPX, patches_BPX[:, 1:])}


def terms(config: Config) -> dict[str, Term]:
    """What ``loss`` returns, the fitted term first."""
    found = {"text": Term(Unit(given="the image"), likelihood=True, start=math.log(config.vocab))}
    if config.objective == "text":
        return found
    return {**found, "patches": Term(patches.SQUARED_ERROR, count=config.patches - 1)}


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of the stack: {config.patches} patches, then {config.text} of text"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of the stack, those of text among them, the vocabulary and the image's side."""
    c = config
    return {"context": c.patches + c.text, "text": c.text, "vocab": c.vocab, "image": c.image}


def components(config: Config) -> list[Component]:
    """Patches, and for late fusion ViT and projection on patches; stack on all positions; the heads on their own."""
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
