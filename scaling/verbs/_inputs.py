"""What verbs take beside a study: a fit card, a table, or a published set; and that it is not written over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError
from scaling.records.typed import read_typed

if TYPE_CHECKING:
    from analysis.fitting import Fit
    from analysis.table.runs import Runs


def fit_of(path: Path) -> tuple[Fit, Runs | None]:
    """The fit of a card, or of a table by the law that ``scaling fit`` takes; the rows of a table beside it.

    Raises:
      UserError: as ``analysis.fit`` and ``load_fit``.
    """
    from analysis import reference
    from analysis.card import Kind
    from analysis.fitting import fit, load_fit
    from analysis.laws import default
    from analysis.table.runs import load

    kind = None
    if path.suffix == ".json" and path.exists():
        with contextlib.suppress(UserError):  # a table, or damaged, which its reader says
            kind = read_typed(path, Kind).kind
    if kind == "fit" or (path.suffix == ".json" and not path.exists()):  # which the reader of cards says
        return load_fit(path), None
    source = reference.find(path)
    runs = load(path) if source is None else reference.load(path)
    law = None if source is None else source.law
    return fit(runs, law or default().name), runs


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
