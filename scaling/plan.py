"""The plan: groups cells into programs (a stem with its branches), estimates their cost and writes study.json."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from scaling import adapt, count, data, device, distill, families, lineage, naming, parents, prune, recipe
from scaling.errors import Code, NewerVersion, UserError
from scaling.records import Record, identity, read_study, records, write_study
from scaling.records.files import set_aside
from scaling.records.order import in_order
from scaling.records.types import (
    Flops,
    Kind,
    LadderRow,
    Manifest,
    ProgramSpec,
    Regret,
    RunSpec,
    StudyRecord,
    Tokens,
)
from scaling.records.value import Value
from scaling.shapes import Shape, Shapes, state_bytes
from scaling.speed import EVALUATION, REFERENCE, Speed
from scaling.study import Cell, Study, stem_key

# Share by which rounding to whole steps may change a requested D without a warning.
FAR = 0.05
# Number of sizes beyond the largest trained one in the ladder of study.json.
LADDER_BEYOND = 6


class PlannedCell(Value, kw_only=True):
    """A planned cell and its cost.

    Attributes:
      groups: parameters by group. state_bytes: bytes of parameters, gradients and optimiser state.
      parents: runs that it starts from. parent_flops: of all runs that it descends from, no part of ``flops``.
      seconds, cost: the cell's share of its program's, by FLOPs.
    """

    run: str
    dataset: str
    role: str
    size: int
    N: int
    N_total: int
    groups: dict[str, int]
    D: int
    epochs: float
    steps: int
    batch: int
    learning_rate: float
    regret: Regret | None
    seed: int
    parents: tuple[str, ...] = ()
    flops: int
    parent_flops: int = 0
    six_nd: int = msgspec.field(name="6ND")
    state_bytes: int
    seconds: float
    cost: float


class Totals(Value, kw_only=True):
    """Totals of a plan: cells, programs, training FLOPs (each stem once), device seconds and their cost."""

    cells: int
    programs: int
    flops: int
    device_seconds: float
    cost: float


class ShapeMemory(Value, kw_only=True):
    """Bytes that a compiled shape needs on each device: state, batches, temporary buffers, and in total.

    ``stem``: the state of a stem, which is held while a branch of it trains.
    """

    shape: str
    N_total: int
    state: int
    batches: int
    temporary: int
    stem: int
    total: int


class MemoryCheck(Value, kw_only=True):
    """Memory that the shapes of a plan need, against the ``bytes`` of a device; ``compiled_for``: present backend."""

    device: str
    bytes: float
    compiled_for: str
    shapes: tuple[ShapeMemory, ...]


@dataclass(frozen=True)
class Plan:
    """The programs of a study in the order in which workers take them (``records.order``), with estimated times.

    Attributes:
      speed: of the machine for which it is priced. Nothing but ``seconds`` and the order depends on it.
    """

    study: Study
    programs: tuple[ProgramSpec, ...]
    warnings: tuple[str, ...]
    price_per_hour: float
    speed: Speed = REFERENCE

    def wall(self, workers: int) -> float:
        """Seconds until the last of ``workers``, each on a core of its own, has trained its share."""
        free, ends = [0.0] * max(1, workers), {}
        for program in self.programs:  # parents come first
            end = max([free[0], *(ends.get(run, 0.0) for run in program.parents)]) + program.seconds
            heapq.heapreplace(free, end)
            ends |= dict.fromkeys((spec.run for spec in program.runs), end)
        return max(free)

    def rows(self) -> list[PlannedCell]:
        """One row per cell, sorted by data set, role, N, D and seed."""
        rows = [self._row(program, spec) for program in self.programs for spec in program.runs if spec.kind != "stem"]
        return sorted(rows, key=lambda row: (row.dataset, row.role, row.N, row.D, row.seed))

    def _row(self, program: ProgramSpec, spec: RunSpec) -> PlannedCell:
        manifest = spec.manifest
        seconds = program.seconds * (spec.flops / max(1, program.flops))
        return PlannedCell(
            run=spec.run,
            dataset=manifest.dataset,
            role=manifest.role,
            size=manifest.size,
            N=manifest.parameters.nonembedding,
            N_total=manifest.parameters.total,
            groups=manifest.parameters.groups,
            D=manifest.tokens.D,
            epochs=manifest.tokens.epochs,
            steps=spec.steps,
            batch=manifest.recipe["batch"],
            learning_rate=manifest.recipe["learning_rate"],
            regret=manifest.regret,
            seed=manifest.seed,
            parents=tuple(parent.run for parent in manifest.parents),
            parent_flops=manifest.parent_flops,
            flops=manifest.flops.training,
            six_nd=manifest.flops.six_nd,
            state_bytes=state_bytes(manifest),
            seconds=seconds,
            cost=seconds / 3600 * self.price_per_hour,
        )

    @property
    def totals(self) -> Totals:
        """The cost of the whole study."""
        seconds = sum(program.seconds for program in self.programs)
        return Totals(
            cells=len(self.study.cells),
            programs=len(self.programs),
            flops=sum(program.flops for program in self.programs),
            device_seconds=seconds,
            cost=seconds / 3600 * self.price_per_hour,
        )

    def record(self) -> StudyRecord:
        """The content of study.json."""
        return StudyRecord(
            name=self.study.name,
            datasets=self.study.datasets,
            options=self.study.options,
            ladder=_ladder(self.study.cells),
            tuned=self.study.tuned,
            price_per_hour=self.price_per_hour,
            programs=self.programs,
        )


def make(study: Study, workdir: Path | None = None, speed: Speed = REFERENCE) -> Plan:
    """Plans a study and estimates its cost.

    Args:
      workdir: if given, time estimates are scaled to the time that its finished runs took.
      speed: of the machine that trains it.

    Raises:
      UserError: a run of ``workdir`` that others start from has been trained without keeping its parameters (MISSING).
    """
    groups: dict[str, list[Cell]] = {}
    for cell in study.cells:
        key = stem_key(cell)
        groups.setdefault(key or f"whole {len(groups)}", []).append(cell)
    shapes = Shapes(study)
    programs = [(_program(shapes, cells, speed), cells[0]) for cells in groups.values()]
    seen, compiles = set(), {}
    for program, cell in sorted(programs, key=lambda pair: -pair[0].seconds):
        how = cell.freezing, cell.adaptation, cell.teacher, cell.pruning
        shape = cell.family, cell.config, cell.recipe.batch, how
        # only the first of a shape compiles
        compiles[program.program] = 0 if shape in seen else speed.compiling(len(cell.components))
        seen.add(shape)
    factor = 1.0 if workdir is None else _correction(workdir, shapes, programs, speed)
    priced = [msgspec.structs.replace(p, seconds=factor * (p.seconds + compiles[p.program])) for p, _ in programs]
    needed = {run for program in priced for run in program.parents}
    if workdir is not None:
        parents.require_final(workdir, priced, study.options.checkpoints)
    kept = in_order([_keep(program, needed) for program in priced])
    return Plan(study, tuple(kept), tuple(_warnings(study)), study.price_per_hour, speed)


def _keep(program: ProgramSpec, needed: Set[str]) -> ProgramSpec:
    """The program, told which of its runs others start from."""
    runs = tuple(msgspec.structs.replace(spec, keep=spec.run in needed) for spec in program.runs)
    return msgspec.structs.replace(program, runs=runs)


def write(plan: Plan, workdir: Path) -> None:
    """Writes study.json. A damaged one is kept as study.<time>.json.

    Raises:
      UserError: the workdir holds another study, or runs of another (CONFLICT), or one that a newer version wrote
        (NewerVersion), or cannot be written (ENVIRONMENT).
    """
    path, intact = Path(workdir) / "study.json", True
    try:
        held = {read_study(workdir).name}
    except UserError as error:
        if error.code not in (Code.MISSING, Code.DAMAGED) or isinstance(error, NewerVersion):
            raise
        intact = error.code is Code.MISSING  # perhaps set aside by a launcher that then died: the runs tell too
        manifests = [_readable(record) for record in records(workdir)]
        held = {manifest.study for manifest in manifests if manifest is not None}
    for name in held - {plan.study.name}:
        raise UserError("workdir", workdir, f"holds the study {name}; choose another --workdir", Code.CONFLICT)
    if not intact:
        with contextlib.suppress(FileNotFoundError):  # another launcher was faster
            set_aside(path)
    write_study(workdir, plan.record())


def _readable(record: Record) -> Manifest | None:
    try:
        return record.manifest
    except (UserError, FileNotFoundError):
        return None


def check_memory(plan: Plan, name: str | None = None) -> MemoryCheck:
    """Compiles each shape ahead of time and compares the memory that it needs with that of a device.

    Args:
      name: of the device (see ``device.MEMORY``); None for the present one. Programs are always compiled for the
        present backend, so the result for another kind of device is an estimate.

    Raises:
      UserError: a cell does not fit (ENVIRONMENT), or the device is unknown (UNKNOWN).
    """
    import jax

    from scaling import train

    device_name, limit = device.memory(name)
    rows: dict[tuple[int, str], ShapeMemory] = {}
    # Those with branches first: of programs of one shape they need the most.
    for program in sorted(plan.programs, key=lambda program: len(program.runs) == 1):
        manifest, options = program.runs[0].manifest, program.options
        if name is not None:  # another device does not split a batch for the caches of this one
            whole = {**options.execution, "microbatches": max(1, int(str(options.execution["microbatches"])))}
            options = msgspec.structs.replace(options, execution=whole)
        trainer = train.trainer_of(manifest, options)
        shape = f"{program.shape} on {manifest.dataset}, batch {trainer.rules.batch}"
        if (key := (id(trainer), manifest.dataset)) in rows:
            continue
        source = plan.study.sources[manifest.dataset]
        needed = trainer.memory(source.batch(np.zeros(1, np.int64), seed=0, context=trainer.text))
        stem = needed["state"] if len(program.runs) > 1 else 0
        needed |= {"stem": stem, "total": needed["total"] + stem}
        rows[key] = ShapeMemory(shape=shape, N_total=manifest.parameters.total, **needed)
        if needed["total"] > limit:
            parts = ", ".join(f"{part} {needed[part] / 1e9:.3g}" for part in ("state", "stem", "batches", "temporary"))
            remedy = (
                f"needs {needed['total'] / 1e9:.3g} GB on each device ({parts}; compiled for {jax.default_backend()}), "
                f"{device_name} gives {limit / 1e9:.3g}; raise mesh.fsdp or execution.microbatches, or set "
                "execution.remat=full or loss_chunk"
            )
            raise UserError("memory", shape, remedy, Code.ENVIRONMENT)
    return MemoryCheck(device=device_name, bytes=limit, compiled_for=jax.default_backend(), shapes=tuple(rows.values()))


def training_flops_per_token(cell: Cell) -> float:
    """Exact training FLOPs per token of a cell."""
    context = cell.module.batch_spec(cell.config)["context"]
    return sum(count.training_flops(cell.components, cell.recipe.batch).values()) / context


def _ladder(cells: Sequence[Cell]) -> dict[str, tuple[LadderRow, ...]]:
    """Sizes of the ladder with their counts, by dataset; analysis uses them to turn an N into a cost and a shape."""
    table: dict[str, tuple[LadderRow, ...]] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        own = [cell for cell in cells if cell.dataset == dataset]
        first = own[0]
        grown = first.module.ladder(first.size)
        fixed = {name: value for name, value in dataclasses.asdict(first.config).items() if name not in grown}
        rows = []
        for size in range(max(cell.size for cell in own) + LADDER_BEYOND + 1):
            try:
                config = families.configure(first.module, size, **fixed)
            except UserError:
                break
            rows.append(_ladder_row(dataclasses.replace(first, size=size, config=config)))
        table[dataset] = tuple(rows)
    return table


def _ladder_row(cell: Cell) -> LadderRow:
    counts = cell.counts
    return LadderRow(
        size=cell.size,
        N_nonembedding=counts.nonembedding,
        N_total=counts.total,
        flops_per_token=training_flops_per_token(cell),
        learning_rate=cell.recipe.learning_rate,
        batch=cell.recipe.batch,
        context=cell.module.batch_spec(cell.config)["context"],
    )


@dataclass(frozen=True)
class _Placed:
    """The run of a cell or stem, with its place in its program."""

    name: str
    kind: Kind
    digest: str
    stem: str | None
    branch_step: int | None
    steps: int


def _program(shapes: Shapes, cells: list[Cell], speed: Speed) -> ProgramSpec:
    study = shapes.study
    cells = sorted(cells, key=lambda cell: cell.steps)
    first = cells[0]
    placed, stem = [], None
    if (key := stem_key(first)) is not None:
        about = {"stem": key, "data": shapes.described[first.dataset], **parents.described(first, shapes.digest)}
        digest = identity(about)
        stem = naming.name(first, "stem", digest)
        # The stem ends at its last branch point; it has no D of its own.
        end = max(_branch_step(cell) for cell in cells)
        placed.append((first, _Placed(stem, "stem", digest, None, None, end)))
    for cell in cells:
        digest = shapes.digest(cell)
        point, kind = (None, "whole") if stem is None else (_branch_step(cell), "branch")
        placed.append((cell, _Placed(naming.of_cell(cell, digest), kind, digest, stem, point, cell.steps)))
    shape = shapes.of(first)
    per_step = shape.per_token * first.recipe.batch * shape.spec["context"]
    runs = tuple(_spec(shapes, cell, place, per_step) for cell, place in placed)
    flops = sum(spec.flops for spec in runs)
    examples = first.recipe.batch * sum(spec.own_steps for spec in runs)
    examples += EVALUATION * len(cells) * study.options.evaluation.tokens / max(shape.evaluated, 1)
    return ProgramSpec(
        program=runs[0].run,
        shape=f"{first.family} {first.size}",
        seconds=examples * _example(shape, speed),
        flops=flops,
        data=study.datasets[first.dataset],
        options=study.options,
        runs=runs,
    )


def _branch_step(cell: Cell) -> int:
    return cell.steps - recipe.decay_steps(cell.recipe, cell.steps)


def _spec(shapes: Shapes, cell: Cell, place: _Placed, per_step: float) -> RunSpec:
    manifest = _manifest(shapes, cell, place)
    return RunSpec(
        run=place.name,
        kind=place.kind,
        role=manifest.role,
        steps=place.steps,
        branch_step=place.branch_step,
        flops=round(per_step * (place.steps - (place.branch_step or 0))),
        manifest=manifest,
    )


def _manifest(shapes: Shapes, cell: Cell, place: _Placed) -> Manifest:
    study, shape, tokens = shapes.study, shapes.of(cell), _tokens(shapes.of(cell), cell, place.steps)
    examples = place.steps * cell.recipe.batch
    ends = cell.recipe.schedule == "wsd" and place.kind != "stem"
    decay = recipe.decay_steps(cell.recipe, place.steps) if ends else 0
    tuned = study.tuned.get(cell.recipe.tuned) if place.kind != "stem" else None
    regret = None
    if tuned is not None:
        at = shape.counts.nonembedding, tokens.D, cell.recipe.learning_rate, tokens.per_step
        regret = Regret(**recipe.regret(tuned, *at))
    return Manifest(
        run=place.name,
        study=study.name,
        kind=place.kind,
        role="stem" if place.kind == "stem" else cell.role,
        dataset=cell.dataset,
        identity=place.digest,
        stem=place.stem,
        branch_step=place.branch_step,
        seed=cell.seed,
        family=cell.family,
        size=cell.size,
        config=shape.config,
        recipe={**recipe.record(cell.recipe), "decay_steps": decay},
        regret=regret,
        parents=lineage.parents_of(shapes, cell),
        parent_flops=sum(lineage.ancestors(shapes, cell).values()),
        frozen=cell.freezing.frozen,
        adapt=adapt.record(cell.adaptation),
        distill=distill.record(cell.distillation, cell.teacher),
        prune=prune.record(cell.pruning, cell.module, cell.config),
        parameters=shape.counts,
        steps=place.steps,
        tokens=tokens,
        flops=Flops(
            training=sum(shape.parts.values()) * examples,
            six_nd=6 * shape.counts.nonembedding_active * tokens.D,
            forward_per_example=shape.forward,
            parts={part: flops * examples for part, flops in shape.parts.items()},
            teacher=shape.further * examples,
        ),
        headline=next(iter(shape.units)),
        terms=shape.units,
        data=shapes.data[cell.dataset],
    )


def _tokens(shape: Shape, cell: Cell, steps: int) -> Tokens:
    examples = steps * cell.recipe.batch
    tokens = examples * shape.spec["context"]
    return Tokens(
        D=tokens,
        per_step=cell.recipe.batch * shape.spec["context"],
        loss=round(examples * shape.loss),
        counted=shape.counted,
        unique=shape.unique,
        epochs=tokens / shape.unique,
    )


def _example(shape: Shape, speed: Speed) -> float:
    """Seconds of training on an example."""
    return speed.seconds(shape.per_token * shape.spec["context"] + shape.further, shape.scores)


def _correction(workdir: Path, shapes: Shapes, programs: Sequence[tuple[ProgramSpec, Cell]], speed: Speed) -> float:
    """Measured over estimated seconds of the finished runs; 1 if none is finished."""
    cells = {spec.run: cell for program, cell in programs for spec in program.runs}
    measured = estimated = 0.0
    for record in records(workdir):
        try:
            result, manifest = record.result, record.manifest
        except UserError:
            continue  # an estimate does without what is damaged
        cell = cells.get(manifest.run)
        if cell is None or result is None or result.status != "done" or not result.seconds.train:
            continue
        steps = manifest.steps - (manifest.branch_step or 0)
        measured += result.seconds.train
        estimated += steps * cell.recipe.batch * _example(shapes.of(cell), speed)
    return measured / estimated if estimated else 1.0


def _warnings(study: Study) -> list[str]:
    """Warnings about designs that make a fit hard or misleading."""
    warnings = [*remarks(study), *_roundings(study), *_seen_again(study)]
    for dataset in study.datasets:
        warnings += [*_packing(study, dataset), *_short(study, dataset)]
        cells = [cell for cell in study.cells if cell.dataset == dataset and cell.role != "holdout"]
        sizes = {cell.size for cell in cells}
        amounts = {cell.tokens for cell in cells}
        if len(sizes) < 4 or len(amounts) < 3:
            warnings.append(f"{dataset}: {len(sizes)} sizes x {len(amounts)} D; a law in N and D wants 4 x 3 or more")
        seeds: dict[int, set[int]] = {}
        for cell in cells:
            seeds.setdefault(cell.size, set()).add(cell.seed)
        if (replicated := sum(len(each) > 1 for each in seeds.values())) < 2:
            warnings.append(f"{dataset}: seeds at {replicated} sizes; noise is measured with 2 seeds at 2 sizes")
        if any(cell.tokens > data.unique(study.sources[dataset], _spec_of(cell)) for cell in cells):
            warnings.append(f"{dataset}: some D repeat the data; repeated data follow another law")
        if len({cell.pruning for cell in cells}) > 1:
            warnings.append(f"{dataset}: some cells are pruned otherwise than others: a law needs the column sparsity")
        stems = {(cell.size, cell.seed, cell.role == "holdout"): set() for cell in cells}
        for cell in cells:
            if cell.recipe.rule != "fixed" and cell.recipe.schedule == "wsd":
                stems[cell.size, cell.seed, cell.role == "holdout"].add(stem_key(cell))
        if (many := max(map(len, stems.values()), default=0)) > 1:
            warnings.append(f"{dataset}: the recipe follows D, so a size trains up to {many} stems instead of one")
    return warnings


def remarks(study: Study) -> list[str]:
    """What the user should know about the files of the study's data; also said where it is trained."""
    sources = study.sources.items()
    return [f"{dataset}: {_remarked(remark)}" for dataset, source in sources for remark in data.remarks(source)]


