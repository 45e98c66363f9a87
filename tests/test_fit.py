"""fit(): the card, its intervals, and that the intervals mean what they say."""

import dataclasses
import json
import math
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from scipy import stats
from selection import mostly_system

from analysis import card, laws
from analysis.card import Conventions, encode
from analysis.check import diagnose
from analysis.check.replicates import pure_error
from analysis.decide.ranking import rank
from analysis.engine.estimate import estimate, objective
from analysis.engine.groups import groups_of
from analysis.engine.inference import infer
from analysis.fitting import fit, load_fit
from analysis.table.runs import Runs, from_frame
from scaling.errors import Code
from scaling.records.unit import NATS_PER_TOKEN

LAW = laws.get("chinchilla")
TRUTH = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
TRUE_A = 0.28 / 0.62


CONVENTIONS = Conventions(origin="table", n="nonembedding", flops="6ND", unit=NATS_PER_TOKEN)


def runs_of(table: pd.DataFrame) -> Runs:
    return Runs(table, (), CONVENTIONS, "test", None, sha256="0" * 64)


def grid(sizes: int, tokens: int, *, wide: float = 1.0) -> pd.DataFrame:
    n = np.geomspace(1e8 / 10**wide, 1e8 * 10**wide, sizes)
    d = np.geomspace(2e9 / 10**wide, 2e9 * 10**wide, tokens)
    n, d = (v.ravel() for v in np.meshgrid(n, d, indexing="ij"))
    return pd.DataFrame({"run": [f"r{i}" for i in range(len(n))], "N": n, "D": d, "C": 6 * n * d})


def study(frame: pd.DataFrame, noise: float, seed: int, *, shared: float = 0.0, truth=TRUTH) -> Runs:
    """Losses of the true law with log noise, of which the share ``shared`` of the variance is one draw a size."""
    rng = np.random.default_rng(seed)
    table = frame.copy()
    codes, sizes = pd.factorize(table["stem"] if "stem" in table else table["N"])
    error = noise * math.sqrt(1 - shared) * rng.standard_normal(len(table))
    error += noise * math.sqrt(shared) * rng.standard_normal(len(sizes))[codes]
    table["loss"] = LAW.predict(truth, {"N": table["N"], "D": table["D"]}) * np.exp(error)
    return runs_of(table)


def names(f) -> list[str]:
    return [w.code for w in f.warnings]


def only(f, kind):
    """The one warning of this type."""
    (found,) = (w for w in f.warnings if isinstance(w, kind))
    return found


# --- the card -------------------------------------------------------------------------------------------------------


def test_card_holds_the_contract_and_survives_a_round_trip(tmp_path):
    f = fit(study(grid(8, 5), 0.003, 0))
    path = tmp_path / "fit.json"
    saved = f.save(path)
    assert f.card.draws is None and saved.card.draws is not None
    alpha, draws = saved.intervals["alpha"], saved.card.draws
    assert json.loads(path.read_text())["params"]["alpha"]["lo"] == alpha.lo < alpha.value < alpha.hi
    assert len(f.derived.tokens_per_parameter) == 3
    assert f.derived.a.value + f.derived.b.value == pytest.approx(1)
    assert draws.file == f"fit.{draws.sha256[:12]}.npz" and (tmp_path / draws.file).is_file()
    assert f.scope.rows == 40 and f.scope.sizes == 8
    rows = f.columns
    np.testing.assert_allclose(rows["residual_log"], np.log(rows["loss"] / rows["fitted"]), atol=1e-12)
    again = load_fit(path)
    cell = {"N": [1e9], "D": [1e10]}
    np.testing.assert_array_equal(again.samples(cell), f.samples(cell))
    assert again.card == saved.card


