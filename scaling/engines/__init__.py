"""Engines: where the workers of a study run.

An engine is one file here that ends with ``ENGINE``, a class with the methods of ``Engine``, and declares its flags as
``FLAGS``; nothing lists them. It starts and replaces workers and asks its scheduler how they are. What is trained, by
whom and how far lives in the run directories alone, so two engines, two machines or two shells may serve one work
directory at once.
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
    """What ``poll`` saw.

    Attributes:
      workers: how many live. finished: all of them ended and none will be started again.
      problem: why the engine gave up, if it did; None otherwise.
    """

    workers: int
    finished: bool
    problem: UserError | None = None


class Engine(Protocol):
    """What every engine does. It is made of the work directory and options of its own."""

    @property
    def size(self) -> int:
        """How many workers it means to run at once, for the estimate of the time that is left."""
        ...

    def submit(self, programs: Sequence[ProgramSpec]) -> None:
        """Starts workers for programs of the work directory's study.json. Returns at once."""
        ...

    def poll(self) -> Pool:
        """One look at all workers; replaces those that died."""
        ...

    def cancel(self, *, force: bool = False) -> None:
        """Asks every worker to checkpoint and end, or kills it. Returns at once; ``poll`` tells when they are gone."""
        ...


def engines() -> list[str]:
    """Names of the engines, by looking into this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def engine(name: str) -> Callable[..., Engine]:
    """The class of the engine of that name; call it with the work directory and the engine's options.

    Raises:
      UserError: UNKNOWN: there is none.
    """
    require_known("engine", name, engines())
    return _module(name).ENGINE


def flags(name: str | None = None) -> tuple[Flag, ...]:
    """The flags of one engine, or of all of them; one that several have counts once."""
    declared = [_module(each).FLAGS for each in ([name] if name else engines())]
    return tuple({flag.name: flag for own in declared for flag in own}.values())


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
