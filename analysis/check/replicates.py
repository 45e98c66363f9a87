"""Runs that repeat one setting with another seed: which they are, and what they say of the noise and of the law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.card import LackOfFit, PureError, SeedWeights, Weights
from analysis.engine.estimate import Estimate, minimise
from analysis.engine.groups import Groups, groups_of
from analysis.engine.random_effects import ROOTS, best_ratio, gls
from analysis.engine.surface import Weighted
from scaling.errors import Code, UserError

Array = np.ndarray
# rows that agree in all of these, as far as the table has them, are replicates
SETTING = ("N", "D", "C", "learning_rate", "batch", "width", "depth", "unique_tokens")
STEMS = 1000  # whose replicates are compared, at most: a matrix of cells and one of stems


def cells(table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Array, int]:
    """Codes (n,) of the settings of the rows, by a law's ``columns`` and ``SETTING``, and how many there are."""
    same = [c for c in dict.fromkeys((*columns, *SETTING)) if c in table]
    whole = [c for c in same if table[c].dtype != object]  # others hold an array a row
    codes = np.zeros(len(table), dtype=np.int64)
    for column in same:
        if column in whole:
            levels, index = np.unique(table[column].to_numpy(dtype=np.float64), return_inverse=True)
            own = pd.factorize(np.array([f"{v:.9g}" for v in levels], dtype=object))[0][index]
        else:
            own = pd.factorize(table[column].map(lambda v: np.asarray(v, dtype=np.float64).tobytes()))[0]
        codes = pd.factorize(codes * (int(own.max()) + 1) + own)[0]
    return codes, int(codes.max()) + 1


def weights(name: str, y: Array, table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Array | None, Weights | None]:
    """Precisions (n,) of the rows, geometric mean one, and the card's account of them; None where all are equal.

    ``none``; ``seeds``: the inverse of the variance between replicates of log losses ``y`` (n,), pooled over the cells
    of a size and moderated; or a column of the table. UserError where there is no such thing.
    """
    if name == "none":
        return None, None
    if name == "seeds":
        return _by_seeds(y, table, columns)
    if name not in table:
        raise UserError(
            "weights", name, "is no column of the table; write none, seeds or a column's name", Code.MISSING
        )
    w = np.asarray(pd.to_numeric(table[name], errors="coerce"), dtype=np.float64)
    if not np.all(np.isfinite(w) & (w > 0)):
        row = int(np.flatnonzero(~(np.isfinite(w) & (w > 0)))[0])
        raise UserError("weights", f"{name} of row {row}", "every row needs a positive finite weight")
    return w / np.exp(np.log(w).mean()), Weights(name=name)


def _by_seeds(y: Array, table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Array, Weights]:
    """Inverse variances between seeds, pooled by size and moderated (Smyth 2004, doi 10.2202/1544-6115.1027).

    Their geometric mean is one, so that sigma_run is of a run of weight one.
    """
    by = "N" if "N" in table else columns[0]
    codes, count = cells(table, columns)
    rows = np.bincount(codes, minlength=count)
    mean = np.bincount(codes, y, count) / rows
    levels, size = np.unique(np.round(np.log(np.asarray(table[by], dtype=np.float64)), 9), return_inverse=True)
    square = np.bincount(size, (y - mean[codes]) ** 2, len(levels))
    _, first = np.unique(codes, return_index=True)
    df = np.bincount(size, minlength=len(levels)) - np.bincount(size[first], minlength=len(levels))
    have = df > 0
    if have.sum() < 2:
        remedy = f"needs two runs of one setting (another seed) at two values of {by} or more; {have.sum()} have them"
        raise UserError("weights", "seeds", remedy, Code.TOO_FEW)
    variance = np.maximum(square[have] / df[have], 1e-24)
    d0, s0 = moderation(variance, df[have])
    pooled = np.full(len(levels), s0)
    pooled[have] = s0 if math.isinf(d0) else (d0 * s0 + df[have] * variance) / (d0 + df[have])
    w = 1 / pooled[size]
    w /= np.exp(np.log(w).mean())
    raw = np.full(len(levels), np.nan)
    raw[have] = np.sqrt(variance)
    sizes = [
        SeedWeights(
            value=float(np.exp(v)),
            df=int(df[i]),
            sd=None if np.isnan(raw[i]) else float(raw[i]),
            sd_moderated=float(np.sqrt(pooled[i])),
            weight=float(w[size == i][0]),
        )
        for i, v in enumerate(levels)
    ]
    prior_df = None if math.isinf(d0) else d0
    return w, Weights(name="seeds", by=by, prior_df=prior_df, prior_sd=math.sqrt(s0), sizes=tuple(sizes))


