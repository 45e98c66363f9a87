"""The recipe's record, the named recipes, and the rules that set learning rate and batch from a cell's N and D."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import msgspec

from scaling.errors import Code, UserError
from scaling.recipe import tuned
from scaling.records import SCHEMA, identity, read_json
from scaling.settings import check, fields_of, mapping, names, require_known, setting
from scaling.settings import read as read_settings

SCHEDULES = ("wsd", "cosine", "constant")
DECAY_SHAPES = ("linear", "sqrt")
PARAMETRISATIONS = ("standard", "width", "mup", "completep")
RULES = ("fixed", "sqrt", "law")
OPTIMIZERS = ("adamw", "adam", "muon")
SCHEMAS = (1, SCHEMA)  # accepted schemas of a recipe file; they differ only in fields that are not read here


@dataclass(frozen=True)
class Recipe:
    """How a study sets the hyperparameters of a cell.

    Attributes:
      parametrisation: how the learning rate of a parameter group follows width and depth: standard, width, mup or
        completep; the table is in ``scaling.recipe.parametrisation``.
      optimizer: adamw; adam, without decay; or muon for the matrices of a stack, with Adam for the rest.
      learning_rate: peak rate at ``base_width`` (and, under completep, ``base_depth``).
      weight_decay: independent of the learning rate: each step at the peak rate shrinks matrices by this share.
      batch: sequences per step.
      warmup_steps: steps of linear warm-up from 0.
      decay_fraction: WSD only: share of all steps over which the rate falls to 0.
      schedule: wsd | cosine (to ``final_fraction`` of the peak) | constant.
      clip: largest global gradient norm.
      base_depth: number of layers that ``learning_rate`` refers to, under completep.
      decay_shape: WSD only: the rate falls linearly, or as 1 - sqrt(progress) (arXiv 2405.18392).
      momentum: of muon.
      rule: how learning rate and batch are set. ``fixed``: by the fields above. ``sqrt``: batch = base_batch
        sqrt(D / base_tokens) (the field ``batch`` if base_tokens is 0) and learning rate = base_rate
        sqrt(batch / base_batch). This is the learning-rate part of Adam's square-root rule (Malladi 2022, arXiv
        2205.10287); for a batch kappa times as large, the full rule also sets both betas to 1 - kappa (1 - beta) and
        epsilon to epsilon / sqrt(kappa). ``law``: learning rate = k N^p D^q for ``rate_law`` (k, p, q), and batch in
        tokens = k N^p D^q for ``batch_law`` unless that is empty. N is non-embedding parameters.
      tuned: identity of the recipe file written by ``scaling tune``; empty if the recipe was not tuned.
    """

    name: str = setting("width", traced=True)
    parametrisation: str = setting("width", choices=PARAMETRISATIONS)
    optimizer: str = setting("adamw", choices=OPTIMIZERS)
    learning_rate: float = setting(0.02, above=0, traced=True)
    base_width: int = setting(32, least=1)
    weight_decay: float = setting(0.0, least=0, below=1, traced=True)
    batch: int = setting(16, least=1)
    warmup_steps: int = setting(40, least=0, traced=True)
    decay_fraction: float = setting(0.3, least=0, below=1, traced=True)
    schedule: str = setting("wsd", choices=SCHEDULES, traced=True)
    final_fraction: float = setting(0.1, least=0, below=1, traced=True)
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.98, least=0, below=1)
    epsilon: float = setting(1e-12, above=0)
    clip: float = setting(1.0, above=0)
    base_depth: int = setting(2, least=1, later=True)
    decay_shape: str = setting("linear", choices=DECAY_SHAPES, traced=True, later=True)
    momentum: float = setting(0.95, least=0, below=1, later=True)
    rule: str = setting("fixed", choices=RULES, traced=True, later=True)
    base_rate: float = setting(0.0, traced=True, later=True)
    base_batch: int = setting(0, traced=True, later=True)
    base_tokens: int = setting(0, traced=True, later=True)
    rate_law: tuple[float, ...] = setting((), traced=True, later=True)
    batch_law: tuple[float, ...] = setting((), traced=True, later=True)
    tuned: str = setting("", traced=True, later=True)

    def __post_init__(self):
        for name in ("rate_law", "batch_law"):
            if isinstance(getattr(self, name), list):  # from JSON
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check(self, "recipe")
        if self.optimizer == "adam" and self.weight_decay:
            remedy = "adam has no weight decay; choose optimizer adamw"
            raise UserError("recipe.weight_decay", self.weight_decay, remedy, Code.CONFLICT)
        self._check_rule()

    def _check_rule(self) -> None:
        """Raises UserError if the fields that the rule reads are invalid."""
        for name in ("rate_law", "batch_law"):
            law = getattr(self, name)
            if law and not _is_power_law(law):
                raise UserError(f"recipe.{name}", law, "must be (k, p, q) of k N^p D^q with k > 0")
        if self.rule == "law" and not self.rate_law:
            remedy = "rule law needs (k, p, q) of learning rate = k N^p D^q"
            raise UserError("recipe.rate_law", self.rate_law, remedy, Code.MISSING)
        if self.rule == "sqrt":
            positive = {"base_rate": self.base_rate > 0, "base_batch": self.base_batch > 0}
            positive["base_tokens"] = self.base_tokens >= 0
            for name, holds in positive.items():
                if not holds:
                    raise UserError(f"recipe.{name}", getattr(self, name), "must be positive for rule sqrt")


def _is_power_law(law: tuple[Any, ...]) -> bool:
    numbers = all(isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x) for x in law)
    return numbers and len(law) == 3 and law[0] > 0


TRACED = names(Recipe, "traced")
_TUPLES = {name for name, field in Recipe.__dataclass_fields__.items() if isinstance(field.default, tuple)}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("width"),
        Recipe("standard", parametrisation="standard", learning_rate=0.005),
        Recipe("mup", parametrisation="mup"),
        Recipe("completep", parametrisation="completep"),
        Recipe("muon", optimizer="muon", learning_rate=0.05),
        Recipe("sqrt", rule="sqrt", base_rate=0.02, base_batch=16, base_tokens=2**20),
        # Li 2025, arXiv 2503.04715: both depend on D, so a run has its own schedule and no stem. They were fitted to
        # cosines that end at a rate of 1e-5 whatever the peak, which is negligible at the sizes trained here.
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
    """The fields as JSON values, except those with ``later`` set that have their default."""
    found = fields_of(recipe)
    for name in _TUPLES & found.keys():
        found[name] = list(found[name])
    return found


def static(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a recorded recipe that the compiled program depends on: those that are not traced."""
    return {k: v for k, v in recorded.items() if k in Recipe.__dataclass_fields__ and k not in TRACED}


