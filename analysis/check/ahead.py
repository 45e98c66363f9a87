"""What a study's own cheaper runs would have forecast: residuals of the dearer ones, by refits of one estimate.

For each of several cuts of compute the estimate is refitted without the runs above it, all cuts at once and started
from the estimate of all runs, which takes milliseconds where fits from many starts take seconds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.card import Scope
from analysis.check.discrepancy import beyond
from analysis.engine.estimate import Estimate, refit

Array = np.ndarray
SHARES = (0.35, 0.5, 0.65, 0.8)  # shares of the runs, in order of compute, that are fitted; the rest are forecast
LEVELS, CLOSE = 3, 0.02  # a cut leaves that many values of each column, further apart than this in the logarithm


class Ahead(NamedTuple):
    """Forecasts of the m runs above one cut of compute.

    Attributes:
      fitted: number of runs up to the cut.
      above: (m,), their rows in the table.
      forecast: (m,), log losses.
      residual: (m,), log losses less the forecast.
      spread: (m,), sd of the residuals if the law is true.
      x: (m,), e-folds by which they lie beyond the runs up to the cut.
    """

    fitted: int
    above: Array
    forecast: Array
    residual: Array
    spread: Array
    x: Array


def cuts(table: pd.DataFrame, column: str) -> list[Array]:
    """Masks (n,) of the rows up to each cut; rows of equal cost stay together."""
    cost = np.log(np.asarray(table["C"] if "C" in table else table[column], dtype=np.float64))
    ordered, found = np.sort(cost), dict[int, Array]()
    for share in SHARES:
        fitted = cost <= ordered[max(math.ceil(share * len(cost)), 1) - 1] + 1e-3
        if not fitted.all():
            found.setdefault(int(fitted.sum()), fitted)
    return list(found.values())


def ahead(point: Estimate, table: pd.DataFrame) -> tuple[Ahead, ...]:
    """Forecasts of the dearer runs by ``point`` refitted to the cheaper ones; none for learning curves.

    Args:
      table: the rows that ``point`` was fitted to.
    """
    law = point.surface.law
    if law.curve or not law.columns:
        return ()
    P = int(point.free.sum())
    possible = [m for m in cuts(table, law.columns[0]) if m.sum() >= P + 2 and varied(table, law.columns, m)]
    if not possible:
        return ()
    z, converged = refit(point, point.y, w=np.array(possible, dtype=np.float64))
    log_loss = np.log(table["loss"].to_numpy(dtype=np.float64))
    out = []
    for at, fitted, done in zip(z, possible, converged):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            forecast = np.log(np.atleast_1d(law.predict(point.surface.to_theta(at)[0], table)))
        residual = log_loss - forecast
        if not (done and np.isfinite(residual).all()):
            continue
        sigma = math.sqrt(float((residual[fitted] ** 2).sum()) / max(int(fitted.sum()) - P, 1))
        spread = sigma * np.sqrt(1 + _leverage(point, at, fitted))
        above = np.flatnonzero(~fitted)
        x = reach(table, law.columns, fitted)[above]
        out.append(Ahead(int(fitted.sum()), above, forecast[above], residual[above], spread[above], x))
    return tuple(out)


def varied(table: pd.DataFrame, columns: tuple[str, ...], fitted: Array) -> bool:
    """Whether the rows ``fitted`` hold enough values of N, D and C to tell slopes."""
    steps = (np.log(np.asarray(table[c], dtype=np.float64)[fitted]) / CLOSE for c in columns if c in ("N", "D", "C"))
    return all(len(np.unique(np.round(v))) >= LEVELS for v in steps)


def _leverage(point: Estimate, z: Array, fitted: Array) -> Array:
    """Variance (n,) of the forecasts at z (P,) in units of a run's, from the linearised fit of the ``fitted`` rows."""
    G = point.surface.jacobian(point.surface.evaluate(z[None])[1])[0][:, point.free]
    inverse = np.linalg.pinv(G[fitted].T @ G[fitted], rcond=1e-12, hermitian=True)
    return np.maximum(np.einsum("ip,pq,iq->i", G, inverse, G), 0.0)


def reach(table: Any, columns: tuple[str, ...], fitted: Array) -> Array:
    """e-folds (n,) by which each row lies beyond the ``fitted`` ones."""
    known = [c for c in ("C", "N", "D") if c in table]
    if not known:
        values = np.log(np.asarray(table[columns[0]], dtype=np.float64))
        return np.maximum(values - values[fitted].max(), 0.0)
    values = {c: np.asarray(table[c], dtype=np.float64) for c in known}
    most = {c: float(v[fitted].max()) for c, v in values.items()}
    scope = Scope(rows=int(fitted.sum()), C_max=most.get("C"), N_max=most.get("N"), D_max=most.get("D"))
    return beyond(scope, values)
