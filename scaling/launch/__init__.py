"""Launching: the same long-lived worker under every engine.

An engine is one file here with its own ``FLAGS`` that ends with ``ENGINE``, a class with the methods of ``Engine``,
made of the work directory and its flags; nothing lists them. It starts and replaces workers and asks its scheduler how
they are. What is trained, by whom and how far lives in the run directories alone, so two engines, two machines or two
shells may serve one work directory at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scaling.errors import Code, UserError
from scaling.flags import Flag

# How a worker ends. 75 (EX_TEMPFAIL) is what schedulers are told to start again.
EXIT_DONE = 0
EXIT_USER = 2  # nothing can be done before somebody mends it: a full disk, a damaged study.json
EXIT_INTERRUPTED = 75  # asked to stop; everything is in checkpoints
EXIT_AGAIN = 76  # a program raised and was recorded; a fresh process should go on


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

    def submit(self, programs: Sequence[dict[str, Any]]) -> None:
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
    return [name for name in (module.name for module in pkgutil.iter_modules(__path__)) if _engine(name) is not None]


def engine(name: str) -> Callable[..., Engine]:
    """The class of the engine of that name; call it with the work directory and the engine's options.

    Raises:
      UserError: there is none.
    """
    found = _engine(name) if any(module.name == name for module in pkgutil.iter_modules(__path__)) else None
    if found is None:
        raise UserError("engine", name, f"choose one of {', '.join(engines())}", Code.UNKNOWN)
    return found


def flags(name: str | None = None) -> tuple[Flag, ...]:
    """The flags of one engine, or of all of them; one that several have counts once."""
    declared = [importlib.import_module(f"scaling.launch.{each}").FLAGS for each in ([name] if name else engines())]
    return tuple({flag.name: flag for own in declared for flag in own}.values())


def _engine(name: str) -> Callable[..., Engine] | None:
    return getattr(importlib.import_module(f"scaling.launch.{name}"), "ENGINE", None)
