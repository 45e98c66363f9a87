"""A table with a row a logged step, of any trainer: columns step and loss, and perhaps of the run, rate and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.table.importers.contract import Entry, Importer, Logged, Skipped, number
from analysis.table.importers.make import is_loss, is_tokens
from analysis.table.importers.source import Source
from analysis.table.names import ALIASES, RUN

# Names of the step in lower case, the preferred one first: beside a global step, others may start over each epoch.
GLOBAL = ("trainer/global_step", "train/global_step", "global_step")
STEPS = (*GLOBAL, "step", "steps", "iteration", "iter", "batch")
AMBIGUOUS = {"steps", "batch"}  # of a finished run: how many steps, and of which size


def logged(
    source: Source,
    steps: Sequence[str],
    runs: Sequence[str] = RUN,
    *,
    offset: int = 0,
    without: Sequence[str] = (),
) -> Iterator[Entry]:
    """The rows of a table as logged steps.

    Args:
      steps: names of the column of steps in lower case, the preferred one first. One that the user gave comes before.
      runs: of the column of runs.
      offset: what is added to a step of ``steps`` to have the number of steps done.
      without: columns that are no values.
    """
    lower = {name.lower(): name for name in reversed(source.columns)}
    step = source.step or next((lower[name] for name in steps if name in lower), "")
    run = next((lower[name] for name in runs if name in lower), None)
    aside = {run, *without, *([] if is_tokens(step) else [step])}
    more = offset if step.lower() in steps else 0
    for item in source.rows():
        if isinstance(item, Skipped):
            yield item
            continue
        where, cells = item
        at = number(cells.get(step))
        if at is None:
            yield Skipped("no_step", where)
            continue
        source.axis = step
        name = "" if run is None or cells.get(run) is None else str(cells[run])
        yield Logged(name, at + more, {key: cell for key, cell in cells.items() if key not in aside}, where)


def recognise(source: Source) -> float | None:
    """A table with N has a row a run; so has one with tokens, if no step is named but how many or of which size."""
    lower = {name.lower() for name in source.columns}
    stepped = source.step in source.columns or lower & (set(STEPS) - AMBIGUOUS)
    of_a_run = lower & {"n", *ALIASES["N"][0], *(() if stepped else ("d", *ALIASES["D"][0]))}
    return 0.4 if (stepped or lower & AMBIGUOUS) and any(map(is_loss, lower)) and not of_a_run else None


def read(source: Source) -> Iterator[Entry]:
    return logged(source, STEPS)


IMPORTER = Importer("steps", "a table with a row a logged step, of any trainer", recognise, read)
