"""Counts how often a job started without progress: ``python -P -m scaling.engines._requeue --workdir=W --task=12_0``.

A job that is interrupted goes back into the queue. One that never gets further must not do so for ever: the script of
the job asks here before it starts the workers, and ends if the answer is exit code 2.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from scaling.errors import Code, UserError
from scaling.flags import Flag, read
from scaling.records import read_typed, write_json
from scaling.records.files import make_folder, remove
from scaling.records.types import Marks, ProgramSpec
from scaling.records.value import Value
from scaling.worker import EXIT_DONE, EXIT_USER
from scaling.worker.failures import Problem
from scaling.worker.log import now
from scaling.worker.programs import load_programs, over, progress_marks

MAX_REQUEUES = 3  # without progress
FLAGS = (Flag("workdir", str, "directory of the study"), Flag("task", str, "number of the job, and of its task"))
FOLDER = "jobs"  # of the work directory


class Start(Value):
    """One start of a job: when, where, and the progress of the study at that time."""

    time: str
    host: str
    marks: Marks


class Task(Value):
    """All starts of a job, or of one task of an array."""

    starts: tuple[Start, ...] = ()


def file_of(workdir: Path, task: str) -> Path:
    """Where the starts of a task are kept."""
    return workdir / FOLDER / f"slurm-{task}.json"


def report_of(workdir: Path, task: str) -> Path:
    """Where the error is kept that ended a task."""
    return workdir / FOLDER / f"slurm-{task}.error.json"


def marks_of(workdir: Path, programs: Sequence[ProgramSpec]) -> Marks:
    """The progress of a study: that of all its programs together. Rows count while their program is not over: of ten
    thousand finished runs they would be read again at the start of every job."""
    left = [program for program in programs if not over(workdir, program)]
    settled = sum(len(program.runs) for program in programs) - sum(len(program.runs) for program in left)
    each = [progress_marks(workdir, program) for program in left]
    return Marks(settled=settled + sum(marks.settled for marks in each), rows=sum(marks.rows for marks in each))


def begin(workdir: Path, task: str) -> int:
    """Records a start of a task. Returns how many starts before it there were in a row without progress.

    Raises:
      UserError: there is no readable study, or the work directory cannot be written (ENVIRONMENT).
    """
    marks = marks_of(workdir, load_programs(workdir))
    path = file_of(workdir, task)
    make_folder(path.parent, inside=workdir)
    remove(report_of(workdir, task))  # of an earlier start
    try:
        earlier = read_typed(path, Task).starts
    except FileNotFoundError:
        earlier = ()
    except UserError as error:
        if error.code is not Code.DAMAGED:
            raise
        earlier = ()  # the count begins anew
    write_json(path, Task((*earlier, Start(now(), socket.gethostname(), marks))))
    same = 0
    for start in reversed(earlier):
        if start.marks != marks:
            break
        same += 1
    return same


def main(arguments: Sequence[str] | None = None) -> int:
    """Records a start; returns 0 if the workers may be started, else 2."""
    given = read(FLAGS, sys.argv[1:] if arguments is None else arguments).flags
    workdir, task = Path(str(given["workdir"])), str(given["task"])
    if not re.fullmatch(r"[0-9]+([_-][0-9]+)?", task):
        print(f"error: task = {task}: is not the number of a job", file=sys.stderr)
        return EXIT_USER
    try:
        same = begin(workdir, task)
        if same < MAX_REQUEUES:
            return EXIT_DONE
        problem = UserError("job", task, f"was started {same + 1} times without progress; see logs/", Code.ENVIRONMENT)
        write_json(report_of(workdir, task), Problem.of(problem))
    except UserError as error:
        problem = error
    print(f"error: {problem}", file=sys.stderr, flush=True)
    return EXIT_USER


if __name__ == "__main__":
    sys.exit(main())
