"""Objectives: from a model's outputs to loss terms.

A term is a pair (sum_B, count_B) in float32: what each example adds and over how many predictions. The trainer takes
sum / count over the batch; evaluation adds them up by document. A collective would be a helper that takes an axis name.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Term = tuple[jax.Array, jax.Array]


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p(target) in nats, (B, T) float32. Log-sum-exp minus a gather: no (B, T, V) log-probabilities are kept."""
    logits_BTV = logits_BTV.astype(jnp.float32)
    chosen_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - chosen_BT


def clm(logits_BTV: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array | None = None) -> Term:
    """Causal language modelling: nats per predicted token where the mask is 1 (everywhere without one)."""
    nats_BT = cross_entropy(logits_BTV, targets_BT)
    if mask_BT is None:
        return nats_BT.sum(axis=1), jnp.full(nats_BT.shape[0], nats_BT.shape[1], jnp.float32)
    mask_BT = mask_BT.astype(jnp.float32)
    return (nats_BT * mask_BT).sum(axis=1), mask_BT.sum(axis=1)
