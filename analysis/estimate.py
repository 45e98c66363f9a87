"""The engine: global starts by variable projection, then batched damped Newton with the exact Hessian.

Objective: sum_i w_i rho(y_i - log L_i), rho = Huber with a threshold delta on natural-log residuals (delta = inf:
squares over two). All arrays are float64. S problems that share the rows are solved at once; they may differ in
start, in loss values y (S, n) or in weights w (S, n): that is what a bootstrap or a profile needs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.laws import Columns, Law, Surface
from scaling.errors import UserError

Array = np.ndarray
HUBER_K = 1.345  # 95 % efficiency at the normal (Huber 1981)
# E[psi_k(Z)^2] of a standard normal: makes Huber's proposal 2 consistent there
_PHI = math.exp(-(HUBER_K**2) / 2) / math.sqrt(2 * math.pi)
_TAIL = 0.5 * math.erfc(HUBER_K / math.sqrt(2))
_KAPPA = 1 - 2 * _TAIL - 2 * HUBER_K * _PHI + 2 * HUBER_K**2 * _TAIL
_CHUNK = 200_000  # numbers in one (S, n) work array: a handful of them stay in the second-level cache
_START_ROWS = 2000


@dataclass(frozen=True)
class Objective:
    """How residuals count. ``delta`` None = adapted to the noise (1.345 times Huber's proposal-2 scale)."""

    name: str
    delta: float | None


def objective(text: str) -> Objective:
    """``auto``, ``squares`` or ``huber:<delta>``. UserError for anything else."""
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
        raise UserError("objective", text, "write auto, squares or huber:<delta>, such as huber:1e-3")
    return Objective(text, delta)


@dataclass
class Estimate:
    """A point estimate. ``z`` (P,) are coordinates of ``surface``; ``optima`` (best first) lie within 1 %."""

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
    return value, state, r, psi


def _direction(h: Array, g: Array) -> Array:
    """Newton direction -|H|^-1 g per problem: pivots in the batch, eigenvalues where a pivot is not positive."""
    S, P = g.shape
    m, x = h.copy(), -g
    bad = np.zeros(S, dtype=bool)
    floor = 1e-14 * np.maximum(np.abs(np.diagonal(h, axis1=1, axis2=2)).max(1), 1e-300)
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


def starts(surface: Surface, y: Array, free: Array, fixed: Array, *, count: int = 12, points: int = 12) -> Array:
    """Starts (count, P): on a grid of exponents the amplitudes are closed form; the grid's best and its local minima.

    Variable projection (Golub and Pereyra 1973). Nonnegative least squares of relative residuals, by trying every
    subset of the few amplitudes. ``fixed`` (P,) holds the coordinates that are not free.
    """
    law, n = surface.law, surface.n
    rows = np.linspace(0, n - 1, min(n, _START_ROWS)).astype(int)
    linear = [surface.position[name] for name in law.linear]
    nonlinear = [i for i in range(surface.P) if i not in linear]
    axes = []
    for i in nonlinear:
        p = law.coordinates[i]
        lo, hi = p.grid or (0.03, 2.0)
        axes.append(np.geomspace(lo, hi, points) if free[i] else np.array([fixed[i]]))
    grid = np.array(list(itertools.product(*axes))).reshape(-1, len(nonlinear))
    z = np.tile(fixed, (len(grid), 1))
    z[:, nonlinear] = grid
    q = z[:, surface.outer] if surface.outer is not None else np.ones(len(grid))
    target = np.exp(np.clip((y[rows] - np.log(surface.scale))[None] / q[:, None], -150, 150))
    basis = np.empty((len(grid), len(rows), len(linear)))
    for j, i in enumerate(linear):
        if i == surface.floor:
            basis[:, :, j] = 1.0
            continue
        k = next(k for k, index in enumerate(surface.indices) if index[0] == i)
        unit = z.copy()
        unit[:, i] = 0.0
        basis[:, :, j] = np.exp(unit[:, surface.indices[k]] @ surface.X[k][rows].T + surface.offset[k][rows])
    basis /= target[:, :, None]
    rest = np.ones((len(grid), len(rows)))
    amplitude = np.zeros((len(grid), len(linear)))
    open_ = [j for j, i in enumerate(linear) if free[i]]
    for j, i in enumerate(linear):
        if not free[i]:
            amplitude[:, j] = fixed[i] if i == surface.floor else np.exp(fixed[i])
            rest -= amplitude[:, [j]] * basis[:, :, j]
    gram = np.einsum("gna,gnb->gab", basis, basis)
    right = np.einsum("gna,gn->ga", basis, rest)
    best = (rest**2).sum(1)
    base = best.copy()
    for size in range(1, len(open_) + 1):
        for subset in map(list, itertools.combinations(open_, size)):
            block = (
                gram[:, subset][:, :, subset] + 1e-13 * np.eye(size) * np.trace(gram, axis1=1, axis2=2)[:, None, None]
            )
            solution = np.linalg.solve(block, right[:, subset][:, :, None])[:, :, 0]
            cost = base - (solution * right[:, subset]).sum(1)
            good = np.all(solution > 0, 1) & (cost < best)
            best = np.where(good, cost, best)
            full = np.zeros((len(grid), len(open_)))
            full[:, [open_.index(j) for j in subset]] = solution
            amplitude[:, open_] = np.where(good[:, None], full, amplitude[:, open_])
    best = best * q**2
    for j, i in enumerate(linear):
        if free[i]:
            z[:, i] = amplitude[:, j] if i == surface.floor else np.log(np.maximum(amplitude[:, j], 1e-4))
    shape = tuple(len(a) for a in axes)
    cost = best.reshape(shape)
    local = np.ones(shape, dtype=bool)
    for axis in range(len(shape)):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(len(shape))]
        wide = np.pad(cost, pad, constant_values=np.inf)
        local &= (cost <= np.take(wide, range(shape[axis]), axis)) & (
            cost <= np.take(wide, range(2, shape[axis] + 2), axis)
        )
    order = np.argsort(best, kind="stable")
    minima = [i for i in order if local.ravel()[i]][: count // 2]
    return z[list(dict.fromkeys(minima + order.tolist()))[:count]]


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
    """Surface, mask of free coordinates, values of the fixed ones. UserError for a parameter that cannot be fixed."""
    held = {law.coordinates[i].name for i in range(len(law.coordinates))}
    for name, value in fixed.items():
        law.index(name)
        if name not in held:
            raise UserError("fixed", name, f"law {law.name} is fitted in {', '.join(sorted(held))}; fix one of those")
        p = next(c for c in law.coordinates if c.name == name)
        if not (math.isfinite(value) and p.lower <= value <= p.upper):
            raise UserError(f"fixed {name}", value, f"it must lie between {p.lower:g} and {p.upper:g}")
    # an amplitude is a coordinate at the data's centre; to hold its value at 1 the centre must be 1
    amplitudes = {t.amplitude for t in law.terms}
    surface = Surface(law, columns, centred=not amplitudes & set(fixed), scale=float(np.exp(y.mean())))
    free = np.array([c.name not in fixed for c in law.coordinates])
    at = np.zeros(surface.P)
    for i, c in enumerate(law.coordinates):
        if c.name in fixed:
            value = float(fixed[c.name])
            if c.name in amplitudes:
                at[i] = math.log(max(value, 1e-300)) - math.log(surface.scale)
            else:
                at[i] = value / surface.scale if c.name == law.floor else value
    return surface, free, at


def estimate(
    law: Law, columns: Columns, loss: Any, kind: Objective, *, fixed: Mapping[str, float] | None = None
) -> Estimate:
    """Global fit of ``loss`` (n,) at ``columns``. Returns Estimate; see the module's text for the method."""
    y = np.log(np.asarray(loss, dtype=np.float64))
    surface, free, at = prepare(law, columns, y, fixed or {})
    P = int(free.sum())
    z = starts(surface, y, free, at)
    lower, upper = surface.lower, surface.upper
    if surface.n > 10 * _START_ROWS:
        rows = np.linspace(0, surface.n - 1, _START_ROWS).astype(int)
        z, value, _ = minimise(surface.rows(rows), z, y[rows], free=free, iterations=60)
        z = z[np.argsort(value)[:2]]
    if kind.delta is None:
        z, value, _ = minimise(surface, z, y, free=free, iterations=60)
        best = int(np.argmin(value))
        at_best, scale, delta = z[[best]], math.inf, math.inf
        for _ in range(30):
            r = y - surface.evaluate(at_best)[0][0]
            new = proposal2(r, P)
            if abs(new - scale) <= 1e-6 * new:
                break
            scale = new
            delta = HUBER_K * scale
            at_best, _, _ = minimise(surface, at_best, y, delta=delta, free=free)
        z = np.concatenate([z, at_best])
        ladder = [delta]
    else:
        delta = kind.delta
        ladder = [30 * delta, 5 * delta, delta] if math.isfinite(delta) else [delta]
    value = np.zeros(len(z))
    for d in ladder:
        z, value, _ = minimise(surface, z, y, delta=d, free=free)
    best = int(np.argmin(value))
    r = y - surface.evaluate(z[[best]])[0][0]
    return Estimate(
        surface,
        z[best],
        float(value[best]),
        kind,
        float(delta),
        proposal2(r, P),
        _optima(surface, z, value),
        free,
        lower,
        upper,
    )


def _optima(surface: Surface, z: Array, value: Array) -> list[dict]:
    """Distinct minima within 1 % of the best objective, and the share of the starts that ended in each."""
    order = np.argsort(value, kind="stable")
    best = value[order[0]]
    found: list[tuple[Array, float, int]] = []
    for s in order:
        if value[s] > best * 1.01 + 1e-18:
            break
        for j, (zj, vj, count) in enumerate(found):
            apart = float(np.abs(z[s] - zj).max())
            near = apart < 1e-3 or (apart < 0.1 and abs(value[s] - vj) <= 1e-9 * abs(vj) + 1e-20)
            if near:
                found[j] = (zj, vj, count + 1)
                break
        else:
            found.append((z[s], float(value[s]), 1))
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
