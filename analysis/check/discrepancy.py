"""How wrong a law is beyond the runs that it was fitted to, learned from real studies.

Sampling error is the smaller part of an extrapolation's error: no law of a few terms is true. Log loss deviates by
k x t, where x counts the e-folds by which a cell lies beyond the fitted range,

    x = max(0, ln C / C_max, ln N / N_max, ln D / D_max),

and t is Student's with 4 degrees of freedom (its standard deviation is 1.41), because some laws hold in some studies
and not in others. The cells of one forecast share the part ``shared`` of its variance: a law that bends, bends for all
of them.

What they do not share moves the optimum. Two cells of one budget deviate apart by k x sqrt(2 (1 - shared)) t; assumed
over ``APART`` = one e-fold of N, that is an error of the slope d log L / d log N along the budget. An error g of the
slope moves the optimal log N by g / h, h the curvature of log L there. k was learned where h was about ``CURVATURE``;
also assumed is that g keeps its proportion to h, since what is wrong with a law is its terms, not its floor. So

    log N_opt deviates by m x t,   m = k sqrt(2 (1 - shared)) / (APART CURVATURE).

Nothing here was fitted to optima: ``benchmarks/optimum.py`` tests it on those of real studies, beside other forms.

A study's own rolling residuals r (``check.ahead``) say more of k. Where they are used, in the default forecast
(``decide.pool``), k^2 is scaled inverse chi-square before the study is seen; residuals are normal with variance
spread^2 + (k x)^2, and since they share runs and bend together, all those above one cut count as ``worth`` residuals.
What comes out is again taken as scaled inverse chi-square, of the same mean and variance of log k^2, and gives t its
degrees of freedom. For a law alone this was tried and is no better (benchmarks/README.md): one k for all studies stays.

k by law, with the studies that it was learned from, is in ``discrepancy.json``, which version 3 of
``benchmarks/league.py`` made (at e828b71); version 4 scores it beside, with the source of the tested study left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from scipy import special

from analysis import laws
from analysis.card import Discrepancy, Scope
from analysis.laws import Law
from scaling.errors import UserError
from scaling.records.typed import read_typed

Array = np.ndarray
FILE = Path(__file__).with_name("discrepancy.json")
DF = 4.0
OTHER = "other"  # laws that were not in the league
APART = 1.0  # e-folds of N along a budget beyond which the deviations of two cells are taken as independent
GRID = np.linspace(math.log(2e-4), math.log(0.4), 70)
K = np.exp(GRID)
HALVES = np.geomspace(0.3, 500, 600)  # degrees of freedom / 2, and the variance of log k^2 that goes with them
TRIGAMMA = special.polygamma(1, HALVES)
NEAR = 0.05  # e-folds: a run just above a cut is taken as that far beyond it
CURVATURE = 0.033  # of log loss in log N along a budget: the median over the sets in benchmarks/optimum.json


class _Learned(msgspec.Struct, frozen=True):
    k: float
    shared: float
    sets: int
    sources: int


class _League(msgspec.Struct, frozen=True):
    laws: dict[str, _Learned]


@cache
def _league() -> dict[str, _Learned]:
    return read_typed(FILE, _League).laws


def term(law: str | Law, setting: str | float = "auto") -> Discrepancy:
    """The discrepancy term of a law.

    Args:
      law: in any column; a law that was not in the league gets the k of ``OTHER``.
      setting: "auto" (the learned k), "off" (k = 0), or a value of k.

    Raises:
      UserError: any other setting.
    """
    form, learned = laws.get(law), _league()
    if setting == "off":
        return Discrepancy(k=0.0, df=DF, shared=0.0, setting="off", of=form.quantity)
    if setting == "auto":
        row = learned.get(form.form, learned[OTHER])
        about = {"sets": row.sets, "sources": row.sources}
        return Discrepancy(k=row.k, df=DF, shared=row.shared, setting="auto", of=form.quantity, **about)
    try:
        k = float(setting)
    except ValueError:
        k = math.nan
    if not (math.isfinite(k) and k >= 0):
        raise UserError("discrepancy", setting, "give auto, off, or the scale of log loss per e-fold, such as 0.005")
    return Discrepancy(k=k, df=DF, shared=learned[OTHER].shared, setting="given", of=form.quantity)


class Residuals(Protocol):
    """Of one cut, (m,) each: log losses less the forecast, their sd if the law were true, e-folds beyond the cut."""

    @property
    def residual(self) -> Array: ...
    @property
    def spread(self) -> Array: ...
    @property
    def x(self) -> Array: ...


class Prior(msgspec.Struct, frozen=True):
    """What other studies say of a law's discrepancy.

    Attributes:
      k: scale of log loss per e-fold.
      df: degrees of freedom of the scaled inverse chi-square distribution of a study's k^2.
      worth: number of residuals that a rolling cut counts as.
      shared: part of the deviation's variance that the cells of one forecast have in common.
      sets, sources: number of studies, and of their sources, from which it was learned.
    """

    k: float
    df: float
    worth: float
    shared: float
    sets: int
    sources: int


def updated(prior: Prior, cuts: Sequence[Residuals]) -> tuple[float, float]:
    """k and degrees of freedom of a study's deviations, by Bayes' rule on a grid of log k (module docstring)."""
    if not cuts:
        return prior.k, prior.df
    log = np.sum([likelihood(cut) for cut in cuts], axis=0)
    k, df = matched(log_prior(np.array([prior.k]), prior.df) + prior.worth * log)
    return float(k[0]), float(df[0])


def log_prior(k: Array, df: float) -> Array:
    """Log density (q, grid) over the grid of log k of scaled inverse chi-squares around k^2 (q,)."""
    return -df * (GRID + 0.5 * (k[:, None] / K) ** 2)


def matched(log: Array) -> tuple[Array, Array]:
    """k and degrees of freedom (q,) of scaled inverse chi-squares with the mean and variance of log k^2 under log
    densities (q, grid)."""
    weight = np.exp(log - log.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    middle = weight @ GRID
    variance = np.maximum(4 * (weight @ GRID**2 - middle**2), TRIGAMMA[-1])
    half = np.exp(np.interp(-np.log(variance), -np.log(TRIGAMMA), np.log(HALVES)))
    return np.exp(middle + 0.5 * (special.digamma(half) - np.log(half))), 2 * half


def likelihood(cut: Residuals) -> Array:
    """Mean log density of a cut's residuals for each k of the grid."""
    variance = np.minimum(cut.spread, 1.0) ** 2 + (K[:, None] * np.maximum(cut.x, NEAR)) ** 2
    return -0.5 * np.mean(cut.residual**2 / variance + np.log(variance), axis=1)


