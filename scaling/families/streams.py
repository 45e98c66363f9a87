"""One stream or two over a picture and its text: UNITER, VL-BERT, ViLBERT, Unified VLP's masks, ERNIE-ViL's units.

``one`` (UNITER, arXiv 1909.11740): a bidirectional stack over [picture; class token; text]. ``two`` (ViLBERT,
1908.02265): a stack each, with ``crossings`` co-attention layers between (blocks/crossing.py).

Tasks: ``words`` that are hidden (MLM), ``regions`` or patches (their class, or their pixels in [-1, 1] in squared
error), and ``matching`` of a picture and a text, in half of the cases another example's (ITM). ``conditional``: an
example hides one modality and shows all of the other, as in UNITER; else both, as in ViLBERT. ``unit``: whole nodes of
the text's scene graph are hidden (ERNIE-ViL, 2006.16934). ``mask`` mixed (Unified VLP, 1909.11059): three of four
examples of words have a causal text behind the picture and predict each next token: a likelihood, and its own term.

**One task an example, not one a batch** as in UNITER: an evaluation, and a batch that is cut in parts, must give the
same sums. The index decides, with the same shares in every aligned batch that can have them (4 examples by default; one
without a task has no loss). Terms are weighted by their shares, so the mean gradient is that of one task a batch. All
tasks pass through the same blocks and every example has all heads, so C depends on no share.

Hidden words are always blank, so that a source's entropies are floors, and never a text's end, which its place tells;
no optimal transport, no detector; linear heads from zero; matching in two streams reads the class token times the mean
of the picture; RMSNorm, QK-norm, rotary text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import cross, crossing, dense, head, patches, stack, texts
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

BOTH = "hides words and regions, so it needs a region_share and a bidirectional mask"
CAUSAL = 3 / 4  # share of the examples of words whose text is causal, with mask mixed


@dataclass(frozen=True)
class Config(texts.HiddenShape, patches.PictureShape):
    """Shape of the one stack, or of the text's, with ``patches.PictureShape`` and ``texts.HiddenShape``; and:

    Attributes:
      predicts: of a hidden region: its ``class``, one of ``region_classes``, or its ``features``.
      vision_width, vision_layers, vision_heads: of the picture's own stack. crossings: see above.
      region_share, matching_share: of the examples; the others have words.
    """

    vocab: int = setting(19, least=1)
    tied: bool = True
    streams: str = setting("one", choices=("one", "two"))
    mask: str = setting("bidirectional", choices=("bidirectional", "mixed"))
    conditional: bool = True
    region_classes: int = setting(32, least=1)
    predicts: str = setting("features", choices=("class", "features"))
    vision_width: int = setting(16, least=1)
    vision_layers: int = setting(1, least=1)
    vision_heads: int = setting(2, least=1)
    crossings: int = setting(1, least=1)
    region_share: float = setting(0.25, least=0, below=1)
    matching_share: float = setting(0.25, least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        two, shares = self.streams == "two", self.region_share + self.matching_share
        wrong = (
            (shares >= 1, "region_share", "leaves no example to the words"),
            (self.predicts == "class" and not self.regions, "predicts", "goes with regions, whose classes are known"),
            (self.mask == "mixed" and two, "mask", "goes with one stream: a picture would read the text behind a word"),
            (not self.conditional and (self.mask == "mixed" or not self.region_share), "conditional", BOTH),
            (two and not shares, "matching_share", "leaves the picture's last layer nothing to learn: give it a task"),
            (two and self.vision_width % self.vision_heads, "vision_width", "must be a multiple of vision_heads"),
            (two and self.crossings > min(self.layers, self.vision_layers), "crossings", "exceeds a stream's layers"),
        )
        for field, remedy in (each[1:] for each in wrong if each[0]):
            raise UserError(f"model.{field}", getattr(self, field), remedy, Code.CONFLICT)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the examples: with a causal text, words, regions and matching."""
        words = 1 - self.region_share - self.matching_share
        causal = words * CAUSAL if self.mask == "mixed" else 0.0
        return causal, words - causal, self.region_share, self.matching_share

    @property
    def seeing(self) -> int:
        """Width of the states from which regions are predicted."""
        return self.vision_width if self.streams == "two" else self.width


