"""What prior promises beyond the battery: its sequence and times, what it is told, the unit, and the study's bounds."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import batch_of, quick, small

from experiments.prior import gaussian, get_config
from scaling import count, families, parts, plan, study, train
from scaling.blocks import stack
from scaling.errors import Code
from scaling.families import clip, dit, prior
from scaling.records.types import Manifest
from scaling.records.unit import Unit
from scaling.run import Run

MODULE, CONFIG = small("prior", layers=1, patch=4, text=5, vocab=11)
T, E = CONFIG.text, CONFIG.clip_width
SIZE = 8


@functools.cache
def made() -> tuple[Any, dict[str, jax.Array]]:
    """Parameters that are all random, and a batch whose last two positions of text are padding."""
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), parts.shapes(MODULE, CONFIG))
    mask = np.tile((np.arange(T) < T - 2).astype(np.float32), (SIZE, 1))
    return jax.tree.map(jnp.asarray, (drawn, {**batch_of(MODULE, CONFIG, SIZE), "mask": mask}))


class Read(NamedTuple):
    terms: Any
    given: prior.Given
    found_BE: jax.Array
    vectors: Any
    metrics: Any
    evaluated: prior.Given


@quick
def read(parameters: Any, batch: dict[str, jax.Array]) -> Read:
    """The loss and what it is given at one key, what clip itself makes of the examples, and the same in evaluation."""
    given = prior.give(parameters, batch, jax.random.key(3), CONFIG)
    towers = {**{part: parameters[part] for part in prior.PARTS}, "log_scale": jnp.float32(0)}
    return Read(
        prior.loss(parameters, batch, jax.random.key(3), CONFIG),
        given,
        prior.outputs(parameters, given, CONFIG),
        clip.vectors(towers, clip._inputs(batch, CONFIG.towers), CONFIG.towers)[0],
        prior.metrics(parameters, batch, CONFIG),
        prior.give(parameters, batch, jax.random.key(0), CONFIG),
    )


outputs = quick(lambda parameters, given: prior.outputs(parameters, given, CONFIG))


@functools.cache
def first() -> Read:
    parameters, batch = made()
    return read(parameters, {**batch, "example": jnp.arange(SIZE)})


def test_the_schedule_is_the_cosine():
    """a^2 = f(t + 1) / f(0) with f(t) = cos^2((t / T + s) / (1 + s) pi / 2), but for the last, whose beta is cut."""
    a, s = prior.noise_levels()
    np.testing.assert_allclose(a**2 + s**2, 1, rtol=1e-12)
    at = (np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2
    exact = np.cos(at) ** 2 / np.cos(at[0]) ** 2
    np.testing.assert_allclose(a[:-1] ** 2, exact[1:-1], rtol=1e-9)
    assert a[-1] ** 2 == pytest.approx(exact[-2] * 0.001, rel=1e-9)


def test_the_targets_are_clips_vectors_of_mean_square_one_and_the_noise_is_that_of_the_times():
    given, vectors = first().given, first().vectors
    for mine, own in ((given.image_BE, vectors["image"]), (given.caption_BE, vectors["text"])):
        np.testing.assert_allclose(np.square(mine).mean(axis=1), 1, rtol=5e-6)
        unit = np.asarray(own) / np.linalg.norm(own, axis=1, keepdims=True)
        np.testing.assert_allclose(mine, unit * np.sqrt(E), rtol=1e-4, atol=1e-5)
    a, s = (each[np.asarray(given.time_B)][:, None] for each in prior.noise_levels())
    keys = [jax.random.fold_in(jax.random.key(3), number) for number in range(SIZE)]
    noise = np.stack([jax.random.normal(key, (E,)) for key in keys])
    np.testing.assert_allclose(given.noised_BE, a * given.image_BE + s * noise, rtol=1e-4, atol=1e-5)


def test_the_stack_reads_text_vector_time_noised_vector_and_query_in_this_order():
    """The sequence made by hand, through the stack; the prediction is read at the query."""
    (w, _), (terms, given, found, *_) = made(), first()
    words, caption = (
        np.array(each @ w[name]) for name, each in (("words", given.states_BTE), ("caption", given.caption_BE))
    )
    words[:, T - 2 :] = w["blank"][T - 2 : T]  # padding
    untold = ~np.asarray(given.told_B)
    words[untold], caption[untold] = w["blank"][:T], w["blank"][T]
    angle = np.asarray(given.time_B)[:, None] * 10000.0 ** (-np.arange(128) / 128)
    inner = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) @ np.asarray(w["time_in"], np.float64)
    time = (inner / (1 + np.exp(-inner))) @ w["time_out"]
    noised, query = np.asarray(given.noised_BE) @ w["noised"], np.tile(w["query"], (SIZE, 1))
    x = np.concatenate([words, np.stack([caption, time, noised, query], axis=1)], axis=1).astype(np.float32)
    c = CONFIG
    blocks = stack.Stack(c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation, mask="causal")
    states: Any = quick(lambda w, x: blocks.apply({"params": w}, x))(w["stack"], x)
    last = np.asarray(states)[:, -1]
    last = last / np.sqrt(np.square(last).mean(axis=1, keepdims=True) + 1e-6) * w["norm"]
    np.testing.assert_allclose(found, last @ w["head"], rtol=2e-4, atol=2e-4)
    error = np.square(np.asarray(found) - given.image_BE).mean(axis=1)
    np.testing.assert_allclose(terms["x0"][0], error, rtol=1e-5)
    inside = np.asarray(given.time_B) // 250
    for number, name in enumerate(dit.bins()):
        np.testing.assert_allclose(terms[name][0], error * (inside == number), rtol=1e-5)
        np.testing.assert_array_equal(terms[name][1], inside == number)


def test_a_hidden_caption_and_padding_say_nothing_and_a_told_one_does():
    (w, _), (_, given, found, *_) = made(), first()
    other = given._replace(states_BTE=given.states_BTE[::-1], caption_BE=given.caption_BE[::-1])
    moved = np.abs(np.asarray(outputs(w, other)) - found).max(axis=1) > 1e-5
    np.testing.assert_array_equal(moved, given.told_B)
    hidden = given._replace(told_B=jnp.zeros(SIZE, bool))
    again = other._replace(told_B=jnp.zeros(SIZE, bool))
    np.testing.assert_array_equal(outputs(w, hidden), outputs(w, again))
    padding = given._replace(states_BTE=given.states_BTE.at[:, T - 2 :].add(1.0))
    np.testing.assert_array_equal(outputs(w, padding), found)
    for name in ("noised_BE", "time_B"):
        nudged = given._replace(**{name: getattr(given, name) + 1})
        assert (np.abs(np.asarray(outputs(w, nudged)) - found).max(axis=1) > 1e-5).all()
    # Before the first step the head is zero, and no caption changes anything.
    drawn = {**w, "head": jnp.zeros_like(w["head"])}
    np.testing.assert_array_equal(outputs(drawn, given), np.zeros((SIZE, E)))


def test_one_in_ten_captions_is_hidden_and_what_is_random_goes_by_an_examples_number():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(4096))
    drawn = quick(jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (1,))))(keys)
    hidden = np.asarray(drawn)[:, 0] < 0.1
    assert abs(hidden.mean() - 0.1) < 4 * np.sqrt(0.09 / 4096)
    (w, batch), given = made(), first().given
    np.testing.assert_array_equal(given.told_B, ~hidden[:SIZE])
    later = {**jax.tree.map(lambda each: jnp.roll(each, -3, axis=0), batch), "example": jnp.arange(3, SIZE + 3)}
    for whole, some in zip(given, read(w, later).given):
        np.testing.assert_allclose(np.asarray(whole)[3:], np.asarray(some)[:-3], rtol=1e-5, atol=1e-6)


def test_metrics_are_the_loss_with_every_caption_and_with_none():
    (w, _), found, given = made(), first().metrics, first().evaluated
    for name, told in (("with_text", True), ("without_text", False)):
        exact = outputs(w, given._replace(told_B=jnp.full(SIZE, told)))
        np.testing.assert_allclose(found[name][0], np.square(exact - given.image_BE).mean(axis=1), rtol=1e-4)
    assert np.abs(found["with_text"][0] - found["without_text"][0]).min() > 1e-4


def test_towers_count_forward_alone_and_beside_n():
    c = CONFIG
    training = count.training_flops(prior.components(c))
    found = count.parameters(prior.components(c))
    blocks, positions = 12 * c.layers * c.width**2, T + 4
    assert training["attention"] + training["mlp"] == 6 * blocks * positions + 12 * c.layers * c.width * positions**2
    assert (training["words"], training["head"]) == (6 * E * c.width * T, 6 * E * c.width)
    weights, scores = c.clip_layers * 12 * E**2, 4 * c.clip_layers * E
    towers = 2 * (weights * (c.patches + T) + E * c.pixels * c.patches + 2 * E**2) + scores * (c.patches**2 + T**2)
    assert sum(training[name] for name in training if name.startswith(("image_", "text_"))) == towers
    norms = 3 * c.width + 2 * (c.width // c.heads)
    assert found["nonembedding"] == blocks + 3 * E * c.width + (256 + c.width) * c.width + norms
    held = sum(leaf.size for part in prior.PARTS for leaf in jax.tree.leaves(parts.shapes(MODULE, c)[part]))
    assert found["trainable"] == found["total"] - held


def test_a_gaussian_that_is_noised_is_told_no_better_than_the_bound():
    """Monte Carlo of the best prediction of correlated Gaussian vectors; a mixture of two points does better."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 3))
    covariance = mixing @ mixing.T / 3
    a, s = (each[[100, 500, 900]] for each in prior.noise_levels())
    for at, (keep, noise) in enumerate(zip(a, s)):
        x = rng.multivariate_normal(np.zeros(3), covariance, 200_000)
        y = keep * x + noise * rng.normal(size=x.shape)
        best = y @ (keep * covariance @ np.linalg.inv(keep**2 * covariance + noise**2 * np.eye(3))).T
        assert gaussian(covariance, a, s)[at] == pytest.approx(np.square(x - best).mean(), rel=0.02)
        sign = np.sign(rng.normal(size=(200_000, 1)))
        y = keep * sign + noise * rng.normal(size=sign.shape)
        assert np.square(np.tanh(keep * y / noise**2) - sign).mean() < gaussian(np.eye(1), a, s)[at] + 0.01


