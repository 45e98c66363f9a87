"""The report as one HTML page that refers to nothing outside: template, figures and their typed content."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import markupsafe
import msgspec

from analysis.show import plots, workdir_summary
from analysis.show.numbers import greek, interval, power_text, short
from analysis.show.numbers import loss as loss_text
from analysis.show.report.answer import Answer, answer
from analysis.show.report.figures import drawn, palette
from analysis.show.report.sections import contents
from analysis.show.sentences import count_word
from analysis.show.workdir_summary import WorkdirSummary
from scaling.records import write_atomic
from scaling.records.types import DataDescription

FILE = "report.html"
HERE = Path(__file__).parent
ROWS = 1000  # cells in the table of the runs; more would make a page of megabytes


def write(workdir: str | Path | WorkdirSummary, out: str | Path | None = None) -> Path:
    """Writes the report of a work directory, finished or not, as one file that refers to nothing outside.

    Args:
      workdir: the directory, or what was collected of it.
      out: the file; by default ``report.html`` in the work directory.

    Returns:
      The file.

    Raises:
      UserError: the directory holds no study and no run, or the file cannot be written.
    """
    summary = workdir_summary.collect(workdir)
    figures = drawn(plots.of_workdir(summary))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=jinja2.FileSystemLoader(HERE)
    )
    environment.filters.update(n=_count, flops=_flops, loss=_loss, rate=_rate, interval=interval)
    environment.filters.update(greek=greek, math=formula, coded=_coded, counted=count_word, known=_known)
    environment.filters.update(data=_data)
    page = environment.get_template("report.html.jinja")
    path = Path(out) if out is not None else summary.workdir / FILE
    style = palette(svg for own in figures.values() for svg in own.values())
    parts = {name: markupsafe.Markup((HERE / f"report.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    answers = {part.name: answer(summary, part) for part in summary.datasets}
    shown = {"report": contents(summary), "figures": figures, "answers": answers, "limit": ROWS}
    write_atomic(path, page.render(palette=markupsafe.Markup(style), **shown, **parts))
    return path


def _data(shown: Answer) -> markupsafe.Markup:
    """What the script looks up, as JSON that no text in it can end."""
    marks = {} if shown.chart is None else {name: each.marks for name, each in shown.chart.drawings.items()}
    text = msgspec.json.encode({"steps": shown.steps, "marks": marks}).decode()
    return markupsafe.Markup(text.replace("<", "\\u003c"))


def _coded(text: str) -> markupsafe.Markup:
    """Text whose `commands` are set as code."""
    return markupsafe.Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(greek(text)))))


def _count(value: float | None) -> str:
    return "–" if value is None else short(float(value))


def _flops(value: float | None) -> str:
    return "–" if value is None else power_text(float(value), 3)


def _loss(value: float | None) -> str:
    return "–" if value is None else loss_text(value)


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _known(data: DataDescription) -> list[tuple[str, str | float]]:
    """What a source tells of itself in one word or number each."""
    told = {**msgspec.structs.asdict(data), **data.about}
    return [(name, value) for name, value in told.items() if isinstance(value, str | int | float)]


def formula(text: str) -> markupsafe.Markup:
    """A formula with superscripts and subscripts, as HTML."""
    escaped = str(markupsafe.escape(greek(text)))
    escaped = re.sub(r"(?<=[A-Za-zα-ω])_([A-Za-z]+)", r"<sub>\1</sub>", escaped)
    power = r"\^\(([^()]*)\)|\^(-?[\wα-ω]+(?:<sub>\w+</sub>)?)"
    raised = re.sub(power, lambda m: f"<sup>{(m.group(1) or m.group(2)).replace('-', '−')}</sup>", escaped)
    return markupsafe.Markup(raised)
