"""The engine: global starts by variable projection, then batched damped Newton with the exact Hessian.

Objective: sum_i w_i rho(y_i - log L_i), with rho as in ``losses``: Huber with threshold delta (delta = inf: half the
square) or Student's t, of natural-log residuals. All arrays are float64. S problems that share the rows are solved at
once; they may differ in start, in losses y (S, n) or in weights w (S, n), as a bootstrap or a profile needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.card import Optimum
from analysis.engine.losses import HUBER_K, Objective, huber, objective, proposal2, student
from analysis.engine.starts import ROWS, starts
from analysis.engine.surface import Raw, State, Surface, Weighted, surface_of
from analysis.laws import Columns, Law, get
from scaling.errors import Code, UserError

__all__ = ["HUBER_K", "Estimate", "Objective", "estimate", "huber", "minimise", "objective", "proposal2", "refit"]
Array = np.ndarray
_CHUNK = 200_000  # numbers in one (S, n) work array, so that a handful of them fit in the second-level cache


@dataclass
class Estimate:
    """A point estimate.

    Attributes:
      z: (P,), coordinates of ``surface``.
      optima: distinct minima within 1 % of the best objective, best first.
      y: (n,), the values that the surface is fitted to: log losses or, for raw residuals, losses over the table's
        scale, shifted to agree with log losses to first order. Weighted rows are multiplied by the root of the weight.
      scale: robust standard deviation of the residuals, in the unit of ``y``.
    """

    surface: Surface
    z: Array
    value: float
    objective: Objective
    delta: float
    scale: float
    optima: tuple[Optimum, ...]
    free: Array
    y: Array

    @property
    def theta(self) -> Array:
        return self.surface.to_theta(self.z)[0]

    def loss(self, r: Array) -> tuple[Array, Array, Array]:
        """rho of the fit's objective at residuals r, with its first and second derivatives."""
        return (huber if self.objective.nu is None else student)(r, self.delta)


@dataclass(frozen=True)
class _Data:
    """The data of S problems: values y (S, n), weights w (S, n), thresholds (S, 1), prior means (S, P)."""

    y: Array
    w: Array
    delta: Array
    mean: Array | None

    def part(self, index: Any) -> _Data:
        """The data of some of the problems."""
        mean = None if self.mean is None else self.mean[index]
        return _Data(self.y[index], self.w[index], self.delta[index], mean)


def _value(surface: Surface, z: Array, data: _Data, heavy: bool) -> tuple[Array, State, Array, Array]:
    """Objective (S,), state, residuals and their influence psi (S, n) at coordinates z (S, P)."""
    f, state = surface.evaluate(z)
    with np.errstate(invalid="ignore"):  # a formula that overflows somewhere has no finite objective
        r = data.y - f
        if heavy:
            cost, psi, _ = student(r, data.delta)
            value = (cost * data.w).sum(1)
        else:
            psi = np.clip(r, -data.delta, data.delta)
            value = ((r - 0.5 * psi) * psi * data.w).sum(1)
    if surface.penalty is not None:
        value = value + 0.5 * ((z - data.mean) ** 2 * surface.penalty[1]).sum(1)
    return np.where(np.isnan(value), np.inf, value), state, r, psi


