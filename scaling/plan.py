"""The plan: groups cells into programs (a stem with its branches), estimates their cost and writes study.json."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scaling import count, data, device, families, recipe
from scaling.errors import Code, UserError
from scaling.records import Record, identity, read_study, records, write_json
from scaling.records.files import set_aside
from scaling.records.types import (
    DataDescription,
    Flops,
    Kind,
    LadderRow,
    Manifest,
    Parameters,
    ProgramSpec,
    Regret,
    RunSpec,
    StudyRecord,
    Tokens,
)
from scaling.records.value import Value
from scaling.study import Cell, Study, stem_key

# A first guess of the time on one CPU core; corrected by the measured time once the workdir has finished runs. Measured
# on an AMD EPYC core with AVX-512, 16 x 64 tokens a step: 2.9, 5.4 and 11.3 ms at sizes 0, 2 and 4 of gpt.
CPU_RATE, CPU_STEP_SECONDS, CPU_COMPILE_SECONDS = 9e10, 2e-3, 6.0
# Bytes per parameter: itself, its gradient and two moments of the optimiser, in float32.
STATE_BYTES = 16
# Share by which rounding to whole steps may change a requested D without a warning.
FAR = 0.05
# Number of sizes beyond the largest trained one in the ladder of study.json.
LADDER_BEYOND = 6


class PlannedCell(Value, kw_only=True):
    """A planned cell and its cost.

    Attributes:
      groups: parameters by group. state_bytes: bytes of parameters, gradients and optimiser state.
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
    flops: int
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
    """Bytes that a compiled shape needs on each device: state, batches, temporary buffers, and in total."""

    shape: str
    N_total: int
    state: int
    batches: int
    temporary: int
    total: int


class MemoryCheck(Value, kw_only=True):
    """Memory that the shapes of a plan need, against the ``bytes`` of a device; ``compiled_for``: present backend."""

    device: str
    bytes: float
    compiled_for: str
    shapes: tuple[ShapeMemory, ...]


@dataclass(frozen=True)
class Plan:
    """The programs of a study in the order in which workers take them (longest first), with estimated times."""

    study: Study
    programs: tuple[ProgramSpec, ...]
    warnings: tuple[str, ...]
    price_per_hour: float

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
            flops=manifest.flops.training,
            six_nd=manifest.flops.six_nd,
            state_bytes=manifest.parameters.total * STATE_BYTES,
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
            programs=self.programs,
        )


