"""How much compute a change saves: the pinned floor, the multiplier and its interval, the verdict, what is refused."""

import json
import math
from typing import get_args

import handmade
import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from scipy import optimize, stats
from test_cli import scaling
from test_league import room

import analysis
from analysis.card import Interval
from analysis.decide import gate as gating
from analysis.decide.gate import Gate, GatePlan, Side, gate, plan
from analysis.decide.optimal_runs import optimal_runs
from analysis.engine.pinned_floor import future_squares, pin_floor
from analysis.show import gate_sentences
from analysis.show.sentences import sentence
from analysis.table.runs import from_frame
from scaling.errors import Code
from scaling.records.typed import decode

# The six isoFLOP minima of marin-community/marin issue 4697.
MINIMA = pd.DataFrame(
    {
        "C": [1e18, 3e18, 1e19, 3e19, 1e20, 3e20],
        "loss": [3.522, 3.339, 3.154, 3.0, 2.848, 2.725],
    }
)
E, A, SLOPE = 1.6, 88.0, 0.0941


def law(c, multiplier: float = 1.0):
    return E + A * (np.asarray(c, dtype=float) * multiplier) ** -SLOPE


def runs(c, multiplier: float = 1.0, noise: float = 0.0, seed: int = 0, **columns: object) -> pd.DataFrame:
    loss = law(c, multiplier) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(c)))
    return pd.DataFrame({"C": np.asarray(c, dtype=float), "loss": loss, **columns})


def side(frame: pd.DataFrame, label: str = "variant", data: str | None = None) -> Side:
    return Side(label, from_frame(frame, law="power_floor:C", source=label), data)


BUDGETS = np.geomspace(1e18, 3e20, 6)
BASE = runs(BUDGETS, noise=0.001, seed=1, dataset="web")


class TestFloor:
    def test_a_given_floor_is_the_law_of_the_engine_and_forecasts_as_published(self):
        found = pin_floor(np.log(MINIMA["C"]), np.log(MINIMA["loss"]), 1.6)
        assert float(np.exp(found.log_loss(np.log(1e23)))) == pytest.approx(2.252, abs=0.001)
        fit = analysis.fit(MINIMA, "power_floor:C", fixed={"E": 1.6}, objective="squares", scheme="delta-t")
        assert found.exponent == pytest.approx(fit.params["a"], rel=1e-5)
        assert math.exp(found.log_amplitude) == pytest.approx(fit.params["A"], rel=1e-4)
        assert found.df == 4 and found.floor_interval(0.95) == (1.6, 1.6)

    def test_the_pinned_floor_forecasts_three_hundred_times_further(self):
        """The outcome at 1e23 was 2.234."""
        found = pin_floor(np.log(MINIMA["C"]), np.log(MINIMA["loss"]))
        assert 1.35 < found.floor < 1.6 and found.forecasts == 3 + 2 + 1
        assert float(np.exp(found.log_loss(np.log(1e23)))) == pytest.approx(2.234, rel=0.005)
        low, high = found.floor_interval(0.95)
        assert 1.0 < low < found.floor < 1.6 < high + 0.05 and high < 2.725

    def test_the_score_is_the_forecasts_of_dearer_runs(self):
        """By scipy, prefix by prefix; the standard error by its Jacobian."""
        x, y, floor = np.log(MINIMA["C"].to_numpy()), np.log(MINIMA["loss"].to_numpy()), 1.4

        def model(at, intercept, slope):
            return np.log(floor + np.exp(intercept + slope * at))

        votes = []
        for k in (3, 4, 5):
            start = np.polyfit(x[:k], np.log(np.exp(y[:k]) - floor), 1)[::-1]
            best, _ = optimize.curve_fit(model, x[:k], y[:k], start)
            share = 1 - floor / np.exp(model(x, *best))
            jacobian = share[:, None] * np.stack([np.ones_like(x), x], 1)
            inverse = np.linalg.inv(jacobian[:k].T @ jacobian[:k])
            variance = 1 + np.einsum("ij,jk,ik->i", jacobian, inverse, jacobian)
            votes.append(((y - model(x, *best)) ** 2 / variance)[k:].mean())
        assert future_squares(x, y, np.array([floor]))[0] == pytest.approx(np.mean(votes), rel=1e-3)

    def test_exact_runs_give_the_floor_back(self):
        for floor in (0.0, 0.4, 1.6, 2.4):
            y = np.log(floor + 30.0 * BUDGETS**-0.08)
            found = pin_floor(np.log(BUDGETS), y)
            assert found.floor == pytest.approx(floor, abs=1e-4) and found.exponent == pytest.approx(0.08, rel=1e-3)

    def test_few_budgets_and_a_pure_power_law_do_not_identify_it(self):
        few = gate(side(runs(BUDGETS[:4]), "base"), side(runs(BUDGETS[:3], 1.3)))
        assert not few.law.identified and few.notices[-1].code == "floor_not_identified"
        power = BASE.assign(loss=30.0 * BUDGETS**-0.05 * np.exp(0.002 * np.random.default_rng(3).standard_normal(6)))
        found = plan(side(power, "base"))
        assert (
            not found.law.identified and found.law.floor.lo == 0 and found.law.floor.hi < power["loss"].to_numpy().min()
        )
        assert plan(side(MINIMA, "base")).law.identified


