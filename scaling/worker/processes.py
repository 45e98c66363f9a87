"""Whether a process of this machine lives, by more than its number: numbers are given again. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def machine() -> str | None:
    """Names the set of process numbers that this process can see: the boot and the process namespace."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def born(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None when it is dead or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def certainly_dead(where: str | None, pid: int, since: str | None) -> bool:
    """Whether a process is dead. False when it lives, or lives where this process cannot look.

    Args:
      where, since: what ``machine`` and ``born`` said of it.
    """
    here = machine()
    if here is None or where != here:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # it belongs to another user, or is no process number
    return born(pid) != since
