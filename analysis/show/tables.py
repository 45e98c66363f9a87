"""A fit as text, HTML, a DataFrame, LaTeX (``latex``), or a few lines of Python (``python_code.to_python``)."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.show.latex import to_latex
from analysis.show.numbers import aligned, digits, interval, percent
from analysis.show.parameters import parameters
from analysis.show.python_code import to_python
from analysis.show.sentences import meaning, rows_word, sentence, verdict

if TYPE_CHECKING:
    import pandas as pd

    from analysis.card import FitCard
    from analysis.fitting import Fit

__all__ = ["parameters", "summary", "summary_html", "to_frame", "to_latex", "to_python"]

_FOUR, _THREE = digits(4), digits(3)
_DERIVED = {"a": "exponent of C in the optimal N", "b": "exponent of C in the optimal D"}


# --- text


def summary(fit: Fit) -> str:
    """A fit card as text: parameters with intervals, how they were made, warnings with remedies, the verdict."""
    card = fit.card
    lines = [
        f"{card.data.dataset or card.data.source}: {fit.law.name}  {fit.law.formula}",
        f"  {rows_word(card.conventions, card.data.rows)}{_counted(fit)}",
        *_numbers(card),
        *_how(card),
        *_optima(card),
        *(f"  warning {w.code}: {sentence(w)}" for w in card.warnings),
        *_published(card),
        f"  {verdict(fit)}",
    ]
    return "\n".join(lines)


def _counted(fit: Fit) -> str:
    """What N is where the law or its cost reads it, and what other columns are where names or units do not tell."""
    conventions, words = fit.card.conventions, meaning(fit.card.conventions)
    if conventions.origin != "table":
        return f"; N is {words['N']}" if "N" in words else ""
    plain = {name for name, column in conventions.columns.items() if column == name} - {*conventions.units, "N"}
    if conventions.aside:
        plain -= {"loss"}
    told = {name for name in words if name not in plain and (name != "C" or conventions.flops == "column")}
    if len(fit.law.columns) == 1 and fit.law.columns[0] not in ("N", "D", "C"):
        told -= {"N", "D", "C"}  # of one variable that is none of them
    rest = (name for name in fit.law.columns if name not in ("N", "D", "C"))
    return "".join(f"; {name} is {words[name]}" for name in ("N", "D", "C", *rest, "loss") if name in told)


def _numbers(card: FitCard) -> list[str]:
    lines = [f"  {name:8} {interval(cell, _FOUR)}  {cell.unit}".rstrip() for name, cell in card.params.items()]
    for name, what in _DERIVED.items():
        if (cell := getattr(card.derived, name)) is not None:
            lines.append(f"  {name:8} {interval(cell, _FOUR)}  {what}")
    if (cell := card.derived.a_beyond) is not None:
        lines.append(f"  a to ten times the compute of these runs, with the discrepancy: {interval(cell, _THREE)}")
    held = ", if the law holds" if card.discrepancy.k == 0 else ""
    for budget, cell in card.derived.tokens_per_parameter.items():
        lines.append(f"  D/N at {budget} FLOPs{held}: {interval(cell, _THREE)}")
    return lines


def _how(card: FitCard) -> list[str]:
    """How the intervals were made, and the options that differ from the default."""
    scheme, objective = card.scheme, card.objective
    lines = [
        f"  {percent(scheme.level)} intervals by {scheme.name}, objective {objective.name}, residual "
        f"{objective.rms_log_residual:.2%}"
    ]
    if card.offset:
        lines.append(
            "  losses below zero: residual, noise and discrepancy are shares of the loss + "
            f"{card.offset:.4g}; no floor is looked for below {-card.offset:.4g}"
        )
    if card.priors:
        priors = ", ".join(f"{name} = {mean:g} ± {sd:g}" for name, (mean, sd) in card.priors.items())
        lines.append(f"  normal priors (mean ± sd): {priors}")
    lines += [f"  {sentence(said)}" for said in (card.weights, card.evaluation) if said is not None]
    if card.schemes:
        lines.append("  every scheme on this fit; its point is the estimate that goes with it")
        lines += [f"    {line}" for line in _schemes(card)]
        lines += [f"    {name}: {sentence(other.scheme)}" for name, other in card.schemes.items()]
    if card.discrepancy.k > 0:
        lines.append(f"  {sentence(card.discrepancy)}")
    return lines


def _schemes(card: FitCard) -> list[str]:
    names = list(next(iter(card.schemes.values())).intervals)
    rows = [
        [
            f"{name}{' (chosen)' if name == card.scheme.name else ''}",
            *(interval(other.intervals.get(parameter), _THREE) for parameter in names),
        ]
        for name, other in card.schemes.items()
    ]
    return aligned([["scheme", *names], *rows])


def _optima(card: FitCard) -> list[str]:
    count, dropped = len(card.optima), card.data.dropped
    lines = [
        f"  {count} {'optimum' if count == 1 else 'optima'} within 1 % of the best objective, the best reached by "
        f"{card.optima[0].share_of_starts:.0%} of the starts; {len(dropped)} rows dropped"
    ]
    return lines + [f"    dropped {row.row}: {sentence(row)}" for row in dropped[:5]]


def _published(card: FitCard) -> list[str]:
    known = card.published
    if len(known) > 3:
        return [f"  published fits of this form: {', '.join(entry.name for entry in known)} (see the card)"]
    return [f"  published {entry.name} ({entry.source}): {sentence(entry)}" for entry in known]


# --- other formats


def to_frame(fit: Fit) -> pd.DataFrame:
    """The numbers of a fit as a table: one row per parameter or derived number.

    Returns:
      Columns ``value``, ``lo``, ``hi`` (infinite where an end is open), ``unit``, ``identified`` (``yes``, ``roughly``,
      ``no``, ``by the form``, or empty where it is not judged) and ``meaning``; the index is ``parameter``.
    """
    import pandas as pd

    rows = [
        {
            "parameter": name,
            "value": cell.value,
            "lo": -math.inf if cell.lo is None else cell.lo,
            "hi": math.inf if cell.hi is None else cell.hi,
            "unit": cell.unit,
            "identified": identified,
            "meaning": what,
        }
        for name, cell, identified, what in parameters(fit)
    ]
    return pd.DataFrame(rows).set_index("parameter")


def summary_html(fit: Fit) -> str:
    """The summary of a fit for a notebook: its formula, a table of its numbers, warnings and the verdict."""
    card = fit.card
    title = f"{card.data.dataset or card.data.source}: {fit.law.name}"
    caption = (
        f"{rows_word(card.conventions, card.data.rows)}{_counted(fit)}; {percent(fit.level)} intervals by "
        f"{card.scheme.name}"
    )
    head = "".join(f"<th>{name}</th>" for name in ("", "value [interval]", "unit", "identified", "what it is"))
    rows = [
        _html_row([name, interval(cell), cell.unit, identified, what])
        for name, cell, identified, what in parameters(fit)
    ]
    warnings = "".join(f"<li><b>{w.code.replace('_', ' ')}</b>: {html.escape(sentence(w))}</li>" for w in card.warnings)
    return (
        f"<div><b>{html.escape(title)}</b> <code>{html.escape(fit.law.formula)}</code>"
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        f"{f'<ul>{warnings}</ul>' if warnings else ''}<p>{html.escape(verdict(fit))}</p></div>"
    )


def _html_row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
