"""Runs of a list for a forecast: what a run is worth, refusals, and the committed benchmark with its planted twin."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from references import SHARED, reference_file
from refusals import refuses
from test_league import room

from analysis import laws
from analysis.decide import candidates
from analysis.decide.candidates import Candidates, Errors, Trained, choose
from scaling.errors import Code

ROOT = Path(__file__).parents[1]
LAW = laws.get("chinchilla")
TRUTH = np.array([1.8169, 482.01, 2085.43, 0.3478, 0.3658])


def grid(sizes: int = 6, tokens: int = 6) -> dict[str, np.ndarray]:
    n, d = np.meshgrid(np.geomspace(2e7, 2e9, sizes), np.geomspace(4e8, 4e10, tokens), indexing="ij")
    return {"N": n.ravel(), "D": d.ravel()}


def listed(columns: dict[str, np.ndarray]) -> Candidates:
    return Candidates(columns, 6 * columns["N"] * columns["D"])


FAR = {"N": np.array([4e9, 8e9]), "D": np.array([8e10, 8e10])}


def test_the_expected_error_is_that_of_simulated_fits():
    """Least squares of simulated losses with noise and a random error of the law, linear in the log parameters."""
    errors, columns = Errors(0.01, 0.02), grid(4, 3)
    search = candidates._Search(LAW, TRUTH[None], errors, FAR)
    runs = search.fitted(columns)
    places = np.concatenate([runs.x, search.targets.x])
    root = np.linalg.cholesky(search.kernel(places, places) * errors.noise**2 + 1e-12 * np.eye(len(places)))
    rng, count = np.random.default_rng(0), len(runs.x)
    delta = root @ rng.standard_normal((len(places), 20_000))
    noisy = delta[:count] + errors.noise * rng.standard_normal((count, 20_000))
    off = search.targets.G[0] @ np.linalg.lstsq(runs.G[0], noisy, rcond=None)[0] - delta[count:]
    assert search.error(runs) == pytest.approx(math.log((off**2).mean()), abs=0.05)


def test_a_run_added_alone_has_the_error_of_the_list_with_it():
    search = candidates._Search(LAW, np.stack([TRUTH, TRUTH * 1.1]), Errors(0.01, 0.02), FAR)
    have, more = search.fitted(grid(3, 3)), search.fitted(grid(5, 2))
    each = [search.error(have.and_(more.part(np.array([j])))) for j in range(len(more.x))]
    np.testing.assert_allclose(search.with_each(have, more), each, rtol=1e-6)


def test_the_law_s_error_grows_with_distance_and_makes_far_runs_worth_less():
    runs = listed(grid())
    trusting, doubting = (choose(LAW, runs, FAR, 3e20, drift=k) for k in (1e-4, 0.06))
    medians = [np.median(runs.price[list(found.chosen)]) for found in (trusting, doubting)]
    assert medians[1] > 2 * medians[0] and doubting.after_each[-1] > trusting.after_each[-1]
    for found in (trusting, doubting):
        assert runs.price[list(found.chosen)].sum() <= 3e20 and len(set(found.chosen)) == len(found.chosen)
        assert len(found.chosen) >= len(LAW.names) + candidates.SPARE
        assert list(found.after_each) == sorted(found.after_each, reverse=True)


def test_outcomes_replace_the_prior_and_their_runs_stay_in_the_fit():
    columns = grid()
    loss = LAW.predict(TRUTH, columns) * np.exp(0.002 * np.random.default_rng(0).standard_normal(36))
    cheap = np.argsort(columns["N"] * columns["D"])[:20]
    part = {name: values[cheap] for name, values in columns.items()}
    rest = listed({name: np.delete(values, cheap) for name, values in columns.items()})
    found = choose(LAW, rest, FAR, 1e21, Trained(part, loss[cheap]))
    alone = choose(LAW, rest, FAR, 1e21)
    assert alone.noise == candidates.NOISE and 0.0075 < found.noise < 0.008  # 15 spare runs at .002 and 5 at .015
    assert found.before < alone.before and found.after_each[-1] < found.before


@pytest.mark.parametrize("name", ["parallel", "vocabulary", "lr_batch", "kaplan", "chinchilla_outer", "farseer"])
def test_any_law_that_has_an_example_can_be_planned_for(name):
    law = laws.get(name)
    rng = np.random.default_rng(0)
    ranges = {"N": (1e8, 1e10), "D": (1e9, 1e11), "streams": (1, 8), "vocabulary": (4e3, 1e5)}
    ranges |= {"learning_rate": (1e-4, 1e-2), "batch": (32, 2048)}
    columns = {c: ranges[c][0] * (ranges[c][1] / ranges[c][0]) ** rng.random(40) for c in law.columns}
    far = {c: np.array([values.max()]) for c, values in columns.items()}
    runs = Candidates(columns, columns["N"])
    found = choose(law, runs, far, 0.3 * runs.price.sum())
    assert len(found.chosen) > len(law.names) and np.isfinite([found.before, *found.after_each]).all()


def test_refusals_before_anything_is_spent():
    """D = k N in every run to choose from cannot tell A from B; a budget below the cheapest run buys nothing."""
    n = np.geomspace(3e7, 2e9, 12)
    with refuses(Code.NOT_IDENTIFIED, "D", "20 N^1"):
        choose(LAW, listed({"N": n, "D": 20 * n}), FAR, 1e22)
    with refuses(Code.NOT_IDENTIFIED, "D", "1e+20 N^-1"):  # of one budget
        choose(LAW, listed({"N": n, "D": 1e20 / n}), FAR, 1e23)
    with refuses(Code.INVALID, "budget", "1e+10"):
        choose(LAW, listed(grid()), FAR, 1e10)
    runs, none = listed(grid()), {"N": np.array([]), "D": np.array([])}
    for price in (runs.price * 0, np.where(np.arange(len(runs.price)) == 3, np.nan, runs.price)):
        with refuses(Code.INVALID):
            choose(LAW, candidates.Candidates(runs.columns, price), FAR, 1e22)
    with refuses(Code.CONFLICT, "candidates.N"):
        choose(LAW, candidates.Candidates(runs.columns, runs.price[:3]), FAR, 1e22)
    with refuses(Code.TOO_FEW, "targets", 0):
        choose(LAW, runs, none, 1e22)
    with refuses(Code.TOO_FEW, "candidates", 0):
        choose(LAW, candidates.Candidates(none, np.array([])), FAR, 1e22)
    own = laws.Law("own", LAW.formula, LAW.params, LAW.terms, "mine")
    with refuses(Code.TOO_FEW, "runs", 0):
        choose(own, listed(grid()), FAR, 1e22)


# --- the benchmark


@pytest.fixture(scope="module")
def bench() -> Any:
    return room("next")


@pytest.fixture(scope="module")
def result() -> dict:
    return json.loads((ROOT / "benchmarks/next.json").read_text())


def test_the_committed_table_follows_from_its_entries(bench, result):
    entries = result["entries"]
    assert bench.table_of(entries) == result["table"]
    assert bench.table_of(entries, "r2_least_squares") == result["least_squares"]
    assert bench.table_of([e for e in entries if e["source"] not in bench.DEVELOPMENT]) == result["kept"]
    assert len({entry["set"] for entry in entries}) == 10 and len({entry["source"] for entry in entries}) == 5
    rivals = {*bench.RIVALS, bench.NEXT}
    for name in {entry["set"] for entry in entries}:
        for level in bench.LEVELS:
            assert rivals <= {e["strategy"] for e in entries if e["set"] == name and e["budget"] == level}
    for entry in entries:
        assert entry["spent"] <= entry["share"] + 1e-9 and -1 <= entry["r2"] <= 1


def test_what_is_committed_is_bought_again(bench, result):
    """The cheapest episodes of two sets of the package, run anew."""
    held = {(e["set"], e["strategy"], e["budget"]): e for e in result["entries"]}
    for task in bench.tasks(None):
        if task.name in ("parallel", "sparsity"):
            for strategy in (bench.NEXT, "V-optimal"):
                again, entry = bench.play(task, strategy, 0), held[task.name, strategy, "small"]
                assert again["first"] == entry["first"]
                assert again["r2"] == pytest.approx(entry["r2"], abs=0.01)


def test_the_sets_are_those_of_the_result_and_steplaw_which_is_not_scored_yet(bench, result):
    reference_file("steplaw_dense_lr_bs")  # skips without
    tasks = bench.tasks(SHARED)
    assert {task.name for task in tasks} - {entry["set"] for entry in result["entries"]} == {"steplaw lr and batch"}
    shares = {(task.name, level): share for task in tasks for level, share in zip(bench.LEVELS, task.shares)}
    for entry in result["entries"]:
        assert entry["strategy"] == "all data" or entry["share"] == shares[entry["set"], entry["budget"]]


def planted() -> pd.DataFrame:
    """A pool of Chinchilla's law that leaves it by 1 % per e-fold of compute below the dearest run."""
    cells = grid(8, 9)
    table = pd.DataFrame({**cells, "C": 6 * cells["N"] * cells["D"]})
    below = np.log(table["C"].max() / table["C"])
    noise = 0.002 * np.random.default_rng(1).standard_normal(len(table))
    loss = LAW.predict(TRUTH, cells) * np.exp(0.002 * below**1.5 + noise)
    return table.assign(loss=loss, price=table["C"])


def test_planted_twin(bench, monkeypatch):
    """Where the law drifts, runs near the targets foretell them: next is ahead of the cheapest."""
    monkeypatch.setattr(bench, "SEEDS", {})
    task = bench.make("planted", "planted", "chinchilla", [planted()])
    assert task.shares == bench.SHARES
    for level in (1, 2):
        ours, cheapest = (bench.play(task, name, level) for name in (bench.NEXT, "cheapest"))
        assert ours["r2"] > cheapest["r2"] and ours["r2"] > 0.5
        assert ours["runs"] < cheapest["runs"] and ours["spent"] <= task.shares[level]
    assert (
        bench.play(bench.make("p", "p", "product_floor", [planted()]), bench.BEFORE, 0) is None
    )  # no optimum: refused


def test_r2_is_clipped_and_without_a_forecast_it_is_least(bench):
    task = bench.make("planted", "planted", "chinchilla", [planted()])
    y = task.groups[0].far["loss"].to_numpy()
    assert bench.r2(task, [y]) == 1 and bench.r2(task, [np.full(len(y), y.mean())]) == pytest.approx(0)
    assert bench.r2(task, [y + 10]) == -1 == bench.r2(task, [None])