def make(study: Study, workdir: Path | None = None) -> Plan:
    """Plans a study and estimates its cost.

    Args:
      workdir: if given, time estimates are scaled to the time that its finished runs took.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in study.cells:
        key = stem_key(cell)
        groups.setdefault(key or f"whole {len(groups)}", []).append(cell)
    speed = _measured_speed(workdir)
    programs = [(_program(study, cells, speed), cells[0]) for cells in groups.values()]
    shapes, compiles = set(), {}
    for program, cell in sorted(programs, key=lambda pair: -pair[0].seconds):
        shape = cell.family, cell.config, cell.recipe.batch
        compiles[program.program] = 0 if shape in shapes else CPU_COMPILE_SECONDS  # only the first of a shape compiles
        shapes.add(shape)
    priced = [msgspec.structs.replace(p, seconds=p.seconds + compiles[p.program]) for p, _ in programs]
    priced.sort(key=lambda program: -program.seconds)
    return Plan(study, tuple(priced), tuple(_warnings(study)), study.price_per_hour)


def write(plan: Plan, workdir: Path) -> None:
    """Writes study.json. A damaged one is kept as study.<time>.json.

    Raises:
      UserError: the workdir holds another study (CONFLICT), or cannot be written (ENVIRONMENT).
    """
    path, intact = Path(workdir) / "study.json", True
    try:
        held = {read_study(workdir).name}
    except UserError as error:
        if error.code not in (Code.MISSING, Code.DAMAGED):
            raise
        intact = error.code is Code.MISSING
        manifests = [] if intact else [_readable(record) for record in records(workdir)]
        held = {manifest.study for manifest in manifests if manifest is not None}
    for name in held - {plan.study.name}:
        raise UserError("workdir", workdir, f"holds the study {name}; choose another --workdir", Code.CONFLICT)
    if not intact:
        set_aside(path)  # it may be of another version of this program
    write_json(path, plan.record())


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
    for program in plan.programs:
        manifest = program.runs[0].manifest
        trainer = train.trainer_of(manifest, program.options)
        shape = f"{program.shape} on {manifest.dataset}, batch {trainer.rules.batch}"
        if (key := (id(trainer), manifest.dataset)) in rows:
            continue
        source = plan.study.sources[manifest.dataset]
        needed = trainer.memory(source.batch(np.zeros(1, np.int64), seed=0, context=trainer.text))
        rows[key] = ShapeMemory(shape=shape, N_total=manifest.parameters.total, **needed)
        if needed["total"] > limit:
            parts = ", ".join(f"{part} {needed[part] / 1e9:.3g}" for part in ("state", "batches", "temporary"))
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
    counts = count.parameters(cell.components)
    return LadderRow(
        size=cell.size,
        N_nonembedding=counts["nonembedding"],
        N_total=counts["total"],
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


def _program(study: Study, cells: list[Cell], speed: float) -> ProgramSpec:
    cells = sorted(cells, key=lambda cell: cell.steps)
    first = cells[0]
    placed, stem = [], None
    if (key := stem_key(first)) is not None:
        digest = identity({"stem": key, "data": study.sources[first.dataset].describe()})
        stem = _name(first, "stem", digest)
        # The stem ends at its last branch point; it has no D of its own.
        end = max(_branch_step(cell) for cell in cells)
        placed.append((first, _Placed(stem, "stem", digest, None, None, end)))
    for cell in cells:
        digest = _identity(study, cell)
        point, kind = (None, "whole") if stem is None else (_branch_step(cell), "branch")
        placed.append((cell, _Placed(_name(cell, f"D{cell.tokens}", digest), kind, digest, stem, point, cell.steps)))
    per_step = training_flops_per_token(first) * first.recipe.batch * first.module.batch_spec(first.config)["context"]
    runs = tuple(_spec(study, cell, place, per_step) for cell, place in placed)
    flops = sum(spec.flops for spec in runs)
    evaluation = study.options.evaluation.tokens * len(cells) * training_flops_per_token(first) / 3
    steps = sum(spec.own_steps for spec in runs)
    return ProgramSpec(
        program=runs[0].run,
        shape=f"{first.family} {first.size}",
        seconds=speed * (steps * CPU_STEP_SECONDS + (flops + evaluation) / CPU_RATE),
        flops=flops,
        data=study.datasets[first.dataset],
        options=study.options,
        runs=runs,
    )


def _branch_step(cell: Cell) -> int:
    return cell.steps - recipe.decay_steps(cell.recipe, cell.steps)


def _identity(study: Study, cell: Cell) -> str:
    """Hash of everything that can change the cell's loss."""
    about: dict[str, Any] = {
        "cell": {**dataclasses.asdict(cell), "recipe": recipe.record(cell.recipe), "role": None, "dataset": None},
        "data": study.sources[cell.dataset].describe(),
        "evaluation": study.options.evaluation.tokens,
    }
    if any(term.batchwise for term in families.terms(cell.module, cell.config).values()):
        about["evaluation_batch"] = study.options.evaluation.batch
    return identity(about)


def _name(cell: Cell, label: str, digest: str) -> str:
    """A readable name; it is never parsed."""
    return re.sub(r"[^\w.-]", "_", f"{cell.dataset}-{cell.family}{cell.size}-s{cell.seed}-{label}-{digest[:8]}")


def _spec(study: Study, cell: Cell, place: _Placed, per_step: float) -> RunSpec:
    manifest = _manifest(study, cell, place)
    return RunSpec(
        run=place.name,
        kind=place.kind,
        role=manifest.role,
        steps=place.steps,
        branch_step=place.branch_step,
        flops=round(per_step * (place.steps - (place.branch_step or 0))),
        manifest=manifest,
    )


