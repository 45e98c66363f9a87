"""status: shows what is done, what is left, and what failed and why."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError, printable
from scaling.flags import Flag
from scaling.verbs._declare import JSON, Verb
from scaling.verbs._study import print_failures, spend_lines
from scaling.verbs.show import pairs, print_json, table

if TYPE_CHECKING:
    from scaling.status import RunStatus


def status(options: SimpleNamespace) -> int:
    """Prints what is done, what is left and what it has cost; or shows a page of it."""
    from scaling.status import SETTLED, activity, duration, headline, study_status

    if options.watch and options.json:
        raise UserError("watch", True, "shows a page, and --json prints one answer; give one of them", Code.CONFLICT)
    prices = _prices(options.price)
    if options.watch and sys.stdout.isatty():
        from rich.console import Console

        from scaling.status import StatusReader
        from scaling.verbs._watch import watch

        return watch(StatusReader(options.path, prices), Console())
    study = study_status(options.path, prices)
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
    if any(row.parents for row in study.runs):
        columns["starts from"] = lambda row: ", ".join(row.parents)
    print("\n".join(table(study.runs, columns)))
    print()
    print(headline(study))
    for line in activity(study):
        print(f"  {line}")
    flops, seconds = study.flops, study.seconds
    spent = f"spent {flops.done:.3e} of {flops.total:.3e} FLOPs, {duration(seconds.spent)} of device time"
    print(f"{spent}; left {duration(seconds.left)}")
    for line in spend_lines(study):
        print(line)
    if any(row.hidden and row.state in SETTLED for row in study.runs):
        print(f"held-out losses stay sealed until `scaling predict {options.path}`")
    if study.unplanned:
        first = ", ".join(study.unplanned[:3]) + (" ..." if len(study.unplanned) > 3 else "")
        print(f"{len(study.unplanned)} runs are not of this study any more, kept and not counted: {first}")
    print_failures(study, sys.stdout)
    for text in study.warnings:
        print(printable(f"warning: {text}"))
    return 0


def _prices(text: str | None) -> dict[str, float]:
    """Prices of a device hour by the beginning of the device's kind; "" is every device."""
    try:
        found = {"": float(text)} if text else {}
    except ValueError:
        if text is not None and "=" not in text:
            raise UserError("price", text, "must be a number, or KIND=NUMBER[,KIND=NUMBER ...]") from None
        found = pairs("price", text, float, "NUMBER")
    for kind, price in found.items():
        if not 0 <= price < float("inf"):
            raise UserError("price", f"{kind}={price}" if kind else price, "must be a number from 0 on")
    return found


PRICE = Flag(
    "price",
    str,
    "price of a device hour, in any currency: NUMBER, or KIND=NUMBER[,KIND=NUMBER ...] by the beginning of a device's "
    "kind (default: config.price_per_hour, or a list price)",
)
WATCH = Flag("watch", bool, "a page, redrawn until all runs have ended or Ctrl-C; without a terminal, once", False)
VERB = Verb(
    summary="show the runs of a study: which are done, what is left, what failed and why",
    positional=("WORKDIR",),
    flags=(WATCH, PRICE, JSON),
    example="scaling status runs/demo-smoke",
    call=status,
)
