"""Where activations lie, by logical axes: a block names them, ``scaling.mesh`` decides; without a mesh, nowhere.

Without this XLA lets a weight's split spread to the activations and moves them back and forth: GPT of width 64 on 8-way
fsdp gathered 5.0 times its parameters a step, with 18 all-to-alls; with it 1.0 times, with none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import jax

# A family's parameters, and the logical axes of each, inputs before outputs: nested in the same way.
Parameters: TypeAlias = Mapping[str, "jax.Array | Parameters"]
Axes: TypeAlias = Mapping[str, "tuple[str, ...] | Axes"]
Place = Callable[[jax.Array, tuple[str, ...]], jax.Array]
_ACTIVE: ContextVar[Place | None] = ContextVar("place", default=None)


@contextmanager
def placing(place: Place | None) -> Iterator[None]:
    """Whatever is traced inside has its activations put by ``place(x, axes)``."""
    token = _ACTIVE.set(place)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def constrain(x_: jax.Array, *axes: str) -> jax.Array:
    """The same array, put where its logical axes belong."""
    place = _ACTIVE.get()
    return x_ if place is None else place(x_, axes)
