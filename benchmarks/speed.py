"""How fast the fitter is, beside its peers: one run, one core, ours and theirs in turn.

    python benchmarks/speed.py --shared=../shared --package=PYTHON --out=benchmarks/speed.json

CPU seconds of one core (the process is bound to it, and libraries to one thread), after imports unless it says
otherwise; ours is the median of its repeats. ``--package`` names the interpreter of an environment that holds the PyPI
package ``chinchilla`` 0.2.0; without it that row is missing. Without ``--shared`` the 240 points are planted ones.
``--only`` takes names of parts (peers, laws, jax, shell, million) and keeps the others of ``--out``; each part says how
loaded the machine was: other work on it makes CPU seconds up to 1.5 times longer, and wall seconds far more.
About 6 CPU-minutes, half of them the peers'.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from scaling.records import write_json

HERE = Path(__file__).resolve().parent
DELTA = 1e-3
BOOTSTRAPS = 4000
REPEATS = 3
PARTS = ("peers", "laws", "jax", "shell", "million")
JAX_LAWS = ("repeats", "distillation", "bnsl2", "lr_loss", "multipower")  # without derivatives, as a user's own law
GOALS = {
    "fit + 4000 bootstraps, 240 points": 1.5,
    "scaling fit from the shell": 4.0,
    "any law with analytic derivatives, fit + 1000 bootstraps": 2.0,
    "any law by JAX, fit + 1000 bootstraps, compilation included": 15.0,
    "import analysis.fitting": 1.0,
    "default fit of a million rows": 60.0,
}


# --- what is timed, each in a process of its own: a function of the table of 240 points -> JSON


def ours(table: dict[str, list[float]]) -> dict[str, Any]:
    """The fit and its bootstraps in Hoffmann mode, card and diagnosis included."""
    import pandas as pd

    from analysis.fitting import make
    from analysis.table.runs import from_frame

    runs = from_frame(pd.DataFrame(table))
    make.DRAWS = BOOTSTRAPS
    start = time.process_time()
    fitted = make.fit(runs, "chinchilla", objective=f"huber:{DELTA}", scheme="bootstrap-runs")
    seconds = time.process_time() - start
    assert len(fitted.draws) == BOOTSTRAPS
    return {"cpu": seconds, "objective": fitted.card.objective.value, "a": fitted.intervals["a"].value}


def _objective(table: dict[str, list[float]]) -> tuple[Callable[..., Any], int]:
    """Hoffmann's objective and its gradient at (ln A, ln B, ln E, alpha, beta) with weights of the rows, for scipy."""
    log_n, log_d, y = (np.log(np.asarray(table[c])) for c in ("N", "D", "loss"))

    def value(p: np.ndarray, w: np.ndarray | float = 1.0) -> tuple[float, np.ndarray]:
        parts = np.stack([p[0] - p[3] * log_n, p[1] - p[4] * log_d, np.full_like(y, p[2])])
        top = parts.max(0)
        terms = np.exp(parts - top)
        total = terms.sum(0)
        r = y - top - np.log(total)
        psi = np.clip(r, -DELTA, DELTA)
        shares, pull = terms / total, -w * psi
        a, b, e = shares * pull
        gradient = np.array([a.sum(), b.sum(), e.sum(), -(a @ log_n), -(b @ log_d)])
        return float((w * psi * (r - 0.5 * psi)).sum()), gradient

    return value, len(y)


def _scipy(value: Callable[..., Any], start: Any, *more: Any) -> Any:
    from scipy import optimize

    return optimize.minimize(value, start, args=more, jac=True, method="L-BFGS-B")


def scipy_starts(table: dict[str, list[float]], few: bool = False) -> dict[str, Any]:
    """L-BFGS-B with the analytic gradient from each point of Hoffmann's grid (2203.15556, D.2), or of a thinner one."""
    value, _ = _objective(table)
    grid = [np.arange(0, 30, 5), np.arange(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5)]
    if few:
        grid = [
            np.array([0.0, 10.0, 20.0]),
            np.array([0.0, 10.0, 20.0]),
            np.array([0.0, 1.0]),
            np.array([0.2, 0.5, 1.0]),
        ]
    begin = time.process_time()
    found = [_scipy(value, np.array(p)) for p in itertools.product(*grid, grid[3])]
    seconds = time.process_time() - begin
    best = min(found, key=lambda f: f.fun)
    return {
        "cpu": seconds,
        "starts": len(found),
        "objective": float(best.fun),
        "a": best.x[4] / (best.x[3] + best.x[4]),
    }


