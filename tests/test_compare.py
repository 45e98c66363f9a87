"""Laws beside one another: exponents with verdicts, pooling, equal loss on one axis only, refusals with a reason."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from handmade import edited
from refusals import refuses

from analysis import laws
from analysis.card import NotLinear, StemEffects
from analysis.decide import compare, design
from analysis.decide.compare import Member
from analysis.fitting import fit
from analysis.show.answers import pair as pair_words
from analysis.show.answers import sentence
from analysis.show.comparisons import comparison
from analysis.table.runs import from_frame
from scaling.cli import main
from scaling.errors import Code
from scaling.records import write_json
from scaling.records.typed import decode

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
    text = json.dumps(msgspec.to_builtins(got), allow_nan=False)
    assert decode(text.encode(), compare.Comparison, "comparison.json") == got
    pairs = got.quantities["a"].pairs
    outcomes = {(p.one, p.two): p.outcome for p in pairs}
    assert outcomes["one", "two"] == "equal"
    assert outcomes["one", "steep"] == "different" and outcomes["two", "steep"] == "different"
    assert outcomes["one", "vague"] == "unknown"
    difference, equivalence = pairs[0].difference, pairs[0].equivalence
    assert difference is not None and difference.lo is not None and equivalence is not None
    assert difference.lo < equivalence[0] < equivalence[1]
    assert pair_words("a", pairs[0]).endswith(": equal within the margin (margin 0.1).")
    assert any("cannot tell (margin 0.1)" in pair_words("a", pair) for pair in pairs)


def test_what_bears_on_a_fit_stands_beside_its_comparison(fits):
    warnings = (NotLinear(size_log=0.2, expected_log=0.01), StemEffects(sd=0.1))
    warned = replace(fits["two"], card=edited(fits["two"].card, warnings=warnings))
    got = compare.compare([Member("one", fits["one"]), Member("two", warned)])
    assert [member.of_fit for member in got.members] == [(), warnings[:1]]
    said = [line for line in comparison(got) if line.startswith("two: ")]
    assert said == [f"two: {sentence(warnings[0])}"]
    assert decode(msgspec.json.encode(got), compare.Comparison, "") == got


def test_a_tiny_difference_can_be_real_and_within_the_margin():
    members = [Member("x", make(0, noise=1e-6)), Member("y", make(1, noise=1e-6, beta=0.3705))]
    (pair,) = compare.compare(members, margins={"beta": 0.05}).quantities["beta"].pairs
    assert pair.outcome == "both" and "different, but within the margin" in pair_words("beta", pair)


def test_the_frontier_exponent(fits):
    # at 99.9 %: one draw of the noise must not fail a right answer
    cells = compare.compare([Member("one", fits["one"]), Member("two", fits["two"])], level=0.999).quantities
    c, found, halve = 0.35 * 0.37 / 0.72, cells["c"].members["one"], cells["log2_compute_to_halve"].members["one"]
    assert found is not None and found.lo is not None and found.hi is not None and found.lo <= c <= found.hi
    assert halve is not None and halve.value == pytest.approx(1 / c, rel=0.1)


def test_compute_for_equal_loss_against_the_closed_form(fits):
    """A and B 1.5 times as large: the reducible loss at C is 1.5 times, so equal loss takes 1.5^(1/c) the compute."""
    (entry,) = compare.compare([Member("one", fits["one"]), Member("dear", fits["dear"])]).equal_loss
    assert isinstance(entry, compare.EqualLoss) and entry.rows
    truth = 1.5 ** (0.72 / (0.35 * 0.37))
    ratio = entry.rows[0].compute_ratio
    assert ratio.lo is not None and ratio.hi is not None
    assert ratio.value == pytest.approx(truth, rel=0.1) and ratio.lo <= truth <= ratio.hi
    (same,) = compare.compare([Member("one", fits["one"]), Member("two", fits["two"])], level=0.999).equal_loss
    assert isinstance(same, compare.EqualLoss) and same.rows
    ends = [(row.compute_ratio.lo, row.compute_ratio.hi) for row in same.rows]
    assert all(lo is not None and hi is not None and lo <= 1 <= hi for lo, hi in ends)


@pytest.mark.parametrize(
    ("other", "one", "two", "why", "words"),
    [
        ("other", None, None, compare.DifferentData, "of different data (c4 of one and pile of other)"),
        ("unnamed", None, None, compare.UnknownData, "does not say what its loss was measured on"),
        ("two", "sha a", "sha b", compare.DifferentData, "of different data"),
    ],
)
def test_losses_of_different_things_are_never_on_one_axis(fits, other, one, two, why, words):
    members = [Member("one", fits["one"], data=one), Member(other, fits[other], data=two)]
    got = compare.compare(members)
    (entry,) = got.equal_loss
    assert isinstance(entry, compare.NotComparable) and isinstance(entry.why, why)
    assert words in sentence(entry.why) and "exponents" in entry.offers
    assert got.quantities["a"].pairs


def test_bits_per_byte_is_an_axis_where_both_are_of_bytes(fits):
    pair = [Member("one", fits["one"], 1.4427), Member("other", fits["other"], 1.4427)]
    (entry,) = compare.compare(pair).equal_loss
    assert isinstance(entry, compare.NotComparable) and "bits_per_byte" in entry.offers
    (entry,) = compare.compare(pair, axis="bits_per_byte").equal_loss
    assert isinstance(entry, compare.EqualLoss) and entry.axis is None and entry.rows
    assert all(0.5 < row.compute_ratio.value < 2 for row in entry.rows)
    bare = [pair[0], Member("other", fits["other"])]
    (entry,) = compare.compare(bare, axis="bits_per_byte").equal_loss
    assert isinstance(entry, compare.NotComparable) and entry.why == compare.NotBytes(member="other")


def test_of_several_laws_only_what_means_the_same_is_compared(fits):
    """The slope a of a power of C is not the exponent a of N_opt, nor alpha without a floor that above one."""
    names = ("chinchilla", "kaplan", "power_floor:C", "product_floor")
    members = [Member("one", fits["one"]), *(Member(law, make(20 + i, law=law)) for i, law in enumerate(names))]
    got = compare.compare(members).quantities
    assert set(got) == {"a", "alpha of chinchilla", "beta of chinchilla", "c", "log2_compute_to_halve"}
    assert set(got["a"].members) == {"one", "chinchilla", "kaplan"}
    assert set(got["alpha of chinchilla"].members) == {"one", "chinchilla"}
    slopes = compare.compare([Member(str(i), make(30 + i, law="power_floor:C")) for i in (0, 1)]).quantities
    assert set(slopes) == {"a"}
    n = np.geomspace(1e6, 1e9, 9)
    bare = [pd.DataFrame({"N": n, "loss": 1.5 + 40 * n**-0.3 * k, "dataset": "c4"}) for k in (1.0, 1.1)]
    alone = [Member(str(i), fit(from_frame(t, law="power_floor:N"), "power_floor:N")) for i, t in enumerate(bare)]
    (entry,) = compare.compare(alone).equal_loss
    assert isinstance(entry, compare.NotComparable) and entry.why == compare.NoCost(law="power_floor:N")


def test_what_cannot_be_compared_at_all(fits):
    one = Member("one", fits["one"])
    for members, code, value in [
        ([one], Code.TOO_FEW, 1),
        ([one, Member("again", fits["one"])], Code.CONFLICT, "one, again"),
        ([one, Member("one", fits["two"])], Code.CONFLICT, "one, one"),
    ]:
        with refuses(code, "compare", value):
            compare.compare(members)
    counted = make(9)
    card = edited(counted.card, conventions=edited(counted.conventions, n="total"))
    with refuses(Code.MIXED, "compare", "one, total"):
        compare.compare([one, Member("total", replace(counted, card=card))])
    both = [one, Member("two", fits["two"])]
    for more, code, field, value in [
        ({"margins": {"speed": 1}}, Code.UNKNOWN, "margin", "speed"),
        ({"margins": {"a": -1}}, Code.INVALID, "margin", "a=-1"),
        ({"level": 2}, Code.INVALID, "level", 2),
        ({"axis": "raw"}, Code.UNKNOWN, "axis", "raw"),
    ]:
        with refuses(code, field, value):
            compare.compare(both, **more)


def test_pooling_covers_the_mean_and_shrinks():
    """Ten members around 0.5 with sd 0.05 and errors of 0.03: 300 studies, interval, tau and mean against the truth."""
    rng = np.random.default_rng(0)
    cover, predicted, taus, gain = 0, 0, [], 0.0
    for _ in range(300):
        truth = 0.5 + 0.05 * rng.standard_normal(11)
        seen = truth + 0.03 * rng.standard_normal(11)
        got = compare.pool({str(i): (float(v), 0.03) for i, v in enumerate(seen[:10])})
        assert got.mean is not None and got.mean.lo is not None and got.mean.hi is not None
        cover += got.mean.lo <= 0.5 <= got.mean.hi
        assert got.prediction is not None
        predicted += got.prediction[0] <= truth[10] <= got.prediction[1]
        taus.append(got.tau)
        shrunk = np.array([got.shrunk[str(i)] for i in range(10)])
        gain += np.sum((seen[:10] - truth[:10]) ** 2) - np.sum((shrunk - truth[:10]) ** 2)
    assert 0.91 <= cover / 300 <= 0.99 and 0.91 <= predicted / 300 <= 0.99
    assert np.median(taus) == pytest.approx(0.05, rel=0.2) and gain > 0


def test_pooling_of_few_and_of_equals():
    same = compare.pool({"a": (0.5, 0.02), "b": (0.5, 0.02)})
    assert same.tau == 0 and same.mean is not None and same.mean.value == 0.5 and same.prediction is None
    assert same.mean.lo is not None and same.mean.hi is not None
    assert same.mean.hi - same.mean.lo > 0.1  # two members know little of a third
    lone = compare.pool({"a": (0.5, 0.02), "b": (0.4, float("inf"))})
    assert lone.mean is None and lone.left_out == ("b",)


def test_what_a_comparison_can_tell_before_its_runs():
    """The stated power is what drawn pairs of studies show: the difference seen, and equality within the margin."""
    n, d = np.meshgrid(np.geomspace(1e6, 1e8, 8), np.geomspace(1e8, 1e10, 5))
    plan = {"N": n.ravel(), "D": d.ravel(), "stem": np.repeat(np.arange(8), 5).reshape(8, 5).T.ravel()}
    expected = design.expected_precision(plan, noise=0.003)
    rows = {row.quantity: row for row in compare.power({"x": expected, "y": expected}, margins={"a": 0.04}).pairs}
    one, wide = (design.expected_precision(plan, noise=noise).half_widths["a"] for noise in (0.003, 0.006))
    of_a = rows["a"]
    assert one is not None and of_a.half_width is not None and of_a.seen is not None and of_a.equal is not None
    assert expected.half_widths["a"] == one and of_a.half_width == pytest.approx(one * 2**0.5)
    assert wide == pytest.approx(2 * one, rel=0.01)
    error = of_a.half_width / 1.95996
    rng = np.random.default_rng(0)
    gap = rng.normal(of_a.seen, error, 20000)
    assert (gap > of_a.half_width).mean() == pytest.approx(0.8, abs=0.01)
    equal = np.abs(rng.normal(0, error, 20000)) + 1.64485 * error < 0.04
    assert equal.mean() == pytest.approx(of_a.equal, abs=0.01) and 0.05 < of_a.equal < 0.95
    few = design.expected_precision({"N": [1e6, 2e6], "D": [1e8, 1e8]})
    assert compare.power({"x": expected, "few": few}).pairs[0].half_width is None
    refused: list[tuple[dict[str, Any], Code, str, object]] = [
        ({"margins": {"E": 0.1}}, Code.UNKNOWN, "margin", "E"),
        ({"level": 0.9}, Code.CONFLICT, "level", 0.9),
    ]
    for more, code, field, value in refused:
        with refuses(code, field, value):
            compare.power({"x": expected, "y": expected}, **more)
    with refuses(Code.TOO_FEW, "compare", 1):
        compare.power({"x": expected})


def test_power_from_the_shell(tmp_path, capsys):
    cells = {"N": [1e6, 2e6, 4e6, 8e6] * 3, "D": [1e8] * 4 + [4e8] * 4 + [1.6e9] * 4}
    expected = {"stdlib": design.expected_precision(cells)}
    paths = []
    for name in ("one", "two"):
        paths.append(str(tmp_path / f"{name}.json"))
        write_json(paths[-1], {"study": name, "expected_precision": expected})
    assert main(["compare", "--expected", *paths]) == 0
    assert "one stdlib - two stdlib" in capsys.readouterr().out
    write_json(
        paths[1], {"study": "one", "expected_precision": expected}
    )  # another plan of the study, under the same name
    assert main(["compare", "--expected", *paths]) == 0
    assert f"one stdlib of {paths[0]} - one stdlib of {paths[1]}" in capsys.readouterr().out
    write_json(tmp_path / "odd.json", {"study": "odd", "expected_precision": {"stdlib": {"level": 0.95}}})
    wrong = {
        str(tmp_path / "none.json"): "scaling plan",
        str(tmp_path / "odd.json"): "scaling plan",
        paths[0]: "the same plan is given twice",
    }
    for path, words in wrong.items():
        assert main(["compare", "--expected", paths[0], path]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
