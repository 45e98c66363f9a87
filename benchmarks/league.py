"""The extrapolation league: who forecasts the dear runs best from the cheap ones, on real studies, and who means it.

    python benchmarks/league.py --shared=../shared --out=benchmarks/league.json --learn=analysis/check/discrepancy.json

The protocol, sets and cuts are in league_protocol.md. ``--package=PYTHON`` names the interpreter of an environment
that holds the PyPI package ``chinchilla``; its fits are kept in league_package.json. ``--only``: a part of the sets'
names. The result holds scores only, no rows of the sets. About 100 CPU-seconds without the package's fits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analysis.card import Conventions, Discrepancy, Scope
from analysis.check import discrepancy
from analysis.check import rolling as crossval
from analysis.decide import forecast
from analysis.fitting import Fit, fit
from analysis.table.runs import Runs
from scaling.errors import UserError
from scaling.records import write_json

Array = np.ndarray
FACTORS = (3.0, 10.0, 30.0, 100.0)
FITTED, SCORED, MOST_SCORED, MOST_ROWS, LEVELS = 10, 3, 60, 200, 3
LAWS = ("chinchilla", "kaplan", "product_floor", "product")
CANDIDATES = ("chinchilla", "kaplan", "product_floor")
HEADLINE = "analysis"
DRAWS = 1000


@dataclass
class Study:
    """One reference set: rows N, D, C, loss (and ``stem`` where rows share a run), and the source it comes from."""

    name: str
    source: str
    table: Any


@dataclass
class Split:
    """Rows of one study below a cut of compute, and those above that are scored."""

    study: Study
    factor: float
    below: Any
    above: Any

    @property
    def x(self) -> Array:
        c, n, d = (float(self.below[c].max()) for c in ("C", "N", "D"))
        return discrepancy.beyond(Scope(rows=len(self.below), C_max=c, N_max=n, D_max=d), self.above)

    @property
    def outcome(self) -> Array:
        return np.log(self.above["loss"].to_numpy())


def studies(shared: Path) -> list[Study]:
    """The sets of the protocol, read from the folder ``reference_runs``."""

    def read(name: str) -> Any:
        return pd.read_csv(shared / "reference_runs" / f"{name}.csv")

    out = []

    def add(name: str, source: str, table: Any, loss: str = "loss", stem: str | None = None) -> None:
        frame: Any = pd.DataFrame({c: table[c].astype(float) for c in ("N", "D")})
        frame["C"] = table["C"].astype(float) if "C" in table else 6 * frame["N"] * frame["D"]
        frame["loss"] = table[loss].astype(float)
        if stem is not None:
            frame["stem"] = table[stem].astype(str)
        out.append(Study(f"{source} {name}", source, frame.dropna().reset_index(drop=True)))

    table = read("chinchilla_besiroglu")
    add("besiroglu", "hoffmann", table[table["excluded_by_besiroglu"] == 0])
    table = read("chinchilla_mlscalefit_isoflop")
    add("mlscalefit", "hoffmann", table[~table["outlier"].astype(bool)])
    table = read("porian_isoflop")
    table = table[(table["flop_count"] == "standard") & (table["split"] == "val") & (table["warmup"] == "short")]
    for data in ("rw", "owt2"):
        mine = table[table["dataset"] == data]
        add(f"{data} cosine", "porian", mine[(mine["hparams"] == "base") & (mine["decay"] == "chinchilla")])
        add(f"{data} tuned", "porian", mine[(mine["hparams"] == "tuned") & (mine["decay"] == "const")])
    table = read("gadre_overtraining")
    for data in ("c4_original", "rpj", "rw_original"):
        add(data.split("_")[0], "gadre", table[table["dataset"] == data], loss="loss_c4")
    table = read("datablations_c4_all")
    add("single epoch", "muennighoff", table[table["epochs"] <= 1.0001])
    table = read("gemstones")
    for name, subset in (("hot", "hot_100b+"), ("cool", "cool_end")):
        mine = table[table["subset"] == subset].sort_values(["run", "step"])
        add(name, "gemstones", mine.iloc[:: math.ceil(len(mine) / MOST_ROWS)], stem="run")
    table = read("steplaw_dense_lr_bs")
    best = table.groupby(["N", "D"], as_index=False)["smooth_loss"].min()
    add("dense", "steplaw", best, loss="smooth_loss")
    table = read("marin_isoflop")
    for data in ("comma", "dclm", "nemotron"):
        add(data, "marin", table[(table["dataset"] == data) & ~table["outlier"].astype(bool)])
    return out


def splits(study: Study) -> Iterator[Split]:
    """The cuts of the protocol that leave enough to fit and to score."""
    table = study.table.sort_values("C", kind="stable").reset_index(drop=True)
    for factor in FACTORS:
        cut = table["C"].max() / factor
        below, above = table[table["C"] <= cut], table[table["C"] > cut]
        if len(below) < FITTED or len(above) < SCORED:
            continue
        if any(len(np.unique(np.round(np.log(below[c]) / 0.02))) < LEVELS for c in ("N", "D")):
            continue
        if len(above) > MOST_SCORED:
            above = above.iloc[np.unique(np.linspace(0, len(above) - 1, MOST_SCORED).astype(int))]
        yield Split(study, factor, below.reset_index(drop=True), above.reset_index(drop=True))


def runs_of(table: Any) -> Runs:
    named = table.assign(run=[f"r{i}" for i in range(len(table))])
    if "stem" not in named:
        named["stem"] = named["run"]  # rows of these sets are runs of their own
    return Runs(named, (), Conventions(origin="table", n="set"), "reference", None, "-")


def columns_of(table: Any) -> dict[str, Any]:
    return {c: table[c].to_numpy() for c in ("N", "D", "C", "stem") if c in table}


def ours(split: Split, law: str) -> tuple[Array, Fit]:
    """Log losses (S, rows) of the default fit without the discrepancy term, and the fit."""
    fitted = fit(runs_of(split.below), law, discrepancy="off")
    return np.log(np.maximum(fitted.samples(columns_of(split.above), discrepancy=False), 1e-300)), fitted


def with_term(logs: Array, split: Split, k: float, shared: float) -> Array:
    entry = Discrepancy(k=k, df=discrepancy.DF, shared=shared, setting="given")
    return logs + discrepancy.deviations(entry, split.x, len(logs), np.random.default_rng(7))


def least_squares(split: Split) -> Array:
    """Log losses (S, rows): Chinchilla's form by scipy, best of 81 starts, t draws of its covariance and noise."""
    n, d, y = (split.below[c].to_numpy() for c in ("N", "D", "loss"))
    y = np.log(y)
    at_n, at_d = np.log(n).mean(), np.log(d).mean()

    def predict(p: Array, log_n: Array, log_d: Array) -> Array:
        parts = [p[0] + 0 * log_n, p[1] - p[3] * (log_n - at_n), p[2] - p[4] * (log_d - at_d)]
        return np.logaddexp.reduce(parts, axis=0)

    best: Any = None
    middle = y.mean()
    bounds = ([-30, -30, -30, 1e-4, 1e-4], [5, 5, 5, 3, 3])
    for e, a, alpha, beta in product((0.3, 0.6, 0.9), (0.05, 0.2, 0.6), (0.2, 0.4, 0.8), (0.2, 0.4, 0.8)):
        start = [middle + math.log(e), middle + math.log(a), middle + math.log(a), alpha, beta]
        with np.errstate(all="ignore"):
            found = optimize.least_squares(lambda p: predict(p, np.log(n), np.log(d)) - y, start, bounds=bounds)
        if best is None or found.cost < best.cost:
            best = found
    df = max(len(y) - 5, 1)
    sigma = math.sqrt(2 * best.cost / df)
    rng = np.random.default_rng(0)
    cover = np.linalg.pinv(best.jac.T @ best.jac, rcond=1e-12, hermitian=True) * sigma**2
    far = [np.log(split.above[c].to_numpy()) for c in ("N", "D")]
    centre, step = predict(best.x, *far), 1e-5
    slope = np.stack([(predict(best.x + step * e, *far) - centre) / step for e in np.eye(5)])
    sd = np.sqrt(np.maximum(np.einsum("pi,pq,qi->i", slope, cover, slope), 0) + sigma**2)
    return centre + sd * stats.t.rvs(df, size=(DRAWS, 1), random_state=rng)


