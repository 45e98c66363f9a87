"""Which runs of a pool should a budget buy, to foretell the dearest? Protocol: next_protocol.md.

    python benchmarks/next.py --shared=../shared --out=benchmarks/next.json

``--only``: sets whose name contains this; ``--strategies``: names separated by commas. It goes on where it stopped:
what the result holds is not scored again. It holds scores and indices of bought runs, no rows of the sets.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # tiny matrices: threads only wait

import argparse
import json
import math
import platform
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import league
import next_rivals
import numpy as np
import pandas as pd
from cpu import cpu_name

from analysis import laws, reference
from analysis.decide import design
from analysis.decide.candidates import FIELD, Candidates, Trained, choose
from analysis.engine.estimate import estimate, objective
from analysis.fitting import fit
from analysis.fitting.below_zero import offset_of
from analysis.laws import Law
from scaling.errors import Code, UserError
from scaling.records import write_json

Array = np.ndarray
LEVELS = ("small", "middle", "large")
SHARES, EVEN = (0.01, 0.05, 0.1), (0.2, 0.35, 0.5)
DEVELOPMENT = ("gadre", "parallel", "vocab")  # sources that the form of next was worked out on
TIE = 0.01
SEEDS = {"random": 3, "cost random": 3, "cheapest": 3}
MOST_ROWS = 400  # of a group: every k-th row by price above that
RIVALS = ("random", "cost random", "cheapest", *next_rivals.CRITERIA)
BEFORE, NEXT = "next before", "next"
PARTS = (0.3, 1 / 3, 1 / 2, 1.0)  # of what is left, after each of which next is asked again


@dataclass
class Group:
    """A pool with prices (n,), its targets, and the law: what a strategy sees. Losses are read by what bought them."""

    law: Law
    kind: str
    pool: pd.DataFrame
    price: Array
    far: pd.DataFrame
    far_price: Array
    drift: float | None = None

    def columns(self, index: Array) -> dict[str, Array]:
        return {name: self.pool[name].to_numpy()[index] for name in self.law.columns}

    def losses(self, index: Array) -> Array:
        return self.pool["loss"].to_numpy()[index]

    @cached_property
    def targets(self) -> dict[str, Array]:
        return {name: self.far[name].to_numpy() for name in self.law.columns}


@dataclass
class Task:
    """One set of the protocol."""

    name: str
    source: str
    groups: list[Group]

    @property
    def shares(self) -> tuple[float, ...]:
        """Its budgets as shares of the price of the whole pool."""
        for group in self.groups:
            first = np.sort(group.price)[: len(group.law.names) + 1].sum()
            if first > SHARES[0] * group.price.sum():
                return EVEN
        return SHARES


@cache
def drift_without(source: str) -> float | None:
    """The drift learned without a source; None, what is shipped, for one that taught nothing."""
    learned = json.loads(Path(__file__).with_name("league.json").read_text())["left_out"]
    return FIELD * learned[source]["pool"]["scale"]["k"] if source in learned else None


def make(name: str, source: str, law: str, tables: Sequence[Any], kind: str = "auto") -> Task:
    """A task of tables with the law's columns, ``price`` and ``loss``, one table a group."""
    groups = []
    for table in tables:
        rows = table.astype(float).sort_values("price", kind="stable").reset_index(drop=True)
        rows["loss"] += offset_of(rows["loss"], laws.get(law), objective(kind))  # R2 does not depend on a constant
        rows = rows[:: math.ceil(len(rows) / MOST_ROWS)].reset_index(drop=True)
        last = len(rows) - math.ceil(len(rows) / 10)
        pool, far = rows[:last], rows[last:].reset_index(drop=True)
        prices = pool["price"].to_numpy(), far["price"].to_numpy()
        groups.append(Group(laws.get(law), kind, pool, prices[0], far, prices[1], drift_without(source)))
    return Task(name, source, groups)


def tasks(shared: Path | None) -> list[Task]:
    """The sets of the protocol; those without a licence only where ``shared`` has them."""
    found = []
    for study in league.studies(shared) if shared else []:
        if study.source in ("porian", "gadre"):
            table = study.table.assign(price=study.table["C"])
            found.append(make(study.name, study.source, "chinchilla", [table[["N", "D", "C", "price", "loss"]]]))
    if shared:
        rows = pd.read_csv(shared / "reference_runs" / "steplaw_dense_lr_bs.csv").astype(float)
        rows = rows.rename(columns={"lr": "learning_rate", "batch_seqs": "batch"}).assign(loss=rows["smooth_loss"])
        rows["price"] = 6 * rows["N"] * rows["D"]
        table = rows[["N", "D", "learning_rate", "batch", "price", "loss"]]
        found.append(make("steplaw lr and batch", "steplaw", "lr_batch", [table]))

    def read(name: str, **columns: str) -> Any:
        return pd.read_csv(reference.FOLDER / f"scalebench_{name}_train.csv").rename(columns=columns)

    rows = read(
        "vocab", non_vocab_parameters="N", vocab_size="vocabulary", num_characters="D", unigram_normalized_loss="loss"
    )
    rows = rows.drop(columns="group").assign(price=rows["N"] * rows["D"])
    found.append(make("vocab", "vocab", "vocabulary", [rows], "raw:auto"))
    rows = read("parallel", num_params="N", parallel_size="streams")
    rows["price"] = rows["N"]
    parts = [part.drop(columns="group") for _, part in rows.groupby("group")]
    found.append(make("parallel", "parallel", "parallel", parts))
    rows = read("sparsity", N_active="N", P="D")
    rows["price"] = 6 * (rows["N_dense"] * rows["D1"] + rows["N"] * rows["D2"])
    parts = [part[["N", "D", "price", "loss"]] for _, part in rows.groupby("group")]
    found.append(make("sparsity", "sparsity", "product_floor", parts))
    return found


