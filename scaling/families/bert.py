"""BERT: a bidirectional encoder that predicts hidden tokens, by masked language modelling or by masked diffusion.

The stack is that of gpt without the causal mask. ``mlm`` hides a fixed share of each example (arXiv 1810.04805); its
loss is not a likelihood of the text, and depends on the rate. ``diffusion`` hides a random share and weights by its
inverse; its loss bounds the likelihood, and is comparable to that of a causal model. ``nsp`` adds next-sentence
prediction: a class token and two segments; half of the second segments come from another example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
      rate: share of an example's tokens that mlm hides.
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
        if self.unit == "word" and self.vocab > 256:
            remedy = f"finds words in bytes, and the vocabulary has {self.vocab} tokens"
            raise UserError("model.unit", self.unit, remedy, Code.CONFLICT)
        if self.nsp and (self.objective != "mlm" or self.context < 4):
            remedy = "goes with objective mlm and a context of at least 4"
            raise UserError("model.nsp", self.nsp, remedy, Code.CONFLICT)


ladder = gpt.ladder


class Model(nn.Module):
    """Maps tokens_BT (and keep_BT, False for padding) to logits_BTV, or to nats_BT of targets_BT; and to logits_B2 of
    the next sentence, or None."""

    config: Config

    @nn.compact
    def __call__(
        self, tokens_BT: jax.Array, keep_BT: jax.Array | None = None, targets_BT: jax.Array | None = None
    ) -> Any:
        c = self.config
        small = nn.initializers.normal(c.width**-0.5 / 16)  # as in gpt
        table_VD = self.param("embedding", small, (c.vocab + 1 + c.nsp, c.width))
        if c.nsp:
            # The class token comes first and has no segment.
            tokens_BT = jnp.pad(tokens_BT, ((0, 0), (1, 0)), constant_values=c.vocab + 1)
            keep_BT = None if keep_BT is None else jnp.pad(keep_BT, ((0, 0), (1, 0)), constant_values=True)
        x_BTD = head.look_up(table_VD, tokens_BT)
        if c.nsp:
            segment_2D = self.param("segment", small, (2, c.width))
            segment_TD = segment_2D[(jnp.arange(c.context) >= c.context // 2).astype(jnp.int32)]
            x_BTD = x_BTD + jnp.pad(segment_TD, ((1, 0), (0, 0)))
        encoder = stack.Stack(
            c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation, mask="bidirectional", name="stack"
        )
        x_BTD = encoder(stack.rms_norm(x_BTD), keep_BT=keep_BT)
        x_BTD = stack.rms_norm(x_BTD, self.param("norm", nn.initializers.ones, (c.width,)))
        next_B2 = None
        if c.nsp:
            head_D2 = self.param("nsp_head", nn.initializers.zeros, (c.width, 2))
            next_B2, x_BTD = jnp.einsum("bd,dc->bc", x_BTD[:, 0], head_D2), x_BTD[:, 1:]
        weight = table_VD[: c.vocab] if c.tied else self.param("head", nn.initializers.zeros, (c.width, c.vocab))
        return head.vocabulary(x_BTD, weight, targets_BT, tied=c.tied), next_B2


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    return dict(Model(config).init(key, jnp.zeros((1, config.context), jnp.int32))["params"])


def logits(parameters: Parameters, tokens_BT: jax.Array, config: Config) -> jax.Array:
    """Logits of every position, (B, T, V), for inputs (B, T), where the token ``config.vocab`` is a blank."""
    return _apply(parameters, config, tokens_BT)[0]


def _apply(parameters: Parameters, config: Config, *arguments: jax.Array | None) -> Any:
    return Model(config).apply({"params": parameters}, *arguments)


def hide(tokens_BT: jax.Array, mask_BT: jax.Array, key: jax.Array, config: Config):
    """Corrupts a batch: (inputs_BT, hidden_BT, targets_BT, is_other_B or None).

    The model sees ``inputs_BT`` and predicts ``targets_BT`` where ``hidden_BT``."""
    choose, other, swap = jax.random.split(key, 3)
    is_other_B = None
    if config.nsp:
        tokens_BT, is_other_B = objectives.pair(swap, tokens_BT, config.context // 2)
    if config.objective == "diffusion":
        count_B = objectives.diffusion_count(other, mask_BT)
        hidden_BT = objectives.choose(choose, tokens_BT, count_B, mask_BT)
        return jnp.where(hidden_BT, config.vocab, tokens_BT), hidden_BT, tokens_BT, is_other_B
    count_B = objectives.mlm_count(mask_BT, config.rate)
    hidden_BT = objectives.choose(choose, tokens_BT, count_B, mask_BT, config.unit, config.span)
    inputs_BT = objectives.corrupt(other, tokens_BT, hidden_BT, config.vocab, config.vocab)
    return inputs_BT, hidden_BT, tokens_BT, is_other_B


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"mlm" or "diffusion": term, "nsp": term}: nats per hidden token (diffusion: per token; nsp: per example).

    The T positions are the targets of a causal model on the same batch, so both predict the same tokens.
    """
    tokens_BT = batch["tokens"][:, 1:]
    keep_BT = None
    mask_BT = jnp.ones(tokens_BT.shape, bool)
    if "mask" in batch:
        mask_BT = batch["mask"] > 0
        # Swapped halves have padding of their own that is not tracked, so all positions are visible.
        keep_BT = None if config.nsp else objectives.before_padding(mask_BT)
    inputs_BT, hidden_BT, targets_BT, is_other_B = hide(tokens_BT, mask_BT, key, config)
    nats_BT, next_B2 = _apply(parameters, config, inputs_BT, keep_BT, targets_BT)
    if config.objective == "diffusion":
        return {"diffusion": objectives.diffusion(nats_BT, hidden_BT, mask_BT)}
    terms = {"mlm": objectives.clm(nats_BT, hidden_BT)}
    return terms if is_other_B is None else {**terms, "nsp": objectives.classify(next_B2, is_other_B)}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    start = math.log(config.vocab)
    if config.objective == "diffusion":
        return {"diffusion": Term(Unit(bound=True), likelihood=True, start=start)}
    hidden = {"mlm": Term(Unit(per="hidden token"), start=start, share=config.rate)}
    return {**hidden, "nsp": Term(Unit(per="example"), start=math.log(2), count=1)} if config.nsp else hidden


def batch_spec(config: Config) -> dict[str, int]:
    """Positions per example, and size of the vocabulary."""
    return {"context": config.context, "vocab": config.vocab}


def components(config: Config) -> list[Component]:
    """Embeddings, stack, final norm and heads on ``context`` positions, plus one for a class token."""
    c = config
    table, time = c.vocab * c.width, c.context + c.nsp
    parts = [
        Component("embedding", "embedding", (c.vocab + 1 + c.nsp) * c.width),
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
