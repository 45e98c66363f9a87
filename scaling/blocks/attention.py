"""Softmax attention with several backends. ``Execution.attention`` chooses one, and the one that ran is recorded.

Queries have T positions and H heads. Keys and values have S positions, and H heads or a divisor of H, in which case
each head is shared by several query heads (arXiv 2305.13245).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from scaling.blocks import dense, execution
from scaling.errors import Code, UserError

MASKS = ("causal", "bidirectional", "prefix")
NARROW = 16  # width of heads up to which a sum over queries is faster with y transposed (experiments/LOG.md)
HIDDEN = -1e30  # the score of what a query does not see: in float32, any score plus this is this


def attend(
    q_BHTK: jax.Array,
    k_BHSK: jax.Array,
    v_BHSK: jax.Array,
    mask: str = "causal",
    *,
    prefix: int = 0,
    keep_BS: jax.Array | None = None,
    see_BTS: jax.Array | None = None,
) -> jax.Array:
    """Attention of q to k and v, (B, H, T, K), with scores in float32.

    Args:
      mask: ``causal``: position t sees positions up to t; ``prefix``: these and the first ``prefix`` positions;
        ``bidirectional``: all positions.
      keep_BS: False hides a position from every query.
      see_BTS: False hides a position from one query. One that sees nothing gets zeros.

    Raises:
      UserError: the requested backend does not support this device, dtype or shape (ENVIRONMENT).
      ValueError: there is no such mask.
    """
    if mask not in MASKS:
        raise ValueError(f"mask {mask}: choose one of {', '.join(MASKS)}")
    allowed = None
    if mask == "prefix" or keep_BS is not None or see_BTS is not None:
        shape = (q_BHTK.shape[2], k_BHSK.shape[2])
        allowed = jnp.ones(shape, bool) if mask == "bidirectional" else jnp.tril(jnp.ones(shape, bool))
        allowed = (allowed | (jnp.arange(shape[1]) < prefix) if mask == "prefix" else allowed)[None, None]
        allowed = allowed if keep_BS is None else allowed & keep_BS[:, None, None, :]
        allowed = allowed if see_BTS is None else allowed & see_BTS[:, None]
    name = _choose(execution.current().attention, q_BHTK, k_BHSK, allowed is not None)
    execution.note(name)
    mixed_BHTK = BACKENDS[name](q_BHTK, k_BHSK, v_BHSK, mask == "causal", allowed)
    if see_BTS is None:
        return mixed_BHTK
    assert allowed is not None
    return jnp.where(allowed.any(axis=-1, keepdims=True), mixed_BHTK, 0)


def _choose(asked: str, q_BHTK: jax.Array, k_BHSK: jax.Array, masked: bool) -> str:
    """The backend to run. An unsupported request is an error, except that ``own`` handles masks that others cannot."""
    if asked in ("own", "xla"):
        return asked
    reasons = {name: _unfit(name, q_BHTK, k_BHSK) for name in ("cudnn", "splash")}
    if asked != "auto" and reasons[asked] is not None:
        remedy = f"needs {reasons[asked]}; auto chooses what can run"
        raise UserError("execution.attention", asked, remedy, Code.ENVIRONMENT)
    fit = [name for name, reason in reasons.items() if reason is None and asked in (name, "auto")]
    return fit[0] if fit and not masked else "own"


def _unfit(name: str, q_BHTK: jax.Array, k_BHSK: jax.Array) -> str | None:
    """What a backend needs and lacks here, in words; None if it can run."""
    platform, head = jax.default_backend(), q_BHTK.shape[-1]
    if name == "cudnn":
        if platform != "gpu":
            return f"a GPU, and this is a {platform}"
        if q_BHTK.dtype != jnp.bfloat16:
            return f"model.dtype bfloat16, not {q_BHTK.dtype}"
        return None if head % 8 == 0 and head <= 128 else f"heads of a multiple of 8 up to 128, not {head}"
    if platform != "tpu":
        return f"a TPU, and this is a {platform}"
    if jax.device_count() > 1:
        return "one device"  # a Pallas kernel is not partitioned by jit
    whole = q_BHTK.shape[2] % 128 == 0 and k_BHSK.shape[2] % 128 == 0
    return None if whole else f"positions in multiples of 128, not {q_BHTK.shape[2]}"


def _repeated(q_BHTK: jax.Array, *keys: jax.Array) -> list[jax.Array]:
    ways = q_BHTK.shape[1] // keys[0].shape[1]
    return [jnp.repeat(y, ways, axis=1) if ways > 1 else y for y in keys]


def _own(q_BHTK, k_BHSK, v_BHSK, causal: bool, allowed: jax.Array | None) -> jax.Array:
    """Divides by the normaliser after the product with V: T * K divisions instead of T * S, 1.14 to 1.19x on a CPU."""
    k_BHSK, v_BHSK = _repeated(q_BHTK, k_BHSK, v_BHSK)
    q_BHTK = q_BHTK * q_BHTK.shape[-1] ** -0.5
    if dense.on_cpu(q_BHTK) and allowed is not None:
        # The weights of a query that sees nothing are all alike. As zero, it has no part in the gradient of k either.
        q_BHTK = jnp.where(allowed.any(axis=-1, keepdims=True), q_BHTK, 0)
    if allowed is None and causal:
        allowed = jnp.tril(jnp.ones((q_BHTK.shape[2], k_BHSK.shape[2]), bool))
    if dense.on_cpu(q_BHTK):
        bias = None if allowed is None else jnp.where(allowed, jnp.float32(0), HIDDEN)
        return _on_cpu(q_BHTK, k_BHSK, v_BHSK, bias)
    scores = jnp.einsum("bhtk,bhsk->bhts", q_BHTK, k_BHSK, preferred_element_type=jnp.float32)
    if allowed is not None:
        scores = jnp.where(allowed, scores, HIDDEN)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum("bhts,bhsk->bhtk", weights.astype(v_BHSK.dtype), v_BHSK, preferred_element_type=jnp.float32)
    return (mixed / total).astype(q_BHTK.dtype)


def _mix(q_BHTK: jax.Array, k_BHSK: jax.Array, v_BHSK: jax.Array, bias: jax.Array | None) -> jax.Array:
    return _mixed(q_BHTK, k_BHSK, v_BHSK, bias)[0]


def _mixed(q_BHTK: jax.Array, k_BHSK: jax.Array, v_BHSK: jax.Array, bias: jax.Array | None):
    scores_BHTS = jnp.einsum("bhtk,bhsk->bhts", q_BHTK, k_BHSK)
    if bias is not None:
        scores_BHTS = scores_BHTS + bias
    weights_BHTS = jnp.exp(scores_BHTS - jnp.max(scores_BHTS, axis=-1, keepdims=True))
    total_BHT1 = jnp.sum(weights_BHTS, axis=-1, keepdims=True)
    mixed_BHTK = jnp.einsum("bhts,bhsk->bhtk", weights_BHTS, v_BHSK) / total_BHT1
    return mixed_BHTK, (weights_BHTS, total_BHT1, mixed_BHTK)


def _mix_forward(q_BHTK: Any, k_BHSK: Any, v_BHSK: Any, bias: Any):
    mixed_BHTK, kept = _mixed(q_BHTK.value, k_BHSK.value, v_BHSK.value, None if bias is None else bias.value)
    # Of what is not differentiated no product is traced, as in ``dense``.
    q_kept, k_kept = q_BHTK.value if k_BHSK.perturbed else None, k_BHSK.value if q_BHTK.perturbed else None
    return mixed_BHTK, (q_kept, k_kept, v_BHSK.value, True if v_BHSK.perturbed else None, *kept)


def _mix_backward(kept: tuple[Any, ...], gradient_BHTK: jax.Array):
    """The softmax's sum over S is a sum over K of what it mixed (arXiv 2205.14135); what is hidden has no weight."""
    q_BHTK, k_BHSK, v_BHSK, v_moves, weights_BHTS, total_BHT1, mixed_BHTK = kept
    q_gradient = k_gradient = v_gradient = None
    scaled_BHTK = gradient_BHTK / total_BHT1
    if q_BHTK is not None or k_BHSK is not None:
        inner_BHT1 = jnp.sum(scaled_BHTK * mixed_BHTK, axis=-1, keepdims=True)
        slope_BHTS = weights_BHTS * (jnp.einsum("bhtk,bhsk->bhts", scaled_BHTK, v_BHSK) - inner_BHT1)
        q_gradient = None if k_BHSK is None else jnp.einsum("bhts,bhsk->bhtk", slope_BHTS, k_BHSK)
        k_gradient = None if q_BHTK is None else _over_queries(slope_BHTS, q_BHTK)
    if v_moves is not None:
        v_gradient = _over_queries(weights_BHTS, scaled_BHTK)
    return q_gradient, k_gradient, v_gradient, None


