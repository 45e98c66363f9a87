"""A fitted law as a few lines of numpy that need nothing of this package.

A law's formula is run once on symbols instead of arrays: every operation of numpy's names becomes its text, and what is
used more than once becomes a line of its own.
"""

from __future__ import annotations

import operator
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.laws import Law, Smooth
from scaling.errors import Code, UserError

if TYPE_CHECKING:
    from analysis.fitting import Fit

_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(5)  # how strongly an expression's outermost operator binds
_OPERATORS: dict[Any, Callable[[Any, Any], Any]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.true_divide: operator.truediv,
    np.power: operator.pow,
}


class _Symbol:
    """An expression: a template of its text, its parts, and how strongly its outermost operator binds."""

    def __init__(self, form: str, parts: tuple[Any, ...] = (), strength: int = _ATOM):
        self.form, self.parts, self.strength = form, parts, strength

    def __array_ufunc__(self, ufunc: np.ufunc, _: str, *parts: Any) -> _Symbol:
        """What numpy's own functions, and numbers of numpy on the left, become."""
        if ufunc in _OPERATORS:
            return _OPERATORS[ufunc](*(part if isinstance(part, _Symbol) else float(part) for part in parts))
        return _call(ufunc.__name__, *parts)

    def __add__(self, other: Any) -> _Symbol:
        return self if _is(other, 0) else _Symbol("{0} + {1}", (self, other), _SUM)

    def __radd__(self, other: Any) -> _Symbol:
        return self if _is(other, 0) else _Symbol("{0} + {1}", (other, self), _SUM)

    def __sub__(self, other: Any) -> _Symbol:
        return _Symbol("{0} - {1}", (self, other), _SUM)

    def __rsub__(self, other: Any) -> _Symbol:
        return -self if _is(other, 0) else _Symbol("{0} - {1}", (other, self), _SUM)

    def __mul__(self, other: Any) -> _Symbol:
        return self if _is(other, 1) else _Symbol("{0} * {1}", (self, other), _PRODUCT)

    def __rmul__(self, other: Any) -> _Symbol:
        return self if _is(other, 1) else _Symbol("{0} * {1}", (other, self), _PRODUCT)

    def __truediv__(self, other: Any) -> _Symbol:
        return _Symbol("{0} / {1}", (self, other), _PRODUCT)

    def __rtruediv__(self, other: Any) -> _Symbol:
        return _Symbol("{0} / {1}", (other, self), _PRODUCT)

    def __neg__(self) -> _Symbol:
        return _Symbol("-{0}", (self,), _SIGN)

    def __pow__(self, other: Any) -> _Symbol:
        return _Symbol("{0}**{1}", (self, other), _POWER)

    def sum(self, axis: int) -> _Symbol:
        return _Symbol(f"np.sum({{0}}, axis={axis})", (self,))