def scipy_few(table: dict[str, list[float]]) -> dict[str, Any]:
    return scipy_starts(table, few=True)


def scipy_bootstraps(table: dict[str, list[float]]) -> dict[str, Any]:
    """Bootstraps as the notebook of Besiroglu 2024 (2404.10102) has them, one start each: here the plain optimum."""
    value, n = _objective(table)
    grid = itertools.product((0, 10, 20), (0, 10, 20), (0, 1), (0.5,), (0.5,))
    first = min((_scipy(value, np.array(p)) for p in grid), key=lambda f: f.fun)
    rng = np.random.default_rng(0)
    begin = time.process_time()
    for w in rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS).astype(np.float64):
        _scipy(value, first.x, w)
    return {"cpu": time.process_time() - begin, "bootstraps": BOOTSTRAPS}


def laws_analytic(table: dict[str, list[float]]) -> dict[str, Any]:
    """Every law with derivatives of its own on the table that its tests plant: default objective, 1000 bootstraps."""
    from analysis import laws

    rows = []
    for name, law in laws.REGISTRY.items():
        if not law.slow:
            rows.append(min((_one_law(law) for _ in range(2)), key=lambda row: row["cpu"]) | {"law": name})
    return {"rows": rows}


def law_by_jax(name: str) -> dict[str, Any]:
    """A law as a user declares one, without derivatives: JAX takes them, and compilation is in the time."""
    from analysis import laws

    return _one_law(replace(laws.get(name), slow=True)) | {"law": name}


def _one_law(law: Any) -> dict[str, Any]:
    """CPU seconds of a fit with 1000 bootstraps; of the estimate and them where the law takes whole schedules."""
    from analysis.engine.estimate import estimate, objective
    from analysis.engine.inference import bootstrap
    from analysis.fitting import fit

    tables = _law_tables()
    columns = tables.columns_of(law)
    if any(v.ndim > 1 for v in columns.values()):
        rng, n = np.random.default_rng(0), 60
        loss = law.predict(law.example, columns) * np.exp(0.003 * rng.standard_normal(n))
        begin = time.process_time()
        point = estimate(law, columns, loss, objective("auto"))
        bootstrap(point, point.y, None, 1000, rng)
    else:
        runs = tables.runs_of(law, noise=0.003)
        n, begin = len(runs.table), time.process_time()
        fit(runs, law, scheme="bootstrap-runs")
    seconds = time.process_time() - begin
    return {"parameters": len(law.params), "rows": n, "curves": "S1" in law.columns, "cpu": seconds}


