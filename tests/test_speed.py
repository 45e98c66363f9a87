"""The price of a plan: the formula against recorded runs, the arithmetic of a measurement, and its memory."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from refusals import refuses

from experiments import demo
from scaling import calibrate, count, families, plan, speed, study
from scaling.engines.local import Local
from scaling.errors import Code
from scaling.records.types import ProgramSpec
from scaling.speed import REFERENCE, Machine, Speed

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "demo_seconds.json").read_text())
MACHINE = Machine(cpu="a CPU, AVX2", cores=2, accelerated=False, jax="0.10.2", settings={}, code="0")
KNOWN = Speed(rate=4e10, score=2e-8, compile=10.0, machine=MACHINE)


@pytest.fixture(scope="module")
def demo_study() -> study.Study:
    return study.resolve(demo.get_config())


def test_recorded_runs_of_the_demo_are_predicted_within_half(demo_study: study.Study):
    """Training and evaluation of every program, and the whole, from the speed measured on their CPU."""
    made = plan.make(demo_study, speed=msgspec.convert(RECORDED["speed"], Speed))
    quiet, busy = (run["seconds"] for run in RECORDED["runs"])
    known, compiled = set(), {}
    for program in made.programs:
        manifest = program.runs[0].manifest
        shape = manifest.dataset, manifest.size
        compiled[program.program] = 0 if shape in known else made.speed.compile
        known.add(shape)
        name = program.program.partition("-stem-")[0]
        trained, evaluated, _ = quiet[name]
        assert 1 / 1.5 < (program.seconds - compiled[program.program]) / (trained + evaluated) < 1.5, name
    assert len(compiled) == len(quiet) == len(busy)
    for seconds in (quiet, busy):
        assert 1 / 1.5 < made.totals.device_seconds / sum(map(sum, seconds.values())) < 1.5


def test_a_price_is_no_part_of_a_plan_but_its_seconds_and_order(demo_study: study.Study):
    fast = Speed(rate=1e13, score=1e-12, compile=0.0)
    first, second = (plan.make(demo_study, speed=each) for each in (REFERENCE, fast))

    def unpriced(made: plan.Plan) -> list[ProgramSpec]:
        programs = [msgspec.structs.replace(each, seconds=0.0) for each in made.programs]
        return sorted(programs, key=lambda each: each.program)

    assert unpriced(first) == unpriced(second)
    assert first.totals.device_seconds > 10 * second.totals.device_seconds


def test_a_programs_seconds_are_those_of_its_steps_its_evaluations_and_one_compilation(tiny):
    config = tiny()  # two branches of one stem, batch 4, context 12, every third position predicted
    made = plan.make(study.resolve(config), speed=KNOWN)
    (program,) = made.programs
    cell = made.study.cells[0]
    flops, scores = sum(count.training_flops(cell.components).values()), count.training_scores(cell.components)
    assert scores == 12 * 12  # one layer, one head
    steps = sum(spec.own_steps for spec in program.runs)
    predictions = int(made.study.sources["known"].batch(np.zeros(1, np.int64), seed=0, context=12)["mask"].sum())
    examples = 4 * steps + speed.EVALUATION * 2 * 1024 / predictions
    assert program.seconds == pytest.approx(examples * (flops / 4e10 + scores * 2e-8) + 10.0)
    assert made.wall(1) == made.wall(5) == made.totals.device_seconds


def test_attention_scores_are_counted_by_head_layer_and_pair():
    gpt, t5 = families.load("gpt"), families.load("t5")
    config = gpt.Config(width=16, layers=3, heads=2, context=8)
    assert count.training_scores(gpt.components(config)) == 3 * 2 * 8 * 8
    config = t5.Config(width=16, layers=2, heads=2, context=64)
    source, target = config.lengths
    assert count.training_scores(t5.components(config)) == 2 * 2 * (source**2 + target**2 + source * target)
    frozen = [dataclasses.replace(part, k=2) for part in t5.components(config)]
    assert count.training_scores(frozen) * 3 == pytest.approx(count.training_scores(t5.components(config)))


def test_two_steps_tell_rate_and_score():
    exact = [(flops, scores, flops / 4e10 + scores * 2e-8) for flops, scores in ((1.5e8, 2.6e5), (1.5e9, 5.2e5))]
    found = speed.solve(*exact, compile=2.5, machine=MACHINE)
    assert (found.rate, found.score) == (pytest.approx(4e10), pytest.approx(2e-8))
    assert found.compile == 2.5 * speed.COMPILATIONS and found.machine == MACHINE
    # What noise cannot tell apart is all put on the FLOPs, and nothing is negative.
    noisy = speed.solve((1.5e8, 2.6e5, 1e-4), (1.5e9, 5.2e5, 3e-2), compile=2.5, machine=MACHINE)
    assert (noisy.rate, noisy.score) == (pytest.approx(5e10), 0.0)


def test_a_speed_is_of_the_median_worker():
    timings = [calibrate.Timing(((1e8, 1e5, t), (1e9, 2e5, 9 * t)), compile=t) for t in (0.01, 0.02, 5.0)]
    assert calibrate.combined(timings, MACHINE) == calibrate.combined([timings[1]], MACHINE)


def test_only_an_intact_speed_of_this_machine_is_remembered(tmp_path: Path):
    path = speed.place(tmp_path, MACHINE)
    assert speed.recall(path, MACHINE) is None
    speed.remember(path, KNOWN)
    assert speed.recall(path, MACHINE) == KNOWN
    flags, newer = {"settings": {"XLA_FLAGS": "--x"}}, {"code": "1"}
    for change in ({"cpu": "a CPU, AVX-512"}, {"cores": 4}, {"jax": "0.12.0"}, flags, newer):
        other = msgspec.structs.replace(MACHINE, **change)
        assert speed.place(tmp_path, other) != path
        assert speed.recall(path, other) is None, change
    for text in ("{", "[]", '{"rate": -1.0, "score": 0.0, "compile": 1.0}', '{"rate": 1e10}'):
        path.write_text(text)
        assert speed.recall(path, MACHINE) is None, text
    (tmp_path / "file").write_text("")
    speed.remember(tmp_path / "file" / "speed.json", KNOWN)  # a place that cannot be written is no obstacle


def test_a_named_speed_is_used_whatever_this_machine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "node.json"
    monkeypatch.setenv("SCALING_SPEED", str(path))
    with refuses(Code.MISSING, "SCALING_SPEED", path):
        calibrate.this_machine()
    speed.remember(path, KNOWN)
    assert calibrate.this_machine() == KNOWN
    path.write_text("{}")
    with refuses(Code.DAMAGED, "SCALING_SPEED"):
        calibrate.this_machine()


def test_more_workers_than_cores_share_them(tmp_path: Path):
    cores = len(os.sched_getaffinity(0))
    assert Local(tmp_path, workers=1).crowding == 1
    assert Local(tmp_path, workers=3 * cores).crowding == 3


@pytest.mark.system
def test_this_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SCALING_SPEED")
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    asked: list[int] = []
    found = calibrate.this_machine(lambda: asked.append(1))
    assert 1e8 < found.rate < 1e15 and found.compile > 0 and found.machine is not None
    assert calibrate.this_machine(lambda: asked.append(1)) == found
    assert len(asked) == 1 and len(list(tmp_path.glob("speed-*.json"))) == 1


def test_a_worker_that_cannot_measure_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with refuses(Code.ENVIRONMENT, "speed"):
        calibrate._measure(["all"])


def test_a_shape_of_more_components_takes_longer_to_compile():
    """From one run each, on one machine: two streams over one 1.65, 23 components and 10."""
    one, two = (speed.REFERENCE.compiling(components) for components in (10, 23))
    assert speed.REFERENCE.compiling(speed.COMPONENTS) == speed.REFERENCE.compile and two / one == pytest.approx(
        1.65, rel=0.15
    )
