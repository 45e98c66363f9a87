"""GPT: a decoder-only Transformer that predicts the next token.

RMSNorm before each block, rotary positions, QK-norm, a squared-ReLU MLP of four times the width, and zero-initialised
output projections and head, so that the loss starts at exactly ln V (untied). The head may be tied to the embedding.

``kv_heads`` shares keys and values among heads. ``experts`` replaces each MLP by a mixture that has as many active
parameters as the MLP, not counting the router: hidden units are divided among the ``top`` and ``shared`` experts.
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
from scaling.blocks.experts import Experts
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term
from scaling.records.unit import Unit
from scaling.settings import setting


@dataclass(frozen=True)
class Config(stack.Shape):
    """Shape of a GPT, in addition to the fields of ``stack.Shape``.

    Attributes:
      tied: whether the embedding is also the head.
      kv_heads: heads of keys and values, each shared by heads / kv_heads queries; 0: as many as ``heads``.
      experts: number of routed experts that replace each MLP; 0: a plain MLP.
      top: number of routed experts that a token uses.
      shared: number of further experts that every token uses.
      capacity, evaluation_capacity, dropless: see ``blocks.experts.Experts``.
      group: tokens among which experts are balanced and have a capacity, rounded down to whole examples, at least one.
      balance: weight of the load-balance term in the trained loss.
    """

    vocab: int = setting(256, least=1)
    context: int = setting(64, least=1)
    tied: bool = True
    kv_heads: int = setting(0, least=0)
    experts: int = setting(0, least=0)
    top: int = setting(1, least=1)
    shared: int = setting(0, least=0)
    capacity: float = setting(1.25, above=0)
    balance: float = setting(0.01, least=0)
    evaluation_capacity: float = setting(2.0, above=0, later=True)
    group: int = setting(1024, least=1, later=True)
    dropless: bool = setting(False, later=True)

    def __post_init__(self):
        super().__post_init__()
        if self.kv_heads and self.heads % self.kv_heads:
            remedy = f"must divide heads = {self.heads}, or be 0"
            raise UserError("model.kv_heads", self.kv_heads, remedy, Code.CONFLICT)
        if not self.experts:
            return
        if self.top > self.experts:
            raise UserError("model.top", self.top, f"must be from 1 to experts = {self.experts}", Code.CONFLICT)
        if self.mlp_ratio * self.width % (self.top + self.shared):
            remedy = f"with shared must divide the {self.mlp_ratio * self.width} hidden units"
            raise UserError("model.top", self.top, remedy, Code.CONFLICT)

    @property
    def mixture(self) -> Experts | None:
        """The experts of a block; None for a plain MLP."""
        if not self.experts:
            return None
        hidden = self.mlp_ratio * self.width // (self.top + self.shared)
        shares = self.capacity, self.evaluation_capacity, max(1, self.group // self.context)
        return Experts(self.experts, self.top, hidden, self.shared, *shares, self.dropless)


# Four sizes per doubling of the width from 64 on (below, multiples of 8). Depth is width / 32, at least 2, so that the
# aspect ratio is constant, except at width 80. Non-embedding parameters go from 6k (size 0) to 1.4e11 (size 31).
_WIDTHS = (16, 24, 32, 48, *(step << power for power in range(7) for step in (64, 80, 96, 112)))


def ladder(size: int) -> dict[str, int]:
    """Width, layers and heads of size 0, 1, 2 ..., whose widths are 16, 24, 32, 48, 64, 80, 96 ...

    Raises:
      UserError: the ladder has no such size (UNKNOWN).
    """
    if not 0 <= size < len(_WIDTHS):
        raise UserError("size", size, f"the ladder of gpt has sizes 0 to {len(_WIDTHS) - 1}", Code.UNKNOWN)
    width = _WIDTHS[size]
    head = 8 if width < 64 else 16 if width < 256 else 64
    return {"width": width, "layers": max(2, width // 32), "heads": width // head}


def revision(config: Config) -> int:
    """2: experts are balanced and have a capacity in groups of examples, and another capacity in evaluation."""
    return 2 if config.experts else 1


def together(config: Config) -> int:
    """Examples that share the capacity of experts."""
    return config.mixture.together if config.mixture else 1


class Model(nn.Module):
    """Maps tokens_BT to logits_BTV in the parameters' dtype, or nats_BT of targets_BT; and the load of its experts."""

    config: Config

    @nn.compact
    def __call__(self, tokens_BT: jax.Array, targets_BT: jax.Array | None = None) -> Any:
        c = self.config
        # Small, so that tied logits start near zero and a step of Adam can turn a row far; the norm after the look-up
        # makes the scale irrelevant. At 25k parameters and 0.5M tokens, an untied table of std 1 is 0.09 nats worse.
        table_VD = self.param("embedding", nn.initializers.normal(c.width**-0.5 / 16), (c.vocab, c.width))
        x_BTD = stack.rms_norm(head.look_up(table_VD, tokens_BT))
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        x_BTD = stack.Stack(*shape, kv_heads=c.kv_heads, experts=c.mixture, name="stack")(x_BTD)
        x_BTD, load = x_BTD if c.experts else (x_BTD, None)
        x_BTD = stack.rms_norm(x_BTD, self.param("norm", nn.initializers.ones, (c.width,)))
        weight = table_VD if c.tied else self.param("head", nn.initializers.zeros, (c.width, c.vocab))
        return head.vocabulary(x_BTD, weight, targets_BT, tied=c.tied), load


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    return dict(Model(config).init(key, jnp.zeros((1, config.context), jnp.int32))["params"])


