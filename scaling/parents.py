"""Runs that start from other runs: which parts of a model are inherited, from whom, and whether they still can be.

A part is a top-level subtree of a family's parameters. A block of cells says where parts come from::

    init_from = {"*": "pretrain"}     # every part, from the cell of the block ``pretrain`` of the same size and seed
    init_from = {"*": {"block": "pretrain", "tokens": 2**20}, "head": ""}      # the head is drawn
    init_from = {"vision": {"workdir": "runs/vit", "run": "pictures-vit2-s0-...", "part": "stack"}}

Inherited are the final parameters alone: a child draws its batches and begins its schedule and its optimiser anew. The
runs form a directed graph without circles. A parent of the same study is known by its identity before it is trained,
one of another work directory by the hash of its result.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
from jax.tree_util import keystr, tree_flatten_with_path

from scaling import adapt, distill, families, parts, prune, settings
from scaling.checkpoint import Checkpoints
from scaling.errors import Code, UserError, closest
from scaling.records import Manifest, Record, read_study
from scaling.records.files import read_bytes
from scaling.records.types import JSON, Parent, ProgramSpec, Result, RunName
from scaling.settings import setting

if TYPE_CHECKING:
    from scaling.study import Cell

# Of a Cell: part of its identity only where they are set.
FIELDS = ("start", "freezing", "adaptation", "distillation", "pruning")
EVERY = "*"
FAR = 0.05  # share by which a parent's D may differ from the one that is asked for, by rounding to whole steps


@dataclass(frozen=True)
class Reference:
    """Which run is meant, as a user writes it.

    Attributes:
      run: name of a run of this study, or of ``workdir``. workdir: another work directory.
      block: a block of this study, in place of ``run``. size, seed: of its cell; -1: those of the child.
      tokens: D of its cell; 0 if the block has one D at that size.
      part: of the parent, if it is called otherwise there.
    """

    run: str = ""
    workdir: str = ""
    block: str = ""
    size: int = setting(-1, least=-1)
    seed: int = setting(-1, least=-1)
    tokens: float = setting(0.0, least=0)
    part: str = ""


@dataclass(frozen=True)
class Outside:
    """A finished run of another work directory; ``result`` is the sha256 of its result.json."""

    workdir: str
    run: str
    result: str
    manifest: Manifest


@dataclass(frozen=True)
class Start:
    """A part that starts as the ``source`` of a parent's final parameters."""

    part: str
    source: str
    parent: Cell | Outside


Shapes = dict[str, dict[str, tuple[int, ...]]]  # of every parameter, by part and path within it


@functools.cache
def _shapes(family: ModuleType, config: Any) -> Shapes:
    flat = {part: tree_flatten_with_path(below)[0] for part, below in parts.shapes(family, config).items()}
    return {part: {keystr(path): leaf.shape for path, leaf in own} for part, own in flat.items()}


def _shapes_of(run: Cell | Outside) -> Shapes:
    """The shapes of a run's parameters. Raises UserError if those of another version are not known (UNKNOWN)."""
    family, config = _model(run)
    return _shapes(adapt.applied(families.load(family), _adapts(run)), config)


def _model(run: Cell | Outside) -> tuple[str, Any]:
    """A run's family, by name, and its configuration. Raises UserError if another version made it (UNKNOWN)."""
    if not isinstance(run, Outside):
        return run.family, run.config
    family = run.manifest.family
    return family, settings.read(families.load(family).Config, f"{run.run}.config", run.manifest.config)


def _adapts(run: Cell | Outside) -> adapt.Adapt | None:
    """How a run is tuned; None: in full."""
    return adapt.read(f"{run.run}.adapt", run.manifest.adapt) if isinstance(run, Outside) else run.adaptation


def teacher(cell: Cell) -> distill.Teacher | None:
    """The model of the run that a cell learns from; None without one, or before it is linked."""
    run = next((each.parent for each in cell.start if each.part == distill.PART), None)
    return None if run is None else distill.Teacher(*_model(run), _adapts(run))


