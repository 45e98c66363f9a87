"""What large tables do otherwise gives what small ones get the long way. The sizes are lowered, not the tables made."""

import numpy as np
import pandas as pd
import pytest

from analysis import diagnose, influence, laws, uncertainty
from analysis.estimate import estimate, objective
from analysis.fit import fit
from analysis.runs import from_frame

LAW = laws.get("chinchilla")


def table(stems: int, each: int, seeds: int = 1, stem_noise: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(1e7), np.log(1e10), stems))
    frame = pd.DataFrame({"N": np.repeat(n, each), "D": np.tile(np.geomspace(1e9, 1e12, each), stems)})
    frame = pd.concat([frame] * seeds, ignore_index=True)
    if stem_noise:
        frame["stem"] = np.repeat([f"s{i}" for i in range(stems * seeds)], each)
    noise = 0.005 * rng.standard_normal(len(frame)) + np.repeat(stem_noise * rng.standard_normal(stems * seeds), each)
    frame["loss"] = LAW.predict([1.82, 482.0, 2085.0, 0.348, 0.366], frame) * np.exp(noise)
    return frame


def test_the_sandwich_over_stems_agrees_with_the_bootstrap_over_stems(monkeypatch):
    runs = from_frame(table(60, 6, stem_noise=0.005))
    resampled = fit(runs).card()
    monkeypatch.setattr(uncertainty, "HUGE", 100)
    summed = fit(runs).card()
    assert resampled["interval"]["scheme"] == "bootstrap" and summed["interval"]["scheme"] == "delta-t"
    assert "scores summed by stem" in summed["interval"]["reason"]
    for name in ("alpha", "beta", "E"):
        one, two = (c["params"][name]["hi"] - c["params"][name]["lo"] for c in (resampled, summed))
        assert two == pytest.approx(one, rel=0.25), name
        assert summed["params"][name]["value"] == resampled["params"][name]["value"]


def test_pure_error_by_sums_is_that_of_the_matrices(monkeypatch):
    frame = from_frame(table(8, 5, seeds=3)).table
    point = estimate(LAW, frame, frame["loss"], objective("auto"))
    long_way = diagnose.pure_error(point.y, frame, point)
    monkeypatch.setattr(diagnose, "LARGE", 1)
    assert long_way["F"] is not None and diagnose.pure_error(point.y, frame, point) == pytest.approx(long_way)


def test_fewer_rows_are_left_out_of_a_large_table(monkeypatch):
    frame = from_frame(table(30, 30)).table
    point = estimate(LAW, frame, frame["loss"], objective("auto"))
    ids = [str(i) for i in range(len(frame))]
    many = influence.influence(point, point.y, ids, top=400)
    monkeypatch.setattr(influence, "LARGE", 9)
    few = influence.influence(point, point.y, ids, top=400)
    assert len(many) == influence.LEAVE_OUT and len(few) == 4
    assert {row["run"] for row in few} < {row["run"] for row in many}