# --- in a study


def config(**fields: Any) -> Any:
    """Two clips of 16 patches a picture, and a prior on one of them, all tiny."""
    made: Any = study.base("vectors")
    made.family, made.recipe.batch, made.recipe.warmup_steps, made.chunk = "prior", 4, 4, 10
    shape = {"patch": 8, "layers": 1, "width": 8, "heads": 1}
    made.model = {**shape, "clip_width": 8, "clip_heads": 1, "clip_layers": 1, **fields.pop("model", {})}
    made.data.scenes = made.data.pairs = {"source": "scenes"}
    made.evaluation = {"tokens": 6 * 64, "batch": 32}
    made.cells.towers = study.block("grid", "pairs", (1,), tokens=(88 * 10,), seeds=(7, 8), family="clip", model=shape)
    start = {part: {"block": "towers", "size": 1, "seed": 7} for part in prior.PARTS}
    made.cells.grid = study.block("grid", "scenes", (0,), tokens=(40 * 10,), **{"init_from": start, **fields})
    return made


def manifests(made: plan.Plan, family: str) -> list[Manifest]:
    every = [spec.manifest for program in made.programs for spec in program.runs if spec.kind != "stem"]
    return sorted((each for each in every if each.family == family), key=lambda each: each.seed)


START = {"block": "towers", "size": 1, "seed": 7}
REFUSED: list[tuple[dict[str, Any], Code, str]] = [
    ({"init_from": {}}, Code.MISSING, "cells.grid.init_from"),
    ({"init_from": {"image": START}}, Code.MISSING, "cells.grid.init_from"),
    ({"init_from": {"image": START, "text": {**START, "seed": 8}}}, Code.CONFLICT, "cells.grid.init_from"),
    ({"model": {"clip_layers": 2}}, Code.CONFLICT, "model.clip_layers"),
    ({"model": {"clip_heads": 2}}, Code.CONFLICT, "model.clip_heads"),  # of equal shapes but for those of heads
    ({"model": {"clip_activation": "gelu"}}, Code.CONFLICT, "model.clip_activation"),  # and of equal shapes in all
    ({"model": {"clip_weight_bits": 4}}, Code.CONFLICT, "model.clip_weight_bits"),
    ({"model": {"patch": 4}}, Code.CONFLICT, "model.patch"),
]


