"""The report as plain text: the end of a study on a terminal."""

from __future__ import annotations

import textwrap
from pathlib import Path

from analysis.check.diagnose import standing
from analysis.show import workdir_summary
from analysis.show.numbers import interval, percent
from analysis.show.report.answer import answer
from analysis.show.report.headline import NO_SEAL, exponents, headline, theory_sentence
from analysis.show.report.page import FILE
from analysis.show.report.sections import predictions
from analysis.show.sentences import counted_word, sentence
from analysis.show.workdir_summary import DatasetSummary, WorkdirSummary

WIDTH = 100


def summary(workdir: str | Path | WorkdirSummary, path: Path | None = None) -> str:
    """The end of a study in about 25 lines of at most 100 characters: law, prediction, forecasts, report.

    Args:
      workdir: the directory, or what was collected of it.
      path: the report; by default ``report.html`` in the directory, if it is there.

    Raises:
      UserError: the directory holds no study and no run.
    """
    collected = workdir_summary.collect(workdir)
    lines = [f"{collected.name}: what the runs say"]
    for part in collected.datasets:
        lines += ["", *_dataset(collected, part)]
    scored = None if collected.score is None or not collected.score.datasets else sentence(collected.score)
    if collected.runs:
        lines += ["", "Sealed forecasts", *_wrap(scored or collected.problems.get("prediction") or NO_SEAL)]
    checks = {} if collected.entropy is None else collected.entropy.datasets
    if checks:
        said = [theory_sentence(part, checks[part.name]) for part in collected.datasets if part.name in checks]
        lines += ["", "Check against theory", *_wrap(" ".join(said))]
    path = path or collected.workdir / FILE
    missing = f"Report: not written yet (scaling report {collected.workdir})"
    lines += ["", f"Report: {path}" if path.exists() else missing]
    return "\n".join(lines)


def _dataset(collected: WorkdirSummary, part: DatasetSummary) -> list[str]:
    fit, main, said = part.best(), part.main(), headline(collected, part)
    if fit is None or main is None:
        return [part.name, *_wrap(said.missing or "")]
    told = (fit.law.formula, counted_word(fit.conventions.n, [fit.law]), f"{fit.data.rows} runs")
    title = f"{part.name}: {', '.join(text for text in told if text)}, {percent(fit.level)} intervals"
    shown = exponents(part, fit)
    known = standing(fit.law, shown, fit.warnings)
    lost = {name for name, how in known.items() if how == "no"}
    cells = [f"{k} = {interval(c)}{'*' if k in lost else ''}" for k, c in shown.items()]
    # a cell is one word while its line is filled
    filled = textwrap.wrap("   ".join(c.replace(" ", "\u00a0") for c in cells), WIDTH - 4, break_long_words=False)
    lines = [*textwrap.wrap(title, WIDTH), *(f"  {line}".replace("\u00a0", " ") for line in filled)]
    if lost:
        lines.append("  * not identified at this scale")
    lines += _wrap(" ".join(text for text in (said.best, said.behind, said.refuted) if text is not None))
    if len(main.law.columns) == 1:
        return [*lines, *_wrap(_ahead(collected, part))]
    budgets = predictions(main, part.entropy)
    answered = [row for row in budgets.rows if row.reason is None]
    for row in budgets.rows[1:2] if answered else budgets.rows[:1]:
        where = f"At {row.ratio:g}x the largest fitted compute ({row.C:.2e} FLOPs), by {main.law.name}:"
        if row.reason is not None:
            lines += _wrap(f"{where} no prediction, {row.reason}")
        else:
            notes = "".join(f" ({note})" for note in (*row.notes, *budgets.of_fit))
            lines += _wrap(f"{where} N {row.N}, D {row.D}, loss {row.loss}{notes}")
    return lines


def _ahead(collected: WorkdirSummary, part: DatasetSummary) -> str:
    """What a law of one column says beyond the runs: the page's first answer."""
    first = answer(collected, part)
    if first is None or not first.steps:
        return "" if first is None else first.why
    step = first.steps[first.start]
    return f"At {first.column} = {step.c}: {first.quantity} {step.loss} ({step.loss_ends}). {step.note}"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - 2, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
