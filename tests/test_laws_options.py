"""Parameters held, tied or with a prior; residuals of the loss itself; what single laws answer beyond their loss."""

import numpy as np
import pytest
from law_tables import columns_of, runs_of
from refusals import refuses

from analysis import laws
from analysis.engine.estimate import estimate, objective
from analysis.fitting import fit, load_fit
from analysis.laws import curves, hyper
from scaling.errors import Code, UserError

SQUARES = objective("squares")


def noisy(law, noise=0.004, n=60, seed=0):
    columns = columns_of(law, n, seed)
    return columns, law.predict(law.example, columns) * np.exp(noise * np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize("ties", ["beta=alpha", "beta=0.8*alpha", "alpha=1.25*beta"])
def test_tied_exponents_fit_as_well_as_the_best_pair_on_that_line(ties):
    free = laws.get("chinchilla")
    tied = laws.get(f"chinchilla[{ties}]")
    columns, loss = noisy(free)
    found = estimate(tied, columns, loss, SQUARES)
    factor = {"beta=alpha": 1.0}.get(ties, 0.8)
    kept = "beta" if ties.startswith("alpha") else "alpha"
    value = found.theta[tied.names.index(kept)]
    alpha, beta = (value / factor, value) if kept == "beta" else (value, factor * value)
    held = estimate(free, columns, loss, SQUARES, fixed={"alpha": alpha, "beta": beta})
    assert found.value == pytest.approx(held.value, rel=1e-8)
    for shift in (-0.02, 0.02):
        step = 1 + shift
        beside = estimate(free, columns, loss, SQUARES, fixed={"alpha": alpha * step, "beta": beta * step})
        assert beside.value > held.value
    pair = tied.exponents(found.theta)
    assert pair is not None and pair["a"][0] == pytest.approx(factor / (1 + factor))


@pytest.mark.system
def test_a_tied_fit_is_saved_and_read_again(tmp_path):
    runs = runs_of(laws.get("chinchilla"), noise=0.003, n=60)
    found = fit(runs, "chinchilla[beta=alpha]")
    found.save(tmp_path / "fit.json")
    back = load_fit(tmp_path / "fit.json")
    assert "beta" not in back.params and back.law.name == "chinchilla[beta=alpha]"
    np.testing.assert_array_equal(
        back.predict({"N": [1e8], "D": [1e10]}).hi, found.predict({"N": [1e8], "D": [1e10]}).hi
    )
    assert back.intervals["a"].value == pytest.approx(0.5)


def test_a_name_with_ties_and_a_column_is_read_back():
    """The name on a card is the one that was asked for, and gives the same law again."""
    law = laws.get("bnsl1[c1=2*c0]:C")
    assert law.name == "bnsl1[c1=2*c0]:C" and law.columns == ("C",) and "c1" not in law.names
    theta = {"a": 1.0, "b": 5.0, "c0": 0.1, "d1": 1e6, "f1": 0.5}
    free = laws.get("bnsl1").predict({**theta, "c1": 0.2}, {"x": [1e5, 1e7]})
    np.testing.assert_allclose(laws.get(law.name).predict(theta, {"C": [1e5, 1e7]}), free)


@pytest.mark.parametrize(
    "text",
    ["beta=E", "beta", "gamma=alpha", "A=B", "beta=beta", "beta=e*alpha", "beta=1.2.3*alpha"],
)
def test_what_cannot_be_tied_is_refused(text):
    with refuses(Code.INVALID, "tie", text):
        laws.get(f"chinchilla[{text}]")


@pytest.mark.parametrize("text", ["beta=alpha,alpha=beta", "beta=alpha,beta=0.5*alpha"])
def test_ties_that_exclude_each_other_are_refused(text):
    with refuses(Code.CONFLICT, "tie"):
        laws.get(f"chinchilla[{text}]")


@pytest.mark.parametrize("fixed", [{"alpha_N": 0.076}, {"Nc": 8.8e13}, {"alpha_D": 0.1}, {"alpha_N": 0.08, "Dc": 4e13}])
def test_kaplans_own_parameters_can_be_held(fixed):
    law = laws.get("kaplan")
    columns, loss = noisy(law)
    free, held = estimate(law, columns, loss, SQUARES), estimate(law, columns, loss, SQUARES, fixed=fixed)
    for name, value in fixed.items():
        assert held.theta[law.index(name)] == pytest.approx(value, rel=1e-9)
    assert free.value <= held.value * (1 + 1e-9)
    # with the value that the free fit found, nothing is lost
    same = estimate(law, columns, loss, SQUARES, fixed={"alpha_N": float(free.theta[2])})
    assert same.value == pytest.approx(free.value, rel=1e-6)


def test_the_outer_exponent_of_kaplan_is_free_and_that_of_distillation_too():
    for name, outer in (("kaplan", "alpha_D"), ("distillation", "gamma")):
        law = laws.get(name)
        columns, loss = noisy(law, 0.0)
        assert estimate(law, columns, loss, SQUARES).theta[law.index(outer)] == pytest.approx(
            law.example[outer], rel=1e-6
        )


def test_a_prior_pulls_between_data_and_itself():
    law = laws.get("chinchilla")
    columns, loss = noisy(law, 0.02, 24)
    free = estimate(law, columns, loss, SQUARES).theta[0]
    weak = estimate(law, columns, loss, SQUARES, priors={"E": (1.2, 100.0)}).theta[0]
    some = estimate(law, columns, loss, SQUARES, priors={"E": (1.2, 0.1)}).theta[0]
    strong = estimate(law, columns, loss, SQUARES, priors={"E": (1.2, 1e-4)}).theta[0]
    assert weak == pytest.approx(free, rel=1e-3) and strong == pytest.approx(1.2, abs=1e-3)
    assert min(free, 1.2) < some < max(free, 1.2)


def test_the_posterior_of_a_linear_law_is_the_conjugate_one():
    """log y = log k + a log x with a normal prior on a: its mean has a closed form, given the noise that is left."""
    law = laws.get("growth:C")
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(0, 3, 40))
    y = 2.0 * x**0.5 * np.exp(0.3 * rng.standard_normal(40))
    log_x = np.log(x) - np.log(x).mean()
    plain = estimate(law, {"C": x}, y, SQUARES)
    mean, sd = 0.2, 0.05
    found = estimate(law, {"C": x}, y, SQUARES, priors={"a": (mean, sd)})
    precision = (log_x**2).sum() / found.scale**2
    expected = (precision * plain.theta[1] + mean / sd**2) / (precision + 1 / sd**2)
    assert found.theta[1] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("name", "amplitude"), [("chinchilla", "A"), ("kaplan", "Nc"), ("repeats", "B")])
