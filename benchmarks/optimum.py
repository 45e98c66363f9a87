"""Is the interval of the optimal N honest beyond the runs? Optima of real studies against laws fitted below them.

    python benchmarks/optimum.py --shared=../shared --out=benchmarks/optimum.json

Sets and cuts are the league's (league_protocol.md). The default Chinchilla fit of the rows below a cut gives N_opt at
the larger budgets; approach 2 (parabolas of the isoFLOP rows, or of a grid interpolated to common budgets) gives what
was observed there, with an error of its own: the parabolas' noise, and how far the minimum moves when they see sizes
within a factor 4 instead of 10. Scored: the deviation from the draws' median, against 90 % intervals of the draws, the
observation's error, and a term for the law being wrong. k is the one learned without the source of the set.

Forms of the term, each a t scale of log N_opt at x e-folds beyond the fitted range, h the law's curvature of log loss:

    none       no term
    term       k sqrt(2 (1 - shared)) x / CURVATURE      ``check.discrepancy``, nothing fitted to optima
    by h       k sqrt(2 (1 - shared)) x / h
    c k x / h, c k x / sqrt(h), c k x, c x    c by maximum likelihood over the other sources

About 12 CPU-seconds.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import league
import numpy as np
import pandas as pd
from scipy import stats

from analysis.check import approaches, discrepancy
from analysis.check import rolling as crossval
from analysis.decide.allocate import CURVATURE_STEP
from analysis.engine.frontier import optimum_along
from analysis.fitting import fit
from scaling.records import read_json, write_json

Array = np.ndarray
LAW = "chinchilla"
BEYOND = 1.05  # a budget counts when it is that much above the fitted ones
LEVEL = 0.90
DRAWS = 2000
TERM = "term"
FORMS: dict[str, Callable[[Any], Array] | None] = {
    "none": None,
    TERM: lambda r: r.k * r.own * r.x / discrepancy.CURVATURE,
    "by h": lambda r: r.k * r.own * r.x / r.h,
    "c k x / h": lambda r: r.k * r.x / r.h,
    "c k x / sqrt(h)": lambda r: r.k * r.x / np.sqrt(r.h),
    "c k x": lambda r: r.k * r.x,
    "c x": lambda r: r.x,
}


def observed(table: Any) -> dict[float, tuple[float, float, float]]:
    """{ln C: (ln N_opt, sd by the parabolas' noise, shift by their window)} of approach 2 on one set."""
    groups = approaches.budgets(league.runs_of(table), math.log(2.0))[1]
    optima, _, designs = approaches._parabolas(groups, approaches.WINDOW)
    narrow = {round(float(o[0]), 6): float(o[1]) for o in approaches._parabolas(groups, approaches.NARROW)[0]}
    if not len(optima):
        return {}
    left = [(loss - design @ (hat @ loss), len(loss) - 3) for _, hat, design, loss in designs]
    sigma = math.sqrt(sum(float(r @ r) for r, _ in left) / max(sum(df for _, df in left), 1))
    rng, out = np.random.default_rng(0), {}
    for (log_c, log_n, _), (best, hat, _, loss) in zip(optima, designs):
        c = hat @ (loss[:, None] + sigma * rng.standard_normal((len(loss), 1000)))
        at = (best - c[1] / (2 * c[2]))[c[2] > 0]
        low, high = np.quantile(at, [0.1587, 0.8413])
        out[float(log_c)] = (float(log_n), (high - low) / 2, abs(narrow.get(round(float(log_c), 6), log_n) - log_n))
    return out


def deviations(sets: list[league.Study], left_out: dict[str, float], shared: float) -> Any:
    """One row for each budget above a cut: set, source, cut, x, h, k, own = sqrt(2 (1 - shared)), deviation, sds."""
    rows = []
    for study in sets:
        seen = observed(study.table)
        for split in league.splits(study) if seen else ():
            top = float(split.below["C"].max())
            far = {c: v for c, v in seen.items() if math.exp(c) > BEYOND * top}
            if not far:
                continue
            fitted = fit(league.runs_of(split.below), LAW, discrepancy="off")
            theta = np.vstack([fitted.theta[None], fitted.draws])
            budgets = np.exp(np.array(list(far)))
            log_n = optimum_along(fitted.law, theta, budgets)[0]
            for j, (seen_n, noise, window) in enumerate(far.values()):
                draws = log_n[1:, j][np.isfinite(log_n[1:, j])]
                if not np.isfinite(log_n[0, j]) or len(draws) < 0.9 * len(log_n):
                    continue
                low, middle, high = np.quantile(draws, [0.1587, 0.5, 0.8413])
                n = math.exp(log_n[0, j])
                cell = {"N": [n], "D": [budgets[j] / 6 / n], "C": [budgets[j]]}
                sizes = n * np.exp(CURVATURE_STEP * np.array([-1.0, 0.0, 1.0]))
                loss = np.log(fitted.law.predict(fitted.theta, {"N": sizes, "D": budgets[j] / 6 / sizes}))
                rows.append(
                    {
                        "set": study.name,
                        "source": study.source,
                        "factor": split.factor,
                        "x": float(discrepancy.beyond(fitted.scope, cell)[0]),
                        "k": left_out[study.source],
                        "h": float(loss[0] - 2 * loss[1] + loss[2]) / CURVATURE_STEP**2,
                        "own": math.sqrt(2 * (1 - shared)),
                        "deviation": seen_n - middle,
                        "fit": (high - low) / 2,
                        "noise": noise,
                        "window": window,
                    }
                )
    return pd.DataFrame(rows)


def spread(rows: Any) -> Array:
    return np.sqrt(rows.fit**2 + rows.noise**2 + rows.window**2).to_numpy()


def log_score(rows: Any, scale: Array) -> Array:
    s2 = spread(rows) ** 2 + scale**2
    return 0.5 * np.log(s2) + (discrepancy.DF + 1) / 2 * np.log1p(rows.deviation**2 / discrepancy.DF / s2)


def factor(rows: Any, form: Callable[[Any], Array]) -> float:
    """c of ``form`` by maximum likelihood, every set the same weight."""
    weight = 1 / rows.groupby("set").x.transform("size")
    grid = np.exp(np.linspace(math.log(1e-3), math.log(100), 150))
    return float(grid[np.argmin([float((weight * log_score(rows, c * form(rows))).sum()) for c in grid])])


def score(rows: Any) -> list[dict[str, Any]]:
    """Each form's coverage, width (of log N) and CRPS: mean over sets of the mean over their cuts; and by row."""
    out = []
    for name, form in FORMS.items():
        rng, parts, factors = np.random.default_rng(0), [], {}
        for source in rows.source.unique():
            mine = rows[rows.source == source]
            c = 1.0
            if name.startswith("c "):
                assert form is not None
                c = factors[source] = factor(rows[rows.source != source], form)
            scale = c * np.asarray(form(mine)) if form else np.zeros(len(mine))
            off = spread(mine) * rng.standard_normal((DRAWS, len(mine)))
            off += scale * stats.t.rvs(discrepancy.DF, size=(DRAWS, 1), random_state=rng)
            half = np.quantile(np.abs(off), LEVEL, axis=0)
            y = mine.deviation.to_numpy()
            parts.append(
                mine.assign(
                    inside=np.abs(y) <= half,
                    width=2 * half,
                    crps=crossval.crps(off.T, y),
                    log_score=log_score(mine, scale),
                )
            )
        every: Any = pd.concat(parts)
        columns = ["inside", "width", "crps", "log_score"]
        by_set: Any = every.groupby(["set", "factor"])[columns].mean().groupby("set").mean()
        far, near = every[every.x > math.log(10)], every[every.x <= math.log(10)]
        out.append(
            {
                "form": name,
                "coverage90": float(by_set.inside.mean()),
                "coverage90_rows": float(every.inside.mean()),
                "coverage90_within_10x": float(near.inside.mean()),
                "coverage90_beyond_10x": float(far.inside.mean()),
                **{key: float(by_set[key].mean()) for key in ("width", "crps", "log_score")},
                "coverage90_by_set": {str(k): round(float(v), 3) for k, v in by_set.inside.items()},
                **({"factors": {k: round(v, 3) for k, v in factors.items()}} if factors else {}),
            }
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start, table = time.process_time(), read_json(discrepancy.FILE)
    left_out = {source: row[LAW] for source, row in table["k_with_one_source_left_out"].items()}
    rows = deviations(league.studies(options.shared), left_out, table["laws"][LAW]["shared"])
    forms = score(rows)
    result = {
        "schema": 1,
        "kind": "optimum",
        "protocol": "the sets and cuts of league_protocol.md; see optimum.py",
        "sets": int(rows.set.nunique()),
        "sources": int(rows.source.nunique()),
        "budgets": len(rows),
        "curvature": float(rows.groupby("set").h.median().median()),
        "curvature_by_set": {str(k): round(float(v), 4) for k, v in rows.groupby("set").h.median().items()},
        "forms": forms,
        "rows": [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "own"}
            for row in rows.to_dict("records")
        ],
        "cpu_seconds": round(time.process_time() - start, 1),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    print(f"{result['budgets']} budgets of {result['sets']} sets; curvature {result['curvature']:.4f}")
    for form in forms:
        cover = f"coverage {form['coverage90']:.3f} by set, {form['coverage90_rows']:.3f} by row"
        sharp = f"width {form['width']:.2f}, CRPS {form['crps']:.4f}, log score {form['log_score']:.3f}"
        print(f"{form['form']:16} {cover}; {sharp}")
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
