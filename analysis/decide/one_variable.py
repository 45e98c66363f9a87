"""Forecasts under a law of one variable: the loss at a value of its column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from analysis.card import SCHEMA, AnyWarning, Conventions, Interval, Value, Warning
from analysis.decide.allocate import DiscrepancyTerm, carried, positive
from analysis.laws.base import Quantity
from scaling.errors import Code, UserError

if TYPE_CHECKING:
    from analysis.fitting import Fit


class OutsideRange(Warning, tag="extrapolation"):
    """The value lies outside the fitted range of the law's column.

    Attributes:
      ratio: of the value and the ``nearest`` fitted one, at least 1.
      held: whether the interval includes the discrepancy term.
    """

    column: str
    ratio: float
    nearest: float
    held: bool


class Point(Value):
    """The loss of a new run at a value of the only column of a law.

    Attributes:
      law, column: the law, and its column.
      x: the value of the column.
      loss: in the unit of the fit, at ``level``.
      discrepancy: None where the card's term is switched off.
      warnings: about this forecast.
      of_fit: warnings of the fit that affect it.
      quantity: what ``loss`` is: what the law gives.
    """

    law: str
    column: str
    x: float
    level: float
    loss: Interval
    discrepancy: DiscrepancyTerm | None
    conventions: Conventions
    warnings: tuple[OutsideRange, ...]
    of_fit: tuple[AnyWarning, ...]
    quantity: Quantity = "loss"
    kind: Literal["point"] = "point"
    schema: Literal[2] = SCHEMA


def column_of(fit: Fit, name: str, value: object) -> str:
    """The only column of the fit's law. UserError, which names the flag and its value, where it has several."""
    if fit.variable is not None:
        return fit.variable
    columns = fit.law.columns
    remedy = f"is for a law of one variable; law {fit.law.name} is one of {', '.join(columns)}: "
    if set(columns) == {"N", "D"}:
        remedy += "give --params and --tokens"
    else:
        remedy += f"give all of them, from Python: fit.predict({', '.join(f'{c}=...' for c in columns)})"
    raise UserError(name, value, remedy, Code.UNSUPPORTED)


def at_value(fit: Fit, x: float, *, level: float = 0.95) -> Point:
    """The loss of a new run at a value ``x`` of the law's only column.

    Args:
      level: confidence of the interval.

    Raises:
      UserError: UNSUPPORTED: a law of several columns; INVALID: no positive number, or one at which the law gives an
        error below zero.
    """
    column = column_of(fit, "x", x)
    (x,) = positive(x=x).values()
    found = fit.predict({column: np.array([x])}, level=level)
    if fit.law.quantity == "error" and found.value[0] < 0:
        remedy = (
            f"is so far from the runs, which begin at {fit.span[0]:.4g}, that {fit.law.name} gives an error below zero"
        )
        raise UserError("x", x, remedy)
    k, beyond = fit.discrepancy.k, float(fit.beyond({column: x})[0])
    lo = float(found.lo[0]) if fit.law.quantity != "error" else max(float(found.lo[0]), 0.0)
    term = DiscrepancyTerm(e_folds_beyond=beyond, k=k, log_loss=k * beyond, optimum=None) if k > 0 else None
    return Point(
        law=fit.law.name,
        column=column,
        x=x,
        level=level,
        loss=Interval(value=float(found.value[0]), lo=lo, hi=float(found.hi[0])),
        discrepancy=term,
        conventions=fit.conventions,
        warnings=_outside(fit, column, x, k > 0 and beyond > 0),
        of_fit=carried(fit),
        quantity=fit.law.quantity,
    )


def _outside(fit: Fit, column: str, x: float, held: bool) -> tuple[OutsideRange, ...]:
    lo, hi = fit.span
    nearest = min(max(x, lo), hi)
    ratio = max(x / nearest, nearest / x)
    return (OutsideRange(column=column, ratio=ratio, nearest=nearest, held=held),) if ratio > 1 else ()
