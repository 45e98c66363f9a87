"""Which law extrapolates best: fit the cheaper runs, forecast the more expensive ones, for several cuts.

Laws are used to predict losses beyond the fitted runs, so those predictions are scored: by error, by CRPS (Gneiting
and Raftery 2007, doi 10.1198/016214506000001437) and by log score of the whole forecast, including the discrepancy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from analysis import laws
from analysis.card import Scope, Value
from analysis.check import discrepancy
from analysis.engine.estimate import Objective, estimate
from analysis.engine.estimate import objective as parse_objective
from analysis.engine.inference import infer
from analysis.laws import Law

Array = np.ndarray
SHARES = (0.5, 0.65, 0.8)  # shares of the runs, in order of compute, that are fitted; the rest are forecast
DRAWS = 400


def crps(values: Array, outcome: Array | float) -> Array:
    """CRPS of an ensemble of equally likely values (last axis) at the outcomes (all other axes)."""
    q = np.sort(values, axis=-1)
    m = q.shape[-1]
    near = np.abs(q - np.asarray(outcome)[..., None]).mean(-1)
    return near - (q * ((2 * np.arange(1, m + 1) - m - 1) / m**2)).sum(-1)


def log_score(values: Array, outcome: Array) -> Array:
    """Minus the log density of the outcomes (n,) under a normal with the median and 68 % width of ensembles (n, S).

    With few runs an ensemble has heavy tails, so its central width is used instead of its standard deviation.
    """
    low, middle, high = np.quantile(values, [0.1587, 0.5, 0.8413], axis=-1)
    sd = np.maximum((high - low) / 2, 1e-6)
    return 0.5 * ((outcome - middle) / sd) ** 2 + np.log(sd) + 0.5 * math.log(2 * math.pi)


class Scores(Value):
    """Scores of forecasts of log loss (lower is better), and ``inside90``, the share inside central 90 % intervals."""

    rms: float
    error: float  # mean absolute
    crps: float
    log_score: float
    inside90: float


class Cut(Scores):
    """One split of the runs by compute.

    Attributes:
      C: the largest fitted compute, or largest fitted value of the law's first column where C is unknown.
      fitted, scored: number of rows up to it and above it.
      ratio: the largest compute of all runs over C.
    """

    C: float
    fitted: int
    scored: int
    ratio: float


class Rolling(Value):
    """Scores of the cuts and their means; ``mean`` is None where no cut leaves enough runs, sizes and tokens to fit."""

    law: str
    mean: Scores | None
    cuts: tuple[Cut, ...]

    @property
    def crps(self) -> float | None:
        return None if self.mean is None else self.mean.crps


class Refit(msgspec.Struct, frozen=True):
    """How the cheaper runs are fitted."""

    law: Law
    kind: Objective
    fixed: Mapping[str, float]
    priors: Mapping[str, tuple[float, float]] | None
    setting: str | float
    seed: int

    def possible(self, table: Any) -> bool:
        """Whether the table has enough values and rows to fit."""
        columns = (table[c].to_numpy(dtype=float) for c in self.law.columns)
        distinct = all(len(np.unique(np.round(np.log(values), 4))) > 2 for values in columns)
        return distinct and len(table) > len(self.law.coordinates) - len(self.fixed) + 1

    def forecast(self, below: Any, above: Any) -> Array:
        """Log losses (n, S) of new runs at the rows ``above``, by t draws around the robust fit of ``below``."""
        law = self.law
        point = estimate(law, below, below["loss"], self.kind, fixed=self.fixed, priors=self.priors)
        at = infer(point, point.y, below, draws=DRAWS, seed=self.seed, scheme="delta-t")
        with np.errstate(divide="ignore", over="ignore"):
            logs = np.log(np.maximum(law.predict(at.theta, above), 1e-300))
        rng = np.random.default_rng([self.seed, 3])
        noise = np.hypot(at.sigma, at.sigma_stem)[:, None] * rng.standard_normal(logs.shape)
        ends: dict[str, Any] = {f"{c}_max": float(below[c].max()) for c in ("C", "N", "D") if c in below}
        cells = {c: above[c].to_numpy() for c in ("C", "N", "D") if c in above}
        x = discrepancy.beyond(Scope(rows=len(below), **ends), cells)
        term = discrepancy.term(law, self.setting)
        return (logs + noise + discrepancy.deviations(term, x, DRAWS, rng)).T


def rolling(
    table: Any,
    law: str | Law,
    *,
    objective: str | Objective = "auto",
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    setting: str | float = "auto",
    shares: tuple[float, ...] = SHARES,
    seed: int = 0,
) -> Rolling:
    """Scores of forecasting the more expensive runs of a table (DataFrame) from the cheaper ones.

    Args:
      objective, fixed, priors: as in ``fit``; ``setting`` is its ``discrepancy``.
      shares: shares of the runs to fit, in order of compute (or of the law's first column where C is unknown); runs of
        equal compute stay together.
    """
    form = laws.get(law)
    kind = objective if isinstance(objective, Objective) else parse_objective(objective)
    refit = Refit(form, kind, dict(fixed or {}), priors, setting, seed)
    cost = np.asarray(table["C"] if "C" in table else table[form.columns[0]], dtype=np.float64)
    ordered, cuts = np.sort(cost), []
    for share in shares:
        cut = ordered[max(math.ceil(share * len(ordered)), 1) - 1]
        below, above = table[cost <= cut * 1.001], table[cost > cut * 1.001]
        if not len(above) or not refit.possible(below):
            continue
        below, above = below.reset_index(drop=True), above.reset_index(drop=True)
        logs = refit.forecast(below, above)
        y = np.log(above["loss"].to_numpy(dtype=np.float64))
        ratio = float(cost.max() / cut)
        cuts.append(Cut(C=float(cut), fitted=len(below), scored=len(above), ratio=ratio, **_scores(logs, y)))
    mean = None
    if cuts:
        names = Scores.__struct_fields__
        mean = Scores(**{name: float(np.mean([getattr(cut, name) for cut in cuts])) for name in names})
    return Rolling(law=form.name, mean=mean, cuts=tuple(cuts))


def _scores(logs: Array, y: Array) -> dict[str, float]:
    """Scores of forecast log losses (n, S) against outcomes y (n,), by the names of ``Scores``."""
    miss = y - np.median(logs, axis=1)
    low, high = np.quantile(logs, [0.05, 0.95], axis=1)
    return {
        "rms": float(np.sqrt(np.mean(miss**2))),
        "error": float(np.mean(np.abs(miss))),
        "crps": float(np.mean(crps(logs, y))),
        "log_score": float(np.mean(log_score(logs, y))),
        "inside90": float(np.mean((low <= y) & (y <= high))),
    }
