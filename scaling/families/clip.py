"""CLIP: towers that map a picture, its caption and optionally its sound to similar unit vectors.

The picture has a ViT (mean of its patches), the text a causal Transformer, pooled at end-of-text, and the optional
sound a Transformer over its slices (VATT, arXiv 2104.11178); pictures are contrasted with each of the others. The loss
is symmetric InfoNCE with a learned temperature (arXiv 2103.00020); the negatives are the other examples of the whole
batch, across all devices. So loss and retrieval depend on the batch, and evaluation has its own batch size. Captions of
other pictures (ALIGN, arXiv 2102.05918) are an option of the data source ``scenes``.

The picture's projection starts at zero, so every similarity starts at 0 and the loss at ln(batch). The attention
outputs of the text do not start at zero: otherwise all captions would be equal at end-of-text, their gradients would
cancel, and only rounding would break the symmetry (up to 300 steps of 64 pairs stayed at ln 64). The scale of
similarities starts at 1 / ``temperature`` and is clamped to at most 100 after each step, as in CLIP. It
amplifies rounding: in bfloat16 on noise, ten steps on a mesh and on one device differ by 1.2e-2 of the loss at 0.07,
and by 1.3e-3 at 0.2 to 1.
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
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape of each tower, in addition to the fields of ``patches.ImageShape``. Vectors have ``width`` elements.

    Attributes:
      text: positions of a caption with its end token.
      sound: samples of a sound; 0: no sound tower.
      slice: samples per patch of sound.
      classes, prompts: number of labels, and texts per label, for zero-shot classification; 0: none.
      temperature: initial temperature of the similarities; it is learned.
    """

    vocab: int = setting(19, least=1)
    text: int = setting(6, least=1)
    sound: int = setting(0, least=0)
    slice: int = setting(32, least=1)
    classes: int = 0
    prompts: int = 0
    temperature: float = setting(0.07, least=1 / LARGEST_SCALE)

    def __post_init__(self):
        super().__post_init__()
        if self.sound % self.slice:
            remedy = f"must be a multiple of slice = {self.slice}, or 0"
            raise UserError("model.sound", self.sound, remedy, Code.CONFLICT)

    @property
    def towers(self) -> dict[str, tuple[int, int]]:
        """(positions, numbers per patch) of each tower; the text has 0 numbers per patch."""
        towers = {"image": (self.patches, self.pixels), "text": (self.text, 0)}
        return {**towers, "sound": (self.sound // self.slice, self.slice)} if self.sound else towers


ladder = gpt.ladder


def revision(config: Config) -> int:
    """2: the scale is clamped after the step, no longer inside the loss; N counts projections."""
    del config
    return 2


class Tower(nn.Module):
    """Maps patches_BPX or tokens_BT to states x_BTD of all positions, and to unit vectors y_BD in float32."""

    config: Config
    places: int  # number of patches; 0 for tokens

    @nn.compact
    def __call__(self, inputs_: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        if self.places:
            x_BTD = patches.Embed(self.places, c.width, name="patches")(inputs_)
            x_BTD = stack.Stack(*shape, mask="bidirectional", rotary=False, name="stack")(x_BTD)
        else:
            small = nn.initializers.normal(c.width**-0.5 / 16)  # as in gpt
            table_VD = self.param("embedding", small, (c.vocab, c.width))
            x_BTD = stack.Stack(*shape, mixing=True, name="stack")(stack.rms_norm(head.look_up(table_VD, inputs_)))
        x_BTD = stack.rms_norm(x_BTD, self.param("norm", nn.initializers.ones, (c.width,)))
        # One vector per example, in float32 from here on, since the scale amplifies rounding.
        if self.places:
            pooled_BD = x_BTD.astype(jnp.float32).mean(axis=1)
        else:
            end_B11 = inputs_.argmax(axis=1)[:, None, None]  # end-of-text is the highest token, as in CLIP
            pooled_BD = jnp.take_along_axis(x_BTD, end_B11, axis=1)[:, 0].astype(jnp.float32)
        start = nn.initializers.zeros if self.name == "image" else nn.initializers.normal(c.width**-0.5)
        head_DD = self.param("head", start, (c.width, c.width))
        vector_BD = stack.rms_norm(jnp.einsum("bd,de->be", pooled_BD, head_DD.astype(jnp.float32))) * c.width**-0.5
        return x_BTD, vector_BD


class Model(nn.Module):
    """Maps {tower: inputs} to {tower: unit vectors y_BD}, and the scale of similarities."""

    config: Config

    @nn.compact
    def __call__(self, inputs: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
        places = {name: count if pixels else 0 for name, (count, pixels) in self.config.towers.items()}
        by_tower = {name: Tower(self.config, places[name], name=name)(x_)[1] for name, x_ in inputs.items()}
        log_scale = self.param("log_scale", nn.initializers.constant(-math.log(self.config.temperature)), ())
        return by_tower, jnp.exp(log_scale.astype(jnp.float32))


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    empty = {
        name: jnp.zeros((1, count, pixels)) if pixels else jnp.zeros((1, count), jnp.int32)
        for name, (count, pixels) in config.towers.items()
    }
    return dict(Model(config).init(key, empty)["params"])


def clamped(config: Config) -> dict[str, tuple[float, float]]:
    """Bounds of the scale's logarithm."""
    del config
    return {"log_scale": (-math.inf, math.log(LARGEST_SCALE))}


def vectors(parameters: Parameters, inputs: dict[str, jax.Array], config: Config) -> Any:
    """({tower: unit vectors (B, D)}, scale) for the towers in ``inputs``, which are patches or tokens."""
    return Model(config).apply({"params": parameters}, inputs)


def _inputs(batch: dict[str, jax.Array], config: Config) -> dict[str, jax.Array]:
    inputs = {"image": patches.patchify(batch["image"], config.patch), "text": batch["tokens"][:, 1:]}
    return {**inputs, "sound": patches.slices(batch["sound"], config.slice)} if config.sound else inputs


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"contrast": nats per pair of picture and caption, "retrieval": share found wrong}, and the same for the sound.

    Every example is a negative of every other of the batch.
    """
    del key  # nothing here is random
    by_tower, scale = vectors(parameters, _inputs(batch, config), config)
    image_BD, terms = constrain(by_tower.pop("image"), "batch", "embed"), {}
    for name, other_BD in by_tower.items():
        scores_BC, back_BC, own_B = objectives.matches(image_BD, constrain(other_BD, "candidates", "embed"))
        terms[_named("contrast", name)] = objectives.contrast(scale * scores_BC, scale * back_BC, own_B)
        terms[_named("retrieval", name)] = objectives.retrieval_error(scores_BC, back_BC, own_B)
    return terms


def _named(term: str, tower: str) -> str:
    return term if tower == "text" else f"{term}_{tower}"


def metrics(parameters: Parameters, batch: dict[str, jax.Array], config: Config):
    """{"zero_shot": share of pictures whose label is not that of the nearest mean of prompts}."""
    if not config.prompts:
        return {}
    texts_NT = batch["prompts"][..., 1:].reshape(-1, config.text)
    inputs = {"image": patches.patchify(batch["image"], config.patch), "text": texts_NT}
    by_tower, _ = vectors(parameters, inputs, config)
    class_CD = stack.rms_norm(by_tower["text"].reshape(-1, config.prompts, config.width).mean(axis=1))
    return {"zero_shot": objectives.error(jnp.einsum("bd,cd->bc", by_tower["image"], class_CD), batch["label"])}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss`` and ``metrics``, the headline first."""
    contrast = Term(Unit(per="pair"), count=1, batchwise=True)
    retrieval = Term(Unit(quantity="share", per="pair"), weight=0.0, count=1, batchwise=True)
    zero_shot = Term(Unit(quantity="share", per="image"), weight=0.0, count=1)
    terms = {}
    for name in config.towers:
        if name != "image":
            terms |= {_named("contrast", name): contrast, _named("retrieval", name): retrieval}
    return {**terms, "zero_shot": zero_shot} if config.prompts else terms


def counted(config: Config) -> str:
    """What D counts."""
    parts = ", ".join(f"{count} of {name}" for name, (count, _) in config.towers.items())
    return f"positions of examples, each {parts}"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of an example over all towers, and the inputs of each."""
    spec = {"context": sum(count for count, _ in config.towers.values())}
    spec |= {"text": config.text, "vocab": config.vocab, "image": config.image}
    spec |= {"sound": config.sound} if config.sound else {}
    return {**spec, "classes": config.classes, "prompts": config.prompts} if config.prompts else spec


def components(config: Config) -> list[Component]:
    """Each tower on its positions, its projection once per example, and similarities with all examples of the batch."""
    c, parts = config, []
    for name, (count, pixels) in c.towers.items():
        if pixels:
            parts += patches.components(pixels, count, c.width, count, f"{name}_")
        else:
            parts.append(Component(f"{name}_embedding", "embedding", c.vocab * c.width))
        parts += stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, count, f"{name}_")
        parts.append(Component(f"{name}_final_norm", f"{name}_norm", c.width))
        parts.append(Component(f"{name}_head", "projection", c.width**2, c.width**2, 1))
    return [*parts, Component("similarity", "head", 1, among=2 * c.width * (len(c.towers) - 1))]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    towers: dict[str, Axes] = {}
    for name, (_, pixels) in config.towers.items():
        first: Axes = {"patches": patches.axes()} if pixels else {"embedding": ("vocab", "embed")}
        towers[name] = {**first, "stack": stack.axes(), "norm": ("embed",), "head": ("embed", "vocab")}
    return {"log_scale": (), **towers}