def logits(parameters: Parameters, tokens_BT: jax.Array, config: Config) -> jax.Array:
    """Next-token logits, (B, T, V), for inputs (B, T)."""
    return _apply(parameters, config, tokens_BT)[0]


def _apply(parameters: Parameters, config: Config, *arguments: jax.Array) -> Any:
    return Model(config).apply({"params": parameters}, *arguments)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"loss": (nats_BT, count_BT)} of a batch with tokens (B, T + 1) and, if the data has one, a mask (B, T).

    With experts also {"balance": term}, which is 1 if each group is spread evenly over them, and unless they are
    dropless {"dropped", "dropped_evaluation"}: shares of choices that find an expert full, at the capacity of each.
    """
    del key  # nothing here is random
    tokens = batch["tokens"]
    nats_BT, load = _apply(parameters, config, tokens[:, :-1], tokens[:, 1:])
    terms = {"loss": objectives.clm(nats_BT, batch.get("mask"))}
    if load is None:
        return terms
    measured = {"balance": load.balance} if config.dropless else load._asdict()
    return {**terms, **{name: (each_B, jnp.ones(each_B.shape, jnp.float32)) for name, each_B in measured.items()}}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    terms = {"loss": Term(likelihood=True, causal=True, start=math.log(config.vocab))}
    if not config.experts:
        return terms
    terms["balance"] = Term(Unit(quantity="ratio", per=None), weight=config.balance, count=1)
    dropped = Term(Unit(quantity="share", per="choice of an expert"), weight=0.0, count=1)
    return terms if config.dropless else {**terms, "dropped": dropped, "dropped_evaluation": dropped}


def batch_spec(config: Config) -> dict[str, int]:
    """Positions per example, and size of the vocabulary."""
    return {"context": config.context, "vocab": config.vocab}


def components(config: Config) -> list[Component]:
    """Embedding, stack, final norm and head on ``context`` positions."""
    c = config
    table = c.vocab * c.width
    return [
        Component("embedding", "embedding", table),
        *stack.stack_components(
            c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.context, kv_heads=c.kv_heads, experts=c.mixture
        ),
        Component("final_norm", "norm", c.width),
        Component("head", "head", 0 if c.tied else table, table, c.context),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    blocks = stack.axes(experts=config.mixture)
    tree: Axes = {"embedding": ("vocab", "embed"), "norm": ("embed",), "stack": blocks}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
