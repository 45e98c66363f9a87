"""A fit for a paper: a LaTeX table with intervals, macros for its numbers, and BibTeX of the sources that it uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.laws import published
from analysis.show.numbers import number
from analysis.show.parameters import parameters
from analysis.show.sentences import count_word, rows_word
from scaling.errors import Code, UserError
from scaling.records import write_atomic

if TYPE_CHECKING:
    from analysis.card import Interval
    from analysis.fitting import Fit


MARK = "% Written by scaling report --latex, which replaces it when it is run again.\n"  # BibTeX ignores it
SOURCES = Path(__file__).parent / "sources.bib"
_ARXIV = re.compile(r"\b(\d{4}\.\d{5})\b")


def to_latex(fit: Fit, cite: bool = False) -> str:
    """The numbers of a fit as a LaTeX table of the packages booktabs and array, with intervals and a caption.

    Args:
      fit: any fit.
      cite: whether the caption cites the law's sources by the keys of ``bibliography``, instead of naming them.
    """
    rows = [
        f"{_latex_name(name)} & {_latex_number(cell.value)} & {_latex_interval(cell)} & {_latex_text(what)} \\\\"
        for name, cell, _, what in parameters(fit)
    ]
    kind, card = rows_word(fit.conventions, fit.data.rows), fit.card
    counted = "" if fit.conventions.n is None else f", $N$ of {count_word(fit.conventions.n)} parameters"
    keys = ",".join(_entry(arxiv, fit.law.source)[0] for arxiv in _ARXIV.findall(fit.law.source))
    source = f"\\cite{{{keys}}}" if cite and keys else f"({_latex_text(fit.law.source)})"
    caption = (
        f"{_latex_formula(fit.law.formula)} {source} fitted to {kind}{counted}, with "
        f"{100 * fit.level:g}\\,\\% intervals ({card.scheme.name})."
    )
    return "\n".join(
        [
            r"\begin{table}",
            f"\\caption{{{caption}}}",
            r"\begin{tabular}{lll>{\raggedright\arraybackslash}p{0.45\linewidth}}",
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


def macros(fits: Mapping[str, Fit]) -> str:
    """A ``\\newcommand`` for every number of some fits, and one for its interval, so that a text never copies numbers.

    Names are made of letters alone: ``\\stdlibAlpha`` and ``\\stdlibAlphaInterval`` for alpha of a fit labelled stdlib.

    Args:
      fits: by label, such as the data set.
    """
    lines, seen = ["% Numbers of fits for text and mathematics; needs amsmath."], set[str]()
    for label, fit in fits.items():
        name = _letters(label) or "fit"  # a label without a Latin letter or a digit; \a alone is LaTeX's own
        prefix = name[:1].lower() + name[1:]
        budgets = iter(fit.derived.tokens_per_parameter)
        lines += [
            "",
            f"% {label}: {fit.law.name}, {fit.law.formula}, {100 * fit.level:g} % intervals".translate(_ASCII),
        ]
        cells = [("Rows", f"{fit.data.rows}", "number of fitted rows")]
        for name, cell, _, what in parameters(fit):
            own = f"TokensPerParameterAt{_budget(next(budgets))}" if name == "D/N" else _letters(name)
            value, ends = _latex_number(cell.value).strip("$"), _latex_interval(cell).replace("$", "")
            words = ends if ends[0] == "[" else f"\\text{{{ends}}}"
            cells += [(own, f"\\ensuremath{{{value}}}", what), (f"{own}Interval", f"\\ensuremath{{{words}}}", "")]
        for own, text, what in cells:
            if prefix + own in seen:
                raise UserError(
                    "label", label, f"gives the macro {prefix + own} twice; label fits apart", Code.CONFLICT
                )
            seen.add(prefix + own)
            comment = f"  % {_powers(what)}".translate(_ASCII) if what else ""
            lines.append(f"\\newcommand{{\\{prefix}{own}}}{{{text}}}{comment}")
    return "\n".join([*lines, ""])


def bibliography(fits: Iterable[Fit], more: Iterable[str] = ()) -> str:
    """BibTeX entries of the sources that some fits use: their laws, and published fits beside them.

    Args:
      fits: any number.
      more: other sources, as texts with their arXiv numbers, such as those of published runs.
    """
    places = list(more)
    for fit in fits:
        places.append(fit.law.source)
        for entry in fit.card.published:
            known = published.REGISTRY.get(entry.name)
            places.append(f"{entry.source}, arXiv {known.arxiv}" if known else entry.source)
    found = dict(_entry(arxiv, place) for place in places for arxiv in _ARXIV.findall(place))
    return "\n".join([found[key] for key in sorted(found)])


def write_latex(fits: Mapping[str, Fit], page: str | Path, more: Iterable[str] = ()) -> list[Path]:
    """Writes tables, macros and sources beside a page: ``NAME.tex``, ``NAME-macros.tex`` and ``NAME.bib``.

    The tables need booktabs and array, the macros amsmath. ``more`` as in ``bibliography``. Returns the paths.

    Raises:
      UserError: labels that give one macro twice, or a file of that name is not from here (CONFLICT), or cannot be
        written.
    """
    page = Path(page)
    tables = "\n".join(to_latex(fit, cite=True) for fit in fits.values())
    endings = {".tex": tables, "-macros.tex": macros(fits), ".bib": bibliography(fits.values(), more)}
    texts = {page.with_name(page.stem + ending): text for ending, text in endings.items()}
    for path in texts:
        if path.is_file() and not path.read_bytes().startswith(MARK.encode()):
            raise UserError("latex", path, "is there and not of `scaling report`; give another --out", Code.CONFLICT)
    for path, text in texts.items():
        write_atomic(path, (MARK + text).encode())
    return list(texts)


@cache
def _known() -> dict[str, tuple[str, str]]:
    """Key and text of every entry of ``sources.bib`` by its arXiv number."""
    entries = re.findall(r"^(@misc\{(\w+),\n.*?^\}\n)", SOURCES.read_text(), re.MULTILINE | re.DOTALL)
    return {_ARXIV.findall(text)[0]: (key, text) for text, key in entries}


def _entry(arxiv: str, place: str) -> tuple[str, str]:
    """Key and text of the entry of an arXiv number; one that is not in ``sources.bib`` has what its place says."""
    if arxiv in _known():
        return _known()[arxiv]
    key = f"arxiv{arxiv}"
    note = _latex_text(place)
    return key, f"@misc{{{key},\n  note = {{{note}}},\n  eprint = {{{arxiv}}},\n  archivePrefix = {{arXiv}},\n}}\n"


_DIGITS = dict(zip("0123456789", ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")))


def _budget(flops: str) -> str:
    """A budget as the card names it, such as 1e+21: TenToTwoOne."""
    head, _, exponent = flops.partition("e+")
    return f"TenTo{_letters(exponent)}" if head == "1" and exponent else _letters(flops)


def _letters(name: str) -> str:
    """A name as letters: ``alpha_N`` is AlphaN, ``mine2`` is MineTwo. One letter keeps its case: A is no a."""
    parts = re.split(r"[^A-Za-z0-9]+", re.sub(r"\d", lambda m: f" {_DIGITS[m[0]]} ", name))
    return "".join(part[:1].upper() + part[1:] if len(part) > 1 else part for part in parts)


_PLAIN = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_GREEK = ("alpha", "beta", "gamma", "kappa", "eta", "eps")
_SIGNS = {"×": r"$\times$", "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "–": "--", "−": "$-$", "’": "'"}
_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | _SIGNS | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
_ASCII = str.maketrans(
    {"×": "x", "±": "+-", "–": "-", "−": "-", "’": "'", "\n": " "} | dict(zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
)


def _latex_text(text: str) -> str:
    """Words, in which names with powers and subscripts are mathematics."""
    parts = re.split(r"(\b\w+(?:_\w+|\^-?\w+)+)", _powers(text.replace("\\", "")))
    return "".join(_latex_formula(part) if i % 2 else part.translate(_SPECIAL) for i, part in enumerate(parts))


def _powers(text: str) -> str:
    """Powers of ten in superscripts, as 10^12."""
    return re.sub("10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: f"10^{m[1].translate(_PLAIN)}", text)


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
