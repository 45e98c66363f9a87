"""Optimisers: clipped update directions from gradients. The step applies learning rate and decay, by group."""

from __future__ import annotations

import jax
import optax
from optax import contrib

from scaling.recipe.parametrisation import Axes, Tree, by_muon, epsilons
from scaling.recipe.rules import Recipe

# Root mean square of an Adam direction. Muon's directions are scaled to it, so that one learning rate serves both
# groups: an orthogonal matrix times 0.2 sqrt(max(fan-in, fan-out)) (Moonlight, arXiv 2502.16982, and the authors'
# code).
MUON_RMS = 0.2


def optimizer(recipe: Recipe, axes: Axes, shapes: Tree, tied: bool = False) -> optax.GradientTransformation:
    """The update directions, of unit size, to be multiplied by the learning rate.

    ``recipe.epsilon`` is small because gradients of a wide layer are small.

    Args:
      axes, shapes: logical axes and shapes of the parameters.
      tied: whether the embedding is also the head.
    """
    clip = optax.clip_by_global_norm(recipe.clip)
    if recipe.optimizer == "muon":
        directions = _muon(recipe, axes)
    else:
        directions = optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon)
    shares = epsilons(axes, shapes, recipe, tied)
    if shares is None:
        return optax.chain(clip, directions)
    # Adam on the gradient divided by s gives m / (sqrt(v) + s epsilon).
    enlarge = optax.stateless(lambda gradient, _: jax.tree.map(lambda g, s: g / s, gradient, shares))
    return optax.chain(clip, enlarge, directions)


def _muon(recipe: Recipe, axes: Axes) -> optax.GradientTransformation:
    """Orthogonalised momentum for the matrices of a stack, layer by layer (all heads as one matrix); Adam for the rest.

    Both use Nesterov momentum, since optax has one switch for the two.
    """

    def dimensions(names: tuple[str, ...]) -> contrib.MuonDimensionNumbers | None:
        if not by_muon(names):
            return None
        inner = [index for index, name in enumerate(names) if name not in ("layers", "experts")]
        # Inputs come before outputs, and the residual stream is always one whole side.
        split = 1 if names[inner[0]] == "embed" else len(inner) - 1
        return contrib.MuonDimensionNumbers(tuple(inner[:split]), tuple(inner[split:]))

    numbers = jax.tree.map(dimensions, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return contrib.muon(
        learning_rate=-1.0,  # optax negates the direction; here the step does that
        beta=recipe.momentum,
        eps=recipe.epsilon,
        adam_b1=recipe.beta1,
        adam_b2=recipe.beta2,
        nesterov=True,
        muon_weight_dimension_numbers=numbers,
        consistent_rms=MUON_RMS,
    )