def million(table: dict[str, list[float]]) -> dict[str, Any]:
    """The default fit of 10^6 simulated rows: runs of their own, and 1000 runs with 1000 checkpoints each."""
    import pandas as pd

    from analysis import laws
    from analysis.fitting import fit
    from analysis.table.runs import from_frame, load

    law, rng, n = laws.get("chinchilla"), np.random.default_rng(0), 10**6
    truth = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}

    def simulated(stems: int | None) -> Any:
        size = np.exp(rng.uniform(math.log(1e6), math.log(1e10), stems or n))
        noise = 0.01 * rng.standard_normal(n)
        if stems is None:
            frame = pd.DataFrame({"N": size, "D": np.exp(rng.uniform(math.log(1e8), math.log(1e12), n))})
        else:
            each = n // stems
            frame = pd.DataFrame({"N": np.repeat(size, each), "D": np.tile(np.geomspace(1e8, 1e12, each), stems)})
            frame["stem"] = np.repeat([f"s{i}" for i in range(stems)], each)
            noise += np.repeat(0.005 * rng.standard_normal(stems), each)
        frame["loss"] = law.predict(truth, frame) * np.exp(noise)
        return frame

    out: dict[str, Any] = {"rows": n}
    for name, stems in (("runs", None), ("checkpoints", 1000)):
        frame = simulated(stems)
        begin = time.process_time()
        runs = from_frame(frame)
        table_seconds, begin = time.process_time() - begin, time.process_time()
        fitted = fit(runs)
        out[name] = {
            "fit": time.process_time() - begin,
            "checking the table": table_seconds,
            "scheme": fitted.card.scheme.name,
            "a": [getattr(fitted.intervals["a"], k) for k in ("lo", "value", "hi")],
            "a_planted": truth["beta"] / (truth["alpha"] + truth["beta"]),
        }
        if name == "checkpoints":
            with tempfile.TemporaryDirectory() as folder:
                for kind in ("csv", "parquet"):
                    path = Path(folder) / f"rows.{kind}"
                    try:
                        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
                    except ImportError:
                        out[f"reading {kind}"] = None  # pyarrow is an extra
                        continue
                    begin = time.process_time()
                    load(path)
                    out[f"reading {kind}"] = time.process_time() - begin
    out["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return out


def _law_tables() -> Any:
    spec = importlib.util.spec_from_file_location("law_tables", HERE.parent / "tests" / "law_tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TASKS: dict[str, Callable[[Any], dict[str, Any]]] = {
    f.__name__: f for f in (ours, scipy_starts, scipy_few, scipy_bootstraps, laws_analytic, law_by_jax, million)
}


# --- the run


def timed(command: list[str], given: str = "") -> tuple[str, float, float]:
    """Standard output, CPU seconds (all of it, imports too) and wall seconds of a child process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=HERE.parent)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def task(name: str, argument: Any) -> dict[str, Any]:
    print(f"  {name} {argument if isinstance(argument, str) else ''}", file=sys.stderr, flush=True)
    return json.loads(timed([sys.executable, __file__, f"--task={name}"], json.dumps(argument))[0])


def points(shared: Path | None) -> tuple[dict[str, list[float]], str]:
    """The 240 points of Besiroglu 2024, or planted ones of the same size: columns C, N, D, loss."""
    import pandas as pd

    path = shared / "reference_runs" / "chinchilla_besiroglu.csv" if shared else None
    if path is not None and path.exists():
        frame = pd.read_csv(path).query("excluded_by_besiroglu == 0")
        return {c: frame[c].tolist() for c in ("C", "N", "D", "loss")}, "chinchilla_besiroglu.csv, 240 points"
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(7.7, 10.1, 240), 10 ** rng.uniform(8.5, 11.3, 240)
    loss = (1.8172 + 477.8 * n**-0.3473 + 2143 * d**-0.3672) * np.exp(0.002 * rng.standard_normal(240))
    return {"C": (6 * n * d).tolist(), "N": n.tolist(), "D": d.tolist(), "loss": loss.tolist()}, "240 planted points"


def peers(table: dict[str, list[float]], package: str | None) -> dict[str, Any]:
    """Ours and each peer in turn, A B A B; a peer that takes a minute or more runs once, whole."""
    rivals: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("scipy L-BFGS-B, analytic gradient, 4500 starts", lambda: task("scipy_starts", table)),
        ("scipy L-BFGS-B, analytic gradient, 162 starts", lambda: task("scipy_few", table)),
        ("scipy L-BFGS-B, analytic gradient, 4000 bootstraps of one start", lambda: task("scipy_bootstraps", table)),
        ("scipy L-BFGS-B, analytic gradient, 162 starts, again", lambda: task("scipy_few", table)),
    ]
    if package:

        def theirs() -> dict[str, Any]:
            print("  chinchilla", file=sys.stderr, flush=True)
            return json.loads(timed([package, str(HERE / "speed_package.py")], json.dumps(table))[0])

        rivals.insert(1, ("chinchilla 0.2.0 (PyPI), its README's grid of 3125 starts, no bootstrap", theirs))
    mine, others = [task("ours", table)], []
    for name, run in rivals:
        others.append({"name": name, **run()})
        mine.append(task("ours", table))
    seconds = [row["cpu"] for row in mine]
    name = "analysis: global fit, diagnosis and 4000 bootstraps"
    head = {"name": name, "cpu": statistics.median(seconds), "of": seconds, "objective": mine[0]["objective"]}
    return {"rows": [head, *others]}


def shell(table: dict[str, list[float]]) -> dict[str, Any]:
    """What a user waits for: ``scaling fit`` on a CSV, and the import, whole processes."""
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        pd.DataFrame(table).to_csv(path, index=False)
        command = [sys.executable, "-m", "scaling.cli", "fit", str(path), f"--out={path.with_suffix('.json')}"]
        fits = [timed(command)[1:] for _ in range(REPEATS)]
    imports = [timed([sys.executable, "-c", "import analysis.fitting"])[1:] for _ in range(REPEATS)]
    bare = [timed([sys.executable, "-c", "import analysis"])[1:] for _ in range(REPEATS)]
    out = {}
    for name, rows in (("scaling fit", fits), ("import analysis.fitting", imports), ("import analysis", bare)):
        out[name] = {"cpu": statistics.median(r[0] for r in rows), "wall": statistics.median(r[1] for r in rows)}
    return out


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The issue's goals with what was measured: {"goal", "limit", "seconds", "holds"}, those of the parts there are."""
    found: dict[str, float] = {}
    names = iter(GOALS)
    of = {key: next(names) for key in ("ours", "shell", "laws", "jax", "import", "million")}
    if "peers" in result:
        found[of["ours"]] = result["peers"]["rows"][0]["cpu"]
    if "shell" in result:
        found[of["shell"]] = result["shell"]["scaling fit"]["cpu"]
        found[of["import"]] = result["shell"]["import analysis.fitting"]["cpu"]
    if "laws" in result:
        found[of["laws"]] = max(row["cpu"] for row in result["laws"]["rows"] if not row["curves"])
    if "jax" in result:
        found[of["jax"]] = max(row["cpu"] for row in result["jax"]["rows"] if not row["curves"])
    if "million" in result:
        found[of["million"]] = max(result["million"][kind]["fit"] for kind in ("runs", "checkpoints"))
    return [{"goal": g, "limit": GOALS[g], "seconds": s, "holds": s <= GOALS[g]} for g, s in found.items()]


def show(result: dict[str, Any]) -> None:
    print(f"{result['machine']['cpu']}, one core; {result['points']}")
    for row in result.get("peers", {}).get("rows", ()):
        print(f"  {row['cpu']:9.2f} CPU-s  {row['name']}")
    for row in sorted(result.get("laws", {}).get("rows", ()), key=lambda r: -r["cpu"])[:5]:
        print(f"  {row['cpu']:9.2f} CPU-s  {row['law']}: fit + 1000 bootstraps, {row['rows']} rows")
    for row in result.get("jax", {}).get("rows", ()):
        print(f"  {row['cpu']:9.2f} CPU-s  {row['law']} by JAX{' (curves)' if row['curves'] else ''}")
    for row in result["goals"]:
        print(f"{'holds ' if row['holds'] else 'MISSED'} {row['seconds']:8.2f} s of {row['limit']:g}: {row['goal']}")


def machine(core: int) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = [s for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "core": core,
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for name in ("numpy", "scipy", "pandas", "jax"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--package", help="interpreter with the PyPI package chinchilla")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--task", choices=sorted(TASKS), help="one measurement, of JSON on standard input")
    options = parser.parse_args()
    if options.task:
        print(json.dumps(TASKS[options.task](json.load(sys.stdin))))
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["PYTHONPATH"] = str(HERE.parent)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    table, words = points(options.shared)
    result: dict[str, Any] = {"schema": 1, "kind": "speed", "points": words, "machine": machine(options.core)}
    result["versions"] = versions()
    if options.out and options.out.exists():
        was = json.loads(options.out.read_text())
        result |= {name: was[name] for name in PARTS if name in was and was["points"] == words}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "peers": lambda: peers(table, options.package),
        "shell": lambda: shell(table),
        "laws": lambda: task("laws_analytic", table),
        "jax": lambda: {"rows": [task("law_by_jax", name) for name in JAX_LAWS]},
        "million": lambda: task("million", table),
    }
    for name, part in parts.items():
        if name in options.only.split(","):
            load = {"load": round(os.getloadavg()[0], 1)}
            result[name] = json.loads(json.dumps(part() | load), parse_float=lambda s: float(f"{float(s):.7g}"))
            result["goals"] = goals(result)
            if options.out:  # after each part: a later one may fail
                write_json(options.out, result)
    show(result)


if __name__ == "__main__":
    main()
