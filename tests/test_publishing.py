"""Results: published once, by who holds the lease; nothing that a directory holds leads out of it or blocks."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import pytest
from refusals import refuses

from analysis.table.runs import load
from analysis.table.workdir import load_workdir
from scaling import plan as plans
from scaling import study as studies
from scaling.cli import main
from scaling.engines.local import Local
from scaling.errors import Code, NewerVersion, UserError
from scaling.records import HASH, Record, guard, read_json, read_study, write_json
from scaling.records.files import append
from scaling.records.typed import UPDATE
from scaling.records.types import InterruptedRow, Marks, ProgramSpec, RetryRow, StartRow
from scaling.status import headline, study_status
from scaling.worker.attempt import Attempt, give_up
from scaling.worker.ensembles import EnsembleSize
from scaling.worker.lease import LeaseLost, acquire
from scaling.worker.lease_file import pack, this_process
from scaling.worker.loop import Settings, Worker
from scaling.worker.main import _redirect
from scaling.worker.programs import attempts, over, progress_marks, reset, restore_manifests
from scaling.worker.training import Training
from scaling.worker.watch import Watch


def planned(workdir: Path, *runs: str, **fields: Any) -> tuple[ProgramSpec, ...]:
    """A study of whole runs, each a program; ``fields`` are of their manifests."""
    programs = tuple(handmade.program(handmade.manifest(run, **fields)) for run in runs)
    write_json(workdir / "study.json", handmade.study(*programs))
    return programs


# --- once, and under the lease


def test_a_published_result_is_never_replaced(tmp_path: Path):
    record = Record(tmp_path / "runs" / "a")
    record.begin(handmade.manifest("a"))
    first, second = handmade.result(2.0), handmade.result(3.0)
    assert record.finish(first)
    held = (record.path / "result.json").read_bytes()
    assert not record.finish(second)
    assert not record.finish(second, replaces=second)  # it is not what is there
    assert (record.path / "result.json").read_bytes() == held
    assert sorted(path.name for path in record.path.iterdir()) == ["manifest.json", "result.json", HASH]
    assert record.intact()


def test_what_is_not_final_is_kept_beside_the_result_that_follows_it(tmp_path: Path):
    record = Record(tmp_path / "runs" / "a")
    record.begin(handmade.manifest("a"))
    short, long = handmade.result(2.0, steps=8), handmade.result(1.9, steps=16)
    record.finish(short)
    assert record.finish(long, replaces=short) and record.result == long
    (kept,) = record.path.glob("result.*.json")
    assert read_json(kept)["steps"] == 8


def test_a_crash_leaves_no_hash_of_another_result(tmp_path: Path, monkeypatch):
    record = Record(tmp_path / "runs" / "a")
    record.begin(handmade.manifest("a"))
    record.finish(handmade.result(2.0))
    (record.path / "result.json").rename(record.path / "result.json.damaged")
    monkeypatch.setattr("scaling.records.write_atomic", lambda *_: 1 / 0)  # between the two files
    with pytest.raises(ZeroDivisionError):
        record.finish(handmade.result(3.0))
    assert handmade.ended(record).evaluation["loss"].value == 3.0 and record.intact() is None


def test_a_worker_that_lost_its_lease_publishes_nothing(tmp_path: Path):
    (program,) = planned(tmp_path, "a")
    record = Record(tmp_path / "runs" / "a")
    lease = acquire(record.path)
    assert lease is not None
    attempt = Attempt(tmp_path, program, lease, 1, training=Training("json:loads"), stopping=lambda: False)
    record.begin(program.runs[0].manifest)
    (record.path / "lease.json").unlink()
    rival = acquire(record.path)
    assert rival is not None
    with pytest.raises(LeaseLost):
        record.finish(handmade.result(9.0))
    assert record.result is None
    attempt.end(LeaseLost("a"))
    with guard.publishing([record.path], rival.require):
        assert record.finish(handmade.result(2.0))
    rival.release()
    assert handmade.ended(record).evaluation["loss"].value == 2.0
    assert record.finish(handmade.result(3.0)) is False  # without any lease, as an importer: it never replaces


def test_a_program_without_attempts_left_fails_only_under_its_lease(tmp_path: Path):
    (program,) = planned(tmp_path, "a")
    record = Record(tmp_path / "runs" / "a")
    lease = acquire(record.path)
    assert lease is not None
    start = StartRow(time="now", marks=Marks(settled=0, rows=0), host="here", pid=1, core="all")
    record.append(start, start)
    worker = Worker(tmp_path, Settings(max_attempts=2))
    (record.path / "lease.json").unlink()
    assert worker._begin(program, lease) is None and record.result is None and not lease.alive()
    lease = acquire(record.path)
    assert lease is not None and worker._begin(program, lease) is None
    assert record.status == "failed" and not (record.path / "lease.json").exists()


def test_an_extended_stem_without_attempts_left_fails_and_its_short_result_is_kept_aside(tmp_path: Path):
    (program,) = planned(tmp_path, "a", kind="stem")
    record, short = Record(tmp_path / "runs" / "a"), handmade.result(2.0, steps=8)
    assert program.runs[0].steps > short.steps
    handmade.write(tmp_path, program.runs[0].manifest, short)
    start = StartRow(time="now", marks=Marks(settled=1, rows=0), host="here", pid=1, core="all")
    record.append(start, start)
    worker, lease = Worker(tmp_path, Settings(max_attempts=2)), acquire(record.path)
    assert not over(tmp_path, program) and lease is not None
    assert worker._begin(program, lease) is None and over(tmp_path, program)
    assert record.status == "failed" and record.intact()
    (kept,) = record.path.glob("result.*.json")
    assert read_json(kept)["status"] == "done" and read_json(kept)["steps"] == 8


def test_a_full_disk_is_no_attempt_of_any_program_that_is_trained_together(tmp_path: Path, monkeypatch):
    programs = planned(tmp_path, "a", "b", "c")
    worker = Worker(tmp_path, Settings())
    worker._training = Training("json:loads")
    worker._size = EnsembleSize(worker._training, tmp_path, 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker._training, "batching_key", lambda program: program.shape)
    monkeypatch.setattr(worker, "_drive", full)  # once all have begun
    first = worker._claim()
    assert first is not None
    with refuses(Code.ENVIRONMENT, "workdir"):
        worker._train(first)
    for program in programs:
        record = Record(tmp_path / "runs" / program.program)
        assert len(record.events(StartRow)) == len(record.events(InterruptedRow)) == 1
        assert attempts(record, progress_marks(tmp_path, program)) == 0
        assert not (record.path / "lease.json").exists()


def test_an_end_that_cannot_be_recorded_ends_the_attempt_once(tmp_path: Path, monkeypatch):
    planned(tmp_path, "a")
    worker = Worker(tmp_path, Settings())
    worker._training = Training("json:loads")
    worker._size = EnsembleSize(worker._training, tmp_path, 1)
    monkeypatch.setattr(worker._training, "execute", lambda *_, **__: 1 / 0)
    attempt = worker._claim()
    assert attempt is not None

    def full(path: Path, _: bytes) -> None:
        raise UserError("path", path, "is full", Code.ENVIRONMENT)

    monkeypatch.setattr("scaling.worker.attempt.append", full)  # error.log; the row fits
    with refuses(Code.ENVIRONMENT, "path", attempt.record.path / "error.log"):
        worker._train(attempt)
    assert attempt.over and len(attempt.record.events(InterruptedRow)) == 1 and not attempt.lease.alive()


def test_a_result_that_another_made_unnecessary_is_logged(tmp_path: Path, monkeypatch, capsys):
    (program,) = planned(tmp_path, "a")
    give_up(tmp_path, program, "rejected", "a reason")
    record = Record(tmp_path / "runs" / "a")
    one = capsys.readouterr().err.splitlines()
    (record.path / "result.json").unlink()
    monkeypatch.setattr(Record, "finish", lambda *_, **__: False)
    give_up(tmp_path, program, "rejected", "a reason")
    assert len(one) == 1 and len(capsys.readouterr().err.splitlines()) == 2


# --- what is damaged


def as_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    (path / "inside").mkdir(parents=True)


def as_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def as_link_to_nothing(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.with_name("nothing"))


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def of_another_shape(path: Path) -> None:
    path.write_text('{"run": ["a"]}\n')


DAMAGES = [as_directory, as_fifo, as_loop, as_link_to_nothing, torn, of_another_shape]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Three runs, all finished."""
    for program in planned(tmp_path, "a", "b", "c"):
        handmade.write(tmp_path, program.runs[0].manifest, handmade.result(2.0))
    return tmp_path


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink])
def test_a_manifest_that_the_study_holds_is_written_again(trained: Path, damage: Callable[[Path], object]):
    record = Record(trained / "runs" / "b")
    before, result = record.manifest, (record.path / "result.json").read_bytes()
    damage(record.path / "manifest.json")
    assert [text.startswith("b: ") for text in study_status(trained).warnings] == [True]
    with refuses(Code.DAMAGED, "file", record.path / "manifest.json"):
        load_workdir(trained, None, "text", "nonembedding", None)
    programs = read_study(trained).programs
    assert restore_manifests(trained, programs) == ["b"] and restore_manifests(trained, programs) == []
    assert record.manifest == before and (record.path / "result.json").read_bytes() == result
    assert len(list(record.path.glob("manifest.*.json"))) == (damage is not Path.unlink)
    assert not study_status(trained).warnings
    assert len(load_workdir(trained, None, "text", "nonembedding", None).table) == 3


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_result_that_cannot_be_read_is_named_and_trained_again_on_request_only(trained: Path, damage):
    path = trained / "runs" / "b" / "result.json"
    damage(path)
    status = study_status(trained)
    assert "1 damaged" in headline(status)
    assert status.counts["damaged"] == 1 and [failure.run for failure in status.failures] == ["b"]
    assert status.retry is not None and str(path) in (status.failures[0].reason or "")
    with refuses(Code.DAMAGED, "file", path):
        load_workdir(trained, None, "text", "nonembedding", None)
    programs = read_study(trained).programs
    assert all(over(trained, program) for program in programs)
    assert reset(trained, programs) == ["b"]
    assert [over(trained, program) for program in programs] == [True, False, True]
    assert len(list(path.parent.glob("result.*.json"))) == 1 and not os.path.lexists(path)


