"""plan: shows the cells of a study and their cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.verbs._declare import JSON, WORKDIR, Verb
from scaling.verbs._study import planned
from scaling.verbs.show import print_json, table

if TYPE_CHECKING:
    from analysis.decide.design import ExpectedPrecision
    from scaling.plan import MemoryCheck, Plan, PlannedCell, ShapeMemory
    from scaling.records.types import Regret


NOISE = 0.005  # sd of log loss between runs that differ only in seed


def plan(options: SimpleNamespace) -> int:
    """Prints the cells of a study and their cost. Writes nothing."""
    if options.config is None:
        remedy = "give --config=FILE.py or the name of an installed experiment (demo)"
        raise UserError("config", "nothing", remedy, Code.MISSING)
    study_plan, workdir = planned(options)
    memory = _memory(study_plan, options)
    rows, expected = study_plan.rows(), expected_precision(study_plan, options.simulate, options.noise)
    if options.json:
        answer = {"schema": 2, "kind": "plan", "study": study_plan.study.name, "workdir": str(workdir), "cells": rows}
        answer |= {
            "totals": study_plan.totals,
            "expected_precision": expected,
            "memory": memory,
            "warnings": study_plan.warnings,
        }
        print_json(answer)
        return 0
    _print_cells(rows)
    _print_parameters(rows)
    _print_price(study_plan)
    if memory is not None:
        _print_memory(memory)
    _print_precision(expected)
    _print_regret([(row, row.regret) for row in rows if row.regret is not None])
    for text in study_plan.warnings:
        print(f"warning: {text}")
    return 0


def _print_cells(rows: Sequence[PlannedCell]) -> None:
    columns: dict[str, Callable[[PlannedCell], object]] = {
        "dataset": lambda row: row.dataset,
        "role": lambda row: row.role,
        "size": lambda row: row.size,
        "N": lambda row: f"{row.N:,}",
        "total": lambda row: f"{row.N_total:,}",
        "D": lambda row: f"{row.D:,}",
        "D/N": lambda row: f"{row.D / row.N:.3g}",
        "steps": lambda row: f"{row.steps:,}",
        "batch": lambda row: row.batch,
        "lr": lambda row: f"{row.learning_rate:.3g}",
        "seed": lambda row: row.seed,
        "FLOPs": lambda row: f"{row.flops:.3e}",
        "6ND": lambda row: f"{row.six_nd:.3e}",
        "seconds": lambda row: f"{row.seconds:.1f}",
    }
    if any(row.parents for row in rows):
        columns["starts from"] = lambda row: ", ".join(row.parents)
        columns["their FLOPs"] = lambda row: f"{row.parent_flops:.3e}" if row.parent_flops else ""
    if any(row.cost for row in rows):
        columns["cost"] = lambda row: f"{row.cost:.2f}"
    print("\n".join(table(rows, columns)))


def _print_parameters(rows: Sequence[PlannedCell]) -> None:
    sizes: dict[tuple[str, int], dict[str, int]] = {}
    for row in rows:
        sizes.setdefault((row.dataset, row.size), row.groups)
    names = list(dict.fromkeys(name for counts in sizes.values() for name in counts))
    listed = [{"dataset": dataset, "size": size, **counts} for (dataset, size), counts in sizes.items()]
    shown = {name: (lambda row, name=name: row.get(name, "")) for name in ("dataset", "size", *names)}
    print("\nparameters by group")
    print("\n".join(table(listed, shown)))


def _print_price(study_plan: Plan) -> None:
    from scaling.status import duration

    totals, machine = study_plan.totals, study_plan.speed.machine
    price = f", cost {totals.cost:.2f}" if totals.cost else ""
    print(f"\n{totals.cells} cells in {totals.programs} programs, {totals.flops:.3e} FLOPs (each stem counted once)")
    device = "accelerator" if machine is not None and machine.accelerated else "CPU core"
    print(f"about {duration(totals.device_seconds)} of one {device}{price}")
    if machine is not None and not machine.accelerated:
        together = f"about {duration(study_plan.wall(machine.cores))} on the {machine.cores} cores of this machine"
        print(f"{together} ({machine.cpu}; measured, with compilation and evaluation)")


def _memory(study_plan: Plan, options: SimpleNamespace) -> MemoryCheck | None:
    """Memory that each shape needs, if requested. UserError if a cell does not fit."""
    if not (options.check_memory or options.device):
        return None
    from scaling import plan as plans

    return plans.check_memory(study_plan, options.device)


def _print_memory(memory: MemoryCheck) -> None:
    print(f"\nmemory of {memory.device}, {memory.bytes / 1e9:.4g} GB usable; compiled for {memory.compiled_for}")
    columns: dict[str, Callable[[ShapeMemory], object]] = {"shape": lambda row: row.shape}
    for part in ("state", "stem", "batches", "temporary", "total"):
        columns[part] = lambda row, part=part: f"{getattr(row, part) / 1e9:.4g} GB"
    print("\n".join(table(memory.shapes, columns)))


def expected_precision(study_plan: Plan, simulate: int = 0, noise: float = NOISE) -> dict[str, ExpectedPrecision]:
    """Expected precision of a fit to the cells of each data set; holdouts are not fitted and do not count."""
    from analysis.decide import design

    expected = {}
    for dataset in study_plan.study.datasets:
        manifests = [
            spec.manifest
            for program in study_plan.programs
            for spec in program.runs
            if spec.kind != "stem" and spec.role in ("fit", "seed") and spec.manifest.dataset == dataset
        ]
        if not manifests:
            continue
        columns = {
            "N": [float(manifest.parameters.nonembedding) for manifest in manifests],
            "D": [float(manifest.tokens.D) for manifest in manifests],
            "stem": [manifest.stem or manifest.run for manifest in manifests],
        }
        expected[dataset] = design.expected_precision(columns, studies=simulate, noise=noise)
    return expected


def _print_precision(expected: dict[str, ExpectedPrecision]) -> None:
    if not expected:
        return
    from analysis.show.numbers import percent
    from analysis.show.precision_sentences import half_widths, prior_words

    first = next(iter(expected.values()))
    intervals = f"{percent(first.level)} intervals from a fit to these cells"
    print(f"\nexpected half-widths of the {intervals} ({prior_words(first.prior)})")
    for dataset, precision in expected.items():
        print(f"  {dataset}: {half_widths(precision)}")
        for name, drawn in (precision.simulated or {}).items():
            simulated = f"by simulation ±{drawn.half_width:.2g}, RMSE {drawn.rmse:.2g}, covered {drawn.cover:.0%}"
            print(f"    {name}: {simulated}")


def _print_regret(rows: Sequence[tuple[PlannedCell, Regret]]) -> None:
    if not rows:
        return
    print("\nregret of learning rate and batch under the tuned recipe, at the corners of the study")
    for n, d in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        row, regret = max(rows, key=lambda each, n=n, d=d: n * math.log(each[0].N) + d * math.log(each[0].D))
        print(f"  N {row.N:,}, D {row.D:,}: {regret.value:.2%} of the loss, at most {regret.hi:.2%}")


def _devices() -> Iterable[str]:
    from scaling.device import MEMORY

    return MEMORY


VERB = Verb(
    summary="show a study before training it: its cells, their time, and the expected precision",
    flags=(
        WORKDIR,
        Flag("simulate", int, "also simulate and fit this many studies, to check the expected precision (slow)", 0),
        Flag("noise", float, "assumed sd of log loss between runs that differ only in seed", NOISE),
        Flag("check_memory", bool, "compile every shape, and refuse cells that do not fit in memory", False),
        Flag(
            "device",
            str,
            "check against the memory of this device, such as h100-80gb (default: the present one)",
            offers=_devices,
        ),
        JSON,
    ),
    study=True,
    example="scaling plan --config=demo:smoke",
    call=plan,
)
