"""Which rows decide a fit: refits without each of them, and without those that hide each other.

Rows that lie off the law on one side pull it along: left out one at a time none of them matters much, and the residual
of each is small (masking; Rousseeuw and Leroy 1987). So the law is also fitted to what remains when all that lie off it
are left out, repeatedly, and rows are judged by that law.
"""

from __future__ import annotations

import numpy as np

from analysis.card import Influence, Value
from analysis.engine.estimate import Estimate, minimise, refit
from analysis.engine.losses import HUBER_K, proposal2
from analysis.engine.uncertainty import Inference

Array = np.ndarray
FAR = 4.5  # standard deviations of the noise
MOST = 0.25  # with a larger share of the rows off the law, it is the law that is wrong
LEAVE_OUT = 400  # rows that are left out one by one, at most
GROUP = 30  # rows that are looked at together, at most: more than that off the law speak of the law
LARGE = 20_000  # rows above which the law is not fitted again
PASSES = 10
LITTLE = 0.05  # of the strongest pull, that a row of the group has at least


class Together(Value):
    """What leaving out rows together does.

    Attributes:
      change: of the quantity without all of them.
      rows: their indices, the strongest first.
      alone: change without each alone.
      back: what putting each one back does when all others are out.
    """

    quantity: str
    change: float
    rows: tuple[int, ...]
    alone: tuple[float, ...]
    back: tuple[float, ...]


def influence(point: Estimate, y: Array, ids: list[str], top: int = 10) -> tuple[Influence, ...]:
    """Refits without each row: the ``top`` largest changes of the watched quantity, residuals in units of scale.

    Rows are the 400 with the largest residuals when there are more, and fewer in tables beyond ``LARGE``.
    """
    n = len(y)
    r = (y - point.surface.evaluate(point.z[None])[0][0]) / point.scale
    most = min(LEAVE_OUT, max(1, LEAVE_OUT * LARGE // n))
    rows = np.arange(n) if n <= LEAVE_OUT else np.argsort(-np.abs(r), kind="stable")[:most]
    name, base, values = _without(point, y, [[int(k)] for k in rows])
    change = values - base
    order = np.argsort(-np.abs(change), kind="stable")[:top]
    return tuple(
        Influence(run=ids[rows[k]], residual=float(r[rows[k]]), quantity=name, change=float(change[k])) for k in order
    )


def of_curves(point: Estimate, y: Array, at: Inference) -> tuple[Influence, ...]:
    """The same for whole runs of learning curves, of the jackknife's refits; the residual is the run's mean one."""
    if at.left_out is None or at.groups is None:
        return ()
    r = (y - point.surface.evaluate(point.z[None])[0][0]) / point.scale
    name, base, values = _watched(point, at.left_out)
    found = [
        Influence(run=run, residual=float(r[at.groups.codes == k].mean()), quantity=name, change=float(value - base))
        for k, (run, value) in enumerate(zip(at.groups.names, values))
    ]
    return tuple(sorted(found, key=lambda row: -abs(row.change)))


def outlying(point: Estimate, y: Array) -> tuple[Array, Array]:
    """Rows (indices, the farthest first) off the law that the others follow, and all residuals (n,) from that law.

    Residuals are in standard deviations of the others' noise.
    """
    n, P = len(y), int(point.free.sum())
    z, scale, keep = point.z, point.scale, np.ones(n, dtype=bool)
    first = r = (y - point.surface.evaluate(z[None])[0][0]) / scale
    for _ in range(0 if n > LARGE else PASSES):
        off = np.abs(r) > FAR
        if off.sum() > MOST * n:
            r = first
            break
        if np.array_equal(off, ~keep):
            break
        keep = ~off
        w, delta = keep.astype(np.float64), HUBER_K * scale
        for _ in range(2):  # the scale without them, and the law at that scale
            z = minimise(point.surface, z[None], y, w=w, delta=delta, free=point.free)[0][0]
            scale = proposal2((y - point.surface.evaluate(z[None])[0][0])[keep], P)
            delta = HUBER_K * scale
        r = (y - point.surface.evaluate(z[None])[0][0]) / scale
    far = np.flatnonzero(np.abs(r) > FAR)
    return far[np.argsort(-np.abs(r[far]), kind="stable")], r


def together(point: Estimate, y: Array, off: Array) -> Together | None:
    """What leaving out rows ``off`` (indices) together does, of those that pull the law to one side.

    None for fewer than two rows, or too many.
    """
    if not 2 <= len(off) <= GROUP or len(y) > LARGE:
        return None
    sets = [list(off), *[[j for j in off if j != i] for i in off], *[[i] for i in off]]
    name, base, values = _without(point, y, sets)
    back, alone = values[1 : len(off) + 1] - values[0], values[len(off) + 1 :] - base
    pull = back * np.sign(base - values[0])
    order = [int(k) for k in np.argsort(-pull, kind="stable") if pull[k] > LITTLE * pull.max()]
    if len(order) < 2:
        return None
    _, _, left = _without(point, y, [[off[k] for k in order]])
    return Together(
        quantity=name,
        change=float(left[0] - base),
        rows=tuple(int(off[k]) for k in order),
        alone=tuple(float(alone[k]) for k in order),
        back=tuple(float(back[k]) for k in order),
    )


def _without(point: Estimate, y: Array, sets: list[list[int]]) -> tuple[str, float, Array]:
    """The watched quantity: its name, its value, and its values (S,) where each of S sets of rows is left out.

    It is a where the law has one, else the law's first exponent.
    """
    w = np.ones((len(sets), len(y)))
    for k, rows in enumerate(sets):
        w[k, rows] = 0.0
    return _watched(point, refit(point, y, w=w)[0])


def _watched(point: Estimate, z: Array) -> tuple[str, float, Array]:
    """The quantity whose influence is shown: its name, its value, and its values (S,) at coordinates z (S, P)."""
    law, base, theta = point.surface.law, point.theta, point.surface.to_theta(z)
    at, pair = law.exponents(base[None]), law.exponents(theta)
    if at is not None and pair is not None:
        return "a", float(at["a"][0]), pair["a"]
    i = law.index(law.main_exponent)
    return law.main_exponent, float(base[i]), theta[:, i]
