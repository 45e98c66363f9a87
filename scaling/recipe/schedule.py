"""Schedules: the share of the peak learning rate at each step, computed on the host."""

from __future__ import annotations

import numpy as np

from scaling.recipe.rules import Recipe


def decay_steps(recipe: Recipe, steps: int) -> int:
    """Steps of decay at the end of a WSD run of ``steps`` steps; at least 1."""
    return max(1, round(recipe.decay_fraction * steps))


def decays(recipe: Recipe, steps: int) -> bool:
    """Whether the rate falls from its peak to the end of the schedule in a run of ``steps`` steps.

    A cosine begins after the warm-up: in a run that is no longer than that, the rate ends where it is highest.
    """
    return recipe.schedule == "wsd" or (recipe.schedule == "cosine" and steps > recipe.warmup_steps + 1)


def rate(recipe: Recipe, step: np.ndarray, steps: int | None) -> np.ndarray:
    """Share of the peak learning rate at each step (0-based), float32.

    A branch equals its stem up to the step at which its decay begins.

    Args:
      recipe: its warm-up, schedule and decay.
      step: step numbers, any shape.
      steps: length of the whole run; None for a WSD stem, which never decays.
    """
    step = np.asarray(step, np.float64)
    share = np.minimum(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if steps is None or recipe.schedule == "constant":
        return share.astype(np.float32)
    if recipe.schedule == "wsd":
        length = decay_steps(recipe, steps)
        left = np.clip((steps - step) / (length + 1), 0.0, 1.0)
        # 1 - sqrt falls faster at first and stays low for longer than the line (Hagele 2024, arXiv 2405.18392).
        return (share * (left if recipe.decay_shape == "linear" else 1 - np.sqrt(1 - left))).astype(np.float32)
    progress = np.clip((step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps), 0.0, 1.0)
    cosine = recipe.final_fraction + (1 - recipe.final_fraction) * 0.5 * (1 + np.cos(np.pi * progress))
    return (share * cosine).astype(np.float32)