class TestMultiplier:
    def test_it_is_the_effective_speedup_at_one_budget(self):
        """((L_base - E) / (L_variant - E))^(1/a), the worked example of marin's guide: 3.5422 to 3.52 at 3.82e17."""
        a = (3.5422 - 1.6) * 3.82e17**SLOPE
        assert a == pytest.approx(87.7, abs=0.3)
        c = 3.82e17 * np.array([1.0, 7.4, 30.4, 90.6])
        base = pd.DataFrame({"C": c, "loss": 1.6 + a * c**-SLOPE})
        ratio = (1.9422 / 1.92) ** (1 / SLOPE)
        variant = pd.DataFrame({"C": c[:3], "loss": 1.6 + (1.92 / 1.9422) * a * c[:3] ** -SLOPE})
        found = gate(side(base, "base"), side(variant), floor=1.6)
        assert found.runs[0].loss == pytest.approx(3.52)
        assert [run.multiplier.value for run in found.runs] == pytest.approx([ratio] * 3, rel=1e-6)
        assert found.multiplier.value == pytest.approx(ratio, rel=1e-6) and found.law.given

    @pytest.mark.parametrize(("true", "outcome"), [(0.8, "costs"), (1.0, "unknown"), (1.02, "unknown"), (1.3, "saves")])
    def test_exact_runs_give_it_back_with_its_verdict(self, true, outcome):
        found = gate(side(runs(BUDGETS), "base"), side(runs(BUDGETS[-3:], true)))
        assert found.multiplier.value == pytest.approx(true, rel=1e-4) and found.outcome == outcome
        assert found.within == (outcome == "unknown")
        assert found.largest == 3e20
        assert found.loss_change.value == pytest.approx(law(3e20, true) - law(3e20), abs=1e-5)
        assert found.trend is not None and found.trend.value == pytest.approx(1, abs=1e-3)

    def test_the_verdict_is_at_the_margin(self):
        base, variant = side(BASE, "base"), side(runs(BUDGETS[-3:], 1.3, 0.001, 2, dataset="web"))
        assert gate(base, variant).outcome == "saves" and gate(base, variant, margin=0.5).outcome == "unknown"
        assert gate(base, variant, margin=0.5).within and not gate(base, variant, margin=0).within
        wide, narrow = (gate(base, variant, level=level).multiplier for level in (0.99, 0.8))
        assert wide.lo < narrow.lo < narrow.value < narrow.hi < wide.hi

    def test_its_interval_is_that_of_a_joint_fit(self):
        """Under a given floor: the t interval of log m in y = log(E + A (m C)^-a), fitted to all runs by scipy."""
        base, variant = runs(BUDGETS, noise=0.003, seed=4), runs(BUDGETS[2:5], 1.2, 0.003, 5)
        both = pd.concat([base, variant])
        moved = np.repeat([0.0, 1.0], [6, 3])

        def model(x, intercept, slope, times):
            return np.log(E + np.exp(intercept + slope * (x + times * moved)))

        best, covariance = optimize.curve_fit(model, np.log(both["C"]), np.log(both["loss"]), [4.5, -0.09, 0.1])
        half = float(stats.t.ppf(0.975, 6)) * math.sqrt(covariance[2, 2])
        found = gate(side(base, "base"), side(variant), floor=E)
        assert found.df == 6 and math.log(found.multiplier.value) == pytest.approx(best[2], abs=0.1 * half)
        assert math.log(found.multiplier.hi / found.multiplier.lo) / 2 == pytest.approx(half, rel=0.05)

    def test_a_floor_that_is_not_given_widens_it(self):
        base, variant = side(BASE, "base"), side(runs(BUDGETS[-3:], 1.3, 0.001, 2, dataset="web"))
        given, pinned = gate(base, variant, floor=E), gate(base, variant)
        assert pinned.df == given.df - 1 == 5
        far = side(runs([1e21, 1e22, 1e23], 1.3, dataset="web"))
        widths = [math.log(g.multiplier.hi / g.multiplier.lo) for g in (gate(base, far, floor=E), gate(base, far))]
        assert widths[1] > 3 * widths[0]
        assert {n.code for n in gate(base, far).notices} == {"extrapolated"}

    def test_another_exponent_is_seen(self):
        c = np.geomspace(1e18, 3e20, 6)
        steeper = pd.DataFrame({"C": c, "loss": E + A * 1e18**-SLOPE * (c / 1e18) ** (-1.1 * SLOPE), "dataset": "web"})
        found = gate(side(BASE, "base"), side(steeper))
        # the log multiplier grows by a tenth of each log of compute
        assert found.trend.value == pytest.approx(10**0.1, rel=0.02) and found.trend.lo > 1
        assert found.multiplier.value == pytest.approx(math.exp(0.1 * np.log(c / 1e18).mean()), rel=0.02)
        assert "trend" in {notice.code for notice in found.notices}


