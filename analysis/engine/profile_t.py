"""Profile-t intervals: the values of a parameter at which the best refit is not much worse (``inference``)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from analysis.engine.uncertainty import Inference, refit_from, squares
from analysis.laws import Law

Array = np.ndarray


def profile_t(at: Inference, level: float) -> dict[str, tuple[float, float]]:
    """Profile-t intervals of the floor, the exponents and, where it is a ratio of two fitted exponents, a.

    The interval holds the values whose best refit raises the (generalised) residual sum of squares by at most
    t^2 sigma^2. Where the profile never rises that far, the end is the parameter's bound. Pseudo-values extend this to
    robust fits.

    Returns:
      {name: (lo, hi)} in natural units.
    """
    surface, law = at.surface, at.surface.law
    t = float(special.stdtrit(at.df, 0.5 + level / 2))
    out: dict[str, tuple[float, float]] = {}
    cover = np.linalg.pinv(at.gram[np.ix_(at.free, at.free)], rcond=1e-13, hermitian=True) * at.sigma_hat**2
    spread = np.zeros(surface.P)
    spread[at.free] = np.sqrt(np.diag(cover))
    base = squares(at, surface, at.z_hat)
    for i, c in enumerate(law.coordinates):
        if not at.free[i] or c.name not in law.names or c.name not in (law.floor, *_exponents(law)):
            continue
        unit = surface.scale if c.name == law.floor else 1.0

        def rise(value: float, start: Array, i: int = i) -> tuple[float, Array]:
            start = start.copy()
            start[i] = value
            free = at.free.copy()
            free[i] = False
            z = refit_from(at, surface, start, free)
            return squares(at, surface, z) - base, z

        ends = [_cross(rise, at.z_hat, at.z_hat[i], side, spread[i], t * at.sigma_hat, at, i) for side in (-1, 1)]
        out[c.name] = (ends[0] * unit, ends[1] * unit)
    pair = law.exponents(surface.to_theta(at.z_hat[None]))
    if pair is None or len(set(_exponents(law))) != 2 or law.outer is not None:
        return out
    first, second = (surface.position[name] for name in _exponents(law))
    if not (at.free[first] and at.free[second]):
        return out
    if surface.prior is not None and surface.prior[1][[first, second]].any():
        return out  # the tied surface's shared coordinate would carry the wrong prior: take a from the draws

    def tied(value: float, start: Array) -> tuple[float, Array]:
        fixed = surface.tied({_exponents(law)[0]: 1 - value, _exponents(law)[1]: value})
        free = at.free.copy()
        free[second] = False
        z = refit_from(at, fixed, start, free)
        return squares(at, fixed, z) - base, z

    start = at.z_hat.copy()
    start[first] += start[second]
    grad = np.zeros(surface.P)
    total = max(at.z_hat[first] + at.z_hat[second], 1e-9)
    grad[first], grad[second] = -at.z_hat[second] / total**2, at.z_hat[first] / total**2
    width = math.sqrt(max(float(grad[at.free] @ cover @ grad[at.free]), 0.0))
    a = float(pair["a"][0])
    lo, hi = (_cross(tied, start, a, side, width, t * at.sigma_hat, None, 0) for side in (-1, 1))
    out["a"], out["b"] = (lo, hi), (1 - hi, 1 - lo)
    return out


def _exponents(law: Law) -> list[str]:
    return [e for term in law.terms for _, e in term.exponents if isinstance(e, str)]


def _cross(
    rise: Callable[[float, Array], tuple[float, Array]],
    start: Array,
    centre: float,
    side: int,
    width: float,
    limit: float,
    at: Inference | None,
    i: int,
) -> float:
    """Where sqrt(rise) reaches ``limit`` on one side of ``centre``: growing steps, then interpolation."""
    lower, upper = (0.0, 1.0) if at is None else (float(at.surface.lower[i]), float(at.surface.upper[i]))
    end = lower if side < 0 else upper
    step = min(max(width, 1e-9), 0.2 * max(abs(centre), 0.1)) * 0.5
    inside, low, z, value = centre, 0.0, start, centre
    for _ in range(40):
        value = min(max(value + side * step, lower), upper)
        if at is None:
            value = min(max(value, 1e-6), 1 - 1e-6)
        gain, z_new = rise(value, z)
        root = math.sqrt(max(gain, 0.0))
        if root >= limit:
            break
        inside, low, z, step = value, root, z_new, step * 1.35
        if value in (lower, upper) or (at is None and not 1e-6 < value < 1 - 1e-6):
            return end
    else:
        return math.inf * side if math.isinf(end) else end
    outside, high = value, root
    for _ in range(8):
        guess = inside + (outside - inside) * min(max((limit - low) / max(high - low, 1e-300), 0.1), 0.9)
        gain, z_new = rise(guess, z)
        root = math.sqrt(max(gain, 0.0))
        if root < limit:
            inside, low, z = guess, root, z_new
        else:
            outside, high = guess, root
        if abs(high - low) < 1e-3 * limit:
            break
    return inside + (outside - inside) * (limit - low) / max(high - low, 1e-300)
