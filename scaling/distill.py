"""Distillation: a student that learns the predictions of a finished run besides the data (arXiv 1503.02531).

A block of cells names its teacher as it would a run to start from (``scaling.parents``)::

    distill = {"teacher": {"block": "large", "size": 3}, "temperature": 2.0, "kl": 0.5, "clm": 0.5}

The trained loss is ``clm`` times the model's own plus ``kl`` times T^2 KL(teacher || student), both at temperature T.
The headline of the evaluation stays the plain loss on the data, so that it is compared with that of any other run; the
second term has a unit of its own. The teacher is a frozen part of the parameters. N and C are the student's: the
teacher's forward passes (2 FLOPs per weight and token) are recorded apart, as ``flops.teacher``, and what it cost to
train as ``parent_flops``. It computes in the student's dtype with its own ``weight_bits``, and all logits of a
batch exist at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from scaling import adapt, count, families, objectives, settings
from scaling.blocks.logical import Axes, Parameters
from scaling.errors import Code, UserError
from scaling.records.types import JSON
from scaling.records.unit import Unit
from scaling.settings import setting

PART = "teacher"
ASKED = f"distill.{PART}"  # its reference among those of a block's parts; no part is called so
TERM = "distill"


@dataclass(frozen=True)
class Distill:
    """Temperature of both distributions, and the weights of their divergence and of the loss on the data."""

    temperature: float = setting(2.0, above=0)
    kl: float = setting(0.5, above=0)
    clm: float = setting(0.5, least=0)


@dataclass(frozen=True)
class Teacher:
    """The model of a teacher: its family and how it was adapted, by name and record, and its configuration."""

    family: str
    config: Any
    adaptation: adapt.Adapt | None = None

    @property
    def module(self) -> ModuleType:
        """Its family's module, adapted."""
        return adapt.applied(families.load(self.family), self.adaptation)

    @property
    def flops(self) -> int:
        """Of its forward pass, per example."""
        return sum(count.forward_flops(self.module.components(self.config)).values())

    @property
    def parameters(self) -> int:
        """Their number."""
        return count.parameters(self.module.components(self.config))["total"]


def read(section: str, written: object) -> tuple[Distill, object] | None:
    """What a block's ``distill`` says, and its teacher as it is written; None if it is empty.

    Raises:
      UserError: it is not a mapping or has a wrong value (INVALID), an unknown field (UNKNOWN), no teacher (MISSING).
    """
    fields = settings.mapping(section, written)
    if not fields:
        return None
    teacher = fields.pop(PART, "")
    if not teacher:
        raise UserError(f"{section}.{PART}", "nothing", "name a run, as in init_from", Code.MISSING)
    found = settings.read(Distill, section, fields)
    settings.check(found, section)
    return found, teacher


def record(how: Distill | None, teacher: Teacher | None) -> dict[str, JSON]:
    """What a manifest says of a distillation, for ``from_record``; {} without one."""
    if how is None or teacher is None:
        return {}
    config, adapted = settings.fields_of(teacher.config), adapt.record(teacher.adaptation)
    own = {"family": teacher.family, "config": config, "adapt": adapted, "parameters": teacher.parameters}
    return {**settings.fields_of(how), PART: own}


def from_record(family: ModuleType, recorded: Mapping[str, JSON]) -> ModuleType:
    """The family of a run whose manifest says this of its distillation; the family itself for {}.

    Raises:
      UserError: it is not what ``record`` writes (INVALID, UNKNOWN).
    """
    if not recorded:
        return family
    fields = dict(recorded)
    own = settings.mapping(ASKED, fields.pop(PART, None))
    name = own.get("family", "")
    settings.require_known(f"{ASKED}.family", name, families.names())
    config = settings.read(families.load(name).Config, f"{ASKED}.config", own.get("config"))
    teacher = Teacher(name, config, adapt.read(f"{ASKED}.adapt", own.get("adapt", {})))
    return applied(family, settings.read(Distill, TERM, fields), teacher)


