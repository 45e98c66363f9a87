"""Which cells next: the linear model against simulated truth, prices of stems, the bounds that make a design robust."""

import json
import math
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from refusals import refuses

from analysis import laws
from analysis.decide import design
from analysis.decide.next_cells import Proposal, Safeguards, next_cells
from analysis.engine.frontier import frontier, optimum_along
from analysis.fitting import fit
from analysis.table.runs import from_frame
from scaling.errors import Code

ROOT = Path(__file__).parents[1]
LAW = laws.get("chinchilla")
TRUTH = np.array([1.8169, 482.01, 2085.43, 0.3478, 0.3658])


def grid(sizes=6, tokens=5):
    n, d = np.meshgrid(np.geomspace(5e7, 2e9, sizes), np.geomspace(5e8, 4e10, tokens), indexing="ij")
    return {"N": n.ravel(), "D": d.ravel()}


@pytest.fixture(scope="module")
def fitted():
    cells = grid()
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(cells["N"]))
    return fit(from_frame(pd.DataFrame({**cells, "loss": LAW.predict(TRUTH, cells) * np.exp(noise)})))


def test_the_gradient_is_the_derivative_of_the_log_loss():
    cells = grid()
    e, a, b, alpha, beta = TRUTH
    one, two = a * cells["N"] ** -alpha, b * cells["D"] ** -beta
    total = e + one + two
    exact = [e / total, one / total, two / total]
    exact += [-alpha * np.log(cells["N"]) * one / total, -beta * np.log(cells["D"]) * two / total]
    found = design.gradient(LAW, TRUTH, cells)
    position = {name: i for i, name in enumerate(LAW.names)}
    for name, column in zip(("E", "A", "B", "alpha", "beta"), exact):
        np.testing.assert_allclose(found[:, position[name]], column, atol=1e-7)


def test_a_targets_gradient_is_smooth_with_a_cost_table_too():
    """d ln N_opt: closed form at 6ND; with a table, against the difference of two searches far apart."""
    wanted = design.parse_target("log_N_opt@1e22", LAW)
    plain = design.target_gradient(LAW, TRUTH, wanted, None)
    given = design.target_gradient(LAW, TRUTH, wanted, lambda n, d: 6 * n * d)
    np.testing.assert_allclose(given, plain, atol=1e-4)
    moved = TRUTH * np.array([1, 1, 1.02, 1, 1])
    ends = optimum_along(LAW, np.stack([TRUTH, moved]), np.array([1e22]))[0][:, 0]
    assert plain[2] == pytest.approx((ends[1] - ends[0]) / math.log(1.02), rel=1e-6)


def test_linearised_half_widths_are_those_of_simulated_studies():
    cells = grid(7, 5)
    wanted = [design.parse_target(name, LAW) for name in ("a", "alpha", "log_N_opt@1e22")]
    noise = design.Noise(run=0.003)
    expected = design.linearised_precision(LAW, TRUTH, cells, wanted, noise)
    seen = design.simulated_precision(LAW, TRUTH, cells, wanted, noise, studies=8)
    for name, half in expected.items():
        assert half == pytest.approx(seen[name].half_width, rel=0.25)
        assert seen[name].cover >= 0.75


def test_stems_that_share_noise_and_too_few_runs_widen_a_plan():
    cells = grid(5, 3)
    stems = [f"{n:.3g}" for n in cells["N"]]
    wanted = [design.parse_target("alpha", LAW)]
    alone = design.linearised_precision(LAW, TRUTH, cells, wanted, design.Noise(run=0.01))["alpha"]
    half = 0.01 * math.sqrt(0.5)
    both = design.Noise(run=half, stem=half)
    shared = design.linearised_precision(LAW, TRUTH, {**cells, "stem": stems}, wanted, both)["alpha"]
    assert alone is not None and shared is not None and shared > 1.2 * alone
    few = {k: v[:5] for k, v in cells.items()}
    assert design.linearised_precision(LAW, TRUTH, few, wanted, design.Noise(run=0.01)) == {"alpha": None}


