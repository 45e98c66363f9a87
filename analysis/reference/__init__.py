"""Published runs as package data: tables whose licence allows it, each with its source, licence and conventions.

A set is one ``NAME.toml`` here (see ``Source``) and the table that it names. ``load("gadre")`` gives the rows as a law
takes them, under the selection that the set recommends; ``frame`` the table as it is. In the shell a set is written
``reference:NAME``.

Example:
  >>> from analysis import reference
  >>> runs = reference.load("gadre", dataset="rpj")
  >>> reference.source("gadre").licence
  'MIT'
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from scaling.errors import Code, UserError

if TYPE_CHECKING:  # pandas is loaded when a table is
    import pandas as pd

    from analysis.laws import Law
    from analysis.table.runs import Runs

FOLDER = Path(__file__).parent
PREFIX = "reference:"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a set of runs comes from, under which licence, and how its table is meant.

    Attributes:
      title: what was trained, in a line.
      paper, arxiv, url: who published it, and the repository of the data.
      licence: its SPDX name; ``copyright`` names the holders.
      changes: what was done to the original data.
      table: the file here.
      law: the law that describes the recommended rows; None where this package has none.
      where, dataset, columns, warmup: the recommended arguments of ``analysis.table.runs.load``.
      conventions: what N, D, C and loss mean.
      fields: what other columns mean, where their names do not say it.
    """

    title: str
    paper: str
    arxiv: str
    url: str
    licence: str
    copyright: str
    changes: str
    table: str
    conventions: dict[str, str]
    law: str | None = None
    where: str | None = None
    dataset: str | None = None
    columns: dict[str, str] = {}
    warmup: int | None = None
    fields: dict[str, str] = {}


def names() -> list[str]:
    """The names of the sets, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def source(name: str) -> Source:
    """Source, licence and conventions of a set.

    Raises:
      UserError: there is no such set (``UNKNOWN``).
    """
    name = name.removeprefix(PREFIX)
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError("reference", name, f"is none of {', '.join(names())}{hint}", Code.UNKNOWN)
    return msgspec.toml.decode((FOLDER / f"{name}.toml").read_bytes(), type=Source)


def path(name: str) -> Path:
    """The CSV file of a set. UserError as for ``source``."""
    return FOLDER / source(name).table


def frame(name: str) -> pd.DataFrame:
    """The table of a set as it is, every row and column. UserError as for ``source``."""
    import pandas as pd

    return pd.read_csv(path(name))


def find(path: str | Path) -> Source | None:
    """The set that a path such as ``reference:gadre`` means; None of any other path. UserError as for ``source``."""
    return source(str(path)) if str(path).startswith(PREFIX) else None


def load(
    name: str | Path,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    law: str | Law | None = None,
    warmup: int | None = None,
) -> Runs:
    """The runs of a set: what is not given is what the set recommends.

    Args:
      name: one of ``names()``, with or without ``reference:`` before it.
      where: which rows; the empty string takes all of them.
      dataset, n, law, warmup: as in ``analysis.table.runs.load``.
      columns: as there; put over the recommended ones, name by name.

    Returns:
      A table of runs whose ``source`` is ``reference:NAME``.

    Raises:
      UserError: no such set (``UNKNOWN``), a set that no law here describes and no ``law`` is given (``UNSUPPORTED``),
        or what ``analysis.table.runs.load`` refuses.
    """
    from analysis import laws
    from analysis.table import runs as tables

    name = str(name).removeprefix(PREFIX)
    meant = source(name)
    wanted = meant.law if law is None else laws.get(law)
    if wanted is None:
        raise UserError("reference", name, "no law here describes it; frame(NAME) has its table", Code.UNSUPPORTED)
    found = tables.load(
        FOLDER / meant.table,
        where=(meant.where if where is None else where) or None,
        dataset=dataset or meant.dataset,
        n=n,
        columns={**meant.columns, **(columns or {})},
        law=wanted,
        warmup=meant.warmup if warmup is None and laws.get(wanted).name == meant.law else warmup,
    )
    return dataclasses.replace(found, source=PREFIX + name)