def _roundings(study: Study) -> list[str]:
    """Requested D that became one, or another than was meant, by rounding to whole steps."""
    warnings = []
    for each in study.roundings:
        asked, tokens = each.furthest
        if each.same is not None:
            overridden = f"is the same model as size {each.same}, since config.model sets what a size would"
            warnings.append(f"cells.{each.block}, size {each.size}: {overridden}; its cells are trained once")
        if each.left < each.asked:
            became = f"{each.asked} D become {each.left} by rounding to whole steps; ask for D further apart"
        elif abs(tokens / asked - 1) > FAR:
            became = f"D {asked:,.0f} becomes {tokens:,} by rounding to whole steps"
        else:
            continue
        warnings.append(f"cells.{each.block}, size {each.size}: {became}, or make recipe.batch smaller")
    return warnings


def _seen_again(study: Study) -> list[str]:
    """Cells that are trained on the same examples as the run that they start from, from the first one on."""
    content = {dataset: source.describe()["sha256"] for dataset, source in study.sources.items()}
    again: dict[str, int] = {}
    for cell in study.cells:
        seen = {
            (content[p.dataset], p.seed) if isinstance(p, Cell) else (p.manifest.data.sha256, p.manifest.seed)
            for p in (start.parent for start in cell.start if start.part != distill.PART)
        }
        if (content[cell.dataset], cell.seed) in seen:
            again[cell.dataset] = again.get(cell.dataset, 0) + 1
    return [
        f"{dataset}: {count} cells see the examples of the run that they start from again, in the same order; "
        "give them another seed, and their parent's as init_from's seed"
        for dataset, count in again.items()
    ]


