"""Decides how many programs of one shape a worker trains at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from scaling import distributed
from scaling.errors import UserError
from scaling.records.types import ProgramSpec
from scaling.worker.log import log
from scaling.worker.training import Training

AUTO = 8  # programs at a time with --ensemble=auto, where a measurement on an accelerator shows that it is faster


def parse_ensemble_size(text: str) -> int | None:
    """The number of programs that ``--ensemble`` gives; None for auto.

    Raises:
      UserError: it is neither a positive whole number nor auto (INVALID).
    """
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError("ensemble", text, "must be a whole number of at least 1, or auto")
    return int(text)


class EnsembleSize:
    """The number of programs to take at a time.

    Args:
      training: the module that trains.
      fixed: the number that ``--ensemble`` gives; None measures it for each shape.
    """

    def __init__(self, training: Training, workdir: Path, fixed: int | None):
        self.training, self.workdir, self.fixed = training, workdir, fixed
        self._measured: dict[str, int] = {}  # by batching key

    def of(self, program: ProgramSpec, left: Callable[[], Sequence[ProgramSpec]]) -> int:
        """The number for programs like this one.

        Args:
          left: returns all programs that are not settled, including this one.
        """
        if self.fixed is not None:
            return self.fixed
        if distributed.count() > 1 or not self.training.batches:
            return 1
        import jax

        if jax.default_backend() == "cpu":
            return 1
        key = self.training.batching_key(program)
        if key not in self._measured:
            same = sum(self.training.batching_key(other) == key for other in left())
            if same == 1:
                return 1
            size = min(same, AUTO)
            faster = self.training.speedup(program, size, self.workdir)
            log(f"{size} programs together train {faster:.2f} times as fast as one by one")
            self._measured[key] = AUTO if faster > 1 else 1
        return self._measured[key]
