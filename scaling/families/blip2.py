"""BLIP-2 (arXiv 2301.12597): a Q-Former between a ViT and a language model that are not trained, in two stages.

The Q-Former's layers attend over [queries; text], with an MLP of their own for each of the two; in every ``every``-th
layer, from the first on, the queries (learned vectors), and they alone, then attend to the patches of the picture.

``stage`` = ``represent``: three losses of the same weights, with three masks.

    contrast   queries and text never see each other. The similarity of picture and caption is the largest over queries
               of cosines with the text's first state, times a learned scale that starts at 1 / ``temperature``;
               InfoNCE in both directions among the whole batch, with ``smoothing`` of its targets
    matching   all see all. Does the text belong to the picture? Logits are averaged over queries. Asked of each pair
               and of two wrong ones: the text with another picture and the picture with another text, drawn with the
               weights softmax(similarities) + 0.0001
    text       causal, behind the queries, which see no text: nats of a caption that begins with a token of its own

Queries that see no text are the same with a text behind them, so one pass serves the contrast's picture and the text,
as the reference's cache of keys does. Heads start at zero, the contrast's for pictures alone: it starts at ln(batch),
whatever the smoothing, and matching at ln 2. Both depend on the batch; evaluation has a size of its own.

``stage`` = ``generate``: the text half is absent. A linear map of the queries' states is a prefix of the language
model's text, whose loss this is; its start is not known. At a map of zero every norm would have a slope of 1000.

``trains``: ``added``: all but ViT and language model, which cost 2 and 4 FLOPs per weight and token; ``tower``: the ViT
too; ``all``: everything. What is not trained must be inherited: ``patches``, ``vision`` and ``vision_norm`` are
``patches``, ``stack`` and ``norm`` of a vit or simclr (clip's tower is inside of a part); ``embedding``, ``stack``,
``norm`` (and ``head``) those of a gpt. ``qformer`` may come from a run of ``represent``; its ViT should come with it.

What differs from salesforce/LAVIS: no BERT to start from, pre-norm RMSNorm, QK-norm, no biases, the house's activation,
no layer before the head of the text, a limit of 100 on the scale. D counts positions of text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import dense, head, patches, qformer, stack, tower
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component
from scaling.families import Origin, Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

STAGES = ("represent", "generate")
LARGEST_SCALE = 100.0
LEAST_WEIGHT = 1e-4  # of a wrong pair
ASKED = 3  # pairs of an example whose match is asked for
LANGUAGE = (*((f"language_{name}", name) for name in tower.REPEATED), *((name, name) for name in ("mlp_ratio", "tied")))
OWN = tuple((name, name) for name in ("activation", "every"))


@dataclass(frozen=True)
class Config(tower.Shape):
    """Shape of the Q-Former and, in its fields of ``tower.Shape``, of pictures and ViT; and:

    Attributes:
      stage, every, temperature, smoothing, trains: see above.
      context: positions of a caption with its end token.
      tied: whether the stage's table of tokens is also its head.
      queries: their number. project: length of the vectors that are compared.
      language_width, language_layers, language_heads, language_activation: of the language model.
    """

    stage: str = setting("represent", choices=STAGES)
    vocab: int = setting(19, least=1)
    context: int = setting(6, least=1)
    tied: bool = True
    queries: int = setting(8, least=1)
    every: int = setting(2, least=1)
    project: int = setting(32, least=1)
    temperature: float = setting(0.07, least=1 / LARGEST_SCALE)
    smoothing: float = setting(0.1, least=0, most=1)
    language_width: int = setting(24, least=1)
    language_layers: int = setting(2, least=1)
    language_heads: int = setting(3, least=1)
    language_activation: str = setting("relu2", choices=stack.ACTIVATIONS)
    trains: str = setting("added", choices=tower.TRAINS)

    def __post_init__(self):
        super().__post_init__()
        tower.require_pairs("language", self.language_width, self.language_heads)

    @property
    def speaks(self) -> bool:
        """Whether a language model says the text."""
        return self.stage == "generate"

    @property
    def former(self) -> qformer.Shape:
        """The Q-Former."""
        own = self.layers, self.width, self.heads, self.mlp_ratio * self.width, self.activation
        return qformer.Shape(*own, self.queries, self.vision_width, self.every)

    @property
    def language(self) -> gpt.Config:
        """The language model, on queries and text."""
        c, own = self, (self.language_width, self.language_layers, self.language_heads, self.mlp_ratio)
        more = c.language_activation, c.dtype, c.weight_bits
        return gpt.Config(*own, *more, vocab=c.vocab, context=c.queries + c.context, tied=c.tied)


ladder = gpt.ladder


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; what is not trained is to be replaced by what is inherited."""
    c, (first, second, third, *keys) = config, jax.random.split(key, 8)
    drawn, tree = iter(keys), {**tower.init(first, second, c), **qformer.init(third, c.former, reads=not c.speaks)}

    def normal(shape: tuple[int, int], size: float = 1.0) -> jax.Array:
        return jax.random.normal(next(drawn), shape) * size * c.width**-0.5

    if c.speaks:
        return {**tree, "projection": normal((c.width, c.language_width)), **gpt.init(next(drawn), c.language)}
    tree |= {"image_head": jnp.zeros((c.width, c.project)), "text_head": normal((c.width, c.project))}
    tree |= {"match": jnp.zeros((c.width, 2)), "log_scale": jnp.float32(-math.log(c.temperature))}
    tree["embedding"] = normal((c.vocab + 1, c.width), 1 / 16)  # small, as in gpt
    tree["position"] = normal((c.context + 1, c.width), c.width**0.5)
    return tree if c.tied else {**tree, "head": jnp.zeros((c.width, c.vocab))}