def read(*sections: object) -> Recipe:
    """Makes a recipe from ``recipe`` sections of a configuration; later sections override earlier ones.

    Raises:
      UserError: a section is not a mapping (INVALID); otherwise as ``named``.
    """
    fields: dict[str, Any] = {}
    for section in sections:
        fields |= mapping("config.recipe", section)
    name = fields.pop("name", Recipe.name)
    return _over(_called(name), fields)


def named(name: str, **fields: Any) -> Recipe:
    """The recipe of that name, or of a file NAME.json written by ``scaling tune``, with fields overridden.

    Raises:
      UserError: the name or a field does not exist (UNKNOWN), the file is missing (MISSING) or not a recipe (DAMAGED),
        a field has an invalid value (INVALID), or a learning rate or batch is given although a rule sets it (CONFLICT).
    """
    return _over(_called(name), fields)


def _called(name: object) -> Recipe:
    """A named recipe, or that of a recipe file, which overrides fields of a named one."""
    if not isinstance(name, str) or not name.endswith(".json"):
        require_known("recipe.name", name, sorted(RECIPES), also=" or a recipe file")
        return RECIPES[str(name)]
    held = load(name)
    base = held["recipe"].get("name")
    require_known("recipe.name", base, sorted(RECIPES), also=f", in {name}")
    return dataclasses.replace(_over(RECIPES[base], held["recipe"]), tuned=held["tuned"])


def _over(base: Recipe, fields: Mapping[str, Any]) -> Recipe:
    recipe = read_settings(Recipe, "recipe", fields, base)
    for field in decided(recipe):
        if field in fields:
            remedy = f"rule {recipe.rule} sets it; set rule='fixed' too"
            raise UserError(f"recipe.{field}", fields[field], remedy, Code.CONFLICT)
    return recipe


def decided(recipe: Recipe) -> tuple[str, ...]:
    """The fields that the recipe's rule sets for each cell."""
    if recipe.rule == "fixed":
        return ()
    batch = recipe.base_tokens if recipe.rule == "sqrt" else recipe.batch_law
    return ("learning_rate", "batch") if batch else ("learning_rate",)


def load(path: str | Path) -> dict[str, Any]:
    """Reads a recipe file.

    Returns:
      {"recipe": fields of a named recipe, "fit": the fit, "tuned": identity of both}.

    Raises:
      UserError: the file does not exist (MISSING), or is of another kind or incomplete (DAMAGED).
    """
    try:
        contents = read_json(path)
    except FileNotFoundError:
        remedy = "there is no such file; write one with `scaling tune`"
        raise UserError("recipe.name", path, remedy, Code.MISSING) from None
    if not isinstance(contents, dict) or contents.get("kind") != "recipe" or contents.get("schema") not in SCHEMAS:
        remedy = f"is not a recipe file of schema {SCHEMA}; write one with `scaling tune`"
        raise UserError("recipe.name", path, remedy, Code.DAMAGED)
    try:
        mapping("recipe", contents.get("recipe"))
        tuned.read(contents.get("fit"))
    except (UserError, msgspec.ValidationError) as error:
        remedy = "lacks the recipe or the fit; write it again with `scaling tune`"
        raise UserError("recipe.name", path, remedy, Code.DAMAGED) from error
    return {**contents, "tuned": identity({"recipe": contents["recipe"], "fit": contents["fit"]})}


def resolve(recipe: Recipe, parameters: float, tokens: float, context: int) -> Recipe:
    """The recipe with learning rate and batch set by its rule.

    Batches are rounded to a power of two (the loss is flat around the best batch), so that few shapes are compiled and
    meshes divide them. Rules do not read these two fields, so resolving twice changes nothing.

    Args:
      parameters: N, non-embedding.
      tokens: D.
      context: positions per example, to convert a batch in tokens to sequences.
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
