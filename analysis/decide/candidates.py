"""Which runs of a given list to train, so that a law fitted to all that is trained foretells runs that are too dear.

The list has the columns that a law takes, whatever they are, and a price a run. Two errors decide what a run is worth:
its own noise, and that of the law. No law of a few terms is right from the cheapest runs to the dearest, so that a run
far from the targets pulls the fit to where the law holds there. The law's error delta is taken as a random field over
the logarithms x of the columns, fractional Brownian:

    E (delta(x) - delta(x'))^2 = drift^2 |x - x'|^(2 GROWTH)

Its drift is ``FIELD`` times the scale of the default forecast's discrepancy (``decide.pool``), which is what remains of
delta beyond the runs once a law is fitted. The error of log loss at a target is then, for the fit as it is made, which
weighs all runs the same,

    g_t' (G'G)^-1 G' (noise + delta_X) - delta_t,

G and g_t the derivatives of log loss in the log parameters. ``choose`` adds, one by one, the run that reduces its mean
square most for its price, and stops where none would: under this error more runs are not always better.

Before anything is trained, the law is its own ``example`` with each term a fifth of the floor at the middle of the
list. That prior stays among the parameter sets over which the error is averaged, since a fit of few runs is far off.
What it is worth on published runs is in ``benchmarks/README.md``, section The next run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.card import Value
from analysis.check.diagnose import CONFOUNDED
from analysis.decide import pool
from analysis.decide.design import MAX_CELLS, MIN_GAIN, PRICE_POWERS, PRIOR_SD, PRIOR_SHARE, gradient
from analysis.engine.estimate import Estimate, estimate
from analysis.engine.losses import Objective, objective
from analysis.laws import Law, log_columns
from scaling.errors import Code, UserError

Array = np.ndarray
Columns = Mapping[str, Any]
NOISE, WORTH = 0.015, 5.0  # prior sd of log loss around a law (.009 to .015 in the league's sets), worth so many runs
EXPONENTS = (-0.4, 0.0, 0.4)  # log of the factors on the example's exponents that make the prior's parameter sets
DRAWS = 3  # parameter sets around a fit
FIELD, GROWTH = 3.0, 0.75  # 3: worked out on the development sets of benchmarks/next_protocol.md
SPARE = 2  # runs that a law needs beyond its parameters
TARGETS = 8  # targets that stand for all


@dataclass(frozen=True)
class Candidates:
    """Runs that may be trained: the law's columns (K,) each, and the price (K,) in any unit."""

    columns: Columns
    price: Array


@dataclass(frozen=True)
class Trained:
    """Runs that were trained, which stay in the fit: the law's columns and the losses (n,), above zero."""

    columns: Columns
    loss: Array


@dataclass(frozen=True)
class Errors:
    """Sd of log loss: of a run, and by which the law's error differs over a distance of one e-fold."""

    noise: float
    drift: float


class Choice(Value):
    """Runs of a list in the order in which to train them.

    Attributes:
      chosen: their indices.
      before, after_each: expected root mean square error of log loss at the targets, now and after each.
      noise: sd of log loss of a run that was assumed.
    """

    chosen: tuple[int, ...]
    before: float
    after_each: tuple[float, ...]
    noise: float


# wide: the question (law, list, targets, budget), what is known, and how it is fitted
def choose(
    law: Law,
    candidates: Candidates,
    targets: Columns,
    budget: float,
    trained: Trained | None = None,
    *,
    kind: Objective | None = None,
    drift: float | None = None,
) -> Choice:
    """The runs of a list to train within a budget for a forecast of the losses at the targets.

    Train the first of them, fit, and ask again: with every outcome the law is known better.

    Args:
      targets: the law's columns of the runs to foretell.
      budget: in the unit of the price.
      trained: what is fitted already; its rows are no part of the list.
      kind: objective of the fit; by default ``auto``.
      drift: sd by which the law's error differs over one e-fold; by default that of other studies.

    Raises:
      UserError: there is no run to choose or to foretell (TOO_FEW), a column has another length than the prices
        (CONFLICT), a price is no number above zero, or the budget buys no run (INVALID); or the chosen and trained runs
        cannot tell two columns of the law apart, as with D = k N in all of them (NOT_IDENTIFIED).
    """
    _require_list(law, candidates, targets)
    if not (candidates.price <= budget).any():
        raise UserError("budget", f"{budget:g}", f"buys no run: the cheapest costs {candidates.price.min():.3g}")
    drift = FIELD * pool.shipped().scale.k if drift is None else drift
    thetas, noise = _belief(law, candidates, trained, kind or objective("auto"))
    far = _points(law, targets)
    some = np.unique(np.linspace(0, len(far) - 1, min(len(far), TARGETS)).astype(int))
    search = _Search(law, thetas, Errors(noise, drift), {c: np.asarray(targets[c])[some] for c in law.columns})
    have = search.fitted({c: [] for c in law.columns} if trained is None else trained.columns)
    more = search.fitted(candidates.columns)
    lists = [_greedy(search, have, more, candidates.price, budget, power) for power in PRICE_POWERS]
    chosen, path = min(lists, key=lambda one: one[1][-1])
    _require_told_apart(law, np.concatenate([have.x, more.x[chosen]]))
    rms = [math.exp(v / 2) for v in path]
    return Choice(chosen=tuple(chosen), before=rms[0], after_each=tuple(rms[1:]), noise=noise)


