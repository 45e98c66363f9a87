"""Parametrisations: how the learning rate and epsilon of a parameter group depend on the model's width and depth.

Multipliers of the recipe's learning rate and epsilon, with m = width / base_width and l = layers / base_depth:

| group | logical axes | standard | width | mup | completep |
|---|---|---|---|---|---|
| look-ups, positions, patches | vocab or pixels first | 1 | 1 | 1 | 1 |
| norms, vectors | one wide axis | 1 | 1 | 1 | 1 |
| into a residual branch (q, k, v, up) | layers, embed first | 1 | 1/m | 1/m | 1/m |
| out of a residual branch (o, down) | layers, embed last | 1 | 1/m | 1/m | 1/(m l) |
| head | embed first | 1 | 1/m | 1/m | 1/m |
| tied embedding, also the head | ``embedding`` of a tied model | 1 | 1 | 1/m | 1/m |
| epsilon, head | | 1 | 1 | 1 | 1 |
| epsilon, the rest | | 1 | 1 | 1/m | 1/m, within a branch 1/(m l) |
| learning rate of muon | matrices of a stack | 1 | m^-1/2 | m^-1/2 | m^-1/2, out of a branch m^-1/2 / l |

Sources: Yang 2021, arXiv 2203.03466 (table 8: Adam); Dey 2025, arXiv 2505.01618 (table 1 with alpha = 1, and the
authors' code: residual branches times 1/l, unembedding times 1/m, epsilon 1/m outside and 1/(m l) inside the branches);
for muon the spectral condition of arXiv 2310.17813: the spectral norm of a step should scale as sqrt(fan-out / fan-in),
which does not depend on m, and that of a muon direction is 0.2 sqrt(max(fan-in, fan-out)), which grows as m^1/2.

The papers use forward multipliers, x + branch / l and logits / m. Here the matrices behind them start at zero, and
under Adam a matrix W that starts at zero behind a multiplier s learns exactly as W' = s W does with learning rate s and
epsilon 1/s. So the multipliers become learning rates, and families need none. A tied table is scaled as a head: its
look-up is followed by a norm and does not depend on its scale. Weight decay needs no rule: it is independent of the
learning rate, and the papers keep rate times decay constant. The size of a head should stay constant as the width
grows; QK-norm bounds the scores at any width, instead of the factor 1 / head of Yang 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

from scaling.recipe.rules import Recipe

Axes: TypeAlias = Mapping[str, Any]  # logical axes of each parameter, nested like the parameters
Tree: TypeAlias = Mapping[str, Any]  # one value per parameter, nested like the parameters

TRANSFERS = ("mup", "completep")
FIXED = ("vocab", "pixels", "rank", "prompt")  # inputs whose number does not grow with the model


def multipliers(axes: Axes, shapes: Tree, recipe: Recipe, tied: bool = False) -> Tree:
    """Learning-rate multiplier of each parameter, by its logical axes (inputs before outputs) and its shape.

    A leaf is a matrix if it has two axes besides ``layers``, unless its input is ``vocab`` (a look-up reads one row) or
    a fixed number (``FIXED``), whose fan-in does not grow. Width is the size of the leaf's ``embed`` axis, depth that
    of its ``layers`` axis.

    Args:
      tied: whether the leaf ``embedding`` is also the head.
    """

    def multiplier(path: Any, names: tuple[str, ...], leaf: Any) -> float:
        if recipe.parametrisation == "standard" or "embed" not in names:
            return 1.0
        shrink = recipe.base_width / leaf.shape[names.index("embed")]
        if not is_matrix(names):
            return shrink if recipe.parametrisation in TRANSFERS and tied and _name(path) == "embedding" else 1.0
        if recipe.optimizer == "muon" and by_muon(names):
            shrink = shrink**0.5
        return shrink * (_depth(recipe, names, leaf) if _leaves_branch(names) else 1.0)

    return _map(multiplier, axes, shapes)


def epsilons(axes: Axes, shapes: Tree, recipe: Recipe, tied: bool = False) -> Tree | None:
    """Multiplier of Adam's epsilon for each parameter; None if all are 1."""
    if recipe.parametrisation not in TRANSFERS:
        return None

    def multiplier(path: Any, names: tuple[str, ...], leaf: Any) -> float:
        head = (is_matrix(names) and names[0] == "embed") or (tied and _name(path) == "embedding")
        if "embed" not in names or head:
            return 1.0
        shrink = recipe.base_width / leaf.shape[names.index("embed")]
        return shrink * (1.0 if _leaves_branch(names) else _depth(recipe, names, leaf))

    return _map(multiplier, axes, shapes)


def decayed(axes: Axes) -> Tree:
    """1.0 for parameters with weight decay (matrices and the head, both factors of a low rank), else 0.0."""
    return jax.tree.map(lambda names: 1.0 if is_matrix(names) or "rank" in names else 0.0, axes, is_leaf=_is_names)


def is_matrix(names: tuple[str, ...]) -> bool:
    """Whether a parameter is a matrix whose fan-in grows with the model, not a look-up or a vector."""
    wide = [name for name in names if name != "layers"]
    return len(wide) >= 2 and wide[0] not in FIXED


def by_muon(names: tuple[str, ...]) -> bool:
    """Whether muon is used for a parameter: the matrices of a stack, except those to few outputs (routers, ranks)."""
    return names[:1] == ("layers",) and is_matrix(names) and names[-1] not in ("experts", "rank")


def _leaves_branch(names: tuple[str, ...]) -> bool:
    return names[:1] == ("layers",) and names[-1] == "embed" and is_matrix(names)


def _depth(recipe: Recipe, names: tuple[str, ...], leaf: Any) -> float:
    if recipe.parametrisation != "completep" or names[:1] != ("layers",):
        return 1.0
    return recipe.base_depth / leaf.shape[0]


def _is_names(leaf: Any) -> bool:
    return isinstance(leaf, tuple)


def _name(path: Any) -> str:
    return str(path[-1].key)


def _map(function: Any, axes: Axes, shapes: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(function, axes, shapes, is_leaf=_is_names)
