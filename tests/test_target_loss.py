"""The least compute for a loss: the inverse of the frontier, open where the floor may lie above the target."""

import json

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis.card import NotIdentified
from analysis.decide.allocate import Extrapolation, Unreachable
from analysis.decide.target_loss import reaching
from scaling.cli import main
from scaling.errors import Code

E, A, B, ALPHA, BETA = 1.8, 480.0, 2000.0, 0.35, 0.37


def table(noise=1e-3, flops=6.0, floor=E):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(5e7, 2e9, 6), np.geomspace(5e8, 4e10, 5)))
    loss = (floor + A / n**ALPHA + B / d**BETA) * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    return pd.DataFrame({"N": n, "D": d, "C": flops * n * d, "loss": loss})


@pytest.fixture(scope="module")
def made():
    return analysis.fit(table())


def needed(goal):
    """Compute of the planted law's own optimum at a loss."""
    c = np.geomspace(1e17, 1e25, 20001)
    n = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (c / 6) ** (BETA / (ALPHA + BETA))
    return float(np.interp(-goal, -(E + A / n**ALPHA + B / (c / 6 / n) ** BETA), c))


@pytest.mark.parametrize("goal", [2.5, 2.3])
def test_the_inverse_of_the_frontier(made, goal):
    got = reaching(made, goal)
    assert got.asked == {"loss": goal}
    assert got.flops.lo < needed(goal) < got.flops.hi and got.flops.lo < got.flops.value < got.flops.hi
    there = made.optimal(flops=got.flops.value, force=True)
    assert there.loss.value == pytest.approx(goal, rel=1e-3)
    assert got.N.value == pytest.approx(there.N.value, rel=1e-3) and got.N.lo < got.N.value < got.N.hi
    assert got.tokens_per_parameter.lo < there.tokens_per_parameter.value < got.tokens_per_parameter.hi
    assert 6 * got.N.value * got.D.value == pytest.approx(got.flops.value, rel=1e-3)
    assert made.optimal(loss=goal).flops == got.flops


def test_the_discrepancy_widens_what_lies_beyond_the_runs(made):
    with_term, without = (reaching(f, 2.2, level=0.8) for f in (made, analysis.fit(table(), discrepancy="off")))
    assert any(isinstance(w, Extrapolation) for w in with_term.warnings)
    assert with_term.flops.hi / with_term.flops.lo > 1.5 * without.flops.hi / without.flops.lo
    assert with_term.flops.lo < needed(2.2) < with_term.flops.hi
    wide = reaching(made, 2.2)  # this may lie above the floor: 7 % of the draws never reach it
    assert wide.flops.hi is None and wide.flops.lo < with_term.flops.lo


def test_a_cost_by_size_is_kept_to():
    dear = reaching(analysis.fit(table(flops=9.0)), 2.2)
    assert 9 * dear.N.value * dear.D.value == pytest.approx(dear.flops.value, rel=1e-2)
    assert dear.cost == "by_size" and dear.flops.value == pytest.approx(1.5 * needed(2.2), rel=0.1)


def test_a_target_near_the_floor_is_open_and_below_it_refused(made):
    near = reaching(made, 1.93, force=True)
    (warning,) = (w for w in near.warnings if isinstance(w, Unreachable))
    assert 0.025 < warning.share < 1 and near.flops.hi is None and near.N.hi is None and near.flops.lo is not None
    for goal in (1.79, 0.5):
        with refuses(Code.NOT_IDENTIFIED, "loss", goal):
            reaching(made, goal, force=True)
    with refuses(Code.BEYOND, "loss", 60.0):
        reaching(made, 60.0)
    with refuses(Code.BEYOND, "extrapolation"):
        reaching(made, 1.93)
    for wrong in (-1.0, float("nan")):
        with refuses(Code.INVALID, "loss"):
            reaching(made, wrong)
    with refuses(Code.CONFLICT, "loss"):
        made.optimal(loss=2.2, flops=1e20)
    with refuses(Code.UNSUPPORTED, "law"):
        reaching(analysis.fit(table(), "product"), 2.2)


def test_one_budget_does_not_say(made):
    n = np.geomspace(5e7, 2e9, 12)
    slice_ = pd.DataFrame({"N": n, "D": 1e20 / 6 / n, "loss": E + A / n**ALPHA + B / (1e20 / 6 / n) ** BETA})
    single = analysis.fit(slice_.assign(loss=slice_["loss"] * (1 + 1e-3 * np.sin(9 * np.log(n)))))
    assert any(isinstance(w, NotIdentified) and w.parameter == "a" for w in single.warnings)
    with refuses(Code.NOT_IDENTIFIED, "allocation"):
        reaching(single, 2.4)


def test_from_the_shell(made, tmp_path, capsys):
    path = str(tmp_path / "fit.json")
    made.save(path)
    assert main(["predict", path, "--loss=2.3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["asked"] == {"loss": 2.3} and told["flops"]["lo"] < needed(2.3) < told["flops"]["hi"]
    assert main(["predict", path, "--loss=2.2"]) == 0 and "loss of 2.2" in capsys.readouterr().out
    for wrong in ("--loss=1.2", "--loss=2.2 --flops=1e20", "--loss=2.2 --max_params=1e9"):
        assert main(["predict", path, *wrong.split()]) == 2
        assert capsys.readouterr().err.count("\n") == 1