def described(cell: Cell, digest: Callable[[Cell], str]) -> dict[str, JSON]:
    """What the parts of a cell add to its identity; nothing if all are drawn and trained.

    Args:
      digest: the identity of a parent of the study; that of another work directory is the hash of its result.
    """
    known = {id(each.parent): _known(each.parent, digest) for each in cell.start}
    start = {each.part: [each.source, known[id(each.parent)]] for each in cell.start}
    frozen, adapted = sorted(cell.freezing.frozen), adapt.record(cell.adaptation)
    taught, pruned = ({} if how is None else settings.fields_of(how) for how in (cell.distillation, cell.pruning))
    fields = {"start": start, "frozen": frozen, "adapt": adapted, "distill": taught, prune.FIELD: pruned}
    return {name: value for name, value in fields.items() if value}


def _known(parent: Cell | Outside, digest: Callable[[Cell], str]) -> str:
    return f"result {parent.result}" if isinstance(parent, Outside) else digest(parent)


def origin(cell: Cell, part: str, digest: Callable[[Cell], str]) -> str:
    """Identity of the run of another family that gave a part, itself or by way of runs of the cell's family.

    Args:
      digest: the identity of a cell of the study.

    Raises:
      UserError: a run of another work directory began from one whose record is no longer there (MISSING).
    """
    start = next(each for each in cell.start if each.part == part)
    parent = start.parent
    if isinstance(parent, Outside):
        return _recorded_origin(parent, start.source, cell.family)
    return origin(parent, start.source, digest) if parent.family == cell.family else digest(parent)


def _recorded_origin(parent: Outside, part: str, family: str) -> str:
    """As ``origin``, of a part of a finished run: by the manifests of those that it descends from."""
    root, manifest = Path(parent.workdir), parent.manifest
    while manifest.family == family:
        given = next(each for each in manifest.parents if part in each.parts)
        root, part = _root(root, given), given.parts[part]
        try:
            manifest = Record(root / "runs" / given.run).manifest
        except (FileNotFoundError, NotADirectoryError):
            remedy = f"gave {part} to {parent.run}, whose loss it names, and is no longer in {root}; restore its record"
            raise UserError("init_from", given.run, remedy, Code.MISSING) from None
    return manifest.identity


# --- at plan time: from what a user writes to a graph of cells


def references(section: str, written: object) -> dict[str, Reference | str]:
    """What a block's ``init_from`` asks for, by part: a reference, or the text that is the name of a block or run.

    Raises:
      UserError: it is not a mapping (INVALID), or a reference has an unknown field (UNKNOWN), a wrong value (INVALID),
        or names both a block and a run (CONFLICT).
    """
    asked: dict[str, Reference | str] = {}
    for part, value in settings.mapping(section, written).items():
        if isinstance(value, str):
            asked[part] = value
            continue
        reference = settings.read(Reference, f"{section}.{part}", value)
        settings.check(reference, f"{section}.{part}")
        if bool(reference.block) == bool(reference.run) or (reference.workdir and reference.block):
            remedy = "give a block of this study, or a run, and with a run perhaps its workdir"
            raise UserError(f"{section}.{part}", value, remedy, Code.CONFLICT)
        if part == EVERY and reference.part:
            raise UserError(f"{section}.{part}", value, "a part of the parent goes with one part here", Code.CONFLICT)
        asked[part] = reference
    return asked


def link(
    blocks: Mapping[str, Sequence[Cell]],
    asked: Mapping[str, Mapping[str, Reference | str]],
    prefix: Callable[[Cell], str],
    name: Callable[[Cell], str],
) -> dict[str, list[Cell]]:
    """The cells of each block with their parents.

    Args:
      blocks: cells without parents. asked: what each block's ``init_from`` asks for.
      prefix, name: how the name of a cell's run begins, and the name, which depends on its parents.

    Raises:
      UserError: a parent does not exist or has no final parameters (MISSING), ended otherwise than done (INVALID),
        would descend from itself or is not the only one that fits (CONFLICT), differs from its hash (DAMAGED), or has
        another shape (INVALID).
    """
    linker = _Linker(blocks, asked, prefix, name)
    return {block: [linker.cell(block, index) for index in range(len(cells))] for block, cells in blocks.items()}