def _require_list(law: Law, candidates: Candidates, targets: Columns) -> None:
    price = np.asarray(candidates.price, dtype=np.float64)
    for field, count in (("candidates", len(price)), ("targets", len(np.atleast_1d(targets[law.columns[0]])))):
        if not count:
            raise UserError(field, 0, "needs at least one run", Code.TOO_FEW)
    for name in law.columns:
        if (count := len(np.atleast_1d(candidates.columns[name]))) != len(price):
            raise UserError(f"candidates.{name}", count, f"rows beside {len(price)} prices; one a run", Code.CONFLICT)
    if (bad := np.flatnonzero(~(np.isfinite(price) & (price > 0)))).size:
        raise UserError(f"price of run {bad[0]}", price[bad[0]], "must be a number above 0")


def _require_told_apart(law: Law, x: Array) -> None:
    for (i, one), (j, other) in itertools.combinations(enumerate(law.columns), 2):
        varied = len(x) > 2 and np.ptp(x[:, i]) > 0 < np.ptp(x[:, j])
        if varied and abs(np.corrcoef(x[:, i], x[:, j])[0, 1]) > CONFOUNDED:
            power, log_factor = np.polyfit(x[:, i], x[:, j], 1)
            remedy = "in all runs to train: they cannot tell the law's terms apart; list runs in which both vary freely"
            raise UserError(other, f"{math.exp(log_factor):.3g} {one}^{power:.2g}", remedy, Code.NOT_IDENTIFIED)


def _points(law: Law, columns: Columns) -> Array:
    """x (n, q): logarithms of the law's columns."""
    if not len(np.atleast_1d(columns[law.columns[0]])):
        return np.zeros((0, len(law.columns)))
    logs = log_columns(law, columns)
    return np.stack([np.asarray(logs[name], dtype=np.float64) for name in law.columns], 1)


# --- what is believed of the law


def _belief(law: Law, candidates: Candidates, trained: Trained | None, kind: Objective) -> tuple[Array, float]:
    """Parameter sets (S, P) and the sd of a run's log loss."""
    sets, noise = [*_prior(law, candidates.columns)], NOISE
    spare = 0 if trained is None else len(trained.loss) - len(law.names)
    if trained is not None and spare > 0:
        point = estimate(law, trained.columns, trained.loss, kind)
        sets += [*_around(point)]
        noise = math.sqrt((WORTH * NOISE**2 + spare * point.scale**2) / (WORTH + spare))
    if not sets:
        remedy = f"law {law.name} has no example to plan by; train {len(law.names) + SPARE} runs and fit them first"
        raise UserError("runs", 0 if trained is None else len(trained.loss), remedy, Code.TOO_FEW)
    return np.stack(sets), noise


def _prior(law: Law, columns: Columns) -> list[Array]:
    """The law's example, its terms a fifth of the floor at the middle of the columns, with exponents about its own."""
    found = []
    if not law.example or law.floor is None:
        return [law.vector(law.example)] if law.example else []
    middle = {c: [math.exp(float(np.mean(np.log(np.asarray(columns[c], dtype=np.float64)))))] for c in law.columns}
    free = {p.name for p in law.params if p.kind == "exponent"}
    terms = [name for name in law.linear if name in law.names and name != law.floor] if law.outer is None else []
    for step in EXPONENTS:
        values = {name: v * math.exp(step) if name in free else v for name, v in law.example.items()}
        alone = {**values, law.floor: 0.0} | dict.fromkeys(terms, 0.0)
        with np.errstate(divide="ignore"):
            sizes = {name: float(law.predict(alone | {name: 1.0}, middle)[0]) for name in terms}
        values |= {name: PRIOR_SHARE / size for name, size in sizes.items()} | ({law.floor: 1.0} if terms else {})
        found.append(law.vector(values))
    return found


def _around(point: Estimate) -> Array:
    """Parameter sets (S, P) around an estimate: normal draws in the coordinates of the fit."""
    surface = point.surface
    j = surface.jacobian(surface.evaluate(point.z[None])[1])[0][:, point.free]
    values, vectors = np.linalg.eigh(j.T @ j / max(point.scale, 1e-6) ** 2 + np.eye(j.shape[1]))
    z = np.tile(point.z, (DRAWS, 1))
    normal = np.random.default_rng(0).standard_normal((DRAWS - 1, len(values)))
    z[1:, point.free] += (normal / np.sqrt(values)) @ vectors.T
    return surface.to_theta(np.clip(z, surface.lower, surface.upper))


# --- the expected error


