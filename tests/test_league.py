"""The extrapolation league: its committed result, and a planted twin that runs everywhere."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from references import SHARED, UNLICENSED, reference_file

from analysis import laws
from analysis.check import discrepancy
from scaling.records import read_json

ROOT = Path(__file__).resolve().parents[1]


def room(name: str) -> Any:
    """A script of benchmarks/, which is no package."""
    key = f"benchmarks_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, ROOT / "benchmarks" / f"{name}.py")
        assert spec and spec.loader
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


league: Any = room("league")


@pytest.fixture(scope="module")
def result() -> dict:
    return json.loads((ROOT / "benchmarks" / "league.json").read_text())


def row(result: dict, name: str) -> dict:
    return next(r for r in result["table"] if r["forecaster"] == name)


def test_the_committed_league_meets_its_goals(result):
    ours = row(result, league.HEADLINE)
    for rival in ("least squares", "chinchilla 0.2.0", "naive"):
        assert ours["median_error"] <= 1.05 * row(result, rival)["median_error"]
    assert 0.80 <= ours["coverage90"] <= 0.97 and 0.80 <= ours["coverage90_rows"] <= 0.97
    assert row(result, "analysis, no discrepancy")["coverage90"] < ours["coverage90"] - 0.1
    assert len({e["set"] for e in result["entries"]}) == 16 and len(result["left_out"]) == 7


def test_the_committed_table_follows_from_its_entries(result):
    assert league.table_of(result["entries"]) == result["table"]
    assert league.shipped(result) == read_json(discrepancy.FILE)
    for entry in result["entries"]:
        assert set(entry["scores"]) == {r["forecaster"] for r in result["table"]}
        assert entry["fitted"] >= league.FITTED and league.SCORED <= entry["scored"] <= league.MOST_SCORED


def test_the_sets_and_cuts_are_those_of_the_result(result):
    for name in UNLICENSED:
        reference_file(name)  # skips without
    sets = league.studies(SHARED)
    parts = [p for s in sets for p in league.splits(s)]
    found = [(p.study.name, f"C_top / {p.factor:g}", len(p.below), len(p.above)) for p in parts]
    assert found == [(e["set"], e["cut"], e["fitted"], e["scored"]) for e in result["entries"]]
    # one small split again, from the data: the error that is committed comes out
    split, entry = next((p, e) for p, e in zip(parts, result["entries"]) if e["source"] == "steplaw")
    logs, _ = league.ours(split, "chinchilla")
    own = result["left_out"]["steplaw"]["chinchilla"]
    again = league.grade(league.with_term(logs, split, own, 0.7), split)
    assert again["error"] == pytest.approx(entry["scores"][league.HEADLINE]["error"], rel=0.1)


def planted(seed: int, bend: float) -> Any:
    """A study of a Chinchilla law whose loss leaves it by ``bend`` per e-fold beyond the tenth part of the compute."""
    law = laws.get("chinchilla")
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5)))
    t = pd.DataFrame({"N": n, "D": d, "C": 6 * n * d})
    rng = np.random.default_rng(seed)
    over = np.maximum(np.log(t["C"] / (t["C"].max() / 10)), 0)
    t["loss"] = law.predict(np.array([1.69, 406.4, 410.7, 0.34, 0.28]), t)
    t["loss"] *= np.exp(bend * over + 0.002 * rng.standard_normal(len(t)))
    return league.Study(f"planted {seed}", f"source {seed}", t)


@pytest.fixture(scope="module")
def twin() -> dict:
    bends = (0.02, -0.02, 0.015, -0.01)
    factors, league.FACTORS = league.FACTORS, (10.0,)
    try:
        return league.play([planted(k, b) for k, b in enumerate(bends)], laws=("chinchilla",))
    finally:
        league.FACTORS = factors


def test_planted_twin(twin):
    """The law is right up to the cut and bends after it: k comes out as the bends, and coverage with it."""
    assert [e["source"] for e in twin["entries"]] == [f"source {k}" for k in range(4)]
    assert 0.006 < twin["learned"]["chinchilla"]["k"] < 0.025  # the bends' median is 0.0175
    assert all(row["chinchilla"] > 0.004 for row in twin["left_out"].values())
    ours, plain = row(twin, "analysis"), row(twin, "analysis, no discrepancy")
    assert plain["coverage90"] < 0.7 < 0.85 < ours["coverage90"]
    assert ours["median_crps"] < plain["median_crps"] and ours["width90"] > plain["width90"]
    assert ours["median_error"] < 1.1 * row(twin, "least squares")["median_error"]
    assert ours["median_error"] < row(twin, "naive")["median_error"]
    assert "N" not in json.dumps(twin["entries"][0]["scores"])  # scores, no rows of a set


def test_coverage_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Blocks are kept: a second start computes none of them again, and the rule for flags is on each row."""
    coverage = room("coverage")
    monkeypatch.setattr(coverage, "BLOCK", 2)
    setting = ("narrow 4x3", 0.01, 0.0, 0.0, "independent")
    assert coverage.expectation("narrow 4x3", 0.01, 0.0, "independent")["class"] == "unidentified"
    assert coverage.expectation("8x5", 0.003, 0.5, "stems")["class"] == "identified"
    one, two = coverage.block(*setting, 0, 2), coverage.block(*setting, 0, 2)
    assert {k: v for k, v in one.items() if k != "cpu"} == {k: v for k, v in two.items() if k != "cpu"}
    both = coverage.summary(setting, [one, coverage.block(*setting, 2, 2)])
    assert both["studies"] == 4 and both["flag_rule_holds"] is (both["flagged"] >= 0.95)
    assert len(one["half"]) == 2 and set(both["cover"]) == set(coverage.TARGETS)
