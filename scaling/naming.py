"""What a run is called: the hash of everything that can change its loss, and a readable name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scaling import families, parents, recipe, settings
from scaling.records import identity
from scaling.records.types import JSON, EvaluationOptions

if TYPE_CHECKING:
    from scaling.study import Cell


def digest(
    cell: Cell,
    described: Mapping[str, dict[str, JSON]],
    evaluation: EvaluationOptions,
    of_parent: Callable[[Cell], str],
) -> str:
    """Hash of everything that can change the cell's loss.

    Args:
      described: what each source of the study says about itself, by data set.
      of_parent: the same hash of a run that it starts from.
    """
    config = settings.fields_of(cell.config)
    fields = {name: value for name, value in settings.fields_of(cell).items() if name not in parents.FIELDS}
    own = {"config": config, "recipe": recipe.record(cell.recipe), "role": None, "dataset": None}
    about: dict[str, Any] = {
        "cell": {**fields, **own, **parents.described(cell, of_parent)},
        "data": described[cell.dataset],
        "evaluation": evaluation.tokens,
    }
    about |= families.revision(cell.module, cell.config)
    if families.batchwise(cell.module, cell.config):
        about["evaluation_batch"] = evaluation.batch
    return identity(about)


def prefix(cell: Cell, label: str) -> str:
    """The readable part of a run's name."""
    return re.sub(r"[^\w.-]", "_", f"{cell.dataset}-{cell.family}{cell.size}-s{cell.seed}-{label}-")


def name(cell: Cell, label: str, hashed: str) -> str:
    """A readable name; it is never parsed.

    Args:
      label: what distinguishes it among the runs of its size and seed. hashed: its identity.
    """
    return prefix(cell, label) + hashed[:8]


def of_cell(cell: Cell, hashed: str) -> str:
    """The name of a cell's run, which is no stem."""
    return name(cell, f"D{cell.tokens}", hashed)