def test_the_information_of_stems_equals_the_dense_matrix():
    rng = np.random.default_rng(1)
    G, w, stems = rng.standard_normal((6, 3)), rng.uniform(50, 200, 6), list("aabbbc")
    info = design._Information(1, 3, 0.2)
    for g, weight, stem in zip(G, w, stems):
        info.add(g[None], weight, stem)
    V = np.diag(1 / w) + 0.04 * (np.array(stems)[:, None] == np.array(stems)[None])
    np.testing.assert_allclose(info.total[0], G.T @ np.linalg.solve(V, G) + np.eye(3) / design.PRIOR_SD**2, rtol=1e-9)


def test_the_expected_precision_tells_a_good_plan_from_a_poor_one():
    good = design.expected_precision(grid(8, 5))
    poor = design.expected_precision({"N": [1e6, 2e6, 4e6] * 2, "D": [1e8, 2e8] * 3})
    assert good.identifies_a and not good.too_few and list(good.half_widths) == ["a", "E", "alpha", "beta"]
    assert not poor.identifies_a and not poor.too_few and poor.prior.law == "chinchilla"
    assert poor.prior.exponents == {"N": 0.3478, "D": 0.3658} and poor.simulated is None
    few = design.expected_precision({"N": [1e6, 2e6], "D": [1e8, 1e8]})
    assert few.too_few and not few.identifies_a and set(few.half_widths.values()) == {None}


def pool(decay=None, trained=None):
    n, d = np.meshgrid(np.geomspace(5e7, 4e9, 8), np.geomspace(5e8, 8e10, 9), indexing="ij")
    n, d = n.ravel(), d.ravel()
    return design.Pool(n, d, 6 * n, [f"{v:.3g}" for v in n], decay, trained or {}, {})


def test_prices_of_stems_and_branches():
    cells = design.Pool(
        np.array([1.0, 1.0, 2.0]),
        np.array([100.0, 200.0, 100.0]),
        np.array([6.0, 6.0, 12.0]),
        ["s", "s", "t"],
        0.3,
        {"s": 70.0},
        {"t": 1000.0},
    )
    # a branch of what the stem has; one that wants 70 tokens more of it; a new stem with its compilation
    np.testing.assert_allclose(cells.prices(cells.trained), [180.0, 6 * (60 + 70), 1200.0 + 1000.0])
    whole = design.Pool(cells.N, cells.D, cells.per_token, cells.stem)
    np.testing.assert_allclose(whole.prices({}), [600.0, 1200.0, 1200.0])


def test_a_proposal_keeps_its_budget_its_share_and_its_promise(fitted):
    done = {**grid(), "C": 6 * grid()["N"] * grid()["D"]}
    wanted, noise = design.parse_target("log_N_opt@1e23", LAW), design.Noise(run=0.003)
    cells, budget = pool(), 3e21
    found = design.propose(LAW, TRUTH, done, cells, design.Request(wanted, budget), noise=noise)
    assert found.spent <= budget * 1.0000001 and found.top_share >= 0.3
    assert len(set(found.chosen)) == len(found.chosen)
    assert list(found.after_each) == sorted(found.after_each, reverse=True)
    j = list(found.chosen)
    both = {k: np.concatenate([done[k], getattr(cells, k)[j]]) for k in ("N", "D")}
    again = design.linearised_precision(LAW, TRUTH, both, [wanted], noise)[wanted.text]
    assert found.after == pytest.approx(again, rel=1e-6)
    at_random = np.random.default_rng(0).permutation(len(cells.N))
    at_random = at_random[np.cumsum(cells.C[at_random]) <= found.spent]
    rival = {k: np.concatenate([done[k], getattr(cells, k)[at_random]]) for k in ("N", "D")}
    other = design.linearised_precision(LAW, TRUTH, rival, [wanted], noise)[wanted.text]
    assert other is not None and found.after < other
    with refuses(Code.INVALID, "budget", "1e+10"):
        design.propose(LAW, TRUTH, done, cells, design.Request(wanted, 1e10), noise=noise)