class _Linker:
    """Resolves the parents of cells, each cell once, parents first."""

    def __init__(
        self,
        blocks: Mapping[str, Sequence[Cell]],
        asked: Mapping[str, Mapping[str, Reference | str]],
        prefix: Callable[[Cell], str],
        name: Callable[[Cell], str],
    ):
        self._blocks, self._asked, self._prefix, self._name = blocks, asked, prefix, name
        self._at: dict[tuple[str, int, int], list[int]] = {}  # indices of cells by block, size and seed
        for block, cells in blocks.items():
            for index, cell in enumerate(cells):
                self._at.setdefault((block, cell.size, cell.seed), []).append(index)
        self._linked: dict[tuple[str, int], Cell] = {}
        self._outside: dict[tuple[str, str], Outside] = {}
        self._open: list[tuple[str, int]] = []  # cells whose parents are being resolved

    def cell(self, block: str, index: int) -> Cell:
        """A cell with its parents."""
        key, drawn = (block, index), self._blocks[block][index]
        if not self._asked[block] and not families.inherits(drawn.module, drawn.config):
            return drawn
        if key in self._open:
            circle = " <- ".join(name for name, _ in [*self._open[self._open.index(key) :], key])
            raise UserError(f"cells.{block}.init_from", circle, "a run cannot descend from itself", Code.CONFLICT)
        if key not in self._linked:
            self._open.append(key)
            self._linked[key] = dataclasses.replace(drawn, start=self._start(block, drawn))
            self._open.pop()
        return self._linked[key]

    def _start(self, block: str, child: Cell) -> tuple[Start, ...]:
        asked, field, own = dict(self._asked[block]), f"cells.{block}.init_from", _shapes_of(child)
        taught = asked.pop(distill.ASKED, None)
        for part in asked:
            if part != EVERY:
                settings.require_known(field, part, own, also=f", or {EVERY} for all")
        starts, found = [], {part: self._parent(f"{field}.{part}", child, asked[part]) for part in asked if asked[part]}
        for part in {EVERY, adapt.PART} & found.keys():
            if _adapts(found[part]) not in (None, child.adaptation):
                remedy = "its parent is adapted otherwise, and the child would lack that; adapt it alike, or name parts"
                raise UserError(f"{field}.{part}", adapt.record(child.adaptation) or "in full", remedy, Code.CONFLICT)
        for part in own:
            word = part if part in asked else EVERY
            if not asked.get(word):
                continue  # drawn
            parent, reference = found[word], asked[word]
            if part == adapt.PART and _adapts(parent) is None:
                continue  # what adapts a parent that is not adapted is drawn
            source = reference.part if isinstance(reference, Reference) and reference.part else part
            starts.append(Start(part, source, parent))
        _check_origins(field, child, {each.part: each for each in starts})
        for each in starts:
            _check_shapes(f"{field}.{each.part}", own[each.part], each.source, each.parent)
        if taught is not None:
            teacher = self._parent(f"cells.{block}.{distill.ASKED}", child, taught)
            starts.append(Start(distill.PART, EVERY, teacher))
        return tuple(starts)

    def _parent(self, field: str, child: Cell, asked: Reference | str) -> Cell | Outside:
        if isinstance(asked, str):
            asked = Reference(block=asked) if asked in self._blocks else Reference(run=asked)
        if asked.workdir:
            place = asked.workdir, asked.run
            if place not in self._outside:
                self._outside[place] = outside(field, *place)
            return self._outside[place]
        return self._by_name(field, asked.run) if asked.run else self._by_place(field, child, asked)

    def _by_name(self, field: str, run: str) -> Cell:
        for block, cells in self._blocks.items():
            for index, cell in enumerate(cells):
                if run.startswith(self._prefix(cell)) and self._name(found := self.cell(block, index)) == run:
                    return found
        remedy = f"is no block and no run of this study; its blocks are {', '.join(self._blocks)}"
        raise UserError(field, run, f"{closest(run, self._blocks)} {remedy}".lstrip(), Code.UNKNOWN)

    def _by_place(self, field: str, child: Cell, asked: Reference) -> Cell:
        settings.require_known(field, asked.block, self._blocks)
        size = child.size if asked.size < 0 else asked.size
        seed = child.seed if asked.seed < 0 else asked.seed
        cells = self._blocks[asked.block]
        near = self._at.get((asked.block, size, seed), [])
        if asked.tokens:
            near = [i for i in near if abs(math.log(cells[i].tokens / asked.tokens)) < FAR]
        amounts = {cells[i].tokens for i in near}
        if len(amounts) == 1:
            return self.cell(asked.block, near[0])
        about = f"size {size} and seed {seed}" + (f" at {asked.tokens:,.0f} tokens" if asked.tokens else "")
        if not amounts:
            raise UserError(field, asked.block, f"has no cell of {about}", Code.MISSING)
        several = ", ".join(f"{amount:,}" for amount in sorted(amounts))
        raise UserError(field, asked.block, f"has D {several} at {about}: say which by tokens", Code.CONFLICT)