def _language(config: Config) -> tuple[str, ...]:
    return ("embedding", "stack", "norm", *(() if config.tied else ("head",))) if config.speaks else ()


def frozen(config: Config) -> tuple[str, ...]:
    """Top-level names of the parameters that are not trained."""
    shown = tower.PARTS if config.trains == "added" else ()
    return *shown, *(() if config.trains == "all" else _language(config))


def clamped(config: Config) -> dict[str, tuple[float, float]]:
    """Bounds of the scale's logarithm."""
    return {} if config.speaks else {"log_scale": (-math.inf, math.log(LARGEST_SCALE))}


def exact(config: Config) -> tuple[str, ...]:
    """The scale's logarithm, which bfloat16 would round by up to 1/64."""
    return tuple(clamped(config))


def inherits(config: Config) -> dict[str, Origin]:
    """ViT and language model, which must be inherited where they are not trained, and the Q-Former, which may be."""
    still = frozen(config)
    shown = {part: Origin(tower.RUNS, tower.FIELDS, source, part in still) for part, source in tower.PARTS.items()}
    language = {part: Origin(("gpt",), LANGUAGE, needed=part in still) for part in _language(config)}
    return {**shown, **language, "qformer": Origin(("blip2",), OWN, needed=False)}


def states(parameters: Any, memory_BPW: Any, tokens_BT: Any, see_BSS: jax.Array, config: Config) -> jax.Array:
    """The Q-Former's states of queries, of tokens, or of both, as ``qformer.states`` has them."""
    text_BTD = None
    if tokens_BT is not None:
        place_TD = parameters["position"][: tokens_BT.shape[1]]
        text_BTD = stack.rms_norm(stack.rms_norm(head.look_up(parameters["embedding"], tokens_BT)) + place_TD)
    return qformer.states(parameters["qformer"], parameters.get("reader"), memory_BPW, text_BTD, see_BSS, config.former)


def alike(parameters: Any, query_BQD: jax.Array, text_CD: jax.Array) -> jax.Array:
    """Cosines of pictures and captions, the largest over queries, (B, C) float32."""

    def unit(x_: jax.Array, name: str) -> jax.Array:
        head_DE = parameters[name].astype(jnp.float32)
        return stack.rms_norm(jnp.einsum("...d,de->...e", x_.astype(jnp.float32), head_DE)) * head_DE.shape[1] ** -0.5

    y_BQE = constrain(unit(query_BQD, "image_head"), "batch", "time", "embed")
    y_CE = constrain(unit(text_CD, "text_head"), "candidates", "embed")
    return jnp.einsum("bqe,ce->bqc", y_BQE, y_CE).max(axis=1)


