"""Flamingo (arXiv 2204.14198): a language model that is not trained reads pictures through gated cross-attention.

A ViT maps each picture to vectors of its patches. The resampler, a Perceiver, makes ``latents`` of these: learned
vectors, without positions, that attend to [patches; latents] and pass through an MLP, ``resampler_layers`` times.
Before every ``every``-th block of the language model stands a gated block

    x + tanh(g1) cross-attention(x, latents), then x + tanh(g2) MLP(x)

with numbers g1, g2 that start at zero, so that the loss starts as the language model's, and is the same for any picture
to the bit. (To it, too, without the compiler's fusing, which rounds the two programs differently: 2e-9 of a mean loss.)
What is behind the gates does not start at zero: with two zeros in a row neither would ever move. A token attends to the
picture whose mark is the last one up to it, and to no other; before the first mark, attention adds nothing.

``trains``: ``added``: resampler, gated blocks and what is added to the mark's embedding, which starts at zero. The ViT
then costs 2 FLOPs per weight and token, the language model 4, since the gradient of the gated blocks and of the mark
passes through it. ``tower``: the ViT too. ``all``: everything. What is not trained must be inherited, the rest may be:
``patches``, ``vision`` and ``vision_norm`` are the parts ``patches``, ``stack`` and ``norm`` of a vit or simclr;
``embedding``, ``stack``, ``norm`` (and ``head``) those of a gpt, whose vocabulary has the mark. Both have the shape and
the activation that they were trained with.

What differs from the paper and from open_flamingo's code: RMSNorm for LayerNorm, QK-norm, the house's activation; one
picture at a mark and no video, so no embedding of frames; the gated blocks have the heads of the language model, the
resampler those of the ViT. D counts positions of text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import cross, head, layers, patches, stack, tower
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Origin, Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

LANGUAGE = tuple((name, name) for name in (*tower.REPEATED, "mlp_ratio", "tied"))


@dataclass(frozen=True)
class Config(tower.Shape):
    """Shape of the language model and, in its fields of ``tower.Shape``, of pictures and ViT; and:

    Attributes:
      mark: the token that stands for a picture.
      pictures: number of pictures of an example.
      every: of the language model's blocks, each ``every``-th has a gated block before it.
      latents: vectors that the resampler makes of a picture. It has the width and heads of the ViT, and the activation
        of the language model, ``activation``.
      trains: see above.
    """

    vocab: int = setting(20, least=1)
    context: int = setting(21, least=1)
    tied: bool = True
    mark: int = setting(19, least=0)
    pictures: int = setting(3, least=1)
    every: int = setting(1, least=1)
    latents: int = setting(8, least=1)
    resampler_layers: int = setting(2, least=1)
    trains: str = setting("added", choices=tower.TRAINS)

    def __post_init__(self):
        super().__post_init__()
        if self.every > self.layers:
            remedy = f"leaves no gated block: the language model has {self.layers} blocks"
            raise UserError("model.every", self.every, remedy, Code.CONFLICT)

    @property
    def gated(self) -> int:
        """Number of gated blocks."""
        return self.layers // self.every

    @property
    def language(self) -> gpt.Config:
        """The language model."""
        own = self.width, self.layers, self.heads, self.mlp_ratio, self.activation, self.dtype, self.weight_bits
        return gpt.Config(*own, vocab=self.vocab, context=self.context, tied=self.tied)


ladder = gpt.ladder


def _added(config: Config) -> dict[str, cross.Leaves]:
    """What stands between the ViT and the language model."""
    c, wide, count = config, config.vision_width, config.resampler_layers
    ends: cross.Leaves = {"latents": ((c.latents, wide), ("vocab", "embed")), "norm": ((wide,), ("embed",))}
    ends["media_norm"] = ((count, wide), ("layers", "embed"))
    gates: cross.Leaves = {f"{name}_gate": ((c.gated,), ("layers",)) for name in ("attention", "mlp")}
    return {
        "resampler": {**cross.leaves(count, wide, wide, c.vision_heads, c.mlp_ratio * wide), **ends},
        "gated": {**cross.leaves(c.gated, c.width, wide, c.heads, c.mlp_ratio * c.width), **gates},
    }


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; what is not trained is to be replaced by what is inherited."""
    c, (first, second, third, *keys) = config, jax.random.split(key, 5)
    added = {part: cross.draw(own, leaves) for own, (part, leaves) in zip(keys, _added(c).items())}
    return {
        **tower.init(first, second, c),
        **gpt.init(third, c.language),
        **added,
        "mark": jnp.zeros(c.width),
    }


