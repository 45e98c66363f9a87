"""The page of ``scaling status --watch``: what is done, what trains now and its losses, what failed."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scaling.errors import UserError, printable
from scaling.status import SETTLED, STATES, StatusReader, StudyStatus, headline
from scaling.verbs._study import failure_lines, spend_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

EVERY = 2.0  # seconds between two looks; more where a look takes long
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#"
CURVE = 24  # columns of a sparkline


def sparkline(values: Sequence[float], width: int = CURVE, bars: str = BARS) -> str:
    """The values as bars, the least as the lowest one; means of neighbours if there are more than ``width``.

    Values may be in any unit. One that is not finite counts as the largest; equal values are all low.
    """
    finite = [value for value in values if abs(value) < float("inf")]
    if not finite:
        return ""
    known = [value if abs(value) < float("inf") else max(finite) for value in values]
    edges = [round(i * len(known) / width) for i in range(width + 1)] if len(known) > width else range(len(known) + 1)
    shown = [sum(known[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(shown), max(shown) - min(shown)
    return "".join(bars[round((value - low) / span * (len(bars) - 1)) if span else 0] for value in shown)


def watch(reader: StatusReader, console: Console) -> int:
    """Shows the page until every run is settled, or a signal asks to stop.

    Returns:
      Exit status: 0, also after Ctrl-C; 128 and the signal's number after another one.
    """
    from rich.live import Live
    from rich.text import Text

    status = reader.read()
    with _signals() as (received, stop), contextlib.suppress(OSError):  # OSError: the terminal is gone
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while not stop.is_set() and not _over(status):
                begun = time.monotonic()
                try:
                    status = reader.read()
                    live.update(page(status, reader, console), refresh=True)
                except UserError as error:  # a file is being replaced; the next look tells
                    live.update(Text(str(error)), refresh=True)
                stop.wait(max(EVERY, 5 * (time.monotonic() - begun)))
        console.print(Text(printable(headline(status))))
        for line in failure_lines(status):
            console.print(Text(line))
    return 0 if not received or received[0] == signal.SIGINT else 128 + received[0]


def page(status: StudyStatus, reader: StatusReader, console: Console) -> RenderableType:
    """The page at one moment, cut to the size of the terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    bars = BARS if console.encoding.startswith("utf") else PLAIN_BARS
    counts = ", ".join(f"{status.counts[state]} {state}" for state in STATES if status.counts[state])
    top: list[RenderableType] = [
        Text(printable(headline(status)), style="bold"),
        ProgressBar(total=1.0, completed=status.share, width=60),
        Text(counts),
        *(Text(line, style="dim") for line in spend_lines(status)),
    ]
    failures = [Text(line, style="red") for line in failure_lines(status)[:6]]
    room = max(4, console.height - len(top) - len(failures) - 7)
    active = status.running[: max(2, room * 2 // 3)]
    parts = [*top, Text(""), _running(status, reader, len(active), bars)] if active else [*top, Text("")]
    parts.append(_sizes(status, room - len(active), bars))
    return Group(*parts, *failures, Text("Ctrl-C ends this page, not the training", style="dim"))


def _running(status: StudyStatus, reader: StatusReader, count: int, bars: str) -> RenderableType:
    """A line for each running program: its run, step, loss, and the losses so far."""
    rows = []
    for work in status.running[:count]:
        run = work.run or work.program
        at = "compiling" if work.run is None else f"{work.step}/{work.steps}"
        loss = "" if work.loss is None else f"{work.loss:.4f}"
        curve = "" if work.loss is None else sparkline(reader.losses(run), bars=bars)
        rows.append((run, at, loss, curve, work.host))
    if len(status.running) > count:
        rows.append((f"and {len(status.running) - count} more", "", "", "", ""))
    return _table(("running", "step", "loss", "so far", "host"), rows)


def _sizes(status: StudyStatus, count: int, bars: str) -> RenderableType:
    """A line for each size: how many of its runs have ended, and their losses by D."""
    groups: dict[tuple[str, int, int], list[tuple[int, float | None, bool]]] = {}
    for row in status.runs:
        if row.kind != "stem":
            entry = row.D, None if row.hidden else row.loss, row.state in SETTLED
            groups.setdefault((row.dataset, row.size, row.N), []).append(entry)
    rows = []
    for (dataset, size, n), cells in sorted(groups.items()):
        cells.sort(key=lambda cell: cell[0])
        losses = [loss for _, loss, settled in cells if settled and loss is not None]
        span = f"{losses[0]:.4f} to {losses[-1]:.4f}" if losses else ""
        ended = f"{sum(settled for _, _, settled in cells)}/{len(cells)}"
        rows.append((f"{dataset} {size}", f"{n:,}", ended, span, sparkline(losses, bars=bars)))
    if len(rows) > max(1, count):
        rows = [*rows[: max(1, count)], (f"and {len(rows) - max(1, count)} more", "", "", "", "")]
    return _table(("size", "N", "ended", "loss, least to most D", "by D"), rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="ellipsis", no_wrap=True) for cell in row))
    return table


def _over(status: StudyStatus) -> bool:
    return sum(status.counts[state] for state in SETTLED) == status.counts["total"]


@contextlib.contextmanager
def _signals() -> Iterator[tuple[list[int], threading.Event]]:
    """Within the block, a signal that asks to stop sets the event, so that the terminal is restored. Yields both."""
    received: list[int] = []
    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received, stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
