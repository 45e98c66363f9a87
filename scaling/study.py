"""Resolves an experiment file into the cells of a study, and decides which cells share a stem.

An experiment file defines ``get_config(argument)``, which returns ``base(name)`` with fields set. ``config.cells``
holds named blocks, each expanded into cells by its ``kind``; a study is the resulting list of cells. The configuration
is plain data: the command line can override every field, and workers need no Python file.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from scaling import adapt, count, data, distill, families, inputs, mesh, naming, parents, parts, prune, recipe, settings
from scaling.blocks.execution import Execution, using
from scaling.errors import Code, UserError
from scaling.records import ROLES, identity
from scaling.records.types import JSON, EvaluationOptions, Options, Parameters, Role
from scaling.settings import setting

BLOCK_KINDS = ("grid", "pairs", "isoflop")
LONGEST_NAME = 100  # characters; file systems take 255 bytes, and names of runs begin with that of their data set
STORES = re.compile(r"/|(gs|s3|az)://[^/]")  # where checkpoints may be stored


@dataclass(frozen=True)
class Evaluation:
    """The fixed evaluation set: its size in loss tokens, and examples per batch."""

    tokens: int = setting(131072, least=1)
    batch: int = setting(64, least=1)

    def __post_init__(self) -> None:
        settings.check(self, "config.evaluation")


@dataclass(frozen=True)
class Settings:
    """Fields of a study outside its sections.

    Attributes:
      name: of the study. family: of the models.
      repeats: allow D above the unique tokens of the source.
      chunk: steps per compiled call; metrics are written after each. checkpoint_seconds: time between checkpoints.
      noise_scale: measure the gradient noise scale once per chunk, at the cost of one gradient.
      keep_last: checkpoints kept of an unfinished run, besides its branch points. keep_final: keep the final one too.
      checkpoints: directory or URL (gs://, s3://) for them, used by this workdir only; empty: next to the records.
      price_per_hour: of one device, in any currency.
    """

    name: str = ""
    family: str = "gpt"
    repeats: bool = False
    chunk: int = setting(50, least=1)
    checkpoint_seconds: float = setting(60.0, least=0)
    noise_scale: bool = False
    keep_last: int = setting(2, least=1)
    keep_final: bool = False
    checkpoints: str = ""
    price_per_hour: float = setting(0.0, least=0)

    def __post_init__(self) -> None:
        settings.check(self, "config")
        if self.checkpoints and not STORES.match(self.checkpoints):
            remedy = "must be an absolute path or a URL: gs://, s3:// or az://"
            raise UserError("config.checkpoints", self.checkpoints, remedy)


def base(name: str, argument: str = "", known: Collection[str] = ()) -> Any:
    """The configuration that every experiment file starts from: a ConfigDict (typed Any, as its fields are dynamic).

    Its fields are those of ``Settings`` and the sections ``model`` (fields of the family's Config, overriding its
    ladder), ``recipe``, ``data`` (dataset name -> {"source": ..., fields of the source}), ``evaluation``, ``mesh``,
    ``execution`` and ``cells`` (name -> ``block``).

    Args:
      name: of the study.
      argument: the argument of ``get_config``; if not empty, the study is named NAME-ARGUMENT.
      known: the arguments that the experiment accepts, besides the empty one.

    Raises:
      UserError: ``argument`` is not one of ``known`` (UNKNOWN).
    """
    if argument:
        settings.require_known("config argument", argument, known)
    sections = {
        "model": {},
        "recipe": {"name": "width"},
        "data": {},
        "evaluation": dataclasses.asdict(Evaluation()),
        "mesh": dataclasses.asdict(mesh.Shape()),
        "execution": dataclasses.asdict(Execution()),
        "cells": {},
    }
    plain = dataclasses.asdict(Settings(name=f"{name}-{argument}" if argument else name))
    return _dict(**plain, **{section: _dict(**fields) for section, fields in sections.items()})


def _dict(**fields: Any) -> ConfigDict:
    # Keep the order of the fields: the first data set of a study is its primary one.
    return ConfigDict(fields, sort_keys=False)


def block(kind: str, dataset: str, sizes: Iterable[int], **fields: Any) -> Any:
    """One named block of cells.

    Args:
      kind: ``grid``: every size at every D in ``tokens``; ``pairs``: size i at tokens[i]; ``isoflop``: every size at
        every budget, with D = budget / exact training FLOPs per token.
      dataset: name of a data set of the study.
      sizes: of the family's ladder.
      fields: tokens or budgets; seeds (default (0,)), role (fit), model and recipe (overrides for this block), family
        (if it is not the study's, whose ``config.model`` is then not the block's),
        init_from (the runs that its cells start from, by part: ``scaling.parents``), freeze (names of parts that are
        not trained), adapt (how they are tuned, if not in full: ``scaling.adapt``), distill (whom they learn from:
        ``scaling.distill``), prune (which weights become zero: ``scaling.prune``).

    Raises:
      UserError: blocks have no field of that name (UNKNOWN).
    """
    unset: dict[str, Any] = {"tokens": (), "budgets": (), "seeds": (0,), "role": "fit", "model": {}, "recipe": {}}
    unset |= {"family": "", "init_from": {}, "freeze": (), "adapt": {}, "distill": {}, "prune": {}}
    _require_fields("cells", fields, unset)
    return _dict(kind=kind, dataset=dataset, sizes=tuple(sizes), **{**unset, **fields})


def _require_fields(section: str, given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        settings.require_known(f"{section}.{name}", name, known)


@dataclass(frozen=True)
class Cell:
    """One loss that a study measures, at (configuration, D, recipe, seed).

    Attributes:
      tokens: the exact D = ``steps`` x batch x context.
      start: the parts that it inherits from other runs; the others are drawn.
      freezing: the parts that are not trained.
      adaptation: what is trained in their place; None: nothing.
      distillation: how it learns from a teacher, which is one of ``start``; None: not.
      pruning: how its weights become zero; None: none do.
    """

    dataset: str
    family: str
    size: int
    config: Any
    recipe: recipe.Recipe
    seed: int
    role: Role
    steps: int
    tokens: int
    start: tuple[parents.Start, ...] = ()
    freezing: parts.Freezing = parts.TRAINED
    adaptation: adapt.Adapt | None = None
    distillation: distill.Distill | None = None
    pruning: prune.Prune | None = None

    @property
    def module(self) -> ModuleType:
        """The family's module, adapted, with its teacher, and pruned."""
        module = adapt.applied(families.load(self.family), self.adaptation)
        if self.distillation is not None and self.teacher is not None:
            module = distill.applied(module, self.distillation, self.teacher)
        return prune.applied(module, self.pruning)

    @property
    def teacher(self) -> distill.Teacher | None:
        """The model that it learns from."""
        return parents.teacher(self)

    @property
    def components(self) -> list[count.Component]:
        """The counted components of this cell's configuration."""
        return parts.components(self.module, self.config, self.freezing)

    @property
    def counts(self) -> Parameters:
        """Its parameters."""
        return Parameters(**count.parameters(self.components, families.zeros(self.module, self.config)))

    @functools.cached_property
    def asked(self) -> str:
        """Hash of what the study asks for; cells of equal hashes are one."""
        return identity(_describe(self))


@dataclass(frozen=True)
class Rounding:
    """What whole steps make of the D that a block asks for at one size.

    Attributes:
      asked, left: different amounts that were asked for, and the D that they become.
      furthest: the pair (asked, D) that differs most; tokens, also for a budget of FLOPs.
      same: a smaller size of the block that is the same model, since the study overrides what a size sets; or None.
    """

    block: str
    size: int
    asked: int
    left: int
    furthest: tuple[float, int]
    same: int | None = None


@dataclass(frozen=True)
class Study:
    """A resolved study.

    Attributes:
      datasets: configuration of each source that its cells read. sources: the sources themselves.
      options: settings that do not change a loss, except those of the evaluation.
      tuned: fit of each recipe file that cells use, by the file's identity.
      roundings: of each block and size.
    """

    name: str
    cells: tuple[Cell, ...]
    datasets: dict[str, dict[str, JSON]]
    sources: dict[str, data.Source]
    options: Options
    price_per_hour: float
    tuned: dict[str, dict[str, JSON]]
    roundings: tuple[Rounding, ...] = ()


def resolve(config: ConfigDict, loaded: Mapping[str, data.Source] | None = None) -> Study:
    """Validates a configuration and expands its blocks into cells.

    Args:
      loaded: sources of ``config.data`` that are loaded already, for one who resolves many studies of the same data.

    Raises:
      UserError: the configuration is invalid: for example an unknown field, family, source, recipe or role, a size
        that the ladder lacks, a D above the unique tokens of the source, or a holdout on the stem of a fitted cell.
    """
    plain = config.to_dict()
    reference = base("").to_dict()
    _require_fields("config", plain, reference)
    sections = {name for name, value in reference.items() if isinstance(value, dict)}
    if missing := sorted(sections - set(plain)):
        remedy = "is not there; begin the configuration with study.base and leave its sections"
        raise UserError(f"config.{missing[0]}", "nothing", remedy, Code.MISSING)
    plain |= {name: settings.mapping(f"config.{name}", plain[name]) for name in sections}
    chosen = settings.read(Settings, "config", {k: v for k, v in plain.items() if k not in sections})
    _check_names(chosen.name, plain["data"])
    options = _options(chosen, plain)
    if not plain["cells"]:
        raise UserError("config.cells", "{}", "a study needs at least one block of cells", Code.MISSING)
    datasets = {name: data.resolve(settings.mapping(f"data.{name}", given)) for name, given in plain["data"].items()}
    sources = {name: (loaded or {}).get(name) or data.load(fields) for name, fields in datasets.items()}
    cells: dict[str, Cell] = {}
    blocks = {
        name: _Block(name, settings.mapping(f"cells.{name}", fields), chosen, plain, sources)
        for name, fields in plain["cells"].items()
    }
    made = {name: own.cells() for name, own in blocks.items()}
    roundings = [each for _, rounded in made.values() for each in rounded]
    for name, block_cells in _linked(made, blocks, sources, options).items():
        for cell in block_cells:
            key = cell.asked
            if key not in cells:
                cells[key] = cell
            elif (cells[key].role == "holdout") != (cell.role == "holdout"):
                remedy = "the same cell is a holdout in another block"
                raise UserError(f"cells.{name}.role", cell.role, remedy, Code.CONFLICT)
    _check_holdouts(cells.values())
    if any(cell.start or cell.freezing.frozen or cell.family != chosen.family for cell in cells.values()):
        _check_arms(cells.values())
    for cell in cells.values():
        _check_inherited(cell)
    # Cells that differ in seed only have their configuration and recipe in common.
    for cell in {(id(cell.config), id(cell.recipe)): cell for cell in cells.values()}.values():
        _check_split(cell, options)
    used = [name for name in datasets if any(cell.dataset == name for cell in cells.values())]
    return Study(
        name=chosen.name,
        cells=tuple(cells.values()),
        datasets={name: datasets[name] for name in used},
        sources={name: sources[name] for name in used},
        options=options,
        price_per_hour=chosen.price_per_hour,
        tuned=_tuned(plain),
        roundings=tuple(roundings),
    )


def _linked(
    made: Mapping[str, tuple[list[Cell], Any]],
    blocks: Mapping[str, _Block],
    sources: Mapping[str, data.Source],
    options: Options,
) -> dict[str, list[Cell]]:
    """The cells of each block, with their parents."""
    described = functools.cache(lambda: {name: source.describe() for name, source in sources.items()})

    def digest(cell: Cell) -> str:
        return naming.digest(cell, described(), options.evaluation, digest)

    return parents.link(
        {name: own for name, (own, _) in made.items()},
        {name: own.init_from for name, own in blocks.items()},
        lambda cell: naming.prefix(cell, f"D{cell.tokens}"),
        lambda cell: naming.of_cell(cell, digest(cell)),
    )


def _check_names(study: str, datasets: Iterable[str]) -> None:
    """Raises UserError unless the names can be shown, and the study's be that of a folder: its work directory."""
    for field, name in [("config.name", study), *(("config.data", name) for name in datasets)]:
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            raise UserError(field, name or "nothing", f"must be 1 to {LONGEST_NAME} printable characters")
    if "/" in study or study in (".", ".."):
        raise UserError("config.name", study, "is a path; give a name, and the place by --workdir")


def _options(chosen: Settings, plain: dict[str, Any]) -> Options:
    evaluation = settings.read(Evaluation, "config.evaluation", plain["evaluation"])
    shape = dataclasses.asdict(mesh.check(plain["mesh"]))
    execution = Execution.from_dict(plain["execution"])
    mesh.check_batch(shape, evaluation.batch, "evaluation.batch")
    return Options(
        chunk=chosen.chunk,
        mesh=shape,
        execution=dataclasses.asdict(execution),
        evaluation=EvaluationOptions(tokens=evaluation.tokens, batch=evaluation.batch),
        checkpoint_seconds=chosen.checkpoint_seconds,
        keep_last=chosen.keep_last,
        keep_final=chosen.keep_final,
        checkpoints=chosen.checkpoints,
        noise_scale=chosen.noise_scale,
    )


def _tuned(plain: dict[str, Any]) -> dict[str, dict[str, JSON]]:
    sections = [plain["recipe"], *(block.get("recipe", {}) for block in plain["cells"].values())]
    files = {str(section["name"]) for section in sections if str(section.get("name", "")).endswith(".json")}
    return {held["tuned"]: held["fit"] for held in map(recipe.load, sorted(files))}


def _describe(cell: Cell) -> dict[str, Any]:
    return {
        "dataset": cell.dataset,
        "family": cell.family,
        "config": settings.fields_of(cell.config),
        "recipe": recipe.record(cell.recipe),
        "seed": cell.seed,
        "steps": cell.steps,
        **families.revision(cell.module, cell.config),
        **parents.described(cell, lambda other: other.asked),
    }


def stem_key(cell: Cell) -> str | None:
    """Key that cells on one stem share; None for a cell without a stem, whose schedule depends on its length."""
    if cell.recipe.schedule != "wsd" or families.paced(cell.module, cell.config):
        return None
    described = _describe(cell)
    del described["steps"]
    for field in ("decay_fraction", "decay_shape"):
        described["recipe"].pop(field, None)
    return identity(described)


def _check_holdouts(cells: Iterable[Cell]) -> None:
    cells = list(cells)
    if all(cell.role != "holdout" for cell in cells):
        return
    fitted = {stem_key(cell) for cell in cells if cell.role != "holdout"} - {None}
    for cell in cells:
        if cell.role == "holdout" and stem_key(cell) in fitted:
            remedy = f"holdout of size {cell.size} shares its stem with fitted cells; give it another seed"
            raise UserError("seeds", cell.seed, remedy, Code.CONFLICT)


def _check_arms(cells: Collection[Cell]) -> None:
    """Raises UserError if a data set has cells that start differently, or one starts from a held-out run."""
    held = {cell.asked for cell in cells if cell.role == "holdout"}
    arms: dict[str, tuple[object, ...]] = {}
    for cell in cells:
        inherited = tuple(each.part for each in cell.start)
        arm = cell.family, inherited, cell.freezing.frozen, cell.adaptation, cell.distillation
        if arms.setdefault(cell.dataset, arm) != arm:
            remedy = "has cells of two families, or some that inherit or freeze parts and some that do not, and a law "
            remedy += "is fitted to all of a data set; give each arm a name of its own in config.data"
            raise UserError("config.data", cell.dataset, remedy, Code.MIXED)
        own = [each.parent for each in cell.start if isinstance(each.parent, Cell)]
        if cell.role != "holdout" and any(parent.asked in held for parent in own):
            remedy = f"starts a cell of size {cell.size} that is not held out, and tells its loss before the forecast"
            raise UserError("init_from", "a held-out run", remedy, Code.CONFLICT)


def _check_inherited(cell: Cell) -> None:
    """Raises UserError if a teacher predicts other tokens, or a part that an adaptation freezes is not inherited."""
    if cell.teacher is not None:
        distill.check(families.load(cell.family), cell.config, cell.teacher)
    if cell.adaptation is None:
        return
    inherited = {each.part for each in cell.start}
    drawn = [part for part in cell.freezing.frozen if part not in inherited]
    if drawn:
        remedy = "is not inherited, and adapt does not train it; give init_from a run, or name it in adapt.whole"
        raise UserError("init_from", drawn[0], remedy, Code.CONFLICT)


def _check_split(cell: Cell, options: Options) -> None:
    """Raises UserError if the mesh or the microbatches do not divide the cell's batch."""
    ways = max(1, options.execution["microbatches"])
    mesh.check_batch(options.mesh, cell.recipe.batch, microbatches=ways)
    if ways > 1:
        families.require_separable_loss(cell.module, cell.config, "execution.microbatches", ways)
        families.require_whole_groups(cell.module, cell.config, cell.recipe.batch, ways)
    if options.noise_scale:
        families.require_separable_loss(cell.module, cell.config, "config.noise_scale", True)
        mesh.parts(options.mesh, cell.recipe.batch, ways, families.together(cell.module, cell.config))


class _Block:
    """A named block of cells, validated.

    Args:
      name: of the block. fields: the fields that it sets.
      chosen, plain: the study's settings, and its whole configuration.
    """

    def __init__(
        self,
        name: str,
        fields: dict[str, Any],
        chosen: Settings,
        plain: dict[str, Any],
        sources: dict[str, data.Source],
    ):
        reference = block("grid", "", ()).to_dict()
        _require_fields(f"cells.{name}", fields, reference)
        self.name, self.chosen, self.fields = name, chosen, {**reference, **fields}
        self.called = self.fields["family"] or chosen.family
        self.model = plain["model"] if self.called == chosen.family else {}
        settings.require_choice(f"cells.{name}.kind", self.fields["kind"], BLOCK_KINDS)
        settings.require_known(f"cells.{name}.dataset", self.fields["dataset"], sources)
        settings.require_choice(f"cells.{name}.role", self.fields["role"], [role for role in ROLES if role != "stem"])
        self.dataset = self.fields["dataset"]
        self.source = sources[self.dataset]
        self.adapt = adapt.read(f"cells.{name}.adapt", self.fields["adapt"])
        self.family = families.load(self.called)
        self.module = adapt.applied(self.family, self.adapt)
        self.recipe = recipe.read(plain["recipe"], self.fields["recipe"])
        self._frozen: dict[Any, parts.Freezing] = {}  # by configuration
        self.init_from = parents.references(f"cells.{name}.init_from", self.fields["init_from"])
        self.distill = None
        if (asked := distill.read(f"cells.{name}.distill", self.fields["distill"])) is not None:
            if self.adapt is not None:
                remedy = "a student is not adapted as well; give one of the two"
                raise UserError(f"cells.{name}.distill", "with adapt", remedy, Code.CONFLICT)
            self.distill, written = asked
            teacher = parents.references(f"cells.{name}.distill", {distill.PART: written})[distill.PART]
            if isinstance(teacher, parents.Reference) and teacher.part:
                remedy = "a teacher is a whole run; leave its part"
                raise UserError(f"cells.{name}.{distill.ASKED}.part", teacher.part, remedy, Code.CONFLICT)
            self.init_from[distill.ASKED] = teacher
        self.prune = prune.read(f"cells.{name}.prune", self.fields["prune"])
        if self.prune is not None and (self.adapt is not None or self.fields["freeze"]):
            remedy = "what is pruned is trained; give no adapt or freeze"
            raise UserError(f"cells.{name}.prune", "with frozen parts", remedy, Code.CONFLICT)

    def cells(self) -> tuple[list[Cell], list[Rounding]]:
        """Every size at its D, for every seed; and what became of the D that were asked for."""
        pairs = self._pairs()
        for seed in self.fields["seeds"]:
            if not isinstance(seed, int) or not 0 <= seed < 2**32:
                raise UserError(f"cells.{self.name}.seeds", seed, "must be whole numbers from 0 to 2**32 - 1")
        made = {pair: self._cell(*pair) for pair in dict.fromkeys(pairs)}
        cells = [dataclasses.replace(made[pair][0], seed=seed) for pair in pairs for seed in self.fields["seeds"]]
        roundings, models = [], {}
        for size in dict.fromkeys(size for size, _ in pairs):
            own = [(cell, asked) for (mine, _), (cell, asked) in made.items() if mine == size]
            amounts = [(asked, cell.tokens) for cell, asked in own]
            furthest = max(amounts, key=lambda pair: abs(math.log(pair[1] / pair[0])))
            first = models.setdefault(repr(own[0][0].config), size)
            same = None if first == size else first
            roundings.append(Rounding(self.name, size, len(amounts), len({d for _, d in amounts}), furthest, same))
        return cells, roundings

    def _cell(self, size: int, amount: float) -> tuple[Cell, float]:
        """The cell with seed 0 of a size at ``amount`` tokens, or FLOPs for an isoflop block; and the D asked for."""
        config = self._configure(size)
        freezing = self._freezing(config)
        components = parts.components(self.module, config, freezing)
        context, tokens = self.module.batch_spec(config)["context"], amount
        if self.fields["kind"] == "isoflop":
            tokens = amount * context / sum(count.training_flops(components, self.recipe.batch).values())
        parameters = count.parameters(components)["nonembedding"]
        rules = recipe.resolve(self.recipe, parameters, tokens, context)
        steps = max(1, round(tokens / (rules.batch * context)))
        exact = steps * rules.batch * context
        # Resolve at the exact D, so that a study rewritten from its own cells gives the same cells.
        if (again := recipe.resolve(self.recipe, parameters, exact, context)).batch == rules.batch:
            rules = again
        self._check_length(config, exact)
        if self.prune is not None:
            prune.check(f"cells.{self.name}.prune", self.prune, self.module, config, steps)
        place = self.dataset, self.called, size
        role, how = self.fields["role"], (freezing, self.adapt, self.distill, self.prune)
        cell = Cell(*place, config, rules, 0, role, steps, exact, (), *how)
        return cell, tokens

    def _freezing(self, config: Any) -> parts.Freezing:
        """What freezing the parts of ``freeze`` means at a size."""
        frozen, field = self.fields["freeze"], f"cells.{self.name}.freeze"
        if isinstance(frozen, str) or not all(isinstance(part, str) for part in frozen):
            raise UserError(field, frozen, "must be a tuple of names of parts, such as ('embedding', 'stack')")
        if self.adapt is not None and frozen:
            raise UserError(field, ", ".join(frozen), "adapt freezes what it does not train", Code.CONFLICT)
        if self.adapt is None and not frozen:
            return parts.TRAINED
        if config not in self._frozen:
            text = families.text(self.module.batch_spec(config))
            example = self.source.batch(np.zeros(1, np.int64), seed=0, context=text)
            if self.adapt is not None:
                self._frozen[config] = adapt.freeze(self.family, config, self.adapt, example)
            else:
                with using(Execution()):
                    self._frozen[config] = parts.freeze(self.module, config, frozen, example)
        return self._frozen[config]

    def _configure(self, size: int) -> Any:
        """The family's configuration at a size: the source's fields, overridden by the study's, then the block's."""
        known = {field.name for field in dataclasses.fields(self.module.Config)} - set(inputs.LENGTHS)
        supplies = data.supplies(self.source)
        supplied = {name: value for name, value in supplies.items() if name in known}
        own = settings.mapping(f"cells.{self.name}.model", self.fields["model"])
        config = families.configure(self.module, size, **{**supplied, **self.model, **own})
        spec = self.module.batch_spec(config)
        inputs.require_supply(self.module, spec, supplies, self.dataset, self.called)
        return config

    def _check_length(self, config: Any, tokens: int) -> None:
        """Raises UserError if the source is too short for the context or, without repeats, for D."""
        spec, dataset, text = self.module.batch_spec(config), self.dataset, families.text
        context, supplies, unique = spec["context"], data.supplies(self.source), data.unique(self.source, spec)
        if unique < context:
            remedy = f"dataset {dataset} is too short for one example of that many positions"
            raise UserError("model.context", context, remedy, Code.CONFLICT)
        if text(spec) > supplies.get("context", text(spec)):
            remedy = f"the documents that evaluate dataset {dataset} have {supplies['context']:,} tokens in all"
            raise UserError("model.context", context, f"{remedy}; choose a smaller context", Code.CONFLICT)
        if tokens > unique and not self.chosen.repeats:
            remedy = f"dataset {dataset} gives {unique:,} tokens without repeats; lower D or set config.repeats"
            raise UserError(f"cells.{self.name}.tokens", f"{tokens:,}", remedy, Code.CONFLICT)

    def _pairs(self) -> list[tuple[int, float]]:
        """Pairs of a size and its tokens, or its FLOPs for an isoflop block."""
        axis = "budgets" if self.fields["kind"] == "isoflop" else "tokens"
        amounts, sizes = _numbers(f"cells.{self.name}.{axis}", self.fields[axis]), self.fields["sizes"]
        for field in ("sizes", "seeds"):
            if isinstance(self.fields[field], str | Mapping) or not isinstance(self.fields[field], Iterable):
                raise UserError(f"cells.{self.name}.{field}", self.fields[field], "must be a tuple of whole numbers")
        for size in sizes:
            if not isinstance(size, int):
                raise UserError(f"cells.{self.name}.sizes", size, "must be whole numbers")
        if not sizes or not amounts or not self.fields["seeds"]:
            empty = "sizes" if not sizes else axis if not amounts else "seeds"
            raise UserError(f"cells.{self.name}.{empty}", "()", "must not be empty")
        if self.fields["kind"] != "pairs":
            return [(size, amount) for size in sizes for amount in amounts]
        if len(sizes) != len(amounts):
            remedy = f"needs one D for each of the {len(sizes)} sizes"
            raise UserError(f"cells.{self.name}.tokens", self.fields["tokens"], remedy)
        return list(zip(sizes, amounts))


def _numbers(field: str, values: Any) -> list[float]:
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise UserError(field, values, "must be a tuple of numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
            raise UserError(field, value, "must be a positive number")  # an integer may be larger than any float
    return list(values)
