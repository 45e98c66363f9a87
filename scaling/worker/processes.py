"""Whether a process of this machine is alive; its start time guards against reused numbers. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def machine() -> str | None:
    """Id of the boot and process namespace, within which process numbers can be compared; None if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def born(pid: int) -> str | None:
    """Start time of a process, in clock ticks since boot; None if it is dead or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def certainly_dead(where: str | None, pid: int, since: str | None) -> bool:
    """Whether a process is known to be dead. False if it is alive, or on a machine that this process cannot see.

    Args:
      where, since: what ``machine()`` and ``born(pid)`` returned for it.
    """
    here = machine()
    if here is None or where != here:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # it belongs to another user, or is not a process number
    return born(pid) != since
