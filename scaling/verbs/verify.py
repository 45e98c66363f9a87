"""verify: reads a work directory, and says what is damaged and what can be made again.

The study, results, checkpoints and draws of fits are read against their hashes, the seal against its own, metrics
against what the result says of them, manifests against the study; the rest, which has none, against its type. While a
study trains, files come and go: a finding then may be none a moment later.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec

from scaling.errors import Code, NewerVersion, UserError
from scaling.records import HASH, Manifest, Record, read_study, read_typed
from scaling.records.files import exists, listed
from scaling.records.typed import UPDATE
from scaling.records.types import EvaluationRecord, StudyRecord
from scaling.records.value import Value
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json
from scaling.worker.programs import DAMAGED, NEWER, outcome

# Fields of a manifest in which the study and a run may differ: what was learned at its start, and what an edit of the
# study may change of a cell that stays. A stem may have been extended since.
FREE = {"environment", "study", "role", "dataset", "regret", "size"}
FREE_OF_STEMS = {"steps", "tokens", "flops"}


class Finding(Value):
    """A file that is not as it should be.

    Attributes:
      file: its path. what: what is wrong with it, and what that means for the study.
      command: what mends it, or makes it again; None if nothing can.
    """

    file: str
    what: str
    command: str | None


class Audit(Value, kw_only=True):
    """What was read in a work directory, and what is wrong there.

    Attributes:
      read: number of files that were read, by kind.
      unhashed: results without a hash, which an older version wrote: they could be decoded, no more.
    """

    schema: int = 1
    workdir: str
    read: dict[str, int]
    unhashed: int
    findings: tuple[Finding, ...]


def verify(options: SimpleNamespace) -> int:
    """Prints what is damaged. Exit status: 0 nothing; 1 something."""
    audit = _Auditor(options.path).audit()
    if options.json:
        print_json(audit)
        return 1 if audit.findings else 0
    for finding in audit.findings:
        print(f"{finding.file}: {finding.what}")
        print(f"  mended by: {finding.command}" if finding.command else "  cannot be made again; restore a copy")
    print(f"read {', '.join(f'{count} {kind}' for kind, count in audit.read.items() if count) or 'nothing'}")
    if audit.unhashed:
        print(f"{audit.unhashed} results have no hash (of an older version): they can be read, no more is known")
    print(f"{len(audit.findings)} files are damaged" if audit.findings else "nothing is damaged")
    return 1 if audit.findings else 0


class _Auditor:
    """Reads a work directory.

    Raises:
      UserError: it does not exist, or holds neither a study nor runs (MISSING); from ``audit``: the machine lets a file
        not be read (ENVIRONMENT), which tells nothing about the file.
    """

    def __init__(self, workdir: Path):
        if not workdir.is_dir():
            raise UserError("workdir", workdir, "is no directory; give the directory of a study", Code.MISSING)
        self.workdir, self._at = workdir, f"--workdir={shlex.quote(str(workdir))}"
        self.read: dict[str, int] = dict.fromkeys(
            ("study", "manifests", "results", "metrics", "checkpoints", "evaluations", "fits", "seal"), 0
        )
        self.unhashed = 0
        self.planned: dict[str, Manifest] = {}

    def audit(self) -> Audit:
        """Reads everything; the study first, since what it holds can be made again."""
        try:
            findings = [*self._study(), *self._runs(), *self._fits(), *self._seal()]
        except OSError as error:
            remedy = f"cannot be read ({error.strerror}); try again"
            raise UserError("file", error.filename or self.workdir, remedy, Code.ENVIRONMENT) from error
        return Audit(workdir=str(self.workdir), read=self.read, unhashed=self.unhashed, findings=tuple(findings))

    def _study(self) -> Iterator[Finding]:
        path = self.workdir / "study.json"
        again = f"scaling run --config=FILE.py {self._at}"
        try:
            study: StudyRecord = read_study(self.workdir)
        except UserError as error:
            missing = error.code is Code.MISSING
            if missing and not exists(self.workdir / "runs"):
                raise  # a mistyped path, not a damaged study
            yield Finding(str(path), "is missing", again) if missing else _found(path, error, again)
            return
        self.read["study"] += 1
        self.planned = {spec.run: spec.manifest for program in study.programs for spec in program.runs}

    def _runs(self) -> Iterator[Finding]:
        root = self.workdir / "runs"
        if root.is_symlink():
            yield Finding(str(root), "is a link; nothing is written there", f"rm {shlex.quote(str(root))}")
            return
        for path in listed(root):
            if path.is_symlink():
                yield Finding(str(path), "is a link; nothing is written there", f"rm {shlex.quote(str(path))}")
            elif path.is_dir() and not path.name.startswith("."):
                yield from self._run(Record(path))

    def _run(self, record: Record) -> Iterator[Finding]:
        planned = self.planned.get(record.path.name)
        run = f"scaling run {self._at}" if planned else None
        yield from self._manifest(record, planned, run)
        yield from self._result(record, run)
        yield from self._metrics(record, run)
        yield from self._checkpoints(record, run)
        yield from self._evaluations(record)

    def _metrics(self, record: Record, run: str | None) -> Iterator[Finding]:
        path = record.path / "metrics.jsonl"
        if exists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            again = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
            open_yet = run and outcome(record) == "unfinished"
            again = f"{again} && {run}" if open_yet else again
            yield Finding(str(path), "is not a file; training cannot write there", again)
            return
        try:
            self.read["metrics"] += sum(1 for _ in record.rows()) > 0
        except UserError as error:
            yield Finding(str(path), f"{_damage(error)}; training skips the line, a report refuses it", None)
            return
        with contextlib.suppress(UserError):  # of the result, which has a finding of its own
            if record.grown() is False:
                yield Finding(str(path), "differs from its hash in result.json; the result stands, curves do not", None)

    def _manifest(self, record: Record, planned: Manifest | None, run: str | None) -> Iterator[Finding]:
        path = record.path / "manifest.json"
        try:
            manifest = record.manifest
        except FileNotFoundError:
            if exists(record.path / "result.json"):
                yield Finding(str(path), "is missing, though the run has a result", run)
            return
        except UserError as error:
            yield _found(path, error, run)
            return
        self.read["manifests"] += 1
        expected = planned or msgspec.structs.replace(manifest, run=record.path.name)
        free = FREE | (FREE_OF_STEMS if expected.kind == "stem" else set())
        names = [name for name in manifest.__struct_fields__ if name not in free]
        manifest, expected = _planned_parents(manifest), _planned_parents(expected)
        wrong = [name for name in names if getattr(manifest, name) != getattr(expected, name)]
        if wrong:
            again = f"rm {shlex.quote(str(path))} && {run}" if run else None
            yield Finding(str(path), f"{wrong[0]} is not what study.json says", again)

    def _result(self, record: Record, run: str | None) -> Iterator[Finding]:
        path = record.path / "result.json"
        try:
            result, intact = record.result, record.intact()
        except UserError as error:
            of_hash = str(error.value) == str(record.path / HASH)
            again = f"{run} --retry_failed" if run and not of_hash else None
            yield _found(error.value, error, again)
            return
        if result is None:
            return
        self.read["results"] += 1
        self.unhashed += intact is None
        if intact is False:
            again = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')} && {run}" if run else None
            yield Finding(str(path), "differs from its hash", again)

    def _checkpoints(self, record: Record, run: str | None) -> Iterator[Finding]:
        root = record.path / "checkpoints"
        if not any(path.match("[0-9]*.json") for path in listed(root)):
            return
        if "jax" not in sys.modules:
            os.environ["JAX_PLATFORMS"] = "cpu"  # an accelerator may be at work
        from scaling.checkpoint import Checkpoints

        meaning = "training goes on from an older one"
        if outcome(record) not in ("unfinished", DAMAGED, NEWER):
            run, meaning = None, "needed only if the study is extended, or the run trained again"
        for step, problem in Checkpoints(root).verify().items():
            self.read["checkpoints"] += 1
            if problem:
                yield Finding(str(root / str(step)), f"{problem}; {meaning}", run)

    def _evaluations(self, record: Record) -> Iterator[Finding]:
        for path in listed(record.path / "evaluations"):
            if path.suffix != ".json":
                continue
            try:
                read_typed(path, EvaluationRecord)
                self.read["evaluations"] += 1
            except UserError as error:
                again = f"scaling run --evaluate {self._at}"
                found = _found(path, error, again)
                more = "; the same question writes it again" if found.command == again else ""
                yield msgspec.structs.replace(found, what=f"{found.what}{more}")

    def _fits(self) -> Iterator[Finding]:
        above = listed(self.workdir / "fits")
        cards = [each for path in above for each in (path, *listed(path)) if each.suffix == ".json"]
        if not cards:
            return
        from analysis.card import Kind
        from analysis.check.approaches import Approaches
        from analysis.fitting import check_fit

        for path in cards:
            try:
                kind = read_typed(path, Kind).kind
                if kind == "approaches":
                    read_typed(path, Approaches)
                elif kind == "fit":
                    check_fit(path)
                else:
                    continue  # of another verb
            except UserError as error:
                yield _found(path, error, f"scaling fit {shlex.quote(str(self.workdir))}")
            else:
                self.read["fits"] += 1

    def _seal(self) -> Iterator[Finding]:
        from analysis.table import seal

        try:
            self.read["seal"] += seal.read(self.workdir) is not None
        except UserError as error:
            yield _found(self.workdir / seal.FILE, error, None)


def _planned_parents(manifest: Manifest) -> Manifest:
    """The manifest without what was learned of its parents at its start, and without where they were then."""
    parents = tuple(msgspec.structs.replace(each, result=None, workdir=None) for each in manifest.parents)
    return msgspec.structs.replace(manifest, parents=parents)


def _found(path: object, error: UserError, command: str | None) -> Finding:
    """A file that cannot be read, and the command that mends it. UserError as ``_damage``."""
    return Finding(str(path), _damage(error), UPDATE if isinstance(error, NewerVersion) else command)


def _damage(error: UserError) -> str:
    """What is wrong with a file, without the advice that follows it, since a finding has its own.

    Raises:
      UserError: the error itself, if the machine lets the file not be read (ENVIRONMENT).
    """
    if error.code is Code.ENVIRONMENT:
        raise error
    return error.problem


VERB = Verb(
    summary="check the files of a study, while it does not train, and say how to mend them",
    positional=("WORKDIR",),
    flags=(JSON,),
    example="scaling verify runs/demo-smoke",
    call=verify,
)
