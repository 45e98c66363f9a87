"""Follows an engine until it ends, and shows the progress of the study.

Ctrl-C stops the workers cleanly, unless they are jobs of a scheduler (``Engine.detached``), which go on.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from scaling.engines import Engine
from scaling.errors import UserError
from scaling.status import StatusReader, StudyStatus, activity, headline

PLAIN = 10.0  # seconds between lines if the output is not a terminal
LOOK = 0.2  # seconds between polls of the workers


class _Plain:
    """Prints a line every ten seconds. rich would print only its last frame here, so it is not used."""

    def __init__(self, stream: TextIO):
        self._stream, self._said, self._last = stream, -PLAIN, ""
        self.every = PLAIN

    def show(self, status: StudyStatus, note: str) -> None:
        line = "; ".join([headline(status), *activity(status), *([note] if note else [])])
        if line != self._last:
            self._last = line
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class _Live:
    """A progress bar and a line for each running program, redrawn in place."""

    def __init__(self, stream: TextIO):
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(file=stream), refresh_per_second=4, transient=True)
        self._live.start()
        self.every = 1.0

    def show(self, status: StudyStatus, note: str) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        lines = [Text(headline(status), style="bold"), ProgressBar(total=1.0, completed=status.share, width=60)]
        lines += [Text("  " + line, style="dim", overflow="ellipsis", no_wrap=True) for line in activity(status)]
        self._live.update(Group(*lines, *([Text(note, style="yellow")] if note else [])))

    def close(self) -> None:
        self._live.stop()


@contextlib.contextmanager
def _signals(engine: Engine) -> Iterator[list[int]]:
    """Within the block, a first signal asks the workers to stop and a second one kills them. Yields the signals.

    Workers that go on without this process are left alone.
    """
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if not engine.detached:
            engine.cancel(force=len(received) > 1)

    wanted = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    # Only the main thread may set handlers; in other threads (a notebook's) the owner of the engine must call cancel.
    inside = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in wanted} if inside else {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(engine: Engine, reader: StatusReader, stream: TextIO) -> tuple[int | None, UserError | None]:
    """Shows progress on ``stream`` until every worker has ended, or a signal came and they go on without this process.

    Returns:
      The signal that stopped it, or None; and the problem for which the engine gave up, or None. Unless the engine is
      detached, every worker has ended, and its work is in checkpoints.
    """
    display = _Live(stream) if stream.isatty() else _Plain(stream)
    following = -math.inf  # when it is shown next
    with _signals(engine) as received:
        try:
            while not (pool := engine.poll()).finished and not (received and engine.detached):
                begun = time.monotonic()
                if begun >= following or (received and not isinstance(display, _Plain)):
                    note = f"stopping: {pool.workers} workers write checkpoints; again to kill them" if received else ""
                    # A closed terminal, or a file that is just being replaced, must not stop the study.
                    with contextlib.suppress(OSError, UserError):
                        display.show(reader.read(engine.size, engine.crowding), note)
                    # A look at 10,000 runs takes a while: at most a twentieth of the time goes to looking.
                    following = begun + max(display.every, 20 * (time.monotonic() - begun))
                time.sleep(LOOK)
        except BaseException:
            if not engine.detached:
                engine.cancel()
            raise
        finally:
            with contextlib.suppress(OSError):
                display.close()
    return (received[0] if received else None), pool.problem
