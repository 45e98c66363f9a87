"""run: trains every run that is not final, or evaluates those that are."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling import engines
from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.verbs._declare import JSON, WORKDIR, Verb
from scaling.verbs._evaluate import ASKED, EVALUATE, evaluate, refuse
from scaling.verbs._study import planned, print_failures
from scaling.verbs._training import TRAINING, engine_options
from scaling.verbs.show import print_json

if TYPE_CHECKING:
    from scaling.status import StatusReader, StudyStatus


def _planned_before(workdir: Path) -> StatusReader:
    """The study that is there, where none is given."""
    from scaling.status import StatusReader

    try:
        return StatusReader(workdir)
    except UserError as error:
        if error.code is not Code.MISSING:
            raise
        remedy = f"{error.problem}; give --config=FILE.py, whose study is planned there"
        raise UserError(error.field, error.value, remedy, error.code) from error


def run(options: SimpleNamespace) -> int:
    """Trains every run that is not final, or evaluates those that are.

    Exit status: 0 all done; 1 some failed or cannot be read; 2 some rejected; 130 on Ctrl-C.
    """
    if options.evaluate:
        refuse(options, (*TRAINING, DRY_RUN), "is of training; leave it out, or --evaluate")
        return evaluate(options)
    refuse(options, ASKED, "says what to evaluate; give --evaluate too")
    return train(options)


def train(options: SimpleNamespace) -> int:
    """Trains every run that is not final; see ``run``."""
    from scaling.progress import follow
    from scaling.status import StatusReader, duration
    from scaling.worker.programs import over, reset, restore_manifests

    plan = None
    if options.config is not None:
        plan, workdir = planned(options)
    elif options.workdir:
        workdir = Path(options.workdir)
    else:
        raise UserError("config", "nothing", "give --config=FILE.py, or --workdir of a study to continue", Code.MISSING)
    # Options are checked before anything is written.
    engine = engines.engine(options.engine)(workdir, **engine_options(options))
    reader = work = None
    if plan is not None:
        programs = plan.programs
    else:
        reader = _planned_before(workdir)
        work = reader.work()
        programs = reader.programs if options.retry_failed else work.pending
    if options.dry_run:
        _show(engine.preview([program for program in programs if not over(workdir, program)]), options)
        return 0
    engine.check(programs)
    if plan is not None:
        from scaling import plan as plans

        plans.write(plan, workdir)
        for text in plans.remarks(plan.study):
            print(f"warning: {text}", file=sys.stderr)
    reader = reader or StatusReader(workdir)
    work = work or reader.work()
    for name in restore_manifests(workdir, work.torn):
        print(f"{name}: manifest.json could not be read, and is written again from study.json", file=sys.stderr)
    again = options.retry_failed and reset(workdir, reader.programs)
    pending = reader.work().pending if again else work.pending
    signalled = problem = None
    if pending:
        engine.submit(pending)
        left = duration(reader.read(engine.size, engine.crowding).seconds.eta)
        amount = f"{len(pending)} of {len(reader.programs)} programs to train on {engine.size} workers"
        print(f"{reader.name}: {amount}, about {left}; {workdir}", file=sys.stderr, flush=True)
        signalled, problem = follow(engine, reader, sys.stderr)
    status = reader.read() if pending or work.torn else work.status
    if problem is not None and signalled is None:
        raise problem
    _print(status, workdir, trained=bool(pending), as_json=options.json)
    if signalled is not None:
        jobs = f"the jobs go on, and `scaling cancel {workdir}` ends them; " if engine.detached else ""
        print(f"interrupted; {jobs}the same command continues", file=sys.stderr)
        return 130 if signalled == signal.SIGINT else 128 + signalled
    print_failures(status, sys.stderr)
    for text in status.warnings:
        print(f"warning: {text}", file=sys.stderr)
    return 2 if status.counts["rejected"] else 1 if status.counts["failed"] or status.counts["damaged"] else 0


def _show(submits: str, options: SimpleNamespace) -> None:
    """What would be submitted."""
    if options.json:
        print_json({"schema": 2, "kind": "dry_run", "engine": options.engine, "submits": submits})
    else:
        print(submits)


def _print(status: StudyStatus, workdir: Path, *, trained: bool, as_json: bool) -> None:
    from scaling.status import headline

    if as_json:
        print_json(status)
    elif trained:
        print(headline(status))
    elif status.counts["damaged"]:
        print(f"nothing to do: {headline(status)}")
    else:
        print(f"nothing to do: all {status.counts['total']} runs of {workdir} are final")


DRY_RUN = Flag("dry_run", bool, "print what a cluster's engine would submit, and neither write nor submit it", False)
VERB = Verb(
    summary="train all that is not finished; after an interruption, the same command continues",
    flags=(WORKDIR, *TRAINING, DRY_RUN, EVALUATE, *ASKED, JSON),
    study=True,
    example="scaling run --config=demo:smoke",
    call=run,
)
