"""Published runs as package data: tables whose licence allows it, each with its source, licence and conventions.

A set is a ``NAME.toml`` here (see ``Source``) and the table that it names. ``load("gadre")`` returns runs ready for
fitting, in the selection that the set recommends; ``frame`` returns the unchanged table. In the shell a set is written
``reference:NAME``.

Example:
  >>> from analysis import reference
  >>> runs = reference.load("gadre", dataset="rpj")
  >>> reference.source("gadre").licence
  'MIT'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from scaling.errors import Code, UserError, choose

if TYPE_CHECKING:  # pandas is imported only when a table is loaded
    import pandas as pd

    from analysis.laws import Law
    from analysis.table.runs import Runs

FOLDER = Path(__file__).parent
PREFIX = "reference:"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The origin of a set of runs, its licence, and how to read its table.

    Attributes:
      title: what was trained, in one line.
      paper, arxiv, url: the publication, and the repository of the data.
      licence: its SPDX name; ``copyright`` names the holders.
      changes: changes made to the original data.
      table: the file in this folder.
      law: the law for the recommended rows; None where this package has none.
      where, dataset, columns, warmup: the recommended arguments of ``analysis.table.runs.load``.
      conventions: what N, D, C and loss mean.
      fields: what other columns mean, where their names do not tell.
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
        raise UserError("reference", name, choose(name, names()), Code.UNKNOWN)
    return msgspec.toml.decode((FOLDER / f"{name}.toml").read_bytes(), type=Source)


def path(name: str) -> Path:
    """The CSV file of a set. UserError as for ``source``."""
    return FOLDER / source(name).table


def frame(name: str) -> pd.DataFrame:
    """The unchanged table of a set, with all rows and columns. UserError as for ``source``."""
    import pandas as pd

    return pd.read_csv(path(name))


def find(path: str | Path) -> Source | None:
    """The set named by a path such as ``reference:gadre``; None for any other path. UserError as for ``source``."""
    return source(str(path)) if str(path).startswith(PREFIX) else None


def load(  # wide: the keywords of `analysis.load`
    name: str | Path,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    best_of_cell: bool = False,
    law: str | Law | None = None,
    warmup: int | None = None,
    below_zero: bool = False,
) -> Runs:
    """The runs of a set, with its recommended arguments as defaults.

    Args:
      name: one of ``names()``, with or without the prefix ``reference:``.
      where: which rows; the empty string selects all of them.
      dataset, n, best_of_cell, law, warmup, below_zero: as in ``analysis.table.runs.load``.
      columns: as there; they override the recommended ones, name by name.

    Returns:
      A table of runs whose ``source`` is ``reference:NAME``.

    Raises:
      UserError: no such set (``UNKNOWN``), no ``law`` given for a set without one (``UNSUPPORTED``), or an error of
        ``analysis.table.runs.load``.
    """
    from analysis import laws
    from analysis.table import runs as tables

    name = str(name).removeprefix(PREFIX)
    meant = source(name)
    wanted = meant.law if law is None else laws.get(law)
    if wanted is None:
        raise UserError("reference", name, "no law here describes it; frame(NAME) has its table", Code.UNSUPPORTED)
    runs = tables.load(
        FOLDER / meant.table,
        where=(meant.where if where is None else where) or None,
        dataset=dataset or meant.dataset,
        n=n,
        columns={**meant.columns, **(columns or {})},
        best_of_cell=best_of_cell,
        law=wanted,
        warmup=meant.warmup if warmup is None and laws.get(wanted).name == meant.law else warmup,
        below_zero=below_zero,
    )
    return dataclasses.replace(runs, source=PREFIX + name)
