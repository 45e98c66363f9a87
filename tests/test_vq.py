"""What the quantiser of vq promises: known values, whose gradient goes where, and the averages of its codebook."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_families import batch_of, initial, quick, small

from scaling import count, families
from scaling.families import vq

K, C = 32, 8


@functools.cache
def made(objective: str):
    """A configuration, parameters, a batch, all terms with what they hand over, and the gradient of each term."""
    module, config = small("vq", objective, layers=1, patch=4)
    parameters, batch = initial(module, config, 0.1), jax.tree.map(jnp.asarray, batch_of(module, config, 4))

    def found(parameters):
        terms, aux = vq.loss_and_aux(parameters, batch, jax.random.key(0), config)
        return {name: total.sum() / n.sum() for name, (total, n) in terms.items()}, aux

    values, aux = quick(found)(parameters)
    gradient = quick(jax.jacrev(lambda parameters: found(parameters)[0]))(parameters)
    return config, parameters, values, aux, gradient


def size(tree) -> float:
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_perplexity_is_1_for_one_code_and_k_for_codes_that_are_equally_frequent():
    assert float(vq.perplexity(jnp.full((4, 6), 3), K)) == 1.0
    assert float(vq.perplexity(jnp.arange(3 * K).reshape(3, K) % K, K)) == pytest.approx(K, rel=1e-5)
    assert float(vq.perplexity(jnp.array([[0, 0, 0, 9]]), K)) == pytest.approx(4 / 3**0.75, rel=1e-6)


def test_the_gradient_goes_straight_through():
    z, chosen, target = (jax.random.normal(jax.random.key(seed), (2, 3, C)) for seed in range(3))

    def loss(q):
        return (jnp.sin(q) * target).sum()

    through, pull = jax.vjp(lambda z: vq.straight_through(z, chosen), z)
    np.testing.assert_allclose(through, chosen, atol=1e-6)
    np.testing.assert_array_equal(pull(jax.grad(loss)(through))[0], jax.grad(loss)(through))


def test_of_equal_rows_the_first_is_the_nearest():
    z = np.random.default_rng(0).normal(size=(2, 5, C)).astype(np.float32)
    book = np.random.default_rng(1).normal(size=(K, C)).astype(np.float32)
    codes = np.square(z[:, :, None] - book).sum(axis=-1).argmin(axis=-1)
    np.testing.assert_array_equal(vq.nearest(jnp.asarray(z), jnp.asarray(np.concatenate([book, book]))), codes)


@pytest.mark.system
def test_distances_and_perplexity_are_those_of_the_nearest_rows():
    config, parameters, values, aux, _ = made("codebook")
    z, book = np.asarray(aux["vectors"], np.float64), np.asarray(parameters["codebook"], np.float64)
    squares = np.square(z[:, :, None] - book).sum(axis=-1)
    np.testing.assert_array_equal(aux["codes"], squares.argmin(axis=-1))
    exact = squares.min(axis=-1).mean() / C
    assert float(values["commitment"]) == pytest.approx(exact, rel=1e-5)
    assert float(values["codebook"]) == pytest.approx(exact, rel=1e-5)
    assert float(values["perplexity"]) == pytest.approx(float(vq.perplexity(aux["codes"], config.codes)), rel=1e-6)


@pytest.mark.system
def test_each_term_moves_what_it_must_and_beta_is_on_the_commitment():
    config, parameters, _, aux, gradient = made("codebook")
    assert {name: term.weight for name, term in families.terms(vq, config).items()} == {
        "reconstruction": 1.0,
        "commitment": 0.25,
        "codebook": 1.0,
        "perplexity": 0.0,
    }
    assert size(gradient["commitment"]["encoder"]) > 0 == size(gradient["commitment"]["codebook"])
    assert size(gradient["codebook"]["codebook"]) > 0 == size(gradient["codebook"]["encoder"])
    assert size(gradient["reconstruction"]["encoder"]) > 0 == size(gradient["reconstruction"]["codebook"])
    assert size(gradient["perplexity"]) == 0 == size([gradient[term]["decoder"] for term in ("commitment", "codebook")])
    z, codes, book = (np.asarray(x) for x in (aux["vectors"], aux["codes"], parameters["codebook"]))
    exact = np.zeros_like(book)
    np.add.at(exact, codes, 2 * (book[codes] - z) / z.size)
    np.testing.assert_allclose(gradient["codebook"]["codebook"], exact, rtol=1e-4, atol=1e-7)


@pytest.mark.system
def test_a_codebook_of_averages_has_no_gradient_and_no_parameter_of_n():
    _, _, values, _, gradient = made("ema")
    assert set(values) == {"reconstruction", "commitment", "perplexity"}
    assert all(size(gradient[term][name]) == 0 for term in values for name in ("codebook", "counts", "sums"))
    found, trained = (count.parameters(vq.components(made(name)[0])) for name in ("ema", "codebook"))
    assert found["total"] == trained["total"] + K * C + K and found["nonembedding"] == trained["nonembedding"]
    assert found["trainable"] == trained["trainable"] - K * C == trained["total"] - K * C


def test_the_codebook_is_the_ratio_of_the_averages_of_what_chose_it():
    config = families.configure(vq, 0, codes=K)
    rng = np.random.default_rng(0)
    book = rng.normal(size=(K, C)).astype(np.float32)
    parameters: Any = {"codebook": book, "counts": np.ones(K, np.float32), "sums": book}
    counts, sums = np.ones(K), book.astype(np.float64)
    for _ in range(3):
        codes, z = rng.integers(0, K - 2, (4, 5)), rng.normal(size=(4, 5, C)).astype(np.float32)
        aux = {"codes": jnp.asarray(codes), "vectors": jnp.asarray(z)}
        parameters = vq.after(parameters, aux, jax.random.key(0), config)
        chosen = codes[..., None] == np.arange(K)
        counts = 0.99 * counts + 0.01 * chosen.sum((0, 1))
        sums = 0.99 * sums + 0.01 * np.einsum("bpk,bpc->kc", chosen, z)
    smooth = (counts + 1e-5) / (counts.sum() + K * 1e-5) * counts.sum()
    np.testing.assert_allclose(parameters["counts"], counts, rtol=1e-5)
    np.testing.assert_allclose(parameters["codebook"], sums / smooth[:, None], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parameters["codebook"][-2:], book[-2:], rtol=1e-4)  # never chosen, and not moved


def test_rows_that_are_hardly_chosen_become_vectors_of_the_batch_drawn_by_the_key():
    config = families.configure(vq, 0, codes=K, restart=0.25, decay=0.5)
    rng, even = np.random.default_rng(0), 256 / K
    book = rng.normal(size=(K, C)).astype(np.float32)
    before: Any = {"codebook": book, "counts": np.full(K, even, np.float32), "sums": even * book}
    before["counts"][4:] = 0.125  # of which a step keeps less than 2, a quarter of an even use
    codes = jnp.asarray(np.arange(256).reshape(16, 16) % 8)
    z = rng.normal(size=(16, 16, C)).astype(np.float32)
    aux = {"codes": codes, "vectors": jnp.asarray(z)}

    def after(seed: int, config: vq.Config = config) -> Any:
        return vq.after(before, aux, jax.random.key(seed), config)

    found, again, other = after(0), after(0), after(1)
    plain = after(0, dataclasses.replace(config, restart=0.0))
    np.testing.assert_array_equal(found["counts"], [*plain["counts"][:8], *[even] * (K - 8)])
    np.testing.assert_array_equal(found["sums"][:8], plain["sums"][:8])
    rows, vectors = np.asarray(found["sums"][8:]) / even, z.reshape(-1, C)
    assert (rows[:, None] == vectors).all(axis=-1).any(axis=1).all() and len(np.unique(rows, axis=0)) > 12
    np.testing.assert_allclose(found["codebook"][8:], rows, rtol=1e-4)
    for name in found:
        np.testing.assert_array_equal(found[name], again[name])
    assert (np.asarray(other["sums"][8:]) != found["sums"][8:]).mean() > 0.5
