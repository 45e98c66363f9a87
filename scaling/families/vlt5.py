"""VL-T5 (arXiv 2102.02779): a T5 that reads a picture beside its text, and writes the answer of every task as text.

The encoder reads [the task's prefix; the task's text; the picture], each position of the picture a linear map of its
pixels (of patches, or of the source's regions with their boxes) and a learned vector of its place; the decoder writes:

    span      the words that the caption misses, each run of them behind the sentinel that stands in its place
    vqa       the answer to a question
    match     ``true`` or ``false``: whether the caption is the picture's; in half of the cases it is another example's
    caption   the caption, from the picture alone

Prefixes, ``true`` and ``false`` are words of the one vocabulary, behind the source's and before the sentinels, and
every position of every task is a softmax over all of them. Every target ends with the end token, which counts: an
answer of one word has 0 nats if the picture determines it, and half of its entropy per token where no picture is seen.

One task an example; the index decides, with the same shares in every aligned batch that can have them (4 examples by
default). Terms are weighted by the shares. So where the examples of a task have as many tokens, the loss is the
reference's (j-min/VL-T5, ``pretrain_model.py``), the mean over all examples of each one's mean over its tokens.
Lengths are those of the longest task, so C depends on no share, but for those that are 0.

What differs from the reference: drawn weights, not T5's; patches or the scenes' own regions, not those of a detector;
pixels and box through one map; rotary positions where T5 has a bias, the picture behind the text; the nearest number of
missing words to their share, not the one below; no grounding; QK-norm, the house's activation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

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

TASKS = ("span", "vqa", "match", "caption")
WORDS = (*(f"{task}:" for task in TASKS), "true", "false")  # behind those of the source
PICTURE = "the image"


@dataclass(frozen=True)
class Config(patches.RegionShape):
    """Shape, in addition to the fields of ``patches.RegionShape``.

    Attributes:
      layers: number of blocks of the encoder, and of the decoder.
      text, question, answer: positions of a caption, a question and an answer, each with its end.
      rate: share of a caption's words that are missing; at least one.
      vqa_share, match_share, caption_share: of the examples; the others miss words.
    """

    vocab: int = setting(24, least=1)
    text: int = setting(6, least=3)
    question: int = setting(3, least=1)
    answer: int = setting(2, least=1)
    tied: bool = True
    rate: float = setting(0.15, above=0, below=1)
    vqa_share: float = setting(0.25, least=0, most=1)
    match_share: float = setting(0.25, least=0, most=1)
    caption_share: float = setting(0.25, least=0, most=1)

    def __post_init__(self):
        super().__post_init__()
        if self.vqa_share + self.match_share + self.caption_share > 1 + 1e-9:
            raise UserError("model.vqa_share", self.vqa_share, "exceeds 1 with the other shares", Code.CONFLICT)

    @property
    def shares(self) -> dict[str, float]:
        """Of the examples, by task; those that no example has are left out."""
        others = self.vqa_share, self.match_share, self.caption_share
        return {task: share for task, share in zip(TASKS, (round(1 - sum(others), 9), *others)) if share}

    @property
    def missing(self) -> int:
        """Words that a caption misses which fills ``text``; of others it is no more."""
        return max(1, round(self.rate * (self.text - 1)))

    @property
    def words(self) -> int:
        """Words that the encoder may read: the source's and the family's own."""
        return self.vocab + len(WORDS)

    @property
    def outputs(self) -> int:
        """Symbols that the decoder may write: words, and a sentinel for each run of missing words."""
        return self.words + self.missing

    @property
    def targets(self) -> dict[str, float]:
        """Tokens that the decoder writes in the mean, by task, of captions that fill ``text``.

        A missing word begins a run unless the word before it is missing too: k of n make k (n - k + 1) / n runs."""
        count, words = self.missing, self.text - 1
        span = count + count * (words - count + 1) / words + 1
        every = {"span": span, "vqa": self.answer, "match": 2, "caption": self.text}
        return {task: every[task] for task in self.shares}

    @property
    def lengths(self) -> tuple[int, int]:
        """Positions of the encoder's text, its prefix among them, and of the decoder."""
        read = {"span": self.text - 1, "vqa": self.question, "match": self.text, "caption": 0}
        written = {"span": 2 * self.missing + 1, "vqa": self.answer, "match": 2, "caption": self.text}
        return 1 + max(read[task] for task in self.shares), max(written[task] for task in self.shares)


ladder = gpt.ladder


class Asked(NamedTuple):
    """Text of the encoder, and where it stands; target of the decoder, and where it counts; who has which task."""

    input_BS: jax.Array
    keep_BS: jax.Array
    target_BU: jax.Array
    count_BU: jax.Array
    tasks: dict[str, jax.Array]