def naive(split: Split, noise: list[Fit]) -> Array:
    """Log losses (S, rows) of the nearest cell and its local slopes, with the noise of the best law's residuals."""
    return forecast.naive(runs_of(split.below), split.above, noise)[1]


def package(parts: list[Split], python: str | None, kept: Path) -> list[Array] | None:
    """Log losses (rows,) of each split by the PyPI package; its fits are kept in a file, missing ones made by
    ``python``. None where one is missing and there is no interpreter to make it."""
    fits: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.is_file() else {}
    script = Path(__file__).with_name("league_package.py")
    out = []
    for split in parts:
        n, d = split.above["N"].to_numpy(), split.above["D"].to_numpy()
        rows = split.below[["C", "N", "D", "loss"]]
        name = f"{split.study.name} / {split.factor:g} / {hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()[:12]}"
        if name not in fits:
            if not python:
                return None
            table = json.dumps(rows.to_dict("list"))
            done = subprocess.run([python, str(script)], input=table, capture_output=True, text=True, check=True)
            fits[name] = json.loads(done.stdout)
            write_json(kept, fits)
        p = fits[name]
        with np.errstate(all="ignore"):
            loss = p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]
        out.append(np.log(np.maximum(loss, 1e-300)))
    return out


def grade(logs: Array, split: Split) -> dict[str, float | None]:
    """Scores of one forecaster on one split; ``logs`` (S, rows) draws, or (rows,) points without an interval."""
    y = split.outcome
    point = logs if logs.ndim == 1 else np.median(logs, axis=0)
    error = np.abs(y - point)
    out: dict[str, float | None] = {"error": float(error.mean()), "crps": float(error.mean())}
    if logs.ndim == 2:
        low, high = np.quantile(logs, [0.05, 0.95], axis=0)
        out["crps"] = float(crossval.crps(logs.T, y).mean())
        out |= {"inside90": float(np.mean((low <= y) & (y <= high))), "width90": float(np.mean(high - low))}
    return out


