"""Matches the inputs that a family reads with those that a source supplies. No JAX.

A family's ``batch_spec`` and a source's ``supplies`` map names of inputs to numbers: size of the vocabulary, side of
the images, samples of a sound. An input that is not listed in ``INPUTS`` is the batch's array of the same name, and
family and source must agree on its number; for anything else, the family's module declares its own ``INPUTS``. So a new
modality needs only a source that supplies it and a family that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from scaling.errors import Code, UserError

LENGTHS = ("context", "text")  # numbers of positions of an example; not inputs
OTHER = "other_"  # begins the name of an array that holds for each example another's (``partner``)


@dataclass(frozen=True)
class Input:
    """One input of a family.

    Attributes:
      arrays: names of the arrays of a batch that hold it.
      described: what the number means, completing "dataset x has": ``images of side``.
      exact: family and source must have the same number; otherwise the family's may be larger, as for a vocabulary.
      by_example: the arrays have a row per example; otherwise only ``metrics`` gets them, whole, in evaluation.
    """

    arrays: tuple[str, ...]
    described: str
    exact: bool = True
    by_example: bool = True


INPUTS = {
    "vocab": Input(("tokens", "mask"), "tokens up to", exact=False),
    "marks": Input(("marks",), "marks of tokens up to", exact=False),
    "classes": Input(("label",), "labels up to", exact=False),
    "image": Input(("image",), "images of side"),
    "pictures": Input(("pictures",), "pictures an example:"),
    "side": Input(("pictures",), "pictures of side"),
    "video": Input(("video",), "frames a video:"),
    "mark": Input(("tokens",), "as the mark of a picture the token"),
    "sound": Input(("sound",), "sounds of samples"),
    "mel": Input(("mel",), "spectrograms of bands"),
    "frames": Input(("mel",), "spectrograms of frames"),
    "points": Input(("points",), "points of numbers, y included:"),
    "regions": Input(("region", "box"), "regions a picture:"),
    "region_side": Input(("region",), "regions of side"),
    "region_classes": Input(("region_class",), "classes of regions up to", exact=False),
    "graph": Input(("graph",), "kinds of nodes of a scene's graph:"),
    **{name: Input(("graph",), f"{name} a text:") for name in ("objects", "attributes", "relations", "answers")},
    "question": Input(("question",), "questions of tokens, their end included:"),
    "answer": Input(("answer",), "answers of tokens, their end included:"),
    "prompts": Input(("prompts",), "prompts of each class", by_example=False),
}


def inputs(family: Any, spec: Mapping[str, int]) -> dict[str, Input]:
    """The inputs of a family (a module, see ``scaling.families``) by name, from its ``batch_spec``."""
    declared: dict[str, Input] = {**INPUTS, **getattr(family, "INPUTS", {})}
    return {name: declared.get(name, Input((name,), name)) for name in spec if name not in LENGTHS}


def arrays(family: Any, spec: Mapping[str, int], *, by_example: bool = True) -> set[str]:
    """Names of the arrays that a family reads from a batch, or (``by_example`` False) from the whole evaluation set."""
    declared = inputs(family, spec).values()
    return {name for item in declared if item.by_example is by_example for name in item.arrays}


def partner(index: np.ndarray, size: int) -> np.ndarray:
    """Index of the other example of each of some among ``size``: neighbours in twos; the last of an odd number has
    the one before it."""
    other = index ^ 1
    return np.where(other < size, other, np.maximum(index - 1, 0))


def require_supply(family: Any, spec: Mapping[str, int], supplies: Mapping[str, int], dataset: str, name: str) -> None:
    """Checks that a source supplies what a family reads.

    Args:
      family, spec: the family's module and its ``batch_spec``.
      supplies: what the source supplies, see ``scaling.data.supplies``.
      dataset, name: names of the data set and the family, for messages.

    Raises:
      UserError: the source lacks an input (MISSING), or its number does not match the family's (CONFLICT).
    """
    for field, item in inputs(family, spec).items():
        needed = spec[field]
        if field not in supplies:
            remedy = f"reads {field}, which dataset {dataset} lacks: it has {', '.join(supplies)}"
            raise UserError("family", name, remedy, Code.MISSING)
        supplied = supplies[field]
        if (supplied != needed) if item.exact else (supplied > needed):
            remedy = f"dataset {dataset} has {item.described} {supplied}"
            if field in {each.name for each in fields(family.Config)}:
                raise UserError(f"model.{field}", needed, remedy, Code.CONFLICT)
            # Computed of fields that have other names.
            raise UserError("family", name, f"reads {field} {needed} as config.model has it; {remedy}", Code.CONFLICT)
