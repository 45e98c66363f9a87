"""Shared by plan, run, status and tune: the work directory and plan of a configuration, and the list of failures."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from scaling.plan import Plan
    from scaling.status import StudyStatus


def default_workdir(name: str, argument: str | None) -> Path:
    """runs/NAME, or runs/NAME-ARGUMENT unless the name already ends with the configuration's argument."""
    slug = re.sub(r"[^\w.-]+", "-", argument or "").strip("-")
    return Path("runs") / (name if not slug or name.endswith(f"-{slug}") else f"{name}-{slug}")


def planned(options: SimpleNamespace) -> tuple[Plan, Path]:
    """The plan of the configuration, and its work directory.

    Raises:
      UserError: the configuration cannot be resolved, see ``study.resolve``.
    """
    from scaling import plan as plans
    from scaling import study as studies

    study = studies.resolve(options.config)
    workdir = Path(options.workdir) if options.workdir else default_workdir(study.name, options.argument)
    return plans.make(study, workdir if workdir.is_dir() else None), workdir


def print_failures(status: StudyStatus, stream: TextIO) -> None:
    """Prints failed and rejected runs, one line for each reason, and the command that trains them again."""
    reasons: dict[tuple[str, str | None], list[str]] = {}
    for failure in status.failures:
        reasons.setdefault((failure.status, failure.reason), []).append(failure.run)
    for (state, reason), runs in reasons.items():
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        print(f"{state}: {runs[0]}{more}: {reason}", file=stream)
    if status.retry:
        print(f"to train them again: {status.retry}", file=stream)