def learned(parts: list[Split], logs: dict[str, list[Array]], law: str, without: str | None) -> dict[str, Any]:
    """k and the shared part of ``law`` over all splits whose source is not ``without``."""
    laws = tuple(c for c in CANDIDATES if c in logs) if law == discrepancy.OTHER else (law,)
    use = [i for i, s in enumerate(parts) if s.study.source != without]
    if not use:  # one source alone leaves nothing to learn from
        return {"k": 0.0, "shared": 0.0, "sets": 0, "sources": 0}
    names = sorted({parts[i].study.name for i in use})
    count = {name: sum(parts[i].study.name == name for i in use) for name in names}
    rows: dict[str, list[Array]] = {"residual": [], "spread": [], "x": [], "weight": [], "study": []}
    for name in laws:
        for i in use:
            split = parts[i]
            low, middle, high = np.quantile(logs[name][i], [0.1587, 0.5, 0.8413], axis=0)
            n = len(middle)
            rows["residual"].append(split.outcome - middle)
            rows["spread"].append((high - low) / 2)
            rows["x"].append(split.x)
            rows["weight"].append(np.full(n, 1 / n / count[split.study.name]))
            rows["study"].append(np.full(n, f"{name} {i}"))
    r, s, x, w, study = (np.concatenate(rows[key]) for key in ("residual", "spread", "x", "weight", "study"))
    k = discrepancy.learn(r, s, x, w)
    sources = len({parts[i].study.source for i in use})
    return {"k": k, "shared": discrepancy.common_part(r, s, x, study, k), "sets": len(names), "sources": sources}


def play(
    sets: list[Study], laws: tuple[str, ...] = LAWS, python: str | None = None, kept: Path | None = None
) -> dict[str, Any]:
    """The whole league on ``sets``: forecasts, leave-one-source-out learning, scores. JSON (no rows of the sets)."""
    start = time.process_time()
    parts = [split for study in sets for split in splits(study)]
    logs: dict[str, list[Array]] = {law: [] for law in laws}
    rivals: dict[str, list[Array]] = {"least squares": [], "naive": []}
    ratios, picks = [], []
    for split in parts:
        fits = []
        for law in laws:
            drawn, fitted = ours(split, law)
            logs[law].append(drawn)
            fits.append(fitted)
        rivals["least squares"].append(least_squares(split))
        rivals["naive"].append(naive(split, fits))
        ratios.append(float(split.above["C"].max() / split.below["C"].max()))
    if kept is not None and (points := package(parts, python, kept)) is not None:
        rivals["chinchilla 0.2.0"] = points
    entries = []
    loo = {s: {law: learned(parts, logs, law, s) for law in laws} for s in {p.study.source for p in parts}}
    for i, split in enumerate(parts):
        own = loo[split.study.source]
        full = {law: with_term(logs[law][i], split, own[law]["k"], own[law]["shared"]) for law in laws}
        candidates = tuple(law for law in CANDIDATES if law in laws)
        below = runs_of(split.below).table
        pick, _ = crossval.choose(below, candidates, setting=own["chinchilla"]["k"])
        picks.append(pick)
        forecasts = {
            HEADLINE: full["chinchilla"],
            "analysis, no discrepancy": logs["chinchilla"][i],
            "analysis, chosen": full[pick],
            **{f"analysis:{law}": full[law] for law in laws if law != "chinchilla"},
            **{name: values[i] for name, values in rivals.items()},
        }
        entries.append(
            {
                "set": split.study.name,
                "source": split.study.source,
                "cut": f"C_top / {split.factor:g}",
                "fitted": len(split.below),
                "scored": len(split.above),
                "ratio": round(ratios[i], 3),
                "chosen": pick,
                "scores": {name: _rounded(grade(v, split)) for name, v in forecasts.items()},
            }
        )
    left_out = {source: {law: round(v["k"], 6) for law, v in rows.items()} for source, rows in sorted(loo.items())}
    final = {law: learned(parts, logs, law, None) for law in (*laws, discrepancy.OTHER)}
    by_set = {
        s.name: {
            law: round(learned([p for p in parts if p.study is s], _of(logs, parts, s), law, None)["k"], 6)
            for law in laws
        }
        for s in sets
        if any(p.study is s for p in parts)
    }
    return {
        "schema": 1,
        "kind": "league",
        "protocol": "league_protocol.md",
        "table": table_of(entries),
        "learned": final,
        "left_out": left_out,
        "k_by_set": by_set,
        "cpu_seconds": round(time.process_time() - start, 1),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "entries": entries,
    }


