"""One battery over every family, found by listing the folder."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling import count, families, recipe
from scaling.blocks import stack
from scaling.errors import UserError
from scaling.families import gpt
from scaling.step import Trainer

FAMILIES = families.names()
MESH = {"data": 1, "fsdp": 1, "tensor": 1}


def small(name: str, **fields):
    module = families.load(name)
    return module, families.configure(module, 0, **{"vocab": 32, "context": 16, **fields})


def batch_of(module, config, size: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    spec = module.batch_spec(config)
    tokens = np.random.default_rng(seed).integers(0, spec["vocab"], (size, spec["context"] + 1))
    return {"tokens": tokens.astype(np.int32)}


def mean_loss(module, parameters, batch, config):
    total, examples = next(iter(module.loss(parameters, batch, jax.random.key(1), config).values()))
    return total.sum() / examples.sum()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [0, 3, 14])
@pytest.mark.parametrize("name", FAMILIES)
def test_analytic_counts_equal_the_traced_program(name: str, size: int, tied: bool):
    module = families.load(name)
    config = families.configure(module, size, tied=tied)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    parts = module.components(config)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count.parameters(parts)["total"]
    context = module.batch_spec(config)["context"]
    batch = {"tokens": jax.ShapeDtypeStruct((3, context + 1), jnp.int32)}
    traced = count.jaxpr_flops(lambda p, b: module.loss(p, b, jax.random.key(0), config), shapes, batch)
    assert traced == 3 * sum(count.forward_flops(parts).values())
    # Each product has two gradients, and the first layer has no cheaper one: what is looked up is trained too.
    gradient = count.jaxpr_flops(jax.grad(lambda p, b: mean_loss(module, p, b, config)), shapes, batch)
    assert gradient == 3 * sum(count.training_flops(parts).values())


@pytest.mark.parametrize("name", FAMILIES)
def test_axes_name_every_dimension_of_every_parameter(name: str):
    module, config = small(name)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    leaf = lambda value: isinstance(value, tuple)  # noqa: E731
    ranks = jax.tree.map(lambda names, shape: len(names) == len(shape.shape), module.axes(config), shapes, is_leaf=leaf)
    assert all(jax.tree.leaves(ranks))


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_starts_at_ln_v_and_gradients_are_finite(name: str):
    module, config = small(name)
    parameters = module.init(jax.random.key(0), config)
    batch = batch_of(module, config, 8)
    loss, gradient = jax.value_and_grad(lambda p: mean_loss(module, p, batch, config))(parameters)
    assert float(loss) == pytest.approx(math.log(32), abs=0.01)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    assert any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


def trained(module, config, batch, steps: int, **fields):
    rules = recipe.named("width", warmup_steps=5, batch=len(batch["tokens"]), **fields)
    trainer = Trainer(module, config, rules, MESH, steps)
    batches = {name: np.repeat(value[None], steps, 0) for name, value in batch.items()}
    hyper = {
        "learning_rate": np.float32(rules.learning_rate) * recipe.rate(rules, np.arange(steps), None),
        "weight_decay": np.zeros(steps, np.float32),
        "steps": np.int32(steps),
    }
    return trainer, batches, hyper, trainer.chunk(trainer.init(0), hyper, batches)


@pytest.mark.parametrize("name", FAMILIES)
def test_eight_examples_are_learnt_by_heart(name: str):
    module, config = small(name, context=8)
    _, _, _, (_, metrics) = trained(module, config, batch_of(module, config, 8), 300)
    losses = np.asarray(metrics["loss"])
    # The first of nine random tokens cannot be known, only the eight after it; each row's context identifies it.
    assert losses[0] > 3.4 and losses[-1] < 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_members_of_an_ensemble_equal_single_runs(name: str):
    module, config = small(name, context=8)
    trainer, batches, hyper, (state, metrics) = trained(module, config, batch_of(module, config), 20)
    states = jax.vmap(trainer._init)(jnp.arange(3, dtype=jnp.uint32))
    rates = jnp.stack([jnp.asarray(hyper["learning_rate"]) * scale for scale in (1.0, 0.5, 0.25)])
    members = jax.vmap(trainer.step_chunk, (0, {"learning_rate": 0, "weight_decay": None, "steps": None}, None))
    together, many = jax.jit(members)(states, {**hyper, "learning_rate": rates}, batches)
    np.testing.assert_allclose(many["loss"][0], metrics["loss"], rtol=1e-5)
    first = jax.tree.map(lambda leaf: leaf[0], together["params"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), first, state["params"])
    assert float(jnp.abs(many["loss"][1] - many["loss"][0]).max()) > 1e-3


def test_scanned_layers_equal_unrolled_layers():
    x_BTD = jax.random.normal(jax.random.key(0), (2, 8, 16))
    shape: dict[str, Any] = {"layers": 3, "width": 16, "heads": 2, "mlp": 64}
    weights = stack.Stack(**shape).init(jax.random.key(1), x_BTD)
    weights = jax.tree.map(lambda w: jax.random.normal(jax.random.key(2), w.shape) * 0.2, weights)
    unrolled = stack.Stack(**shape, scan=False).apply(weights, x_BTD)
    scanned = stack.Stack(**shape, scan=True).apply(weights, x_BTD)
    np.testing.assert_allclose(np.asarray(scanned), np.asarray(unrolled), rtol=2e-5, atol=2e-5)


def test_attention_is_softmax_attention_and_sees_no_future():
    q, k, v = (jax.random.normal(jax.random.key(seed), (2, 3, 6, 4)) for seed in range(3))
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k) / 2
    weights = jax.nn.softmax(jnp.where(np.tril(np.ones((6, 6), bool)), scores, -jnp.inf), axis=-1)
    expected = jnp.einsum("bhts,bhsk->bhtk", weights, v)
    np.testing.assert_allclose(stack.attend(q, k, v, True), expected, atol=1e-5)
    module, config = small("gpt")
    parameters = jax.tree.map(
        lambda w: jax.random.normal(jax.random.key(3), w.shape), module.init(jax.random.key(0), config)
    )
    tokens = jnp.asarray(batch_of(module, config)["tokens"][:, :-1])
    changed = tokens.at[:, 9].set((tokens[:, 9] + 1) % 32)
    before, after = gpt.logits(parameters, tokens, config), gpt.logits(parameters, changed, config)
    np.testing.assert_array_equal(np.asarray(before)[:, :9], np.asarray(after)[:, :9])
    assert np.abs(np.asarray(before)[:, 9:] - np.asarray(after)[:, 9:]).max() > 1e-3


def test_bfloat16_computes_close_to_float32():
    module, exact = small("gpt", context=8)
    _, rough = small("gpt", context=8, dtype="bfloat16")
    batch = batch_of(module, exact)
    parameters = module.init(jax.random.key(0), exact)
    parameters = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(jax.random.key(4), w.shape), parameters)
    assert float(mean_loss(module, parameters, batch, rough)) == pytest.approx(
        float(mean_loss(module, parameters, batch, exact)), rel=0.02
    )
    assert gpt.logits(parameters, jnp.asarray(batch["tokens"][:, :-1]), rough).dtype == jnp.bfloat16


def test_a_wrong_configuration_is_named():
    with pytest.raises(UserError, match="sizes 0 to"):
        families.configure(gpt, 99)
    with pytest.raises(UserError, match=r"model\.depth = 3: unknown field"):
        families.configure(gpt, 0, depth=3)
    with pytest.raises(UserError, match=r"model\.tied = 1: must be a bool"):
        families.configure(gpt, 0, tied=1)
    with pytest.raises(UserError, match="multiple of 2 x heads"):
        families.configure(gpt, 0, heads=3)
    with pytest.raises(UserError, match=r"family = resnet: unknown; choose one of .*gpt"):
        families.load("resnet")


def test_a_while_loop_has_no_count():
    spin = lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x)  # noqa: E731
    with pytest.raises(ValueError, match="no static trip count"):
        count.jaxpr_flops(spin, jnp.ones((2, 2)))
    scan = lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=5)[0]  # noqa: E731
    assert count.jaxpr_flops(scan, jnp.ones((2, 2))) == 5 * 2 * 8
    convolve = lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME")  # noqa: E731
    assert count.jaxpr_flops(convolve, jnp.ones((1, 3, 8, 8)), jnp.ones((5, 3, 3, 3))) == 2 * 5 * 64 * 27
