"""The default forecast: several laws together, weighted by how well each foretold the study's own dearer runs.

No law of a few terms is the best in every study, and which one a study's own runs prefer is itself uncertain. So a law
m gets the weight

    w_m ~ p_m exp(-eta s_m),

p_m learned over other studies, s_m the log of its mean absolute error in forecasts of the study's dearer runs from its
cheaper ones (``check.ahead``), less the median over the laws that could be fitted below the same cut. eta, learned too,
says how far a study's own forecasts are believed. A local power law, a plane of log loss in log N and log D that sees
the dearest runs most, is the humble end.

The forecast is the weighted mean of the laws' log losses. Its error is Student's t with scale

    sqrt(noise^2 + (apart d)^2 + (k x^growth)^2),

d the weighted sd of the laws among each other, x the e-folds beyond the runs, k and the degrees of freedom updated by
the rolling residuals of the weighted forecasts as those of a single law (``check.discrepancy``). The priors are in
``pool.json``; ``benchmarks/priors.py`` makes it, ``benchmarks/league.py`` tests it with the source of the scored study
left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pandas as pd
from scipy import special

from analysis import laws
from analysis.card import SCHEMA, Interval, Scope, Value
from analysis.check import discrepancy
from analysis.check.ahead import Ahead, ahead, cuts, reach, varied
from analysis.engine.estimate import Estimate, estimate, objective
from analysis.fitting import Fit
from scaling.errors import Code, UserError
from scaling.records.typed import read_typed

Array = np.ndarray
FILE = Path(__file__).with_name("pool.json")
LAWS = ("chinchilla", "chinchilla_outer", "kaplan", "skaling", "overtraining", "product_floor", "product")
LOCAL = "local"
NAMES = (*LAWS, LOCAL)
NEAREST = 1.0  # e-folds of C below the dearest run at which a run counts 1/e as much for the local power law
EXACT = 0.002  # of log loss: rolling errors are compared above this
FEWEST = 5  # runs
MANY = 2000  # rows above which evenly spaced ones stand for all
FLOOR = 1e-300  # a loss below it is taken as it


class Prior(msgspec.Struct, frozen=True):
    """What other studies say of the forecast (module docstring).

    Attributes:
      weights: p by law.
      eta: power of a law's own rolling error.
      apart: factor of the laws' disagreement.
      growth: power of x.
      scale: of k.
    """

    weights: dict[str, float]
    eta: float
    apart: float
    growth: float
    scale: discrepancy.Prior


class Rolled(NamedTuple):
    """Forecasts from below one cut by the laws that could be fitted there.

    Attributes:
      voices: (v,), which laws.
      forecast: (v, m), log losses of the m dearer runs.
      outcome, x: (m,), their log losses, and e-folds by which they lie beyond the cut.
    """

    voices: Array
    forecast: Array
    outcome: Array
    x: Array


class Heard(NamedTuple):
    """What is known of V laws on one study: names, noise of a run under each (V,), and rolling forecasts."""

    names: tuple[str, ...]
    noise: Array
    rolled: tuple[Rolled, ...]


class Mixed(NamedTuple):
    """Weights (V,) of the laws, the noise of a run, and k with its degrees of freedom."""

    weights: Array
    noise: float
    k: float
    df: float


class Residual(NamedTuple):
    """Of the weighted forecast above one cut, (m,) each (``discrepancy.Residuals``)."""

    residual: Array
    spread: Array
    x: Array


def scores(heard: Heard) -> Array:
    """s (V,): log rolling error of each law, less the median over the laws with a forecast from the same cut."""
    total, count = np.zeros(len(heard.names)), np.zeros(len(heard.names))
    for cut in heard.rolled:
        error = np.log(np.abs(cut.outcome - cut.forecast).mean(axis=1) + EXACT)
        total[cut.voices] += error - np.median(error)
        count[cut.voices] += 1
    return total / np.maximum(count, 1)


def weights_of(prior: Mapping[str, float], eta: float, heard: Heard) -> Array:
    """Weights (V,) that add to one."""
    log = np.log([prior[name] for name in heard.names]) - eta * scores(heard)
    weight = np.exp(log - log.max())
    return weight / weight.sum()


def apart(weights: Array, forecasts: Array) -> tuple[Array, Array]:
    """Weighted mean (n,) of forecasts (V, n), and the weighted sd of the laws around it."""
    middle = weights @ forecasts
    return middle, np.sqrt(weights @ (forecasts - middle) ** 2)


def grown(x: Array, growth: float) -> Array:
    return np.maximum(x, discrepancy.NEAR) ** growth


def spread(noise: float, disagreement: Array, factor: float) -> Array:
    return np.minimum(np.hypot(noise, factor * disagreement), 1.0)


def residuals(weights: Array, heard: Heard, factor: float, growth: float) -> list[Residual]:
    """Rolling residuals of the weighted forecast, from each cut below which some law could be fitted."""
    noise, out = float(weights @ heard.noise), []
    for cut in heard.rolled:
        share = weights[cut.voices] / weights[cut.voices].sum()
        middle, away = apart(share, cut.forecast)
        out.append(Residual(cut.outcome - middle, spread(noise, away, factor), grown(cut.x, growth)))
    return out


def mix(prior: Prior, heard: Heard) -> Mixed:
    """The weights of the laws, and the scale of the error of their weighted forecast."""
    weights = weights_of(prior.weights, prior.eta, heard)
    k, df = discrepancy.updated(prior.scale, residuals(weights, heard, prior.apart, prior.growth))
    return Mixed(weights, float(weights @ heard.noise), k, df)


def scale(prior: Prior, mixed: Mixed, disagreement: Array, x: Array) -> Array:
    """Scale (n,) of the error of log loss at x (n,) e-folds beyond the runs; none of it is the law's within them."""
    off = np.where(x > 0, mixed.k * grown(x, prior.growth), 0.0)
    return np.hypot(spread(mixed.noise, disagreement, prior.apart), off)


