"""The Transformer stack: RMSNorm, rotary positions, QK-norm, zero-initialised output projections.

The weights of all layers are stacked on a leading axis L. Unrolled and scanned execution use the same parameters, so
the choice belongs to ``Execution`` and not to the model, and a checkpoint has a dozen leaves at any depth. Attention
may be causal, bidirectional or with a prefix, may include a second stream (cross attention), and may have fewer heads
of keys and values than of queries. The MLP may be a mixture of experts (blocks/experts.py). Norms may be adaptive: a
vector of each example shifts, scales and gates every branch (adaLN-zero). Adapters, low-rank products and prompts are
used where they stand among the weights (blocks/added.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling.blocks import added, layers
from scaling.blocks import experts as moe
from scaling.blocks.attention import attend
from scaling.blocks.logical import constrain
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.records.types import FEWEST_BITS, MOST_BITS
from scaling.settings import check, setting

# Logical axes of each weight, inputs before outputs, for scaling.mesh and scaling.recipe.
AXES: dict[str, tuple[str, ...]] = {
    "attention_norm": ("layers", "embed"),
    "q": ("layers", "embed", "heads", "head"),
    "k": ("layers", "embed", "heads", "head"),
    "v": ("layers", "embed", "heads", "head"),
    "q_norm": ("layers", "head"),
    "k_norm": ("layers", "head"),
    "o": ("layers", "heads", "head", "embed"),
    "mlp_norm": ("layers", "embed"),
    "up": ("layers", "embed", "mlp"),
    "down": ("layers", "mlp", "embed"),
}
# Of an adaptive stack, in place of the scales of its norms: six vectors for each layer, of which a mesh cuts none.
MODULATION_AXES = ("layers", "embed", "pixels", "mlp")
CROSS_AXES: dict[str, tuple[str, ...]] = {
    f"cross_{name}": AXES[source]
    for name, source in (
        ("norm", "attention_norm"),
        *((name, name) for name in ("q", "k", "v", "q_norm", "k_norm", "o")),
    )
}

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": jax.nn.gelu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, arXiv 2109.08668; no transcendental function
}


DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Shape:
    """Fields of every family that is built on a ``Stack``, for its ``Config`` to inherit.

    Attributes:
      width: of the residual stream; a multiple of 2 * ``heads``, since rotary positions turn pairs.
      layers: number of blocks.
      heads: number of attention heads, each ``width`` / ``heads`` wide.
      mlp_ratio: hidden units of an MLP over ``width``.
      dtype: of the computation; parameters and their updates stay float32.
      weight_bits: the weights of the blocks are rounded to so many bits in every pass, of training and of evaluation
        (``scaling.quantise``); 0: they are not.
    """

    width: int = setting(64, least=1)
    layers: int = setting(2, least=1)
    heads: int = setting(4, least=1)
    mlp_ratio: int = setting(4, least=1)
    activation: str = setting("relu2", choices=ACTIVATIONS)
    dtype: str = setting("float32", choices=DTYPES)
    weight_bits: int = setting(0, least=0, most=MOST_BITS, later=True)

    def __post_init__(self):
        check(self, "model")
        if 0 < self.weight_bits < FEWEST_BITS:
            remedy = f"must be from {FEWEST_BITS} to {MOST_BITS}, or 0 for no rounding"
            raise UserError("model.weight_bits", self.weight_bits, remedy)
        if self.width % (2 * self.heads):
            remedy = f"must be a multiple of 2 x heads = {2 * self.heads}"
            raise UserError("model.width", self.width, remedy, Code.CONFLICT)


def rms_norm(x_: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """x / rms(x) over the last axis, in float32, times ``scale`` (arXiv 1910.07467)."""
    x32 = x_.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + 1e-6)
    if scale is not None:
        y = y * scale.astype(jnp.float32)
    return y.astype(x_.dtype)


def modulate(x_BTD: jax.Array, shift_BD: jax.Array, scale_BD: jax.Array) -> jax.Array:
    """x (1 + scale) + shift, the same at every position; in float32, since scales start small beside 1."""
    return (x_BTD.astype(jnp.float32) * (1 + scale_BD[:, None]) + shift_BD[:, None]).astype(x_BTD.dtype)


def modulations(condition_BD: jax.Array, weight_DNE: jax.Array) -> jax.Array:
    """N vectors of each example, (B, N, E) float32, linear in SiLU of its condition."""
    active_BD = jax.nn.silu(condition_BD)
    vectors_BNE = jnp.einsum("bd,dne->bne", active_BD, weight_DNE, preferred_element_type=jnp.float32)
    return constrain(vectors_BNE, "batch", "time", "embed")


def rotate(x_BHTK: jax.Array, base: float = 10000.0) -> jax.Array:
    """Rotary position embedding of queries or keys by their index in T (arXiv 2104.09864). K is even."""
    time, width = x_BHTK.shape[-2:]
    frequency = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle_TK = jnp.arange(time, dtype=jnp.float32)[:, None] * frequency
    cos, sin = jnp.cos(angle_TK).astype(x_BHTK.dtype), jnp.sin(angle_TK).astype(x_BHTK.dtype)
    left, right = jnp.split(x_BHTK, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


class Stack(nn.Module):
    """``layers`` pre-norm blocks that map x_BTD to x_BTD, in the dtype of x.

    Attributes:
      mask, prefix: which positions see which, as in ``attend``.
      rotary: whether to use rotary positions; otherwise the caller adds positions to x.
      cross: whether each block also attends to ``memory_BSD``, between its attention and its MLP.
      kv_heads: heads of keys and values, each shared by heads / kv_heads queries (arXiv 2305.13245); 0: as many.
      experts: if given, the MLP is a mixture, and the stack also returns its ``Load``, the mean over layers.
      mixing: whether attention's output projection does not start at zero. Needed for a stack whose output is read at
        one position, which would otherwise not depend on the other positions at the start.
      adaptive: whether ``condition_BD`` modulates each block (adaLN-zero, arXiv 2212.09748): norms have no scale of
        their own, and each example's vectors shift and scale what attention and MLP read and gate what they add. The
        gates start at zero, so output projections do not: behind a zero gate they would never move.

    ``execution.current()`` decides whether layers are scanned or unrolled, and what is kept for their gradients.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    activation: str = "relu2"
    mask: str = "causal"
    prefix: int = 0
    rotary: bool = True
    cross: bool = False
    kv_heads: int = 0
    experts: moe.Experts | None = None
    mixing: bool = False
    adaptive: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        memory_BSD: jax.Array | None = None,
        *,
        keep_BT: jax.Array | None = None,
        keep_BS: jax.Array | None = None,
        see_BTS: jax.Array | None = None,
        condition_BD: jax.Array | None = None,
    ) -> Any:
        """False in ``keep_BT`` or ``keep_BS`` hides a position of x or of the memory from every query, in ``see_BTS`` a
        position of x (S is T) from one. A prompt sees what the first position sees."""
        weights = self._weights()
        more = {name: w for name, w in self.variables["params"].items() if name not in weights}
        prompt_KD, ahead = more.pop(added.PROMPT, None), 0
        weights |= more
        if prompt_KD is not None:
            x_BTD, ahead = added.prompted(x_BTD, prompt_KD), len(prompt_KD)
            keep_BT = None if keep_BT is None else jnp.pad(keep_BT, ((0, 0), (ahead, 0)), constant_values=True)
            if see_BTS is not None:
                see_BTS = jnp.pad(see_BTS, ((0, 0), (ahead, 0), (0, 0)), mode="edge")
                see_BTS = jnp.pad(see_BTS, ((0, 0), (0, 0), (ahead, 0)), constant_values=True)

        def layer(x_BTD: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            x_BTD = constrain(x_BTD, "batch", "time", "embed")
            x_BTD, load = self._layer(x_BTD, w, memory_BSD, keep_BT, keep_BS, see_BTS, condition_BD, ahead)
            return constrain(x_BTD, "batch", "time", "embed"), load

        x_BTD, load_LB = layers.each(layers.kept(layer, self.layers), x_BTD, weights, self.layers)
        x_BTD = x_BTD[:, ahead:] if ahead else x_BTD
        if self.experts is None:
            return x_BTD
        return x_BTD, jax.tree.map(lambda each_LB: each_LB.mean(axis=0), load_LB)

    def _weights(self) -> dict[str, jax.Array]:
        """The stack's own parameters, drawn; called where they may be declared."""
        count, width, heads, head = self.layers, self.width, self.heads, self.width // self.heads
        fan_in = nn.initializers.normal(width**-0.5)
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        # Output projections start at zero: the network starts as the identity and the loss at ln V (Fixup, muP).
        # In an adaptive stack the gates do that.
        down = nn.initializers.normal(self.mlp**-0.5) if self.adaptive else zeros
        weights = {} if self.adaptive else {"attention_norm": self.param("attention_norm", ones, (count, width))}
        weights |= {
            "q": self.param("q", fan_in, (count, width, heads, head)),
            "k": self.param("k", fan_in, (count, width, self.kv_heads or heads, head)),
            "v": self.param("v", fan_in, (count, width, self.kv_heads or heads, head)),
            "q_norm": self.param("q_norm", ones, (count, head)),
            "k_norm": self.param("k_norm", ones, (count, head)),
            "o": self.param("o", fan_in if self.mixing or self.adaptive else zeros, (count, heads, head, width)),
        }
        if self.adaptive:
            weights["modulation"] = self.param("modulation", zeros, (count, width, 6, width))
        else:
            weights["mlp_norm"] = self.param("mlp_norm", ones, (count, width))
        if self.experts is None:
            weights["up"] = self.param("up", fan_in, (count, width, self.mlp))
            weights["down"] = self.param("down", down, (count, self.mlp, width))
        else:
            for name, shape in moe.shapes(self.experts, count, width).items():
                weights[name] = self.param(name, down if name.endswith("down") else fan_in, shape)
        if self.cross:
            weights["cross_norm"] = self.param("cross_norm", ones, (count, width))
            for name in ("cross_q", "cross_k", "cross_v"):
                weights[name] = self.param(name, fan_in, (count, width, heads, head))
            weights["cross_q_norm"] = self.param("cross_q_norm", ones, (count, head))
            weights["cross_k_norm"] = self.param("cross_k_norm", ones, (count, head))
            weights["cross_o"] = self.param("cross_o", zeros, (count, heads, head, width))
        return weights

    def _layer(
        self, x_BTD: jax.Array, w: dict[str, jax.Array], memory_BSD, keep_BT, keep_BS, see_BTS, condition_BD, ahead: int
    ) -> tuple[jax.Array, Any]:
        product, bottleneck = added.product, added.bottleneck
        by_6BD = modulations(condition_BD, w["modulation"]).swapaxes(0, 1) if self.adaptive else None

        def read(x_BTD: jax.Array, norm: str, first: int) -> jax.Array:
            if by_6BD is None:
                return rms_norm(x_BTD, w[norm])
            return modulate(rms_norm(x_BTD), by_6BD[first], by_6BD[first + 1])

        def gated(y_BTD: jax.Array, gate: int) -> jax.Array:
            return y_BTD if by_6BD is None else (by_6BD[gate][:, None] * y_BTD).astype(y_BTD.dtype)

        h_BTD = read(x_BTD, "attention_norm", 0)
        q_BHTK, k_BHTK, v_BHTK = (product("btd,dhk->bhtk", h_BTD, w, name) for name in ("q", "k", "v"))
        # QK-norm bounds the scores, which keeps high learning rates stable (arXiv 2302.05442).
        place = rotate if self.rotary else lambda y: y
        q_BHTK, k_BHTK = place(rms_norm(q_BHTK, w["q_norm"])), place(rms_norm(k_BHTK, w["k_norm"]))
        hidden: Any = {"keep_BS": keep_BT, "see_BTS": see_BTS}
        mixed = attend(q_BHTK, k_BHTK, v_BHTK, self.mask, prefix=self.prefix + ahead, **hidden)
        x_BTD = x_BTD + gated(bottleneck(product("bhtk,hkd->btd", mixed, w, "o"), w, "attention"), 2)
        if self.cross:
            q_BHTK = product("btd,dhk->bhtk", rms_norm(x_BTD, w["cross_norm"]), w, "cross_q")
            k_BHSK, v_BHSK = (product("bsd,dhk->bhsk", memory_BSD, w, name) for name in ("cross_k", "cross_v"))
            q_BHTK, k_BHSK = rms_norm(q_BHTK, w["cross_q_norm"]), rms_norm(k_BHSK, w["cross_k_norm"])
            mixed = attend(q_BHTK, k_BHSK, v_BHSK, "bidirectional", keep_BS=keep_BS)
            x_BTD = x_BTD + bottleneck(product("bhtk,hkd->btd", mixed, w, "cross_o"), w, "cross")
        h_BTD = read(x_BTD, "mlp_norm", 3)
        activation = ACTIVATIONS[self.activation]
        if self.experts is not None:
            y_BTD, load = moe.mixture(h_BTD, w, self.experts, activation)
            return x_BTD + gated(bottleneck(y_BTD, w, "mlp"), 5), load
        h_BTF = activation(product("btd,df->btf", h_BTD, w, "up"))
        return x_BTD + gated(bottleneck(product("btf,fd->btd", h_BTF, w, "down"), w, "mlp"), 5), None


def axes(
    *, cross: bool = False, experts: moe.Experts | None = None, adaptive: bool = False
) -> dict[str, tuple[str, ...]]:
    """Logical axes of a Stack's parameters."""
    tree = {**AXES, **(CROSS_AXES if cross else {})}
    if adaptive:
        tree = {name: names for name, names in tree.items() if name not in ("attention_norm", "mlp_norm")}
        tree["modulation"] = MODULATION_AXES
    if experts is None:
        return tree
    return {**{name: names for name, names in tree.items() if name not in ("up", "down")}, **moe.axes(experts)}


# wide: the shape of a stack, one number each
def stack_components(
    layers: int,
    width: int,
    heads: int,
    mlp: int,
    time: int,
    prefix: str = "",
    *,
    memory: int = 0,
    kv_heads: int = 0,
    experts: moe.Experts | None = None,
    adaptive: bool = False,
) -> list[Component]:
    """Counted components of a Stack of this shape, on ``time`` positions that attend to each other.

    Args:
      prefix: of all names and groups, to distinguish streams; without its last ``_`` the name of the stack.
      memory: positions of a second stream that each block attends to; 0: no cross attention. Its keys and values are
        computed for each position of the memory, the rest for each of ``time``.
      adaptive: as in ``Stack``; the vectors are computed once for each example.
    """
    kv_width = width // heads * (kv_heads or heads)
    attention, feedforward = 2 * layers * width * (width + kv_width), 2 * layers * width * mlp
    products, scores = 4 * layers * time * width, layers * heads * time
    name = f"{prefix}attention"
    parts = [Component(name, name, attention, attention, time, attention=products * time, scores=scores * time)]
    norms = 2 * layers * (width // heads + (0 if adaptive else width))
    if adaptive:
        vectors, name = 6 * layers * width**2, f"{prefix}modulation"
        parts.append(Component(name, name, vectors, vectors, 1))
    if memory:
        half, name = 2 * layers * width * width, f"{prefix}cross"
        read, seen = products * memory, scores * memory
        parts += [
            Component(f"{prefix}cross_query", name, half, half, time, attention=read, scores=seen),
            Component(f"{prefix}cross_memory", name, half, half, memory),
        ]
        norms += layers * (width + 2 * (width // heads))
    if experts is None:
        parts.append(Component(f"{prefix}mlp", f"{prefix}mlp", feedforward, feedforward, time))
    else:
        parts += moe.components(experts, layers, width, time, prefix)
    parts.append(Component(f"{prefix}norm", f"{prefix}norm", norms))
    return [dataclasses.replace(part, part=prefix.rstrip("_") or "stack") for part in parts]
