"""Shared by plan, run, status and tune: the work directory and plan of a configuration, and the list of failures."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TextIO

from scaling.errors import Code, UserError, printable

if TYPE_CHECKING:
    from scaling.plan import Plan
    from scaling.speed import Speed
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
    return plans.make(study, workdir if workdir.is_dir() else None, machine_speed()), workdir


def machine_speed() -> Speed:
    """The speed of this machine, or the reference with a warning where it cannot be measured."""
    from scaling import calibrate
    from scaling.speed import REFERENCE, cpu

    def announce() -> None:
        print(
            f"measuring the speed of this machine ({cpu()}), once; it takes some seconds", file=sys.stderr, flush=True
        )

    try:
        return calibrate.this_machine(announce)
    except UserError as error:
        if error.code is not Code.ENVIRONMENT:
            raise
        print(f"warning: {error}; times are those of a core of an AMD EPYC with AVX2", file=sys.stderr)
        return REFERENCE


def declared(workdir: Path) -> list[str]:
    """The data sets of a study.

    Raises:
      UserError: there is no study (MISSING), or logs of another trainer, which can be imported (UNSUPPORTED).
    """
    from analysis.table import importers
    from scaling.records import read_study

    try:
        return list(read_study(workdir).datasets)
    except UserError as error:
        importers.point_at_import(workdir, error)
        raise


def failure_lines(status: StudyStatus) -> list[str]:
    """Failed and rejected runs, one line for each reason, and the command that trains them again."""
    reasons: dict[tuple[str, str | None], list[str]] = {}
    for failure in status.failures:
        reasons.setdefault((failure.status, failure.reason), []).append(failure.run)
    lines = []
    for (state, reason), runs in reasons.items():
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        lines.append(printable(f"{state}: {runs[0]}{more}: {reason}"))
    return [*lines, *([f"to train them again: {status.retry}"] if status.retry else [])]


def print_failures(status: StudyStatus, stream: TextIO) -> None:
    """Prints ``failure_lines``."""
    for line in failure_lines(status):
        print(line, file=stream)


def spend_lines(status: StudyStatus) -> list[str]:
    """Device hours by kind of device, and their cost if a price is known; then what remains, at the same price."""
    lines = []
    for each in status.spend:
        text = f"{each.hours:.3g} device hours of {each.device_kind or 'unknown devices'}"
        if each.cost is None or each.per_hour is None:
            lines.append(printable(text + ("" if each.device_kind == "cpu" else ", no price known: give --price")))
            continue
        sign = "$" if each.origin == "list" else ""
        whose = {"given": "--price", "study": "config.price_per_hour", "list": f"list price: {each.listed}"}
        price = f"at {sign}{each.per_hour:.4g} an hour ({whose[each.origin or 'given']})"
        lines.append(printable(f"{text}: {sign}{each.cost:,.2f} {price}"))
    if status.cost_left:
        lines.append(f"about {status.cost_left:,.2f} more to the end")
    return lines
