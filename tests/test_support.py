"""Intervals keep to what a law can be: draws inside its bounds, floors below the losses, bounds that are covered."""

import itertools

import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from selection import mostly_system

import analysis
from analysis.card import NotIdentified, ParameterAtBound
from analysis.engine import sampler
from scaling.errors import Code

X = np.array([0.015, 0.025, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75, 0.95])
SHIFTED = 4.2 * X**-0.31 - 4.2  # falls below any power law with a floor that is not negative


def of_x(loss, x=X, **how):
    return analysis.fit(pd.DataFrame({"x": x, "loss": loss}), "power_floor", **how)


def outside(fit):
    """Share of the draws that lie outside the law's bounds."""
    lower, upper = (np.array([getattr(p, end) for p in fit.law.params]) for end in ("lower", "upper"))
    return float(((fit.draws < lower) | (fit.draws > upper) | ~np.isfinite(fit.draws)).any(1).mean())


@pytest.mark.parametrize("scheme", ["auto", "likelihood-t"])
def test_data_that_push_beyond_a_bound_have_intervals_of_some_width(scheme):
    """The start of every walker lay below the floor's bound; the draws never moved, and a had no width."""
    got = of_x(SHIFTED, scheme=scheme)
    assert outside(got) == 0
    e, a = got.intervals["E"], got.intervals["a"]
    assert e.lo == 0 < e.hi
    assert a.lo < a.value < a.hi and a.hi - a.lo > 0.1
    assert {w.parameter for w in got.warnings if isinstance(w, ParameterAtBound | NotIdentified)} == {"E"}
    if scheme == "auto":
        assert got.card.scheme.name == "profile-t"
        (profiled,) = (of_x(SHIFTED, scheme="profile-t"),)
        assert (a.lo, a.hi) == (profiled.intervals["a"].lo, profiled.intervals["a"].hi)


LAWS_AND_FORMS = list(itertools.product(["power_floor", "power", "shifted_power"], ["flat", "rising", "steep"]))


@pytest.mark.parametrize(("law", "form"), mostly_system(LAWS_AND_FORMS, ("power_floor", "rising")))
def test_draws_lie_inside_the_bounds(law, form):
    loss = {"flat": 3.0 + 0 * X, "rising": 3 * X**0.1, "steep": 0.5 + 3 * (X / X[0]) ** -6.0}[form]
    loss = loss * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(X)))
    got = analysis.fit(pd.DataFrame({"x": X, "loss": loss}), law)
    assert outside(got) == 0 and np.isfinite(got.predict(x=X).hi).all()


def test_starts_outside_the_support_are_never_draws(monkeypatch):
    inside = sampler._inside

    def spoiled(share):
        def starts(density, *more):
            x = inside(density, *more)
            x[: int(share * len(x)), :] = np.nan
            return x

        return starts

    monkeypatch.setattr(sampler, "_inside", spoiled(0.5))
    assert outside(of_x(2 + X**-0.3 * np.exp(0.01 * np.sin(40 * X)))) == 0
    monkeypatch.setattr(sampler, "_inside", spoiled(1.0))
    with refuses(Code.NOT_IDENTIFIED, "scheme"):
        of_x(2 + X**-0.3)


def wide_table():
    """110 runs whose floor is hardly identified: one exponent small, the sizes few."""
    rng = np.random.default_rng(4)
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(6e6, 9e7, 10), np.geomspace(2e9, 2e11, 11)))
    loss = (0.6 + 3.5 * n**-0.04 + 28 * d**-0.18) * np.exp(0.011 * rng.standard_normal(len(n)))
    return pd.DataFrame({"N": n, "D": d, "loss": loss})


@pytest.mark.parametrize("scheme", ["auto", "likelihood-t", "profile-t", "jackknife-t"])
def test_a_floor_never_exceeds_the_losses_by_more_than_noise(scheme):
    table = wide_table()
    got = analysis.fit(table, scheme=scheme)
    most = float(np.min(table["loss"])) * 1.04
    assert got.intervals["E"].hi < most and got.draws[:, got.law.index("E")].max() < most


def test_the_floor_of_a_law_with_an_outer_exponent_does_not_either():
    table = wide_table()
    got = analysis.fit(table, "chinchilla_outer")
    floors, power = (got.draws[:, got.law.index(name)] for name in ("E", got.law.names[-1]))
    assert (floors**power).max() < float(np.min(table["loss"])) * 1.04


@pytest.mark.system
def test_a_floor_of_zero_is_covered():
    """At a true floor of zero the draws' central interval held a in half of the studies."""
    rng, x, held = np.random.default_rng(1), np.geomspace(1, 1e4, 12), np.zeros(2)
    for _ in range(16):
        got = of_x(4 * x**-0.2 * np.exp(0.01 * rng.standard_normal(len(x))), x)
        a, e = got.intervals["a"], got.intervals["E"]
        held += [a.lo <= 0.2 <= a.hi, e.lo == 0]
    assert held[0] >= 14 and held[1] == 16
