"""Sizes and tokens that differ only by rounding are one setting, wherever rows are grouped."""

import itertools

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.check.replicates import cells
from analysis.decide.next_cells import next_cells
from analysis.engine.frontier import cost_table
from analysis.engine.groups import groups_of
from analysis.table.rounding import rounded

SIZES = 1e8 * 1.585 ** np.arange(6)


def test_levels_that_are_equal_to_rounding():
    values = np.array([632462242.0, 632452419.0, 1e8, 1e8 + 490, 632439615.0, 2e8])
    assert rounded(values).tolist() == [*[632452419.0] * 2, 1e8 + 490, 1e8 + 490, 632452419.0, 2e8]
    assert len(set(rounded(np.array([1e8, 1e8 + 490, 1e8])))) == 1  # also where there is no other value
    exact = np.array([3.0, 1.0, 3.0, 2.0])
    assert rounded(exact).tolist() == exact.tolist()
    dense = 1000.0 + np.arange(100) / 2  # steps of a learning curve
    assert rounded(dense).tolist() == dense.tolist()
    near = np.array([100.0, 100.4, 101.0, 200.0])  # half a per cent is another size
    assert rounded(near).tolist() == near.tolist()
    assert rounded(np.array([-1.0, 0.0, 1e-9])).tolist() == [-1.0, 0.0, 1e-9]


def isoflop(jitter=5e-5, flops=6.0):
    """Five budgets at six sizes, each run with its own rounding of N and D; the dearest cell three times."""
    rng = np.random.default_rng(0)
    n, c = (v.ravel() for v in np.meshgrid(SIZES, 6e18 * 2.78 ** np.arange(5)))
    n, c = np.append(n, [n[-1]] * 2), np.append(c, [c[-1]] * 2)
    n = n * np.exp(jitter * rng.uniform(-1, 1, len(n)))
    d = c / flops / n
    loss = (1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28) * np.exp(0.003 * rng.standard_normal(len(n)))
    return pd.DataFrame({"N": n, "D": d, "C": c, "loss": loss})


@pytest.fixture(scope="module")
def made():
    return analysis.fit(isoflop())


def test_next_lists_a_size_once(made):
    got = next_cells(made, target="a", budget=1e21)
    new = sorted({cell.N for cell in got.cells})
    assert all(b > 1.1 * a for a, b in itertools.pairwise(new))
    assert made.noise.groups.count == len(SIZES) == made.scope.sizes


def test_groups_and_replicates(made):
    table = isoflop()
    assert len(groups_of(table).names) == len(SIZES)
    assert cells(table, ("N", "D"))[1] == 30 and made.noise.pure_error.df == 2
    steps = table.assign(run=["a"] * len(table))
    assert cells(steps, ("N", "D"))[1] == 32  # checkpoints of one run are never replicates


def test_a_cost_by_size_has_one_entry_a_size():
    table = cost_table(analysis.fit(isoflop(flops=9.0)))
    assert table is not None and len(table["N"]) == len(SIZES)
