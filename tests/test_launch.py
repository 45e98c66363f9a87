"""The worker and the local pool, with a real program: a chain of hashes, kept in checkpoints, that takes its time."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import handmade
import msgspec
import pytest
from chain_study import ROOT, drain, ending, program, wait_for
from chain_study import chain_study as chain_study
from refusals import refuses

from scaling.engines import _cores, engine, engines, local
from scaling.engines.local import Local, accelerated, gpus
from scaling.errors import Code
from scaling.progress import follow
from scaling.records import Record, read_json, write_json
from scaling.records.types import FinishRow, InterruptedRow, Marks, RetryRow, StartRow, StepRow
from scaling.status import FlopCounts, StatusReader, study_status
from scaling.worker import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER, lease
from scaling.worker.programs import attempts, reset

# --- one worker


def test_largest_first_then_nothing_left_to_do(study):
    study.plan(program("small", seconds=1), program("large", runs=2, seconds=9), program("middle", seconds=3))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()
    order = list(dict.fromkeys(line.split()[0] for line in study.trace()))
    assert order == ["large", "large-1", "middle", "small"]
    events = [type(row) for row in study.record("large").rows() if not isinstance(row, StepRow)]
    assert events == [StartRow, FinishRow]
    assert not list((study.workdir / "runs").glob("*/*lease*"))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    assert len(study.trace()) == 40


def test_a_shape_that_another_worker_compiles_waits_for_the_cache(study):
    study.plan(*(program(f"p{index}", seconds=9 - index, pause=0.01 + index // 2 * 0.001) for index in range(4)))
    mine = lease.acquire(study.record("p0").path)  # compiling: it has not reported any progress
    assert mine is not None
    with ending(study.worker()) as process:
        wait_for(lambda: all(study.record(f"p{index}").result for index in (1, 2, 3)))
        mine.release()
        assert process.wait(30) == EXIT_DONE
    assert list(dict.fromkeys(line.split()[0] for line in study.trace())) == ["p2", "p3", "p1", "p0"]


def test_sigterm_checkpoints_exits_75_and_is_no_attempt(study):
    study.plan(program("one", steps=60))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGTERM):
        seen = len(study.trace())
        with ending(study.worker("--max_attempts=2")) as process:
            wait_for(lambda seen=seen: len(study.trace()) > seen + 3)
            process.send_signal(number)
            assert process.wait(30) == EXIT_INTERRUPTED
    assert len(study.record("one").events(InterruptedRow)) == 4
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
        assert result.status == "failed" and "ValueError: cannot go on" in result.reason and result.attempts == 4
        assert "\n" not in result.reason
    errors = (study.record("bad").path / "error.log").read_text()
    assert errors.count("Traceback") == 4 and "for a reason" in errors
    assert study.record("good").status == "done"
    assert [failure.run for failure in study_status(study.workdir).failures] == ["bad", "bad-1"]


def test_attempts_that_get_further_do_not_count(study):
    study.plan(program("slow", steps=20, pause=0.05))
    for index in range(4):
        with ending(study.worker("--max_attempts=2")) as process:
            wait_for(lambda index=index: len(study.record("slow").steps()) > 4 * index)
            process.kill()
    with ending(study.worker("--max_attempts=2")) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()
    assert len(study.record("slow").events(StartRow)) == 5


def test_a_wrong_configuration_is_rejected_at_once_with_the_reason(study):
    study.plan(program("wrong", runs=2, reject=True, seconds=5), program("right"))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    assert study.record("wrong-1").result.status == "rejected"
    assert study.record("wrong").result.reason == "data = nan: holds NaN; mend the data"
    assert len(study.record("wrong").events(StartRow)) == 1 and study.record("right").status == "done"


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
    assert reset(study.workdir, study.programs) == ["wrong"]
    assert reset(study.workdir, study.programs) == []
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    study.assert_finished()
    assert len(list(study.record("wrong").path.glob("result.*.json"))) == 1


@pytest.mark.parametrize(
    ("events", "marks", "count"),
    [
        ([], 0, 0),
        ([0], 0, 1),
        ([0, 0], 0, 2),
        ([0, 0], 4, 0),  # the last one got further
        ([0, 4, 4], 4, 2),
        ([0, InterruptedRow, 0], 0, 1),
        ([0, 0, RetryRow], 0, 0),
        ([0, 0, FinishRow, 0], 0, 1),  # a study that was extended
    ],
)
def test_what_counts_as_an_attempt(tmp_path, events, marks, count):
    """``events``: rows that a program had at a start, or how it went on."""

    def row(event: Any) -> Any:
        if isinstance(event, int):
            return StartRow(time="now", marks=Marks(settled=0, rows=event), host="here", pid=1, core="all")
        return event(time="now")

    record = Record(tmp_path)
    record.append(*map(row, events))
    assert attempts(record, Marks(settled=0, rows=marks)) == count


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, Code.MISSING),
        ("{", Code.DAMAGED),
        ("{}", Code.DAMAGED),
        ('{"programs": [{}]}', Code.DAMAGED),
    ],
)
def test_a_worker_without_a_usable_study_says_so(study, content, code):
    study.workdir.mkdir()
    if content is not None:
        (study.workdir / "study.json").write_text(content)
    with ending(study.worker()) as process:
        said = process.communicate(timeout=30)[0]
        assert process.returncode == EXIT_USER
    assert said.count("\n") == 1 and str(study.workdir) in said
    with ending(study.worker("--json")) as process:
        said = process.communicate(timeout=30)[0]
        assert process.returncode == EXIT_USER and json.loads(said)["code"] == code


def test_a_broken_installation_fails_no_run(study):
    study.plan(program("one"))
    (study.modules / "chains.py").write_text("import a_package_that_nobody_has")
    pool = Local(study.workdir, workers=1, execute="chains:execute", max_attempts=1)
    pool.submit(study.programs)
    drain(pool)
    problem = pool.poll().problem
    assert problem is not None and problem.code is Code.ENVIRONMENT and problem.field == "workers"
    assert "worker-" in problem.remedy  # its log
    assert not study.record("one").path.exists()


def test_a_worker_is_bound_to_its_core_before_jax_is_imported(study, monkeypatch):
    monkeypatch.setattr(_cores, "NAME", str(study.workdir))  # no other launcher of this machine counts
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


def test_two_launchers_at_once_take_different_cores(study, monkeypatch):
    monkeypatch.setattr(_cores, "NAME", str(study.workdir))
    first, second, third = (_cores.Claims("core") for _ in range(3))
    assert first.claim([3, 5, 7], 1) == [3, 5, 7]
    assert second.claim([3, 5, 7], 2) == [5, 7, 3]
    assert third.claim([3, 5, 7], 1) == [3, 5, 7]  # none is left: they share
    first.release()
    assert third.claim([3, 5, 7], 1) == [3, 5, 7] and first.claim([3, 5, 7], 1) == [3, 5, 7]
    third.release()
    assert first.claim([3, 5, 7], 1) == [3, 5, 7]
    for each in (first, second):
        each.release()
    study.plan(*(program(f"p{index}", steps=40) for index in range(2)))
    pools = [Local(study.workdir, workers=1, execute="chains:execute") for _ in range(2)]
    for pool in pools:
        pool.submit(study.programs)
    wait_for(lambda: all(pool.poll().finished for pool in pools), 60)
    logs = sorted(path.name for path in (study.workdir / "logs").iterdir())
    assert logs == [f"worker-{core}.log" for core in sorted(os.sched_getaffinity(0))[:2]]
    assert Local(study.workdir, workers=1)._claims.claim([1], 1) == [1]


def test_folders_of_the_current_directory_are_not_taken_for_the_packages(study, tmp_path, monkeypatch):
    """A user's own folders called analysis and scaling, where ``scaling run`` is typed."""
    for name in ("analysis", "scaling", "msgspec"):
        (tmp_path / "here" / name).mkdir(parents=True)
        (tmp_path / "here" / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path / "here")
    study.plan(program("one"))
    pool = Local(study.workdir, workers=1, execute="chains:execute")
    pool.submit(study.programs)
    drain(pool)
    assert pool.poll().problem is None
    study.assert_finished()


