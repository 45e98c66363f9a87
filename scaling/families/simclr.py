"""SimCLR: two random views of every picture, and a bidirectional Transformer that finds each among all others.

Views as in arXiv 2002.05709 (appendix A, for small pictures without blur): a random part of the picture at its full
size, mirrored in half of the cases, its colours changed in 80 % and removed in 20 %. The encoder's mean patch goes
through two layers (the projection) to unit vectors. The loss is NT-Xent: the nats of each view's other view among the
2 B - 1 other views of the batch, at a fixed temperature. So it depends on the batch, and evaluation has its own size.

The projection does not start at zero: where every vector is zero, so is every gradient. Vectors that are all alike give
ln(2 B - 1) at any temperature. Deviations: the order of the changes of colour is fixed; the encoder is a ViT; Adam.
D counts patches of pictures, each of which is seen in two views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import patches, stack
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

VIEWS = 2
RATIO = 4 / 3  # largest ratio of the sides of a part
CHANGED, GREY = 0.8, 0.2  # shares of the views whose colours are changed, and removed
LUMA = (0.299, 0.587, 0.114)
# To luma and two differences of colour (YIQ), and back; a turn of these two is a change of hue.
TO_YIQ = (LUMA, (0.59590059, -0.27455667, -0.32134392), (0.21153661, -0.52273617, 0.31119955))
FROM_YIQ = ((1.0, 0.95598634, 0.6208248), (1.0, -0.27201283, -0.64720424), (1.0, -1.10674021, 1.70423049))


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape of the encoder and the views, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      project: length of the vectors that are compared.
      temperature: of their cosines; fixed.
      crop: least share of a picture's area in a view; 1: all of it, always.
      jitter: strength of the changes of colour (the paper: 1; 0.5 for small pictures); 0: none.
      labels: number of labels, for the metric ``neighbour``; 0: none.
    """

    project: int = setting(32, least=1)
    temperature: float = setting(0.5, above=0)
    crop: float = setting(0.2, above=0, most=1)
    jitter: float = setting(0.5, least=0, most=1)
    labels: int = setting(0, least=0)


ladder = gpt.ladder


