"""Model families, one file each, found by name: ``load("gpt")`` is the module ``scaling.families.gpt``.

A family module has

    Config                 frozen dataclass of ints, floats, strings and bools; each field declares what it may hold
                           (``scaling.settings``); raises UserError where they do not go together
    ladder(size)           size i of the family's ladder, one dial: the fields that grow with it, as a dict
    init(key, config)      parameters: a nested dict of float32 arrays; a model computes in the dtype of those that it
                           is given, and the trainer casts them to the config's ``dtype`` once, in step.py
    loss(parameters, batch, key, config)  {term: (sum, count)} in float32, each (B,), or (B, T) by position; the first
                           term is the headline
    terms(config)          what these are: {term: Term}, in the same order; without it one term, "loss", is causal
    batch_spec(config)     what the data must supply: {"context": positions per example, which D counts,
                           "vocab": tokens up to this, "text": how many of them, where D counts other positions too,
                           "image": side in pixels, "sound": samples, "classes": labels up to this,
                           "prompts": texts of each class in the evaluation}, each where the family reads it, and any
                           other number by the name of an array of the batch
    INPUTS                 where it has some: what such a number means, {name: scaling.inputs.Input}
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
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import msgspec

from scaling.errors import Code, UserError
from scaling.records.unit import NATS_PER_TOKEN, Unit
from scaling.settings import require_known, typed


@dataclasses.dataclass(frozen=True)
class Term:
    """What a term of a family's loss is.

    Attributes:
      unit: of sum / count. The candidates of a batchwise term are those of the evaluation: see ``units``.
      likelihood: it is, or bounds, -log p of the data per token, so that bits/byte mean something.
      causal: each target is scored given what precedes it, and the term is by position: a known source can then
        correct its own sampling error, and evaluation says how the loss falls with the context.
      weight: in the trained sum of terms; 0 is a metric.
      start: its value before the first step with an untied head; None where it depends on the data.
      share: of the source's loss tokens that the term counts.
      count: its predictions per example, where it does not count tokens.
      batchwise: an example's value depends on the others of its batch. Evaluation then takes whole batches of one
        size, whatever the training batch; a contrast starts at ln of it.
    """

    unit: Unit = NATS_PER_TOKEN
    likelihood: bool = False
    causal: bool = False
    weight: float = 1.0
    start: float | None = None
    share: float = 1.0
    count: int | None = None
    batchwise: bool = False


def terms(family: ModuleType, config: Any) -> dict[str, Term]:
    """What the family's loss returns, the headline first."""
    if hasattr(family, "terms"):
        return family.terms(config)
    return {"loss": Term(likelihood=True, causal=True, start=math.log(config.vocab))}


def units(family: ModuleType, config: Any, evaluation_batch: int) -> dict[str, Unit]:
    """The unit of each term as a record has it, the headline first.

    Args:
      evaluation_batch: examples of an evaluation batch, among which a batchwise term chooses.
    """
    return {
        name: msgspec.structs.replace(term.unit, among=evaluation_batch) if term.batchwise else term.unit
        for name, term in terms(family, config).items()
    }


def require_separable_loss(family: ModuleType, config: Any, field: str, value: Any) -> None:
    """Refuses to split a batch whose loss is not the mean over its parts.

    Args:
      field, value: the setting that splits it, for the message.

    Raises:
      UserError: a term of the family is batchwise (UNSUPPORTED).
    """
    if any(term.batchwise for term in terms(family, config).values()):
        remedy = "splits the batch, and this family's examples are each other's negatives"
        raise UserError(field, value, remedy, Code.UNSUPPORTED)


def counted(family: ModuleType, config: Any) -> str:
    """What D counts, in words."""
    return family.counted(config) if hasattr(family, "counted") else "tokens"


def text(spec: Mapping[str, int]) -> int:
    """Tokens of text per example of a ``batch_spec``: what is asked of the source as its context."""
    return spec.get("text", spec["context"])


def frozen(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Top-level names of the parameters that are not trained."""
    return family.frozen(config) if hasattr(family, "frozen") else ()


def names() -> list[str]:
    """Every family: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The family of that name.

    Raises:
      UserError: there is none (UNKNOWN); the message names the ones that exist.
    """
    require_known("family", name, names())
    return importlib.import_module(f"{__name__}.{name}")


def configure(family: ModuleType, size: int, **fields: Any) -> Any:
    """The family's Config at a size of its ladder.

    Args:
      fields: override those of the ladder and the defaults.

    Raises:
      UserError: a size that the ladder lacks or a field that the Config lacks (UNKNOWN), a value of another type or
        out of its range (INVALID), or fields that do not go together (CONFLICT).
    """
    return family.Config(**{**family.ladder(size), **typed(family.Config, "model", fields)})
