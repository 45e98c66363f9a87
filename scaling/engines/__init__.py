"""Engines: where the workers of a study run.

An engine is one file here that declares ``ENGINE``, a subclass of ``Engine``, and its flags ``FLAGS``;
there is no other list. It starts and replaces workers, and asks its scheduler about them. All state of the training is
in the run directories, so several engines, machines or shells may serve one work directory at once.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records.types import ProgramSpec
from scaling.settings import require_known

DEFAULT = "local"


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


class Engine(abc.ABC):
    """The interface of an engine. It is constructed from the work directory and its own options, which writes nothing.

    ``submit``, ``poll``, ``cancel`` and ``size`` are what an engine must have. One that hands jobs to a scheduler also
    has the others.

    Attributes:
      detached: whether workers go on without the launcher. Then an interrupted launcher leaves them alone, the same
        command follows them again, and ``scaling cancel`` ends them.
      crowding: workers per core, at least 1, for the first estimate of the remaining time.
    """

    detached: bool = False
    crowding: float = 1.0

    @abc.abstractmethod
    def __init__(self, workdir: Path, **options: Any):
        """Checks the options: those of its ``FLAGS``, by name."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of workers that it runs at once, for the estimate of the remaining time."""

    def check(self, programs: Sequence[ProgramSpec]) -> None:
        """Called before anything is written: raises UserError if ``submit`` could not start these programs."""
        return None  # most can start anything

    @abc.abstractmethod
    def submit(self, programs: Sequence[ProgramSpec]) -> None:
        """Starts workers for these programs of study.json. Returns at once."""

    @abc.abstractmethod
    def poll(self) -> Pool:
        """Checks all workers once, and replaces those that died."""

    @abc.abstractmethod
    def cancel(self, *, force: bool = False) -> None:
        """Asks every worker to checkpoint and exit, or kills it. Returns at once; ``poll`` tells when they are gone."""

    def preview(self, programs: Sequence[ProgramSpec]) -> str:
        """What ``submit`` would hand to the scheduler, for ``scaling run --dry_run``. Writes nothing.

        Raises:
          UserError: there is no scheduler (UNSUPPORTED), or ``submit`` would refuse these programs.
        """
        remedy = "this engine hands nothing to a scheduler; `scaling plan` shows what would be trained"
        raise UserError("dry_run", True, remedy, Code.UNSUPPORTED)

    @classmethod
    def withdraw(cls, workdir: Path, *, force: bool = False) -> list[str]:
        """Cancels the jobs that launchers have submitted for a work directory, also those of launchers that are gone.

        Args:
          force: kill the workers instead of asking them to checkpoint.

        Returns:
          The names of the jobs, as the scheduler knows them.

        Raises:
          UserError: the scheduler refuses or does not answer (ENVIRONMENT).
        """
        return []


def engines() -> list[str]:
    """Names of the engines: the modules of this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def engine(name: str) -> type[Engine]:
    """The class of an engine; call it with the work directory and the engine's options.

    Raises:
      UserError: there is no engine of that name (UNKNOWN).
    """
    require_known("engine", name, engines())
    return _module(name).ENGINE


def flags(name: str | None = None) -> tuple[Flag, ...]:
    """The flags of one engine, or of all engines; a flag that several engines share is listed once.

    ``Flag.engine`` is set for those that only one engine takes, unless that is the default engine.
    """
    declared = {engine_name: _module(engine_name).FLAGS for engine_name in engines()}
    owners: dict[str, list[str]] = {}
    for engine_name, own in declared.items():
        for flag in own:
            owners.setdefault(flag.name, []).append(engine_name)
    found: dict[str, Flag] = {}
    for engine_name in [DEFAULT, *engines()] if name is None else [name]:
        for flag in declared[engine_name]:
            alone = owners[flag.name] == [engine_name] != [DEFAULT]
            found.setdefault(flag.name, dataclasses.replace(flag, engine=engine_name if alone else ""))
    return tuple(found.values())


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