def ladder(size: int) -> dict[str, int]:
    """The ladder of gpt; the picture's stack is as wide, and has half as many layers, each of them with a crossing."""
    grown = gpt.ladder(size)
    picture = {"vision_width": grown["width"], "vision_heads": grown["heads"], "vision_layers": grown["layers"] // 2}
    return {**grown, **picture, "crossings": picture["vision_layers"]}


class Seen(NamedTuple):
    """What a model is given, the class token first, and what it is asked."""

    inputs_BS: jax.Array
    keep_BS: jax.Array
    picture_BPX: jax.Array
    causal_B11: jax.Array
    matching_B: jax.Array
    count_BT: jax.Array
    hidden_BT: jax.Array
    hidden_BP: jax.Array
    is_other_B: jax.Array


def prepare(batch: dict[str, jax.Array], key: jax.Array, config: Config) -> Seen:
    """Gives every example a task, hides what it is to predict, and pairs half of those of matching with another."""
    c, shown_BT = config, batch["tokens"][:, 1:]
    which, words, regions, swap = jax.random.split(key, 4)
    causal_B, words_B, regions_B, matching_B = objectives.tasks(which, objectives.index(batch), c.shares)
    if not c.conditional:
        words_B = regions_B = words_B | regions_B
    is_other_B = objectives.uniform(objectives.keys(swap, batch), 1)[:, 0] < 0.5
    if c.matching_share:
        shown_BT = jnp.where((matching_B & is_other_B)[:, None], batch["other_tokens"][:, 1:], shown_BT)
    # By the text that is shown; a mask would be that of the own text, also where another is shown.
    before_BT = objectives.before_end(shown_BT)
    keep_BT = jnp.pad(before_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    count_BT = batch["mask"] > 0 if "mask" in batch else keep_BT
    hidden_BT = texts.hide(objectives.keys(words, batch), batch, count_BT & before_BT, c) & words_B[:, None]
    hidden_BP = patches.hide(objectives.keys(regions, batch), c) & regions_B[:, None]
    picture_BPX = patches.masked(hidden_BP, batch, c)
    inputs_BS = jnp.pad(jnp.where(hidden_BT, c.vocab, shown_BT), ((0, 0), (1, 0)), constant_values=c.vocab + 1)
    given = inputs_BS, jnp.pad(keep_BT, ((0, 0), (1, 0)), constant_values=True), picture_BPX, causal_B[:, None, None]
    return Seen(*given, matching_B, count_BT, hidden_BT, hidden_BP, is_other_B)


def _stacks(config: Config) -> tuple[stack.Stack, stack.Stack]:
    """That of the text, or of all, and that of the picture."""
    c, how = config, (config.activation, "bidirectional")
    picture = c.vision_layers, c.vision_width, c.vision_heads, c.mlp_ratio * c.vision_width
    one = stack.Stack(c.layers, c.width, c.heads, c.mlp_ratio * c.width, *how)
    return one, stack.Stack(*picture, *how, rotary=False)


def _leaves(config: Config) -> cross.Leaves:
    """Parameters that are of no block: shape and logical axes, by name."""
    c, two = config, config.streams == "two"
    numbers = c.shown if c.predicts == "features" else c.region_classes
    every = (
        (True, "embedding", (c.vocab + 2, c.width), ("vocab", "embed")),
        (True, "norm", (c.width,), ("embed",)),
        (two, "vision_norm", (c.vision_width,), ("embed",)),
        (two and c.matching_share, "pool", (c.vision_width, c.width), ("embed", "mlp")),
        (not c.tied, "head", (c.width, c.vocab), ("embed", "vocab")),
        (c.region_share, "region_head", (c.seeing, numbers), ("embed", "pixels")),
        (c.matching_share, "matching_head", (c.width, 2), ("embed", "vocab")),
    )
    return {name: (shape, names) for used, name, shape, names in every if used}


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; heads are zero."""
    c, keys, stacks, own = config, jax.random.split(key, 6), _stacks(config), _leaves(config)
    tree: Any = {name: (jnp.ones if "norm" in name else jnp.zeros)(shape) for name, (shape, _) in own.items()}
    tree["embedding"] = jax.random.normal(keys[0], own["embedding"][0]) * c.width**-0.5 / 16  # as in gpt
    if "pool" in own:
        tree["pool"] = jax.random.normal(keys[1], own["pool"][0]) * c.vision_width**-0.5
    tree["patches"] = patches.Embed(c.places, c.seeing).init(keys[2], jnp.zeros((1, c.places, c.features)))["params"]
    tree["stack"] = stacks[0].init(keys[3], jnp.zeros((1, 1, c.width)))["params"]
    if c.streams == "two":
        tree["vision"] = stacks[1].init(keys[4], jnp.zeros((1, 1, c.vision_width)))["params"]
        tree |= crossing.draw(keys[5], crossing.leaves(c.crossings, *stacks))
    return tree


def states(parameters: Any, seen: Seen, config: Config) -> tuple[jax.Array, jax.Array]:
    """Last states of class token and text (B, 1 + T, D) and of the picture (B, P, W or D), normalised."""
    c, p, stacks, see = config, parameters, _stacks(config), None
    y_BPW: Any = patches.Embed(c.places, c.seeing).apply({"params": p["patches"]}, seen.picture_BPX)
    x_BSD = stack.rms_norm(head.look_up(p["embedding"], seen.inputs_BS))
    if c.streams == "two":
        weights = [p[name] for name in ("stack", "vision", "crossing", "vision_crossing")]
        x_BSD, y_BPW = crossing.through(stacks, weights, x_BSD, y_BPW, seen.keep_BS)
        return stack.rms_norm(x_BSD, p["norm"]), stack.rms_norm(y_BPW, p["vision_norm"])
    if c.mask == "mixed":
        place = jnp.arange(c.places + 1 + c.text)
        see = (place <= place[:, None]) | (place < c.places) | ~seen.causal_B11
    keep = jnp.pad(seen.keep_BS, ((0, 0), (c.places, 0)), constant_values=True)
    joined_BUD = jnp.concatenate([y_BPW, x_BSD], axis=1)
    both: Any = stacks[0].apply({"params": p["stack"]}, joined_BUD, keep_BT=keep, see_BTS=see)
    both = stack.rms_norm(both, p["norm"])
    return both[:, c.places :], both[:, : c.places]


def loss(parameters: Any, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"text": nats per token, "words": nats per hidden token or node, "regions": nats or squared error per hidden
    region, "matching": nats per example}, each of the examples with this task, as far as the configuration has it."""
    c, p, seen, found = config, parameters, prepare(batch, key, config), {}
    x_BSD, y_BPE = states(parameters, seen, c)
    read_BTD = jnp.where(seen.causal_B11, x_BSD[:, :-1], x_BSD[:, 1:]) if c.mask == "mixed" else x_BSD[:, 1:]
    weight = p["embedding"][: c.vocab] if c.tied else p["head"]
    nats_BT = head.vocabulary(read_BTD, weight, batch["tokens"][:, 1:], tied=c.tied)
    if c.mask == "mixed":
        found["text"] = objectives.clm(nats_BT, seen.count_BT & seen.causal_B11[:, 0])
    found["words"] = objectives.clm(nats_BT, seen.hidden_BT)
    if c.region_share:
        predicted_BPX = dense.product(y_BPE, p["region_head"])
        if c.predicts == "class":
            error_BP = objectives.cross_entropy(predicted_BPX, batch["region_class"])
        else:
            error_BP = jnp.square(predicted_BPX.astype(jnp.float32) - patches.places(batch, c)).mean(axis=2)
        found["regions"] = tuple(each.sum(axis=1) for each in objectives.clm(error_BP, seen.hidden_BP))
    if c.matching_share:
        state_BD = x_BSD[:, 0]
        if c.streams == "two":
            state_BD *= jnp.einsum("bw,wd->bd", y_BPE.mean(axis=1), p["pool"])
        logits_BE = jnp.einsum("bd,de->be", state_BD, p["matching_head"])
        nats_B = objectives.cross_entropy(logits_BE, seen.is_other_B.astype(jnp.int32))
        found["matching"] = objectives.clm(nats_B, seen.matching_B)
    return found


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``. The first loss of ``features`` is their mean square, which depends on the data."""
    c, (causal, words, regions, matching), start = config, config.shares, math.log(config.vocab)
    image, text = (f"the {name}{'' if c.conditional else ', partly hidden'}" for name in ("image", "text"))
    words, regions = (words, regions) if c.conditional else (words + regions,) * 2
    caption, word = Unit(given="the image"), Unit(per=f"hidden {c.unit}", given=image)
    region, first = Unit(per="hidden region", given=text), math.log(c.region_classes)
    if c.predicts == "features":
        region, first = Unit(quantity="squared error", per="pixel value", given=text), None
    every = {
        "text": Term(caption, likelihood=True, weight=causal, start=start, share=causal, uneven=True),
        "words": Term(word, weight=words, start=start, share=words * c.blank, uneven=True),
        "regions": Term(region, weight=regions, start=first, count=regions * c.hidden, uneven=True),
        "matching": Term(Unit(per="example"), weight=matching, start=math.log(2), count=matching, uneven=True),
    }
    return {name: term for name, term in every.items() if term.weight}


def partners(config: Config) -> tuple[str, ...]:
    """Arrays of which each example also needs another's."""
    return ("tokens",) if config.matching_share else ()


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions: {config.places} of the picture and {config.text} of text"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of picture and text, size of the vocabulary, and the picture or its regions."""
    c = config
    spec = {"context": c.places + c.text, "text": c.text, "vocab": c.vocab}
    spec |= {"regions": c.regions, "region_side": c.region_side} if c.regions else {"image": c.image}
    spec |= {"region_classes": c.region_classes} if c.predicts == "class" else {}
    return {**spec, "graph": len(texts.KINDS), **c.nodes} if c.nodes else spec


def components(config: Config) -> list[Component]:
    """One stack on all positions, or two with what goes between them; heads on all that they could predict."""
    c, positions, own = config, 1 + config.text, _leaves(config)
    table, time = c.vocab * c.width, positions if c.streams == "two" else c.places + positions
    parts = [
        Component("embedding", "embedding", table + 2 * c.width),
        *patches.components(c.features, c.places, c.seeing, c.places),
        Component("final_norm", "norm", c.width),
        Component("head", "head", 0 if c.tied else table, table, c.text),
        *stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, time),
    ]
    if c.streams == "two":
        wide = c.vision_layers, c.vision_width, c.vision_heads, c.mlp_ratio * c.vision_width
        parts += stack.stack_components(*wide, c.places, "vision_")
        parts.append(Component("vision_final_norm", "vision_norm", c.vision_width))
        parts += crossing.components(crossing.leaves(c.crossings, *_stacks(c)), positions, c.places)
    for name, tokens in (("pool", 1), ("region_head", c.places), ("matching_head", 1)):
        if name in own:
            size = math.prod(own[name][0])
            parts.append(Component(name, "projection" if name == "pool" else "head", size, size, tokens))
    return parts


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    tree: Axes = {name: names for name, (_, names) in _leaves(config).items()}
    tree = {**tree, "patches": patches.axes(), "stack": stack.axes()}
    two: Axes = {"vision": stack.axes(), **crossing.axes(crossing.leaves(config.crossings, *_stacks(config)))}
    return {**tree, **two} if config.streams == "two" else tree
