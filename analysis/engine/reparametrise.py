"""Coordinates in which the valley of a sum of power terms is straight, for the ``sampler``.

Runs determine the level and the slopes of the loss at their centre, but hardly how much of that level is floor. With a
floor E and terms of size s_k at the centre with exponents e_k, a larger E goes with smaller terms and larger exponents,
along the curve e_k s_k = constant. So the sampler walks in

    T = log(E + sum s_k),   sigma_k = e_k s_k exp(-T),   and the exponents,

where that curve is a line, which moves built from differences of walkers follow. The Jacobian of (E, log s_k) with
respect to (T, sigma_k) is exp(T) / prod sigma_k.
"""

from __future__ import annotations

import numpy as np

from analysis.engine.surface import Surface

Array = np.ndarray


class Reparametrisation:
    """The map between fitting coordinates z (S, P) and straight ones u (S, P) of a surface.

    ``active`` tells whether there is anything to straighten: a free floor, and terms with a free amplitude whose first
    exponent is never negative. Otherwise u is z. Coordinates that are not ``free`` are unchanged.
    """

    def __init__(self, surface: Surface, free: Array):
        law = surface.law
        self.floor = surface.floor
        self.active = isinstance(surface, Surface) and self.floor is not None and bool(free[self.floor])
        self.terms: list[tuple[int, int | float]] = []  # index of the amplitude; index or value of its exponent
        self.others: list[int] = []
        for term in law.terms if self.active else ():
            place = surface.position[term.amplitude]
            exponent = term.exponents[0][1]
            e = surface.position[exponent] if isinstance(exponent, str) else float(exponent)
            if free[place] and (e > 0 if isinstance(e, float) else surface.lower[e] >= 0):
                self.terms.append((place, e))
            else:
                self.others.append(place)
        self.active = bool(self.terms)
        self.exponents = np.zeros(surface.P, dtype=bool)  # where u is undefined at zero
        self.exponents[[e for _, e in self.terms if not isinstance(e, float)]] = True
        self.moved = np.zeros(surface.P, dtype=bool)  # where u is not z
        if self.floor is not None and self.active:
            self.moved[[self.floor, *(place for place, _ in self.terms)]] = True

    def to_u(self, z: Array) -> Array:
        """Coordinates (S, P) with positive exponents -> straight coordinates (S, P)."""
        u = np.array(z, dtype=np.float64)
        if not self.active:
            return u
        total = z[:, self.floor] + sum(np.exp(z[:, i]) for i in (*(i for i, _ in self.terms), *self.others))
        u[:, self.floor] = np.log(total)
        for i, e in self.terms:
            u[:, i] = self._exponent(z, e) * np.exp(z[:, i]) / total
        return u

    def to_z(self, u: Array) -> tuple[Array, Array]:
        """Coordinates (S, P), and log |dz/du| (S,), which is -inf where u gives no valid law."""
        z = np.array(u, dtype=np.float64)
        if not self.active:
            return z, np.zeros(len(u))
        jacobian = level = u[:, self.floor]
        total = np.exp(level)
        floor = total - sum(np.exp(u[:, i]) for i in self.others)
        with np.errstate(divide="ignore", invalid="ignore"):
            for i, e in self.terms:
                slope, exponent = u[:, i], self._exponent(u, e)
                possible = (slope > 0) & (exponent > 0)
                z[:, i] = np.where(possible, np.log(slope / exponent) + level, 0.0)
                floor = floor - np.where(possible, total * slope / exponent, 0.0)
                jacobian = np.where(possible, jacobian - np.log(slope), -np.inf)
        z[:, self.floor] = floor
        return z, jacobian

    def slopes(self, z: Array) -> Array:
        """dz/du (P, P) at one point z (P,)."""
        u, step = self.to_u(z[None])[0], 1e-6
        if not self.active:
            return np.eye(len(z))
        ends = [self.to_z(np.stack([u + step * e * scale, u - step * e * scale]))[0] for e, scale in self._units(u)]
        return np.stack([(up - down) / (2 * step * scale) for (up, down), (_, scale) in zip(ends, self._units(u))], 1)

    def _units(self, u: Array) -> list[tuple[Array, float]]:
        # a slope may be tiny: scale its step to its size
        slopes = {i for i, _ in self.terms}
        return [(e, abs(float(u[i])) if i in slopes else 1.0) for i, e in enumerate(np.eye(len(u)))]

    @staticmethod
    def _exponent(x: Array, e: int | float) -> Array | float:
        return e if isinstance(e, float) else x[:, e]
