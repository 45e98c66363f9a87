"""Loads the module that trains programs: ``scaling.train``, or the one given by ``--execute``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.records.types import ProgramSpec

EXECUTE = "scaling.train:execute"


class _Never(Exception):
    """Stands in for ``Interrupted`` if a module does not define it."""


class Training:
    """What trains a program.

    Args:
      name: ``module:function``. The function has the signature of ``scaling.train.execute``; the module may also
        define ``Interrupted``, ``work``, ``batching_key``, ``speedup`` and ``prepare``, as ``scaling.train`` does.

    Attributes:
      execute: the function. interrupted: the exception that it raises when told to stop.
      batches: whether several programs can be trained as one. compiles_ahead: whether ``prepare`` exists.
    """

    def __init__(self, name: str):
        from absl import flags

        module_name, _, function = name.partition(":")
        if importlib.util.find_spec(module_name.partition(".")[0]) is None:
            sys.path.append(os.getcwd())  # last, so that a folder there cannot shadow an installed package
        module = importlib.import_module(module_name)
        flags.FLAGS.mark_as_parsed()  # libraries such as grain read absl flags, and raise if nobody parsed them
        self.name, self._module = name, module
        self.execute: Callable[..., None] = getattr(module, function)
        self.interrupted: type[Exception] = getattr(module, "Interrupted", _Never)
        self.batches = hasattr(module, "work")
        self.compiles_ahead = hasattr(module, "prepare")

    def work(self, program: ProgramSpec, workdir: Path, **callbacks: Callable[..., Any]) -> Any:
        """As ``scaling.train.work``."""
        return self._module.work(program, workdir, **callbacks)

    def batching_key(self, program: ProgramSpec) -> str:
        """As ``scaling.train.batching_key``."""
        return self._module.batching_key(program)

    def speedup(self, program: ProgramSpec, size: int, workdir: Path) -> float:
        """As ``scaling.train.speedup``."""
        return self._module.speedup(program, size, workdir)

    def prepare(self, program: ProgramSpec) -> Callable[[], None]:
        """As ``scaling.train.prepare``."""
        return self._module.prepare(program)
