"""BERT: a bidirectional encoder that predicts hidden tokens, by masked language modelling or by masked diffusion.

The stack is that of gpt without the causal mask. ``mlm`` hides a fixed share of each example (arXiv 1810.04805); its
loss is not a likelihood of the text, and depends on the rate. ``diffusion`` hides a random share and weights by its
inverse; its loss bounds the likelihood, and is comparable to that of a causal model: like gpt, it is given the token
before the first that it predicts, which is never hidden. ``nsp`` adds next-sentence prediction: a class token and two
segments, cut where a sentence begins and each ended by a separator; half of the second segments come from another
example. Sentences and words are found in bytes, or by the marks of a tokenizer that the data has prepared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

OBJECTIVES = ("mlm", "diffusion")


@dataclass(frozen=True)
class Config(stack.Shape):
    """Shape and objective, in addition to the fields of ``stack.Shape``.

    Attributes:
      rate: share of an example's tokens that mlm hides; of whole words, at most this share.
      unit: the unit that mlm hides: token, span or word.
      span: mean length of a span.
      nsp: whether to add next-sentence prediction.
    """

    vocab: int = setting(256, least=1)
    context: int = setting(64, least=1)
    tied: bool = True
    objective: str = setting("mlm", choices=OBJECTIVES)
    rate: float = setting(0.15, above=0, below=1)
    unit: str = setting("token", choices=objectives.UNITS)
    span: float = setting(3.0, least=1)
    nsp: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.nsp and (self.objective != "mlm" or self.context < 4):
            remedy = "goes with objective mlm and a context of at least 4"
            raise UserError("model.nsp", self.nsp, remedy, Code.CONFLICT)

    @property
    def marked(self) -> bool:
        """Whether words or sentences are looked for that bytes alone do not tell."""
        return self.vocab > 256 and (self.nsp or self.unit == "word")

    @property
    def extra(self) -> int:
        """Positions besides the text: the token before it for diffusion; a class token and two separators for nsp."""
        return 3 if self.nsp else int(self.objective == "diffusion")


ladder = gpt.ladder


def revision(config: Config) -> int:
    """3: diffusion is given the token before the first that it predicts, nsp cuts between sentences, words are whole;
    2: what is random is keyed by example."""
    return 3 if config.objective == "diffusion" or config.nsp or config.unit == "word" else 2


class Model(nn.Module):
    """Maps inputs_BS as ``hide`` makes them (and keep_BS, False for padding; for nsp split_B, where the second segment
    begins in the text) to logits_BTV of the text, or to nats_BT of targets_BT; and to logits_B2 of nsp, or None."""

    config: Config

    @nn.compact
    def __call__(
        self,
        inputs_BS: jax.Array,
        keep_BS: jax.Array | None = None,
        split_B: jax.Array | None = None,
        targets_BT: jax.Array | None = None,
    ) -> Any:
        c = self.config
        small = nn.initializers.normal(c.width**-0.5 / 16)  # as in gpt
        table_VD = self.param("embedding", small, (c.vocab + 1 + 2 * c.nsp, c.width))
        x_BSD = head.look_up(table_VD, inputs_BS)
        if c.nsp:
            assert split_B is not None
            segment_2D = self.param("segment", small, (2, c.width))
            second_BS = jnp.arange(inputs_BS.shape[1]) >= split_B[:, None] + 2
            x_BSD = x_BSD + head.look_up(segment_2D, second_BS.astype(jnp.int32))
        encoder = stack.Stack(
            c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation, mask="bidirectional", name="stack"
        )
        x_BSD = encoder(stack.rms_norm(x_BSD), keep_BT=keep_BS)
        x_BSD = stack.rms_norm(x_BSD, self.param("norm", nn.initializers.ones, (c.width,)))
        x_BTD, next_B2 = x_BSD[:, c.extra :], None
        if split_B is not None:
            x_BTD = jnp.take_along_axis(x_BSD, _places(split_B, c.context)[..., None], axis=1)
            head_D2 = self.param("nsp_head", nn.initializers.zeros, (c.width, 2))
            next_B2 = jnp.einsum("bd,dc->bc", x_BSD[:, 0], head_D2)
        weight = table_VD[: c.vocab] if c.tied else self.param("head", nn.initializers.zeros, (c.width, c.vocab))
        return head.vocabulary(x_BTD, weight, targets_BT, tied=c.tied), next_B2


def _places(split_B: jax.Array, time: int) -> jax.Array:
    """Where each token of the text stands after a class token and, from the split on, a separator; int32 (B, T)."""
    return jnp.arange(time) + 1 + (jnp.arange(time) >= split_B[:, None])


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    inputs_1S = jnp.zeros((1, config.extra + config.context), jnp.int32)
    split_1 = jnp.zeros(1, jnp.int32) if config.nsp else None
    return dict(Model(config).init(key, inputs_1S, None, split_1)["params"])


def logits(parameters: Parameters, inputs_BS: jax.Array, config: Config, split_B: jax.Array | None = None) -> jax.Array:
    """Logits of the text, (B, T, V), for inputs as ``hide`` makes them, where the token ``config.vocab`` is a blank."""
    return _apply(parameters, config, inputs_BS, None, split_B)[0]


def _apply(parameters: Parameters, config: Config, *arguments: jax.Array | None) -> Any:
    return Model(config).apply({"params": parameters}, *arguments)


class Hidden(NamedTuple):
    """A corrupted batch: the model sees ``inputs_BS`` and predicts ``targets_BT`` where ``hidden_BT``; for nsp, where
    the second segment begins in the text, and whether it is another example's."""

    inputs_BS: jax.Array
    hidden_BT: jax.Array
    targets_BT: jax.Array
    split_B: jax.Array | None = None
    is_other_B: jax.Array | None = None