class TestPower:
    @pytest.mark.system
    def test_it_is_how_often_the_margin_shows(self):
        """Promised at the true noise, under a given floor; 100 gates of a change that saves 10 %."""
        seen, promised = [], []
        for k in range(100):
            base = side(runs(BUDGETS, noise=0.002, seed=2 * k), "base")
            variant = side(runs(BUDGETS[:3], 1.1, 0.002, 2 * k + 1))
            seen.append(gate(base, variant, floor=E, margin=0.1).multiplier.lo > 1)
            promised.append(plan(base, list(BUDGETS[:3]), floor=E, margin=0.1).power.detect)
        assert 0.3 < np.mean(seen) < 0.95 and np.mean(promised) == pytest.approx(np.mean(seen), abs=0.12)

    def test_more_runs_and_a_larger_margin_are_easier(self):
        base = side(MINIMA, "base")
        three, six = (plan(base, count, margin=0.02).power for count in (3, 6))
        assert (three.runs, three.C) == (3, (3e19, 1e20, 3e20)) and six.df == three.df == 3
        assert six.detect > three.detect and six.half_width < three.half_width
        assert plan(base, margin=0.05).power.detect > three.detect
        assert 1.02 < six.saves < three.saves and three.costs == pytest.approx(1 / three.saves)
        assert plan(base, 8).power.C.count(3e20) == 2  # over again where there are more runs than budgets

    def test_beyond_every_floor_nothing_is_promised(self):
        noisy = side(runs(BUDGETS, noise=0.01, seed=6), "base")
        power = plan(noisy, [1e30, 1e31, 1e32]).power
        assert power.half_width is None and power.saves is None and power.detect == 0
        assert gate_sentences.plan(plan(noisy, [1e30, 1e31, 1e32]))

    def test_a_gate_prints_its_own(self):
        found = gate(side(BASE, "base"), side(runs(BUDGETS[-3:], 1.3, 0.001, 2, dataset="web")))
        half = math.log(found.multiplier.hi / found.multiplier.lo) / 2
        assert found.power.half_width == pytest.approx(half, rel=0.05) and found.power.noise == found.noise


