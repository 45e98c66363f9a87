"""The report as one HTML page without scripts or outside references: template, figures and their typed content."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import markupsafe
import msgspec

from analysis.show import plots, workdir_summary
from analysis.show.numbers import interval, power_text, short
from analysis.show.numbers import loss as loss_text
from analysis.show.report.sections import contents
from analysis.show.sentences import count_word
from scaling.records import write_atomic
from scaling.records.types import DataDescription

FILE = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write(workdir: str | Path, out: str | Path | None = None) -> Path:
    """Writes the report of a work directory, finished or not, as one file without scripts or outside references.

    Args:
      out: the file; by default ``report.html`` in the work directory.

    Returns:
      The file.

    Raises:
      UserError: the directory holds no study and no run, or the file cannot be written.
    """
    summary = workdir_summary.collect(workdir)
    drawn = plots.of_workdir(summary)
    figures = {
        name: {
            key: _inline(plots.render(f, "svg", f"{name}-{key}"), f"{name}-{key}", f.get_suptitle())
            for key, f in own.items()
        }
        for name, own in drawn.items()
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(n=_count, flops=_flops, loss=_loss, rate=_rate, interval=interval)
    environment.filters.update(greek=greek, math=formula, counted=count_word, known=_known)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path = Path(out) if out is not None else Path(workdir) / FILE
    write_atomic(path, page.render(report=contents(summary), figures=figures))
    return path


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


def greek(text: str) -> str:
    """Names of parameters as people write them."""
    for name, sign in (("alpha", "α"), ("beta", "β")):
        text = re.sub(rf"(?<![a-zA-Z]){name}(?![a-zA-Z])", sign, text)
    return text


def formula(text: str) -> markupsafe.Markup:
    """A formula with superscripts and subscripts, as HTML."""
    escaped = str(markupsafe.escape(greek(text)))
    escaped = re.sub(r"(?<=[A-Za-zα-ω])_([A-Za-z]+)", r"<sub>\1</sub>", escaped)
    power = r"\^\(([^()]*)\)|\^(-?[\wα-ω]+(?:<sub>\w+</sub>)?)"
    raised = re.sub(power, lambda m: f"<sup>{(m.group(1) or m.group(2)).replace('-', '−')}</sup>", escaped)
    return markupsafe.Markup(raised)


def _inline(svg: bytes, name: str, title: str) -> markupsafe.Markup:
    """An SVG as part of the page: no prologue or metadata, ids of its own, width by the page."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", text)
    mark = re.sub(r"\W", "_", name)
    text = re.sub(r'\bid="', f'id="{mark}-', text)
    text = re.sub(r"url\(#", f"url(#{mark}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{mark}-', text)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = float(width.group(1)) if width else 600.0
    head = re.sub(r'\s(width|height)="[\d.]+pt"', "", text[: text.index(">") + 1])
    label = markupsafe.escape(f"{name}: {title}")
    head = head.replace("<svg", f'<svg role="img" aria-label="{label}" style="max-width:{size * 1.45:.0f}px"', 1)
    return markupsafe.Markup(head + text[text.index(">") + 1 :])
