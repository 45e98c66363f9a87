"""run: trains every run that is not final."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from scaling import distributed, engines
from scaling.errors import Code, UserError
from scaling.verbs._declare import JSON, WORKDIR, Verb
from scaling.verbs._study import planned, print_failures
from scaling.verbs._training import TRAINING, engine_options
from scaling.verbs.show import print_json


def run(options: SimpleNamespace) -> int:
    """Trains every run that is not final.

    Exit status: 0 all done; 1 some failed or cannot be read; 2 some rejected; 130 on Ctrl-C.
    """
    from scaling.progress import follow
    from scaling.status import StatusReader, duration, headline
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
    group = distributed.detect(os.environ)
    if group is not None:  # srun started several of this command
        distributed.check_mesh(
            group, (plan.study if plan is not None else StatusReader(workdir).programs[0]).options.mesh
        )
    if plan is not None:
        from scaling import plan as plans

        plans.write(plan, workdir)
        for text in plans.remarks(plan.study):
            print(f"warning: {text}", file=sys.stderr)
    reader = StatusReader(workdir)
    for name in restore_manifests(workdir, reader.programs):
        print(f"{name}: manifest.json could not be read, and is written again from study.json", file=sys.stderr)
    if options.retry_failed:
        reset(workdir, reader.programs)
    pending = [program for program in reader.programs if not over(workdir, program)]
    signalled = problem = None
    if pending:
        engine.submit(pending)
        left = duration(reader.read(engine.size).seconds.eta)
        amount = f"{len(pending)} of {len(reader.programs)} programs to train on {engine.size} workers"
        print(f"{reader.name}: {amount}, about {left}; {workdir}", file=sys.stderr, flush=True)
        signalled, problem = follow(engine, reader, sys.stderr)
    status = reader.read()
    if problem is not None and signalled is None:
        raise problem
    if options.json:
        print_json(status)
    elif pending:
        print(headline(status))
    else:
        print(f"nothing to do: all {status.counts['total']} runs of {workdir} are final")
    if signalled is not None:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130 if signalled == signal.SIGINT else 128 + signalled
    print_failures(status, sys.stderr)
    for text in status.warnings:
        print(f"warning: {text}", file=sys.stderr)
    return 2 if status.counts["rejected"] else 1 if status.counts["failed"] or status.counts["damaged"] else 0


VERB = Verb(
    summary="train every run of a study that is not finished; after an interruption, the same command continues",
    flags=(WORKDIR, *TRAINING, JSON),
    study=True,
    example="scaling run --config=demo:smoke",
    call=run,
)
