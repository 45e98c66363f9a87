"""Does ``next`` save compute? RMSE of log N_opt at 100 times the grid's compute, by what each way of designing spends.

    python benchmarks/design.py --studies=200 --jobs=2 --out=benchmarks/design.json

The grid: 5 budgets over two decades of compute, 7 of 15 sizes around each optimum, every cell a run, analysed by
approach 3. ``next``: a pilot of 12 cells (4 sizes x 3 D) at about the lowest budget, then two rounds of
``decide.design.propose`` for log N_opt on the same 15 sizes, no cell above the grid's largest compute, each round
fitted before the next. Both are fitted by the same default fit, and both pay whole runs (``pricing`` whole), or stems
once and decays of 30 % (``stems``). Truths: the law (Besiroglu 2024's coefficients), and two that no fit here can hold:
``outer``, (E' + A N^-alpha + B D^-beta)^0.8 matched to it, and ``ratio``, cells away from 20 tokens per parameter worse
the smaller they are, as with a learning rate that was tuned at the middle only. The truth's own optimum is scored.

``spend_for_equal_rmse`` is the share of the grid's FLOPs at which ``next`` reaches the grid's RMSE, by interpolation of
log RMSE in log spend over the budgets that were simulated; null where none of them reaches it.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # tiny matrices: threads only wait

import argparse
import math
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from analysis import laws
from analysis.card import Conventions
from analysis.decide import design
from analysis.engine.frontier import frontier
from analysis.fitting import fit
from analysis.table.runs import Runs
from scaling.errors import UserError
from scaling.records import write_json

LAW = laws.get("chinchilla")
TRUTH = np.array([1.8169, 482.01, 2085.43, 0.3478, 0.3658])
BUDGETS = np.geomspace(1e18, 1e20, 5)
TARGET = 100 * BUDGETS[-1]
SIZES = np.geomspace(3e7, 3e9, 15)
DECAY = 0.3
SHARES = (0.125, 0.25, 0.5, 1.0)
TRUTHS = ("law", "outer", "ratio")


def loss(truth: str, n: Any, d: Any) -> np.ndarray:
    """Mean loss of cells under a truth."""
    n, d = np.asarray(n, dtype=float), np.asarray(d, dtype=float)
    base = LAW.predict(TRUTH, {"N": n.ravel(), "D": d.ravel()}).reshape(n.shape)
    if truth == "outer":
        e, a, b, alpha, beta = TRUTH
        return (e**1.25 + 1.6 * (a * n**-alpha + b * d**-beta)) ** 0.8
    if truth == "ratio":
        away = np.maximum(np.abs(np.log(d / n / 20)) - 1.0, 0.0)
        return base * np.exp(0.004 * away**2 * (n / SIZES[-1]) ** -0.2)
    return base


def best(truth: str, flops: float) -> float:
    """ln N_opt of a truth at a budget."""
    x = math.log(flops)
    found: Any = minimize_scalar(
        lambda u: float(np.log(loss(truth, math.exp(u), flops / 6 / math.exp(u)))),
        bounds=(x / 2 - 6, x / 2 + 4),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(found.x)


def grid() -> pd.DataFrame:
    """7 sizes around the optimum of each budget."""
    rows = []
    for c in BUDGETS:
        middle = int(np.argmin(np.abs(np.log(SIZES) - best("law", c))))
        first = min(max(middle - 3, 0), len(SIZES) - 7)
        rows += [(n, c / 6 / n) for n in SIZES[first : first + 7]]
    return pd.DataFrame(rows, columns=["N", "D"])


def pilot() -> pd.DataFrame:
    centre = best("law", BUDGETS[0])
    sizes = SIZES[np.argsort(np.abs(np.log(SIZES) - centre))[:8]]
    sizes = np.sort(sizes)[::2]
    tokens = BUDGETS[0] / 6 / math.exp(centre) * np.array([0.5, 1.0, 2.0])
    n, d = np.meshgrid(sizes, tokens, indexing="ij")
    return pd.DataFrame({"N": n.ravel(), "D": d.ravel()})


def spend(cells: Any, pricing: str) -> float:
    """FLOPs of a list of cells."""
    whole = float((6 * cells["N"] * cells["D"]).sum())
    if pricing == "whole":
        return whole
    longest: Any = cells.groupby("N")["D"].max()
    return DECAY * whole + (1 - DECAY) * float((6 * longest.index.to_numpy() * longest.to_numpy()).sum())


class Noise:
    """The noise of one simulated study: the same cell has the same loss, whoever asks for it."""

    def __init__(self, truth: str, run: float, stem: float, seed: int):
        self.truth, self.run, self.stem, self.seed = truth, run, stem, seed

    def measure(self, cells: Any) -> pd.DataFrame:
        error = []
        for n, d in zip(cells["N"], cells["D"]):
            own = np.random.default_rng([self.seed, round(1e6 * math.log(n)), round(1e6 * math.log(d))])
            shared = np.random.default_rng([self.seed, round(1e6 * math.log(n))])
            error.append(self.run * own.standard_normal() + self.stem * shared.standard_normal())
        y = loss(self.truth, cells["N"], cells["D"]) * np.exp(error)
        table = cells.assign(run=[f"r{i}" for i in range(len(cells))], C=6 * cells["N"] * cells["D"], loss=y)
        return table.assign(stem=[f"{v:.6g}" for v in table["N"]] if self.stem else table["run"])


def estimate(table: pd.DataFrame, seed: int) -> tuple[Any, float, float, float]:
    """The fit, and ln N_opt at the target with its 95 % interval; NaN where there is no optimum."""
    fitted = fit(Runs(table, (), Conventions(origin="table"), "simulated", None, "-"), seed=seed)
    log_n = frontier(fitted, np.array([TARGET]))[0][:, 0]
    lo, hi = np.quantile(np.where(np.isnan(log_n), np.inf, log_n), [0.025, 0.975], method="nearest")
    return fitted, float(log_n[0]), float(lo), float(hi)


def follow(noise: Noise, pricing: str, budget: float, seed: int) -> tuple[pd.DataFrame, float, float, float]:
    """Pilot, then two rounds of next within ``budget`` FLOPs in all; the cells and the estimate.

    Tokens per parameter stay in the range of the grid itself (2.6 to 220), compute above a quarter of its lowest.
    """
    cells: Any = pilot()
    total = spend(cells, pricing)
    for part in (0.4, 1.0):
        table = noise.measure(cells)
        fitted, *_ = estimate(table, seed)
        left = (budget - total) * part
        n, d = np.meshgrid(SIZES, np.geomspace(2e8, 2e8 * 2**12, 25), indexing="ij")
        c = 6 * n * d
        known = {(round(1e6 * math.log(a)), round(1e6 * math.log(b))) for a, b in zip(cells["N"], cells["D"])}
        new = np.array(
            [(round(1e6 * math.log(a)), round(1e6 * math.log(b))) not in known for a, b in zip(n.ravel(), d.ravel())]
        ).reshape(n.shape)
        keep = (d / n >= 2.5) & (d / n <= 160) & (c >= BUDGETS[0] / 4) & (c <= BUDGETS[-1] * 1.001) & new
        stems = [f"{v:.6g}" for v in n[keep]]
        trained = (
            {}
            if pricing == "whole"
            else {f"{a:.6g}": (1 - DECAY) * b for a, b in cells.groupby("N")["D"].max().items()}
        )
        decay = None if pricing == "whole" else DECAY
        own: list[Any] = stems if noise.stem or decay else [f"cell {i}" for i in range(int(keep.sum()))]
        pool = design.Pool(n[keep], d[keep], 6 * n[keep], own, decay, trained)
        step = len(fitted.draws) // 7
        thetas = np.vstack([fitted.theta[None], fitted.draws[::step][:7]])
        sd = design.Noise(
            run=float(np.median(fitted.sigma_run)),
            stem=float(np.median(fitted.sigma_stem)) if noise.stem else 0.0,
            drift=design.DRIFT,
        )
        done = {k: table[k].to_numpy() for k in ("N", "D", "C", "stem")}
        try:
            request = design.Request(design.Target("log_N_opt", TARGET), left)
            found = design.propose(LAW, thetas, done, pool, request, noise=sd)
        except UserError:
            continue  # no optimum at this fit, or nothing affordable: what is left goes to the next round
        j = list(found.chosen)
        cells = pd.concat([cells, pd.DataFrame({"N": pool.N[j], "D": pool.D[j]})], ignore_index=True)
        total = spend(cells, pricing)
    return cells, *estimate(noise.measure(cells), seed)[1:]


def study(truth: str, pricing: str, sd: float, shares: tuple[float, ...], seed: int) -> list[list[float]]:
    """Rows (share, FLOPs over the grid's, error, covered, half-width); share 0 is the grid."""
    shared = sd * math.sqrt(0.5) if pricing == "stems" else 0.0
    noise = Noise(truth, math.sqrt(sd**2 - shared**2), shared, seed)
    right, cells = best(truth, TARGET), grid()
    whole = spend(cells, pricing)
    rows = []
    for share in (0.0, *shares):
        if share:
            cells, value, lo, hi = follow(noise, pricing, share * whole, seed)
        else:
            _, value, lo, hi = estimate(noise.measure(cells), seed)
        rows.append([share, spend(cells, pricing) / whole, value - right, float(lo <= right <= hi), (hi - lo) / 2])
    return rows


def score(truth: str, pricing: str, sd: float, shares: tuple[float, ...], studies: int, pool: Any) -> dict[str, Any]:
    """One setting over all studies."""
    start = time.time()
    rows = np.array(list(pool.map(partial(study, truth, pricing, sd, shares), range(studies))))
    table = []
    for k in range(rows.shape[1]):
        error = rows[:, k, 2]
        lost = ~np.isfinite(error)
        seen = np.where(lost, 5.0, np.clip(error, -5, 5))  # no optimum at all counts as wrong by a factor e^5
        table.append(
            {
                "design": "next" if k else "isoFLOP grid",
                "spend": round(float(rows[:, k, 1].mean()), 4),
                "rmse": round(float(np.sqrt(np.mean(seen**2))), 4),
                "median_error": round(float(np.median(seen)), 4),
                "cover": round(float(rows[:, k, 3].mean()), 4),
                "median_half_width": round(float(np.median(np.minimum(rows[:, k, 4], 99))), 4),
                "no_optimum": round(float(lost.mean()), 4),
            }
        )
    equal = None
    x, y = np.log([r["spend"] for r in table[1:]]), np.log([r["rmse"] for r in table[1:]])
    level = math.log(table[0]["rmse"])
    for i in range(len(x)):
        if y[i] <= level:
            if i == 0:
                equal = math.exp(x[0])
            else:
                equal = math.exp(x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - level) / (y[i - 1] - y[i]))
            break
    return {
        "truth": truth,
        "pricing": pricing,
        "noise": sd,
        "studies": studies,
        "rows": table,
        "spend_for_equal_rmse": None if equal is None else round(equal, 3),
        "seconds": round(time.time() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.003)
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="of the grid's FLOPs that next may spend")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="", help="truth or pricing that contains this")
    parser.add_argument("--out", default="benchmarks/design.json")
    options = parser.parse_args()
    shares = tuple(float(share) for share in options.shares.split(","))
    machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    done: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for truth in TRUTHS:
            for pricing in ("whole", "stems"):
                if options.only not in f"{truth} {pricing}":
                    continue
                done.append(score(truth, pricing, options.noise, shares, options.studies, pool))
                print(truth, pricing, "next needs", done[-1]["spend_for_equal_rmse"], "of the grid's FLOPs", flush=True)
                for row in done[-1]["rows"]:
                    print("  ", row, flush=True)
                about = {"target": "ln N_opt at 100 x the grid's largest budget", "nominal": 0.95, **machine}
                write_json(options.out, {**about, "settings": done})


if __name__ == "__main__":
    main()
