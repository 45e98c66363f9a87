"""How often does the interval of a gate hold the true compute multiplier? Promised: 95 %. See gate_protocol.md.

    python benchmarks/gate.py --gates=504 --jobs=2 --out=benchmarks/gate.json

Gate k of a setting has truth k mod 4 and multiplier k mod 3, and its own seed. ``first`` holds the intervals of the
first gates of every setting, from which a test sees that the file is stale. About 0.04 CPU-seconds a gate.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.card import Conventions
from analysis.decide.gate import MARGIN, Gate, Side, gate, plan
from analysis.table.runs import Runs
from scaling.errors import UserError
from scaling.records import write_json

Array = np.ndarray
LEAST, DECADES = 1e18, 2.5
TRUTHS = ((1.7, 3.4, 0.10), (1.0, 3.2, 0.06), (2.2, 3.6, 0.16), (0.0, 3.5, 0.04))  # E, L at LEAST, a
MULTIPLIERS = (0.8, 1.0, 1.3)
NOISE = (0.002, 0.005, 0.01)
DESIGNS = ((5, 3, "dearest"), (6, 4, "cheapest"), (8, 6, "across"))
TILTS = (0.0, 0.03)
FIRST = 12  # gates kept with their numbers
AS_A_TABLE = Conventions(origin="table", flops="column", columns={"C": "C", "loss": "loss"})


class Setting(NamedTuple):
    """Noise of log loss, runs of base and variant, budgets of the variant, and its exponent over the base's less 1."""

    noise: float
    base: int
    variant: int
    where: str
    tilt: float


SETTINGS = [Setting(noise, *design, tilt) for tilt in TILTS for noise in NOISE for design in DESIGNS]


class Simulated(NamedTuple):
    """Runs of base and variant, and the log of the true multiplier."""

    base: Side
    variant: Side
    truth: float


def simulate(setting: Setting, k: int, multiplier: float | None = None) -> Simulated:
    """Gate k of a setting; ``multiplier`` replaces the one whose turn it is."""
    floor, start, a = TRUTHS[k % len(TRUTHS)]
    times = math.log(MULTIPLIERS[k % len(MULTIPLIERS)] if multiplier is None else multiplier)
    x = np.log(LEAST) + np.log(10) * np.linspace(0, DECADES, setting.base)
    across = np.linspace(x[0], x[-1], setting.variant)
    v = {"dearest": x[-setting.variant :], "cheapest": x[: setting.variant], "across": across}[setting.where]
    amplitude = math.log(start - floor) + a * np.log(LEAST)
    rng = np.random.default_rng([23, k, *(round(1000 * part) for part in setting if not isinstance(part, str))])
    # over the base's law moved by the multiplier, a steeper line that crosses it in the middle of the runs
    reducible = amplitude - a * (v + times) - a * setting.tilt * (v - v.mean())
    sides = []
    for name, at, log in (("base", x, amplitude - a * x), ("variant", v, reducible)):
        loss = (floor + np.exp(log)) * np.exp(setting.noise * rng.standard_normal(len(at)))
        frame = pd.DataFrame({"run": [f"run {i}" for i in range(len(at))], "C": np.exp(at), "loss": loss})
        sides.append(Side(name, Runs(frame, (), AS_A_TABLE, name, "simulated", f"{name} {k}")))
    return Simulated(sides[0], sides[1], times)


def wrong(found: Gate, truth: float) -> bool:
    """Whether the verdict is not true: it saves (or costs) no more than the margin."""
    limit = math.log1p(found.margin)
    return (found.outcome == "saves" and truth <= limit) or (found.outcome == "costs" and truth >= -limit)


def score(setting: Setting, gates: int) -> dict[str, Any]:
    """Intervals of a setting's gates, with what was true: one list a column."""
    columns: dict[str, list[Any]] = {name: [] for name in ("lo", "hi", "truth", "wrong", "told", "refused")}
    start = time.process_time()
    for k in range(gates):
        base, variant, truth = simulate(setting, k)
        try:
            found = gate(base, variant)
        except UserError as error:
            row = (math.inf, -math.inf, truth, False, False, str(error.code))
        else:
            lo, hi = found.multiplier.lo, found.multiplier.hi
            ends = (math.log(lo) if lo else -math.inf, math.inf if hi is None else math.log(hi))
            row = (*ends, truth, wrong(found, truth), found.outcome != "unknown", "")
        for name, value in zip(columns, row):
            columns[name].append(value)
    return {**columns, "cpu": time.process_time() - start}


