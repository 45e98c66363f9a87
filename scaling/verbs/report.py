"""report: writes one self-contained HTML file for a study, a fit card, or a table of runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records import SCHEMA
from scaling.records.typed import check_writable, reading_once
from scaling.verbs._declare import JSON, TABLE, Verb
from scaling.verbs._inputs import beside_input, fit_of, keep_inputs, of_table
from scaling.verbs.show import print_json

if TYPE_CHECKING:
    from analysis.show.workdir_summary import WorkdirSummary

OTHERS = (".pdf", ".png", ".svg", ".jpg", ".tex", ".md", ".txt", ".json", ".csv", ".docx")  # formats a report is not in


def report(options: SimpleNamespace) -> int:
    """Writes the report and prints its short form: the law, what it predicts, how the sealed forecasts came out."""
    from analysis.decide import forecast
    from analysis.show import workdir_summary
    from analysis.show.report import FILE, summary, write
    from analysis.table import seal as sealed

    path, study = Path(options.path), options.path.is_dir()
    out = Path(options.out) if options.out else path / FILE if study else beside_input(path, ".html")
    keep_inputs(out, [path])
    check_writable(out, "out")
    if out.suffix.lower() in OTHERS:
        raise UserError("out", out, "must end with .html, the format of a report; a browser prints it to PDF")
    if study:
        of_table(options, path)
    with reading_once():
        collected = workdir_summary.collect(path) if study else workdir_summary.of_one(fit_of(path, options)[0], path)
    papers = _latex(collected, out) if options.latex else []  # first: it may refuse, and then nothing is written
    written = write(collected, out)
    if options.json:
        scored = forecast.score(path) if study and sealed.read(path) else None
        print_json({"schema": SCHEMA, "kind": "report", "path": str(written), "latex": papers, "forecasts": scored})
        return 0
    print(summary(collected, written))
    for path in papers:
        print(f"LaTeX: {path}")
    return 0


def _latex(collected: WorkdirSummary, page: Path) -> list[str]:
    """Writes the LaTeX files beside the page: of every data set the law that its allocations come from."""
    from analysis import reference
    from analysis.show.latex import write_latex

    fits = {part.name: fit for part in collected.datasets if (fit := part.main()) is not None}
    if not fits:
        raise UserError("latex", collected.name, "no law is fitted yet; run `scaling fit`", Code.MISSING)
    tables = (reference.find(fit.data.source) for fit in fits.values())
    more = [f"{table.paper}, arXiv {table.arxiv}" for table in tables if table is not None]
    return list(map(str, write_latex(fits, page, more)))


VERB = Verb(
    summary="write a report of a study, a fit card or a table as one HTML file, and print its core",
    positional=("WORKDIR|FIT.json|FILE",),
    flags=(
        *TABLE,
        Flag("out", str, "file to write (default: report.html in WORKDIR, or FILE.html beside the file)"),
        Flag("latex", bool, "also write a LaTeX table, macros of the numbers, and BibTeX beside the page", False),
        JSON,
    ),
    example="scaling report runs/demo-smoke",
    call=report,
)
