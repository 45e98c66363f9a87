"""cancel: ends the jobs that `scaling run` has submitted to a scheduler."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from scaling import engines
from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json


def cancel(options: SimpleNamespace) -> int:
    """Cancels the jobs of a work directory, whichever engine submitted them. Workers checkpoint first.

    Raises:
      UserError: there is no study (MISSING), or an engine could not cancel; those of the others are cancelled before.
    """
    from scaling.records import read_study

    workdir = Path(options.path)
    try:
        read_study(workdir)
    except UserError as error:
        if error.code is not Code.MISSING:
            raise
        remedy = f"{error.problem}, so no job was submitted for it; give the work directory of a study"
        raise UserError(error.field, error.value, remedy, error.code) from error
    jobs, problem = {}, None
    for name in engines.engines():
        try:
            if cancelled := engines.engine(name).withdraw(workdir, force=options.force):
                jobs[name] = cancelled
        except UserError as error:  # the jobs of other engines must end all the same
            problem = error
    if problem is not None and not jobs:
        raise problem
    if options.json:
        print_json({"schema": 2, "kind": "cancel", "workdir": str(workdir), "jobs": jobs})
    elif not jobs:
        local = "workers of --engine=local end with the `scaling run` that started them: press Ctrl-C there"
        print(f"nothing to do: {workdir} has no submitted jobs; {local}")
    else:
        for name, cancelled in jobs.items():
            print(f"{name}: cancelled {', '.join(cancelled)}; `scaling run` goes on from the checkpoints")
    if problem is not None:
        raise problem
    return 0


VERB = Verb(
    summary="end the jobs that `scaling run` submitted; the same `scaling run` goes on later",
    positional=("WORKDIR",),
    flags=(Flag("force", bool, "kill the workers instead of letting them checkpoint", False), JSON),
    example="scaling cancel runs/demo-smoke",
    call=cancel,
)