def hide(batch: Mapping[str, jax.Array], mask_BT: jax.Array, key: jax.Array, config: Config) -> Hidden:
    """Corrupts a batch; positions where the mask is 0 are not hidden."""
    given_B1, tokens_BT = batch["tokens"][:, :1], batch["tokens"][:, 1:]
    choose, other, swap = jax.random.split(key, 3)
    choose_B = objectives.keys(choose, batch)
    if config.objective == "diffusion":
        count_B = objectives.diffusion_count(other, objectives.index(batch), mask_BT)
        hidden_BT = objectives.choose(choose_B, tokens_BT, count_B, mask_BT)
        inputs_BT = jnp.where(hidden_BT, config.vocab, tokens_BT)
        return Hidden(jnp.concatenate([given_B1, inputs_BT], axis=1), hidden_BT, tokens_BT)
    split_B = is_other_B = None
    words_BT, sentences_BT = _starts(batch, "", config)
    if config.nsp:
        others_BT, other_sentences_BT = _starts(batch, "other_", config)
        pairs = objectives.pair(objectives.keys(swap, batch), sentences_BT, other_sentences_BT)
        tokens_BT = pairs.of(tokens_BT, batch["other_tokens"][:, 1:])
        words_BT = pairs.of(words_BT, others_BT)
        split_B, is_other_B = pairs.split_B, pairs.is_other_B
    count_B = objectives.mlm_count(mask_BT, config.rate)
    hidden_BT = objectives.choose(choose_B, tokens_BT, count_B, mask_BT, config.unit, config.span, words_BT)
    other_B = objectives.keys(other, batch)
    inputs_BS = objectives.corrupt(other_B, tokens_BT, hidden_BT, config.vocab, config.vocab)
    if split_B is not None:
        places_BT, rows = _places(split_B, config.context), jnp.arange(len(split_B))[:, None]
        ended_BS = jnp.full((len(split_B), config.context + 3), config.vocab + 2).at[:, 0].set(config.vocab + 1)
        inputs_BS = ended_BS.at[rows, places_BT].set(inputs_BS)
    return Hidden(inputs_BS, hidden_BT, tokens_BT, split_B, is_other_B)


def _starts(batch: Mapping[str, jax.Array], whose: str, config: Config) -> tuple[jax.Array, jax.Array]:
    """Where words and sentences begin in the text, bool (B, T) each."""
    if config.marked:
        words_BS, sentences_BS = objectives.marked_starts(batch[f"{whose}marks"])
        return words_BS[:, 1:], sentences_BS[:, 1:]
    tokens_BT = batch[f"{whose}tokens"][:, 1:]
    return objectives.word_starts(tokens_BT), objectives.sentence_starts(tokens_BT)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"mlm" or "diffusion": term, "nsp": term}: nats per hidden token (diffusion: per token; nsp: per example).

    The T positions are the targets of a causal model on the same batch, so both predict the same tokens.
    """
    mask_BT = jnp.ones(batch["tokens"][:, 1:].shape, bool)
    keep_BS = None
    if "mask" in batch:
        mask_BT = batch["mask"] > 0
        # Swapped halves have padding of their own that is not tracked, so all positions are visible.
        keep_BT = objectives.before_padding(mask_BT)
        keep_BS = None if config.nsp else jnp.pad(keep_BT, ((0, 0), (config.extra, 0)), constant_values=True)
    seen = hide(batch, mask_BT, key, config)
    nats_BT, next_B2 = _apply(parameters, config, seen.inputs_BS, keep_BS, seen.split_B, seen.targets_BT)
    if config.objective == "diffusion":
        return {"diffusion": objectives.diffusion(nats_BT, seen.hidden_BT, mask_BT)}
    terms = {"mlm": objectives.clm(nats_BT, seen.hidden_BT)}
    return terms if seen.is_other_B is None else {**terms, "nsp": objectives.classify(next_B2, seen.is_other_B)}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    start = math.log(config.vocab)
    if config.objective == "diffusion":
        return {"diffusion": Term(Unit(bound=True), likelihood=True, start=start)}
    hidden = {"mlm": Term(Unit(per="hidden token"), start=start, share=config.rate)}
    return {**hidden, "nsp": Term(Unit(per="example"), start=math.log(2), count=1)} if config.nsp else hidden


def batch_spec(config: Config) -> dict[str, int]:
    """Positions per example, size of the vocabulary, and tokens whose marks are read."""
    spec = {"context": config.context, "vocab": config.vocab}
    return {**spec, "marks": config.vocab} if config.marked else spec


def partners(config: Config) -> tuple[str, ...]:
    """Arrays of which each example also needs another's."""
    return ("tokens", *(("marks",) if config.marked else ())) if config.nsp else ()


def components(config: Config) -> list[Component]:
    """Embeddings, stack on the text and what is added to it, final norm and heads."""
    c = config
    table, time = c.vocab * c.width, c.extra + c.context
    parts = [
        Component("embedding", "embedding", (c.vocab + 1 + 2 * c.nsp) * c.width),
        *stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, time),
        Component("final_norm", "norm", c.width),
        Component("head", "head", 0 if c.tied else table, table, c.context),
    ]
    if c.nsp:
        parts.append(Component("segment", "position", 2 * c.width))
        parts.append(Component("nsp_head", "head", 2 * c.width, 2 * c.width, 1))
    return parts


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    tree: Axes = {"embedding": ("vocab", "embed"), "norm": ("embed",), "stack": stack.axes()}
    if config.nsp:
        tree = {**tree, "segment": ("vocab", "embed"), "nsp_head": ("embed", "vocab")}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