class TestRuns:
    """Which runs of a study stand for it."""

    def test_a_ladder_is_used_whole(self):
        n = np.sqrt(BUDGETS / 120)
        ladder = from_frame(pd.DataFrame({"N": n, "D": 20 * n, "loss": law(BUDGETS)}))
        found = optimal_runs(ladder)
        assert (found.chosen.how, found.chosen.used, found.chosen.left_out) == ("frontier", 6, 0)
        assert list(found.C) == pytest.approx(list(BUDGETS))

    def test_isoflop_budgets_give_their_minima(self):
        rows = []
        for c in (1e18, 1e19, 1e20, 1e21):
            best = 0.1 * c**0.5
            rows += [
                (n, c / (6 * n), c, law(c) * (1 + 0.02 * np.log(n / best) ** 2)) for n in best * 2.0 ** np.arange(-2, 3)
            ]
        rows += [(1e9, 1e11, 6e20, 3.0)]  # in no budget
        frame = pd.DataFrame(rows, columns=["N", "D", "C", "loss"])
        found = optimal_runs(from_frame(frame))
        assert (found.chosen.how, found.chosen.rows, found.chosen.used) == ("minima", 21, 4)
        assert found.chosen.left_out == 1 and found.loss == pytest.approx(law(found.C), rel=1e-6)

    def test_of_a_grid_what_a_cheaper_cell_beats_is_left_out_and_seeds_stay_together(self):
        frame = pd.DataFrame(
            {
                "N": [1e7, 1e7, 1e8, 1e8, 1e9],
                "D": [2e8, 2e9, 2e8, 2e9, 2e10],
                "loss": [3.5, 3.3, 3.4, 3.0, 2.6],
            }
        )
        seeds = pd.concat([frame, frame.iloc[[3]].assign(loss=3.02)]).assign(seed=[0, 0, 0, 0, 0, 1])
        found = optimal_runs(from_frame(seeds))
        assert found.chosen.left_out == 1 and sorted(found.loss) == [2.6, 3.0, 3.02, 3.3, 3.5]

    def test_a_study_may_be_half_minima(self):
        n = np.sqrt(BUDGETS / 120)
        frame = pd.DataFrame({"N": n, "D": 20 * n, "loss": law(BUDGETS), "dataset": "web"})
        worse = frame.assign(N=3 * frame["N"], D=frame["D"] / 3, loss=frame["loss"] * 1.05)
        base = Side("base", from_frame(pd.concat([frame, worse])))
        found = gate(base, Side("variant", from_frame(frame.assign(loss=law(BUDGETS, 1.3)))))
        assert found.base.chosen.how == "minima" or found.base.chosen.left_out == 6
        assert found.multiplier.value == pytest.approx(1.3, rel=0.01)


