"""Starting points: a grid over the exponents, with amplitudes in closed form at each point (variable projection).

See Golub and Pereyra 1973. Amplitudes are the nonnegative least squares of relative residuals, solved by trying every
subset of the few amplitudes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray
ROWS = 2000  # rows used to choose starts, at most
_NUMBERS = 3_000_000  # entries of one array of basis functions over the grid
_MOST, _FEW = 6000, 300  # points of a grid; points of a scatter for a law that is slow to evaluate
_POINTS = 12  # grid points along each axis, at most
_COUNT = 12  # starts; twice as many for a grid over three exponents or more


def starts(surface: Any, y: Array, free: Array, fixed: Array, guess: Mapping[str, float]) -> Array:
    """Starts (S, P) for log losses y (n,): the grid's local minima and its best points, best first.

    Beyond four free exponents the grid is a random scatter of points.

    Args:
      free: (P,), mask of the free coordinates.
      fixed: (P,), values of the other coordinates.
      guess: natural values of parameters without a grid, by name.
    """
    law, n = surface.law, surface.n
    linear = [surface.position[name] for name in law.linear]
    grid, shape = _grid(surface, guess, free, fixed, linear)
    rows = np.linspace(0, n - 1, min(n, ROWS, max(40, _NUMBERS // len(grid)))).astype(int)
    amplitude, best = np.empty((len(grid), len(linear))), np.empty(len(grid))
    wide = max(1, getattr(surface, "size", n) // max(n, 1))
    step = max(1, _NUMBERS // (len(rows) * max(len(linear), 1) * wide))
    for s in range(0, len(grid), step):
        part = slice(s, s + step)
        with np.errstate(over="ignore", invalid="ignore"):  # far corners of a grid have no finite loss
            amplitude[part], best[part] = _project(surface, grid[part], y, rows, linear, free, fixed)
    z = grid
    for j, i in enumerate(linear):
        if free[i]:
            z[:, i] = amplitude[:, j] if i == surface.floor else np.log(np.maximum(amplitude[:, j], 1e-4))
    order = np.argsort(best, kind="stable")
    order = order[np.isfinite(best[order])]
    count = 2 * _COUNT if len(shape) > 2 else _COUNT
    minima = [] if shape == (-1,) else _local(best.reshape(shape), order)[: count // 2]
    chosen = z[list(dict.fromkeys(minima + order.tolist()))[:count]]
    return chosen if len(chosen) else z[:1]


def _grid(
    surface: Any, guess: Mapping[str, float], free: Array, fixed: Array, linear: list[int]
) -> tuple[Array, tuple[int, ...]]:
    """Coordinates (G, P) of the grid and its shape; shape (-1,) is a scatter."""
    law = surface.law
    others = [i for i in range(surface.P) if i not in linear]
    axes: list[tuple[float, float] | None] = []
    z = np.array(fixed, dtype=np.float64)
    for i in others:
        p = law.coordinates[i]
        ends = None
        if free[i]:
            ends = _ends(surface, p)
            if p.name in guess:
                z[i] = np.log(guess[p.name]) if p.log else guess[p.name]
                ends = None
        axes.append(ends)
    open_ = [i for i, ends in zip(others, axes) if ends is not None]
    ranges = [ends for ends in axes if ends is not None]
    if len(open_) > 4:
        costly = law.slow or law.curve
        unit = np.random.default_rng(0).random((_MOST if not costly else _FEW, len(open_)))
        columns = [_spread(surface, i, ends, unit[:, j]) for j, (i, ends) in enumerate(zip(open_, ranges))]
        open_values, shape = np.stack(columns, 1), (-1,)
    else:
        points = min(_POINTS, int(_MOST ** (1 / max(len(open_), 1))))
        unit = np.linspace(0, 1, points)
        columns = [_spread(surface, i, ends, unit) for i, ends in zip(open_, ranges)]
        open_values = np.array(list(itertools.product(*columns))).reshape(points ** len(open_), len(open_))
        shape = tuple(len(c) for c in columns)
    loose = [i for i, ends in zip(others, axes) if ends is None and free[i]]
    if loose and not open_:
        open_values, shape = np.empty((_POINTS, 0)), (-1,)
    out = np.tile(z, (len(open_values), 1))
    out[:, open_] = open_values
    if loose:  # a guess is a single point: scatter starts around it
        around = np.random.default_rng(1).standard_normal((len(open_values), len(loose)))
        around[0] = 0.0
        out[:, loose] += 0.1 * around * np.minimum(1.0, np.abs(out[:, loose]) + 0.05)
    return out, shape


def _ends(surface: Any, p: Any) -> tuple[float, float]:
    if isinstance(p.grid, str):  # the range of that column
        values = surface.c[p.grid]
        return float(values.min()), float(values.max())
    return p.grid or (0.03, 2.0)


def _spread(surface: Any, i: int, ends: tuple[float, float], unit: Array) -> Array:
    """Coordinates at fractions ``unit`` of a range: even in logarithms where the range is positive."""
    lo, hi = ends
    logs = getattr(surface, "log", None)
    if lo > 0:
        value = np.log(lo) + (np.log(hi) - np.log(lo)) * unit
        return value if logs is not None and logs[i] else np.exp(value)
    return lo + (hi - lo) * unit


def _project(
    surface: Any, z: Array, y: Array, rows: Array, linear: list[int], free: Array, fixed: Array
) -> tuple[Array, Array]:
    """Amplitudes (G, linear) at the grid's points and the sum of squared relative residuals (G,)."""
    q = z[:, surface.outer] if surface.outer is not None else np.ones(len(z))
    target = np.exp(np.clip((y[rows] - np.log(surface.scale))[None] / q[:, None], -150, 150))
    rest = np.ones((len(z), len(rows)))
    if hasattr(surface, "known"):
        rest -= surface.known(z, rows) / target
    basis = surface.basis(z, rows) / target[:, :, None]
    broken = ~(np.isfinite(basis).all((1, 2)) & np.isfinite(rest).all(1))
    basis[broken], rest[broken] = 0.0, np.inf
    amplitude = np.zeros((len(z), len(linear)))
    open_ = [j for j, i in enumerate(linear) if free[i]]
    for j, i in enumerate(linear):
        if not free[i]:
            amplitude[:, j] = fixed[i] if i == surface.floor else np.exp(fixed[i])
            rest -= amplitude[:, [j]] * basis[:, :, j]
    rest[broken] = 0.0
    gram = np.einsum("gna,gnb->gab", basis, basis)
    right = np.einsum("gna,gn->ga", basis, rest)
    broken |= ~(np.isfinite(gram).all((1, 2)) & np.isfinite(right).all(1))
    gram[broken], right[broken] = 0.0, 0.0
    best = np.where(broken, np.inf, (rest**2).sum(1))
    base = best.copy()
    for size in range(1, len(open_) + 1):
        for subset in map(list, itertools.combinations(open_, size)):
            ridge = 1e-13 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-300
            block = gram[:, subset][:, :, subset] + ridge * np.eye(size)
            solution = np.linalg.solve(block, right[:, subset][:, :, None])[:, :, 0]
            with np.errstate(invalid="ignore"):
                cost = base - (solution * right[:, subset]).sum(1)
            good = np.all(solution > 0, 1) & (cost < best)
            best = np.where(good, cost, best)
            full = np.zeros((len(z), len(open_)))
            full[:, [open_.index(j) for j in subset]] = solution
            amplitude[:, open_] = np.where(good[:, None], full, amplitude[:, open_])
    return amplitude, best * q**2


def _local(cost: Array, order: Array) -> list[int]:
    """Indices of the grid's local minima, best first."""
    local = np.ones(cost.shape, dtype=bool)
    for axis in range(cost.ndim):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(cost.ndim)]
        wide = np.pad(cost, pad, constant_values=np.inf)
        before, after = (np.take(wide, range(k, cost.shape[axis] + k), axis) for k in (0, 2))
        local &= (cost <= before) & (cost <= after)
    flat = local.ravel()
    return [int(i) for i in order if flat[i]]