def test_a_fit_is_immutable():
    f = fit(study(grid(5, 3), 0.003, 1))
    with pytest.raises(ValueError, match="read-only"):
        f.draws[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        f.columns["loss"][0] = 1.0
    for holder, name in ((f, "card"), (f.card, "seed")):
        with pytest.raises(AttributeError):
            setattr(holder, name, None)


def test_same_seed_same_card_other_seed_other_draws():
    runs = study(grid(5, 3), 0.003, 1)
    assert fit(runs).card == fit(runs).card
    assert not np.array_equal(fit(runs).draws, fit(runs, seed=1).draws)


def test_damaged_or_foreign_files_are_refused(tmp_path):
    path = tmp_path / "fit.json"
    saved = fit(study(grid(5, 3), 0.003, 1)).save(path)
    assert saved.card.draws is not None
    sidecar = tmp_path / saved.card.draws.file
    data = bytearray(sidecar.read_bytes())
    data[100] ^= 1
    sidecar.write_bytes(bytes(data))
    with refuses(Code.CHANGED, "draws", sidecar):
        load_fit(path)
    sidecar.unlink()
    with refuses(Code.MISSING, "draws", sidecar):
        load_fit(path)
    with refuses(Code.MISSING, "fit", tmp_path / "other.json"):
        load_fit(tmp_path / "other.json")


def _without(card: dict, key: str) -> dict:
    return {name: value for name, value in card.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        lambda card: [],
        lambda card: 3,
        lambda card: _without(card, "scope"),
        lambda card: {**card, "more": 1},
        lambda card: {**card, "schema": 1},
        lambda card: {**card, "kind": "approaches"},
        lambda card: {**card, "draws": None},
        lambda card: {**card, "draws": {"file": "../fit.npz", "sha256": "0" * 64}},
        lambda card: {**card, "warnings": [{"code": "nothing_of_the_kind"}]},
        lambda card: {**card, "params": {**card["params"], "E": {"value": "high", "lo": 0, "hi": 1}}},
    ],
)
def test_a_card_of_another_shape_is_one_line(change, tmp_path):
    path = tmp_path / "fit.json"
    fit(study(grid(5, 3), 0.003, 1)).save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with refuses(Code.DAMAGED) as caught:
        load_fit(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{", '{"seed": ' + "9" * 5000 + "}", '{"seed": NaN}', "\x00\ud800"]
)
def test_what_is_no_card_is_one_line(text, tmp_path):
    path = tmp_path / "fit.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with refuses(Code.DAMAGED, "fit"):
        load_fit(path)


def test_a_directory_or_a_loop_of_links_in_place_of_a_card_is_one_line(tmp_path):
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    for path in (tmp_path, tmp_path / "loop.json"):
        with refuses(Code.DAMAGED):
            load_fit(path)


def test_a_law_made_in_python_fits_and_its_card_loads_with_it(tmp_path):
    mine = dataclasses.replace(laws.get("chinchilla"), name="my law", default=False, in_all=False, form="")
    f = fit(study(grid(8, 5), 0.003, 0), mine)
    assert f.law is mine and f.params == fit(study(grid(8, 5), 0.003, 0)).params
    f.save(tmp_path / "fit.json")
    with refuses(Code.MISSING, "law", "my law"):
        load_fit(tmp_path / "fit.json")
    again = load_fit(tmp_path / "fit.json", law=mine)
    np.testing.assert_array_equal(again.draws, f.draws)
    with refuses(Code.CONFLICT, "law"):
        load_fit(tmp_path / "fit.json", law="product")


def test_predict_takes_columns_by_keyword():
    f = fit(study(grid(5, 3), 0.003, 1))
    by_name, by_keyword = f.predict({"N": [1e9], "D": [2e10]}), f.predict(N=1e9, D=2e10)
    for one, two in zip(by_name, by_keyword):
        np.testing.assert_array_equal(one, two)
    assert repr(f).startswith("Fit(chinchilla: E=")


def test_predict_grows_with_distance_and_holds_the_noise_of_a_run():
    f = fit(study(grid(8, 5), 0.003, 2))
    near, far = {"N": [1e8], "D": [2e9]}, {"N": [1e11], "D": [2e12]}

    def width(cell, **kw):
        p = f.predict(cell, **kw)
        return math.log(p.hi[0] / p.lo[0])

    assert width(far, new_run=False) > 3 * width(near, new_run=False)
    assert width(near) > 2 * 1.96 * 0.8 * f.noise.sigma_run
    assert width(near, level=0.5) < width(near)
    assert f.samples({"N": [1e8, 2e8], "D": [1e9, 1e9]}).shape == (1000, 2)


def test_runs_of_one_stem_share_their_noise_in_samples():
    frame = grid(6, 4).assign(stem=lambda t: "s" + t["N"].round().astype(str))
    f = fit(study(frame, 0.01, 3, shared=0.8))
    cell = {"N": [1e8, 1e8], "D": [2e9, 2e9]}
    together = f.samples({**cell, "stem": ["a", "a"]})
    apart = f.samples(cell)

    def correlation(x):
        noise = np.log(x) - np.log(f.samples(cell, new_run=False))
        return np.corrcoef(noise.T)[0, 1]

    assert correlation(together) > 0.4 > abs(correlation(apart))


