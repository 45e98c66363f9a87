"""What the family ``regression`` and the source ``linear`` promise: an exact floor by point, and no look ahead."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from test_families import batch_of, initial, quick, small

from scaling import count, data, parts, plan, study
from scaling.data.linear import Linear
from scaling.families import regression
from scaling.run import Run

MODULE, CONFIG = small("regression", dims=3, context=6, layers=2)
OUTPUTS = quick(lambda parameters, points: regression.outputs(parameters, points, CONFIG))


def noisy() -> dict[str, Any]:
    """Parameters of which none is zero."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), parts.shapes(MODULE, CONFIG))


def linear(**fields: Any) -> Linear:
    source = data.load({"source": "linear", **fields})
    assert isinstance(source, Linear)
    return source


@pytest.fixture(scope="module")
def drawn() -> Any:
    return linear(dims=3, noise=0.5).evaluation(6, 60_000)


def test_points_are_of_one_function_an_example_and_have_unit_variance(drawn: dict[str, Any]):
    x, y = drawn["points"][..., :3], drawn["points"][..., 3]
    assert drawn["points"].shape == (10_000, 6, 4) and drawn["points"].dtype == np.float32
    assert abs(np.square(y).mean() - 1) < 4 * np.square(y).mean(axis=1).std() / 100
    assert np.abs(x.mean(axis=(0, 1))).max() < 4 / 245 and np.abs(x.std(axis=(0, 1)) - 1).max() < 0.02
    # Noiseless, three points give the function, and every later y is what it says.
    found: Any = linear(dims=3).evaluation(6, 300)
    exact = found["points"].astype(np.float64)
    w = np.linalg.solve(exact[:, :3, :3], exact[:, :3, 3:])
    well = np.linalg.cond(exact[:, :3, :3]) < 20
    np.testing.assert_allclose(exact[well, 3:, :3] @ w[well], exact[well, 3:, 3:], atol=1e-4)
    # A shorter context has the first points of a longer one.
    longer, shorter = (linear(dims=3).batch(np.arange(5), seed=1, context=k)["points"] for k in (6, 4))
    np.testing.assert_array_equal(longer[:, :4], shorter)


def test_the_reference_is_ridge_regression_and_its_mean_is_known_for_every_k(drawn: dict[str, Any]):
    points = drawn["points"][:40].astype(np.float64)
    x, y = points[..., :3], points[..., 3]
    for k in range(6):  # in the other form, by the weights
        seen, told = x[:, :k], y[:, :k, None]
        weight = np.linalg.solve(seen.swapaxes(1, 2) @ seen + 0.75 * np.eye(3), seen.swapaxes(1, 2) @ told)
        error = np.square(y[:, k] - (x[:, k, None] @ weight)[:, 0, 0])
        np.testing.assert_allclose(drawn["reference"][:40, k], error, rtol=1e-4, atol=1e-6)
    # No constant multiple of the weight does better, on average over the world.
    mean = {factor: _error(drawn, factor * 0.75) for factor in (0.5, 1.0, 2.0)}
    assert mean[1.0] < min(mean[0.5], mean[2.0])
    assert mean[1.0] == pytest.approx(drawn["reference"][:, -1].mean(), rel=1e-4)
    source = linear(dims=3)
    found: Any = source.evaluation(6, 60_000)["reference"]
    expected, error = np.array([1, 2 / 3, 1 / 3, 0, 0, 0]), found.std(axis=0) / 100
    assert (np.abs(found.mean(axis=0) - expected) < 4 * error + 1e-9).all()
    assert source.expected_reference(6) == pytest.approx(expected.mean()) and not found[:, 3:].any()
    assert linear(noise=0.1).expected_reference(6) is None


def _error(drawn: dict[str, Any], weight: float) -> float:
    """Mean squared error at the last point of ridge regression with another weight."""
    points = drawn["points"].astype(np.float64)
    seen, told, here = points[:, :-1, :3], points[:, :-1, 3:], points[:, -1]
    w = np.linalg.solve(seen.swapaxes(1, 2) @ seen + weight * np.eye(3), seen.swapaxes(1, 2) @ told)
    return float(np.square(here[:, 3] - (here[:, None, :3] @ w)[:, 0, 0]).mean())


def test_the_first_loss_is_the_mean_square_and_nothing_sees_its_own_y():
    batch: Any = batch_of(regression, CONFIG, 8)
    error, ones = quick(lambda p: regression.loss(p, batch, jax.random.key(0), CONFIG))(initial(regression, CONFIG))[
        "error"
    ]
    np.testing.assert_array_equal(error, np.square(batch["points"][..., -1]))
    assert error.shape == ones.shape == (8, 6)
    parameters = noisy()
    points = jnp.asarray(batch["points"])
    read = functools.partial(OUTPUTS, parameters)
    plain = np.asarray(read(points))
    for k in range(6):
        x, y = (np.asarray(read(points.at[:, k, number].add(1.0))) != plain for number in (1, 3))
        assert not x[:, :k].any() and x[:, k:].all()
        assert not y[:, : k + 1].any() and y[:, k + 1 :].all()


def test_how_large_a_number_is_matters():
    """Blocks see directions alone: without positions beside them, y and twice y would be one."""
    parameters = noisy()
    points = jnp.asarray(batch_of(regression, CONFIG, 8)["points"])
    twice = points.at[:, 0, 3].mul(2.0)
    assert (np.abs(np.asarray(OUTPUTS(parameters, points) - OUTPUTS(parameters, twice)))[:, 1:] > 1e-5).all()


def test_positions_are_two_a_point_but_for_the_last():
    found = {part.name: part for part in regression.components(CONFIG)}
    assert CONFIG.positions == found["numbers"].tokens == 11 and found["head"].tokens == 6
    assert count.parameters(regression.components(CONFIG))["groups"]["position"] == 11 * CONFIG.width


def test_a_run_is_held_against_the_floor_of_every_k(tmp_path: Any):
    made: Any = tiny_config(grid=study.block("grid", "linear", (0,), tokens=(16 * 40,)))
    del made.data["known"]
    made.family, made.data.linear = "regression", {"source": "linear", "dims": 3}
    made.model, made.evaluation = (
        {"dims": 3, "context": 4, "width": 8, "layers": 1, "heads": 1},
        {"tokens": 4096, "batch": 64},
    )
    (program,) = plan.make(study.resolve(made)).programs
    run = Run(program.runs[0], program, tmp_path)
    found = run.evaluate(run.trainer.init(0))["error"]  # of predictions of 0
    fixed: Any = linear(dims=3).evaluation(4, 4096)
    square, best = np.square(fixed["points"][..., 3]), fixed["reference"]
    assert found.sample == pytest.approx(square.mean(), abs=1e-6)
    assert found.value == pytest.approx((square - best).mean() + (1 + 2 / 3 + 1 / 3) / 4, abs=1e-6)
    positions = found.positions
    assert positions is not None and positions.excess is not None and positions.upto == (1, 2, 4)
    known = 0, (square - best)[:, 1].mean(), (square - best)[:, 2:].mean()
    assert positions.excess == pytest.approx(known, abs=1e-6)
