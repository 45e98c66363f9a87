"""How a verb is declared, and the flags that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace

from scaling.errors import UserError
from scaling.flags import Flag


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
      summary: what it does, in one line.
      call: runs the verb on its options, and returns the exit status.
      example: one command that works as it stands.
      positional: names of its positional arguments; dots after the last mean one or more.
      flags: its flags.
      study: whether it takes ``--config`` and overrides of the configuration's fields.
      offers: names that its first argument may be, for completion in a shell; None where it is a file.
    """

    summary: str
    call: Callable[[SimpleNamespace], int]
    example: str
    positional: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    study: bool = False
    offers: Callable[[], Iterable[str]] | None = None


def _probability(level: float) -> None:
    if not 0.5 <= level < 1:
        raise UserError("level", level, "give a probability from 0.5 to 1, such as 0.95")


def law_names() -> Iterable[str]:
    """Names of the registered laws."""
    from analysis.laws import REGISTRY

    return REGISTRY


JSON = Flag("json", bool, "print JSON instead of text", False)
WORKDIR = Flag("workdir", str, "directory of the study (default: runs/NAME, or runs/NAME-ARGUMENT)")
LEVEL = Flag("level", float, "confidence level of the intervals", 0.95, _probability)
DISCREPANCY = Flag(
    "discrepancy", str, "model error beyond the runs: auto, off, or its size in log loss per e-fold", "auto"
)
WHERE = Flag("where", str, "fit only the rows that satisfy this, such as 'N > 1e6 and outlier == 0'")
COLUMNS = Flag(
    "columns",
    str,
    "columns of the table, such as 'N=params,loss=val_loss', or sums and products of them, such as "
    "'N=body+head'; x=NAME for a law in one variable",
)
UNITS = Flag(
    "units",
    str,
    "units of the table where they are not parameters, tokens, FLOPs and nats, such as "
    "'N=M,D=B,C=PF-days,loss=bits'; loss=ppl, C=forward (2ND), or a factor",
)
# what a verb that fits a table by itself is told of it
TABLE = (Flag("law", str, "law to fit to a table (default: chinchilla)", offers=law_names), WHERE, COLUMNS, UNITS)
