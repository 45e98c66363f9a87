"""The slurm engine under a real SLURM of two nodes on this machine (``make test-system``).

Jobs are preempted and cancelled, their scripts, nodes and launchers are killed, and studies end with the bits of an
undisturbed run.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import handmade
import pytest
import slurm_cluster
from chain_study import ROOT, Study, program, wait_for
from chain_study import chain_study as chain_study
from refusals import refuses
from slurm_cluster import Cluster, processes, wait_until

from scaling import cli
from scaling.engines import _requeue
from scaling.engines.slurm import Slurm, read_submitted
from scaling.errors import Code, UserError
from scaling.records import read_json, read_study, read_typed, records
from scaling.records.types import InterruptedRow

pytestmark = pytest.mark.system

# --- under a real SLURM


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with two idle nodes, a site file that polls often, and the current directory beside the study."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="slurm-") as place:  # not tmp_path: sockets need short paths
        try:
            slurm_cluster.install()
        except slurm_cluster.Unavailable as error:
            pytest.skip(str(error))
        made = Cluster(Path(place))
        try:
            made.start()
            for name in ("SLURM_CONF", "PATH"):
                monkeypatch.setenv(name, made.environment[name])
            monkeypatch.chdir(tmp_path)
            (tmp_path / "site.toml").write_text("poll = 0.5\n")
            yield made
        except slurm_cluster.Unavailable as error:
            pytest.skip(str(error))
        finally:
            made.stop()


def engine(study: Study, **options: Any) -> Slurm:
    options = {"jobs": 2, **options}
    made = Slurm(study.workdir, site="site.toml", execute="chains:execute", **options)
    made.check(study.programs)
    made.submit(study.programs)
    return made


def drain(made: Slurm, seconds: float = 120) -> UserError | None:
    wait_until(lambda: made.poll().finished, seconds, lambda: str(made.poll()))
    return made.poll().problem


def jobs(lab: Cluster) -> list[list[str]]:
    """Number, task, state and node of every job that squeue shows."""
    lines = lab.command("squeue", "-h", "--array", "--format=%A %i %T %N").splitlines()
    return [line.split() for line in lines]


def starts(study: Study) -> list[_requeue.Task]:
    paths = sorted((study.workdir / "jobs").glob("slurm-*_*.json"))
    return [read_typed(path, _requeue.Task) for path in paths if "error" not in path.name]


def test_jobs_of_arrays_train_a_study_and_leave_the_queue(study, lab, capfd):
    study.plan(*(program(f"p{index}", runs=2) for index in range(7)))
    assert drain(engine(study, jobs=7, workers=1)) is None
    study.assert_finished()
    assert len(study.trace()) == len(set(study.trace())) == 140
    submitted = read_submitted(study.workdir)
    assert [batch.tasks for batch in submitted.batches] == [4, 3]  # MaxArraySize of this site is 4
    assert capfd.readouterr().err.count("submitted") == 2
    wait_until(lambda: not jobs(lab), 30)


SIGNALS = {
    "to the step": ("scancel", "--signal=USR2"),
    "TERM to the step": ("scancel", "--signal=TERM"),
    "to the script": ("scancel", "--batch", "--signal=USR2"),
    "to everything": ("scancel", "--full", "--signal=TERM"),
    "preempted": ("scontrol", "requeue"),
}


@pytest.mark.parametrize("command", SIGNALS.values(), ids=SIGNALS.keys())
def test_a_job_that_gets_a_signal_goes_back_into_the_queue_and_on(study, lab, command):
    study.plan(program("one", steps=60, pause=0.1))
    made = engine(study)
    wait_for(lambda: len(study.trace()) > 5, 60)
    lab.command(*command, jobs(lab)[0][0])
    assert drain(made) is None
    study.assert_finished()
    assert len(read_submitted(study.workdir).batches) == 1
    (task,) = starts(study)
    assert len(task.starts) == 2 and task.starts[1].marks.rows > 5
    repeated = len(study.trace()) - 60
    assert repeated <= 5 if command[1] == "--full" else repeated == 0  # that one kills srun, and srun the step


def test_only_the_task_that_gets_a_signal_goes_back_also_the_last_of_an_array(study, lab):
    """The last task of an array has the array's number, by which SLURM would take all of them."""
    study.plan(*(program(f"p{index}", steps=80, pause=0.1) for index in range(3)))
    made = engine(study, jobs=3)
    wait_for(lambda: len({line.split()[0] for line in study.trace()}) == 3, 60)
    (last,) = [number for number, task, *_ in jobs(lab) if task.startswith(f"{number}_")]
    lab.command("scancel", "--signal=USR2", f"{last}_2")
    assert drain(made) is None
    study.assert_finished()
    assert len(read_submitted(study.workdir).batches) == 1 and len(study.trace()) == 240
    assert sorted(len(task.starts) for task in starts(study)) == [1, 1, 2]


