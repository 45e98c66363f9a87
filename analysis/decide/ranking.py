"""Ranks laws fitted to the same losses by AICc, with scores of their forecasts of runs that they were not fitted to."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from analysis.card import Value, finite
from analysis.check import diagnose, rolling
from analysis.engine.estimate import HUBER_K, estimate, refit
from analysis.engine.estimate import objective as parse_objective
from analysis.fitting import Fit
from scaling.errors import Code, UserError

Array = np.ndarray


class Ranked(Value):
    """A law ranked among others on the same runs. Scores are None where too few runs remain.

    Attributes:
      n: which count of parameters N is, or the column of the table; None where unknown.
      parameters: number of free parameters.
      aicc: from the Huber loss at the same threshold for all laws, that of the best fit.
      loo_rms: rms error of log losses, leaving out each run in turn.
      rolling_rms: rms error when the cheaper two thirds are fitted and the rest scored.
      rolling_crps: CRPS of forecasts of log loss over several cuts (``check.rolling``).
    """

    law: str
    n: str | None
    parameters: int
    aicc: float | None
    delta_aicc: float | None
    rms_log_residual: float
    loo_rms: float | None
    rolling_rms: float | None
    rolling_crps: float | None
    lack_of_fit_p: float | None
    refuted: bool | None


class _Scores(NamedTuple):
    residual: Array
    loo_rms: float | None
    rolling_rms: float | None
    rolling_crps: float | None


def rank(fits: list[Fit]) -> tuple[Ranked, ...]:
    """The fits, best first by AICc.

    Raises:
      UserError: the fits are not of the same losses.
    """
    if not fits:
        return ()
    losses = [sorted(zip(f.runs, f.columns["loss"].tolist())) for f in fits]
    if any(other != losses[0] for other in losses):
        remedy = "laws are ranked on the same runs only; fit them to one table"
        raise UserError("fits", len(fits), remedy, Code.MIXED)
    scored = [_scores(f) for f in fits]
    delta = max(HUBER_K * min(1.4826 * float(np.median(np.abs(s.residual))) for s in scored), 1e-12)
    rows = [_ranked(f, s, delta) for f, s in zip(fits, scored)]
    rows.sort(key=lambda row: math.inf if row.aicc is None else row.aicc)
    best = rows[0].aicc
    return tuple(
        msgspec.structs.replace(row, delta_aicc=None if row.aicc is None or best is None else row.aicc - best)
        for row in rows
    )


def _ranked(f: Fit, s: _Scores, delta: float) -> Ranked:
    n = len(s.residual)
    psi = np.clip(s.residual, -delta, delta)
    q = max(float((psi * (s.residual - 0.5 * psi)).sum()), 1e-300)
    k = len(f.law.params) - len(f.card.fixed) + 1
    aicc = n * math.log(2 * q / n) + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf)
    p = f.noise.lack_of_fit.p
    return Ranked(
        law=f.law.name,
        n=f.conventions.n or f.conventions.columns.get("N"),
        parameters=k - 1,
        aicc=finite(aicc),
        delta_aicc=None,
        rms_log_residual=float(np.sqrt(np.mean(s.residual**2))),
        loo_rms=s.loo_rms,
        rolling_rms=s.rolling_rms,
        rolling_crps=s.rolling_crps,
        lack_of_fit_p=p,
        refuted=None if p is None else p < diagnose.REFUTED,
    )


def _scores(f: Fit) -> _Scores:
    """Residuals and scores of the plain robust fit; a stem effect would absorb the misfit of a wrong law."""
    card, law = f.card, f.law
    table = pd.DataFrame({"run": list(f.runs), **f.columns})
    kind = parse_objective(card.objective.name)
    held = {"fixed": card.fixed, "priors": card.priors}
    w = table["weight"].to_numpy(dtype=np.float64) if card.weights else None
    point = estimate(law, table, table["loss"], kind, **held, w=w)
    setting = f.discrepancy.k
    crps = rolling.rolling(table, law, objective=kind, **held, setting=setting, seed=f.seed).crps
    y, loo, forecast = point.y, None, None
    n = len(y)
    if n <= 400:
        z, _ = refit(point, y, w=1.0 - np.eye(n))
        miss = y - np.diagonal(point.surface.evaluate(z)[0])
        loo = float(np.sqrt(np.mean(miss**2)))
    cost = table["C"] if "C" in table else table[law.columns[0]]
    order = np.argsort(cost.to_numpy(), kind="stable")
    below, above = table.iloc[order[: (2 * n) // 3]], table.iloc[order[(2 * n) // 3 :]]
    enough = len(below) > len(law.coordinates) - len(card.fixed)
    if enough and len(above) and all(len(diagnose.levels(below[c], 1e-6)) > 1 for c in law.columns):
        part = estimate(law, below, below["loss"], kind, **held)
        miss = np.log(above["loss"].to_numpy()) - np.log(law.predict(part.theta, above))
        forecast = float(np.sqrt(np.mean(miss**2)))
    return _Scores(y - point.surface.evaluate(point.z[None])[0][0], loo, forecast, crps)