def _direction(h: Array, g: Array) -> Array:
    """Newton direction -|H|^-1 g per problem: pivots in the batch, eigenvalues where a pivot is not positive."""
    S, P = g.shape
    m, x = h.copy(), -g
    bad = np.zeros(S, dtype=bool)
    floor = np.maximum(1e-14 * np.abs(np.diagonal(h, axis1=1, axis2=2)).max(1), 1e-280)
    with np.errstate(over="ignore", invalid="ignore"):  # problems whose direction comes from eigenvalues below
        for k in range(P):
            pivot = m[:, k, k]
            bad |= ~(pivot > floor)
            inverse = 1.0 / np.where(pivot > floor, pivot, 1.0)
            for i in range(k + 1, P):
                factor = m[:, i, k] * inverse
                m[:, i, k:] -= factor[:, None] * m[:, k, k:]
                x[:, i] -= factor * x[:, k]
        for k in range(P - 1, -1, -1):
            pivot = np.where(m[:, k, k] > floor, m[:, k, k], 1.0)
            x[:, k] = (x[:, k] - (m[:, k, k + 1 :] * x[:, k + 1 :]).sum(1)) / pivot
    if bad.any():
        values, vectors = np.linalg.eigh(h[bad])
        size = np.abs(values)
        slope = np.abs(g[bad]).max(1, keepdims=True)  # where H is near zero the step cap decides, not an overflow
        size = np.maximum(size, np.maximum(1e-10 * size.max(1, keepdims=True), np.maximum(1e-3 * slope, 1e-300)))
        x[bad] = -np.einsum("sij,sj->si", vectors, np.einsum("sji,sj->si", vectors, g[bad]) / size)
    return x


