"""GPT: a decoder-only Transformer that predicts the next token.

RMSNorm before each block, rotary positions, QK-norm, squared-ReLU MLP of four widths, zero-initialised output
projections and head, so that the loss starts at ln V exactly. The head is tied to the embedding or its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import stack
from scaling.count import Component
from scaling.errors import UserError


@dataclass(frozen=True)
class Config:
    """Shape of a GPT. ``width`` is a multiple of 2 * ``heads``; ``dtype`` is what it computes in."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_ratio: int = 4
    vocab: int = 256
    context: int = 64
    tied: bool = True
    activation: str = "relu2"
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("width", "layers", "heads", "mlp_ratio", "vocab", "context"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}", getattr(self, name), "must be at least 1")
        if self.width % (2 * self.heads):
            raise UserError("model.width", self.width, f"must be a multiple of 2 x heads = {2 * self.heads}")
        if self.activation not in stack.ACTIVATIONS:
            raise UserError("model.activation", self.activation, f"choose one of {', '.join(stack.ACTIVATIONS)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError("model.dtype", self.dtype, "choose float32 or bfloat16")


# Four sizes a doubling of the width from 64 on (below, multiples of 8). Depth is width / 32, at least 2, so that the
# aspect ratio is constant but for width 80. Non-embedding parameters go from 6k (size 0) to 1.4e11 (size 31).
_WIDTHS = (16, 24, 32, 48, *(step << power for power in range(7) for step in (64, 80, 96, 112)))


def ladder(size: int) -> dict[str, int]:
    """Size 0, 1, 2 ...: width 16, 24, 32, 48, 64, 80, 96 ... and what follows from it."""
    if not 0 <= size < len(_WIDTHS):
        raise UserError("size", size, f"the ladder of gpt has sizes 0 to {len(_WIDTHS) - 1}")
    width = _WIDTHS[size]
    head = 8 if width < 64 else 16 if width < 256 else 64
    return {"width": width, "layers": max(2, width // 32), "heads": width // head}


class Model(nn.Module):
    """tokens_BT -> logits_BTV in the compute dtype."""

    config: Config

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        # Small, so that tied logits start near zero and a step of Adam turns a row far; the norm after the look-up
        # frees the scale. At 25k parameters and 0.5M tokens an untied table of std 1 costs 0.09 nats against this.
        table_VD = self.param("embedding", nn.initializers.normal(c.width**-0.5 / 16), (c.vocab, c.width))
        x_BTD = stack.rms_norm(table_VD.astype(dtype)[tokens_BT])
        x_BTD = stack.Stack(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation, name="stack")(x_BTD)
        x_BTD = stack.rms_norm(x_BTD, self.param("norm", nn.initializers.ones, (c.width,)))
        if c.tied:
            return jnp.einsum("btd,vd->btv", x_BTD, table_VD.astype(dtype))
        head_DV = self.param("head", nn.initializers.zeros, (c.width, c.vocab))
        return jnp.einsum("btd,dv->btv", x_BTD, head_DV.astype(dtype))


def init(key: jax.Array, config: Config) -> dict[str, Any]:
    """Parameters in float32, drawn from ``key``."""
    return dict(Model(config).init(key, jnp.zeros((1, config.context), jnp.int32))["params"])


def logits(parameters: dict[str, Any], tokens_BT: jax.Array, config: Config) -> jax.Array:
    """Next-token logits, (B, T, V), for inputs (B, T)."""
    return Model(config).apply({"params": parameters}, tokens_BT)  # type: ignore[return-value]


def loss(parameters: dict[str, Any], batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"loss": (nats_B, count_B)} of a batch with tokens (B, T + 1) and, where the data has one, a mask (B, T)."""
    del key  # nothing here is random
    tokens = batch["tokens"]
    return {"loss": objectives.clm(logits(parameters, tokens[:, :-1], config), tokens[:, 1:], batch.get("mask"))}


def batch_spec(config: Config) -> dict[str, int]:
    """Positions per example and the vocabulary that the data must fit in."""
    return {"context": config.context, "vocab": config.vocab}


def components(config: Config) -> list[Component]:
    """Embedding, stack, final norm and head on ``context`` positions."""
    c = config
    table = c.vocab * c.width
    return [
        Component("embedding", "embedding", table),
        *stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.context),
        Component("final_norm", "norm", c.width),
        Component("head", "head", 0 if c.tied else table, table, c.context),
    ]


def axes(config: Config) -> dict[str, Any]:
    """Logical axes of every parameter."""
    tree: dict[str, Any] = {"embedding": ("vocab", "embed"), "norm": ("embed",), "stack": dict(stack.AXES)}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
