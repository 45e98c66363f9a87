"""The worker's log: the standard error, which is a file of the work directory. Standard library only."""

from __future__ import annotations

import contextlib
import os
import sys
import time


def now() -> str:
    """The time in UTC, as every record has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def log(text: str) -> None:
    """One line with time and process."""
    with contextlib.suppress(OSError):  # a full disk must not hide why
        print(f"{now()} {os.getpid()} {text}", file=sys.stderr, flush=True)