def _represented(own: Any, memory_BPW: jax.Array, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """The terms of the first stage."""
    c, tokens_BS, (size, length) = config, jnp.asarray(batch["tokens"]), batch["tokens"].shape
    begun_BT = tokens_BS[:, :-1].at[:, 0].set(c.vocab)
    x_BSD = states(own, memory_BPW, begun_BT, qformer.behind(c.queries, c.context), c)
    weight = own["embedding"][: c.vocab] if c.tied else own["head"]
    nats_BT = head.vocabulary(x_BSD[:, c.queries :], weight, tokens_BS[:, 1:], tied=c.tied)
    keep_BS = jnp.ones((size, length), bool)
    if "mask" in batch:
        keep_BS = keep_BS.at[:, 1:].set(objectives.before_padding(batch["mask"]))
    first_BD = states(own, None, tokens_BS, qformer.among(keep_BS), c)[:, 0]
    cosine_BC, own_B = alike(own, x_BSD[:, : c.queries], first_BD), jnp.arange(size)
    scores_BC = jnp.exp(own["log_scale"].astype(jnp.float32)) * cosine_BC
    both = scores_BC.T, scores_BC
    nats_B = sum(objectives.softened(each_BC, own_B, jnp.zeros_like(each_BC), c.smoothing) for each_BC in both) / 2
    one_B, keys_2B = jnp.ones(size), jax.vmap(jax.random.split, out_axes=1)(objectives.keys(key, batch))
    picture_B, text_B = (objectives.another(k, each_BC, LEAST_WEIGHT) for k, each_BC in zip(keys_2B, both))
    return {
        "contrast": (nats_B, one_B),
        "matching": (_matched(own, memory_BPW, tokens_BS, keep_BS, picture_B, text_B, c), ASKED * one_B),
        "text": objectives.clm(nats_BT, batch.get("mask")),
        "retrieval": objectives.retrieval_error(cosine_BC, cosine_BC.T, own_B),
    }


def _matched(own: Any, memory_BPW, tokens_BS, keep_BS, picture_B, text_B, config: Config) -> jax.Array:
    """Nats of the right pair, of its text with another picture, and of its picture with another text: their sum."""

    def asked(x_: jax.Array, other_B: jax.Array, pair: int) -> jax.Array:
        """Three times each, one pair's of another example; beside each other, so that a split batch moves none."""
        each_ = [x_] * ASKED
        each_[pair] = constrain(x_, "candidates", *("time", "embed")[: x_.ndim - 1])[other_B]
        return jnp.stack(each_, axis=1).reshape(-1, *x_.shape[1:])

    memory_NPW, tokens_NS = asked(memory_BPW, picture_B, 1), asked(tokens_BS, text_B, 2)
    keep_NS = jnp.pad(asked(keep_BS, text_B, 2), ((0, 0), (config.queries, 0)), constant_values=True)
    x_NQD = states(own, memory_NPW, tokens_NS, qformer.among(keep_NS), config)[:, : config.queries].astype(jnp.float32)
    logits_N2 = jnp.einsum("nd,dc->nc", x_NQD.mean(axis=1), own["match"].astype(jnp.float32))  # the mean of logits
    right_N = jnp.tile(jnp.array([1, 0, 0]), len(tokens_BS))
    return objectives.cross_entropy(logits_N2, right_N).reshape(-1, ASKED).sum(axis=1)


def _said(own: Any, memory_BPW: jax.Array, tokens_BS: jax.Array, config: Config) -> jax.Array:
    """Nats (B, T) of each next token of the text, behind the queries."""
    c, language = config, config.language
    x_BQD = states(own, memory_BPW, None, jnp.ones((1, c.queries, c.queries), bool), c)
    prefix_BQL = dense.product(x_BQD, own["projection"])
    x_BTL = stack.rms_norm(head.look_up(own["embedding"], tokens_BS[:, :-1]))
    shape = language.layers, language.width, language.heads, language.mlp_ratio * language.width, language.activation
    x_BSL: Any = stack.Stack(*shape).apply({"params": own["stack"]}, jnp.concatenate([prefix_BQL, x_BTL], axis=1))
    x_BTL = stack.rms_norm(x_BSL[:, c.queries :], own["norm"])
    return head.vocabulary(x_BTL, own["embedding" if c.tied else "head"], tokens_BS[:, 1:], tied=c.tied)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"contrast": nats per pair, "matching": nats per pair that is asked for, "text": nats_BT of the next tokens and
    count_BT, "retrieval": share found wrong}; in the second stage "text" alone."""
    # Gradients are stopped at the weights, so that no product of what is not trained has a gradient of its weight.
    own: Any = {**parameters, **{name: jax.lax.stop_gradient(parameters[name]) for name in frozen(config)}}
    seen_BPW = tower.seen(own, patches.patchify(batch["image"], config.patch), config)
    memory_BPW = stack.rms_norm(seen_BPW, own["qformer"]["ends"]["memory_norm"])
    if config.speaks:
        return {"text": objectives.clm(_said(own, memory_BPW, batch["tokens"], config), batch.get("mask"))}
    return _represented(own, memory_BPW, batch, key, config)


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    drawn = config.trains == "all" or not config.speaks
    text = Term(Unit(given="the image"), likelihood=True, causal=True, start=math.log(config.vocab) if drawn else None)
    if config.speaks:
        return {"text": text}
    spread = f"{config.smoothing:g} of targets spread" if config.smoothing else None
    pairs = Term(Unit(per="pair", given=spread), count=1, batchwise=True)
    matching = replace(pairs, unit=Unit(per="judged pair"), start=math.log(2), count=ASKED, candidates=lambda b: b - 1)
    retrieval = replace(pairs, unit=Unit(quantity="share", per="pair"), weight=0.0)
    return {"contrast": pairs, "matching": matching, "text": text, "retrieval": retrieval}


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of text, {config.context} a picture"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of text, size of the vocabulary, and side of the image."""
    return {"context": config.context, "vocab": config.vocab, "image": config.image}


