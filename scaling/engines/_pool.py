"""The workers of one machine, as a job of a scheduler starts them: ``python -P -m scaling.engines._pool --workdir=W``.

It is the local engine without a terminal. Signals that schedulers send (SIGTERM, SIGUSR2) make the workers checkpoint;
the exit code then is 75, as that of a worker, unless nothing is left to train.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scaling.engines import _workers, engine
from scaling.errors import UserError
from scaling.flags import Flag, Value, read
from scaling.records import write_json
from scaling.records.types import ProgramSpec
from scaling.worker import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER
from scaling.worker.failures import Problem
from scaling.worker.programs import load_programs, over

LOOK = 0.2  # seconds between two looks at the workers
FLAGS = (
    Flag("workdir", str, "directory of the study"),
    Flag("label", str, "of the workers' logs (default: the name of this node)"),
    Flag("report", str, "file for the error that ended them"),
    Flag("idle", float, "seconds after which a worker ends if all that is left is in the hands of others"),
    *_workers.FLAGS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains until every program is final or a signal comes; returns the exit code of a worker."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, lambda number, _: received.append(number))
    # A launcher such as srun may have started several of these, each for workers of its own.
    os.environ["SCALING_PROCESSES"] = "1"
    given = read(FLAGS, sys.argv[1:] if arguments is None else arguments).flags
    workdir, report = Path(str(given.pop("workdir"))), given.pop("report", None)
    given.setdefault("label", os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    try:
        problem = _train(workdir, received, **given)
    except UserError as error:
        problem = error
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr, flush=True)
        if report is not None:
            with contextlib.suppress(UserError):  # the disk may be what is wrong
                write_json(str(report), Problem.of(problem))
        return EXIT_USER
    return EXIT_INTERRUPTED if received and _unfinished(workdir) else EXIT_DONE


def _train(workdir: Path, received: Sequence[int], **options: Value) -> UserError | None:
    pool = engine("local")(workdir, **options)
    programs = _unfinished(workdir)
    if not programs:
        return None
    pool.submit(programs)
    cancelled = False
    while not (state := pool.poll()).finished:
        if received and not cancelled:  # not in the handler, which may come while a worker is being started
            cancelled = True
            pool.cancel()
        time.sleep(LOOK)
    return state.problem


def _unfinished(workdir: Path) -> list[ProgramSpec]:
    return [program for program in load_programs(workdir) if not over(workdir, program)]


if __name__ == "__main__":
    sys.exit(main())
