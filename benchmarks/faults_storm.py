"""The random storm of ``faults.py``: what can strike a study, and what must hold after it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from faults_ground import Ground
from faults_workers import Page, Worker, verb_call

TTL = 2.0  # seconds, of the leases here
PATIENCE = 20.0  # seconds to wait for a phase, or for another worker to take over
USERS = (4001, 4002)
PHASES = ("compiling", "stepping", "saving", "evaluating", "waiting")
MOMENTS = (None, *PHASES[:4])  # of a fault that may come at any time
SIGNALS = ("KILL", "TERM", "INT", "HUP", "SEGV")
DISK = {"full": errno.ENOSPC, "failing": errno.EIO, "readonly": errno.EROFS}


@dataclass
class Scene:
    """One study in the storm.

    Attributes:
      workers: those that were started and have not been seen to end. wanted: how many the storm keeps up.
      held: results as they were first seen. ours: runs whose result the storm itself damaged. cut: metrics that it cut
        once their run had ended, which stay as they are.
      problems: what must not happen, in words.
    """

    ground: Ground
    rng: random.Random
    wanted: int
    workers: list[Worker] = field(default_factory=list)
    held: dict[str, bytes] = field(default_factory=dict)
    ours: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    @property
    def workdir(self) -> Path:
        return self.ground.workdir

    def start(self, page: Page | None = None, user: int | None = None) -> Worker:
        """Starts one more worker."""
        worker = self.ground.worker(page or Page(self.workdir), user, number=len(self.workers))
        self.workers.append(worker)
        return worker

    def reap(self) -> None:
        """Looks at all workers; notes how those that ended did."""
        for worker in list(self.workers):
            if (code := worker.poll()) is None:
                continue
            self.workers.remove(worker)
            self.ends[str(code)] += 1
            said = worker.text().strip()
            if code not in (0, 2, 75, 76) and code > 0:
                self.problems.append(f"a worker ended with {code}: {said[-500:]}{worker.traceback()[-1500:]}")
            if code == 2 and len(said.splitlines()) != 1:
                self.problems.append(f"a worker said more or less than a line: {said[-1500:]}")

    def keep_up(self) -> None:
        """Starts what is missing, as an engine does."""
        self.reap()
        while len(self.workers) < self.wanted and not self.over():
            self.start()

    def over(self) -> bool:
        """Whether every run has a result."""
        return len(self.ground.results()) == len(self.ground.expected)

    def crash(self) -> None:
        """Ends all workers at once, as a power cut does."""
        for worker in self.workers:
            worker.send(signal.SIGKILL)
        for worker in self.workers:
            worker.wait()
        self.reap()

    def look(self) -> None:
        """Notes the results that are new, and whether one changed or is lost."""
        now = self.ground.results()
        for run, content in self.held.items():
            if run not in self.ours and now.get(run) != content:
                self.problems.append(f"{run}: the finished result {'changed' if run in now else 'is lost'}")
        self.held = {**{run: now[run] for run in now if run not in self.held}, **self.held}

    def phase(self, worker: Worker) -> str:
        """What a worker is doing, as far as the directories tell; surest while it is stopped."""
        for lease in self.workdir.glob("runs/*/lease.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                held = json.loads(lease.read_bytes())
                if held["pid"] == worker.pid:
                    if held["progress"] is None:
                        return "compiling"
                    return self._phase_of(self.workdir / "runs" / held["progress"]["run"])
        return "waiting"

    def _phase_of(self, folder: Path) -> str:
        names = {path.name for path in folder.iterdir()}
        saved = {path.name for path in folder.glob("checkpoints/*")}
        steps = [name for name in saved if name.isdigit()]
        if any("tmp" in name for name in saved) or any(f"{step}.json" not in saved for step in steps):
            return "saving"
        if any(name.startswith((".result", ".checkpoint")) for name in names):
            return "saving"
        total = json.loads((folder / "manifest.json").read_bytes())["steps"]
        rows = (folder / "metrics.jsonl").read_bytes() if "metrics.jsonl" in names else b""
        if f'"step":{total},'.encode() in rows and "result.json" not in names:
            return "evaluating"
        return "stepping"

    def victim(self, phase: str | None = None) -> tuple[Worker, str] | None:
        """A worker in this phase, or at a random moment, and the phase that it is in; None if the study is over."""
        deadline = time.monotonic() + (PATIENCE if phase else self.rng.uniform(0.0, 1.5))
        while True:
            self.keep_up()
            if not self.workers:
                return None
            for worker in self.workers:
                found = self.phase(worker)
                if found == phase or time.monotonic() > deadline:
                    return worker, found
            time.sleep(0.002)


Strike = Callable[[Scene], str | None]  # returns what it met, for the table; None if the study was over


def by_signal(name: str) -> Strike:
    """A worker gets a signal at a random moment."""

    def strike(scene: Scene) -> str | None:
        if (met := scene.victim(scene.rng.choice(MOMENTS))) is None:
            return None
        met[0].send(getattr(signal, f"SIG{name}"))
        met[0].wait()
        return met[1]

    return strike


def stopped(phase: str) -> Strike:
    """A worker is stopped in a phase until its lease is void, and others may have taken it; then it goes on."""

    def strike(scene: Scene) -> str | None:
        scene.wanted = max(2, scene.wanted)
        if (met := scene.victim(phase)) is None:
            return None
        worker, _ = met
        worker.send(signal.SIGSTOP)
        time.sleep(0.01)
        found = scene.phase(worker)
        deadline = time.monotonic() + TTL * scene.rng.uniform(1.2, 2.5)
        while time.monotonic() < deadline:
            time.sleep(0.02)
            scene.look()
        worker.send(signal.SIGCONT)
        return found

    return strike


def launchers(count: int, name: str | None) -> Strike:
    """So many `scaling run` at once; one gets a signal once it has a worker, if a signal is named."""

    def strike(scene: Scene) -> str | None:
        scene.crash()
        if scene.over():
            return None
        started = [scene.ground.launcher() for _ in range(count)]
        deadline = time.monotonic() + 4 * PATIENCE
        while not any(each.workers() for each in started) and time.monotonic() < deadline:
            if all(each.process.poll() is not None for each in started):
                break
            time.sleep(0.02)
        time.sleep(scene.rng.uniform(0.0, 6.0))
        orphans = started[0].workers()
        if name is not None:
            started[0].send(getattr(signal, f"SIG{name}"))
        codes = [each.wait() for each in started]
        # A shell sees 143 and 129 also where TERM and HUP come before it follows the workers, or after.
        wanted = {0} if name is None else {0, 130, 143, 129, *(-getattr(signal, f"SIG{each}") for each in SIGNALS)}
        if not set(codes) <= wanted:
            scene.problems.append(f"scaling run ended with {codes}: {started[0].said.read_text()[-1500:]}")
        deadline = time.monotonic() + 4 * PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in orphans) and time.monotonic() < deadline:
            time.sleep(0.02)
        if any(Path(f"/proc/{pid}").exists() for pid in orphans):
            scene.problems.append("a worker outlived its launcher")
        return ",".join(map(str, codes))

    return strike


def disk(kind: str, *, once: bool) -> Strike:
    """The calls of one worker fail, one of them or all from one on, until it ends or a while has passed."""

    def strike(scene: Scene) -> str | None:
        if (met := scene.victim(scene.rng.choice(MOMENTS))) is None:
            return None
        worker, phase = met
        assert worker.page is not None
        first = scene.rng.randrange(1, 60)
        worker.page.fail(DISK[kind], first, first if once else 2**30)
        deadline = time.monotonic() + scene.rng.uniform(0.5, 3.0)
        while worker.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        worker.page.heal()
        return f"{phase}: {worker.page.fields.struck and worker.page.fields.what.decode().split(' ')[0]}"

    return strike


def clock(field_name: str, seconds: float) -> Strike:
    """The clock of a worker jumps, or the machine seems to have slept."""

    def strike(scene: Scene) -> str | None:
        if (met := scene.victim(scene.rng.choice(MOMENTS))) is None:
            return None
        assert met[0].page is not None
        setattr(met[0].page.fields, field_name, seconds)
        return met[1]

    return strike


def another_user(scene: Scene) -> str | None:
    """A worker of another user joins, and all others end."""
    if scene.over():
        return None
    user = scene.rng.choice(USERS)
    scene.start(user=user)
    time.sleep(scene.rng.uniform(0.2, 1.5))
    for worker in scene.workers:
        if worker.user != user:
            worker.send(signal.SIGKILL)
    time.sleep(scene.rng.uniform(0.5, 2.0))
    return str(user)


def cut(path: Path, rng: random.Random) -> None:
    """Only the beginning of a file is left."""
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


def flip(path: Path, rng: random.Random) -> None:
    """One bit of a file is another."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def lose(path: Path, rng: random.Random) -> None:
    """The file or folder is gone."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def damage(pattern: str, how: Callable[[Path, random.Random], None]) -> Strike:
    """After a crash, one file of a pattern is damaged."""

    def strike(scene: Scene) -> str | None:
        deadline = time.monotonic() + 15 * PATIENCE  # until the first checkpoint is there
        while not (files := sorted(scene.workdir.glob(pattern))) and time.monotonic() < deadline:
            scene.keep_up()
            if scene.over():
                return None
            time.sleep(0.005)
        scene.crash()
        files = [path for path in files if path.is_dir() == (how is lose and path.is_dir()) and path.exists()]
        if not files:
            return None
        path = scene.rng.choice(files)
        scene.look()
        how(path, scene.rng)
        if path.name == "study.json":
            scene.ground.plan_again()
        elif path.name.startswith("result.json"):
            follow_advice(scene, path)
        elif path.name == "metrics.jsonl" and (path.parent / "result.json").exists():
            scene.cut.add(str(path))
        return path.name if not path.name.isdigit() else "checkpoint"

    return strike


def follow_advice(scene: Scene, path: Path) -> None:
    """`scaling verify` names a damaged result, and what it advises is done, but for the training."""
    scene.ours.add(path.parent.name)
    said = scene.ground.run(verb_call("verify", str(scene.workdir), "--json"), wanted=(0, 1))
    found = json.loads(said[said.index("{") :])["findings"]
    for finding in found:
        for command in (finding["command"] or "").split(" && "):
            words = shlex.split(command)
            if words[:1] == ["mv"]:
                os.rename(words[1], words[2])
            elif "--retry_failed" in words:
                scene.ground.run(lambda: again(scene.workdir))
    if path.name == "result.json" and str(path) not in [finding["file"] for finding in found]:
        scene.problems.append(f"verify does not name {path}")


def again(workdir: Path) -> int:
    """What `scaling run --retry_failed` does before it trains."""
    from scaling.worker.programs import load_programs, reset

    reset(workdir, load_programs(workdir))
    return 0


ARRAYS = "runs/*/checkpoints/*/**/*"
KINDS: dict[str, Strike] = {
    **{f"worker, SIG{name}": by_signal(name) for name in (*SIGNALS, "USR2")},
    **{f"worker stopped past its lease, {phase}": stopped(phase) for phase in PHASES},
    **{f"launcher, SIG{name}": launchers(1, name) for name in SIGNALS},
    "two launchers": launchers(2, None),
    "three launchers": launchers(3, "KILL"),
    **{f"one call, disk {kind}": disk(kind, once=True) for kind in DISK},
    **{f"every call, disk {kind}": disk(kind, once=False) for kind in DISK},
    "clock a day ahead": clock("wall", 86400.0),
    "clock a day back": clock("wall", -86400.0),
    "machine asleep for ten minutes": clock("suspended", 600.0),
    "another user": another_user,
    **{f"{name} cut short": damage(f"runs/*/{name}", cut) for name in ("manifest.json", "metrics.jsonl", "lease.json")},
    "result.json cut short": damage("runs/*/result.json", cut),
    "result.json.sha256 cut short": damage("runs/*/result.json.sha256", cut),
    "study.json cut short": damage("study.json", cut),
    "bit of study.json": damage("study.json", flip),
    "checkpoint cut short": damage(ARRAYS, cut),
    "bit of a checkpoint": damage(ARRAYS, flip),
    "bit of a checkpoint's hashes": damage("runs/*/checkpoints/*.json", flip),
    "bit of lease.json": damage("runs/*/lease.json", flip),
    "bit of result.json": damage("runs/*/result.json", flip),
    "checkpoint lost": damage("runs/*/checkpoints/*[0-9]", lose),
    "checkpoint's hashes lost": damage("runs/*/checkpoints/*.json", lose),
    "all checkpoints lost": damage("runs/*/checkpoints", lose),
}
OF_THE_TRAINER = tuple(name for name in KINDS if "checkpoint" in name or "study.json" in name)
