"""What a family changes after the optimiser's step: a teacher and a queue; and a loss that reads the progress."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import queue_family as family
from conftest import tiny_config
from test_families import MESH, batch_of

from scaling import count, plan, recipe, study
from scaling.blocks import average
from scaling.blocks.execution import Execution
from scaling.checkpoint import Checkpoints, leaf_hashes
from scaling.families import gpt
from scaling.step import Ensemble, Trainer

CONFIG = family.Config()
STEPS, BATCH = 6, 4
SOUNDS = np.stack([batch_of(family, CONFIG, BATCH, seed)["sound"] for seed in range(STEPS)])
RATES: dict[str, Any] = {name: np.full(STEPS, 0.02, np.float32) for name in ("learning_rate", "weight_decay")}
HYPER = {**RATES, "progress": np.linspace(0, 1, STEPS, dtype=np.float32), "steps": np.int32(STEPS)}


def trainer_of(*freeze: str, **how: Any) -> Trainer:
    rules = recipe.named("width", batch=BATCH, warmup_steps=2)
    return Trainer(family, CONFIG, rules, MESH, STEPS, Execution(**how), freeze=freeze)


@pytest.fixture(scope="module")
def stepped():
    """A trainer, its parameters after each of the steps, the first ones included, and the losses."""
    trainer = trainer_of()
    state, states, losses = trainer.init(0), [], []
    for step in range(STEPS + 1):
        states.append(jax.device_get(state))
        if step < STEPS:
            own = {name: value if name == "steps" else np.roll(value, -step) for name, value in HYPER.items()}
            state, metrics = trainer.chunk(state, {**own, "steps": np.int32(1)}, {"sound": np.roll(SOUNDS, -step, 0)})
            losses.append(float(metrics["loss"][0]))
    return trainer, states, losses


def features(teacher: np.ndarray, sounds: np.ndarray) -> np.ndarray:
    return (sounds / np.float32(127.5) - 1) @ teacher


def test_the_teacher_is_the_closed_form_of_an_average(stepped):
    _, states, _ = stepped
    students, decay = [np.asarray(state["params"]["student"], np.float64) for state in states], CONFIG.decay
    past = sum(decay ** (STEPS - step) * students[step] for step in range(1, STEPS + 1))
    teacher = decay**STEPS * students[0] + (1 - decay) * past
    np.testing.assert_allclose(states[-1]["params"]["teacher"], teacher, rtol=1e-5, atol=1e-6)
    assert np.abs(teacher - students[-1]).max() > 1e-3
    tree = {"a": (jnp.ones(2), jnp.zeros(3))}
    assert float(average.moving(tree, jax.tree.map(lambda x: x + 4, tree), 0.25)["a"][0][1]) == 4.0


def test_the_queue_holds_the_latest_features_in_the_order_of_the_batch(stepped):
    _, states, _ = stepped
    last = range(STEPS - 1, STEPS - 1 - CONFIG.queue // BATCH, -1)
    queue = np.concatenate([features(states[step]["params"]["teacher"], SOUNDS[step]) for step in last])
    np.testing.assert_allclose(states[-1]["params"]["queue"], queue, rtol=1e-5, atol=1e-6)


def test_state_takes_no_gradient_and_holds_no_moments(stepped):
    trainer, states, _ = stepped
    assert set(trainer.abstract["opt"][1].mu) == {"student"}
    assert {name: leaf.shape for name, leaf in states[-1]["params"].items()} == {
        name: leaf.shape for name, leaf in states[0]["params"].items()
    }


def test_it_is_counted_as_it_is_traced_and_not_in_n(stepped):
    trainer, states, _ = stepped
    parts, params = family.components(CONFIG), states[0]["params"]
    batch = {"sound": SOUNDS[0], "example": np.arange(BATCH, dtype=np.uint32), "progress": np.float32(0)}
    traced = count.jaxpr_flops(lambda p, b: trainer._gradient(p, b, jax.random.key(0)), params, batch)
    assert traced == BATCH * sum(count.executed_flops(parts, BATCH).values())
    _, aux = family.loss_and_aux(params, batch, jax.random.key(0), CONFIG)
    assert count.jaxpr_flops(lambda p, a: family.after(p, a, jax.random.key(0), CONFIG), params, aux) == 0
    weights, queue = CONFIG.sound * CONFIG.width, CONFIG.queue * CONFIG.width
    assert count.training_flops(parts) == {"student": 6 * weights, "teacher": 2 * weights, "queue": 4 * queue}
    found = count.parameters(parts)
    assert {found[each] for each in ("nonembedding", "trainable", "active", "nonembedding_active")} == {weights}
    assert found["total"] == 2 * weights + queue


def test_the_loss_reads_the_progress_and_evaluation_is_at_its_end(stepped):
    trainer, states, losses = stepped
    assert [name for name, _ in trainer._compiled].count("chunk") == 1  # it is traced: one program for all steps

    def loss(step: int, **given: Any) -> float:
        batch = {"sound": SOUNDS[step], **given}
        return float(family.loss(states[step]["params"], batch, jax.random.key(0), CONFIG)["contrast"][0].mean())

    for step in (0, 3):
        assert losses[step] == pytest.approx(loss(step, progress=HYPER["progress"][step]), rel=1e-5)
        evaluated = trainer.evaluate(states[step]["params"], {"sound": SOUNDS[step]}, 0)["contrast"]
        assert float(evaluated[0].mean()) == pytest.approx(loss(step), rel=1e-5) != pytest.approx(losses[step], 0.01)


@pytest.mark.system
def test_a_part_that_a_study_freezes_is_not_changed_after_the_step_either(stepped):
    _, states, _ = stepped
    trainer = trainer_of("teacher", microbatches=2)
    state, _ = trainer.chunk(trainer.init(0), HYPER, {"sound": SOUNDS})
    np.testing.assert_array_equal(state["params"]["teacher"], states[0]["params"]["teacher"])
    newest = features(states[0]["params"]["teacher"], SOUNDS[-1])  # microbatches are put in the batch's order again
    np.testing.assert_allclose(state["params"]["queue"][:BATCH], newest, rtol=1e-5, atol=1e-6)


@pytest.mark.system
def test_resumed_members_and_microbatches_give_the_same_numbers(stepped, tmp_path):
    trainer, states, losses = stepped
    whole, metrics = trainer.chunk(trainer.init(0), HYPER, {"sound": SOUNDS})
    assert leaf_hashes(whole) == leaf_hashes(states[-1])
    store = Checkpoints(tmp_path)
    store.save(3, jax.device_put(states[3]))
    found = store.load(trainer.abstract)
    rest = {name: np.roll(value, -3) if np.ndim(value) else np.int32(3) for name, value in HYPER.items()}
    assert found is not None
    assert leaf_hashes(trainer.chunk(found[1], rest, {"sound": np.roll(SOUNDS, -3, 0)})[0]) == leaf_hashes(whole)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    split = trainer_of(microbatches=2)
    params = [split.chunk(split.init(0), HYPER, {"sound": SOUNDS})[0]["params"]]
    ensemble = Ensemble(trainer, 2)
    twice = {name: value if name == "steps" else np.stack([value] * 2) for name, value in HYPER.items()}
    members = ensemble.chunk(ensemble.init(np.zeros(2)), twice, {"sound": np.stack([SOUNDS] * 2)})[0]
    params.append(ensemble.part(members)[1]["params"])
    for other in params:
        for name, value in whole["params"].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_runs_of_a_family_that_reads_the_progress_share_no_stem(monkeypatch):
    config: Any = tiny_config(grid=study.block("grid", "known", (0,), tokens=(480, 960)))
    config.recipe.schedule = "wsd"
    assert [run.kind for run in plan.make(study.resolve(config)).programs[0].runs] == ["stem", "branch", "branch"]
    monkeypatch.setattr(gpt, "paced", lambda config: True, raising=False)
    runs = [run for program in plan.make(study.resolve(config)).programs for run in program.runs]
    assert [run.kind for run in runs] == ["whole", "whole"]
    lengths = [recipe.decay_steps(recipe.named("width", **{"schedule": "wsd"}), run.steps) for run in runs]
    assert [run.manifest.recipe["decay_steps"] for run in runs] == lengths and min(lengths) >= 1
