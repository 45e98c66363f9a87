"""Prepares a worker's environment before JAX is imported. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

from scaling.errors import UserError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def variables(cache: str | None, *, single: bool) -> dict[str, str]:
    """Environment variables of a worker.

    Args:
      cache: directory of the persistent compilation cache; None disables it.
      single: use one thread, for a worker that is bound to one core.
    """
    environment = {"PYTHONUNBUFFERED": "1"}
    if single:
        environment |= dict.fromkeys(THREADS, "1")
    if cache is not None:
        # A study compiles the same small programs many times: cache all of them (39 s without, 3 s with the cache).
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return environment


def default_cache() -> str:
    """The compilation cache: $SCALING_CACHE, else ~/.cache/scaling/xla."""
    return os.environ.get("SCALING_CACHE") or str(Path.home() / ".cache" / "scaling" / "xla")


def usable_cache(cache: str | None) -> str | None:
    """The cache directory, created if missing; None if it cannot be written (JAX would warn at every compilation)."""
    path = Path(cache or default_cache()).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(path.resolve()) if os.access(path, os.W_OK | os.X_OK) else None


def bind(core: str) -> None:
    """Binds this process to one core; ``all`` does nothing. Call it before any thread starts.

    Raises:
      UserError: this process may not use that core (INVALID).
    """
    if core == "all" or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, {int(core)})
    except (ValueError, OSError) as error:
        usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise UserError("core", core, f"is not a core of this process; choose one of {usable}, or all") from error
