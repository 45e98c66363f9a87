"""Allocation: closed forms, exact costs, what is refused and why."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from selection import mostly_system

from analysis.card import Collinear, NotIdentified
from analysis.decide.allocate import Allocation, Extrapolation, OpenDraws, WideInterval, optimal
from analysis.engine.frontier import cost_table, flops_for, frontier, tokens_for
from analysis.fitting import fit
from analysis.table.runs import from_frame
from scaling.errors import Code, UserError

E, A, B, ALPHA, BETA = 1.8, 480.0, 2000.0, 0.35, 0.37


def best(c):
    return (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (c / 6) ** (BETA / (ALPHA + BETA))


def runs(noise=1e-3, flops=6.0, sizes=6, tokens=5, top=2e9):
    n, d = np.meshgrid(np.geomspace(5e7, top, sizes), np.geomspace(5e8, 4e10, tokens))
    n, d = n.ravel(), d.ravel()
    y = (E + A / n**ALPHA + B / d**BETA) * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    return from_frame(pd.DataFrame({"N": n, "D": d, "C": flops * n * d, "loss": y}))


@pytest.fixture(scope="module")
def chinchilla():
    return fit(runs())


def test_optimum_against_the_closed_form(chinchilla):
    c = 3e21
    got = optimal(chinchilla, flops=c)
    assert msgspec.json.decode(msgspec.json.encode(got), type=Allocation) == got
    assert got.N.lo <= best(c) <= got.N.hi
    assert got.N.value == pytest.approx(best(c), rel=0.1)
    assert 6 * got.N.value * got.D.value == pytest.approx(c)
    assert [got.flops.value, got.flops.lo, got.flops.hi] == [pytest.approx(c)] * 3
    truth = E + A / best(c) ** ALPHA + B / (c / 6 / best(c)) ** BETA
    assert got.loss.lo <= truth <= got.loss.hi
    assert got.extrapolation_ratio == pytest.approx(c / chinchilla.scope.C_max)
    assert isinstance(got.warnings[0], Extrapolation)
    assert 0 < got.sensitivity.half_N < 0.03 and 0 < got.sensitivity.double_N < 0.03
    assert got.tokens_per_parameter.value == pytest.approx(got.D.value / got.N.value)


def test_numeric_search_equals_the_closed_form(chinchilla):
    flops = np.array([1e19, 1e21])
    exact, searched = frontier(chinchilla, flops), frontier(chinchilla, flops, lambda n, d: 6 * n * d)
    for one, two in zip(exact, searched, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_partners_are_inverse(chinchilla):
    there = optimal(chinchilla, flops=1e21)
    by_size = optimal(chinchilla, params=there.N.value)
    by_data = optimal(chinchilla, tokens=there.D.value)
    assert by_size.D.value == pytest.approx(there.D.value, rel=1e-3)
    assert by_data.N.value == pytest.approx(there.N.value, rel=1e-3)
    assert by_size.N.lo == by_size.N.hi and by_size.D.lo < by_size.D.hi
    assert by_size.flops.lo < 1e21 < by_size.flops.hi


def test_a_cell(chinchilla):
    got = optimal(chinchilla, params=1e9, tokens=2e10)
    assert got.flops.value == pytest.approx(1.2e20) and got.N.lo == pytest.approx(1e9)
    assert optimal(chinchilla, flops=1.2e20, params=1e9).D.value == pytest.approx(2e10)
    assert optimal(chinchilla, flops=1.2e20, tokens=2e10).N.value == pytest.approx(1e9)
    assert got.loss.value == pytest.approx(E + A / 1e9**ALPHA + B / 2e10**BETA, rel=0.01)


def test_exact_cost_moves_the_optimum(chinchilla):
    """A head and attention that cost 2.4 to 1.25 times 6N: D at one budget shrinks by about that much."""
    table = {"N": [1e8, 1e9], "flops_per_token": [6e8 * 2.4, 6e9 * 1.25]}
    plain, dear = optimal(chinchilla, flops=1e20), optimal(chinchilla, flops=1e20, cost=table)
    spent = float(flops_for(dear.N.value, dear.D.value, table))
    assert spent == pytest.approx(1e20, rel=1e-3)
    assert plain.D.value / dear.D.value > 1.1
    n = np.exp(np.linspace(np.log(dear.N.value) - 2, np.log(dear.N.value) + 2, 4001))
    loss = chinchilla.law.predict(chinchilla.law.vector(chinchilla.params), {"N": n, "D": tokens_for(1e20, n, table)})
    assert dear.N.value == pytest.approx(n[np.argmin(loss)], rel=0.01)
    assert (dear.cost, plain.cost) == ("by_size", "6ND")


def test_cost_table_of_the_fitted_runs(chinchilla):
    assert cost_table(chinchilla) is None
    fitted = fit(runs(flops=9.0))
    table = cost_table(fitted)
    assert table is not None and len(table["N"]) == 6
    assert np.array(table["flops_per_token"]) == pytest.approx(9.0 * np.array(table["N"]))
    got = optimal(fitted, flops=1e20)
    assert 9 * got.N.value * got.D.value == pytest.approx(1e20, rel=1e-3)
    assert got.N.value == pytest.approx(best(1e20 * 6 / 9), rel=0.1)


def test_a_cost_that_is_not_linear_in_tokens():
    n, d = np.array([1e6, 1e8]), np.array([1e9, 3e10])

    def cost(n, d):
        return 6 * n * d + 1e15 * np.sqrt(d)

    np.testing.assert_allclose(tokens_for(cost(n, d), n, cost), d, rtol=1e-9)
    with refuses(Code.INVALID, "cost"):
        tokens_for(1e20, n, {"N": [1.0]})


def test_refuses_far_extrapolation(chinchilla):
    far = 101 * chinchilla.scope.C_max
    with refuses(Code.BEYOND, "extrapolation", f"{far:.4g} FLOPs"):
        optimal(chinchilla, flops=far)
    forced = optimal(chinchilla, flops=far, force=True)
    (warning,) = (w for w in forced.warnings if isinstance(w, Extrapolation))
    assert warning.forced and warning.ratio == pytest.approx(101) and forced.loss.lo < forced.loss.hi
    assert optimal(chinchilla, flops=99 * chinchilla.scope.C_max).extrapolation_ratio == pytest.approx(99)


def test_refuses_a_law_without_an_optimum():
    fitted = fit(runs(), "product")
    questions: list[dict[str, Any]] = [{"flops": 1e20}, {"params": 1e8}, {"tokens": 1e10}]
    for asked in questions:
        with refuses(Code.UNSUPPORTED, "law", "product"):
            optimal(fitted, **asked)
    assert optimal(fitted, params=1e9, tokens=2e10).loss.value > 0


def test_refuses_an_allocation_that_is_not_identified(chinchilla):
    def vague(share):
        """The fit with a share of its draws putting the whole budget on one side."""
        draws = np.array(chinchilla.draws)
        draws[: int(share * len(draws)), chinchilla.law.index("beta")] = 0.0
        return replace(chinchilla, draws=draws)

    with refuses(Code.NOT_IDENTIFIED, "allocation", "chinchilla"):
        optimal(vague(0.3), flops=1e20)
    forced = optimal(vague(0.3), flops=1e20, force=True)
    assert forced.N.lo is None and forced.N.hi is None and forced.N.value > 0
    assert (forced.flops.lo, forced.flops.hi) == (1e20, 1e20)
    assert forced.warnings[-1] == OpenDraws(share=0.3, forced=True)
    some = optimal(vague(0.05), flops=1e20)
    assert some.N.hi is None and some.warnings == (OpenDraws(share=0.05),)


def test_refuses_where_an_answer_says_nothing_and_repeats_what_the_fit_warned_of():
    vague = fit(runs(noise=0.04, tokens=3))
    near, far = vague.scope.C_max, 60 * vague.scope.C_max
    with refuses(Code.NOT_IDENTIFIED, "allocation", "chinchilla"):
        optimal(vague, flops=far)
    forced = optimal(vague, flops=far, force=True)
    assert any(isinstance(w, WideInterval) for w in forced.warnings)
    assert any(isinstance(w, NotIdentified) for w in forced.of_fit)
    told = optimal(vague, flops=near)  # here the interval says something, and the warning of the fit goes with it
    assert told.of_fit == forced.of_fit and not any(isinstance(w, WideInterval) for w in told.warnings)
    assert optimal(vague, params=1e9, tokens=1e12).loss.lo > 0  # a loss is told at any cell


SPREAD = np.geomspace(2e7, 2e9, 20)
BUDGETS = np.where(np.arange(20) % 2, 1e19, 1.2e19)


@pytest.mark.parametrize(
    "d", [20 * SPREAD, 1e20 / 6 / SPREAD, BUDGETS / 6 / SPREAD], ids=["D = 20 N", "one budget", "two near budgets"]
)
@pytest.mark.parametrize(
    "law, noise",
    mostly_system(
        [("chinchilla", 0.0), ("chinchilla", 3e-3), ("skaling", 3e-3), ("kaplan", 3e-3)], ("chinchilla", 3e-3)
    ),
)
def test_what_the_design_cannot_tell_is_refused_with_the_reason_of_the_fit(d, law, noise):
    """Under warnings as errors: no warning of a library reaches the user either."""
    n, scatter = SPREAD, noise * np.random.default_rng(0).standard_normal(20)
    losses = (E + A / n**ALPHA + B / d**BETA) * np.exp(scatter)
    made = fit(from_frame(pd.DataFrame({"N": n, "D": d, "loss": losses})), law)
    told = {w.parameter: w for w in made.warnings if isinstance(w, NotIdentified)}
    assert any(isinstance(w, Collinear) for w in made.warnings)
    alone = abs(np.corrcoef(np.log(n), np.log(d))[0, 1]) > 0.999
    assert not alone or told["a"].why == "collinear"
    if "a" not in told:
        return  # two budgets without any noise
    budget = 3 * made.scope.C_max
    questions: list[dict[str, Any]] = [{"flops": budget}, {"params": 1e9}, {"tokens": 1e10}]
    for asked in questions:
        with refuses(Code.NOT_IDENTIFIED, "allocation", law):
            optimal(made, **asked)
    if law == "chinchilla" and np.ptp(n * d) < 1e6:  # one budget; the others may have no optimum at all
        forced = optimal(made, flops=budget, force=True)
        assert told["a"] in forced.of_fit
        assert forced.flops.lo == forced.flops.hi == budget  # given, whatever is known of N and D
    cell = optimal(made, params=1e9, tokens=2e10)
    assert (cell.N.lo, cell.N.hi, cell.D.lo, cell.D.hi) == (1e9, 1e9, 2e10, 2e10) and cell.loss.lo < cell.loss.hi


@pytest.mark.parametrize(
    "asked", [{}, {"flops": 1, "params": 1, "tokens": 1}, {"flops": -1.0}, {"flops": float("nan")}]
)
def test_bad_questions(chinchilla, asked):
    with pytest.raises(UserError):
        optimal(chinchilla, **asked)


def test_a_cost_table_is_smooth_and_reaches_beyond_its_sizes():
    """Against the exact counts of a family's ladder: sizes that the table lacks, inside and beyond it."""
    from scaling import count, families

    family = families.load("gpt")
    exact = {}
    for size in range(7):
        parts = family.components(families.configure(family, size))
        n = float(count.parameters(parts)["nonembedding"])
        exact[n] = sum(count.training_flops(parts).values()) / 64
    sizes = list(exact)
    table = {"N": sizes[:5:2], "flops_per_token": [exact[n] for n in sizes[:5:2]]}
    n = np.array(sizes)
    np.testing.assert_allclose(flops_for(n, 1.0, table), list(exact.values()), rtol=0.02)
    grid = np.geomspace(sizes[0], sizes[4], 400)
    slope = np.diff(np.log(flops_for(grid, 1.0, table))) / np.diff(np.log(grid))
    assert np.abs(np.diff(slope)).max() < 0.01  # no kink for an optimum to stick to
    counted = {"N": [1e3, 1e4, 1e5], "flops_per_token": [4e3, 5e4, 5.6e5]}  # below 6N: embeddings are in N
    assert flops_for(1e6, 1.0, counted) == pytest.approx(5.6e6)
