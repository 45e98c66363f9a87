"""What verbs take beside a study: a fit card, a table, or a published set; and that it is not written over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError
from scaling.records.typed import read_typed
from scaling.verbs.show import pairs

if TYPE_CHECKING:
    from analysis.fitting import Fit
    from analysis.table.runs import Runs


def fit_of(path: Path, options: SimpleNamespace) -> tuple[Fit, Runs | None]:
    """The fit of a card, or of a table by the law that ``scaling fit`` takes; the rows of a table beside it.

    Args:
      options: ``law``, ``columns``, ``units`` and ``where`` of a table, as ``scaling fit`` has them; None if not given.

    Raises:
      UserError: as ``analysis.fit`` and ``load_fit``; an option for a card, which has its own (CONFLICT).
    """
    from analysis import reference
    from analysis.card import Kind
    from analysis.fitting import fit, load_fit
    from analysis.laws import default, get, placed
    from analysis.table.runs import load

    kind = None
    if path.suffix == ".json" and path.exists():
        with contextlib.suppress(UserError):  # a table, or damaged, which its reader says
            kind = read_typed(path, Kind).kind
    if kind == "fit" or (path.suffix == ".json" and not path.exists()):  # which the reader of cards says
        of_table(options, path)
        return load_fit(path), None
    source = reference.find(path)
    law = get(options.law or (None if source is None else source.law) or default().name)
    law, columns = placed(law, pairs("columns", options.columns, str))
    asked = {"where": options.where, "columns": columns, "law": law}
    if source is not None:
        if options.units:
            raise UserError(
                "units", options.units, f"is not for {path}, which has its own; leave it out", Code.CONFLICT
            )
        runs = reference.load(path, **asked)
    else:
        runs = load(path, units=pairs("units", options.units, str), **asked)
    return fit(runs, law), runs


def of_table(options: SimpleNamespace, path: Path) -> None:
    """Refuses options of a table for a study or a card, whose fits are made (CONFLICT)."""
    for name in ("law", "columns", "units", "where"):
        if (value := getattr(options, name)) is not None:
            raise UserError(
                name, value, f"is for tables; {path} has its fits (scaling fit makes others)", Code.CONFLICT
            )


def beside_input(path: Path, ending: str) -> Path:
    """The file of another ending beside a card or table; in the working directory for a published set."""
    from analysis import reference

    if reference.find(path) is not None:
        return Path(f"{str(path).partition(':')[2]}{ending}")
    return path.with_suffix(ending)


def keep_inputs(out: Path, paths: Iterable[Path]) -> None:
    """Refuses an output that is one of the files that are read (CONFLICT), and would be lost."""
    if any(path.exists() and out.exists() and path.samefile(out) for path in paths):
        raise UserError("out", out, "is what is read; choose another name", Code.CONFLICT)
