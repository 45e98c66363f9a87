"""Laws that are not sums of power terms: one formula for any array library, with exact derivatives by ``laws.jets``.

A formula ``logs(m, p, c)`` gets a library ``m`` with numpy's names (numpy, ``jets`` or jax.numpy), parameters ``p`` by
name (those that are not amplitudes) and columns ``c`` by name, and returns a dictionary of

    the name of an amplitude -> the logarithm of the factor that it multiplies
    "*" -> the logarithm of a factor of the whole loss
    "+" -> a part of the loss that no amplitude multiplies and that may be negative
    any other name -> the logarithm of a term without amplitude

so that L = exp(*) (known + floor + sum of signed amplitudes times exp(their logs) + terms without amplitude). Missing
entries do not contribute; for a law of "*" alone the rest is one. Starts get the amplitudes from variable projection
and need a grid over the other parameters only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np

from analysis.laws.base import Array, Columns, Law, Param, variant
from scaling.errors import Code, UserError

Value = Any  # an array of numpy or jax.numpy, or a jet (``laws.jets``)
Formula = Callable[[Any, Mapping[str, Value], Mapping[str, Value]], dict[str, Value]]
QUIET: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "divide": "ignore", "under": "ignore"}


def _rounding(shares: Mapping[str, Array]) -> float:
    """How far sums of shares may be off one: by what rounding to the digits written, two at least, can do."""
    values = np.concatenate([np.ravel(v) for v in shares.values()])
    digits = next((d for d in (2, 3) if np.allclose(values, np.round(values, d), rtol=0, atol=1e-9)), 4)
    return max(1e-3, len(shares) * 0.5 * 10.0**-digits) + 1e-9


@dataclass(frozen=True)
class Smooth(Law):
    """A law given by a formula.

    Attributes:
      logs: the formula (see the module docstring). A ``slow`` law gets one parameter set at a time, and its columns may
        have further axes after the rows.
      amplitudes: parameters that enter linearly.
      negative: amplitudes that are subtracted.
      shares: the columns are shares, which add to one in every row.
      ordered: puts interchangeable parts of parameters (S, P) into a unique order.
    """

    _: KW_ONLY
    logs: Formula
    amplitudes: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    shares: bool = False
    ordered: Callable[[Array], Array] | None = None

    def _check(self) -> None:
        super()._check()
        self._known("amplitudes", self.amplitudes, self.names)
        self._known("negative", self.negative, self.amplitudes)

    @property
    def linear(self) -> tuple[str, ...]:
        return ((self.floor,) if self.floor else ()) + self.amplitudes

    @property
    def nonlinear(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name not in self.linear)

    @property
    def constant(self) -> bool:
        ones = np.ones((1, 1))
        with np.errstate(**QUIET):
            parts = self.logs(np, dict.fromkeys(self.nonlinear, ones), dict.fromkeys(self.columns, ones))
        return super().constant and "*" not in parts

    def in_column(self, column: str) -> Law:
        inner, (old,) = self.logs, self.columns

        def logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
            return inner(m, p, {old: c[column]})

        return variant(
            self,
            f"{self.name}:{column}",
            form=self.form,
            formula=re.sub(rf"\b{old}\b", column, self.formula),
            params=tuple(replace(p, grid=column) if p.grid == old else p for p in self.params),
            coordinates=(),
            inputs=(column,),
            signed=(column,) if old in self.signed else (),
            logs=logs,
        )

    def arrays(self, columns: Columns) -> dict[str, Array]:
        """The law's columns as float64 with rows first. UserError for a missing or invalid one."""
        out = {}
        for name in self.columns:
            if name not in columns:
                raise UserError(
                    "column", name, f"law {self.name} needs columns {', '.join(self.columns)}", Code.MISSING
                )
            cells = np.atleast_1d(np.asarray(columns[name]))
            values = np.asarray(np.stack(list(cells)) if cells.dtype == object else cells, dtype=np.float64)
            good = np.isfinite(values) & ((values > 0) | (name in self.signed))
            if not good.all():
                row = int(np.argwhere(~good)[0][0])
                raise UserError(name, float(values[~good][0]), f"row {row} must be a positive finite number")
            out[name] = values
        n = max(len(v) for v in out.values())
        total = np.sum(list(out.values()), axis=0) if self.shares else np.ones(1)
        if (far := np.abs(total - 1) > (_rounding(out) if self.shares else 0.0)).any():
            row, names = int(np.argmax(far)), " + ".join(self.columns)
            cure = "divide percentages by 100" if total[row] > 1.5 else "give the law that has all the domains"
            raise UserError("shares", f"{total[row]:.4g}", f"is {names} in row {row}; shares add to one: {cure}")
        return {k: np.broadcast_to(v, (n, *v.shape[1:])) for k, v in out.items()}

    def predict(self, theta: Any, columns: Columns) -> Array:
        values = self.vector(theta)
        p, c = np.atleast_2d(values), self.arrays(columns)
        n = len(next(iter(c.values())))
        with np.errstate(**QUIET):
            if self.slow:
                total = np.stack([self.value(row, c, n) for row in p])
            else:
                total = self.value([p[:, [i]] for i in range(p.shape[1])], c, n)
        total = np.broadcast_to(total, (len(p), n))
        return total[0] if values.ndim == 1 else total

    def value(self, p: Any, c: Mapping[str, Array], n: int) -> Array:
        """The formula in numpy for natural parameters in the order of ``names``."""
        by_name = dict(zip(self.names, p))
        logs = self.logs(np, {k: by_name[k] for k in self.nonlinear}, c)
        total, empty = np.zeros(n), True
        if "+" in logs:
            total, empty = total + logs["+"], False
        if self.floor:
            total, empty = total + by_name[self.floor], False
        for name, log in logs.items():
            if name in ("*", "+"):
                continue
            size = by_name[name] if name in self.amplitudes else 1.0
            total, empty = total + (-size if name in self.negative else size) * np.exp(log), False
        if empty:
            total = total + 1.0
        return total * np.exp(logs["*"]) if "*" in logs else total


