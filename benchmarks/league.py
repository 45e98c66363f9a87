"""The extrapolation league: who forecasts the dear runs best from the cheap ones, on real studies, and who means it.

    python benchmarks/league.py --shared=../shared --out=benchmarks/league.json

The protocol, sets and cuts are in league_protocol.md; what is learned, and how, in priors.py, whose file
``--pool`` writes. ``--package=PYTHON`` names the interpreter of an environment
that holds the PyPI package ``chinchilla``; its fits are kept in league_package.json. ``--only``: a part of the sets'
names. The result holds scores only, no rows of the sets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import priors
from scipy import optimize, stats

from analysis.card import Conventions, Discrepancy, Scope
from analysis.check import discrepancy
from analysis.check.rolling import crps
from analysis.decide import forecast, pool
from analysis.engine.estimate import Estimate
from analysis.engine.inference import infer
from analysis.table.runs import Runs
from scaling.errors import UserError
from scaling.records import write_json

Array = np.ndarray
FACTORS = (3.0, 10.0, 30.0, 100.0)
FITTED, SCORED, MOST_SCORED, MOST_ROWS, LEVELS = 10, 3, 60, 200, 3
LAWS = (
    "chinchilla",
    "kaplan",
    "product_floor",
    "product",
)  # scored alone; their best gives the naive forecast its noise
HEADLINE = "analysis"
VERSION_3 = "analysis, version 3"
DRAWS = 1000
KEPT = ("muennighoff", "porian", "steplaw")  # sources that the form of version 4 was not worked out on


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


class Noise(NamedTuple):
    sigma_run: float
    sigma_stem: float


class Drawn(NamedTuple):
    """Log losses (S, rows) of new runs under a law's default fit without a discrepancy, and its noise."""

    logs: Array
    noise: Noise


def ours(split: Split, point: Estimate) -> Drawn:
    """The draws of ``fit`` around an estimate, without its diagnosis, as ``Fit.samples`` makes samples of them."""
    at = infer(point, point.y, runs_of(split.below).table, draws=DRAWS, seed=0)
    far = split.above
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.log(np.maximum(at.surface.law.predict(at.theta, far), 1e-300))
    rng = np.random.default_rng([0, 1])
    own = rng.standard_normal(logs.shape) * at.sigma[:, None]
    codes = pd.factorize(far["stem"])[0] if "stem" in far else np.arange(len(far))
    shared = rng.standard_normal(logs.shape)[:, codes]
    noise = Noise(at.sigma_hat, at.sigma_hat * math.sqrt(at.rho))
    return Drawn(logs + own + shared * at.sigma_stem[:, None], noise)


def with_term(logs: Array, split: Split, entry: Discrepancy) -> Array:
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


def naive(split: Split, noise: list[Any]) -> Array:
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
        out["crps"] = float(crps(logs.T, y).mean())
        out |= {"inside90": float(np.mean((low <= y) & (y <= high))), "width90": float(np.mean(high - low))}
    return out


class Gathered(NamedTuple):
    """What the forecasters say of every split, before anything is learned.

    Attributes:
      cases: the default forecast's laws, side by side.
      logs: draws (S, rows) of each law's default fit without a discrepancy, by law and split.
      alone: their errors, with rolling residuals, by law and split.
      rivals: draws or points of the rivals, by name and split.
    """

    parts: list[Split]
    cases: list[priors.Case]
    logs: dict[str, list[Array]]
    alone: dict[str, list[priors.Alone]]
    rivals: dict[str, list[Array]]


