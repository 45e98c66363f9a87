"""The forecast by several laws, what it learns, and the rolling forecasts behind it: against numbers made by hand."""

import json
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from scipy import stats
from test_cli import scaling
from test_league import league

from analysis import laws
from analysis.card import Conventions
from analysis.check import discrepancy
from analysis.check.ahead import SHARES, ahead
from analysis.decide import pool
from analysis.engine.estimate import estimate, objective
from analysis.fitting import Fit, fit
from analysis.table.runs import Runs
from scaling.errors import Code

priors = league.priors
AUTO = objective("auto")
SCALE = discrepancy.Prior(k=0.01, df=4.0, worth=4.0, shared=0.5, sets=9, sources=3)
EVEN: dict[str, float] = dict.fromkeys(pool.NAMES, 1 / len(pool.NAMES))
PRIOR = pool.Prior(weights=EVEN, eta=2.0, apart=0.5, growth=1.0, scale=SCALE)


def table(law: str = "chinchilla", noise: float = 0.003, seed: int = 0) -> Any:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5)))
    form, rng = laws.get(law), np.random.default_rng(seed)
    t = pd.DataFrame({"N": n, "D": d, "C": 6 * n * d})
    t["loss"] = form.predict(form.vector(form.example), t) * np.exp(noise * rng.standard_normal(len(t)))
    return t


def fitted(t: Any, **options) -> Fit:
    named = t.assign(run=[f"r{i}" for i in range(len(t))])
    return fit(
        Runs(named.assign(stem=named["run"]), (), Conventions(origin="table"), "simulated", None, "-"), **options
    )


# --- rolling forecasts


def test_rolling_forecasts_are_those_of_fits_from_scratch():
    t = table()
    found = ahead(estimate(laws.get("chinchilla"), t, t["loss"], AUTO), t)
    assert len(found) == len(SHARES) and [cut.fitted for cut in found] == sorted({cut.fitted for cut in found})
    for cut in found:
        assert len(cut.above) == len(t) - cut.fitted
        below, above = t.drop(cut.above).reset_index(drop=True), t.iloc[cut.above]
        assert below["C"].max() < above["C"].min()
        if cut.fitted > 12:  # fewer runs hardly determine five parameters: another start may end elsewhere
            again = estimate(laws.get("chinchilla"), below, below["loss"], AUTO)
            forecast = np.log(laws.get("chinchilla").predict(again.theta, above))
            np.testing.assert_allclose(cut.forecast, forecast, atol=0.002)
        np.testing.assert_allclose(cut.residual, np.log(above["loss"]) - cut.forecast)
        far = [np.log(above[c] / below[c].max()) for c in ("C", "N", "D")]
        np.testing.assert_allclose(cut.x, np.maximum(np.max(far, axis=0), 0))


def test_the_spread_of_rolling_forecasts_is_that_of_their_residuals():
    """Studies of the law itself: residuals over their spread have the mean square 1, more where few runs are fitted."""
    z = []
    for seed in range(12):
        t = table(noise=0.002, seed=seed)
        last = ahead(estimate(laws.get("chinchilla"), t, t["loss"], objective("squares")), t)[-1]
        z.append(np.mean((last.residual / last.spread) ** 2))
    assert 0.5 < np.mean(z) < 1.8


def test_cuts_that_leave_too_little_are_none():
    t = table()
    point = estimate(laws.get("chinchilla"), t.iloc[:9], t["loss"].iloc[:9], AUTO)
    assert all(cut.fitted >= 7 for cut in ahead(point, t.iloc[:9].reset_index(drop=True)))
    flat = t[t["N"].isin(sorted(t["N"].unique())[:2])].reset_index(drop=True)  # two sizes
    assert ahead(estimate(laws.get("product"), flat, flat["loss"], AUTO), flat) == ()


# --- the discrepancy of a study


def residuals(values: list[float], x: float) -> pool.Residual:
    n = len(values)
    return pool.Residual(residual=np.array(values), spread=np.full(n, 1e-9), x=np.full(n, x))


