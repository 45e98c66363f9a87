"""What a fit may be asked for: priors, schemes, Student's t, weights from seeds, any column, learning curves."""

import dataclasses
import json
from typing import Any

import handmade
import msgspec
import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from scipy import optimize, stats
from test_cli import scaling

from analysis import card, laws
from analysis.card import Interval
from analysis.check import replicates
from analysis.decide import paired
from analysis.engine.estimate import estimate, objective
from analysis.engine.inference import infer
from analysis.engine.losses import student, t_scale
from analysis.fitting import Fit, fit, read_card
from analysis.laws import curves
from analysis.table.runs import from_frame, load
from benchmarks import coverage
from scaling.errors import Code
from scaling.records.types import Documents, Evaluation
from scaling.verbs import fit as fit_verb

LAW = laws.get("chinchilla")
GROWTH = laws.get("growth:C")


def grid(seed: int = 0, noise: float = 0.005, seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 5)))
    table = pd.concat([pd.DataFrame({"N": n, "D": d, "seed": s}) for s in range(seeds)], ignore_index=True)
    loss = LAW.predict(LAW.example, {"N": table["N"], "D": table["D"]})
    return table.assign(loss=loss * np.exp(noise * rng.standard_normal(len(table))))


def codes(found: Fit) -> set[str]:
    return {w.code for w in found.warnings}


def only(found: Fit, kind: type) -> Any:
    """The one warning of this type."""
    (told,) = (w for w in found.warnings if isinstance(w, kind))
    return told


def width(cell: Interval) -> float:
    return 2 * cell.half_width


def unidentified(found: Fit) -> set[str]:
    return {w.parameter for w in found.warnings if isinstance(w, card.NotIdentified)}


def test_stem_effects_take_no_law_off_its_runs():
    """Losses of experiments/moe.py:dense, 2026-11-22, which this form misses along D by 1 %. Freed of that by stem
    effects of 10 %, where two seeds differ by 2 % at most, it fitted within stems and missed the runs by 13 %."""
    sizes = {
        6256: 2 * ["2.088 1.970 1.894 1.846"],
        13976: ["1.988 1.841 1.730 1.660"],
        24768: ["1.924 1.753 1.652 1.579", "1.892 1.730 1.630 1.565"],
        55568: ["1.837 1.660 1.545 1.473"],
    }
    rows = [
        (n, 2.0 ** (19 + i), float(loss), f"{n} {seed}")
        for n, seeds in sizes.items()
        for seed, losses in enumerate(seeds)
        for i, loss in enumerate(losses.split())
    ]
    found = fit(from_frame(pd.DataFrame(rows, columns=pd.Index(["N", "D", "loss", "stem"]))))
    assert np.std(found.columns["residual_log"]) < 0.02
    assert only(found, card.StemEffects).sd > 0.04 and found.noise.sigma_stem < 0.02
    best, alpha = found.card.optima[0].params["alpha"], found.intervals["alpha"]
    assert alpha.lo < best < alpha.hi


@pytest.mark.parametrize(
    "setting", [("demo", 0.01, 0.5, 0.0), ("wide 5x3", 0.003, 0.5, 0.02), ("narrow 5x4", 0.02, 0.5, 0.0)]
)
def test_stem_effects_of_a_law_that_holds_are_left_alone(setting):
    for seed in range(3):
        design, noise, shared, outliers = setting
        found = fit(
            coverage.rows_of(coverage.simulate(coverage.design(design), noise, shared, outliers, seed), "stems")
        )
        assert "stem_effects" not in codes(found)


def test_draws_leave_a_bound_at_which_the_estimate_lies():
    """Kaplan's form on losses of a product with a floor, as of the demo's known source: its outer exponent stands at
    its bound, and every start that led beyond it was taken back to the estimate: intervals had no width."""
    rng, names = np.random.default_rng(0), ["N", "D", "loss", "stem"]
    rows = [
        (n, d, (0.51 + 9e5 * n**-0.25 * d**-1.04) * np.exp(0.02 * rng.standard_normal()), f"{n} {seed}")
        for seed in range(2)
        for n in (6e3, 1.4e4, 2.5e4, 5.5e4, 9.9e4)
        for d in (3e5, 6e5, 1.2e6)
    ]
    found = fit(from_frame(pd.DataFrame(rows, columns=pd.Index(names))), "kaplan")
    assert "parameter_at_bound" in codes(found)
    for name, cell in found.card.params.items():
        assert cell.hi > 1.01 * cell.lo, name


