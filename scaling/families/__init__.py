"""Model families, one file each, found by name: ``load("gpt")`` is the module ``scaling.families.gpt``.

A family module has

    Config                 frozen dataclass of ints, floats, strings and bools; raises UserError where it is impossible
    ladder(size)           size i of the family's ladder, one dial: the fields that grow with it, as a dict
    init(key, config)      parameters: a nested dict of float32 arrays; a model computes in the dtype of those that it
                           is given, and the trainer casts them to the config's ``dtype`` once, in step.py
    loss(parameters, batch, key, config)  {term: (sum, count)} in float32, each (B,), or (B, T) by position; the first
                           term is the headline
    terms(config)          what these are: {term: Term}, in the same order; without it one term, "loss", is causal
    batch_spec(config)     what the data must supply: {"context": positions per example, which D counts,
                           "vocab": tokens up to this, "text": how many of them, where D counts other positions too,
                           "image": side in pixels, "sound": samples, "classes": labels up to this,
                           "prompts": texts of each class in the evaluation}, each where the family reads it
    metrics(parameters, batch, config)  where it has some: further terms of weight 0, measured in evaluation only; the
                           batch then has the source's "prompts" (classes, prompts, text + 1)
    frozen(config)         top-level names of parameters that training leaves as they were drawn; without it none
    OBJECTIVES             values of the Config's field ``objective``, where it has one: the battery runs over them
    counted(config)        what D counts, in words; without it "tokens"
    components(config)     what is counted, a list of scaling.count.Component
    axes(config)           nested dict like the parameters: logical axes of each leaf, inputs before outputs
                           (where the Config has ``tied``, the table that is the head too is called ``embedding``)

and knows nothing of optimisers, meshes or loops.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from types import ModuleType
from typing import Any

from scaling.errors import UserError


@dataclasses.dataclass(frozen=True)
class Term:
    """What a loss term is.

    Attributes:
      unit: of sum / count.
      likelihood: it is, or bounds, -log p of the data per token, so bits/byte mean something.
      causal: each target is scored given what precedes it, and the term is by position: a known source can then
        correct its own sampling error, and evaluation says how the loss falls with the context.
      weight: in the trained sum of terms; 0 is a metric.
      start: its value before the first step with an untied head; None where it depends on the data.
      share: of the source's loss tokens that the term counts; or ``count``, its predictions per example.
      batchwise: an example's value depends on the others of its batch, so that the batch is part of what it is:
        evaluation takes whole batches of one size, whatever the training batch; a contrast starts at ln of it.
    """

    unit: str = "nats/token"
    likelihood: bool = False
    causal: bool = False
    weight: float = 1.0
    start: float | None = None
    share: float = 1.0
    count: int | None = None
    batchwise: bool = False


def terms(family: ModuleType, config: Any) -> dict[str, Term]:
    """What the family's loss returns, the headline first."""
    return (
        family.terms(config)
        if hasattr(family, "terms")
        else {"loss": Term(likelihood=True, causal=True, start=math.log(config.vocab))}
    )


def check_parts(family: ModuleType, config: Any, field: str, value: Any) -> None:
    """UserError where a part of a batch has another loss than the batch."""
    if any(term.batchwise for term in terms(family, config).values()):
        raise UserError(field, value, "splits the batch, and this family's examples are each other's negatives")


def counted(family: ModuleType, config: Any) -> str:
    """What D counts, in words."""
    return family.counted(config) if hasattr(family, "counted") else "tokens"


def text(spec: dict[str, int]) -> int:
    """Tokens of text per example of a ``batch_spec``: what is asked of the source as its context."""
    return spec.get("text", spec["context"])


def frozen(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Top-level names of the parameters that are not trained."""
    return family.frozen(config) if hasattr(family, "frozen") else ()


def names() -> list[str]:
    """Every family: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The family of that name. UserError names the ones that exist."""
    if name not in names():
        raise UserError("family", name, f"unknown; choose one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def configure(family: ModuleType, size: int, **fields: Any) -> Any:
    """The family's Config at a size of its ladder with fields overridden.

    Raises:
      UserError: a size that the ladder lacks, or a field that the Config lacks or holds with another type.
    """
    known = {field.name: field for field in dataclasses.fields(family.Config)}
    for name, value in fields.items():
        if name not in known:
            raise UserError(f"model.{name}", value, f"unknown field; choose one of {', '.join(sorted(known))}")
        default = known[name].default
        if default is not dataclasses.MISSING and type(value) is not type(default):
            if isinstance(default, float) and type(value) is int:
                fields[name] = float(value)
            else:
                raise UserError(f"model.{name}", value, f"must be a {type(default).__name__}")
    return family.Config(**{**family.ladder(size), **fields})
