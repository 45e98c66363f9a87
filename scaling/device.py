"""Facts about the machine: versions and device for a run's record, memory, and the peak rate for MFU."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scaling.errors import Code, UserError, choose

# Dense bf16 FLOP/s by the start of jax's device_kind. Sources: NVIDIA's H100, H200 and A100 data sheets (SXM, without
# sparsity) and Google Cloud's TPU system pages. Runs on other devices have no MFU in their records.
PEAK_BF16 = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v6 lite": 918e12,
}

# Bytes of memory by the names that ``plan --device`` accepts, from the same data sheets.
MEMORY = {
    "a100-40gb": 40e9,
    "a100-80gb": 80e9,
    "h100-80gb": 80e9,
    "h200-141gb": 141e9,
    "v4": 32e9,
    "v5e": 16e9,
    "v5p": 95e9,
    "v6e": 32e9,
}


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


def peak(kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of one device of this ``device_kind``; None if it is not known."""
    return next((rate for prefix, rate in PEAK_BF16.items() if kind.startswith(prefix)), None)


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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment(mesh_shape: dict[str, int]) -> dict[str, Any]:
    """Versions, commit, device, threads and mesh, for ``manifest["environment"]``. Starts JAX."""
    import jax

    device = jax.devices()[0]
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        **{package.split("-")[0]: _version(package) for package in packages},
        "commit": commit(),
        "device": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "processes": jax.process_count(),
        "threads": threads,
        "mesh": dict(mesh_shape),
    }
