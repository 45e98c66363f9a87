"""Functional forms. A law is one entry at the bottom of this file; nothing else lists them.

Every law here is a sum of power terms, log L = q log(E + sum_k exp(affine in the coordinates)), so that its first and
second derivatives are closed form. Coordinates are the natural parameters with amplitudes replaced by the logarithm
of the term at the centre of the data; that takes the condition number of a fit from about 1e11 to about 10.
Numpy only. Logarithms are natural, losses in the unit of the table (nats/token unless it says otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scaling.errors import UserError

Array = np.ndarray
# a mapping of names to arrays, or a pandas table (not imported here: it costs half a second)
Columns = Any


@dataclass(frozen=True)
class Param:
    """One parameter: ``lower`` and ``upper`` bound the fit; ``grid`` bounds where starts look for an exponent."""

    name: str
    unit: str
    lower: float
    upper: float
    meaning: str
    grid: tuple[float, float] | None = None


@dataclass(frozen=True)
class Term:
    """``amplitude * prod_c column_c ** -exponent_c``; an exponent is a parameter's name or a number."""

    amplitude: str
    exponents: tuple[tuple[str, str | float], ...]


@dataclass(frozen=True)
class Law:
    """A functional form: L = (floor + sum of terms) ** outer.

    ``params`` are what papers print. ``coordinates`` are the parameters of the power form where they differ (Kaplan),
    with ``to_power`` and ``from_power`` mapping (S, P) arrays between the two. ``source`` names the paper.
    ``no_optimum`` says why a compute budget does not choose N, where it does not.
    """

    name: str
    formula: str
    params: tuple[Param, ...]
    terms: tuple[Term, ...]
    source: str
    floor: str | None = None
    outer: str | None = None
    coordinates: tuple[Param, ...] = ()
    to_power: Callable[[Array], Array] | None = None
    from_power: Callable[[Array], Array] | None = None
    no_optimum: str | None = None
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        seen = dict.fromkeys(column for term in self.terms for column, _ in term.exponents)
        object.__setattr__(self, "columns", tuple(seen))
        if not self.coordinates:
            object.__setattr__(self, "coordinates", self.params)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.params)

    @property
    def linear(self) -> tuple[str, ...]:
        """Coordinates that enter linearly once the exponents are fixed: the floor and the amplitudes."""
        return ((self.floor,) if self.floor else ()) + tuple(term.amplitude for term in self.terms)

    @property
    def main_exponent(self) -> str:
        """The parameter whose influence is reported: the first exponent."""
        return next(p.name for p in self.params if p.unit == "exponent")

    def index(self, name: str) -> int:
        """Position of a natural parameter. Raises UserError for a name that the law lacks."""
        if name not in self.names:
            raise UserError("parameter", name, f"law {self.name} has {', '.join(self.names)}")
        return self.names.index(name)

    def power(self, theta: Array) -> Array:
        """Natural parameters (S, P) -> parameters of the power form (S, P)."""
        return self.to_power(theta) if self.to_power else theta

    def natural(self, power: Array) -> Array:
        """Inverse of ``power``."""
        return self.from_power(power) if self.from_power else power

    def predict(self, theta: Any, columns: Columns) -> Array:
        """Loss of parameters (P,) -> (n,) or (S, P) -> (S, n) at columns of n rows each, in natural units.

        A parameter dictionary by name is taken too. Raises UserError for a column that the law needs and lacks.
        """
        values = self.vector(theta)
        single = values.ndim == 1
        p = self.power(np.atleast_2d(values))
        position = {c.name: i for i, c in enumerate(self.coordinates)}
        logs = log_columns(self, columns)
        n = len(next(iter(logs.values())))
        total = np.zeros((len(p), n))
        if self.floor:
            total += p[:, [position[self.floor]]]
        with np.errstate(divide="ignore"):
            for term in self.terms:
                u = np.log(p[:, [position[term.amplitude]]]) * np.ones(n)
                for column, e in term.exponents:
                    u -= (p[:, [position[e]]] if isinstance(e, str) else e) * logs[column]
                total += np.exp(u)
        if self.outer:
            total = total ** p[:, [position[self.outer]]]
        return total[0] if single else total

    def vector(self, theta: Any) -> Array:
        """Parameters as a float64 array in the order of ``params``."""
        if isinstance(theta, Mapping):
            return np.array([float(theta[name]) for name in self.names])
        return np.asarray(theta, dtype=np.float64)

    def _balance(self, theta: Any) -> tuple[Array, Array, Array, Array] | None:
        """(A, alpha, B, beta) of the power form when one term falls with N alone and another with D alone."""
        found: dict[str, tuple[str, str | float]] = {}
        for term in self.terms:
            if len(term.exponents) == 1:
                column, e = term.exponents[0]
                found[column] = (term.amplitude, e)
        if len(self.terms) != 2 or set(found) != {"N", "D"}:
            return None
        p = self.power(np.atleast_2d(self.vector(theta)))
        position = {c.name: i for i, c in enumerate(self.coordinates)}

        def get(key: str | float) -> Array:
            return p[:, position[key]] if isinstance(key, str) else np.full(len(p), float(key))

        (a, alpha), (b, beta) = found["N"], found["D"]
        return get(a), get(alpha), get(b), get(beta)

    def exponents(self, theta: Any) -> dict[str, Array] | None:
        """a and b of N_opt ~ C^a, D_opt ~ C^b for C proportional to N D, each (S,); None without an optimum.

        Minimising A N^-alpha + B D^-beta at fixed N D gives a = beta / (alpha + beta) (Hoffmann 2022, 2203.15556,
        eq. 4); Kaplan's form is the case alpha = alpha_N / alpha_D, beta = 1.
        """
        balance = self._balance(theta)
        if balance is None:
            return None
        _, alpha, _, beta = balance
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}

    def optimum(self, theta: Any, budget: Any, flops_per_token_parameter: float = 6.0) -> tuple[Array, Array]:
        """N and D, each (S, budgets), that minimise the loss at C = 6 N D (or another constant).

        Raises UserError where the law has no interior optimum.
        """
        balance = self._balance(theta)
        if balance is None:
            raise UserError("law", self.name, self.no_optimum or "a compute budget does not choose N under this law")
        amplitude_a, alpha, amplitude_b, beta = (v[:, None] for v in balance)
        product = np.log(np.atleast_1d(np.asarray(budget, dtype=np.float64)) / flops_per_token_parameter)[None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.log(alpha) + np.log(amplitude_a) - np.log(beta) - np.log(amplitude_b)
            log_n = (ratio + beta * product) / (alpha + beta)
            return np.exp(log_n), np.exp(product - log_n)


def log_columns(law: Law, columns: Columns) -> dict[str, Array]:
    """Natural logarithms of the law's columns as float64 (n,). UserError for a missing or non-positive column."""
    logs = {}
    for name in law.columns:
        if name not in columns:
            raise UserError("column", name, f"law {law.name} needs columns {', '.join(law.columns)}")
        values = np.atleast_1d(np.asarray(columns[name], dtype=np.float64))
        if not np.all(np.isfinite(values) & (values > 0)):
            row = int(np.flatnonzero(~(np.isfinite(values) & (values > 0)))[0])
            raise UserError(name, float(values[row]), f"row {row} must be a positive finite number")
        logs[name] = values
    n = max(len(v) for v in logs.values())
    return {name: np.broadcast_to(np.log(v), (n,)) for name, v in logs.items()}


class Surface:
    """A law on n rows in fitting coordinates z (S, P): log loss, its derivatives, and the map to parameters.

    Coordinate of a floor: floor / scale. Of an amplitude: log(term at the data's centre / scale). Others: themselves.
    ``tie`` = {exponent: factor} replaces each named exponent by factor * (the first named one's coordinate).
    """

    def __init__(self, law: Law, columns: Columns, *, centred: bool = True, scale: float = 1.0):
        self.law = law
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
        for term in law.terms:  # a term 1e-13 of the loss is no term: below that the coordinate would walk for ever
            self.lower[self.position[term.amplitude]], self.upper[self.position[term.amplitude]] = -30.0, 60.0

    def _products(self) -> None:
        self.XX = {}
        for k, xk in enumerate(self.X):
            for m in range(k, len(self.X)):
                xm = self.X[m]
                self.XX[k, m] = (xk[:, :, None] * xm[:, None, :]).reshape(self.n, -1)

    def tied(self, factors: Mapping[str, float]) -> Surface:
        """The same surface with each named exponent equal to its factor times one shared coordinate.

        The shared coordinate is that of the first name; the others keep a place and do nothing (fix them).
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

    def evaluate(self, z: Array) -> tuple[Array, dict[str, Any]]:
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

    def normal(self, state: dict[str, Any], c1: Array, c2: Array) -> tuple[Array, Array]:
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

    def jacobian(self, state: dict[str, Any]) -> Array:
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


def _exponent(name: str, meaning: str, upper: float = 3.0, grid: tuple[float, float] = (0.03, 2.0)) -> Param:
    return Param(name, "exponent", 0.0, upper, meaning, grid)


def _amplitude(name: str, meaning: str, unit: str = "loss") -> Param:
    return Param(name, unit, 0.0, float("inf"), meaning)


E = Param("E", "loss", 0.0, float("inf"), "loss that no scale removes (entropy plus what the recipe cannot reach)")

power = Law(
    "power",
    "L = A x^-a",
    (_amplitude("A", "loss at x = 1"), _exponent("a", "slope")),
    (Term("A", (("x", "a"),)),),
    "Hestness 2017, arXiv 1712.00409",
)
power_floor = Law(
    "power_floor",
    "L = E + A x^-a",
    (E, _amplitude("A", "reducible loss at x = 1"), _exponent("a", "slope")),
    (Term("A", (("x", "a"),)),),
    "Henighan 2020, arXiv 2010.14701",
    floor="E",
)
_DRIFT = "N^-alpha D^-beta at fixed N D is monotone in N: the budget goes to one side unless alpha = beta"
product = Law(
    "product",
    "L = A N^-alpha D^-beta",
    (
        _amplitude("A", "loss at N = D = 1"),
        _exponent("alpha", "slope in parameters", grid=(0.01, 1.0)),
        _exponent("beta", "slope in tokens", grid=(0.01, 1.0)),
    ),
    (Term("A", (("N", "alpha"), ("D", "beta"))),),
    "log-linear in N and D; compare Hernandez 2021, arXiv 2102.01293",
    no_optimum=_DRIFT,
)
product_floor = Law(
    "product_floor",
    "L = E + A N^-alpha D^-beta",
    (E, *product.params),
    product.terms,
    "log-linear above a floor; compare Hernandez 2021, arXiv 2102.01293",
    floor="E",
    no_optimum=_DRIFT,
)
chinchilla = Law(
    "chinchilla",
    "L = E + A N^-alpha + B D^-beta",
    (
        E,
        _amplitude("A", "what too few parameters cost at N = 1"),
        _amplitude("B", "what too few tokens cost at D = 1"),
        _exponent("alpha", "slope in parameters"),
        _exponent("beta", "slope in tokens"),
    ),
    (Term("A", (("N", "alpha"),)), Term("B", (("D", "beta"),))),
    "Hoffmann 2022, arXiv 2203.15556",
    floor="E",
)


_LARGEST = 700.0


def _kaplan_power(theta: Array) -> Array:
    """(Nc, Dc, alpha_N, alpha_D) -> (A, B, p, q) of (A N^-p + B / D)^q."""
    nc, dc, alpha_n, alpha_d = theta.T
    p = alpha_n / alpha_d
    with np.errstate(divide="ignore"):
        return np.stack([np.exp(np.minimum(p * np.log(nc), _LARGEST)), dc, p, alpha_d], 1)


def _kaplan_natural(power: Array) -> Array:
    a, b, p, q = power.T
    with np.errstate(divide="ignore", over="ignore"):
        # Nc of a term that the data do not show runs off to infinity: it stops at the largest number that JSON holds
        return np.stack([np.exp(np.minimum(np.log(a) / p, _LARGEST)), b, p * q, q], 1)


kaplan = Law(
    "kaplan",
    "L = [(Nc / N)^(alpha_N / alpha_D) + Dc / D]^alpha_D",
    (
        _amplitude("Nc", "parameters at which the model-limited loss is 1", "parameters"),
        _amplitude("Dc", "tokens at which the data-limited loss is 1", "tokens"),
        _exponent("alpha_N", "slope in parameters"),
        _exponent("alpha_D", "slope in tokens"),
    ),
    (Term("A", (("N", "p"),)), Term("B", (("D", 1.0),))),
    "Kaplan 2020, arXiv 2001.08361, eq. 1.5",
    outer="q",
    coordinates=(
        _amplitude("A", "Nc^p"),
        _amplitude("B", "Dc"),
        Param("p", "exponent", 0.02, 30.0, "alpha_N / alpha_D", (0.1, 10.0)),
        Param("q", "exponent", 1e-3, 3.0, "alpha_D", (0.02, 1.0)),
    ),
    to_power=_kaplan_power,
    from_power=_kaplan_natural,
)

REGISTRY: dict[str, Law] = {law.name: law for law in list(globals().values()) if isinstance(law, Law)}


def get(law: str | Law) -> Law:
    """The law of that name; ``power:C`` is the one-variable law ``power`` in column C.

    UserError lists the names when there is none.
    """
    if isinstance(law, Law):
        return law
    name, _, column = law.partition(":")
    if name not in REGISTRY or (column and REGISTRY[name].columns != ("x",)):
        raise UserError("law", law, f"choose one of {', '.join(sorted(REGISTRY))}")
    found = REGISTRY[name]
    if not column:
        return found
    terms = tuple(replace(t, exponents=tuple((column, e) for _, e in t.exponents)) for t in found.terms)
    return replace(found, name=law, formula=found.formula.replace("x", column), terms=terms)
