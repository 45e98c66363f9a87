"""The only file that builds meshes and decides shardings: parameter path -> logical axes -> mesh axes."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scaling.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
# The batch is split over data and fsdp; a weight over fsdp on its residual axis and over tensor on its other wide axis.
RULES = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor", "layers": None, "head": None}
RULES |= {"experts": None, "pixels": None}
BATCH = PartitionSpec(None, ("data", "fsdp"))  # (steps of a chunk, batch, ...)
EVALUATION_BATCH = PartitionSpec(("data", "fsdp"))


def make(shape: dict[str, int]) -> Mesh:
    """The mesh of a configuration such as {"data": 2, "fsdp": 1, "tensor": 1}; Auto axes on the first devices.

    Raises:
      UserError: an unknown axis, a size below 1, or more devices than there are.
    """
    for axis, size in shape.items():
        if axis not in MESH_AXES:
            raise UserError(f"mesh.{axis}", size, f"unknown axis; choose from {', '.join(MESH_AXES)}")
        if size < 1:
            raise UserError(f"mesh.{axis}", size, "must be at least 1")
    sizes = tuple(shape.get(axis, 1) for axis in MESH_AXES)
    needed, devices = math.prod(sizes), jax.devices()
    if needed > len(devices):
        text = "x".join(map(str, sizes))
        raise UserError(
            "mesh", text, f"needs {needed} devices, this process has {len(devices)} ({devices[0].platform})"
        )
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed])


def check_batch(mesh: Mesh, batch: int, field: str = "recipe.batch") -> None:
    """UserError unless the data and fsdp axes divide the batch."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch % ways:
        raise UserError(field, batch, f"must be a multiple of data x fsdp = {ways}")


def state_shardings(mesh: Mesh, state: Any, axes: dict[str, Any]) -> Any:
    """A NamedSharding for every leaf of a training state (shapes suffice).

    The optimiser's moments carry the parameters' paths at the end of their own, so one look-up by suffix serves both;
    a leaf without a parameter's path and shape (step, key) is replicated. An axis that the mesh does not divide stays
    whole.
    """
    flat = jax.tree_util.tree_flatten_with_path(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))[0]
    by_path = {tuple(str(key) for key in path): names for path, names in flat}

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = tuple(str(key) for key in path)
        for start in range(len(keys)):
            names = by_path.get(keys[start:])
            if names is not None and len(names) == len(leaf.shape):
                return NamedSharding(mesh, PartitionSpec(*_assign(mesh, names, leaf.shape)))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, state)


def _assign(mesh: Mesh, names: tuple[str, ...], shape: tuple[int, ...]) -> list[str | None]:
    assigned = [RULES[name] for name in names]
    return [
        axis if axis is not None and size % mesh.shape[axis] == 0 and axis not in assigned[:index] else None
        for index, (axis, size) in enumerate(zip(assigned, shape))
    ]
