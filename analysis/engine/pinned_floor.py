"""L = E + A C^-a with a pinned floor: the floor under which the cheaper runs forecast the dearer ones best.

Under a given floor, log(L - E) is a line in log C, which is fitted to residuals of log loss by Gauss-Newton, for many
floors at once. ``pin_floor`` chooses the floor by leave-the-future-out (marin-community/marin issue 4447): the runs
below each cut forecast all above it, each error over its own standard error so that a far forecast from few runs does
not decide alone. Other floors fit almost as well; they are kept with weights, so that whatever is derived carries how
far the floor is known: a mixture of Student t, one for each floor. The weight of a floor is its Student-t likelihood on
all runs (a flat prior from zero to the lowest loss). That is the same evidence: squared one-step forecast errors over
their variances add up to the residual sum of squares (Brown, Durbin and Evans 1975, recursive residuals).

Letters in names: K prefixes of the runs, G floors, n runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from scipy import optimize, special

from scaling.errors import Code, UserError

Array = np.ndarray
FLOORS = 200  # candidates
NEAREST = 0.02  # the highest candidate lies this share below the lowest loss
STEPS = 5  # of Gauss-Newton; it starts from the line through the measured losses and gains 2 digits or more a step
PREFIX = 3  # budgets from which the first forecast is made; 2 where there are only four
BUDGETS = 5  # budgets below which no floor counts as identified: two forecasts would be left
RESOLUTION = 1e-9  # of log loss: smallest residual that counts
IMPLAUSIBLE = 1e4  # residual sum of squares, over the smallest, above which a floor is left out
DENSE = 40  # candidates that the plausible floors should span
NEGLIGIBLE = 1e-7  # weight of a floor


class Lines(NamedTuple):
    """Lines log(L - E) = intercept + slope log C for prefixes and floors.

    Attributes:
      intercept, slope: (K, G); the slope is minus the exponent.
      residual: (K, G, n) of log loss, for all runs, also those above the prefix.
      share: (K, G, n), of the fitted loss that is reducible: the derivative of log L by log(L - E).
      weight, centre, spread: (K, G) sum of the squared shares in the prefix, their mean of log C and sum of squares.
    """

    intercept: Array
    slope: Array
    residual: Array
    share: Array
    weight: Array
    centre: Array
    spread: Array

    def leverage(self, x: Array) -> Array:
        """Variance of the line at x (n,), over that of a run's log loss: (K, G, n)."""
        return 1 / self.weight[..., None] + (x - self.centre[..., None]) ** 2 / self.spread[..., None]


@dataclass(frozen=True)
class PinnedLaw:
    """A law of compute with its pinned floor, and the other floors that fit.

    Attributes:
      x, y: (n,) log C and log loss of the runs, by compute.
      floor, log_amplitude, exponent: the law under the pinned floor.
      given: whether the user gave the floor; it is then taken as exact.
      floors, prior: (G,) plausible floors, and the width that each stands for.
      lines: under each of them, K = 1.
      squares: (G,) residual sum of squares of log loss.
      budgets: number of different C.
      forecasts, forecast_error: number of forecasts that chose the floor, and their rms error of log loss.
    """

    x: Array
    y: Array
    floor: float
    log_amplitude: float
    exponent: float
    given: bool
    floors: Array
    prior: Array
    lines: Lines
    squares: Array
    budgets: int
    forecasts: int
    forecast_error: float | None

    @property
    def df(self) -> int:
        """Degrees of freedom of the residuals: the amplitude, the exponent and a pinned floor are counted."""
        return len(self.x) - (2 if self.given else 3)

    @property
    def sd(self) -> float:
        """Residual standard deviation of log loss."""
        return float(np.sqrt(self.squares.min() / self.df))

    def log_loss(self, x: Array) -> Array:
        """Log of the loss at log C, under the pinned floor."""
        return np.log(self.floor + np.exp(self.log_amplitude - self.exponent * np.asarray(x, dtype=float)))

    def weights(self, sd: float, df: float) -> Array:
        """(G,) weights of the floors, which sum to one, at a residual standard deviation with ``df``."""
        log = -0.5 * (df + 1) * np.log1p((self.squares - self.squares.min()) / (df * sd**2))
        weight = np.exp(log) * self.prior
        return weight / weight.sum()

    def floor_interval(self, level: float) -> tuple[float, float | None]:
        """Profile-t interval of the floor, from zero at least; None for the upper end at the lowest loss."""
        if self.given:
            return self.floor, self.floor
        limit = self.squares.min() * (1 + special.stdtrit(self.df, (1 + level) / 2) ** 2 / self.df)
        good = np.flatnonzero(self.squares <= limit)
        highest = np.exp(self.y.min()) * (1 - NEAREST)
        low, high = float(self.floors[good[0]]), float(self.floors[good[-1]])
        return min(low, self.floor), None if high >= highest * (1 - 1e-9) else max(high, self.floor)