def test_runs_of_two_nodes_that_need_a_person_end_their_job_and_the_launcher_says_why(study, lab):
    options = handmade.options(mesh={"ensemble": 1, "data": 2, "fsdp": 1, "tensor": 1})
    study.plan(handmade.edited(program("one", full_disk=True), options=options))
    problem = drain(engine(study, jobs=1, nodes=2))
    assert problem is not None and "No space left" in problem.remedy
    assert len(read_submitted(study.workdir).batches) == 1 and study.record("one").result is None


def test_a_job_whose_script_died_alone_is_submitted_again(study, lab):
    study.plan(program("one", steps=60, pause=0.1), program("two", steps=60, pause=0.1))
    made = engine(study)
    wait_for(lambda: len(study.trace()) > 10, 60)
    wait_until(lambda: len(processes(f"{lab.place}/spool", "/slurm_script")) == 2, 20)
    os.kill(processes(f"{lab.place}/spool", "/slurm_script")[0], signal.SIGKILL)
    assert drain(made) is None
    study.assert_finished()
    assert [batch.tasks for batch in read_submitted(study.workdir).batches] == [2, 1]


@pytest.mark.parametrize("jobs_too", [True, False], ids=["power cut", "daemon alone"])
def test_a_node_that_vanishes_loses_its_job_to_another(study, lab, jobs_too):
    study.plan(program("one", steps=400, pause=0.1))
    made = engine(study, jobs=1)
    wait_for(lambda: len(study.trace()) > 5, 60)
    ((_, _, _, node),) = jobs(lab)
    lab.kill_node(node, jobs=jobs_too)
    wait_until(lambda: [job[2:] for job in jobs(lab)] == [["RUNNING", *(set(slurm_cluster.NODES) - {node})]], 60)
    assert drain(made) is None
    study.assert_finished()
    (task,) = starts(study)
    assert len(task.starts) == 2 and len(read_submitted(study.workdir).batches) == 1
    # The job goes on where its daemon alone is dead; then its lease keeps the second one away.
    assert len(study.trace()) - 400 <= (5 if jobs_too else 0)


def test_cancelled_jobs_checkpoint_stay_away_and_a_launcher_that_follows_them_ends(study, lab, capfd):
    study.plan(program("one", steps=200, pause=0.05), program("two", steps=200, pause=0.05))
    made = engine(study, jobs=3)
    wait_for(lambda: len(study.trace()) > 10, 60)
    assert cli.main(["cancel", str(study.workdir)]) == 0
    (batch,) = read_submitted(study.workdir).batches
    assert f"cancelled {batch.job};" in capfd.readouterr().out
    problem = drain(made)
    assert problem is not None and problem.value == "cancelled"
    assert study.record("one").events(InterruptedRow) and not jobs(lab)
    time.sleep(2)
    assert len(read_submitted(study.workdir).batches) == 1 and not jobs(lab)
    made = engine(study, jobs=2)
    wait_for(lambda: len(study.trace()) > 150, 60)
    assert cli.main(["cancel", str(study.workdir), "--force"]) == 0
    assert drain(made).value == "cancelled"
    assert drain(engine(study)) is None
    study.assert_finished()


def test_a_launcher_that_was_killed_submits_nothing_twice(study, lab, tmp_path):
    study.plan(*(program(f"p{index}", steps=300, pause=0.05) for index in range(4)))
    flags = ("--engine=slurm", "--site=site.toml", "--execute=chains:execute", "--jobs=4")
    command = [sys.executable, "-m", "scaling.cli", "run", f"--workdir={study.workdir}", *flags]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{study.modules}"}

    def launch(name: str) -> subprocess.Popen[str]:
        with open(tmp_path / name, "w") as said:
            return subprocess.Popen(command, env=environment, stderr=said, text=True)

    first, second = launch("first"), launch("second")  # two at once submit the jobs once
    for name in ("first", "second"):
        wait_for(lambda name=name: "programs to train" in (tmp_path / name).read_text(), 60)
    assert len(jobs(lab)) == 4
    first.kill()
    second.send_signal(signal.SIGINT)
    first.wait(60)
    assert second.wait(60) == 130 and "the jobs go on" in (tmp_path / "second").read_text()
    third = launch("third")
    assert third.wait(120) == 0
    said = (tmp_path / "third").read_text()
    assert "submitted" not in said and "in the queue already" in said
    study.assert_finished()
    assert [batch.tasks for batch in read_submitted(study.workdir).batches] == [4]
    assert len(study.trace()) == len(set(study.trace())) == 1200


