"""What a law is: ``Param``, ``Term`` and ``Law``, the entry of a sum of power terms.

log L = q log(E + sum_k exp(affine in the coordinates)), so that first and second derivatives are closed form
(``engine.surface``). Laws that are no such sum are entries of ``smooth.Smooth``.
Numpy only. Logarithms are natural, losses in the unit of the table (nats/token unless it says otherwise).
"""

from __future__ import annotations

import re
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
    """One parameter: ``lower`` and ``upper`` bound the fit; ``grid`` bounds where starts look for it.

    A ``grid`` that is a column's name means that column's range. ``log``: a positive scale (a break, a batch size)
    whose logarithm is the coordinate of the fit.
    """

    name: str
    unit: str
    lower: float
    upper: float
    meaning: str
    grid: tuple[float, float] | str | None = None
    log: bool = False


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
    ``no_optimum`` says why a compute budget does not choose N, where it does not. ``response`` is what the table's
    column ``loss`` holds. ``inputs`` are the table's columns where the terms' own are made of them by ``derive``
    (logarithms in, logarithms out). ``balance`` gives (A, alpha, B, beta) of A N^-alpha + B D^-beta where the terms do
    not show it. ``explicit`` is the same law in its natural parameters, for holding one that is no coordinate.
    ``example`` are plausible parameters, which the tests plant and find again.

    ``signed`` columns may be zero or negative (mixture weights); others must be positive. ``steady`` ones may be the
    same in every row: a ratio to another column is what counts. ``guess`` gives natural
    values to start from for parameters without a ``grid``, from the columns and the losses; ``starts_from`` names a law
    whose least-squares parameters on the same rows are such values. ``curve`` makes the columns
    of a law of learning curves: of the learning rate of every step of a run, the steps asked for (n,), and the step at
    which the warm-up ends. ``slow`` laws take their derivatives from JAX.
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
    response: str = "loss"
    inputs: tuple[str, ...] = ()
    derive: Callable[[dict[str, Array]], dict[str, Array]] | None = None
    balance: Callable[[Array], tuple[Array, Array, Array, Array]] | None = None
    explicit: Law | None = None
    example: Mapping[str, float] = field(default_factory=dict)
    signed: tuple[str, ...] = ()
    steady: tuple[str, ...] = ()
    guess: Callable[[Columns, Array], dict[str, float]] | None = None
    starts_from: str | None = None
    curve: Callable[[Array, Array, int], dict[str, Array]] | None = None
    slow: bool = False
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        seen = dict.fromkeys(column for term in self.terms for column, _ in term.exponents)
        object.__setattr__(self, "columns", self.inputs or tuple(seen))
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
        """The parameter whose influence is reported: the first exponent, or the last parameter of a law without."""
        return next((p.name for p in self.params if p.unit == "exponent"), self.params[-1].name)

    def renamed(self, column: str) -> dict[str, Any]:
        """What else changes in a one-variable law when its column is called otherwise."""
        return {}

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
        if self.balance is not None:
            return self.balance(np.atleast_2d(self.vector(theta)))
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
    """Natural logarithms of the columns of the law's terms as float64 (n,).

    UserError for a missing or non-positive column of the table.
    """
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
    logs = {name: np.broadcast_to(np.log(v), (n,)) for name, v in logs.items()}
    return law.derive(logs) if law.derive else logs


def exponent(name: str, meaning: str, upper: float = 3.0, grid: tuple[float, float] = (0.03, 2.0)) -> Param:
    """A slope, never negative."""
    return Param(name, "exponent", 0.0, upper, meaning, grid)


def slope(name: str, meaning: str) -> Param:
    """An exponent of either sign."""
    return Param(name, "exponent", -5.0, 5.0, meaning, (-1.5, 1.5))


def amplitude(name: str, meaning: str, unit: str = "loss") -> Param:
    """A factor of a term, never negative."""
    return Param(name, unit, 0.0, float("inf"), meaning)


def scale(name: str, unit: str, meaning: str, grid: tuple[float, float] | str, lower: float = 1e-12) -> Param:
    """A positive number that is looked for by its logarithm."""
    return Param(name, unit, lower, 1e30, meaning, grid, log=True)


E = Param("E", "loss", 0.0, float("inf"), "loss that no scale removes (entropy plus what the recipe cannot reach)")


def single(spec: Law, column: str) -> Law:
    """A one-variable law in another column than x."""
    terms = tuple(replace(t, exponents=tuple((column, e) for _, e in t.exponents)) for t in spec.terms)
    formula = re.sub(r"\bx\b", column, spec.formula)
    return replace(spec, name=f"{spec.name}:{column}", formula=formula, terms=terms, **spec.renamed(column))
