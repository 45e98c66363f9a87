"""Who may publish a result: what trains a run registers a check, which is called right before its result is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_checks: dict[str, Callable[[], None]] = {}  # by the folder of the run, in this process


@contextlib.contextmanager
def publishing(folders: Iterable[Path], allowed: Callable[[], None]) -> Iterator[None]:
    """Within the block, results of these runs are published only if ``allowed`` does not raise."""
    names = [os.path.abspath(folder) for folder in folders]
    _checks.update(dict.fromkeys(names, allowed))
    try:
        yield
    finally:
        for name in names:
            if _checks.get(name) is allowed:
                del _checks[name]


def check(folder: Path) -> None:
    """Raises what the check of this run's folder raises; nothing if it has none."""
    if (allowed := _checks.get(os.path.abspath(folder))) is not None:
        allowed()