@pytest.mark.parametrize(("fields", "code", "field"), REFUSED)
def test_towers_that_are_not_there_or_of_another_shape_are_refused(fields: dict, code: Code, field: str):
    with refuses(code, field) as caught:
        study.resolve(config(**fields))
    assert "\n" not in str(caught.value)


def test_the_unit_names_the_run_of_clip_and_no_two_terms_have_one():
    made = plan.make(study.resolve(config()))
    (towers, _), (grid,) = manifests(made, "clip"), manifests(made, "prior")
    per = f"value of a picture's vector of {towers.identity[:12]}"
    times = "t uniform in 0 to 999 of 1000, cosine schedule"
    unit = Unit(quantity="squared error", per=per, given=f"{times}, text but for 0.1")
    assert grid.terms["x0"] == unit and len(set(grid.terms.values())) == len(grid.terms) == 7
    assert grid.parents[0].run == towers.run and grid.parents[0].parts == {part: part for part in prior.PARTS}
    assert grid.parent_flops == towers.flops.training and grid.tokens.D == 40 * 10


def test_the_study_has_its_grid_its_seeds_and_one_clip():
    cells = study.resolve(get_config()).cells
    grid = [cell for cell in cells if cell.family == "prior"]
    assert len(grid) == 30 and len(cells) == 31 and {cell.size for cell in grid} == {0, 1, 2, 3}
    assert len({cell.tokens for cell in grid}) == 3 and families.counted(prior, grid[0].config).startswith("positions")
    assert len(study.resolve(get_config("rates")).cells) == 2 * 5 + 1


@pytest.mark.system
def test_a_child_starts_at_one_and_has_its_parents_towers_to_the_bit(tmp_path: Path):
    made = plan.make(study.resolve(config()))
    plan.write(made, tmp_path)
    (child,) = (each for each in made.programs if each.runs[-1].manifest.family == "prior")
    (parent,) = child.runs[-1].manifest.parents
    ((maker, spec),) = ((each, one) for each in made.programs for one in each.runs if one.run == parent.run)
    train.execute(maker, tmp_path, progress=lambda *_: None, should_stop=lambda: False)
    run, theirs = Run(child.runs[-1], child, tmp_path), Run(spec, maker, tmp_path)
    state, kept = run.initial(), theirs.checkpoints.load(theirs.trainer.abstract)
    assert kept is not None
    for part in prior.PARTS:
        for mine, own in zip(*(jax.tree.leaves(each["params"][part]) for each in (state, kept[1]))):
            np.testing.assert_array_equal(mine, own)
    for name, each in run.evaluate(state).items():
        assert each.value == pytest.approx(1.0, abs=5e-6), name