# --- priors


@pytest.mark.parametrize(("n", "shared"), [(40, 1), (160, 1), (40, 4)])
@pytest.mark.parametrize("scheme", ["likelihood-t", "delta-t", "bootstrap"])
def test_draws_of_every_scheme_have_the_spread_of_the_posterior(n, shared, scheme):
    """log y = log k + a log x, a strong prior on a: closed form, given the noise."""
    rng = np.random.default_rng(n)
    log_x = rng.uniform(0, 3, n)
    table = pd.DataFrame({"C": np.exp(log_x), "stem": np.arange(n) // shared})
    y = np.log(2.0) + 0.5 * log_x + 0.3 * rng.standard_normal(n)
    alone = 0.3 / np.sqrt(((log_x - log_x.mean()) ** 2).sum())
    prior = (0.45, 0.5 * alone)
    point = estimate(GROWTH, table, np.exp(y), objective("squares"), priors={"a": prior})
    at = infer(point, point.y, table, scheme=scheme, draws=1000)
    precision = 1 / alone**2 + 1 / prior[1] ** 2
    mean = (np.polyfit(log_x, y, 1)[0] / alone**2 + prior[0] / prior[1] ** 2) / precision
    assert np.median(at.theta[:, 1]) == pytest.approx(mean, abs=0.35 / np.sqrt(precision))
    assert np.diff(np.quantile(at.theta[:, 1], [0.1587, 0.8413]))[0] / 2 == pytest.approx(precision**-0.5, rel=0.25)


@pytest.mark.system
def test_a_prior_reaches_the_profile_and_the_flag_of_the_floor():
    runs = from_frame(grid(noise=0.2))
    free = fit(runs, scheme="profile-t")
    held = fit(runs, scheme="profile-t", priors={"E": (1.69, 0.02)})
    assert width(held.intervals["E"]) < 0.1
    assert "E" in unidentified(free) and "E" not in unidentified(held)
    both = fit(runs, scheme="profile-t", priors={"alpha": (0.34, 0.01)}).intervals["a"]
    assert width(both) > 0.01  # a is a ratio of alpha and a beta that no prior holds


@pytest.mark.system
def test_a_prior_pins_a_scale_that_the_runs_do_not_show():
    """Far beyond x0 the loss shows R x0^a alone; what is known of x0 from elsewhere counts in its profile, too."""
    law, x = laws.get("saturating:C"), np.geomspace(1e9, 1e13, 30)
    theta = {"E": 1.5, "R": 8.0, "x0": 3e5, "a": 0.4}
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(x)))
    runs = from_frame(pd.DataFrame({"C": x, "loss": law.predict(theta, {"C": x}) * noise}), law=law)
    for priors, known in (({}, False), ({"x0": (3e5, 6e4)}, True)):
        found = fit(runs, law, priors=priors)
        assert ("x0" in unidentified(found)) is not known, found.intervals["x0"]


# --- schemes, seeds and the command line


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid(seeds=2).to_csv("runs.csv", index=False)
    return "runs.csv"


def printed(*arguments: object) -> card.FitCard:
    """The card that ``scaling fit ... --json`` prints."""
    code, out, err = scaling("fit", *arguments, "--json")
    assert code == 0, err
    return msgspec.json.decode(out, type=card.FitCard)


def test_every_scheme_beside_the_chosen_one(table):
    code, out, _ = scaling("fit", table, "--scheme=all", "--out=all.json")
    assert code == 0 and "likelihood-t (chosen)" in out and "bootstrap-runs" in out and "jackknife-t" in out
    every, plain = read_card("all.json"), printed(table)
    assert every.params == plain.params and plain.schemes == {} and plain.scheme.asked == "auto"
    asked = printed(table, "--scheme=delta-t")
    assert asked.scheme.name == asked.scheme.asked == "delta-t"
    assert every.schemes["delta-t"].intervals["alpha"] == asked.params["alpha"]
    other = printed(table, "--seed=3")
    assert other.seed == 3 and other.params["alpha"].lo != plain.params["alpha"].lo


