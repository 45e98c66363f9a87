"""Leases: one owner at any moment, whatever dies, sleeps or races."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from handmade import edited

from scaling.worker import lease as leases
from scaling.worker import lease_file
from scaling.worker import watch as watches
from scaling.worker.lease_file import NAME, SIZE, Progress, claim_of, holder, pack, this_process
from scaling.worker.watch import Watch

ROOT = Path(__file__).resolve().parents[1]

HOLD = """
import sys, time
from scaling.worker.lease import acquire
lease = acquire(sys.argv[1], beat=0.05, ttl=float(sys.argv[2]))
print("held" if lease else "refused", flush=True)
while lease and lease.alive():
    time.sleep(0.01)
print("lost", flush=True)
"""

# Many processes contend for one directory, until all together held it so many times, however busy the machine is;
# the holder proves that it is alone by an exclusive file of its own, and counts itself by one byte in a common file.
CONTEND = """
import os, sys, time
from scaling.worker.watch import Watch
directory, times = sys.argv[1], int(sys.argv[2])
watch, won = Watch(ttl=30, beat=0.02), 0
tally = os.open(directory + "/tally", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
while os.fstat(tally).st_size < times:
    lease = watch.take(directory)
    if lease is None:
        continue
    os.close(os.open(directory + "/alone", os.O_CREAT | os.O_EXCL))
    time.sleep(0.002)
    os.unlink(directory + "/alone")
    os.write(tally, b".")
    won += 1
    lease.release()
print(won)
"""

# In every round the holder dies before the eyes of all, who take the lease at the same instant. Who is the owner is
# asked once the round is over: where a rival slept for longer than the owner waits, two may believe it until they ask.
BREAK = """
import os, sys, time
from pathlib import Path
from scaling.worker.watch import Watch
root, rounds = Path(sys.argv[1]), int(sys.argv[2])
watch, won, held = Watch(ttl=3600, beat=0.05), [], []
print("ready", flush=True)
for number in range(rounds):
    lease = None
    while not (root / f"over{number}").exists():
        if lease is None and (root / str(number)).exists():
            lease = watch.take(root / str(number))
            if lease:
                held.append(lease)  # kept to the end, so that nobody finds it free
    if lease and lease.confirm():
        won.append(str(number))
print(",".join(won), flush=True)
time.sleep(3600)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts one of the programs above; whatever still runs at the end of the test is killed."""
    with contextlib.ExitStack() as stack:

        def begin(program: str, *arguments: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", program, *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            return process

        yield begin


def line(process: subprocess.Popen[str], seconds: float = 30) -> str:
    """The next line that it prints; none after too long, since it is killed then."""
    assert process.stdout is not None
    limit = threading.Timer(seconds, process.kill)
    limit.start()
    try:
        return process.stdout.readline().strip()
    finally:
        limit.cancel()


def take_within(watch: Watch, directory: Path, seconds: float) -> tuple[leases.Lease | None, float]:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if taken := watch.take(directory):
            return taken, time.monotonic() - began
        time.sleep(0.02)
    return None, time.monotonic() - began


def test_one_holder_then_the_next(tmp_path):
    first = leases.acquire(tmp_path / "made")
    assert first is not None and first.alive()
    assert leases.acquire(tmp_path / "made") is None
    assert Watch(ttl=30).take(tmp_path / "made") is None
    first.release()
    first.release()
    assert not first.alive()
    assert list((tmp_path / "made").iterdir()) == []
    with Watch().take(tmp_path / "made") as second:  # type: ignore[union-attr]
        assert second.alive()


def test_the_heartbeat_moves_and_shows_progress(tmp_path):
    with leases.acquire(tmp_path, beat=0.02) as lease:  # type: ignore[union-attr]
        lease.report(Progress("demo", 7))
        deadline = time.monotonic() + 5
        while (seen := holder(tmp_path)) is None or seen.beat < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert seen.progress == Progress("demo", 7)
        assert seen.owner == lease.owner and seen.pid == os.getpid() and not seen.dead
        lease.report(Progress("x" * 5000, 7))  # what does not fit is left out, the lease goes on
        time.sleep(0.1)
        assert lease.alive() and (tmp_path / NAME).stat().st_size == SIZE
    assert holder(tmp_path) is None


def test_a_living_holder_keeps_it_and_a_killed_one_frees_it_at_once(tmp_path, start):
    process = start(HOLD, tmp_path, 30)
    assert line(process) == "held"
    watch = Watch(ttl=0.4)
    assert take_within(watch, tmp_path, 1.0)[0] is None  # it beats, so no amount of patience helps
    process.kill()
    process.wait()
    patient = Watch(ttl=3600)
    taken = patient.take(tmp_path)
    assert taken is not None and taken.alive()
    taken.release()


def test_a_zombie_is_dead(tmp_path, start):
    process = start(HOLD, tmp_path, 30)
    assert line(process) == "held"
    process.kill()
    deadline = time.monotonic() + 5
    while (taken := Watch(ttl=3600).take(tmp_path)) is None:
        assert time.monotonic() < deadline  # nobody has waited for the process yet
    taken.release()
    process.wait()


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({"born": "1"}, True),  # the number was given to another process
        ({"pid": 2**22 + 1}, True),  # no such process
        ({"machine": "elsewhere", "pid": 2**22 + 1}, False),  # nothing is known about other machines
        ({}, False),
    ],
)
def test_whose_death_can_be_seen(tmp_path, change, free):
    held = leases.acquire(tmp_path, beat=3600)
    assert held is not None
    content = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**content, **change}))
    taken = Watch(ttl=3600).take(tmp_path)
    assert (taken is not None) == free
    for lease in filter(None, (taken, held)):
        lease.release()


def test_a_silent_holder_elsewhere_is_given_up_after_ttl_by_the_observers_clock(tmp_path):
    (tmp_path / NAME).write_text('{"owner": "x", "machine": "elsewhere", "pid": 1, "beat": 5}')
    os.utime(tmp_path / NAME, (2e9, 2e9))  # the holder's clock is decades ahead: nobody looks at it
    taken, waited = take_within(Watch(ttl=0.5), tmp_path, 10)
    assert taken is not None and waited >= 0.5
    taken.release()


def test_an_observer_that_looks_rarely_needs_several_looks(tmp_path):
    (tmp_path / NAME).write_text('{"owner": "x", "machine": "elsewhere", "pid": 1, "beat": 5}')
    watch = Watch(ttl=0.4)
    assert watch.take(tmp_path) is None
    time.sleep(0.6)  # perhaps both slept, so this silence alone proves nothing
    assert watch.take(tmp_path) is None
    assert take_within(watch, tmp_path, 5)[0] is not None


def test_a_stopped_owner_finds_that_it_lost_and_leaves_its_successor_alone(tmp_path, start):
    process = start(HOLD, tmp_path, 0.6)
    assert line(process) == "held"
    process.send_signal(signal.SIGSTOP)
    taken, waited = take_within(Watch(ttl=0.6, beat=0.05), tmp_path, 10)
    assert taken is not None and waited >= 0.6
    process.send_signal(signal.SIGCONT)
    assert line(process) == "lost"
    process.wait()
    time.sleep(0.2)
    assert taken.alive()
    seen = holder(tmp_path)
    assert seen is not None and seen.owner == taken.owner
    taken.release()
    assert holder(tmp_path) is None


def test_a_lease_that_is_deleted_is_lost_and_never_comes_back(tmp_path):
    lease = leases.acquire(tmp_path, beat=0.02)
    assert lease is not None
    (tmp_path / NAME).unlink()
    deadline = time.monotonic() + 5
    while lease.alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(leases.LeaseLost):
        lease.check()
    other = leases.acquire(tmp_path)
    assert other is not None and not lease.alive()
    lease.release()  # gives back nothing that is not its own
    assert other.alive() and holder(tmp_path) is not None
    other.release()


def test_a_lease_moved_by_mistake_and_put_back_survives(tmp_path):
    lease = leases.acquire(tmp_path, beat=0.01)
    assert lease is not None
    for _ in range(20):
        os.rename(tmp_path / NAME, tmp_path / "tomb")
        time.sleep(0.005)
        os.link(tmp_path / "tomb", tmp_path / NAME)
        os.unlink(tmp_path / "tomb")
    time.sleep(0.1)
    assert lease.alive()
    lease.release()


def test_contenders_are_alone_one_after_the_other(tmp_path, start):
    processes = [start(CONTEND, tmp_path, 20) for _ in range(4)]
    results = [(process.communicate(timeout=120)[0].strip(), process.returncode) for process in processes]
    assert all(code == 0 for _, code in results), results
    assert sum(int(won) for won, _ in results) == (tmp_path / "tally").stat().st_size >= 20


def test_of_many_breakers_exactly_one_becomes_the_owner(tmp_path, start):
    rounds = 8
    processes = [start(BREAK, tmp_path, rounds) for _ in range(5)]
    assert [line(process) for process in processes] == ["ready"] * 5
    gone = start("", tmp_path)
    gone.wait()
    mine = leases.acquire(tmp_path / "mine", beat=3600)
    assert mine is not None
    dead = {**json.loads((tmp_path / "mine" / NAME).read_text()), "pid": gone.pid}
    mine.release()
    for number in range(rounds):
        (tmp_path / "next").mkdir()
        (tmp_path / "next" / NAME).write_text(json.dumps(dead))
        (tmp_path / "next").rename(tmp_path / str(number))
        time.sleep(0.5)
        (tmp_path / f"over{number}").touch()
    won = [line(process) for process in processes]
    assert [process.poll() for process in processes] == [None] * 5
    assert sorted(int(number) for text in won for number in text.split(",") if text) == list(range(rounds)), won


def silent(directory: Path) -> Watch:
    """An observer that has seen the same lease of another machine for long enough to take it away."""
    directory.mkdir(exist_ok=True)
    (directory / NAME).write_text('{"owner": "x", "machine": "elsewhere", "pid": 1, "beat": 5}')
    watch = Watch(ttl=0.4)
    for _ in range(4):
        assert watch.take(directory) is None
        time.sleep(0.11)
    return watch


def test_a_lease_that_changed_hands_at_the_last_moment_is_put_back(tmp_path, monkeypatch):
    watch, rename, rivals = silent(tmp_path), os.rename, []

    def rename_too_late(source, target):
        (tmp_path / NAME).unlink()
        rivals.append(leases.acquire(tmp_path, beat=0.02))
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_too_late)
    assert watch.take(tmp_path) is None
    monkeypatch.undo()
    time.sleep(0.2)
    (rival,) = rivals
    seen = holder(tmp_path)
    assert rival.alive() and seen is not None and seen.owner == rival.owner
    rival.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_a_rival_takes_right_after_the_takeover_does_not_count(tmp_path, monkeypatch):
    watch, sleep, rivals = silent(tmp_path), time.sleep, []

    def rival_while_settling(seconds):
        if seconds == watches.SETTLE:
            (tmp_path / NAME).unlink()
            rivals.append(leases.acquire(tmp_path))
        sleep(seconds)

    monkeypatch.setattr(watches.time, "sleep", rival_while_settling)
    assert watch.take(tmp_path) is None
    (rival,) = rivals
    seen = holder(tmp_path)
    assert rival.alive() and seen is not None and seen.owner == rival.owner
    rival.release()


def test_damaged_content_is_treated_as_silent(tmp_path):
    whole = pack(edited(this_process("x"), progress=Progress("a", 5)))
    for content in (whole.replace(b'"flops":5', b'"flops":' + b"9" * 400), b"\xff{"):
        assert content != whole
        (tmp_path / NAME).write_bytes(content)
        assert holder(tmp_path) is None
    taken, waited = take_within(Watch(ttl=0.3), tmp_path, 10)
    assert taken is not None and waited >= 0.3
    taken.release()


def test_an_observer_that_sleeps_before_its_claim_moves_nobodys_lease(tmp_path, monkeypatch):
    slow, quick, publish, rivals = silent(tmp_path), silent(tmp_path), lease_file.publish, []

    def publish_too_late(path, content):
        monkeypatch.undo()
        rivals.append(quick.take(tmp_path))  # the whole takeover, while the other one sleeps
        rivals.append((tmp_path / NAME).stat().st_ino)
        monkeypatch.setattr(os, "rename", lambda *names: renamed.append(names))  # by the one that wakes up
        return publish(path, content)

    monkeypatch.setattr(lease_file, "publish", publish_too_late)
    renamed = []
    assert slow.take(tmp_path) is None
    rival, inode = rivals
    assert rival.confirm() and (tmp_path / NAME).stat().st_ino == inode and not renamed
    monkeypatch.undo()
    rival.release()
    assert list(tmp_path.iterdir()) == []


def test_while_one_sleeps_before_its_move_nobody_else_takes_the_lease(tmp_path, monkeypatch):
    slow, others, rename, taken = silent(tmp_path), [silent(tmp_path) for _ in range(3)], os.rename, []

    def rename_too_late(source, target):
        monkeypatch.undo()
        taken.extend(other.take(tmp_path) for other in others)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_too_late)
    lease = slow.take(tmp_path)
    assert lease is not None and lease.confirm() and taken == [None] * 3
    lease.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", [False, True])
def test_a_claim_whose_maker_died_is_taken_over_and_then_the_lease(tmp_path, start, broken):
    gone = start("", tmp_path)
    gone.wait()
    content = json.dumps({**json.loads(pack(this_process("x"))), "pid": gone.pid}).encode()
    (tmp_path / NAME).write_bytes(content)
    claim = claim_of(tmp_path / NAME, content)
    claim.write_bytes(b"{}" if broken else content.replace(b'"x"', b'"y"'))
    watch = Watch(ttl=0.3)
    if broken:  # of unknown origin: only its silence tells
        assert watch.take(tmp_path) is None
    taken, _ = take_within(watch, tmp_path, 10)
    assert taken is not None
    taken.release()
    assert list(tmp_path.iterdir()) == []


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def a_full_folder(path: Path) -> None:
    (path / "inside").mkdir(parents=True)


@pytest.mark.parametrize("plant", [a_fifo, a_link_to_itself, a_link_to_nothing, Path.mkdir, a_full_folder])
def test_what_is_no_file_is_a_broken_lease_and_is_taken_over_after_ttl(tmp_path, plant):
    plant(tmp_path / NAME)
    assert holder(tmp_path) is None
    taken, waited = take_within(Watch(ttl=0.3), tmp_path, 10)
    assert taken is not None and waited >= 0.3 and taken.confirm()
    assert (tmp_path / NAME).is_file() and not (tmp_path / NAME).is_symlink()
    taken.release()
    assert not (tmp_path / "nothing").exists()


def test_a_lease_that_becomes_a_fifo_is_lost(tmp_path):
    lease = leases.acquire(tmp_path, beat=3600)
    assert lease is not None
    (tmp_path / NAME).unlink()
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(leases.LeaseLost):
        lease.require()


def test_a_beat_that_could_not_be_written_does_not_keep_the_lease_from_being_released(tmp_path, monkeypatch):
    lease = leases.acquire(tmp_path, beat=3600)
    assert lease is not None

    def failing(*_):
        raise OSError(5, "for a moment")

    monkeypatch.setattr(os, "pwrite", failing)
    lease.confirm()
    monkeypatch.undo()
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_required_means_confirmed_now_also_when_the_disk_fails_for_a_moment(tmp_path, monkeypatch):
    lease, fsync, failures = leases.acquire(tmp_path, beat=0.02), os.fsync, [5, 28]
    assert lease is not None

    def failing(descriptor):
        if failures:
            raise OSError(failures.pop(), "for a moment")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    lease.require()
    assert not failures
    (tmp_path / NAME).unlink()
    with pytest.raises(leases.LeaseLost):
        lease.require()