def gather(sets: list[Study], laws: tuple[str, ...] = LAWS, *, rivals: bool = True) -> Gathered:
    found = Gathered(
        [split for study in sets for split in splits(study)],
        [],
        {law: [] for law in laws},
        {law: [] for law in laws},
        {"least squares": [], "naive": []} if rivals else {},
    )
    for split in found.parts:
        table, fits = runs_of(split.below).table, []
        voices = {voice.law: voice for voice in pool.listen(table)}
        forecasts = np.stack([voice.log_losses(split.above) for voice in voices.values()])
        heard, (name, source) = pool.hear(list(voices.values()), table), (split.study.name, split.study.source)
        found.cases.append(priors.Case(name, source, heard, forecasts, split.outcome, split.x))
        for law in laws:
            fits.append(ours(split, voices[law].point))
            drawn = fits[-1].logs
            low, middle, high = np.quantile(drawn, [0.1587, 0.5, 0.8413], axis=0)
            off, sd = split.outcome - middle, np.minimum((high - low) / 2, 1.0)
            found.logs[law].append(drawn)
            found.alone[law].append(priors.Alone(name, source, voices[law].cuts, off, sd, split.x))
        if rivals:
            found.rivals["least squares"].append(least_squares(split))
            found.rivals["naive"].append(naive(split, fits))
        print(f"{name}, C_top / {split.factor:g}", flush=True)
    return found


def version_3(rows: list[priors.Alone], without: str) -> tuple[float, float]:
    """k and the shared part of version 3: one k for all studies, learned without a source."""
    use = [row for row in rows if row.source != without]
    r, s, x = (np.concatenate([getattr(row, name) for row in use]) for name in ("residual", "spread", "x"))
    of = [row.set for row in use]
    n = [len(row.x) for row in use]
    k = discrepancy.learn(r, s, x, np.repeat([1 / m / of.count(row.set) for m, row in zip(n, use)], n))
    return k, discrepancy.common_part(r, s, x, np.repeat(np.arange(len(use)), n), k)


def of_study(prior: discrepancy.Prior, cuts: Sequence[discrepancy.Residuals]) -> Discrepancy:
    """The term of a law in a study: the prior, updated by the study's rolling residuals."""
    k, df = discrepancy.updated(prior, cuts)
    return Discrepancy(k=k, df=df, shared=prior.shared, setting="given")


def together(case: priors.Case, prior: pool.Prior) -> tuple[Array, pool.Mixed]:
    """Log losses (S, rows) of the default forecast, and its weights."""
    mixed = pool.mix(prior, case.heard)
    middle, away = pool.apart(mixed.weights, case.forecasts)
    scales = pool.scale(prior, mixed, away, case.x)
    term = Discrepancy(k=1.0, df=mixed.df, shared=prior.scale.shared, setting="given")
    return middle + discrepancy.deviations(term, scales, DRAWS, np.random.default_rng(7)), mixed


def play(
    sets: list[Study], laws: tuple[str, ...] = LAWS, python: str | None = None, kept: Path | None = None
) -> tuple[dict[str, Any], priors.Learned]:
    """The whole league on ``sets``: forecasts, leave-one-source-out learning, scores. JSON (no rows of the sets), and
    what all sets teach."""
    start = time.process_time()
    found = gather(sets, laws)
    if kept is not None and (points := package(found.parts, python, kept)) is not None:
        found.rivals["chinchilla 0.2.0"] = points
    sources = sorted({part.study.source for part in found.parts})
    left_out = {source: priors.learn(found.cases, found.alone, without=source) for source in sources}
    entries = [_entry(found, i, left_out[part.study.source]) for i, part in enumerate(found.parts)]
    final = priors.learn(found.cases, found.alone)
    result = {
        "schema": 2,
        "kind": "league",
        "protocol": "league_protocol.md, version 4",
        "table": table_of(entries),
        "kept": table_of([e for e in entries if e["source"] in KEPT]) if set(sources) & set(KEPT) else [],
        "paired": paired(entries, HEADLINE, "least squares"),
        "left_out": {source: priors.plain(prior) for source, prior in left_out.items()},
        "cpu_seconds": round(time.process_time() - start, 1),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "entries": entries,
    }
    return result, final