class TestRefusals:
    @pytest.fixture
    def base(self) -> Side:
        return side(BASE, "base")

    def test_what_must_not_be_compared(self, base):
        with refuses(Code.CONFLICT, "gate"):
            gate(base, side(BASE))
        with refuses(Code.MIXED, "dataset", "web, books"):
            gate(base, side(runs(BUDGETS[-3:], 1.3, dataset="books")))
        with refuses(Code.MIXED, "loss"):
            gate(base, side(runs(BUDGETS[-3:], 1.3, dataset="web").rename(columns={"loss": "val_loss"})))
        with refuses(Code.MIXED, "data"):
            one, two = (
                side(frame, "x", data) for frame, data in ((BASE, "a"), (runs(BUDGETS[:3], dataset="web"), "b"))
            )
            gate(one, two)
        n = np.sqrt(BUDGETS / 120)
        by_6nd = pd.DataFrame({"N": n, "D": 20 * n, "loss": law(BUDGETS, 1.3), "dataset": "web"})
        with refuses(Code.MIXED, "C", "variant"):
            gate(base, side(by_6nd))
        for factor in (math.log(2), 1 / math.log(2)):
            with refuses(Code.MIXED, "variant"):
                gate(base, side(pd.DataFrame({"C": BUDGETS[-3:], "loss": factor * law(BUDGETS[-3:], 1.1)})))

    def test_too_little(self, base):
        with refuses(Code.TOO_FEW, "variant"):
            gate(base, side(runs(BUDGETS[:2], 1.3)))
        with refuses(Code.TOO_FEW, "base"):
            gate(side(runs(BUDGETS[:3])), side(runs(BUDGETS[:3], 1.3)))
        assert gate(side(runs(BUDGETS[:3])), side(runs(BUDGETS[:3], 1.3)), floor=E).df == 3
        with refuses(Code.TOO_FEW, "power", 2):
            plan(base, 2)

    def test_impossible_laws_and_losses(self, base):
        rising = side(pd.DataFrame({"C": BUDGETS, "loss": 3 + 0.1 * np.arange(6)}))
        with refuses(Code.NOT_IDENTIFIED, "base"):
            gate(rising, base)
        with refuses(Code.BEYOND, "variant"):
            gate(base, side(pd.DataFrame({"C": BUDGETS[-3:], "loss": [2.0, 1.5, 1.2]})))
        for floor in (-0.1, 2.9, math.nan):
            with refuses(Code.INVALID, "floor"):
                plan(base, floor=floor)

    def test_invalid_options(self, base):
        for margin in (-0.1, math.nan, math.inf):
            with refuses(Code.INVALID, "margin"):
                plan(base, margin=margin)
        with refuses(Code.INVALID, "level"):
            plan(base, level=95)
        for budgets in ([1e18, 0, 1e19], [1e18, math.nan, 1e19]):
            with refuses(Code.INVALID, "power"):
                plan(base, budgets)
        with refuses(Code.MISSING, "C"):
            plan(Side("base", from_frame(pd.DataFrame({"x": [1.0, 2, 3], "loss": [3.0, 2, 1]}), law="power_floor:x")))


class TestShell:
    @pytest.fixture
    def place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        MINIMA.to_csv("base.csv", index=False)
        MINIMA.assign(loss=[3.48, 3.30, 3.12, 2.968, 2.818, 2.698]).iloc[-3:].to_csv("change.csv", index=False)
        return tmp_path

    def test_a_gate_and_its_plan(self, place):
        code, out, _ = scaling("gate", "base.csv", "change.csv")
        assert code == 0 and "change against base: saves more than 5 % of compute" in out
        assert "do not name the data" in out and "pinned by leave-the-future-out" in out and "power of 3 runs" in out
        found = decode(scaling("gate", "base.csv", "change.csv", "--json")[1].encode(), Gate, "gate.json")
        assert found.outcome == "saves" and [notice.code for notice in found.notices] == [
            "unnamed_data",
            "extrapolated",
        ]
        planned = decode(scaling("gate", "base.csv", "--power=3", "--json")[1].encode(), GatePlan, "plan.json")
        same = json.loads(scaling("gate", "base.csv", "--power=3e19,1e20,3e20", "--json")[1])
        assert planned.power.C == tuple(same["power"]["C"]) == (3e19, 1e20, 3e20)
        assert "has an interval above 1 with probability" in scaling("gate", "base.csv", "--power=3")[1]
        assert "E = 1.6 (given), given" in scaling("gate", "base.csv", "--power=3", "--floor=1.6")[1]

    @pytest.mark.parametrize(
        ("arguments", "head"),
        [
            ("", "gate = nothing"),
            ("base.csv", "gate = base.csv"),
            ("base.csv change.csv base.csv", "gate = 3"),
            ("base.csv base.csv", "gate = base.csv, base.csv"),
            ("base.csv missing.csv", "path = missing.csv"),
            ("base.csv change.csv --power=3", "power = 3"),
            ("base.csv --power=many", "power = many"),
            ("base.csv --power=2", "power = 2"),
            ("base.csv --power=3 --margin=-1", "margin = -1.0"),
            ("base.csv --power=3 --floor=3", "floor = 3.0"),
            ("base.csv --power=3 --term=loss", "term = loss"),
            ("base.csv --power=3 --units=C=years", "units = C=years"),
            ("base.csv --power=3 --where=C>1e30", "where = C>1e30"),
        ],
    )
    def test_mistakes_are_one_line_and_exit_2(self, place, arguments, head):
        code, out, err = scaling("gate", *arguments.split())
        assert (code, out) == (2, "") and err.startswith(f"scaling: error: {head}") and err.count("\n") == 1, err

    def test_work_directories(self, place):
        for name, multiplier, data in (("one", 1.0, "0"), ("two", 1.3, "0"), ("three", 1.3, "1")):
            for i, n in enumerate((1000, 3000, 9000, 27000, 81000)):
                loss = float(law(1e6 * 7.0 * n * 20 * n, multiplier))
                manifest = handmade.manifest(f"{name}-{i}", n=n, d=20 * n)
                described = handmade.DataDescription(source="text", sha256=data * 64, entropy=None)
                manifest = handmade.edited(manifest, data=described)
                handmade.write(place / name, manifest, handmade.result(loss, tokens=20 * n))
        code, out, err = scaling("gate", "one", "two", "--json")
        assert code == 0, err
        found = decode(out.encode(), Gate, "gate.json")
        assert found.multiplier.value == pytest.approx(1.3, rel=1e-3) and found.base.flops == "exact"
        assert not [notice for notice in found.notices if notice.code == "unnamed_data"]
        assert "data = 000000000000, 111111111111" in scaling("gate", "one", "three")[2]


