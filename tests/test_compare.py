"""Laws beside one another: exponents with verdicts, pooling, equal loss on one axis only, refusals with a reason."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import laws
from analysis.decide import compare, design
from analysis.decide.compare import Member
from analysis.fitting import fit
from analysis.table.runs import from_frame
from scaling.cli import main
from scaling.errors import UserError
from scaling.records import write_json

LAW = laws.get("chinchilla")
TRUTH = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


def make(seed, dataset: str | None = "c4", noise=1e-3, law="chinchilla", **change):
    n, d = np.meshgrid(np.geomspace(5e7, 2e9, 6), np.geomspace(5e8, 4e10, 5))
    cells = {"N": n.ravel(), "D": d.ravel()}
    y = LAW.predict(LAW.vector({**TRUTH, **change}), cells)
    y = y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(y)))
    frame = pd.DataFrame({**cells, "loss": y})
    if dataset:
        frame["dataset"] = dataset
    return fit(from_frame(frame), law)


@pytest.fixture(scope="module")
def fits():
    return {
        "one": make(0),
        "two": make(1),
        "steep": make(2, beta=0.6, B=2e5),
        "dear": make(3, A=480 * 1.5, B=2000 * 1.5),
        "vague": make(4, noise=0.05),
        "other": make(5, dataset="pile"),
        "unnamed": make(6, dataset=None),
    }


def test_the_three_verdicts(fits):
    got = compare.compare([Member(k, fits[k]) for k in ("one", "two", "steep", "vague")], margins={"a": 0.1})
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    verdicts = {(p["one"], p["two"]): p["verdict"] for p in got["quantities"]["a"]["pairs"]}
    assert verdicts["one", "two"] == "equal within the margin"
    assert verdicts["one", "steep"] == "different" and verdicts["two", "steep"] == "different"
    assert verdicts["one", "vague"] == "cannot tell"
    pair = got["quantities"]["a"]["pairs"][0]
    assert pair["difference"]["lo"] < pair["equivalence_interval"][0] < pair["equivalence_interval"][1]
    assert "cannot tell (margin 0.1)" in got["verdict"]


def test_a_tiny_difference_can_be_real_and_within_the_margin():
    members = [Member("x", make(0, noise=1e-6)), Member("y", make(1, noise=1e-6, beta=0.3705))]
    (pair,) = compare.compare(members, margins={"beta": 0.05})["quantities"]["beta"]["pairs"]
    assert pair["verdict"] == "different, but within the margin"


def test_the_frontier_exponent(fits):
    # at 99.9 %: one draw of the noise must not fail a right answer
    cells = compare.compare([Member("one", fits["one"]), Member("two", fits["two"])], level=0.999)["quantities"]
    c = 0.35 * 0.37 / 0.72
    assert cells["c"]["members"]["one"]["lo"] <= c <= cells["c"]["members"]["one"]["hi"]
    assert cells["log2_compute_to_halve"]["members"]["one"]["value"] == pytest.approx(1 / c, rel=0.1)


def test_compute_for_equal_loss_against_the_closed_form(fits):
    """A and B 1.5 times as large: the reducible loss at C is 1.5 times, so equal loss takes 1.5^(1/c) the compute."""
    (entry,) = compare.compare([Member("one", fits["one"]), Member("dear", fits["dear"])])["equal_loss"]
    assert entry["status"] == "compared" and entry["rows"]
    truth = 1.5 ** (0.72 / (0.35 * 0.37))
    ratio = entry["rows"][0]["compute_ratio"]
    assert ratio["value"] == pytest.approx(truth, rel=0.1) and ratio["lo"] <= truth <= ratio["hi"]
    (same,) = compare.compare([Member("one", fits["one"]), Member("two", fits["two"])], level=0.999)["equal_loss"]
    assert all(row["compute_ratio"]["lo"] <= 1 <= row["compute_ratio"]["hi"] for row in same["rows"])


@pytest.mark.parametrize(
    ("other", "one", "two", "words"),
    [
        ("other", None, None, "of different data (c4 of one and pile of other)"),
        ("unnamed", None, None, "does not say what its loss was measured on"),
        ("two", "sha a", "sha b", "of different data"),
    ],
)
def test_losses_of_different_things_are_never_on_one_axis(fits, other, one, two, words):
    members = [Member("one", fits["one"], data=one), Member(other, fits[other], data=two)]
    got = compare.compare(members)
    (entry,) = got["equal_loss"]
    assert (
        entry["status"] == "refused" and words in entry["reason"] and entry["reason"].endswith("never put on one axis")
    )
    assert any("exponents" in offer for offer in entry["offers"]) and "rows" not in entry
    assert got["quantities"]["a"]["pairs"]


def test_bits_per_byte_is_an_axis_where_both_are_of_bytes(fits):
    pair = [Member("one", fits["one"], 1.4427), Member("other", fits["other"], 1.4427)]
    (entry,) = compare.compare(pair)["equal_loss"]
    assert entry["status"] == "refused" and any("bits_per_byte" in offer for offer in entry["offers"])
    (entry,) = compare.compare(pair, axis="bits_per_byte")["equal_loss"]
    assert entry["axis"] == "bits per byte" and all(0.5 < r["compute_ratio"]["value"] < 2 for r in entry["rows"])
    bare = [pair[0], Member("other", fits["other"])]
    (entry,) = compare.compare(bare, axis="bits_per_byte")["equal_loss"]
    assert entry["status"] == "refused" and "not known to be a likelihood of bytes" in entry["reason"]


def test_of_several_laws_only_what_means_the_same_is_compared(fits):
    """The slope a of a power of C is not the exponent a of N_opt, nor alpha without a floor that above one."""
    names = ("chinchilla", "kaplan", "power_floor:C", "product_floor")
    members = [Member("one", fits["one"]), *(Member(law, make(20 + i, law=law)) for i, law in enumerate(names))]
    got = compare.compare(members)["quantities"]
    assert set(got) == {"a", "alpha of chinchilla", "beta of chinchilla", "c", "log2_compute_to_halve"}
    assert set(got["a"]["members"]) == {"one", "chinchilla", "kaplan"}
    assert set(got["alpha of chinchilla"]["members"]) == {"one", "chinchilla"}
    slopes = compare.compare([Member(str(i), make(30 + i, law="power_floor:C")) for i in (0, 1)])["quantities"]
    assert set(slopes) == {"a"}
    n = np.geomspace(1e6, 1e9, 9)
    bare = [pd.DataFrame({"N": n, "loss": 1.5 + 40 * n**-0.3 * k, "dataset": "c4"}) for k in (1.0, 1.1)]
    alone = [Member(str(i), fit(from_frame(t, law="power_floor:N"), "power_floor:N")) for i, t in enumerate(bare)]
    (entry,) = compare.compare(alone)["equal_loss"]
    assert entry["status"] == "refused" and "do not say what they cost" in entry["reason"]


def test_what_cannot_be_compared_at_all(fits):
    one = Member("one", fits["one"])
    for members, words in [
        ([one], "needs two fits"),
        ([one, Member("again", fits["one"])], "are of the same runs"),
        ([one, Member("one", fits["two"])], "two fits have one name"),
    ]:
        with pytest.raises(UserError, match=words):
            compare.compare(members)
    total = make(9)
    total.conventions = {**total.conventions, "n": "total"}
    with pytest.raises(UserError, match="count N differently"):
        compare.compare([one, Member("total", total)])
    both = [one, Member("two", fits["two"])]
    for more, words in [
        ({"margins": {"speed": 1}}, "is not shared"),
        ({"margins": {"a": -1}}, "positive"),
        ({"level": 2}, "probability"),
        ({"axis": "raw"}, "choose auto"),
    ]:
        with pytest.raises(UserError, match=words):
            compare.compare(both, **more)


def test_pooling_covers_the_mean_and_shrinks():
    """Ten members around 0.5 with sd 0.05 and errors of 0.03: 300 studies, interval, tau and mean against the truth."""
    rng = np.random.default_rng(0)
    cover, predicted, taus, gain = 0, 0, [], 0.0
    for _ in range(300):
        truth = 0.5 + 0.05 * rng.standard_normal(11)
        seen = truth + 0.03 * rng.standard_normal(11)
        got = compare.pool({str(i): (float(v), 0.03) for i, v in enumerate(seen[:10])})
        cover += got["lo"] <= 0.5 <= got["hi"]
        predicted += got["prediction"][0] <= truth[10] <= got["prediction"][1]
        taus.append(got["tau"])
        shrunk = np.array([got["shrunk"][str(i)] for i in range(10)])
        gain += np.sum((seen[:10] - truth[:10]) ** 2) - np.sum((shrunk - truth[:10]) ** 2)
    assert 0.91 <= cover / 300 <= 0.99 and 0.91 <= predicted / 300 <= 0.99
    assert np.median(taus) == pytest.approx(0.05, rel=0.2) and gain > 0


def test_pooling_of_few_and_of_equals():
    same = compare.pool({"a": (0.5, 0.02), "b": (0.5, 0.02)})
    assert same["tau"] == 0 and same["value"] == 0.5 and same["prediction"] is None
    assert same["hi"] - same["lo"] > 0.1  # two members know little of a third
    lone = compare.pool({"a": (0.5, 0.02), "b": (0.4, float("inf"))})
    assert lone["value"] is None and lone["left_out"] == ["b"]


def test_what_a_comparison_can_tell_before_its_runs():
    """The stated power is what drawn pairs of studies show: the difference seen, and equality within the margin."""
    n, d = np.meshgrid(np.geomspace(1e6, 1e8, 8), np.geomspace(1e8, 1e10, 5))
    plan = {"N": n.ravel(), "D": d.ravel(), "stem": np.repeat(np.arange(8), 5).reshape(8, 5).T.ravel()}
    hope = design.hope(plan, noise=0.003)
    rows = {row["quantity"]: row for row in compare.power({"x": hope, "y": hope}, margins={"a": 0.04})["pairs"]}
    assert rows["a"]["half_width"] == pytest.approx(hope["half_widths"]["a"] * 2**0.5)
    wide = design.hope(plan, noise=0.006)["half_widths"]["a"]
    assert wide == pytest.approx(2 * hope["half_widths"]["a"], rel=0.01)
    error = rows["a"]["half_width"] / 1.95996
    rng = np.random.default_rng(0)
    gap = rng.normal(rows["a"]["seen"], error, 20000)
    assert (gap > rows["a"]["half_width"]).mean() == pytest.approx(0.8, abs=0.01)
    equal = np.abs(rng.normal(0, error, 20000)) + 1.64485 * error < 0.04
    assert equal.mean() == pytest.approx(rows["a"]["equal"], abs=0.01) and 0.05 < rows["a"]["equal"] < 0.95
    few = design.hope({"N": [1e6, 2e6], "D": [1e8, 1e8]})
    assert compare.power({"x": hope, "few": few})["pairs"][0]["half_width"] is None
    refused: list[dict[str, Any]] = [{"margins": {"E": 0.1}}, {"level": 0.9}]
    for more in refused:
        with pytest.raises(UserError):
            compare.power({"x": hope, "y": hope}, **more)
    with pytest.raises(UserError, match="two planned studies"):
        compare.power({"x": hope})


def test_power_from_the_shell(tmp_path, capsys):
    hopes = {"stdlib": design.hope({"N": [1e6, 2e6, 4e6, 8e6] * 3, "D": [1e8] * 4 + [4e8] * 4 + [1.6e9] * 4})}
    paths = []
    for name in ("one", "two"):
        paths.append(str(tmp_path / f"{name}.json"))
        write_json(paths[-1], {"study": name, "hopes": hopes})
    assert main(["compare", "--expected", *paths]) == 0
    assert "one stdlib - two stdlib" in capsys.readouterr().out
    write_json(paths[1], {"study": "one", "hopes": hopes})  # another plan of the study, under the same name
    assert main(["compare", "--expected", *paths]) == 0
    assert f"one stdlib of {paths[0]} - one stdlib of {paths[1]}" in capsys.readouterr().out
    write_json(tmp_path / "odd.json", {"study": "odd", "hopes": {"stdlib": {"level": 0.95}}})
    wrong = {
        str(tmp_path / "none.json"): "scaling plan",
        str(tmp_path / "odd.json"): "scaling plan",
        paths[0]: "one plan is given twice",
    }
    for path, words in wrong.items():
        assert main(["compare", "--expected", paths[0], path]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
