"""Recipes: named rules that turn a shape into hyperparameters, and schedules.

A recipe is a frozen record of pure functions' settings; its name and every number that it gave are in each run record.
Learning rate and weight decay reach the training step as one traced number per step, computed here on the host, so
that cells which differ only in rate, decay, schedule, seed or length share one compiled program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from scaling.errors import UserError

SCHEDULES = ("wsd", "cosine", "constant")
PARAMETRISATIONS = ("standard", "width")


@dataclass(frozen=True)
class Recipe:
    """How a study sets the hyperparameters of a cell.

    Attributes:
      parametrisation: ``standard``: one learning rate for all parameters; ``width``: matrices whose fan-in grows
        with the width learn at learning_rate * base_width / width, look-ups and vectors at learning_rate
        (the Adam rule of muP, arXiv 2203.03466, for weights that start at 1 / sqrt(fan-in) or at zero).
      learning_rate: peak rate at ``base_width``.
      weight_decay: independent of the learning rate: each step at the peak takes this share off every matrix.
      batch: sequences per step.
      warmup_steps: linear from 0.
      decay_fraction: WSD only: share of all steps in which the rate falls linearly to 0.
      schedule: wsd | cosine (to ``final_fraction`` of the peak) | constant.
      clip: largest global gradient norm.
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

    def __post_init__(self):
        _among("recipe.parametrisation", self.parametrisation, PARAMETRISATIONS)
        _among("recipe.schedule", self.schedule, SCHEDULES)
        _among("recipe.optimizer", self.optimizer, tuple(OPTIMIZERS))
        for name in ("learning_rate", "batch", "base_width", "epsilon", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"recipe.{name}", getattr(self, name), "must be positive")
        for name in ("decay_fraction", "beta1", "beta2", "final_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"recipe.{name}", getattr(self, name), "must be in [0, 1)")
        if not 0 <= self.weight_decay < 1 or self.warmup_steps < 0:
            name = "weight_decay" if self.warmup_steps >= 0 else "warmup_steps"
            raise UserError(f"recipe.{name}", getattr(self, name), "is out of its range")


def _among(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(field, value, f"choose one of {', '.join(choices)}")


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Clipped Adam directions, before learning rate and decay. ``epsilon`` is small: gradients are, at a wide layer."""
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon),
    )


OPTIMIZERS: dict[str, Callable[[Recipe], optax.GradientTransformation]] = {"adamw": adam}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (Recipe("width"), Recipe("standard", parametrisation="standard", learning_rate=0.005))
}


def named(name: str, **fields: Any) -> Recipe:
    """The recipe of that name with fields overridden. UserError names what exists."""
    if name not in RECIPES:
        raise UserError("recipe.name", name, f"unknown; choose one of {', '.join(sorted(RECIPES))}")
    base = RECIPES[name]
    for field, value in fields.items():
        if field not in base.__dataclass_fields__:
            raise UserError(f"recipe.{field}", value, f"unknown field; choose one of {', '.join(base.__dict__)}")
        kind = type(getattr(base, field))
        if kind is float and type(value) is int:
            fields[field] = float(value)
        elif type(value) is not kind:
            raise UserError(f"recipe.{field}", value, f"must be a {kind.__name__}")
    return dataclasses.replace(base, **fields)


def multipliers(axes: dict[str, Any], shapes: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Learning-rate multiplier of each parameter, by its logical axes (inputs before outputs) and its shape.

    Under ``width`` a leaf is a matrix when two axes besides ``layers`` are wide, and a look-up when its input is
    ``vocab`` (one row is read) or ``pixels`` (as many at any width): its fan-in does not grow. Width is the size of the
    leaf's ``embed`` axis.
    """

    def multiplier(names: tuple[str, ...], leaf: Any) -> float:
        if recipe.parametrisation == "standard" or not _is_matrix(names) or "embed" not in names:
            return 1.0
        return recipe.base_width / leaf.shape[names.index("embed")]

    return jax.tree.map(multiplier, axes, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def decayed(axes: dict[str, Any]) -> dict[str, Any]:
    """1.0 for the parameters that weight decay acts on (matrices and the head), else 0.0."""
    return jax.tree.map(
        lambda names: 1.0 if _is_matrix(names) else 0.0, axes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


def _is_matrix(names: tuple[str, ...]) -> bool:
    wide = [name for name in names if name != "layers"]
    return len(wide) >= 2 and wide[0] not in ("vocab", "pixels")


def decay_steps(recipe: Recipe, steps: int) -> int:
    """Steps of linear decay at the end of a WSD run of ``steps`` steps; at least 1."""
    return max(1, round(recipe.decay_fraction * steps))


def rate(recipe: Recipe, step: np.ndarray, steps: int | None) -> np.ndarray:
    """Share of the peak learning rate at each step (0-based), float32.

    ``steps`` is the whole length of the run; None is a WSD stem, which never decays. A branch equals its stem up to
    the step where its decay begins.
    """
    step = np.asarray(step, np.float64)
    share = np.minimum(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if steps is None or recipe.schedule == "constant":
        return share.astype(np.float32)
    if recipe.schedule == "wsd":
        length = decay_steps(recipe, steps)
        return (share * np.clip((steps - step) / (length + 1), 0.0, 1.0)).astype(np.float32)
    progress = np.clip((step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps), 0.0, 1.0)
    cosine = recipe.final_fraction + (1 - recipe.final_fraction) * 0.5 * (1 + np.cos(np.pi * progress))
    return (share * cosine).astype(np.float32)