@dataclass(frozen=True)
class _Runs:
    """Runs as the error sees them: derivatives G (S, n, P) and positions x (n, q)."""

    G: Array
    x: Array

    def part(self, index: Array) -> _Runs:
        return _Runs(self.G[:, index], self.x[index])

    def and_(self, other: _Runs) -> _Runs:
        return _Runs(np.concatenate([self.G, other.G], 1), np.concatenate([self.x, other.x]))


class _Search:
    """The expected error of a forecast, of S parameter sets, as a function of the runs that are fitted.

    In units of the noise: with A = G'G + prior, M = G'(1 + K)G + prior and B = G'K_XT, K the covariance of the law's
    error, the mean square at a target is g'A^-1 M A^-1 g - 2 g'A^-1 B + K_tt.
    """

    def __init__(self, law: Law, thetas: Array, errors: Errors, targets: Columns):
        self.law, self.thetas, self.errors = law, thetas, errors
        self.targets = self.fitted(targets)
        self.origin = self.targets.x.mean(0)
        self.own = np.diagonal(self.kernel(self.targets.x, self.targets.x))

    def fitted(self, columns: Columns) -> _Runs:
        x = _points(self.law, columns)
        if not len(x):
            return _Runs(np.zeros((len(self.thetas), 0, self.thetas.shape[1])), x)
        return _Runs(np.stack([gradient(self.law, theta, columns) for theta in self.thetas]), x)

    def kernel(self, a: Array, b: Array) -> Array:
        """Covariance (a, b) of the law's error at positions, less that at the middle of the targets."""
        to_middle = self._power(a - self.origin)[:, None] + self._power(b - self.origin)[None]
        return 0.5 * self._unit * (to_middle - self._power(a[:, None] - b[None]))

    @property
    def _unit(self) -> float:
        return (self.errors.drift / self.errors.noise) ** 2

    def _power(self, apart: Array) -> Array:
        return (apart**2).sum(-1) ** GROWTH

    def sums(self, runs: _Runs) -> tuple[Array, Array, Array]:
        """A^-1 and M (S, P, P), and B (S, P, T)."""
        G, across = runs.G, np.swapaxes(runs.G, 1, 2)
        prior = np.eye(G.shape[2]) * (self.errors.noise / PRIOR_SD) ** 2
        M = prior + across @ (np.eye(len(runs.x)) + self.kernel(runs.x, runs.x)) @ G
        return np.linalg.pinv(prior + across @ G, hermitian=True), M, across @ self.kernel(runs.x, self.targets.x)

    def error(self, runs: _Runs) -> float:
        """Mean over parameter sets of the log mean square error of log loss at the targets."""
        inverse, M, B = self.sums(runs)
        v = self.targets.G @ inverse
        return float(self._log(((v @ M) * v).sum(-1) - 2 * np.einsum("stp,spt->st", v, B) + self.own))

    def with_each(self, runs: _Runs, more: _Runs) -> Array:
        """The same (K,) with each of K further runs added alone."""
        inverse, M, B = self.sums(runs)
        q = more.G @ inverse  # (S, K, P)
        less = (q @ np.swapaxes(self.targets.G, 1, 2)) / (1 + (q * more.G).sum(-1))[..., None]  # (S, K, T)
        v = (self.targets.G @ inverse)[:, None] - less[..., None] * q[:, :, None]  # (S, K, T, P)
        pull = np.einsum("sktp,skp->skt", v, more.G)
        beside = np.einsum("sktp,skp->skt", v, self.kernel(more.x, runs.x) @ runs.G)
        alone = 1 + self._unit * self._power(more.x - self.origin)
        square = ((v @ M[:, None]) * v).sum(-1) + 2 * pull * beside + pull**2 * alone[:, None]
        square -= 2 * np.einsum("sktp,spt->skt", v, B) + 2 * pull * self.kernel(more.x, self.targets.x)
        return self._log(square + self.own)

    def _log(self, square: Array) -> Array:
        return np.log(np.maximum(square.mean(-1), 1e-300)).mean(0) + 2 * math.log(self.errors.noise)


# wide: one search
def _greedy(
    search: _Search, have: _Runs, more: _Runs, price: Array, budget: float, power: float
) -> tuple[list[int], list[float]]:
    """Runs by gain over price^``power``, and the log mean square error before and after each.

    Until there are enough to fit the law, no run costs more than its even share of what is left.
    """
    chosen: list[int] = []
    path, left, enough = [search.error(have)], budget, search.thetas.shape[1] + SPARE - len(have.x)
    while len(chosen) < MAX_CELLS:
        most = left / max(enough - len(chosen), 1)
        can = np.setdiff1d(np.flatnonzero(price <= max(most, 0.0) * (1 + 1e-12)), chosen)
        if not len(can):
            can = np.setdiff1d(np.flatnonzero(price <= left * (1 + 1e-12)), chosen)
        if not len(can):
            break
        error = search.with_each(have, more.part(can))
        gain = path[-1] - error
        if gain.max() < MIN_GAIN:
            break
        best = int(np.argmax(gain / price[can] ** power))
        chosen.append(int(can[best]))
        path.append(float(error[best]))
        left -= float(price[can[best]])
        have = have.and_(more.part(can[[best]]))
    return chosen, path
