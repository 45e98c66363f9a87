"""The rivals of ``next.py``: designs of the optimal kind, and the criterion of Li et al. 2026 (arXiv 2604.22753).

Each buys the 2.5 p cheapest runs first, then one run at a time, by score over price^0.4. The paper's formulas are named
by its sections; what differs for machine time is in next_protocol.md.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial import distance

from analysis.decide.design import gradient
from analysis.engine.estimate import Estimate, estimate, minimise, objective
from analysis.laws import Law
from scaling.errors import UserError

Array = np.ndarray
WARM, POWER, GROWTH = 2.5, 0.4, 1.1  # runs a parameter at first; power of the price; refit when so many more are bought
STARTS, APART, MOST, LEAST_WEIGHT, QUADRATURE = 32, 1.0, 24, 1e-3, 100
PRIOR_SD, PRIOR_WORTH = 2.0, 2.0  # of log parameters; observations that the prior of the noise variance is worth


class Market(Protocol):
    """What a strategy may know of a group: its law, the columns of runs and targets, prices, and what it has bought."""

    law: Law
    kind: str
    price: Array

    def columns(self, index: Array) -> Any: ...

    def losses(self, index: Array) -> Array: ...

    @property
    def targets(self) -> Any: ...


@dataclass(frozen=True)
class Basin:
    """One plausible fit: parameters (P,), its share of belief, and the covariance (P, P) of log parameters."""

    theta: Array
    weight: float
    cover: Array


def jacobian(law: Law, theta: Array, columns: Any) -> Array:
    """d loss / d log parameter, (n, P)."""
    return gradient(law, theta, columns) * law.predict(theta, columns)[:, None]


def noise_variance(off: Array, loss: Array) -> float:
    """Mean of the noise variance after residuals (n,); its inverse gamma prior has the spread of the losses as mean."""
    return float((PRIOR_WORTH * np.var(loss) + off @ off / 2) / (PRIOR_WORTH + len(off) / 2 - 1))


def covariance(law: Law, theta: Array, columns: Any, variance: float) -> Array:
    j = jacobian(law, theta, columns)
    values, vectors = np.linalg.eigh(j.T @ j / variance + np.eye(j.shape[1]) / PRIOR_SD**2)
    return (vectors / np.maximum(values, 1e-10 * values[-1])) @ vectors.T


def fitted(market: Market, bought: Array) -> Estimate:
    return estimate(market.law, market.columns(bought), market.losses(bought), objective(market.kind))


def single(market: Market, bought: Array, rng: Any) -> tuple[list[Basin], float]:
    """The best fit alone (D- and V-optimal), and the noise variance."""
    columns, loss = market.columns(bought), market.losses(bought)
    theta = fitted(market, bought).theta
    variance = noise_variance(loss - market.law.predict(theta, columns), loss)
    return [Basin(theta, 1.0, covariance(market.law, theta, columns, variance))], variance


def basins(market: Market, bought: Array, rng: Any) -> tuple[list[Basin], float]:
    """Appendix C: local minima of least squares, clustered by what they predict at the targets, weighed by BIC."""
    columns, loss, law = market.columns(bought), market.losses(bought), market.law
    point = estimate(law, columns, loss, objective("raw:squares"))
    starts = point.z + APART * rng.standard_normal((STARTS, len(point.z)))
    starts[0] = point.z
    with np.errstate(all="ignore"):
        z, _, _ = minimise(point.surface, starts, point.y, free=point.free, iterations=60)
        thetas = point.surface.to_theta(z)
        error = ((law.predict(thetas, columns) - loss) ** 2).mean(1)
        far = law.predict(thetas, market.targets)
    usable = np.isfinite(error) & np.isfinite(far).all(1)
    order = [i for i in np.argsort(error) if usable[i] and error[i] <= 2 * error[usable].min() + 1e-30][:MOST]
    variance = noise_variance(np.sqrt(np.full(len(loss), error[order[0]])), loss)
    cover = [covariance(law, thetas[i], columns, variance) for i in order]
    slopes = [jacobian(law, thetas[i], market.targets) for i in order]
    spread = np.stack([np.einsum("tp,pq,tq->t", j, c, j) for j, c in zip(slopes, cover)]) + variance
    kept = _representatives(far[order], spread)
    log = np.array([-len(loss) / 2 * math.log(max(error[order[i]], 1e-300)) for i in kept])
    weight = np.exp(log - log.max())
    found = [(i, w) for i, w in zip(kept, weight / weight.sum()) if w > LEAST_WEIGHT]
    total = sum(w for _, w in found)
    return [Basin(thetas[order[i]], w / total, cover[i]) for i, w in found], variance


def _representatives(mean: Array, variance: Array) -> list[int]:
    """The first (best) of each cluster of predictions: means and variances (K, T). Section C.2."""
    if len(mean) < 3:
        return list(range(len(mean)))
    apart = np.zeros((len(mean), len(mean)))
    for i, j in itertools.combinations(range(len(mean)), 2):
        vi, vj = variance[i], variance[j]
        divergence = (vi / vj + vj / vi - 2 + (mean[i] - mean[j]) ** 2 * (1 / vi + 1 / vj)) / 4
        apart[i, j] = apart[j, i] = math.log1p(float(np.mean(divergence)))
    tree = hierarchy.linkage(distance.squareform(apart, checks=False), "complete")
    best, labels = 0.01, np.ones(len(mean), dtype=int)
    for height in np.unique(tree[:, 2]):
        trial = hierarchy.fcluster(tree, height + 1e-12, "distance")
        if 2 <= len(np.unique(trial)) < len(mean) and (score := _silhouette(apart, trial)) > best:
            best, labels = score, trial
    return [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]


def _silhouette(apart: Array, labels: Array) -> float:
    total = 0.0
    for i, label in enumerate(labels):
        own = labels == label
        if own.sum() > 1:
            inside = apart[i, own].sum() / (own.sum() - 1)
            outside = min(apart[i, labels == other].mean() for other in np.unique(labels) if other != label)
            total += (outside - inside) / max(inside, outside, 1e-300)
    return total / len(labels)


def d_gain(market: Market, found: list[Basin], variance: float, can: Array) -> Array:
    """Gain (K,) in the log determinant of the information."""
    j = jacobian(market.law, found[0].theta, market.columns(can))
    return np.log1p(np.einsum("kp,pq,kq->k", j, found[0].cover, j) / variance)


def within_gain(market: Market, found: list[Basin], variance: float, can: Array) -> Array:
    """Section 4.3: variance of the predictions at the targets, per target, that each run takes away within basins."""
    total = np.zeros(len(can))
    for basin in found:
        j, far = (jacobian(market.law, basin.theta, c) for c in (market.columns(can), market.targets))
        gain = far @ basin.cover @ j.T
        total += basin.weight * (gain**2).sum(0) / (variance + np.einsum("kp,pq,kq->k", j, basin.cover, j))
    return total / len(market.targets[market.law.columns[0]])


def mspe_gain(market: Market, found: list[Basin], variance: float, can: Array) -> Array:
    """The paper's criterion: within basins, and the expected fall of the disagreement between them (section D.5)."""
    gain = within_gain(market, found, variance, can)
    if len(found) < 2:
        return gain
    law, weight = market.law, np.array([basin.weight for basin in found])
    at, far, spread, pull = [], [], [], []
    for basin in found:
        j, j_far = (jacobian(law, basin.theta, c) for c in (market.columns(can), market.targets))
        spread.append(variance + np.einsum("kp,pq,kq->k", j, basin.cover, j))
        pull.append(j_far @ basin.cover @ j.T / spread[-1])
        at.append(law.predict(basin.theta, market.columns(can)))
        far.append(law.predict(basin.theta, market.targets))
    mean, spread = np.stack(at), np.stack(spread)
    low, high = (mean - 4 * np.sqrt(spread)).min(0), (mean + 4 * np.sqrt(spread)).max(0)
    y = low + (high - low) * np.linspace(0, 1, QUADRATURE)[:, None]
    density = np.exp(-0.5 * (y - mean[:, None]) ** 2 / spread[:, None]) / np.sqrt(2 * np.pi * spread[:, None])
    mixed = np.maximum(np.einsum("b,bqk->qk", weight, density), 1e-300)
    before, after = 0.0, np.zeros(len(can))
    for a, b in itertools.combinations(range(len(found)), 2):
        shift = (far[a] - far[b])[:, None] - pull[a] * mean[a] + pull[b] * mean[b]
        tilt = pull[a] - pull[b]
        square = (shift**2).sum(0) + 2 * (shift * tilt).sum(0) * y + (tilt**2).sum(0) * y * y
        both = weight[a] * weight[b]
        before += both * float(((far[a] - far[b]) ** 2).sum())
        after += both * np.trapezoid(density[a] * density[b] / mixed * square, y, axis=0)
    return gain + np.maximum(before - after, 0.0) / len(far[0])


CRITERIA = {"D-optimal": (single, d_gain), "V-optimal": (single, within_gain), "MSPE": (basins, mspe_gain)}


def follow(name: str, market: Market, budget: float, rng: Any) -> Array:
    """The runs that a criterion buys, in order."""
    learn, gain = CRITERIA[name]
    bought, left, known, due = [], budget, None, 0.0
    for i in np.argsort(market.price, kind="stable"):
        if len(bought) < math.ceil(WARM * len(market.law.names)) and market.price[i] <= left:
            bought.append(int(i))
            left -= market.price[i]
    while len(can := np.setdiff1d(np.flatnonzero(market.price <= left * (1 + 1e-12)), bought)):
        if len(bought) >= due:
            try:
                known = learn(market, np.array(bought), rng)
            except UserError:
                known = None
            due = GROWTH * len(bought)
        if known is None:
            best = int(can[np.argmin(market.price[can])])
        else:
            with np.errstate(all="ignore"):
                score = np.nan_to_num(gain(market, *known, can) / market.price[can] ** POWER, nan=-1.0)
            best = int(can[np.argmax(score)])
        bought.append(best)
        left -= market.price[best]
    return np.array(bought, dtype=int)
