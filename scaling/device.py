"""Facts about this machine: versions and device for a run's record, memory, and the peak rate for MFU."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scaling import devices
from scaling.errors import Code, UserError, choose

# Bytes of memory by the names that ``plan --device`` accepts.
MEMORY = {each.name: each.memory for each in devices.DEVICES if each.memory is not None}
CALL_SECONDS, EXPECTED_MFU = 10.0, 0.4


def memory(name: str | None) -> tuple[str, float]:
    """Name of a device, and the bytes of memory that a program may use on it. None is the present device.

    JAX reserves XLA_PYTHON_CLIENT_MEM_FRACTION (0.75) of a GPU.

    Raises:
      UserError: no device of that name is known (UNKNOWN).
    """
    if name is not None:
        if name not in MEMORY:
            remedy = f"{choose(name, MEMORY)}, or none for the present one"
            raise UserError("device", name, remedy, Code.UNKNOWN)
        share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75)) if "gb" in name else 1.0
        return name, MEMORY[name] * share
    import jax

    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return device.device_kind, limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def steps_at_once(limit: int, flops: float, peak: float | None) -> int:
    """Optimiser steps of one call of the device: so many that it takes about 10 s, and at most ``limit``.

    Between calls a run logs, saves and hears signals. A constant of the shape and the kind of device, not a
    measurement, so that a resumed run has its rows at the same steps.

    Args:
      flops: of a step, on each device. peak: FLOP/s of a device, of which 40 % is expected; None if not known.
    """
    return limit if peak is None else max(1, min(limit, int(CALL_SECONDS * EXPECTED_MFU * peak / flops)))


def peak(kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of one device of this ``device_kind``; None if it is not known."""
    known = devices.find(kind)
    return None if known is None else known.peak


@cache
def commit() -> str | None:
    """Commit of the checkout that contains this code, with ``+`` if files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
        if head.returncode or not (root / ".git").exists():
            return None
        command = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed else "")


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(mesh_shape: dict[str, int]) -> dict[str, Any]:
    """Versions, commit, device, threads and mesh, for ``manifest["environment"]``. Starts JAX."""
    import jax

    device = jax.devices()[0]
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "python": platform.python_version(),
        **{package.split("-")[0]: _version(package) for package in packages},
        "commit": commit(),
        "device": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "processes": jax.process_count(),
        "threads": threads(),
        "mesh": dict(mesh_shape),
    }