# --- the laws on one table


class Voice(NamedTuple):
    """A law fitted to the study, and its rolling forecasts.

    Attributes:
      law: its name, ``LOCAL`` for the local power law.
      noise: sd of log loss of a run around it.
    """

    law: str
    point: Estimate
    noise: float
    cuts: tuple[Ahead, ...]

    def log_losses(self, columns: Mapping[str, Any]) -> Array:
        """Forecasts (n,) of log loss."""
        return _log_losses(self.point, columns)


def thinned(table: pd.DataFrame) -> pd.DataFrame:
    """At most ``MANY`` rows of a table, evenly spaced."""
    if len(table) <= MANY:
        return table
    return table.iloc[np.linspace(0, len(table) - 1, MANY).astype(int)].reset_index(drop=True)


def listen(table: pd.DataFrame) -> tuple[Voice, ...]:
    """Every law that the table (N, D, C, loss) has enough rows for, fitted, with its rolling forecasts."""
    found = []
    for name in LAWS:
        law = laws.get(name)
        if len(table) >= len(law.coordinates) + 2:
            point = estimate(law, table, table["loss"], objective("auto"))
            found.append(Voice(name, point, _noise(point, table), ahead(point, table)))
    return (*found, _local(table))


def _local(table: pd.DataFrame) -> Voice:
    """A power law of N and D that sees mostly the dearest runs. Its refits below a cut weigh the runs from that cut."""
    point, log_loss = _nearby(table), np.log(table["loss"].to_numpy(dtype=np.float64))
    columns, rolled = ("N", "D"), []
    for fitted in cuts(table, "C"):
        if fitted.sum() < len(point.z) + 2 or not varied(table, columns, fitted):
            continue
        below: Any = table[fitted].reset_index(drop=True)
        part, above = _nearby(below), np.flatnonzero(~fitted)
        forecast = _log_losses(part, table)[above]
        noise = np.full(len(above), _near_noise(part, below))
        x = reach(table, columns, fitted)[above]
        rolled.append(Ahead(int(fitted.sum()), above, forecast, log_loss[above] - forecast, noise, x))
    return Voice(LOCAL, point, _near_noise(point, table), tuple(rolled))


def _nearby(table: pd.DataFrame) -> Estimate:
    return estimate(laws.get("product"), table, table["loss"], objective("squares"), w=_nearness(table))


def _nearness(table: pd.DataFrame) -> Array:
    log_c = np.log(table["C"].to_numpy(dtype=np.float64))
    return np.exp((log_c - log_c.max()) / NEAREST)


def _near_noise(point: Estimate, table: pd.DataFrame) -> float:
    off, w, n = _residual(point, table), _nearness(table), len(table)
    return math.sqrt(float(w @ off**2 / w.sum()) * n / max(n - len(point.z), 1))


def _noise(point: Estimate, table: pd.DataFrame) -> float:
    off = _residual(point, table)
    return math.sqrt(float(off @ off) / max(len(off) - len(point.z), 1))


def _residual(point: Estimate, table: pd.DataFrame) -> Array:
    return np.log(table["loss"].to_numpy(dtype=np.float64)) - _log_losses(point, table)


def _log_losses(point: Estimate, columns: Any) -> Array:
    with np.errstate(divide="ignore", over="ignore"):
        return np.log(np.maximum(np.atleast_1d(point.surface.law.predict(point.theta, columns)), FLOOR))


