"""The worker's log: standard error, redirected to a file of the work directory. Standard library only."""

from __future__ import annotations

import contextlib
import os
import sys
import time


def now() -> str:
    """The time in UTC, in the format of the records."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def log(text: str) -> None:
    """Logs one line, with time and process number."""
    with contextlib.suppress(OSError):  # a full disk must not hide the cause
        print(f"{now()} {os.getpid()} {text}", file=sys.stderr, flush=True)
