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
from scaling.count import Component
from scaling.errors import UserError
from scaling.families import Term, gpt

OBJECTIVES = ("text", "joint")


@dataclass(frozen=True)
class Config:
    """Shape and wiring. ``layers`` counts every block; ``text`` the positions of a caption with its end."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_ratio: int = 4
    vocab: int = 19
    text: int = 6
    image: int = 32
    patch: int = 4
    tied: bool = True
    activation: str = "relu2"
    dtype: str = "float32"
    objective: str = "text"
    fusion: str = "early"
    vision_layers: int = 1
    frozen: bool = False
    mask: str = "causal"

    def __post_init__(self):
        stack.check(self, "vocab", "text", "image", "patch", "vision_layers")
        stack.among("model.objective", self.objective, OBJECTIVES)
        stack.among("model.fusion", self.fusion, ("early", "late"))
        stack.among("model.mask", self.mask, ("causal", "prefix"))
        if self.image % self.patch:
            raise UserError("model.patch", self.patch, f"must divide the image's side, {self.image}")
        if self.fusion == "late" and self.vision_layers >= self.layers:
            raise UserError("model.vision_layers", self.vision_layers, f"must leave some of {self.layers} to the stack")
        if self.frozen and self.fusion == "early":
            raise UserError("model.frozen", self.frozen, "goes with fusion late")
        if self.objective == "joint" and (self.fusion, self.mask) != ("early", "causal"):
            raise UserError("model.objective", self.objective, "goes with fusion early and mask causal")

    @property
    def places(self) -> int:
        """Patches of an image."""
        return (self.image // self.patch) ** 2

    @property
    def pixels(self) -> int:
        """Numbers in a patch."""
        return 3 * self.patch**2

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
        seen_BPD = patches.Embed(c.places, c.width, name="patches")(patches_BPX)
        if c.vision:
            vit = stack.Stack(c.vision, *shape, mask="bidirectional", rotary=False, name="vision")
            seen_BPD = stack.rms_norm(vit(seen_BPD), self.param("vision_norm", ones, (c.width,)))
            project_DD = self.param("projection", nn.initializers.normal(c.width**-0.5), (c.width, c.width))
            seen_BPD = jnp.einsum("bpd,de->bpe", seen_BPD, project_DD)
        x_BSD = jnp.concatenate([seen_BPD, stack.rms_norm(head.look_up(table_VD, tokens_BT))], axis=1)
        x_BSD = stack.Stack(c.layers - c.vision, *shape, mask=c.mask, prefix=c.places, name="stack")(x_BSD)
        x_BSD = stack.rms_norm(x_BSD, self.param("norm", ones, (c.width,)))
        weight = table_VD if c.tied else self.param("head", zeros, (c.width, c.vocab))
        found = head.vocabulary(x_BSD[:, c.places :], weight, targets_BT, tied=c.tied)
        if c.objective == "text":
            return found, None
        pixels_DX = self.param("pixel_head", zeros, (c.width, c.pixels))
        return found, jnp.einsum("bpd,dx->bpx", x_BSD[:, : c.places - 1], pixels_DX)


def init(key: jax.Array, config: Config) -> dict[str, Any]:
    """Parameters in float32, drawn from ``key``."""
    empty = jnp.zeros((1, config.places, config.pixels)), jnp.zeros((1, config.text), jnp.int32)
    return dict(Model(config).init(key, *empty)["params"])


def frozen(config: Config) -> tuple[str, ...]:
    """Parameters that are not trained."""
    return ("patches", "vision", "vision_norm") if config.frozen else ()


def outputs(parameters: dict[str, Any], config: Config, *arguments: jax.Array) -> Any:
    """What ``Model`` gives for patches (B, P, X), tokens (B, T) and, where nats are wanted, targets (B, T)."""
    # Stopped at the weights: no product of the frozen part has a gradient.
    still = {name: jax.lax.stop_gradient(parameters[name]) for name in frozen(config)}
    return Model(config).apply({"params": {**parameters, **still}}, *arguments)


def loss(parameters: dict[str, Any], batch: dict[str, jax.Array], key: jax.Array, config: Config):
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
    found = {"text": Term("nats/token, given the image", likelihood=True, start=math.log(config.vocab))}
    if config.objective == "text":
        return found
    return {**found, "patches": Term("squared error/pixel value", count=config.places - 1)}


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of the stack: {config.places} patches, then {config.text} of text"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of the stack, those of text among them, the vocabulary and the image's side."""
    c = config
    return {"context": c.places + c.text, "text": c.text, "vocab": c.vocab, "image": c.image}


def components(config: Config) -> list[Component]:
    """Patches, and for late fusion ViT and projection on patches; stack on all positions; the heads on their own."""
    c = config
    shape, k = (c.width, c.heads, c.mlp_ratio * c.width), 2 if c.frozen else 6
    square, table, pixels = c.width**2, c.vocab * c.width, c.pixels * c.width
    parts = [
        Component("embedding", "embedding", table),
        *patches.components(c.pixels, c.places, c.width, c.places, k=k),
        *stack.stack_components(c.layers - c.vision, *shape, c.places + c.text),
        Component("final_norm", "norm", c.width),
        Component("head", "head", 0 if c.tied else table, table, c.text),
    ]
    if c.vision:
        vision = stack.stack_components(c.vision, *shape, c.places, "vision_")
        vision.append(Component("vision_final_norm", "vision_norm", c.width))
        parts += [dataclasses.replace(part, k=k) for part in vision]
        parts.append(Component("projection", "projection", square, square, c.places, first=c.frozen))
    if c.objective == "joint":
        parts.append(Component("pixel_head", "head", pixels, pixels, c.places - 1))
    return parts


def axes(config: Config) -> dict[str, Any]:
    """Logical axes of every parameter."""
    tree: dict[str, Any] = {"embedding": ("vocab", "embed"), "patches": patches.axes(), "norm": ("embed",)}
    tree |= {"stack": stack.axes()}
    if config.vision:
        tree |= {"vision": stack.axes(), "vision_norm": ("embed",), "projection": ("embed", "embed")}
    tree |= {} if config.tied else {"head": ("embed", "vocab")}
    return {**tree, "pixel_head": ("embed", "pixels")} if config.objective == "joint" else tree
