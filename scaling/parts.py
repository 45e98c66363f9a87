"""Parts of a model that are trained, and parts that are frozen: what that leaves of its FLOPs.

A part is a top-level subtree of a family's parameters. A frozen part costs k = 2 FLOPs per weight and token (forward
only) if nothing that is trained comes before it, and k = 4 (with the gradient of its input) otherwise. Which it is, is
read off the traced loss: a part comes behind every part whose values its weights are multiplied with. The resulting
count is then compared with the traced gradient, so that a family whose parts mix the two is refused, not miscounted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling import count, families, inputs
from scaling.blocks.logical import Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.settings import require_known

# Operations whose result holds the numbers of their one operand, so that a weight stays a weight.
RESHAPING = frozenset(
    [
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "dynamic_slice",
        "expand_dims",
        "pad",
        "reduce_precision",
        "reshape",
        "rev",
        "sharding_constraint",
        "slice",
        "split",
        "squeeze",
        "stop_gradient",
        "transpose",
    ]
)
PRODUCTS = ("dot_general", "conv_general_dilated")
EXAMPLES = 2  # of the batch that is traced


@dataclass(frozen=True)
class Freezing:
    """Which parts of a model are not trained.

    Attributes:
      frozen: names of the parts. passed: those of them through whose products a gradient passes.
      first: parts that are trained, and whose input needs no gradient.
    """

    frozen: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


TRAINED = Freezing()


def components(family: ModuleType, config: Any, freezing: Freezing) -> list[Component]:
    """The counted components of a model some of whose parts are frozen."""
    own = family.components(config)
    if not freezing.frozen:
        return own
    held = names(family, config)

    def counted(component: Component) -> Component:
        part = part_of(component, held, getattr(config, "tied", False))
        if part in freezing.frozen:
            return dataclasses.replace(component, k=4 if part in freezing.passed else 2, first=False)
        return dataclasses.replace(component, first=component.first or part in freezing.first)

    return [counted(component) for component in own]


def part_of(component: Component, names: Sequence[str], tied: bool) -> str | None:
    """The part that holds the weights of a component; None if that is not known.

    It is the component's ``part`` or, if that is empty, the part of its name or else its group; a tied head's is the
    embedding.
    """
    if tied and component.name == "head":
        return "embedding"
    return next((name for name in (component.part, component.name, component.group) if name in names), None)


def freeze(family: ModuleType, config: Any, frozen: Sequence[str], batch: Mapping[str, np.ndarray]) -> Freezing:
    """What freezing these parts means for a model.

    Args:
      batch: examples of the data, for the shapes of the arrays that the family reads.

    Raises:
      UserError: a part does not exist (UNKNOWN), none is left to train (CONFLICT), or the FLOPs of the model are not
        those that its components would count (UNSUPPORTED).
    """
    known = shapes(family, config)
    for part in frozen:
        require_known("freeze", part, known)
    still = {*frozen, *families.frozen(family, config)}
    trained = {name: tree for name, tree in known.items() if name not in still}
    if not trained:
        raise UserError("freeze", ", ".join(frozen), "leaves nothing to train", Code.CONFLICT)
    _require_owners(family, config, known)
    arrays = _arrays(family, config, batch)
    found = before(lambda params, batch: _objective(family, config, params, batch), known, arrays)
    reached = {part for part, others in found.items() if not others.isdisjoint(trained)}
    freezing = Freezing(
        tuple(name for name in known if name in frozen),
        tuple(name for name in known if name in frozen and name in reached),
        tuple(name for name in trained if name in found and name not in reached),
    )
    held = {name: tree for name, tree in known.items() if name in still}

    def loss(trained: Any, held: Any, batch: Any) -> jax.Array:
        return _objective(family, config, {**held, **trained}, batch)

    executed = EXAMPLES * sum(count.executed_flops(components(family, config, freezing), EXAMPLES).values())
    traced = count.jaxpr_flops(jax.grad(loss), trained, held, arrays)
    if traced != executed:
        remedy = f"its components count {executed:,} FLOPs, and the traced step has {traced:,}; freeze other parts"
        raise UserError("freeze", ", ".join(frozen), remedy, Code.UNSUPPORTED)
    return freezing


def names(family: ModuleType, config: Any) -> tuple[str, ...]:
    """Names of the parts of a model."""
    return tuple(shapes(family, config))


@functools.cache
def shapes(family: ModuleType, config: Any) -> Parameters:
    """Shape and type of every parameter, by part. Nothing is computed."""
    return jax.eval_shape(lambda: family.init(jax.random.key(0), config))


def _require_owners(family: ModuleType, config: Any, known: Mapping[str, Any]) -> None:
    """Raises UserError unless every part has as many parameters as the components that it holds."""
    held = {name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in known.items()}
    counted = dict.fromkeys(held, 0)
    for component in family.components(config):
        part = part_of(component, tuple(held), getattr(config, "tied", False))
        if part is not None:
            counted[part] += component.parameters
    wrong = [name for name in held if counted[name] != held[name]]
    if wrong:
        remedy = f"the family does not say which components are of the part {wrong[0]}"
        raise UserError("freeze", family.__name__.rpartition(".")[2], remedy, Code.UNSUPPORTED)


def _arrays(family: ModuleType, config: Any, batch: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the arrays that a family reads, for a batch of ``EXAMPLES``."""
    reads, partners = inputs.arrays(family, family.batch_spec(config)), families.partners(family, config)
    own = {name: jax.ShapeDtypeStruct((EXAMPLES, *v.shape[1:]), v.dtype) for name, v in batch.items() if name in reads}
    others = {inputs.OTHER + name: own[name] for name in partners}
    return {**own, **others, "example": jax.ShapeDtypeStruct((EXAMPLES,), np.uint32)}