def test_a_launcher_may_leave_after_submitting_and_idle_jobs_end(study, lab, tmp_path, capsys):
    study.plan(program("long", steps=200, pause=0.05), program("short"))
    (tmp_path / "site.toml").write_text("poll = 0.5\nidle = 1\n")
    command = ["run", f"--workdir={study.workdir}", "--engine=slurm", "--site=site.toml", "--execute=chains:execute"]
    assert cli.main([*command, "--nofollow"]) == 0
    assert len(jobs(lab)) == 2 and study.record("long").result is None
    wait_until(lambda: len(jobs(lab)) == 1, 60, lab.report)  # one has nothing to do any more
    assert cli.main(command) == 0
    study.assert_finished()
    assert [batch.tasks for batch in read_submitted(study.workdir).batches] == [2]


def test_requeues_without_progress_stop_at_three(study, lab):
    study.plan(program("stuck", steps=2, pause=600.0))
    made = engine(study, jobs=1)

    def signalled() -> bool:
        for job in jobs(lab):
            if job[2] == "RUNNING" and len(processes("-m scaling.worker", str(study.workdir))) == 1:
                lab.command("scontrol", "requeue", job[0], check=False)
        return made.poll().finished

    wait_until(signalled, 200, lab.report)
    problem = made.poll().problem
    assert problem is not None and problem.field == "job" and problem.code is Code.ENVIRONMENT
    assert [len(task.starts) for task in starts(study)] == [4]
    assert len(read_submitted(study.workdir).batches) == 1 and study.record("stuck").result is None


def test_what_sbatch_refuses_is_passed_on_in_one_line(study, lab, capsys):
    study.plan(program("one"))
    command = ["run", f"--workdir={study.workdir}", "--engine=slurm", "--partition=nowhere"]
    assert cli.main(command) == cli.EXIT_USER
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "invalid partition specified: nowhere" in said
    assert read_submitted(study.workdir).batches == () and not jobs(lab)
    with refuses(Code.ENVIRONMENT, "sbatch") as caught:  # a value in quotes reaches the real sbatch whole
        engine(study, sbatch="--begin='not a time #'")
    assert "not a time #" in caught.value.remedy


