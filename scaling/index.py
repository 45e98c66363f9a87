"""An index of what ``status`` reads in the directories of a study, so that a large one is not read whole each time.

The directories are the truth, and ``index.msgpack`` may be deleted at any time. What it says about a file counts only
while that file has the inode, size and times that it had when it was read, so no writer needs to tell the index
anything: not a worker, not a person who sets a result aside or restores a backup. A file is entered only if it had not
changed for ``GRACE`` seconds when it was read, by the clock of its file system: a later change within one tick of that
clock could not be seen. An index that is damaged, or was written by another version, is ignored and written anew, whole
and atomically; of two writers the last one stays, and each of its entries is true or not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from scaling import __version__
from scaling.errors import UserError
from scaling.records import AGAIN, RESTORED, read_study, rows_of
from scaling.records.files import exists, read_bytes, write_atomic
from scaling.records.order import in_order
from scaling.records.typed import read_typed
from scaling.records.types import Kind, Manifest, Planned, Result, Role, StartRow, Status, StepRow, StudyRecord
from scaling.records.value import Value

FILE = "index.msgpack"
FORMAT = 2  # to be raised when what is kept here, or how it is computed, changes
SMALLEST = 500  # runs of a study that has an index; a smaller one is read in a moment
GRACE = 2_000_000_000  # nanoseconds; some file systems have times of whole seconds
LARGEST = 2**30  # bytes; an index of a million runs is smaller

Stamp = tuple[int, int, int, int]  # time of the content, time of the inode (both ns), size, inode
T = TypeVar("T")


class RunOutline(Planned, Value, array_like=True):
    """What status shows of a planned run; the fields of ``RunSpec`` and of its manifest.

    ``parents`` are the runs of the same study that it starts from; for ``flops`` see ``_packed``.
    """

    run: str
    kind: Kind
    role: Role
    steps: int
    branch_step: int | None
    flops: int | float
    dataset: str
    size: int
    seed: int
    N: int
    D: int
    headline: str
    parents: tuple[str, ...]


class ProgramOutline(Value, array_like=True):
    """What status needs of a ``ProgramSpec``."""

    program: str
    seconds: float
    flops: int | float
    runs: tuple[RunOutline, ...]


class Outline(Value, array_like=True):
    """What status needs of study.json; programs in the order in which workers take them."""

    name: str
    price_per_hour: float
    programs: tuple[ProgramOutline, ...]


class ResultFacts(Value, array_like=True):
    """What status needs of a ``Result``; ``losses``: (value, standard error) by term."""

    status: Status
    reason: str | None
    steps: int
    losses: dict[str, tuple[float, float | None]]
    train_loss: float | None
    train: float
    compile: float
    evaluate: float
    checkpoint_problems: tuple[str, ...]
    replaced: int | None


class ManifestFacts(Value, array_like=True):
    """What status needs of a manifest that can be read: the devices of the run, None and 1 before it began."""

    device_kind: str | None
    devices: int


class MetricsFacts(Value, array_like=True):
    """What status needs of metrics.jsonl.

    Attributes:
      starts: attempts at its program. step, loss: of the last step that has a row; 0 and None if none has.
      seconds: device seconds of all rows, also of steps that were trained again.
    """

    starts: int
    step: int
    loss: float | None
    seconds: float


class _Content(Value):
    """The index as it is written: outline of study.json, and facts of the files of each run, with their stamps."""

    study: tuple[Stamp, Outline] | None = None
    results: dict[str, tuple[Stamp, ResultFacts]] = msgspec.field(default_factory=dict)
    manifests: dict[str, tuple[Stamp, ManifestFacts]] = msgspec.field(default_factory=dict)
    metrics: dict[str, tuple[Stamp, MetricsFacts]] = msgspec.field(default_factory=dict)


class Index:
    """Reads the files of a study's runs through the index: each again only if it changed.

    Args:
      workdir: the directory with study.json.
    """

    def __init__(self, workdir: Path):
        self._workdir, self._runs = workdir, f"{workdir}/runs/"
        self._held = _load(workdir / FILE)
        self._new = 0
        self._begun = time.time_ns()

    def begin(self) -> None:
        """To be called before each look at the directories."""
        self._begun = time.time_ns()

    def outline(self) -> Outline:
        """The outline of study.json.

        Raises:
          UserError: there is no study (MISSING), or it is damaged (DAMAGED).
        """
        path = self._workdir / "study.json"
        try:
            stamp = _stamp(os.stat(path))
        except OSError:
            return outline_of(read_study(self._workdir))  # raises what is to be said
        if self._held.study is not None and self._held.study[0] == stamp:
            return self._held.study[1]
        made = outline_of(read_study(self._workdir))
        if self._is_old(stamp, self._begun):
            self._held = msgspec.structs.replace(self._held, study=(stamp, made))
            self._new += 1
        return made

    def result(self, run: str) -> ResultFacts | None:
        """Facts of result.json; None while there is none. Raises UserError (DAMAGED) if it cannot be read."""
        return self._get(self._held.results, run, "result.json", _result)

    def manifest(self, run: str) -> ManifestFacts | None:
        """Facts of manifest.json; None if there is none. Raises UserError (DAMAGED) if it cannot be read."""
        return self._get(self._held.manifests, run, "manifest.json", _manifest)

    def metrics(self, run: str) -> MetricsFacts | None:
        """Facts of metrics.jsonl; None if there is none. Raises UserError if it is no file (DAMAGED)."""
        return self._get(self._held.metrics, run, "metrics.jsonl", _metrics)

    def save(self) -> None:
        """Writes the index if the study is large and much of it is new. It does without, where it cannot be written."""
        if self._held.study is None:
            return
        runs = [run.run for program in self._held.study[1].programs for run in program.runs]
        if len(runs) < SMALLEST or self._new <= len(runs) // 50:
            return
        try:
            begun = self._begun + min(0, _skew(self._workdir))
        except OSError:
            return

        def kept(held: dict[str, tuple[Stamp, T]]) -> dict[str, tuple[Stamp, T]]:
            return {run: at for run in runs if (at := held.get(run)) is not None and self._is_old(at[0], begun)}

        study = self._held.study if self._is_old(self._held.study[0], begun) else None
        held = self._held
        payload = msgspec.msgpack.encode(_Content(study, kept(held.results), kept(held.manifests), kept(held.metrics)))
        with contextlib.suppress(UserError):
            write_atomic(self._workdir / FILE, _head(payload) + payload)
            self._new = 0

    def _get(self, held: dict[str, tuple[Stamp, T]], run: str, name: str, load: Callable[[str], T]) -> T | None:
        path = f"{self._runs}{run}/{name}"
        try:
            stamp = _stamp(os.stat(path))  # before the content: what changes in between has another stamp later
        except OSError:
            if not exists(path):
                return None
            return load(self._runs + run)  # raises what is to be said
        if (known := held.get(run)) is not None and known[0] == stamp:
            return known[1]
        try:
            facts = load(self._runs + run)
        except FileNotFoundError:  # set aside just now
            return None
        if self._is_old(stamp, self._begun):
            held[run] = (stamp, facts)
            self._new += 1
        return facts

    @staticmethod
    def _is_old(stamp: Stamp, now: int) -> bool:
        """Whether a file was last changed long enough before ``now``, in ns, that a later change would show."""
        return max(stamp[0], stamp[1]) < now - GRACE


def outline_of(study: StudyRecord) -> Outline:
    """The outline of a study."""
    programs = in_order(study.programs)
    return Outline(
        study.name,
        study.price_per_hour,
        tuple(
            ProgramOutline(
                program.program,
                program.seconds,
                _packed(program.flops),
                tuple(
                    RunOutline(
                        spec.run,
                        spec.kind,
                        spec.role,
                        spec.steps,
                        spec.branch_step,
                        _packed(spec.flops),
                        spec.manifest.dataset,
                        spec.manifest.size,
                        spec.manifest.seed,
                        spec.manifest.parameters.nonembedding,
                        spec.manifest.tokens.D,
                        spec.manifest.headline,
                        tuple(each.run for each in spec.manifest.parents if each.workdir is None),
                    )
                    for spec in program.runs
                ),
            )
            for program in programs
        ),
    )


def _packed(flops: int) -> int | float:
    """As msgpack can hold them, which has no integers above 2e19: a billion parameters on three billion tokens."""
    return flops if flops < 2**64 else float(flops)


def _result(folder: str) -> ResultFacts:
    result = read_typed(f"{folder}/result.json", Result, remedy=AGAIN)
    return ResultFacts(
        result.status,
        result.reason,
        result.steps,
        {name: (term.value, term.se) for name, term in result.evaluation.items()},
        result.train_loss,
        result.seconds.train,
        result.seconds.compile,
        result.seconds.evaluate,
        result.checkpoint_problems,
        result.replaced,
    )


def _manifest(folder: str) -> ManifestFacts:
    environment = read_typed(f"{folder}/manifest.json", Manifest, remedy=RESTORED).environment
    if environment is None:
        return ManifestFacts(None, 1)
    devices = 1
    for ways in environment.mesh.values():
        devices *= ways
    return ManifestFacts(environment.device_kind, devices)


def _metrics(folder: str) -> MetricsFacts:
    last, seconds, starts = None, 0.0, 0
    for row in rows_of(f"{folder}/metrics.jsonl", strict=False):
        if isinstance(row, StepRow):
            seconds += row.seconds
            last = row if last is None or row.step >= last.step else last
        elif isinstance(row, StartRow):
            starts += 1
    return (
        MetricsFacts(starts, 0, None, seconds) if last is None else MetricsFacts(starts, last.step, last.loss, seconds)
    )


def _skew(folder: Path) -> int:
    """Nanoseconds by which the clock of a folder's file system is ahead of ours. OSError if it cannot be written."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_ctime_ns - time.time_ns()


def _stamp(about: os.stat_result) -> Stamp:
    return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino


def _head(payload: bytes) -> bytes:
    return f"scaling index {FORMAT} {__version__} {hashlib.sha256(payload).hexdigest()}\n".encode()


def _load(path: Path) -> _Content:
    """The index that was written; an empty one if there is none of this version, or it is damaged."""
    try:
        content = read_bytes(path, LARGEST)
        head, _, payload = content.partition(b"\n")
        if head + b"\n" != _head(payload):
            return _Content()
        return msgspec.msgpack.decode(payload, type=_Content)
    except (OSError, UserError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Content()
