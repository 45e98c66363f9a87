"""Sentences about the precision that a plan's cells can be expected to give.

``answers`` registers them with ``sentences.sentence``; `scaling plan` takes them from here, without the import of
pandas that all others need.
"""

from __future__ import annotations

from analysis import laws
from analysis.decide.design import ExpectedPrecision, Prior


def half_widths(expected: ExpectedPrecision) -> str:
    """Half-widths that a plan's cells can be expected to give."""
    if expected.too_few:
        return "too few runs to fit the law at all"
    widths = {name: width for name, width in expected.half_widths.items() if width is not None}
    floor = laws.get(expected.prior.law).floor
    listed = ", ".join(f"{k} ±{width:.2g}{' of itself' if k == floor else ''}" for k, width in widths.items())
    a = widths["a"]
    unknown = "" if expected.identifies_a else " or more: a is not identified"
    return f"{listed}; it cannot tell a = 0.50 from {0.5 + a:.2f}{unknown}"


def prior_words(prior: Prior) -> str:
    """What they rest on."""
    listed = ", ".join(f"exponent of {column} {e:g}" for column, e in prior.exponents.items())
    return (
        f"prior: {prior.law} with {listed}, each term {prior.share:.0%} of the floor at the centre of the cells; noise "
        f"{prior.noise:.2%} a run, half of its variance shared by a stem"
    )