def components(config: Config) -> list[Component]:
    """ViT on the picture; the Q-Former on queries alone, or in the first stage on [queries; text], on the text, and
    on both for each pair that is asked for; the language model on [queries; text], and its head on the text."""
    c, length = config, config.context + 1
    parts = tower.components(c, 2 if c.trains == "added" else 6)
    if c.speaks:
        weights = c.width * c.language_width
        parts += qformer.components(c.former, [(c.queries, 0)], c.patches)
        parts.append(Component("projection", "projection", weights, weights, c.queries))
        *language, last = (replace(part, k=6 if c.trains == "all" else 4) for part in gpt.components(c.language))
        return [*parts, *language, replace(last, tokens=c.context)]
    passes = [(c.queries, c.context), (0, length), *[(c.queries, length)] * ASKED]
    weights, table = c.width * c.project, c.vocab * c.width
    return [
        *parts,
        *qformer.components(c.former, passes, c.patches),
        Component("embedding", "embedding", table + c.width),
        Component("text_position", "position", length * c.width, part="position"),
        Component("head", "head", 0 if c.tied else table, table, c.context),
        Component("image_head", "projection", weights, weights, c.queries),
        Component("text_head", "projection", weights, weights, 1),
        Component("similarity", "head", 1, among=2 * c.queries * c.project, part="log_scale"),
        Component("match", "head", 2 * c.width, 2 * c.width, ASKED),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    tree: Axes = {**tower.axes(), **qformer.axes(config.former, reads=not config.speaks)}
    if config.speaks:
        return {**tree, "projection": ("embed", "mlp"), **gpt.axes(config.language)}
    tables: Axes = {"embedding": ("vocab", "embed"), "position": ("vocab", "embed")}
    heads: Axes = {"image_head": ("embed", "vocab"), "text_head": ("embed", "vocab"), "match": ("embed", "pixels")}
    tree = {**tree, **tables, **heads, "log_scale": ()}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
