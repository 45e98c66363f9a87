"""CPU-seconds of the verbs on 11,000 finished runs, in two checkouts by turns (A B A B); memory at 100,000 cells.

    python benchmarks/scale.py --old=PATH [--rounds=2] [--only=status,run,plan,report,cells,short] [--out=FILE]

The runs are planted, not trained: each checkout plans the same experiment (10 sizes, 10 amounts of data, 100 seeds:
1,000 stems with ten branches each) and writes the record of every run as small files into a temporary folder, in its
own format, with losses of a Chinchilla law and 0.5 % noise. What is measured is a process each, imports included:

    status   `scaling status`; ``first``: the first one, without an index
    run      `scaling run` with nothing to do; ``first`` likewise
    plan     `scaling plan` of 12,000 cells, in an empty folder
    report   `scaling report`, and the bytes of its page
    cells    `scaling plan` of 100,000 cells, its study.json and a `scaling status` of it: peak memory (new only)
    short    1,000 runs of 20 steps by `scaling run` on all cores: ended a second after the first 100, and CPU-ms a run
             (new only)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cpu import cpu_name

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("status", "run", "plan", "report", "cells", "short")
EXPERIMENT = """
from scaling import study

def get_config(argument=""):
    config = study.base("scale")
    config.data.known = {"source": "zipf"}
    sizes, amounts, seeds = map(int, argument.split("x"))
    tokens = tuple(2**14 * (k + 2) for k in range(amounts))
    config.cells.grid = study.block("grid", "known", range(sizes), tokens=tokens, seeds=tuple(range(seeds)))
    return config
"""
SHORT = """
from scaling import study

def get_config(argument=""):
    config = study.base("short")
    config.data.known = {"source": "zipf", "base": 4, "targets": 8}
    config.model = {"width": 8, "layers": 1, "heads": 1, "context": 12}
    config.recipe.batch, config.recipe.warmup_steps, config.recipe.schedule = 4, 4, "cosine"
    config.chunk, config.evaluation = 20, {"tokens": 1024, "batch": 32}
    config.cells.all = study.block("grid", "known", (0,), tokens=(20 * 48,), seeds=tuple(range(int(argument))))
    return config
"""
# Run by each checkout: plans the experiment there, and writes the records of all its runs in its own format.
PLANT = """
import json, math, os, random, sys, zlib
from pathlib import Path
os.fsync = lambda descriptor: None
from ml_collections import ConfigDict
from scaling import plan, study
from scaling.records import Record

workdir, finished = Path(sys.argv[2]), sys.argv[4] == "finished"
names = {}
exec(Path(sys.argv[1]).read_text(), names)
config = names["get_config"](sys.argv[3])
config.lock()
made = plan.make(study.resolve(config))
plan.write(made, workdir)
if not finished:
    sys.exit()
