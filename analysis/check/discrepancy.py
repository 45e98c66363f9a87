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

k by law, with the studies that it was learned from, is in ``discrepancy.json``; ``benchmarks/league.py`` learns and
tests it, with the source of the tested study left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

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
    if setting == "off":
        return Discrepancy(k=0.0, df=DF, shared=0.0, setting="off")
    learned = _league()
    if setting == "auto":
        row = learned.get(laws.get(law).form, learned[OTHER])
        return Discrepancy(k=row.k, df=DF, shared=row.shared, setting="auto", sets=row.sets, sources=row.sources)
    try:
        k = float(setting)
    except ValueError:
        k = math.nan
    if not (math.isfinite(k) and k >= 0):
        raise UserError("discrepancy", setting, "give auto, off, or the scale of log loss per e-fold, such as 0.005")
    return Discrepancy(k=k, df=DF, shared=learned[OTHER].shared, setting="given")


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