def test_a_prior_on_an_amplitude_is_one_on_its_logarithm(name, amplitude):
    """Vague, it changes nothing; sharp, it holds the value; between, it pulls, whatever the data's centre."""
    law, rng = laws.get(name), np.random.default_rng(0)
    columns = {"N": np.geomspace(1e7, 1e9, 6).repeat(5), "D": np.tile(np.geomspace(1e8, 1e10, 5), 6)}
    columns |= {"U": np.full(30, 1e9)} if name == "repeats" else {}
    y = law.predict(law.vector(law.example), columns) * np.exp(0.003 * rng.standard_normal(30))
    i = law.names.index(amplitude)
    free = estimate(law, columns, y, SQUARES).theta[i]
    centre = 1.5 * free
    weak, some, strong = (
        estimate(law, columns, y, SQUARES, priors={amplitude: (centre, share * centre)}).theta[i]
        for share in (1e3, 0.1, 1e-5)
    )
    assert weak == pytest.approx(free, rel=1e-3) and strong == pytest.approx(centre, rel=1e-3)
    assert min(free, centre) < some < max(free, centre)


def test_a_prior_narrows_the_interval_of_a_fit():
    runs = runs_of(laws.get("chinchilla"), noise=0.01, n=30)
    free, held = fit(runs, "chinchilla"), fit(runs, "chinchilla", priors={"E": (1.69, 0.02)})

    def width(f):
        return 2 * f.intervals["E"].half_width

    assert width(held) < 0.8 * width(free) and width(held) < 4.5 * 0.02
    assert held.card.priors == {"E": (1.69, 0.02)}