# --- oracles --------------------------------------------------------------------------------------------------------


def test_a_linear_law_gets_the_textbook_t_interval():
    """The product law is linear in logarithms: likelihood-t and profile-t must be the classical t interval."""
    rng = np.random.default_rng(0)
    n = 14
    table = pd.DataFrame({"run": range(n), "N": 10 ** rng.uniform(6, 9, n), "D": 10 ** rng.uniform(8, 11, n)})
    table["loss"] = 30 * table["N"] ** -0.06 * table["D"] ** -0.05 * np.exp(0.01 * rng.standard_normal(n))
    X = np.column_stack([np.ones(n), -np.log(table["N"]), -np.log(table["D"])])
    b, rss = np.linalg.lstsq(X, np.log(table["loss"]), rcond=None)[:2]
    half = stats.t.ppf(0.975, n - 3) * math.sqrt(rss[0] / (n - 3) * np.linalg.inv(X.T @ X)[1, 1])
    for scheme, tolerance in (("likelihood-t", 0.12), ("profile-t", 0.005)):
        cell = fit(runs_of(table), "product", objective="squares", scheme=scheme).intervals["alpha"]
        assert cell.value == pytest.approx(b[1], rel=1e-8)
        assert cell.lo == pytest.approx(float(b[1] - half), abs=float(tolerance * half))
        assert cell.hi == pytest.approx(float(b[1] + half), abs=float(tolerance * half))


def test_size_effect_widens_what_sizes_carry_not_what_tokens_carry():
    frame = grid(6, 5)
    runs = study(frame, 0.005, 4, shared=0.7)
    lone = frame.assign(stem=[f"s{i}" for i in range(len(frame))], loss=runs.table["loss"])
    assert groups_of(lone) is None
    with_effect, without = fit(runs), fit(runs_of(lone))

    def half(f, name):
        return f.intervals[name].hi - f.intervals[name].lo

    assert half(with_effect, "alpha") > 1.4 * half(without, "alpha")
    assert half(with_effect, "beta") < half(without, "beta")
    assert with_effect.noise.groups == card.Groups(kind="size", count=6)


def test_stems_are_read_from_the_table_before_sizes():
    frame = grid(4, 3).assign(stem=lambda t: t["N"].astype(str))
    two = pd.concat([frame, frame.assign(stem=lambda t: t["stem"] + "b")], ignore_index=True)
    found = groups_of(two)
    assert found is not None and (found.kind, len(found.names)) == ("stem", 8)


def test_a_perfect_fit_is_not_an_error():
    table = grid(6, 4)
    table["loss"] = LAW.predict(TRUTH, table)
    f = fit(runs_of(table))
    assert f.params["alpha"] == pytest.approx(0.34, rel=1e-6)
    assert f.intervals["alpha"].hi - f.intervals["alpha"].lo < 1e-6


@pytest.mark.parametrize("scheme", ["profile-t", "delta-t", "bootstrap-runs"])
def test_schemes_agree_where_the_design_is_rich(scheme):
    runs = study(grid(9, 9, wide=1.5).assign(stem=lambda t: t["run"]), 0.003, 5)
    usual, other = fit(runs).intervals, fit(runs, scheme=scheme).intervals
    for name in ("E", "alpha", "beta", "a"):
        half = (usual[name].hi - usual[name].lo) / 2
        assert abs(other[name].lo - usual[name].lo) < 0.4 * half
        assert abs(other[name].hi - usual[name].hi) < 0.4 * half


# --- coverage, over ALL studies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "tokens", "noise", "shared"),
    mostly_system([(8, 5, 0.01, 0.5), (5, 3, 0.003, 0.5), (5, 3, 0.01, 0.0)]),
)
def test_nominal_95_percent_intervals_cover(sizes, tokens, noise, shared):
    """A shrunk benchmarks/coverage.py: 30 studies, four targets; of 120 hits about 114 are due."""
    frame = grid(sizes, tokens)
    big = 10 * np.asarray(frame["C"]).max()
    n, d = LAW.optimum(TRUTH, big)
    target = LAW.predict(TRUTH, {"N": n[0], "D": d[0]})[0]
    if not shared:
        frame["stem"] = frame["run"]
    hits = np.zeros(4)
    for seed in range(30):
        table = study(frame, noise, 1000 + seed, shared=shared).table
        y = np.log(table["loss"].to_numpy())
        draws = infer(estimate(LAW, table, table["loss"], objective("auto")), y, table, seed=seed).theta
        loss = LAW.predict(draws, {"N": n[0], "D": d[0]})
        seen = np.column_stack([draws[:, 3], draws[:, 4], draws[:, 4] / (draws[:, 3] + draws[:, 4]), loss])
        lo, hi = np.quantile(seen, [0.025, 0.975], axis=0)
        truth = np.array([0.34, 0.28, TRUE_A, target])
        hits += (lo <= truth) & (truth <= hi)
    assert hits.min() >= 24 and hits.sum() >= 103, hits / 30


