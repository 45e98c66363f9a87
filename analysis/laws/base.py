"""What a law is: ``Param``, ``Term`` and ``Law``, the entry of a sum of power terms.

log L = q log(E + sum_k exp(affine in the coordinates)), so that first and second derivatives are closed form
(``engine.surface``). Laws that are no such sum are entries of ``smooth.Smooth``.
Numpy only. Logarithms are natural, losses in the unit of the table (nats/token unless it says otherwise).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np

from scaling.errors import Code, UserError, closest

Array = np.ndarray
# a mapping of names to arrays, or a pandas table (not imported here: it costs half a second)
Columns = Any
# kinds of parameter: a slope in a logarithm, the least value of the response, a factor of a term, a positive number
# fitted by its logarithm (a break, a batch size), or anything else (a shift, a curvature)
Kind = Literal["exponent", "floor", "amplitude", "scale", "other"]
# kinds of response: the loss of the runs, a loss on other data, an error rate, tokens, steps, or any other number
Quantity = Literal["loss", "other_loss", "error", "tokens", "steps", "value"]


@dataclass(frozen=True)
class Param:
    """One parameter of a law.

    Attributes:
      name: as written in the formula.
      unit: in words, for people.
      lower, upper: bounds of the fit.
      meaning: one line for people.
      grid: range of the starts; the name of a column means that column's range.
      log: whether the fit uses its logarithm as coordinate, as for positive scales.
      kind: its role in the formula.
      dimensionless: a pure number such as epochs or a ratio; implied for exponents.
    """

    name: str
    unit: str
    lower: float
    upper: float
    meaning: str
    grid: tuple[float, float] | str | None = None
    log: bool = False
    kind: Kind = "other"
    dimensionless: bool = False

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise UserError(f"bounds of {self.name}", f"{self.lower:g} to {self.upper:g}", "the lower one comes first")

    @property
    def portable(self) -> bool:
        """Whether its value has the same meaning under another tokenizer or objective."""
        return self.kind == "exponent" or self.dimensionless


@dataclass(frozen=True)
class Term:
    """``amplitude * prod_c column_c ** -exponent_c``; an exponent is a parameter's name or a number."""

    amplitude: str
    exponents: tuple[tuple[str, str | float], ...]


@dataclass(frozen=True)
class Tuning:
    """A hyperparameter of a law: its best value, and the cost of other values.

    Attributes:
      law: name of the law that remains at the best value; its parameters are a subset of this one's.
      column: column of the hyperparameter.
      best: (theta, columns of n rows) -> its best value, (n,) for theta (P,) and (S, n) for (S, P).
      regret: (theta, columns of n rows, including the hyperparameter) -> relative increase of the loss over that at the
        best value, (n,) or (S, n).
    """

    law: str
    column: str
    best: Callable[[Any, Columns], Array]
    regret: Callable[[Any, Columns], Array]