def _objective(family: ModuleType, config: Any, params: Any, batch: Any) -> jax.Array:
    terms = families.terms(family, config)
    found = family.loss(params, batch, jax.random.key(0), config)
    means = [total.sum() / n.sum() for name, (total, n) in found.items() if terms[name].weight]
    return functools.reduce(jnp.add, means)


# --- which parts come before which


class _Value(NamedTuple):
    """What a value of the trace depends on: the parts, and the one part whose weights it is, if it is no more."""

    parts: frozenset[str]
    weight: str | None = None


NOTHING = _Value(frozenset())


def before(function: Any, parameters: Mapping[str, Any], *arguments: Any) -> dict[str, frozenset[str]]:
    """For each part that is a factor of a product: the parts on which its other factors depend.

    Args:
      function: of parameters, by part, and arguments; all may be ShapeDtypeStructs.
    """
    closed = jax.make_jaxpr(function)(parameters, *arguments)
    owners = [str(path[0].key) for path, _ in jax.tree_util.tree_flatten_with_path(dict(parameters))[0]]
    values = [_Value(frozenset((name,)), name) for name in owners]
    rest = [NOTHING] * (len(closed.jaxpr.invars) - len(values))
    found: dict[str, frozenset[str]] = {}
    _walk(closed.jaxpr, [*values, *rest], found)
    return found


def _walk(jaxpr: Any, given: Sequence[_Value], found: dict[str, frozenset[str]]) -> list[_Value]:
    """The values of a jaxpr's outputs, for those of its inputs. Adds to ``found``."""
    known: dict[Any, _Value] = dict(zip(jaxpr.invars, given))

    def value(atom: Any) -> _Value:
        return NOTHING if hasattr(atom, "val") else known.get(atom, NOTHING)  # literals and constants hold no weights

    for equation in jaxpr.eqns:
        operands = [value(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _results(equation, operands, found)))
    return [value(atom) for atom in jaxpr.outvars]


def _results(equation: Any, operands: list[_Value], found: dict[str, frozenset[str]]) -> list[_Value]:
    name, params, outputs = equation.primitive.name, equation.params, len(equation.outvars)
    everything = frozenset().union(*(operand.parts for operand in operands))
    if name in PRODUCTS:
        for operand, other in zip(operands, reversed(operands)):
            if operand.weight is not None:
                found[operand.weight] = found.get(operand.weight, frozenset()) | other.parts
        return [_Value(everything)] * outputs
    if name in RESHAPING:
        weights = {operand.weight for operand in operands if operand.parts}
        return [_Value(everything, weights.pop() if len(weights) == 1 else None)] * outputs
    if name == "optimization_barrier":
        return operands
    if name == "scan":
        consts, carried = params["num_consts"], params["num_carry"]
        return _loop(params["jaxpr"].jaxpr, operands, consts, carried, found)
    if name == "while":
        skipped, consts = params["cond_nconsts"], params["body_nconsts"]
        body = operands[skipped:]
        return _loop(params["body_jaxpr"].jaxpr, body, consts, len(body) - consts, found)
    if name == "cond":
        branches = [_walk(branch.jaxpr, operands[1:], found) for branch in params["branches"]]
        return [functools.reduce(_join, several) for several in zip(*branches)]
    for inner in params.values():
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns") and len(inner.invars) == len(operands) and len(inner.outvars) == outputs:
            return _walk(inner, operands, found)
    return [_Value(everything)] * outputs


def _loop(
    body: Any, operands: list[_Value], consts: int, carried: int, found: dict[str, frozenset[str]]
) -> list[_Value]:
    """The results of a loop, whose body is walked until what it carries depends on nothing more."""
    while True:
        results = _walk(body, operands, found)
        carry = operands[consts : consts + carried]
        after = [_join(old, new) for old, new in zip(carry, results)]
        if after == carry:
            return [*after, *results[carried:]]
        operands = [*operands[:consts], *after, *operands[consts + carried :]]


def _join(one: _Value, other: _Value) -> _Value:
    return one if one == other else _Value(one.parts | other.parts)
