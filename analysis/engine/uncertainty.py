"""The uncertainty of one fit, and what every scheme of intervals asks of the fitted surface.

**Pseudo-values.** A robust fit is carried on as a least-squares one of y* = fitted + psi(r) / mean(psi') (Bickel 1976):
the same estimate, the same first-order covariance; where nothing is an outlier y* = y.
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
Why = Literal["asked", "few_rows", "many_rows", "many_clusters", "curves", "huge"]


@dataclass
class Inference:
    """Draws of one fit, and the linearised fit that they are made around.

    Attributes:
      surface: the law on the rows.
      z_hat, z: the estimate (P,) and its draws (S, P), coordinates of ``surface``.
      sigma, sigma_stem: (S,), noise of a run and of a stem (or size), of log loss.
      scheme, why: how the draws were made, and what chose that.
      df: degrees of freedom of the t distribution.
      groups: rows that share a stem or size; ``rho``: the variance of their effect over that of a run.
      random_effect: whether the fit has that effect.
      sigma_hat: noise of a run at the estimate.
      pseudo: pseudo-values (n,), see the module.
      gram: (P, P), normal equations of the linearised fit; ``free`` (P,): coordinates that are not held.
      profiled: intervals by profiling, by name.
      left_out: (groups, P), refits without each group, of the jackknife.
      capped: sd of the stem effects that were capped, as they let the draws leave the runs.
      converged: share of the refits of a bootstrap that converged.
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

    def described(self, asked: str, level: float) -> Scheme:
        """What a card says of it, where ``asked`` was the scheme asked for."""
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
    """What priors add to the normal equations in units of the run's variance; the penalty is in those of a row's."""
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
    """Where ``squares`` are least from a start (P,) on over the ``free`` coordinates; ``how`` is for ``minimise``."""
    z = minimise(surface, start[None], at.pseudo, free=free, **how)[0][0]
    if at.groups is not None and at.rho > 0:
        z = gls(surface, z, at.pseudo, at.groups, at.rho, free)
    return z