def _of(logs: dict[str, list[Array]], parts: list[Split], study: Study) -> dict[str, list[Array]]:
    return {law: [v for v, p in zip(values, parts) if p.study is study] for law, values in logs.items()}


def table_of(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a forecaster, best median error first: medians over sets of the mean of their cuts, pooled coverage."""
    out = []
    names = list(dict.fromkeys(e["set"] for e in entries))
    for forecaster in entries[0]["scores"]:
        per_set: dict[str, list[float]] = {}
        rows = [(e, e["scores"][forecaster]) for e in entries]
        for key in ("error", "crps", "inside90", "width90"):
            if key in rows[0][1]:
                per_set[key] = [float(np.mean([s[key] for e, s in rows if e["set"] == name])) for name in names]
        row: dict[str, Any] = {
            "forecaster": forecaster,
            "median_error": round(float(np.median(per_set["error"])), 5),
            "mean_error": round(float(np.mean(per_set["error"])), 5),
            "median_crps": round(float(np.median(per_set["crps"])), 5),
            "mean_crps": round(float(np.mean(per_set["crps"])), 5),
            "coverage90": None,
            "coverage90_rows": None,
            "width90": None,
        }
        if "inside90" in per_set:
            weight = [e["scored"] for e, _ in rows]
            row["coverage90"] = round(float(np.mean(per_set["inside90"])), 4)
            row["coverage90_rows"] = round(float(np.average([s["inside90"] for _, s in rows], weights=weight)), 4)
            row["width90"] = round(float(np.median(per_set["width90"])), 5)
        out.append(row)
    out.sort(key=lambda row: row["median_error"])
    for row in out:
        row["within_5_percent_of_best"] = row["median_error"] <= 1.05 * out[0]["median_error"]
    return out


def _rounded(scores: dict[str, float | None]) -> dict[str, float | None]:
    return {k: None if v is None else round(v, 6) for k, v in scores.items()}


def shipped(result: dict[str, Any]) -> dict[str, Any]:
    """What ``analysis/check/discrepancy.json`` holds: k by law and where it comes from."""
    laws = {
        law: {**row, "k": round(row["k"], 6), "shared": round(row["shared"], 3)}
        for law, row in result["learned"].items()
    }
    return {
        "schema": 1,
        "made_by": "benchmarks/league.py",
        "unit": "scale of log loss per e-fold beyond the fitted range, Student-t with 4 degrees of freedom",
        "method": "maximum likelihood over the cuts of all sets, every set the same weight: league_protocol.md",
        "laws": laws,
        "k_with_one_source_left_out": result["left_out"],
        "k_by_set": result["k_by_set"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--out", default="benchmarks/league.json")
    parser.add_argument("--learn", help="write the learned term here")
    parser.add_argument("--only", default="", help="sets whose name contains this")
    parser.add_argument("--package", help="interpreter of an environment with the PyPI package chinchilla")
    options = parser.parse_args()
    if not (Path(options.shared) / "reference_runs").is_dir():
        raise UserError("shared", options.shared, "has no folder reference_runs")
    sets = [s for s in studies(Path(options.shared)) if options.only in s.name]
    kept = Path(__file__).with_name("league_package.json")
    result = play(sets, python=options.package, kept=kept)
    write_json(options.out, result)
    if options.learn:
        write_json(options.learn, shipped(result))
    for row in result["table"]:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    print({law: round(row["k"], 5) for law, row in result["learned"].items()})


if __name__ == "__main__":
    main()
