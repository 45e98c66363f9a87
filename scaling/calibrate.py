"""Measures the speed of this machine, once, and remembers it beside the compilation cache.

Workers measure, as many at once as would train (``worker.measure``): pinned to their cores and with their settings.
$SCALING_SPEED names the file of a speed instead, such as that of a cluster's node, whatever this machine is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable

import msgspec

from scaling import speed as speeds
from scaling.engines.local import accelerated, cores, worker_environment
from scaling.errors import Code, UserError
from scaling.records import read_typed
from scaling.records.value import Value
from scaling.speed import Machine, Speed
from scaling.worker.environment import usable_cache

AT_ONCE = 8  # processes, which are enough to see that cores share memory
PATIENCE = 300.0  # seconds


class Timing(Value):
    """What ``worker.measure`` prints: FLOPs, attention scores and seconds of two steps, and of one compilation."""

    steps: tuple[tuple[float, float, float], tuple[float, float, float]]
    compile: float


def this_machine(announce: Callable[[], object] = lambda: None) -> Speed:
    """The speed of this machine, measured if no valid measurement is remembered.

    Args:
      announce: called before a measurement, which takes seconds.

    Raises:
      UserError: $SCALING_SPEED is no speed (MISSING, DAMAGED), or no worker could measure (ENVIRONMENT).
    """
    if given := os.environ.get("SCALING_SPEED"):
        try:
            return read_typed(given, Speed, field="SCALING_SPEED", remedy="give the file of a speed, or unset it")
        except FileNotFoundError:
            raise UserError("SCALING_SPEED", given, "there is no such file; unset it", Code.MISSING) from None
    usable, on_accelerator = cores(), accelerated()
    machine = speeds.machine(len(usable), accelerated=on_accelerator)
    folder = usable_cache(None)
    path = None if folder is None else speeds.place(folder, machine)
    if path is not None and (known := speeds.recall(path, machine)) is not None:
        return known
    announce()
    found = combined(_measure(["all"] if on_accelerator else _spread(usable)), machine)
    if path is not None:
        speeds.remember(path, found)
    return found


def combined(timings: list[Timing], machine: Machine) -> Speed:
    """The speed by the median worker."""
    seconds = [statistics.median(each.steps[index][2] for each in timings) for index in (0, 1)]
    small, large = ((*timings[0].steps[index][:2], seconds[index]) for index in (0, 1))
    return speeds.solve(small, large, statistics.median(each.compile for each in timings), machine)


def _spread(usable: list[int]) -> list[str]:
    """At most ``AT_ONCE`` cores, evenly spaced."""
    count = min(len(usable), AT_ONCE)
    return [str(usable[index * len(usable) // count]) for index in range(count)]


def _measure(places: list[str]) -> list[Timing]:
    environment = worker_environment(None, cpu=places != ["all"])
    # A compilation from a cache would tell nothing; a program that trains on the same GPU keeps its memory.
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-P", "-m", "scaling.worker.measure"]
    none, pipe = subprocess.DEVNULL, subprocess.PIPE
    processes = [
        subprocess.Popen([*command, place], env=environment, stdin=none, stdout=pipe, stderr=pipe) for place in places
    ]
    try:
        return [_timing(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _timing(process: subprocess.Popen[bytes]) -> Timing:
    remedy = "this machine could not be measured"
    try:
        output, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise UserError("speed", f"{PATIENCE:g} s", remedy, Code.ENVIRONMENT) from None
    try:
        return msgspec.json.decode(output.strip().splitlines()[-1], type=Timing)
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
        last = (said.decode(errors="replace").strip().splitlines() or ["nothing printed"])[-1]
        raise UserError("speed", last[:200], remedy, Code.ENVIRONMENT) from None