def hear(voices: Sequence[Voice], table: pd.DataFrame) -> Heard:
    """What the voices say of their own study's dearer runs, side by side for each cut."""
    log_loss, by_cut = np.log(table["loss"].to_numpy(dtype=np.float64)), dict[int, dict[int, Ahead]]()
    for i, voice in enumerate(voices):
        for cut in voice.cuts:
            by_cut.setdefault(cut.fitted, {})[i] = cut
    rolled = []
    for _, cut in sorted(by_cut.items()):
        one = next(iter(cut.values()))
        forecasts = np.stack([each.forecast for each in cut.values()])
        rolled.append(Rolled(np.array(list(cut)), forecasts, log_loss[one.above], one.x))
    return Heard(tuple(v.law for v in voices), np.array([v.noise for v in voices]), tuple(rolled))


# --- the forecast


class Carried(Value):
    """A law's part in the forecast.

    Attributes:
      alone: the loss that this law alone forecasts.
      rolling_error: its mean absolute error of log loss in ``cuts`` forecasts of the dearer runs from the cheaper; None
        where too few runs are left to fit it.
    """

    law: str
    weight: float
    alone: float
    rolling_error: float | None
    cuts: int


class Forecast(Value):
    """The loss of a new run by the default forecast.

    Attributes:
      cell: N, D and, where the runs have it, C.
      loss: in the unit of the runs, at ``level``.
      e_folds_beyond: by which the cell lies beyond the runs.
      laws: those that carry the forecast, by weight.
      noise, beyond: what its scale is made of, each of log loss: the noise of a run, and k x^growth. ``df``: degrees of
        freedom of Student's t.
      disagreement: weighted sd of the laws around the forecast. It enters the scale times the prior's ``apart``, which
        was learned as 0.
    """

    cell: dict[str, float]
    level: float
    loss: Interval
    e_folds_beyond: float
    laws: tuple[Carried, ...]
    noise: float
    disagreement: float
    beyond: float
    df: float
    kind: Literal["forecast"] = "forecast"
    schema: Literal[2] = SCHEMA


@dataclass(frozen=True)
class Pool:
    """The laws on one study, and their weights. Made by ``pool``."""

    prior: Prior
    voices: tuple[Voice, ...]
    mixed: Mixed
    scope: Scope

    def at(self, n: float, d: float, c: float | None = None, *, level: float = 0.95) -> Forecast:
        """The loss of a new run of ``n`` parameters and ``d`` tokens.

        Args:
          c: its FLOPs, as the runs count them; by default judged by N D.
          level: confidence of the interval.
        """
        cell = {"N": n, "D": d} | ({} if c is None else {"C": c})
        columns = {name: np.array([value]) for name, value in cell.items()}
        logs = np.array([voice.log_losses(columns)[0] for voice in self.voices])
        middle, away = apart(self.mixed.weights, logs[:, None])
        x = discrepancy.beyond(self.scope, columns)
        half = special.stdtrit(self.mixed.df, 0.5 + level / 2) * scale(self.prior, self.mixed, away, x)
        low, value, high = (float(np.exp(middle + sign * half)[0]) for sign in (-1, 0, 1))
        order = np.argsort(-self.mixed.weights, kind="stable")
        carried = [self._carried(i, float(np.exp(logs[i]))) for i in order]
        return Forecast(
            cell=cell,
            level=level,
            loss=Interval(value=value, lo=low, hi=high, unit="loss"),
            e_folds_beyond=float(x[0]),
            laws=tuple(carried),
            noise=self.mixed.noise,
            disagreement=float(away[0]),
            beyond=float(self.mixed.k * grown(x, self.prior.growth)[0]) if x[0] > 0 else 0.0,
            df=self.mixed.df,
        )

    def _carried(self, i: int, alone: float) -> Carried:
        voice = self.voices[i]
        errors = [float(np.abs(cut.residual).mean()) for cut in voice.cuts]
        return Carried(
            law=voice.law,
            weight=float(self.mixed.weights[i]),
            alone=alone,
            rolling_error=float(np.mean(errors)) if errors else None,
            cuts=len(errors),
        )


class _File(msgspec.Struct, frozen=True):
    prior: Prior


@cache
def shipped() -> Prior:
    """The prior that all reference sets teach."""
    return read_typed(FILE, _File).prior


def pool(fit: Fit, prior: Prior | None = None) -> Pool:
    """The default forecast of the runs that a fit was fitted to, whatever its law.

    Args:
      prior: in place of the shipped one.

    Raises:
      UserError: the runs lack N or D, or are too few.
    """
    columns = fit.columns
    for name in ("N", "D"):
        if name not in columns:
            raise UserError("column", name, "the forecast by several laws needs N, D and the loss", Code.MISSING)
    if len(columns["loss"]) < FEWEST:
        raise UserError("rows", len(columns["loss"]), f"several laws need {FEWEST} runs or more", Code.TOO_FEW)
    table = pd.DataFrame({name: columns[name] for name in ("N", "D", "C", "loss") if name in columns})
    if "C" not in table:
        table["C"] = 6 * table["N"] * table["D"]
    table = thinned(table)
    voices = listen(table)
    prior = prior or shipped()
    return Pool(prior, voices, mix(prior, hear(voices, table)), fit.scope)
