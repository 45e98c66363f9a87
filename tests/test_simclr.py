"""What simclr promises: known values of its loss, and what a random view may change of a picture."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_families import initial, small

from scaling import families
from scaling.families import simclr

B, TAU = 5, 0.3


def of(vectors) -> np.ndarray:
    return np.asarray(simclr.nt_xent(jnp.asarray(vectors, jnp.float32), TAU)[0])


def test_the_loss_has_its_known_values():
    alike = np.tile([0.6, 0.8], (2 * B, 1))
    np.testing.assert_allclose(of(alike), math.log(2 * B - 1), rtol=1e-6)
    apart = np.repeat(np.eye(B), 2, axis=0)  # both views of a picture alike, pictures at right angles
    np.testing.assert_allclose(of(apart), math.log(1 + (2 * B - 2) * math.exp(-1 / TAU)), rtol=1e-5)
    x = np.random.default_rng(0).standard_normal((2 * B, 7))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    alike = np.exp(x @ x.T / TAU)
    own = alike[np.arange(2 * B), np.arange(2 * B) ^ 1]
    np.testing.assert_allclose(of(x), np.log((alike.sum(1) - np.diag(alike)) / own), rtol=1e-5)


def many(function, count: int) -> np.ndarray:
    """What a function of a key gives for as many keys."""
    return np.asarray(jax.jit(jax.vmap(function))(jax.random.split(jax.random.key(0), count)))


def test_a_whole_view_is_the_picture_or_its_mirror():
    config = families.configure(simclr, 0, crop=1.0, jitter=0.0)
    image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    seen = many(lambda key: simclr.view(key, image, config), 40)
    mirrored = np.array([np.allclose(view, image[:, ::-1], atol=1e-5) for view in seen])
    assert 0 < mirrored.sum() < 40
    np.testing.assert_allclose(seen[~mirrored], np.broadcast_to(image, seen.shape)[~mirrored], atol=1e-5)


def test_a_part_is_enlarged_by_its_share_of_the_side():
    side = 64
    ramp = jnp.broadcast_to((jnp.arange(side)[:, None, None] + 0.5) / side, (side, 8, 3))
    parts = many(lambda key: simclr._part(key, ramp, 0.25), 200)
    steps = np.diff(parts[:, :, 0, 0], axis=1)[:, 1:-1]
    np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(1, keepdims=True), steps.shape), atol=1e-5)
    shares = steps.mean(1) * side  # of the side: of parts of 1/4 of the area and more, their sides up to 4/3 apart
    assert shares.min() >= math.sqrt(0.25 / simclr.RATIO) - 1e-3 and shares.max() <= 1 + 1e-4
    assert shares.min() < 0.6 and shares.max() > 0.95 and parts.min() >= 0 and parts.max() <= 1


@pytest.mark.system
def test_colours_change_as_stated():
    np.testing.assert_allclose(np.array(simclr.TO_YIQ) @ np.array(simclr.FROM_YIQ), np.eye(3), atol=1e-5)
    grey = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), (6, 6, 1)), (6, 6, 3))
    seen = many(lambda key: simclr._recoloured(key, grey, 1.0), 400)
    np.testing.assert_allclose(seen, np.broadcast_to(seen[..., :1], seen.shape), atol=1e-3)  # grey stays without colour
    assert seen.min() >= 0 and seen.max() <= 1
    image = jax.random.uniform(jax.random.key(1), (6, 6, 3))
    seen = many(lambda key: simclr._recoloured(key, image, 1.0), 400)
    kept = np.mean([bool((view == image).all()) for view in seen])
    without = np.mean([np.allclose(view, view[..., :1], atol=1e-4) for view in seen])
    for found, share in ((kept, (1 - simclr.CHANGED) * (1 - simclr.GREY)), (without, simclr.GREY)):
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 400)


@pytest.mark.system
def test_views_are_those_of_the_example_however_the_batch_is_split():
    _, config = small("simclr")
    views = jax.jit(lambda keys, image: simclr.views(keys, image, config))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(4))
    image = jax.random.randint(jax.random.key(0), (4, config.image, config.image, 3), 0, 256).astype(jnp.uint8)
    whole = views(keys, image)
    np.testing.assert_allclose(whole[4:], views(keys[2:], image[2:]), atol=1e-6)
    assert whole.shape == (8, config.patches, config.pixels) and float(jnp.abs(whole[0] - whole[1]).max()) > 0.01


@pytest.mark.system
@pytest.mark.parametrize(("labels", "wrong"), [([0, 0, 1, 1], 0.0), ([0, 1, 0, 1], 1.0)])
def test_the_nearest_other_picture_has_a_label(labels: list[int], wrong: float):
    module, config = small("simclr", labels=2, layers=1)
    two = np.random.default_rng(0).integers(0, 256, (2, config.image, config.image, 3)).astype(np.uint8)
    batch = {"image": jnp.asarray(np.repeat(two, 2, axis=0)), "label": jnp.asarray(labels)}
    measured = jax.jit(lambda parameters: module.metrics(parameters, batch, config))
    total, count = measured(initial(module, config, 0.1))["neighbour"]
    assert float(total.sum() / count.sum()) == wrong
    assert set(families.terms(module, config)) == {"views", "retrieval", "neighbour"}


def test_the_unit_counts_the_other_views_of_an_evaluation_batch():
    """Which is what a view is told among: of vectors that are all alike, the loss is the log of that number."""
    module, config = small("simclr", labels=2)
    units = families.units(module, config, B, {})
    assert {name: unit.among for name, unit in units.items()} == {"views": 9, "retrieval": 9, "neighbour": B - 1}
    assert math.exp(of(np.ones((2 * B, 1))).mean()) == pytest.approx(9, rel=1e-5)
    clip, small_clip = small("clip")
    assert families.units(clip, small_clip, B, {})["contrast"].among == B
