"""What the family ``dit`` and Gaussian fields promise: values known before the first step, a grid, an exact floor."""

import functools
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import MESH, batch_of, quick, small

from experiments import dit as experiment
from scaling import count, data, families, objectives, recipe, study
from scaling.data.gaussian import CHANNELS, Gaussian
from scaling.errors import Code
from scaling.families import dit
from scaling.step import Trainer

A, S = dit.noise_levels()


def gaussian(**fields) -> Gaussian:
    source = data.load({"source": "gaussian", **fields})
    assert isinstance(source, Gaussian)
    return source


CONFIG = small("dit", layers=1, drop=0.5)[1]


@functools.cache
def compiled():
    """(loss of each target by example, predictions) as functions of the parameters; one compilation for all tests."""

    def losses(parameters, batch):
        found = {t: dit.loss(parameters, batch, jax.random.key(1), replace(CONFIG, predicts=t)) for t in dit.TARGETS}
        return found, dit.outputs(parameters, jnp.ones((64, 16, 12)), jnp.arange(64), CONFIG, batch["label"])

    return quick(losses)


@functools.cache
def parameters():
    return quick(lambda: dit.init(jax.random.key(0), CONFIG))()


@pytest.mark.system
def test_losses_start_where_they_must():
    batch = batch_of(dit, CONFIG, 64)
    found, predicted = compiled()(parameters(), batch)
    assert not np.asarray(predicted).any()
    square_B = np.square(batch["image"] / 127.5 - 1).mean(axis=(1, 2, 3))
    time_B = np.asarray(dit.times(jax.random.key(1), jnp.arange(64)))
    starts = {"eps": np.ones(64), "v": A[time_B] ** 2 + S[time_B] ** 2 * square_B, "x0": square_B}
    for target, terms in found.items():
        error_B, count_B = terms[target]
        assert (np.asarray(count_B) == CONFIG.patches).all()
        missed_B = np.asarray(error_B / count_B) - starts[target]
        if target == "x0":
            np.testing.assert_allclose(missed_B, 0, atol=1e-5)
        else:
            assert missed_B.std() > 0.001 and abs(missed_B.mean()) < 4 * missed_B.std() / 8
        inside = time_B // 250 == np.arange(4)[:, None]
        for number in range(4):
            sums, counts = terms[f"from_{250 * number}"]
            np.testing.assert_array_equal(counts, 16 * inside[number])
            np.testing.assert_allclose(sums, error_B * inside[number], rtol=1e-6)


@pytest.mark.system
def test_the_class_changes_nothing_at_the_start_and_what_is_dropped_never():
    batch = batch_of(dit, CONFIG, 64)
    other = {**batch, "label": (batch["label"] + 1) % 10}
    start, rng = parameters(), np.random.default_rng(0)
    moved = jax.tree.map(lambda w: w + 0.2 * rng.standard_normal(w.shape).astype(np.float32), start)
    for weights, least, most in ((start, 0, 0), (moved, 0.3, 0.7)):
        (one, predicted), (two, others) = (compiled()(weights, each) for each in (batch, other))
        differs_B = np.asarray(one["v"]["v"][0] != two["v"]["v"][0])
        assert least <= differs_B.mean() <= most  # half of the labels are dropped
        assert (np.asarray(predicted) != np.asarray(others)).any(axis=(1, 2)).all() == (most > 0)


@pytest.mark.system
def test_gates_start_at_zero_and_what_is_behind_them_does_not():
    weights = parameters()
    blocks = weights["stack"]
    assert not any(
        np.asarray(each).any() for each in (blocks["modulation"], weights["final_modulation"], weights["head"])
    )
    assert all(np.asarray(blocks[name]).std() > 0.05 for name in ("q", "o", "up", "down"))
    assert not {"attention_norm", "mlp_norm"} & set(blocks)


