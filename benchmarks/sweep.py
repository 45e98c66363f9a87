"""A study through `scaling run` against the same cells one after another, each in a process of its own.

    python benchmarks/sweep.py [--config=demo] [--argument=smoke] [--cells=0] [--rounds=1] [--out=benchmarks/sweep.json]

Together: `scaling run` as a user starts it, with an empty compilation cache: one worker a core, cells of one size and
seed as branches of one stem, one compilation a shape. Apart: for each cell a fresh Python that trains this cell alone
with the same trainer, on all cores, without a cache, as a loop over a training script does. Compilation, imports, data
and evaluation count in both. ``--cells=12`` takes the first 12 cells. Losses of the two are compared: they are the same
runs, to the rounding of another number of threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scaling.records import records, write_json

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import sys
from pathlib import Path
from absl import flags
from scaling import train
from scaling.records import read_study
flags.FLAGS.mark_as_parsed()
workdir = Path(sys.argv[1])
(program,) = read_study(workdir).programs
train.execute(program, workdir, progress=lambda run, flops: None, should_stop=lambda: False)
"""


def prepare(config: str, argument: str | None, cells: int, workdir: Path) -> tuple[Path, list[Path]]:
    """Writes study.json for the cells together and for each alone; the directories."""
    from scaling import plan, study
    from scaling.verbs import _config

    loaded, _ = _config.load(config if argument is None else f"{config}:{argument}", ())
    whole = study.resolve(loaded)
    chosen = whole.cells[:cells] if cells else whole.cells
    alone = []
    for index, cell in enumerate(chosen):
        made = plan.make(_only(whole, (cell,)))
        alone.append(workdir / f"alone-{index}")
        plan.write(made, alone[-1])
    plan.write(plan.make(_only(whole, chosen)), workdir / "together")
    return workdir / "together", alone


def _only(whole: Any, cells: tuple[Any, ...]) -> Any:
    used = {cell.dataset for cell in cells}
    return dataclasses.replace(whole, cells=cells, datasets={k: v for k, v in whole.datasets.items() if k in used})


def timed(commands: list[list[str]], environment: dict[str, str]) -> dict[str, float]:
    """Wall and CPU seconds of commands in sequence. RuntimeError where one fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def losses(workdirs: list[Path]) -> dict[str, float]:
    """The final headline loss of every cell, by the name of its run."""
    found = {}
    for workdir in workdirs:
        for record in records(workdir):
            result, manifest = record.result, record.manifest
            if manifest.kind != "stem" and result is not None and result.status == "done":
                found[record.path.name] = result.evaluation[manifest.headline].value
    return found


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="demo")
    parser.add_argument("--argument", default=None)
    parser.add_argument("--cells", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", default="")
    options = parser.parse_args(arguments)
    plain = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for name in [name for name in plain if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "SCALING_"))]:
        del plain[name]
    rounds, cells, worst = [], 0, 0.0
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            together, alone = prepare(options.config, options.argument, options.cells, Path(folder))
            command = [sys.executable, "-m", "scaling.cli", "run"]
            one = timed([[*command, f"--workdir={together}", f"--cache={folder}/cache"]], plain)
            each = timed([[sys.executable, "-c", CHILD, str(workdir)] for workdir in alone], plain)
            ours, theirs = losses([together]), losses(alone)
            if set(ours) != set(theirs):
                raise RuntimeError(f"{len(ours)} cells finished together, {len(theirs)} alone")
            cells, worst = len(ours), max(abs(ours[name] - theirs[name]) for name in ours)
            rounds.append({"together": one, "apart": each, "ratio": each["wall_seconds"] / one["wall_seconds"]})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    result = {
        "benchmark": "sweep",
        "study": options.config if options.argument is None else f"{options.config}:{options.argument}",
        "cells": cells,
        "cores": len(os.sched_getaffinity(0)),
        "load_at_end": os.getloadavg()[0],
        "largest_difference_of_loss": worst,
        "ratio": sorted(row["ratio"] for row in rounds)[len(rounds) // 2],
        "rounds": rounds,
    }
    if options.out:
        write_json(options.out, result)
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
