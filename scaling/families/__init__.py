"""Model families, one file each, found by name: ``load("gpt")`` is the module ``scaling.families.gpt``.

A family module has

    Config                 frozen dataclass of ints, floats, strings and bools; each field declares its valid values
                           (``scaling.settings``); raises UserError for fields that exclude each other
    ladder(size)           the fields that set the shape of a size of the family's ladder, as a dict
    init(key, config)      parameters: a nested dict of float32 arrays; a model computes in the dtype of the parameters
                           it is given, and the trainer casts them once to the config's ``dtype``, in step.py
    loss(parameters, batch, key, config)  {term: (sum, count)} in float32, each (B,), or (B, T) by position; the first
                           term is the headline; what is random is keyed by example (``objectives.keys``)
    terms(config)          describes these terms: {term: Term}, in the same order; default: one causal term, "loss"
    batch_spec(config)     what the data must supply: {"context": positions per example, which D counts,
                           "vocab": size of the vocabulary, "text": positions of text, if D counts others too,
                           "image": side in pixels, "sound": samples, "mel": bands of a spectrogram,
                           "frames": of it, "classes": number of labels,
                           "prompts": texts per class in the evaluation}, as far as the family reads them, and other
                           numbers by the name of an array of the batch
    INPUTS                 optional: the meaning of such other numbers, {name: scaling.inputs.Input}
    metrics(parameters, batch, config)  optional: further terms of weight 0, measured only in evaluation, where the
                           batch also has the source's "prompts" (classes, prompts, text + 1); what is random depends
                           on an example as in the loss, whose key there is ``jax.random.key(0)``
    partners(config)       optional: names of arrays of which each example also needs another's, which the batch then
                           has as "other_" and the name; default: none
    revision(config)       optional: a whole number, raised when the same configuration gives other losses, or another
                           N, than before; part of the identity of its runs, unless it is 1
    together(config)       optional: examples of consecutive index whose losses depend on each other, as with a capacity
                           that they share: no part of a batch cuts such a group; default: 1
    frozen(config)         optional: top-level names of parameters that are not trained; default: none
    clamped(config)        optional: {top-level name of a parameter: (low, high)}, clamped after every step, so that a
                           value at a bound keeps its gradient; default: none
    after(parameters, aux, key, config)  optional: all parameters, in float32, after the optimiser's step and the
                           clamps, within the same compiled step: averages of other parts, queues, codebooks. Such
                           state lies in the parameters under names that ``frozen`` lists; what evaluation does not
                           need is counted in the group "state". No matrix products: what needs one is computed in the
                           loss, where it is counted
    loss_and_aux(parameters, batch, key, config)  optional: what ``loss`` gives, and {name: array} for ``after``: arrays
                           by example, (B, ...), which it gets of the whole batch, in the order of its examples
    paced(config)          optional: whether the loss reads how far training is (``objectives.progress``), so that no
                           two runs share a stem; default: no
    begins_with(config)    optional: how many tokens of the training data ``begin(parameters, tokens)`` is given, which
                           makes the first parameters from those that are drawn or inherited; default: 0, and no call
    weight_bits(config)    optional: {top-level name: bits} of parts whose weights are rounded to other bits than the
                           config's ``weight_bits``
    exact(config)          optional: top-level names of parameters that stay float32, whatever the config's ``dtype``
    descended(config)      optional: top-level names of parameters that every step lowers by their gradient as it is,
                           without rate, moments, clip or decay; default: none
    beside(config)         optional: top-level names of parameters that are not of the model: a teacher, a mask
    inherits(config)       optional: {top-level name: Origin} of the parts that runs of other families give
    zeros(config)          optional: how many weights are zero at the end of training, which N leaves out, and how many
                           of them one token would use; default: (0, 0)
    further(config)        optional: forward FLOPs per example of a model that is not its own, such as a teacher, which
                           neither N nor C counts; default: 0
    OBJECTIVES             optional: values of the Config's field ``objective``; tests run over them
    counted(config)        optional: what D counts, in words; default: "tokens"
    components(config)     the counted parts, a list of scaling.count.Component
    axes(config)           nested dict like the parameters: logical axes of each leaf, inputs before outputs
                           (if the Config has ``tied``, the table that is also the head is named ``embedding``)

and does not know about optimisers, meshes or training loops.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from scaling.errors import Code, UserError
from scaling.records.unit import NATS_PER_TOKEN, Unit
from scaling.settings import require_known, typed

if TYPE_CHECKING:
    import jax  # which only a family's own module needs

Aux: TypeAlias = "dict[str, jax.Array]"  # what a loss hands to ``after``: by example, (B, ...)


@dataclasses.dataclass(frozen=True)
class Term:
    """Description of a term of a family's loss.

    Attributes:
      unit: unit of sum / count. For the number of candidates of a batchwise term see ``units``.
      likelihood: whether it is, or bounds, -log p of the data per token, so that bits/byte are meaningful.
      causal: whether each target is predicted from what precedes it, with the term given by position. Then a source of
        known entropy can correct its sampling error, and evaluation reports the loss by position.
      weight: in the trained sum of terms; 0 for a metric.
      start: value before the first step with an untied head; None if it depends on the data.
      share: share of the source's loss tokens that the term counts.
      count: predictions per example, if it does not count tokens.
      uneven: whether examples differ in how many they have; ``share`` or ``count`` is then the mean.
      batchwise: whether an example's value depends on the others of its batch. Evaluation then uses whole batches of
        one size, whatever the training batch.
      candidates: of a batchwise term: how many a batch of so many examples gives, among which each has one to be found.
      made_by: the part of ``inherits`` that makes what is predicted; the unit says which run gave it.
    """

    unit: Unit = NATS_PER_TOKEN
    likelihood: bool = False
    causal: bool = False
    weight: float = 1.0
    start: float | None = None
    share: float = 1.0
    count: float | None = None
    uneven: bool = False
    batchwise: bool = False
    candidates: Callable[[int], int] = lambda batch: batch
    made_by: str = ""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a part comes from, if it is inherited: one run gives all parts of the same ``families``.

    Attributes:
      families: one of which that run is of.
      fields: (name in the Config that inherits, name in the run's); their values must be equal.
      source: name of the part there; "": the same.
      needed: whether the part must be inherited.
    """

    families: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    source: str = ""
    needed: bool = True


