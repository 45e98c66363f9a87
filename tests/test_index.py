"""The index of a large study: quick where it fits the directories, ignored or rebuilt where not, never believed."""

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import handmade
import msgspec
import pytest

from scaling import index
from scaling.records import Record, read_json, write_json
from scaling.records.files import set_aside
from scaling.status import StatusReader, study_status
from scaling.worker.programs import over

RUNS = 6


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study that counts as large, of finished runs whose files are an hour old."""
    monkeypatch.setattr(index, "SMALLEST", RUNS)
    manifests = [handmade.manifest(f"run{i}", seed=i) for i in range(RUNS)]
    write_json(tmp_path / "study.json", handmade.study(*map(handmade.program, manifests)))
    for i, manifest in enumerate(manifests):
        handmade.write(tmp_path, manifest, handmade.result(2.0 + i / 8))
    return tmp_path


@pytest.fixture
def old(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, seen an hour later: the clock of the index, and that of its file system, are ahead."""
    real, hour = time.time_ns, 3600 * 10**9
    monkeypatch.setattr(index.time, "time_ns", lambda: real() + hour)
    monkeypatch.setattr(index, "_skew", lambda workdir: 0)
    return workdir


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on, by run and name."""
    seen: list[str] = []
    for name in ("_result", "_manifest", "_metrics"):
        real = getattr(index, name)

        def counted(folder: str, real: Any = real, name: str = name) -> Any:
            seen.append(f"{Path(folder).name}{name}")
            return real(folder)

        monkeypatch.setattr(index, name, counted)
    return seen


def losses(workdir: Path) -> dict[str, float | None]:
    return {row.run: row.loss for row in study_status(workdir).runs}


def test_a_second_look_reads_no_run_and_tells_the_same(old, monkeypatch):
    first = study_status(old)
    assert (old / index.FILE).exists() and first.counts["done"] == RUNS
    seen = reads(monkeypatch)
    monkeypatch.setattr(index, "read_study", lambda workdir: pytest.fail("study.json was read"))
    assert study_status(old) == first and seen == []


def test_the_flops_of_a_large_model_are_more_than_an_integer_of_the_index_holds(old):
    large = [handmade.manifest(f"run{i}", n=10**9, d=3 * 10**9, seed=i) for i in range(RUNS)]
    write_json(old / "study.json", handmade.study(*map(handmade.program, large)))
    first = study_status(old)
    assert first.flops.total == RUNS * 7 * 10**9 * 3 * 10**9 > 2**64
    assert (old / index.FILE).exists() and study_status(old) == first


def test_a_small_study_has_no_index(old, monkeypatch):
    monkeypatch.setattr(index, "SMALLEST", RUNS + 1)
    before = sorted(path.name for path in old.iterdir())
    assert study_status(old).counts["done"] == RUNS and sorted(path.name for path in old.iterdir()) == before


def test_a_result_set_aside_by_hand_is_missed_at_once_and_another_is_read(old, monkeypatch):
    study_status(old)
    set_aside(old / "runs" / "run1" / "result.json")
    status = study_status(old)
    assert status.counts["done"] == RUNS - 1 and losses(old)["run1"] is None
    record = Record(old / "runs" / "run1")
    record.finish(handmade.result(7.0))
    assert losses(old)["run1"] == 7.0
    shutil.rmtree(old / "runs" / "run2")
    assert study_status(old).counts["done"] == RUNS - 1


@pytest.mark.parametrize("how", ["in place", "replaced", "restored with its times"])
def test_a_changed_file_is_read_again_even_with_the_same_size_and_time(old, how):
    path = old / "runs" / "run3" / "result.json"
    assert losses(old)["run3"] == 2.375
    times, content = os.stat(path), path.read_text().replace("2.375", "9.375")
    if how == "in place":
        path.write_text(content)
    else:
        (path.parent / "other").write_text(content)
        os.replace(path.parent / "other", path)
    if how != "replaced":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a careful backup does; the inode's time tells
    assert os.stat(path).st_size == times.st_size and losses(old)["run3"] == 9.375


def test_a_file_that_changed_a_moment_ago_is_not_entered(workdir, monkeypatch):
    """Within one tick of the clock a file can change twice: what was read between the two must not be kept."""
    assert study_status(workdir).counts["done"] == RUNS and not (workdir / index.FILE).exists()
    held = StatusReader(workdir)
    held.read()
    seen = reads(monkeypatch)
    held.read()
    assert sum(name.endswith("_result") for name in seen) == RUNS


def test_a_file_system_whose_clock_is_behind_is_not_trusted_too_early(workdir, monkeypatch):
    """Its files look an hour old the moment they are written; its own clock says that they are not."""
    real, hour = time.time_ns, 3600 * 10**9
    monkeypatch.setattr(index.time, "time_ns", lambda: real() + hour)
    study_status(workdir)
    kept = index._load(workdir / index.FILE)
    assert not kept.results and not kept.manifests and not kept.metrics and kept.study is None


def _other_version(path: Path) -> None:
    head, payload = path.read_bytes().split(b"\n", 1)
    path.write_bytes(head.replace(f" {index.FORMAT} ".encode(), b" 999 ") + b"\n" + payload)


def _lying(path: Path) -> None:
    payload = path.read_bytes().split(b"\n", 1)[1].replace(b"run0", b"run9")
    path.write_bytes(path.read_bytes().split(b"\n", 1)[0] + b"\n" + payload)


def _of_another_shape(path: Path) -> None:
    payload = msgspec.msgpack.encode({"results": [1, 2]})
    path.write_bytes(index._head(payload) + payload)


def _nested(path: Path) -> None:
    payload = b"\x91" * 100_000
    path.write_bytes(index._head(payload) + payload)


DAMAGES = {
    "another version": _other_version,
    "flipped": _lying,
    "of another shape": _of_another_shape,
    "nested": _nested,
    "torn": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_index_that_cannot_be_used_changes_nothing_and_is_written_anew(old, monkeypatch, name):
    first = study_status(old)
    DAMAGES[name](old / index.FILE)
    assert study_status(old) == first
    if name == "a folder":
        return  # which is left alone: whoever made it may have something in it
    seen = reads(monkeypatch)
    assert study_status(old) == first and seen == []


def test_an_index_that_leads_elsewhere_overwrites_nothing(old, tmp_path_factory):
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    victim.write_text("mine")
    (old / index.FILE).symlink_to(victim)
    study_status(old)
    assert victim.read_text() == "mine" and not (old / index.FILE).is_symlink()


def test_the_index_of_a_copied_study_is_not_believed(old, tmp_path_factory, monkeypatch):
    study_status(old)
    copy = tmp_path_factory.mktemp("copy") / "w"
    shutil.copytree(old, copy)  # with all times
    seen = reads(monkeypatch)
    path = copy / "runs" / "run0" / "result.json"
    assert losses(copy) == losses(old) and "run0_result" in seen and path.exists()


def test_a_workdir_that_cannot_be_written_has_its_status_without_an_index(old, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("scaling.records.files.tempfile.mkstemp", refuse)
    assert study_status(old).counts["done"] == RUNS and not (old / index.FILE).exists()
    monkeypatch.setattr(index, "_skew", refuse)
    assert study_status(old).counts["done"] == RUNS and not (old / index.FILE).exists()


def test_a_killed_writer_leaves_the_index_as_it_was(old, monkeypatch):
    study_status(old)
    before = (old / index.FILE).read_bytes()
    set_aside(old / "runs" / "run0" / "result.json")
    Record(old / "runs" / "run0").finish(handmade.result(5.0))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scaling.records.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        study_status(old)
    monkeypatch.undo()
    assert (old / index.FILE).read_bytes() == before and losses(old)["run0"] == 5.0


def test_two_writers_at_once_leave_one_whole_index(old):
    first = study_status(old)
    path = old / index.FILE
    found: list[Any] = []

    def look() -> None:
        for _ in range(10):
            path.unlink(missing_ok=True)
            found.append(study_status(old))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(status == first for status in found) and len(found) == 30
    study_status(old)
    head, payload = path.read_bytes().split(b"\n", 1)
    assert hashlib.sha256(payload).hexdigest().encode() in head


def test_a_changed_study_is_read_again(old):
    study_status(old)
    planned = handmade.study(*(handmade.program(handmade.manifest(f"run{i}", seed=i)) for i in range(RUNS + 2)))
    write_json(old / "study.json", planned)
    reader = StatusReader(old)
    assert reader.read().counts == {**study_status(old).counts, "waiting": 2, "total": RUNS + 2}
    write_json(old / "study.json", handmade.edited(planned, programs=planned.programs[:3]))
    assert reader.read().counts["total"] == 3  # the same reader, later


def test_what_is_to_be_trained_is_what_a_worker_says(old):
    shutil.rmtree(old / "runs" / "run1")
    (old / "runs" / "run2" / "result.json").write_text("{")
    set_aside(old / "runs" / "run3" / "result.json")
    (old / "runs" / "run4" / "manifest.json").unlink()
    for _ in range(2):  # without the index, and with it
        reader = StatusReader(old)
        work = reader.work()
        pending, torn = ([program.program for program in each] for each in (work.pending, work.torn))
        assert work.status == reader.read()
        assert torn == ["run1", "run4"] and pending == [
            program.program for program in reader.programs if not over(old, program)
        ] == ["run1", "run3"]
        reader.read()
    assert read_json(old / "study.json")["name"] == "handmade"
