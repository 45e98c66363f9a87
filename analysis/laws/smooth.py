"""Laws that are no sum of power terms: a formula once, in any array library; derivatives exact by ``jets``.

A formula ``logs(m, p, c)`` gets a library ``m`` with numpy's names (numpy, ``jets`` or jax.numpy), parameters ``p`` by
name (those that are not amplitudes) and columns ``c`` by name, and returns a dictionary of

    the name of an amplitude -> the logarithm of what it multiplies
    "*" -> the logarithm of a factor of everything
    "+" -> a part of the loss that no amplitude multiplies and that may be negative
    any other name -> the logarithm of a term without amplitude

so that L = exp(*) (known + floor + sum of signed amplitudes times exp(their logs) + terms without amplitude). What is
absent is absent; a law of "*" alone has the rest equal to one. Amplitudes of a fixed formula come from variable
projection, so that starts need a grid over the other parameters only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.laws import jets
from analysis.laws.base import Array, Columns, Law, Param
from scaling.errors import UserError

Formula = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
_QUIET: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "divide": "ignore", "under": "ignore"}
_CHUNK = 10_000  # numbers in one array of derivatives: dozens of them stay in the second-level cache


@dataclass(frozen=True)
class Smooth(Law):
    """A law given by a formula. ``amplitudes`` enter linearly, those in ``negative`` are subtracted.

    ``ordered`` puts interchangeable parts of parameters (S, P) into one order. The formula of a ``slow`` law sees one
    parameter set at a time, and columns may have more axes after the rows.
    """

    logs: Formula = field(kw_only=True)
    amplitudes: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    ordered: Callable[[Array], Array] | None = None

    @property
    def linear(self) -> tuple[str, ...]:
        return ((self.floor,) if self.floor else ()) + self.amplitudes

    @property
    def nonlinear(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name not in self.linear)

    def renamed(self, column: str) -> dict[str, Any]:
        inner, (old,) = self.logs, self.columns
        params = tuple(replace(p, grid=column) if p.grid == old else p for p in self.params)

        def logs(m: Any, p: Mapping[str, Any], c: Mapping[str, Any]) -> dict[str, Any]:
            return inner(m, p, {old: c[column]})

        signed = (column,) if old in self.signed else ()
        return {"inputs": (column,), "logs": logs, "signed": signed, "params": params, "coordinates": ()}

    def surface(self, columns: Columns, *, centred: bool = True, scale: float = 1.0) -> Any:
        if self.slow:
            from analysis.laws.slow import SlowSurface

            return SlowSurface(self, columns, centred=centred, scale=scale)
        return SmoothSurface(self, columns, centred=centred, scale=scale)

    def arrays(self, columns: Columns) -> dict[str, Array]:
        """The law's columns as float64 with rows first. UserError for a missing or impossible one."""
        out = {}
        for name in self.columns:
            if name not in columns:
                raise UserError("column", name, f"law {self.name} needs columns {', '.join(self.columns)}")
            cells = np.atleast_1d(np.asarray(columns[name]))
            values = np.asarray(np.stack(list(cells)) if cells.dtype == object else cells, dtype=np.float64)
            good = np.isfinite(values) & ((values > 0) | (name in self.signed))
            if not good.all():
                row = int(np.argwhere(~good)[0][0])
                raise UserError(name, float(values[~good][0]), f"row {row} must be a positive finite number")
            out[name] = values
        n = max(len(v) for v in out.values())
        return {k: np.broadcast_to(v, (n, *v.shape[1:])) for k, v in out.items()}

    def predict(self, theta: Any, columns: Columns) -> Array:
        values = self.vector(theta)
        p, c = np.atleast_2d(values), self.arrays(columns)
        n = len(next(iter(c.values())))
        with np.errstate(**_QUIET):
            if self.slow:
                total = np.stack([self.value(row, c, n) for row in p])
            else:
                total = self.value([p[:, [i]] for i in range(p.shape[1])], c, n)
        total = np.broadcast_to(total, (len(p), n))
        return total[0] if values.ndim == 1 else total

    def value(self, p: Any, c: Mapping[str, Array], n: int) -> Array:
        """The formula in numpy for natural parameters in the order of ``names``."""
        by_name = dict(zip(self.names, p))
        found = self.logs(np, {k: by_name[k] for k in self.nonlinear}, c)
        total, empty = np.zeros(n), True
        if "+" in found:
            total, empty = total + found["+"], False
        if self.floor:
            total, empty = total + by_name[self.floor], False
        for name, log in found.items():
            if name in ("*", "+"):
                continue
            size = by_name[name] if name in self.amplitudes else 1.0
            total, empty = total + (-size if name in self.negative else size) * np.exp(log), False
        if empty:
            total = total + 1.0
        return total * np.exp(found["*"]) if "*" in found else total


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
        self.size = max(v.size for v in self.c.values())  # of the largest column: some hold an array a row
        self.P = len(law.params)
        self.position = {p.name: i for i, p in enumerate(law.params)}
        self.floor = self.position[law.floor] if law.floor else None
        self.centre = {k: _centre(v, k in law.signed) for k, v in self.c.items()} if centred else None
        self.log = np.array([p.log for p in law.params])
        self.sign = np.array([-1.0 if name in law.negative else 1.0 for name in law.linear])
        with np.errstate(**_QUIET):
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
        found = self.law.logs(np, self._plain(z), self.centre)
        return {name: np.broadcast_to(found[name], (len(z), 1)) for name in self.law.amplitudes}

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
        with np.errstate(**_QUIET):
            for name, shift in self._shift(z).items():
                i = self.position[name]
                p[:, i] = np.exp(np.clip(z[:, i] - shift[:, 0], -690, 690)) * self.scale
        return self.law.ordered(p) if self.law.ordered else p

    def to_z(self, theta: Array) -> Array:
        """Natural parameters (S, P) -> coordinates (S, P)."""
        p = np.atleast_2d(np.asarray(theta, dtype=np.float64))
        with np.errstate(**_QUIET):
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
        """What each of ``law.linear`` multiplies, (S, rows, amplitudes), over the loss's scale, amplitudes at one."""
        c = {k: v[rows] for k, v in self.c.items()}
        with np.errstate(**_QUIET):
            found = self.law.logs(np, self._plain(z), c)
            shift = self._shift(z)
            factor = np.exp(found["*"]) if "*" in found else 1.0
            out = np.ones((len(z), len(rows), len(self.law.linear)))
            for j, name in enumerate(self.law.linear):
                size = 1.0 if name == self.law.floor else np.exp(found[name] - shift[name])
                out[:, :, j] = self.sign[j] * size * factor
        return out

    def known(self, z: Array, rows: Array) -> Array:
        """The part of the loss over its scale that no amplitude multiplies, (S, rows)."""
        c = {k: v[rows] for k, v in self.c.items()}
        with np.errstate(**_QUIET):
            found = self.law.logs(np, self._plain(z), c)
            total = np.zeros((len(z), len(rows)))
            for name, log in found.items():
                if name == "+":
                    total = total + log / self.scale
                elif name not in self.law.amplitudes and name != "*":
                    total = total + np.exp(log) / self.scale
            if set(found) <= {"*"} and self.floor is None:
                total = total + 1.0
            return total * np.exp(found["*"]) if "*" in found else total

    def _log(self, m: Any, z: list[Any], c: Mapping[str, Any], centre: Mapping[str, Any] | None) -> Any:
        """log(L / scale) of coordinates z, one entry each, in library m."""
        law = self.law
        p = {k: m.exp(z[i]) if self.log[i] else z[i] for k in law.nonlinear for i in (self.position[k],)}
        found = law.logs(m, p, c)
        at = law.logs(m, p, centre) if centre is not None and law.amplitudes else {}
        if self._one_beside_known(found):  # log(known + exp(u)) in one step: half the derivatives of two
            (name,) = law.amplitudes
            u = z[self.position[name]] + found[name]
            return m.logaddexp(np.log(found["+"] / self.scale), u - at[name] if at else u)
        total: Any = None

        def add(x: Any) -> None:
            nonlocal total
            total = x if total is None else total + x

        if "+" in found:
            add(found["+"] / self.scale)
        if self.floor is not None:
            add(z[self.floor])
        for name, log in found.items():
            if name in law.amplitudes:
                u = z[self.position[name]] + log
                u = m.exp(u - at[name] if at else u)
                add(-u if name in law.negative else u)
            elif name not in ("*", "+"):
                add(m.exp(log) * (1 / self.scale))
        if total is None:
            return found["*"]
        return m.log(total) + found["*"] if "*" in found else m.log(total)

    def _one_beside_known(self, found: Mapping[str, Any]) -> bool:
        """Whether the formula is a positive column and one added term."""
        known = found.get("+")
        if not isinstance(known, np.ndarray) or self.floor is not None or len(self.law.amplitudes) != 1:
            return False
        return set(found) == {"+", *self.law.amplitudes} and not self.law.negative and bool((known > 0).all())

    def evaluate(self, z: Array) -> tuple[Array, dict[str, Any]]:
        """Log loss (S, n) at coordinates (S, P); not-a-number where the formula has none."""
        with np.errstate(**_QUIET):
            f = self._log(np, [z[:, [i]] for i in range(self.P)], self.c, self.centre)
        f = np.broadcast_to(f, (len(z), self.n)) + np.log(self.scale)
        return f, {"z": z, "log": f}

    def _jet(self, z: Array) -> Any:
        leaves = [jets.variable(z[:, [i]], i) for i in range(self.P)]
        return self._log(jets, leaves, self.c, self.centre)

    def normal(self, state: dict[str, Any], c1: Array, c2: Array) -> tuple[Array, Array]:
        """Gradient (S, P) and Hessian (S, P, P) of an objective with dO/df = c1 and d2O/df2 = c2, both (S, n)."""
        z = state["z"]
        S = len(z)
        g, h = np.zeros((S, self.P)), np.zeros((S, self.P, self.P))
        step = max(1, _CHUNK // max(self.size, 1))
        with np.errstate(**_QUIET):
            for s in range(0, S, step):
                part = slice(s, min(s + step, S))
                f, a, b = self._jet(z[part]), c1[part], c2[part]
                g[part], h[part] = _contract(f, a, b, self.P)
        return g, h

    def jacobian(self, state: dict[str, Any]) -> Array:
        """d log L / dz, (S, n, P)."""
        z = state["z"]
        out = np.zeros((len(z), self.n, self.P))
        with np.errstate(**_QUIET):
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


def free_fit(name: str) -> Callable[[Columns, Array], dict[str, float]]:
    """A ``guess``: the parameters of another law of the registry, fitted to the same rows by least squares."""

    def guess(columns: Columns, loss: Array) -> dict[str, float]:
        from analysis import laws
        from analysis.estimate import estimate, objective

        law = laws.get(name)
        found = estimate(law, columns, loss, objective("squares")).theta
        return dict(zip(law.names, found.tolist()))

    return guess


def of_power(law: Law) -> Smooth:
    """The same sum of power terms as a formula in its natural parameters."""
    if law.to_power is not None or law.outer is not None:
        raise UserError("law", law.name, "its parameters are not those of the power form")
    terms = law.terms

    def logs(m: Any, p: Mapping[str, Any], c: Mapping[str, Any]) -> dict[str, Any]:
        plain = {k: np.log(v) for k, v in c.items()}
        made = law.derive(plain) if law.derive else plain
        out = {}
        for term in terms:
            u: Any = 0.0
            for column, e in term.exponents:
                u = u - made[column] * (p[e] if isinstance(e, str) else e)
            out[term.amplitude] = u
        return out

    return _smooth(law, logs, amplitudes=tuple(t.amplitude for t in terms), inputs=law.columns)


def _smooth(law: Law, logs: Formula, **more: Any) -> Smooth:
    return Smooth(
        law.name, law.formula, law.params, (), law.source, law.floor, no_optimum=law.no_optimum, response=law.response,
        balance=law.balance, example=law.example, logs=logs, **more,
    )  # fmt: skip


_TIE = re.compile(r"(\w+)\s*=\s*(?:([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*\s*)?(\w+)")


def tie(law: Law, text: str) -> Law:
    """The law with parameters equal to others: ``beta=alpha``, ``beta=0.8*alpha``, several after commas.

    Only parameters that are no amplitude and no floor may be tied. UserError says what may be.
    """
    ties: dict[str, tuple[float, str]] = {}
    form = law if isinstance(law, Smooth) else law.explicit or of_power(law)
    assert isinstance(form, Smooth)
    may = form.nonlinear
    for item in text.split(","):
        match = _TIE.fullmatch(item.strip())
        if match is None or match[1] not in may or match[3] not in may or match[1] == match[3]:
            raise UserError("tie", item, f"write NAME=NAME or NAME=FACTOR*NAME with names of {', '.join(may)}")
        if match[1] in ties:
            raise UserError("tie", item, f"{match[1]} is tied twice")
        ties[match[1]] = (float(match[2] or 1.0), match[3])
    if set(ties) & {other for _, other in ties.values()}:
        raise UserError("tie", text, "a tied parameter cannot carry another one")
    inner = form.logs

    def logs(m: Any, p: Mapping[str, Any], c: Mapping[str, Any]) -> dict[str, Any]:
        return inner(m, {**p, **{k: p[other] * factor for k, (factor, other) in ties.items()}}, c)

    kept = [i for i, name in enumerate(form.names) if name not in ties]

    def whole(theta: Array) -> Array:
        theta = np.atleast_2d(theta)
        full = np.empty((len(theta), len(form.names)))
        full[:, kept] = theta
        for name, (factor, other) in ties.items():
            full[:, form.names.index(name)] = factor * full[:, form.names.index(other)]
        return full

    def balance(theta: Array) -> Any:
        return law._balance(whole(theta))

    words = ", ".join(f"{k} = {other if factor == 1 else f'{factor:g} {other}'}" for k, (factor, other) in ties.items())
    has_balance = law._balance(np.ones((1, len(law.params)))) is not None
    params: tuple[Param, ...] = tuple(form.params[i] for i in kept)
    return replace(
        form,
        name=f"{law.name}[{text}]",
        formula=f"{law.formula} with {words}",
        params=params,
        coordinates=(),
        inputs=form.columns,
        logs=logs,
        example={k: v for k, v in (form.example or law.example).items() if k not in ties},
        balance=balance if has_balance else None,
    )
