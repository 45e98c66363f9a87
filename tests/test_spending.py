"""Budgets with a condition, against closed forms and brute force."""

import handmade
import msgspec
import numpy as np
import pandas as pd
import pytest
from refusals import refuses

from analysis import laws
from analysis.card import Throughput
from analysis.decide.allocate import optimal
from analysis.decide.spending import (
    Budget,
    FixedRatio,
    Inference,
    MaxParams,
    Repeats,
    Spending,
    UniqueTokens,
    measured,
    spend,
)
from analysis.fitting import fit
from analysis.table.runs import from_frame
from scaling.errors import Code

E, A, B, ALPHA, BETA = 1.8, 480.0, 2000.0, 0.35, 0.37
C = 1e21


def loss(n, d):
    return E + A / n**ALPHA + B / d**BETA


@pytest.fixture(scope="module")
def fitted():
    n, d = np.meshgrid(np.geomspace(5e7, 2e9, 6), np.geomspace(5e8, 4e10, 5))
    noise = np.exp(1e-4 * np.random.default_rng(0).standard_normal(30))
    frame = {"N": n.ravel(), "D": d.ravel(), "loss": loss(n.ravel(), d.ravel()) * noise}
    return fit(from_frame(pd.DataFrame(frame)))


def test_a_cap_that_binds_and_one_that_does_not(fitted):
    free = optimal(fitted, flops=C)
    loose = spend(fitted, Budget(flops=C, max_params=1e12))
    assert loose.N == free.N and loose.cost_of_condition == 0 and loose.condition == MaxParams(binds=False)
    tight = spend(fitted, Budget(flops=C, max_params=5e8))
    assert tight.condition == MaxParams(binds=True) and tight.condition.mode == "max_params"
    assert tight.N.value == pytest.approx(5e8) and tight.D.value == pytest.approx(C / 6 / 5e8)
    best = free.N.value
    rise = loss(5e8, C / 6 / 5e8) / loss(best, C / 6 / best) - 1
    assert tight.cost_of_condition == pytest.approx(rise, rel=0.1)
    assert msgspec.json.decode(msgspec.json.encode(tight), type=Spending) == tight


def test_device_hours_of_a_table_with_the_speed_of_its_runs():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(5e7, 2e9, 6), np.geomspace(5e8, 4e10, 5)))
    frame = pd.DataFrame({"N": n, "D": d, "loss": loss(n, d), "tps": 1e14 / 6 / n})
    frame.loc[0, "tps"] = np.nan
    made = fit(from_frame(frame, columns={"tokens_per_second": "tps"}))
    speed = made.card.throughput
    assert speed is not None
    np.testing.assert_allclose(np.array(speed.N) * speed.tokens_per_second, 1e14 / 6)
    hours = C / 1e14 / 3600
    got, plain = spend(made, Budget(device_hours=hours, throughput=speed)), optimal(made, flops=C)
    assert got.N.value == pytest.approx(plain.N.value, rel=1e-3)
    without = fit(from_frame(frame.drop(columns="tps")))
    assert without.card.throughput is None
    with refuses(Code.MISSING, "device_hours", hours):
        spend(without, Budget(device_hours=hours))


def test_a_given_ratio(fitted):
    got = spend(fitted, Budget(flops=C, tokens_per_parameter=200))
    assert got.condition == FixedRatio()
    assert got.tokens_per_parameter.value == pytest.approx(200)
    assert got.N.value == pytest.approx(np.sqrt(C / 6 / 200)) and got.N.lo == got.N.hi
    assert got.loss.lo < got.loss.value < got.loss.hi and got.cost_of_condition > 0


def test_scarce_data_without_a_law_of_repeats(fitted):
    got = spend(fitted, Budget(flops=C, unique_tokens=5e9))
    assert got.condition == UniqueTokens(binds=True) and got.D.value == pytest.approx(5e9)
    assert got.N.value == pytest.approx(C / 6 / 5e9)
    plenty = spend(fitted, Budget(flops=C, unique_tokens=1e13))
    assert plenty.condition == UniqueTokens(binds=False) and plenty.N == optimal(fitted, flops=C).N