# --- diagnosis ------------------------------------------------------------------------------------------------------


def test_an_unidentified_floor_is_named_and_a_rich_design_is_not():
    poor = fit(study(grid(5, 3, wide=0.4), 0.01, 6))
    told = {w.parameter: w for w in poor.warnings if isinstance(w, card.NotIdentified)}
    assert {name: w.why for name, w in told.items()} == {"E": "floor", "a": "wide"}
    assert told["a"].expected_half_width > 0.15
    known = diagnose.standing(poor.law, poor.intervals, poor.warnings)
    assert known["E"] == known["a"] == "no"
    assert "not_identified" not in names(fit(study(grid(8, 5), 0.003, 6)))


def test_seed_replicates_refute_a_wrong_form_and_spare_the_right_one():
    frame = grid(6, 5)
    twice = pd.concat([frame, frame.query("N < 2e7"), frame.query("N > 9e8")], ignore_index=True)
    twice["run"] = [f"r{i}" for i in range(len(twice))]
    twice["stem"] = twice["run"]
    runs = study(twice, 0.003, 7)
    right, wrong = fit(runs), fit(runs, "product")
    assert right.noise.pure_error.sd == pytest.approx(0.003, rel=0.5)
    assert "refuted" not in names(right) and "refuted" in names(wrong)
    assert only(wrong, card.Refuted).p == wrong.noise.lack_of_fit.p < 0.01 < right.noise.lack_of_fit.p
    table = rank([wrong, right])
    assert [row.law for row in table] == ["chinchilla", "product"]
    assert table[0].delta_aicc == 0 < table[1].delta_aicc
    assert table[0].loo_rms < table[1].loo_rms and table[0].rolling_rms < table[1].rolling_rms
    assert [row.refuted for row in table] == [False, True]


def test_lack_of_fit_keeps_its_size_when_replicates_share_stems():
    """Replicate stems whose branches share noise: the right law must not be refuted more often than stated."""
    frame = grid(6, 4).assign(stem=lambda t: t["N"].round().astype(str))
    again = frame[frame["N"].isin(sorted(frame["N"].unique())[1:3])].assign(stem=lambda t: t["stem"] + " seed 1")
    both = pd.concat([frame, again], ignore_index=True)
    both["run"] = [f"r{i}" for i in range(len(both))]
    refuted = 0
    for seed in range(20):
        runs = study(both, 0.004, 100 + seed, shared=0.5)
        y = np.log(runs.table["loss"].to_numpy())
        point = estimate(LAW, runs.table, runs.table["loss"], objective("auto"))
        p = pure_error(y, runs.table, point)[1].p
        refuted += p < 0.05
    assert refuted <= 4


def test_outliers_are_named_and_held_down():
    runs = study(grid(8, 5), 0.002, 8)
    runs.table.loc[7, "loss"] *= 1.1
    f = fit(runs)
    rows = only(f, card.Outliers).rows
    assert [row.run for row in rows] == ["r7"] and rows[0].residual > 10
    assert f.intervals["a"].lo < TRUE_A < f.intervals["a"].hi


def test_a_reversed_law_collinear_designs_and_repeats_are_flagged():
    runs = study(grid(6, 4), 0.003, 9)
    largest = runs.table["N"] == runs.table["N"].max()
    runs.table.loc[largest, "loss"] *= 1.2
    assert "not_monotone" in names(fit(runs))
    n = np.geomspace(1e7, 1e9, 12)
    line = pd.DataFrame({"run": range(12), "N": n, "D": 20 * n * np.exp(0.05 * np.sin(np.arange(12)))})
    assert "collinear" in names(fit(study(line, 0.003, 9)))
    repeats = study(grid(6, 4), 0.003, 9)
    repeats.table["epochs"] = [1.0] * 20 + [4.0] * 4
    assert "mixed_epochs" in names(fit(repeats))
    schedules = study(grid(6, 4), 0.003, 9)
    schedules.table["schedule"] = ["wsd"] * 24
    assert "mixed_schedules" not in names(fit(schedules))
    schedules.table.loc[:3, "schedule"] = "cosine"
    assert only(fit(schedules), card.MixedSchedules).rows == {"wsd": 20, "cosine": 4}