def _entry(found: Gathered, i: int, learned: priors.Learned) -> dict[str, Any]:
    """Scores of every forecaster on one split."""
    split, case = found.parts[i], found.cases[i]
    drawn, mixed = together(case, learned.pool)
    terms = {law: of_study(learned.laws[law], rows[i].cuts) for law, rows in found.alone.items()}
    full = {law: with_term(found.logs[law][i], split, term) for law, term in terms.items()}
    k, shared = version_3(found.alone["chinchilla"], split.study.source)
    best = case.heard.names[int(np.argmin(pool.scores(case.heard)))]
    old = Discrepancy(k=k, df=discrepancy.DF, shared=shared, setting="given")
    chosen = best if best in full else "chinchilla"  # the local power law has no fit of its own
    forecasts = {
        HEADLINE: drawn,
        **{f"analysis:{law}": logs for law, logs in full.items()},
        VERSION_3: with_term(found.logs["chinchilla"][i], split, old),
        "analysis, no discrepancy": found.logs["chinchilla"][i],
        "analysis, chosen": full[chosen],
        **{name: values[i] for name, values in found.rivals.items()},
    }
    return {
        "set": split.study.name,
        "source": split.study.source,
        "cut": f"C_top / {split.factor:g}",
        "fitted": len(split.below),
        "scored": len(split.above),
        "ratio": round(float(split.above["C"].max() / split.below["C"].max()), 3),
        "chosen": chosen,
        "weights": {name: round(float(w), 3) for name, w in zip(case.heard.names, mixed.weights)},
        "k": {HEADLINE: round(mixed.k, 5), "chinchilla": round(terms["chinchilla"].k, 5), VERSION_3: round(k, 5)},
        "scores": {name: _rounded(grade(v, split)) for name, v in forecasts.items()},
    }


def paired(entries: list[dict[str, Any]], ours_: str, rival: str, draws: int = 2000) -> dict[str, Any]:
    """Where ``ours_`` is better than or within 5 % of the rival in mean error, by set, source and cut, and the median
    over sets of the difference of log errors with a 95 % interval, sources resampled."""

    def errors(by: str) -> dict[str, Array]:
        names = dict.fromkeys(e[by] for e in entries)
        return {
            n: np.mean([[e["scores"][w]["error"] for w in (ours_, rival)] for e in entries if e[by] == n], axis=0)
            for n in names
        }

    sets = errors("set")
    of = {e["set"]: e["source"] for e in entries}
    by_source = [
        np.array([math.log(a / b) for s, (a, b) in sets.items() if of[s] == q]) for q in dict.fromkeys(of.values())
    ]
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(by_source), (draws, len(by_source)))
    medians = [float(np.median(np.concatenate([by_source[j] for j in pick]))) for pick in picks]
    low, high = np.quantile(medians, [0.025, 0.975])
    cuts = [[e["scores"][w]["error"] for w in (ours_, rival)] for e in entries]
    return {
        "rival": rival,
        "ratio": round(math.exp(float(np.median(np.concatenate(by_source)))), 3),
        "interval": [round(math.exp(float(low)), 3), round(math.exp(float(high)), 3)],
        **{
            name: {
                "better": sum(bool(a < b) for a, b in rows),
                "tied_or_better": sum(bool(a <= 1.05 * b) for a, b in rows),
                "of": len(rows),
            }
            for name, rows in (
                ("sets", list(sets.values())),
                ("sources", list(errors("source").values())),
                ("cuts", cuts),
            )
        },
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--out", default="benchmarks/league.json")
    parser.add_argument("--pool", help="write the prior of the default forecast here")
    parser.add_argument("--only", default="", help="sets whose name contains this")
    parser.add_argument("--package", help="interpreter of an environment with the PyPI package chinchilla")
    options = parser.parse_args()
    if not (Path(options.shared) / "reference_runs").is_dir():
        raise UserError("shared", options.shared, "has no folder reference_runs")
    sets = [s for s in studies(Path(options.shared)) if options.only in s.name]
    kept = Path(__file__).with_name("league_package.json")
    result, final = play(sets, python=options.package, kept=kept)
    write_json(options.out, result)
    priors.write(final, options.pool)
    for row in result["table"]:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    print(result["paired"])


if __name__ == "__main__":
    main()
