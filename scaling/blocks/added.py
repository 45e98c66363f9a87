"""What may be added to the weights of a Stack: low-rank products, bottlenecks and a prompt, each found by its name.

A Stack itself draws none of these. Who trains them (``scaling.adapt``) puts them among its weights.

    NAME_lora_a, NAME_lora_b             beside the product with the weight NAME (arXiv 2106.09685)
    PLACE_adapter_down, PLACE_adapter_up  behind a branch's output, before it is added to the stream (arXiv 1902.00751)
    prompt                               vectors before the first position (arXiv 2104.08691)
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from scaling.blocks import dense
from scaling.blocks.logical import constrain

PROMPT = "prompt"
PLACES = ("attention", "cross", "mlp")  # branches of a layer
Weights = Mapping[str, jax.Array]


def product(equation: str, x_: jax.Array, w: Weights, name: str) -> jax.Array:
    """An einsum of an activation with the weight ``name`` of a layer, and with its low-rank addition, if it has one.

    Args:
      equation: such as ``btd,dhk->bhtk``: axes of the weight that the result lacks are summed over.
    """
    y_ = dense.product(x_, w[name]) if w[name].ndim == 2 else jnp.einsum(equation, x_, w[name])
    first, second = lora(name)
    if first not in w:
        return y_
    (given, weight), out = (side.split(",") for side in equation.split("->"))
    inside = "".join(axis for axis in weight if axis in given)
    kept, outside = given.translate(_without(inside)), weight.translate(_without(inside))
    low_ = jnp.einsum(f"{given},{inside}r->{kept}r", x_, w[first])
    return y_ + jnp.einsum(f"{kept}r,r{outside}->{out[0]}", low_, w[second])


def lora(name: str) -> tuple[str, str]:
    """Names of the two factors that are added to a weight."""
    return f"{name}_lora_a", f"{name}_lora_b"


def _without(axes: str) -> dict[int, None]:
    return dict.fromkeys(map(ord, axes))


def bottleneck(y_BTD: jax.Array, w: Weights, place: str) -> jax.Array:
    """The output of a branch, plus up(GELU(down(it))) if the layer has an adapter at that place."""
    down, up = adapter(place)
    if down not in w:
        return y_BTD
    hidden_BTR = jax.nn.gelu(jnp.einsum("btd,dr->btr", y_BTD, w[down]))
    return y_BTD + jnp.einsum("btr,rd->btd", hidden_BTR, w[up])


def adapter(place: str) -> tuple[str, str]:
    """Names of the two weights of the adapter at a place."""
    return f"{place}_adapter_down", f"{place}_adapter_up"


def prompted(x_BTD: jax.Array, prompt_KD: jax.Array) -> jax.Array:
    """The stream with the vectors of a prompt before it, (B, K + T, D)."""
    prompt_BKD = jnp.broadcast_to(prompt_KD.astype(x_BTD.dtype), (len(x_BTD), *prompt_KD.shape))
    return jnp.concatenate([constrain(prompt_BKD, "batch", "time", "embed"), x_BTD], axis=1)