def test_a_width_near_the_bound_is_doubtful():
    """Between what is surely identified and what is not there is a flag that refuses nothing."""
    f = fit(study(grid(6, 4), 0.018, 3))
    found = next(w for w in f.warnings if isinstance(w, card.Doubtful) and w.parameter == "a")
    assert 0.085 < max(found.half_width or 0, found.expected_half_width or 0) < 0.15
    assert "a" not in diagnose.missing(f.warnings)


def test_runs_that_diverged_or_did_not_decay_and_checkpoints_are_named():
    table = study(grid(6, 4), 0.003, 9).table
    table.loc[5, "loss"] *= 2.2
    found = only(fit(from_frame(table)), card.Diverged)
    assert found.rows == ("r5",) and found.ratios == (pytest.approx(2.2, rel=0.01),) and found.of == 24
    table["status"], table["decayed"] = "done", True
    table.loc[5, "status"], table.loc[[6, 7], "decayed"] = "diverged", False
    left = {w.why: w.rows for w in fit(from_frame(table)).warnings if isinstance(w, card.LeftOut)}
    assert left == {"diverged": ("row 6",), "undecayed": ("row 7", "row 8")}
    whole = study(grid(6, 4), 0.003, 9).table
    whole["run"] = whole["N"].rank(method="dense").astype(int).map("model {}".format)
    whole.loc[3, "loss"] *= 1.1
    f = fit(from_frame(whole))
    assert only(f, card.Checkpoints) == card.Checkpoints(rows=18, runs=6, of=24)
    assert only(f, card.Outliers).rows[0].run == f"model 1 at D {whole['D'][3]:.6g}"
    assert f.runs[3] == "model 1"
    assert "checkpoints" not in names(fit(from_frame(whole.assign(decayed=True))))


def test_standing_tells_what_is_known_roughly_and_what_the_form_gives():
    law = fit(study(grid(8, 5), 0.003, 6), "overtraining")
    poor = fit(study(grid(5, 3, wide=0.4), 0.02, 6))
    assert law.params["eta"] > 0 and law.derived.a.value == 0.5
    rough = diagnose.standing(poor.law, poor.intervals, poor.warnings)
    for name in ("alpha", "beta"):
        cell = poor.intervals[name]
        assert (rough[name] == "roughly") == (cell.hi > 4 * cell.lo), name
    assert "roughly" in rough.values()
    for f, wanted in ((law, {"eta": "yes", "a": "by_form", "b": "by_form"}), (poor, {"a": "no", "b": "no"})):
        known = diagnose.standing(f.law, f.intervals, f.warnings)
        assert known.items() >= wanted.items() and set(known.values()) <= set(diagnose.STANDINGS)
    slope = fit(study(grid(8, 5), 0.003, 6), "power_floor:C")  # whose a is a parameter, and no exponent of an optimum
    known = diagnose.standing(slope.law, slope.intervals, slope.warnings)
    assert "b" not in known and "a" in known


def test_sizes_drawn_at_random_are_many_however_dense():
    """Each is within 2 % of the next one, and all of them once counted as one."""
    sizes = np.exp(np.random.default_rng(0).uniform(np.log(1e4), np.log(1e7), 3000))
    assert 250 < len(diagnose.levels(sizes)) < 350  # ln 1000 / ln 1.02 = 349
    assert diagnose.levels([2e6, 1e6, 1.01e6, 1.015e6]) == [1e6, 2e6] and diagnose.levels([]) == []
    sizes = sizes[:200]
    table = pd.DataFrame({"N": sizes, "D": sizes[::-1] * 20})
    table["loss"] = 1.7 + 400 * table["N"] ** -0.35 + 400 * table["D"] ** -0.3
    f = fit(runs_of(table))
    assert f.card.scope.sizes == len(diagnose.levels(sizes)) and "too_few_values" not in names(f)


