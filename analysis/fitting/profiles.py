"""Profiles of a fit: how much worse the best law becomes when one parameter is held at another value."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.engine.estimate import estimate
from analysis.engine.estimate import objective as parse_objective
from analysis.engine.inference import infer
from analysis.engine.uncertainty import Inference, refit_from, squares
from analysis.fitting.below_zero import require_above
from analysis.fitting.fitted import Fit
from scaling.errors import Code, UserError

Array = np.ndarray
STEP = 0.3  # of the parameter's standard error, from one value to the next; it grows by GROWTH
GROWTH = 1.25
MOST = 14  # values on each side
BEYOND = 2.0  # a profile is followed until its rise is this many times the limit
ROWS = 5000  # above, the refits take minutes


class Profile(NamedTuple):
    """One parameter's profile, each (k,), in increasing values.

    Attributes:
      value: of the parameter, in natural units.
      rise: of the (generalised) residual sum of squares above its minimum, over the variance of a run.
    """

    value: Array
    rise: Array


class Profiles(NamedTuple):
    """Profiles by parameter; ``limit`` is the rise at which an interval at the fit's level ends."""

    limit: float
    parameters: dict[str, Profile]


def profiles(fit: Fit, table: pd.DataFrame | None = None) -> Profiles:
    """Profiles of the parameters that the fit is made in: floor and exponents of a sum of power terms.

    Not of its amplitudes: the fit's coordinates are their sizes amid the runs, of which exponents make amplitudes. The
    rest of the law is fitted again at each value. Noise that rows share is as in the fit where ``table`` tells which
    rows share a stem; from a card alone, rows of one size share it.

    Args:
      fit: made here or read from a card.
      table: the fitted rows in the fit's order, with ``stem`` and ``seed``; by default the card's.

    Raises:
      UserError: UNSUPPORTED: losses below zero, a law of learning curves, no parameter of the law among those that are
        fitted, or more than ``ROWS`` rows.
    """
    require_above(fit, "profile")
    if fit.law.curve is not None:
        raise UserError("law", fit.law.name, "is a law of learning curves, whose card holds no rates", Code.UNSUPPORTED)
    if len(fit.card.runs) > ROWS:
        remedy = f"profiles of more than {ROWS} rows take minutes; select fewer"
        raise UserError("rows", len(fit.card.runs), remedy, Code.UNSUPPORTED)
    rows = pd.DataFrame(fit.columns) if table is None else table
    kind = parse_objective(fit.card.objective.name)
    w = fit.columns.get("weight")
    point = estimate(fit.law, rows, rows["loss"], kind, fixed=fit.card.fixed, priors=fit.card.priors, w=w)
    at = infer(point, point.y, rows, draws=1, scheme="delta-t", level=fit.level)
    limit = float(special.stdtrit(at.df, 0.5 + fit.level / 2)) ** 2
    law, found = at.surface.law, dict[str, Profile]()
    cover = np.linalg.pinv(at.gram[np.ix_(at.free, at.free)], rcond=1e-13, hermitian=True)
    spread = dict(zip(np.flatnonzero(at.free).tolist(), (at.sigma_hat * np.sqrt(np.diag(cover))).tolist()))
    for i, coordinate in enumerate(law.coordinates):
        if coordinate.name in law.names and spread.get(i, 0.0) > 0 and _alone(at, i):
            found[coordinate.name] = _profile(at, i, spread[i], limit)
    if not found:
        raise UserError("law", law.name, "is fitted in other parameters than it is written in", Code.UNSUPPORTED)
    return Profiles(limit, found)


def _alone(at: Inference, i: int) -> bool:
    """Whether the parameter of coordinate ``i`` stays where it is when the other coordinates move."""
    moved = at.z_hat + 0.01 * at.free
    moved[i] = at.z_hat[i]
    here, there = at.surface.to_theta(np.stack([at.z_hat, moved]))[:, at.surface.law.index(_name(at, i))]
    return bool(np.isclose(here, there, rtol=1e-12, atol=0.0))


def _name(at: Inference, i: int) -> str:
    return at.surface.law.coordinates[i].name


def _profile(at: Inference, i: int, spread: float, limit: float) -> Profile:
    """The profile of coordinate ``i``, followed to both sides."""
    low, high = _side(at, i, -spread, limit), _side(at, i, spread, limit)
    rows = [*reversed(low), (at.z_hat, 0.0), *high]
    theta = at.surface.to_theta(np.stack([z for z, _ in rows]))
    value = theta[:, at.surface.law.index(_name(at, i))]
    rise = np.array([rise for _, rise in rows])
    order = np.argsort(value)
    # A refit may find a slightly better minimum than the estimate, whose objective is robust: count from the lowest.
    return Profile(value[order], rise[order] - rise.min())


def _side(at: Inference, i: int, step: float, limit: float) -> list[tuple[Array, float]]:
    """Refits with coordinate ``i`` moved ever further to one side: coordinates, and the rise of each."""
    base, free, z = squares(at, at.surface, at.z_hat), at.free.copy(), at.z_hat
    free[i] = False
    bounds, out, move = (float(at.surface.lower[i]), float(at.surface.upper[i])), [], STEP * step
    for _ in range(MOST):
        z = z.copy()
        z[i] = min(max(z[i] + move, bounds[0]), bounds[1])
        z = refit_from(at, at.surface, z, free, iterations=40, tolerance=1e-10)
        rise = (squares(at, at.surface, z) - base) / at.sigma_hat**2
        if not math.isfinite(rise):
            break
        out.append((z, rise))
        if rise > BEYOND * limit or z[i] in bounds:
            break
        move *= GROWTH
    return out
