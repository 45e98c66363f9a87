"""Patches of pictures and sounds, and their embedding with learned positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import dense
from scaling.blocks.head import look_up
from scaling.blocks.logical import Axes
from scaling.blocks.stack import Shape, rms_norm
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.records.unit import Unit
from scaling.settings import setting

BOX = 5  # numbers of a region's box
SQUARED_ERROR = Unit(quantity="squared error", per="pixel value")


@dataclass(frozen=True)
class ImageShape(Shape):
    """Fields of every family that reads images, for its ``Config`` to inherit.

    Attributes:
      image: side in pixels.
      patch: side of a patch in pixels; divides ``image``.
    """

    image: int = setting(32, least=1)
    patch: int = setting(4, least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.image % self.patch:
            remedy = f"must divide the image's side, {self.image}"
            raise UserError("model.patch", self.patch, remedy, Code.CONFLICT)

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image // self.patch) ** 2

    @property
    def pixels(self) -> int:
        """Numbers in a patch."""
        return 3 * self.patch**2


@dataclass(frozen=True)
class RegionShape(ImageShape):
    """``ImageShape`` of families that also take the regions of a picture, which the source cuts out, for its patches.

    Attributes:
      regions: of a picture; 0: it is cut into patches.
      region_side: side of a region in pixels.
    """

    regions: int = setting(0, least=0)
    region_side: int = setting(11, least=1)

    @property
    def places(self) -> int:
        """Positions of a picture."""
        return self.regions or self.patches

    @property
    def shown(self) -> int:
        """Numbers of pixels at a position."""
        return 3 * self.region_side**2 if self.regions else self.pixels

    @property
    def features(self) -> int:
        """Numbers of a position: of pixels, and of the box of a region."""
        return self.shown + (BOX if self.regions else 0)


@dataclass(frozen=True)
class PictureShape(RegionShape):
    """``RegionShape`` of families that hide some of a picture.

    Attributes:
      region_rate: share of the regions or patches that are hidden; at least one.
    """

    region_rate: float = setting(0.15, above=0, most=1)

    @property
    def hidden(self) -> int:
        """Positions that are hidden."""
        return max(1, round(self.region_rate * self.places))

    @property
    def features(self) -> int:
        """Numbers of a position: of pixels, of the box of a region, and whether it is hidden."""
        return super().features + 1


def places(batch: Mapping[str, jax.Array], shape: RegionShape) -> jax.Array:
    """Pixels in [-1, 1] of the positions of a picture, (B, P, X)."""
    if not shape.regions:
        return patchify(batch["image"], shape.patch)
    return scaled(batch["region"]).reshape(*batch["region"].shape[:2], -1)


def boxed(pixels_BPX: jax.Array, batch: Mapping[str, jax.Array], shape: RegionShape) -> jax.Array:
    """Pixels with, where they are of regions, their boxes behind them, (B, P, RegionShape.features)."""
    return jnp.concatenate([pixels_BPX, batch["box"]], axis=2) if shape.regions else pixels_BPX


def hide(keys_B: jax.Array, shape: PictureShape) -> jax.Array:
    """Chooses positions to hide, bool (B, P)."""
    return objectives.ranks(objectives.uniform(keys_B, shape.places)) < shape.hidden


def masked(hidden_BP: jax.Array, batch: Mapping[str, jax.Array], shape: PictureShape) -> jax.Array:
    """What an ``Embed`` is given of ``places``, (B, P, features): pixels of hidden ones are 0, boxes stay, and the last
    number says so (UNITER, arXiv 1909.11740)."""
    hidden_BP1 = hidden_BP[..., None]
    seen_BPX = boxed(jnp.where(hidden_BP1, 0, places(batch, shape)), batch, shape)
    return jnp.concatenate([seen_BPX, hidden_BP1.astype(jnp.float32)], axis=2)


def patchify(image_BHWC: jax.Array, patch: int) -> jax.Array:
    """Cuts bytes (B, H, W, 3) into patches (B, P, 3 * patch**2) in [-1, 1], row by row."""
    return cut(scaled(image_BHWC), patch)


def cut(x_BHWC: jax.Array, patch: int) -> jax.Array:
    """Cuts numbers (B, H, W, 3) into patches (B, P, 3 * patch**2), row by row."""
    size, side = x_BHWC.shape[0], x_BHWC.shape[1] // patch
    x = x_BHWC.reshape(size, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(size, side * side, 3 * patch**2)


def slices(sound_BS: jax.Array, patch: int) -> jax.Array:
    """Cuts bytes (B, S) into patches (B, S / patch, patch) in [-1, 1]."""
    return scaled(sound_BS).reshape(len(sound_BS), -1, patch)


def scaled(bytes_: jax.Array) -> jax.Array:
    """Bytes as float32 in [-1, 1]."""
    return bytes_.astype(jnp.float32) / 127.5 - 1


def normalised(patches_BPX: jax.Array) -> jax.Array:
    """Each patch less its mean, over its standard deviation (X - 1 degrees of freedom), as in MAE's code.

    The mean square of a patch that is not uniform is (X - 1) / X; a uniform one becomes 0.
    """
    centred_BPX = patches_BPX - patches_BPX.mean(axis=-1, keepdims=True)
    variance_BP1 = jnp.square(centred_BPX).sum(axis=-1, keepdims=True) / (patches_BPX.shape[-1] - 1)
    return centred_BPX * jax.lax.rsqrt(variance_BP1 + 1e-6)


class Embed(nn.Module):
    """Embeds patches_BPX as x_BPD of unit RMS, in the dtype of the parameters.

    ``place_BP`` gives the positions of the patches; without it they are 0, 1, 2 ... Patches of ``hidden_BP`` are
    replaced by a learned vector, which has the patch's position.

    Attributes:
      places: number of positions.
      blank: whether patches may be hidden.
    """

    places: int
    width: int
    blank: bool = False

    @nn.compact
    def __call__(
        self, patches_BPX: jax.Array, place_BP: jax.Array | None = None, hidden_BP: jax.Array | None = None
    ) -> jax.Array:
        pixels = patches_BPX.shape[-1]
        weight_XD = self.param("patch", nn.initializers.normal(pixels**-0.5), (pixels, self.width))
        place_PD = self.param("position", nn.initializers.normal(0.5), (self.places, self.width))
        at_BPD = place_PD if place_BP is None else look_up(place_PD, place_BP)
        x_BPD = dense.product(patches_BPX.astype(weight_XD.dtype), weight_XD)
        if self.blank:
            assert hidden_BP is not None
            blank_D = self.param("blank", nn.initializers.normal(0.02), (self.width,))
            x_BPD = jnp.where(hidden_BP[..., None], blank_D, x_BPD)
        return rms_norm(x_BPD + at_BPD)


def components(
    pixels: int, places: int, width: int, seen: int, prefix: str = "", *, k: int = 6, blank: bool = False
) -> list[Component]:
    """Counted components of an Embed.

    Args:
      pixels: numbers per patch.
      places: number of positions.
      seen: patches per example that are embedded.
      prefix: of the names, to distinguish streams.
      k: as in ``Component``.
      blank: whether patches may be hidden.
    """
    weights, part = pixels * width, prefix.rstrip("_") or "patches"
    parts = [
        Component(f"{prefix}patch", "patch", weights, weights, seen, k=k, first=k == 6, part=part),
        Component(f"{prefix}position", "position", places * width, k=k, part=part),
    ]
    return [*parts, Component(f"{prefix}patch_blank", "position", width, k=k, part=part)] if blank else parts


def axes(*, blank: bool = False) -> Axes:
    """Logical axes of an Embed. The numbers of pixels and positions do not grow with the width."""
    tree: Axes = {"patch": ("pixels", "embed"), "position": ("vocab", "embed")}
    return {**tree, "blank": ("embed",)} if blank else tree
