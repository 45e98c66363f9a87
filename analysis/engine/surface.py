"""A sum of power terms on the rows of a table, with its derivatives: what the engine minimises over.

Coordinates are the natural parameters with amplitudes replaced by the logarithm of the term at the centre of the data;
that takes the condition number of a fit from about 1e11 to about 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, Columns, Law, log_columns

State = dict[str, Any]  # intermediate values of an evaluation that the derivatives reuse


class Surface:
    """A law on n rows in fitting coordinates z (S, P): log loss, its derivatives, and the map to parameters.

    Coordinate of a floor: floor / scale. Of an amplitude: log(term at the data's centre / scale). Others: themselves.
    ``tie`` = {exponent: factor} replaces each named exponent by factor * (the first named one's coordinate).
    """

    # (P,) each: means and weights of the objective's quadratic penalty; means and precisions of the priors behind it
    penalty: tuple[Array, Array] | None = None
    prior: tuple[Array, Array] | None = None

    def __init__(self, law: Law, columns: Columns, *, centred: bool = True, scale: float = 1.0):
        self.law = law
        self.sign = np.ones(len(law.linear))
        logs = log_columns(law, columns)
        self.n = len(next(iter(logs.values())))
        self.centre = {c: float(v.mean()) if centred else 0.0 for c, v in logs.items()}
        self.scale = 1.0 if law.outer else float(scale)
        self.P = len(law.coordinates)
        self.position = {c.name: i for i, c in enumerate(law.coordinates)}
        self.floor = self.position[law.floor] if law.floor else None
        self.outer = self.position[law.outer] if law.outer else None
        self.indices: list[list[int]] = []
        self.X: list[Array] = []
        self.offset: list[Array] = []
        for term in law.terms:
            index, design, offset = [self.position[term.amplitude]], [np.ones(self.n)], np.zeros(self.n)
            for column, e in term.exponents:
                x = -(logs[column] - self.centre[column])
                if isinstance(e, str):
                    index.append(self.position[e])
                    design.append(x)
                else:
                    offset = offset + e * x
            self.indices.append(index)
            self.X.append(np.stack(design, 1))
            self.offset.append(offset)
        self._products()
        self.lower = np.array([p.lower for p in law.coordinates])
        self.upper = np.array([p.upper for p in law.coordinates])
        if self.floor is not None:
            self.lower[self.floor] /= self.scale
            self.upper[self.floor] /= self.scale
        for term in law.terms:  # below 1e-13 of the loss a term is zero, and its coordinate would drift for ever
            self.lower[self.position[term.amplitude]], self.upper[self.position[term.amplitude]] = -30.0, 60.0

    def _products(self) -> None:
        self.XX = {}
        for k, xk in enumerate(self.X):
            for m in range(k, len(self.X)):
                xm = self.X[m]
                self.XX[k, m] = (xk[:, :, None] * xm[:, None, :]).reshape(self.n, -1)

    def tied(self, factors: Mapping[str, float]) -> Surface:
        """The same surface with each named exponent equal to its factor times one shared coordinate.

        The shared coordinate is that of the first name; the others keep their place but have no effect, so fix them.
        """
        other = object.__new__(Surface)
        other.__dict__.update(self.__dict__)
        other.X, other.indices = [x.copy() for x in self.X], [list(i) for i in self.indices]
        names = list(factors)
        target = self.position[names[0]]
        for k, index in enumerate(other.indices):
            for j, i in enumerate(index):
                for name in names:
                    if j and i == self.position[name]:
                        other.X[k][:, j] *= factors[name]
                        index[j] = target
        other._products()
        return other

    def rows(self, index: Array) -> Surface:
        """The same coordinates on some of the rows."""
        part = object.__new__(Surface)
        part.__dict__.update(self.__dict__)
        part.n = len(index)
        part.X, part.offset = [x[index] for x in self.X], [o[index] for o in self.offset]
        part._products()
        return part

    def to_theta(self, z: Array) -> Array:
        """Coordinates (S, P) -> natural parameters (S, P)."""
        z = np.atleast_2d(z)
        p = np.array(z, dtype=np.float64)
        if self.floor is not None:
            p[:, self.floor] = z[:, self.floor] * self.scale
        for term in self.law.terms:
            i = self.position[term.amplitude]
            log_a = z[:, i] + np.log(self.scale)
            for column, e in term.exponents:
                log_a = log_a + (z[:, self.position[e]] if isinstance(e, str) else e) * self.centre[column]
            p[:, i] = np.exp(log_a)
        return self.law.natural(p)

    def hold(self, name: str, value: float) -> float:
        """The coordinate of a parameter held at ``value``; amplitudes need a surface that is not centred."""
        if name in {t.amplitude for t in self.law.terms}:
            return float(np.log(max(value, 1e-300)) - np.log(self.scale))
        return value / self.scale if name == self.law.floor else value

    def basis(self, z: Array, rows: Array) -> Array:
        """Terms (S, rows, amplitudes) in units of ``scale`` with amplitudes of one, in the order of ``law.linear``."""
        out = np.ones((len(z), len(rows), len(self.law.linear)))
        for j, name in enumerate(self.law.linear):
            i = self.position[name]
            if i == self.floor:
                continue
            k = next(k for k, index in enumerate(self.indices) if index[0] == i)
            unit = z.copy()
            unit[:, i] = 0.0
            out[:, :, j] = np.exp(unit[:, self.indices[k]] @ self.X[k][rows].T + self.offset[k][rows])
        return out

    def to_z(self, theta: Array) -> Array:
        """Natural parameters (S, P) -> coordinates (S, P)."""
        p = np.array(self.law.power(np.atleast_2d(np.asarray(theta, dtype=np.float64))))
        z = p.copy()
        if self.floor is not None:
            z[:, self.floor] = p[:, self.floor] / self.scale
        for term in self.law.terms:
            i = self.position[term.amplitude]
            with np.errstate(divide="ignore"):
                log_a = np.log(p[:, i]) - np.log(self.scale)
            for column, e in term.exponents:
                log_a = log_a - (p[:, self.position[e]] if isinstance(e, str) else e) * self.centre[column]
            z[:, i] = np.maximum(log_a, self.lower[i])
        return z

    def evaluate(self, z: Array) -> tuple[Array, State]:
        """Log loss (S, n) at coordinates (S, P), and what the derivatives reuse."""
        terms = [np.exp(z[:, i] @ x.T + o) for i, x, o in zip(self.indices, self.X, self.offset)]
        total = terms[0].copy() if len(terms) > 1 or self.floor is not None else terms[0]
        for t in terms[1:]:
            total += t
        if self.floor is not None:
            total += z[:, [self.floor]]
        log_total = np.log(total)
        inverse = 1.0 / total
        shares = [t * inverse for t in terms]
        state = {"shares": shares, "inverse": inverse, "log": log_total, "q": None}
        f = log_total
        if self.outer is not None:
            state["q"] = z[:, [self.outer]]
            f = f * state["q"]
        return f + np.log(self.scale), state

    def normal(self, state: State, c1: Array, c2: Array) -> tuple[Array, Array]:
        """Gradient (S, P) and Hessian (S, P, P) of an objective with dO/df = c1 and d2O/df2 = c2, both (S, n).

        The sum over rows of c2 g g' + c1 H, without ever forming g (S, n, P): every term's design is shared by the
        parameter sets, so each block is one matrix product.
        """
        shares, inverse, q = state["shares"], state["inverse"], state["q"]
        S = len(c1)
        g, h = np.zeros((S, self.P)), np.zeros((S, self.P, self.P))
        d1 = c1 if q is None else c1 * q
        d2 = c2 - d1 if q is None else c2 * q * q - d1
        weighted = [d2 * s for s in shares]
        for k, i in enumerate(self.indices):
            direct = d1 * shares[k]
            g[:, i] += direct @ self.X[k]
            for m in range(k, len(shares)):
                block = weighted[k] * shares[m]
                if m == k:
                    block = block + direct
                block = (block @ self.XX[k, m]).reshape(S, len(i), len(self.indices[m]))
                h[:, np.array(i)[:, None], self.indices[m]] += block
                if m != k:
                    h[:, np.array(self.indices[m])[:, None], i] += block.transpose(0, 2, 1)
            if self.floor is not None:
                row = (weighted[k] * inverse) @ self.X[k]
                h[:, self.floor, i] += row
                h[:, i, self.floor] += row
            if q is not None:
                row = ((c2 * q * state["log"] + c1) * shares[k]) @ self.X[k]
                h[:, self.outer, i] += row
                h[:, i, self.outer] += row
        if self.floor is not None:
            g[:, self.floor] = (d1 * inverse).sum(1)
            h[:, self.floor, self.floor] = (d2 * inverse * inverse).sum(1)
            if q is not None:
                row = ((c2 * q * state["log"] + c1) * inverse).sum(1)
                h[:, self.outer, self.floor] += row
                h[:, self.floor, self.outer] += row
        if q is not None:
            g[:, self.outer] = (c1 * state["log"]).sum(1)
            h[:, self.outer, self.outer] = (c2 * state["log"] ** 2).sum(1)
        return g, h

    def jacobian(self, state: State) -> Array:
        """d log L / dz, (S, n, P)."""
        S = len(state["log"])
        g = np.zeros((S, self.n, self.P))
        q = 1.0 if state["q"] is None else state["q"]
        for i, x, s in zip(self.indices, self.X, state["shares"]):
            for j, index in enumerate(i):
                g[:, :, index] += q * s * x[:, j]
        if self.floor is not None:
            g[:, :, self.floor] = q * state["inverse"]
        if self.outer is not None:
            g[:, :, self.outer] = state["log"]
        return g


class Wrapped(Surface):
    """A surface whose value is a function of an inner surface's, row by row, with the inner coordinates and priors."""

    def __init__(self, inner: Any):
        self.__dict__.update(inner.__dict__)
        self.inner, self.outer = inner, inner.outer

    def _more(self, rows: Any) -> tuple[Any, ...]:
        """Further arguments of the constructor, restricted to the rows."""
        return ()

    def _again(self, inner: Any, rows: Any) -> Any:
        """The same wrapper around another inner surface, on the rows."""
        part = type(self)(inner, *self._more(rows))
        part.penalty, part.prior = self.penalty, self.prior
        return part

    def rows(self, index: Array) -> Any:
        return self._again(self.inner.rows(index), index)

    def tied(self, factors: Mapping[str, float]) -> Any:
        return self._again(self.inner.tied(factors), slice(None))

    def to_theta(self, z: Array) -> Array:
        return self.inner.to_theta(z)

    def to_z(self, theta: Array) -> Array:
        return self.inner.to_z(theta)

    def hold(self, name: str, value: float) -> float:
        return self.inner.hold(name, value)


class Raw(Wrapped):
    """A surface whose value is the loss over its scale, for residuals of the loss itself.

    f = L / scale - 1 + log(scale): equal to log L to first order at the scale, so that noise means the same.
    """

    def __init__(self, inner: Any):
        super().__init__(inner)
        self.shift = float(np.log(inner.scale))

    def evaluate(self, z: Array) -> tuple[Array, State]:
        """Loss over scale, less one, plus log(scale): (S, n)."""
        f, state = self.inner.evaluate(z)
        ratio = np.exp(np.minimum(f - self.shift, 700.0))
        return ratio - 1 + self.shift, {**state, "raw": ratio}

    def normal(self, state: State, c1: Array, c2: Array) -> tuple[Array, Array]:
        ratio = state["raw"]
        return self.inner.normal(state, c1 * ratio, c2 * ratio * ratio + c1 * ratio)

    def jacobian(self, state: State) -> Array:
        return self.inner.jacobian(state) * state["raw"][:, :, None]


class Weighted(Wrapped):
    """A surface times the root (n,) of the rows' precisions, so that residuals are in units of their own noise."""

    def __init__(self, inner: Any, root: Array):
        super().__init__(inner)
        self.root = root

    def _more(self, rows: Any) -> tuple[Any, ...]:
        return (self.root[rows],)

    def evaluate(self, z: Array) -> tuple[Array, State]:
        f, state = self.inner.evaluate(z)
        return f * self.root, state

    def normal(self, state: State, c1: Array, c2: Array) -> tuple[Array, Array]:
        return self.inner.normal(state, c1 * self.root, c2 * self.root**2)

    def jacobian(self, state: State) -> Array:
        return self.inner.jacobian(state) * self.root[:, None]


def surface_of(law: Law, columns: Columns, *, centred: bool = True, scale: float = 1.0) -> Any:
    """The surface of a law on these rows, of the class that suits the law.

    Args:
      centred: measure amplitudes at the centre of the data, for a well-conditioned fit.
      scale: unit of loss for floors and amplitudes.
    """
    from analysis.engine.smooth_surface import SmoothSurface
    from analysis.laws.smooth import Smooth

    if not isinstance(law, Smooth):
        return Surface(law, columns, centred=centred, scale=scale)
    if law.slow:
        from analysis.engine.jax_surface import SlowSurface  # imports JAX

        return SlowSurface(law, columns, centred=centred, scale=scale)
    return SmoothSurface(law, columns, centred=centred, scale=scale)
