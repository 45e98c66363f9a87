"""Groups of rows that share a stem or a size, and so share noise, and the covariance of their losses.

V = I + rho Z Z', with Z the membership of rows in groups. Every operation is by sums over groups, never by an (n, n)
matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from analysis.table.rounding import rounded

Array = np.ndarray


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
    """Rows that share a stem; without a stem column, rows of one N (and seed). None when no two rows share one, or
    all share the same: an effect common to all rows is part of the law's level."""
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
    return Groups(codes, [str(v) for v in names], kind) if 1 < len(names) < len(table) else None
