"""The record of a recipe, the named ones, and the rules that turn a cell's N and D into its learning rate and batch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.records import identity, read_json

SCHEDULES = ("wsd", "cosine", "constant")
DECAY_SHAPES = ("linear", "sqrt")
PARAMETRISATIONS = ("standard", "width", "mup", "completep")
RULES = ("fixed", "sqrt", "law")
OPTIMIZERS = ("adamw", "adam", "muon")


@dataclass(frozen=True)
class Recipe:
    """How a study sets the hyperparameters of a cell.

    Attributes:
      parametrisation: how the learning rate of a parameter group follows width and depth: standard, width, mup or
        completep; the table is in ``scaling.recipe.parametrisation``.
      optimizer: adamw; adam, which takes no decay; or muon for the matrices of a stack, with Adam for the rest.
      learning_rate: peak rate at ``base_width`` (and, under completep, ``base_depth``).
      weight_decay: independent of the learning rate: each step at the peak takes this share off every matrix.
      batch: sequences per step.
      warmup_steps: linear from 0.
      decay_fraction: WSD only: share of all steps in which the rate falls to 0.
      schedule: wsd | cosine (to ``final_fraction`` of the peak) | constant.
      clip: largest global gradient norm.
      base_depth: layers at which ``learning_rate`` is meant, under completep.
      decay_shape: WSD only: the rate falls linearly, or as 1 - sqrt(progress) (arXiv 2405.18392).
      momentum: of muon.
      rule: who decides learning rate and batch. ``fixed``: the fields above. ``sqrt``: batch = base_batch
        sqrt(D / base_tokens) (as given where base_tokens is 0) and learning rate = base_rate sqrt(batch / base_batch):
        of Adam's square-root rule (Malladi 2022, arXiv 2205.10287) the learning rate alone. The whole rule, for a batch
        kappa times as large, also takes 1 - kappa (1 - beta) for both betas and epsilon / sqrt(kappa); here they stay.
        ``law``: learning rate = k N^p D^q for ``rate_law`` (k, p, q) and batch in tokens = k N^p D^q for
        ``batch_law``, where it is not empty. N is non-embedding parameters.
      tuned: identity of the recipe file that ``scaling tune`` wrote; empty for a rule that nobody fitted here.
    """

    name: str = "width"
    parametrisation: str = "width"
    optimizer: str = "adamw"
    learning_rate: float = 0.02
    base_width: int = 32
    weight_decay: float = 0.0
    batch: int = 16
    warmup_steps: int = 40
    decay_fraction: float = 0.3
    schedule: str = "wsd"
    final_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-12
    clip: float = 1.0
    # Fields from here on are left out of records where they hold their default, so that a run keeps its identity when
    # recipes learn something new.
    base_depth: int = 2
    decay_shape: str = "linear"
    momentum: float = 0.95
    rule: str = "fixed"
    base_rate: float = 0.0
    base_batch: int = 0
    base_tokens: int = 0
    rate_law: tuple[float, ...] = ()
    batch_law: tuple[float, ...] = ()
    tuned: str = ""

    def __post_init__(self):
        for field, choices in (
            ("parametrisation", PARAMETRISATIONS),
            ("schedule", SCHEDULES),
            ("optimizer", OPTIMIZERS),
            ("decay_shape", DECAY_SHAPES),
            ("rule", RULES),
        ):
            if getattr(self, field) not in choices:
                raise UserError(f"recipe.{field}", getattr(self, field), f"choose one of {', '.join(choices)}")
        for name in ("learning_rate", "batch", "base_width", "epsilon", "clip", "base_depth"):
            if not getattr(self, name) > 0:
                raise UserError(f"recipe.{name}", getattr(self, name), "must be positive")
        for name in ("decay_fraction", "beta1", "beta2", "final_fraction", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"recipe.{name}", getattr(self, name), "must be in [0, 1)")
        if not 0 <= self.weight_decay < 1 or self.warmup_steps < 0:
            name = "weight_decay" if self.warmup_steps >= 0 else "warmup_steps"
            raise UserError(f"recipe.{name}", getattr(self, name), "is out of its range")
        if self.optimizer == "adam" and self.weight_decay:
            raise UserError("recipe.weight_decay", self.weight_decay, "adam has none; choose optimizer adamw")
        for name in ("rate_law", "batch_law"):
            law = tuple(getattr(self, name))
            object.__setattr__(self, name, law)  # a list, from JSON
            if law and (len(law) != 3 or not all(map(math.isfinite, law)) or law[0] <= 0):
                raise UserError(f"recipe.{name}", law, "must be (k, p, q) of k N^p D^q with k > 0")
        if self.rule == "law" and not self.rate_law:
            raise UserError("recipe.rate_law", "()", "rule law needs (k, p, q) of learning rate = k N^p D^q")
        if self.rule == "sqrt" and not (self.base_rate > 0 and self.base_batch > 0 and self.base_tokens >= 0):
            name = "base_rate" if not self.base_rate > 0 else "base_batch" if self.base_batch <= 0 else "base_tokens"
            raise UserError(f"recipe.{name}", getattr(self, name), "rule sqrt needs a positive one")


LATER = tuple(Recipe.__dataclass_fields__)[tuple(Recipe.__dataclass_fields__).index("base_depth") :]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("width"),
        Recipe("standard", parametrisation="standard", learning_rate=0.005),
        Recipe("mup", parametrisation="mup"),
        Recipe("completep", parametrisation="completep"),
        Recipe("muon", optimizer="muon", learning_rate=0.05),
        Recipe("sqrt", rule="sqrt", base_rate=0.02, base_batch=16, base_tokens=2**20),
        # Li 2025, arXiv 2503.04715: both are laws of D, so a run has a schedule of its own and no stem. They were
        # fitted to cosines that end at 1e-5 whatever the peak; at the sizes trained here that is nothing.
        Recipe(
            "step_law",
            parametrisation="standard",
            schedule="cosine",
            final_fraction=0.0,
            rule="law",
            rate_law=(1.79, -0.713, 0.307),
            batch_law=(0.58, 0.0, 0.571),
        ),
    )
}


def record(recipe: Recipe) -> dict[str, Any]:
    """The fields as JSON has them, without later fields at their default."""
    fields = dataclasses.asdict(recipe)
    for name in LATER:
        if fields[name] == Recipe.__dataclass_fields__[name].default:
            del fields[name]
        elif isinstance(fields[name], tuple):
            fields[name] = list(fields[name])
    return fields


def named(name: str, **fields: Any) -> Recipe:
    """The recipe of that name, or of a file that ``scaling tune`` wrote (NAME.json), with fields overridden.

    Raises:
      UserError: a name, a file or a field that does not exist, a value of the wrong type, or a learning rate or batch
        beside a rule that decides it.
    """
    if name.endswith(".json"):
        held = load(name)
        base = dataclasses.replace(named(**held["recipe"]), tuned=held["tuned"])
    elif name in RECIPES:
        base = RECIPES[name]
    else:
        raise UserError("recipe.name", name, f"unknown; choose one of {', '.join(sorted(RECIPES))} or a recipe file")
    for field, value in fields.items():
        if field not in base.__dataclass_fields__:
            raise UserError(f"recipe.{field}", value, f"unknown field; choose one of {', '.join(base.__dict__)}")
        kind = type(getattr(base, field))
        if kind is float and type(value) is int:
            fields[field] = float(value)
        elif kind is tuple and isinstance(value, list | tuple):
            fields[field] = tuple(value)
        elif type(value) is not kind:
            raise UserError(f"recipe.{field}", value, f"must be a {kind.__name__}")
    made = dataclasses.replace(base, **fields)
    for field in decided(made):
        if field in fields:
            raise UserError(f"recipe.{field}", fields[field], f"rule {made.rule} decides it; set rule='fixed' too")
    return made


def decided(recipe: Recipe) -> tuple[str, ...]:
    """The fields that the recipe's rule decides for each cell."""
    if recipe.rule == "fixed":
        return ()
    batch = recipe.base_tokens if recipe.rule == "sqrt" else recipe.batch_law
    return ("learning_rate", "batch") if batch else ("learning_rate",)