def _check_origins(field: str, child: Cell, given: Mapping[str, Start]) -> None:
    """Raises UserError unless runs of the right families give the parts that they must, and agree with the child in the
    fields that these repeat; a run of the child's own family may hand them on."""
    origins = families.inherits(child.module, child.config)
    for part, wanted in origins.items():
        source, makers = wanted.source or part, " or ".join(wanted.families)
        if part not in given:
            if wanted.needed:
                remedy = f"is the part {source} of a run of the family {makers}; name one"
                raise UserError(field, part, remedy, Code.MISSING)
            continue
        name, theirs = _model(given[part].parent)
        handed_on = name == child.family
        if not handed_on and name not in wanted.families:
            remedy = f"is no run of the family {makers}, which gives {part}"
            raise UserError(f"{field}.{part}", f"a run of {name}", remedy, Code.CONFLICT)
        if given[part].source != (part if handed_on else source):
            remedy = f"is the part {source} of a run of the family {makers}; name it as that"
            raise UserError(f"{field}.{part}", given[part].source, remedy, Code.CONFLICT)
        for here, there in wanted.fields:
            has = getattr(theirs, here if handed_on else there)
            if (value := getattr(child.config, here)) != has:
                remedy = f"must be {has}, as in the run that gives {part}"
                raise UserError(f"model.{here}", value, remedy, Code.CONFLICT)
    for makers in dict.fromkeys(wanted.families for wanted in origins.values()):
        together = [part for part, wanted in origins.items() if part in given and wanted.families == makers]
        if len({id(given[part].parent) for part in together}) > 1:
            raise UserError(field, ", ".join(together), "belong together: name the same run for them", Code.CONFLICT)


def _check_shapes(field: str, own: Mapping[str, tuple[int, ...]], source: str, parent: Cell | Outside) -> None:
    theirs, called = _shapes_of(parent), parent.run if isinstance(parent, Outside) else f"size {parent.size}"
    if source not in theirs:
        raise UserError(field, source, f"is no part of the parent, which has {', '.join(theirs)}", Code.UNKNOWN)
    for path in dict.fromkeys([*own, *theirs[source]]):
        here, there = own.get(path), theirs[source].get(path)
        if here != there:
            remedy = f"{path} is {here or 'absent'} here and {there or 'absent'} in the parent ({called})"
            raise UserError(field, source, f"{remedy}; their models must agree in this part")


def outside(field: str, workdir: str, run: str) -> Outside:
    """A run of another work directory, which must be finished, intact, and have its final parameters.

    Raises:
      UserError: as ``link``.
    """
    root = Path(os.path.abspath(workdir))
    folder, run = root / "runs", run.rstrip("/")
    try:
        msgspec.convert(run, RunName)
    except msgspec.ValidationError:
        raise UserError(field, run, "give the name of a run, and its work directory as workdir") from None
    try:
        record = Record(folder / run)
        manifest = record.manifest
    except (FileNotFoundError, NotADirectoryError):
        near = closest(run, sorted(os.listdir(folder)) if folder.is_dir() else ())
        raise UserError(field, run, f"is no run of {workdir}; {near or 'see `scaling status`'}", Code.MISSING) from None
    if manifest.kind == "stem":
        raise UserError(field, run, "is a stem, which has no final parameters; name a branch", Code.UNSUPPORTED)
    hashed = finished(field, record)
    result = _result(record)
    if result.steps not in _checkpoints(root, run, _url(root)).steps():
        remedy = f"{workdir} does not hold its final parameters; train it with config.keep_final"
        raise UserError(field, run, remedy, Code.MISSING)
    return Outside(str(root), run, hashed, manifest)


def require_final(workdir: Path, programs: Iterable[ProgramSpec], url: str) -> None:
    """Checks that the parents of untrained programs, where they are trained already, still have their parameters.

    Args:
      url: below which the study stores checkpoints; "" if in the folders of their runs.

    Raises:
      UserError: one has not, since nothing started from it when it was trained (MISSING).
    """
    children = (each for each in programs if each.parents)
    untrained = (each for each in children if not all(_ended(workdir, spec.run) for spec in each.runs))
    for run in sorted({run for program in untrained for run in program.parents}):
        result = _ended(workdir, run)
        if result is None or result.status != "done" or result.steps in _checkpoints(workdir, run, url).steps():
            continue
        remedy = f"its final parameters were not kept; move {workdir / 'runs' / run} away, and it is trained again"
        raise UserError("init_from", run, remedy, Code.MISSING)


