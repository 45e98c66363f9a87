"""The term for a law being wrong beyond its runs, rolling extrapolation, and that estimate and draws are one thing."""

import math

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

from analysis import card, laws
from analysis.check import discrepancy
from analysis.check import rolling as crossval
from analysis.decide.allocate import optimal
from analysis.engine.groups import groups_of
from analysis.engine.random_effects import best_ratio, ratio_scores
from analysis.fitting import Fit, fit, load_fit
from analysis.show.sentences import sentence
from analysis.table.runs import Runs
from scaling.errors import Code
from scaling.records import read_json, write_json

TABLE = read_json(discrepancy.FILE)
PLANTED = card.Conventions(origin="table")
LAW = laws.get("chinchilla")
TRUTH = np.array([1.69, 406.4, 410.7, 0.34, 0.28])


def study(noise=0.003, seed=0, sizes=6, tokens=5, bend=0.0) -> Runs:
    """A grid; ``bend`` raises log loss by that much per e-fold of C above 1e20 FLOPs, which no law here can follow."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(2e8, 2e10, tokens)))
    t = pd.DataFrame({"run": [f"r{i}" for i in range(len(n))], "N": n, "D": d, "C": 6 * n * d})
    t["stem"] = t["run"]
    error = noise * np.random.default_rng(seed).standard_normal(len(t))
    t["loss"] = LAW.predict(TRUTH, t) * np.exp(error + bend * np.maximum(np.log(t["C"] / 1e20), 0))
    return Runs(t, (), PLANTED, "simulated", None, sha256="-")


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(study())


def test_on_the_card_by_name_and_saved(fitted, tmp_path):
    entry = fitted.card.discrepancy
    shipped = TABLE["laws"]["chinchilla"]
    assert entry.k == shipped["k"] > 0 and entry.df == discrepancy.DF and entry.setting == "auto"
    assert (entry.sets, entry.sources) == (shipped["sets"], shipped["sources"])
    assert f"{shipped['sets']} studies of {shipped['sources']} sources" in sentence(entry)
    fitted.save(tmp_path / "f.json")
    again, cell = load_fit(tmp_path / "f.json"), {"N": [1e10], "D": [2e11]}
    assert again.card.discrepancy == entry
    np.testing.assert_array_equal(again.samples(cell), fitted.samples(cell))


def test_the_shipped_table_says_where_it_comes_from():
    assert TABLE["made_by"].startswith("benchmarks/league.py") and len(TABLE["k_by_set"]) >= 15
    sources = {"hoffmann", "porian", "gadre", "muennighoff", "gemstones", "steplaw", "marin"}
    assert set(TABLE["k_with_one_source_left_out"]) == sources
    for law in ("chinchilla", "kaplan", "product", "product_floor", discrepancy.OTHER):
        assert 0.001 < TABLE["laws"][law]["k"] < 0.1 and 0 <= TABLE["laws"][law]["shared"] <= 0.95
    left_out = [row["chinchilla"] for row in TABLE["k_with_one_source_left_out"].values()]
    assert min(left_out) < TABLE["laws"]["chinchilla"]["k"] < max(left_out)


def test_it_grows_with_the_distance_and_is_nothing_within(fitted):
    near, far, farther = ({"N": [5e8 * s], "D": [1e10 * s]} for s in (1.0, 30.0, 300.0))
    np.testing.assert_array_equal(fitted.samples(near), fitted.samples(near, discrepancy=False))
    widths = []
    for cell in (far, farther):
        logs = np.log(fitted.samples(cell, new_run=False) / fitted.samples(cell, new_run=False, discrepancy=False))
        x = discrepancy.beyond(fitted.scope, cell)
        low, high = np.quantile(logs, [0.1587, 0.8413])
        # the middle 68 % of a Student-t with 4 degrees of freedom is 2.284 scales wide
        assert high - low == pytest.approx(2.284 * fitted.discrepancy.k * x[0], rel=0.15)
        widths.append(high - low)
    assert widths[1] > 1.3 * widths[0]
    plain = fitted.predict(farther, discrepancy=False)
    with_it = fitted.predict(farther)
    assert plain.value == with_it.value and with_it.hi > plain.hi and with_it.lo < plain.lo


@pytest.mark.parametrize(
    ("columns", "x"),
    [
        ({"N": [1e9], "D": [2e10], "C": [1.2e20]}, 0.0),
        ({"N": [1e9], "D": [2e10], "C": [1.2e21]}, np.log(10)),
        ({"N": [1e9], "D": [2e11]}, np.log(10)),
        ({"N": [1e11], "D": [2e8]}, np.log(100)),  # no more compute than was fitted, but a size that nobody saw
        ({"N": [1e7], "D": [2e8]}, 0.0),
    ],
)
def test_e_folds_beyond(fitted, columns, x):
    assert discrepancy.beyond(fitted.scope, columns) == pytest.approx([x], abs=1e-9)


def test_switched_off_or_given(fitted):
    cell = {"N": [1e10], "D": [2e11]}
    off = fit(study(), discrepancy="off")
    np.testing.assert_array_equal(off.samples(cell), fitted.samples(cell, discrepancy=False))
    assert off.discrepancy.k == 0 and off.discrepancy.setting == "off"
    assert "switched off" in sentence(off.discrepancy)
    wide = fit(study(), discrepancy=0.05)
    assert np.diff(np.quantile(wide.samples(cell), [0.05, 0.95])) > 3 * np.diff(
        np.quantile(off.samples(cell), [0.05, 0.95])
    )
    assert wide.discrepancy.k == 0.05 and wide.discrepancy.setting == "given"
    unseen = discrepancy.term("routing")
    assert unseen.k == TABLE["laws"][discrepancy.OTHER]["k"] and "routing" not in TABLE["laws"]
    for bad in ("many", -1.0, math.nan):
        with refuses(Code.INVALID, "discrepancy", bad):
            discrepancy.term("chinchilla", bad)


def test_a_fit_without_it_has_none_and_a_card_must_say_so(fitted, tmp_path):
    none = card.Discrepancy(k=0.0, df=discrepancy.DF, shared=0.0, setting="off")
    bare, cell = fitted.with_discrepancy(none), {"N": [1e10], "D": [2e11]}
    np.testing.assert_array_equal(bare.samples(cell), fitted.samples(cell, discrepancy=False))
    bare.save(tmp_path / "f.json")
    np.testing.assert_array_equal(load_fit(tmp_path / "f.json").samples(cell), bare.samples(cell))
    old = read_json(tmp_path / "f.json")
    del old["discrepancy"]
    write_json(tmp_path / "f.json", old)
    with refuses(Code.DAMAGED, "fit", tmp_path / "f.json"):
        load_fit(tmp_path / "f.json")


def test_the_loss_of_an_allocation_holds_it(fitted):
    off = fit(study(), discrepancy="off")
    one, two = (optimal(f, flops=30 * f.scope.C_max).loss for f in (fitted, off))
    assert one.value == two.value and one.hi - one.lo > 1.3 * (two.hi - two.lo)


def test_learning_recovers_what_was_planted():
    """Studies whose deviation is k x t_4, shared by three quarters of its variance: both numbers come back."""
    rng = np.random.default_rng(0)
    k, shared, studies, n = 0.01, 0.75, 400, 12
    x = np.tile(np.linspace(1, 4, n), (studies, 1))
    entry = card.Discrepancy(k=k, df=discrepancy.DF, shared=shared, setting="given")
    deviation = np.concatenate([discrepancy.deviations(entry, row, 1, rng) for row in x])
    spread = np.full((studies, n), 0.002)
    residual = (deviation + spread * rng.standard_normal((studies, n))).ravel()
    weight, of = np.ones(studies * n), np.repeat(np.arange(studies), n)
    found = discrepancy.learn(residual, spread.ravel(), x.ravel(), weight)
    assert found == pytest.approx(k, rel=0.1)
    assert discrepancy.common_part(residual, spread.ravel(), x.ravel(), of, found) == pytest.approx(shared, abs=0.1)
    none = discrepancy.learn(spread.ravel() * rng.standard_normal(studies * n), spread.ravel(), x.ravel(), weight)
    assert none < 0.1 * k


def test_it_rescues_the_coverage_of_a_law_that_bends():
    """Studies whose truth leaves the law beyond the runs: plain 90 % intervals miss it, those with the term do not."""
    cells = {"N": np.array([2e9, 5e9, 1e9]), "D": np.array([4e10, 1e11, 2e11])}
    cells["C"] = 6 * cells["N"] * cells["D"]
    truth = LAW.predict(TRUTH, cells) * np.exp(0.01 * np.log(cells["C"] / 1.2e20))
    hit = {True: 0.0, False: 0.0}
    for k in range(10):
        f = fit(study(seed=k), seed=k)
        for use in hit:
            at = f.predict(cells, level=0.9, discrepancy=use)
            hit[use] += float(np.mean((at.lo <= truth) & (truth <= at.hi))) / 10
    assert hit[False] < 0.4 and hit[True] > 0.85


def test_rolling_extrapolation_scores_what_was_not_fitted():
    table = study().table
    got = crossval.rolling(table, "chinchilla", setting="off")
    assert len(got.cuts) == len(crossval.SHARES) and all(cut.ratio > 1 for cut in got.cuts)
    assert all(cut.fitted + cut.scored == len(table) for cut in got.cuts)
    assert got.mean is not None
    assert got.mean.rms < 0.01 and got.mean.crps < got.mean.error and got.mean.inside90 > 0.8
    best, other = (crossval.rolling(table, name).mean for name in ("chinchilla", "product"))
    assert best is not None and other is not None
    assert other.crps > 2 * best.crps and other.log_score > best.log_score
    few = crossval.rolling(table.iloc[:6], "chinchilla")
    assert few.crps is None and few.mean is None and few.cuts == ()


def test_scores_of_a_normal():
    values = np.random.default_rng(0).standard_normal((2, 100_000))
    y = np.array([0.0, 2.0])
    # Gneiting and Raftery 2007, eq. 21
    assert crossval.crps(values, y) == pytest.approx([0.2337, 1.4528], abs=0.01)
    assert crossval.log_score(values, y) == pytest.approx([0.919, 2.919], abs=0.05)


def by_size(seed: int) -> Runs:
    """Three runs at each of five sizes whose losses a Kaplan law misses by size: the case for a size effect."""
    table = study(noise=0.002, seed=seed, sizes=5, tokens=3).table
    table["stem"] = table["N"].map(lambda v: f"{v:.4g}")
    off = dict(zip(sorted(set(table["stem"]), key=float), (0.03, -0.02, 0.035, -0.03, 0.02)))
    table["loss"] *= np.exp([off[v] for v in table["stem"]])
    return Runs(table, (), PLANTED, "simulated", None, sha256="-")


@pytest.mark.parametrize("law", ["kaplan", "chinchilla"])
def test_the_value_lies_in_the_middle_of_its_own_interval(law):
    """The plain fit's variance ratio may be a lesser mode; value, parameters and draws must be of one density."""
    cells = {"N": np.array([2e9, 5e8, 1e9]), "D": np.array([4e10, 8e10, 6e10])}
    for seed in range(2):
        f = fit(by_size(seed), law, discrepancy="off")
        half = f.predict(cells, level=0.5)
        assert (half.lo < half.value).all() and (half.value < half.hi).all()
        ratio = np.median(f.sigma_stem / f.sigma_run)
        assert f.noise.sigma_stem / f.noise.sigma_run == pytest.approx(ratio, rel=0.05)
        plug = f.law.predict(f.theta, cells)
        wide = f.predict(cells, level=0.8)
        assert ((wide.lo <= plug) & (plug <= wide.hi)).all()


def test_a_ratio_that_runs_to_its_edge_is_no_stem_effect():
    """Checkpoints of runs whose curves all bend where the design is straight: a broken law, not a huge stem effect."""
    rng = np.random.default_rng(0)
    stems, each = 20, 8
    codes, step = np.repeat(np.arange(stems), each), np.tile(np.linspace(-1, 1, each), stems)
    table = pd.DataFrame({"N": 1e8 + codes, "stem": [f"s{c}" for c in codes]})
    groups = groups_of(table)
    assert groups is not None
    G = np.column_stack([np.ones(len(codes)), step])
    y = 0.004 * rng.standard_normal(stems)[codes] + 0.002 * rng.standard_normal(len(codes))
    assert 1 < best_ratio(ratio_scores(G, y, groups)) < 12  # planted: 4