def test_next_of_a_table(fitted):
    got = next_cells(fitted, target="log_N_opt@1e23", budget=2e21, safeguards=Safeguards(ratios=(5.0, 80.0)))
    assert msgspec.json.decode(msgspec.json.encode(got), type=Proposal) == got
    assert got.half_width.after < got.half_width.before and got.cells
    assert all(5 <= c.tokens_per_parameter <= 80 for c in got.cells) and got.price == "whole_runs"
    assert sum(c.price for c in got.cells) == pytest.approx(got.spent)
    assert got.spent <= 2e21 * 1.0000001
    draws = frontier(fitted, np.array([1e23]))[0][:, 0]
    now = float(np.ptp(np.quantile(draws[1:], [0.025, 0.975]))) / 2
    undrifted = next_cells(fitted, target="log_N_opt@1e23", budget=2e21, safeguards=Safeguards(drift=0.0))
    assert undrifted.half_width.before == pytest.approx(now, rel=0.3)


@pytest.mark.parametrize(
    ("more", "code", "field", "value"),
    [
        ({"target": "speed"}, Code.UNKNOWN, "target", "speed"),
        ({"target": "log_N_opt"}, Code.UNKNOWN, "target", "log_N_opt"),
        ({"target": "log_N_opt@much"}, Code.INVALID, "target", "log_N_opt@much"),
        ({"target": "a@1e20"}, Code.UNKNOWN, "target", "a@1e20"),
        ({"budget": -1.0}, Code.INVALID, "budget", -1.0),
        ({"budget": 1e5}, Code.INVALID, "budget", "100000"),
        ({"safeguards": Safeguards(share=1.5)}, Code.INVALID, "share", 1.5),
        ({"safeguards": Safeguards(drift=-1.0)}, Code.INVALID, "drift", -1.0),
        ({"safeguards": Safeguards(ratios=(5.0, 2.0))}, Code.INVALID, "ratios", "5,2"),
        ({"safeguards": Safeguards(ratios=(1e8, 1e9))}, Code.TOO_FEW, "ratios", None),
    ],
)
def test_bad_requests(fitted, more, code, field, value):
    asked = {"target": "a", "budget": 1e21, **more}
    with refuses(code, field, value):
        next_cells(fitted, **asked)


def test_laws_that_cannot_be_designed_for():
    cells = grid()
    wrong = fit(from_frame(pd.DataFrame({**cells, "loss": LAW.predict(TRUTH, cells)})), "product")
    for target in ("a", "loss@1e22"):
        with refuses(Code.UNSUPPORTED, "target", target):
            next_cells(wrong, target=target, budget=1e21)
    assert next_cells(wrong, target="alpha", budget=1e21).cells


def test_cells_that_leave_the_terms_together_are_not_paid_for():
    """Of runs that all have 20 tokens a parameter no further ones of that ratio tell A from B."""
    n = np.geomspace(3e7, 8e8, 8)
    cells = {"N": n, "D": 20 * n}
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(8))
    made = fit(from_frame(pd.DataFrame({**cells, "loss": LAW.predict(TRUTH, cells) * noise})), scheme="delta-t")
    with refuses(Code.NOT_IDENTIFIED, "D/N", "20"):
        next_cells(made, target="a", budget=1e20)
    chosen = next_cells(made, target="a", budget=1e20, safeguards=Safeguards(ratios=(5.0, 80.0))).cells
    assert len({round(cell.tokens_per_parameter) for cell in chosen}) > 1


@pytest.mark.system
def test_the_benchmark_runs_at_its_smallest(tmp_path):
    out = tmp_path / "design.json"
    command = [sys.executable, "-W", "error", str(ROOT / "benchmarks/design.py"), "--studies=1", "--shares=0.25"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command += ["--only=law whole", f"--out={out}"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, env=environment)
    (setting,) = json.loads(out.read_text())["settings"]
    assert [row["design"] for row in setting["rows"]] == ["isoFLOP grid", "next"]
    assert all(row["spend"] <= 1.001 for row in setting["rows"])


def test_the_committed_benchmark_meets_its_goal():
    """Half of the grid's FLOPs, or less, for equal RMSE where the law is true; coverage not lost anywhere."""
    found = json.loads((ROOT / "benchmarks/design.json").read_text())
    for setting in found["settings"]:
        grid_row, *rows = setting["rows"]
        if setting["truth"] == "law":
            assert setting["spend_for_equal_rmse"] is not None and setting["spend_for_equal_rmse"] <= 0.5
        slack = 2 * math.sqrt(2 * 0.05 / setting["studies"])
        at_half = next(row for row in rows if row["spend"] > 0.4)
        assert at_half["cover"] >= min(grid_row["cover"], 0.95) - slack, setting["truth"]
