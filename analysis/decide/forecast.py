"""The test of a law: forecasts of held-out runs, sealed before their outcomes are read, and scored afterwards.

Every fitted law, on every convention of N, and a naive rival ("the last loss and its local slope") forecast each cell.
Scores: error, z, coverage, and the CRPS in nats (Gneiting and Raftery 2007, doi 10.1198/016214506000001437), which
rewards a forecast for being both near and sure, and needs no shape of the forecast's distribution.

A forecast holds the discrepancy term of its card, because laws bend beyond their runs. A refutation does not: it asks
whether the form itself, as it stands, survives the outcomes.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.check.rolling import crps
from analysis.fitting import Fit, load_fit
from analysis.table import seal as sealed
from analysis.table.runs import Runs, datasets, load, load_holdouts, open_holdouts
from scaling.errors import UserError
from scaling.records import read_json, write_json

NAIVE = "naive"
QUANTILES = (np.arange(50) + 0.5) / 50
REFUTED = 0.95  # a law is refuted where the outcomes, taken together, lie outside this region of its forecast
REGION = 0.975  # of the draws: simulated, their own 95 % region leaves out the truth in 1 to 11 % (benchmarks/joint.py)
BELOW = 3.0  # standard errors below the entropy that no chance explains


def power(
    fits: Mapping[str, Fit], holdouts: pd.DataFrame | Mapping[str, pd.DataFrame], noise: float | None = None
) -> dict[str, Any]:
    """What the held-out cells can show, by simulation from each fit in turn as the truth, before any outcome. JSON.

    Args:
      fits: by name; the truths and the laws under test.
      holdouts: the cells (columns of the laws), or one such table for each name where N differs by convention.
      noise: sd of log loss of one run; by default each fit's own noise.

    Returns:
      ``refute[truth][law]``: the probability that ``law`` is refuted (at most 5 % for the truth itself),
      ``choose[truth]``: that the truth gets the best CRPS, ``sentence``.
    """
    logs = {}
    for name, fit in fits.items():
        table = holdouts if isinstance(holdouts, pd.DataFrame) else holdouts[name]
        logs[name] = _samples(fit, table, noise)
    return _power(logs, logs)


def seal(workdir: str | Path) -> dict[str, Any]:
    """Forecasts every held-out cell that has none yet and writes ``prediction.json``; no outcome is read.

    A cell is sealed once, by the first prediction. Sealing again with the same fits changes nothing and says so; cells
    added to the study since are sealed in a new entry.

    Returns:
      ``{"status": "sealed" | "unchanged", "message", "entry"}``; the entry has cells, forecasts and expected power.

    Raises:
      UserError: no fits, no held-out cells, or a fit that changed where nothing is left to seal.
    """
    workdir = Path(workdir)
    prediction = sealed.read(workdir)
    cards = _cards(workdir)
    names = datasets(workdir)
    if not cards:
        raise UserError("fits", workdir / "fits", "holds no fit card; fit the study first")
    known = sealed.sealed_runs(workdir)
    wanted = {d: load_holdouts(workdir, d) for d in names}
    if not any(len(table) for table in wanted.values()):
        raise UserError("holdouts", workdir, "the study has no held-out cells; give it some to test its law")
    fresh = {d: [run for run in t["run"] if run not in known] for d, t in wanted.items() if len(t)}
    digests = [{k: card[k] for k in ("file", "sha256", "draws")} for card in cards]
    if not any(fresh.values()):
        assert prediction is not None
        last = prediction["entries"][-1]
        if last["fits"] != digests:
            raise UserError(
                "fits",
                workdir / "fits",
                "changed after every held-out cell was sealed; add new held-out cells to test them",
            )
        message = f"all {len(known)} held-out cells are sealed already, with these fits; nothing changed"
        return {"status": "unchanged", "message": message, "entry": last}
    entry: dict[str, Any] = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fits": digests,
        "cells": [],
        "forecasts": [],
        "joint": {},
        "power": {},
    }
    for dataset, runs in fresh.items():
        if runs:
            _forecast(workdir, dataset, runs, [c for c in cards if c["dataset"] == dataset], entry)
    prediction = prediction or {"schema": 1, "kind": "prediction", "entries": []}
    prediction = sealed.stamp({**prediction, "entries": [*prediction["entries"], entry]})
    write_json(workdir / sealed.FILE, prediction)
    message = f"sealed {len(entry['cells'])} held-out cells with {len(entry['forecasts'])} forecasts"
    return {"status": "sealed", "message": message, "entry": prediction["entries"][-1]}


def score(workdir: str | Path) -> dict[str, Any]:
    """Opens the outcomes of the sealed cells and scores every forecaster. JSON.

    Returns:
      ``rows`` (one per cell and forecaster), ``datasets[name]`` with the ``ranking`` by mean CRPS over the cells that
      are finished, ``waiting`` cells, and a ``verdict`` in words.

    Raises:
      UserError: nothing was sealed, or the prediction was changed after the seal.
    """
    workdir = Path(workdir)
    prediction = sealed.read(workdir)
    if prediction is None:
        raise UserError("prediction", workdir / sealed.FILE, "there is none; seal the forecasts first")
    entries = prediction["entries"]
    cells = [cell for entry in entries for cell in entry["cells"]]
    outcomes: dict[str, float] = {}
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        opened = open_holdouts(workdir, dataset)
        outcomes |= dict(zip((str(r) for r in opened["run"]), (float(x) for x in opened["loss"]), strict=True))
    rows = [_score(f, outcomes[f["run"]]) for e in entries for f in e["forecasts"] if f["run"] in outcomes]
    waiting = [cell["run"] for cell in cells if cell["run"] not in outcomes]
    result: dict[str, Any] = {
        "schema": 1,
        "kind": "score",
        "sealed": [{"time": e["time"], "sha256": e["sha256"], "cells": len(e["cells"])} for e in entries],
        "rows": rows,
        "waiting": waiting,
        "datasets": {},
    }
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == dataset]
        joint = [e["joint"][dataset] for e in entries if dataset in e["joint"]]
        ranking = _ranking(own, joint, outcomes)
        expected = [e["power"][dataset] for e in entries if dataset in e["power"]]
        verdict = _verdict(dataset, ranking)
        result["datasets"][dataset] = {"ranking": ranking, "power": expected, "verdict": verdict}
    verdicts = [entry["verdict"] for entry in result["datasets"].values()]
    if waiting:
        verdicts.append(f"{len(waiting)} sealed cell{'s are' if len(waiting) > 1 else ' is'} not finished yet.")
    result["verdict"] = " ".join(verdicts)
    return result


def check_entropy(workdir: str | Path) -> dict[str, Any]:
    """Losses and fitted floors against the exact entropy of known sources. JSON, ``datasets`` empty without one.

    No model beats the entropy, so every loss must be at or above it within its standard error; held-out losses count
    once they are sealed. ``floors`` are the fitted E of every card, whose interval should hold the exact value.
    """
    workdir = Path(workdir)
    found: dict[str, Any] = {}
    for dataset in datasets(workdir):
        try:
            table: Any = load(workdir, dataset=dataset).table
        except UserError as error:
            if error.field == "workdir":
                continue  # nothing of it is finished
            raise
        if "entropy" not in table or table["entropy"].isna().all():
            continue
        if set(load_holdouts(workdir, dataset)["run"]) & sealed.sealed_runs(workdir):
            opened = open_holdouts(workdir, dataset)
            table = pd.concat([table, opened], ignore_index=True) if len(opened) else table
        found[dataset] = _entropy(table, [c for c in _cards(workdir) if c["dataset"] == dataset])
    verdict = " ".join(f"{name}: {entry['verdict']}" for name, entry in found.items())
    return {"schema": 1, "kind": "entropy", "datasets": found, "verdict": verdict or "No source has a known entropy."}


# --- sealing


def _cards(workdir: Path) -> list[dict[str, Any]]:
    """Every fit card of a work directory, by name, with what a seal says of it."""
    cards = []
    for path in sorted((workdir / "fits").glob("*.json")):
        content = read_json(path)
        if not isinstance(content, dict) or content.get("kind") != "fit":
            continue
        n = content["conventions"].get("n")
        if n is None:
            continue  # a fit of some other table
        cards.append(
            {
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "draws": content["draws"]["sha256"],
                "dataset": content["data"]["dataset"],
                "law": content["law"],
                "n": n,
                "params": content["params"],
                "path": path,
            }
        )
    return cards


def _forecast(workdir: Path, dataset: str, runs: list[str], cards: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Adds the cells, forecasts, joint forecasts and expected power of one data set to an entry."""
    if not cards:
        raise UserError("fits", workdir / "fits", f"holds no fit of {dataset}, whose held-out cells wait; fit it too")
    logs: dict[str, np.ndarray] = {}
    exact: dict[str, np.ndarray] = {}  # as if the form were true
    points: dict[str, np.ndarray] = {}
    about: dict[str, tuple[str, str]] = {}
    for n in dict.fromkeys(card["n"] for card in cards):
        cells = load_holdouts(workdir, dataset, n)
        cells = cells.iloc[[i for i, run in enumerate(cells["run"]) if run in runs]].reset_index(drop=True)
        fitted = load(workdir, dataset=dataset, n=n)
        fits = {f"{card['law']}/{n}": load_fit(card["path"]) for card in cards if card["n"] == n}
        for name, fit in fits.items():
            columns = columns_of(cells)
            logs[name] = np.log(fit.samples(columns))
            exact[name] = _samples(fit, cells, None)
            points[name] = np.log(fit.predict(columns)["value"])
            about[name] = (fit.law.name, n)
        name = f"{NAIVE}/{n}"
        points[name], logs[name], words = naive(fitted, cells, list(fits.values()))
        exact[name] = logs[name]
        about[name] = (NAIVE, n)
        entry.setdefault("naive", {})[f"{dataset}/{n}"] = words
    cells = load_holdouts(workdir, dataset)
    top: Any = load(workdir, dataset=dataset).table
    for cell in cells.to_dict("records"):
        if cell["run"] in runs:
            more = [k for k in ("N", "D") if cell[k] > 1.01 * top[k].max()]
            entry["cells"].append(
                {
                    "run": cell["run"],
                    "dataset": dataset,
                    **{k: float(cell[k]) for k in cell if k in ("D", "C") or k.startswith("N_")},
                    "beyond": more,
                    "compute_ratio": float(cell["C"] / top["C"].max()),
                    "status": cell["status"],
                }
            )
    order = [run for run in cells["run"] if run in runs]
    for name, values in logs.items():
        for j, run in enumerate(order):
            q = np.quantile(values[:, j], [0.025, 0.25, 0.75, 0.975, *QUANTILES])
            entry["forecasts"].append(
                {
                    "run": run,
                    "dataset": dataset,
                    "forecaster": name,
                    "law": about[name][0],
                    "n": about[name][1],
                    "value": float(np.exp(points[name][j])),
                    "interval50": [float(x) for x in np.exp(q[1:3])],
                    "interval95": [float(x) for x in np.exp(q[[0, 3]])],
                    "quantiles": [round(float(x), 8) for x in np.exp(q[4:])],
                }
            )
    regions = {name: region(values) for name, values in exact.items()}
    entry["joint"][dataset] = {
        name: {
            "runs": order,
            "centre": [float(x) for x in r[0]],
            "covariance": [[float(x) for x in row] for row in r[1]],
            "limit": float(r[2]),
        }
        for name, r in regions.items()
    }
    entry["power"][dataset] = _power(exact, logs)