def test_inside_an_allocation_the_nodes_are_used_and_nothing_is_submitted(study, lab, tmp_path):
    study.plan(*(program(f"p{index}", steps=30) for index in range(6)))
    flags = ("--engine=slurm", "--execute=chains:execute", "--workers=2")
    command = [sys.executable, "-m", "scaling.cli", "run", f"--workdir={study.workdir}", *flags]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{study.modules}"}
    done = subprocess.run(
        ["salloc", "--nodes=2", "--cpus-per-task=2", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    study.assert_finished()
    assert not (study.workdir / "jobs" / "slurm.json").exists()
    logs = {path.name.split("-")[1] for path in (study.workdir / "logs").glob("worker-*")}
    assert logs == {"n1", "n2"}


# --- the smoke study

DEMO = "--config=demo:smoke"


def scaling(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "scaling.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def bits(workdir: Path) -> dict[str, Any]:
    """All that training has computed in a work directory: losses of every step, evaluations, hashes of checkpoints."""
    found = {}
    for record in records(workdir):
        result = record.result
        leaves = {path.stem: read_json(path)["leaves"] for path in record.path.glob("checkpoints/*.json")}
        rows = [(row.step, row.loss, row.norm, row.learning_rate) for row in record.steps()]
        found[record.path.name] = (rows, result.status, result.train_loss, result.evaluation, leaves)
    return found


def test_the_smoke_study_ends_with_the_same_bits_on_slurm_through_three_kinds_of_loss(lab, tmp_path):
    with scaling("run", DEMO, "--workdir=local") as process:
        assert process.wait(1800) == 0, process.communicate()[1]
    workdir = tmp_path / "slurm"
    with scaling("run", DEMO, f"--workdir={workdir}", "--engine=slurm", "--site=site.toml", "--jobs=2") as process:
        try:
            _lose(lab, workdir)
            assert process.wait(1800) == 0, process.communicate()[1]
        finally:
            process.kill()
    alone, through = bits(tmp_path / "local"), bits(workdir)
    assert len(alone) > 20 and through == alone
    assert len(read_submitted(workdir).batches) >= 2  # one in place of the job whose script was killed


def _lose(lab: Cluster, workdir: Path) -> None:
    """Preempts a job, kills the script of one, and the node of one, while their workers train."""

    def script(number: str) -> list[int]:
        return processes(f"{lab.place}/spool", f"job{int(number):05d}/slurm_script")

    def a_job(least: int, other_than: str = "") -> list[str]:
        """A running job whose script lives, once so many run and as many leases are held."""
        found: list[list[str]] = []

        def working() -> bool:
            running = [job for job in jobs(lab) if job[2] == "RUNNING" and script(job[0])]
            found[:] = [job for job in running if job[0] != other_than]
            return bool(found) and least <= min(len(running), len(list(workdir.glob("runs/*/lease.json"))))

        wait_until(working, 120, lab.report)
        return found[0]

    requeued = a_job(2)[0]
    lab.command("scontrol", "requeue", requeued)
    os.kill(script(a_job(1, requeued)[0])[0], signal.SIGKILL)
    lab.kill_node(a_job(1)[3], jobs=True)
    runs = [spec.run for each in read_study(workdir).programs for spec in each.runs]
    assert not all((workdir / "runs" / run / "result.json").exists() for run in runs)


EXPERIMENT = """
from conftest import tiny_config
from scaling import study

def get_config(argument=""):
    config = tiny_config(grid=study.block("grid", "known", (0,), tokens=(48 * {steps}, 48 * {steps} + 4800)))
    config.name = "{name}"
    return config
"""


def test_a_run_of_two_nodes_survives_a_signal_to_its_step(lab, tmp_path):
    (tmp_path / "exp.py").write_text(EXPERIMENT.format(name="exp", steps=400))
    flags = ("--engine=slurm", "--site=site.toml", "--nodes=2", "--jobs=1")
    with scaling("run", "--config=exp.py", "--config.mesh.data=2", "--workdir=w", *flags) as process:
        try:
            log = tmp_path / "w" / "logs"
            wait_until(lambda: any(record.steps() for record in records(tmp_path / "w")), 120, lab.report)
            lab.command("scancel", "--signal=USR2", jobs(lab)[0][0])
            assert process.wait(900) == 0, process.communicate()[1]
        finally:
            process.kill()
    found = records(tmp_path / "w")
    assert len(found) == 3 and all(record.status == "done" for record in found)
    environment = found[0].manifest.environment
    assert environment is not None and (environment.processes, environment.device_count) == (2, 2)
    assert any(record.events(InterruptedRow) for record in found)
    assert len(list(log.glob("worker-*-all-[01].log"))) == 2


PAGE = (ROOT / "docs" / "slurm.md").read_text()
COMMANDS = dict.fromkeys(
    line.strip()
    for line in PAGE.splitlines()
    if re.match(r"    (salloc|scaling) ", line) and ("=slurm" in line or "demo-smoke" in line)
)


def test_the_commands_of_the_page_run_as_they_stand(lab, tmp_path, monkeypatch):
    """docs/slurm.md, word by word, one after the other in one directory."""
    (tmp_path / "scaling").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m scaling.cli "$@"\n')
    (tmp_path / "scaling").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name in ("large", "mine"):
        (tmp_path / f"{name}.py").write_text(EXPERIMENT.format(name=name, steps=60))
    ran = []
    for command in COMMANDS:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, (command, done.stdout, done.stderr, lab.report())
        ran.append(done.stdout)
        if "--dry_run" in command:
            assert "#SBATCH --partition=gpu" in done.stdout
    assert len(ran) >= 8 and read_submitted(tmp_path / "runs" / "demo-smoke").batches
    for name in ("demo-smoke", "large", "mine"):
        found = records(tmp_path / "runs" / name)
        assert found and all(record.status == "done" for record in found), name
