"""The only file that builds meshes and decides shardings: parameter path -> logical axes -> mesh axes.

Between layers, activations are constrained to the split of the batch (``place``); within a layer XLA's partitioner
decides. ``tests/test_mesh.py`` counts the resulting collectives.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scaling.blocks.logical import Axes, Place
from scaling.distributed import group_remedy, mesh_text
from scaling.errors import Code, UserError
from scaling.settings import check as check_fields
from scaling.settings import read, setting

# The batch is split over data and fsdp; a weight over fsdp on its residual axis and over tensor on its other wide axis.
RULES = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor", "layers": None, "head": None}
RULES |= {"experts": None, "pixels": None, "rank": None, "prompt": None}
ACTIVATIONS: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "time": None,
    "embed": None,
    "vocab": "tensor",
}
ACTIVATIONS |= {"candidates": None}  # of a contrastive loss: those of all examples, on every device
BATCH = PartitionSpec(None, ("data", "fsdp"))  # (steps of a chunk, batch, ...)
EVALUATION_BATCH = PartitionSpec(("data", "fsdp"))


@dataclass(frozen=True)
class Shape:
    """Sizes of the mesh's axes, ordered from least to most communication.

    Members of an ensemble never communicate; the parts of a tensor do in every layer.
    """

    ensemble: int = setting(1, least=1)
    data: int = setting(1, least=1)
    fsdp: int = setting(1, least=1)
    tensor: int = setting(1, least=1)

    def __post_init__(self):
        check_fields(self, "mesh")


MESH_AXES = tuple(field.name for field in dataclasses.fields(Shape))


def check(shape: object) -> Shape:
    """The shape of a mesh from the ``mesh`` section of a configuration, such as {"data": 2}.

    Raises:
      UserError: an axis does not exist (UNKNOWN), or a size is not a whole number of at least 1 (INVALID).
    """
    return read(Shape, "mesh", shape)


def make(shape: Mapping[str, int]) -> Mesh:
    """The mesh of a configuration such as {"data": 2, "fsdp": 1, "tensor": 1}: Auto axes on the first devices.

    Raises:
      UserError: as ``check``; or there are too few devices; or, in a group of processes, too many: each process must
        hold a part (ENVIRONMENT).
    """
    sizes = dataclasses.astuple(check(shape))
    needed, devices = math.prod(sizes), jax.devices()
    text = mesh_text(dict(zip(MESH_AXES, sizes)))
    available = f"{len(devices)} ({devices[0].platform})"
    if jax.process_count() > 1 and needed != len(devices):
        remedy = f"needs {needed} devices; {group_remedy(jax.process_count(), len(devices))}"
        raise UserError("mesh", text, remedy, Code.ENVIRONMENT)
    if needed > len(devices):
        raise UserError("mesh", text, f"needs {needed} devices, this process has {available}", Code.ENVIRONMENT)
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(sizes, MESH_AXES, axis_types=axis_types, devices=devices[:needed])


def ways(shape: Mapping[str, int]) -> int:
    """Parts into which a batch is split over a mesh."""
    return shape.get("data", 1) * shape.get("fsdp", 1)


def check_batch(shape: Mapping[str, int], batch: int, field: str = "recipe.batch", *, microbatches: int = 1) -> None:
    """Checks that a mesh can split a batch.

    Args:
      shape: sizes of the mesh by axis.
      batch: number of examples.
      field: the field that set the batch, for the message.
      microbatches: equal parts of the batch that are trained one after another.

    Raises:
      UserError: the data and fsdp axes do not divide the batch, or its microbatches (CONFLICT).
    """
    count = ways(shape)
    if batch % count:
        raise UserError(field, batch, f"must be a multiple of data x fsdp = {count}", Code.CONFLICT)
    if batch % (count * microbatches):
        remedy = f"must divide {field} = {batch} into parts that data x fsdp = {count} divides"
        raise UserError("execution.microbatches", microbatches, remedy, Code.CONFLICT)


def parts(shape: Mapping[str, int], batch: int, microbatches: int = 1, together: int = 1) -> int:
    """Number of equal parts into which a batch is split to measure gradient noise: 8, or else 4 or 2.

    Args:
      together: examples that no part may separate.

    Raises:
      UserError: the batch cannot be split in two (CONFLICT).
    """
    whole = math.lcm(ways(shape), together) * microbatches
    count = next((n for n in (8, 4, 2) if batch % (n * whole) == 0), 0)
    if not count:
        remedy = f"the batch must split into two halves, each a multiple of {whole}"
        raise UserError("config.noise_scale", batch, remedy, Code.CONFLICT)
    return count


def rows(mesh: Mesh, batch: int) -> np.ndarray:
    """Indices of the batch's rows that this process's devices hold, ascending; all rows if it is the only process."""
    if jax.process_count() == 1:
        return np.arange(batch)
    local = NamedSharding(mesh, EVALUATION_BATCH).addressable_devices_indices_map((batch,)).values()
    return np.unique(np.concatenate([np.arange(batch)[index] for index in local if index is not None]))


def put(mesh: Mesh, spec: PartitionSpec, value: np.ndarray, batch: int, axis: int) -> jax.Array:
    """Places an array on the mesh.

    Args:
      value: this process's ``rows`` of the array.
      batch: size of the whole array along ``axis``."""
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(value, sharding)
    own, before = rows(mesh, batch), (slice(None),) * axis

    def part(index: Any) -> np.ndarray:
        wanted = np.arange(batch)[index[axis]]
        first = int(np.searchsorted(own, wanted[0]))
        return value[(*before, slice(first, first + len(wanted)))]

    return jax.make_array_from_callback((*value.shape[:axis], batch, *value.shape[axis + 1 :]), sharding, part)


def state_shardings(mesh: Mesh, state: Any, axes: Axes, *, ensemble: bool = False) -> Any:
    """A NamedSharding for every leaf of a training state (shapes suffice).

    Paths of the optimiser's moments end with the path of their parameter, so one look-up by suffix serves both. Leaves
    that belong to no parameter (step, key) are replicated. An axis whose size the mesh does not divide is not split.

    Args:
      axes: logical axes of each parameter.
      ensemble: whether every leaf has a leading axis of members, split over the mesh's ensemble axis.
    """
    lead = 1 if ensemble else 0
    flat = jax.tree_util.tree_flatten_with_path(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))[0]
    by_path = {tuple(str(key) for key in path): names for path, names in flat}

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = tuple(str(key) for key in path)
        members = [_dividing("ensemble", leaf.shape[0], mesh)] if ensemble else []
        for start in range(len(keys)):
            names = by_path.get(keys[start:])
            if names is not None and len(names) + lead == len(leaf.shape):
                return NamedSharding(mesh, PartitionSpec(*members, *_assign(mesh, names, leaf.shape[lead:])))
        return NamedSharding(mesh, PartitionSpec(*members))

    return jax.tree_util.tree_map_with_path(sharding, state)


def place(mesh: Mesh) -> Place | None:
    """A function that shards an activation by its logical axes, for ``blocks.logical``; None on one device."""

    def put(x_: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        ways = [ACTIVATIONS[axis] for axis in axes]
        spec = [axis if size % _ways(mesh, axis) == 0 else None for axis, size in zip(ways, x_.shape)]
        return jax.lax.with_sharding_constraint(x_, NamedSharding(mesh, PartitionSpec(*spec)))

    return put if mesh.size > 1 else None


def _assign(mesh: Mesh, names: tuple[str, ...], shape: tuple[int, ...]) -> list[str | None]:
    assigned = [RULES[name] for name in names]
    return [
        None if axis is None or axis in assigned[:index] else _dividing(axis, size, mesh)
        for index, (axis, size) in enumerate(zip(assigned, shape))
    ]


def _dividing(axis: str, size: int, mesh: Mesh) -> str | None:
    return axis if size % mesh.shape[axis] == 0 else None


def _ways(mesh: Mesh, axes: str | tuple[str, ...] | None) -> int:
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
