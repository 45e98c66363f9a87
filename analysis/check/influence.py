"""Which rows determine a fit: refits without each of them, and without groups of rows that mask each other.

Rows that lie off the law on the same side pull it towards them: each has a small residual, and leaving out any one of
them changes little (masking; Rousseeuw and Leroy 1987). So the law is also refitted, repeatedly, without all rows that
lie off it, and rows are judged by that law.
"""

from __future__ import annotations

import numpy as np

from analysis.card import Influence, Value
from analysis.engine.estimate import Estimate, minimise, refit
from analysis.engine.losses import HUBER_K, proposal2
from analysis.engine.uncertainty import Inference

Array = np.ndarray
FAR = 4.5  # distance from the law, in standard deviations of the noise, beyond which a row is off it
MOST = 0.25  # where a larger share of the rows is off the law, the law is wrong
LEAVE_OUT = 400  # rows left out one by one, at most
GROUP = 30  # rows left out together, at most: if more are off the law, the law is wrong
LARGE = 20_000  # rows above which the law is not refitted
PASSES = 10
LITTLE = 0.05  # smallest pull of a row in the group, as a share of the strongest


class Together(Value):
    """The effect of leaving out rows together on the watched quantity.

    Attributes:
      change: without all of them.
      rows: their indices, the strongest first.
      alone: change without each one alone.
      back: change when each one is put back while the others are out.
    """

    quantity: str
    change: float
    rows: tuple[int, ...]
    alone: tuple[float, ...]
    back: tuple[float, ...]


def influence(point: Estimate, y: Array, ids: list[str], top: int = 10) -> tuple[Influence, ...]:
    """Refits without each row: the ``top`` largest changes of the watched quantity, with residuals in units of scale.

    At most the 400 rows with the largest residuals are tried, and fewer in tables beyond ``LARGE``.
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
    """Influence of whole learning curves, from the jackknife's refits; the residual is the mean over the run."""
    if at.left_out is None or at.groups is None:
        return ()
    r = (y - point.surface.evaluate(point.z[None])[0][0]) / point.scale
    name, base, values = _watched(point, at.left_out)
    rows = [
        Influence(run=run, residual=float(r[at.groups.codes == k].mean()), quantity=name, change=float(value - base))
        for k, (run, value) in enumerate(zip(at.groups.names, values))
    ]
    return tuple(sorted(rows, key=lambda row: -abs(row.change)))


def outlying(point: Estimate, y: Array) -> tuple[Array, Array]:
    """Indices of rows off the law that the others follow, the farthest first, and all residuals (n,) from that law.

    Residuals are in standard deviations of the noise of the other rows.
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
    """The effect of leaving out together those of the rows ``off`` (indices) that pull the law to one side.

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
    """Name and value of the watched quantity, and its values (S,) without each of S sets of rows.

    The quantity is a where the law has one, else the law's first exponent.
    """
    w = np.ones((len(sets), len(y)))
    for k, rows in enumerate(sets):
        w[k, rows] = 0.0
    return _watched(point, refit(point, y, w=w)[0])


def _watched(point: Estimate, z: Array) -> tuple[str, float, Array]:
    """Name and value of the quantity whose changes are shown, and its values (S,) at coordinates z (S, P)."""
    law, base, theta = point.surface.law, point.theta, point.surface.to_theta(z)
    at, pair = law.exponents(base[None]), law.exponents(theta)
    if at is not None and pair is not None:
        return "a", float(at["a"][0]), pair["a"]
    i = law.index(law.main_exponent)
    return law.main_exponent, float(base[i]), theta[:, i]
