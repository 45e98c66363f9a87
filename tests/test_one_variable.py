"""Forecasts under a law of one variable: the loss at a value of its column."""

import dataclasses
import json
import re

import msgspec
import numpy as np
import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis.card import LackOfFit
from analysis.decide.one_variable import Point, at_value
from analysis.show.allocations import point
from analysis.show.sentences import verdict
from analysis.show.tables import summary
from scaling.cli import main
from scaling.errors import Code

# the minima of a public study's isoFLOP curves, whose next point at 1e23 FLOPs came out at 2.234
MINIMA = pd.DataFrame({"C": [1e18, 3e18, 1e19, 3e19, 1e20, 3e20], "loss": [3.522, 3.339, 3.154, 3.0, 2.848, 2.725]})


@pytest.fixture(scope="module")
def minima():
    return analysis.fit(MINIMA, "power_floor", columns={"x": "C"}, fixed={"E": 1.6})


def test_the_next_point_of_a_public_study(minima):
    got = at_value(minima, 1e23)
    assert msgspec.json.decode(msgspec.json.encode(got), type=Point) == got
    assert got.loss.value == pytest.approx(2.252, abs=0.002) and got.column == "C"
    assert got.loss.lo < 2.234 < got.loss.hi < 2.725  # more compute never makes the best loss worse
    (warning,) = got.warnings
    assert (warning.code, warning.column, warning.held) == ("extrapolation", "C", True)
    assert warning.ratio == pytest.approx(1e23 / 3e20)
    assert got.discrepancy.e_folds_beyond == pytest.approx(np.log(1e23 / 3e20))
    by_column = minima.predict(C=1e23)
    for named in (minima.predict(x=1e23), minima.predict({"x": [1e23]})):
        assert [float(v[0]) for v in named] == [float(v[0]) for v in by_column]
    assert by_column.hi[0] == got.loss.hi
    inside = at_value(minima, 1e19)
    assert inside.warnings == () and inside.loss.hi - inside.loss.lo < 0.02
    far = minima.predict(x=np.array([3e20, 1e22, 1e24, 1e26, 1e28]))
    assert np.all(np.diff(far.hi) < 0) and np.all(far.lo > 0)


def test_a_column_of_another_name_has_a_range_too():
    x = np.geomspace(10, 1000, 8)
    table = pd.DataFrame({"games": x, "loss": 0.4 + 2 * x**-0.5})
    made = analysis.fit(table, "power_floor", columns={"x": "games"})
    assert made.variable == "games"
    assert made.beyond({"games": [5.0, 100.0, 1e4]}) == pytest.approx([np.log(2), 0, np.log(10)])
    got = at_value(made, 1e4)
    assert got.loss.value == pytest.approx(0.42, rel=1e-3) and got.loss.hi - got.loss.lo > 0.02
    assert got.loss.hi < 0.4 + 2 * 1000**-0.5


def test_a_response_that_may_rise_is_not_held_down():
    x = np.geomspace(10, 1000, 8)
    made = analysis.fit(pd.DataFrame({"C": x, "loss": 3 * x**0.5}), "growth", columns={"x": "C"})
    got = at_value(made, 1e4)
    assert got.loss.lo < 300 < got.loss.hi
    assert np.log(got.loss.hi / 300) == pytest.approx(np.log(300 / got.loss.lo), rel=0.2)
    assert (got.quantity, made.discrepancy.of) == ("value", "value")
    said = [*point(got), summary(made)]
    assert any(line.startswith("  value  ") for line in said) and not any("of the loss" in line for line in said)


def test_what_is_given_is_not_said_to_be_identified(minima):
    found = verdict(minima)
    assert "a = 0.094" in found and "E = 1.6" not in found


def test_a_misfit_beyond_the_noise_of_seeds_is_said_in_the_verdict(minima):
    for p in (0.004, 0.4):
        noise = msgspec.structs.replace(minima.noise, lack_of_fit=LackOfFit(F=9.0, df1=3, df2=8, p=p))
        said = verdict(dataclasses.replace(minima, card=msgspec.structs.replace(minima.card, noise=noise)))
        assert f"p = {p}" in said and ("form is rejected" in said) == (p < 0.01)


def test_refusals(minima):
    with refuses(Code.INVALID, "x", -1.0):
        at_value(minima, -1.0)
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    both = analysis.fit(pd.DataFrame({"N": n, "D": d, "loss": 1.7 + 400 * n**-0.34 + 400 * d**-0.28}))
    with refuses(Code.UNSUPPORTED, "x", 1e20):
        at_value(both, 1e20)
    with refuses(Code.UNSUPPORTED, "law", "power_floor:C"):
        minima.optimal(flops=1e23)


def test_from_the_shell(minima, tmp_path, capsys):
    card = str(tmp_path / "fit.json")
    minima.save(card)
    assert main(["predict", card, "--x=1e23", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"]["value"] == pytest.approx(2.252, abs=0.002)
    assert main(["predict", card, "--x=1e23"]) == 0
    shown = re.search(r"loss +(\S+)", capsys.readouterr().out)
    assert shown and float(shown[1]) == pytest.approx(2.252, abs=0.002)
    for wrong in ("--flops=1e23", "--x=1e23 --flops=1e23", "--x=0"):
        assert main(["predict", card, *wrong.split()]) == 2
        assert capsys.readouterr().err.count("\n") == 1