def beyond(scope: Scope, columns: Mapping[str, Any]) -> Array:
    """x (n,): e-folds by which rows lie beyond the fitted range in those of C, N and D that are known on both sides.

    Rows without C are compared by N D.
    """
    largest = {"C": scope.C_max, "N": scope.N_max, "D": scope.D_max, "ND": scope.ND_max}
    values = {c: np.atleast_1d(np.asarray(columns[c], dtype=np.float64)) for c in ("C", "N", "D") if c in columns}
    if "C" not in values and {"N", "D"} <= set(values) and largest["ND"]:
        values["ND"] = values["N"] * values["D"]
    over = [np.log(v / most) for c, v in values.items() if (most := largest[c])]
    if not over:
        sizes = [np.atleast_1d(np.asarray(v)).shape[0] for v in columns.values()]
        return np.zeros(max(sizes, default=1))
    return np.maximum(np.max(np.stack(np.broadcast_arrays(*over)), axis=0), 0.0)


def deviations(entry: Discrepancy, x: Array, draws: int, rng: np.random.Generator) -> Array:
    """Deviations of log loss (draws, n) at x (n,) e-folds beyond the range; zeros within it."""
    k, df, shared = entry.k, entry.df, entry.shared
    tail = np.sqrt(df / rng.chisquare(df, (draws, 1)))
    common, own = rng.standard_normal((draws, 1)), rng.standard_normal((draws, len(x)))
    return k * x * tail * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)


def below(entry: Discrepancy, x: Array, off: Array, most: Array) -> Array:
    """Deviations ``off`` (draws, n) given that each is at most ``most`` (draws, n), positive or infinite.

    The distribution is cut at ``most`` by quantiles, which keeps the order of the draws and so what cells share.
    """
    df, scale = entry.df, entry.k * np.broadcast_to(x, off.shape)
    held = (scale > 0) & np.isfinite(most)
    scale, out = scale[held], off.copy()
    kept = special.stdtr(df, off[held] / scale) * special.stdtr(df, most[held] / scale)
    out[held] = scale * special.stdtrit(df, kept)
    return out


def shift(entry: Discrepancy, x: float) -> float:
    """t scale, in e-folds, of the error of the optimal N at a budget x e-folds beyond the range (module docstring)."""
    return entry.k * x * math.sqrt(2 * (1 - entry.shared)) / (APART * CURVATURE)


def learn(residual: Array, spread: Array, x: Array, weight: Array) -> float:
    """Maximum-likelihood k for residuals of log loss (n,) whose forecasts have sd ``spread`` (n,) without it.

    The density is Student-t with ``DF`` degrees of freedom and scale^2 = spread^2 + (k x)^2; ``weight`` (n,).
    """
    from scipy import optimize  # slow to import, and not needed by a fit

    r2, s2, x2 = residual**2, np.maximum(spread, 1e-6) ** 2, x**2

    def cost(log_k: float) -> float:
        scale2 = s2 + np.exp(2 * log_k) * x2
        return float(np.sum(weight * (0.5 * np.log(scale2) + (DF + 1) / 2 * np.log1p(r2 / DF / scale2))))

    grid = np.linspace(math.log(1e-5), math.log(0.5), 120)
    best = int(np.argmin([cost(v) for v in grid]))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    minimum: Any = optimize.minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(minimum.x))


def common_part(residual: Array, spread: Array, x: Array, study: Array, k: float) -> float:
    """Share of the deviation's variance that cells of one study have in common: mean product of pairs over mean square.

    Uses only rows where the discrepancy dominates (k x > spread); 0.5 where they are too few. Clipped to 0..0.95.
    """
    use = k * x > spread
    z = residual / np.maximum(k * x, 1e-12)
    z = np.sign(z) * np.sqrt(special.chdtri(1.0, np.clip(_two_sided(z), 1e-12, 1.0)))  # t scores to normal scores
    pairs = squares = groups = 0.0
    for name in np.unique(study[use]):
        part = z[use & (study == name)]
        n = len(part)
        if n > 1:
            pairs += (part.sum() ** 2 - (part**2).sum()) / (n * (n - 1))
            squares += float((part**2).mean())
            groups += 1
    return float(np.clip(pairs / squares, 0.0, 0.95)) if groups >= 3 else 0.5


def _two_sided(z: Array) -> Array:
    """Probability that |t| with DF degrees of freedom exceeds |z|."""
    return 2 * special.stdtr(DF, -np.abs(z))