@pytest.mark.parametrize("priors", [{"A": (-1.0, 1.0)}, {"E": (1.0, 0.0)}, {"E": (-5.0, 1.0)}, {"gamma": (1.0, 1.0)}])
def test_impossible_priors_are_refused(priors):
    law = laws.get("chinchilla")
    with pytest.raises(UserError):
        estimate(law, *noisy(law), SQUARES, priors=priors)


def test_raw_residuals_minimise_the_squares_of_the_loss_itself():
    law = laws.get("chinchilla")
    columns, loss = noisy(law, 0.05, 40)
    raw = estimate(law, columns, loss, objective("raw:squares"))

    def squares(theta):
        return 0.5 * ((loss - law.predict(theta, columns)) ** 2).sum()

    assert raw.value == pytest.approx(squares(raw.theta), rel=1e-9)
    assert squares(raw.theta) < squares(estimate(law, columns, loss, SQUARES).theta)
    for i in range(5):
        for factor in (0.999, 1.001):
            beside = raw.theta.copy()
            beside[i] *= factor
            assert squares(beside) > squares(raw.theta)


def test_raw_and_log_residuals_give_one_card_where_noise_is_small():
    runs = runs_of(laws.get("chinchilla"), noise=0.002, n=45)
    log, raw = (fit(runs, "chinchilla", objective=text).intervals["alpha"] for text in ("squares", "raw:squares"))
    half = log.half_width
    assert abs(raw.value - log.value) < half and abs(raw.half_width - half) < 0.5 * half


def test_weights_are_those_of_a_weighted_line():
    rng = np.random.default_rng(1)
    x, w = np.exp(rng.uniform(0, 5, 30)), rng.uniform(0.1, 10, 30)
    y = np.exp(1 + 0.7 * np.log(x) + 0.2 * rng.standard_normal(30))
    found = estimate(laws.get("growth:C"), {"C": x}, y, SQUARES, w=w)
    slope, cut = np.polyfit(np.log(x), np.log(y), 1, w=np.sqrt(w))
    np.testing.assert_allclose(found.theta, [np.exp(cut), slope], rtol=1e-8)


def test_the_best_learning_rate_and_the_regret_of_a_cell():
    law = laws.get("lr_loss")
    theta = law.vector(law.example)
    cell = {"N": [1e8], "D": [1e10]}
    best = hyper.best_learning_rate(theta, 1e8, 1e10)[0]
    rates = best * np.exp(np.linspace(-1, 1, 401))
    losses = law.predict(theta, {"N": np.full(401, 1e8), "D": np.full(401, 1e10), "learning_rate": rates})
    assert np.argmin(losses) == 200
    share = hyper.regret(theta, {**cell, "learning_rate": [best * 3]})[0]
    assert share == pytest.approx(law.predict(theta, {**cell, "learning_rate": [best * 3]})[0] / losses[200] - 1)


def test_the_critical_batch_is_where_steps_and_examples_double():
    theta = [3000.0, 2e6]
    batch = hyper.critical(theta)[0]
    steps = laws.get("critical_batch").predict(theta, {"batch": [batch]})[0]
    assert steps == pytest.approx(2 * 3000) and steps * batch == pytest.approx(2 * 2e6)
    assert (steps / 3000 - 1) * (steps * batch / 2e6 - 1) == pytest.approx(1)


