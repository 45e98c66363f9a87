"""From an experiment file to cells, and from cells to stems and branches.

An experiment file has ``get_config(argument)`` and returns ``base(name)`` with fields set. ``config.cells`` holds named
blocks, each made into cells by its ``kind``; a study is finally the list of cells. All of it is data: the command line
overrides it field by field, and workers need no Python file.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from scaling import count, data, families, mesh, recipe
from scaling.blocks import execution
from scaling.errors import UserError
from scaling.records import ROLES, identity

BLOCK_KINDS = ("grid", "pairs", "isoflop")
# Fields of what a source supplies that a family must take as they are.
EXACT = {"image": "images of side", "sound": "sounds of samples", "prompts": "prompts of each class"}


def base(name: str, argument: str = "", known: Collection[str] = ()) -> Any:
    """The configuration that every experiment file starts from: a ConfigDict, whose fields no type checker knows.

    Args:
      argument: what ``get_config`` was given. The study is then called NAME-ARGUMENT.
      known: the arguments that the experiment knows, besides none.

    Raises:
      UserError: it does not know this one.
    """
    if argument and argument not in known:
        raise UserError("config argument", argument, f"this experiment knows {', '.join(known) or 'none'}")
    return ConfigDict(
        {
            "name": f"{name}-{argument}" if argument else name,
            "family": "gpt",
            "model": _dict(),  # fields of the family's Config, over its ladder
            "recipe": _dict(name="width"),
            "data": _dict(),  # dataset name -> {"source": ..., fields of the source}
            "repeats": False,  # allow D above the unique tokens of the source
            "evaluation": _dict(tokens=131072, batch=64),
            "mesh": _dict(ensemble=1, data=1, fsdp=1, tensor=1),
            "execution": _dict(**dataclasses.asdict(execution.Execution())),
            "chunk": 50,
            "checkpoint_seconds": 60.0,
            "noise_scale": False,  # measure the gradient noise scale once a chunk; costs one gradient
            "keep_last": 2,  # checkpoints of a run on its way; those that branches leave from stay
            "keep_final": False,
            "checkpoints": "",  # their directory or URL (gs://, s3://), of this workdir alone; "": beside the records
            "price_per_hour": 0.0,  # of one device, in your currency
            "cells": _dict(),
        },
        sort_keys=False,
    )


def _dict(**fields: Any) -> ConfigDict:
    # In the order of writing: the first data set of a study is its primary one.
    return ConfigDict(fields, sort_keys=False)


def block(kind: str, dataset: str, sizes: Iterable[int], **fields: Any) -> Any:
    """One named block of cells.

    Args:
      kind: ``grid``: every size at every D in ``tokens``; ``pairs``: size i at tokens[i]; ``isoflop``: every size at
        every budget, D = C / exact training FLOPs per token.
      fields: tokens or budgets; seeds (default (0,)), role (fit), model and recipe (overrides for this block).
    """
    unset: dict[str, Any] = {"tokens": (), "budgets": (), "seeds": (0,), "role": "fit", "model": {}, "recipe": {}}
    unknown = set(fields) - set(unset)
    if unknown:
        raise UserError("cells", sorted(unknown)[0], f"unknown field; choose from {', '.join(unset)}")
    return _dict(kind=kind, dataset=dataset, sizes=tuple(sizes), **{**unset, **fields})


@dataclass(frozen=True)
class Cell:
    """What a study asks for: one loss at (configuration, D, recipe, seed).

    ``tokens`` is D exactly, ``steps`` x batch x context; ``components`` are its counts.
    """

    dataset: str
    family: str
    size: int
    config: Any
    recipe: recipe.Recipe
    seed: int
    role: str
    steps: int
    tokens: int

    @property
    def module(self) -> ModuleType:
        """The family's module."""
        return families.load(self.family)

    @property
    def components(self) -> list[count.Component]:
        """What the family counts for this cell's configuration."""
        return self.module.components(self.config)


@dataclass(frozen=True)
class Study:
    """A resolved study: its cells, its sources, and the options that change no number (mesh apart)."""

    name: str
    cells: tuple[Cell, ...]
    datasets: dict[str, dict[str, Any]]
    sources: dict[str, data.Source]
    options: dict[str, Any]
    price_per_hour: float
    tuned: dict[str, dict[str, Any]]  # identity of a recipe file that cells name -> what was fitted there


