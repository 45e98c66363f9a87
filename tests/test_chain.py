"""Forecasts in steps: loss to error to pass@k, with the uncertainty of every step."""

import json

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis import laws
from analysis.decide.chain import through
from scaling.cli import main
from scaling.errors import Code

LOSS = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.34, "beta": 0.28}
ERROR = {"eps": 0.95, "k": 6.0, "gamma": 1.1}


def power(noise: float, slope: float, seed: int, rows: int = 300) -> analysis.Fit:
    """A fit of y = 2 x^slope to many rows of one noise of log y, x from 1 to 10."""
    rng = np.random.default_rng(seed)
    x = np.geomspace(1, 10, rows)
    table = pd.DataFrame({"x": x, "loss": 2 * x**slope * np.exp(noise * rng.standard_normal(rows))})
    return analysis.fit(table, "growth", scheme="delta-t", discrepancy="off")


def test_log_errors_of_two_power_laws_add_in_quadrature():
    first, second = power(0.02, -0.3, 0), power(0.03, 2.0, 1)
    step = through(first, {"x": 3.0}, [second]).steps[0]
    truth, sd = 2 * (2 * 3**-0.3) ** 2, np.hypot(2.0 * 0.02, 0.03)
    assert step.value.lo < truth < step.value.hi
    for cell, expected in ((step.value, sd), (step.of_input, 2.0 * 0.02)):
        assert np.log(cell.hi / cell.lo) / 2 == pytest.approx(1.96 * expected, rel=0.12)
    assert step.column == "x" and not step.warnings
    again = through(first, {"x": 3.0}, [second])
    assert again.steps[0] == step  # deterministic
    (below,) = through(first, {"x": 30.0}, [second]).steps[0].warnings  # 0.72, where the second law's x begins at 1
    assert below.nearest == 1.0 and below.ratio == pytest.approx(1 / (2 * 30**-0.3), rel=0.02)


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """Cards of a study of the loss, of an error by the loss, and of problems failed by error and attempts."""
    folder, rng = tmp_path_factory.mktemp("cards"), np.random.default_rng(0)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(3e7, 1e9, 5), np.geomspace(1e9, 5e10, 4)))
    loss = laws.get("chinchilla").predict(LOSS, {"N": n, "D": d}) * np.exp(0.002 * rng.standard_normal(20))
    analysis.fit(pd.DataFrame({"N": n, "D": d, "loss": loss}), scheme="delta-t").save(folder / "loss.json")
    nats = np.linspace(2.2, 4.0, 25)
    error = laws.get("downstream").predict(ERROR, {"x": nats}) * np.exp(0.01 * rng.standard_normal(25))
    table = pd.DataFrame({"nats": nats, "error": error})
    analysis.fit(table, "downstream:nats", columns={"loss": "error"}, scheme="delta-t").save(folder / "error.json")
    one, k = (x.ravel() for x in np.meshgrid(np.linspace(0.3, 0.9, 6), [1.0, 3, 10, 30, 100]))
    failed = laws.get("pass_at_k").predict({"s": 1.2}, {"error": one, "attempts": k})
    table = pd.DataFrame({"error": one, "attempts": k, "loss": failed * np.exp(0.02 * rng.standard_normal(30))})
    analysis.fit(table, "pass_at_k", scheme="delta-t").save(folder / "pass.json")
    return folder


def test_a_loss_becomes_an_error_and_solved_problems(cards):
    first, *steps = (analysis.Fit.load(cards / name) for name in ("loss.json", "error.json", "pass.json"))
    cell = {"N": 6e8, "D": 3e10, "C": 6 * 6e8 * 3e10}
    chain = through(first, cell, steps, attempts=10)
    loss = laws.get("chinchilla").predict(LOSS, {"N": [6e8], "D": [3e10]})[0]
    error = laws.get("downstream").predict(ERROR, {"x": [loss]})[0]
    failed = laws.get("pass_at_k").predict({"s": 1.2}, {"error": [error], "attempts": [10.0]})[0]
    for cell, truth in ((chain.loss, loss), (chain.steps[0].value, error), (chain.steps[1].value, failed)):
        assert cell.lo < truth < cell.hi and cell.hi - cell.lo < 0.3 * truth
    for step in chain.steps:
        assert step.value.half_width > step.of_input.half_width > 0
        assert step.value.lo > 0 and step.value.hi <= 1


def test_from_the_shell(cards, capsys):
    asked = ["predict", f"{cards}/loss.json", "--params=6e8", "--tokens=3e10"]
    through = f"--through={cards}/error.json,{cards}/pass.json"
    assert main([*asked, through, "--attempts=10", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["through"]["steps"]
    assert [step["column"] for step in steps] == ["nats", "error"]
    assert main([*asked, through, "--attempts=10"]) == 0
    assert capsys.readouterr().out.count("  then   ") == 2
    assert main(["predict", f"{cards}/error.json", "--x=3", f"--through={cards}/pass.json", "--attempts=3"]) == 0
    for flags in ([through], ["--attempts=3"], [f"--through={cards}/loss.json"], [f"--through={cards}/none.json"]):
        capsys.readouterr()
        assert main([*asked, *flags]) == 2 and capsys.readouterr().err.count("\n") == 1


def test_refusals(cards):
    first, error, passed = (analysis.Fit.load(cards / name) for name in ("loss.json", "error.json", "pass.json"))
    cell = {"N": 6e8, "D": 3e10, "C": 1e20}
    with refuses(Code.UNSUPPORTED, "through", "chinchilla"):
        through(first, cell, [first])
    with refuses(Code.MISSING, "through", "pass_at_k"):
        through(first, cell, [error, passed])
    with refuses(Code.UNSUPPORTED, "attempts"):
        through(first, cell, [error], attempts=3)
    with refuses(Code.INVALID, "attempts"):
        through(first, cell, [error, passed], attempts=0.5)
