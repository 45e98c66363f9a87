"""Values that are equal to rounding; groups of rows that share a stem or a size, and so noise, and their covariance.

V = I + rho Z Z', with Z the membership of rows in groups. Every operation is by sums over groups, never by an (n, n)
matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

Array = np.ndarray
EQUAL = 1e-3  # values of one column that differ by less are one setting, rounded differently
APART = 10.0  # times their own spread by which such values lie apart from all others


def rounded(values: Any) -> Array:
    """A column (n,) whose values that are equal to rounding are replaced by one of them.

    Sizes and tokens that were computed from one budget differ in the last digits. A level is a set of values within
    ``EQUAL`` that are ``APART`` times as far from all others, so that a dense column, as of a learning curve, stays as
    it is. Columns with zeros or negative numbers too.
    """
    column = np.asarray(values, dtype=np.float64)
    distinct, index = np.unique(column, return_inverse=True)
    if len(distinct) < 2 or not (np.isfinite(distinct).all() and distinct[0] > 0):
        return column
    logs, out, start = np.log(distinct), distinct.copy(), 0
    starts = [0]
    for i in range(1, len(logs)):
        if logs[i] - logs[start] > EQUAL:
            start = i
            starts.append(i)
    for first, end in zip(starts, [*starts[1:], len(logs)]):
        spread = logs[end - 1] - logs[first]
        below = logs[first] - logs[first - 1] if first else np.inf
        above = logs[end] - logs[end - 1] if end < len(logs) else np.inf
        if min(below, above) >= APART * spread:
            out[first:end] = distinct[(first + end) // 2]
    return out[index.reshape(-1)]


@dataclass
class Groups:
    """Which rows share a stem or a size: ``codes`` (n,) in 0..len(names)-1."""

    codes: Array
    names: list[str]
    kind: Literal["stem", "size"]
    counts: Array = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.bincount(self.codes, minlength=len(self.names)).astype(np.float64)
        self._order = np.argsort(self.codes, kind="stable")
        self._edges = np.concatenate([[0], np.cumsum(self.counts[:-1]).astype(int)])

    def sums(self, x: Array) -> Array:
        """Sums over groups of the last axis: (..., n) -> (..., groups)."""
        return np.add.reduceat(x[..., self._order], self._edges, axis=-1)

    def quadratic(self, r: Array, rho: Array | float) -> Array:
        """r' V^-1 r over the last axis."""
        shrink = self._shrink(rho)
        return (r * r).sum(-1) - (shrink * self.sums(r) ** 2).sum(-1)

    def log_det(self, rho: Array | float) -> Array:
        return np.log1p(np.asarray(rho)[..., None] * self.counts).sum(-1)

    def whiten(self, x: Array, rho: float) -> Array:
        """V^-1/2 x for x (..., n): block by block I - u u' (1 - (1 + m rho)^-1/2), u = 1 / sqrt(m)."""
        factor = (1 - 1 / np.sqrt(1 + self.counts * rho)) / self.counts
        return x - (factor * self.sums(x))[..., self.codes]

    def _shrink(self, rho: Array | float) -> Array:
        rho = np.asarray(rho)[..., None]
        return rho / (1 + rho * self.counts)


def groups_of(table: pd.DataFrame) -> Groups | None:
    """Rows that share a stem; without a stem column, rows of one N (and seed). None when no two rows share one."""
    if "stem" in table and bool(np.any(table["stem"].notna())):
        own = pd.Series([f"row {i}" for i in range(len(table))], index=table.index)
        key = table["stem"].where(table["stem"].notna(), own).astype(str)
        kind: Literal["stem", "size"] = "stem"
    elif "N" in table:
        key, kind = pd.Series(rounded(table["N"]), index=table.index).map(lambda v: f"{v:.9g}"), "size"
        if "seed" in table:
            key = key + " seed " + table["seed"].astype(str)
    else:
        return None
    codes, names = pd.factorize(key, sort=True)
    return Groups(codes, [str(v) for v in names], kind) if len(names) < len(table) else None