def columns_of(cells: pd.DataFrame) -> dict[str, Any]:
    columns = {str(c): np.asarray(cells[c]) for c in cells.columns if np.asarray(cells[c]).dtype.kind in "fiu"}
    return {**columns, "stem": np.asarray(cells["stem"])} if "stem" in cells else columns


def _samples(fit: Fit, cells: pd.DataFrame, noise: float | None) -> np.ndarray:
    """Log losses (S, cells) of new runs at the cells were the form true: doubt of the parameters, noise of a run."""
    if noise is None:
        return np.log(fit.samples(columns_of(cells), new_run=True, discrepancy=False))
    losses = np.log(fit.samples(columns_of(cells), new_run=False, discrepancy=False))
    return losses + noise * np.random.default_rng(1).standard_normal(losses.shape)


def naive(runs: Runs, cells: pd.DataFrame, fits: list[Fit]) -> tuple[np.ndarray, np.ndarray, str]:
    """The nearest fitted cell and the local log-log slopes in N and D: point (cells,), samples (S, cells), words.

    The plane through three cells: the nearest one, its nearest neighbour of another size, and of another D. Its only
    stated doubt is the noise of those losses and of the new run, which is what such an extrapolation can know.
    """
    table = runs.table
    x = np.log(np.stack([np.asarray(table["N"], float), np.asarray(table["D"], float)], 1))
    index = np.unique(np.round(x, 6), axis=0, return_inverse=True)[1].reshape(-1)
    y = np.log(np.asarray(table["loss"], float))
    count = np.bincount(index)
    keys = np.stack([np.bincount(index, x[:, k]) / count for k in (0, 1)], 1)
    mean = np.bincount(index, y) / count
    df = int(np.sum(count - 1))
    if df >= 1:
        sigma = float(np.sqrt(np.sum((y - mean[index]) ** 2) / df))
        words = f"noise {sigma:.2%} of the loss, from seeds ({df} degrees of freedom)"
    else:
        sigma, df = float(min(np.hypot(f.noise["sigma_run"], f.noise["sigma_stem"]) for f in fits)), 0
        words = f"noise {sigma:.2%} of the loss, from the residuals of the best law, as no cell has two seeds"
    rng = np.random.default_rng(2)
    point, spread = np.empty(len(cells)), np.empty(len(cells))
    for j in range(len(cells)):
        target = np.log([float(cells["N"].iloc[j]), float(cells["D"].iloc[j])])
        first = int(np.argmin(np.sum((keys - target) ** 2, axis=1)))
        corners, away = [first], keys - keys[first]
        for axis in (0, 1):
            other = np.flatnonzero(np.abs(away[:, axis]) > 0.01)
            if len(other):
                cost = 10 * np.abs(away[other, 1 - axis]) + np.abs(away[other, axis])
                corners.append(int(other[np.argmin(cost)]))
        design = np.column_stack([np.ones(len(corners)), keys[corners] - keys[first]])
        weights = np.linalg.pinv(design).T @ np.concatenate([[1.0], target - keys[first]])
        point[j] = weights @ mean[corners]
        spread[j] = sigma * np.sqrt(1.0 + np.sum(weights**2 / count[corners]))
    scale = np.sqrt(df / rng.chisquare(df, 2000)) if df else np.ones(2000)
    return point, point + spread * scale[:, None] * rng.standard_normal((2000, len(cells))), words