def resolve(config: ConfigDict) -> Study:
    """Checks a configuration and makes its cells.

    Raises:
      UserError: anything in it that cannot be: an unknown field, family, source, recipe or role, a size that the
        ladder lacks, a D that the source cannot give without repeats, a holdout on a stem that is fitted.
    """
    plain = config.to_dict()
    reference = base("").to_dict()
    for field, value in plain.items():
        if field not in reference:
            raise UserError(f"config.{field}", value, f"unknown field; choose from {', '.join(reference)}")
    for field in ("evaluation", "mesh"):
        unknown = set(plain[field]) - set(reference[field])
        if unknown:
            name = sorted(unknown)[0]
            raise UserError(f"config.{field}.{name}", plain[field][name], f"choose from {', '.join(reference[field])}")
    mesh.check(plain["mesh"])
    execution.of(plain["execution"])
    whole = (*((name, plain[name]) for name in ("chunk", "keep_last")),
             *((f"evaluation.{name}", value) for name, value in plain["evaluation"].items()))  # fmt: skip
    for field, value in whole:
        if not isinstance(value, int) or value < 1:
            raise UserError(f"config.{field}", value, "must be a whole number of at least 1")
    mesh.check_batch(plain["mesh"], plain["evaluation"]["batch"], "evaluation.batch")
    place = str(plain["checkpoints"])
    if place and not re.match(r"/|(gs|s3|az)://[^/]", place):
        raise UserError("config.checkpoints", place, "must be an absolute path or a URL: gs://, s3:// or az://")
    if not plain["cells"]:
        raise UserError("config.cells", "{}", "a study needs at least one block of cells")
    datasets = {name: data.resolve(fields) for name, fields in plain["data"].items()}
    sources = {name: data.load(fields) for name, fields in datasets.items()}
    cells: dict[str, Cell] = {}
    for name, fields in plain["cells"].items():
        for cell in _cells(name, fields, plain, sources):
            key = identity(_describe(cell))
            if key not in cells:
                cells[key] = cell
            elif (cells[key].role == "holdout") != (cell.role == "holdout"):
                raise UserError(f"cells.{name}.role", cell.role, "the same cell is a holdout in another block")
    _check_holdouts(cells.values())
    for cell in cells.values():
        ways = plain["execution"]["microbatches"]
        mesh.check_batch(plain["mesh"], cell.recipe.batch, microbatches=ways)
        if ways > 1:
            families.check_parts(cell.module, cell.config, "execution.microbatches", ways)
        if plain["noise_scale"]:
            families.check_parts(cell.module, cell.config, "config.noise_scale", True)
            mesh.parts(plain["mesh"], cell.recipe.batch, ways)
    kept = ("chunk", "mesh", "execution", "evaluation", "checkpoint_seconds", "keep_last")
    kept += ("keep_final", "checkpoints")
    options = {key: plain[key] for key in kept}
    if plain["noise_scale"]:
        options["noise_scale"] = True
    used = [name for name in datasets if any(cell.dataset == name for cell in cells.values())]
    return Study(
        name=str(plain["name"]),
        cells=tuple(cells.values()),
        datasets={name: datasets[name] for name in used},
        sources={name: sources[name] for name in used},
        options=options,
        price_per_hour=float(plain["price_per_hour"]),
        tuned=_tuned(plain),
    )


