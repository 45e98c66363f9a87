"""How often do the held-out cells of a study refute the law that made them? Promised: 5 %.

    python benchmarks/joint.py --studies=300 --out=benchmarks/joint.json

Each study simulates Chinchilla's law on a design of coverage.py, fits it, and draws four held-out runs beyond the
fitted range (twice N and D; four times D; three times D; twice N), each a stem of its own. ``refuted`` is the share
outside the region that ``decide.forecast`` seals, ``nominal`` the share outside the draws' own 95 % region,
``inside95`` the coverage of single cells. About 0.3 CPU-seconds a study.
"""

from __future__ import annotations

import argparse

import coverage
import numpy as np
import pandas as pd

from analysis.decide import forecast
from analysis.fitting import fit
from scaling.records import write_json

SETTINGS = [("demo", 0.003, 0.5), ("demo", 0.01, 0.5), ("5x3", 0.01, 0.0), ("5x3", 0.01, 0.5), ("8x5", 0.01, 0.5)]


def score(name: str, noise: float, shared: float, studies: int) -> dict[str, float | str | int]:
    frame = coverage.design(name)
    top_n, top_d = frame["N"].max(), frame["D"].max()
    cells = pd.DataFrame({"N": top_n * np.array([2, 0.5, 1, 2]), "D": top_d * np.array([2, 4, 3, 0.5])})
    cells = cells.assign(stem=list("abcd"), C=6 * cells["N"] * cells["D"])
    truth = np.log(coverage.LAW.predict(coverage.TRUTH, cells))
    refuted, nominal, inside = [], [], []
    for k in range(studies):
        table = coverage.simulate(frame, noise, shared, 0.0, k)
        fitted = fit(coverage.rows_of(table, "stems"), seed=k, discrepancy="off")
        logs = np.log(fitted.samples(forecast.columns_of(cells)))
        y = truth + noise * np.random.default_rng([k, 11]).standard_normal(len(truth))
        centre, covariance, limit = forecast.region(logs)
        apart = forecast.distance(y, centre, covariance)[0]
        refuted.append(apart > limit)
        nominal.append(apart > np.quantile(forecast.distance(logs, centre, covariance), 0.95))
        low, high = np.quantile(logs, [0.025, 0.975], axis=0)
        inside.append(np.mean((low <= y) & (y <= high)))
    rates = {"refuted": refuted, "nominal": nominal, "inside95": inside}
    return {
        "design": name,
        "noise": noise,
        "shared": shared,
        "studies": studies,
        **{k: round(float(np.mean(v)), 4) for k, v in rates.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--out", default="benchmarks/joint.json")
    options = parser.parse_args()
    rows = []
    for setting in SETTINGS:
        rows.append(score(*setting, options.studies))
        print(rows[-1], flush=True)
        write_json(options.out, {"schema": 1, "kind": "joint", "promised": 1 - forecast.REFUTED, "rows": rows})


if __name__ == "__main__":
    main()
