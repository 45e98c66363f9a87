"""The next cells for a fit: what may be trained (a study's ladder and stems, or sizes around a table's), and the best.

A study prices a cell as it would be trained: a branch of an existing stem costs its own decay, a longer one what the
stem lacks besides, a new size or seed a whole stem and its compilation. A table of another trainer knows no stems:
there every cell is a whole run at C = 6ND or at the cost by size of its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.decide import design
from analysis.engine.frontier import cost_table, flops_for
from analysis.table.runs import load
from scaling.errors import UserError
from scaling.records import Record, read_json

Array = np.ndarray
SETS = 8  # parameter sets that a design must serve: the estimate and draws
AROUND = 4.0  # tokens per parameter allowed around the optimum's, beside the range of the fitted runs
FINER = 2.0  # ratio of neighbouring D in the pool
LARGER = 6  # sizes beyond a table's largest


def next_cells(
    fit: Any,
    *,
    target: str,
    budget: float,
    workdir: str | Path | None = None,
    seeds: Sequence[int] = (),
    ratios: tuple[float, float] | None = None,
    share: float = design.TOP_SHARE,
    drift: float | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Which cells to train next, in order, and what the target's interval should become. JSON.

    Args:
      target: see ``design.target``.
      budget: FLOPs that may be spent, stems included.
      workdir: of the study that the fit is of; without one the fit is of a table.
      seeds: further seeds (new stems of any size) that may be trained, beside those of the fitted runs.
      ratios: smallest and largest tokens per parameter; default: the range of the fitted runs, and a factor 4 around
        the optimum at the target's budget.
      share: of the spend kept for the top decade of compute. ``drift``: the law being wrong, sd of log loss per e-fold
        (see ``analysis.design``); default: what the card says of its law.

    Raises:
      UserError: a bad target or budget, a budget that buys nothing, bounds that leave nothing to train.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise UserError("budget", budget, "must be a positive number of FLOPs")
    drift = (float(fit.discrepancy["k"]) or design.DRIFT) if drift is None else drift
    if not 0 <= share < 1:
        raise UserError("share", share, "must be a share of the spend, from 0 to below 1")
    if not (math.isfinite(drift) and drift >= 0):
        raise UserError("drift", drift, "must be an sd of log loss per e-fold, such as 0.005")
    if ratios is not None and not 0 < ratios[0] < ratios[1] < math.inf:
        raise UserError("ratios", f"{ratios[0]:g},{ratios[1]:g}", "must be two rising positive numbers")
    wanted = design.target(target, fit.law)
    if set(fit.law.columns) - {"N", "D"}:
        raise UserError("law", fit.law.name, "next designs cells in N and D; fit chinchilla")
    cost, done = cost_table(fit), _done(fit, workdir)
    bounds = ratios or _ratios(fit, done, wanted, cost)
    pool, rows = _study_pool(fit, workdir, seeds, budget) if workdir else _table_pool(fit, cost, seeds, budget)
    lowest = float(np.min(done["C"]))
    ratio = pool.D / pool.N
    inside = (bounds[0] <= ratio) & (ratio <= bounds[1]) & (lowest * 0.999 <= pool.C)
    if not inside.any():
        text = f"tokens per parameter in {bounds[0]:.3g} to {bounds[1]:.3g} at {lowest:.3g} FLOPs or more"
        raise UserError("ratios", text, "leave no cell to train that is new; widen --ratios or give --seeds")
    kept = np.flatnonzero(inside)
    pool, rows = _part(pool, kept), [rows[i] for i in kept]
    noise = design.Noise(float(np.median(fit.sigma_run)), float(np.median(fit.sigma_stem)), drift)
    step = max(1, len(fit.draws) // (SETS - 1))
    thetas = np.vstack([fit.law.vector(fit.params)[None], fit.draws[::step][: SETS - 1]])
    found = design.propose(
        fit.law, thetas, done, pool, wanted, budget=budget, noise=noise, level=level, cost=cost, share=share
    )
    cells = []
    for j, price, width in zip(found["chosen"], found["prices"], found["after_each"]):
        n, d = float(pool.N[j]), float(pool.D[j])
        cell = {**rows[j], "N": n, "D": d, "C": float(pool.C[j]), "tokens_per_parameter": d / n, "price": price}
        cells.append({**cell, "half_width_after": width})
    warnings = []
    if found["top_share"] < share:
        message = (
            f"only {found['top_share']:.0%} of the spend is in the top decade of compute: nothing more was left there"
        )
        warnings.append({"name": "top_decade", "message": message})
    if fit.warnings and any(w["name"] == "not_identified" for w in fit.warnings):
        message = "the fit is not identified in full: half-widths by linearisation are rough; fit again after each list"
        warnings.append({"name": "rough", "message": message})
    return {
        "schema": 1,
        "kind": "next",
        "law": fit.law.name,
        "target": wanted.text,
        "budget": budget,
        "spent": found["spent"],
        "level": level,
        "half_width": found["half_width"],
        "cells": cells,
        "top_decade": {"from": found["top_from"], "share": found["top_share"], "least": share},
        "tokens_per_parameter": list(bounds),
        "noise": {"run": noise.run, "stem": noise.stem, "drift_per_e_fold": drift},
        "method": f"linearised, mean over {found['parameter_sets']} parameter sets of the fit; of {len(kept)} cells",
        "price": "stems once, a branch of an existing stem only its own steps" if pool.decay else "whole runs",
        "dataset": fit.data.get("dataset"),
        "warnings": warnings,
    }


def _done(fit: Any, workdir: str | Path | None) -> dict[str, Any]:
    """N, D, C and stem of the fitted runs; stems from the study, whose runs must be those of the card."""
    rows = fit.card()["runs"]
    done: dict[str, Any] = {k: np.array([row[k] for row in rows], dtype=float) for k in ("N", "D") if k in rows[0]}
    if len(done) < 2:
        raise UserError("law", fit.law.name, "next designs cells in N and D; fit chinchilla")
    done["C"] = np.array([row.get("C", 6 * row["N"] * row["D"]) for row in rows], dtype=float)
    if workdir is not None:
        table: Any = load(workdir, dataset=fit.data.get("dataset"), n=fit.conventions.get("n", "nonembedding")).table
        stems = dict(zip(table["run"], table["stem"]))
        done["stem"] = [stems.get(row["run"], row["run"]) for row in rows]
    elif (fit.noise.get("groups") or {}).get("kind"):
        done["stem"] = [f"N {row['N']:.9g}" for row in rows]
    return done


def _ratios(fit: Any, done: Mapping[str, Any], wanted: design.Target, cost: Any) -> tuple[float, float]:
    seen = done["D"] / done["N"]
    low, high = float(seen.min()), float(seen.max())
    if wanted.budget is not None:
        theta = fit.law.vector(fit.params)[None]
        ends = [design.Target(k, wanted.budget).values(fit.law, theta, cost)[0] for k in ("log_N_opt", "log_D_opt")]
        best = math.exp(ends[1] - ends[0])
        if math.isfinite(best):
            low, high = min(low, best / AROUND), max(high, best * AROUND)
    return low * 0.999, high * 1.001


def _part(pool: design.Pool, kept: Array) -> design.Pool:
    stems = [pool.stem[i] for i in kept]
    return design.Pool(pool.N[kept], pool.D[kept], pool.per_token[kept], stems, pool.decay, pool.trained, pool.overhead)


def _table_pool(fit: Any, cost: Any, seeds: Sequence[int], budget: float) -> tuple[design.Pool, list[dict[str, Any]]]:
    rows = fit.card()["runs"]
    sizes = sorted({row["N"] for row in rows})
    ratio = max(1.2, float(np.exp(np.median(np.diff(np.log(sizes)))))) if len(sizes) > 1 else FINER
    sizes += [sizes[-1] * ratio**k for k in range(1, LARGER + 1)]
    lowest = min(row["D"] for row in rows)
    found = []
    for n in sizes:
        per_token = float(flops_for(n, 1.0, cost))
        for d in _doublings(lowest, budget / per_token):
            found += [(n, d, per_token, seed) for seed in (None, *seeds)]
    if not found:
        raise UserError("budget", f"{budget:g}", "is below the cheapest run of the table; nothing can be trained")
    n, d, per_token = (np.array([row[i] for row in found]) for i in range(3))
    kind = (fit.noise.get("groups") or {}).get("kind")
    stems: list[Any] = [f"N {row[0]:.9g}" if kind == "size" else i for i, row in enumerate(found)]
    return design.Pool(n, d, per_token, stems), [{"seed": row[3]} if row[3] is not None else {} for row in found]


def _doublings(first: float, most: float) -> list[float]:
    return [first * FINER**k for k in range(int(math.log(most / first, FINER)) + 1)] if most >= first else []


def _study_pool(
    fit: Any, workdir: str | Path, seeds: Sequence[int], budget: float
) -> tuple[design.Pool, list[dict[str, Any]]]:
    """Every size of the study's ladder at doublings of its smallest D, on the stems of the fitted seeds or new ones."""
    workdir = Path(workdir)
    try:
        study = read_json(workdir / "study.json")
    except FileNotFoundError:
        raise UserError("workdir", workdir, "holds no study.json; give the fit card of a table instead") from None
    dataset = fit.data.get("dataset")
    ladder = study.get("ladder", {}).get(dataset)
    specs = [s for p in study["programs"] for s in p["runs"] if s["manifest"]["dataset"] == dataset]
    fitted = [s for s in specs if s["manifest"]["role"] in ("fit", "seed")]
    if not ladder or not fitted:
        raise UserError("dataset", dataset, f"has no ladder in {workdir / 'study.json'}; plan the study again")
    count = f"N_{fit.conventions.get('n', 'nonembedding')}"
    if count not in ladder[0]:
        raise UserError("fit", count, "the ladder counts N_nonembedding and N_total; fit with --n of these")
    recipe, tokens = fitted[0]["manifest"]["recipe"], fitted[0]["manifest"]["tokens"]
    decay = float(recipe["decay_fraction"]) if recipe["schedule"] == "wsd" else None
    unique = math.inf if any(s["manifest"]["tokens"]["epochs"] > 1 for s in specs) else float(tokens["unique"])
    lowest = min(s["manifest"]["tokens"]["D"] for s in fitted)
    planned = {(m["size"], m["tokens"]["D"], m["seed"]) for m in (s["manifest"] for s in specs) if m["role"] != "stem"}
    # A held-out cell's stem and seed are its own: a fitted branch of it would give its outcome away.
    closed = {(m["size"], m["seed"]) for m in (s["manifest"] for s in specs) if m["role"] == "holdout"}
    trained, names = {}, {}
    for stem in (s["manifest"] for s in specs if s["kind"] == "stem"):
        if (stem["size"], stem["seed"]) not in closed:
            names[stem["size"], stem["seed"]] = stem["run"]
            trained[stem["run"]] = float(stem["tokens"]["D"])
    own = sorted({s["manifest"]["seed"] for s in fitted})
    usual = own[0]
    compile_flops = _compilation(workdir, specs)
    sizes = {s["manifest"]["size"] for s in fitted}
    found, overhead = [], {}
    for row in ladder:
        step = row["batch"] * row["context"]
        for seed in sorted({*own, *seeds}):
            if seed != usual and seed not in seeds and (row["size"], seed) not in names:
                continue  # another size under a further seed is a new stem: only where it was asked for
            if (row["size"], seed) in closed:
                continue
            stem = names.get((row["size"], seed), f"new {row['size']} seed {seed}")
            if row["size"] not in sizes:
                overhead[stem] = compile_flops
            for d in _doublings(lowest, min(unique, budget / row["flops_per_token"] / (decay or 1.0))):
                d = max(1, round(d / step)) * step
                if d <= unique and (row["size"], d, seed) not in planned:
                    new = stem not in trained
                    found.append((row, d, stem, {"size": row["size"], "seed": seed, "stem": stem, "new_stem": new}))
    if not found:
        raise UserError("budget", f"{budget:g}", "buys nothing new in this study; give more, or --seeds")
    n, d = np.array([f[0][count] for f in found], float), np.array([f[1] for f in found], float)
    per_token = np.array([f[0]["flops_per_token"] for f in found], float)
    pool = design.Pool(n, d, per_token, [f[2] for f in found], decay, trained, overhead)
    return pool, [f[3] for f in found]


def _compilation(workdir: Path, specs: list[dict[str, Any]]) -> float:
    """What compiling a new size costs, in FLOPs that the device would have trained meanwhile; 0 where no run says."""
    seconds, rates = [], []
    for spec in specs:
        if spec["manifest"]["role"] == "holdout" or (result := Record(workdir / "runs" / spec["run"]).result) is None:
            continue
        spent = result.get("seconds") or {}
        if result.get("status") == "done" and spent.get("train") and spent.get("compile") is not None:
            seconds.append(float(spent["compile"]))
            rates.append(spec["flops"] / float(spent["train"]))
    return float(max(seconds) * np.median(rates)) if seconds else 0.0