@pytest.mark.parametrize("name", ["study.json", "runs/b/manifest.json", "runs/b/result.json"])
def test_what_a_newer_version_wrote_is_left_as_it_is(trained: Path, name: str, capsys):
    """This one cannot read it; it may neither set it aside nor train it again, whoever asks."""
    path = trained / name
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    held = {each: each.read_bytes() for each in trained.rglob("*.json")}
    if name != "study.json":
        status = study_status(trained)
        assert status.retry is None and "schema 3" in str([*status.warnings, *status.failures])
        programs = read_study(trained).programs
        assert reset(trained, programs) == restore_manifests(trained, programs) == []
    codes = {"study.json": 2, "runs/b/manifest.json": 0, "runs/b/result.json": 1}
    assert main(["run", f"--workdir={trained}", "--retry_failed"]) == codes[name]
    assert main(["fit", str(trained), "--dataset=text"]) == 2
    assert capsys.readouterr().err.count("Traceback") == 0
    assert {each: each.read_bytes() for each in trained.rglob("*.json")} == held
    assert main(["verify", str(trained), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["file"] == str(path) and finding["command"] == UPDATE


def test_a_run_that_a_newer_version_has_begun_is_not_continued(tmp_path: Path):
    (program,) = planned(tmp_path, "a")
    path = tmp_path / "runs" / "a" / "manifest.json"
    Record(path.parent).begin(program.runs[0].manifest)
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    held = path.read_bytes()
    worker = Worker(tmp_path, Settings())
    worker._training = Training("json:loads")
    with pytest.raises(NewerVersion):
        worker._claim()
    assert [each.name for each in path.parent.iterdir()] == ["manifest.json"] and path.read_bytes() == held


def test_programs_beside_one_that_a_newer_version_has_begun_are_not_rejected(tmp_path: Path, monkeypatch):
    """An ensemble claims them in one go; the error ends the worker, and is no fault of a run."""
    first, second = planned(tmp_path, "a", "b")
    path = tmp_path / "runs" / "b" / "manifest.json"
    Record(path.parent).begin(second.runs[0].manifest)
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    worker = Worker(tmp_path, Settings())
    worker._training = Training("json:loads")
    worker._size = EnsembleSize(worker._training, tmp_path, 2)
    monkeypatch.setattr(worker._training, "batching_key", lambda program: program.shape)
    attempt = worker._claim()
    assert attempt is not None and attempt.program == first
    with pytest.raises(NewerVersion):
        worker._train(attempt)
    record = Record(tmp_path / "runs" / "a")
    assert record.result is None and attempts(record, progress_marks(tmp_path, first)) == 0


def test_a_study_of_a_newer_version_is_not_planned_over(tiny, tmp_path: Path):
    plan = plans.make(studies.resolve(tiny()), None)
    plans.write(plan, tmp_path)
    path = tmp_path / "study.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3', 1))
    held = path.read_bytes()
    with pytest.raises(NewerVersion):
        plans.write(plan, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["study.json"] and path.read_bytes() == held


@pytest.mark.parametrize("field", ["study", "dataset", "family"])
def test_a_name_that_a_terminal_would_obey_is_damage(trained: Path, field: str):
    path = trained / "runs" / "b" / "manifest.json"
    write_json(path, read_json(path) | {field: "a\x1b[2J"})
    with refuses(Code.DAMAGED, "file", path) as caught:
        _ = Record(path.parent).manifest
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["study.json", "runs/b/manifest.json", "runs/b/result.json", "runs/b/metrics.jsonl"])
def test_a_file_that_would_fill_the_memory_is_not_read(trained: Path, name: str):
    path = trained / name
    with path.open("ab") as file:
        file.truncate(2**40)  # sparse
    with refuses(Code.DAMAGED, "file", path):
        {"study.json": read_study, "metrics.jsonl": lambda _: Record(path.parent).steps()}.get(
            path.name, lambda _: Record(path.parent).result and Record(path.parent).manifest
        )(trained)


def test_a_damaged_lease_is_no_worker_that_holds_a_failed_run(trained: Path, monkeypatch):
    """With one look each, the command would say for ever that there is nothing to do."""
    monkeypatch.setattr("scaling.worker.programs.Watch", lambda: Watch(ttl=0.2))
    path = trained / "runs" / "b" / "result.json"
    torn(path)
    (path.parent / "lease.json").write_text("{}")
    programs = read_study(trained).programs
    assert reset(trained, programs) == ["b"] and not os.path.lexists(path)
    torn_again = trained / "runs" / "c" / "result.json"
    torn(torn_again)
    lease = acquire(torn_again.parent, beat=0.02)
    assert lease is not None and reset(trained, programs) == [] and lease.confirm()
    lease.release()


def test_a_study_without_work_says_that_a_result_is_damaged(trained: Path, capsys):
    assert main(["run", f"--workdir={trained}"]) == 0 and "damaged" not in capsys.readouterr().out
    torn(trained / "runs" / "b" / "result.json")
    assert main(["run", f"--workdir={trained}"]) == 1
    assert "1 damaged" in capsys.readouterr().out


def test_a_damaged_row_stops_no_training_and_is_named(trained: Path):
    record = Record(trained / "runs" / "b", strict=False)
    record.append(RetryRow(time="now"))
    with open(record.path / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "step": "two"}\n')
    record.append(RetryRow(time="later"))
    assert [row.time for row in record.events(RetryRow)] == ["now", "later"]
    with refuses(Code.DAMAGED, "file", record.path / "metrics.jsonl"):
        Record(record.path).steps()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_study_is_planned_again_and_the_old_one_kept(tiny, tmp_path: Path, damage):
    plan = plans.make(studies.resolve(tiny()), None)
    plans.write(plan, tmp_path)
    held = (tmp_path / "study.json").read_bytes()
    damage(tmp_path / "study.json")
    plans.write(plans.make(plan.study, tmp_path), tmp_path)
    assert (tmp_path / "study.json").read_bytes() == held and len(list(tmp_path.glob("study.*.json"))) == 1
    handmade.write(tmp_path, handmade.manifest("a"))  # of a study named otherwise
    torn(tmp_path / "study.json")
    with refuses(Code.CONFLICT, "workdir"):
        plans.write(plan, tmp_path)


def test_a_study_of_which_a_bit_is_another_trains_nothing_and_is_written_again(tiny, tmp_path: Path):
    plan = plans.make(studies.resolve(tiny()), None)
    plans.write(plan, tmp_path)
    path = tmp_path / "study.json"
    held, where = path.read_bytes(), []
    assert read_study(tmp_path) == plan.record()
    rng = random.Random(0)
    for _ in range(200):
        content = bytearray(held)
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        with refuses(Code.DAMAGED, "file", path) as caught:
            read_study(tmp_path)
        where += [at] if caught.value.problem == "differs from its hash" else []
    assert len(where) > 20  # the others are no JSON, or of another type
    with refuses(Code.DAMAGED, "file", path):
        Worker(tmp_path, Settings())
    plans.write(plan, tmp_path)
    assert path.read_bytes() == held
    write_json(path, plan.record())  # as an older version did: nothing is known of it
    assert read_study(tmp_path) == plan.record()


def test_a_launcher_that_died_or_was_slower_leaves_the_study_to_the_next(tiny, tmp_path: Path, monkeypatch):
    plan = plans.make(studies.resolve(tiny()), None)
    (tmp_path / "study.json").write_text("{")

    def slower(path: Path) -> None:
        path.unlink()  # by another
        raise FileNotFoundError(path)

    monkeypatch.setattr(plans, "set_aside", slower)
    plans.write(plan, tmp_path)
    assert read_study(tmp_path).name == plan.study.name
    handmade.write(tmp_path, handmade.manifest("a"))  # of a study named otherwise
    (tmp_path / "study.json").rename(tmp_path / "study.1.json")  # and then the launcher died
    with refuses(Code.CONFLICT, "workdir"):
        plans.write(plan, tmp_path)


# --- nothing outside


def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "kept").write_text("kept")
    return place


def test_links_are_not_followed_out_of_the_workdir(tmp_path: Path):
    place, workdir = outside(tmp_path), tmp_path / "w"
    (program,) = planned(workdir, "a")
    record, folder = Record(workdir / "runs" / "a"), workdir / "runs" / "a"
    attempts: list[tuple[Path, Callable[[], object]]] = [
        (workdir / "runs", lambda: record.begin(program.runs[0].manifest)),
        (folder, lambda: record.begin(program.runs[0].manifest)),
        (folder, lambda: acquire(folder)),
        (folder / "metrics.jsonl", lambda: record.append(RetryRow(time="now"))),
        (workdir / "logs", lambda: _redirect(workdir, "all")),
        (workdir / "logs" / "worker-all.log", lambda: _redirect(workdir, "all")),
        (workdir / "logs", lambda: Local(workdir).submit([program])),
    ]
    for path, write in attempts:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        path.symlink_to(place if "." not in path.name else place / "kept")
        with refuses(Code.ENVIRONMENT):
            write()
        path.unlink()
    assert [path.name for path in place.iterdir()] == ["kept"] and (place / "kept").read_text() == "kept"


def test_nothing_is_renamed_or_taken_behind_a_link(tmp_path: Path):
    place, workdir = outside(tmp_path), tmp_path / "w"
    programs = planned(workdir, "a")
    (workdir / "runs").mkdir()
    (workdir / "runs" / "a").symlink_to(place)
    dead = json.dumps({**json.loads(pack(this_process("x"))), "born": "1"})
    for name, content in (("manifest.json", "{"), ("result.json", "{"), ("lease.json", dead)):
        (place / name).write_text(content)
    held = {path.name: path.read_text() for path in place.iterdir()}
    for write in (
        lambda: restore_manifests(workdir, programs),
        lambda: reset(workdir, programs),
        lambda: Watch().take(workdir / "runs" / "a"),
    ):
        with refuses(Code.ENVIRONMENT, "path", workdir / "runs" / "a"):
            write()
    assert {path.name: path.read_text() for path in place.iterdir()} == held


def test_a_result_behind_the_link_of_a_later_run_stays(tmp_path: Path):
    place, workdir = outside(tmp_path), tmp_path / "w"
    program = handmade.program(handmade.manifest("a"), handmade.manifest("b"))
    handmade.write(workdir, program.runs[0].manifest, handmade.result(2.0))
    (workdir / "runs" / "b").symlink_to(place)
    (place / "result.json").write_text("{")
    with refuses(Code.ENVIRONMENT, "path", workdir / "runs" / "b"):
        reset(workdir, [program])
    assert (place / "result.json").read_text() == "{" and not (workdir / "runs" / "a" / "lease.json").exists()


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir])
def test_nothing_blocks_on_what_is_no_file(tmp_path: Path, plant: Callable[[Path], None]):
    record = Record(tmp_path / "runs" / "a")
    record.path.mkdir(parents=True)
    for name in ("metrics.jsonl", "error.log"):
        plant(record.path / name)
        with refuses(Code.ENVIRONMENT, "path", record.path / name):
            append(record.path / name, b"x\n")
    with refuses(Code.DAMAGED, "file", record.path / "metrics.jsonl"):
        list(record.rows())
    plant(record.path / "result.json")
    assert not record.finish(handmade.result(2.0))