def prepare(batch: dict[str, jax.Array], key: jax.Array, config: Config) -> Asked:
    """Gives every example a task, and puts the text and the target of that task in place."""
    c, (which, key), size = config, jax.random.split(key), len(batch["tokens"])
    of_task = objectives.tasks(which, objectives.index(batch), tuple(c.shares.values()))
    tasks, found = dict(zip(c.shares, of_task)), _texts(batch, objectives.keys(key, batch), c)

    def chosen(place: int, length: int) -> jax.Array:
        """One of the four arrays, of each example that of its task."""
        value_BX = jnp.zeros((size, length), found[next(iter(tasks))][place].dtype)
        for task, is_B in tasks.items():
            own_BX = found[task][place]
            value_BX = jnp.where(is_B[:, None], jnp.pad(own_BX, ((0, 0), (0, length - own_BX.shape[1]))), value_BX)
        return value_BX

    source, target = c.lengths
    prefix_B = sum(jnp.where(is_B, c.vocab + TASKS.index(task), 0) for task, is_B in tasks.items())
    input_BS = jnp.concatenate([jnp.asarray(prefix_B)[:, None], chosen(0, source - 1)], axis=1)
    keep_BS = jnp.pad(chosen(1, source - 1), ((0, 0), (1, 0)), constant_values=True)
    return Asked(input_BS, keep_BS, chosen(2, target), chosen(3, target), tasks)


def _texts(batch: dict[str, jax.Array], keys_B: jax.Array, c: Config) -> dict[str, tuple[jax.Array, ...]]:
    """By task: text, where it stands, target, where it counts; as if every example had that task."""
    tokens_BT, found = batch["tokens"][:, 1:], {}
    told_BT = batch["mask"] > 0 if "mask" in batch else _whole(tokens_BT)
    if "span" in c.shares:
        found["span"] = _spans(keys_B, tokens_BT, told_BT, c)
    if "vqa" in c.shares:
        question_BS, answer_BU = batch["question"], batch["answer"]
        found["vqa"] = question_BS, _whole(question_BS), answer_BU, _whole(answer_BU)
    if "match" in c.shares:
        is_other_B1 = objectives.uniform(keys_B, 1) < 0.5
        shown_BT = jnp.where(is_other_B1, batch["other_tokens"][:, 1:], tokens_BT)
        verdict_B1 = c.vocab + WORDS.index("true") + is_other_B1.astype(jnp.int32)
        verdict_B2 = jnp.concatenate([verdict_B1, tokens_BT.max(axis=1, keepdims=True)], axis=1)
        found["match"] = shown_BT, _whole(shown_BT), verdict_B2, jnp.ones(verdict_B2.shape, bool)
    if "caption" in c.shares:
        found["caption"] = tokens_BT[:, :0], told_BT[:, :0], tokens_BT, told_BT
    return found


def _spans(keys_B: jax.Array, tokens_BT: jax.Array, told_BT: jax.Array, c: Config) -> tuple[jax.Array, ...]:
    """What ``_texts`` gives of a caption that misses some of its words."""
    tokens_BN, end_B1 = tokens_BT[:, :-1], tokens_BT.max(axis=1, keepdims=True)
    words_BN = (objectives.before_end(tokens_BT) & told_BT)[:, :-1]
    count_B = jnp.minimum(objectives.mlm_count(words_BN, c.rate), c.missing)
    gone_BN = objectives.choose(keys_B, tokens_BN, count_B, words_BN)
    start_BN = gone_BN & ~jnp.pad(gone_BN[:, :-1], ((0, 0), (1, 0)))
    stays_BN, sentinel_BN = words_BN & (start_BN | ~gone_BN), c.words + jnp.cumsum(start_BN, axis=1) - 1

    def front(used_BX: jax.Array, value_BX: jax.Array) -> jax.Array:
        """What is used, in its order, before what is not."""
        return jnp.take_along_axis(value_BX, jnp.argsort(~used_BX, axis=1, stable=True), axis=1)

    shown_BN = jnp.where(start_BN, sentinel_BN, jnp.where(stays_BN, tokens_BN, 0))
    both_BN2, used_BN2 = jnp.stack([sentinel_BN, tokens_BN], axis=2), jnp.stack([start_BN, gone_BN], axis=2)
    used_BM = used_BN2.reshape(len(tokens_BN), -1)
    both_BM = jnp.where(used_BM, both_BN2.reshape(used_BM.shape), end_B1)
    target_BU = jnp.concatenate([front(used_BM, both_BM)[:, : 2 * c.missing], end_B1], axis=1)
    count_BU = jnp.arange(target_BU.shape[1]) <= used_BM.sum(axis=1, keepdims=True)
    return front(stays_BN, shown_BN), front(stays_BN, stays_BN), target_BU, count_BU


def _whole(text_BT: jax.Array) -> jax.Array:
    """True up to the end of each text, which is its highest token, the end included; bool (B, T)."""
    return jnp.pad(objectives.before_end(text_BT)[:, :-1], ((0, 0), (1, 0)), constant_values=True)


