"""Which law to extrapolate with: fit the cheaper runs, forecast the dearer ones, cut by cut (rolling extrapolation).

What a law is wanted for is the loss beyond its runs, so that is what is scored: by error, by CRPS (Gneiting and
Raftery 2007, doi 10.1198/016214506000001437) and by log score of the whole forecast, its discrepancy included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import laws
from analysis.check import discrepancy
from analysis.engine.estimate import Objective, estimate
from analysis.engine.estimate import objective as parse_objective
from analysis.engine.inference import infer
from analysis.laws import Law

Array = np.ndarray
SHARES = (0.5, 0.65, 0.8)  # of the runs by compute that are fitted; the rest is forecast
DRAWS = 400


def crps(values: Array, outcome: Array | float) -> Array:
    """CRPS of an ensemble of equally likely values (last axis) at the outcomes (all other axes)."""
    q = np.sort(values, axis=-1)
    m = q.shape[-1]
    near = np.abs(q - np.asarray(outcome)[..., None]).mean(-1)
    return near - (q * ((2 * np.arange(1, m + 1) - m - 1) / m**2)).sum(-1)


def log_score(values: Array, outcome: Array) -> Array:
    """Minus the log density of the outcomes (n,) under ensembles (n, S): a normal of their median and 68 % width.

    An ensemble is heavy-tailed where runs are few; the width in the middle is what a normal can take from it.
    """
    low, middle, high = np.quantile(values, [0.1587, 0.5, 0.8413], axis=-1)
    sd = np.maximum((high - low) / 2, 1e-6)
    return 0.5 * ((outcome - middle) / sd) ** 2 + np.log(sd) + 0.5 * math.log(2 * math.pi)


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
) -> dict[str, Any]:
    """Scores of forecasting the dearer runs of a table (DataFrame) from the cheaper ones. Of log loss: less is better.

    ``shares`` of the runs are fitted, in order of compute (of the law's first column where C is unknown); runs of one
    compute stay together. ``setting`` of the discrepancy as in ``fit``.

    Returns:
      ``rms``, ``error`` (mean absolute), ``crps``, ``log_score``, ``inside90`` (share), ``cuts`` (one entry each).
      The numbers are None where no cut leaves enough runs, sizes and tokens to fit.
    """
    form = laws.get(law)
    kind = objective if isinstance(objective, Objective) else parse_objective(objective)
    fixed = dict(fixed or {})
    cost = np.asarray(table["C"] if "C" in table else table[form.columns[0]], dtype=np.float64)
    ordered, cuts = np.sort(cost), []
    for share in shares:
        cut = ordered[max(math.ceil(share * len(ordered)), 1) - 1]
        below, above = table[cost <= cut * 1.001], table[cost > cut * 1.001]
        if not len(above) or not _enough(below, form, fixed):
            continue
        below, above = below.reset_index(drop=True), above.reset_index(drop=True)
        logs = _forecast(below, above, form, kind, fixed, priors, setting, seed)
        y = np.log(above["loss"].to_numpy(dtype=np.float64))
        miss = y - np.median(logs, axis=1)
        low, high = np.quantile(logs, [0.05, 0.95], axis=1)
        cuts.append(
            {
                "C": float(cut),
                "fitted": len(below),
                "scored": len(above),
                "ratio": float(cost.max() / cut),
                "rms": float(np.sqrt(np.mean(miss**2))),
                "error": float(np.mean(np.abs(miss))),
                "crps": float(np.mean(crps(logs, y))),
                "log_score": float(np.mean(log_score(logs, y))),
                "inside90": float(np.mean((low <= y) & (y <= high))),
            }
        )
    names = ("rms", "error", "crps", "log_score", "inside90")
    means = {name: float(np.mean([c[name] for c in cuts])) if cuts else None for name in names}
    return {"law": form.name, **means, "cuts": cuts}


def choose(table: Any, names: tuple[str, ...], **options: Any) -> tuple[str, list[dict[str, Any]]]:
    """The law of smallest rolling CRPS, and the rolling scores of all, best first.

    The first of ``names`` is kept unless another one is better by more than 5 %: a tie is no reason to change.
    """
    scores = [rolling(table, name, **options) for name in names]
    usable = sorted((s for s in scores if s["crps"] is not None), key=lambda s: s["crps"])
    order = usable + [s for s in scores if s["crps"] is None]
    first = scores[0]
    keep = not usable or (first["crps"] is not None and first["crps"] <= 1.05 * usable[0]["crps"])
    return (first if keep else order[0])["law"], order


def _enough(table: Any, law: Law, fixed: Mapping[str, float]) -> bool:
    distinct = all(len(np.unique(np.round(np.log(table[c].to_numpy(dtype=float)), 4))) > 2 for c in law.columns)
    return distinct and len(table) > len(law.coordinates) - len(fixed) + 1


def _forecast(
    below: Any,
    above: Any,
    law: Law,
    kind: Objective,
    fixed: Mapping[str, float],
    priors: Mapping[str, tuple[float, float]] | None,
    setting: str | float,
    seed: int,
) -> Array:
    """Log losses (n, S) of new runs at the rows ``above``, by t draws around the robust fit of ``below`` (quick)."""
    point = estimate(law, below, below["loss"], kind, fixed=fixed, priors=priors)
    at = infer(point, point.y, below, draws=DRAWS, seed=seed, scheme="delta-t")
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.log(np.maximum(law.predict(at.theta, above), 1e-300))
    rng = np.random.default_rng([seed, 3])
    noise = np.hypot(at.sigma, at.sigma_stem)[:, None] * rng.standard_normal(logs.shape)
    scope = {f"{c}_max": float(below[c].max()) for c in ("C", "N", "D") if c in below}
    x = discrepancy.beyond(scope, {c: above[c].to_numpy() for c in ("C", "N", "D") if c in above})
    return (logs + noise + discrepancy.deviations(discrepancy.term(law.name, setting), x, DRAWS, rng)).T