def load(path: str | Path) -> dict[str, Any]:
    """A recipe file: {"recipe": fields of a named recipe, "fit": what was fitted, "tuned": identity of both}."""
    try:
        held = read_json(path)
    except FileNotFoundError:
        raise UserError("recipe.name", path, "there is no such file; write one with `scaling tune`") from None
    if not isinstance(held, dict) or held.get("kind") != "recipe" or held.get("schema") != 1:
        raise UserError("recipe.name", path, "is no recipe file of schema 1; write one with `scaling tune`")
    if not isinstance(held.get("recipe"), dict) or not {"point", "draws", "level", "batch_law"} <= set(
        held.get("fit") or ()
    ):
        raise UserError("recipe.name", path, "lacks the recipe or what was fitted; write it again with `scaling tune`")
    return {**held, "tuned": identity({"recipe": held["recipe"], "fit": held["fit"]})}


def resolve(recipe: Recipe, parameters: float, tokens: float, context: int) -> Recipe:
    """The recipe with learning rate and batch as its rule sets them at N ``parameters`` and D ``tokens``.

    Batches that a rule decides are rounded to a power of two (loss is flat around the best batch), so that few shapes
    are compiled and meshes divide them. A rule's answer does not depend on the two fields, so resolving twice is once.
    """
    if recipe.rule == "fixed":
        return recipe
    batch = recipe.batch
    if recipe.rule == "sqrt":
        if recipe.base_tokens:
            batch = power_of_two(recipe.base_batch * math.sqrt(tokens / recipe.base_tokens))
        rate = recipe.base_rate * math.sqrt(batch / recipe.base_batch)
    else:
        if recipe.batch_law:
            batch = power_of_two(_law(recipe.batch_law, parameters, tokens) / context)
        rate = _law(recipe.rate_law, parameters, tokens)
    return dataclasses.replace(recipe, learning_rate=rate, batch=batch)


def _law(law: tuple[float, ...], parameters: float, tokens: float) -> float:
    k, p, q = law
    return k * parameters**p * tokens**q


def power_of_two(value: float) -> int:
    """The power of two nearest to ``value`` in ratio, at least 1."""
    return 2 ** max(0, round(math.log2(value)))