def _is(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and value == number


def _call(name: str, *parts: Any) -> _Symbol:
    return _Symbol(f"np.{name}({', '.join(f'{{{i}}}' for i in range(len(parts)))})", parts)


class _Numpy:
    """Numpy's functions on symbols."""

    def __getattr__(self, name: str) -> Any:
        if not hasattr(np, name):
            raise AttributeError(name)
        return lambda *parts: _call(name, *parts)


def to_python(fit: Fit) -> str:
    """The fitted law as the text of a Python function of its columns, at the estimate.

    Args:
      fit: of any law whose formula uses numpy's functions.

    Returns:
      Text that defines ``loss(N, D)``, or of the columns that the law has, equal to ``law.predict`` to the last digits.
      It needs numpy alone. Columns are numbers or arrays.

    Raises:
      UserError: UNSUPPORTED: a law that its formula does not show.
    """
    law = fit.law
    taken = {"np", *law.names}
    columns = {name: re.sub(r"\W", "_", name) + ("_" if name in taken else "") for name in law.columns}
    lines = _lines(_loss(law, {name: _Symbol(text) for name, text in columns.items()}))
    used = [name for name in law.names if any(re.search(rf"\b{name}\b", line) for line in lines)]
    about = f"{law.formula} ({law.name}; {law.source})"
    return "\n".join(
        [
            "import numpy as np",
            "",
            *textwrap.wrap(about, 110, initial_indent="# ", subsequent_indent="# "),
            f"def loss({', '.join(columns.values())}):",
            *(f"    {name} = {fit.params[name]!r}" for name in used),
            *(f"    {line}" for line in lines),
            "",
        ]
    )


def _loss(law: Law, columns: Mapping[str, _Symbol]) -> _Symbol:
    """The loss as an expression of the natural parameters and the columns."""
    symbols = {name: _Symbol(name) for name in law.names}
    form = law if law.to_power is None else law.explicit
    if isinstance(form, Smooth):
        return _smooth(form, symbols, columns)
    if form is None:
        raise UserError("law", law.name, "has no formula in its own parameters to write down", Code.UNSUPPORTED)
    return _power(form, symbols, columns)


def _power(law: Law, symbols: Mapping[str, _Symbol], columns: Mapping[str, _Symbol]) -> _Symbol:
    """A sum of power terms."""
    logs: Any = {name: _call("log", column) for name, column in columns.items()}
    derived: Any = law.derive(logs) if law.derive else None
    total: Any = symbols[law.floor] if law.floor else 0
    for term in law.terms:
        part = symbols[term.amplitude]
        for name, exponent in term.exponents:
            e: Any = symbols[exponent] if isinstance(exponent, str) else exponent
            if derived is not None:
                part = part * _call("exp", -e * derived[name])
            else:
                part = part / columns[name] if _is(e, 1) else part * columns[name] ** -e
        total = total + part
    return total ** symbols[law.outer] if law.outer else total


def _smooth(law: Smooth, symbols: Mapping[str, _Symbol], columns: Mapping[str, _Symbol]) -> _Symbol:
    """A law given by its formula: ``Smooth.value`` on symbols."""
    logs = law.logs(_Numpy(), {name: symbols[name] for name in law.nonlinear}, columns)
    total: Any = logs.get("+", 0)
    if law.floor:
        total = total + symbols[law.floor]
    for name, log in logs.items():
        if name in ("*", "+"):
            continue
        part = _call("exp", log)
        if name in law.amplitudes:
            part = symbols[name] if _is(log, 0) else symbols[name] * part
        total = total - part if name in law.negative else total + part
    if "*" not in logs:
        return total
    factor = _call("exp", logs["*"])
    return factor if _is(total, 0) else total * factor


def _lines(result: _Symbol) -> list[str]:
    """Python lines that end in ``return``; what is used more than once is given a name."""
    uses: dict[int, int] = {}

    def count(symbol: Any) -> None:
        if isinstance(symbol, _Symbol):
            uses[id(symbol)] = uses.get(id(symbol), 0) + 1
            for part in symbol.parts if uses[id(symbol)] == 1 else ():
                count(part)

    count(result)
    lines: list[str] = []
    named: dict[int, str] = {}

    def text(value: Any) -> tuple[str, int]:
        if not isinstance(value, _Symbol):
            return repr(float(value)), _ATOM if value >= 0 else _SIGN
        if id(value) in named:
            return named[id(value)], _ATOM
        written = value.form.format(*(_bound(*text(part), value, i) for i, part in enumerate(value.parts)))
        if uses[id(value)] == 1 or not value.parts:
            return written, value.strength
        named[id(value)] = f"part{len(named) + 1}"
        lines.append(f"{named[id(value)]} = {written}")
        return named[id(value)], _ATOM

    whole = text(result)[0]
    return [*lines, f"return {whole}"]


def _bound(text: str, strength: int, parent: _Symbol, place: int) -> str:
    """A part in brackets where its parent binds at least as strongly, but for the left of a sum or product."""
    left = place == 0 and parent.strength in (_SUM, _PRODUCT)
    free = parent.strength == _ATOM or strength > parent.strength or (left and strength == parent.strength)
    return text if free else f"({text})"