def pin_floor(x: Array, y: Array, floor: float | None = None) -> PinnedLaw:
    """Fits L = E + A C^-a with E pinned by leave-the-future-out, or given.

    Args:
      x: (n,) log C.
      y: (n,) log loss.
      floor: E, where it is known.

    Raises:
      UserError: TOO_FEW: fewer than four runs or three budgets (with a given floor three and two); INVALID: a floor
        that is not below every loss; NOT_IDENTIFIED: the losses do not clearly fall with compute.
    """
    order = np.argsort(x, kind="stable")
    x, y = np.asarray(x, dtype=float)[order], np.asarray(y, dtype=float)[order]
    budgets, lowest = len(_budgets(x)), float(np.exp(y.min()))
    few = (3, 2) if floor is not None else (4, 3)
    if len(x) < few[0] or budgets < few[1]:
        remedy = f"needs {few[0]} compute-optimal runs at {few[1]} budgets or more; train more of the base"
        remedy += "" if floor is not None else ", or give the floor of its loss (--floor)"
        raise UserError("base", f"{len(x)} runs at {budgets} budgets", remedy, Code.TOO_FEW)
    if floor is not None and not 0 <= floor < lowest:
        raise UserError("floor", floor, f"must be zero or more, and below the lowest loss of the base, {lowest:.6g}")
    candidates = np.array([floor]) if floor is not None else _plausible(x, y)
    pinned = float(floor) if floor is not None else _best(x, y)
    at, lines = fit_lines(x, y, np.array([pinned])), fit_lines(x, y, candidates)
    slope, error = float(at.slope[0, 0]), 1 / np.sqrt(at.spread[0, 0])
    law = PinnedLaw(
        x=x,
        y=y,
        floor=pinned,
        log_amplitude=float(at.intercept[0, 0]),
        exponent=-slope,
        given=floor is not None,
        floors=candidates,
        prior=np.gradient(candidates) if len(candidates) > 1 else np.ones(1),
        lines=lines,
        squares=_squares(lines),
        budgets=budgets,
        forecasts=0 if floor is not None else sum(len(x) - int(p.sum()) for p in _prefixes(x)),
        forecast_error=None if floor is not None else float(np.sqrt(future_squares(x, y, np.array([pinned]))[0])),
    )
    if not slope + special.stdtrit(law.df, 0.975) * law.sd * error < 0:
        remedy = "do not clearly fall with compute; a saving of compute needs a base over a wider range of C"
        raise UserError("base", f"losses {np.exp(y.max()):.4g} to {lowest:.4g}", remedy, Code.NOT_IDENTIFIED)
    return law


def fit_lines(x: Array, y: Array, floors: Array, prefixes: Array | None = None) -> Lines:
    """Fits log loss y (n,) = log(E + e^(intercept + slope x)) under floors (G,), to the runs in ``prefixes`` (K, n)."""
    used = np.ones((1, 1, len(x))) if prefixes is None else prefixes[:, None, :].astype(float)
    floor = floors[None, :, None]
    loss = np.exp(y)
    share = np.broadcast_to((loss - floor) / loss, (len(used), len(floors), len(x)))
    intercept, slope, *_ = _line(x, np.log(loss - floor), share**2 * used)
    for _ in range(STEPS):
        share, residual = _at(x, y, floor, intercept, slope)
        up, tilt, *_ = _line(x, residual / share, share**2 * used)
        intercept, slope = intercept + up, slope + tilt
    share, residual = _at(x, y, floor, intercept, slope)
    return Lines(intercept, slope, residual, share, *_line(x, residual, share**2 * used)[2:])


