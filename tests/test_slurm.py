"""The slurm engine without SLURM: its script, its refusals, and what a job does. test_slurm_cluster.py has the rest."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import msgspec
import pytest
from chain_study import ROOT, Study, program, wait_for
from chain_study import chain_study as chain_study
from refusals import refuses

from scaling import cli
from scaling.engines import _requeue, _slurm, slurm
from scaling.engines.slurm import Batch, Slurm, Submitted, call, cut, read_submitted
from scaling.errors import Code
from scaling.records import Record, identity, read_typed, write_json
from scaling.records.types import InterruptedRow, Parent, StartRow, StepRow
from scaling.verbs._training import engine_options
from scaling.worker import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER
from scaling.worker.failures import Problem
from scaling.worker.lease import acquire

NAMES = "it's #1 100% $HOME `date`"  # a folder whose name has all that a shell or sbatch could take for its own
BUSY = '[ -e "$NOTES.${0##*/}" ] || { touch "$NOTES.${0##*/}"; exit 1; }\n'  # the first call of a command fails
TOOLS = {
    # Stands in for SLURM's commands where there is none: a step is its command, and a requeue is noted.
    "srun": 'while case "$1" in --*) true ;; *) false ;; esac; do shift; done\nexec "$@"\n',
    # It knows the task by its name, and by number the whole array, two of whose tasks run.
    "squeue": BUSY
    + 'case "$*" in *=12_5*) ;; *) echo RUNNING ;; esac\n[ -n "$SQUEUE_STATES" ] || echo "${STATE:-RUNNING}"\n',
    "scontrol": BUSY + 'echo "$@" >>"$NOTES"\n',
}


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No allocation around the tests."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)


pytestmark = pytest.mark.usefixtures("outside")

# --- the script


def script(workdir: Path, *worker: str, workers: int = 1, **site: Any) -> str:
    return _slurm.script(workdir, _slurm.Site(**site), worker, workers)


def lines_of(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize(
    "site",
    [
        {},
        {"nodes": 4, "tasks_per_node": 2, "gpus": 8, "mem": "64G", "account": "lab", "partition": "gpu"},
        {"container": "apptainer exec --nv 'my image.sif'", "setup": ("module load cuda", 'source "$HOME/x"')},
        {"time": "1-0", "sbatch": ("--qos=low", "--exclusive")},
    ],
)
def test_the_script_is_valid_and_holds_every_value_as_it_is(tmp_path, site):
    workdir = tmp_path / NAMES
    workdir.mkdir()
    text = script(workdir, "--execute=a b:c", "--cache=$HOME", **site)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    # What bash makes of the command, on a machine where Python, SLURM's commands and modules only say their arguments.
    said = subprocess.run(
        ["bash", "-c", 'srun() { printf "%s\\n" "$@"; }; ' + text[text.index("  srun ") :].partition(" & ")[0]],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "SLURM_JOB_NUM_NODES": "3", "task": "7_0", "SLURM_JOB_ID": "7"},
    ).stdout.splitlines()
    assert {f"--workdir={workdir}", "--execute=a b:c", "--cache=$HOME"} <= set(said)
    group = site.get("nodes", 1) > 1
    assert ("scaling.worker" if group else "scaling.engines._pool") in said
    assert ("--nodes=4" in said and "--ntasks=8" in said) if group else "--nodes=3" in said
    assert f"--report={workdir}/jobs/slurm-7_0.error.json" in said
    if "container" in site:
        assert said[said.index("apptainer") : said.index("-P")] == [
            "apptainer",
            "exec",
            "--nv",
            "my image.sif",
            "python3",
        ]
        assert "module load cuda" in text and "PYTHONPATH" not in text
    else:
        assert sys.executable in said
    head = lines_of(text)
    assert f'--output="{str(workdir).replace("%", "%%")}/logs/slurm-%A_%a.log"' in head and "--requeue" in head
    assert not site.get("sbatch") or head[-2:] == ["--qos=low", "--exclusive"]


def test_what_a_flag_asks_for_is_in_the_head(tmp_path):
    text = script(tmp_path, workers=4, gpus=2, mem="4G", account="lab", partition="gpu", time="10", notice=600)
    head = set(lines_of(text))
    assert {
        "--cpus-per-task=4",
        "--gpus-per-node=2",
        "--mem=4G",
        "--account=lab",
        "--partition=gpu",
        "--time=10",
    } <= head
    assert "--signal=B:USR2@150" in head  # a quarter of ten minutes, which is less than asked for
    assert "--signal=B:USR2@600" in lines_of(script(tmp_path, notice=600))
    assert "--cpus-per-task=8" in lines_of(script(tmp_path, nodes=2, cpus=8))
    assert not any(line.startswith("--cpus") for line in lines_of(script(tmp_path, nodes=2)))


def test_the_name_of_the_jobs_is_that_of_the_place(tmp_path):
    names = [
        _slurm.job_name(tmp_path / name) for name in ("a", "b", "a/../a", "../" + tmp_path.name + "/a", NAMES, "é")
    ]
    assert names[0] == names[2] == names[3] != names[1]
    assert all(re.fullmatch(r"[A-Za-z0-9.-]{1,60}", name) for name in names), names
    assert names[5].startswith("study-")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-12:30", 131400), ("2-1:1:1", 176461)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, seconds):
    assert _slurm.seconds(text) == seconds


@pytest.mark.parametrize(
    ("count", "limit", "sizes"),
    [(0, 1001, []), (3, 1001, [3]), (1001, 1001, [1001]), (1002, 1001, [1001, 1]), (5, 2, [2, 2, 1]), (2, 0, [0, 0])],
)
def test_arrays_are_cut_to_the_largest_of_the_site(count, limit, sizes):
    assert cut(count, limit) == sizes


# --- refusals, each before anything is written

REFUSED = [
    ({"jobs": 0}, Code.INVALID, "jobs"),
    ({"nodes": 0}, Code.INVALID, "nodes"),
    ({"gpus": -1}, Code.INVALID, "gpus"),
    ({"workers": 0}, Code.INVALID, "workers"),
    ({"max_attempts": 0}, Code.INVALID, "max_attempts"),
    ({"ensemble": "many"}, Code.INVALID, "ensemble"),
    ({"account": "lab; rm -rf ~"}, Code.INVALID, "account"),
    ({"partition": "$(id)"}, Code.INVALID, "partition"),
    ({"partition": ""}, Code.INVALID, "partition"),
    ({"time": "soon"}, Code.INVALID, "time"),
    ({"time": "1:2:3:4"}, Code.INVALID, "time"),
    ({"time": "9" * 5000}, Code.INVALID, "time"),
    ({"container": "apptainer 'exec"}, Code.INVALID, "container"),
    ({"sbatch": "'--mem"}, Code.INVALID, "sbatch"),
    ({"sbatch": "-p gpu"}, Code.INVALID, "sbatch"),
    ({"sbatch": "--comment='a\nb'"}, Code.INVALID, "sbatch"),
    ({"sbatch": "--array=0-5"}, Code.CONFLICT, "sbatch"),
    ({"sbatch": "--wrap=id"}, Code.CONFLICT, "sbatch"),
    ({"sbatch": "--clusters=a,b"}, Code.CONFLICT, "sbatch"),
    ({"sbatch": "--help"}, Code.CONFLICT, "sbatch"),
    ({"sbatch": "--arr=0-5"}, Code.CONFLICT, "sbatch"),
    ({"site": "missing.toml"}, Code.MISSING, "site"),
    ({"nodes": 2, "workers": 2}, Code.CONFLICT, "workers"),
    ({"nodes": 2, "ensemble": "4"}, Code.CONFLICT, "ensemble"),
]


@pytest.mark.parametrize(("options", "code", "field"), REFUSED)
def test_what_cannot_be_asked_for_is_refused(tmp_path, options, code, field):
    with refuses(code, field):
        Slurm(tmp_path / "w", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("jobs = 0", Code.DAMAGED),
        ("job = 3", Code.DAMAGED),
        ("setup = 'module load x'", Code.DAMAGED),
        ("[", Code.DAMAGED),
        ("jobs = " + "9" * 5000, Code.DAMAGED),
        ("jobs = " + "[" * 5000, Code.DAMAGED),
        ("notice = 65536", Code.DAMAGED),
        ("poll = inf", Code.DAMAGED),
        ("poll = nan", Code.DAMAGED),
        ('setup = ["a\\u0000b"]', Code.INVALID),
        ('container = "a\\u0000b"', Code.INVALID),
        ("partition = 'a b'", Code.INVALID),
        ("sbatch = ['--array=1']", Code.CONFLICT),
    ],
)
def test_a_site_file_is_checked(tmp_path, text, code):
    (tmp_path / "site.toml").write_text(text)
    with refuses(code):
        Slurm(tmp_path / "w", site=str(tmp_path / "site.toml"))


def test_flags_overrule_the_site_file_and_lines_are_added(tmp_path):
    (tmp_path / "site.toml").write_text(
        "partition = 'cpu'\nmem = '2G'\njobs = 7\nsetup = ['module load a']\nsbatch = ['--qos=low']\npoll = 5\n"
    )
    engine = Slurm(tmp_path, site=str(tmp_path / "site.toml"), partition="gpu", setup="true", sbatch="--x --y='1 2'")
    assert engine.site == _slurm.Site(
        partition="gpu",
        mem="2G",
        jobs=7,
        setup=("module load a", "true"),
        sbatch=("--qos=low", "--x", "--y=1 2"),
        poll=5.0,
    )


@pytest.mark.parametrize("name", ['quote"', "back\\slash", "line\nfeed"])
def test_a_path_that_the_head_cannot_hold_is_refused(tmp_path, name):
    with refuses(Code.INVALID, "--output"):
        Slurm(tmp_path / name).preview([program("one")])


def test_a_current_directory_that_is_gone_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with refuses(Code.MISSING, "directory"):
        Slurm(tmp_path / "w").preview([program("one")])


def test_a_setup_that_is_no_shell_is_refused(tmp_path):
    with refuses(Code.INVALID, "setup"):
        Slurm(tmp_path, setup="module load 'cuda").preview([program("one")])


def test_processes_need_a_mesh_with_a_part_for_each(tmp_path):
    with refuses(Code.ENVIRONMENT, "mesh"):
        Slurm(tmp_path, nodes=2).check([program("one")])


def test_without_slurm_one_line_says_so_and_nothing_is_written(study, tmp_path, monkeypatch, capsys):
    study.plan(program("one"))
    before = sorted(tmp_path.rglob("*"))
    bash = Path(tmp_path / "bin")
    bash.mkdir()
    (bash / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(bash))
    assert cli.main(["run", f"--workdir={study.workdir}", "--engine=slurm"]) == cli.EXIT_USER
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "sbatch is not on PATH" in said
    assert [path for path in sorted(tmp_path.rglob("*")) if bash not in (path, path.parent)] == before


def test_a_dry_run_prints_the_script_and_writes_nothing(study, tmp_path, capsys):
    study.plan(*(program(f"p{index}") for index in range(5)))
    before = sorted(tmp_path.rglob("*"))
    command = ["run", f"--workdir={study.workdir}", "--engine=slurm", "--workers=2", "--partition=gpu", "--dry_run"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "#SBATCH --partition=gpu" in out and out.splitlines()[-1].startswith("# 3 jobs for 5 programs")
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["submits"] == out.removesuffix("\n")
    assert (
        cli.main(["run", f"--workdir={study.workdir}", "--dry_run"]) == cli.EXIT_USER
    )  # the local engine has no script
    assert cli.main(["run", f"--workdir={study.workdir}", "--partition=gpu"]) == cli.EXIT_USER
    assert "partition = gpu" in capsys.readouterr().err


def test_inside_an_allocation_what_would_choose_another_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    for name, value in {"partition": "gpu", "jobs": 3, "time": "10"}.items():
        with refuses(Code.CONFLICT, name, value):
            Slurm(tmp_path, **{name: value})
    assert not Slurm(tmp_path).detached
    with refuses(Code.CONFLICT, "nodes", 4):
        Slurm(tmp_path, nodes=4).check([])


def test_what_a_command_says_is_one_line():
    with refuses(Code.ENVIRONMENT, "ls") as caught:
        call("ls", "/nothing here", "/nor\nthere")
    assert "\n" not in str(caught.value) and "No such file" in caught.value.remedy
    with refuses(Code.ENVIRONMENT, "no-such-command"):
        call("no-such-command")


def test_filters_of_the_user_hide_no_job(monkeypatch, tmp_path):
    for name in ("SQUEUE_STATES", "SQUEUE_ACCOUNT", "SCANCEL_PARTITION", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "x")
    names = {line.partition("=")[0] for line in call("env").splitlines()}
    assert "SLURM_CLUSTERS" in names and not any(name.startswith(("SQUEUE_", "SCANCEL_")) for name in names)
    assert call("cat") == ""  # none asks at the terminal


@pytest.mark.parametrize(
    ("site", "kept"),
    [
        ({}, {"SBATCH_GPUS", "SBATCH_GRES", "SBATCH_MEM_PER_CPU", "SBATCH_QOS"}),
        ({"nodes": 2}, {"SBATCH_GPUS", "SBATCH_GRES", "SBATCH_MEM_PER_CPU", "SBATCH_QOS", "SBATCH_CPUS_PER_GPU"}),
        ({"gpus": 1}, {"SBATCH_MEM_PER_CPU", "SBATCH_QOS"}),
        ({"mem": "1G", "nodes": 2, "cpus": 2}, {"SBATCH_GPUS", "SBATCH_GRES", "SBATCH_QOS"}),
    ],
)
def test_variables_that_would_ask_for_something_else_do_not_reach_sbatch(monkeypatch, site, kept):
    names = ("GPUS", "GRES", "MEM_PER_CPU", "QOS", "CPUS_PER_GPU", "ERROR")
    for name in names:
        monkeypatch.setenv(f"SBATCH_{name}", "x")
    assert {name for name in _slurm.submitting(_slurm.Site(**site)) if name.startswith("SBATCH_")} == kept


def test_jobs_of_programs_that_wait_for_others_are_not_submitted_again(study, monkeypatch):
    parent = program("parent")
    child = handmade.edited(
        program("child").runs[0].manifest,
        parents=(Parent(run="parent", parts={"a": "a"}, identity=identity("parent"), flops=1),),
    )
    study.plan(parent, handmade.program(child))
    sent = []
    monkeypatch.setattr(slurm, "tasks_of", lambda _: {"1_0"})
    monkeypatch.setattr(Slurm, "_send", lambda _, count: sent.append(count))
    made = Slurm(study.workdir)
    made._programs = list(study.programs)
    (study.workdir / "jobs").mkdir()
    lease = acquire(study.workdir / "runs" / "parent", beat=0.05)
    assert lease is not None
    with lease:
        for _ in range(4):
            assert made._look().problem is None
            time.sleep(0.2)
    assert not sent
    study.record("parent").begin(parent.runs[0].manifest)
    study.record("parent").finish(handmade.result(1.0, steps=10))
    monkeypatch.setattr(slurm, "tasks_of", lambda _: set())
    assert [made._look().problem for _ in range(2)] == [None, None] and sent == [1]


def test_what_a_wrapper_of_the_site_says_beside_is_no_job(monkeypatch):
    said = {"squeue": "Welcome to lab!\n12_0\n12_1\n7\n", "sbatch": "Charged to: lab 5\n13;lab\n"}
    monkeypatch.setattr(slurm, "call", lambda command, *_, **__: said[command])
    assert slurm.tasks_of("x") == {"12_0", "12_1", "7"}
    assert slurm._number(said["sbatch"]) == slurm._number("13\n") == "13"
    for text in ("", "Usage: sbatch", "13\nqueued\n"):
        with refuses(Code.ENVIRONMENT, "sbatch"):
            slurm._number(text)


def test_the_record_of_what_was_submitted(tmp_path, capsys):
    (tmp_path / "jobs").mkdir()
    assert read_submitted(tmp_path) is None and Slurm.withdraw(tmp_path) == []
    submitted = Submitted("name", (Batch("12", 4, "now"),))
    write_json(tmp_path / "jobs" / "slurm.json", submitted)
    assert read_submitted(tmp_path) == submitted
    for content in ("{", "{}", '{"name": "x", "batches": 3}'):
        (tmp_path / "jobs" / "slurm.json").write_text(content)
        with refuses(Code.DAMAGED, "file"):
            read_submitted(tmp_path)


def test_cancel_without_jobs_says_how_local_workers_end(study, capsys):
    study.plan(program("one"))
    assert cli.main(["cancel", str(study.workdir)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "Ctrl-C" in out
    assert cli.main(["cancel", str(study.modules)]) == cli.EXIT_USER


# --- what a job does, where bash stands in for SLURM


@pytest.fixture
def job(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[str]]:
    """``job(**environment)`` runs the script of a job of the study as SLURM would; what is requeued is in ``notes``."""
    (tmp_path / "bin").mkdir()
    for name, text in TOOLS.items():
        path = tmp_path / "bin" / name
        path.write_text("#!/bin/bash\n" + text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def start(nodes: int = 1, **environment: str) -> subprocess.Popen[str]:
        given = {
            "SLURM_JOB_ID": "34",
            "SLURM_ARRAY_JOB_ID": "12",
            "SLURM_ARRAY_TASK_ID": "5",
            "SLURM_JOB_NUM_NODES": "1",
        }
        given |= {"NOTES": str(tmp_path / "notes"), "SCALING_PROCESSES": "1", **environment}
        text = script(study.workdir, "--execute=chains:execute", nodes=nodes)
        return subprocess.Popen(["bash", "-c", text], env={**os.environ, **given}, text=True, start_new_session=True)

    return start


def requeued(tmp_path: Path) -> str:
    path = tmp_path / "notes"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("nodes", [1, 2])  # the pool of a node; and a worker of a group, here with one process
def test_a_job_trains_the_study_and_ends(study, tmp_path, job, nodes):
    study.plan(program("one", runs=2), program("two"))
    with job(nodes) as process:
        assert process.wait(60) == EXIT_DONE
    study.assert_finished()
    assert len(study.trace()) == 30 and not requeued(tmp_path)
    starts = read_typed(study.workdir / "jobs" / "slurm-12_5.json", _requeue.Task).starts
    assert len(starts) == 1 and starts[0].marks.settled == 0
    with job(nodes) as process:  # a job that starts late
        assert process.wait(60) == EXIT_DONE


@pytest.mark.parametrize(("nodes", "number"), [(1, signal.SIGTERM), (2, signal.SIGUSR2)])
def test_a_job_that_is_told_to_stop_checkpoints_and_requeues_itself(study, tmp_path, job, nodes, number):
    study.plan(program("one", steps=60, pause=0.05))
    with job(nodes, SQUEUE_STATES="PENDING") as process:  # a filter that the user likes
        wait_for(lambda: len(study.trace()) > 3)
        process.send_signal(number)
        assert process.wait(60) == EXIT_INTERRUPTED
    assert requeued(tmp_path) == "requeue 12_5\n"  # 34 may be the number of the whole array
    assert study.record("one").events(InterruptedRow)
    with job(nodes) as process:
        assert process.wait(60) == EXIT_DONE
    study.assert_finished()
    assert len(study.trace()) == 60  # nothing twice


def test_a_job_that_is_cancelled_or_not_ours_is_not_requeued(study, tmp_path, job):
    study.plan(program("one", steps=200, pause=0.05))
    for environment in ({"STATE": "COMPLETING"}, {"SCALING_JOINED": "1"}):
        seen = len(study.trace())
        with job(**environment) as process:
            wait_for(lambda seen=seen: len(study.trace()) > seen + 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == EXIT_INTERRUPTED
    assert not requeued(tmp_path)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_whose_workers_need_a_person_ends_and_says_why(study, tmp_path, job, nodes):
    study.plan(program("one", full_disk=True))
    if nodes == 2:  # the others of a group cannot go on then, and srun has the largest code
        (tmp_path / "bin" / "srun").write_text("#!/bin/bash\n" + TOOLS["srun"].replace("exec ", "") + "exit 76\n")
    with job(nodes) as process:
        assert process.wait(60) == EXIT_USER
    error = read_typed(study.workdir / "jobs" / "slurm-12_5.error.json", Problem).error
    assert error.code is Code.ENVIRONMENT and "No space left" in error.remedy
    assert not requeued(tmp_path) and study.record("one").result is None


def test_a_program_that_raises_is_tried_again_by_a_group_until_it_has_failed(study, tmp_path, job):
    study.plan(program("bad", raise_at=1, seconds=5), program("good"))
    with job(2) as process:
        assert process.wait(60) == EXIT_DONE
    assert study.record("bad").status == "failed" and study.record("good").status == "done"
    assert len(study.record("bad").events(StartRow)) == 3


def test_starts_without_progress_are_counted_and_stop(study, capsys, monkeypatch):
    study.plan(program("one", runs=2))
    command = [f"--workdir={study.workdir}", "--task=12_5"]
    assert [_requeue.main(command) for _ in range(3)] == [EXIT_DONE] * 3
    study.record("one").begin(study.programs[0].runs[0].manifest)
    assert _requeue.main(command) == EXIT_USER  # a third requeue, and nothing but a manifest since the first start
    error = read_typed(study.workdir / "jobs" / "slurm-12_5.error.json", Problem).error
    assert error.field == "job" and error.value == "12_5" and "12_5" in capsys.readouterr().err
    row = StepRow(step=1, loss=1.0, norm=1.0, learning_rate=0.1, tokens=1, seconds=1.0)
    study.record("one").append(row)
    assert [_requeue.main(command) for _ in range(4)] == [EXIT_DONE] * 3 + [EXIT_USER]
    for run in ("one", "one-1"):
        study.record(run).finish(handmade.result(1.0))
    monkeypatch.setattr(Record, "rows", lambda _: pytest.fail("metrics of what is over were read"))
    assert _requeue.main(command) == EXIT_DONE  # all is over, which is progress
    (study.workdir / "jobs" / "slurm-12_5.json").write_text("{")  # torn: the count begins anew
    assert _requeue.main(command) == EXIT_DONE
    for task in ("../x", "12_5\n", "", "12_5_6"):
        assert _requeue.main([command[0], f"--task={task}"]) == EXIT_USER


# --- docs/slurm.md

PAGE = (ROOT / "docs" / "slurm.md").read_text()
COMMANDS = [line.strip() for line in PAGE.splitlines() if re.match(r"    (salloc|scaling) ", line)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_is_one(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    for name in ("large", "mine"):
        (tmp_path / f"{name}.py").write_text("from conftest import tiny_config as get_config\n")
    verb, *arguments = shlex.split(command[command.index("scaling ") :])[1:]
    options = cli.parse(verb, arguments)
    if verb == "run":
        text = Slurm(Path(options.workdir or "w"), **engine_options(options)).preview([])
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_site_file_of_the_page_has_every_setting():
    site = msgspec.toml.decode(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0], type=_slurm.Site)
    assert all(getattr(site, name) not in (None, ()) for name in site.__struct_fields__)
