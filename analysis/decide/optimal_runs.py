"""The runs of a study that stand for its best loss at each compute: all, the isoFLOP minima, or those none beats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.card import Value
from analysis.check.approaches import SAME, approach2
from analysis.table.runs import Runs

Array = np.ndarray


class Chosen(Value):
    """How the runs were chosen, and how many were left out.

    Attributes:
      how: ``all`` (the table has C but not N and D); ``minima`` of the parabolas of isoFLOP budgets; ``frontier``: runs
        that no other cell beats at as much compute or less.
      rows, used: rows that could be used, and points that were.
      left_out: rows that are no part of a point: beaten by a cheaper run, or in no budget with a bracketed minimum.
      edges: isoFLOP budgets whose minimum is not bracketed.
    """

    how: Literal["all", "minima", "frontier"]
    rows: int
    used: int
    left_out: int = 0
    edges: int = 0


@dataclass(frozen=True)
class OptimalRuns:
    """Names, compute C in FLOPs (n,) and loss (n,) of the points by compute, and how they were chosen."""

    names: tuple[str, ...]
    C: Array
    loss: Array
    chosen: Chosen


def optimal_runs(runs: Runs) -> OptimalRuns:
    """The compute-optimal runs of a table with C; without N and D every run counts as one."""
    table = runs.table
    c, loss = (table[name].to_numpy(dtype=float) for name in ("C", "loss"))
    names = table["run"].astype(str).to_numpy()
    rows = len(c)
    if not {"N", "D"} <= set(table):
        return _points(names, c, loss, Chosen(how="all", rows=rows, used=rows))
    found = approach2(runs)
    if found.mode == "isoflop":
        kept = [p for p in found.points if not p.edge and p.loss is not None]
        inside = np.zeros(rows, dtype=bool)
        for point in kept:
            inside |= np.abs(np.log(c / point.C)) <= SAME
        chosen = Chosen(
            how="minima",
            rows=rows,
            used=len(kept),
            left_out=int((~inside).sum()),
            edges=len(found.points) - len(kept),
        )
        points = [(f"minimum at {p.C:.3g}", p.C, p.loss or 0.0) for p in kept]
        labels, at, least = zip(*points) if points else ((), (), ())
        return _points(np.array(labels, dtype=str), np.array(at), np.array(least), chosen)
    log_n, log_d = (np.log(table[name].to_numpy(dtype=float)) for name in ("N", "D"))
    keep = ~_beaten(log_n, log_d, np.log(c), np.log(loss))
    chosen = Chosen(how="frontier", rows=rows, used=int(keep.sum()), left_out=int((~keep).sum()))
    return _points(names[keep], c[keep], loss[keep], chosen)


def _points(names: Array, c: Array, loss: Array, chosen: Chosen) -> OptimalRuns:
    order = np.argsort(c, kind="stable")
    return OptimalRuns(tuple(map(str, names[order])), c[order], loss[order], chosen)


def _beaten(log_n: Array, log_d: Array, log_c: Array, log_loss: Array) -> Array:
    """Mask (n,) of runs whose cell is beaten by another that costs no more; seeds of a cell stand or fall together."""
    _, cell = np.unique(np.stack([_steps(log_n), _steps(log_d)]), axis=1, return_inverse=True)
    cell = cell.ravel()
    count = np.bincount(cell)
    at, mean = (np.bincount(cell, v) / count for v in (log_c, log_loss))
    order = np.argsort(at, kind="stable")
    best = np.minimum.accumulate(mean[order])
    affordable = np.searchsorted(at[order], at + SAME, side="right") - 1  # itself included
    return (mean > best[affordable])[cell]


def _steps(values: Array) -> Array:
    """Number of the value of each row, values closer than a fifth of ``SAME`` being one."""
    order = np.argsort(values, kind="stable")
    step = np.concatenate([[0], np.cumsum(np.diff(values[order]) > SAME / 5)])
    out = np.empty(len(values), dtype=int)
    out[order] = step
    return out