def test_what_trains_may_lie_in_the_current_directory(study, tmp_path, monkeypatch):
    (study.modules / "chains.py").rename(tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    study.plan(program("one"))
    pool = Local(study.workdir, workers=1, execute="mine:execute")
    pool.submit(study.programs)
    drain(pool)
    study.assert_finished()


# --- the pool


def test_a_worker_killed_in_a_program_is_replaced_and_the_program_ends_as_undisturbed(study):
    study.plan(program("one", runs=2, steps=20, die_once_at=8), program("two", steps=20))
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    pool.submit(study.programs)
    drain(pool)
    assert pool.poll().problem is None
    study.assert_finished()
    assert len(study.record("one").events(StartRow)) >= 3  # each of its runs killed it once


def test_a_program_that_kills_its_worker_uses_up_its_attempts_and_the_others_finish(study):
    study.plan(program("killer", die_at=2, seconds=9), program("fine", runs=2))
    pool = Local(study.workdir, workers=2, execute="chains:execute", max_attempts=2)
    pool.submit(study.programs)
    drain(pool)
    assert pool.poll().problem is None
    result = study.record("killer").result
    assert result.status == "failed" and "worker died" in result.reason
    assert study.record("fine-1").status == "done"
    status = study_status(study.workdir)
    assert status.counts["failed"] == 1 and str(status.retry).endswith("--retry_failed")


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


def test_a_worker_stopped_in_its_evaluation_past_its_lease_publishes_nothing(study):
    study.plan(program("one", steps=5, evaluates=True))
    record, leases = study.record("one"), ("--ttl=3", "--beat=0.1")
    with ending(study.worker(*leases)) as first:
        wait_for((record.path / "evaluating-1").exists)
        first.send_signal(signal.SIGSTOP)
        with ending(study.worker(*leases)) as second:
            wait_for((record.path / "evaluating-2").exists)
            (record.path / "go-1").touch()
            first.send_signal(signal.SIGCONT)
            wait_for(lambda: "the lease was lost" in study.log())
            assert record.result is None  # its new owner is still at work
            (record.path / "go-2").touch()
            assert second.wait(30) == EXIT_DONE
        held = (record.path / "result.json").read_bytes()
        assert first.wait(30) == EXIT_DONE
    assert (record.path / "result.json").read_bytes() == held and record.intact()
    study.assert_finished()


def test_cancel_leaves_checkpoints_and_another_pool_continues(study):
    study.plan(program("one", steps=50), program("two", steps=50))
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    pool.submit(study.programs)
    wait_for(lambda: len(study.trace()) > 10)
    assert not pool.poll().finished
    pool.cancel()
    drain(pool)
    assert len(study.record("one").events(InterruptedRow) + study.record("two").events(InterruptedRow)) == 2
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
from typing import Any
from scaling.engines.local import Local
from scaling.worker.programs import load_programs
pool = Local(Path({str(study.workdir)!r}), workers=1, execute="chains:execute")
pool.submit(load_programs(Path({str(study.workdir)!r})))
time.sleep(3600)
"""
    parent = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, env=study.environment, text=True)
    with ending(parent):
        wait_for(lambda: len(study.trace()) > 5)
        parent.kill()
    wait_for(lambda: study.record("one").events(InterruptedRow))
    wait_for(lambda: not (study.record("one").path / "lease.json").exists())
    assert study.record("one").result is None


def test_the_pool_reports_a_full_disk_and_stops(study):
    study.plan(program("one", full_disk=True), program("two", steps=2000))
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    pool.submit(study.programs)
    drain(pool)
    problem = pool.poll().problem
    assert problem is not None and problem.code is Code.ENVIRONMENT and problem.field == "workdir"
    assert "No space left on device" in problem.remedy
    assert study.record("two").result is None


def test_only_the_submitted_programs_are_trained(study):
    study.plan(program("one"), program("two"))
    pool = Local(study.workdir, workers=2, execute="chains:execute")
    assert pool.size <= 2
    pool.submit(study.programs[1:])
    assert pool.size == 1
    drain(pool)
    assert study.record("two").status == "done" and not study.record("one").path.exists()


def test_without_an_accelerator_there_is_a_worker_a_core(study, monkeypatch):
    assert not accelerated()
    assert Local(study.workdir).size == 1  # never more workers than programs
    pool = Local(study.workdir)
    study.plan(*(program(f"p{index}") for index in range(50)))
    pool.submit(study.programs)
    assert pool.size == pool.poll().workers == len(os.sched_getaffinity(0))
    pool.cancel(force=True)
    drain(pool)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not accelerated()


@pytest.fixture
def four_gpus(study, monkeypatch):
    """A machine that seems to have four GPUs; programs of chains say which of them their worker sees."""
    monkeypatch.setattr(local, "accelerators", lambda: {"xla_cuda"})
    monkeypatch.setattr(_cores, "NAME", str(study.workdir))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1, GPU-a,0,-1,2")
    with (study.modules / "seen.py").open("w") as file:
        file.write(
            "import os, chains\n"
            "def execute(program, workdir, **more):\n"
            "    with open(workdir / 'seen', 'a') as file:\n"
            "        file.write(os.environ['CUDA_VISIBLE_DEVICES'] + '\\n')\n"
            "    chains.execute(program, workdir, **more)\n"
        )
    return study


def test_every_gpu_has_a_worker_that_sees_no_other(four_gpus):
    assert gpus() == ["3", "1", "GPU-a", "0"]
    four_gpus.plan(*(program(f"p{index}", steps=60) for index in range(4)))
    pool = Local(four_gpus.workdir, execute="seen:execute")
    pool.check(four_gpus.programs)
    pool.submit(four_gpus.programs)
    assert pool.size == pool.poll().workers == 4
    other = Local(four_gpus.workdir, workers=1)
    assert other._claims.claim(gpus(), 1)[0] == "3"  # all are taken, so that they are shared
    drain(pool)
    four_gpus.assert_finished()
    assert sorted((four_gpus.workdir / "seen").read_text().split()) == ["0", "1", "3", "GPU-a"]
    assert {path.name for path in (four_gpus.workdir / "logs").glob("worker*")} == {
        f"worker-gpu{index}-all.log" for index in range(4)
    }


def test_a_mesh_has_its_gpus_and_more_workers_than_meshes_are_refused(four_gpus):
    mesh = handmade.options(mesh={"data": 2})
    four_gpus.plan(*(handmade.edited(program(f"p{index}", steps=60), options=mesh) for index in range(2)))
    pool = Local(four_gpus.workdir, execute="seen:execute")
    pool.submit(four_gpus.programs)
    assert pool.size == 2
    drain(pool)
    assert sorted((four_gpus.workdir / "seen").read_text().split()) == ["3,1", "GPU-a,0"]
    for call in ("check", "submit"):
        with refuses(Code.CONFLICT, "workers", 3):
            getattr(Local(four_gpus.workdir, workers=3), call)(four_gpus.programs)
    with refuses(Code.CONFLICT, "workers", 5):
        Local(four_gpus.workdir, workers=5)


def test_a_worker_that_cannot_be_started_is_one_line(study, monkeypatch):
    def fork(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    study.plan(program("one"))
    monkeypatch.setattr(local.subprocess, "Popen", fork)
    with refuses(Code.ENVIRONMENT, "workers"):
        Local(study.workdir).submit(study.programs)


def test_bad_options_are_user_errors(study):
    with refuses(Code.INVALID, "workers", 0):
        Local(study.workdir, workers=0)
    with refuses(Code.INVALID, "max_attempts", 0):
        Local(study.workdir, max_attempts=0)
    with refuses(Code.INVALID, "ensemble", "many"):
        Local(study.workdir, ensemble="many")
    study.workdir.write_text("a file, not a directory")
    with refuses(Code.ENVIRONMENT, "path"):
        Local(study.workdir).submit([program("one")])


def test_engines_are_found_by_looking():
    assert "local" in engines() and engine("local") is Local
    for name in ("worker", "nothing", ".local"):
        with refuses(Code.UNKNOWN, "engine", name):
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
    assert status.share == 1.0 and status.counts["done"] == status.counts["total"] == 3
    assert status.flops == FlopCounts(total=300, done=300) and status.seconds.left == 0.0
    assert status.failures == () and status.retry is None
    assert {row.loss for row in status.runs} == {2.5}
    json.dumps(msgspec.to_builtins(status), allow_nan=False)


def test_status_while_a_program_runs(study):
    study.plan(program("one", runs=2, steps=200, seconds=30.0), program("two", seconds=10.0))
    with ending(study.worker("--beat=0.1")) as process:
        reader = StatusReader(study.workdir)
        assert reader.read().counts["waiting"] == 3 or process.poll() is None
        wait_for(lambda: any((at.step or 0) > 20 for at in reader.read().running))
        status = reader.read()
        assert status.counts["running"] == 1 and status.programs.running == 1
        assert 0.03 < status.share < 0.5 and 0 < status.seconds.eta <= 40
        assert status.running[0].pid == process.pid and (status.running[0].loss or 0) > 0
        process.kill()
        process.wait()
        status = reader.read()
        assert status.counts["running"] == 0 and status.counts["stopped"] == 1


def test_losses_of_holdouts_are_hidden_until_they_are_sealed(study):
    from analysis.table.seal import Entry, Prediction, SealedCell, stamp

    held = program("held", role="holdout")
    with_stem = handmade.edited(held, runs=(*held.runs, *program("held-stem", role="stem").runs))
    study.plan(with_stem, program("fitted"))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    losses = {row.run: row.loss for row in study_status(study.workdir).runs}
    assert losses == {"held": None, "held-stem": None, "fitted": 2.5}
    cell = SealedCell("held", "chain", {"nonembedding": 1e3}, 1e4, 1e8, (), 1.0, "planned")
    entry = Entry(time="now", fits=(), cells=(cell,), forecasts=(), joint=(), power={}, naive={})
    write_json(study.workdir / "prediction.json", stamp(Prediction(entries=(entry,))))
    losses = {row.run: row.loss for row in study_status(study.workdir).runs}
    assert losses["held"] == 2.5
    tampered = read_json(study.workdir / "prediction.json")
    tampered["entries"][0]["cells"].append({**tampered["entries"][0]["cells"][0], "run": "other"})
    write_json(study.workdir / "prediction.json", tampered)
    status = study_status(study.workdir)
    assert {row.run: row.loss for row in status.runs}["held"] is None
    assert len(status.warnings) == 1 and "prediction.json" in status.warnings[0]


def test_a_directory_that_is_no_study_is_a_user_error(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with refuses(Code.MISSING, "workdir", path):
            study_status(path)