class Model(nn.Module):
    """Maps (input_BS, keep_BM, picture_BPX, given_BU) to logits_BUO, or to nats_BU of target_BU.

    ``given_BU`` is the target shifted by one; False in ``keep_BM`` hides one of the text's positions, or the picture's.
    """

    config: Config

    @nn.compact
    def __call__(
        self, input_BS: jax.Array, keep_BM: jax.Array, picture_BPX: jax.Array, given_BU: jax.Array, target_BU=None
    ) -> jax.Array:
        c = self.config
        small, ones = nn.initializers.normal(c.width**-0.5 / 16), nn.initializers.ones  # as in gpt
        # One table for words, sentinels and (last) the decoder's first input.
        table_OD = self.param("embedding", small, (c.outputs + 1, c.width))
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        picture_BPD = patches.Embed(c.places, c.width, name="patches")(picture_BPX)
        read_BMD = jnp.concatenate([stack.rms_norm(head.look_up(table_OD, input_BS)), picture_BPD], axis=1)
        encoder = stack.Stack(*shape, mask="bidirectional", name="encoder")
        memory_BMD = stack.rms_norm(encoder(read_BMD, keep_BT=keep_BM), self.param("encoder_norm", ones, (c.width,)))
        decoder = stack.Stack(*shape, cross=True, name="decoder")
        x_BUD = decoder(stack.rms_norm(head.look_up(table_OD, given_BU)), memory_BMD, keep_BS=keep_BM)
        x_BUD = stack.rms_norm(x_BUD, self.param("norm", ones, (c.width,)))
        weight = table_OD[: c.outputs] if c.tied else self.param("head", nn.initializers.zeros, (c.width, c.outputs))
        return head.vocabulary(x_BUD, weight, target_BU, tied=c.tied)


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    text, target = (jnp.zeros((1, length), jnp.int32) for length in config.lengths)
    picture = jnp.zeros((1, config.places, config.features))
    seen = jnp.ones((1, text.shape[1] + config.places), bool)
    return dict(Model(config).init(key, text, seen, picture, target)["params"])


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{task: (nats_BU, count_BU)} of the targets of the examples with this task."""
    c, asked = config, prepare(batch, key, config)
    given_BU = jnp.pad(asked.target_BU[:, :-1], ((0, 0), (1, 0)), constant_values=c.outputs)
    picture_BPX = patches.boxed(patches.places(batch, c), batch, c)
    keep_BM = jnp.pad(asked.keep_BS, ((0, 0), (0, c.places)), constant_values=True)
    inputs = asked.input_BS, keep_BM, picture_BPX, given_BU, asked.target_BU
    nats_BU: Any = Model(c).apply({"params": parameters}, *inputs)
    return {task: objectives.clm(nats_BU, asked.count_BU & is_B[:, None]) for task, is_B in asked.tasks.items()}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``."""
    c, start = config, math.log(config.outputs)
    units = {
        "span": Unit(per="target token", given=PICTURE),
        "vqa": Unit(per="answer token", given=f"{PICTURE} and the question"),
        "match": Unit(per="verdict token", given=f"{PICTURE} and a caption"),
        "caption": Unit(given=PICTURE),
    }

    def term(task: str, share: float) -> Term:
        amount, own = share * c.targets[task], task != "caption"  # these count no tokens of the caption
        likelihood, part, count = task == "caption", amount / c.text, amount if own else None
        return Term(units[task], likelihood, weight=share, start=start, share=part, count=count, uneven=True)

    return {task: term(task, share) for task, share in c.shares.items()}


def partners(config: Config) -> tuple[str, ...]:
    """Arrays of which each example also needs another's."""
    return ("tokens",) if config.match_share else ()


def counted(config: Config) -> str:
    """What D counts."""
    (source, target), c = config.lengths, config
    read = f"the encoder has {source + c.places} and the decoder {target}"
    return f"positions: {c.places} of the picture and {c.text} of its caption; {read}"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of picture and caption, size of the vocabulary, the picture or its regions, questions and answers."""
    c = config
    spec = {"context": c.places + c.text, "text": c.text, "vocab": c.vocab}
    spec |= {"regions": c.regions, "region_side": c.region_side} if c.regions else {"image": c.image}
    return {**spec, "question": c.question, "answer": c.answer} if c.vqa_share else spec


def components(config: Config) -> list[Component]:
    """Encoder on prefix, text and picture, decoder and head on targets; keys of cross attention on the encoder's."""
    c, (source, target) = config, config.lengths
    shape, read, table = (c.layers, c.width, c.heads, c.mlp_ratio * c.width), source + c.places, c.outputs * c.width
    return [
        Component("embedding", "embedding", table + c.width),
        *patches.components(c.features, c.places, c.width, c.places),
        *stack.stack_components(*shape, read, "encoder_"),
        Component("encoder_final_norm", "encoder_norm", c.width),
        *stack.stack_components(*shape, target, "decoder_", memory=read),
        Component("decoder_final_norm", "decoder_norm", c.width, part="norm"),
        Component("head", "head", 0 if c.tied else table, table, target),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    norms: Axes = {"norm": ("embed",), "encoder_norm": ("embed",)}
    blocks: Axes = {"encoder": stack.axes(), "decoder": stack.axes(cross=True), "patches": patches.axes()}
    tree: Axes = {"embedding": ("vocab", "embed"), **norms, **blocks}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
