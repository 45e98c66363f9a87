"""Every law of the registry: derivatives, planted coefficients, bounds, allocation; and what importing costs."""

import subprocess
import sys

import numpy as np
import pytest

from analysis import laws
from analysis.estimate import estimate, objective
from scaling.errors import UserError

PLANTED = {
    "power": {"A": 20.0, "a": 0.2},
    "power_floor": {"E": 1.2, "A": 20.0, "a": 0.3},
    "product": {"A": 20.0, "alpha": 0.05, "beta": 0.1},
    "product_floor": {"E": 1.0, "A": 100.0, "alpha": 0.2, "beta": 0.25},
    "chinchilla": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
    "kaplan": {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095},
}


def rows(n: int = 30, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"N": 10 ** rng.uniform(6, 9, n), "D": 10 ** rng.uniform(8, 11, n), "x": 10 ** rng.uniform(4, 8, n)}


@pytest.mark.parametrize("name", sorted(laws.REGISTRY))
class TestEveryLaw:
    def test_planted_coefficients_come_back(self, name):
        law, columns = laws.get(name), rows()
        loss = law.predict(PLANTED[name], columns)
        for kind in ("squares", "auto", "huber:1e-3"):
            found = estimate(law, columns, loss, objective(kind))
            np.testing.assert_allclose(found.theta, law.vector(PLANTED[name]), rtol=1e-6, err_msg=kind)

    def test_derivatives_equal_finite_differences(self, name):
        law, columns = laws.get(name), rows()
        surface = laws.Surface(law, columns, scale=3.0)
        rng = np.random.default_rng(0)
        z = surface.to_z(law.vector(PLANTED[name])[None]) + 0.05 * rng.standard_normal(surface.P)
        c1, c2 = rng.standard_normal((2, 1, surface.n))
        step = 1e-5 * np.eye(surface.P)

        def difference(f):
            return np.stack([(f(z + e) - f(z - e)) / 2e-5 for e in step], -1)

        state = surface.evaluate(z)[1]
        jacobian = surface.jacobian(state)
        np.testing.assert_allclose(jacobian, difference(lambda at: surface.evaluate(at)[0]), atol=1e-7)
        gradient, hessian = surface.normal(state, c1, 0 * c1)
        np.testing.assert_allclose(gradient, np.einsum("sn,snp->sp", c1, jacobian), rtol=1e-12, atol=1e-13)
        expected = difference(lambda at: surface.normal(surface.evaluate(at)[1], c1, 0 * c1)[0])
        np.testing.assert_allclose(hessian, expected, atol=2e-6)
        outer = np.einsum("sn,snp,snq->spq", c2, jacobian, jacobian)
        np.testing.assert_allclose(surface.normal(state, 0 * c2, c2)[1], outer, rtol=1e-10, atol=1e-12)

    def test_coordinates_round_trip_and_agree_with_predict(self, name):
        law, columns = laws.get(name), rows()
        theta = law.vector(PLANTED[name])
        surface = laws.Surface(law, columns, scale=2.5)
        z = surface.to_z(theta[None])
        np.testing.assert_allclose(surface.to_theta(z)[0], theta, rtol=1e-10)
        np.testing.assert_allclose(np.exp(surface.evaluate(z)[0][0]), law.predict(theta, columns), rtol=1e-12)

    def test_leading_axis_of_parameter_sets(self, name):
        law, columns = laws.get(name), rows()
        theta = law.vector(PLANTED[name])
        both = law.predict(np.stack([theta, theta * 1.1]), columns)
        assert both.shape == (2, 30)
        np.testing.assert_array_equal(both[0], law.predict(theta, columns))

    def test_entry_is_complete(self, name):
        law = laws.get(name)
        assert law.source and law.formula and law.columns
        assert all(p.meaning and p.lower < p.upper for p in law.params)
        assert (law.exponents(law.vector(PLANTED[name])) is None) == (name not in ("chinchilla", "kaplan"))


def test_a_new_law_is_one_entry():
    mine = laws.Law(
        "mine",
        "L = A N^-alpha + B D^-0.5",
        (
            laws.Param("A", "loss", 0, np.inf, "a"),
            laws.Param("B", "loss", 0, np.inf, "b"),
            laws._exponent("alpha", "s"),
        ),
        (laws.Term("A", (("N", "alpha"),)), laws.Term("B", (("D", 0.5),))),
        "this test",
    )
    loss = mine.predict({"A": 30.0, "B": 900.0, "alpha": 0.2}, rows())
    found = estimate(mine, rows(), loss, objective("squares"))
    np.testing.assert_allclose(found.theta, [30.0, 900.0, 0.2], rtol=1e-6)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan"])
def test_optimum_is_the_minimum_along_the_budget(name):
    law = laws.get(name)
    theta = law.vector(PLANTED[name])
    n, d = law.optimum(theta, [1e18, 1e20])
    np.testing.assert_allclose(6 * n * d, [[1e18, 1e20]], rtol=1e-12)
    for c, best in zip([1e18, 1e20], n[0]):
        grid = best * np.exp(np.linspace(-0.5, 0.5, 2001))
        assert abs(np.argmin(law.predict(theta, {"N": grid, "D": c / 6 / grid})) - 1000) <= 1
    slope = np.log(n[0, 1] / n[0, 0]) / np.log(100)
    pair = law.exponents(theta)
    assert pair is not None
    assert pair["a"][0] == pytest.approx(slope, rel=1e-9)
    assert pair["a"][0] + pair["b"][0] == pytest.approx(1)


def test_hoffmann_exponent_is_not_taken_from_rounded_coefficients():
    # LAWS.md: .34 and .28 give .452; the unrounded coefficients give .4565 (published: .46)
    pair = laws.get("chinchilla").exponents([1.69, 406.4, 410.7, 0.33917084, 0.2849083])
    assert pair is not None and pair["a"][0] == pytest.approx(0.4565, abs=5e-5)


def test_laws_without_an_optimum_say_why():
    with pytest.raises(UserError, match="monotone in N"):
        laws.get("product").optimum([20, 0.05, 0.1], 1e18)


def test_one_variable_law_takes_any_column():
    law = laws.get("power_floor:C")
    assert law.columns == ("C",) and "C^-a" in law.formula
    assert law.predict([1.0, 10.0, 0.1], {"C": [1.0]})[0] == pytest.approx(11.0)


@pytest.mark.parametrize("name", ["chinchila", "chinchilla:C", ""])
def test_unknown_law_lists_the_names(name):
    with pytest.raises(UserError, match="chinchilla, kaplan"):
        laws.get(name)


@pytest.mark.parametrize(
    ("columns", "match"),
    [({"N": [1.0]}, "D"), ({"N": [1.0], "D": [0.0]}, "positive"), ({"N": [np.nan], "D": [1]}, "N")],
)
def test_bad_columns_are_named(columns, match):
    with pytest.raises(UserError, match=match):
        laws.get("chinchilla").predict([1, 1, 1, 0.3, 0.3], columns)


def test_importing_the_fitter_brings_no_jax_and_the_package_brings_nothing():
    code = (
        "import sys, analysis; assert not {'numpy', 'pandas', 'scipy', 'matplotlib', 'jax'} & set(sys.modules);"
        "import analysis.laws; assert not {'pandas', 'scipy', 'jax'} & set(sys.modules);"
        "import analysis.fit; assert not {'matplotlib', 'jax', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