@pytest.mark.parametrize("name", ["runs.csv", "runs.tsv", "runs.json", "runs.jsonl"])
def test_a_pipe_is_no_table(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    with refuses(Code.INVALID, "path", tmp_path / name):
        load(tmp_path / name)


# --- a study that changes


def test_runs_that_the_study_asks_for_no_longer_are_kept_and_not_counted(trained: Path):
    planned(trained, "b", "c", "d")
    status = study_status(trained)
    assert status.unplanned == ("a",) and status.counts["total"] == 3 and status.counts["done"] == 2
    runs = load_workdir(trained, None, "text", "nonembedding", None)
    assert sorted(runs.table["run"]) == ["b", "c"]
    assert [(row.row, row.why) for row in runs.dropped] == [("a", "unplanned")]
    assert Record(trained / "runs" / "a").status == "done"
    planned(trained, "a", "b", "c", "d")  # it belongs again, and need not be trained
    assert study_status(trained).unplanned == () and study_status(trained).counts["done"] == 3
    assert len(load_workdir(trained, None, "text", "nonembedding", None).table) == 3


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "/root", "a/b", "a\n", "\x1b[2J", "\u202e", "n" * 201])
def test_names_never_leave_the_workdir(tiny, tmp_path: Path, name: str):
    config = tiny()
    config.name = name
    with refuses(Code.INVALID, "config.name") as caught:
        studies.resolve(config)
    assert str(caught.value).isprintable()
    if not {".", "/"} & set(name):  # of a dot ConfigDict makes no field; others are replaced in names of files
        config = tiny()
        config.data = {name: config.data.known}
        with refuses(Code.INVALID, "config.data"):
            studies.resolve(config)
    program = handmade.program(handmade.manifest("a"))
    for field in ("program", "runs"):
        write_json(tmp_path / "study.json", handmade.study(program))
        held = read_json(tmp_path / "study.json")
        held["programs"][0][field] = name if field == "program" else [{**held["programs"][0]["runs"][0], "run": name}]
        write_json(tmp_path / "study.json", held)
        with refuses(Code.DAMAGED, "file"):
            read_study(tmp_path)
