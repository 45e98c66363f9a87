"""Forecasts in several steps: the loss of a run, from it an error, from that how many problems k attempts solve.

Each step is a fit of its own, to other runs or problems. Their draws are independent, so that they are combined one by
one: a draw of the loss of a new run goes into a draw of the next law, whose own noise is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.card import SCHEMA, AnyWarning, Interval, Value
from analysis.decide.allocate import carried
from analysis.decide.one_variable import OutsideRange
from scaling.errors import Code, UserError

if TYPE_CHECKING:
    from analysis.fitting import Fit

Array = np.ndarray
GIVEN = ("attempts",)  # columns that the user gives, not the step before


class Step(Value):
    """What a law makes of the number of the step before.

    Attributes:
      law, column: the law, and the column that the number goes into.
      response: what the law's response is, in words.
      value: of a new run, with the uncertainty of every step.
      of_input: with that of the steps before alone, as if this law were exact.
      warnings: where the number before lies outside the fitted range of the column.
      of_fit: warnings of the law's fit that affect it.
    """

    law: str
    column: str
    response: str
    value: Interval
    of_input: Interval
    warnings: tuple[OutsideRange, ...]
    of_fit: tuple[AnyWarning, ...]


class Chain(Value):
    """The steps after the loss, in order, at ``level``."""

    level: float
    loss: Interval
    steps: tuple[Step, ...]
    schema: int = SCHEMA


def through(
    fit: Fit, cell: Mapping[str, float], steps: Sequence[Fit], *, attempts: float | None = None, level: float = 0.95
) -> Chain:
    """What the loss of a new run at ``cell`` becomes under further laws.

    Args:
      fit: of the loss.
      cell: the columns of its law.
      steps: the fits of the laws that follow, each of one column, beside ``attempts``.
      attempts: for a law that has them.

    Returns:
      The loss and every step, with intervals of all uncertainties so far.

    Raises:
      UserError: UNSUPPORTED: a law of several columns, or attempts that no law has; MISSING: a law of attempts without
        them; INVALID: attempts that are no positive number.
    """
    columns = [_column(step, attempts) for step in steps]
    if attempts is not None and not any("attempts" in step.law.columns for step in steps):
        raise UserError(
            "attempts", attempts, "is in none of the laws; fit one that has it (pass_at_k)", Code.UNSUPPORTED
        )
    losses = fit.samples({name: np.array([value]) for name, value in cell.items()})[:, 0]
    at, drawn, done = _interval(losses, level), losses, []
    for i, (step, column) in enumerate(zip(steps, columns, strict=True)):
        given = {column: drawn} | (
            {"attempts": np.full(len(drawn), attempts)} if "attempts" in step.law.columns else {}
        )
        exact = _bounded(step, step.law.predict(step.theta, given))
        before, drawn = drawn, _bounded(step, _paired(step, given, [fit.seed, 7, i]))
        done.append(
            Step(
                law=step.law.name,
                column=column,
                response=step.law.response,
                value=_interval(drawn, level),
                of_input=_interval(exact, level),
                warnings=_outside(step, column, float(np.median(before))),
                of_fit=carried(step),
            )
        )
    return Chain(level=level, loss=at, steps=tuple(done))


def _column(step: Fit, attempts: float | None) -> str:
    """The column of a step that takes the number before it."""
    free = [name for name in step.law.columns if name not in GIVEN]
    if len(free) != 1 or step.law.curve:
        remedy = f"is a law of {', '.join(step.law.columns)}; a step takes one number, as downstream:val_loss does"
        raise UserError("through", step.law.name, remedy, Code.UNSUPPORTED)
    if "attempts" in step.law.columns:
        if attempts is None:
            raise UserError("through", step.law.name, "needs a number of attempts; give --attempts", Code.MISSING)
        if not attempts >= 1:
            raise UserError("attempts", attempts, "must be a number of at least 1")
    return free[0]


def _paired(step: Fit, given: Mapping[str, Array], seed: Sequence[int]) -> Array:
    """One sample of the law's response for every row (n,), each under another draw."""
    samples = step.samples(given)
    count = samples.shape[1]
    draw = np.random.default_rng(seed).permutation(np.resize(np.arange(len(samples)), count))
    return samples[draw, np.arange(count)]


def _bounded(step: Fit, values: Array) -> Array:
    """The values; a share of errors is none above 1 or below 0."""
    return np.clip(values, 1e-12, 1.0) if step.law.quantity == "error" else values


def _interval(values: Array, level: float) -> Interval:
    lo, value, hi = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Interval(value=float(value), lo=float(lo), hi=float(hi))


def _outside(step: Fit, column: str, x: float) -> tuple[OutsideRange, ...]:
    values = step.columns[column]
    nearest = float(np.clip(x, values.min(), values.max()))
    ratio = max(x / nearest, nearest / x) if x > 0 and nearest > 0 else 1.0
    held = step.discrepancy.k > 0 and step.variable is not None
    return (OutsideRange(column=column, ratio=ratio, nearest=nearest, held=held),) if ratio > 1 else ()