def _tuned(plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    sections = [plain["recipe"], *(block.get("recipe", {}) for block in plain["cells"].values())]
    files = {str(section["name"]) for section in sections if str(section.get("name", "")).endswith(".json")}
    return {held["tuned"]: held["fit"] for held in map(recipe.load, sorted(files))}


def _describe(cell: Cell) -> dict[str, Any]:
    return {
        "dataset": cell.dataset,
        "family": cell.family,
        "config": dataclasses.asdict(cell.config),
        "recipe": recipe.record(cell.recipe),
        "seed": cell.seed,
        "steps": cell.steps,
    }


def stem_key(cell: Cell) -> str | None:
    """What cells on one stem share; None for a cell whose schedule depends on its length and so has no stem."""
    if cell.recipe.schedule != "wsd":
        return None
    described = _describe(cell)
    del described["steps"]
    for field in ("decay_fraction", "decay_shape"):
        described["recipe"].pop(field, None)
    return identity(described)


def _check_holdouts(cells: Iterable[Cell]) -> None:
    fitted = {stem_key(cell) for cell in cells if cell.role != "holdout"} - {None}
    for cell in cells:
        if cell.role == "holdout" and stem_key(cell) in fitted:
            raise UserError(
                "seeds",
                cell.seed,
                f"holdout of size {cell.size} shares its stem with fitted cells; give it another seed",
            )


def _cells(name: str, fields: dict[str, Any], plain: dict[str, Any], sources: dict[str, data.Source]) -> list[Cell]:
    reference = block("grid", "", ())
    for field, value in fields.items():
        if field not in reference:
            raise UserError(f"cells.{name}.{field}", value, f"unknown field; choose from {', '.join(reference)}")
    fields = {**reference.to_dict(), **fields}
    if fields["kind"] not in BLOCK_KINDS:
        raise UserError(f"cells.{name}.kind", fields["kind"], f"choose one of {', '.join(BLOCK_KINDS)}")
    if fields["dataset"] not in sources:
        raise UserError(f"cells.{name}.dataset", fields["dataset"], f"choose one of {', '.join(sources) or 'none'}")
    if fields["role"] not in ROLES or fields["role"] == "stem":
        raise UserError(f"cells.{name}.role", fields["role"], "choose one of fit, seed, holdout")
    source = sources[fields["dataset"]]
    module = families.load(plain["family"])
    unresolved = recipe.named(**{**plain["recipe"], **fields["recipe"]})
    made = []
    for size, amount in _pairs(name, fields):
        held = {field.name for field in dataclasses.fields(module.Config)}
        supplies = data.supplies(source)
        given = {name: value for name, value in supplies.items() if name in held and name != "context"}
        config = families.configure(module, size, **{**given, **plain["model"], **fields["model"]})
        spec = module.batch_spec(config)
        _check_supply(spec, supplies, fields["dataset"], plain["family"])
        context = spec["context"]
        tokens, components = amount, module.components(config)
        if fields["kind"] == "isoflop":
            tokens = amount * context / sum(count.training_flops(components, unresolved.batch).values())
        parameters = count.parameters(components)["nonembedding"]
        rules = recipe.resolve(unresolved, parameters, tokens, context)
        steps = max(1, round(tokens / (rules.batch * context)))
        exact = steps * rules.batch * context
        # At the D that it will have, so that a study written from its own cells gives the same cells.
        if (again := recipe.resolve(unresolved, parameters, exact, context)).batch == rules.batch:
            rules = again
        unique = data.unique(source, spec)
        if unique < context:
            remedy = f"dataset {fields['dataset']} is too short for one example of that many positions"
            raise UserError("model.context", context, remedy)
        if families.text(spec) > supplies.get("context", families.text(spec)):
            remedy = f"the documents that evaluate dataset {fields['dataset']} end after {supplies['context']:,} tokens"
            raise UserError("model.context", context, f"{remedy}; choose a smaller context")
        if exact > unique and not plain["repeats"]:
            remedy = (
                f"dataset {fields['dataset']} gives {unique:,} tokens without repeats; lower D or set config.repeats"
            )
            raise UserError(f"cells.{name}.tokens", f"{exact:,}", remedy)
        for seed in fields["seeds"]:
            if not isinstance(seed, int) or not 0 <= seed < 2**32:
                raise UserError(f"cells.{name}.seeds", seed, "must be whole numbers from 0 to 2**32 - 1")
            made.append(
                Cell(fields["dataset"], plain["family"], size, config, rules, seed, fields["role"], steps, exact)
            )
    return made


def _check_supply(spec: dict[str, int], supplies: dict[str, int], dataset: str, family: str) -> None:
    """UserError unless the data has what the family reads: tokens and labels that fit, images of the right side."""
    for field, wanted in spec.items():
        if field in ("context", "text"):
            continue
        if field not in supplies:
            raise UserError(
                "family", family, f"reads {field}, which dataset {dataset} lacks: it has {', '.join(supplies)}"
            )
        if field in EXACT and supplies[field] != wanted:
            raise UserError(f"model.{field}", wanted, f"dataset {dataset} has {EXACT[field]} {supplies[field]}")
        if wanted < supplies[field]:
            what = "tokens" if field == "vocab" else "labels"
            raise UserError(f"model.{field}", wanted, f"dataset {dataset} has {what} up to {supplies[field]}")


def _pairs(name: str, fields: dict[str, Any]) -> list[tuple[int, float]]:
    axis = "budgets" if fields["kind"] == "isoflop" else "tokens"
    amounts, sizes = _numbers(f"cells.{name}.{axis}", fields[axis]), fields["sizes"]
    for size in sizes:
        if not isinstance(size, int):
            raise UserError(f"cells.{name}.sizes", size, "must be whole numbers")
    if not sizes or not amounts or not fields["seeds"]:
        empty = "sizes" if not sizes else axis if not amounts else "seeds"
        raise UserError(f"cells.{name}.{empty}", "()", "must not be empty")
    if fields["kind"] != "pairs":
        return [(size, amount) for size in sizes for amount in amounts]
    if len(sizes) != len(amounts):
        raise UserError(f"cells.{name}.tokens", fields["tokens"], f"needs one D for each of the {len(sizes)} sizes")
    return list(zip(sizes, amounts))


def _numbers(field: str, values: Any) -> list[float]:
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise UserError(field, values, "must be a tuple of numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(field, value, "must be a positive number")
    return list(values)