def future_squares(x: Array, y: Array, floors: Array) -> Array:
    """(G,) mean squared forecast error of log loss, over its variance for unit noise, of the runs above each cut.

    Every cut has one vote, however many runs lie above it.
    """
    prefixes = _prefixes(x)
    lines = fit_lines(x, y, floors, prefixes)
    squares = lines.residual**2 / (1 + lines.share**2 * lines.leverage(x))
    ahead = ~prefixes[:, None, :]
    return ((squares * ahead).sum(2) / ahead.sum(2)).mean(0)


def mixture_interval(value: Array, error: Array, weight: Array, df: float, level: float) -> tuple[float, float]:
    """Central interval of a mixture of Student t with centres ``value`` (G,); infinite ones may make it open."""
    low, high = (_quantile(value, error, weight, df, p) for p in ((1 - level) / 2, (1 + level) / 2))
    return low, high


def _quantile(value: Array, error: Array, weight: Array, df: float, p: float) -> float:
    used = (weight > NEGLIGIBLE) & np.isfinite(value)
    value, error, weight = value[used], error[used], weight[used]
    if weight.sum() <= p:
        return math.inf
    each = value + error * special.stdtrit(df, p)  # the quantile of a mixture lies between those of its parts
    low, high = float(each.min()), float(each.max())
    if weight.sum() < 1 - len(value) * NEGLIGIBLE:  # part of it is infinite
        high += float(error.max()) * special.stdtrit(df, 1 - NEGLIGIBLE)

    def above(v: float) -> float:
        return float((weight * special.stdtr(df, (v - value) / error)).sum()) - p

    if above(low) >= 0 or above(high) <= 0:  # all parts alike
        return low if above(low) >= 0 else high
    return float(cast(float, optimize.brentq(above, low, high, xtol=1e-8)))


def _at(x: Array, y: Array, floor: Array, intercept: Array, slope: Array) -> tuple[Array, Array]:
    """Share of the fitted loss that is reducible, and residual of log loss, (K, G, n) each."""
    reducible = np.exp(intercept[..., None] + slope[..., None] * x)
    fitted = floor + reducible
    return reducible / fitted, y - np.log(fitted)


def _line(x: Array, target: Array, weight: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Intercept and slope of a weighted line, the sum of the weights, and the mean and spread of x; all (K, G)."""
    total = weight.sum(-1)
    centre = (weight * x).sum(-1) / total
    apart = x - centre[..., None]
    spread = (weight * apart**2).sum(-1)
    slope = (weight * apart * target).sum(-1) / spread
    return (weight * target).sum(-1) / total - slope * centre, slope, total, centre, spread


def _budgets(x: Array) -> Array:
    return np.unique(np.round(x, 6))


def _prefixes(x: Array) -> Array:
    """(K, n) masks of the runs below each cut; cuts lie between budgets."""
    budgets = _budgets(x)
    first = max(2, min(PREFIX, len(budgets) - 2))
    return np.round(x, 6) < budgets[first:, None]


def _squares(lines: Lines) -> Array:
    return (lines.residual[0] ** 2).sum(-1) + lines.residual.shape[-1] * RESOLUTION**2


def _candidates(y: Array) -> Array:
    """(G,) from zero to just below the lowest loss, closer to each other there."""
    return np.exp(y.min()) * (1 - np.geomspace(1.0, NEAREST, FLOORS))


def _best(x: Array, y: Array) -> float:
    """The floor of the smallest forecast error; zero where that is at the bound."""
    floors = _candidates(y)
    i = int(np.argmin(future_squares(x, y, floors)))
    if i == 0:
        return 0.0
    ends = (floors[i - 1], floors[min(i + 1, FLOORS - 1)])
    found: Any = optimize.minimize_scalar(
        lambda floor: float(future_squares(x, y, np.array([floor]))[0]),
        bounds=ends,
        method="bounded",
        options={"xatol": 1e-7 * ends[1]},
    )
    return float(found.x)


def _plausible(x: Array, y: Array) -> Array:
    """(G,) floors, close enough to each other where they fit the runs."""
    floors = _candidates(y)
    for _ in range(8):
        squares = _squares(fit_lines(x, y, floors))
        good = np.flatnonzero(squares < IMPLAUSIBLE * squares.min())
        if len(good) >= DENSE:
            break
        floors = np.linspace(floors[max(good[0] - 1, 0)], floors[min(good[-1] + 1, len(floors) - 1)], FLOORS)
    return floors
