"""Optimisers: gradients to clipped directions, before learning rate and decay, which the step applies by group."""

from __future__ import annotations

import jax
import optax
from optax import contrib

from scaling.recipe.parametrisation import Axes, Tree, by_muon, epsilons
from scaling.recipe.rules import Recipe

# The root mean square of an Adam direction, which muon's are given, so that one learning rate serves both groups: an
# orthogonal matrix times 0.2 sqrt(max(fan-in, fan-out)) (Moonlight, arXiv 2502.16982, and the authors' code).
MUON_RMS = 0.2


def optimizer(recipe: Recipe, axes: Axes, shapes: Tree, tied: bool = False) -> optax.GradientTransformation:
    """Directions of unit size, to be multiplied by the learning rate. ``axes`` and ``shapes`` of the parameters.

    ``epsilon`` is small: gradients are, at a wide layer.
    """
    clip = optax.clip_by_global_norm(recipe.clip)
    if recipe.optimizer == "muon":
        directions = _muon(recipe, axes)
    else:
        directions = optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon)
    shares = epsilons(axes, shapes, recipe, tied)
    if shares is None:
        return optax.chain(clip, directions)
    # m / (sqrt(v) + s epsilon) is what Adam makes of the gradient divided by s.
    enlarge = optax.stateless(lambda gradient, _: jax.tree.map(lambda g, s: g / s, gradient, shares))
    return optax.chain(clip, enlarge, directions)


def _muon(recipe: Recipe, axes: Axes) -> optax.GradientTransformation:
    """Momentum of each matrix of a stack, orthogonalised layer by layer (heads as one matrix); Adam for the rest.

    Both take Nesterov's step: optax has one switch for the two.
    """

    def dimensions(names: tuple[str, ...]) -> contrib.MuonDimensionNumbers | None:
        if not by_muon(names):
            return None
        inner = [index for index, name in enumerate(names) if name not in ("layers", "experts")]
        # Inputs come before outputs, and the residual stream is one whole side of each.
        split = 1 if names[inner[0]] == "embed" else len(inner) - 1
        return contrib.MuonDimensionNumbers(tuple(inner[:split]), tuple(inner[split:]))

    numbers = jax.tree.map(dimensions, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return contrib.muon(
        learning_rate=-1.0,  # optax descends; here a direction is wanted, and the step descends
        beta=recipe.momentum,
        eps=recipe.epsilon,
        adam_b1=recipe.beta1,
        adam_b2=recipe.beta2,
        nesterov=True,
        muon_weight_dimension_numbers=numbers,
        consistent_rms=MUON_RMS,
    )
