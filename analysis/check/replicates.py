"""Replicates, runs of one setting with different seeds, and what they tell about noise and lack of fit."""

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
from analysis.table.rounding import rounded
from scaling.errors import Code, UserError

Array = np.ndarray
# replicates agree in all of these columns that the table has
SETTING = ("N", "D", "C", "learning_rate", "batch", "width", "depth", "unique_tokens")
STEMS = 1000  # stems with replicates, at most: the test needs dense matrices of cells and stems


def cells(table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Array, int]:
    """Codes (n,) of the rows' settings, by a law's ``columns`` and ``SETTING``, and the number of settings.

    Numbers that are equal to rounding are one setting.
    """
    same = [c for c in dict.fromkeys((*columns, *SETTING)) if c in table]
    whole = [c for c in same if table[c].dtype != object]  # other columns hold an array in each row
    codes = np.zeros(len(table), dtype=np.int64)
    steps = "run" in table and bool(table["run"].duplicated().any())  # neighbouring steps of a run are no replicates
    for column in same:
        if column in whole:
            values = table[column].to_numpy(dtype=np.float64)
            levels, index = np.unique(values if steps else rounded(values), return_inverse=True)
            own = pd.factorize(np.array([f"{v:.9g}" for v in levels], dtype=object))[0][index]
        else:
            own = pd.factorize(table[column].map(lambda v: np.asarray(v, dtype=np.float64).tobytes()))[0]
        codes = pd.factorize(codes * (int(own.max()) + 1) + own)[0]
    return codes, int(codes.max()) + 1


def weights(name: str, y: Array, table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Array | None, Weights | None]:
    """Precisions (n,) of the rows with geometric mean one, and the card's account of them; None where all are equal.

    Args:
      name: ``none``; ``seeds``: the inverse variance between replicates of log losses ``y`` (n,), pooled over the cells
        of a size and moderated; or a column of the table.

    Raises:
      UserError: no such column, weights that are not positive, or too few replicates.
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

    Their geometric mean is one, so that sigma_run is that of a run of weight one.
    """
    by = "N" if "N" in table else columns[0]
    codes, count = cells(table, columns)
    rows = np.bincount(codes, minlength=count)
    mean = np.bincount(codes, y, count) / rows
    levels, size = np.unique(np.round(np.log(rounded(table[by])), 9), return_inverse=True)
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
    """Degrees of freedom d0 and variance s0 of the scaled inverse chi-square prior of variances (k,) with df (k,).

    Smyth 2004, doi 10.2202/1544-6115.1027, section 6.2; d0 is infinite where they differ by no more than chance.
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
    """Noise from replicates (rows with equal columns), and the lack-of-fit F test of the law against it.

    With shared stems both models get the random effect, with the variance ratio of the saturated one (cell means), and
    the denominator's degrees of freedom are those of stems: conservative. sd and F are None without replicates; F also
    where more than ``STEMS`` stems have them.
    """
    law, n = point.surface.law, len(y)
    codes, count = cells(table, law.columns)
    untested = LackOfFit(F=None, df1=None, df2=None, p=None)
    if n == count or law.curve:
        return PureError(sd=None, df=n - count), untested  # equal schedules so far are no replicates
    groups = groups_of(table)
    if groups is not None and groups.kind != "stem":
        groups = None  # an effect common to all replicates of a size cannot be told apart from misfit of the law
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
    """Fits a mean to each cell of ``codes`` (n,) and returns the variation within cells.

    Returns:
      The REML ratio of stem to run variance, the generalised residual sum of squares, and its degrees of freedom: of
      rows or, with a stem effect, of stems.

    ``y`` (n,) are log losses times the ``root`` (n,) of the rows' precisions, so a cell's mean is a multiple of its
    rows' roots. Residuals within cells have covariance I + rho M M', where M is Z projected off the cell means, so the
    eigenvalues of M' M (stems by stems) give the likelihood and the sum of squares at every ratio. A row alone in its
    cell does not contribute.
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
    positive = values > 1e-9 * max(float(values[-1]), 1.0)
    part = (vectors.T @ np.bincount(stem, gap[several], len(names)))[positive] ** 2
    values = values[positive]
    if not len(values):
        return 0.0, within, free
    ratio = ROOTS[:, None] ** 2
    left = np.maximum(within - (ratio * part / (1 + ratio * values)).sum(1), len(y) * 1e-24)
    scores = -0.5 * (np.log1p(ratio * values).sum(1) + free * np.log(left)) - np.log1p(ratio[:, 0])
    rho = best_ratio(scores)
    return rho, float(left[np.argmin(np.abs(ROOTS**2 - rho))]), len(values) if rho > 0 else free