def _short(study: Study, dataset: str) -> list[str]:
    """Cells whose learning rate never reaches its peak, begins to fall before it does, or should fall and does not."""
    cells = [cell for cell in study.cells if cell.dataset == dataset]
    short = [cell for cell in cells if cell.recipe.warmup_steps > _rising(cell) or _ends_undecayed(cell)]
    if not short:
        return []
    cell = min(short, key=lambda cell: cell.steps)
    undecayed = sum(map(_ends_undecayed, short))
    ends = f" or do not decay ({undecayed} end without a decay)" if undecayed else ""
    text = (
        f"{dataset}: warm-up of {cell.recipe.warmup_steps} steps is too long for {len(short)} cells (the shortest has "
    )
    return [f"{text}{cell.steps} steps): they do not reach their learning rate{ends}; lower recipe.warmup_steps"]


def _ends_undecayed(cell: Cell) -> bool:
    """Whether the run is too short for the decay that its schedule has."""
    return cell.recipe.schedule != "constant" and not recipe.decays(cell.recipe, cell.steps)


def _rising(cell: Cell) -> int:
    """The step from which the learning rate falls; the last one if it never does."""
    return _branch_step(cell) if cell.recipe.schedule == "wsd" else cell.steps


def _packing(study: Study, dataset: str) -> list[str]:
    longest = getattr(study.sources[dataset], "longest", None)
    texts = [families.text(_spec_of(cell)) for cell in study.cells if cell.dataset == dataset]
    if longest is None or max(texts, default=0) <= longest:
        return []
    return [
        f"{dataset}: no evaluation document fills the context (the longest has {longest:,} tokens); they are packed"
    ]


def _remarked(remark: data.Remark) -> str:
    match remark.code:
        case "held":
            return f"{remark.count} files named test or validation are not trained on ({remark.example})"
        case "damaged":
            return f"{remark.count} samples lack their picture, caption or label, and are not used ({remark.example})"
        case "literals":
            places = f"{remark.count} texts spell a special token, which is read as that token ({remark.example})"
            return f"{places}; data.specials=text reads it as text if the tokenizer marks it as special"


def _spec_of(cell: Cell) -> dict[str, int]:
    return cell.module.batch_spec(cell.config)
