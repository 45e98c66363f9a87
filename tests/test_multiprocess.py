"""Several processes as one worker: who is in the group, and that two of them train what one does."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import handmade
import pytest
from conftest import tiny_config
from refusals import refuses

from scaling import distributed, plan, study
from scaling.distributed import Group, detect
from scaling.errors import Code
from scaling.records import read_json, records
from scaling.records.types import InterruptedRow, StartRow, StepRow
from scaling.worker import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER

ROOT = Path(__file__).parents[1]

# Trains as always, but process 1 of a group gets a SIGTERM at its third look, once.
STOPS = """
import os, signal
from pathlib import Path
from typing import Any
from scaling import distributed, train
from scaling.train import Interrupted

def execute(program, workdir, *, progress, should_stop):
    looks = 0
    def look():
        nonlocal looks
        looks += 1
        once = Path(workdir) / "stopped"
        if distributed.index() == 1 and looks == 3 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return should_stop()
    train.execute(program, workdir, progress=progress, should_stop=look)
"""


def worker(workdir: Path, devices: int, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(workdir.parent)]),
    }
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    command = [sys.executable, "-m", "scaling.worker", f"--workdir={workdir}", "--execute=stops:execute"]
    return subprocess.Popen([*command, *arguments], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def group(workdir: Path) -> list[int]:
    """Exit codes of two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ("--processes=2", f"--coordinator=127.0.0.1:{port}")
    processes = [worker(workdir, 2, *given, f"--process={index}") for index in range(2)]
    try:
        return [process.wait(900) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.system
def test_two_processes_train_what_one_does_through_a_signal_to_one_of_them(tmp_path):
    config: Any = tiny_config(grid=study.block("grid", "known", (0,), tokens=(96 * 15, 96 * 20)))
    config.recipe.batch, config.chunk, config.mesh.data, config.mesh.fsdp = 8, 5, 2, 2
    (tmp_path / "stops.py").write_text(STOPS)
    for name in ("one", "two"):
        plan.write(plan.make(study.resolve(config)), tmp_path / name)
    with worker(tmp_path / "one", 4) as process:
        assert process.wait(900) == EXIT_DONE, (tmp_path / "one/logs/worker-all.log").read_text()
    logs = [tmp_path / "two" / "logs" / f"worker-all-{index}.log" for index in range(2)]
    assert group(tmp_path / "two") == [EXIT_INTERRUPTED] * 2, [log.read_text() for log in logs]
    assert not list((tmp_path / "two").glob("runs/*/result.json"))  # on the way, and in a checkpoint
    assert group(tmp_path / "two") == [EXIT_DONE] * 2, [log.read_text() for log in logs]
    one, two = (records(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for alone, together in zip(one, two):
        rows = [record.steps() for record in (alone, together)]
        assert [row.step for row in rows[0]] == [row.step for row in rows[1]]
        # Written once: a second writer would have doubled the rows.
        assert sum(isinstance(row, StepRow) for row in together.rows()) == len(rows[1])
        assert [row.loss for row in rows[1]] == pytest.approx([row.loss for row in rows[0]], rel=1e-6)
        losses = [handmade.ended(record).evaluation.get("loss") for record in (alone, together)]
        single, both = losses
        if single is not None:  # a stem has none
            assert both is not None and both.value == pytest.approx(single.value, rel=1e-6)
            assert both.documents is not None and single.documents is not None
            assert both.documents.id == single.documents.id
        environment = together.manifest.environment
        assert environment is not None
        assert (environment.device_count, environment.processes) == (4, 2)
    stem = next(record for record in two if record.manifest.kind == "stem")
    assert stem.events(InterruptedRow) and len(stem.events(StartRow)) == 2
    hashes = [
        read_json(next(record.path.glob("checkpoints/*.json")))["leaves"].keys()
        for record in (next(record for record in one if record.manifest.kind == "stem"), stem)
    ]
    assert hashes[0] == hashes[1]


SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "gpu[007-009,12]",
}
JOBSET = {"JOB_COMPLETION_INDEX": "1", "JOBSET_NAME": "big", "REPLICATED_JOB_NAME": "worker"}


@pytest.mark.parametrize(
    ("environ", "given", "expected"),
    [
        ({}, {}, None),
        ({}, {"processes": 1}, None),
        ({}, {"processes": 2, "process": 1, "coordinator": "host:5"}, Group("host:5", 2, 1)),
        (SLURM, {}, Group(f"gpu007:{distributed.PORT + 7}", 4, 3)),
        ({**SLURM, "SLURM_STEP_NODELIST": "n1,n2"}, {}, Group(f"n1:{distributed.PORT + 7}", 4, 3)),
        (SLURM, {"processes": 1}, None),  # four workers of their own
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, {}, None),
        (SLURM, {"coordinator": "other:1"}, Group("other:1", 4, 3)),
        (JOBSET, {}, None),  # an indexed Job of independent workers
        ({**JOBSET, "SCALING_PROCESSES": "2"}, {}, Group(f"big-worker-0-0.big:{distributed.PORT}", 2, 1)),
        (
            {"SCALING_PROCESSES": "2", "SCALING_PROCESS": "0", "SCALING_COORDINATOR": "a:1"},
            {"process": 1},
            Group("a:1", 2, 1),
        ),
    ],
)
def test_a_group_is_found_in_the_environment_of_its_launcher(environ, given, expected):
    assert detect(environ, **given) == expected


@pytest.mark.parametrize(
    ("environ", "given", "code", "field", "value"),
    [
        ({}, {"processes": 0}, Code.INVALID, "processes", 0),
        ({}, {"processes": 2}, Code.INVALID, "process", -1),
        ({}, {"processes": 2, "process": 2, "coordinator": "a:1"}, Code.INVALID, "process", 2),
        ({}, {"processes": 2, "process": 0}, Code.ENVIRONMENT, "coordinator", "nothing"),
        ({}, {"processes": 2, "process": 0, "coordinator": "a"}, Code.ENVIRONMENT, "coordinator", "a"),
        ({}, {"process": 1}, Code.MISSING, "processes", "nothing"),
        ({"SCALING_PROCESSES": "two"}, {}, Code.INVALID, "SCALING_PROCESSES", "two"),
    ],
)
def test_half_a_group_is_named(environ, given, code, field, value):
    with refuses(code, field, value):
        detect(environ, **given)


def test_the_worker_names_a_group_that_cannot_be(tmp_path):
    command = [sys.executable, "-m", "scaling.worker", f"--workdir={tmp_path}", "--processes=2", "--process=5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == EXIT_USER and done.stdout == "process = 5: must be from 0 to 1\n"


def test_a_process_on_its_own_agrees_with_itself():
    assert distributed.count() == 1 and distributed.primary()
    assert distributed.agree({"a": 1}) == {"a": 1} and distributed.anyone(True) and not distributed.anyone(False)
