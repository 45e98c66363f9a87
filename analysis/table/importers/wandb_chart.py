"""A chart of Weights & Biases exported as CSV: a column of steps, then three a run: ``RUN - METRIC``, __MIN, __MAX."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.table.importers import steps
from analysis.table.importers.contract import Entry, Importer, Logged, Skipped, number
from analysis.table.importers.make import is_tokens
from analysis.table.importers.source import Source
from scaling.errors import Code, UserError

STEPS = (*steps.STEPS, "_step")
BANDS = ("__MIN", "__MAX")  # of the points that a pixel of the chart covers


def recognise(source: Source) -> float | None:
    others = source.columns[1:]
    if not others or not all(" - " in name for name in others):
        return None
    return 0.95 if any(name.endswith(BANDS) for name in others) else 0.7


def read(source: Source) -> Iterator[Entry]:
    """A run of each column but those of bands; its own name holds what stands before the last `` - ``."""
    axis = source.columns[0] if source.columns else ""
    if source.step not in (None, axis):
        raise UserError("columns", f"step={source.step}", f"is not the axis of this chart, {axis}", Code.MISSING)
    if axis.lower() not in STEPS and not is_tokens(axis) and axis != source.step:
        remedy = f"is the axis of the chart; export it with Step or tokens as x, or say --columns='step={axis}'"
        raise UserError("column", axis, remedy, Code.UNSUPPORTED)
    columns = [name for name in source.columns[1:] if " - " in name and not name.endswith(BANDS)]
    if not columns:
        raise source.damaged("has no column RUN - METRIC")
    names = {name: name.rsplit(" - ", 1) for name in columns}
    for item in source.rows():
        if isinstance(item, Skipped):
            yield item
            continue
        where, cells = item
        at = number(cells.get(axis))
        if at is None:
            yield Skipped("no_step", where)
            continue
        source.axis = axis
        for column, (run, metric) in names.items():
            if (cell := cells.get(column)) is not None and metric not in ("_step", "_runtime", "_timestamp"):
                tokens = {axis: at} if is_tokens(axis) else {}
                yield Logged(run, at, {metric: cell, **tokens}, where)


IMPORTER = Importer("wandb_chart", "a chart of W&B as CSV, a column a run", recognise, read)
