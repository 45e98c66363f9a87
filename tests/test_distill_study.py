"""The experiment of distillation: a planted U is found, a fall is not one, and its cells are what it needs."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import distill
from scaling import plan, study
from scaling.errors import Code, UserError

TEACHERS = (6_000, 14_000, 25_000, 56_000, 154_000)
MIDDLE = math.log(math.sqrt(TEACHERS[0] * TEACHERS[-1]))


def table(curvature: float, least: float, slope: float = 0.0, noise: float = 0.0, draw: int = 0) -> pd.DataFrame:
    """Log nats: slope and curvature in log N of the teacher about ``least``, a level a seed; teachers N^-0.5."""
    rng, rows = np.random.default_rng(draw), []
    for seed in range(3):
        for n in TEACHERS:
            common = {"seed": seed, "rate": 0.01, "excess_teacher": n**-0.5}
            rows.append({**common, "arm": "teacher", "size": 9, "N": n, "D": 1, "N_teacher": 0, "excess": n**-0.5})
            for size, d in ((0, 64_000), (0, 128_000), (1, 64_000)):
                z = math.log(n) - least
                log = slope * z + curvature * z * z + 0.3 * seed - size - d / 64_000 + noise * rng.normal()
                own = {"arm": "taught", "size": size, "N": size, "D": d, "N_teacher": n, "excess": math.exp(log)}
                rows += [{**common, **own}, {**common, **own, "arm": "plain", "N_teacher": 0, "excess": 0.5}]
    halved = next(row for row in rows if row["arm"] == "taught")
    return pd.DataFrame([*rows, {**halved, "arm": "rates", "rate": 0.005, "excess": 1.5 * halved["excess"]}])


def test_a_planted_u_is_found_with_its_minimum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    least = MIDDLE + 0.3
    monkeypatch.setattr(distill, "rows", lambda workdir: table(0.1, least, noise=0.01))
    answer = distill.analyse(tmp_path)
    assert len(answer.students) == 3 and {each.by_size.shape for each in answer.students} == {"U"}
    half = (math.log(TEACHERS[-1]) - math.log(TEACHERS[0])) / 2
    for found, spread in ((answer.by_size, 0.03), (answer.by_loss, 0.06)):
        assert found.shape == "U" and found.first.value < 0 < found.last.value
        assert found.least is not None and found.noise < 0.02
        assert found.first.lo is not None and found.first.hi is not None and found.first.lo < found.first.hi < 0
        # log nats of the teacher are -log(N) / 2: the ends change places, and slopes are twice as large.
        times = 1.0 if found is answer.by_size else -2.0
        planted = [times * 0.2 * (end - 0.3) for end in (-half, half)][:: 1 if times > 0 else -1]
        assert [found.first.value, found.last.value] == pytest.approx(planted, abs=spread)
        place = math.exp(least) if times > 0 else math.exp(-least / 2)
        assert found.least.value == pytest.approx(place, rel=0.1)
        assert found.least.lo is not None and found.least.hi is not None and found.least.lo < place < found.least.hi
    assert answer.students[0].taught.keys() == answer.teachers.keys() == set(TEACHERS)
    assert answer.students[0].plain == pytest.approx(0.5) and answer.rates == {"0.5": pytest.approx(1.5)}
    assert any("U; slopes" in line for line in distill.lines(answer))


@pytest.mark.parametrize(
    ("slope", "curvature", "shape"), [(-0.2, 0.0, "falls"), (0.2, 0.0, "rises"), (0.0, 0.0, "not identified")]
)
def test_what_is_no_u_is_not_called_one(
    slope: float, curvature: float, shape: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(distill, "rows", lambda workdir: table(curvature, MIDDLE, slope, noise=0.01, draw=2))
    answer = distill.analyse(tmp_path)
    assert answer.by_size.shape == shape and answer.by_size.least is None
    assert any("no minimum is certain" in line for line in distill.lines(answer))


def test_the_interval_of_the_minimum_holds_it_as_often_as_it_says():
    x, seeds, held, least = TEACHERS * 3, np.repeat([0, 1, 2], len(TEACHERS)).tolist(), 0, MIDDLE - 0.2
    rng = np.random.default_rng(1)
    for _ in range(200):
        y = 0.1 * (np.log(x) - least) ** 2 + 0.05 * rng.normal(size=len(x))
        found = distill.contrast(x, np.exp(y).tolist(), seeds).least
        held += found is None or math.log(found.lo or 0) < least < math.log(found.hi or 0)
    assert 180 <= held <= 199


def test_power_grows_with_the_depth_and_a_flat_curve_is_seldom_a_u():
    told = [distill.power(0.05, depth, TEACHERS, draws=100)["U"] for depth in (0.0, 0.1, 0.4)]
    assert told[0] <= 0.05 < told[1] < told[2] and told[2] >= 0.95


def test_two_teachers_are_refused():
    with pytest.raises(UserError) as refused:
        distill.contrast((1.0, 2.0) * 3, (0.1, 0.2) * 3, (0, 0, 1, 1, 2, 2))
    assert refused.value.code is Code.TOO_FEW


@pytest.mark.parametrize("argument", ["", "smoke", "large"])
def test_each_student_has_every_teacher_of_its_own_seed(argument: str):
    made = plan.make(study.resolve(distill.get_config(argument)))
    cells = [spec.manifest for each in made.programs for spec in each.runs if spec.kind != "stem"]
    teachers = {each.run: each for each in cells if each.dataset == "teacher"}
    taught = [each for each in cells if each.dataset == "taught"]
    seen: dict[tuple[int, int, int], set[int]] = {}
    for each in taught:
        (parent,) = each.parents
        assert teachers[parent.run].seed == each.seed and each.distill["clm"] == 0
        seen.setdefault((each.size, each.tokens.D, each.seed), set()).add(teachers[parent.run].size)
    sizes = {each.size for each in teachers.values()}
    assert all(each == sizes for each in seen.values()) and len({each.data.sha256 for each in cells}) == 1
    assert min(sizes) < max(size for size, _, _ in seen) < max(sizes)
    if argument != "smoke":
        assert len(sizes) == 5 and [len(set(each)) for each in zip(*seen, strict=True)] == [3, 3, 3]
