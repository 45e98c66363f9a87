"""A study of hash chains: real programs for workers that need neither JAX nor minutes. Shared by tests."""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import handmade
import pytest

from scaling.engines.local import Local
from scaling.records import Record, write_json
from scaling.records.types import ProgramSpec, Role

ROOT = Path(__file__).resolve().parents[1]

# What the worker executes here. Each step extends a chain of hashes, so that the end tells whether every step was done
# once and in order, from wherever it resumed; ``trace`` has a line for each step that any process ever did.
CHAIN = """
import hashlib, os, signal, time
from scaling.errors import UserError
from scaling.records import Record, read_json, write_json
from scaling.records.types import Evaluation, Result, Seconds, StartRow, StepRow

class Interrupted(Exception):
    pass

def execute(program, workdir, *, progress, should_stop):
    done = 0
    for spec in program.runs:
        record = Record(workdir / "runs" / spec.run)
        if record.result is not None:
            done += spec.flops
            continue
        config, state = spec.manifest.config, {"step": 0, "chain": spec.run}
        if config.get("reject"):
            raise UserError("data", "nan", "holds NaN; mend the data")
        record.begin(spec.manifest)
        saved = record.path / "checkpoint.json"
        if saved.exists():
            state = read_json(saved)
        while state["step"] < spec.steps:
            time.sleep(config["pause"])
            step = state["step"] + 1
            with open(workdir / "trace", "a") as file:
                file.write(f"{spec.run} {step}\\n")
            if step == config.get("raise_at"):
                raise ValueError("cannot go on\\nfor a reason")
            if step == config.get("leave_at"):
                raise SystemExit(0)
            if step == config.get("die_at"):
                os.kill(os.getpid(), signal.SIGKILL)
            if step == config.get("die_once_at") and not (record.path / "died").exists():
                (record.path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if config.get("full_disk"):
                raise OSError(28, "No space left on device")
            state = {"step": step, "chain": hashlib.sha256(state["chain"].encode()).hexdigest()}
            record.append(StepRow(step=step, loss=5.0 / step, norm=1.0, learning_rate=0.1, tokens=step,
                                  seconds=config["pause"]))
            progress(spec.run, done + spec.flops * step // spec.steps)
            if should_stop():
                write_json(saved, state)
                raise Interrupted
            if step % 5 == 0:
                write_json(saved, state)
        time.sleep(config.get("evaluation", 0.0))
        if config.get("evaluates"):  # until the test lets this attempt go on
            attempt = len(record.events(StartRow))
            (record.path / f"evaluating-{attempt}").touch()
            while not (record.path / f"go-{attempt}").exists():
                time.sleep(0.01)
        record.finish(Result(status="done", steps=spec.steps, tokens=0, decayed=True, train_loss=1.0, finished="now",
                             execution={"chain": state["chain"]}, seconds=Seconds(train=1.0),
                             evaluation={"loss": Evaluation(value=2.5, se=0.01)}))
        done += spec.flops
"""


def program(
    name: str, runs: int = 1, steps: int = 10, seconds: float = 1.0, role: Role = "fit", **config: Any
) -> ProgramSpec:
    """A program of ``runs`` runs, each of ``steps`` steps that take ``pause`` seconds."""
    names = [name, *(f"{name}-{index}" for index in range(1, runs))]
    manifests = [
        handmade.manifest(run, role=role, dataset="chain", steps=steps, config={"pause": 0.02, **config})
        for run in names
    ]
    made = handmade.program(*manifests, seconds=seconds, flops=100 * runs)
    return handmade.edited(made, runs=tuple(handmade.edited(spec, flops=100) for spec in made.runs))


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
        self.programs: list[ProgramSpec] = []

    def plan(self, *programs: ProgramSpec) -> None:
        self.programs = list(programs)
        write_json(self.workdir / "study.json", handmade.study(*programs, name="chains"))

    def worker(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "scaling.worker", f"--workdir={self.workdir}", "--core=all"]
        return subprocess.Popen(
            [*command, "--execute=chains:execute", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def record(self, run: str) -> Record:
        return Record(self.workdir / "runs" / run)

    def trace(self) -> list[str]:
        path = self.workdir / "trace"
        return path.read_text().splitlines() if path.exists() else []

    def log(self, core: str = "all") -> str:
        return (self.workdir / "logs" / f"worker-{core}.log").read_text()

    def assert_finished(self) -> None:
        for spec in (spec for each in self.programs for spec in each.runs):
            result = self.record(spec.run).result
            assert result is not None and result.status == "done", (spec.run, result)
            assert result.execution == {"chain": chain(spec.run, spec.steps)}


@pytest.fixture(name="study")
def chain_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
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