# --- power and scores


def region(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre, covariance (both robust to the far draws of a fit that is not identified), limit of the distance."""
    centre = np.median(logs, axis=0)
    low, high = np.quantile(logs, [0.1587, 0.8413], axis=0)
    scale = np.maximum((high - low) / 2, 1e-9)
    z = np.clip((logs - centre) / scale, -4, 4)
    z = (z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-9)
    correlation = z.T @ z / len(z)
    correlation = 0.999 * correlation + 0.001 * np.eye(len(centre))  # cells that move as one keep an inverse
    covariance = correlation * np.outer(scale, scale)
    return centre, covariance, float(np.quantile(distance(logs, centre, covariance), REGION))


def distance(y: np.ndarray, centre: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    away = np.atleast_2d(y) - centre
    return np.einsum("si,ij,sj->s", away, np.linalg.inv(covariance), away)


def _power(logs: Mapping[str, np.ndarray], forecasts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """``logs`` are what is true in turn, and what is tested; ``forecasts`` are what is scored."""
    names = list(logs)
    regions = {name: region(values) for name, values in logs.items()}
    ensembles = {name: np.exp(np.quantile(values, QUANTILES, axis=0)).T for name, values in forecasts.items()}
    refute: dict[str, dict[str, float]] = {}
    choose: dict[str, float] = {}
    for truth, y in logs.items():
        refute[truth] = {}
        for law in names:
            centre, covariance, limit = regions[law]
            refute[truth][law] = float(np.mean(distance(y, centre, covariance) > limit))
        scores = np.stack([crps(ensembles[law][None], np.exp(y)).mean(1) for law in names])
        choose[truth] = float(np.mean(np.argmin(scores, axis=0) == names.index(truth)))
    cells = len(next(iter(regions.values()))[0])
    laws = [name for name in names if not name.startswith(NAIVE)]
    pairs = [refute[t][w] for t in laws for w in laws if t.split("/")[0] != w.split("/")[0]]
    chosen = float(np.mean([choose[t] for t in laws])) if laws else 0.0
    sentence = f"{cells} held-out cells name the true law, were it one of these, in {chosen:.0%} (chance "
    sentence += f"{1 / len(names):.0%})"
    if pairs:
        span = f"{min(pairs):.0%} to {max(pairs):.0%}, by chance at most {1 - REFUTED:.0%}"
        sentence += f" and refute a wrong form in {np.mean(pairs):.0%} ({span})"
    return {"cells": cells, "level": REFUTED, "refute": refute, "choose": choose, "sentence": sentence + "."}


def _score(forecast: dict[str, Any], outcome: float) -> dict[str, Any]:
    q = np.array(forecast["quantiles"])
    low, middle, high = np.quantile(np.log(q), [0.1587, 0.5, 0.8413])
    row = {k: forecast[k] for k in ("run", "dataset", "forecaster", "law", "n", "value", "interval50", "interval95")}
    (a50, b50), (a95, b95) = forecast["interval50"], forecast["interval95"]
    return {
        **row,
        "outcome": outcome,
        "error_percent": 100 * (forecast["value"] - outcome) / outcome,
        "z": float((np.log(outcome) - middle) / max((high - low) / 2, 1e-9)),
        "inside50": bool(a50 <= outcome <= b50),
        "inside95": bool(a95 <= outcome <= b95),
        "crps": float(crps(q, outcome)),
    }


def _ranking(
    rows: list[dict[str, Any]], joint: list[dict[str, Any]], outcomes: Mapping[str, float]
) -> list[dict[str, Any]]:
    ranking = []
    for name in dict.fromkeys(row["forecaster"] for row in rows):
        own = [row for row in rows if row["forecaster"] == name]
        tests = [_outside(j[name], outcomes) for j in joint if name in j]
        ranking.append(
            {
                "forecaster": name,
                "law": own[0]["law"],
                "n": own[0]["n"],
                "cells": len(own),
                "crps": float(np.mean([row["crps"] for row in own])),
                "mean_error_percent": float(np.mean([abs(row["error_percent"]) for row in own])),
                "bias_percent": float(np.mean([row["error_percent"] for row in own])),
                "inside50": sum(row["inside50"] for row in own),
                "inside95": sum(row["inside95"] for row in own),
                "refuted": any(t for t in tests if t is not None) if any(t is not None for t in tests) else None,
            }
        )
    most = max(entry["cells"] for entry in ranking)
    return sorted(ranking, key=lambda e: (e["cells"] < most, e["crps"]))


def _outside(joint: dict[str, Any], outcomes: Mapping[str, float]) -> bool | None:
    """Whether the outcomes of one sealed entry, together, refute a forecaster; None until all are finished."""
    if not all(run in outcomes for run in joint["runs"]):
        return None
    y = np.log([outcomes[run] for run in joint["runs"]])
    return bool(distance(y, np.array(joint["centre"]), np.array(joint["covariance"]))[0] > joint["limit"])


def _verdict(dataset: str, ranking: list[dict[str, Any]]) -> str:
    best = ranking[0]
    label = {e["forecaster"]: f"{e['law']} on N_{e['n']}" for e in ranking}
    count = best["cells"]
    one = (
        f"{dataset}: of {len(ranking)} forecasters {label[best['forecaster']]} came out best on {count} held-out cells "
        f"(mean error {best['mean_error_percent']:.2f} %, {best['inside95']} of {count} inside 95 %)."
    )
    naive = [(i, e) for i, e in enumerate(ranking) if e["law"] == NAIVE]
    laws = [e for e in ranking if e["law"] != NAIVE]
    two = ""
    if naive and laws:
        place, rival = naive[0]
        figures = (
            f"mean error {rival['mean_error_percent']:.2f} %, CRPS {rival['crps']:.4f} against {laws[0]['crps']:.4f}"
        )
        if place == 0:
            two = f" The naive rival (last loss and local slope) beat every law ({figures})."
        else:
            beaten = sum(e["crps"] > rival["crps"] for e in laws)
            two = f" The naive rival took place {place + 1} of {len(ranking)}, ahead of {beaten} fits ({figures})."
    tested = [e for e in laws if e["refuted"] is not None]
    refuted = [label[e["forecaster"]] for e in tested if e["refuted"]]
    three = f" Refuted at 95 %: {', '.join(refuted)}." if refuted else " No law is refuted at 95 %." if tested else ""
    return one + two + three


def _entropy(table: Any, cards: list[dict[str, Any]]) -> dict[str, Any]:
    exact = float(table["entropy"].dropna().iloc[0])
    loss = np.asarray(table["loss"], float)
    error = np.asarray(table["loss_se"], float) if "loss_se" in table else np.zeros(len(loss))
    error = np.where(np.isfinite(error), error, 0.0)
    excess = loss - exact
    below = excess < -BELOW * error
    lowest = int(np.argmin(excess))
    floors = []
    for card in cards:
        if "E" in card["params"]:
            entry = {k: card["params"]["E"][k] for k in ("value", "lo", "hi")}
            lo = -np.inf if entry["lo"] is None else entry["lo"]
            hi = np.inf if entry["hi"] is None else entry["hi"]
            floors.append({"law": card["law"], "n": card["n"], **entry, "holds_entropy": bool(lo <= exact <= hi)})
    if below.any():
        text = f"{int(below.sum())} of {len(loss)} losses lie more than {BELOW:g} standard errors BELOW the entropy "
        text += f"{exact:.4f}: an error in the source, the split or the evaluation."
    else:
        text = f"all {len(loss)} losses are at or above the entropy {exact:.4f} (lowest {loss[lowest]:.4f} "
        text += f"± {error[lowest]:.4f})."
    for f in floors:
        ends = [("open" if f[k] is None else f"{f[k]:.3f}") for k in ("lo", "hi")]
        holds = "holds" if f["holds_entropy"] else "does not hold"
        text += f" {f['law']} on N_{f['n']}: E = {f['value']:.3f} ({ends[0]} to {ends[1]}) {holds} it."
    return {
        "entropy": exact,
        "runs": len(loss),
        "below": [str(r) for r in table["run"][below]],
        "lowest": {"run": str(table["run"].iloc[lowest]), "loss": float(loss[lowest]), "se": float(error[lowest])},
        "excess": {"largest": float(excess.max()), "smallest": float(excess.min())},
        "floors": floors,
        "ok": not below.any(),
        "verdict": text,
    }
