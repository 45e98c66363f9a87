"""CPU-seconds of `scaling fit` as a process in two checkouts, by turns (A B A B), with bytecode cached.

    python benchmarks/command.py --old=PATH --new=PATH [--rounds=6] [--rows=240] > benchmarks/command.json

Each checkout has its own ``.venv``. The table is planted: Chinchilla's law, 0.5 % noise. A first round of each, which
fills the caches, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from cpu import cpu_name


def table(rows: int) -> str:
    """A planted table as CSV."""
    rng = np.random.default_rng(0)
    n = 10 ** rng.uniform(6, 9.5, rows)
    d = n * 10 ** rng.uniform(0.5, 2.3, rows)
    loss = (1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28) * np.exp(0.005 * rng.standard_normal(rows))
    return "\n".join(["N,D,loss", *(f"{a:.6g},{b:.6g},{c:.6f}" for a, b, c in zip(n, d, loss))]) + "\n"


def seconds(checkout: Path, folder: Path) -> float:
    """CPU-seconds, user and system, of one fit by this checkout."""
    python = str(checkout / ".venv" / "bin" / "python")
    cache = folder / checkout.as_posix().strip("/").replace("/", "-")
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [python, "-m", "scaling.cli", "fit", str(folder / "runs.csv"), f"--out={folder / 'fit.json'}"]
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--new", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=240)
    given = parser.parse_args()
    checkouts = {"old": given.old.resolve(), "new": given.new.resolve()}
    spent: dict[str, list[float]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "runs.csv").write_text(table(given.rows))
        for done in range(given.rounds + 1):
            for which, checkout in checkouts.items():
                used = seconds(checkout, Path(name))
                print(f"{which} {used:.2f} CPU-seconds{'' if done else ', not counted'}", file=sys.stderr)
                spent[which] += [used] if done else []
    commits = {
        which: subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=path, capture_output=True, text=True).stdout
        for which, path in checkouts.items()
    }
    found = {
        "schema": 1,
        "kind": "command",
        "command": f"scaling fit runs.csv ({given.rows} rows)",
        "machine": {"cpu": cpu_name(), "python": sys.version.split()[0]},
        "commits": {which: text.strip() for which, text in commits.items()},
        "cpu_seconds": {which: [round(value, 3) for value in values] for which, values in spent.items()},
        "ratio": round(statistics.median(new / old for old, new in zip(spent["old"], spent["new"])), 3),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
