"""How far a flat valley goes along parameters that are sought by their logarithm: half-lives, breaks, saturations.

Such a parameter may fit equally well from some value on for ever; an interval linearised at the estimate, or drawn
around it, then stops short of it. So each is profiled: held at values further and further away, the rest fitted again.
"""

from __future__ import annotations

import math

from scipy import special

from analysis.card import Optimum
from analysis.engine.estimate import Estimate
from analysis.engine.uncertainty import Inference, refit_from, squares

STEP = 2.0  # factor from one value to the next
FARTHEST = 8  # steps: what still fits at 256 times the estimate has no end that matters
LARGE = 5000  # rows above which nothing is profiled


def ranges(point: Estimate, at: Inference, level: float) -> dict[str, tuple[float, float]]:
    """Values of each free scale of the law that fit equally: {name: (lo, hi)}, an end that is not reached infinite.

    Equally: the (generalised) sum of squares rises by at most t^2 sigma^2, as in a profile-t interval; and whatever
    optimum of the objective itself is no less likely than that. Empty for a law without scales.
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
    """Twice the log likelihood that an optimum lies below the best one, the noise's variance profiled out."""
    return len(point.y) * math.log(max(optimum.objective, 1e-300) / max(point.value, 1e-300))


def _follow(at: Inference, i: int, side: int, limit: float) -> float:
    """Where the profile of coordinate i, a logarithm, reaches ``limit`` on one side, in natural units."""
    surface, held = at.surface, at.free.copy()
    held[i] = False
    base, z, before = squares(at, surface, at.z_hat), at.z_hat.copy(), 0.0
    bound = float((surface.lower if side < 0 else surface.upper)[i])
    for _ in range(FARTHEST):
        z = z.copy()
        z[i] += side * math.log(STEP)
        if side * z[i] >= side * bound:
            break
        z = refit_from(at, surface, z, held, iterations=30, tolerance=1e-9)
        rise = max(squares(at, surface, z) - base, 0.0) / at.sigma_hat**2
        if rise > limit:
            back = (math.sqrt(rise) - math.sqrt(limit)) / max(math.sqrt(rise) - math.sqrt(before), 1e-12)
            z[i] -= side * math.log(STEP) * back
            return float(surface.to_theta(z[None])[0, surface.law.index(surface.law.coordinates[i].name)])
        before = rise
    return 0.0 if side < 0 else math.inf