@dataclass(frozen=True)
class Law:
    """A functional form: L = (floor + sum of terms) ** outer.

    Construction raises UserError where the parts are inconsistent.

    Attributes:
      name: as in ``laws.get``.
      formula: for people.
      params: parameters as in papers; arrays of parameters have this order.
      terms: the power terms; none for a ``smooth.Smooth``.
      source: the paper.
      floor: name of the parameter that is the least value of the response; by default the one of kind ``floor``.
      outer: name of the parameter that is the exponent of the whole.
      default: whether fits, allocations and designs use it where no law is named; true for exactly one law.
      in_all: whether ``--law=all`` fits it to a study.
      quantity: what the table's column ``loss`` holds, for programs; ``response`` describes it for people.
      of_a_loss: whether its only column is a loss, of which it makes an error or another loss: runs get better to the
        left.
      tuning: the law's hyperparameter, if any.
      style: key of its colour and marker in figures; by default derived from its name, independent of other laws.
      form: its name without the column of a one-variable law: ``power`` for ``power:C``.
      coordinates: the parameters of the power form where they differ from ``params`` (Kaplan), with ``to_power`` and
        ``from_power`` mapping (S, P) arrays between the two.
      no_optimum: why a compute budget does not determine N, where it does not.
      inputs: columns of the table where ``derive`` computes the terms' columns from them (logarithms in and out).
      balance: (A, alpha, B, beta) of A N^-alpha + B D^-beta where the terms do not show it.
      explicit: the same law in its natural parameters, for fixing one that is not a coordinate.
      example: plausible parameters, used by tests.
      signed: columns that may be zero or negative (mixture weights); all others must be positive.
      steady: columns that may be constant, as only their ratio to another column matters.
      guess: natural starting values for parameters without a ``grid``, from the columns and the losses.
      starts_from: name of a law whose least-squares parameters on the same rows are such values.
      curve: computes the columns of a law of learning curves from the learning rates of all steps of a run, the
        requested steps (n,), and the step at which the warm-up ends.
      slow: whether its derivatives come from JAX.
      columns: the table's columns that it needs.
    """

    name: str
    formula: str
    params: tuple[Param, ...]
    terms: tuple[Term, ...]
    source: str
    _: KW_ONLY
    floor: str | None = None
    outer: str | None = None
    default: bool = False
    in_all: bool = False
    quantity: Quantity = "loss"
    response: str = "loss"
    of_a_loss: bool = False
    tuning: Tuning | None = None
    style: int | None = None
    form: str = ""
    coordinates: tuple[Param, ...] = ()
    to_power: Callable[[Array], Array] | None = None
    from_power: Callable[[Array], Array] | None = None
    no_optimum: str | None = None
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
        columns = dict.fromkeys(column for term in self.terms for column, _ in term.exponents)
        floors = [p.name for p in self.params if p.kind == "floor"]
        if len(floors) > 1:
            raise UserError("params", ", ".join(floors), "a law has one floor at most", Code.CONFLICT)
        floor = self.floor or next(iter(floors), None)
        params = tuple(replace(p, kind="floor") if p.name == floor else p for p in self.params)
        fields = {
            "columns": self.inputs or tuple(columns),
            "coordinates": self.coordinates or params,
            "floor": floor,
            "params": params,
            "form": self.form or self.name,
            "style": zlib.crc32(self.name.encode()) if self.style is None else self.style,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Raises a UserError that names a field inconsistent with the others."""
        if not self.params:
            raise UserError("params", "()", f"law {self.name} needs a parameter", Code.MISSING)
        if not self.columns:
            raise UserError("terms", "()", f"law {self.name} needs a term of some column", Code.MISSING)
        for kind in (self.params, self.coordinates):
            names = [p.name for p in kind]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError("params", twice, f"law {self.name} has two parameters of that name", Code.CONFLICT)
        own = tuple(p.name for p in self.coordinates)
        for term in self.terms:
            needed = (term.amplitude, *(e for _, e in term.exponents if isinstance(e, str)))
            self._known("terms", needed, own)
        self._known("floor", (self.floor,) if self.floor else (), own)
        self._known("outer", (self.outer,) if self.outer else (), own)
        self._known("example", tuple(self.example), self.names)
        self._known("signed", self.signed, self.columns)
        self._known("steady", self.steady, self.columns)

    def _known(self, part: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
        if lost := next((name for name in names if name not in known), None):
            remedy = f"{closest(lost, known)} law {self.name} has {', '.join(known)}".lstrip()
            raise UserError(part, lost, remedy, Code.UNKNOWN)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.params)

    @property
    def linear(self) -> tuple[str, ...]:
        """Coordinates that enter linearly once the exponents are fixed: the floor and the amplitudes."""
        return ((self.floor,) if self.floor else ()) + tuple(term.amplitude for term in self.terms)

    @property
    def exponent_names(self) -> tuple[str, ...]:
        """Its exponents."""
        return tuple(p.name for p in self.params if p.kind == "exponent")

    @property
    def main_exponent(self) -> str:
        """The parameter whose influence is reported: the first exponent, or the last parameter if there is none."""
        return next(iter(self.exponent_names), self.params[-1].name)

    @property
    def irreducible(self) -> str | None:
        """The floor where it is the irreducible loss, in the unit of the loss; None for other floors."""
        return self.floor if self.quantity == "loss" and self.outer is None else None

    @property
    def constant(self) -> bool:
        """Whether the floor is a constant of the loss, so that a loss with a constant added follows the same law."""
        return self.floor is not None and self.outer is None and self.quantity == "loss"

    def in_column(self, column: str) -> Law:
        """This law of one variable x, as ``power``, in a column of another name: ``power:C``."""
        terms = tuple(replace(t, exponents=tuple((column, e) for _, e in t.exponents)) for t in self.terms)
        formula = re.sub(r"\bx\b", column, self.formula)
        return variant(self, f"{self.name}:{column}", form=self.form, formula=formula, terms=terms)

    def index(self, name: str) -> int:
        """Position of a natural parameter. Raises UserError for a name that the law lacks."""
        self._known("parameter", (name,), self.names)
        return self.names.index(name)

    def power(self, theta: Array) -> Array:
        """Natural parameters (S, P) -> parameters of the power form (S, P)."""
        return self.to_power(theta) if self.to_power else theta

    def natural(self, power: Array) -> Array:
        """Inverse of ``power``."""
        return self.from_power(power) if self.from_power else power

    def predict(self, theta: Any, columns: Columns) -> Array:
        """The response at given parameters and columns.

        Args:
          theta: parameters (P,) in the order of ``params``, or sets of them (S, P), or one set as a mapping by name.
          columns: the law's columns by name, n rows each (or one number), in natural units.

        Returns:
          (n,) of one parameter set, (S, n) of several, in the unit of the fitted losses.

        Raises:
          UserError: a column that the law needs is missing or not positive.
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
        powers: dict[str, tuple[str, str | float]] = {}
        for term in self.terms:
            if len(term.exponents) == 1:
                column, e = term.exponents[0]
                powers[column] = (term.amplitude, e)
        if len(self.terms) != 2 or set(powers) != {"N", "D"}:
            return None
        p = self.power(np.atleast_2d(self.vector(theta)))
        position = {c.name: i for i, c in enumerate(self.coordinates)}

        def get(key: str | float) -> Array:
            return p[:, position[key]] if isinstance(key, str) else np.full(len(p), float(key))

        (a, alpha), (b, beta) = powers["N"], powers["D"]
        return get(a), get(alpha), get(b), get(beta)

    def reducible_exponent(self, theta: Any) -> Array | None:
        """c of the reducible loss ~ C^-c along the optimum, (S,), of E + A N^-alpha + B D^-beta; None for other forms.

        Both terms fall as C^-c there, c = alpha beta / (alpha + beta); zero where an exponent is.
        """
        balance = None if self.outer or self.floor is None or self.derive or not self.terms else self._balance(theta)
        if balance is None:
            return None
        _, alpha, _, beta = balance
        total = alpha + beta
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(total > 0, alpha * beta / total, 0.0)

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
            why = self.no_optimum or "a compute budget does not choose N under this law"
            raise UserError("law", self.name, why, Code.UNSUPPORTED)
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
            raise UserError("column", name, f"law {law.name} needs columns {', '.join(law.columns)}", Code.MISSING)
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
    return Param(name, "exponent", 0.0, upper, meaning, grid, kind="exponent")


def slope(name: str, meaning: str, bound: float = 5.0, grid: tuple[float, float] | None = (-1.5, 1.5)) -> Param:
    """An exponent of either sign."""
    return Param(name, "exponent", -bound, bound, meaning, grid, kind="exponent")


def amplitude(name: str, meaning: str, unit: str = "loss") -> Param:
    """A factor of a term, never negative."""
    return Param(name, unit, 0.0, float("inf"), meaning, kind="amplitude")


def ratio(name: str, meaning: str, grid: tuple[float, float], lower: float, unit: str = "ratio") -> Param:
    """A scale that is a pure number."""
    return replace(scale(name, unit, meaning, grid, lower), dimensionless=True)


def floor(name: str, meaning: str, unit: str = "loss") -> Param:
    """The constant that terms are added to, never negative."""
    return Param(name, unit, 0.0, float("inf"), meaning, kind="floor")


def scale(name: str, unit: str, meaning: str, grid: tuple[float, float] | str, lower: float = 1e-12) -> Param:
    """A positive number that is fitted by its logarithm."""
    return Param(name, unit, lower, 1e30, meaning, grid, log=True, kind="scale")


AnyLaw = TypeVar("AnyLaw", bound=Law)
E = floor("E", "loss that no scale removes (entropy plus what the recipe cannot reach)")


def variant(law: AnyLaw, name: str, **changes: Any) -> AnyLaw:
    """A changed copy of ``law`` under a new name, neither the default nor in ``--law=all``."""
    return replace(law, name=name, **{"form": "", "style": None, "default": False, "in_all": False, **changes})