def terms(family: ModuleType, config: Any) -> dict[str, Term]:
    """The terms of the family's loss, the headline first."""
    if hasattr(family, "terms"):
        return family.terms(config)
    return {"loss": Term(likelihood=True, causal=True, start=math.log(config.vocab))}


def units(family: ModuleType, config: Any, evaluation_batch: int, makers: Mapping[str, str]) -> dict[str, Unit]:
    """The unit of each term, as stored in records, the headline first.

    Args:
      evaluation_batch: examples per evaluation batch, which gives a batchwise term its candidates.
      makers: identity of the run that gave each part of ``made_by``.
    """

    def unit(term: Term) -> Unit:
        if term.batchwise:
            return msgspec.structs.replace(term.unit, among=term.candidates(evaluation_batch))
        if term.made_by in makers:
            return msgspec.structs.replace(term.unit, per=f"{term.unit.per} of {makers[term.made_by][:12]}")
        return term.unit

    return {name: unit(term) for name, term in terms(family, config).items()}


def require_separable_loss(family: ModuleType, config: Any, field: str, value: Any) -> None:
    """Checks that the loss of a batch is the mean over its parts, so that the batch may be split.

    Args:
      field, value: the setting that splits the batch, for the message.

    Raises:
      UserError: a trained term of the family is batchwise (UNSUPPORTED).
    """
    if any(term.batchwise and term.weight for term in terms(family, config).values()):
        remedy = "splits the batch, and this family's examples are each other's negatives"
        raise UserError(field, value, remedy, Code.UNSUPPORTED)


@functools.cache
def batchwise(family: ModuleType, config: Any) -> bool:
    """Whether an example's loss depends on the others of its batch."""
    return any(term.batchwise for term in terms(family, config).values())


def counted(family: ModuleType, config: Any) -> str:
    """What D counts, in words."""
    return family.counted(config) if hasattr(family, "counted") else "tokens"


def text(spec: Mapping[str, int]) -> int:
    """Tokens of text per example of a ``batch_spec``: the context to request from the source."""
    return spec.get("text", spec["context"])