# wide: the keywords are one optimisation problem, most of them left at their defaults
def minimise(
    surface: Surface,
    z0: Array,
    y: Array,
    *,
    w: Array | None = None,
    delta: float | Array = math.inf,
    free: Array | None = None,
    heavy: bool = False,
    means: Array | None = None,
    iterations: int = 100,
    tolerance: float = 1e-13,
) -> tuple[Array, Array, Array]:
    """Local minima of S problems. Bounds are kept by an active set.

    Args:
      z0: starts (S, P).
      y, w: values and weights, (n,) or (S, n).
      delta: threshold, a number or (S,).
      free: (P,), mask of the coordinates that are not fixed.
      heavy: Student's t instead of Huber; delta must be finite.
      means: (S, P), prior means that replace the surface's own.

    Returns:
      Coordinates (S, P), objective (S,) and whether each converged (S,).
    """
    z0 = np.atleast_2d(z0)
    S, n = len(z0), surface.n
    y = np.broadcast_to(y, (S, n))
    w = np.broadcast_to(1.0 if w is None else w, (S, n))
    delta = np.broadcast_to(np.asarray(delta, dtype=np.float64), (S,))
    free = np.ones(surface.P, dtype=bool) if free is None else free
    z, value, done = np.array(z0, dtype=np.float64), np.empty(S), np.zeros(S, dtype=bool)
    if surface.penalty is not None:
        means = np.broadcast_to(surface.penalty[0] if means is None else means, (S, surface.P))
    data = _Data(y, w, delta[:, None], None if surface.penalty is None else means)
    step = max(1, _CHUNK // max(getattr(surface, "size", n), 1))
    for s in range(0, S, step):
        part = slice(s, min(s + step, S))
        z[part], value[part], done[part] = _newton(
            surface, z[part], data.part(part), free, heavy, iterations, tolerance
        )
    return z, value, done


def _newton(
    surface: Surface, z: Array, data: _Data, free: Array, heavy: bool, iterations: int, tolerance: float
) -> tuple[Array, Array, Array]:
    """Damped Newton steps of all problems at once; finished problems leave the array."""
    lower, upper = surface.lower, surface.upper
    out = z.copy()
    out[:, free] = np.clip(z, lower, upper)[:, free]
    z = out.copy()
    value, state, r, psi = _value(surface, z, data, heavy)
    final, done, live = value.copy(), np.zeros(len(z), dtype=bool), np.arange(len(z))
    damping = np.zeros(len(z))
    diagonal = np.arange(surface.P)
    for _ in range(iterations):
        bend = student(r, data.delta)[2] if heavy else psi == r
        g, h = surface.normal(state, -data.w * psi, data.w * bend)
        if surface.penalty is not None:
            g += (z - data.mean) * surface.penalty[1]
            h[:, diagonal, diagonal] += surface.penalty[1]
        lost = ~(np.isfinite(h).all((1, 2)) & np.isfinite(g).all(1))
        g[lost], h[lost] = 0.0, 0.0  # the formula has no finite value or slope here: give up this start
        fixed = ((z <= lower) & (g > 0)) | ((z >= upper) & (g < 0)) | ~free
        g = np.where(fixed, 0.0, g)
        if fixed.any():
            h = np.where(fixed[:, :, None] | fixed[:, None, :], 0.0, h)
        size = np.abs(h[:, diagonal, diagonal])
        floor = np.maximum(size.max(1, keepdims=True), 1e-300) * 1e-12
        h[:, diagonal, diagonal] += damping[:, None] * np.maximum(size, floor) + np.where(fixed, 1.0, 0.0)
        move = _direction(h, g)
        # coordinates are logarithms or exponents: a step beyond 2 means that the quadratic model does not hold
        move *= np.minimum(1.0, 2.0 / np.maximum(np.abs(move).max(1, keepdims=True), 1e-300))
        promise = -(g * move).sum(1)
        trial = np.where(free, np.clip(z + move, lower, upper), z)
        new, new_state, new_r, new_psi = _value(surface, trial, data, heavy)
        better = new <= value
        finished = (promise <= tolerance * value + 1e-300) | (better & np.all(trial == z, 1))
        stuck = ~better & (damping > 1e8)
        take = better & np.isfinite(new)
        z = np.where(take[:, None], trial, z)
        out[live], final[live] = z, np.where(take, new, value)
        done[live] = finished
        keep = ~(finished | stuck)
        if not keep.any():
            break
        damping = np.where(take, np.where(damping < 1e-7, 0.0, damping * 0.1), np.maximum(damping * 10, 1e-4))
        mixed = take[:, None]
        state = _pick(state, new_state, take, keep)
        r, psi = np.where(mixed, new_r, r)[keep], np.where(mixed, new_psi, psi)[keep]
        value = np.where(take, new, value)[keep]
        z, data, damping, live = z[keep], data.part(keep), damping[keep], live[keep]
    return out, final, done


def _pick(old: State, new: State, take: Array, keep: Array) -> State:
    """State of the problems that continue: the new one where the step was taken, else the old."""
    if take.all() and keep.all():
        return new

    def pick(a, b):
        if a is None:
            return None
        if isinstance(a, list):
            return [pick(x, y) for x, y in zip(a, b)]
        return (b if take.all() else np.where(take[:, None], b, a))[keep]

    return {k: pick(old[k], new[k]) for k in old}


def prepare(
    law: Law, columns: Columns, y: Array, fixed: Mapping[str, float], priors: Iterable[str] = ()
) -> tuple[Surface, Array, Array]:
    """Surface, mask of free coordinates (P,), and values of the fixed ones (P,).

    Args:
      fixed: {name: value} of the parameters to hold.
      priors: names of the parameters that get a prior.

    Raises:
      UserError: unknown parameter, or a value outside its bounds.
    """
    for name in fixed:
        law.index(name)
    if law.explicit is not None and not set(fixed) <= {c.name for c in law.coordinates}:
        law = law.explicit  # the name is not a coordinate of the power form: use the explicit formula, which has it
    for name, value in fixed.items():
        p = next(c for c in law.coordinates if c.name == name)
        if not (math.isfinite(value) and p.lower <= value <= p.upper):
            raise UserError(f"fixed {name}", value, f"it must lie between {p.lower:g} and {p.upper:g}")
    # an amplitude's coordinate is its term at the data's centre; to fix the amplitude itself the centre must be 1
    amplitudes = set(law.linear) - {law.floor}
    surface = surface_of(law, columns, centred=not amplitudes & {*fixed, *priors}, scale=float(np.exp(y.mean())))
    free = np.array([c.name not in fixed for c in law.coordinates])
    at = np.array([surface.hold(c.name, float(fixed[c.name])) if c.name in fixed else 0.0 for c in law.coordinates])
    return surface, free, at


def estimate(
    law: Law,
    columns: Columns,
    loss: Any,
    kind: Objective,
    *,
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    w: Array | None = None,
) -> Estimate:
    """Global fit of ``loss`` (n,) at ``columns``; the module docstring gives the method.

    Args:
      kind: the objective.
      fixed: {name: value} of the parameters to hold.
      priors: normal priors, {name: (mean, standard deviation)}. Where a parameter's coordinate is a logarithm, as for
        amplitudes, the prior is normal in the logarithm with the same relative width.
      w: (n,), precisions of the rows: residuals are in units of 1 / sqrt(w).

    Raises:
      UserError: an invalid value or prior, or a law without a finite loss near these rows.
    """
    y = np.log(np.asarray(loss, dtype=np.float64))
    fixed, priors = dict(fixed or {}), dict(priors or {})
    if law.explicit is not None and not set(priors) <= {c.name for c in law.coordinates}:
        law = law.explicit
    surface, free, at = prepare(law, columns, y, fixed, priors)
    z, unit = _possible(surface, starts(surface, y, free, at, _guess(surface, y)), free), 1.0
    if kind.raw:
        surface, unit = Raw(surface), float(surface.scale)
        y = np.asarray(loss, dtype=np.float64) / unit - 1 + math.log(unit)
    if w is not None:
        root = np.sqrt(np.asarray(w, dtype=np.float64))
        surface, y = Weighted(surface, root), y * root
    best = _fit(surface, z, free, y, kind, unit)
    for _ in range(2 if priors else 0):
        surface.prior = _prior(surface, priors, fixed)
        surface.penalty = (surface.prior[0], surface.prior[1] * best.scale**2)
        best = _fit(surface, z, free, y, kind, unit)
    return best


def _guess(surface: Surface, y: Array) -> dict[str, float]:
    """Natural starting values, from the law's own rule or from the least-squares fit of a simpler law."""
    law, columns = (
        surface.law,
        getattr(surface, "c", {}),
    )  # laws without a grid are formulas, which keep them
    if law.starts_from:
        simpler = get(law.starts_from)
        theta = estimate(simpler, columns, np.exp(y), objective("squares")).theta
        return dict(zip(simpler.names, theta.tolist()))
    return law.guess(columns, np.exp(y)) if law.guess else {}


def _possible(surface: Surface, z: Array, free: Array) -> Array:
    """The starts with a finite loss; amplitudes of subtracted terms are first made small where there is none."""
    lost = ~np.isfinite(surface.evaluate(z)[0]).all(1)
    for j, name in enumerate(surface.law.linear):
        if surface.sign[j] < 0 and free[surface.position[name]]:
            z[lost, surface.position[name]] = -10.0
    good = np.isfinite(surface.evaluate(z)[0]).all(1)
    if not good.any():
        remedy = f"gives no finite loss near these rows: {surface.law.formula}"
        raise UserError("law", surface.law.name, remedy, Code.UNSUPPORTED)
    return z[good]


def _prior(
    surface: Surface, priors: Mapping[str, tuple[float, float]], fixed: Mapping[str, float]
) -> tuple[Array, Array]:
    """Means and precisions (P,) of normal priors in coordinates."""
    mean, precision, law = np.zeros(surface.P), np.zeros(surface.P), surface.law
    for name, (centre, sd) in priors.items():
        law.index(name)
        if name in fixed:
            raise UserError("prior", name, "is held fixed; give it a prior or a value, not both", Code.CONFLICT)
        p = next(c for c in law.coordinates if c.name == name)
        relative = p.log or name in set(law.linear) - {law.floor}
        inside = math.isfinite(centre) and p.lower <= centre <= p.upper and (centre > 0 or not relative)
        if not (inside and 0 < sd < math.inf):
            raise UserError("prior", f"{name}={centre:g}:{sd:g}", "give MEAN:SD within the bounds, SD above zero")
        i = surface.position[name]
        mean[i] = surface.hold(name, centre)
        unit = surface.scale if name == law.floor else centre if relative else 1.0
        precision[i] = (unit / sd) ** 2
    return mean, precision


def _fit(surface: Surface, z: Array, free: Array, y: Array, kind: Objective, unit: float) -> Estimate:
    """The best minimum reached from starts z (S, P) for y (n,); ``unit`` converts residuals to those of the loss."""
    P, heavy = int(free.sum()), kind.nu is not None
    if surface.n > 10 * ROWS:
        rows = np.linspace(0, surface.n - 1, ROWS).astype(int)
        z, value, _ = minimise(surface.rows(rows), z, y[rows], free=free, iterations=60)
        z = z[np.argsort(value)[:2]]
    if kind.delta is None:
        z, value, _ = minimise(surface, z, y, free=free, iterations=60)
        best = int(np.argmin(value))
        at_best, scale, delta = z[[best]], math.inf, math.inf
        for _ in range(30):
            r = y - surface.evaluate(at_best)[0][0]
            new = kind.scale(r, P)
            if abs(new - scale) <= 1e-6 * new:
                break
            scale = new
            delta = kind.threshold(scale)
            at_best, _, _ = minimise(surface, at_best, y, delta=delta, free=free, heavy=heavy)
        z = np.concatenate([z, at_best])
        ladder = [delta]
    else:
        delta = kind.delta / unit
        ladder = [30 * delta, 5 * delta, delta] if math.isfinite(delta) else [delta]
    value, direct = np.zeros(len(z)), z
    for d in ladder:
        z, value, _ = minimise(surface, z, y, delta=d, free=free, heavy=heavy)
    if len(ladder) > 1:  # the ladder finds the deepest minimum; direct fits find the others within 1 % of it
        more, values, _ = minimise(surface, direct, y, delta=delta, free=free)
        z, value = np.concatenate([z, more]), np.concatenate([value, values])
    best = int(np.argmin(value))
    r = y - surface.evaluate(z[[best]])[0][0]
    optima = _optima(surface, z, value, unit)
    scale = proposal2(r, P)
    return Estimate(surface, z[best], float(value[best]) * unit**2, kind, float(delta), scale, optima, free, y)


def _optima(surface: Surface, z: Array, value: Array, unit: float) -> tuple[Optimum, ...]:
    """Distinct minima within 1 % of the best objective (in ``unit`` squared), and the share of the starts in each."""
    order = np.argsort(value, kind="stable")
    best = value[order[0]]
    minima: list[tuple[Array, float, int]] = []
    with np.errstate(over="ignore"):
        theta = surface.to_theta(z)
    same: list[Array] = []
    for s in order:
        if value[s] > best * 1.01 + 1e-18:
            break
        for j, (zj, vj, count) in enumerate(minima):
            apart = float(np.abs(z[s] - zj).max())
            near = apart < 1e-3 or (apart < 0.1 and abs(value[s] - vj) <= 1e-9 * abs(vj) + 1e-20)
            if near or np.allclose(theta[s], same[j], rtol=1e-4, atol=1e-300):
                minima[j] = (zj, vj, count + 1)
                break
        else:
            minima.append((z[s], float(value[s]), 1))
            same.append(theta[s])
    names = surface.law.names
    return tuple(
        Optimum(
            params=dict(zip(names, surface.to_theta(zj)[0].tolist())),
            objective=vj * unit**2,
            share_of_starts=count / len(z),
        )
        for zj, vj, count in minima
    )


def refit(
    point: Estimate,
    y: Array,
    *,
    w: Array | None = None,
    means: Array | None = None,
) -> tuple[Array, Array]:
    """Refits of one estimate, started from it.

    Args:
      y: (n,) or (S, n), in the unit of the estimate's own.
      w: (S, n), counts of the rows.
      means: (S, P), prior means.

    Returns:
      Coordinates (S, P) and whether each refit converged (S,).
    """
    S = len(w) if w is not None else len(np.atleast_2d(y))
    z, _, done = minimise(
        point.surface,
        np.tile(point.z, (S, 1)),
        y,
        w=w,
        delta=point.delta,
        free=point.free,
        heavy=point.objective.nu is not None,
        means=means,
        iterations=60,
    )
    return z, done
