"""The engine: global starts by variable projection, then batched damped Newton with the exact Hessian.

Objective: sum_i w_i rho(y_i - log L_i), rho = Huber with a threshold delta on natural-log residuals (delta = inf:
squares over two). All arrays are float64. S problems that share the rows are solved at once; they may differ in
start, in loss values y (S, n) or in weights w (S, n): that is what a bootstrap or a profile needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.laws import Columns, Law, Surface
from analysis.laws.surface import Raw
from analysis.starts import ROWS, starts
from scaling.errors import UserError

Array = np.ndarray
HUBER_K = 1.345  # 95 % efficiency at the normal (Huber 1981)
# E[psi_k(Z)^2] of a standard normal: makes Huber's proposal 2 consistent there
_PHI = math.exp(-(HUBER_K**2) / 2) / math.sqrt(2 * math.pi)
_TAIL = 0.5 * math.erfc(HUBER_K / math.sqrt(2))
_KAPPA = 1 - 2 * _TAIL - 2 * HUBER_K * _PHI + 2 * HUBER_K**2 * _TAIL
_CHUNK = 200_000  # numbers in one (S, n) work array: a handful of them stay in the second-level cache


@dataclass(frozen=True)
class Objective:
    """How residuals count. ``delta`` None = adapted to the noise (1.345 times Huber's proposal-2 scale).

    ``raw`` residuals are of the loss itself, in its unit; others of its natural logarithm.
    """

    name: str
    delta: float | None
    raw: bool = False


def objective(text: str) -> Objective:
    """``auto``, ``squares`` or ``huber:<delta>``, with ``raw:`` before it for residuals of the loss itself.

    UserError for anything else.
    """
    if text.startswith("raw:"):
        return replace(objective(text[4:]), name=text, raw=True)
    if text == "auto":
        return Objective("huber:auto", None)
    if text == "squares":
        return Objective("squares", math.inf)
    head, _, value = text.partition(":")
    try:
        delta = float(value)
    except ValueError:
        delta = math.nan
    if head != "huber" or not delta > 0:
        raise UserError(
            "objective", text, "write auto, squares or huber:<delta>, such as huber:1e-3, perhaps raw: before it"
        )
    return Objective(text, delta)


@dataclass
class Estimate:
    """A point estimate. ``z`` (P,) are coordinates of ``surface``; ``optima`` (best first) lie within 1 %.

    ``y`` (n,) is what the surface is fitted to: log losses, or (raw residuals) losses over the scale of the table,
    shifted so that both agree to first order. ``scale`` is the residuals' robust standard deviation in that unit.
    """

    surface: Surface
    z: Array
    value: float
    objective: Objective
    delta: float
    scale: float
    optima: list[dict]
    free: Array
    lower: Array
    upper: Array
    y: Array

    @property
    def theta(self) -> Array:
        return self.surface.to_theta(self.z)[0]


def huber(r: Array, delta: float | Array) -> tuple[Array, Array, Array]:
    """rho, its derivative and its second derivative at residuals r."""
    psi = np.clip(r, -delta, delta)
    return psi * (r - 0.5 * psi), psi, (psi == r).astype(np.float64)


def _value(surface: Surface, z: Array, y: Array, w: Array, delta: Array) -> tuple[Array, dict, Array, Array]:
    f, state = surface.evaluate(z)
    r = y - f
    psi = np.clip(r, -delta, delta)
    value = ((r - 0.5 * psi) * psi * w).sum(1)
    if surface.penalty is not None:
        mean, weight = surface.penalty
        value = value + 0.5 * ((z - mean) ** 2 * weight).sum(1)
    return np.where(np.isnan(value), np.inf, value), state, r, psi


def _direction(h: Array, g: Array) -> Array:
    """Newton direction -|H|^-1 g per problem: pivots in the batch, eigenvalues where a pivot is not positive."""
    S, P = g.shape
    m, x = h.copy(), -g
    bad = np.zeros(S, dtype=bool)
    floor = np.maximum(1e-14 * np.abs(np.diagonal(h, axis1=1, axis2=2)).max(1), 1e-280)
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
        slope = np.abs(g[bad]).max(1, keepdims=True)  # where H says nothing the step cap decides, not an overflow
        size = np.maximum(size, np.maximum(1e-10 * size.max(1, keepdims=True), np.maximum(1e-3 * slope, 1e-300)))
        x[bad] = -np.einsum("sij,sj->si", vectors, np.einsum("sji,sj->si", vectors, g[bad]) / size)
    return x


def minimise(
    surface: Surface,
    z0: Array,
    y: Array,
    *,
    w: Array | None = None,
    delta: float | Array = math.inf,
    free: Array | None = None,
    lower: Array | None = None,
    upper: Array | None = None,
    iterations: int = 100,
    tolerance: float = 1e-13,
) -> tuple[Array, Array, Array]:
    """Local minima from z0 (S, P) for y (n,) or (S, n), weights w (n,) or (S, n), delta scalar or (S,).

    ``free`` (P,) switches coordinates off. Bounds are kept by an active set. Returns z (S, P), objective (S,) and
    whether each converged (S,).
    """
    z0 = np.atleast_2d(z0)
    S, n = len(z0), surface.n
    y = np.broadcast_to(y, (S, n))
    w = np.broadcast_to(1.0 if w is None else w, (S, n))
    delta = np.broadcast_to(np.asarray(delta, dtype=np.float64), (S,))
    free = np.ones(surface.P, dtype=bool) if free is None else free
    lower = surface.lower if lower is None else lower
    upper = surface.upper if upper is None else upper
    z, value, done = np.array(z0, dtype=np.float64), np.empty(S), np.zeros(S, dtype=bool)
    step = max(1, _CHUNK // max(n, 1))
    for s in range(0, S, step):
        part = slice(s, min(s + step, S))
        z[part], value[part], done[part] = _minimise(
            surface, z[part], y[part], w[part], delta[part], free, lower, upper, iterations, tolerance
        )
    return z, value, done


def _minimise(
    surface: Surface,
    z: Array,
    y: Array,
    w: Array,
    delta: Array,
    free: Array,
    lower: Array,
    upper: Array,
    iterations: int,
    tolerance: float,
) -> tuple[Array, Array, Array]:
    out = z.copy()
    out[:, free] = np.clip(z, lower, upper)[:, free]
    z = out.copy()
    d = delta[:, None]
    value, state, r, psi = _value(surface, z, y, w, d)
    final, done, live = value.copy(), np.zeros(len(z), dtype=bool), np.arange(len(z))
    damping = np.zeros(len(z))
    diagonal = np.arange(surface.P)
    for _ in range(iterations):
        g, h = surface.normal(state, -w * psi, w * (psi == r))
        if surface.penalty is not None:
            g += (z - surface.penalty[0]) * surface.penalty[1]
            h[:, diagonal, diagonal] += surface.penalty[1]
        lost = ~(np.isfinite(h).all((1, 2)) & np.isfinite(g).all(1))
        g[lost], h[lost] = 0.0, 0.0  # a formula without a value or a slope here: this start ends
        fixed = ((z <= lower) & (g > 0)) | ((z >= upper) & (g < 0)) | ~free
        g = np.where(fixed, 0.0, g)
        if fixed.any():
            h = np.where(fixed[:, :, None] | fixed[:, None, :], 0.0, h)
        size = np.abs(h[:, diagonal, diagonal])
        floor = np.maximum(size.max(1, keepdims=True), 1e-300) * 1e-12
        h[:, diagonal, diagonal] += damping[:, None] * np.maximum(size, floor) + np.where(fixed, 1.0, 0.0)
        move = _direction(h, g)
        # a coordinate is a logarithm or an exponent: a step beyond 2 only says that the quadratic model is void
        move *= np.minimum(1.0, 2.0 / np.maximum(np.abs(move).max(1, keepdims=True), 1e-300))
        promise = -(g * move).sum(1)
        trial = np.where(free, np.clip(z + move, lower, upper), z)
        new, new_state, new_r, new_psi = _value(surface, trial, y, w, d)
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
        z, y, w, d, damping, live = z[keep], y[keep], w[keep], d[keep], damping[keep], live[keep]
    return out, final, done


def _pick(old: dict, new: dict, take: Array, keep: Array) -> dict:
    """State rows of the accepted points, of the problems that go on."""
    if take.all() and keep.all():
        return new

    def pick(a, b):
        if a is None:
            return None
        if isinstance(a, list):
            return [pick(x, y) for x, y in zip(a, b)]
        return (b if take.all() else np.where(take[:, None], b, a))[keep]

    return {k: pick(old[k], new[k]) for k in old}


def proposal2(r: Array, P: int, scale: float | None = None) -> float:
    """Huber's proposal-2 scale of residuals (n,) after P fitted parameters (Huber 1964): root of
    sum psi_k(r / s)^2 = (n - P) E[psi_k(Z)^2]. Equals sqrt(RSS / (n - P)) nearly, when nothing is an outlier."""
    df = max(len(r) - P, 1)
    s = scale or math.sqrt(float((r**2).sum()) / df)
    for _ in range(200):
        if s <= 1e-14:
            break
        new = math.sqrt(float((np.clip(r, -HUBER_K * s, HUBER_K * s) ** 2).sum()) / (df * _KAPPA))
        if abs(new - s) < 1e-9 * s:
            return new
        s = new
    return max(s, 1e-14)


def prepare(law: Law, columns: Columns, y: Array, fixed: Mapping[str, float]) -> tuple[Surface, Array, Array]:
    """Surface, mask of free coordinates, values of the fixed ones. UserError for a value outside the bounds."""
    for name in fixed:
        law.index(name)
    if law.explicit is not None and not set(fixed) <= {c.name for c in law.coordinates}:
        law = law.explicit  # a parameter that is no coordinate of the power form is one of the formula
    for name, value in fixed.items():
        p = next(c for c in law.coordinates if c.name == name)
        if not (math.isfinite(value) and p.lower <= value <= p.upper):
            raise UserError(f"fixed {name}", value, f"it must lie between {p.lower:g} and {p.upper:g}")
    # an amplitude is a coordinate at the data's centre; to hold its value at 1 the centre must be 1
    amplitudes = set(law.linear) - {law.floor}
    surface = law.surface(columns, centred=not amplitudes & set(fixed), scale=float(np.exp(y.mean())))
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
    """Global fit of ``loss`` (n,) at ``columns``. Returns Estimate; see the module's text for the method.

    ``fixed`` holds parameters at values; ``priors`` are normal, {name: (mean, standard deviation)}, for parameters that
    are no amplitudes; ``w`` (n,) weighs the rows.
    """
    y = np.log(np.asarray(loss, dtype=np.float64))
    if priors and law.explicit is not None:
        law = law.explicit
    surface, free, at = prepare(law, columns, y, fixed or {})
    found = _fit(surface, free, at, y, loss, kind, w)
    for _ in range(2 if priors else 0):
        surface = found.surface
        surface.prior = _prior(surface, priors or {})
        surface.penalty = (surface.prior[0], surface.prior[1] * found.scale**2)
        found = _fit(surface, free, at, y, loss, kind, w)
    return found


def _possible(surface: Surface, z: Array, free: Array) -> Array:
    """The starts at which the law has a loss; what is subtracted is made small where it is all there is."""
    lost = ~np.isfinite(surface.evaluate(z)[0]).all(1)
    for j, name in enumerate(surface.law.linear):
        if surface.sign[j] < 0 and free[surface.position[name]]:
            z[lost, surface.position[name]] = -10.0
    good = np.isfinite(surface.evaluate(z)[0]).all(1)
    if not good.any():
        raise UserError("law", surface.law.name, f"gives no finite loss near these rows: {surface.law.formula}")
    return z[good]


def _prior(surface: Surface, priors: Mapping[str, tuple[float, float]]) -> tuple[Array, Array]:
    """Means and precisions (P,) of normal priors in coordinates."""
    mean, precision, law = np.zeros(surface.P), np.zeros(surface.P), surface.law
    for name, (centre, sd) in priors.items():
        law.index(name)
        if name in set(law.linear) - {law.floor}:
            raise UserError("prior", name, "an amplitude takes none; put it on an exponent or the floor")
        p = next(c for c in law.coordinates if c.name == name)
        if not (sd > 0 and math.isfinite(sd) and p.lower <= centre <= p.upper):
            raise UserError("prior", f"{name}={centre:g}:{sd:g}", "give MEAN:SD within the bounds, SD above zero")
        i = surface.position[name]
        mean[i] = surface.hold(name, centre)
        unit = surface.scale if name == law.floor else centre if p.log else 1.0
        precision[i] = (unit / sd) ** 2
    return mean, precision


def _fit(surface: Surface, free: Array, at: Array, y: Array, loss: Any, kind: Objective, w: Array | None) -> Estimate:
    P = int(free.sum())
    plain = surface.inner if isinstance(surface, Raw) else surface
    z = _possible(plain, starts(plain, y, free, at), free)
    lower, upper, unit = surface.lower, surface.upper, 1.0
    if kind.raw:
        surface, unit = (surface if isinstance(surface, Raw) else Raw(surface)), float(plain.scale)
        y = np.asarray(loss, dtype=np.float64) / unit - 1 + math.log(unit)
    if surface.n > 10 * ROWS:
        rows = np.linspace(0, surface.n - 1, ROWS).astype(int)
        z, value, _ = minimise(
            surface.rows(rows), z, y[rows], w=None if w is None else w[rows], free=free, iterations=60
        )
        z = z[np.argsort(value)[:2]]
    if kind.delta is None:
        z, value, _ = minimise(surface, z, y, w=w, free=free, iterations=60)
        best = int(np.argmin(value))
        at_best, scale, delta = z[[best]], math.inf, math.inf
        for _ in range(30):
            r = y - surface.evaluate(at_best)[0][0]
            new = proposal2(r, P)
            if abs(new - scale) <= 1e-6 * new:
                break
            scale = new
            delta = HUBER_K * scale
            at_best, _, _ = minimise(surface, at_best, y, w=w, delta=delta, free=free)
        z = np.concatenate([z, at_best])
        ladder = [delta]
    else:
        delta = kind.delta / unit
        ladder = [30 * delta, 5 * delta, delta] if math.isfinite(delta) else [delta]
    value, direct = np.zeros(len(z)), z
    for d in ladder:
        z, value, _ = minimise(surface, z, y, w=w, delta=d, free=free)
    if len(ladder) > 1:  # the ladder finds the deep minimum; what else lies within 1 % of it is found without
        more, values, _ = minimise(surface, direct, y, w=w, delta=delta, free=free)
        z, value = np.concatenate([z, more]), np.concatenate([value, values])
    best = int(np.argmin(value))
    r = y - surface.evaluate(z[[best]])[0][0]
    optima = _optima(surface, z, value)
    for each in optima:
        each["objective"] *= unit**2
    scale = proposal2(r, P)
    return Estimate(
        surface, z[best], float(value[best]) * unit**2, kind, float(delta), scale, optima, free, lower, upper, y
    )


def _optima(surface: Surface, z: Array, value: Array) -> list[dict]:
    """Distinct minima within 1 % of the best objective, and the share of the starts that ended in each."""
    order = np.argsort(value, kind="stable")
    best = value[order[0]]
    found: list[tuple[Array, float, int]] = []
    with np.errstate(over="ignore"):
        theta = surface.to_theta(z)
    same: list[Array] = []
    for s in order:
        if value[s] > best * 1.01 + 1e-18:
            break
        for j, (zj, vj, count) in enumerate(found):
            apart = float(np.abs(z[s] - zj).max())
            near = apart < 1e-3 or (apart < 0.1 and abs(value[s] - vj) <= 1e-9 * abs(vj) + 1e-20)
            if near or np.allclose(theta[s], same[j], rtol=1e-4, atol=1e-300):
                found[j] = (zj, vj, count + 1)
                break
        else:
            found.append((z[s], float(value[s]), 1))
            same.append(theta[s])
    names = surface.law.names
    return [
        {
            "params": dict(zip(names, surface.to_theta(zj)[0].tolist())),
            "objective": vj,
            "share_of_starts": count / len(z),
        }
        for zj, vj, count in found
    ]


def refit(
    point: Estimate, y: Array, *, w: Array | None = None, delta: Array | float | None = None
) -> tuple[Array, Array]:
    """Warm refits of one estimate for log losses y (n,) or (S, n) and weights w (S, n). Returns z (S, P), converged."""
    S = len(w) if w is not None else len(np.atleast_2d(y))
    z, _, done = minimise(
        point.surface,
        np.tile(point.z, (S, 1)),
        y,
        w=w,
        delta=point.delta if delta is None else delta,
        free=point.free,
        iterations=60,
    )
    return z, done