def _over_queries(x_BHTS: jax.Array, y_BHTK: jax.Array) -> jax.Array:
    """``einsum("bhts,bhtk->bhsk", x, y)``; of narrow heads as a product that the fast routine takes (see ``dense``)."""
    if y_BHTK.shape[-1] > NARROW:
        return jnp.einsum("bhts,bhtk->bhsk", x_BHTS, y_BHTK)
    y_BHKT = jax.lax.optimization_barrier(y_BHTK.swapaxes(2, 3))
    return jax.lax.optimization_barrier(jnp.einsum("bhkt,bhts->bhks", y_BHKT, x_BHTS)).swapaxes(2, 3)


_on_cpu = jax.custom_vjp(_mix)
_on_cpu.defvjp(_mix_forward, _mix_backward, symbolic_zeros=True)


def _library(implementation: Literal["xla", "cudnn"]) -> Callable[..., jax.Array]:
    def run(q_BHTK, k_BHSK, v_BHSK, causal: bool, allowed: jax.Array | None) -> jax.Array:
        q_BTHK, k_BSHK, v_BSHK = (y.swapaxes(1, 2) for y in (q_BHTK, k_BHSK, v_BHSK))
        mixed = jax.nn.dot_product_attention(
            q_BTHK,
            k_BSHK,
            v_BSHK,
            mask=allowed,
            is_causal=causal and allowed is None,
            implementation=implementation,
        )
        return mixed.swapaxes(1, 2)

    return run


def _splash(q_BHTK, k_BHSK, v_BHSK, causal: bool, allowed: jax.Array | None, *, interpret: bool = False) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    assert allowed is None
    k_BHSK, v_BHSK = _repeated(q_BHTK, k_BHSK, v_BHSK)
    heads, shape = q_BHTK.shape[1], (q_BHTK.shape[2], k_BHSK.shape[2])
    mask = splash.MultiHeadMask([splash.CausalMask(shape) if causal else splash.FullMask(shape)] * heads)
    kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, interpret=interpret)
    mixed: Any = jax.vmap(kernel)(q_BHTK * q_BHTK.shape[-1] ** -0.5, k_BHSK, v_BHSK)
    return mixed


BACKENDS: dict[str, Callable[..., jax.Array]] = {
    "own": _own,
    "xla": _library("xla"),
    "cudnn": _library("cudnn"),
    "splash": _splash,
}
