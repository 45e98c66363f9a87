"""``load``: the table of runs that a law is fitted to, from a work directory of records or another trainer's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from analysis.laws import Law, get
from analysis.table import importers
from analysis.table import read as tables
from analysis.table.frame import Runs, from_frame
from analysis.table.units import Units
from analysis.table.workdir import datasets, default_dataset, entropy, load_holdouts, load_workdir, open_holdouts, terms
from scaling.errors import Code, UserError

__all__ = [
    "Runs",
    "datasets",
    "default_dataset",
    "entropy",
    "from_frame",
    "load",
    "load_holdouts",
    "open_holdouts",
    "terms",
]


# long: most of it is the docstring
def load(  # wide: each keyword is one choice of the user, and a flag of the shell
    path: str | Path,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    units: Units | None = None,
    keep: Iterable[str] = (),
    best_of_cell: bool = False,
    law: str | Law | None = None,
    warmup: int | None = None,
    term: str | None = None,
    below_zero: bool = False,
) -> Runs:
    """Reads the runs of a work directory, or of a .csv, .tsv, .jsonl, .json or .parquet table.

    Args:
      path: a work directory (it holds ``runs/``) or a table with columns N, D, loss and perhaps C (else C = 6ND).
      where: a selection such as ``"outlier == 0 and N > 1e6"`` (see ``analysis.table.select``).
      dataset: which data set; by default the first one that the study declares. Data sets are never mixed.
      n: which parameters are N: ``nonembedding``, ``total``, ``active``, ``trainable``, a parameter group of the
        records, or a column of the table. In a table without such a column ``nonembedding`` means its column N.
      columns: the table's own names of N, D, C, loss and the law's columns, such as ``{"loss": "loss_c4"}``, or
        arithmetic of its columns, such as ``{"N": "transformer + head"}``.
      units: units of the table by the same names, such as ``{"D": "B", "C": "PF-days", "loss": "ppl"}``, or a factor.
      keep: marks that leave out no row: ``status``, ``decayed``, ``role``.
      best_of_cell: fit only the lowest loss of rows with equal N and D, as after a sweep of learning rates.
      law: the law to fit: N and D are required only if it has them. For a law of learning curves the table holds logged
        steps or arrays (``table.curves``), from which the law's columns are computed.
      warmup: for learning curves: steps of a linear rise from 0 to the first rate in the table.
      term: for a work directory: which loss term or metric to use (see ``terms``); by default the headline.
      below_zero: losses of a table may be zero or negative, as those of densities; for fits of raw residuals.

    Raises:
      UserError: no such path, an unusable table (line and column are named), or a selection without rows.
    """
    path = Path(path)
    if path.is_dir():
        if law is not None and get(law).curve:
            remedy = "needs a table of learning curves; a work directory has final losses"
            raise UserError("law", get(law).name, remedy, Code.UNSUPPORTED)
        for name, value in (("units", units), ("keep", keep), ("best_of_cell", best_of_cell)):
            if value:
                raise UserError(
                    name, value, "is for the numbers of a table; this is a work directory", Code.UNSUPPORTED
                )
        return load_workdir(path, where, dataset, n, term)
    if term is not None:
        remedy = "is for work directories; name the column of a table, columns loss=COLUMN"
        raise UserError("term", term, remedy, Code.UNSUPPORTED)
    if not path.exists() and not path.is_symlink():
        remedy = f"does not exist; give a work directory or a table ({', '.join(tables.FORMATS)})"
        raise UserError("path", path, remedy, Code.MISSING)
    try:
        frame, lines = tables.read(path)
        return from_frame(
            frame,
            where=where,
            dataset=dataset,
            n=n,
            columns=columns,
            units=units,
            keep=keep,
            best_of_cell=best_of_cell,
            law=law,
            warmup=warmup,
            below_zero=below_zero,
            source=str(path),
            rows=lines,
        )
    except UserError as error:
        importers.point_at_import(path, error)
        raise