@functools.cache
def applied(family: ModuleType, how: Distill, teacher: Teacher) -> ModuleType:
    """The family whose models have a teacher, which has the functions of ``scaling.families``."""
    module = ModuleType(family.__name__)
    own = _Distilled(family, how, teacher)
    functions = {"init": own.init, "loss": own.loss, "terms": own.terms, "axes": own.axes, "frozen": own.frozen}
    functions["beside"] = lambda config: (PART,)
    functions["weight_bits"] = lambda config: {PART: getattr(teacher.config, "weight_bits", 0)}
    vars(module).update({**vars(family), **functions, "further": lambda config: teacher.flops})
    return module


def check(family: ModuleType, config: Any, teacher: Teacher) -> None:
    """Checks that the two predict the same tokens.

    Raises:
      UserError: a family has no plain causal loss with ``logits`` (UNSUPPORTED), or reads other inputs (CONFLICT).
    """
    for module, own in ((family, config), (teacher.module, teacher.config)):
        terms = families.terms(module, own)
        plain = hasattr(module, "logits") and not hasattr(module, "loss_and_aux")
        if not plain or len(terms) > 1 or not next(iter(terms.values())).causal:
            name = module.__name__.rpartition(".")[2]
            remedy = "has no causal loss as its only term, with the logits that it is made of"
            raise UserError(TERM, name, remedy, Code.UNSUPPORTED)
    ours, theirs = family.batch_spec(config), teacher.module.batch_spec(teacher.config)
    if ours != theirs:
        raise UserError(f"{TERM}.{PART}", theirs, f"must have the inputs of the student, {ours}", Code.CONFLICT)


class _Distilled:
    """The functions of a family with a teacher."""

    def __init__(self, family: ModuleType, how: Distill, teacher: Teacher):
        self.family, self.how, self.teacher = family, how, teacher

    def init(self, key: jax.Array, config: Any) -> Parameters:
        """The student's parameters, and zeros in the place of the teacher's, which are inherited."""
        module, own = self.teacher.module, self.teacher.config
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), own))
        return {**self.family.init(key, config), PART: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)}

    def loss(self, parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Any) -> Any:
        """The headline on the data, and the divergence from the teacher, at the same positions."""
        del key  # nothing here is random
        student = {name: value for name, value in parameters.items() if name != PART}
        given_BT, targets_BT, mask_BT = batch["tokens"][:, :-1], batch["tokens"][:, 1:], batch.get("mask")
        logits_BTV = self.family.logits(student, given_BT, config)
        taught_BTV = self.teacher.module.logits(parameters[PART], given_BT, self.teacher.config)
        nats_BT = objectives.cross_entropy(logits_BTV, targets_BT)
        apart_BT = objectives.divergence(jax.lax.stop_gradient(taught_BTV), logits_BTV, self.how.temperature)
        headline = next(iter(families.terms(self.family, config)))
        return {headline: objectives.clm(nats_BT, mask_BT), TERM: objectives.clm(apart_BT, mask_BT)}

    def terms(self, config: Any) -> dict[str, families.Term]:
        """The terms of ``loss``."""
        ((name, term),) = families.terms(self.family, config).items()
        unit = Unit(given=f"the teacher; at T = {self.how.temperature:g}, times T^2")
        weighted = dataclasses.replace(term, weight=self.how.clm)
        return {name: weighted, TERM: families.Term(unit, weight=self.how.kl)}

    def axes(self, config: Any) -> Axes:
        """Logical axes of the student's parameters and of the teacher's."""
        return {**self.family.axes(config), PART: self.teacher.module.axes(self.teacher.config)}

    def frozen(self, config: Any) -> tuple[str, ...]:
        """What is not trained: the teacher."""
        return (*families.frozen(self.family, config), PART)
