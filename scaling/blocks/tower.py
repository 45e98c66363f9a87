"""A ViT whose vectors of patches another model reads: the fields, parts and components that such models share.

It is three parts, ``patches``, ``vision`` and ``vision_norm``, which a run of a ViT has as ``patches``, ``stack`` and
``norm``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from scaling.blocks import patches, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.settings import setting

PARTS = {"patches": "patches", "vision": "stack", "vision_norm": "norm"}  # part of a run of the ViT's, by part here
REPEATED = ("width", "layers", "heads", "activation")  # here with "vision_" before the name
RUNS = ("vit", "simclr")  # families whose runs have the parts
TRAINS = ("added", "tower", "all")  # what trains: what is beside the ViT and a language model, the ViT too, everything
FIELDS = (*((f"vision_{name}", name) for name in REPEATED), *((name, name) for name in ("mlp_ratio", "image", "patch")))


@dataclass(frozen=True)
class Shape(patches.ImageShape):
    """Fields of every family that reads pictures by such a ViT, for its ``Config`` to inherit.

    Attributes:
      vision_width, vision_layers, vision_heads, vision_activation: of the ViT.
    """

    vision_width: int = setting(32, least=1)
    vision_layers: int = setting(2, least=1)
    vision_heads: int = setting(4, least=1)
    vision_activation: str = setting("relu2", choices=stack.ACTIVATIONS)

    def __post_init__(self):
        super().__post_init__()
        require_pairs("vision", self.vision_width, self.vision_heads)


def require_pairs(part: str, width: int, heads: int) -> None:
    """Raises UserError unless heads of ``width`` / ``heads`` numbers are of even width (CONFLICT)."""
    if width % (2 * heads):
        remedy = f"must be a multiple of 2 x {part}_heads = {2 * heads}"
        raise UserError(f"model.{part}_width", width, remedy, Code.CONFLICT)


def _embed(c: Shape) -> patches.Embed:
    return patches.Embed(c.patches, c.vision_width)


def _stack(c: Shape) -> stack.Stack:
    shape = c.vision_layers, c.vision_width, c.vision_heads, c.mlp_ratio * c.vision_width, c.vision_activation
    return stack.Stack(*shape, mask="bidirectional", rotary=False)


def init(first: jax.Array, second: jax.Array, c: Shape) -> Parameters:
    """The parts, drawn from two keys."""
    return {
        "patches": _embed(c).init(first, jnp.zeros((1, c.patches, c.pixels)))["params"],
        "vision": _stack(c).init(second, jnp.zeros((1, c.patches, c.vision_width)))["params"],
        "vision_norm": jnp.ones(c.vision_width),
    }


def seen(parameters: Any, patches_NPX: jax.Array, c: Shape) -> jax.Array:
    """The vectors of the patches of N pictures, (N, P, W)."""
    x_NPW: Any = _embed(c).apply({"params": parameters["patches"]}, patches_NPX)
    x_NPW = _stack(c).apply({"params": parameters["vision"]}, x_NPW)
    return stack.rms_norm(x_NPW, parameters["vision_norm"])


def components(c: Shape, k: int, pictures: int = 1) -> list[Component]:
    """The counted components, for ``pictures`` of an example; ``k`` as in ``Component``."""
    wide = c.vision_width
    blocks = stack.stack_components(c.vision_layers, wide, c.vision_heads, c.mlp_ratio * wide, c.patches, "vision_")
    own = [*(part.times(pictures) for part in blocks), Component("vision_final_norm", "vision_norm", wide)]
    first = patches.components(c.pixels, c.patches, wide, pictures * c.patches, k=k)
    return [*first, *(replace(part, k=k) for part in own)]


def axes() -> Axes:
    """Logical axes of every parameter."""
    return {"patches": patches.axes(), "vision": stack.axes(), "vision_norm": ("embed",)}