def _ended(workdir: Path, run: str) -> Result | None:
    """The result of a run; None also if it is damaged, which training will say."""
    try:
        return Record(workdir / "runs" / run).result
    except UserError:
        return None


# --- at run time: whether a parent is still what it was, and its parameters


def check(workdir: Path, parents: Sequence[Parent], recorded: Sequence[Manifest]) -> list[str]:
    """The sha256 of each parent's result, in their order.

    Args:
      recorded: manifests of earlier attempts, which hold the hashes of that time.

    Raises:
      UserError: a parent is lost (MISSING), did not end as done (INVALID), or has another result than before (CHANGED).
    """
    earlier = [each for manifest in recorded for each in manifest.parents if each.result is not None]
    before = {(each.run, each.workdir): each.result for each in earlier}
    hashes = []
    for parent in parents:
        record = Record(_root(workdir, parent) / "runs" / parent.run)
        now, known = finished("parent", record), before.get((parent.run, parent.workdir), parent.result)
        if known is not None and now != known:
            remedy = "has another result than when this run began; move this run away to start from the new one"
            raise UserError("parent", parent.run, remedy, Code.CHANGED)
        hashes.append(now)
    return hashes


def inherit(workdir: Path, parent: Parent, abstract: Mapping[str, Any], stage: Path, url: str) -> Mapping[str, Any]:
    """The parts that a run inherits from a parent, by the names that they have in the run.

    Args:
      abstract: shapes and shardings of the run's parameters, by part.
      stage: a directory for copies of checkpoints that are stored elsewhere.
      url: below which the study of the run stores checkpoints.

    Raises:
      UserError: the parent's final parameters are lost (MISSING), are not those of its result (CHANGED), or do not
        have the hashes that were written with them (DAMAGED).
    """
    root = _root(workdir, parent)
    result = _result(Record(root / "runs" / parent.run))
    wanted = {source: abstract[part] for part, source in parent.parts.items() if source != EVERY}
    stored = _checkpoints(root, parent.run, url if parent.workdir is None else _url(root), stage)
    loaded = stored.parameters(result.steps, wanted, result.parameters) if wanted else {}
    inherited = {part: loaded[source] for part, source in parent.parts.items() if source != EVERY}
    for part in parent.parts.keys() - inherited.keys():  # a whole model, of which the run's own parts are no arrays
        inherited[part] = stored.parameters(result.steps, abstract[part], result.parameters)
    return inherited


def _root(workdir: Path, parent: Parent) -> Path:
    return workdir if parent.workdir is None else Path(parent.workdir)


def _url(workdir: Path) -> str:
    """Where the study of another work directory stores checkpoints; "" without one."""
    try:
        return read_study(workdir).options.checkpoints
    except UserError as error:
        if error.code is not Code.MISSING:
            raise
        return ""


def _checkpoints(workdir: Path, run: str, url: str, stage: Path | None = None) -> Checkpoints:
    return Checkpoints(place(workdir, run, url), stage)


def place(workdir: Path, run: str, url: str) -> str | Path:
    """Where the checkpoints of a run are: in its folder, or below the URL that the study sets."""
    return f"{url.rstrip('/')}/{run}" if url else workdir / "runs" / run / "checkpoints"


def _result(record: Record) -> Result:
    result = record.result
    if result is None:
        raise UserError("parent", record.path.name, "is not finished; finish it first", Code.MISSING)
    return result


def finished(field: str, record: Record) -> str:
    """sha256 of the result of a run that ended as done.

    Args:
      field: what names the run, for the message.

    Raises:
      UserError: it has no result (MISSING), did not end as done (INVALID), or its result is damaged (DAMAGED).
    """
    name, result = record.path.name, record.result
    if result is None:
        raise UserError(field, name, "has no result (any more); train it first", Code.MISSING)
    if result.status != "done":
        again = "" if result.status == "diverged" else "; `scaling run --retry_failed` trains it again"
        raise UserError(field, name, f"is {result.status}, and has no final parameters{again}")
    if record.intact() is False:
        raise UserError(field, name, "result.json differs from its hash; see `scaling verify`", Code.DAMAGED)
    return hashlib.sha256(read_bytes(record.path / "result.json")).hexdigest()