def test_every_notice_has_a_sentence_of_its_own():
    per_decade = Interval(value=1.1, lo=1.05, hi=1.2)
    notices = [
        gating.UnnamedData(sides=("a", "b")),
        gating.RecordsAndTable(table="a"),
        gating.Extrapolated(ratio=2.0, runs=("r",)),
        gating.BelowRange(ratio=2.0, runs=("r",)),
        gating.FloorNotIdentified(why="few", budgets=4),
        gating.FloorNotIdentified(why="zero", budgets=6),
        gating.Trend(per_decade=per_decade),
        gating.BestOfMany(side="a"),
    ]
    assert {type(notice) for notice in notices} == set(get_args(gating.AnyNotice))
    assert len({sentence(notice) for notice in notices}) == len(notices)


def test_from_python(tmp_path):
    variant = runs(BUDGETS[-3:], 1.3, 0.001, 2)
    variant.to_csv(tmp_path / "variant.csv", index=False)
    found = analysis.gate(MINIMA, tmp_path / "variant.csv", margin=0.01)
    assert "variant against base: " in repr(found) and found.margin == 0.01
    assert "power of 4 runs" in repr(analysis.plan_gate(MINIMA, 4))
    with refuses(Code.INVALID, "labels"):
        analysis.gate(MINIMA, variant, labels=("one",))


class TestCoverage:
    """A small part of benchmarks/gate.py."""

    def test_the_committed_result_is_of_this_code(self):
        from test_benchmark_figures import result

        benchmark = room("gate")
        for row in result("gate")["rows"]:
            setting = benchmark.Setting(*(row[name] for name in benchmark.Setting._fields))
            base, variant, _ = benchmark.simulate(setting, 0)
            found = gate(base, variant).multiplier
            ends = [None if end is None else math.log(end) for end in (found.lo, found.hi)]
            assert ends == pytest.approx(row["first"][0], rel=1e-3, abs=1e-4), setting

    @pytest.mark.system
    def test_the_multiplier_is_covered(self):
        benchmark = room("gate")
        inside = 0
        for k in range(120):
            setting = benchmark.SETTINGS[k % len(benchmark.SETTINGS)]
            base, variant, truth = benchmark.simulate(setting, 50_000 + k)
            found = gate(base, variant).multiplier
            inside += found.lo <= math.exp(truth) <= (found.hi or math.inf)
        assert 0.90 * 120 <= inside < 120
