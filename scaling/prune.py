"""Pruning: weights of the blocks that become zero during training, by magnitude or by movement.

A block of cells says which share of them, and when::

    prune = {"kind": "magnitude", "sparsity": 0.75}
    prune = {"kind": "movement", "sparsity": 0.9, "begin": 0.25, "end": 0.75}

From ``begin`` to ``end``, shares of the training, the sparsity rises as a cubic: s_f + (s_i - s_f) (1 - t)^3, t from 0
to 1 (Zhu & Gupta 2017, arXiv 1710.01878, eq. 1, after every step). Every matrix of the blocks has it by itself (one of
each layer, and of each expert): those that muon would orthogonalise, so that look-ups, heads, routers, norms and parts
that the family does not train stay dense.

Lost are the weights of the least importance, which is their magnitude, or their score S. A weight that loses its
magnitude is zero from then on. By movement (Sanh 2020, arXiv 2005.07683) S = -sum over the steps of w dL/dw', w' being
the masked weight: of a weight that moves away from zero it grows. Until ``end`` a weight is then kept behind its mask,
though no gradient reaches it, and returns if its score does; from ``end`` on the mask stays, and what it hides is zero.

Mask and scores are two more parts of the parameters, so checkpoints, meshes and ensembles carry them. They are counted
nowhere: N is that of the weights which are not zero at the end (``Parameters.zeros`` are the others), C that of the
dense products, which is what is executed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from scaling import families, settings
from scaling.blocks.logical import Axes, Parameters
from scaling.errors import Code, UserError
from scaling.objectives import progress
from scaling.recipe.parametrisation import by_muon
from scaling.records.types import JSON
from scaling.settings import setting

FIELD = "prune"
MASK, SCORE = "prune_mask", "prune_score"
PARTS = (MASK, SCORE)
PROGRESS = "prune_progress"  # among what the loss hands to ``after``
MAGNITUDE, MOVEMENT = "magnitude", "movement"
BITS = 32

Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Prune:
    """How weights are pruned.

    Attributes:
      sparsity: share of each matrix that is zero at the end. initial: the same at ``begin``.
      begin, end: shares of the training.
    """

    kind: str = setting(MAGNITUDE, choices=(MAGNITUDE, MOVEMENT))
    sparsity: float = setting(0.5, above=0, below=1)
    initial: float = setting(0.0, least=0, below=1)
    begin: float = setting(0.25, least=0, below=1)
    end: float = setting(0.75, above=0, below=1)

    def zeros(self, size: int) -> int:
        """Weights of a matrix of ``size`` that are zero at the end."""
        return round(self.sparsity * size)


def read(section: str, written: object) -> Prune | None:
    """What a block's ``prune``, or a record, says; None if it is empty.

    Raises:
      UserError: it is not a mapping or has a wrong value (INVALID), an unknown field (UNKNOWN), or values that exclude
        each other (CONFLICT).
    """
    fields = settings.mapping(section, written)
    if not fields:
        return None
    for name in ("weights", "zeros"):  # of a record
        fields.pop(name, None)
    found = settings.read(Prune, section, fields)
    settings.check(found, section)
    if found.begin >= found.end:
        raise UserError(f"{section}.begin", found.begin, f"must be below end = {found.end}", Code.CONFLICT)
    if found.initial >= found.sparsity:
        remedy = f"must be below sparsity = {found.sparsity}, to which it rises"
        raise UserError(f"{section}.initial", found.initial, remedy, Code.CONFLICT)
    return found


def record(how: Prune | None, family: ModuleType, config: Any) -> dict[str, JSON]:
    """What a manifest says of the pruning, for ``read``, with the numbers of weights that it is of; {} without.

    Args:
      family: with the pruning applied.
    """
    if how is None:
        return {}
    sizes = jax.eval_shape(lambda: family.init(jax.random.key(0), config))[MASK]
    weights = sum(leaf.size for leaf in jax.tree.leaves(sizes))
    return {**settings.fields_of(how), "weights": weights, "zeros": families.zeros(family, config)[0]}


def state_bytes(recorded: Mapping[str, Any]) -> int:
    """Bytes of the masks, scores and gradients of scores of a run whose manifest says this of its pruning."""
    return recorded.get("weights", 0) * (12 if recorded.get("kind") == MOVEMENT else 4)


def check(section: str, how: Prune, family: ModuleType, config: Any, steps: int) -> None:
    """Checks that a run can be pruned.

    Args:
      family: without the pruning. steps: of the run.

    Raises:
      UserError: the family has no matrices of blocks that are trained (UNSUPPORTED), one would lose all its weights
        (CONFLICT), or the run has no step at or after ``end`` (CONFLICT).
    """
    leaves = _leaves(family, config)
    if not leaves:
        name = family.__name__.rpartition(".")[2]
        raise UserError(section, name, "has no matrices of blocks to prune", Code.UNSUPPORTED)
    least = min(leaf.size for leaf in leaves.values())
    if how.zeros(least) >= least:
        remedy = f"leaves nothing of a matrix of {least} weights"
        raise UserError(f"{section}.sparsity", how.sparsity, remedy, Code.CONFLICT)
    if np.float32(steps - 1) / np.float32(steps) < np.float32(how.end):
        remedy = f"none of {steps} steps is that late: lower it, or train longer"
        raise UserError(f"{section}.end", how.end, remedy, Code.CONFLICT)


def schedule(how: Prune, share: jax.Array) -> jax.Array:
    """The sparsity after the step that begins when ``share`` of the training is done; 0 before ``begin``."""
    done = jnp.clip((share - how.begin) / (how.end - how.begin), 0.0, 1.0)
    return jnp.where(share < how.begin, 0.0, how.sparsity + (how.initial - how.sparsity) * (1 - done) ** 3)


def kept(importance_MN: jax.Array, lost: jax.Array | int) -> jax.Array:
    """1.0 for every number but the ``lost`` least of each row, 0.0 for those; of equal ones the first are lost.

    The number at that place is found bit by bit, in 32 counts, as a sort takes 15 times as long
    (4 x 65,536 numbers on an AMD EPYC: 107 against 7 ms of CPU, jax 0.10.2).
    """
    bits_MN = jax.lax.bitcast_convert_type(importance_MN + 0.0, jnp.uint32)  # -0.0 + 0.0 is 0.0
    sign = jnp.uint32(1 << BITS - 1)
    order_MN = jnp.where(bits_MN >= sign, ~bits_MN, bits_MN | sign)  # ordered as the numbers are

    def bit(index: jax.Array, found_M1: jax.Array) -> jax.Array:
        trial_M1 = found_M1 | (sign >> index.astype(jnp.uint32))
        return jnp.where((order_MN < trial_M1).sum(axis=1, keepdims=True) <= lost, trial_M1, found_M1)

    place_M1 = jax.lax.fori_loop(0, BITS, bit, jnp.zeros((len(order_MN), 1), jnp.uint32))
    below_MN, equal_MN = order_MN < place_M1, order_MN == place_M1
    first_MN = jnp.cumsum(equal_MN, axis=1) <= lost - below_MN.sum(axis=1, keepdims=True)
    return 1.0 - (below_MN | (equal_MN & first_MN)).astype(jnp.float32)


@functools.cache
def applied(family: ModuleType, how: Prune | None) -> ModuleType:
    """The family whose models are pruned, which has the functions of ``scaling.families``; the family itself for None.

    A family that is distilled already is the student's: its teacher is not trained, and so not pruned.
    """
    if how is None:
        return family
    module, own = ModuleType(family.__name__), _Pruned(family, how)
    names = ("init", "loss", "loss_and_aux", "after", "frozen", "beside", "axes", "weight_bits", "zeros")
    functions = {name: getattr(own, name) for name in names}
    functions |= {name: getattr(own, name) for name in ("metrics", "logits") if hasattr(family, name)}
    if how.kind == MOVEMENT:
        functions["descended"] = lambda config: (SCORE,)
    vars(module).update({**vars(family), **functions, "paced": lambda config: True})
    return module


@dataclass(frozen=True)
class _Leaf:
    """A weight that is pruned: ``rows`` matrices of ``size`` weights, and its logical axes."""

    rows: int
    size: int
    axes: tuple[str, ...]


@functools.cache
def _leaves(family: ModuleType, config: Any) -> Mapping[Path, _Leaf]:
    """The weights that are pruned, by path."""
    shapes = jax.eval_shape(lambda: family.init(jax.random.key(0), config))
    still, found = families.frozen(family, config), {}
    for path, names in _flat(family.axes(config)).items():
        if path[0] in still or not by_muon(names):
            continue
        shape = functools.reduce(lambda tree, key: tree[key], path, shapes).shape
        rows = [size for name, size in zip(names, shape) if name in ("layers", "experts")]
        found[path] = _Leaf(math.prod(rows), math.prod(shape) // math.prod(rows), names)
    return found


def _flat(tree: Any) -> dict[Path, Any]:
    """The leaves of a nested dictionary by path."""
    return flatten_dict(dict(tree))


class _Pruned:
    """The functions of a family whose models are pruned."""

    def __init__(self, family: ModuleType, how: Prune):
        self.family, self.how, self.moving = family, how, how.kind == MOVEMENT

    def init(self, key: jax.Array, config: Any) -> Parameters:
        """The family's parameters, a mask that hides nothing, and scores of zero."""
        parameters = self.family.init(key, config)
        shapes = _flat(parameters)
        paths = _leaves(self.family, config)
        mask = unflatten_dict({path: jnp.ones(shapes[path].shape) for path in paths})
        scores = {SCORE: jax.tree.map(jnp.zeros_like, mask)} if self.moving else {}
        return {**parameters, MASK: mask, **scores}

    def masked(self, parameters: Parameters) -> Parameters:
        """The family's own parameters, those that the mask hides as zeros.

        The gradient with respect to a score is that with respect to the masked weight, times the weight.
        """
        weights = _flat({name: value for name, value in parameters.items() if name not in PARTS})
        scores: Any = _flat({SCORE: parameters[SCORE]}) if self.moving else {}
        for path, mask in _flat(parameters[MASK]).items():
            weight: Any = weights[path]
            weights[path] = weight * mask
            if self.moving:
                score, held = scores[SCORE, *path], jax.lax.stop_gradient(weight)
                weights[path] += (score - jax.lax.stop_gradient(score)) * held  # exactly nothing
        return unflatten_dict(weights)

    def loss(self, parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Any) -> Any:
        """The family's loss with the masked weights."""
        return self.family.loss(self.masked(parameters), batch, key, config)

    def loss_and_aux(self, parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Any) -> Any:
        """The family's loss with the masked weights, and with what it hands to ``after`` the progress."""
        found, aux = families.loss_and_aux(self.family, self.masked(parameters), batch, key, config)
        examples = len(next(iter(found.values()))[0])
        return found, {**aux, PROGRESS: jnp.full(examples, progress(batch))}

    def metrics(self, parameters: Parameters, batch: dict[str, jax.Array], config: Any) -> Any:
        """The family's metrics with the masked weights."""
        return self.family.metrics(self.masked(parameters), batch, config)

    def logits(self, parameters: Parameters, *arguments: Any) -> Any:
        """The family's logits with the masked weights."""
        return self.family.logits(self.masked(parameters), *arguments)

    def after(self, parameters: Parameters, aux: families.Aux, key: jax.Array, config: Any) -> Parameters:
        """The parameters, as the family changes them, with the mask of the sparsity of this step."""
        own: Any = {name: value for name, value in parameters.items() if name not in PARTS}
        if hasattr(self.family, "after"):
            own = self.family.after(own, {name: x_ for name, x_ in aux.items() if name != PROGRESS}, key, config)
        share, weights, masks = aux[PROGRESS][0], _flat(own), _flat(parameters[MASK])
        scores: Any = _flat(parameters[SCORE]) if self.moving else {}
        over = share >= self.how.end
        for path, leaf in _leaves(self.family, config).items():
            weight, mask = weights[path], masks[path]
            importance = scores[path] if self.moving else jnp.abs(weight)
            stays = over if self.moving else jnp.bool_(True)
            importance = jnp.where(stays & (mask == 0), -jnp.inf, importance)
            share_lost = jnp.round(schedule(self.how, share) * leaf.size).astype(jnp.int32)
            lost = jnp.where(over, self.how.zeros(leaf.size), share_lost)
            masks[path] = kept(importance.reshape(leaf.rows, leaf.size), lost).reshape(mask.shape)
            weights[path] = jnp.where(stays, weight * masks[path], weight)
        rest = {name: value for name, value in parameters.items() if name in PARTS}
        return {**unflatten_dict(weights), **rest, MASK: unflatten_dict(masks)}

    def frozen(self, config: Any) -> tuple[str, ...]:
        """What no gradient trains: the mask as well."""
        return (*families.frozen(self.family, config), MASK)

    def beside(self, config: Any) -> tuple[str, ...]:
        """What is not of the model: mask and scores as well."""
        return (*families.beside(self.family, config), *(PARTS if self.moving else (MASK,)))

    def axes(self, config: Any) -> Axes:
        """Logical axes of the family's parameters, and of mask and scores."""
        leaves = unflatten_dict({path: leaf.axes for path, leaf in _leaves(self.family, config).items()})
        return {**self.family.axes(config), **{part: leaves for part in (PARTS if self.moving else (MASK,))}}

    def weight_bits(self, config: Any) -> dict[str, int]:
        """Bits of parts that are not those of the model: mask and scores are not rounded."""
        others = self.family.weight_bits(config) if hasattr(self.family, "weight_bits") else {}
        return {**others, **dict.fromkeys(PARTS, 0)}

    def zeros(self, config: Any) -> tuple[int, int]:
        """Weights that are zero at the end, and those of them that one token would use."""
        active, parts = [0, 0], self.family.components(config)
        for path, leaf in _leaves(self.family, config).items():
            lost = leaf.rows * self.how.zeros(leaf.size)
            routed = [part for part in parts if part.active is not None and part.part == path[0]]
            used, every = (sum(getattr(part, name) for part in routed) for name in ("active", "parameters"))
            active[0] += lost
            active[1] += lost * used // every if "experts" in leaf.axes else lost
        return active[0], active[1]