def _manifest(study: Study, cell: Cell, place: _Placed) -> Manifest:
    components, batch = cell.components, cell.recipe.batch
    counts, tokens = count.parameters(components), _tokens(study, cell, place.steps)
    parts = count.training_flops(components, batch)
    examples = place.steps * batch
    units = families.units(cell.module, cell.config, study.options.evaluation.batch)
    decay = recipe.decay_steps(cell.recipe, place.steps) if place.kind == "branch" else 0
    tuned = study.tuned.get(cell.recipe.tuned) if place.kind != "stem" else None
    regret = None
    if tuned is not None:
        at = counts["nonembedding"], tokens.D, cell.recipe.learning_rate, tokens.per_step
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
        config=dataclasses.asdict(cell.config),
        recipe={**recipe.record(cell.recipe), "decay_steps": decay},
        regret=regret,
        parameters=Parameters(**counts),
        steps=place.steps,
        tokens=tokens,
        flops=Flops(
            training=sum(parts.values()) * examples,
            six_nd=6 * counts["nonembedding_active"] * tokens.D,
            forward_per_example=sum(count.forward_flops(components, batch).values()),
            parts={part: flops * examples for part, flops in parts.items()},
        ),
        headline=next(iter(units)),
        terms=units,
        data=DataDescription.of(study.sources[cell.dataset].describe()),
    )


def _tokens(study: Study, cell: Cell, steps: int) -> Tokens:
    spec, source = cell.module.batch_spec(cell.config), study.sources[cell.dataset]
    examples = steps * cell.recipe.batch
    tokens, unique = examples * spec["context"], data.unique(source, spec)
    fitted = next(iter(families.terms(cell.module, cell.config).values()))
    return Tokens(
        D=tokens,
        per_step=cell.recipe.batch * spec["context"],
        loss=round(examples * (fitted.count or _loss_tokens(source, families.text(spec), fitted.share))),
        counted=families.counted(cell.module, cell.config),
        unique=unique,
        epochs=tokens / unique,
    )


def _loss_tokens(source: Any, text: int, share: float) -> float:
    """Predictions per example: ``share`` of its loss tokens; the mean if the source's examples differ."""
    if hasattr(source, "loss_tokens"):
        return share * source.loss_tokens(text)
    mask = source.batch(np.zeros(1, np.int64), seed=0, context=text).get("mask")
    return round(share * (text if mask is None else int(mask.sum())))


def _measured_speed(workdir: Path | None) -> float:
    """Measured over guessed seconds of the finished runs; 1 if none is finished."""
    measured = guessed = 0.0
    for record in [] if workdir is None else records(workdir):
        try:
            result, manifest = record.result, record.manifest
        except UserError:
            continue  # an estimate does without what is damaged
        if result is None or result.status != "done" or not result.seconds.train:
            continue
        steps = manifest.steps - (manifest.branch_step or 0)
        share = steps / max(1, manifest.steps)
        measured += result.seconds.train
        guessed += steps * CPU_STEP_SECONDS + manifest.flops.training * share / CPU_RATE
    return measured / guessed if guessed else 1.0


def _warnings(study: Study) -> list[str]:
    """Warnings about designs that make a fit hard or misleading."""
    warnings = [*remarks(study), *_roundings(study)]
    for dataset in study.datasets:
        warnings += [*_packing(study, dataset), *_short(study, dataset)]
        cells = [cell for cell in study.cells if cell.dataset == dataset and cell.role != "holdout"]
        sizes = {cell.size for cell in cells}
        amounts = {cell.tokens for cell in cells}
        if len(sizes) < 4 or len(amounts) < 3:
            warnings.append(f"{dataset}: {len(sizes)} sizes x {len(amounts)} D; a law in N and D wants 4 x 3 or more")
        replicated = {
            cell.size for cell in cells if len({other.seed for other in cells if other.size == cell.size}) > 1
        }
        if len(replicated) < 2:
            warnings.append(f"{dataset}: seeds at {len(replicated)} sizes; noise is measured with 2 seeds at 2 sizes")
        if any(cell.tokens > data.unique(study.sources[dataset], _spec_of(cell)) for cell in cells):
            warnings.append(f"{dataset}: some D repeat the data; repeated data follow another law")
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
