"""The plan: cells priced, grouped into programs (a stem with its branches), written as study.json for the workers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling import count, data, device, families, recipe
from scaling.errors import UserError
from scaling.records import SCHEMA, identity, read_json, records, write_json
from scaling.study import Cell, Study, stem_key

# A first guess of the time on one CPU core, replaced by what finished runs of the same workdir took. Measured on an AMD
# EPYC core with AVX-512, 16 x 64 tokens a step: 2.9, 5.4 and 11.3 ms at sizes 0, 2 and 4 of gpt.
CPU_RATE, CPU_STEP_SECONDS, CPU_COMPILE_SECONDS = 9e10, 2e-3, 6.0


@dataclass(frozen=True)
class Plan:
    """Programs in the order in which workers should take them, longest first, and what they cost."""

    study: Study
    programs: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    price_per_hour: float

    def rows(self) -> list[dict[str, Any]]:
        """One row a cell: role, counts, D, steps, hyperparameters, FLOPs, memory, time and cost."""
        rows = []
        for program in self.programs:
            for spec in program["runs"]:
                manifest = spec["manifest"]
                if spec["kind"] == "stem":
                    continue
                share = spec["flops"] / max(1, program["flops"])
                rows.append(
                    {
                        "run": spec["run"],
                        "dataset": manifest["dataset"],
                        "role": manifest["role"],
                        "size": manifest["size"],
                        "N": manifest["parameters"]["nonembedding"],
                        "N_total": manifest["parameters"]["total"],
                        "groups": manifest["parameters"]["groups"],
                        "D": manifest["tokens"]["D"],
                        "epochs": manifest["tokens"]["epochs"],
                        "steps": spec["steps"],
                        "batch": manifest["recipe"]["batch"],
                        "learning_rate": manifest["recipe"]["learning_rate"],
                        **({"regret": manifest["regret"]} if "regret" in manifest else {}),
                        "seed": manifest["seed"],
                        "flops": manifest["flops"]["training"],
                        "6ND": manifest["flops"]["6ND"],
                        "state_bytes": manifest["parameters"]["total"] * 16,
                        "seconds": program["seconds"] * share,
                        "cost": program["seconds"] * share / 3600 * self.price_per_hour,
                    }
                )
        return sorted(rows, key=lambda row: (row["dataset"], row["role"], row["N"], row["D"], row["seed"]))

    @property
    def totals(self) -> dict[str, float]:
        """Cells, programs, the FLOPs that will be trained (a stem once), the device seconds and their price."""
        seconds = sum(program["seconds"] for program in self.programs)
        return {
            "cells": len(self.study.cells),
            "programs": len(self.programs),
            "flops": sum(program["flops"] for program in self.programs),
            "device_seconds": seconds,
            "cost": seconds / 3600 * self.price_per_hour,
        }

    def to_json(self) -> dict[str, Any]:
        """The content of study.json: all that workers, status and analysis need to know of the study."""
        tuned = {"tuned": self.study.tuned} if self.study.tuned else {}
        return {
            "schema": SCHEMA,
            "name": self.study.name,
            "datasets": self.study.datasets,
            "options": self.study.options,
            "ladder": _ladder(self.study.cells),
            **tuned,
            "programs": list(self.programs),
        }


def make(study: Study, workdir: Path | None = None) -> Plan:
    """Prices a study. With a workdir, the time estimate is scaled to what its finished runs took."""
    groups: dict[str, list[Cell]] = {}
    for cell in study.cells:
        key = stem_key(cell)
        groups.setdefault(key or f"whole {len(groups)}", []).append(cell)
    speed = _measured_speed(workdir)
    made = [(_program(study, cells, speed), cells[0]) for cells in groups.values()]
    seen = set()
    for program, cell in sorted(made, key=lambda pair: -pair[0]["seconds"]):
        shape = cell.family, cell.config, cell.recipe.batch
        program["seconds"] += 0 if shape in seen else CPU_COMPILE_SECONDS  # by the first that is trained
        seen.add(shape)
    programs = sorted((program for program, _ in made), key=lambda program: -program["seconds"])
    return Plan(study, tuple(programs), tuple(_warnings(study)), study.price_per_hour)


def write(plan: Plan, workdir: Path) -> None:
    """Writes study.json. UserError where the workdir holds another study or cannot be written."""
    path = Path(workdir) / "study.json"
    if path.exists() and (name := read_json(path).get("name")) != plan.study.name:
        raise UserError("workdir", workdir, f"holds the study {name}; choose another --workdir")
    write_json(path, plan.to_json())


def check_memory(plan: Plan, name: str | None = None) -> dict[str, Any]:
    """Compiles each shape ahead of time and compares what it takes on each device with what there is.

    Args:
      name: of the device (see ``device.MEMORY``); None is the present one. What is compiled is always for the present
        kind, with its attention: a CPU's account of a program for another device is an estimate.

    Returns:
      {"device", "bytes", "compiled_for", "shapes": one row a shape}.

    Raises:
      UserError: a cell does not fit, or nobody knows the device.
    """
    import jax

    from scaling import train

    device_name, limit = device.memory(name)
    rows: dict[str, dict[str, Any]] = {}
    for program in plan.programs:
        manifest = program["runs"][0]["manifest"]
        trainer = train.trainer_of(manifest, program["options"])
        shape = f"{program['shape']} on {manifest['dataset']}, batch {trainer.rules.batch}"
        if (key := f"{id(trainer)} {manifest['dataset']}") in rows:
            continue
        source = plan.study.sources[manifest["dataset"]]
        taken = trainer.memory(source.batch(np.zeros(1, np.int64), seed=0, context=trainer.text))
        rows[key] = {"shape": shape, "N_total": manifest["parameters"]["total"], **taken}
        if taken["total"] > limit:
            parts = ", ".join(f"{part} {taken[part] / 1e9:.3g}" for part in ("state", "batches", "temporary"))
            raise UserError(
                "memory",
                shape,
                f"needs {taken['total'] / 1e9:.3g} GB on each device ({parts}; compiled for {jax.default_backend()}), "
                f"{device_name} gives {limit / 1e9:.3g}; raise mesh.fsdp or execution.microbatches, or set "
                "execution.remat=full or loss_chunk",
            )
    return {
        "device": device_name,
        "bytes": limit,
        "compiled_for": jax.default_backend(),
        "shapes": list(rows.values()),
    }


def training_flops_per_token(cell: Cell) -> float:
    """Exact training FLOPs for each token that a cell of this shape sees."""
    context = cell.module.batch_spec(cell.config)["context"]
    return sum(count.training_flops(cell.components, cell.recipe.batch).values()) / context


def _ladder(cells: Sequence[Cell]) -> dict[str, list[dict[str, Any]]]:
    """Per dataset, sizes of the ladder with their counts: how analysis turns an N into a cost and a configuration.

    It reaches six sizes beyond the largest trained, each configured as the cells are.
    """
    table: dict[str, list[dict[str, Any]]] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        cell = next(cell for cell in cells if cell.dataset == dataset)
        grown = cell.module.ladder(cell.size)
        fixed = {name: value for name, value in dataclasses.asdict(cell.config).items() if name not in grown}
        rows = []
        for size in range(max(cell.size for cell in cells if cell.dataset == dataset) + 7):
            try:
                config = families.configure(cell.module, size, **fixed)
            except UserError:
                break
            sized = dataclasses.replace(cell, size=size, config=config)
            counts = count.parameters(sized.components)
            rows.append(
                {
                    "size": size,
                    "N_nonembedding": counts["nonembedding"],
                    "N_total": counts["total"],
                    "flops_per_token": training_flops_per_token(sized),
                    "learning_rate": cell.recipe.learning_rate,
                    "batch": cell.recipe.batch,
                    "context": cell.module.batch_spec(config)["context"],
                }
            )
        table[dataset] = rows
    return table


def _program(study: Study, cells: list[Cell], speed: float) -> dict[str, Any]:
    cells = sorted(cells, key=lambda cell: cell.steps)
    first = cells[0]
    step_tokens = first.recipe.batch * first.module.batch_spec(first.config)["context"]
    per_step = training_flops_per_token(first) * step_tokens
    runs = []
    stem = None
    if (key := stem_key(first)) is not None:
        points = [cell.steps - recipe.decay_steps(cell.recipe, cell.steps) for cell in cells]
        about = {"stem": key, "data": study.sources[first.dataset].describe()}
        stem = _name(first, "stem", identity(about))
        # The longest branch point is where the stem ends; a stem has no D of its own.
        end = max(points)
        manifest = _manifest(study, first, stem, "stem", identity(about), None, None, end)
        runs.append(_spec(stem, "stem", "stem", end, None, per_step * end, manifest))
    for cell in cells:
        branch_step = None if stem is None else cell.steps - recipe.decay_steps(cell.recipe, cell.steps)
        about = {
            "cell": {**dataclasses.asdict(cell), "recipe": recipe.record(cell.recipe), "role": None, "dataset": None},
            "data": study.sources[cell.dataset].describe(),
            "evaluation": study.options["evaluation"]["tokens"],
        }
        if any(term.batchwise for term in families.terms(cell.module, cell.config).values()):
            about["evaluation_batch"] = study.options["evaluation"]["batch"]
        name = _name(cell, f"D{cell.tokens}", identity(about))
        kind = "whole" if stem is None else "branch"
        manifest = _manifest(study, cell, name, kind, identity(about), stem, branch_step, cell.steps)
        runs.append(_spec(name, kind, cell.role, cell.steps, branch_step,
                          per_step * (cell.steps - (branch_step or 0)), manifest))  # fmt: skip
    flops = sum(spec["flops"] for spec in runs)
    steps = sum(spec["steps"] - (spec["branch_step"] or 0) for spec in runs)
    evaluation = study.options["evaluation"]["tokens"] * len(cells) * training_flops_per_token(first) / 3
    seconds = speed * (steps * CPU_STEP_SECONDS + (flops + evaluation) / CPU_RATE)
    return {
        "program": runs[0]["run"],
        "shape": f"{first.family} {first.size}",
        "seconds": seconds,
        "flops": flops,
        "data": study.datasets[first.dataset],
        "options": study.options,
        "runs": runs,
    }


def _name(cell: Cell, what: str, digest: str) -> str:
    """A name for people; nothing is ever parsed out of it."""
    return re.sub(r"[^\w.-]", "_", f"{cell.dataset}-{cell.family}{cell.size}-s{cell.seed}-{what}-{digest[:8]}")


def _spec(name, kind, role, steps, branch_step, flops, manifest) -> dict[str, Any]:
    return {
        "run": name,
        "kind": kind,
        "role": role,
        "steps": steps,
        "branch_step": branch_step,
        "flops": round(flops),
        "manifest": manifest,
    }


def _manifest(study, cell: Cell, name, kind, digest, stem, branch_step, steps: int) -> dict[str, Any]:
    spec = cell.module.batch_spec(cell.config)
    context, text = spec["context"], families.text(spec)
    source, components, batch = study.sources[cell.dataset], cell.components, cell.recipe.batch
    counts = count.parameters(components)
    examples = steps * cell.recipe.batch
    tokens, unique = examples * context, data.unique(source, spec)
    terms = families.terms(cell.module, cell.config)
    headline, fitted = next(iter(terms.items()))
    among = f" of {study.options['evaluation']['batch']}"
    units = {name: term.unit + (among if term.batchwise else "") for name, term in terms.items()}
    parts = {part: flops * examples for part, flops in count.training_flops(components, batch).items()}
    found = study.tuned.get(cell.recipe.tuned) if kind != "stem" else None
    regret = {}
    if found is not None:
        rate = cell.recipe.learning_rate
        regret = {"regret": recipe.regret(found, counts["nonembedding"], tokens, rate, batch * context)}
    return {
        "schema": SCHEMA,
        "run": name,
        "study": study.name,
        "origin": "trained",
        "kind": kind,
        "role": "stem" if kind == "stem" else cell.role,
        "dataset": cell.dataset,
        "identity": digest,
        "stem": stem,
        "branch_step": branch_step,
        "seed": cell.seed,
        "family": cell.family,
        "size": cell.size,
        "config": dataclasses.asdict(cell.config),
        "recipe": {
            **recipe.record(cell.recipe),
            "decay_steps": recipe.decay_steps(cell.recipe, steps) if kind == "branch" else 0,
        },
        **regret,
        "parameters": counts,
        "steps": steps,
        "tokens": {
            "D": tokens,
            "per_step": batch * context,
            "loss": round(examples * (fitted.count or _loss_tokens(source, text, fitted.share))),
            "counted": families.counted(cell.module, cell.config),
            "unique": unique,
            "epochs": tokens / unique,
        },
        "flops": {
            "training": sum(parts.values()),
            "6ND": 6 * counts["nonembedding_active"] * tokens,
            "forward_per_example": sum(count.forward_flops(components, batch).values()),
            "parts": parts,
        },
        "loss_unit": units[headline],
        "headline": headline,
        "terms": units,
        "data": source.describe(),
    }


def _loss_tokens(source: Any, text: int, share: float) -> float:
    """Predictions in one example, the share of its loss tokens: exact, or the mean where a source's examples differ."""
    if hasattr(source, "loss_tokens"):
        return share * source.loss_tokens(text)
    mask = source.batch(np.zeros(1, np.int64), seed=0, context=text).get("mask")
    return round(share * (text if mask is None else int(mask.sum())))


