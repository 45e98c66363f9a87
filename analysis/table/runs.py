"""``load``: the table of runs that a law is fitted to, from a work directory of records or another trainer's table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.laws import Law, get
from analysis.table import read as tables
from analysis.table.frame import Runs, from_frame
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


def load(
    path: str | Path,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    law: str | Law | None = None,
    warmup: int | None = None,
    term: str | None = None,
) -> Runs:
    """Reads the runs of a work directory, or of a .csv, .tsv, .jsonl or .parquet table.

    Args:
      path: a work directory (it holds ``runs/``) or a table with columns N, D, loss and perhaps C (else C = 6ND).
      where: a selection such as ``"outlier == 0 and N > 1e6"`` (see ``analysis.table.select``).
      dataset: which data set; a work directory defaults to the first one that its study declares. Never mixed.
      n: which parameters are N: ``nonembedding``, ``total``, ``active``, ``trainable``, a parameter group of the
        records, or a column of the table. In a table without such a column ``nonembedding`` means its column N.
      columns: names in the table of N, D, C, loss and the law's columns where they are called otherwise, such as
        ``{"loss": "loss_c4"}``.
      law: what the table is for: N and D are needed only where this law has them. A law of learning curves takes a
        table of logged steps or of arrays (``table.curves``) and makes its columns.
      warmup: of learning curves: steps of a linear rise from 0 to the first rate in the table.
      term: of a work directory, which loss term or metric is the loss (see ``terms``); the default is the headline.

    Raises:
      UserError: no such path, an unusable table (line and column are named), a selection of nothing.
    """
    path = Path(path)
    if path.is_dir():
        if law is not None and get(law).curve:
            remedy = "needs a table of learning curves; a work directory has final losses"
            raise UserError("law", get(law).name, remedy, Code.UNSUPPORTED)
        return load_workdir(path, where, dataset, n, term)
    if term is not None:
        remedy = "is for work directories; name the column of a table, columns loss=COLUMN"
        raise UserError("term", term, remedy, Code.UNSUPPORTED)
    if not path.exists() and not path.is_symlink():
        remedy = "does not exist; give a work directory or a .csv, .tsv, .jsonl, .parquet table"
        raise UserError("path", path, remedy, Code.MISSING)
    frame, lines = tables.read(path)
    return from_frame(
        frame,
        where=where,
        dataset=dataset,
        n=n,
        columns=columns,
        law=law,
        warmup=warmup,
        source=str(path),
        rows=lines,
    )
