"""plan: the cells of a study and their price."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from scaling.errors import UserError
from scaling.flags import Flag
from scaling.verbs._declare import JSON, WORKDIR, Verb
from scaling.verbs._study import planned
from scaling.verbs.show import print_json, table


def plan(options: SimpleNamespace) -> int:
    """The cells of a study and their price. Writes nothing."""
    if options.config is None:
        raise UserError("config", "nothing", "give --config=FILE.py or the name of an installed experiment (demo)")
    from scaling.status import duration

    made, workdir = planned(options)
    fits = _fits(made, options)
    rows, totals, hopes = made.rows(), made.totals, _hopes(made, options)
    if options.json:
        print_json({"schema": 1, "kind": "plan", "study": made.study.name, "workdir": str(workdir), "cells": rows,
                     "totals": totals, "hopes": hopes, "memory": fits, "warnings": list(made.warnings)})  # fmt: skip
        return 0
    columns: dict[str, Callable[[dict[str, Any]], object]] = {
        "dataset": lambda row: row["dataset"],
        "role": lambda row: row["role"],
        "size": lambda row: row["size"],
        "N": lambda row: f"{row['N']:,}",
        "total": lambda row: f"{row['N_total']:,}",
        "D": lambda row: f"{row['D']:,}",
        "D/N": lambda row: f"{row['D'] / row['N']:.3g}",
        "steps": lambda row: f"{row['steps']:,}",
        "batch": lambda row: row["batch"],
        "lr": lambda row: f"{row['learning_rate']:.3g}",
        "seed": lambda row: row["seed"],
        "FLOPs": lambda row: f"{row['flops']:.3e}",
        "6ND": lambda row: f"{row['6ND']:.3e}",
        "seconds": lambda row: f"{row['seconds']:.1f}",
    }
    if any(row["cost"] for row in rows):
        columns["cost"] = lambda row: f"{row['cost']:.2f}"
    print("\n".join(table(rows, columns)))
    groups: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["size"]), row["groups"])
    names = list(dict.fromkeys(name for counts in groups.values() for name in counts))
    listed = [{"dataset": key[0], "size": key[1], **counts} for key, counts in groups.items()]
    print("\nparameters by group")
    shown = {name: (lambda row, name=name: row.get(name, "")) for name in ("dataset", "size", *names)}
    print("\n".join(table(listed, shown)))
    price = f", cost {totals['cost']:.2f}" if totals["cost"] else ""
    time = duration(totals["device_seconds"])
    print(f"\n{totals['cells']} cells in {totals['programs']} programs, {totals['flops']:.3e} FLOPs (a stem once)")
    print(f"about {time} of one CPU core{price}")
    if fits:
        print(f"\nmemory of {fits['device']}, {fits['bytes'] / 1e9:.4g} GB usable; compiled for {fits['compiled_for']}")
        parts = ("state", "batches", "temporary", "total")
        print("\n".join(table(fits["shapes"], {
            "shape": lambda row: row["shape"],
            **{part: (lambda row, part=part: f"{row[part] / 1e9:.4g} GB") for part in parts},
        })))  # fmt: skip
    if hopes:
        print(f"\n95 % intervals that these cells can hope for ({next(iter(hopes.values()))['prior']})")
    for dataset, hope in hopes.items():
        print(f"  {dataset}: {hope['sentence']}")
        for name, seen in (hope.get("simulated") or {}).items():
            print(f"    {name}: by simulation ±{seen['half_width']:.2g}, RMSE {seen['rmse']:.2g}, "
                  f"covered {seen['cover']:.0%}")  # fmt: skip
    if found := [row for row in rows if "regret" in row]:
        print("\nregret of learning rate and batch by the tuned recipe, at the corners of the study")
        for n, d in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            row = max(found, key=lambda row, n=n, d=d: n * math.log(row["N"]) + d * math.log(row["D"]))
            print(f"  N {row['N']:,}, D {row['D']:,}: {row['regret']['value']:.2%} of the loss, "
                  f"at most {row['regret']['hi']:.2%}")  # fmt: skip
    for text in made.warnings:
        print(f"warning: {text}")
    return 0


def _fits(made: Any, options: SimpleNamespace) -> dict[str, Any] | None:
    """What each shape takes of a device's memory, where that was asked. UserError where a cell does not fit."""
    if not (options.check_memory or options.device):
        return None
    from scaling import plan as plans

    return plans.check_memory(made, options.device)


def _hopes(made: Any, options: SimpleNamespace) -> dict[str, Any]:
    """By dataset, what its cells can hope for; holdouts are not fitted and do not count."""
    from analysis.decide import design

    found = {}
    for dataset in made.study.datasets:
        specs = [s for p in made.programs for s in p["runs"] if s["kind"] != "stem" and s["role"] in ("fit", "seed")]
        own = [s["manifest"] for s in specs if s["manifest"]["dataset"] == dataset]
        if not own:
            continue
        columns = {"N": [float(m["parameters"]["nonembedding"]) for m in own]}
        columns["D"] = [float(m["tokens"]["D"]) for m in own]
        found[dataset] = design.hope(
            {**columns, "stem": [m["stem"] or m["run"] for m in own]}, studies=options.simulate, noise=options.noise
        )
    return found


VERB = Verb(
    summary="show a study before it is trained: every cell's N, D and steps, FLOPs, time, expected precision",
    flags=(
        WORKDIR,
        Flag("simulate", int, "draw and fit this many studies too, as a check of the expected precision (slow)", 0),
        Flag("noise", float, "assumed sd of log loss between runs that differ in their seed", 0.005),
        Flag("check_memory", bool, "compile every shape and refuse cells that do not fit into memory", False),
        Flag("device", str, "check the memory of this device, such as h100-80gb (default: the one here)"),
        JSON,
    ),
    study=True,
    example="scaling plan --config=demo:smoke",
    call=plan,
)
