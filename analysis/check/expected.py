"""What a design is expected to show under the fitted law and noise, independent of the noise that happened."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from analysis.card import Value
from analysis.engine.estimate import minimise
from analysis.engine.random_effects import gls
from analysis.engine.uncertainty import Inference, prior_cost

Array = np.ndarray


class Expected(Value):
    """Expected identification of a and the floor; None where the law has no such quantity.

    Attributes:
      a_half_width: linearised half-width of a.
      floor_statistic: the profile statistic of a small floor, divided by its critical value; below 1 the expected
        interval includes that floor.
    """

    a_half_width: float | None
    floor_statistic: float | None


def expected(inference: Inference, level: float, floor: float) -> Expected:
    """``Expected`` at confidence ``level``; ``floor`` is the small floor that the statistic tests."""
    t = float(special.stdtrit(inference.df, 0.5 + level / 2))
    return Expected(a_half_width=_half_width(inference, t), floor_statistic=_floor_statistic(inference, t, floor))


def _half_width(inference: Inference, t: float) -> float | None:
    surface, free, z = inference.surface, inference.free, inference.z_hat
    base = surface.law.exponents(surface.to_theta(z[None]))
    if base is None or not inference.sigma_hat > 0:
        return None
    step, grad = 1e-5, np.zeros(surface.P)
    for i in np.flatnonzero(free):
        up, down = z.copy(), z.copy()
        up[i], down[i] = z[i] + step, max(z[i] - step, 0.0 if z[i] >= 0 else -math.inf)
        pair = surface.law.exponents(surface.to_theta(np.stack([up, down])))
        if pair is not None and up[i] > down[i]:
            grad[i] = (pair["a"][0] - pair["a"][1]) / (up[i] - down[i])
    gram = inference.gram[np.ix_(free, free)]
    cover = np.linalg.pinv(gram, rcond=1e-13, hermitian=True) * inference.sigma_hat**2
    width = t * math.sqrt(max(float(grad[free] @ cover @ grad[free]), 0.0))
    return width if math.isfinite(width) else math.inf


def _floor_statistic(inference: Inference, t: float, floor: float) -> float | None:
    surface, free, z = inference.surface, inference.free, inference.z_hat
    if surface.floor is None or not free[surface.floor]:
        return None
    at = floor / surface.scale
    if z[surface.floor] <= at:
        return 0.0
    fitted = surface.evaluate(z[None])[0][0]
    others = free.copy()
    others[surface.floor] = False
    # follow a flat valley down from the fit in steps: a jump to the small floor may leave it
    path, groups = z.copy(), inference.groups
    for value in np.linspace(z[surface.floor], at, 6)[1:]:
        path[surface.floor] = value
        path = minimise(surface, path[None], fitted, free=others)[0][0]
    if groups is not None and inference.rho > 0:
        path = gls(surface, path, fitted, groups, inference.rho, others)
    gap = fitted - surface.evaluate(path[None])[0][0]
    rise = float((gap**2).sum()) if groups is None else float(groups.quadratic(gap, inference.rho))
    rise += prior_cost(inference, path) - prior_cost(inference, z)
    return rise / inference.sigma_hat**2 / t**2
