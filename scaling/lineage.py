"""What the manifest of a planned cell says about the runs that it descends from."""

from __future__ import annotations

from collections.abc import Sequence

from scaling import naming, parents
from scaling.records.types import Parent
from scaling.shapes import Shapes
from scaling.study import Cell


def parents_of(shapes: Shapes, cell: Cell) -> tuple[Parent, ...]:
    """The runs that a cell starts from, each with the parts that it gives."""
    given: dict[str, list[parents.Start]] = {}
    for start in cell.start:
        given.setdefault(_key(shapes, start.parent), []).append(start)
    return tuple(_parent(shapes, starts) for starts in given.values())


def _parent(shapes: Shapes, starts: Sequence[parents.Start]) -> Parent:
    parent, parts = starts[0].parent, {start.part: start.source for start in starts}
    if isinstance(parent, Cell):
        digest = shapes.digest(parent)
        return Parent(run=naming.of_cell(parent, digest), parts=parts, identity=digest, flops=shapes.flops(parent))
    own = parent.manifest
    return Parent(
        run=parent.run,
        workdir=parent.workdir,
        parts=parts,
        identity=own.identity,
        flops=own.flops.training,
        result=parent.result,
    )


def _key(shapes: Shapes, parent: Cell | parents.Outside) -> str:
    return shapes.digest(parent) if isinstance(parent, Cell) else parent.result


def ancestors(shapes: Shapes, cell: Cell) -> dict[str, int]:
    """Training FLOPs of every run that a cell descends from; those of another work directory with their own."""
    found: dict[str, int] = {}
    for parent in (start.parent for start in cell.start):
        key = _key(shapes, parent)
        if key in found:
            continue
        if isinstance(parent, Cell):
            found |= {key: shapes.flops(parent), **ancestors(shapes, parent)}
        else:
            found[key] = parent.manifest.flops.training + parent.manifest.parent_flops
    return found
