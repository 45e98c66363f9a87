"""A ``Smooth`` law on the rows of a table: what the engine minimises over, with exact derivatives by ``jets``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.engine.surface import State
from analysis.laws import jets
from analysis.laws.base import Array, Columns
from analysis.laws.smooth import QUIET, Smooth

_CHUNK = 10_000  # numbers in one array of derivatives, so that dozens of such arrays fit in the second-level cache


class SmoothSurface:
    """A ``Smooth`` law on rows, with the interface of ``surface.Surface``.

    Coordinate of a floor: floor / scale; of an amplitude: log(amplitude * what it multiplies at the data's centre /
    scale); of a ``log`` parameter: its logarithm; of others: themselves.
    """

    outer: int | None = None
    penalty: tuple[Array, Array] | None = None
    prior: tuple[Array, Array] | None = None

    def __init__(self, law: Smooth, columns: Columns, *, centred: bool = True, scale: float = 1.0):
        self.law, self.scale = law, float(scale) if law.linear else 1.0
        self.c = law.arrays(columns)
        self.n = len(next(iter(self.c.values())))
        self.size = max(v.size for v in self.c.values())  # of the largest column: some hold an array in each row
        self.P = len(law.params)
        self.position = {p.name: i for i, p in enumerate(law.params)}
        self.floor = self.position[law.floor] if law.floor else None
        self.centre = {k: _centre(v, k in law.signed) for k, v in self.c.items()} if centred else None
        self.log = np.array([p.log for p in law.params])
        self.sign = np.array([-1.0 if name in law.negative else 1.0 for name in law.linear])
        with np.errstate(**QUIET):
            low, high = (np.array([getattr(p, end) for p in law.params]) for end in ("lower", "upper"))
            self.lower, self.upper = np.where(self.log, np.log(low), low), np.where(self.log, np.log(high), high)
        if self.floor is not None:
            self.lower[self.floor] /= self.scale
            self.upper[self.floor] /= self.scale
        for name in law.amplitudes:
            self.lower[self.position[name]], self.upper[self.position[name]] = -30.0, 60.0

    def rows(self, index: Array) -> SmoothSurface:
        """The same coordinates on some of the rows."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.n, part.c = len(index), {k: v[index] for k, v in self.c.items()}
        part.size = max(v.size for v in part.c.values())
        return part

    def _shift(self, z: Array) -> dict[str, Array]:
        """Logs of what each amplitude multiplies at the centre, (S, 1); zeros without a centre."""
        if self.centre is None or not self.law.amplitudes:
            return {name: np.zeros((len(z), 1)) for name in self.law.amplitudes}
        logs = self.law.logs(np, self._plain(z), self.centre)
        return {name: np.broadcast_to(logs[name], (len(z), 1)) for name in self.law.amplitudes}

    def _plain(self, z: Array) -> dict[str, Array]:
        out = {}
        for name in self.law.nonlinear:
            i = self.position[name]
            out[name] = np.exp(z[:, [i]]) if self.log[i] else z[:, [i]]
        return out

    def to_theta(self, z: Array) -> Array:
        """Coordinates (S, P) -> natural parameters (S, P)."""
        z = np.atleast_2d(np.asarray(z, dtype=np.float64))
        p = np.where(self.log, np.exp(np.where(self.log, z, 0.0)), z)
        if self.floor is not None:
            p[:, self.floor] = z[:, self.floor] * self.scale
        with np.errstate(**QUIET):
            for name, shift in self._shift(z).items():
                i = self.position[name]
                p[:, i] = np.exp(np.clip(z[:, i] - shift[:, 0], -690, 690)) * self.scale
        return self.law.ordered(p) if self.law.ordered else p

    def to_z(self, theta: Array) -> Array:
        """Natural parameters (S, P) -> coordinates (S, P)."""
        p = np.atleast_2d(np.asarray(theta, dtype=np.float64))
        with np.errstate(**QUIET):
            z = np.where(self.log, np.log(np.where(self.log, p, 1.0)), p)
            if self.floor is not None:
                z[:, self.floor] = p[:, self.floor] / self.scale
            for name, shift in self._shift(z).items():
                i = self.position[name]
                z[:, i] = np.maximum(np.log(p[:, i] / self.scale) + shift[:, 0], self.lower[i])
        return z

    def hold(self, name: str, value: float) -> float:
        """The coordinate of a parameter held at ``value``; amplitudes need a surface that is not centred."""
        i = self.position[name]
        if name in self.law.amplitudes:
            return float(np.log(max(value, 1e-300)) - np.log(self.scale))
        return value / self.scale if i == self.floor else float(np.log(value)) if self.log[i] else value

    def basis(self, z: Array, rows: Array) -> Array:
        """The factor that each of ``law.linear`` multiplies, over the loss's scale, (S, rows, amplitudes)."""
        c = {k: v[rows] for k, v in self.c.items()}
        with np.errstate(**QUIET):
            logs = self.law.logs(np, self._plain(z), c)
            shift = self._shift(z)
            factor = np.exp(logs["*"]) if "*" in logs else 1.0
            out = np.ones((len(z), len(rows), len(self.law.linear)))
            for j, name in enumerate(self.law.linear):
                size = 1.0 if name == self.law.floor else np.exp(logs[name] - shift[name])
                out[:, :, j] = self.sign[j] * size * factor
        return out

    def known(self, z: Array, rows: Array) -> Array:
        """The part of loss / scale that no amplitude multiplies, (S, rows)."""
        c = {k: v[rows] for k, v in self.c.items()}
        with np.errstate(**QUIET):
            logs = self.law.logs(np, self._plain(z), c)
            total = np.zeros((len(z), len(rows)))
            for name, log in logs.items():
                if name == "+":
                    total = total + log / self.scale
                elif name not in self.law.amplitudes and name != "*":
                    total = total + np.exp(log) / self.scale
            if set(logs) <= {"*"} and self.floor is None:
                total = total + 1.0
            return total * np.exp(logs["*"]) if "*" in logs else total

    def _log(self, m: Any, z: list[Any], c: Mapping[str, Any], centre: Mapping[str, Any] | None) -> Any:
        """log(L / scale) at coordinates z, one entry each, computed with the array library m."""
        law = self.law
        p = {k: m.exp(z[i]) if self.log[i] else z[i] for k in law.nonlinear for i in (self.position[k],)}
        logs = law.logs(m, p, c)
        at = law.logs(m, p, centre) if centre is not None and law.amplitudes else {}
        if self._one_beside_known(logs):  # log(known + exp(u)) in one step needs half the derivatives
            (name,) = law.amplitudes
            u = z[self.position[name]] + logs[name]
            return m.logaddexp(np.log(logs["+"] / self.scale), u - at[name] if at else u)
        total: Any = None

        def add(x: Any) -> None:
            nonlocal total
            total = x if total is None else total + x

        if "+" in logs:
            add(logs["+"] / self.scale)
        if self.floor is not None:
            add(z[self.floor])
        for name, log in logs.items():
            if name in law.amplitudes:
                u = z[self.position[name]] + log
                u = m.exp(u - at[name] if at else u)
                add(-u if name in law.negative else u)
            elif name not in ("*", "+"):
                add(m.exp(log) * (1 / self.scale))
        if total is None:
            return logs["*"]
        return m.log(total) + logs["*"] if "*" in logs else m.log(total)

    def _one_beside_known(self, logs: Mapping[str, Any]) -> bool:
        """Whether the formula is a positive known part plus one term."""
        known = logs.get("+")
        if not isinstance(known, np.ndarray) or self.floor is not None or len(self.law.amplitudes) != 1:
            return False
        return set(logs) == {"+", *self.law.amplitudes} and not self.law.negative and bool((known > 0).all())

    def evaluate(self, z: Array) -> tuple[Array, State]:
        """Log loss (S, n) at coordinates (S, P); not-a-number where the formula has none."""
        with np.errstate(**QUIET):
            f = self._log(np, [z[:, [i]] for i in range(self.P)], self.c, self.centre)
        f = np.broadcast_to(f, (len(z), self.n)) + np.log(self.scale)
        return f, {"z": z, "log": f}

    def _jet(self, z: Array) -> Any:
        leaves = [jets.variable(z[:, [i]], i) for i in range(self.P)]
        return self._log(jets, leaves, self.c, self.centre)

    def normal(self, state: State, c1: Array, c2: Array) -> tuple[Array, Array]:
        """Gradient (S, P) and Hessian (S, P, P) of an objective with dO/df = c1 and d2O/df2 = c2, both (S, n)."""
        z = state["z"]
        S = len(z)
        g, h = np.zeros((S, self.P)), np.zeros((S, self.P, self.P))
        step = max(1, _CHUNK // max(self.size, 1))
        with np.errstate(**QUIET):
            for s in range(0, S, step):
                part = slice(s, min(s + step, S))
                f, a, b = self._jet(z[part]), c1[part], c2[part]
                g[part], h[part] = _contract(f, a, b, self.P)
        return g, h

    def jacobian(self, state: State) -> Array:
        """d log L / dz, (S, n, P)."""
        z = state["z"]
        out = np.zeros((len(z), self.n, self.P))
        with np.errstate(**QUIET):
            for i, x in self._jet(z).g.items():
                out[:, :, i] = x
        return out


def _contract(f: jets.Jet, c1: Array, c2: Array, P: int) -> tuple[Array, Array]:
    g, h = np.zeros((len(c1), P)), np.zeros((len(c1), P, P))
    for i, x in f.g.items():
        g[:, i] = (c1 * x).sum(1)
        weighted = c2 * x
        for j, y in f.g.items():
            if j >= i:
                h[:, i, j] += (weighted * y).sum(1)
    for (i, j), x in f.h.items():
        h[:, i, j] += (c1 * x).sum(1)
    low = np.tril_indices(P, -1)
    h[:, low[0], low[1]] = h[:, low[1], low[0]]
    return g, h


def _centre(values: Array, signed: bool) -> Array:
    """One row in the middle of the data: the geometric mean of a positive column, the mean of another."""
    if signed:
        return values.mean(0, keepdims=True)
    return np.exp(np.log(values).mean(0, keepdims=True))
