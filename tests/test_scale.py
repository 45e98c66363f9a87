"""Large studies: what must not grow with the square of their size, counted; and the figures of benchmarks/scale.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import handmade
import pytest

from scaling import plan, study
from scaling.records import write_json
from scaling.records.order import in_order
from scaling.records.typed import plain, to_json
from scaling.records.types import Parent, ProgramSpec
from scaling.shapes import Shapes
from scaling.worker import loop
from scaling.worker.programs import record_of

ROOT = Path(__file__).parents[1]
PROGRAMS = 60


def test_a_worker_looks_at_each_program_a_few_times_only(tmp_path, monkeypatch):
    manifests = [handmade.manifest(f"run{i}", seed=i) for i in range(PROGRAMS)]
    write_json(tmp_path / "study.json", handmade.study(*map(handmade.program, manifests)))
    looks: list[str] = []
    real = loop.over
    monkeypatch.setattr(loop, "over", lambda workdir, program: looks.append(program.program) or real(workdir, program))
    worker = loop.Worker(tmp_path, loop.Settings())
    worker._training = loop.Training("json:loads")  # it trains nothing here
    while (attempt := worker._claim()) is not None:
        record = record_of(tmp_path, attempt.program.program)
        record.begin(attempt.program.runs[0].manifest)
        record.finish(handmade.result(2.0))
        attempt.end(None)
    assert len(set(looks)) == PROGRAMS and len(looks) <= 4 * PROGRAMS
    assert not worker._is_anything_left()


def test_a_chain_of_parents_may_be_longer_than_calls_go_deep():
    def child(i: int) -> ProgramSpec:
        parents = [Parent(run=f"run{i - 1}", parts={}, identity="0" * 12, flops=0)] if i else []
        return handmade.program(handmade.manifest(f"run{i}", parents=tuple(parents)))

    chain = [child(i) for i in range(2000)]
    assert in_order(chain[::-1]) == in_order(chain) == chain


def test_what_seeds_share_is_computed_once(tiny):
    config = tiny(grid=study.block("grid", "known", (0,), tokens=(960, 1920), seeds=tuple(range(20))))
    config.lock()
    resolved = study.resolve(config)
    made = Shapes(resolved)
    assert len(resolved.cells) == 40 and len({id(made.of(cell)) for cell in resolved.cells}) == 2
    # Two blocks may ask for the same model in other words; numbers are compared as they are written.
    programs = plan.make(resolved).programs
    assert len({spec.run for program in programs for spec in program.runs}) == 60


@pytest.mark.parametrize(
    "value", [{}, {"a": {}, "b": [], "c": [[], {}]}, [1e-5, 1e22, -0.0, 10**30], 'ü\u2028\\ "', None]
)
def test_json_is_written_as_the_standard_library_does(value):
    assert to_json(value) == json.dumps(value, indent=1, allow_nan=False, default=plain) + "\n"
    with pytest.raises(ValueError, match="JSON"):
        to_json([value, float("nan")])


def test_the_committed_figures_hold_the_goals_and_are_those_of_the_page():
    found = json.loads((ROOT / "benchmarks" / "scale.json").read_text())
    verbs, page = found["verbs"], (ROOT / "benchmarks" / "README.md").read_text()
    goals = {"status": 1 / 4, "run": 1 / 3, "plan": 1 / 4, "report": 1 / 5}
    assert found["runs"] >= 11_000
    for name, goal in goals.items():
        assert verbs[name]["ratio"] <= goal
        assert f"`{name}` {verbs[name]['ratio']:.2f}" in page
    assert verbs["report"]["bytes"]["new"] < 2e6
    assert max(found["cells"]["peak_mib"].values()) < 2048
    assert found["short"]["a_second"] >= 20 or f"{found['short']['a_second']:.1f} a second" in page


@pytest.mark.system  # half a minute
def test_the_benchmark_runs_small(tmp_path):
    out = tmp_path / "scale.json"
    small = ["--runs=2x2x3", "--cells=2x2x2", "--many=2x2x2", "--short=20", "--rounds=1", f"--out={out}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), *small, "--only=status,run,plan,cells,short"]
    done = subprocess.run(command, env=environment, cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert (
        found["runs"] == 2 * 3 * 3 and found["short"]["runs"] == 20 and set(found["verbs"]) == {"status", "run", "plan"}
    )
