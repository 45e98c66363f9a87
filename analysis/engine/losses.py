"""Loss functions of residuals: squares, Huber, Student's t; and their scale estimates.

All are r^2 / 2 near zero, so that a threshold and a standard deviation have the same unit. Arrays are (..., n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from scaling.errors import Code, UserError

Array = np.ndarray
HUBER_K = 1.345  # 95 % efficiency at the normal (Huber 1981)
STUDENT_NU = 4.0  # degrees of freedom of Lange, Little and Taylor 1989, doi 10.1080/01621459.1989.10478852
# E[psi_k(Z)^2] for a standard normal Z: makes Huber's proposal 2 consistent for normal residuals
_PHI = math.exp(-(HUBER_K**2) / 2) / math.sqrt(2 * math.pi)
_TAIL = 0.5 * math.erfc(HUBER_K / math.sqrt(2))
_KAPPA = 1 - 2 * _TAIL - 2 * HUBER_K * _PHI + 2 * HUBER_K**2 * _TAIL
_WRITE = "write auto, squares, huber:<delta>, such as huber:1e-3, student or student:<nu>, perhaps raw: before it"


@dataclass(frozen=True)
class Objective:
    """The loss function of the residuals.

    Attributes:
      delta: threshold; None adapts it to the noise: 1.345 times Huber's proposal-2 scale or, for Student's t, sqrt(nu)
        times its own scale.
      raw: residuals are of the loss itself, in its unit, instead of its natural logarithm.
      nu: degrees of freedom of Student's t; None for Huber.
    """

    name: str
    delta: float | None
    raw: bool = False
    nu: float | None = None

    def scale(self, r: Array, P: int) -> float:
        """Scale of residuals (n,) after P fitted parameters."""
        return proposal2(r, P) if self.nu is None else t_scale(r, P, self.nu)

    def threshold(self, scale: float) -> float:
        """``delta`` at that scale."""
        return HUBER_K * scale if self.nu is None else math.sqrt(self.nu) * scale


def objective(text: str) -> Objective:
    """Parses an objective, or the ``name`` of one.

    Args:
      text: ``auto``, ``squares``, ``huber:<delta>``, ``student`` (4 degrees of freedom) or ``student:<nu>``; with the
        prefix ``raw:`` residuals are of the loss itself.

    Raises:
      UserError: UNKNOWN objective, or INVALID number.
    """
    if text.startswith("raw:"):
        return replace(objective(text[4:]), name=text, raw=True)
    if text in ("auto", "huber:auto"):
        return Objective("huber:auto", None)
    if text == "squares":
        return Objective("squares", math.inf)
    head, _, value = text.partition(":")
    try:
        number = STUDENT_NU if text == "student" else float(value)
    except ValueError:
        number = math.nan
    if head not in ("huber", "student") or not number > 0 or (head == "student" and not 1 <= number <= 1e3):
        known = head in ("huber", "student")
        remedy = _WRITE + (" (nu from 1 to 1000)" if head == "student" else "")
        raise UserError("objective", text, remedy, Code.INVALID if known else Code.UNKNOWN)
    if head == "student":
        return Objective(f"student:{number:g}", None, nu=number)
    return Objective(text, number)


def huber(r: Array, delta: float | Array) -> tuple[Array, Array, Array]:
    """rho, its derivative and its second derivative at residuals r."""
    psi = np.clip(r, -delta, delta)
    return psi * (r - 0.5 * psi), psi, (psi == r).astype(np.float64)


def student(r: Array, delta: float | Array) -> tuple[Array, Array, Array]:
    """rho, rho' and rho'' of rho(r) = delta^2 / 2 log(1 + (r / delta)^2).

    At delta = sqrt(nu) s that is minus the log density of Student's t with nu degrees of freedom and scale s, divided
    by (nu + 1) / (nu s^2).
    """
    u = (r / delta) ** 2
    heavy = 1.0 / (1.0 + u)
    return 0.5 * delta * delta * np.log1p(u), r * heavy, (1.0 - u) * heavy * heavy


def proposal2(r: Array, P: int) -> float:
    """Huber's proposal-2 scale of residuals (n,) after P fitted parameters (Huber 1964).

    The root s of sum psi_k(r / s)^2 = (n - P) E[psi_k(Z)^2]; close to sqrt(RSS / (n - P)) without outliers.
    """
    df = max(len(r) - P, 1)
    s = math.sqrt(float((r**2).sum()) / df)
    for _ in range(200):
        if s <= 1e-14:
            break
        new = math.sqrt(float((np.clip(r, -HUBER_K * s, HUBER_K * s) ** 2).sum()) / (df * _KAPPA))
        if abs(new - s) < 1e-9 * s:
            return new
        s = new
    return max(s, 1e-14)


def t_scale(r: Array, P: int, nu: float) -> float:
    """Scale of residuals (n,) under Student's t with nu degrees of freedom, after P fitted parameters.

    The root s of sum (nu + 1) r^2 / (nu s^2 + r^2) = n - P, by the EM steps of Lange, Little and Taylor 1989: maximum
    likelihood with n - P instead of n.
    """
    df, square = max(len(r) - P, 1), r**2
    s2 = float(square.sum()) / df
    for _ in range(500):
        if s2 <= 1e-28:
            break
        new = float((square * (nu + 1) / (nu + square / s2)).sum()) / df
        if abs(new - s2) < 1e-9 * s2:
            return math.sqrt(new)
        s2 = new
    return math.sqrt(max(s2, 1e-28))
