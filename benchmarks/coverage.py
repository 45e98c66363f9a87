"""Do nominal 95 % intervals cover 95 %? Scored over ALL simulated studies, flagged ones included.

    python benchmarks/coverage.py --studies=500 --jobs=2 --out=benchmarks/coverage.json

The truth is Hoffmann's law (arXiv 2203.15556, approach 3). Noise is normal in log loss; with ``shared`` half of its
variance is one draw per stem. Designs: grids of sizes x tokens over two (wide: four) decades of N and of D, an isoFLOP
design, and the demo's kind of study (five stems of three branches, a second seed at two sizes). ``rows`` says what the
table tells the fitter: ``stems`` (named), ``sizes`` (nothing: rows of one N are taken to share an effect) or
``independent`` (every row its own stem). Uses the public ``fit`` alone; about 0.25 CPU-seconds a study.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from analysis import laws
from analysis.fit import fit
from analysis.runs import Runs
from scaling.records import write_json

LAW = laws.get("chinchilla")
TRUTH = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
TARGETS = ("E", "alpha", "beta", "a", "loss_at_10x")
# design, noise, share of the variance that a stem has in common, share of outliers, what the rows tell
SETTINGS = [
    ("8x5", 0.003, 0.0, 0.0, "independent"),
    ("8x5", 0.01, 0.0, 0.0, "independent"),
    ("8x5", 0.003, 0.0, 0.02, "independent"),
    ("8x5", 0.003, 0.0, 0.0, "sizes"),
    ("8x5", 0.003, 0.5, 0.0, "stems"),
    ("8x5", 0.01, 0.5, 0.0, "stems"),
    ("5x3", 0.003, 0.0, 0.0, "independent"),
    ("5x3", 0.01, 0.0, 0.0, "independent"),
    ("5x3", 0.003, 0.0, 0.0, "sizes"),
    ("5x3", 0.003, 0.5, 0.0, "stems"),
    ("5x3", 0.01, 0.5, 0.0, "stems"),
    ("wide 5x3", 0.003, 0.0, 0.0, "independent"),
    ("wide 5x3", 0.01, 0.5, 0.0, "stems"),
    ("isoFLOP 5x7", 0.003, 0.0, 0.0, "independent"),
    ("isoFLOP 5x7", 0.01, 0.0, 0.0, "independent"),
    ("demo", 0.003, 0.5, 0.0, "stems"),
    ("demo", 0.01, 0.5, 0.0, "stems"),
]


def design(name: str) -> pd.DataFrame:
    """Columns N, D and stem of a design."""
    if name == "isoFLOP 5x7":
        c, ratio = np.meshgrid(np.geomspace(1e18, 1e20, 5), np.geomspace(1 / 8, 8, 7), indexing="ij")
        n = np.sqrt(c / 120 * ratio).ravel()
        d = c.ravel() / 6 / n
    else:
        sizes, tokens = (5, 3) if name == "demo" else map(int, name.split()[-1].split("x"))
        reach = 100.0 if name.startswith("wide") else 10.0
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


def score(name: str, noise: float, shared: float, outliers: float, rows: str, studies: int) -> dict[str, Any]:
    """Coverage, misses above and below, median half-widths, and the share of studies with an unidentified a or E."""
    frame = design(name)
    n, d = LAW.optimum(TRUTH, 10 * frame["C"].max())
    cell = {"N": n[0], "D": d[0]}
    pair = LAW.exponents(TRUTH)
    assert pair is not None
    truth = np.array([TRUTH[0], TRUTH[3], TRUTH[4], pair["a"][0], LAW.predict(TRUTH, cell)[0]])
    ends, flagged, scheme = np.empty((studies, 2, len(truth))), 0, ""
    start = time.process_time()
    for k in range(studies):
        table = simulate(frame, noise, shared, outliers, k)
        if rows == "independent":
            table["stem"] = table["run"]
        elif rows == "sizes":
            table = table.drop(columns="stem")
        f = fit(Runs(table, [], {}, "simulated", None, sha256="-"), seed=k)
        for j, target in enumerate(TARGETS[:4]):
            ends[k, :, j] = f.intervals[target]["lo"], f.intervals[target]["hi"]
        at = f.predict(cell, new_run=False)
        ends[k, :, 4] = at["lo"][0], at["hi"][0]
        flagged += any(w["name"] == "not_identified" for w in f.warnings)
        scheme = f.card()["interval"]["scheme"]
    lo, hi = ends[:, 0], ends[:, 1]

    def named(values: np.ndarray) -> dict[str, float]:
        return {t: round(float(v), 4) for t, v in zip(TARGETS, values)}

    return {
        "design": name,
        "noise": noise,
        "shared": shared,
        "outliers": outliers,
        "rows": rows,
        "runs": len(frame),
        "scheme": scheme,
        "studies": studies,
        "cover": named(((lo <= truth) & (truth <= hi)).mean(0)),
        "truth_below": named((truth < lo).mean(0)),
        "truth_above": named((truth > hi).mean(0)),
        "median_half_width": named(np.median((hi - lo) / 2, axis=0)),
        "flagged_not_identified": round(flagged / studies, 4),
        "cpu_seconds_per_study": round((time.process_time() - start) / studies, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--out", default="benchmarks/coverage.json")
    parser.add_argument("--only", default="", help="designs whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    settings = [s for s in SETTINGS if options.only in s[0]]
    done: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(score, *zip(*settings), [options.studies] * len(settings)):
            done.append(row)
            cover = "  ".join(f"{t} {100 * v:5.1f}" for t, v in row["cover"].items())
            head = f"{row['design']:12s} noise {row['noise']:.3f} shared {row['shared']:.1f} {row['rows']:12s}"
            print(f"{head} {cover}  flagged {row['flagged_not_identified']:.3f}", flush=True)
            machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
            write_json(options.out, {"nominal": 0.95, "truth": "2203.15556 approach 3", **machine, "rows": done})


if __name__ == "__main__":
    main()