def test_repeats_of_one_epoch_are_chinchilla_and_many_saturate():
    law, plain = laws.get("repeats"), laws.get("chinchilla")
    theta = law.vector({**law.example, "alpha": 0.34, "beta": 0.3})
    few = {"N": np.array([1e7]), "D": np.array([1e10]), "U": np.array([1e10])}
    np.testing.assert_allclose(law.predict(theta, few), plain.predict(theta[:5], few), rtol=1e-12)
    epochs = np.array([1.0, 4.0, 40.0, 4000.0, 8000.0])
    n, u = np.full(5, 1e7), np.full(5, 1e9)
    losses = law.predict(theta, {"N": n, "D": 1e9 * epochs, "U": u})
    assert (np.diff(losses) <= 0).all() and losses[3] - losses[4] < 1e-9
    fresh = plain.predict(theta[:5], {"N": n, "D": 1e9 * epochs})
    assert losses[1] / fresh[1] - 1 < 0.02 < losses[2] / fresh[2] - 1


def test_overtraining_is_chinchilla_with_equal_exponents():
    law, plain = laws.get("overtraining"), laws.get("chinchilla")
    columns = columns_of(law)
    E, a, b, eta = law.vector(law.example)
    np.testing.assert_allclose(
        law.predict(law.example, columns), plain.predict([E, a * 6**-eta, b * 6**-eta, 2 * eta, 2 * eta], columns)
    )
    m, c = columns["D"] / columns["N"], 6 * columns["N"] * columns["D"]
    np.testing.assert_allclose(law.predict(law.example, columns), E + (a * m**eta + b * m**-eta) * c**-eta)


def test_merged_drops_of_a_schedule_give_the_loss_of_every_single_one():
    law = laws.get("multipower")
    t = np.arange(4000)
    rate = 3e-4 * np.where(t < 200, (t + 1) / 200, 0.55 + 0.45 * np.cos(np.pi * (t - 200) / 3800))
    at = np.arange(300, 4000, 100)
    exact = law.predict(law.example, curves.multipower_columns(rate, at, bins=5000))
    merged = law.predict(law.example, curves.multipower_columns(rate, at, bins=100))
    p, k = law.example, at[-1]
    span = rate[: k + 1].sum() - np.cumsum(rate)[: k + 1] + rate[: k + 1]
    drop = -np.diff(rate, prepend=rate[0])[: k + 1]
    gain = (drop * (1 - (p["C"] * rate[: k + 1] ** -p["gamma"] * span + 1) ** -p["beta"])).sum()
    by_hand = p["L0"] + p["A"] * rate[: k + 1].sum() ** -p["alpha"] - p["B"] * gain
    assert exact[-1] == pytest.approx(by_hand, rel=1e-12)
    np.testing.assert_allclose(merged, exact, atol=2e-4)


def test_a_law_without_a_loss_at_the_rows_says_so():
    law = laws.get("mixed_modal")
    with refuses(Code.INVALID, "unimodal"):
        law.predict(law.example, {"N": [1e8], "D": [1e9], "unimodal": [np.nan]})


@pytest.mark.parametrize("name", ["repeats", "precision", "lr_loss", "routing", "kaplan"])
def test_fit_and_a_thousand_bootstraps_stay_within_seconds(name):
    import time

    from analysis.engine.estimate import refit

    law = laws.get(name)
    columns, loss = noisy(law, 0.005, 120)
    w = np.random.default_rng(0).multinomial(120, np.full(120, 1 / 120), size=1000).astype(float)
    start = time.process_time()
    point = estimate(law, columns, loss, SQUARES)
    _, done = refit(point, np.log(loss), w=w)
    spent = time.process_time() - start
    assert done.mean() > 0.95
    assert spent < 2 * 4, f"{spent:.2f} CPU-s; the issue asks for 2 on an idle core"
