"""Allocations as text: the numbers, the assumptions behind them, and warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.decide.allocate import Allocation, DiscrepancyTerm
from analysis.decide.chain import Chain
from analysis.decide.one_variable import Point
from analysis.decide.pool import Forecast
from analysis.decide.spending import Spending
from analysis.show.answers import cost_words, sentence
from analysis.show.numbers import digits, interval, percent
from analysis.show.sentences import meaning, quantity_word

QUANTITIES = {"N": "N", "D": "D", "tokens_per_parameter": "D/N", "flops": "FLOPs"}  # field: label
SMALL = 0.05  # laws that carry less of a forecast are not named


def allocation(answer: Allocation, law: str, more: Sequence[str] = ()) -> list[str]:
    """Lines of text of an allocation.

    Args:
      law: name of the law.
      more: lines that follow the numbers, such as the recipe there.
    """
    what = quantity_word(answer.quantity)
    lines = [
        f"{law}, {percent(answer.level)} intervals, {answer.extrapolation_ratio:.3g} times the largest fitted compute",
        *(f"  the least compute for a loss of {goal:.4g}" for name, goal in answer.asked.items() if name == "loss"),
        *(f"  {label:6} {interval(getattr(answer, name), digits(4))}" for name, label in QUANTITIES.items()),
        f"  {what:6} {interval(answer.loss, digits(4))}",
    ]
    lines += [*_discrepancy(answer.discrepancy, what), *more]
    half, twice = answer.sensitivity.half_N, answer.sensitivity.double_N  # negative where a condition binds
    lines.append(f"  at this compute half of N changes the {what} by {half:+.2%}, twice N by {twice:+.2%}")
    lines += _conditions(answer)
    counted = meaning(answer.conventions).get("N", "not said")
    lines.append(f"  N is {counted}; cost: {cost_words(answer.cost)}")
    lines += [f"  warning {w.code}: {sentence(w)}" for w in answer.warnings]
    return lines + [f"  warning {w.code}: of the fit: {sentence(w)}" for w in answer.of_fit]


def _discrepancy(wrong: DiscrepancyTerm | None, what: str) -> list[str]:
    if wrong is None or wrong.e_folds_beyond <= 0:
        return []
    optimum = f", a factor of {math.exp(wrong.optimum):.2g} of the optimum" if wrong.optimum else ""
    return [
        f"  discrepancy, {wrong.e_folds_beyond:.2g} e-folds beyond these runs: {wrong.log_loss:.2%} of the "
        f"{what}{optimum} (t scales, in the intervals)"
    ]


def several(forecast: Forecast | None) -> list[str]:
    """Lines of text of the forecast by several laws."""
    if forecast is None:
        return []
    named = ", ".join(f"{c.law} {c.weight:.0%} ({c.alone:.4g})" for c in forecast.laws if c.weight >= SMALL)
    rest = sum(c.weight for c in forecast.laws if c.weight < SMALL)
    others = f", others {rest:.0%}" if rest > 0 else ""
    return [
        f"  several laws together: loss {interval(forecast.loss, digits(4))}",
        f"    carried by (what each alone says): {named}{others}",
        f"    the laws differ by {forecast.disagreement:.2%} (weighted sd); scales of log loss: noise "
        f"{forecast.noise:.2%}, {forecast.e_folds_beyond:.2g} e-folds beyond the runs {forecast.beyond:.2%}",
    ]


def point(answer: Point) -> list[str]:
    """Lines of text of a forecast under a law of one variable."""
    what = quantity_word(answer.quantity)
    return [
        f"{answer.law}, {percent(answer.level)} interval of a new run",
        f"  {answer.column:6} {answer.x:.4g} (given)",
        f"  {what:6} {interval(answer.loss, digits(4))}",
        *_discrepancy(answer.discrepancy, what),
        *(f"  warning {w.code}: {sentence(w)}" for w in answer.warnings),
        *(f"  warning {w.code}: of the fit: {sentence(w)}" for w in answer.of_fit),
    ]


def chained(chain: Chain | None) -> list[str]:
    """Lines of text of what the loss becomes under further laws."""
    lines = []
    for step in chain.steps if chain is not None else ():
        alone = step.of_input
        lines += [
            f"  then   {interval(step.value, digits(4))} by {step.law}: {step.response}",
            f"    {interval(alone, digits(4))} if that law were exact",
            *(f"    warning {w.code}: {sentence(w)}" for w in step.warnings),
            *(f"    warning {w.code}: of its fit: {sentence(w)}" for w in step.of_fit),
        ]
    return lines


def _conditions(answer: Allocation) -> list[str]:
    if not isinstance(answer, Spending):
        return []
    lines, free = [f"  {sentence(answer.condition)}"], answer.unconstrained
    if answer.cost_of_condition is not None and free is not None:
        lines.append(
            f"  without the condition N {free.N:.4g}, D {free.D:.4g}; it costs {answer.cost_of_condition:.2%} of the "
            "loss"
        )
    return lines
