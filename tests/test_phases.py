"""A worker that is told to stop in any phase checkpoints or leaves what is there; then it ends with the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chain_study import ROOT, ending, program, wait_for
from chain_study import chain_study as chain_study
from conftest import tiny_config

from scaling import plan
from scaling import study as studies
from scaling.records import read_json, records
from scaling.records.types import InterruptedRow
from scaling.worker import EXIT_DONE, EXIT_INTERRUPTED, lease

# Trains as always, but stays at the beginning of a phase until the test lets it go on.
HOLD = """
import os, time
from pathlib import Path
from scaling import checkpoint, drive, run, step, train
from scaling.train import Interrupted, execute

PHASES = {
    "compiling": (step.Trainer, "_compile"),
    "stepping": (drive, "chunk"),
    "evaluating": (run.Run, "evaluate"),
    "saving": (checkpoint.Checkpoints, "save"),
    "publishing": (run.Run, "finish"),
}
owner, name = PHASES[os.environ["PHASE"]]
original = getattr(owner, name)

def held(*arguments, **options):
    mark = Path(os.environ["MARK"])
    if not mark.exists():
        mark.touch()
        while not mark.with_suffix(".go").exists():
            time.sleep(0.01)
    return original(*arguments, **options)

setattr(owner, name, held)
"""


def bits(workdir: Path) -> dict[str, Any]:
    """All that training has computed in a work directory."""
    found = {}
    for record in records(workdir):
        result = record.result
        leaves = {path.stem: read_json(path)["leaves"] for path in record.path.glob("checkpoints/*.json")}
        rows = [(row.step, row.loss, row.norm) for row in record.steps()]
        found[record.path.name] = (rows, result.status, result.evaluation, leaves)
    return found


def worker(workdir: Path, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(workdir.parent)])
    whole = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths, **environment}
    execute = "hold:execute" if environment else "scaling.train:execute"
    command = [sys.executable, "-m", "scaling.worker", f"--workdir={workdir}", f"--execute={execute}", "--core=0"]
    return subprocess.Popen(command, env=whole, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    workdir = tmp_path_factory.mktemp("phases") / "w"
    plan.write(plan.make(studies.resolve(tiny_config())), workdir)
    with ending(worker(workdir)) as process:
        assert process.wait(300) == EXIT_DONE
    return bits(workdir)


PHASES = {"compiling": "TERM", "stepping": "USR2", "evaluating": "TERM", "saving": "USR2", "publishing": "TERM"}


@pytest.mark.system
@pytest.mark.parametrize(("phase", "name"), PHASES.items())
def test_a_signal_in_any_phase_costs_no_bit(tmp_path, undisturbed, phase, name):
    (tmp_path / "hold.py").write_text(HOLD)
    workdir, mark = tmp_path / "w", tmp_path / "mark"
    plan.write(plan.make(studies.resolve(tiny_config())), workdir)
    with ending(worker(workdir, PHASE=phase, MARK=str(mark))) as process:
        wait_for(mark.exists, 120)
        process.send_signal(getattr(signal, f"SIG{name}"))
        mark.with_suffix(".go").touch()
        assert process.wait(120) == EXIT_INTERRUPTED
    assert any(record.events(InterruptedRow) for record in records(workdir))
    assert any(record.result is None for record in records(workdir)) or phase == "publishing"
    with ending(worker(workdir)) as process:
        assert process.wait(300) == EXIT_DONE
    assert bits(workdir) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_that_waits_for_others_ends_at_once(study, number):
    study.plan(program("one"))
    mine = lease.acquire(study.record("one").path)
    assert mine is not None
    with mine, ending(study.worker()) as process:
        wait_for(lambda: (study.workdir / "logs" / "worker-all.log").exists() and "worker on core" in study.log())
        process.send_signal(number)
        assert process.wait(30) == EXIT_INTERRUPTED


def test_a_worker_of_a_job_does_not_wait_for_ever_for_what_others_hold(study):
    study.plan(program("one"), program("two"))
    mine = lease.acquire(study.record("one").path)
    assert mine is not None
    with mine, ending(study.worker("--idle=1")) as process:
        assert process.wait(30) == EXIT_DONE
    assert study.record("two").status == "done" and study.record("one").result is None
    with ending(study.worker("--idle=1")) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()


@pytest.mark.system
def test_threads_that_are_left_do_not_hold_a_worker(study):
    """A checkpoint that failed leaves some that wait for five minutes."""
    stuck = "import threading\nfrom chains import execute\nthreading.Thread(target=threading.Event().wait).start()\n"
    (study.modules / "stuck.py").write_text(stuck)
    study.plan(program("one"))
    with ending(study.worker("--execute=stuck:execute")) as process:
        assert process.wait(120) == EXIT_DONE
    study.assert_finished()
