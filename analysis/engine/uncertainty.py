"""The uncertainty of one fit, and the operations on the fitted surface that all schemes of intervals share.

**Pseudo-values.** A robust fit is treated as the least-squares fit of y* = fitted + psi(r) / mean(psi') (Bickel 1976),
which has the same estimate and first-order covariance; without outliers y* = y.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from analysis.card import Scheme
from analysis.engine.estimate import Estimate, minimise
from analysis.engine.groups import Groups
from analysis.engine.random_effects import gls
from analysis.engine.surface import Surface

Array = np.ndarray
Why = Literal["asked", "few_rows", "many_rows", "many_clusters", "curves", "huge", "bent"]


@dataclass
class Inference:
    """Draws of one fit, and the linearised fit around which they are made.

    Attributes:
      surface: the law on the rows.
      z_hat, z: the estimate (P,) and its draws (S, P), coordinates of ``surface``.
      sigma, sigma_stem: (S,), sd of log loss of a run and of a stem (or size).
      scheme, why: how the draws were made, and the reason for that choice.
      df: degrees of freedom of the t distribution.
      groups: rows that share a stem or size; ``rho``: the variance of their effect over that of a run.
      random_effect: whether the fit has that effect.
      sigma_hat: sd of a run at the estimate.
      pseudo: pseudo-values (n,), see the module docstring.
      gram: (P, P), normal equations of the linearised fit; ``free`` (P,): mask of the coordinates that are not fixed.
      profiled: profiled intervals by name.
      left_out: (groups, P), the jackknife's refits without each group.
      capped: sd of the stem effects where they were capped because the draws strayed from the runs.
      converged: share of a bootstrap's refits that converged.
      left: where linearised draws leave the fitted values: their distance in log loss, and that of the linearised law.
    """

    surface: Surface
    z_hat: Array
    z: Array
    sigma: Array
    sigma_stem: Array
    scheme: str
    df: float
    why: Why
    groups: Groups | None
    random_effect: bool
    rho: float
    sigma_hat: float
    pseudo: Array
    gram: Array
    free: Array
    profiled: dict[str, tuple[float, float]] = field(default_factory=dict)
    left_out: Array | None = None
    capped: float | None = None
    converged: float | None = None
    left: tuple[float, float] | None = None

    def described(self, asked: str, level: float) -> Scheme:
        """The card's account of the scheme; ``asked`` is the scheme that the user requested."""
        return Scheme(
            level=level,
            name=self.scheme,
            asked=asked,
            df=self.df,
            runs=self.surface.n,
            why=self.why,
            grouped=None if self.groups is None else self.groups.kind,
            groups=None if self.groups is None else len(self.groups.names),
            random_effect=self.random_effect,
            draws=len(self.z),
            converged=self.converged,
        )

    @property
    def theta_hat(self) -> Array:
        return self.surface.to_theta(self.z_hat)[0]

    @property
    def theta(self) -> Array:
        return self.surface.to_theta(self.z)


def pseudo_values(point: Estimate, y: Array) -> Array:
    """Values (n,) whose least-squares fit is the robust one of y (n,)."""
    f = point.surface.evaluate(point.z[None])[0][0]
    _, psi, slope = point.loss(y - f)
    # of a law far off its runs few slopes are left: they are no measure then. Student's mean slope is nu / (nu + 3)
    return f + psi / max(slope.mean(), 0.5 if point.objective.nu is None else 0.1)


def ridge(surface: Surface, rho: float) -> Array | float:
    """What priors add to the normal equations, in units of a run's variance (the penalty is in those of a row's)."""
    return 0.0 if surface.penalty is None else np.diag(surface.penalty[1] / (1 + rho))


def squares(at: Inference, surface: Surface, z: Array) -> float:
    """The (generalised) residual sum of squares at coordinates z (P,), with what the priors add."""
    r = at.pseudo - surface.evaluate(z[None])[0][0]
    return float((r * r).sum() if at.groups is None else at.groups.quadratic(r, at.rho)) + prior_cost(at, z)


def prior_cost(at: Inference, z: Array) -> float:
    """What the priors add to the residual sum of squares at coordinates z (P,)."""
    penalty = at.surface.penalty
    return 0.0 if penalty is None else float(((z - penalty[0]) ** 2 * penalty[1]).sum()) / (1 + at.rho)


def refit_from(at: Inference, surface: Surface, start: Array, free: Array, **how: Any) -> Array:
    """Minimum (P,) of ``squares`` over the ``free`` coordinates from a start (P,); ``how`` goes to ``minimise``."""
    z = minimise(surface, start[None], at.pseudo, free=free, **how)[0][0]
    if at.groups is not None and at.rho > 0:
        z = gls(surface, z, at.pseudo, at.groups, at.rho, free)
    return z
