"""A fit as text, HTML, a DataFrame, LaTeX, or a few lines of Python (``python_code.to_python``)."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from analysis.check.diagnose import standing
from analysis.show.numbers import aligned, digits, interval, number, percent, power_text
from analysis.show.python_code import to_python
from analysis.show.sentences import count_word, meaning, rows_word, sentence, verdict

if TYPE_CHECKING:
    import pandas as pd

    from analysis.card import FitCard, Interval
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
        f"  {rows_word(card.conventions, card.data.rows)}{_counted(card)}",
        *_numbers(card),
        *_how(card),
        *_optima(card),
        *(f"  warning {w.code}: {sentence(w)}" for w in card.warnings),
        *_published(card),
        f"  {verdict(fit)}",
    ]
    return "\n".join(lines)


def _counted(card: FitCard) -> str:
    """What N is, and what the other columns are where their names or units do not tell."""
    conventions, words = card.conventions, meaning(card.conventions)
    if conventions.origin != "table":
        return f"; N is {words['N']}" if "N" in words else ""
    plain = {name for name, column in conventions.columns.items() if column == name} - {*conventions.units, "N"}
    if conventions.aside:
        plain -= {"loss"}
    told = {name for name in words if name not in plain and (name != "C" or conventions.flops == "column")}
    return "".join(f"; {name} is {words[name]}" for name in ("N", "D", "C", "loss") if name in told)


def _numbers(card: FitCard) -> list[str]:
    lines = [f"  {name:8} {interval(cell, _FOUR)}  {cell.unit}".rstrip() for name, cell in card.params.items()]
    for name, what in _DERIVED.items():
        if (cell := getattr(card.derived, name)) is not None:
            lines.append(f"  {name:8} {interval(cell, _FOUR)}  {what}")
    for budget, cell in card.derived.tokens_per_parameter.items():
        lines.append(f"  D/N at {budget} FLOPs, if the law holds: {interval(cell, _THREE)}")
    return lines


def _how(card: FitCard) -> list[str]:
    """How the intervals were made, and the options that differ from the default."""
    scheme, objective = card.scheme, card.objective
    lines = [
        f"  {percent(scheme.level)} intervals by {scheme.name}, objective {objective.name}, residual "
        f"{objective.rms_log_residual:.2%}"
    ]
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


# --- rows of the other formats


def parameters(fit: Fit) -> list[tuple[str, Interval, str, str]]:
    """Parameters and derived numbers: (name, interval, how well it is known (may be empty), meaning)."""
    meanings = {p.name: p.meaning for p in fit.law.params} | {"a": "N_opt grows as C^a", "b": "D_opt grows as C^b"}
    standings = standing(fit.law, fit.intervals, fit.warnings)
    known = {name: how.replace("_", " the ") for name, how in standings.items()}  # by_form is "by the form"
    rows = [(name, cell, known.get(name, ""), meanings.get(name, "")) for name, cell in fit.intervals.items()]
    for budget, cell in fit.derived.tokens_per_parameter.items():
        what = (
            f"compute-optimal tokens per parameter at {power_text(float(budget), 3)} FLOPs, C = 6 N D on the card's N"
        )
        rows.append(("D/N", cell, known.get("a", ""), what))
    return rows


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
        f"{rows_word(card.conventions, card.data.rows)}{_counted(card)}; {percent(fit.level)} intervals by "
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


# --- LaTeX


def to_latex(fit: Fit) -> str:
    """The numbers of a fit as a LaTeX table of the booktabs package, with intervals and a caption."""
    rows = [
        f"{_latex_name(name)} & {_latex_number(cell.value)} & {_latex_interval(cell)} & {_latex_text(what)} \\\\"
        for name, cell, _, what in parameters(fit)
    ]
    kind, card = rows_word(fit.conventions, fit.data.rows), fit.card
    counted = "" if fit.conventions.n is None else f", $N$ of {count_word(fit.conventions.n)} parameters"
    caption = (
        f"{_latex_formula(fit.law.formula)} ({_latex_text(fit.law.source)}) fitted to {kind}{counted}, with "
        f"{100 * fit.level:g}\\,\\% intervals ({card.scheme.name})."
    )
    return "\n".join(
        [
            r"\begin{table}",
            f"\\caption{{{caption}}}",
            r"\begin{tabular}{llll}",
            r"\toprule",
            f"parameter & estimate & {100 * fit.level:g}\\,\\% interval & meaning \\\\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_PLAIN = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_GREEK = ("alpha", "beta", "gamma", "kappa", "eta", "eps")
_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | {"×": r"$\times$"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _latex_text(text: str) -> str:
    """Words, in which names with powers and subscripts are mathematics."""
    text = re.sub("10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: f"10^{m[1].translate(_PLAIN)}", text)
    parts = re.split(r"(\b\w+(?:_\w+|\^-?\w+)+)", text.replace("\\", ""))
    return "".join(_latex_formula(part) if i % 2 else part.translate(_SPECIAL) for i, part in enumerate(parts))


def _latex_symbol(name: str) -> str:
    """A parameter's name in mathematics: ``alpha_N`` is a Greek letter with a subscript."""
    head, _, below = name.partition("_")
    sign = f"\\{'epsilon' if head == 'eps' else head}" if head in _GREEK else head
    if sign == head and len(head) > 1 and head.isalpha():
        sign = f"\\mathrm{{{head}}}"
    return f"{sign}_{{\\mathrm{{{below}}}}}" if below else sign


def _latex_name(name: str) -> str:
    return f"${_latex_symbol(name)}$"


def _latex_formula(formula: str) -> str:
    """A formula of words, operators and powers as LaTeX."""
    spelled = re.sub(r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*", lambda m: _latex_symbol(m[0]), formula)
    powers = re.sub(r"\^(-?[^\s()\[\],]+)", r"^{\1}", spelled)
    powers = re.sub(r"\^\(([^()]*)\)", r"^{\1}", powers)
    return f"${powers}$"


def _latex_number(value: float) -> str:
    text = number(value)
    if "e" in text:
        head, _, exponent = text.partition("e")
        return f"${head} \\times 10^{{{int(exponent)}}}$"
    return f"${text}$"


def _latex_interval(cell: Interval) -> str:
    if cell.lo is None and cell.hi is None:
        return "not identified"
    if cell.lo == cell.hi:
        return "given"
    ends = ["open" if end is None else _latex_number(end) for end in (cell.lo, cell.hi)]
    return f"[{', '.join(ends)}]"