def test_few_sizes_runs_and_a_bound_are_flagged():
    f = fit(study(grid(3, 3), 0.003, 10))
    assert only(f, card.TooFewValues).column == "N" and "too_few_runs" in names(f)
    table = grid(5, 4)
    table["loss"] = 40 * table["N"] ** -0.1 + 0.03 * np.log(table["D"].max() / table["D"]) + 1e-3
    bound = fit(runs_of(table))
    flag = only(bound, card.ParameterAtBound)
    assert flag == card.ParameterAtBound(parameter="E", side="lower", bound=0.0) and "not_identified" in names(bound)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        (lambda t: t.head(5), Code.TOO_FEW, "rows"),
        (lambda t: t.assign(N=1e8), Code.TOO_FEW, "N"),
        (lambda t: t.drop(columns="D"), Code.MISSING, "column"),
        (lambda t: t.assign(loss=[math.nan, *t["loss"][1:]]), Code.INVALID, "loss of row r0"),
        (lambda t: t.assign(D=["many", *t["D"][1:]]), Code.INVALID, "D of row r0"),
        (lambda t: t.assign(N=[-1.0, *t["N"][1:]]), Code.INVALID, "N of row r0"),
        (lambda t: t.assign(role=["holdout", *["fit"] * (len(t) - 1)]), Code.CONFLICT, "role"),
    ],
)
def test_bad_tables_are_refused_with_row_and_column(change, code, field):
    runs = study(grid(5, 3), 0.003, 11)
    with refuses(code, field):
        fit(runs_of(change(runs.table)))


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"law": "nope"}, Code.UNKNOWN, "law"),
        ({"objective": "x"}, Code.UNKNOWN, "objective"),
        ({"objective": "student:0"}, Code.INVALID, "objective"),
        ({"level": 95}, Code.INVALID, "level"),
        ({"scheme": "magic"}, Code.UNKNOWN, "scheme"),
        ({"law": "power"}, Code.MISSING, "column"),
    ],
)
def test_bad_options_are_refused(options, code, field):
    with refuses(code, field):
        fit(study(grid(5, 3), 0.003, 11), **options)


ODD = ["random", "rising", "tiny", "huge", "collinear", "one size nearly", "wild", "few"]


@pytest.mark.parametrize("law", ["chinchilla", "kaplan", "product_floor", "power_floor:C"])
@pytest.mark.parametrize("odd", mostly_system(ODD, "random", "rising", "collinear", "few"))
def test_odd_tables_give_a_card_that_json_holds(odd, law):
    rng = np.random.default_rng(5)
    n = 7 if odd == "few" else 24
    table = pd.DataFrame({"run": range(n), "N": 10 ** rng.uniform(3, 12, n), "D": 10 ** rng.uniform(4, 13, n)})
    if odd == "collinear":
        table["D"] = 20 * table["N"]
    if odd == "one size nearly":
        table["N"] = 1e6 * np.exp(1e-4 * rng.standard_normal(n))
    loss = 1 + 10 * table["N"] ** -0.1 + 20 * table["D"] ** -0.2
    change = {"random": rng.uniform(1, 9, n) / loss, "tiny": 1e-30, "huge": 1e30, "rising": table["N"] ** 0.2}
    table["loss"] = loss * change.get(odd, 1.0) * np.exp((0.5 if odd == "wild" else 0.01) * rng.standard_t(1.5, n))
    table["C"] = 6 * table["N"] * table["D"]
    f = fit(runs_of(table), law)
    assert msgspec.json.decode(encode(f.card), type=card.FitCard) == f.card
    assert np.isfinite(f.predict({"N": [1e9], "D": [1e10], "C": [6e19]}).value).all()


def test_a_constant_loss_is_refused():
    with refuses(Code.TOO_FEW, "loss"):
        fit(runs_of(grid(5, 3).assign(loss=3.0)))


def test_rank_refuses_different_runs():
    with refuses(Code.MIXED, "fits", 2):
        rank([fit(study(grid(5, 3), 0.003, k)) for k in range(2)])


def test_fixing_a_parameter_narrows_the_rest():
    runs = study(grid(5, 3), 0.01, 12)
    free, held = fit(runs), fit(runs, fixed={"E": 1.69})
    assert held.params["E"] == 1.69 and np.ptp(held.draws[:, 0]) == 0

    def half(f):
        return f.intervals["a"].hi - f.intervals["a"].lo

    assert half(held) < half(free)


@pytest.mark.parametrize("n", [5, 20, 240])
def test_the_rank_correlation_is_that_of_scipy(n):
    """Ours is imported faster; with ties, and of ranks that agree."""
    from analysis.check.diagnose import spearman

    rng = np.random.default_rng(n)
    x = rng.standard_normal(n)
    for y in (np.round(x + rng.standard_normal(n)), -x):
        expected: Any = stats.spearmanr(x, y)
        assert spearman(x, y) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9, abs=1e-300)
    assert np.isnan(spearman(x, np.zeros(n))).all()
