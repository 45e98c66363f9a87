"""Engines: where the workers of a study run.

An engine is one file here that declares ``ENGINE``, a class with the methods of ``Engine``, and its flags ``FLAGS``;
there is no other list. It starts and replaces workers, and asks its scheduler about them. All state of the training is
in the run directories, so several engines, machines or shells may serve one work directory at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from scaling.errors import UserError
from scaling.flags import Flag
from scaling.records.types import ProgramSpec
from scaling.settings import require_known


@dataclass(frozen=True)
class Pool:
    """The workers of an engine as ``poll`` saw them.

    Attributes:
      workers: number that are alive. finished: whether all have ended and none will be restarted.
      problem: why the engine gave up; None if it did not.
    """

    workers: int
    finished: bool
    problem: UserError | None = None


class Engine(Protocol):
    """The interface of an engine. It is constructed from the work directory and its own options."""

    @property
    def size(self) -> int:
        """Number of workers that it runs at once, for the estimate of the remaining time."""
        ...

    def submit(self, programs: Sequence[ProgramSpec]) -> None:
        """Starts workers for these programs of study.json. Returns at once."""
        ...

    def poll(self) -> Pool:
        """Checks all workers once, and replaces those that died."""
        ...

    def cancel(self, *, force: bool = False) -> None:
        """Asks every worker to checkpoint and exit, or kills it. Returns at once; ``poll`` tells when they are gone."""
        ...


def engines() -> list[str]:
    """Names of the engines: the modules of this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def engine(name: str) -> Callable[..., Engine]:
    """The class of an engine; call it with the work directory and the engine's options.

    Raises:
      UserError: there is no engine of that name (UNKNOWN).
    """
    require_known("engine", name, engines())
    return _module(name).ENGINE


def flags(name: str | None = None) -> tuple[Flag, ...]:
    """The flags of one engine, or of all engines; a flag that several engines share is listed once."""
    declared = [_module(engine_name).FLAGS for engine_name in ([name] if name else engines())]
    return tuple({flag.name: flag for own in declared for flag in own}.values())


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
