"""Random effects of stems (or sizes): their variance, and generalised least squares."""

from __future__ import annotations

import math

import numpy as np

from analysis.engine.groups import Groups
from analysis.engine.surface import Surface

Array = np.ndarray
ROOT = 30.0  # largest sd of a stem effect considered, in units of a run's sd
ROOTS = np.concatenate([np.linspace(0, 4, 81), np.geomspace(4.1, ROOT, 20)])


def ratio_scores(G: Array, r: Array, groups: Groups) -> Array:
    """Log density of sqrt(rho) at ``ROOTS`` for a linear model with design G (n, P) and response r (n,)."""
    n, P = G.shape
    scores = np.full(len(ROOTS), -np.inf)
    if not (np.isfinite(G).all() and np.isfinite(r).all()):
        scores[0] = 0.0  # a law without a slope here says nothing of the effect: none
        return scores
    for k, rho in enumerate(ROOTS**2):
        white, e = groups.whiten(G.T, rho).T, groups.whiten(r, rho)
        rss = float(((e - white @ np.linalg.lstsq(white, e, rcond=1e-10)[0]) ** 2).sum())
        sign, log_det = np.linalg.slogdet(white.T @ white)
        rss = max(rss, n * 1e-24)
        if sign > 0:
            scores[k] = -0.5 * (float(groups.log_det(rho)) + log_det + (n - P) * math.log(rss)) - math.log1p(rho)
    return scores


def best_ratio(scores: Array) -> float:
    """The rho with the highest score at ``ROOTS``; 0 where no effect scores best.

    A score that still rises at the largest ratio means that the law misfits within stems, which no stem effect can
    repair: then a maximum inside the range is taken, if there is one.
    """
    best = int(np.argmax(scores))
    if best == len(scores) - 1:
        inner = np.flatnonzero((scores[1:-1] > scores[:-2]) & (scores[1:-1] >= scores[2:])) + 1
        best = int(inner[np.argmax(scores[inner])]) if len(inner) else best
    return float(ROOTS[best] ** 2) if scores[best] > scores[0] + 1e-9 else 0.0


def reml(surface: Surface, z: Array, y: Array, groups: Groups, free: Array) -> float:
    """Ratio of stem to run variance that maximises the restricted likelihood times the half-Cauchy, linearised at z."""
    f, state = surface.evaluate(z[None])
    return best_ratio(ratio_scores(surface.jacobian(state)[0][:, free], y - f[0], groups))


def gls(surface: Surface, z: Array, y: Array, groups: Groups, rho: float, free: Array) -> Array:
    """Generalised least squares from z (P,): damped Gauss-Newton with V fixed, kept inside the bounds."""
    z = z.copy()

    def quadratic(at: Array) -> float:
        own = float(((at - mean) ** 2 * weight).sum())
        return own + float(groups.quadratic(y - surface.evaluate(at[None])[0][0], rho))

    mean, weight = surface.penalty or (np.zeros(surface.P), np.zeros(surface.P))
    weight = weight / (1 + rho)  # the penalty is in units of a row's variance, this sum in units of a run's
    value, damping = quadratic(z), 0.0
    for _ in range(60):
        f, state = surface.evaluate(z[None])
        white = groups.whiten(surface.jacobian(state)[0].T, rho).T
        g = white.T @ groups.whiten(y - f[0], rho) - (z - mean) * weight
        use = free & ~((z <= surface.lower) & (g < 0)) & ~((z >= surface.upper) & (g > 0))
        h = (white.T @ white + np.diag(weight))[np.ix_(use, use)]
        if not (np.isfinite(h).all() and np.isfinite(g).all()):
            break  # the formula has no finite slope here: keep what was reached
        move = np.linalg.lstsq(h + damping * np.diag(np.diag(h)), g[use], rcond=1e-12)[0]
        trial = z.copy()
        trial[use] += np.clip(move, -2, 2)
        trial = np.where(free, np.clip(trial, surface.lower, surface.upper), z)
        new = quadratic(trial)
        if new <= value:
            small = np.abs(trial - z).max() < 1e-10
            z, value, damping = trial, new, damping * 0.1
            if small:
                break
        else:
            damping = max(damping * 10, 1e-3)
            if damping > 1e8:
                break
    return z
