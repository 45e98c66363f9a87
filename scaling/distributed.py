"""Groups of processes that train together: which group this process is in, and how its members agree.

For a single process this costs nothing and does not import JAX. In a group, process 0 reads and writes the records and
makes decisions; the others receive them through JAX's coordination service rather than the devices, since a collective
on CPU fails if its partners are more than 30 seconds apart, and one of them may be compiling.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.errors import Code, UserError

PORT = 55527
PATIENCE = 3600.0  # seconds to wait for another process: longer than any compilation
_LOOK = 2.0  # seconds per blocking wait; Python handles signals in between


@dataclass(frozen=True)
class Group:
    """A group: HOST:PORT of process 0, the number of ``processes``, and the index of this ``process``."""

    coordinator: str
    processes: int
    process: int

    def __post_init__(self):
        if self.processes < 1:
            raise UserError("processes", self.processes, "must be at least 1")
        if not 0 <= self.process < self.processes:
            raise UserError("process", self.process, f"must be from 0 to {self.processes - 1}")
        if self.processes > 1 and not re.fullmatch(r"\S+:\d+", self.coordinator):
            remedy = "must be HOST:PORT of process 0"
            raise UserError("coordinator", self.coordinator or "nothing", remedy, Code.ENVIRONMENT)


_group: Group | None = None
_counter = itertools.count()


def detect(
    environ: Mapping[str, str],
    processes: int | None = None,
    process: int | None = None,
    coordinator: str | None = None,
) -> Group | None:
    """The group described by the options or the launcher's environment; None for a single process.

    Sources in order of precedence, each used only for what is still unset:

    1. the options;
    2. SCALING_PROCESSES, SCALING_PROCESS, SCALING_COORDINATOR;
    3. an indexed Job of Kubernetes: the process is JOB_COMPLETION_INDEX and, if the JobSet sets JOBSET_NAME and
       REPLICATED_JOB_NAME, the coordinator is the first pod of that job (the number of processes must be given);
    4. a SLURM step (``srun``) of several tasks: SLURM_STEP_NUM_TASKS, SLURM_PROCID, the first of SLURM_STEP_NODELIST.

    Raises:
      UserError: a number is malformed or out of range (INVALID), the number of processes is not given (MISSING), or
        the coordinator is not an address (ENVIRONMENT).
    """
    processes = processes if processes is not None else _number(environ, "SCALING_PROCESSES")
    process = process if process is not None else _number(environ, "SCALING_PROCESS")
    coordinator = coordinator or environ.get("SCALING_COORDINATOR")
    jobset, job = environ.get("JOBSET_NAME"), environ.get("REPLICATED_JOB_NAME")
    if process is None and processes is not None:
        process = _number(environ, "JOB_COMPLETION_INDEX")
    if coordinator is None and jobset and job:
        coordinator = f"{jobset}-{job}-0-0.{jobset}:{PORT}"
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS") or 1
    if tasks > 1 and processes in (None, tasks):
        processes = tasks
        process = process if process is not None else _number(environ, "SLURM_PROCID")
        first = _first_host(environ.get("SLURM_STEP_NODELIST", ""))
        # Several jobs may share a node: the job's number keeps their ports apart.
        port = PORT + (_number(environ, "SLURM_JOB_ID") or 0) % 4096
        coordinator = coordinator or (f"{first}:{port}" if first else None)
    if processes is None and (process is not None or coordinator is not None) and not jobset:
        raise UserError("processes", "nothing", "give the number of processes too", Code.MISSING)
    if processes is None or processes == 1:
        return None
    return Group(coordinator or "", processes, -1 if process is None else process)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(name, text, "must be a whole number") from None


def _first_host(nodes: str) -> str | None:
    """The first host of a SLURM node list such as ``n1``, ``n1,n7`` or ``n[01-12,20],m3``."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    return None if match is None else match[1] + (match[2] or "")


def check_mesh(group: Group, shape: Mapping[str, int]) -> None:
    """Checks that a mesh can have a part in every process of a group, before any of them starts.

    Raises:
      UserError: the mesh does not divide into as many parts (ENVIRONMENT).
    """
    devices = math.prod(shape.values())
    if devices % group.processes:
        raise UserError("mesh", mesh_text(shape), group_remedy(group.processes), Code.ENVIRONMENT)


def mesh_text(shape: Mapping[str, int]) -> str:
    """The shape of a mesh, by axis, for messages: ``data 2 x tensor 4``."""
    return " x ".join(f"{axis} {size}" for axis, size in shape.items() if size > 1) or "one device"


def group_remedy(processes: int, devices: int | None = None) -> str:
    """What to do where a mesh does not fit a group of processes, which has ``devices`` devices; None: not known yet."""
    together = f"{processes} processes (srun, or SCALING_PROCESSES) train every run together, on all their devices"
    many = f"a multiple of {processes} devices, as many as they have" if devices is None else f"{devices} devices"
    alone = "set SCALING_PROCESSES=1, and each trains runs of its own"
    return f"{together}: give --config.mesh.data={devices or processes} or another mesh of {many}; or {alone}"


def join(group: Group, timeout: float = 300.0) -> None:
    """Joins the group. Call it before any other use of JAX. Installs no signal handler.

    Args:
      timeout: seconds to wait for the other processes.

    Raises:
      UserError: the coordinator does not answer (ENVIRONMENT).
    """
    global _group
    import jax

    # JAX's preemption service would catch SIGTERM and ignore it; the worker has its own handler.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.processes,
            group.process,
            cluster_detection_method="deactivate",
            initialization_timeout=round(timeout),
            shutdown_timeout_seconds=30,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        remedy = f"the group of {group.processes} processes did not form ({reason})"
        raise UserError("coordinator", group.coordinator, remedy, Code.ENVIRONMENT) from error
    _group = group


def count() -> int:
    """Number of processes in this group; 1 without a group."""
    return 1 if _group is None else _group.processes


def index() -> int:
    """Index of this process in its group; 0 without a group."""
    return 0 if _group is None else _group.process


def primary() -> bool:
    """Whether this process writes records and makes decisions: process 0."""
    return index() == 0


def _client() -> Any:
    # The service that orbax uses to synchronise its writers.
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()


def agree(value: Any = None, patience: float | None = PATIENCE) -> Any:
    """Broadcasts process 0's ``value``, a JSON value; that of the others is ignored.

    All processes must call it, in the same order.

    Args:
      patience: seconds to wait for process 0; None waits forever.

    Raises:
      RuntimeError: process 0 did not answer in time, or the group is broken.
    """
    if _group is None:
        return value
    key = f"scaling/{next(_counter)}"
    if primary():
        _client().key_value_set(key, json.dumps(value))
        return json.loads(json.dumps(value))
    waited = 0.0
    while True:
        try:
            return json.loads(_client().blocking_key_value_get(key, round(_LOOK * 1000)))
        except RuntimeError as error:
            waited += _LOOK
            if "DEADLINE_EXCEEDED" not in str(error) or (patience is not None and waited >= patience):
                raise


def anyone(flag: bool) -> bool:
    """Whether the flag is true in any process. A collective: all processes must call it at the same point."""
    if _group is None:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def total(amount: int) -> int:
    """The sum of the processes' amounts. A collective: all processes must call it at the same point."""
    if _group is None:
        return amount
    import numpy as np
    from jax.experimental import multihost_utils

    return int(np.sum(multihost_utils.process_allgather(np.array(amount))))


def barrier() -> None:
    """Waits until every process has called it."""
    if _group is not None:
        _client().wait_at_barrier(f"scaling/{next(_counter)}", round(PATIENCE * 1000))