def of_power(law: Law) -> Smooth:
    """The same sum of power terms as a formula in its natural parameters."""
    if law.to_power is not None or law.outer is not None:
        raise UserError("law", law.name, "its parameters are not those of the power form", Code.UNSUPPORTED)
    terms = law.terms

    def logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
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
        law.name,
        law.formula,
        law.params,
        (),
        law.source,
        floor=law.floor,
        quantity=law.quantity,
        response=law.response,
        of_a_loss=law.of_a_loss,
        no_optimum=law.no_optimum,
        balance=law.balance,
        example=law.example,
        logs=logs,
        **more,
    )


_TIE = re.compile(r"(\w+)\s*=\s*(?:([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*\s*)?(\w+)")


def tie(law: Law, text: str) -> Law:
    """The law with tied parameters: ``beta=alpha``, ``beta=0.8*alpha``, several separated by commas.

    Amplitudes and floors cannot be tied.

    Raises:
      UserError: a tie that is not allowed; the message lists the parameters that can be tied.
    """
    form = law if isinstance(law, Smooth) else law.explicit or of_power(law)
    assert isinstance(form, Smooth)
    ties = _ties(text, form.nonlinear)
    inner = form.logs

    def logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
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
    return variant(
        form,
        f"{law.name}[{text}]",
        formula=f"{law.formula} with {words}",
        params=params,
        coordinates=(),
        inputs=form.columns,
        logs=logs,
        example={k: v for k, v in (form.example or law.example).items() if k not in ties},
        balance=balance if has_balance else None,
        tuning=None,
    )


def _ties(text: str, names: tuple[str, ...]) -> dict[str, tuple[float, str]]:
    """{tied parameter: (factor, the parameter it follows)}, both in ``names``."""
    ties: dict[str, tuple[float, str]] = {}
    for item in text.split(","):
        match = _TIE.fullmatch(item.strip())
        if match is None or match[1] not in names or match[3] not in names or match[1] == match[3]:
            raise UserError("tie", item, f"write NAME=NAME or NAME=FACTOR*NAME with names of {', '.join(names)}")
        if match[1] in ties:
            raise UserError("tie", item, f"{match[1]} is tied twice", Code.CONFLICT)
        ties[match[1]] = (float(match[2] or 1.0), match[3])
    if set(ties) & {other for _, other in ties.values()}:
        raise UserError("tie", text, "a tied parameter cannot carry another one", Code.CONFLICT)
    return ties
