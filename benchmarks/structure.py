"""How often the test of structure in the residuals calls a form wrong, where it is right and where it is not.

    python benchmarks/structure.py --studies=250 --jobs=2 --out=benchmarks/structure.json

Studies of the default law: three designs (5 x 4, 8 x 5 and 12 x 5 cells of N and D / N), noise of a run and of a size.
Where the truth is the law, at most 5 % may be called refuted, over all designs. Where the truth is Skaling (outer
exponent .5) or Farseer (its published coefficients), on 12 x 5 cells over three decades of N at .2 % noise, at least
95 % must be. The limit of the warning is p < .01 (``diagnose.REFUTED``) and a structure of .01 % of the loss.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # tiny matrices: threads only wait

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from cpu import cpu_name

from analysis import laws
from analysis.check.diagnose import REFUTED
from analysis.check.structure import EXACT, structure
from analysis.engine.estimate import estimate, objective
from analysis.engine.inference import infer
from analysis.table.frame import from_frame
from scaling.records import write_json

LAW = laws.get("chinchilla")
# Farseer's published coefficients (arXiv 2506.10972, read in its code)
S, Q, SHIFT, B, SLOPE, OFFSET = -0.0624655, 0.13, 0.128488, 230.734, -0.1729, -1.54421
DEEP, RISE, END = -1.665631, 0.0459, 3.133347


class Case(NamedTuple):
    """One setting: the truth, sizes (least, most, number), tokens per parameter, sd of a run and of a size."""

    truth: str
    sizes: tuple[float, float, int]
    ratios: tuple[float, ...]
    run: float
    size: float


FIVE = (3.0, 10.0, 30.0, 100.0, 300.0)
CASES = (
    Case("law", (3e7, 1e9, 5), (5.0, 20.0, 60.0, 150.0), 0.003, 0.0),
    Case("law", (1e7, 3e9, 8), FIVE, 0.01, 0.01),
    Case("law", (1e7, 1e10, 12), FIVE, 0.002, 0.0),
    Case("law", (1e7, 1e10, 12), FIVE, 0.003, 0.003),
    Case("skaling", (1e7, 1e10, 12), FIVE, 0.002, 0.0),
    Case("farseer", (1e7, 1e10, 12), FIVE, 0.002, 0.0),
)


def loss(truth: str, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Mean losses (rows,) of a truth."""
    if truth == "law":
        return 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28
    if truth == "skaling":
        return 1.69 + 400 * (n**-0.68 + d**-0.56) ** 0.5
    return np.exp(S * n**Q + SHIFT) + np.exp(B * n**SLOPE + OFFSET) * d ** -np.exp(DEEP * n**RISE + END)


def study(case: Case, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(*case.sizes)
    n = np.repeat(sizes, len(case.ratios))
    d = n * np.tile(case.ratios, len(sizes))
    noise = case.run * rng.standard_normal(len(n))
    shared = np.repeat(case.size * rng.standard_normal(len(sizes)), len(case.ratios))
    return pd.DataFrame({"N": n, "D": d, "loss": loss(case.truth, n, d) * np.exp(noise + shared)})


def refuted(case: Case, seed: int) -> bool:
    """Whether the default fit of one study is called refuted."""
    table = from_frame(study(case, seed)).table.reset_index(drop=True)
    point = estimate(LAW, table, table["loss"].to_numpy(dtype=float), objective("auto"))
    found = structure(point, infer(point, point.y, table, draws=200), table)
    return found is not None and found.p < REFUTED and found.size_log >= EXACT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=250, help="of each setting")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", default="benchmarks/structure.json")
    options = parser.parse_args()
    rows = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        for number, case in enumerate(CASES):
            seeds = range(1000 * number, 1000 * number + options.studies)
            share = float(np.mean(list(pool.map(partial(refuted, case), seeds, chunksize=5))))
            rows.append({**case._asdict(), "studies": options.studies, "refuted": round(share, 4)})
            print(rows[-1], flush=True)
    right = [row["refuted"] for row in rows if row["truth"] == "law"]
    machine = {"cpu": cpu_name(), "python": sys.version.split()[0]}
    summary = {"alarms": round(float(np.mean(right)), 4), "limit_p": REFUTED, "limit_size": EXACT}
    write_json(options.out, {"benchmark": "structure", "machine": machine, **summary, "rows": rows})


if __name__ == "__main__":
    main()
