"""The worker and the local pool, with a real program: a chain of hashes, kept in checkpoints, that takes its time."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaling.errors import UserError
from scaling.launch import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER, engine, engines, worker
from scaling.launch.local import Local
from scaling.launch.progress import follow
from scaling.records import Record, read_json, write_json
from scaling.status import StatusReader, study_status

ROOT = Path(__file__).resolve().parents[1]

# What the worker executes here. Each step extends a chain of hashes, so that the end tells whether every step was done
# once and in order, from wherever it resumed; ``trace`` has a line for each step that any process ever did.
CHAIN = """
import hashlib, os, signal, time
from scaling.errors import UserError
from scaling.records import Record, read_json, write_json

class Interrupted(Exception):
    pass

def execute(program, workdir, *, progress, should_stop):
    done = 0
    for spec in program["runs"]:
        record = Record(workdir / "runs" / spec["run"])
        if record.result is not None:
            done += spec["flops"]
            continue
        config, state = spec["manifest"]["config"], {"step": 0, "chain": spec["run"]}
        if config.get("reject"):
            raise UserError("data", "nan", "holds NaN; mend the data")
        record.begin(spec["manifest"])
        saved = record.path / "checkpoint.json"
        if saved.exists():
            state = read_json(saved)
        while state["step"] < spec["steps"]:
            time.sleep(config["pause"])
            step = state["step"] + 1
            with open(workdir / "trace", "a") as file:
                file.write(f"{spec['run']} {step}\\n")
            if step == config.get("raise_at"):
                raise ValueError("cannot go on\\nfor a reason")
            if step == config.get("die_at"):
                os.kill(os.getpid(), signal.SIGKILL)
            if step == config.get("die_once_at") and not (record.path / "died").exists():
                (record.path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if config.get("full_disk"):
                raise OSError(28, "No space left on device")
            state = {"step": step, "chain": hashlib.sha256(state["chain"].encode()).hexdigest()}
            record.append([{"step": step, "loss": 5.0 / step, "seconds": config["pause"]}])
            progress(spec["run"], done + spec["flops"] * step // spec["steps"])
            if should_stop():
                write_json(saved, state)
                raise Interrupted
            if step % 5 == 0:
                write_json(saved, state)
        record.finish({"status": "done", "reason": None, "steps": spec["steps"], "tokens": 0, "decayed": True,
                       "train_loss": 1.0, "chain": state["chain"], "seconds": {"train": 1.0, "evaluate": 0.0},
                       "evaluation": {"loss": {"value": 2.5, "se": 0.01}}})
        done += spec["flops"]
"""


def program(name: str, runs: int = 1, steps: int = 10, seconds: float = 1.0, role: str = "fit", **config: Any) -> Any:
    """A program of ``runs`` runs, each of ``steps`` steps that take ``pause`` seconds."""
    config = {"pause": 0.02, **config}
    specs = []
    for index in range(runs):
        run = name if index == 0 else f"{name}-{index}"
        manifest = {
            "schema": 1, "run": run, "study": "chains", "origin": "trained", "kind": "whole", "role": role,
            "dataset": "chain", "identity": "0" * 12, "size": 0, "seed": 0, "config": config, "headline": "loss",
            "parameters": {"total": 10, "nonembedding": 10}, "tokens": {"D": steps, "per_step": 1},
        }  # fmt: skip
        specs.append({"run": run, "kind": "whole", "role": role, "steps": steps, "branch_step": None, "flops": 100,
                      "manifest": manifest})  # fmt: skip
    return {"program": name, "shape": "chain", "seconds": seconds, "flops": 100 * runs, "runs": specs}


def chain(run: str, steps: int) -> str:
    """Where an undisturbed run ends."""
    value = run
    for _ in range(steps):
        value = hashlib.sha256(value.encode()).hexdigest()
    return value


class Study:
    """A work directory with a study of chains."""

    def __init__(self, root: Path):
        self.workdir, self.modules = root / "study", root / "modules"
        self.modules.mkdir()
        (self.modules / "chains.py").write_text(CHAIN)
        self.environment = {**os.environ, "PYTHONPATH": str(self.modules), "SCALING_CACHE": str(root / "cache")}
        self.programs: list[dict[str, Any]] = []

    def plan(self, *programs: dict[str, Any]) -> None:
        self.programs = list(programs)
        write_json(self.workdir / "study.json", {"schema": 1, "name": "chains", "programs": self.programs})

    def worker(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "scaling.launch.worker", f"--workdir={self.workdir}", "--core=all"]
        return subprocess.Popen(
            [*command, "--execute=chains:execute", *arguments],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def record(self, run: str) -> Record:
        return Record(self.workdir / "runs" / run)

    def trace(self) -> list[str]:
        path = self.workdir / "trace"
        return path.read_text().splitlines() if path.exists() else []

    def log(self, core: str = "all") -> str:
        return (self.workdir / "logs" / f"worker-{core}.log").read_text()

    def assert_finished(self) -> None:
        for spec in (spec for each in self.programs for spec in each["runs"]):
            result = self.record(spec["run"]).result
            assert result is not None and result["status"] == "done", (spec["run"], result)
            assert result["chain"] == chain(spec["run"], spec["steps"])


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    made = Study(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(made.modules))
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return made


@contextlib.contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def drain(pool: Local, seconds: float = 60) -> None:
    wait_for(lambda: pool.poll().finished, seconds)


# --- one worker


def test_largest_first_then_nothing_left_to_do(study):
    study.plan(program("small", seconds=1), program("large", runs=2, seconds=9), program("middle", seconds=3))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()
    order = list(dict.fromkeys(line.split()[0] for line in study.trace()))
    assert order == ["large", "large-1", "middle", "small"]
    assert [row["event"] for row in study.record("large").rows() if "event" in row] == ["start", "finish"]
    assert not list((study.workdir / "runs").glob("*/*lease*"))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    assert len(study.trace()) == 40


def test_sigterm_checkpoints_exits_75_and_is_no_attempt(study):
    study.plan(program("one", steps=60))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        seen = len(study.trace())
        with ending(study.worker("--max_attempts=2")) as process:
            wait_for(lambda seen=seen: len(study.trace()) > seen + 3)
            process.send_signal(number)
            assert process.wait(30) == EXIT_INTERRUPTED
    assert len(study.record("one").events("interrupted")) == 4
    assert not (study.record("one").path / "lease.json").exists()
    with ending(study.worker("--max_attempts=2")) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()
    assert len(study.trace()) == 60  # nothing twice: each interruption left a checkpoint of its own step


def test_an_exception_is_retried_by_fresh_processes_and_then_failed_with_its_reason(study):
    study.plan(program("bad", runs=2, raise_at=3, seconds=5), program("good"))
    codes = []
    for _ in range(5):  # the first attempt takes two steps, so it counts for nothing
        with ending(study.worker("--max_attempts=3")) as process:
            codes.append(process.wait(30))
    assert codes == [EXIT_AGAIN] * 4 + [EXIT_DONE]
    for run in ("bad", "bad-1"):
        result = study.record(run).result
        assert (
            result["status"] == "failed" and "ValueError: cannot go on" in result["reason"] and result["attempts"] == 4
        )
        assert "\n" not in result["reason"]
    errors = (study.record("bad").path / "error.log").read_text()
    assert errors.count("Traceback") == 4 and "for a reason" in errors
    assert study.record("good").status == "done"
    failures = study_status(study.workdir)["failures"]
    assert [failure["run"] for failure in failures] == ["bad", "bad-1"]


def test_attempts_that_get_further_do_not_count(study):
    study.plan(program("slow", steps=20, pause=0.05))
    for index in range(4):
        with ending(study.worker("--max_attempts=2")) as process:
            wait_for(lambda index=index: len(study.record("slow").steps()) > 4 * index)
            process.kill()
    with ending(study.worker("--max_attempts=2")) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()
    assert len(study.record("slow").events("start")) == 5


def test_a_wrong_configuration_is_rejected_at_once_with_the_reason(study):
    study.plan(program("wrong", runs=2, reject=True, seconds=5), program("right"))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    assert study.record("wrong-1").result["status"] == "rejected"
    assert study.record("wrong").result["reason"] == "data = nan: holds NaN; mend the data"
    assert len(study.record("wrong").events("start")) == 1 and study.record("right").status == "done"


def test_a_full_disk_blames_no_run(study):
    study.plan(program("one", full_disk=True))
    with ending(study.worker()) as process:
        said = process.communicate(timeout=30)[0]
        assert process.returncode == EXIT_USER
    assert said.count("\n") == 1 and "No space left on device" in said and said.startswith("workdir = ")
    assert study.record("one").result is None


def test_reset_gives_failed_and_rejected_runs_all_their_attempts_again(study):
    study.plan(program("wrong", reject=True), program("fine"))
    with ending(study.worker()) as process:
        process.wait(30)
    study.plan(program("wrong"), program("fine"))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    assert study.record("wrong").status == "rejected"  # final until somebody asks
    assert worker.reset(study.workdir, study.programs) == ["wrong"]
    assert worker.reset(study.workdir, study.programs) == []
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()
    assert len(list(study.record("wrong").path.glob("result.*.json"))) == 1


@pytest.mark.parametrize(
    ("events", "marks", "count"),
    [
        ([], 0, 0),
        ([("start", 0)], 0, 1),
        ([("start", 0), ("start", 0)], 0, 2),
        ([("start", 0), ("start", 0)], 4, 0),  # the last one got further
        ([("start", 0), ("start", 4), ("start", 4)], 4, 2),
        ([("start", 0), ("interrupted", None), ("start", 0)], 0, 1),
        ([("start", 0), ("start", 0), ("retry", None)], 0, 0),
        ([("start", 0), ("start", 0), ("finish", None), ("start", 0)], 0, 1),  # a study that was extended
    ],
)
def test_what_counts_as_an_attempt(tmp_path, events, marks, count):
    record = Record(tmp_path)
    rows = [{"event": event, **({} if rows is None else {"marks": {"rows": rows}})} for event, rows in events]
    record.append(rows)
    assert worker.attempts(record, {"rows": marks}) == count


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "holds no study.json"), ("{", "is not JSON"), ("{}", "lacks 'programs'"), ('{"programs": [{}]}', "lacks")],
)
def test_a_worker_without_a_usable_study_says_so(study, content, words):
    study.workdir.mkdir()
    if content is not None:
        (study.workdir / "study.json").write_text(content)
    with ending(study.worker()) as process:
        said = process.communicate(timeout=30)[0]
        assert process.returncode == EXIT_USER
    assert words in said and said.count("\n") == 1


def test_a_broken_installation_fails_no_run(study):
    study.plan(program("one"))
    (study.modules / "chains.py").write_text("import a_package_that_nobody_has")
    pool = Local(study.workdir, workers=1, execute="chains:execute", max_attempts=1)
    pool.submit(study.programs)
    drain(pool)
    problem = pool.poll().problem
    assert problem is not None and "died without progress" in str(problem) and "worker-" in str(problem)
    assert not study.record("one").path.exists()


def test_a_worker_is_bound_to_its_core_before_jax_is_imported(study):
    core = min(os.sched_getaffinity(0))
    (study.modules / "chains.py").write_text(
        "import os, sys\nassert 'jax' not in sys.modules\n"
        "def execute(program, workdir, **_):\n"
        "    import jax\n"
        "    cache = (jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs,\n"
        "             jax.config.jax_persistent_cache_min_entry_size_bytes)\n"
        "    text = repr((os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'], cache))\n"
        "    (workdir / 'seen').write_text(text + os.environ.get('GLIBC_TUNABLES', ''))\n"
        "    os._exit(0)\n"
    )
    study.plan(program("one"))
    pool = Local(study.workdir, workers=1, execute="chains:execute")
    pool.submit(study.programs)
    drain(pool)
    seen = (study.workdir / "seen").read_text()
    assert seen.startswith(repr(({core}, "1", (str(Path(os.environ["SCALING_CACHE"])), 0.0, -1))))
    assert "glibc.malloc.hugetlb=1" in seen


# --- the pool


def test_a_worker_killed_in_a_program_is_replaced_and_the_program_ends_as_undisturbed(study):
    study.plan(program("one", runs=2, steps=20, die_once_at=8), program("two", steps=20))
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    pool.submit(study.programs)
    drain(pool)
    assert pool.poll().problem is None
    study.assert_finished()
    assert len(study.record("one").events("start")) >= 3  # each of its runs killed it once


def test_a_program_that_kills_its_worker_uses_up_its_attempts_and_the_others_finish(study):
    study.plan(program("killer", die_at=2, seconds=9), program("fine", runs=2))
    pool = Local(study.workdir, workers=2, execute="chains:execute", max_attempts=2)
    pool.submit(study.programs)
    drain(pool)
    assert pool.poll().problem is None
    result = study.record("killer").result
    assert result["status"] == "failed" and "worker died" in result["reason"]
    assert study.record("fine-1").status == "done"
    status = study_status(study.workdir)
    assert status["counts"]["failed"] == 1 and status["retry"].endswith("--retry_failed")


def test_two_parents_at_once_train_nothing_twice(study):
    study.plan(*(program(f"p{index}", runs=2, steps=8, seconds=index) for index in range(6)))
    pools = [Local(study.workdir, workers=2, execute="chains:execute") for _ in range(2)]
    for pool in pools:
        pool.submit(study.programs)
    wait_for(lambda: all([pool.poll().finished for pool in pools]), 60)
    study.assert_finished()
    trace = study.trace()
    assert len(trace) == len(set(trace)) == 6 * 2 * 8


def test_the_program_of_a_dead_peer_is_taken_over_by_a_waiting_worker(study):
    study.plan(program("one", steps=60, pause=0.05))
    with ending(study.worker()) as first:
        wait_for(lambda: len(study.trace()) > 6)
        with ending(study.worker()) as second:
            time.sleep(1.0)
            assert second.poll() is None  # it waits, since the program is in good hands
            first.kill()
            assert second.wait(30) == EXIT_DONE
    study.assert_finished()
    repeated = len(study.trace()) - len(set(study.trace()))
    assert repeated <= 5  # at most what came after the last checkpoint


def test_cancel_leaves_checkpoints_and_another_pool_continues(study):
    study.plan(program("one", steps=50), program("two", steps=50))
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    pool.submit(study.programs)
    wait_for(lambda: len(study.trace()) > 10)
    assert not pool.poll().finished
    pool.cancel()
    drain(pool)
    assert len(study.record("one").events("interrupted") + study.record("two").events("interrupted")) == 2
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    pool.submit(study.programs)
    drain(pool)
    study.assert_finished()
    assert len(study.trace()) == 100


def test_workers_end_with_a_parent_that_is_killed(study):
    study.plan(program("one", steps=400))
    text = f"""
import time
from pathlib import Path
from scaling.launch.local import Local
from scaling.launch.worker import load_programs
pool = Local(Path({str(study.workdir)!r}), workers=1, execute="chains:execute")
pool.submit(load_programs(Path({str(study.workdir)!r})))
time.sleep(3600)
"""
    parent = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, env=study.environment, text=True)
    with ending(parent):
        wait_for(lambda: len(study.trace()) > 5)
        parent.kill()
    wait_for(lambda: study.record("one").events("interrupted"))
    wait_for(lambda: not (study.record("one").path / "lease.json").exists())
    assert study.record("one").result is None


def test_the_pool_reports_a_full_disk_and_stops(study):
    study.plan(program("one", full_disk=True), program("two", steps=2000))
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    pool.submit(study.programs)
    drain(pool)
    problem = pool.poll().problem
    assert isinstance(problem, UserError) and "No space left on device" in str(problem)
    assert study.record("two").result is None


def test_bad_options_are_user_errors(study):
    with pytest.raises(UserError, match="at least 1"):
        Local(study.workdir, workers=0)
    with pytest.raises(UserError, match="at least 1"):
        Local(study.workdir, max_attempts=0)
    (study.workdir).write_text("a file, not a directory")
    with pytest.raises(UserError, match="cannot be written"):
        Local(study.workdir).submit([program("one")])


def test_engines_are_found_by_looking():
    assert "local" in engines() and engine("local") is Local
    for name in ("worker", "nothing", ".local"):
        with pytest.raises(UserError, match=r"choose one of .*local"):
            engine(name)


# --- status and progress


def test_progress_in_plain_lines_and_the_status_after_it(study):
    study.plan(program("one", runs=2), program("two"))
    pool, reader, stream = Local(study.workdir, workers=1, execute="chains:execute"), None, io.StringIO()
    pool.submit(study.programs)
    reader = StatusReader(study.workdir)
    assert follow(pool, reader, stream) == (None, None)
    lines = stream.getvalue().splitlines()
    assert lines and lines[0].startswith("chains: ") and "ETA" in lines[0]
    status = reader.read()
    assert status["share"] == 1.0 and status["counts"]["done"] == status["counts"]["total"] == 3
    assert status["flops"] == {"total": 300, "done": 300} and status["seconds"]["left"] == 0.0
    assert status["failures"] == [] and status["retry"] is None
    assert {row["loss"] for row in status["runs"]} == {2.5}
    json.dumps(status, allow_nan=False)


def test_status_while_a_program_runs(study):
    study.plan(program("one", runs=2, steps=200, seconds=30.0), program("two", seconds=10.0))
    with ending(study.worker("--beat=0.1")) as process:
        reader = StatusReader(study.workdir)
        assert reader.read()["counts"]["waiting"] == 3 or process.poll() is None
        wait_for(lambda: reader.read()["running"] and (reader.read()["running"][0]["step"] or 0) > 20)
        status = reader.read()
        assert status["counts"]["running"] == 1 and status["programs"]["running"] == 1
        assert 0.03 < status["share"] < 0.5 and 0 < status["seconds"]["eta"] <= 40
        assert status["running"][0]["pid"] == process.pid and status["running"][0]["loss"] > 0
        process.kill()
        process.wait()
        status = reader.read()
        assert status["counts"]["running"] == 0 and status["counts"]["stopped"] == 1


def test_losses_of_holdouts_are_hidden_until_they_are_sealed(study):
    from analysis.sealed import stamp

    study.plan(program("held", role="holdout"), program("fitted"))
    study.programs[0]["runs"].append({**program("held-stem")["runs"][0], "role": "stem"})
    study.plan(*study.programs)
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    losses = {row["run"]: row["loss"] for row in study_status(study.workdir)["runs"]}
    assert losses == {"held": None, "held-stem": None, "fitted": 2.5}
    write_json(study.workdir / "prediction.json", stamp({"entries": [{"cells": [{"run": "held"}]}]}))
    losses = {row["run"]: row["loss"] for row in study_status(study.workdir)["runs"]}
    assert losses["held"] == 2.5
    tampered = read_json(study.workdir / "prediction.json")
    tampered["entries"][0]["cells"].append({"run": "other"})
    write_json(study.workdir / "prediction.json", tampered)
    status = study_status(study.workdir)
    assert {row["run"]: row["loss"] for row in status["runs"]}["held"] is None
    assert "changed after it was sealed" in status["warnings"][0]


def test_a_directory_that_is_no_study_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        study_status(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no study\.json"):
        study_status(tmp_path)