# --- strategies


def at_random(name: str, group: Group, budget: float, rng: Any) -> Array:
    """Runs in a random order, as long as each can be paid."""
    price, left, bought = group.price, budget, []
    if name == "cheapest":
        order = np.lexsort((rng.random(len(price)), price))
    else:
        weight = np.ones(len(price)) if name == "random" else 1 / price
        order = np.argsort(rng.exponential(size=len(price)) / weight)  # drawn one by one by weight, among all
    for i in order:
        if price[i] <= left * (1 + 1e-12):
            bought.append(int(i))
            left -= price[i]
    return np.array(bought, dtype=int)


def before(group: Group, budget: float, seed: int) -> Array:
    """``scaling next`` at c5e8de4: a pilot of the cheapest, then two rounds for the loss of the optimum.

    Raises:
      UserError: it does not take the law, or no run can be chosen.
    """
    target = design.parse_target(f"loss@{math.exp(np.log(group.far_price).mean()):g}", group.law)
    if "C" not in group.pool:
        raise UserError("law", group.law.name, "a pool without FLOPs")
    bought, left = [], budget
    for i in range(math.ceil(next_rivals.WARM * len(group.law.names))):
        if group.price[i] <= left:
            bought.append(i)
            left -= group.price[i]
    for part in (0.5, 1.0):
        rest = np.setdiff1d(np.arange(len(group.price)), bought)
        table = group.pool.iloc[bought][["N", "D", "C", "loss"]].reset_index(drop=True)
        try:
            made = fit(league.runs_of(table), group.law, seed=seed)
            thetas = np.vstack([made.theta[None], made.draws[:: max(1, len(made.draws) // 7)][:7]])
            noise = design.Noise(run=float(np.median(made.sigma_run)), drift=made.discrepancy.k or design.DRIFT)
            n, d, c = (group.pool[name].to_numpy()[rest] for name in ("N", "D", "C"))
            pool = design.Pool(n, d, c / d, list(range(len(rest))))
            request = design.Request(target, part * left)
            found = design.propose(group.law, thetas, table, pool, request, noise=noise)
        except UserError:
            continue  # no optimum at this fit, or nothing affordable: what is left goes to the next round
        bought += [int(rest[j]) for j in found.chosen]
        left -= found.spent
    return np.array(bought, dtype=int)


def chosen(group: Group, budget: float) -> Array:
    """``decide.candidates``, asked again after every part of the budget."""
    every, bought, left = np.arange(len(group.price)), np.zeros(0, dtype=int), budget
    for part in PARTS:
        rest = np.setdiff1d(every, bought)
        runs = Candidates(group.columns(rest), group.price[rest])
        trained = Trained(group.columns(bought), group.losses(bought)) if len(bought) else None
        try:
            found = choose(group.law, runs, group.targets, left, trained, kind=objective(group.kind), drift=group.drift)
        except UserError as error:
            if error.code is not Code.INVALID:
                raise
            break  # what is left buys no run
        paid = np.cumsum([0.0, *group.price[rest[list(found.chosen)]]])[:-1]
        now = rest[[j for j, spent in zip(found.chosen, paid) if spent < part * left]]
        bought, left = np.concatenate([bought, now]), left - float(group.price[now].sum())
    return bought


def buy(strategy: str, group: Group, budget: float, seed: int) -> Array:
    """The runs that a strategy buys, in order."""
    rng = np.random.default_rng([seed, zlib.crc32(strategy.encode())])
    if strategy == "all data":
        return np.arange(len(group.price))
    if strategy in next_rivals.CRITERIA:
        return next_rivals.follow(strategy, group, budget, rng)
    if strategy == NEXT:
        return chosen(group, budget)
    if strategy == BEFORE:
        return before(group, budget, seed)
    return at_random(strategy, group, budget, rng)


# --- scores


def forecast(group: Group, bought: Array, kind: str) -> Array | None:
    """Losses at the targets by a fit to what was bought; None where there is none."""
    try:
        with np.errstate(all="ignore"):
            point = estimate(group.law, group.columns(bought), group.losses(bought), objective(kind))
            found = point.surface.law.predict(point.theta, group.targets)
    except (UserError, np.linalg.LinAlgError, ValueError):
        return None
    return found if np.isfinite(found).all() else None


def r2(task: Task, forecasts: Sequence[Array | None]) -> float:
    """R2 over the targets of all groups, clipped to [-1, 1]; -1 where a group has no forecast."""
    if any(part is None for part in forecasts):
        return -1.0
    y = np.concatenate([group.far["loss"].to_numpy() for group in task.groups])
    off = y - np.concatenate([part for part in forecasts if part is not None])
    return float(np.clip(1 - off @ off / ((y - y.mean()) ** 2).sum(), -1, 1))


def error_of(task: Task, runs: Sequence[Sequence[int]]) -> float:
    """Mean absolute error of log loss over the targets by the fit to bought runs, at most 1 each."""
    total = []
    for group, bought in zip(task.groups, runs):
        found = forecast(group, np.array(bought, dtype=int), group.kind)
        at = np.full(len(group.far), np.inf) if found is None else np.maximum(found, 1e-300)
        total.append(np.minimum(np.abs(np.log(at / group.far["loss"].to_numpy())), 1.0))
    return float(np.concatenate(total).mean())


def play(task: Task, strategy: str, level: int) -> dict[str, Any] | None:
    """One episode a seed; None where the strategy refuses the set."""
    scores, squares, share, runs = [], [], [], []
    start = time.process_time()
    for seed in range(SEEDS.get(strategy, 1)):
        budgets = [task.shares[level] * group.price.sum() for group in task.groups]
        try:
            bought = [buy(strategy, group, budget, seed) for group, budget in zip(task.groups, budgets)]
        except UserError:
            return None
        parts = list(zip(task.groups, bought))
        for total, kind in ((scores, None), (squares, "raw:squares")):
            total.append(r2(task, [forecast(group, index, kind or group.kind) for group, index in parts]))
        paid = sum(float(group.price[index].sum()) for group, index in parts)
        share.append(paid / sum(float(group.price.sum()) for group in task.groups))
        runs.append([index.tolist() for index in bought])
    return {
        "set": task.name,
        "source": task.source,
        "strategy": strategy,
        "budget": "all" if strategy == "all data" else LEVELS[level],
        "share": 1.0 if strategy == "all data" else task.shares[level],
        "r2": round(float(np.mean(scores)), 4),
        "r2_seeds": [round(score, 4) for score in scores],
        "r2_least_squares": round(float(np.mean(squares)), 4),
        "spent": round(float(np.mean(share)), 4),
        "error": round(error_of(task, runs[0]), 5),
        "runs": round(float(np.mean([sum(map(len, run)) for run in runs])), 1),
        "first": runs[0],
        "cpu_seconds": round(time.process_time() - start, 2),
    }


def table_of(entries: Sequence[dict[str, Any]], score: str = "r2") -> list[dict[str, Any]]:
    """Median and mean over sets by budget and strategy, and in how many sets it is within TIE of the best."""
    rows = []
    for budget in (*LEVELS, "all"):
        mine = [entry for entry in entries if entry["budget"] == budget]
        best = {entry["set"]: max(e[score] for e in mine if e["set"] == entry["set"]) for entry in mine}
        for strategy in dict.fromkeys(entry["strategy"] for entry in mine):
            own = [entry for entry in mine if entry["strategy"] == strategy]
            values = [entry[score] for entry in own]
            row = {
                "budget": budget,
                "strategy": strategy,
                "sets": len(own),
                "median": round(float(np.median(values)), 4),
            }
            row |= {"mean": round(float(np.mean(values)), 4)}
            row |= {"best": sum(entry[score] >= best[entry["set"]] - TIE for entry in own)}
            rows.append(row | {"median_error": round(float(np.median([entry["error"] for entry in own])), 5)})
    return rows


def result_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    kept = [entry for entry in entries if entry["source"] not in DEVELOPMENT]
    return {
        "protocol": "next_protocol.md",
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "cpu": cpu_name()},
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in entries)),
        "table": table_of(entries),
        "least_squares": table_of(entries, "r2_least_squares"),
        "kept": table_of(kept),
        "entries": entries,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--out", default="benchmarks/next.json")
    parser.add_argument("--only", default="", help="sets whose name contains this")
    parser.add_argument("--strategies", default=",".join((*RIVALS, BEFORE, NEXT, "all data")))
    options = parser.parse_args()
    if not (Path(options.shared) / "reference_runs").is_dir():
        raise UserError("shared", options.shared, "has no folder reference_runs")
    out = Path(options.out)
    entries: list[dict[str, Any]] = json.loads(out.read_text())["entries"] if out.is_file() else []
    for task in tasks(Path(options.shared)):
        for strategy in options.strategies.split(","):
            done = any(entry["set"] == task.name and entry["strategy"] == strategy for entry in entries)
            if done or options.only not in task.name:
                continue
            for level in range(1 if strategy == "all data" else len(LEVELS)):
                if (entry := play(task, strategy, level)) is not None:
                    entries.append(entry)
                    shown = {k: v for k, v in entry.items() if k not in ("first", "r2_seeds", "source")}
                    print(*shown.values(), sep="  ", flush=True)
            write_json(out, result_of(entries))
    result = result_of(entries)
    for row in result["table"]:
        print(row)


if __name__ == "__main__":
    main()