def test_a_study_updates_k_by_the_conjugate_rule():
    """Without sampling error the posterior of k^2 is scaled inverse chi-square, with numbers known by hand."""
    cuts = [residuals([0.03, -0.01], 2.0), residuals([0.02, 0.02, 0.02], 1.0)]
    mean_squares = [(0.0009 + 0.0001) / 2 / 4, 0.0004]
    df = 4.0 + 2 * 4.0
    k = np.sqrt((4.0 * 0.01**2 + 4.0 * sum(mean_squares)) / df)
    found = discrepancy.updated(SCALE, cuts)
    assert found[0] == pytest.approx(k, rel=0.01) and found[1] == pytest.approx(df, rel=0.03)
    assert discrepancy.updated(SCALE, ()) == (0.01, 4.0)


def test_residuals_within_the_noise_say_little():
    loud = pool.Residual(residual=np.array([0.01, -0.02]), spread=np.full(2, 0.05), x=np.ones(2))
    k, df = discrepancy.updated(SCALE, [loud] * 4)
    assert k == pytest.approx(0.01, rel=0.15) and df < 8


def test_a_study_that_a_law_misses_gets_a_larger_k_than_one_that_it_fits():
    """A plain power law has no floor: what it foretells of runs with one is too low, and its own residuals say so."""
    product, found, prior = laws.get("product"), {}, msgspec.structs.replace(SCALE, worth=16.0)
    for truth in ("product", "chinchilla"):
        t = table(truth, noise=0.001)
        cuts = ahead(estimate(product, t, t["loss"], AUTO), t)
        assert len(cuts) == 4
        found[truth], _ = discrepancy.updated(prior, cuts)
    assert found["product"] < 0.5 * found["chinchilla"]


# --- weights


def heard(errors: dict[str, tuple[float, ...]]) -> pool.Heard:
    """Laws whose forecasts miss by these log losses, above one cut each; None where there is no forecast."""
    cuts = []
    for j in range(len(next(iter(errors.values())))):
        there = [i for i, each in enumerate(errors.values()) if not np.isnan(each[j])]
        off = np.array([list(errors.values())[i][j] for i in there])
        cuts.append(pool.Rolled(np.array(there), off[:, None] * np.array([1.0, -1.0]), np.zeros(2), np.ones(2)))
    return pool.Heard(tuple(errors), np.full(len(errors), 0.001), tuple(cuts))


def test_weights_follow_the_rolling_errors():
    said = heard({"chinchilla": (0.01,), "kaplan": (0.04,), "product": (0.02,)})
    w = pool.weights_of(EVEN, 2.0, said)
    assert w.sum() == pytest.approx(1) and w[0] / w[1] == pytest.approx((0.042 / 0.012) ** 2)
    assert w[0] / w[2] == pytest.approx((0.022 / 0.012) ** 2)
    tilted = pool.weights_of({**EVEN, "kaplan": 5 / len(pool.NAMES)}, 2.0, said)
    assert tilted[1] / tilted[0] == pytest.approx(5 * w[1] / w[0])
    np.testing.assert_allclose(pool.weights_of(EVEN, 0.0, said), 1 / 3)


def test_a_law_is_not_punished_for_a_cut_that_it_sits_out():
    hard = heard({"chinchilla": (0.08, 0.01), "kaplan": (0.08, 0.01), "skaling": (np.nan, 0.01)})
    np.testing.assert_allclose(pool.weights_of(EVEN, 4.0, hard), 1 / 3)
    none = pool.Heard(("chinchilla", "kaplan"), np.full(2, 0.01), ())
    np.testing.assert_allclose(pool.weights_of(EVEN, 4.0, none), 0.5)
    assert pool.mix(PRIOR, none).k == SCALE.k


# --- what is learned


def cases(outcomes: dict[str, float] | None = None) -> list:
    """Two sets of three sources: kaplan's forecasts are right, the others' 3 % off; two rows above each cut."""
    out = []
    for k in range(6):
        source, rng = f"source {k % 3}", np.random.default_rng(k)
        names = pool.NAMES
        off = np.array([0.0 if name == "kaplan" else 0.03 for name in names])[:, None] + 0.002 * rng.standard_normal(
            (8, 2)
        )
        said = pool.Heard(names, np.full(8, 0.001), ())
        y = np.full(2, (outcomes or {}).get(source, 0.0))
        out.append(priors.Case(f"set {k}", source, said, off, y, np.array([1.0, 2.0])))
    return out


