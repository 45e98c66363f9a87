"""LaTeX of a fit: tables, macros and sources are well-formed, and their numbers are the card's."""

import re
import subprocess
from pathlib import Path

import pytest
from debian import program
from law_tables import runs_of
from matplotlib.mathtext import MathTextParser
from refusals import refuses

from analysis import laws, reference
from analysis.fitting import fit
from analysis.laws import published
from analysis.show import latex
from scaling.errors import Code

ENTRY = re.compile(r"@misc\{(\w+),\n((?:  \w+ = \{.*\},\n)+)\}\n")


@pytest.fixture(scope="module")
def fitted():
    return fit(runs_of(laws.get("chinchilla"), noise=0.003, n=40), "chinchilla")


def well_formed(text: str) -> None:
    """Balanced braces, specials escaped outside of mathematics, ASCII, and mathematics that a parser reads."""
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and text.isascii(), text
    parts = re.split(r"(\$[^$]*\$)", re.sub(r"\\[%$#_{}]", "", text))
    for part in parts:
        if part.startswith("$"):
            MathTextParser("path").parse(part)
        else:
            assert not re.search(r"[%#_^]", re.sub(r"\\cite\{\w+(,\w+)*\}", "", part)), text


@pytest.mark.parametrize("name", [*laws.REGISTRY, "power:C", "chinchilla[beta=0.8*alpha]"])
def test_every_law_is_written(name):
    law = laws.get(name)
    well_formed(latex._latex_formula(law.formula))
    for text in (law.source, *(p.meaning for p in law.params)):
        well_formed(latex._latex_text(text))
    for parameter in law.names:
        well_formed(latex._latex_name(parameter))


def test_macros_are_letters_and_hold_the_numbers_of_the_card(fitted):
    text = latex.macros({"data_2": fitted, "other": fitted})
    found = dict(re.findall(r"^\\newcommand\{\\([A-Za-z]+)\}\{(.*?)\}(?:  %.*)?$", text, re.MULTILINE))
    assert len(found) == text.count("newcommand") == 2 * (1 + 2 * (5 + 2 + 3))
    assert found["dataTwoRows"] == "40" and {"otherA", "othera", "otherTokensPerParameterAtTenToTwoOne"} <= set(found)
    cell = fitted.intervals["alpha"]
    assert found["dataTwoAlpha"] == f"\\ensuremath{{{cell.value:.3g}}}"
    assert found["dataTwoAlphaInterval"] == f"\\ensuremath{{[{cell.lo:.3g}, {cell.hi:.3g}]}}"
    assert "at 10^21 FLOPs" in text and text.isascii()
    with refuses(Code.CONFLICT, "label"):
        latex.macros({"data 2": fitted, "data_2": fitted})
    assert r"\newcommand{\fitA}" in latex.macros({"数据": fitted})  # \a and \b are LaTeX's own


HOSTILE = "my_runs 100% & ümlaut#1 {x} ~^ $"
PAPER = r"""\documentclass{article}
\usepackage{amsmath,array,booktabs}
\input{report-macros}
\begin{document}
\input{report}
In mathematics $\myRunsOneZeroZeroMlautOnexAlpha$, in words \myRunsOneZeroZeroMlautOnexAlphaInterval, \fitRows.

LAWS
\nocite{*}
\bibliographystyle{plain}
\bibliography{report}
\end{document}
"""


@pytest.mark.system
def test_latex_compiles_what_is_written(fitted, tmp_path):
    """With labels that are hostile, the words and signs of every law, and no line that is wider than the page."""
    tex = program(("pdflatex",), ("texlive-latex-recommended",))
    more = [f"their_runs 5% & more, arXiv {name}" for name in ("2608.07222", "2403.08540")]
    latex.write_latex({HOSTILE: fitted, "数据": fitted}, tmp_path / "report.html", more)
    texts = [
        f"{latex._latex_formula(law.formula)} ({latex._latex_text(law.source)}): "
        + ", ".join(f"{latex._latex_name(p.name)} {latex._latex_text(p.meaning)}" for p in law.params)
        for law in laws.REGISTRY.values()
    ]
    (tmp_path / "paper.tex").write_text(PAPER.replace("LAWS", "\n\n".join(texts)))
    once = [tex, "-interaction=nonstopmode", "-halt-on-error", "paper"]
    for command in (once, ["bibtex", "paper"], once, once):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-3000:]
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert "undefined" not in log and (tmp_path / "paper.pdf").stat().st_size > 20_000
    assert [width for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(width) > 20] == []


def test_what_is_cited_is_in_the_bibliography(fitted, tmp_path):
    paths = latex.write_latex({"mine": fitted}, tmp_path / "report.html")
    assert [path.name for path in paths] == ["report.tex", "report-macros.tex", "report.bib"]
    table, _, bib = (path.read_text() for path in paths)
    keys = {key for key, _ in ENTRY.findall(bib)}
    assert set(re.findall(r"\\cite\{(\w+)\}", table)) == {"hoffmann2022"} <= keys and "besiroglu2024" in keys
    body = re.sub(r"\\(begin|end|caption|toprule|midrule|bottomrule)(\{\w+\}){0,2}", "", table).replace("\\\\", "")
    assert latex.write_latex({"mine": fitted}, tmp_path / "report.html") == paths  # replaces its own
    (tmp_path / "paper.tex").write_text("a paper")
    with refuses(Code.CONFLICT, "latex", tmp_path / "paper.tex"):
        latex.write_latex({"mine": fitted}, tmp_path / "paper.html")
    assert sorted(tmp_path.glob("paper*")) == [tmp_path / "paper.tex"]
    assert table.count(r"\begin{") == table.count(r"\end{") == 2 and body.isascii()
    more = f"their runs, arXiv {reference.source('gadre').arxiv}"
    assert {"gadre2024", "hoffmann2022"} <= {key for key, _ in ENTRY.findall(latex.bibliography([fitted], [more]))}


def test_every_source_has_one_entry():
    text = Path(latex.SOURCES).read_text()
    entries = ENTRY.findall(text)
    assert len(entries) == text.count("@misc") == len({key for key, _ in entries})
    known = {re.search(r"eprint = \{([\d.]+)\}", body).group(1) for _, body in entries}
    places = [law.source for law in laws.REGISTRY.values()]
    places += [f"arXiv {entry.arxiv}" for entry in published.REGISTRY.values()]
    places += [f"arXiv {reference.source(name).arxiv}" for name in reference.names()]
    used = {number for place in places for number in re.findall(r"\d{4}\.\d{5}", place)}
    assert used - known == {"2608.07222", "2604.22753", "2607.01487", "2605.09189"}  # only their numbers are known here
    for key, body in entries:
        fields = dict(re.findall(r"  (\w+) = \{(.*)\},", body))
        assert set(fields) == {"author", "title", "year", "eprint", "archivePrefix"} and fields["year"] in key
    note = latex._entry("2608.07222", "Skaling, arXiv 2608.07222")
    assert note[0] == "arxiv2608.07222" and ENTRY.fullmatch(note[1].replace("arxiv2608.07222,", "x,", 1))