def moderation(variance: Array, df: Array) -> tuple[float, float]:
    """Degrees of freedom d0 and variance s0 of the scaled inverse chi-square behind variances (k,) with df (k,).

    Smyth 2004, doi 10.2202/1544-6115.1027, section 6.2; d0 is infinite where they differ no more than by chance.
    """
    half = df / 2
    e = np.log(variance) - special.digamma(half) + np.log(half)
    spread = float(e.var(ddof=1) - special.polygamma(1, half).mean())
    if spread <= special.polygamma(1, 1e6):
        return math.inf, float(np.exp(e.mean()))
    from scipy import optimize  # slow to import, and seldom needed

    root: Any = optimize.brentq(lambda u: float(special.polygamma(1, np.exp(u))) - spread, -20, math.log(1e6))
    d0 = 2 * math.exp(root)
    return d0, float(np.exp(e.mean() + special.digamma(d0 / 2) - math.log(d0 / 2)))


def pure_error(y: Array, table: pd.DataFrame, point: Estimate) -> tuple[PureError, LackOfFit]:
    """Noise from replicates (rows of equal columns), and the lack-of-fit F test of the law against it.

    With shared stems both models get the random effect, its ratio taken from the saturated one (cell means), and the
    denominator's degrees of freedom are the extra stems: conservative. sd and F are None without replicates, and F
    where more than ``STEMS`` stems have some.
    """
    law, n = point.surface.law, len(y)
    codes, count = cells(table, law.columns)
    untested = LackOfFit(F=None, df1=None, df2=None, p=None)
    if n == count or law.curve:
        return PureError(sd=None, df=n - count), untested  # steps of curves of one schedule so far are no replicates
    groups = groups_of(table)
    if groups is not None and groups.kind != "stem":
        groups = None  # a size effect common to all replicates of a size cannot be told from the law's misfit
    root = point.surface.root if isinstance(point.surface, Weighted) else np.ones(n)
    rho, within, df2 = _within(y, codes, groups, root)
    error = PureError(sd=math.sqrt(within / (n - count) * (1 + rho)), df=n - count)
    df1 = count - int(point.free.sum())
    if min(df1, df2) <= 0 or within <= 0:
        return error, untested
    z, residual = point.z, y
    if rho > 0 and groups is not None:
        z = gls(point.surface, z, y, groups, rho, point.free)
        residual = groups.whiten(y - point.surface.evaluate(z[None])[0][0], rho)
    else:
        z, _, _ = minimise(point.surface, z[None], y, free=point.free)
        residual = y - point.surface.evaluate(z)[0][0]
    F = max(float((residual**2).sum()) - within, 0.0) / df1 / (within / error.df)
    return error, LackOfFit(F=F, df1=df1, df2=df2, p=float(special.fdtrc(df1, df2, F)))


def _within(y: Array, codes: Array, groups: Groups | None, root: Array) -> tuple[float, float, int]:
    """A mean for each cell ``codes`` (n,): the REML ratio of a stem's variance to a run's, the generalised sum of
    squares that is left, and its degrees of freedom: rows, or with an effect of stems, stems beyond the cells'.

    ``y`` (n,) are log losses times the ``root`` (n,) of the rows' precisions, so that a cell's mean is a multiple of
    its rows' roots. What is within cells has covariance I + rho M M' with M = Z less its part along them, so that the
    eigenvalues of M' M (stems by stems) give likelihood and squares at every ratio; a row alone in its cell is in none
    of it.
    """
    size, weight = np.bincount(codes), np.bincount(codes, root**2)
    gap = y - root * (np.bincount(codes, root * y) / weight)[codes]
    within, free = float((gap**2).sum()), len(y) - len(size)
    several = size[codes] > 1
    if groups is None:
        return 0.0, within, free
    names, stem = np.unique(groups.codes[several], return_inverse=True)
    if len(names) > STEMS:
        return 0.0, within, 0
    cell = np.unique(codes[several], return_inverse=True)[1]
    shape = (int(cell.max()) + 1, len(names))
    along = np.bincount(cell * shape[1] + stem, root[several], shape[0] * shape[1]).reshape(shape)
    mass = np.bincount(cell, root[several] ** 2)[:, None]
    values, vectors = np.linalg.eigh(np.diag(np.bincount(stem).astype(np.float64)) - along.T @ (along / mass))
    seen = values > 1e-9 * max(float(values[-1]), 1.0)
    part = (vectors.T @ np.bincount(stem, gap[several], len(names)))[seen] ** 2
    values = values[seen]
    if not len(values):
        return 0.0, within, free
    ratio = ROOTS[:, None] ** 2
    left = np.maximum(within - (ratio * part / (1 + ratio * values)).sum(1), len(y) * 1e-24)
    scores = -0.5 * (np.log1p(ratio * values).sum(1) + free * np.log(left)) - np.log1p(ratio[:, 0])
    rho = best_ratio(scores)
    return rho, float(left[np.argmin(np.abs(ROOTS**2 - rho))]), len(values) if rho > 0 else free
