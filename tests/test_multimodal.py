"""Towers and fusion: what each part sees and costs, and that evaluation of a contrast has a batch of its own."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from selection import mostly_system
from test_families import batch_of, quick, small
from test_objectives import differs, noisy

from experiments import clip as experiment
from scaling import count, data, families, inputs, objectives, plan, recipe, study, train
from scaling.blocks import patches
from scaling.blocks.execution import Execution
from scaling.errors import Code
from scaling.families import clip, fusion
from scaling.records import Record, records
from scaling.records.unit import Unit
from scaling.step import Trainer

TEXT = jnp.asarray([[3, 5, 17, 18, 2, 9], [1, 18, 4, 4, 4, 4]])  # 18 is the end

unit_vectors = quick(clip.vectors, static_argnums=2)


@pytest.mark.system
def test_a_caption_ends_at_its_end_of_text_and_towers_meet_only_in_the_loss():
    config = families.configure(clip, 0, image=8, sound=24, slice=8)
    parameters = noisy(clip, config)
    rng = np.random.default_rng(0)
    image, sound = (jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for shape in ((2, 4, 48), (2, 3, 8)))
    inputs = {"image": image, "text": TEXT, "sound": sound}
    before, scale = unit_vectors(parameters, inputs, config)
    assert 0 < float(scale) <= clip.LARGEST_SCALE
    for name, vectors in before.items():
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5, err_msg=name)
    for place, seen in ((0, [True, True]), (2, [True, False]), (5, [False, False])):
        moved = {**inputs, "text": TEXT.at[:, place].add(-1)}
        after, _ = unit_vectors(parameters, moved, config)
        assert differs(before["text"], after["text"]).tolist() == seen
        assert not differs(before["image"], after["image"]).any() and not differs(before["sound"], after["sound"]).any()
    moved = {**inputs, "image": image.at[0, 3].add(1), "sound": sound.at[1, 0].add(1)}
    after, _ = unit_vectors(parameters, moved, config)
    assert differs(before["image"], after["image"]).tolist() == [True, False]
    assert differs(before["sound"], after["sound"]).tolist() == [False, True]


def test_a_contrast_is_the_choice_of_the_own_partner_both_ways():
    left, right = (jax.random.normal(jax.random.key(seed), (6, 4)) for seed in range(2))
    scores, back, own = objectives.matches(left, right)
    total, number = objectives.contrast(scores, back, own)
    table = np.asarray(left, np.float64) @ np.asarray(right, np.float64).T
    for rows, found in ((table, scores), (table.T, back)):
        np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-5)
    nats = [np.log(np.exp(rows).sum(axis=1)) - np.diag(rows) for rows in (table, table.T)]
    np.testing.assert_allclose(total, (nats[0] + nats[1]) / 2, rtol=1e-4)
    wrong = [rows.argmax(axis=1) != np.arange(6) for rows in (table, table.T)]
    missed, _ = objectives.retrieval_error(scores, back, own)
    np.testing.assert_allclose(missed, (wrong[0] + 1.0 * wrong[1]) / 2)
    assert (np.asarray(number) == 1).all() and 0 < missed.sum() < 6


@pytest.mark.system
def test_a_scale_at_its_bound_keeps_its_gradient():
    """Clamped after the step (arXiv 2103.00020, 2.5), not inside the loss, where it could never come down again."""
    module, config = small("clip", layers=1, width=8, heads=1, temperature=0.01)
    batch = batch_of(module, config)
    trainer = Trainer(module, config, recipe.named("width", batch=4, warmup_steps=1), {}, 3)
    start = jax.device_get(trainer.init(0))
    # The captions are wrong, so the scale is too large.
    start["params"] = jax.tree.map(lambda w: w + 0.3, start["params"])
    for log_scale, falls in ((math.log(100), True), (9.0, False)):
        start["params"]["log_scale"] = np.float32(log_scale)
        state = jax.tree.map(lambda leaf, at: jax.device_put(leaf, at.sharding), start, trainer.abstract)
        rates = {"learning_rate": np.full(3, 0.1, np.float32), "weight_decay": np.zeros(3, np.float32)}
        batches = {name: np.repeat(value[None], 3, 0) for name, value in batch.items()}
        after, _ = trainer.chunk(state, {**rates, "steps": np.int32(3)}, batches)
        found = float(after["params"]["log_scale"])
        # Three steps of Adam at 0.1: down from the bound; from beyond it (of a run of before) back onto it.
        assert found == pytest.approx(math.log(100) - 0.3, abs=0.1) if falls else found <= math.log(100) + 1e-6


def test_the_scale_is_clamped_to_at_most_100_and_little_else_is():
    scale = {"log_scale": (-math.inf, math.log(100))}
    bounds = {"blip2": scale, "clip": scale, "albef": {"log_temperature": (math.log(0.001), math.log(0.5))}}
    for name in families.names():
        module, config = small(name)
        assert families.clamped(module, config) == bounds.get(name, {})


WIRINGS = [("early", "causal"), ("early", "prefix"), ("late", "causal"), ("late", "prefix")]


@pytest.mark.parametrize(("wiring", "mask"), mostly_system(WIRINGS, ("early", "causal")))
def test_fusion_sees_what_its_mask_allows(wiring: str, mask: str):
    objective = "joint" if (wiring, mask) == ("early", "causal") else "text"
    config = families.configure(fusion, 0, image=8, fusion=wiring, mask=mask, objective=objective)
    parameters = noisy(fusion, config)
    image = jax.random.normal(jax.random.key(0), (2, 4, 48))
    read = quick(lambda *arguments: fusion.outputs(parameters, config, *arguments))
    logits, pixels = read(image, TEXT)
    moved, same = read(image, TEXT.at[:, 3].add(-1))
    seen = differs(logits, moved)
    assert not seen[:, :3].any() and seen[:, 3:].all()  # no word is written from a later one
    for patch in range(4):
        after, others = read(image.at[:, patch].add(1.0), TEXT)
        assert differs(logits, after).all()  # every word is written from every patch
        if objective == "joint":
            # What follows patch p is predicted from patches up to p; the first is not predicted, the last not used.
            assert differs(pixels, others)[0].tolist() == [place >= patch for place in range(3)]
    if objective == "joint":
        assert not differs(pixels, same).any()  # no patch is predicted from the text
    assert (pixels is None) == (objective == "text")


def test_early_and_late_are_one_flag_apart_and_frozen_parts_cost_no_backward():
    early, late = families.configure(fusion, 8), families.configure(fusion, 8, fusion="late")
    frozen = families.configure(fusion, 8, fusion="late", frozen=True)
    counts = [count.parameters(fusion.components(config)) for config in (early, late, frozen)]
    width = early.width
    assert late.vision == 2 and late.layers == early.layers == 4
    assert counts[1]["nonembedding"] - counts[0]["nonembedding"] == width**2 + width
    assert counts[2]["total"] == counts[1]["total"]
    parts = {part.name: part for part in fusion.components(frozen)}
    still = [part for name, part in parts.items() if name.startswith("vision_") or name in ("patch", "position")]
    assert counts[2]["total"] - counts[2]["trainable"] == sum(part.parameters for part in still) > 0
    forward, training = (f(parts.values()) for f in (count.forward_flops, count.training_flops))
    assert all(training[part.name] == forward[part.name] for part in still)
    assert all(training[name] == 3 * forward[name] for name in ("attention", "mlp", "head", "projection"))
    # Against the traced program, as the battery does.
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_of(fusion, frozen, 3).items()}
    shapes = jax.eval_shape(lambda: fusion.init(jax.random.key(0), frozen))

    def nats(p, b):
        return fusion.loss(p, b, jax.random.key(0), frozen)["text"][0].sum()

    assert count.jaxpr_flops(nats, shapes, batch) == 3 * sum(forward.values())
    executed = count.executed_flops(parts.values())
    assert count.jaxpr_flops(jax.grad(nats), shapes, batch) == 3 * sum(executed.values())


@pytest.mark.system
def test_what_is_frozen_stays_through_decay_and_steps():
    module, config = small("fusion", layers=2, fusion="late", frozen=True, patch=4)
    trainer = Trainer(module, config, recipe.named("width", batch=4), {}, 5)
    before = jax.device_get(trainer.init(0))["params"]
    batches = {name: np.repeat(value[None], 5, 0) for name, value in batch_of(module, config).items()}
    rates = np.full(5, 0.1, np.float32)
    state, _ = trainer.chunk(trainer.init(0), {"learning_rate": rates, "weight_decay": rates, "steps": 5}, batches)
    for name, part in jax.device_get(state["params"]).items():
        same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(before[name]))]
        assert all(same) if name in fusion.frozen(config) else not any(same), name


def towers(batch: int = 16, evaluation: int = 32, **data: Any):
    config = study.base("towers")
    config.family = "clip"
    config.model = {"width": 8, "layers": 1, "heads": 1, "patch": 16}
    config.data.scenes = {"source": "scenes", **data}
    config.recipe.batch, config.recipe.warmup_steps, config.chunk = batch, 4, 10
    config.evaluation = {"tokens": 6 * 80, "batch": evaluation}
    config.cells.grid = study.block("grid", "scenes", (0,), tokens=(10 * 20 * 16,), recipe={"schedule": "constant"})
    return plan.make(study.resolve(config)).programs[0]


@pytest.mark.system
def test_a_contrast_is_evaluated_in_its_own_batch_with_an_error_by_batch(tmp_path):
    program = towers()
    (spec,) = program.runs
    manifest = spec.manifest
    assert manifest.tokens.loss == 20 * 16 and manifest.tokens.D == 20 * 16 * 10
    assert manifest.unit == Unit(per="pair", among=32)
    assert manifest.terms["zero_shot"] == Unit(quantity="share", per="image")
    train.execute(program, tmp_path, progress=lambda *_: None, should_stop=lambda: False)
    (record,) = records(tmp_path)
    found = record.result.evaluation
    assert list(found) == ["contrast", "retrieval", "zero_shot"]
    # 80 pictures make two whole batches of 32; a batch of 16 was trained on.
    assert {term.count for term in found.values()} == {64}
    assert list(found["contrast"].documents.id) == ["batch 0 of 32", "batch 1 of 32"]
    assert list(found["zero_shot"].documents.id) == [f"block {number}" for number in range(4)]
    assert math.log(16) < found["contrast"].value < math.log(32) + 0.3
    assert 0.5 < found["retrieval"].value <= 1 and 0.5 < found["zero_shot"].value <= 1
    # The zero-shot term by hand: the nearest mean of a label's prompts.
    trainer = train.trainer_of(manifest, program.options)
    parameters = trainer.init(0)["params"]
    source = data.load({"source": "scenes"})
    held = source.evaluation(6, 6 * 32)
    noisy_ones = jax.tree.map(lambda w: w + 0.3 * jax.random.normal(jax.random.key(1), w.shape), parameters)
    terms = trainer.evaluate(noisy_ones, {name: held[name] for name in trainer.reads}, 0, {"prompts": held["prompts"]})
    texts = jnp.asarray(held["prompts"][:, :, 1:].reshape(-1, 6))
    inputs = {"image": patches.patchify(jnp.asarray(held["image"]), 16), "text": texts}
    vectors, _ = clip.vectors(noisy_ones, inputs, trainer.config)
    means = np.asarray(vectors["text"]).reshape(32, 8, -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    nearest = (np.asarray(vectors["image"]) @ means.T).argmax(axis=1)
    np.testing.assert_array_equal(terms["zero_shot"][0], nearest != held["label"])


def test_the_evaluation_batch_is_part_of_a_contrast_and_of_no_other_run(tiny):
    assert towers(evaluation=16).runs[0].run != towers().runs[0].run == towers().runs[0].run
    names = []
    for batch in (16, 32):
        config = tiny()
        config.evaluation.batch = batch
        names.append([run.run for run in plan.make(study.resolve(config)).programs[0].runs])
    assert names[0] == names[1]


def test_similarities_are_counted_by_the_batch():
    flops = [towers(batch).runs[0].manifest.flops for batch in (16, 32)]
    per_pair = [each.parts["similarity"] / (20 * 16) for each in flops]
    assert per_pair == [3 * 2 * 8 * 16, 3 * 2 * 8 * 32]


@pytest.mark.system
def test_what_would_split_the_negatives_is_refused(tmp_path):
    config = families.configure(clip, 0, image=8)
    with refuses(Code.UNSUPPORTED, "execution.microbatches", 2):
        Trainer(clip, config, recipe.named("width", batch=8), {}, 1, Execution(microbatches=2))
    with refuses(Code.UNSUPPORTED, "config.noise_scale", True):
        Trainer(clip, config, recipe.named("width", batch=8), {}, 1).noise({}, {}, 0)
    for change, field, value in (
        ({"execution": {"microbatches": 2}}, "execution.microbatches", 2),
        ({"noise_scale": True}, "config.noise_scale", True),
    ):
        made = experiment.get_config()
        made.update(change)
        with refuses(Code.UNSUPPORTED, field, value):
            study.resolve(made)  # before anything trains
    with refuses(Code.INVALID, "evaluation.tokens", 480):
        program = towers(evaluation=64)
        train.execute(program, tmp_path, progress=lambda *_: None, should_stop=lambda: False)
    assert not Record(tmp_path / "runs" / program.runs[0].run).steps()  # before the first step


def test_a_third_tower_comes_with_the_data_that_feeds_it():
    manifest = towers(sound=True).runs[0].manifest
    assert manifest.config["sound"] == 320 and list(manifest.terms)[2:4] == ["contrast_sound", "retrieval_sound"]
    assert manifest.tokens.counted == "positions of examples, each 4 of image, 6 of text, 10 of sound"
    words = families.configure(families.load("bert"), 0, vocab=1000, unit="word")
    with refuses(Code.MISSING, "family", "bert"):  # a corpus whose tokens are not marked
        inputs.require_supply(
            families.load("bert"), families.load("bert").batch_spec(words), {"vocab": 1000}, "x", "bert"
        )
    with refuses(Code.CONFLICT, "model.sound", 640):
        inputs.require_supply(clip, {"context": 4, "sound": 640}, {"sound": 320}, "scenes", "clip")
    with refuses(Code.CONFLICT, "family", "regression"):  # reads what no field of its is called
        own = families.load("regression")
        inputs.require_supply(own, {"context": 4, "points": 3}, {"points": 9}, "linear", "regression")
