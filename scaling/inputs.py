"""What a family reads of an example, held against what a source supplies. Standard library only.

A family's ``batch_spec`` and a source's ``supplies`` are numbers by the name of an input: a vocabulary, the side of an
image, the samples of a sound. An input that is not listed here is an array of the batch of its own name, whose number
family and source must have in common; a family that reads something else declares it in its module's ``INPUTS``. So a
new modality is a source that supplies it and a family that reads it, and nothing between them knows its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaling.errors import Code, UserError

LENGTHS = ("context", "text")  # positions of an example, which are no inputs


@dataclass(frozen=True)
class Input:
    """One input of a family.

    Attributes:
      arrays: names of the arrays of a batch that hold it.
      described: what the number counts, after "dataset x has": ``images of side``.
      exact: family and source must have the same number; else the family's may be larger, as a vocabulary may.
      by_example: the arrays have a row for each example; else evaluation gives them whole, to ``metrics`` alone.
    """

    arrays: tuple[str, ...]
    described: str
    exact: bool = True
    by_example: bool = True


INPUTS = {
    "vocab": Input(("tokens", "mask"), "tokens up to", exact=False),
    "classes": Input(("label",), "labels up to", exact=False),
    "image": Input(("image",), "images of side"),
    "sound": Input(("sound",), "sounds of samples"),
    "prompts": Input(("prompts",), "prompts of each class", by_example=False),
}


def inputs(family: Any, spec: Mapping[str, int]) -> dict[str, Input]:
    """The inputs of a family (a module, see ``scaling.families``) by name, from its ``batch_spec``."""
    declared: dict[str, Input] = {**INPUTS, **getattr(family, "INPUTS", {})}
    return {name: declared.get(name, Input((name,), name)) for name in spec if name not in LENGTHS}


def arrays(family: Any, spec: Mapping[str, int], *, by_example: bool = True) -> set[str]:
    """Names of the arrays that a family reads of a batch, or, not ``by_example``, of a whole evaluation set."""
    found = inputs(family, spec).values()
    return {name for each in found if each.by_example is by_example for name in each.arrays}


def require_supply(family: Any, spec: Mapping[str, int], supplies: Mapping[str, int], dataset: str, name: str) -> None:
    """Holds what a family reads against what a source supplies.

    Args:
      family, spec: the family's module and its ``batch_spec``.
      supplies: of the source, see ``scaling.data.supplies``.
      dataset, name: of the data set and the family, for messages.

    Raises:
      UserError: the source lacks an input (MISSING), or has it in another size or with more values (CONFLICT).
    """
    for field, each in inputs(family, spec).items():
        wanted = spec[field]
        if field not in supplies:
            remedy = f"reads {field}, which dataset {dataset} lacks: it has {', '.join(supplies)}"
            raise UserError("family", name, remedy, Code.MISSING)
        has = supplies[field]
        if (has != wanted) if each.exact else (has > wanted):
            raise UserError(f"model.{field}", wanted, f"dataset {dataset} has {each.described} {has}", Code.CONFLICT)
