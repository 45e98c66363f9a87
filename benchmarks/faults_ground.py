"""Two studies for ``faults.py``: what is trained there, how it is planned, and what an undisturbed worker ends with.

``chains``: hash chains (``tests/chain_study.py``), which need no JAX; workers, leases, records and results are the real
ones, and the state of a run, in a file, tells at the end whether every step was done once and in order.
``trainer``: the smallest models, by the real trainer with its checkpoints.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from faults_workers import ROOT, Launcher, Page, Worker, import_what_is_used, worker_call

sys.path.append(str(ROOT / "tests"))

EXPERIMENT = """
from scaling import study

def get_config(argument=""):
    config = study.base("storm")
    config.data.known = {"source": "zipf", "base": 4, "targets": 8}
    config.model = {"width": 8, "layers": 1, "heads": 1, "context": 12}
    config.recipe.batch, config.recipe.warmup_steps = 4, 4
    config.chunk, config.checkpoint_seconds, config.evaluation = 10, 0.0, {"tokens": 2**12, "batch": 32}
    steps, seeds = argument.split("x")
    tokens = tuple(48 * int(count) for count in steps.split("-"))
    config.cells = {"grid": study.block("grid", "known", (0,), tokens=tokens, seeds=tuple(range(int(seeds))))}
    return config
"""
LEASE = ("--ttl=2", "--max_attempts=1000")


class Ground:
    """A study that is trained again and again.

    Args:
      name: chains or trainer. folder: for all its files.
      shape: of the study: steps of its runs, seeds, and for chains the milliseconds of a step.
      beat: seconds between two renewals of a lease.

    Attributes:
      workdir: where it is trained. expected, rows_expected: what must be the same bit for bit.
    """

    def __init__(self, name: str, folder: Path, shape: str, beat: float = 0.1):
        self.name, self.folder, self.shape, self._beat = name, folder, shape, beat
        self.workdir, self.planned = folder / f"study-{name}", folder / f"planned-{name}-{shape}"
        self.cache, self.experiment, self._modules = folder / "cache", folder / "tiny.py", folder / "modules"
        self.experiment.write_text(EXPERIMENT)
        self._count = 0
        if not self.planned.exists():
            self.run(lambda: self._plan(self.planned))
        if name == "chains":
            sys.path.insert(0, str(self._modules))
        self.fresh()
        import_what_is_used(worker_call(self.workdir, self.cache, core(0), self.arguments), self.said())
        self.expected, self.rows_expected = self.found(), self.rows()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of a worker."""
        return (*LEASE, f"--beat={self._beat}", *(("--execute=chains:execute",) if self.name == "chains" else ()))

    def said(self) -> Path:
        """A new file for what a process says."""
        self._count += 1
        return self.folder / f"said-{self._count}"

    def fresh(self) -> None:
        """An untouched work directory, which every user may write to."""
        self._count = 0
        shutil.rmtree(self.workdir, ignore_errors=True)
        shutil.copytree(self.planned, self.workdir)
        for place in (self.workdir, self.workdir / "logs", self.workdir / "runs"):
            place.mkdir(exist_ok=True)
            os.chmod(place, 0o777)
        for file in self.folder.glob("said-*"):
            file.unlink()

    def _plan(self, where: Path) -> int:
        if self.name == "chains":
            import chain_study
            import handmade

            from scaling.records import write_json

            self._modules.mkdir(exist_ok=True)
            (self._modules / "chains.py").write_text(chain_study.CHAIN)
            steps, seeds, pause = (int(part) for part in self.shape.split("x"))
            shapes = [
                chain_study.program(f"p{i}", 3, steps, pause=pause / 1000, evaluation=pause / 200) for i in range(seeds)
            ]
            write_json(where / "study.json", handmade.study(*shapes, name="chains"))
            return 0
        from scaling import plan, study
        from scaling.verbs import _config

        loaded, _ = _config.load(f"{self.experiment}:{self.shape}", ())
        plan.write(plan.make(study.resolve(loaded)), where)
        return 0

    def plan_again(self) -> None:
        """Plans the study where it is, as `scaling run --config` does."""
        self.run(lambda: self._plan(self.workdir))

    def worker(self, page: Page | None = None, user: int | None = None, number: int = 0) -> Worker:
        """Starts a worker."""
        call = worker_call(self.workdir, self.cache, core(number), self.arguments)
        return Worker(call, self.said(), page, user)

    def launcher(self) -> Launcher:
        """Starts `scaling run` with one worker of its own."""
        execute = ("--execute=chains:execute",) if self.name == "chains" else ()
        arguments = (f"--workdir={self.workdir}", "--workers=1", "--max_attempts=1000", *execute)
        return Launcher(arguments, self.said(), self.cache, self._modules)

    def run(self, call: Callable[[], int], wanted: Sequence[int] = (0,)) -> str:
        """Runs something in a process; returns what it said. RuntimeError if it exits otherwise than wanted."""
        process = Worker(call, self.said())
        if (code := process.wait()) not in wanted:
            raise RuntimeError(f"exit {code}: {process.text()[-1000:]}{process.traceback()[-1000:]}")
        return process.text()

    def results(self) -> dict[str, bytes]:
        """The content of every result.json, by run."""
        return {path.parent.name: path.read_bytes() for path in self.workdir.glob("runs/*/result.json")}

    def found(self) -> dict[str, str]:
        """What must be the same bit for bit, by run; a run without a result, or with a damaged one, is left out."""
        from scaling.errors import UserError
        from scaling.records import canonical, records

        found = {}
        for record in records(self.workdir):
            try:
                if (result := record.result) is not None:
                    chain = (result.execution or {}).get("chain")
                    found[record.path.name] = canonical([result.status, result.steps, result.evaluation, chain])
            except UserError:
                continue
        return found

    def rows(self) -> dict[str, float]:
        """The training loss of every chunk, by run and step."""
        from scaling.worker.programs import record_of

        runs = [path.name for path in (self.workdir / "runs").iterdir()]
        return {f"{run} {row.step}": row.loss for run in runs for row in record_of(self.workdir, run).steps()}


def core(number: int) -> int:
    """A core of this process, by turns."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[number % len(cores)]
