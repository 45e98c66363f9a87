"""Do nominal 95 % intervals cover 95 %? Scored over ALL simulated studies, flagged ones included.

    python benchmarks/coverage.py --studies=1000 --jobs=2 --out=benchmarks/coverage.json

Finished blocks of 50 studies are kept in OUT.partial.json: started again, it goes on from there (and starts anew where
the fitter gives other numbers). 1000 studies of all settings take about 1.3 CPU-hours.

The truth is Hoffmann's law (arXiv 2203.15556, approach 3). Noise is normal in log loss; with ``shared`` half of its
variance is one draw per stem. Designs: grids of sizes x tokens over two (wide: four) decades of N and of D, an isoFLOP
design, and the demo's kind of study (five stems of three branches, a second seed at two sizes). ``rows`` says what the
table tells the fitter: ``stems`` (named), ``sizes`` (nothing: rows of one N are taken to share an effect) or
``independent`` (every row its own stem). Uses the public ``fit`` alone; about 0.14 CPU-seconds a study.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # tiny matrices: threads only wait

import argparse
import hashlib
import json
import math
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws
from analysis.card import Conventions, Doubtful, NotIdentified
from analysis.check.diagnose import FLOOR_REACHED
from analysis.check.expected import expected
from analysis.engine.estimate import estimate, objective
from analysis.engine.inference import infer
from analysis.fitting import fit
from analysis.table.runs import Runs
from scaling.records import write_json

LAW = laws.get("chinchilla")
TRUTH = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
TARGETS = ("E", "alpha", "beta", "a", "loss_at_10x")
# design, noise, share of the variance that a stem has in common, share of outliers, what the rows tell
DESIGNS = ("8x5", "isoFLOP 5x7", "wide 5x3", "demo")
SETTINGS = [
    *[(d, noise, 0.0, 0.0, "independent") for d in DESIGNS for noise in (0.003, 0.01)],
    *[(d, noise, 0.0, 0.02, "independent") for d in DESIGNS for noise in (0.003, 0.01)],
    *[(d, noise, 0.5, 0.0, "stems") for d in ("8x5", "wide 5x3", "demo") for noise in (0.003, 0.01)],
    *[(d, noise, 0.5, 0.02, "stems") for d in ("8x5", "wide 5x3", "demo") for noise in (0.003, 0.01)],
    ("8x5", 0.003, 0.0, 0.0, "sizes"),
]
# designs about the bounds of the rule for flags; they get 2 studies of 5
BOUNDARY = [
    ("5x3", 0.0065, 0.0, 0.0, "independent"),
    ("isoFLOP 5x7", 0.0065, 0.0, 0.02, "independent"),
    ("demo", 0.007, 0.5, 0.0, "stems"),
    ("narrow 5x3", 0.005, 0.0, 0.0, "independent"),
    ("narrow 5x4", 0.02, 0.5, 0.0, "stems"),
    ("narrow 8x5", 0.01, 0.0, 0.0, "independent"),
    ("isoFLOP 5x7", 0.02, 0.0, 0.0, "independent"),
    ("8x5", 0.04, 0.0, 0.0, "independent"),
    ("5x3", 0.02, 0.5, 0.0, "stems"),
    ("demo", 0.03, 0.5, 0.0, "stems"),
]
FLAGS = (NotIdentified, Doubtful)
WIDE, SURE = 0.15, 0.05  # expected half-widths of a above which a design is unidentified, below which well identified
BLOCK = 50  # studies that are written at once, so that a run that was cut off goes on from there


def design(name: str) -> pd.DataFrame:
    """Columns N, D and stem of a design."""
    if name == "isoFLOP 5x7":
        c, ratio = np.meshgrid(np.geomspace(1e18, 1e20, 5), np.geomspace(1 / 8, 8, 7), indexing="ij")
        n = np.sqrt(c / 120 * ratio).ravel()
        d = c.ravel() / 6 / n
    else:
        sizes, tokens = (5, 3) if name == "demo" else map(int, name.split()[-1].split("x"))
        reach = {"wide": 100.0, "narrow": 3.0}.get(name.split()[0], 10.0)
        n, d = np.meshgrid(
            np.geomspace(1e8 / reach, 1e8 * reach, sizes), np.geomspace(2e9 / reach, 2e9 * reach, tokens)
        )
        n, d = n.T.ravel(), d.T.ravel()
    out = pd.DataFrame({"N": n, "D": d, "stem": [f"{v:.4g}" for v in n]})
    if name == "demo":
        second = out[out["N"].isin(np.unique(n)[1:3].tolist())]
        out = pd.concat([out, second.assign(stem=second["stem"] + " seed 1")], ignore_index=True)
    out.insert(0, "run", [f"r{i}" for i in range(len(out))])
    return out.assign(C=6 * out["N"] * out["D"])


def simulate(frame: pd.DataFrame, noise: float, shared: float, outliers: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, len(frame), round(1e5 * noise), round(10 * shared)])
    codes, stems = pd.factorize(frame["stem"])
    error = noise * math.sqrt(1 - shared) * rng.standard_normal(len(frame))
    error += noise * math.sqrt(shared) * rng.standard_normal(len(stems))[codes]
    error += np.where(rng.random(len(frame)) < outliers, 10 * noise * rng.choice([-1, 1], len(frame)), 0.0)
    return frame.assign(loss=LAW.predict(TRUTH, frame) * np.exp(error))


def truths(frame: pd.DataFrame) -> tuple[np.ndarray, dict[str, float]]:
    """What the targets truly are, and the cell of the loss: the optimum at ten times the largest compute."""
    n, d = LAW.optimum(TRUTH, 10 * frame["C"].max())
    cell = {"N": n[0], "D": d[0]}
    pair = LAW.exponents(TRUTH)
    assert pair is not None
    return np.array([TRUTH[0], TRUTH[3], TRUTH[4], pair["a"][0], LAW.predict(TRUTH, cell)[0]]), cell


def rows_of(table: pd.DataFrame, rows: str) -> Runs:
    """The table as the fitter sees it."""
    if rows == "independent":
        table = table.assign(stem=table["run"])
    elif rows == "sizes":
        table = table.drop(columns="stem")
    return Runs(table, (), Conventions(origin="table"), "simulated", None, "-")


def expectation(name: str, noise: float, shared: float, rows: str) -> dict[str, Any]:
    """What the design is expected to show at the TRUE law and noise, and the class that follows: the rule for flags.

    ``unidentified``: the expected 95 % profile of E reaches 0.01 (statistic below 1) or the half-width of a is above
    0.15. ``identified``: neither, and the half-width is below 0.05. Between: no claim.
    """
    frame = design(name)
    runs = rows_of(frame.assign(loss=LAW.predict(TRUTH, frame)), rows)
    y = np.log(runs.table["loss"].to_numpy())
    point = estimate(LAW, runs.table, runs.table["loss"], objective("squares"))
    at = infer(point, y, runs.table, draws=20, scheme="delta-t")
    at.z_hat = point.z
    at.sigma_hat, at.rho = noise * math.sqrt(1 - shared), shared / (1 - shared) if at.groups is not None else 0.0
    G = point.surface.jacobian(point.surface.evaluate(point.z[None])[1])[0]
    white = G.T if at.groups is None else at.groups.whiten(G.T, at.rho)
    at.gram = white @ white.T
    found = expected(at, 0.95, FLOOR_REACHED)
    width, reach = found.a_half_width, found.floor_statistic
    assert width is not None and reach is not None
    lost = width > WIDE or reach < 1
    return {
        "a_half_width": round(width, 4),
        "floor_reach": round(reach, 3),
        "class": "unidentified" if lost else "identified" if width < SURE else "between",
    }


def block(name: str, noise: float, shared: float, outliers: float, rows: str, first: int, count: int) -> dict[str, Any]:
    """Counts over studies first .. first + count - 1: covered, truth below, truth above, flags; the half-widths."""
    frame = design(name)
    truth, cell = truths(frame)
    ends, flagged, lost, scheme = np.empty((count, 2, len(truth))), 0, 0, ""
    start = time.process_time()
    for i in range(count):
        k = first + i
        table = simulate(frame, noise, shared, outliers, k)
        # the truth is the law itself here, so the term for a wrong law stays out
        f = fit(rows_of(table, rows), seed=k, discrepancy="off")
        for j, target in enumerate(TARGETS[:4]):
            lo, hi = f.intervals[target].lo, f.intervals[target].hi
            ends[i, :, j] = -math.inf if lo is None else lo, math.inf if hi is None else hi
        at = f.predict(cell, new_run=False)
        ends[i, :, 4] = at.lo[0], at.hi[0]
        flagged += any(isinstance(w, FLAGS) for w in f.warnings)
        lost += any(isinstance(w, NotIdentified) for w in f.warnings)
        scheme = f.card.scheme.name
    lo, hi = ends[:, 0], ends[:, 1]
    half = np.minimum((hi - lo) / 2, 1e9)
    return {
        "first": first,
        "studies": count,
        "cover": ((lo <= truth) & (truth <= hi)).sum(0).tolist(),
        "below": (truth < lo).sum(0).tolist(),
        "above": (truth > hi).sum(0).tolist(),
        "half": [[float(f"{v:.4g}") for v in row] for row in half],
        "flagged": flagged,
        "lost": lost,
        "scheme": scheme,
        "cpu": time.process_time() - start,
    }


def summary(setting: tuple[Any, ...], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage, misses above and below, median half-widths, flags and the rule's verdict on them."""
    name, noise, shared, outliers, rows = setting
    studies = sum(b["studies"] for b in blocks)

    def named(values: Any) -> dict[str, float]:
        return {t: round(float(v), 4) for t, v in zip(TARGETS, values)}

    def rate(key: str) -> dict[str, float]:
        return named(np.sum([b[key] for b in blocks], axis=0) / studies)

    rule = expectation(name, noise, shared, rows)
    flagged = sum(b["flagged"] for b in blocks) / studies
    wanted = {"unidentified": flagged >= 0.95, "identified": flagged < 0.05}.get(rule["class"])
    return {
        "design": name,
        "noise": noise,
        "shared": shared,
        "outliers": outliers,
        "rows": rows,
        "runs": len(design(name)),
        "scheme": blocks[-1]["scheme"],
        "studies": studies,
        "cover": rate("cover"),
        "in_92_to_98": all(0.92 <= v <= 0.98 for t, v in rate("cover").items() if t != "E"),
        "truth_below": rate("below"),
        "truth_above": rate("above"),
        "median_half_width": named(np.median([row for b in blocks for row in b["half"]], axis=0)),
        "expected": rule,
        "flagged": round(flagged, 4),
        "of_these_not_identified": round(sum(b["lost"] for b in blocks) / studies, 4),
        "flag_rule_holds": wanted,
        "cpu_seconds_per_study": round(sum(b["cpu"] for b in blocks) / studies, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="a setting; rounded up to blocks of 50")
    parser.add_argument("--out", default="benchmarks/coverage.json")
    parser.add_argument("--partial", help="file of finished blocks (default: OUT with .partial.json)")
    parser.add_argument("--only", default="", help="designs whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    kept = Path(options.partial or f"{options.out}.partial.json")
    stamp = fingerprint()
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    done: dict[str, dict[str, Any]] = found.get("blocks", {}) if found.get("code") == stamp else {}
    settings = [s for s in (*SETTINGS, *BOUNDARY) if options.only in s[0]]
    starts = range(0, options.studies, BLOCK)
    # every setting gets its first block before any gets its second: a run that is cut off has something on all
    wanted = [(s, first) for first in starts for s in settings if _key(s, first) not in done]
    wanted = [(s, first) for s, first in wanted if s in SETTINGS or first < 0.4 * options.studies]
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(block, *s, first, BLOCK): (s, first) for s, first in wanted}
        for number, future in enumerate(as_completed(waiting), 1):
            done[_key(*waiting[future])] = future.result()
            write_json(kept, {"code": stamp, "blocks": done})
            print(f"{number} of {len(wanted)} blocks", flush=True)
    rows = []
    for s in settings:
        mine = [done[key] for first in starts if (key := _key(s, first)) in done]
        rows.append(summary(s, mine))
        cover = "  ".join(f"{t} {100 * v:5.1f}" for t, v in rows[-1]["cover"].items())
        head = f"{s[0]:12s} noise {s[1]:.3f} shared {s[2]:.1f} outliers {s[3]:.2f} {s[4]:12s}"
        rule = {True: "ok", False: "RULE BROKEN", None: "no rule"}[rows[-1]["flag_rule_holds"]]
        flag = f"flagged {rows[-1]['flagged']:.3f} ({rows[-1]['expected']['class']}: {rule})"
        print(f"{head} {cover}  {flag}", flush=True)
    machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    write_json(options.out, {"nominal": 0.95, "truth": "2203.15556 approach 3", **machine, "code": stamp, "rows": rows})


def fingerprint() -> str:
    """What the fitter does, as a hash: its numbers for the first study of every setting, to six digits."""
    code = hashlib.sha256()
    for name, noise, shared, outliers, rows in (*SETTINGS, *BOUNDARY):
        f = fit(rows_of(simulate(design(name), noise, shared, outliers, 0), rows), seed=0, discrepancy="off")
        ends = [f"{getattr(f.intervals[t], end):.6g}" for t in TARGETS[:4] for end in ("lo", "hi")]
        flags = sorted(w.code for w in f.warnings if isinstance(w, FLAGS))
        code.update(" ".join([*ends, *flags]).encode())
    return code.hexdigest()[:12]


def _key(setting: tuple[Any, ...], first: int) -> str:
    return f"{' | '.join(map(str, setting))} | {first}"


if __name__ == "__main__":
    main()