@pytest.mark.system
def test_scarce_data_under_the_law_of_repeats():
    law = laws.get("repeats")
    theta = law.vector({"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.4, "R_N": 5.3})

    n, d, u = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 4), np.geomspace(1e9, 3e11, 4), [1e9, 1e10]))
    frame = pd.DataFrame({"N": n, "D": np.maximum(d, u), "U": u})
    runs = from_frame(frame.assign(loss=law.predict(theta, frame)), law="repeats")
    known = fit(runs, "repeats", fixed={name: float(v) for name, v in zip(law.names, theta) if name != "E"})
    got = spend(known, Budget(flops=C, unique_tokens=2e9))
    n = np.geomspace(1e8, 1e10, 20001)
    brute = n[np.argmin(law.predict(theta, {"N": n, "D": C / 6 / n, "U": np.full(len(n), 2e9)}))]
    assert got.N.value == pytest.approx(brute, rel=0.01)
    assert isinstance(got.condition, Repeats) and got.condition.epochs == pytest.approx(got.D.value / 2e9)
    assert got.condition.epochs > 1.5 and got.unconstrained is None
    with refuses(Code.MISSING, "law", "repeats"):
        spend(known, Budget(flops=C, max_params=1e9))


@pytest.mark.parametrize("served", [1e9, 1e12])
def test_a_life_of_inference_against_brute_force(fitted, served):
    got = spend(fitted, Budget(flops=C, inference_tokens=served))
    free = optimal(fitted, flops=C)
    goal = loss(free.N.value, free.D.value)
    n = np.geomspace(free.N.value / 100, free.N.value * 1.5, 200001)
    room = goal - E - A / n**ALPHA
    d = np.where(room > 0, (B / np.maximum(room, 1e-12)) ** (1 / BETA), np.inf)
    life = 6 * n * d + 2 * n * served
    i = int(np.argmin(life))
    assert got.N.value == pytest.approx(n[i], rel=0.03) and got.D.value == pytest.approx(d[i], rel=0.05)
    plain = 6 * free.N.value * free.D.value + 2 * free.N.value * served
    assert isinstance(got.condition, Inference)
    assert got.condition.saving == pytest.approx(1 - life[i] / plain, abs=0.01)
    assert got.loss.value == pytest.approx(goal, rel=0.002) and got.flops.value >= C * 0.99


def test_device_hours_follow_the_measured_speed(fitted):
    """Speed that falls as 1/N is plain compute; a speed that saturates for small models makes larger ones cheaper."""
    n = np.geomspace(5e7, 2e9, 6)

    def spent(speed):
        throughput = Throughput(N=tuple(n), tokens_per_second=tuple(speed))
        return spend(fitted, Budget(device_hours=C / 1e15 / 3600, throughput=throughput))

    got = spent(1e15 / (6 * n))
    free = optimal(fitted, flops=C)
    assert got.N.value == pytest.approx(free.N.value, rel=1e-3)
    assert got.flops.value == pytest.approx(C, rel=1e-3)
    fewer = spent(1e15 / (6 * n) * np.minimum(1, (n / 5e9) ** 0.3))
    assert fewer.flops.value < C
    assert fewer.tokens_per_parameter.value < free.tokens_per_parameter.value * 1.02


def test_measured_speed_of_a_study(tmp_path):
    for run, size, speed in (("a", 1000, 50.0), ("b", 1000, 70.0), ("c", 4000, 20.0)):
        handmade.write(tmp_path, handmade.manifest(run, n=size), handmade.result(tokens_per_second=speed))
    assert measured(tmp_path, "text") == Throughput(N=(1000.0, 4000.0), tokens_per_second=(60.0, 20.0))
    with refuses(Code.MISSING, "device_hours", tmp_path):
        measured(tmp_path, "other")


@pytest.mark.parametrize(
    ("asked", "code", "field", "value"),
    [
        ({}, Code.CONFLICT, "predict", "nothing"),
        ({"flops": C, "device_hours": 1.0}, Code.CONFLICT, "predict", "flops, device_hours"),
        ({"flops": C, "max_params": -1.0}, Code.INVALID, "max_params", -1.0),
        (
            {"flops": C, "max_params": 1e9, "unique_tokens": 1e9},
            Code.CONFLICT,
            "predict",
            "max_params, unique_tokens",
        ),
        ({"device_hours": 1.0}, Code.MISSING, "device_hours", 1.0),
        ({"flops": 1e30, "max_params": 1e9}, Code.BEYOND, "extrapolation", "1e+30 FLOPs"),
    ],
)
def test_bad_questions(fitted, asked, code, field, value):
    with refuses(code, field, value):
        spend(fitted, Budget(**asked))