def frozen(config: Config) -> tuple[str, ...]:
    """Top-level names of the parameters that are not trained."""
    return {"added": (*tower.PARTS, *_language(config)), "tower": _language(config), "all": ()}[config.trains]


def _language(config: Config) -> tuple[str, ...]:
    """The parts of the language model."""
    return ("embedding", "stack", "norm", *(() if config.tied else ("head",)))


def inherits(config: Config) -> dict[str, Origin]:
    """The ViT and the language model, which must be inherited where they are not trained."""
    still = frozen(config)
    shown = {part: Origin(tower.RUNS, tower.FIELDS, source, part in still) for part, source in tower.PARTS.items()}
    return {**shown, **{part: Origin(("gpt",), LANGUAGE, needed=part in still) for part in _language(config)}}


def _resampled(w: dict[str, jax.Array], media_NPW: jax.Array, config: Config) -> jax.Array:
    """The latents of N pictures, (N, Q, W)."""
    once = {name: w[name] for name in ("latents", "norm")}

    def layer(x_NQW: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        x_NQW = constrain(x_NQW, "batch", "time", "embed")
        query_NQW, own_NPW = stack.rms_norm(x_NQW, w["query_norm"]), stack.rms_norm(media_NPW, w["media_norm"])
        x_NQW += cross.attention(query_NQW, jnp.concatenate([own_NPW, query_NQW], axis=1), w)
        return x_NQW + cross.feedforward(x_NQW, w, config.activation), None

    x_NQW = jnp.broadcast_to(once["latents"], (len(media_NPW), *once["latents"].shape))
    blocks, count = {name: leaf for name, leaf in w.items() if name not in once}, config.resampler_layers
    x_NQW, _ = layers.each(layers.kept(layer, count), x_NQW, blocks, count)
    return stack.rms_norm(x_NQW, once["norm"])


def _read(parameters: Any, x_BTD: jax.Array, memory_BSW: jax.Array, see_BTS: jax.Array, config: Config) -> jax.Array:
    """The language model's blocks, with the gated ones among them."""
    c, language = config, parameters["stack"]

    def blocks(x_BTD: jax.Array, w: dict[str, jax.Array], first: int, last: int) -> Any:
        if first == last:
            return x_BTD
        own = {name: leaf[first:last] for name, leaf in w.items()}
        shape = last - first, c.width, c.heads, c.mlp_ratio * c.width, c.activation
        return stack.Stack(*shape).apply({"params": own}, x_BTD)

    def gated(x_BTD: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        def through(gate: jax.Array, y_BTD: jax.Array) -> jax.Array:
            return (jnp.tanh(gate.astype(jnp.float32)) * y_BTD).astype(y_BTD.dtype)

        x_BTD = constrain(x_BTD, "batch", "time", "embed")
        found_BTD = cross.attention(stack.rms_norm(x_BTD, w["query_norm"]), memory_BSW, w, see_BTS)
        x_BTD += through(w["attention_gate"], found_BTD)
        return x_BTD + through(w["mlp_gate"], cross.feedforward(x_BTD, w, c.activation)), None

    def group(x_BTD: jax.Array, w: tuple[dict[str, jax.Array], dict[str, jax.Array]]) -> tuple[jax.Array, None]:
        x_BTD, _ = layers.kept(gated, c.gated)(blocks(x_BTD, w[0], 0, c.every - 1), w[1])
        return blocks(x_BTD, w[0], c.every - 1, c.every), None

    whole = c.gated * c.every
    grouped = {name: leaf[:whole].reshape(c.gated, c.every, *leaf.shape[1:]) for name, leaf in language.items()}
    x_BTD, _ = layers.each(group, x_BTD, (grouped, parameters["gated"]), c.gated)
    return blocks(x_BTD, language, whole, c.layers)


def outputs(parameters: Parameters, patches_BSPX: jax.Array, tokens_BT: jax.Array, config: Config, targets_BT=None):
    """Logits (B, T, V) of the next token or, with targets, their nats (B, T); S pictures, in the order of the marks."""
    # Gradients are stopped at the weights, so that no product of what is not trained has a gradient of its weight.
    still = {name: jax.lax.stop_gradient(parameters[name]) for name in frozen(config)}
    own: Any = {**parameters, **still}
    size, count = patches_BSPX.shape[:2]
    media_NPW = tower.seen(own, patches_BSPX.reshape(size * count, *patches_BSPX.shape[2:]), config)
    memory_BSW = _resampled(own["resampler"], media_NPW, config).reshape(size, -1, config.vision_width)
    marked_BT = tokens_BT == config.mark
    picture_S = jnp.repeat(jnp.arange(1, count + 1), config.latents)
    see_BTS = jnp.cumsum(marked_BT, axis=1)[..., None] == picture_S
    x_BTD = head.look_up(own["embedding"], tokens_BT) + jnp.where(marked_BT[..., None], own["mark"], 0)
    x_BTD = _read(own, stack.rms_norm(x_BTD), memory_BSW, see_BTS, config)
    weight = own["embedding"] if config.tied else own["head"]
    return head.vocabulary(stack.rms_norm(x_BTD, own["norm"]), weight, targets_BT, tied=config.tied)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"text": nats_BT of the next tokens, and count_BT}."""
    del key  # nothing here is random
    tokens, (size, count) = batch["tokens"], batch["pictures"].shape[:2]
    patches_NPX = patches.patchify(batch["pictures"].reshape(size * count, *batch["pictures"].shape[2:]), config.patch)
    patches_BSPX = patches_NPX.reshape(size, count, *patches_NPX.shape[1:])
    nats_BT = outputs(parameters, patches_BSPX, tokens[:, :-1], config, tokens[:, 1:])
    return {"text": objectives.clm(nats_BT, batch.get("mask"))}


def terms(config: Config) -> dict[str, Term]:
    """The term of ``loss``."""
    drawn = config.trains == "all"  # a language model that is inherited predicts something
    start = math.log(config.vocab) if drawn else None
    return {"text": Term(Unit(given="the pictures before it"), likelihood=True, causal=True, start=start)}


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of text, {config.context} an example, in which {config.pictures} pictures stand"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of text, size of the vocabulary, number and side of the pictures, and their mark."""
    c = config
    return {"context": c.context, "vocab": c.vocab, "pictures": c.pictures, "side": c.image, "mark": c.mark}


def components(config: Config) -> list[Component]:
    """ViT and resampler on each picture, the language model on the text, and gated blocks on both."""
    c, language = config, 6 if config.trains == "all" else 4
    latents, seen = c.pictures * c.latents, c.patches + c.latents
    own, gated = _added(c)["resampler"], _added(c)["gated"]
    return [
        *tower.components(c, 2 if c.trains == "added" else 6, c.pictures),
        *(replace(part, k=language) for part in gpt.components(c.language)),
        Component("mark", "embedding", c.width, part="mark"),
        *cross.components("resampler", own, latents, c.pictures * seen, latents * seen),
        *cross.components("gated", gated, c.context, latents, c.context * latents),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    added = {part: {name: names for name, (_, names) in own.items()} for part, own in _added(config).items()}
    return {**tower.axes(), **gpt.axes(config.language), **added, "mark": ("embed",)}