def power(setting: Setting, gates: int) -> dict[str, Any]:
    """What ``plan`` promised, and how often a change that saves the margin had an interval above 1."""
    promised, found = [], []
    for k in range(gates):
        base, variant, _ = simulate(setting, 100_000 + k, 1 + MARGIN)
        try:
            at = [float(c) for c in variant.runs.table["C"]]
            promised.append(plan(base, at).power.detect)
            found.append((gate(base, variant).multiplier.lo or 0.0) > 1)
        except UserError:
            found.append(False)
    named = {"noise": setting.noise, "base": setting.base, "variant": setting.variant, "gates": gates}
    return {**named, "promised": round(float(np.mean(promised)), 4), "found": round(float(np.mean(found)), 4)}


def summary(setting: Setting, columns: dict[str, Any]) -> dict[str, Any]:
    lo, hi, truth = (np.array(columns[name]) for name in ("lo", "hi", "truth"))
    refused = np.array([bool(code) for code in columns["refused"]])
    width = np.where(refused, np.inf, hi - lo)
    return {
        **setting._asdict(),
        "gates": len(lo),
        "cover": round(float(((lo <= truth) & (truth <= hi)).mean()), 4),
        "truth_below": round(float((~refused & (truth < lo)).mean()), 4),
        "truth_above": round(float((~refused & (truth > hi)).mean()), 4),
        "median_width": round(float(np.exp(np.median(width))), 3),
        "open": round(float(np.isinf(width[~refused]).mean()), 4),
        "refused": int(refused.sum()),
        "wrong": round(float(np.mean(columns["wrong"])), 4),
        "told": {
            f"{m:g}": round(float(np.mean(np.array(columns["told"])[np.isclose(truth, math.log(m))])), 4)
            for m in MULTIPLIERS
        },
        "first": [
            [float(f"{v:.6g}") if math.isfinite(v) else None for v in ends] for ends in zip(lo[:FIRST], hi[:FIRST])
        ],
        "cpu_seconds_per_gate": round(columns["cpu"] / len(lo), 3),
    }


def overall(every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Coverage over all gates, by truth and by multiplier."""
    inside = np.concatenate(
        [(np.array(c["lo"]) <= np.array(c["truth"])) & (np.array(c["truth"]) <= np.array(c["hi"])) for c in every]
    )
    k = np.concatenate([np.arange(len(c["lo"])) for c in every])
    return {
        "gates": len(inside),
        "cover": round(float(inside.mean()), 4),
        "by_floor": {f"{t[0]:g}": round(float(inside[k % len(TRUTHS) == i].mean()), 4) for i, t in enumerate(TRUTHS)},
        "by_multiplier": {
            f"{m:g}": round(float(inside[k % len(MULTIPLIERS) == i].mean()), 4) for i, m in enumerate(MULTIPLIERS)
        },
        "wrong": round(float(np.mean(np.concatenate([c["wrong"] for c in every]))), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=504, help="of each setting")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", default="benchmarks/gate.json")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(score, setting, options.gates) for setting in SETTINGS]
        powers = [pool.submit(power, setting, options.gates // 2) for setting in SETTINGS if not setting.tilt]
        every = []
        for setting, future in zip(SETTINGS, waiting):
            every.append(future.result())
            row = summary(setting, every[-1])
            print({name: value for name, value in row.items() if name != "first"}, flush=True)
        found = [future.result() for future in powers]
    rows = [summary(setting, columns) for setting, columns in zip(SETTINGS, every)]
    machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    head = {"schema": 1, "kind": "gate_coverage", "nominal": 0.95, "margin": MARGIN, **machine}
    write_json(options.out, {**head, "all": overall(every), "rows": rows, "power": found})
    print(overall(every))
    print("\n".join(map(str, found)))


if __name__ == "__main__":
    main()