def test_the_grid_is_stratified_and_depends_on_the_example_alone():
    order = np.random.default_rng(0).permutation(1024).astype(np.uint32)
    drawn = quick(dit.times)
    grid, again = (np.asarray(drawn(jax.random.key(0), each)) for each in (np.sort(order), order))
    assert (np.bincount(grid * 4 // 1000, minlength=4) == 256).all()
    assert set(np.bincount(grid, minlength=1000)) == {1, 2} and grid.max() == 999
    for first in range(0, 1024, 16):  # a document has every part of the range
        assert sorted(grid[first : first + 16] * 16 // 1000) == pytest.approx(range(16), abs=1)
    np.testing.assert_array_equal(again, grid[order])


def test_the_noise_and_the_positions_are_those_of_the_reference():
    np.testing.assert_allclose(A**2 + S**2, 1)
    assert S[0] == pytest.approx(0.01) and A[-1] ** 2 == pytest.approx(4.0358e-5, rel=1e-4)
    found = np.asarray(quick(lambda: dit.positions(3, 16))())
    angle = np.outer([1, 2], 10000.0 ** (-np.arange(4) / 4))  # row 2, column 1 is the place 7
    np.testing.assert_allclose(found[7, :8], [*np.cos(angle[0]), *np.sin(angle[0])], rtol=1e-5)
    np.testing.assert_allclose(found[7, 8:], [*np.cos(angle[1]), *np.sin(angle[1])], rtol=1e-5)


def test_what_depends_on_the_time_is_counted_once_an_example():
    config = families.configure(dit, 4, classes=0)
    parts = {part.name: part for part in dit.components(config)}
    flops, d, layers = count.training_flops(parts.values()), config.width, config.layers
    assert flops["modulation"] == 6 * 6 * d**2 * layers and flops["final_modulation"] == 6 * 2 * d**2
    assert flops["time_in"] + flops["time_out"] == 6 * (256 * d + d**2)
    assert flops["mlp"] == 6 * 8 * d**2 * layers * 64 and flops["patch"] == flops["head"] == 6 * 48 * d * 64
    assert "labels" not in parts


def test_no_two_targets_and_no_two_bins_have_one_unit():
    units = [term.unit for target in dit.TARGETS for term in dit.terms(replace(CONFIG, predicts=target)).values()]
    assert len(set(units)) == len(units) == 15
    assert all(unit.quantity == "squared error" and not unit.bounded_by_entropy for unit in units)


def test_fields_have_the_spectrum_that_is_said():
    source = gaussian(side=4, decay=3.0)
    np.testing.assert_allclose(source.basis @ source.basis.T, np.eye(4), atol=1e-12)
    assert source.eigenvalues.mean() == pytest.approx(1)
    assert source.eigenvalues[2, 1] / source.eigenvalues[0, 0] == pytest.approx(6**-1.5)
    field = source.batch(np.arange(4000), seed=1, context=16)["field"].astype(float)
    basis = np.kron(source.basis, source.basis)  # (coefficient, place)
    found = np.einsum("kp,npc->nck", basis, field.reshape(-1, 16, CHANNELS)).reshape(-1, 16)
    spread = found.T @ found / len(found)
    expected = np.diag(source.eigenvalues.ravel())
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(found))
    assert (np.abs(spread - expected) < 5 * error).all()
    tokens = source.batch(np.arange(2), seed=1, context=47)["tokens"]
    np.testing.assert_array_equal(tokens, np.clip(np.round(field[:2].reshape(2, -1) * 32) + 128, 0, 255))


def test_the_floor_is_what_the_best_filter_reaches_and_no_other_passes():
    source, rng = gaussian(side=4), np.random.default_rng(0)
    variance = source.eigenvalues
    clean = source.batch(np.arange(3000), seed=0, context=16)["field"].astype(float)
    noise = rng.standard_normal(clean.shape)
    for time in (20, 200, 400, 600):
        a, s = A[time], S[time]
        given = np.einsum("ux,vy,nxyc->nuvc", source.basis, source.basis, a * clean + s * noise, optimize=True)
        least = {}
        for off in (1.0, 0.7, 1.3):
            weight = off * (a * variance / (a**2 * variance + s**2))[..., None]
            best = np.einsum("ux,vy,nuvc->nxyc", source.basis, source.basis, weight * given, optimize=True)
            of_noise = (a * clean + s * noise - a * best) / s
            errors = {"x0": best - clean, "eps": of_noise - noise}
            errors["v"] = a * errors["eps"] - s * errors["x0"]
            for target, error in errors.items():
                each = np.square(error).mean(axis=(1, 2, 3))
                above = each - (source.floor(a, s, target) if off == 1 else least[target])
                low, high = above.mean() + np.array([-4, 4]) * above.std() / math.sqrt(len(each))
                assert low < 0 < high if off == 1 else low > 0, (time, target, off)
                least.setdefault(target, each)
    # White fields: the noise that cannot be told from the field.
    np.testing.assert_allclose(gaussian(decay=0.0).floor(A, S), A**2, rtol=1e-9)
    with refuses(Code.INVALID, "target", "score"):
        source.floor(A, S, "score")


def test_the_study_says_the_floor_that_its_world_has():
    """Sizes, D and seeds of the lab note, and its table, to the digit."""
    made = study.resolve(experiment.get_config())
    assert len(made.cells) == 30 and {cell.size for cell in made.cells} == {0, 1, 2, 3}
    assert {cell.tokens // 16 for cell in made.cells} == {16384, 32768, 65536}
    sizes = {count.parameters(dit.components(cell.config))["nonembedding"] for cell in made.cells}
    assert (min(sizes), max(sizes)) == (14_304, 102_752)
    for target in dit.TARGETS:
        (cell, *_) = study.resolve(experiment.get_config(target)).cells
        world = gaussian()
        assert cell.config.predicts == target and made.sources["fields"].describe() == world.describe()
        floor = world.floor(A, S, target)
        row = [f"{mean:.4f}" for mean in (floor.mean(), *floor.reshape(4, 250).mean(axis=1))]
        line = next(text for text in (experiment.__doc__ or "").splitlines() if text.split()[:1] == [target])
        assert line.split()[1:] == row
    assert {cell.config.field for cell in study.resolve(experiment.get_config("scenes")).cells} == {0}
    assert len(study.resolve(experiment.get_config("rates")).cells) == 2 * len(experiment.RATES)


def test_the_study_says_what_the_best_prediction_has_on_its_evaluation_set():
    source = gaussian()
    clean = np.asarray(source.evaluation(16, 4096 * 16)["field"])
    key, index = jax.random.key(0), jnp.arange(4096)
    time_B, keys_B = quick(lambda: (dit.times(key, index), objectives.keys(key, {"example": index})))()
    noise = np.asarray(quick(lambda keys_B: objectives.normal(keys_B, (16, 12)))(keys_B), np.float64)
    noise = noise.reshape(-1, 4, 4, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(clean.shape)
    a, s, basis = (A[time_B][:, None, None, None], S[time_B][:, None, None, None], source.basis)
    given = a * clean + s * noise
    variance = source.eigenvalues[..., None]
    weights = (
        a * variance / (a**2 * variance + s**2) * np.einsum("ux,vy,nxyc->nuvc", basis, basis, given, optimize=True)
    )
    best = np.einsum("ux,vy,nuvc->nxyc", basis, basis, weights, optimize=True)
    error = np.square((given - a * best) / s - noise).mean(axis=(1, 2, 3))
    found = [error.mean(), *(error[time_B // 250 == number].mean() for number in range(4))]
    said = (experiment.__doc__ or "").split("has 0.2252:")[1].split("By times:")[1].split("\n\n")[0]
    assert [f"{value:.4f}" for value in found] == ["0.2252", *re.findall(r"0\.\d{4}", said)]
    assert abs(found[0] - source.floor(A, S).mean()) < 3 * 0.0007


@pytest.mark.system
def test_a_trained_model_comes_near_the_floor_and_never_below():
    source, steps = gaussian(side=4), 400
    config = families.configure(dit, 1, field=4, patch=2, classes=0, predicts="v")
    rules = recipe.named("width", batch=64, warmup_steps=10, learning_rate=0.01)
    trainer = Trainer(dit, config, rules, MESH, steps)
    fields = source.batch(np.arange(64 * steps), seed=0, context=4)["field"]
    rates = np.float32(0.01) * recipe.rate(rules, np.arange(steps), steps)
    hyper = {"learning_rate": rates, "weight_decay": np.zeros(steps, np.float32), "steps": np.int32(steps)}
    state, _ = trainer.chunk(trainer.init(0), hyper, {"field": fields.reshape(steps, 64, 4, 4, 3)})
    fixed = source.evaluation(4, 4 * 4096)["field"]
    assert isinstance(fixed, np.ndarray)
    found = trainer.evaluate(state["params"], {"field": fixed}, 0)
    time_B = np.asarray(dit.times(jax.random.key(0), jnp.arange(4096)))
    floor_B = source.floor(A, S, "v")[time_B]
    for name, (sums, counts) in found.items():
        inside = np.asarray(counts) > 0
        excess = np.asarray(sums)[inside] / 4 - floor_B[inside]
        assert -4 * excess.std() / math.sqrt(inside.sum()) < excess.mean() < 0.1, name