old = not hasattr(made.programs[0], "runs")
now = "2026-01-01T00:00:00Z"
for program in made.programs:
    for spec in program["runs"] if old else program.runs:
        about = json.loads(json.dumps(spec["manifest"] if old else __import__("msgspec").to_builtins(spec.manifest)))
        n, d = about["parameters"]["nonembedding"], about["tokens"]["D"]
        noise = random.Random(zlib.crc32(about["run"].encode())).gauss(0, 0.005)
        loss = (1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28) * math.exp(noise)
        term = {"value": loss, "count": 131072, "se": 0.002, "sample": loss}
        about["environment"] = {
            "python": "3.11.7", "jax": "0.10.2", "flax": None, "optax": None, "orbax": None, "numpy": None,
            "commit": None, "device": "cpu", "device_kind": "cpu", "device_count": 1, "processes": 1, "threads": 1,
            "mesh": {"ensemble": 1, "data": 1, "fsdp": 1, "tensor": 1},
        }
        result = {
            "schema": about["schema"], "status": "done", "reason": None, "steps": about["steps"], "tokens": d,
            "decayed": about["kind"] != "stem", "train_loss": loss,
            "evaluation": {} if about["kind"] == "stem" else {about["headline"]: term},
            "seconds": {"train": 1e-10 * about["flops"]["training"], "compile": 0.0, "evaluate": 0.1},
            "tokens_per_second": 1e5, "mfu": None, "execution": None, "finished": now,
        }
        steps = [
            {"step": s, "loss": loss + 1 / s, "norm": 1.0, "learning_rate": 0.01, "tokens": 1024 * s, "seconds": 0.5}
            for s in range(50, about["steps"] + 1, 50)
        ]
        start = {"event": "start", "time": now, "host": "h", "pid": 1, "core": "0", "marks": {"settled": 0, "rows": 0}}
        events = [start] if spec is (program["runs"] if old else program.runs)[0] else []
        record = Record(workdir / "runs" / about["run"])
        record.path.mkdir(parents=True)
        (record.path / "manifest.json").write_text(json.dumps(about, indent=1) + "\\n")
        rows = [*events, *({**({} if old else {"event": "step"}), **row} for row in steps)]
        (record.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
        (record.path / "result.json").write_text(json.dumps(result, indent=1) + "\\n")
"""


class Checkout:
    """A checkout, with a folder of its own for its planted runs.

    Args:
      name: old or new. path: of the checkout. python: the interpreter for both. folder: a temporary one.
    """

    def __init__(self, name: str, path: Path, python: str, folder: Path):
        self.name, self.path, self._python, self.folder = name, path.resolve(), python, folder / name
        self.folder.mkdir()
        self.workdir = self.folder / "runs" / "scale"
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        places = {"PYTHONPATH": str(self.path), "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}
        self._environment = {**kept, **places, "JAX_PLATFORMS": "cpu", "SCALING_CACHE": str(self.folder / "cache")}
        (self.folder / "experiment.py").write_text(EXPERIMENT)
        (self.folder / "short.py").write_text(SHORT)
        (self.folder / "plant.py").write_text(PLANT)

    def process(self, *arguments: str) -> tuple[float, float, float]:
        """CPU-seconds, wall seconds and peak MiB of Python with these arguments; RuntimeError if it fails."""
        begun = time.perf_counter()
        with (self.folder / "output.txt").open("wb") as output:
            child = subprocess.Popen(
                [self._python, "-P", *arguments], env=self._environment, cwd=self.folder, stdout=output, stderr=output
            )
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said = (self.folder / "output.txt").read_text()[-500:]
            raise RuntimeError(f"{self.name}: {' '.join(arguments)}: exit {child.returncode}: {said}")
        wall = time.perf_counter() - begun
        return used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024

    def verb(self, *arguments: str) -> tuple[float, float, float]:
        """As ``process``, for a verb of the command line."""
        return self.process("-m", "scaling.cli", *arguments)

    def plant(self, workdir: Path, shape: str, *, finished: bool, experiment: str = "experiment.py") -> None:
        """Writes the planned study, and the records of all its runs if ``finished``."""
        self.process("plant.py", experiment, str(workdir), shape, "finished" if finished else "planned")


def verbs(both: list[Checkout], options: argparse.Namespace, wanted: set[str]) -> dict[str, Any]:
    """CPU-seconds of each verb in each checkout, by turns; those of the first call apart."""
    commands = {
        "status": ("status", "runs/scale"),
        "run": ("run", "--workdir=runs/scale"),
        "plan": ("plan", f"--config=experiment.py:{options.cells}", "--workdir=runs/none"),
        "report": ("report", "runs/scale"),
    }
    found: dict[str, Any] = {}
    for checkout in both:  # imports everything once, so that no measurement compiles bytecode
        checkout.verb("plan", "--config=experiment.py:2x2x2", "--workdir=runs/none")
    for name in (name for name in commands if name in wanted):
        spent: dict[str, list[float]] = {checkout.name: [] for checkout in both}
        first = {}
        for turn in range(options.rounds + (name in ("status", "run"))):
            for checkout in both:
                if turn == 0:
                    for index in checkout.workdir.glob("*index*"):
                        index.unlink()
                used, wall, memory = checkout.verb(*commands[name])
                print(f"{name} {checkout.name}: {used:.2f} CPU-s, {wall:.1f} s, {memory:.0f} MiB", file=sys.stderr)
                if turn == 0 and name in ("status", "run"):
                    first[checkout.name] = round(used, 3)
                else:
                    spent[checkout.name].append(round(used, 3))
        found[name] = {"cpu_seconds": spent}
        if first:
            found[name]["first_cpu_seconds"] = first
        if len(both) == 2:
            found[name]["ratio"] = round(statistics.median(b / a for a, b in zip(*spent.values())), 3)
        if name == "report":
            pages = {checkout.name: checkout.workdir.glob("**/report*.html") for checkout in both}
            found[name]["bytes"] = {key: max(page.stat().st_size for page in each) for key, each in pages.items()}
    return found


def cells(checkout: Checkout, shape: str) -> dict[str, Any]:
    """Peak memory of a plan of very many cells, of writing its study.json, and of its status."""
    workdir = checkout.folder / "runs" / "many"
    _, _, planned = checkout.verb("plan", f"--config=experiment.py:{shape}", f"--workdir={workdir}")
    _, _, written = checkout.process("plant.py", "experiment.py", str(workdir), shape, "planned")
    _, _, looked = checkout.verb("status", str(workdir))
    return {"shape": shape, "peak_mib": {"plan": round(planned), "write": round(written), "status": round(looked)}}


def short(checkout: Checkout, runs: int) -> dict[str, Any]:
    """Runs finished a second, from the first tenth to the last, by `scaling run` with a worker on every core.

    CPU-milliseconds of a run are those of this study beyond those of a tenth of it: without imports and compilation,
    and little longer on a machine that does other work.
    """
    tenths = [f"--workdir=runs/{name}" for name in ("cold", "warm")]  # the first fills the compilation cache
    _, tenth = (checkout.verb("run", f"--config=short.py:{runs // 10}", each)[0] for each in tenths)
    workdir = checkout.folder / "runs" / "short"
    used, wall, _ = checkout.verb("run", f"--config=short.py:{runs}", f"--workdir={workdir}")
    ends = sorted(path.stat().st_mtime for path in workdir.glob("runs/*/result.json"))
    rate = (len(ends) - runs // 10) / (ends[-1] - ends[runs // 10 - 1])
    return {
        "runs": len(ends),
        "a_second": round(rate, 2),
        "cpu_ms_a_run": round(1000 * (used - tenth) / (runs - runs // 10), 1),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used, 1),
    }


def commit(path: Path) -> str:
    """The short hash of a checkout's commit."""
    command = ["git", "-C", str(path), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="checkout of c54c85d; none: this one alone")
    parser.add_argument("--new", type=Path, default=ROOT)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--runs", default="10x10x100", help="sizes x amounts x seeds of the finished study")
    parser.add_argument("--cells", default="10x12x100", help="likewise of the study that is planned")
    parser.add_argument("--many", default="10x20x500", help="likewise of the plan whose memory is measured")
    parser.add_argument("--short", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wanted = set(options.only.split(","))
    with tempfile.TemporaryDirectory() as folder:
        paths = {"old": options.old, "new": options.new} if options.old else {"new": options.new}
        both = [Checkout(name, path, options.python, Path(folder)) for name, path in paths.items()]
        if wanted & {"status", "run", "report"}:
            for checkout in both:
                checkout.plant(checkout.workdir, options.runs, finished=True)
        result = {
            "schema": 1,
            "kind": "scale",
            "machine": {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]},
            "commits": {name: commit(path) for name, path in paths.items()},
            "runs": len(list((both[-1].workdir / "runs").glob("*"))),
            "verbs": verbs(both, options, wanted),
        }
        if "cells" in wanted:
            result["cells"] = cells(both[-1], options.many)
        if "short" in wanted:
            result["short"] = short(both[-1], options.short)
        # Before the folder goes, which holds some 100,000 files.
        text = json.dumps(result, indent=1) + "\n"
        if options.out:
            options.out.write_text(text)
        print(text, end="")


if __name__ == "__main__":
    main()
