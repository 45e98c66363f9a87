"""Regression in context (arXiv 2208.01066): a causal Transformer over x1, y1, x2, y2 ... predicts each y from what is
before it, and so from the points of a function that it has never seen.

The loss is the squared error of y, by point: at point k the function is known from k points. On the source ``linear``
the smallest possible error of every k is known exactly, and E[y^2] = 1 is the loss before the first step, since the
head starts at zero.

What differs from the paper's code: y has a row of its own in the projection of the numbers, where the code puts it in
the place of the first number of an x; RMSNorm, QK-norm, the house's activation and no biases; the loss is of all points
from the first step on, where the code begins with fewer of them and of fewer dimensions. D counts points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.blocks import dense, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting


@dataclass(frozen=True)
class Config(stack.Shape):
    """Shape of the model, in addition to the fields of ``stack.Shape``.

    Attributes:
      context: points of an example.
      dims: numbers of an x.
    """

    context: int = setting(16, least=1)
    dims: int = setting(4, least=1)

    @property
    def positions(self) -> int:
        """Of the stack; nothing follows the last x."""
        return 2 * self.context - 1


ladder = gpt.ladder


class Model(nn.Module):
    """Maps points_BTX, x and then y, to predictions of y, (B, T) in the parameters' dtype."""

    config: Config

    @nn.compact
    def __call__(self, points_BTX: jax.Array) -> jax.Array:
        c, normal = self.config, nn.initializers.normal
        number_XD = self.param("numbers", normal(c.dims**-0.5), (c.dims + 1, c.width))
        # As large as the numbers: a block sees directions alone, and would not know how large an x or a y is.
        place_SD = self.param("positions", normal(1.0), (c.positions, c.width))
        is_y_X = jnp.arange(c.dims + 1) == c.dims
        both_BTKX = jnp.stack([jnp.where(is_y_X, 0, points_BTX), jnp.where(is_y_X, points_BTX, 0)], axis=2)
        number_BSX = both_BTKX.reshape(len(points_BTX), -1, c.dims + 1)[:, : c.positions].astype(number_XD.dtype)
        x_BSD = jnp.einsum("bsx,xd->bsd", number_BSX, number_XD) + place_SD
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        x_BSD = stack.Stack(*shape, rotary=False, name="stack")(x_BSD)
        x_BTD = stack.rms_norm(x_BSD[:, ::2], self.param("norm", nn.initializers.ones, (c.width,)))
        return dense.product(x_BTD, self.param("head", nn.initializers.zeros, (c.width, 1)))[..., 0]


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    return dict(Model(config).init(key, jnp.zeros((1, config.context, config.dims + 1)))["params"])


def outputs(parameters: Parameters, points_BTX: jax.Array, config: Config) -> jax.Array:
    """Predictions of y, (B, T)."""
    predicted_BT: Any = Model(config).apply({"params": parameters}, points_BTX)
    return predicted_BT


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"error": squared error of y by point, (B, T)}."""
    del key  # nothing here is random
    points_BTX = batch["points"]
    error_BT = jnp.square(outputs(parameters, points_BTX, config).astype(jnp.float32) - points_BTX[..., -1])
    return {"error": (error_BT, jnp.ones(error_BT.shape, jnp.float32))}


def terms(config: Config) -> dict[str, Term]:
    """The term of ``loss``. Its start is the mean of y^2, which is the data's: 1 in expectation on ``linear``."""
    unit = Unit(quantity="squared error", per="point", given=f"x and up to {config.context - 1} points before it")
    return {"error": Term(unit, causal=True)}


def counted(config: Config) -> str:
    """What D counts."""
    return f"points, {config.context} an example"


def batch_spec(config: Config) -> dict[str, int]:
    """Points per example, and their numbers."""
    return {"context": config.context, "points": config.dims + 1}


def components(config: Config) -> list[Component]:
    """Projection of the numbers and stack on all positions; head at every x."""
    c, table = config, (config.dims + 1) * config.width
    return [
        Component("numbers", "patch", table, table, c.positions, first=True),
        Component("positions", "position", c.positions * c.width),
        *stack.stack_components(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.positions),
        Component("final_norm", "norm", c.width),
        Component("head", "head", c.width, c.width, c.context),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. The numbers of a point do not grow with the width."""
    ends: Axes = {"numbers": ("pixels", "embed"), "head": ("embed", "pixels")}
    return {**ends, "positions": ("pixels", "embed"), "norm": ("embed",), "stack": stack.axes()}