def revision(family: ModuleType, config: Any) -> dict[str, int]:
    """The part of a run's identity that says which numbers its family's code gives; empty for its first."""
    number = family.revision(config) if hasattr(family, "revision") else 1
    return {"revision": number} if number > 1 else {}


def together(family: ModuleType, config: Any) -> int:
    """Examples that no part of a batch may separate: groups of consecutive, aligned indices."""
    return family.together(config) if hasattr(family, "together") else 1


def require_whole_groups(family: ModuleType, config: Any, batch: int, microbatches: int) -> None:
    """Checks that microbatches hold whole groups of the examples that belong together.

    Raises:
      UserError: they would cut a group, which would change the loss (CONFLICT).
    """
    group = together(family, config)
    if batch % (group * microbatches):
        remedy = f"would cut groups of {group} examples that belong together, out of {batch}"
        raise UserError("execution.microbatches", microbatches, remedy, Code.CONFLICT)


def partners(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Names of the arrays of which each example also needs another's."""
    return family.partners(config) if hasattr(family, "partners") else ()


def frozen(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Top-level names of the parameters that are not trained."""
    return family.frozen(config) if hasattr(family, "frozen") else ()


def clamped(family: ModuleType, config: Any) -> dict[str, tuple[float, float]]:
    """Bounds of the parameters that are clamped after every step, by top-level name."""
    return family.clamped(config) if hasattr(family, "clamped") else {}


def paced(family: ModuleType, config: Any) -> bool:
    """Whether the loss depends on how far training is."""
    return hasattr(family, "paced") and family.paced(config)


def loss_and_aux(
    family: ModuleType, parameters: Any, batch: dict[str, jax.Array], key: jax.Array, config: Any
) -> tuple[dict[str, tuple[jax.Array, jax.Array]], Aux]:
    """The terms of the loss, and what it hands to ``after``, by example; nothing unless the family says."""
    if hasattr(family, "loss_and_aux"):
        return family.loss_and_aux(parameters, batch, key, config)
    return family.loss(parameters, batch, key, config), {}


def begins_with(family: ModuleType, config: Any) -> int:
    """Tokens that the family's ``begin`` is given; 0 if it has none."""
    return family.begins_with(config) if hasattr(family, "begins_with") else 0


def weight_bits(family: ModuleType, config: Any, part: str) -> int:
    """Bits to which every pass rounds the matrices of the blocks of a part; 0: they are not rounded."""
    others = family.weight_bits(config) if hasattr(family, "weight_bits") else {}
    return others.get(part, getattr(config, "weight_bits", 0))


def exact(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Top-level names of the parameters that stay float32."""
    return family.exact(config) if hasattr(family, "exact") else ()


def descended(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Top-level names of the parameters that follow their gradient as it is."""
    return family.descended(config) if hasattr(family, "descended") else ()


def beside(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Top-level names of the parameters that are not of the model."""
    return family.beside(config) if hasattr(family, "beside") else ()


def inherits(family: ModuleType, config: Any) -> dict[str, Origin]:
    """The parts that runs of other families give, by top-level name."""
    return family.inherits(config) if hasattr(family, "inherits") else {}


def zeros(family: ModuleType, config: Any) -> tuple[int, int]:
    """Weights that are zero at the end of training, and those of them that one token would use."""
    return family.zeros(config) if hasattr(family, "zeros") else (0, 0)


def further(family: ModuleType, config: Any) -> int:
    """FLOPs per example, in training, of models that are not the family's own."""
    return family.further(config) if hasattr(family, "further") else 0


def names() -> list[str]:
    """Names of the families: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


@functools.cache
def load(name: str) -> ModuleType:
    """The module of the family of that name.

    Raises:
      UserError: there is no such family (UNKNOWN).
    """
    require_known("family", name, names())
    return importlib.import_module(f"{__name__}.{name}")


def configure(family: ModuleType, size: int, **fields: Any) -> Any:
    """The family's Config at a size of its ladder.

    Args:
      family: the family's module.
      size: of the ladder.
      fields: override those of the ladder and the defaults.

    Raises:
      UserError: the ladder lacks the size or the Config lacks a field (UNKNOWN), a value has the wrong type or is out
        of range (INVALID), or fields exclude each other (CONFLICT).
    """
    return family.Config(**{**family.ladder(size), **typed(family.Config, "model", fields)})
