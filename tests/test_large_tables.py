"""What large tables do otherwise gives what small ones get the long way. The sizes are lowered, not the tables made."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

from analysis import card, laws
from analysis.check import influence, replicates
from analysis.engine import inference as uncertainty
from analysis.engine import random_effects as effects
from analysis.engine.estimate import estimate, objective
from analysis.engine.groups import groups_of
from analysis.fitting import fit
from analysis.show.sentences import sentence, verdict
from analysis.table.runs import from_frame
from scaling.errors import Code

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
    resampled = fit(runs).card
    monkeypatch.setattr(uncertainty, "HUGE", 100)
    summed = fit(runs).card
    assert resampled.scheme.name == "bootstrap" and summed.scheme.name == "delta-t"
    assert (summed.scheme.why, summed.scheme.grouped) == ("huge", "stem")
    assert "scores summed by stem" in sentence(summed.scheme)
    for name in ("alpha", "beta", "E"):
        one, two = (2 * card.params[name].half_width for card in (resampled, summed))
        assert two == pytest.approx(one, rel=0.25), name
        assert summed.params[name].value == resampled.params[name].value


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("stem_noise", [0.0, 0.01])
def test_what_replicates_leave_is_that_of_a_matrix_of_cells(stem_noise, weighted):
    """Two seeds of some sizes, branches of shared stems, by REML on dummies of cells, times the roots of weights."""
    frame: Any = table(8, 5, stem_noise=stem_noise, seeds=3).assign(stem=np.repeat(np.arange(24), 5))
    frame = frame[(frame["stem"] < 8) | (frame["N"].rank(method="dense") % 2 == 0)].reset_index(drop=True)
    root = np.random.default_rng(1).uniform(0.5, 2.0, len(frame)) if weighted else np.ones(len(frame))
    y, groups = root * np.log(frame["loss"].to_numpy()), groups_of(frame)
    assert groups is not None
    codes, count = replicates.cells(frame, LAW.columns)
    design = root[:, None] * np.eye(count)[codes]
    rho = effects.best_ratio(effects.ratio_scores(design, y, groups))
    white, e = groups.whiten(design.T, rho).T, groups.whiten(y, rho)
    left = ((e - white @ np.linalg.lstsq(white, e, rcond=None)[0]) ** 2).sum()
    stems = np.linalg.matrix_rank(np.column_stack([design, np.eye(len(groups.names))[groups.codes]])) - count
    assert rho > 0 or not stem_noise
    df = stems if rho > 0 else len(y) - count
    assert replicates._within(y, codes, groups, root) == (pytest.approx(rho), pytest.approx(left), df)


def test_replicates_of_many_rows_need_no_matrix_of_rows():
    frame = from_frame(table(10, 200, seeds=2)).table
    point = estimate(LAW, frame, frame["loss"], objective("auto"))
    error, lack = replicates.pure_error(point.y, frame, point)
    assert error.df == 2000 and lack.p is not None and lack.p > 0.001


def test_fewer_rows_are_left_out_of_a_large_table(monkeypatch):
    frame = from_frame(table(30, 30)).table
    point = estimate(LAW, frame, frame["loss"], objective("auto"))
    ids = [str(i) for i in range(len(frame))]
    many = influence.influence(point, point.y, ids, top=400)
    monkeypatch.setattr(influence, "LARGE", 9)
    few = influence.influence(point, point.y, ids, top=400)
    assert len(many) == influence.LEAVE_OUT and len(few) == 4
    assert {row.run for row in few} < {row.run for row in many}


def test_linearised_draws_that_leave_the_fit_are_sampled_or_said(monkeypatch):
    """A floor that trades off against small exponents: t draws around the estimate missed the losses by ten sd of a
    run, and `predict` took their median. The truth lies within the intervals of the draws that replace them."""
    monkeypatch.setattr(uncertainty, "SAMPLED_ROWS", 20)
    rng, truth = np.random.default_rng(0), [0.0, 3.7, 27.6, 0.0324, 0.18]
    frame = pd.DataFrame({"N": np.geomspace(6e6, 6e8, 5).repeat(5)}).assign(D=np.tile(np.geomspace(2e9, 5e10, 5), 5))
    frame["loss"] = LAW.predict(truth, frame) * np.exp(0.01 * rng.standard_normal(25))

    def miss(draws: np.ndarray, theta: np.ndarray) -> float:
        return float(np.abs(np.log(np.median(LAW.predict(draws, frame), 0) / LAW.predict(theta, frame))).max())

    asked = fit(from_frame(frame), scheme="delta-t", discrepancy="off")
    (said,) = (w for w in asked.warnings if isinstance(w, card.NotLinear))
    assert said.size_log is not None and said.size_log > 5 * said.expected_log
    assert "--scheme=likelihood-t" in sentence(said) and "Identified" not in verdict(asked)
    point = estimate(LAW, frame, frame["loss"], objective("auto"))
    chosen = uncertainty.infer(point, point.y, frame)
    assert (chosen.scheme, chosen.why, chosen.left) == ("likelihood-t", "bent", None)
    assert miss(chosen.theta, chosen.theta_hat) < 0.01 < miss(asked.draws, asked.theta)
    lo, hi = np.quantile(LAW.predict(chosen.theta, frame), [0.005, 0.995], 0)
    assert ((lo < LAW.predict(truth, frame)) & (LAW.predict(truth, frame) < hi)).all()
    monkeypatch.setattr(uncertainty, "BENT_ROWS", 20)
    kept = uncertainty.infer(point, point.y, frame)
    assert kept.scheme == "delta-t" and kept.left is not None


def test_linearised_draws_of_a_law_that_is_determined_stay(monkeypatch):
    monkeypatch.setattr(uncertainty, "SAMPLED_ROWS", 20)
    frame = table(8, 5, stem_noise=0.003)
    point = estimate(LAW, frame, frame["loss"], objective("auto"))
    at = uncertainty.infer(point, point.y, frame)
    assert at.scheme == "delta-t" and at.left is None
    jackknife = uncertainty.infer(point, point.y, frame, scheme="jackknife-t")
    wide, own = ((np.quantile(v.theta, 0.975, 0) - np.quantile(v.theta, 0.025, 0)) for v in (jackknife, at))
    assert ((wide / own > 0.2) & (wide / own < 5))[-2:].all()  # of the exponents: 7 degrees of freedom, other weights


def test_the_row_of_a_bad_weight_is_named():
    with refuses(Code.INVALID, "weights", "w of row 1"):
        replicates.weights("w", np.zeros(3), pd.DataFrame({"w": [1.0, 0.0, 2.0]}), ("N",))
