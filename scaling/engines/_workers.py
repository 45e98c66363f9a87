"""The flags of workers, which every engine that starts them takes, and where they import this package from."""

import os
from collections.abc import Mapping
from pathlib import Path

import scaling
from scaling.errors import UserError
from scaling.flags import Flag, Value
from scaling.worker.ensembles import parse_ensemble_size
from scaling.worker.loop import MAX_ATTEMPTS

FLAGS = (
    Flag("workers", int, "worker processes (default: one per core, per GPU or mesh of GPUs; one on a TPU or in a job)"),
    Flag("max_attempts", int, "attempts without progress before a program counts as failed", MAX_ATTEMPTS),
    Flag(
        "ensemble",
        str,
        "programs of one shape (differing in seed, learning rate or D) that a worker trains together; auto: 1 on CPU, "
        "up to 8 on an accelerator if a measurement of a few steps shows that it is faster",
        "auto",
    ),
    Flag("cache", str, "compilation cache directory (default $SCALING_CACHE or ~/.cache/scaling/xla)"),
    Flag("execute", str, "module:function to train with instead of scaling.train:execute"),
)


def check(options: Mapping[str, Value | None]) -> None:
    """Checks the values of ``FLAGS`` that were given; None was not.

    Raises:
      UserError: a value is out of range (INVALID).
    """
    for name in ("workers", "max_attempts"):
        if (count := options.get(name)) is not None and int(count) < 1:
            raise UserError(name, count, "must be at least 1")
    if (ensemble := options.get("ensemble")) is not None:
        parse_ensemble_size(str(ensemble))


def python_path() -> str:
    """PYTHONPATH of a worker: if the package is not installed, workers import it from where this process did."""
    # An empty entry would mean the current directory.
    places = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(Path(scaling.__file__).parents[1])]
    return os.pathsep.join(filter(None, places))
