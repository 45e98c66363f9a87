"""Programs of one shape trained together: each ends as it would alone, whatever becomes of the others."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import handmade
import jax.numpy as jnp
import pytest
from chain_study import ending, wait_for
from conftest import tiny_config
from refusals import refuses

from scaling import drive, plan, study, train
from scaling.errors import Code, UserError
from scaling.records import Record, records
from scaling.records.types import ProgramSpec, StartRow
from scaling.step import Ensemble
from scaling.worker import EXIT_USER
from scaling.worker.lease_file import holder
from scaling.worker.programs import load_programs

ROOT = Path(__file__).parents[1]
CALM = (
    0.002  # a learning rate at which rounding does not grow; at the recipe's own, 0.02, it does so tenfold in 20 steps
)


def outcomes(workdir: Path) -> dict[str, tuple]:
    """What a run gave: its status, its training losses by step, its evaluation."""
    found = {}
    for record in records(workdir):
        result = record.result
        assert result is not None
        rows = record.steps()
        losses = [term.value for term in result.evaluation.values()]
        ends = (result.status, result.steps, result.tokens, result.decayed, [row.step for row in rows])
        found[record.path.name] = (ends, [row.loss for row in rows] + losses)
    return found


def assert_alike(workdir: Path, alone: Path) -> None:
    one, other = outcomes(workdir), outcomes(alone)
    assert {name: ends for name, (ends, _) in one.items()} == {name: ends for name, (ends, _) in other.items()}
    for name, (_, losses) in one.items():
        assert losses == pytest.approx(other[name][1], rel=1e-6), name


def mixed():
    """Stems with branches and a whole run, of several lengths; the one whose learning rate is absurd diverges."""
    block = study.block
    made: Any = tiny_config(
        grid=block("grid", "known", (0,), tokens=(48 * 30, 48 * 60), seeds=(0, 1)),
        wild=block("grid", "known", (0,), tokens=(48 * 40,), recipe={"learning_rate": 1e9}),
        cosine=block("grid", "known", (0,), tokens=(48 * 45,), recipe={"schedule": "cosine"}),
        short=block("grid", "known", (0,), tokens=(48 * 15,), recipe={"learning_rate": 1e-3, "warmup_steps": 2}),
    )
    made.recipe.learning_rate = CALM
    return made


def prepare(config, workdir: Path) -> list[ProgramSpec]:
    plan.write(plan.make(study.resolve(config)), workdir)
    return load_programs(workdir)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    for program in prepare(mixed(), workdir):
        train.execute(program, workdir, progress=lambda *_: None, should_stop=lambda: False)
    return workdir


def together(
    programs: list[ProgramSpec], workdir: Path, size: int, stops: dict[str, int]
) -> dict[str, Exception | None]:
    """How the programs ended that were driven together; ``stops``: chunks after which one is interrupted."""
    ends: dict[str, Exception | None] = {}

    def works():
        for program in programs:
            ticks, name = [], program.program

            def should_stop(ticks=ticks, name=name) -> bool:
                return len(ticks) >= stops.get(name, 1000)

            def ended(problem: Exception | None, name=name) -> None:
                ends[name] = problem

            def progress(*_, ticks=ticks) -> None:
                ticks.append(0)

            yield train.work(program, workdir, progress=progress, should_stop=should_stop), ended

    drive.drive(works(), size)
    return ends


@pytest.mark.system
def test_members_end_as_alone_through_stops_free_places_and_a_divergence(alone, tmp_path):
    programs = prepare(mixed(), tmp_path)
    assert len(programs) == 5 and len({train.batching_key(program) for program in programs}) == 1
    stops = {program.program: 1 + index for index, program in enumerate(programs)}
    ends = together(programs, tmp_path, 3, stops)  # five programs in three places, each leaves at another step
    assert [type(end) for end in ends.values()] == [train.Interrupted] * 3 + [type(None)] * 2
    ends = together(programs, tmp_path, 3, {})  # three go on from where they were
    assert ends == dict.fromkeys(ends) and len(ends) == 5
    assert_alike(tmp_path, alone)
    states = [record.status for record in records(tmp_path)]
    assert states.count("diverged") == 2 and states.count("done") == len(states) - 2
    rows = [row for record in records(tmp_path) for row in record.steps()]
    assert {row.members for row in rows} >= {2, 3}
    trainer = train.trainer_of(programs[0].runs[0].manifest, programs[0].options)
    assert sorted(name for name, _ in trainer._compiled if name.startswith("chunk")) == ["chunk", "chunk 3 1"]


@pytest.mark.system
def test_the_error_of_a_member_is_its_own(alone, tmp_path):
    first, second, *_ = prepare(mixed(), tmp_path)
    other = handmade.edited(first, data={**first.data, "world": 5})
    ends = together([other, second], tmp_path, 3, {})
    refused = ends[first.program]
    assert isinstance(refused, UserError) and refused.code is Code.CHANGED and ends[second.program] is None
    assert (
        outcomes(tmp_path).items()
        <= {name: (ends, pytest.approx(losses, rel=1e-6)) for name, (ends, losses) in outcomes(alone).items()}.items()
    )


@pytest.mark.system
def test_what_does_not_fit_into_memory_is_one_line_and_what_is_faster_is_measured(tmp_path, monkeypatch):
    program = prepare(mixed(), tmp_path)[0]
    assert 0.05 < train.speedup(program, 3, tmp_path) < 20
    # The error is the backend's own, for more than any machine has; it comes at once, or when the metrics are read.
    monkeypatch.setattr(Ensemble, "chunk", lambda self, state, *_: (state, {"loss": jnp.zeros(10**15)}))
    with refuses(Code.ENVIRONMENT, "ensemble", 3):
        together([program], tmp_path, 3, {})
    assert train.speedup(program, 3, tmp_path) == 0


CONFIG = """
from conftest import tiny_config
from scaling import study

