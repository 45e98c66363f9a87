"""How far a flat valley extends along parameters fitted by their logarithm: half-lives, breaks, saturations.

Such a parameter may fit equally well from some value to infinity; an interval linearised at the estimate, or drawn
around it, is then too short. So each is profiled: fixed at values ever further away while the rest is fitted again.
"""

from __future__ import annotations

import math

from scipy import special

from analysis.card import Optimum
from analysis.engine.estimate import Estimate
from analysis.engine.uncertainty import Inference, refit_from, squares

STEP = 2.0  # factor from one value to the next
FARTHEST = 8  # steps; a parameter that still fits at 256 times the estimate counts as unbounded
LARGE = 5000  # rows above which nothing is profiled


def ranges(point: Estimate, at: Inference, level: float) -> dict[str, tuple[float, float]]:
    """The range of equally good values of each free scale of the law: {name: (lo, hi)}, in natural units.

    Equally good: the (generalised) sum of squares rises by at most t^2 sigma^2, as in a profile-t interval. Optima of
    the objective that are as likely as that are included. An end that is never reached is 0 or infinite. Empty for a
    law without scales.
    """
    surface, law = at.surface, at.surface.law
    limit = float(special.stdtrit(at.df, 0.5 + level / 2)) ** 2
    out: dict[str, tuple[float, float]] = {}
    for i, c in enumerate(law.coordinates):
        if not (at.free[i] and c.log and c.grid is not None and c.name in law.names):
            continue
        p = law.index(c.name)
        near = [o.params[c.name] for o in point.optima if _excess(o, point) < limit]
        ends = [float(at.theta_hat[p])] * 2
        if surface.n <= LARGE:
            ends = [_follow(at, i, side, limit) for side in (-1, 1)]
        out[c.name] = (min([ends[0], *near]), max([ends[1], *near]))
    return out


def _excess(optimum: Optimum, point: Estimate) -> float:
    """Twice the log likelihood ratio of the best optimum to this one, with the noise variance profiled out."""
    return len(point.y) * math.log(max(optimum.objective, 1e-300) / max(point.value, 1e-300))


def _follow(at: Inference, i: int, side: int, limit: float) -> float:
    """Where the profile of coordinate i, a logarithm, reaches ``limit`` on one side, in natural units."""
    surface, free = at.surface, at.free.copy()
    free[i] = False
    base, z, before = squares(at, surface, at.z_hat), at.z_hat.copy(), 0.0
    bound = float((surface.lower if side < 0 else surface.upper)[i])
    for _ in range(FARTHEST):
        z = z.copy()
        z[i] += side * math.log(STEP)
        if side * z[i] >= side * bound:
            break
        z = refit_from(at, surface, z, free, iterations=30, tolerance=1e-9)
        rise = max(squares(at, surface, z) - base, 0.0) / at.sigma_hat**2
        if rise > limit:
            back = (math.sqrt(rise) - math.sqrt(limit)) / max(math.sqrt(rise) - math.sqrt(before), 1e-12)
            z[i] -= side * math.log(STEP) * back
            return float(surface.to_theta(z[None])[0, surface.law.index(surface.law.coordinates[i].name)])
        before = rise
    return 0.0 if side < 0 else math.inf
