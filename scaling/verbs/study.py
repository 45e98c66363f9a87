"""plan, run and status: a study from its cells to its records."""

from __future__ import annotations

import math
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling import launch
from scaling.errors import UserError
from scaling.launch import worker
from scaling.launch.progress import follow
from scaling.status import SETTLED, StatusReader, activity, duration, headline, study_status
from scaling.verbs.show import print_json, table


def default_workdir(name: str, argument: str | None) -> Path:
    """runs/NAME, or runs/NAME-ARGUMENT for an argument of the configuration that is not in its name already."""
    slug = re.sub(r"[^\w.-]+", "-", argument or "").strip("-")
    return Path("runs") / (name if not slug or name.endswith(f"-{slug}") else f"{name}-{slug}")


def _planned(options: SimpleNamespace) -> tuple[Any, Path]:
    from scaling import plan as plans
    from scaling import study as studies

    study = studies.resolve(options.config)
    workdir = Path(options.workdir) if options.workdir else default_workdir(study.name, options.argument)
    return plans.make(study, workdir if workdir.is_dir() else None), workdir


def plan(options: SimpleNamespace) -> int:
    """The cells of a study and their price. Writes nothing."""
    if options.config is None:
        raise UserError("config", "nothing", "give --config=FILE.py or the name of an installed experiment (demo)")
    made, workdir = _planned(options)
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


def run(options: SimpleNamespace) -> int:
    """Trains what is not final. 0 all done; 1 some failed; 2 some were rejected; 130 after a Ctrl-C."""
    planned = None
    if options.config is not None:
        planned, workdir = _planned(options)
    elif options.workdir:
        workdir = Path(options.workdir)
    else:
        raise UserError("config", "nothing", "give --config=FILE.py, or --workdir of a study to continue")
    given = {"workers": options.workers, "cache": options.cache, "execute": options.execute,
             "ensemble": options.ensemble}  # fmt: skip
    # What is wrong with its options is heard of before anything is written.
    engine = launch.engine(options.engine)(workdir, max_attempts=options.max_attempts, **given)
    if planned is not None:
        from scaling import plan as plans

        plans.write(planned, workdir)
    reader = StatusReader(workdir)
    if options.retry_failed:
        worker.reset(workdir, reader.programs)
    pending = [p for p in reader.programs if not all(worker.settled(workdir, spec) for spec in p["runs"])]
    signalled = problem = None
    if pending:
        engine.submit(pending)
        left = duration(reader.read(engine.size)["seconds"]["eta"])
        print(f"{reader.name}: {len(pending)} of {len(reader.programs)} programs to train on {engine.size} workers, "
              f"about {left}; {workdir}", file=sys.stderr, flush=True)  # fmt: skip
        signalled, problem = follow(engine, reader, sys.stderr)
    status = reader.read()
    if problem is not None and signalled is None:
        raise problem
    if options.json:
        print_json(status)
    elif pending:
        print(headline(status))
    else:
        print(f"nothing to do: all {status['counts']['total']} runs of {workdir} are final")
    if signalled is not None:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130 if signalled == signal.SIGINT else 128 + signalled
    _print_failures(status, sys.stderr)
    for text in status["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    return 2 if status["counts"]["rejected"] else 1 if status["counts"]["failed"] else 0


def _print_failures(status: dict[str, Any], stream: Any) -> None:
    reasons: dict[tuple[str, str], list[str]] = {}
    for failure in status["failures"]:
        reasons.setdefault((failure["status"], failure["reason"]), []).append(failure["run"])
    for (state, reason), runs in reasons.items():
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        print(f"{state}: {runs[0]}{more}: {reason}", file=stream)
    if status["retry"]:
        print(f"to train them again: {status['retry']}", file=stream)


def status(options: SimpleNamespace) -> int:
    """What is done and what is left."""
    found = study_status(options.path)
    if options.json:
        print_json(found)
        return 0
    columns: dict[str, Callable[[dict[str, Any]], object]] = {
        "run": lambda row: row["run"],
        "role": lambda row: row["role"],
        "N": lambda row: f"{row['N']:,}",
        "D": lambda row: f"{row['D']:,}",
        "state": lambda row: row["state"],
        "step": lambda row: f"{row['step']}/{row['steps']}",
        "loss": lambda row: "sealed" if row["hidden"] else "" if row["loss"] is None else f"{row['loss']:.4f}",
        "se": lambda row: "" if row["se"] is None else f"{row['se']:.4f}",
        "seconds": lambda row: f"{row['seconds']:.1f}",
        "attempts": lambda row: row["attempts"],
    }
    print("\n".join(table(found["runs"], columns)))
    print()
    print(headline(found))
    for line in activity(found):
        print(f"  {line}")
    flops, seconds = found["flops"], found["seconds"]
    print(f"spent {flops['done']:.3e} of {flops['total']:.3e} FLOPs, {duration(seconds['spent'])} of device time; "
          f"left {duration(seconds['left'])}")  # fmt: skip
    if any(row["hidden"] and row["state"] in SETTLED for row in found["runs"]):
        print(f"held-out losses stay sealed until `scaling predict {options.path}`")
    _print_failures(found, sys.stdout)
    for text in found["warnings"]:
        print(f"warning: {text}")
    return 0