def get_config(argument=""):
    block = study.block
    made = tiny_config(**{f"rate{index}": block("grid", "known", (0,), tokens=(48 * 60, 48 * 120), seeds=(0, 1),
                                                recipe={"learning_rate": rate})
                          for index, rate in enumerate((0.002, 0.001))})
    made.chunk, made.checkpoint_seconds = 5, 0.0  # a checkpoint at every chunk, so that a kill may hit one
    return made
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``scaling run`` of 2 learning rates x 2 seeds x 2 D in a directory of that name."""
    (tmp_path / "exp.py").write_text(CONFIG)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def start(name: str, *flags: str) -> subprocess.Popen[str]:
        given = (f"--config={tmp_path / 'exp.py'}", f"--workdir={tmp_path / name}", "--workers=1", *flags)
        command = [sys.executable, "-m", "scaling.cli", "run", *given]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    return start


@pytest.mark.system
def test_a_study_of_ensembles_is_the_study_of_single_runs_through_a_kill(command, tmp_path):
    with ending(command("one", "--ensemble=1")) as process:
        assert process.wait() == 0
    cache = tmp_path / "cache"
    with ending(command("four", "--ensemble=4", f"--cache={cache}")) as process:
        wait_for(lambda: (tmp_path / "four" / "study.json").exists(), 600)
        stems = [Record(tmp_path / "four/runs" / p.program) for p in load_programs(tmp_path / "four")]
        wait_for(lambda: all(len(stem.steps()) >= 5 for stem in stems), 600)
        leases = [holder(stem.path) for stem in stems]
        (worker,) = {lease.pid for lease in leases if lease is not None}
        assert None not in leases  # one worker holds all four
        os.kill(worker, signal.SIGKILL)
        assert process.wait() == 0, process.stderr
    assert len(stems) == 4 and all(len(stem.events(StartRow)) == 2 for stem in stems)
    assert_alike(tmp_path / "four", tmp_path / "one")
    assert {row.members for stem in stems for row in stem.steps()} == {4}
    # One compilation of a chunk, for both workers.
    assert len(list(cache.glob("jit_step_chunk-*-cache"))) == 1, sorted(path.name for path in cache.iterdir())


def test_a_worker_that_cannot_train_several_says_so(tmp_path):
    prepare(mixed(), tmp_path)
    worker = [sys.executable, "-m", "scaling.worker", f"--workdir={tmp_path}", "--ensemble=2"]
    group = ("--processes=2", "--process=0", "--coordinator=127.0.0.1:1")
    for arguments, code in ((group, Code.CONFLICT), (("--execute=json:loads",), Code.UNSUPPORTED)):
        done = subprocess.run([*worker, "--json", *arguments], capture_output=True, text=True, cwd=ROOT)
        problem = json.loads(done.stdout)
        assert done.returncode == EXIT_USER
        assert (problem["field"], problem["value"], problem["code"]) == ("ensemble", "2", code)
    assert records(tmp_path) == []


@pytest.mark.system
def test_a_worker_without_siblings_compiles_the_next_shape_while_one_trains(tmp_path):
    cells = {
        f"batch{size}": study.block("grid", "known", (0,), tokens=(96 * 60,), recipe={"batch": size})
        for size in (2, 4, 8)
    }
    made = tiny_config(**cells)
    names = [program.program for program in prepare(made, tmp_path)]
    worker = [sys.executable, "-m", "scaling.worker", f"--workdir={tmp_path}", f"--cache={tmp_path / 'cache'}"]
    subprocess.run(worker, cwd=ROOT, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True)
    log = (tmp_path / "logs" / "worker-all.log").read_text()
    assert all(f"{name}: finished" in log for name in names)
    assert f"{names[1]}: compiled ahead" in log and log.index(f"{names[1]}: c") < log.index(f"{names[1]}: finished")
    # What was compiled ahead is what trains.
    assert len(list((tmp_path / "cache").glob("jit_step_chunk-*-cache"))) == 3
