"""verify: reads every file of a work directory, against its hash where it has one, and says what can be made again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec

from scaling.errors import Code, UserError
from scaling.records import HASH, Manifest, Record, read_study
from scaling.records.types import StudyRecord
from scaling.records.value import Value
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json

# Fields of a manifest in which the study and a run may differ: what was learned at its start, and what an edit of the
# study may change of a cell that stays. A stem may have been extended since.
FREE = {"environment", "study", "role", "dataset", "regret", "size"}
FREE_OF_STEMS = {"steps", "tokens", "flops"}


class Finding(Value):
    """A file that is not as it should be.

    Attributes:
      file: its path. what: what is wrong with it.
      command: what makes it again; None if nothing can.
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
        print(f"  made again by: {finding.command}" if finding.command else "  cannot be made again; restore a copy")
    print(f"read {', '.join(f'{count} {kind}' for kind, count in audit.read.items() if count) or 'nothing'}")
    if audit.unhashed:
        print(f"{audit.unhashed} results have no hash (of an older version): they can be read, no more is known")
    print(f"{len(audit.findings)} files are damaged" if audit.findings else "nothing is damaged")
    return 1 if audit.findings else 0


class _Auditor:
    """Reads a work directory.

    Raises:
      UserError: it does not exist, or holds neither a study nor runs (MISSING).
    """

    def __init__(self, workdir: Path):
        if not workdir.is_dir():
            raise UserError("workdir", workdir, "is no directory; give the directory of a study", Code.MISSING)
        self.workdir, self._at = workdir, f"--workdir={shlex.quote(str(workdir))}"
        self.read: dict[str, int] = dict.fromkeys(
            ("study", "manifests", "results", "metrics", "checkpoints", "fits", "seal"), 0
        )
        self.unhashed = 0
        self.planned: dict[str, Manifest] = {}

    def audit(self) -> Audit:
        """Reads everything; the study first, since what it holds can be made again."""
        findings = [*self._study(), *self._runs(), *self._fits(), *self._seal()]
        return Audit(workdir=str(self.workdir), read=self.read, unhashed=self.unhashed, findings=tuple(findings))

    def _study(self) -> Iterator[Finding]:
        path = self.workdir / "study.json"
        again = f"scaling run --config=FILE.py {self._at}"
        try:
            study: StudyRecord = read_study(self.workdir)
        except UserError as error:
            missing = error.code is Code.MISSING
            if missing and not os.path.lexists(self.workdir / "runs"):
                raise  # a mistyped path, not a damaged study
            yield Finding(str(path), "is missing" if missing else _problem(error), again)
            return
        self.read["study"] += 1
        self.planned = {spec.run: spec.manifest for program in study.programs for spec in program.runs}

    def _runs(self) -> Iterator[Finding]:
        root = self.workdir / "runs"
        if root.is_symlink():
            yield Finding(str(root), "is a link; nothing is written there", f"rm {shlex.quote(str(root))}")
            return
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.is_symlink():
                yield Finding(str(path), "is a link; nothing is written there", f"rm {shlex.quote(str(path))}")
            elif path.is_dir() and not path.name.startswith("."):
                yield from self._run(Record(path))

    def _run(self, record: Record) -> Iterator[Finding]:
        planned = self.planned.get(record.path.name)
        run = f"scaling run {self._at}" if planned else None
        yield from self._manifest(record, planned, run)
        yield from self._result(record, run)
        try:
            self.read["metrics"] += any(True for _ in record.rows())
        except UserError as error:
            yield Finding(str(record.path / "metrics.jsonl"), f"{_problem(error)}; training does without", None)
        yield from self._checkpoints(record, run)

    def _manifest(self, record: Record, planned: Manifest | None, run: str | None) -> Iterator[Finding]:
        path = record.path / "manifest.json"
        try:
            manifest = record.manifest
        except FileNotFoundError:
            if os.path.lexists(record.path / "result.json"):
                yield Finding(str(path), "is missing, though the run has a result", run)
            return
        except UserError as error:
            yield Finding(str(path), _problem(error), run)
            return
        self.read["manifests"] += 1
        expected = planned or msgspec.structs.replace(manifest, run=record.path.name)
        free = FREE | (FREE_OF_STEMS if expected.kind == "stem" else set())
        names = [name for name in manifest.__struct_fields__ if name not in free]
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
            yield Finding(str(error.value), _problem(error), again)
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
        if not any(root.glob("[0-9]*.json")):
            return
        if "jax" not in sys.modules:
            os.environ["JAX_PLATFORMS"] = "cpu"  # an accelerator may be at work
        from scaling.checkpoint import Checkpoints

        for step, problem in Checkpoints(root).verify().items():
            self.read["checkpoints"] += 1
            if problem:
                yield Finding(str(root / str(step)), f"{problem}; a run starts from an older one", run)

    def _fits(self) -> Iterator[Finding]:
        cards = sorted(path for pattern in ("*.json", "*/*.json") for path in (self.workdir / "fits").glob(pattern))
        if not cards:
            return
        from analysis.fitting import load_fit

        for path in cards:
            try:
                load_fit(path)
            except (UserError, OSError) as error:
                yield Finding(str(path), _problem(error), f"scaling fit {shlex.quote(str(self.workdir))}")
            else:
                self.read["fits"] += 1

    def _seal(self) -> Iterator[Finding]:
        from analysis.table import seal

        try:
            self.read["seal"] += seal.read(self.workdir) is not None
        except UserError as error:
            yield Finding(str(self.workdir / seal.FILE), _problem(error), None)


def _problem(error: UserError | OSError) -> str:
    """What is wrong, without the advice that follows it: a finding has its own."""
    return error.remedy.rsplit("; ", 1)[0] if isinstance(error, UserError) else error.strerror or str(error)


VERB = Verb(
    summary="read every file of a study against its hash, and say what is damaged and which command makes it again",
    positional=("WORKDIR",),
    flags=(JSON,),
    example="scaling verify runs/demo-smoke",
    call=verify,
)
