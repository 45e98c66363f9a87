"""Compiles the next shape in a background thread while a program trains."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from scaling.records.types import ProgramSpec
from scaling.worker.log import log
from scaling.worker.training import Training


class CompileAhead:
    """Compiles one shape at a time, candidate once. ``training`` is the module that trains."""

    def __init__(self, training: Training):
        self.training = training
        self._seen: set[str] = set()  # batching keys of programs that train or were compiled
        self._thread: threading.Thread | None = None

    @property
    def compiling(self) -> bool:
        """Whether the thread is compiling."""
        return self._thread is not None and self._thread.is_alive()

    def during(self, program: ProgramSpec, left: Sequence[ProgramSpec]) -> None:
        """Starts compiling the first program of ``left`` whose shape is new; called before ``program`` trains."""
        if self.compiling:
            return
        self._seen.add(self.training.batching_key(program))
        other = next((candidate for candidate in left if self.training.batching_key(candidate) not in self._seen), None)
        if other is None:
            return
        self._seen.add(self.training.batching_key(other))

        def compile_steps(prepared: Callable[[], None]) -> None:
            with contextlib.suppress(Exception):  # raised again, and then recorded, when the program trains
                prepared()
                log(f"{other.program}: compiled ahead")

        with contextlib.suppress(Exception):
            self._thread = threading.Thread(target=compile_steps, args=[self.training.prepare(other)], daemon=True)
            self._thread.start()