def test_the_law_that_was_right_elsewhere_carries_the_forecast():
    weights, eta = priors.learn_weights(cases())
    assert weights["kaplan"] > 0.6 and sum(weights.values()) == pytest.approx(1) and eta in priors.ETAS


def test_the_gradient_of_the_weights_is_that_of_the_cost():
    data, theta = priors._Padded(cases()), 0.3 * np.random.default_rng(1).standard_normal(8)
    value, slope = data.cost(theta, 1.0, 0.3)
    for i in range(8):
        step = np.zeros(8)
        step[i] = 1e-6
        assert (data.cost(theta + step, 1.0, 0.3)[0] - value) / 1e-6 == pytest.approx(slope[i], abs=1e-4)


def alone(k: float, sources: int = 40, df: float = 30.0) -> list:
    """Studies whose deviation is k x t beyond the cut, and k x t at their rolling cuts."""
    rng, out = np.random.default_rng(3), []
    for i in range(sources):
        own = k * np.sqrt(df / rng.chisquare(df))
        x = np.array([1.0, 2.0, 3.0])
        draw = [own * x * rng.standard_normal(3) for _ in range(2)]
        sd = np.full(3, 1e-4)
        cut = pool.Residual(residual=draw[0], spread=sd, x=x)
        out.append(priors.Alone(f"set {i}", f"source {i % 4}", (cut,), draw[1], sd, x))
    return out


def test_the_prior_of_k_is_found_again():
    found = priors.learn_scales({"chinchilla": alone(0.01), "kaplan": alone(0.03)})
    assert found["chinchilla"].k == pytest.approx(0.01, rel=0.2) and found["kaplan"].k == pytest.approx(0.03, rel=0.2)
    assert 0.01 < found[discrepancy.OTHER].k < 0.03 and found["kaplan"].df == found["chinchilla"].df >= 6
    assert (found["kaplan"].sets, found["kaplan"].sources) == (40, 4)


def test_what_is_left_out_teaches_nothing():
    """Nonsense in the source that is left out changes no number that is learned."""
    rows = alone(0.01)
    wild = [row._replace(residual=row.residual + 5) if row.source == "source 1" else row for row in rows]
    one = priors.learn(cases(), {"chinchilla": rows}, without="source 1")
    two = priors.learn(cases({"source 1": 5.0}), {"chinchilla": wild}, without="source 1")
    assert one == two and one.pool.scale.sources == 2
    assert priors.learn(cases({"source 1": 5.0}), {"chinchilla": wild}) != priors.learn(cases(), {"chinchilla": rows})


def test_the_shipped_prior_names_its_sets():
    held = json.loads(pool.FILE.read_text())
    assert held["made_by"] == "benchmarks/priors.py" and set(held["sets"]) == set(priors.SETS)
    prior = pool.shipped()
    assert set(prior.weights) == set(pool.NAMES) and sum(prior.weights.values()) == pytest.approx(1, abs=1e-3)
    assert prior.eta in priors.ETAS and (prior.scale.sets, prior.scale.sources) == (16, 7)


# --- the forecast


@pytest.fixture(scope="module")
def made() -> pool.Pool:
    return pool.pool(fitted(table(noise=0.002)), PRIOR)


def test_the_forecast_is_the_weighted_mean_of_what_each_law_says(made):
    got = made.at(1e10, 2e11, 1.2e22)
    assert {c.law for c in got.laws} == set(pool.NAMES) and sum(c.weight for c in got.laws) == pytest.approx(1)
    assert [c.weight for c in got.laws] == sorted((c.weight for c in got.laws), reverse=True)
    assert got.loss.value == pytest.approx(np.exp(sum(c.weight * np.log(c.alone) for c in got.laws)))
    t = table(noise=0.002)
    by_hand = estimate(laws.get("kaplan"), t, t["loss"], AUTO).theta
    (kaplan,) = (c for c in got.laws if c.law == "kaplan")
    assert kaplan.alone == pytest.approx(laws.get("kaplan").predict(by_hand, {"N": 1e10, "D": 2e11})[0])
    truth = laws.get("chinchilla").predict(laws.get("chinchilla").vector(laws.get("chinchilla").example), got.cell)[0]
    assert got.loss.lo < truth < got.loss.hi and got.loss.value == pytest.approx(truth, rel=0.01)
    assert kaplan.weight < 0.2 < max(c.weight for c in got.laws if c.law.startswith("chinchilla"))


