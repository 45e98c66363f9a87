"""status: shows what is done, what is left, and what failed and why."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.verbs._declare import JSON, Verb
from scaling.verbs._study import print_failures
from scaling.verbs.show import print_json, table

if TYPE_CHECKING:
    from scaling.status import RunStatus


def status(options: SimpleNamespace) -> int:
    """Prints what is done and what is left."""
    from scaling.status import SETTLED, activity, duration, headline, study_status

    study = study_status(options.path)
    if options.json:
        print_json(study)
        return 0
    columns: dict[str, Callable[[RunStatus], object]] = {
        "run": lambda row: row.run,
        "role": lambda row: row.role,
        "N": lambda row: f"{row.N:,}",
        "D": lambda row: f"{row.D:,}",
        "state": lambda row: row.state,
        "step": lambda row: f"{row.step}/{row.steps}",
        "loss": lambda row: "sealed" if row.hidden else "" if row.loss is None else f"{row.loss:.4f}",
        "se": lambda row: "" if row.se is None else f"{row.se:.4f}",
        "seconds": lambda row: f"{row.seconds:.1f}",
        "attempts": lambda row: row.attempts,
    }
    print("\n".join(table(study.runs, columns)))
    print()
    print(headline(study))
    for line in activity(study):
        print(f"  {line}")
    flops, seconds = study.flops, study.seconds
    spent = f"spent {flops.done:.3e} of {flops.total:.3e} FLOPs, {duration(seconds.spent)} of device time"
    print(f"{spent}; left {duration(seconds.left)}")
    if any(row.hidden and row.state in SETTLED for row in study.runs):
        print(f"held-out losses stay sealed until `scaling predict {options.path}`")
    if study.unplanned:
        first = ", ".join(study.unplanned[:3]) + (" ..." if len(study.unplanned) > 3 else "")
        print(f"{len(study.unplanned)} runs are not of this study any more, kept and not counted: {first}")
    print_failures(study, sys.stdout)
    for text in study.warnings:
        print(f"warning: {text}")
    return 0


VERB = Verb(
    summary="show the runs of a study: which are done, what is left, what failed and why",
    positional=("WORKDIR",),
    flags=(JSON,),
    example="scaling status runs/demo-smoke",
    call=status,
)
