"""A family for tests of ``after``: sounds contrasted with what a moving average of their encoder makes of them, among a
queue of earlier ones (MoCo, arXiv 1911.05722), at a temperature that falls during training."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import average
from scaling.blocks.patches import scaled
from scaling.count import Component
from scaling.families import Term
from scaling.records.unit import Unit


@dataclass(frozen=True)
class Config:
    width: int = 4
    queue: int = 12
    sound: int = 8
    decay: float = 0.75
    dtype: str = "float32"


def init(key, config):
    first, second = jax.random.split(key)
    start = jax.random.normal(first, (config.sound, config.width))
    return {"student": start, "teacher": start, "queue": jax.random.normal(second, (config.queue, config.width))}


def paced(config):
    return True


def frozen(config):
    return ("teacher", "queue")


def loss_and_aux(parameters, batch, key, config):
    x_BS = scaled(batch["sound"]).astype(parameters["student"].dtype)
    teacher, queue_QD = (jax.lax.stop_gradient(parameters[name]) for name in ("teacher", "queue"))
    own_BD, other_BD = jnp.einsum("bs,sd->bd", x_BS, parameters["student"]), jnp.einsum("bs,sd->bd", x_BS, teacher)
    scores_BQ = jnp.einsum("bd,qd->bq", own_BD, queue_QD)
    scores_BQ = jnp.concatenate([(own_BD * other_BD).sum(axis=1, keepdims=True), scores_BQ], axis=1)
    nats_B = objectives.cross_entropy(scores_BQ / (2 - objectives.progress(batch)), jnp.zeros(len(x_BS), jnp.int32))
    return {"contrast": (nats_B, jnp.ones(len(x_BS), jnp.float32))}, {"features": other_BD}


def loss(parameters, batch, key, config):
    return loss_and_aux(parameters, batch, key, config)[0]


def after(parameters, aux, key, config):
    teacher = average.moving(parameters["teacher"], parameters["student"], config.decay)
    queue_QD = jnp.concatenate([aux["features"].astype(jnp.float32), parameters["queue"]])[: config.queue]
    return {**parameters, "teacher": teacher, "queue": queue_QD}


def terms(config):
    return {"contrast": Term(Unit(per="sound", among=config.queue + 1), count=1)}


def batch_spec(config):
    return {"context": 1, "sound": config.sound}


def components(config):
    weights, queue = config.sound * config.width, config.queue * config.width
    return [
        Component("student", "projection", weights, weights, 1, first=True),
        Component("teacher", "state", weights, weights, 1, k=2),
        Component("queue", "state", queue, queue, 1, k=4),
    ]


def axes(config):
    return {"student": ("pixels", "embed"), "teacher": ("pixels", "embed"), "queue": ("vocab", "embed")}
