"""VideoBERT (arXiv 1904.01766): a bidirectional stack over [class token; text; codes of the frames of a video].

A run of ``vq`` on single frames gives the tokenizer, as in ``dalle``, which also has its contract: frozen, in float32
whatever the ``dtype``, named in the unit of the codes, counted forward only.

Words and codes are hidden and told from what is seen. A code is one patch of a frame, and what is hidden are whole
frames (``unit``), since the paper's token is a whole clip: then the other frames and the text must tell it, not the
patches around it. ``alignment`` is whether text and video belong together: in half of its examples the text is another
example's, and a linear map of the class token's last state tells.

``masks``: ``joint`` hides words and codes of a pair at once, each given what is seen of both (the paper's cloze over
both); ``alone`` has its regimes of training, of which an example has one: words with no video, codes with no text, and
whole pairs for the alignment. The index decides which, with the same shares in every aligned batch (as in
``streams``), and terms are weighted by their shares. All positions are computed in every regime: C depends on no share.

What differs from the paper: a VQ-VAE's codes of patches, trained here, not k-means of S3D's features of 1.5 s; a stack
that starts from scratch, not from BERT; what is hidden is always blank, so that entropies of a source are floors, not
in 80 % of the cases, and never a text's end, which takes the place of [>] and is known by where it is; texts are not
joined nor frames left out; RMSNorm, QK-norm and rotary positions beside learned ones of frame, row and column. D counts
positions of text and codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import head, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, dalle, vq
from scaling.inputs import Input
from scaling.records.unit import Unit
from scaling.settings import setting

INPUTS = {"image": Input(("video",), "frames of side")}  # it reads no single picture


@dataclass(frozen=True)
class Config(dalle.Config):
    """Shape of the stack and of the tokenizer (``dalle.Config``, whose ``image`` is a frame's side), and:

    Attributes:
      video: frames of a video.
      words: of each text before its end, if the source tells; 0: texts differ, or fill ``text``.
      masks: ``joint`` or ``alone``, see above.
      rate: share of the words, and of the frames or codes, that are hidden; at least one.
      unit: of what is hidden of a video: a ``frame``, or a ``patch`` of one.
      alignment: share of the examples that are pairs of which it is asked whether they are one.
    """

    video: int = setting(4, least=1)
    words: int = setting(0, least=0)
    masks: str = setting("joint", choices=("joint", "alone"))
    rate: float = setting(0.15, above=0, below=1)
    unit: str = setting("frame", choices=("frame", "patch"))
    alignment: float = setting(0.5, above=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        if self.words >= self.text:
            raise UserError("model.words", self.words, f"must be below model.text, {self.text}", Code.CONFLICT)

    @property
    def places(self) -> int:
        """Codes of a video."""
        return self.video * self.patches

    @property
    def units(self) -> int:
        """Frames or codes, of which some are hidden whole."""
        return self.video if self.unit == "frame" else self.places

    @property
    def hidden(self) -> int:
        """Frames or codes of a video that are hidden."""
        return max(1, round(self.rate * self.units))

    @property
    def rows(self) -> int:
        """Ids of words, codes, what is hidden and the class token."""
        return self.vocab + self.codes + 2

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of the examples: with hidden words, with hidden codes, which are the same if ``joint``, and with pairs."""
        masked = (1 - self.alignment) / (1 if self.masks == "joint" else 2)
        return masked, masked, self.alignment


ladder = dalle.ladder
inherits = dalle.inherits
frozen = dalle.frozen
beside = dalle.beside
exact = dalle.exact
weight_bits = dalle.weight_bits


class Seen(NamedTuple):
    """What the model is given of class token and text (B, 1 + T) and of the codes (B, P), which positions of both it
    sees (B, 1 + T + P), and what it is asked."""

    text_BS: jax.Array
    codes_BP: jax.Array
    keep_BU: jax.Array
    words_BT: jax.Array
    places_BP: jax.Array
    pairs_B: jax.Array
    is_other_B: jax.Array


def prepare(batch: dict[str, jax.Array], codes_BP: jax.Array, key: jax.Array, config: Config) -> Seen:
    """Gives every example a regime, hides what it is to predict, and half of the pairs the text of another."""
    c, text_BT = config, batch["tokens"][:, 1:]
    which, words, places, swap = jax.random.split(key, 4)
    own_B = objectives.index(batch)
    if c.masks == "joint":
        words_B, pairs_B = objectives.tasks(which, own_B, c.shares[1:])
        codes_B = words_B
    else:
        words_B, codes_B, pairs_B = objectives.tasks(which, own_B, c.shares)
    is_other_B = pairs_B & (objectives.uniform(objectives.keys(swap, batch), 1)[:, 0] < 0.5)
    text_BT = jnp.where(is_other_B[:, None], batch["other_tokens"][:, 1:], text_BT)
    before_BT = objectives.before_end(text_BT)
    may_BT = before_BT & (batch["mask"] > 0) if "mask" in batch else before_BT
    count_B = objectives.mlm_count(may_BT, c.rate)
    hidden_BT = objectives.choose(objectives.keys(words, batch), text_BT, count_B, may_BT) & words_B[:, None]
    order_BN = objectives.ranks(objectives.uniform(objectives.keys(places, batch), c.units))
    hidden_BP = jnp.repeat(order_BN < c.hidden, c.places // c.units, axis=1) & codes_B[:, None]
    # The end is seen, and no padding. An example of words alone has no codes, and one of codes alone no text.
    ended_BT = jnp.pad(before_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True) & (words_B | pairs_B)[:, None]
    shown_BP = jnp.broadcast_to((codes_B | pairs_B)[:, None], codes_BP.shape)
    blank = c.vocab + c.codes
    shown_BT = jnp.where(hidden_BT, blank, text_BT)
    return Seen(
        jnp.pad(shown_BT, ((0, 0), (1, 0)), constant_values=blank + 1),
        jnp.where(hidden_BP, blank, c.vocab + codes_BP),
        jnp.concatenate([jnp.ones_like(ended_BT[:, :1]), ended_BT, shown_BP], axis=1),
        hidden_BT,
        hidden_BP,
        pairs_B,
        is_other_B,
    )


class Model(nn.Module):
    """Maps ids of class token and text, (B, 1 + T), and of codes, (B, P), of which ``keep_BU`` are seen, to logits of
    the words (B, T, V), of the codes (B, P, K) and of the pair (B, 2); with ``targets``, words (B, T) and codes (B, P),
    to the nats of these and the logits of the pair."""

    config: Config

    @nn.compact
    def __call__(
        self,
        text_BS: jax.Array,
        codes_BP: jax.Array,
        keep_BU: jax.Array,
        targets: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        c, small = self.config, nn.initializers.normal(self.config.width**-0.5 / 16)  # as in gpt
        table_VD = self.param("embedding", small, (c.rows, c.width))
        frame_FD = self.param("frame", small, (c.video, c.width))
        row_RD, column_RD = (self.param(name, small, (c.side, c.width)) for name in ("row", "column"))
        place_PD = (frame_FD[:, None, None] + row_RD[:, None] + column_RD).reshape(-1, c.width)
        given_BPD = head.look_up(table_VD, codes_BP) + place_PD
        x_BUD = stack.rms_norm(jnp.concatenate([head.look_up(table_VD, text_BS), given_BPD], axis=1))
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        x_BUD = stack.Stack(*shape, mask="bidirectional", name="stack")(x_BUD, keep_BT=keep_BU)
        x_BUD = stack.rms_norm(x_BUD, self.param("norm", nn.initializers.ones, (c.width,)))
        if c.tied:
            words, codes, _ = jnp.split(table_VD, (c.vocab, c.vocab + c.codes))
        else:
            head_DV = self.param("head", nn.initializers.zeros, (c.width, c.vocab + c.codes))
            words, codes = jnp.split(head_DV, (c.vocab,), axis=1)
        pair_D2 = self.param("alignment", nn.initializers.zeros, (c.width, 2))
        word_targets, code_targets = targets or (None, None)
        return (
            head.vocabulary(x_BUD[:, 1 : 1 + c.text], words, word_targets, tied=c.tied),
            head.vocabulary(x_BUD[:, 1 + c.text :], codes, code_targets, tied=c.tied),
            jnp.einsum("bd,de->be", x_BUD[:, 0], pair_D2),
        )


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; a study puts the parent's in the place of the tokenizer's."""
    c, (first, second) = config, jax.random.split(key)
    text_BS, codes_BP = (jnp.zeros((1, n), jnp.int32) for n in (1 + c.text, c.places))
    own = Model(c).init(first, text_BS, codes_BP, jnp.ones((1, 1 + c.text + c.places), bool))["params"]
    drawn = vq.init(second, c.tokenizer)
    return {**own, **{part: drawn[part] for part in dalle.PARTS}}


def tokenize(parameters: Parameters, video_BFHWC: jax.Array, config: Config) -> jax.Array:
    """The codes of videos of bytes, (B, P) int32, frame by frame and row by row."""
    frames_NHWC = video_BFHWC.reshape(-1, *video_BFHWC.shape[2:])
    return dalle.tokenize(parameters, frames_NHWC, config).reshape(len(video_BFHWC), config.places)


def outputs(parameters: Parameters, seen: Seen, config: Config, targets=None) -> Any:
    """What ``Model`` gives."""
    own = {name: value for name, value in parameters.items() if name not in dalle.PARTS}
    return Model(config).apply({"params": own}, seen.text_BS, seen.codes_BP, seen.keep_BU, targets)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"video": nats per hidden code, "text": nats per hidden word, "alignment": nats per pair}."""
    codes_BP = tokenize(parameters, batch["video"], config)
    seen = prepare(batch, codes_BP, key, config)
    nats_BT, nats_BP, pair_B2 = outputs(parameters, seen, config, (batch["tokens"][:, 1:], codes_BP))
    video, count = objectives.clm(nats_BP, seen.places_BP)
    found = {"video": (video.sum(axis=1), count.sum(axis=1)), "text": objectives.clm(nats_BT, seen.words_BT)}
    nats_B = objectives.cross_entropy(pair_B2, seen.is_other_B.astype(jnp.int32))
    return {**found, "alignment": objectives.clm(nats_B, seen.pairs_B)}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    c, (words, codes, pairs), both = config, config.shares, "what is seen of the text and of the codes"
    alone = c.masks == "alone"
    code = Unit(per=f"code of a hidden {c.unit}", given="what is seen of the codes" if alone else both)
    word, known = Unit(per="hidden token", given="what is seen of the text" if alone else both), c.words or c.text - 1
    count = codes * c.hidden * (c.places // c.units)
    share = words * max(1, round(c.rate * known)) / (known + 1)
    return {
        "video": Term(code, weight=codes, start=math.log(c.codes), count=count, uneven=True, made_by="encoder"),
        "text": Term(word, weight=words, start=math.log(c.vocab), share=share, uneven=True),
        "alignment": Term(Unit(per="pair"), weight=pairs, start=math.log(2), count=pairs, uneven=True),
    }


def partners(config: Config) -> tuple[str, ...]:
    """Arrays of which each example also needs another's."""
    del config
    return ("tokens",)


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions: {config.text} of text and {config.places} codes of {config.video} frames"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of text and codes, size of the vocabulary, and frames of a video with their side."""
    c = config
    return {"context": c.text + c.places, "text": c.text, "vocab": c.vocab, "video": c.video, "image": c.image}


def components(config: Config) -> list[Component]:
    """Stack on all positions, each head where it is read, and the tokenizer on every frame."""
    c = config
    words, codes = c.vocab * c.width, c.codes * c.width
    part, owned = ("embedding", 0) if c.tied else ("head", words + codes)
    return [
        Component("embedding", "embedding", c.rows * c.width),
        Component("frame", "position", c.video * c.width),
        Component("row", "position", c.side * c.width),
        Component("column", "position", c.side * c.width),
        *stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, 1 + c.text + c.places),
        Component("final_norm", "norm", c.width),
        Component("text_head", "head", 0, words, c.text, part=part),
        Component("video_head", "head", owned, codes, c.places, part=part),
        Component("alignment", "head", 2 * c.width, 2 * c.width, 1),
        *dalle.reading(c, c.video),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    own: Axes = {"frame": ("vocab", "embed"), "alignment": ("embed", "vocab")}
    return {**dalle.axes(config), **own}