def test_its_interval_is_students_t_of_three_scales(made):
    got = made.at(1e10, 2e11, 1.2e22, level=0.8)
    scale = np.sqrt(got.noise**2 + (0.5 * got.disagreement) ** 2 + got.beyond**2)
    half = stats.t.ppf(0.9, got.df) * scale
    assert np.log(got.loss.hi / got.loss.value) == pytest.approx(half)
    assert np.log(got.loss.value / got.loss.lo) == pytest.approx(half)
    assert got.e_folds_beyond == pytest.approx(np.log(1.2e22 / 1.2e20)) and got.beyond > 0
    logs = np.log([c.alone for c in got.laws])
    w = np.array([c.weight for c in got.laws])
    assert got.disagreement == pytest.approx(np.sqrt(w @ (logs - w @ logs) ** 2))
    within = made.at(3e8, 5e9, 9e18)
    assert within.e_folds_beyond == 0 == within.beyond and within.loss.hi < 1.02 * within.loss.value


def test_the_local_power_law_sees_the_dearest_runs():
    """A truth of two planes that meet at a budget: the local law follows the upper one, product the middle of both."""
    t = table()
    log_c = np.log(t["C"])
    knee = log_c.max() - 4
    t["loss"] = np.exp(2 - 0.1 * (log_c - knee) + 0.08 * np.maximum(log_c - knee, 0))  # slope -.02 above
    far = {"N": [1e10], "D": [2e11], "C": [1.2e22]}
    said = {voice.law: voice.log_losses(far)[0] for voice in pool.listen(t)}
    truth = 2 - 0.02 * (np.log(1.2e22) - knee)
    assert abs(said["local"] - truth) < 0.5 * abs(said["product"] - truth)


def test_all_laws_speak_of_the_same_cuts_of_a_large_table(monkeypatch):
    """Above ``MANY`` rows evenly spaced ones stand for all, for every law and the local one alike."""
    monkeypatch.setattr(pool, "MANY", 20)
    t = pool.thinned(table())
    assert len(t) == 20 and t.iloc[[0, -1]]["loss"].tolist() == table().iloc[[0, -1]]["loss"].tolist()
    heard = pool.hear(pool.listen(t), t)
    assert len(heard.rolled) <= len(SHARES)
    local = heard.names.index(pool.LOCAL)
    assert all(len(cut.voices) > 1 for cut in heard.rolled if local in cut.voices)
    assert len(pool.pool(fitted(table()), PRIOR).voices[0].cuts[-1].above) < 20


def test_runs_that_no_two_laws_could_be_weighed_on():
    t = table()
    with refuses(Code.MISSING, "column", "N"):
        pool.pool(fitted(t.drop(columns=["N"]), law="power_floor:C"), PRIOR)
    with refuses(Code.TOO_FEW, "rows", 4):
        pool.pool(fitted(t.iloc[[0, 8, 16, 29]], law="product"), PRIOR)


def test_predict_says_what_each_law_says(tmp_path):
    table().to_csv(tmp_path / "runs.csv", index=False)
    assert scaling("fit", tmp_path / "runs.csv", f"--out={tmp_path / 'f.json'}")[0] == 0
    ask = ("predict", tmp_path / "f.json", "--flops=2e21")
    found = json.loads(scaling(*ask, "--json")[1])["forecast"]
    assert found["cell"]["C"] == pytest.approx(2e21) and found["loss"]["lo"] < found["loss"]["hi"]
    assert {row["law"] for row in found["laws"]} == set(pool.NAMES)
    text = scaling(*ask)[1]
    first = found["laws"][0]
    assert f"{first['law']} {first['weight']:.0%} ({first['alone']:.4g})" in text
    for asked in (("--flops=1e19",), ("--flops=2e21", "--discrepancy=off")):  # within the runs; the law as if true
        assert json.loads(scaling(*ask[:2], *asked, "--json")[1])["forecast"] is None
