"""Compute multipliers of a variant's runs against a law of its base, under every floor that fits the base.

A multiplier is the compute at which the base reaches a run's loss, over the compute that the run took. Sums of their
logarithms (the mean, a single one, the trend along compute) have intervals that are mixtures of Student t, one for each
floor of the base's law, with the errors of the law, of the variant's runs and of the floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from analysis.card import Interval
from analysis.engine.pinned_floor import RESOLUTION, PinnedLaw, mixture_interval

Array = np.ndarray
UNSURE = 1e-3  # weight of floors that a loss is not above, from which the trend is not known
LARGEST = 600.0  # log of a multiplier or a compute above which it counts as infinite


@dataclass(frozen=True)
class Multiplier:
    """Multipliers of a variant's runs under every plausible floor of the base's law.

    Attributes:
      law: of the base.
      x: (m,) log C of the variant's runs.
      log_ratio: (G, m) log multiplier under each floor; infinite where the loss is not above it.
      pinned: (m,) under the pinned floor.
      share: (G, m) of the loss that is reducible.
      sd, df: noise of a run's log loss, and degrees of freedom of the t interval.
      known: degrees of freedom of the noise; fewer for runs that are only planned.
      residuals: of the base and of the variant, each with degrees of freedom.
    """

    law: PinnedLaw
    x: Array
    log_ratio: Array
    pinned: Array
    share: Array
    sd: float
    df: int
    known: int
    residuals: tuple[tuple[Array, int], tuple[Array, int]]

    @classmethod
    def of(cls, law: PinnedLaw, x: Array, y: Array, *, planned: bool = False) -> Multiplier:
        """Multipliers at log C ``x`` and log loss ``y`` (m,); of ``planned`` runs the noise is the base's."""
        loss, floors = np.exp(y), law.floors[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = (np.log(loss - floors) - law.lines.intercept[0][:, None]) / law.lines.slope[0][:, None]
        needed = np.where(loss > floors, needed, np.inf)
        pinned = (law.log_amplitude - np.log(loss - law.floor)) / law.exponent - x
        own = y - law.log_loss(x + pinned.mean())
        first = law.lines.residual[0, int(np.argmin(law.squares))]
        residuals = ((first, law.df), (own, len(x) - 1))
        df = law.df + len(x) - 1
        squares = float(law.squares.min() + (own**2).sum())
        sd, known = (law.sd, law.df) if planned else (math.sqrt(squares / df), df)
        return cls(law, x, needed - x, pinned, (loss - floors) / loss, sd, df, known, residuals)

    def ends(self, contrast: Array, level: float) -> tuple[float, float]:
        """Interval of the sum of the log multipliers times ``contrast`` (m,); an end may be infinite."""
        value, error = self._terms(contrast)
        low, high = mixture_interval(value, self.sd * error, self.law.weights(self.sd, self.df), self.df, level)
        middle = float(contrast @ self.pinned)
        return min(low, middle), max(high, middle)

    def interval(self, contrast: Array, level: float) -> Interval:
        """The same as a factor, with the value under the pinned floor."""
        low, high = self.ends(contrast, level)
        value = math.exp(float(contrast @ self.pinned))
        return Interval(value=value, lo=math.exp(low), hi=math.exp(high) if high < LARGEST else None)

    def trend(self, level: float) -> Interval | None:
        """Factor of the multiplier per decade of compute; its noise is what is left without a trend."""
        apart, infinite = self.x - self.x.mean(), ~np.isfinite(self.log_ratio).all(1)
        if (apart**2).sum() < 1e-6 or self.df < 2 or self.law.weights(self.sd, self.df)[infinite].sum() > UNSURE:
            return None
        (first, _), (own, _) = self.residuals
        level_and_trend = np.stack([np.ones_like(apart), apart], 1)
        left = own - level_and_trend @ np.linalg.lstsq(level_and_trend, own, rcond=None)[0]
        df = self.df - 1
        sd = math.sqrt(max(float((first**2).sum() + (left**2).sum()) / df, RESOLUTION**2))
        return replace(self, sd=sd, df=df).interval(apart / (apart**2).sum() * math.log(10), level)

    def _terms(self, contrast: Array) -> tuple[Array, Array]:
        """(G,) the contrast under each floor, and its standard error there for unit noise."""
        used = np.flatnonzero(contrast)
        part, ratio = contrast[used], self.log_ratio[:, used]
        infinite = np.asarray(np.isinf(ratio).any(axis=1))
        ratio = np.where(infinite[:, None], 0.0, ratio)
        share = np.where(infinite[:, None], 1.0, self.share[:, used])
        lines = self.law.lines
        slope = lines.slope[0]
        at = (part * (ratio + self.x[used] - lines.centre[0][:, None])).sum(1)
        variance = part.sum() ** 2 / lines.weight[0] + at**2 / lines.spread[0] + (part**2 / share**2).sum(1)
        return np.where(infinite, np.inf, ratio @ part), np.sqrt(variance) / np.abs(slope)