def test_options_are_on_the_card_and_in_words(table):
    options = ("--prior=E=1.7:0.02,alpha=0.35:0.05", "--objective=student:5", "--weights=seeds")
    code, out, _ = scaling("fit", table, *options)
    assert code == 0 and "normal priors (mean ± sd): E = 1.7 ± 0.02, alpha = 0.35 ± 0.05" in out
    assert "objective student:5" in out and "rows weighted by seeds" in out
    made = printed(table, *options)
    assert made.priors == {"E": (1.7, 0.02), "alpha": (0.35, 0.05)} and made.objective.name == "student:5"
    assert made.weights is not None and made.weights.name == "seeds" and len(made.weights.sizes) == 6
    assert len(made.runs.columns["weight"]) == len(made.runs) == 60
    assert printed(table, "--objective=raw:student").objective.name == "raw:student"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--prior=E=1", "prior = E=1: must be NAME=MEAN:SD"),
        ("--prior=E=1:0", "SD above zero"),
        ("--prior=A=-1:1", "MEAN:SD within the bounds"),
        ("--prior=gamma=1:1", "law chinchilla has E"),
        ("--prior=E=1:1 --fixed=E=1", "a prior or a value, not both"),
        ("--fixed=E=1.7,A=400,B=400,alpha=0.3,beta=0.3", "leaves nothing of law chinchilla to fit"),
        ("--scheme=best", "choose one of auto, likelihood-t"),
        ("--seed=-1", "seed = -1"),
        ("--weights=seed2", "is no column"),
        ("--weights=seed", "needs a positive finite weight"),
        ("--objective=student:0", "nu from 1 to 1000"),
        ("--warmup=5", "is for laws of learning curves"),
        ("--columns=z=N", "columns = z=N: choose one of N, D, C, loss"),
        ("--columns=D=tokens", "choose one of N, D, seed, loss"),
        ("--law=power_floor", "say which of them is x, such as power_floor:C"),
        ("--law=multi_power", "no column step"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(table, options, words):
    code, _, err = scaling("fit", table, *options.split())
    assert code == 2 and err.count("\n") == 1 and words in err, err


# --- Student's t


def test_students_loss_is_minus_the_log_density_and_its_scale_the_likelihoods():
    r, nu, s = np.linspace(-3, 3, 13), 4.0, 0.7
    cost = (nu + 1) / (nu * s * s) * student(r, s * np.sqrt(nu))[0]
    np.testing.assert_allclose(cost, stats.t.logpdf(0, nu, scale=s) - stats.t.logpdf(r, nu, scale=s), atol=1e-12)
    rho, psi, bend = student(r, 1.3)
    for up, by in ((rho, psi), (psi, bend)):
        step = (student(r + 1e-6, 1.3)[0 if up is rho else 1] - student(r - 1e-6, 1.3)[0 if up is rho else 1]) / 2e-6
        np.testing.assert_allclose(step, by, atol=1e-8)
    sample = 0.02 * np.random.default_rng(0).standard_t(4, 400)
    best: Any = optimize.minimize_scalar(lambda u: -stats.t.logpdf(sample, 4, scale=np.exp(u)).sum(), bounds=(-8, 0))
    assert t_scale(sample, 0, 4.0) == pytest.approx(np.exp(best.x), rel=1e-3)


def test_the_student_fit_is_the_likelihoods_maximum_and_holds_outliers_down():
    table = grid(1)
    loss = table["loss"].to_numpy().copy()
    loss[[3, 17]] *= 1.3
    found = estimate(LAW, table, loss, objective("student"))
    s = found.delta / 2

    def likelihood(theta):
        return stats.t.logpdf(np.log(loss) - np.log(LAW.predict(theta, table)), 4, scale=s).sum()

    best = likelihood(found.theta)
    for i in range(5):
        for factor in (0.999, 1.001):
            beside = found.theta.copy()
            beside[i] *= factor
            assert likelihood(beside) < best
    clean = estimate(LAW, table, table["loss"], objective("student")).theta
    squares = estimate(LAW, table, loss, objective("squares")).theta
    assert abs(found.theta[4] - clean[4]) < 0.2 * abs(squares[4] - clean[4])


def test_intervals_under_student_noise_are_no_wider_than_under_squares():
    rng = np.random.default_rng(5)
    table = grid(noise=0.0)
    table["loss"] *= np.exp(0.004 * rng.standard_t(2.5, len(table)))
    table["stem"] = np.arange(len(table))
    runs = from_frame(table)
    found = {k: fit(runs, objective=k).intervals["alpha"] for k in ("student", "squares")}
    assert width(found["student"]) < width(found["squares"])


# --- weights


def test_moderated_variances_are_those_of_the_prior_that_drew_them():
    rng = np.random.default_rng(0)
    df = np.full(40_000, 3)
    true = 6 * 0.01**2 / rng.chisquare(6, 40_000)
    d0, s0 = replicates.moderation(true * rng.chisquare(3, 40_000) / 3, df)
    assert d0 == pytest.approx(6, rel=0.05) and s0 == pytest.approx(1e-4, rel=0.02)
    assert np.isinf(replicates.moderation(np.full(50, 1e-4), df[:50])[0])


def test_weights_from_seeds_favour_the_quiet_sizes_and_tighten_what_they_hold():
    rng = np.random.default_rng(2)
    table = grid(noise=0.0, seeds=4)
    sd = np.where(table["N"] > 1e8, 0.001, 0.02)
    table["loss"] *= np.exp(sd * rng.standard_normal(len(table)))
    table["stem"] = np.arange(len(table))
    runs = from_frame(table)
    flat, weighted = fit(runs), fit(runs, weights="seeds")
    weights = weighted.card.weights
    assert weights is not None and weights.by == "N"
    quiet = [size.weight for size in weights.sizes if size.value > 1e8]
    assert min(quiet) > 50 * max(size.weight for size in weights.sizes if size.value < 1e8)
    assert width(weighted.intervals["beta"]) < 0.6 * width(flat.intervals["beta"])
    assert weighted.intervals["beta"].lo < 0.28 < weighted.intervals["beta"].hi
    assert "heteroscedastic" in codes(flat)
    column = fit(from_frame(table.assign(precision=1 / sd**2)), weights="precision")
    assert column.params["beta"] == pytest.approx(weighted.params["beta"], abs=0.003)


def test_weights_within_a_cell_leave_the_noise_between_seeds_what_it_is():
    """Replicates of unlike weight: their difference is noise, and no difference of what they are multiplied by."""
    table = grid(3, seeds=6)
    table["weight"] = np.random.default_rng(4).choice([0.5, 2.0], len(table))
    for stems in ("run", "seed and size"):
        table["stem"] = np.arange(len(table)) if stems == "run" else table["seed"] * 1e12 + table["N"]
        plain, weighted = (fit(from_frame(table), weights=name).noise for name in ("none", "weight"))
        for found in (plain, weighted):
            assert found.pure_error.sd == pytest.approx(0.005, rel=0.35) and found.pure_error.df == 150
            assert found.lack_of_fit.p > 0.001


def test_equal_weights_change_nothing():
    table = grid().assign(one=7.0)
    runs = from_frame(table)
    one, none = (fit(runs, weights=name, scheme="delta-t") for name in ("one", "none"))
    np.testing.assert_allclose(one.draws, none.draws, rtol=1e-6)


def test_the_evaluation_error_is_on_the_card_once():
    plain = from_frame(grid())
    noted = dataclasses.replace(plain, table=plain.table.assign(loss_se=0.004))
    one, two = fit(plain), fit(noted)
    assert one.card.evaluation is None
    assert two.card.evaluation is not None and two.card.evaluation.se == pytest.approx(0.004)
    np.testing.assert_array_equal(one.draws, two.draws)


# --- several laws on one table


@pytest.mark.system
def test_several_laws_of_a_table_are_compared(table):
    laws_ = "--law=chinchilla,chinchilla[beta=alpha],product"
    code, out, err = scaling("fit", table, laws_, "--out=cards")
    assert code == 0 and "rolling CRPS" in out, err
    again = json.loads(scaling("fit", table, laws_, "--out=cards", "--json")[1])
    ranks = again["ranks"]
    assert [row["law"] for row in ranks][-1] == "product" and ranks[0]["delta_aicc"] == 0 < ranks[-1]["delta_aicc"]
    assert all(row["rolling_crps"] > 0 and row["loo_rms"] > 0 for row in ranks) and len(again["fits"]) == 3
    assert scaling("fit", table, "--law=chinchilla,chinchila")[0] == 2


def test_a_star_marks_the_number_that_is_not_identified_and_no_other():
    found, cell = fit(from_frame(grid())), Interval(value=0.5, lo=0.1, hi=0.9)
    flag = card.NotIdentified(parameter="E", why="floor")
    several = card.SeveralOptima(count=2, ranges={})
    marked = msgspec.structs.replace(
        found.card,
        params={**found.card.params, "E": cell},
        derived=card.Derived(a=cell, b=cell),
        warnings=(flag, several),
    )
    one = dataclasses.replace(found, card=marked)
    shown = {name: column(one) for name, column in fit_verb.FIT_COLUMNS.items() if name[0] in "fa"}
    assert shown == {"floor": "0.5 [0.1, 0.9]*", "a (N_opt ~ C^a)": "0.5 [0.1, 0.9]"}


# --- one variable, any column


@pytest.mark.parametrize(
    ("header", "arguments", "law"),
    [
        ("C,loss", "", "power_floor:C"),
        ("C,loss", "--columns=x=C,loss=loss", "power_floor:C"),
        ("params,val_loss", "", "power_floor:N"),
        ("N,loss", "--law=power_floor:N", "power_floor:N"),
        ("gpu-hours,val_loss", "", "power_floor:gpu-hours"),
        ("gpu-hours,error", "--columns=x=gpu-hours,loss=error", "power_floor:gpu-hours"),
    ],
)
def test_two_columns_are_enough_for_a_law_of_one_variable(tmp_path, monkeypatch, header, arguments, law):
    monkeypatch.chdir(tmp_path)
    x = np.geomspace(1e5, 1e9, 10)
    rows = [f"{v},{1.5 + 40 * v**-0.3}" for v in x]
    (tmp_path / "two.csv").write_text("\n".join([header, *rows]))
    options = arguments if "--law" in arguments else f"--law=power_floor {arguments}"
    found = printed("two.csv", *options.split())
    assert found.law == law and found.params["a"].value == pytest.approx(0.3, rel=1e-5)


def test_compute_of_a_table_of_n_and_d_is_a_column_too(table):
    assert printed(table, "--law=power_floor:C").law == "power_floor:C"
    assert "or fit a law of one variable" in scaling("fit", _only(table, "N"))[2]


def _only(table: str, column: str) -> str:
    pd.read_csv(table)[[column, "loss"]].to_csv("only.csv", index=False)
    return "only.csv"


# --- learning curves


def schedules() -> dict[str, np.ndarray]:
    t = np.arange(3000)
    rise = np.minimum((t + 1) / 100, 1.0) * 3e-4
    return {
        "constant": rise,
        "cosine": rise * (0.55 + 0.45 * np.cos(np.pi * t / 3000)),
        "step": rise * np.where(t > 1500, 0.3, 1.0),
        "wsd": rise * np.where(t < 2000, 1, 1 - (t - 2000) / 1100),
        "short": rise[:1500] * (0.55 + 0.45 * np.cos(np.pi * t[:1500] / 1500)),
    }


def planted(law, noise: float = 0.0) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """{run: (rate of every step, logged steps, losses)}."""
    rng, out = np.random.default_rng(0), {}
    for name, rate in schedules().items():
        at = np.arange(200, len(rate), 100)
        columns = law.curve(rate, at, 99)
        out[name] = rate, at, law.predict(law.example, columns) * np.exp(noise * rng.standard_normal(len(at)))
    return out


@pytest.mark.parametrize("name", ["annealing", "multipower"])
def test_a_law_of_curves_is_fitted_from_the_shell_on_rows_of_arrays(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    law = laws.get(name)
    rows = [
        {"run": run, "learning_rate": rate.tolist(), "step": at.tolist(), "loss": loss.tolist()}
        for run, (rate, at, loss) in planted(law).items()
    ]
    asked, table = ("multi_power", "curves.parquet") if name == "multipower" else (name, "curves.jsonl")
    if table == "curves.parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame(rows).to_parquet(table)
    else:
        (tmp_path / table).write_text("\n".join(json.dumps(row) for row in rows))
    code, out, err = scaling("fit", table, f"--law={asked}", "--objective=squares", "--out=fit.json")
    assert code == 0 and "intervals by jackknife-t" in out, err
    found = read_card("fit.json")
    assert found.law == name and found.scheme.df == 4 and found.data.rows == sum(len(r["loss"]) for r in rows)
    for key, cell in found.params.items():
        assert cell.value == pytest.approx(law.example[key], rel=0.05), key


def test_a_long_table_of_curves_is_fitted_with_its_runs_as_clusters(tmp_path):
    law = laws.get("annealing")
    made = planted(law, 0.002)
    parts = [
        pd.DataFrame({"curve": run, "step": np.arange(len(rate)), "lr": rate, "loss": np.nan}).assign(
            loss=lambda t, at=at, loss=loss: pd.Series(loss, index=at).reindex(t["step"]).to_numpy()
        )
        for run, (rate, at, loss) in made.items()
    ]
    logged = pd.concat(
        [p[(p["step"] % 50 == 0) | (p["step"] < 101)].assign(loss=lambda t: t["loss"].ffill().bfill()) for p in parts]
    )
    logged = logged[(logged["step"] % 100 == 0)]
    logged.to_csv(tmp_path / "long.csv", index=False)
    columns = {"run": "curve", "learning_rate": "lr"}
    runs = load(tmp_path / "long.csv", law="annealing", columns=columns)
    assert {(row.why, row.detail) for row in runs.dropped} <= {("warmup", "1")}
    assert set(runs.table["stem"]) == set(made)
    found = fit(runs, "annealing")
    assert found.card.scheme.name == "jackknife-t" and found.card.influence[0].run in made
    again = load(tmp_path / "long.csv", law="annealing", columns=columns, where="curve != 'short'")
    assert len(set(again.table["run"])) == 4


def test_the_warm_up_that_a_table_lacks_is_given_or_named(tmp_path):
    law = laws.get("multipower")
    rate = schedules()["wsd"]
    at = np.arange(200, 3000, 100)
    exact = curves.multipower_columns(rate, at)
    frame = pd.DataFrame({"step": at, "lr": rate[at], "loss": 3.0 - 1e-4 * at})
    late = from_frame(frame, law=law)
    assert late.warnings == (card.CurveStartsLate(runs=("run",), first_step=200),)
    told = from_frame(frame, law=law, warmup=100)
    assert not told.warnings
    miss = [np.abs(np.asarray(t.table["S1"]) / exact["S1"] - 1).max() for t in (late, told)]
    assert miss[1] < 1e-2 < 0.1 < miss[0]
    with refuses(Code.CONFLICT, "warmup", 500) as caught:
        from_frame(frame, law=law, warmup=500)
    assert "was logged from step 200" in caught.value.remedy


@pytest.mark.parametrize(
    ("row", "code", "field", "value"),
    [
        (
            {"step": [1, 2], "learning_rate": [1e-3, 1e-3], "loss": [3.0]},
            Code.INVALID,
            "row 1",
            "2 steps and 1 losses",
        ),
        (
            {"step": [1, 2], "learning_rate": [1e-3] * 1 + [0.1] * 2, "loss": [3.0, -1.0]},
            Code.INVALID,
            "row 1, entry 2, column loss",
            "-1.0",
        ),
        (
            {"step": [1, 9], "learning_rate": [1e-3] * 5, "loss": [3.0, 2.0]},
            Code.INVALID,
            "row 1",
            "5 learning rates",
        ),
        (
            {"step": [1, 1], "learning_rate": [1e-3, 1e-3], "loss": [3.0, 2.0]},
            Code.CONFLICT,
            "step",
            "1 of run row 1",
        ),
        (
            {"step": [1, 2], "learning_rate": ["a", "b"], "loss": [3.0, 2.0]},
            Code.INVALID,
            "row 1, column learning_rate",
            "['a', 'b']",
        ),
        (
            {"step": [1, 2.5], "learning_rate": [1e-3, 1e-3], "loss": [3.0, 2.0]},
            Code.INVALID,
            "row 1, entry 2, column step",
            "2.5",
        ),
        (
            {"step": [1, 2], "learning_rate": [0.0, 0.0], "loss": [3.0, 2.0]},
            Code.INVALID,
            "learning_rate",
            "0 in all of run row 1",
        ),
    ],
)
def test_bad_curves_are_named(row, code, field, value):
    with refuses(code, field, value):
        from_frame(pd.DataFrame([row]), law="annealing")


# --- two runs on the same documents


def run_on_documents(folder, name, losses, role="fit", status="done"):
    count = np.full(len(losses), 50)
    ids = tuple(f"d{i}" for i in range(len(losses)))
    documents = Documents(id=ids, sum=tuple((losses * count).tolist()), count=tuple(count.tolist()))
    evaluation = {"loss": Evaluation(value=1.0, count=1, se=0.1, documents=documents)}
    ended = handmade.result(status=status, evaluation=evaluation)
    return handmade.write(folder, handmade.manifest(name, role=role), ended).path


def test_documents_that_are_hard_for_both_cancel(tmp_path):
    rng = np.random.default_rng(0)
    hard = 3 + 0.5 * rng.standard_normal(400)
    one, two = hard + 0.02 * rng.standard_normal(400), hard - 0.01 + 0.02 * rng.standard_normal(400)
    a, b = run_on_documents(tmp_path, "a", one), run_on_documents(tmp_path, "b", two)
    found = paired.difference(a, b)
    assert found.difference.value == pytest.approx(np.mean(one - two), abs=1e-9)
    assert found.se == pytest.approx(np.std(one - two, ddof=1) / 20, rel=1e-9)
    assert found.se_unpaired == pytest.approx(np.hypot(one.std(ddof=1), two.std(ddof=1)) / 20, rel=1e-9)
    assert found.se_unpaired > 15 * found.se and found.correlation is not None and found.correlation > 0.99
    code, out, _ = scaling("compare", a, b)
    assert code == 0 and "paired over 400 documents" in out
    out = scaling("compare", a, b, "--json")[1]
    assert msgspec.json.decode(out, type=paired.PairedDifference) == found


def test_runs_that_cannot_be_paired_are_refused(tmp_path):
    losses = np.linspace(2, 3, 20)
    a, short = run_on_documents(tmp_path, "a", losses), run_on_documents(tmp_path, "short", losses[:10])
    held = run_on_documents(tmp_path, "held", losses, role="holdout")
    failed = run_on_documents(tmp_path, "failed", losses, status="failed")
    for other, words in ((short, "same documents"), (held, "no forecast of it is sealed"), (failed, "is not finished")):
        code, _, err = scaling("compare", a, other)
        assert code == 2 and err.count("\n") == 1 and words in err, err
    assert "is not a run directory" in scaling("compare", a, tmp_path)[2]
    assert "give two run directories" in scaling("compare", a, a, a)[2]


def test_the_outer_exponent_of_chinchilla_is_one_where_there_is_none():
    table = grid(noise=0.0)
    found = estimate(laws.get("chinchilla_outer"), table, table["loss"], objective("squares"))
    np.testing.assert_allclose(found.theta, [*LAW.vector(LAW.example), 1.0], rtol=1e-4)


@pytest.mark.system
def test_best_learning_rate_and_regret_of_a_law_that_holds_it(tmp_path):
    """predict on a card of lr_loss: N and D at the best rate, that rate, and what another one costs."""
    law, rng = laws.get("lr_loss"), np.random.default_rng(0)
    n, d, off = np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 3), [0.5, 1.0, 2.0], indexing="ij")
    table = pd.DataFrame({"N": n.ravel(), "D": d.ravel()})
    table["learning_rate"] = 2.0 * table["N"] ** -0.7 * table["D"] ** 0.3 * off.ravel()
    theta = np.array([law.example[name] for name in law.names])
    table["loss"] = law.predict(theta, table) * np.exp(0.003 * rng.standard_normal(len(table)))
    table.to_csv(tmp_path / "lr.csv", index=False)
    assert scaling("fit", tmp_path / "lr.csv", "--law=lr_loss", f"--out={tmp_path / 'lr.json'}")[0] == 0
    ask = ("predict", tmp_path / "lr.json", "--flops=1e20")
    found = json.loads(scaling(*ask, "--learning_rate=0.004", "--json")[1])
    best = 2.0 * found["N"]["value"] ** -0.7 * found["D"]["value"] ** 0.3
    rate, regret = found["learning_rate"]["best"], found["learning_rate"]["regret"]
    assert rate["lo"] < best < rate["hi"] and rate["hi"] / rate["lo"] < 1.3
    assert regret["lo"] < np.expm1(0.02 * np.log(0.004 / best) ** 2) < regret["hi"] and regret["lo"] > 0
    far = [*ask[:2], "--flops=1e22", "--json"]
    held, off = json.loads(scaling(*far)[1]), json.loads(scaling(*far, "--discrepancy=off")[1])
    assert held["discrepancy"]["e_folds_beyond"] > 0 and off["discrepancy"] is None
    assert off["loss"]["hi"] - off["loss"]["lo"] < 0.9 * (held["loss"]["hi"] - held["loss"]["lo"])
    code, _, said = scaling(*ask, "--learning_rate=-1")
    assert code == 2 and "must be positive" in said and said.count("\n") == 1