def _measured_speed(workdir: Path | None) -> float:
    """Seconds that finished runs took over the seconds that the guess gives them; 1 where none is finished."""
    measured = guessed = 0.0
    for record in [] if workdir is None else records(workdir):
        result = record.result
        if result is None or result["status"] != "done" or not result["seconds"]["train"]:
            continue
        manifest = record.manifest
        steps = manifest["steps"] - (manifest["branch_step"] or 0)
        share = steps / max(1, manifest["steps"])
        measured += result["seconds"]["train"]
        guessed += steps * CPU_STEP_SECONDS + manifest["flops"]["training"] * share / CPU_RATE
    return measured / guessed if guessed else 1.0


def _warnings(study: Study) -> list[str]:
    """What a fit of this plan will regret."""
    found = []
    for dataset in study.datasets:
        cells = [cell for cell in study.cells if cell.dataset == dataset and cell.role != "holdout"]
        sizes = {cell.size for cell in cells}
        amounts = {cell.tokens for cell in cells}
        if len(sizes) < 4 or len(amounts) < 3:
            found.append(f"{dataset}: {len(sizes)} sizes x {len(amounts)} D; a law in N and D wants 4 x 3 or more")
        replicated = {
            cell.size for cell in cells if len({other.seed for other in cells if other.size == cell.size}) > 1
        }
        if len(replicated) < 2:
            found.append(f"{dataset}: seeds at {len(replicated)} sizes; noise is measured with 2 seeds at 2 sizes")
        if any(cell.tokens > data.unique(study.sources[dataset], _spec_of(cell)) for cell in cells):
            found.append(f"{dataset}: some D repeat the data; repeated data follow another law")
        stems = {(cell.size, cell.seed, cell.role == "holdout"): set() for cell in cells}
        for cell in cells:
            if cell.recipe.rule != "fixed" and cell.recipe.schedule == "wsd":
                stems[cell.size, cell.seed, cell.role == "holdout"].add(stem_key(cell))
        if (many := max(map(len, stems.values()), default=0)) > 1:
            found.append(f"{dataset}: the recipe follows D, so a size trains up to {many} stems instead of one")
    return found


def _spec_of(cell: Cell) -> dict[str, int]:
    return cell.module.batch_spec(cell.config)