class Model(nn.Module):
    """Maps patches_BPX to the encoder's mean state (B, D) and unit vectors (B, E), in float32."""

    config: Config

    @nn.compact
    def __call__(self, patches_BPX: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        shape = (c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        x_BPD = patches.Embed(c.patches, c.width, name="patches")(patches_BPX)
        x_BPD = stack.Stack(c.layers, *shape, mask="bidirectional", rotary=False, name="stack")(x_BPD)
        x_BPD = stack.rms_norm(x_BPD, self.param("norm", nn.initializers.ones, (c.width,)))
        state_BD = x_BPD.astype(jnp.float32).mean(axis=1)
        fan_in = nn.initializers.normal(c.width**-0.5)
        hidden_DH = self.param("hidden", fan_in, (c.width, c.width)).astype(jnp.float32)
        head_HE = self.param("head", fan_in, (c.width, c.project)).astype(jnp.float32)
        hidden_BH = jax.nn.relu(jnp.einsum("bd,dh->bh", state_BD, hidden_DH))
        vector_BE = jnp.einsum("bh,he->be", hidden_BH, head_HE)
        return state_BD, stack.rms_norm(vector_BE) * c.project**-0.5


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    return dict(Model(config).init(key, jnp.zeros((1, config.patches, config.pixels)))["params"])


def vectors(parameters: Parameters, patches_BPX: jax.Array, config: Config) -> Any:
    """(the encoder's mean state (B, D), unit vectors (B, E))."""
    return Model(config).apply({"params": parameters}, patches_BPX)


# --- views


def _part(key: jax.Array, image_HWC: jax.Array, least: float) -> jax.Array:
    """A random part of at least this share of the area, at the picture's size, by linear interpolation."""
    area, ratio, top, left, mirror = jax.random.uniform(key, (5,))
    area = least + (1 - least) * area
    widest = jnp.minimum(math.log(RATIO), -jnp.log(area))  # of the ratios with which such a part fits
    ratio = jnp.exp((2 * ratio - 1) * widest)
    sides = jnp.sqrt(area * jnp.stack([1 / ratio, ratio]))
    starts = jnp.stack([top, left]) * (1 - sides)
    for axis, count in enumerate(image_HWC.shape[:2]):
        middle = (jnp.arange(count) + 0.5) / count  # of each pixel, as a share of the side
        middle = jnp.where((axis == 1) & (mirror < 0.5), 1 - middle, middle)
        image_HWC = _between(image_HWC, (starts[axis] + sides[axis] * middle) * count - 0.5, axis)
    return image_HWC


def _between(image_HWC: jax.Array, at: jax.Array, axis: int) -> jax.Array:
    """Rows (axis 0) or columns (1) at these places, by linear interpolation; beyond the edge is the edge."""
    below = jnp.floor(at).astype(jnp.int32)
    low, high = (jnp.take(image_HWC, below + step, axis=axis, mode="clip") for step in (0, 1))
    share = jnp.expand_dims(at - below, (1 - axis, 2))
    return low + share * (high - low)


def _mixed(x_CHW: jax.Array, rows: Any) -> jax.Array:
    """Planes of each pixel's colours in sums with these weights (no matrix product, which would be counted)."""
    return jnp.stack([sum(weight * plane_HW for weight, plane_HW in zip(row, x_CHW, strict=True)) for row in rows])


def _blended(x_CHW: jax.Array, other: jax.Array, share: jax.Array, strength: float) -> jax.Array:
    """Moved from ``other`` by a factor of 1 - 0.8 ``strength`` to 1 + 0.8 ``strength``, at a share of [0, 1)."""
    factor = 1 + 0.8 * strength * (2 * share - 1)
    return jnp.clip(other + factor * (x_CHW - other), 0, 1)


def _recoloured(key: jax.Array, image_HWC: jax.Array, strength: float) -> jax.Array:
    """Brightness, contrast, saturation and hue changed, the last by up to 0.2 ``strength`` of a full turn."""
    bright, contrast, saturation, hue, changed, grey = jax.random.uniform(key, (6,))
    plain_CHW = jnp.moveaxis(image_HWC, -1, 0)  # by planes, which a CPU adds 10 times faster
    x_CHW = _blended(plain_CHW, jnp.zeros(()), bright, strength)
    x_CHW = _blended(x_CHW, _mixed(x_CHW, (LUMA,)).mean(), contrast, strength)
    x_CHW = _blended(x_CHW, _mixed(x_CHW, (LUMA,)), saturation, strength)
    turn = 2 * math.pi * 0.2 * strength * (2 * hue - 1)
    y, i, q = _mixed(x_CHW, TO_YIQ)
    i, q = i * jnp.cos(turn) - q * jnp.sin(turn), i * jnp.sin(turn) + q * jnp.cos(turn)
    x_CHW = jnp.clip(_mixed(jnp.stack([y, i, q]), FROM_YIQ), 0, 1)
    x_CHW = jnp.where(changed < CHANGED, x_CHW, plain_CHW)
    return jnp.moveaxis(jnp.where(grey < GREY, _mixed(x_CHW, (LUMA,)), x_CHW), 0, -1)


def view(key: jax.Array, image_HWC: jax.Array, config: Config) -> jax.Array:
    """A random view of a picture in [0, 1], of its shape."""
    first, second = jax.random.split(key)
    part_HWC = _part(first, image_HWC, config.crop)
    return _recoloured(second, part_HWC, config.jitter) if config.jitter else part_HWC


def views(keys_B: jax.Array, image_BHWC: jax.Array, config: Config) -> jax.Array:
    """Two views of each picture, one after the other, as patches (2B, P, X) in [-1, 1]; pictures are bytes."""
    keys_BV = jax.vmap(lambda key: jax.random.split(key, VIEWS))(keys_B)
    both = jax.vmap(jax.vmap(lambda key, image: view(key, image, config), (0, None)))
    seen_BVHWC = both(keys_BV, image_BHWC.astype(jnp.float32) / 255)
    return patches.cut(2 * seen_BVHWC.reshape(-1, *image_BHWC.shape[1:]) - 1, config.patch)


# --- the loss


def nt_xent(vector_VE: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Nats of the other view of its picture (its neighbour) among all other views, and whether one is nearer, (V,)."""
    candidates_WE = constrain(vector_VE, "candidates", "embed")
    scores_VW = jnp.einsum("ve,we->vw", constrain(vector_VE, "batch", "embed"), candidates_WE)
    place_V = jnp.arange(len(vector_VE))
    others_VW = jnp.where(place_V[:, None] == place_V, -jnp.inf, scores_VW / temperature)
    own_V = place_V ^ 1
    return objectives.cross_entropy(others_VW, own_V), objectives.error(others_VW, own_V)[0]


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"views": nats per view, "retrieval": share of the views of which another picture's is nearer}."""
    seen_VPX = views(objectives.keys(key, batch), batch["image"], config)
    _, vector_VE = vectors(parameters, seen_VPX, config)
    found = dict(zip(("views", "retrieval"), nt_xent(vector_VE, config.temperature)))
    count_B = jnp.full(len(batch["image"]), VIEWS, jnp.float32)
    return {name: (each_V.reshape(-1, VIEWS).sum(axis=1), count_B) for name, each_V in found.items()}


def metrics(parameters: Parameters, batch: dict[str, jax.Array], config: Config):
    """{"neighbour": share of pictures whose nearest other of the batch, by the encoder's state, has another label}."""
    if not config.labels:
        return {}
    state_BD, _ = vectors(parameters, patches.patchify(batch["image"], config.patch), config)
    unit_BD = stack.rms_norm(state_BD)
    alike_BC = jnp.einsum("bd,cd->bc", unit_BD, unit_BD)
    nearest_B = jnp.where(jnp.eye(len(unit_BD), dtype=bool), -jnp.inf, alike_BC).argmax(axis=1)
    wrong_B = batch["label"][nearest_B] != batch["label"]
    return {"neighbour": (wrong_B.astype(jnp.float32), jnp.ones(len(wrong_B), jnp.float32))}


def other_views(batch: int) -> int:
    """Among how many views of a batch of pictures the other view of one is told."""
    return VIEWS * batch - 1


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss`` and ``metrics``, the headline first."""
    views = Term(Unit(per="view"), count=VIEWS, batchwise=True, candidates=other_views)
    found = {"views": views, "retrieval": replace(views, unit=Unit(quantity="share", per="view"), weight=0.0)}
    picture = Unit(quantity="share", per="image")
    neighbour = Term(picture, weight=0.0, count=1, batchwise=True, candidates=lambda batch: batch - 1)
    return {**found, "neighbour": neighbour} if config.labels else found


def counted(config: Config) -> str:
    """What D counts."""
    return f"patches of images; {config.patches} an image, each seen in two views"


def batch_spec(config: Config) -> dict[str, int]:
    """Patches per image, its side, and the number of labels if they are read."""
    spec = {"context": config.patches, "image": config.image}
    return {**spec, "classes": config.labels} if config.labels else spec


def components(config: Config) -> list[Component]:
    """Patch embedding, stack and projection, once for each view, and the similarities of all views of the batch."""
    c = config
    blocks = stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.patches)
    hidden, head = c.width**2, c.width * c.project
    return [
        *patches.components(c.pixels, c.patches, c.width, VIEWS * c.patches),
        *(part.times(VIEWS) for part in blocks),
        Component("final_norm", "norm", c.width),
        Component("hidden", "projection", hidden, hidden, VIEWS),
        Component("head", "projection", head, head, VIEWS),
        Component("similarity", "head", 0, among=2 * c.project * VIEWS**2),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    del config
    projection: Axes = {"hidden": ("embed", "mlp"), "head": ("mlp", "vocab")}
    return {"patches": patches.axes(), "stack": stack.axes(), "norm": ("embed",), **projection}
