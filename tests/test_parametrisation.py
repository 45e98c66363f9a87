"""The coordinate check: under mup and completep a few steps change activations and logits by as much at any shape."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scaling import families, recipe
from scaling.step import Trainer

STEPS, RATE, BASE = 4, 0.02, 16
MODELS = {
    "gpt": {"vocab": 32, "context": 8, "tied": False},
    "tied gpt": {"vocab": 32, "context": 8, "tied": True},
    "vit": {"image": 8, "classes": 8},
}


@functools.cache
def changes(model: str, width: int, layers: int, parametrisation: str, optimizer: str = "adamw") -> np.ndarray:
    """Root mean square change of (the stack's output, the logits) after ``STEPS`` steps at one learning rate."""
    family = families.load(model.split()[-1])
    config = families.configure(family, 0, width=width, layers=layers, heads=width // 8, **MODELS[model])
    chosen = {"parametrisation": parametrisation, "optimizer": optimizer}
    rules = recipe.named("width", base_width=BASE, base_depth=1, **chosen)
    tied = getattr(config, "tied", False)
    rng, size = np.random.default_rng(0), 4
    if "image" in family.batch_spec(config):
        image = rng.integers(0, 256, (STEPS, size, 8, 8, 3)).astype(np.uint8)
        batches = {"image": image, "label": rng.integers(0, 8, (STEPS, size)).astype(np.int32)}
        inputs = family.patchify(jnp.asarray(image[0]), config.patch)
    else:
        batches = {"tokens": rng.integers(0, 32, (STEPS, size, 9)).astype(np.int32)}
        inputs = jnp.asarray(batches["tokens"][0, :, :-1])
    shapes = jax.eval_shape(lambda: family.init(jax.random.key(0), config))
    direct = recipe.optimizer(rules, family.axes(config), shapes, tied)
    scales = recipe.multipliers(family.axes(config), shapes, rules, tied)

    def look(params):
        kept = {"capture_intermediates": lambda module, _: module.name == "stack", "mutable": ["intermediates"]}
        out, seen = family.Model(config).apply({"params": params}, inputs, **kept)
        return seen["intermediates"]["stack"]["__call__"][0], out[0] if isinstance(out, tuple) else out

    def loss(params, batch):
        total, count = next(iter(family.loss(params, batch, jax.random.key(0), config).values()))
        return total.sum() / count.sum()

    def step(index, carry):
        params, state = carry
        gradient = jax.grad(loss)(params, {name: value[index] for name, value in batches.items()})
        direction, state = direct.update(gradient, state, params)
        return optax.tree.add(params, jax.tree.map(lambda d, s: -RATE * s * d, direction, scales)), state

    def train(key):
        params = family.init(key, config)
        after, _ = jax.lax.fori_loop(0, STEPS, step, (params, direct.init(params)))
        return [jnp.sqrt(jnp.mean(jnp.square(b - a))) for a, b in zip(look(params), look(after))]

    # Each shape is compiled for one use: optimising it costs more than it saves.
    batches = {name: jnp.asarray(value) for name, value in batches.items()}
    options: dict = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(train).lower(jax.random.key(0)).compile(options)
    return np.array([float(x) for x in compiled(jax.random.key(0))])


def growth(model: str, parametrisation: str, wide=(64, 1), **options) -> np.ndarray:
    """Change of (activations, logits) at a shape over that at the base shape, where all parametrisations agree."""
    return changes(model, *wide, parametrisation, **options) / changes(model, BASE, 1, "standard", **options)


def flat(ratio: np.ndarray) -> bool:
    return bool(np.all(np.abs(np.log(ratio)) < np.log(1.5)))


@pytest.mark.system
@pytest.mark.parametrize("model", ["gpt", "vit"])
def test_changes_stay_flat_in_width_under_mup_and_grow_under_standard(model):
    assert np.all(growth(model, "standard") > 2.0), "at four times the width"
    assert flat(growth(model, "mup"))


@pytest.mark.system
def test_a_tied_table_is_a_head():
    assert growth("tied gpt", "width")[1] > 2.0, "the width rule leaves the table alone"
    assert flat(growth("tied gpt", "mup"))


@pytest.mark.system
def test_changes_stay_flat_in_depth_under_completep_and_grow_under_mup():
    assert growth("gpt", "mup", (BASE, 4))[0] > 1.7, "at four times the depth"
    assert flat(growth("gpt", "completep", (BASE, 4)))


@pytest.mark.system
def test_steps_of_muon_stay_flat_in_width_by_the_spectral_rule():
    assert flat(growth("gpt", "mup", optimizer="muon"))


def test_the_trainer_applies_the_table():
    family = families.load("gpt")
    config = families.configure(family, 4, tied=True, layers=4)
    rules = recipe.named("completep", base_width=32)
    trainer = Trainer(family, config, rules, {"data": 1}, 1)
    scale = trainer._multipliers
    assert scale["embedding"] == 0.5 and scale["norm"] == scale["stack"]["q_norm"] == 1.0
    assert scale["stack"]["up"] == scale["stack"]["q"] == 0.5
    assert scale["stack"]["down"] == scale["stack"]["o"] == 0.25
    shares = recipe.epsilons(family.axes(config), trainer.abstract["params"], rules, tied=True)
    assert shares is not None
    assert shares["embedding"] == 1.0 and shares["norm"] == 0.5
    assert shares["stack"]["up"] == shares["stack"]["mlp_norm"] == 0.25 and shares["stack"]["down"] == 0.5
