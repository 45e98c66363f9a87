"""Counts parameters by group and FLOPs by part, by the same rules for every family.

A family describes itself as a list of components. Each costs ``2 * matmul * tokens + attention`` FLOPs per example in
the forward pass, and in training ``k`` FLOPs instead of 2 per weight and token (k = 6: forward, gradient of
activations, gradient of weights). Embedding look-ups are free, the vocabulary head is not. A causal mask is counted in
full, since the reference attention computes every score. Products between the examples of a batch (a contrastive loss)
cost each example an amount proportional to the batch. ``jaxpr_flops`` counts the matrix products of a traced function;
tests require that the analytic count equals it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

# Groups that N_nonembedding leaves out, tied or not: tables of tokens and positions, and what maps the last states to a
# vocabulary, classes or pixels. Projections of patches, and from one width to another, are counted.
EMBEDDING_GROUPS = frozenset({"embedding", "position", "head"})
# What a family changes after the step and no gradient trains (a teacher, a queue): in the total alone.
STATE = "state"
# What another run trained and makes of the data what a model predicts, or reads as its condition (a tokenizer, a text
# encoder): in the total and in the FLOPs alone.
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Component:
    """One counted part of a model.

    Attributes:
      name: unique within the family, for the table of FLOPs by part.
      group: embedding, position, patch, projection, attention, mlp, norm, head, encoder ...
      parameters: number that it owns (a tied head owns none).
      matmul: weights that multiply each of its tokens: 0 for a look-up or a norm, V * D for a tied head.
      tokens: positions per example that pass through it.
      k: training FLOPs per weight and token: 6 trained, 4 frozen with a gradient passing through, 2 frozen.
      attention: forward FLOPs per example of products without weights (scores, and scores times values).
      active: parameters that one token uses; None means all (experts use fewer).
      first: its input is data, whose gradient is never computed; by convention it is counted all the same.
      among: forward FLOPs of its products without weights per pair of examples of the batch, itself included.
      held: whether one side of ``among`` has no gradient, as where the candidates are a teacher's.
      scores: attention scores per example (layers x heads x queries x keys): no FLOPs of a product, but time.
      part: top-level name of the parameters that hold its weights, if that is neither its name nor its group.
    """

    name: str
    group: str
    parameters: int
    matmul: int = 0
    tokens: int = 0
    k: int = 6
    attention: int = 0
    active: int | None = None
    first: bool = False
    among: int = 0
    held: bool = False
    scores: int = 0
    part: str = ""

    def times(self, passes: int) -> Component:
        """The component where each example passes through it so often."""
        return replace(
            self, tokens=self.tokens * passes, attention=self.attention * passes, scores=self.scores * passes
        )


def parameters(components: Iterable[Component], zeros: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """Parameter counts: total, nonembedding, trainable, active, nonembedding_active, by group (``groups``), ``zeros``.

    Args:
      zeros: trained weights of the blocks that are pruned, and those of them that one token would use: left out of all
        counts but those by group.
    """
    pruned, unused = zeros
    every = list(components)
    parts = [part for part in every if part.group not in (STATE, TOKENIZER)]
    groups: dict[str, int] = {}
    for part in every:
        groups[part.group] = groups.get(part.group, 0) + part.parameters
    return {
        "total": sum(groups.values()) - pruned,
        "nonembedding": sum(part.parameters for part in parts if part.group not in EMBEDDING_GROUPS) - pruned,
        "trainable": sum(part.parameters for part in parts if part.k == 6) - pruned,
        "active": sum(part.parameters if part.active is None else part.active for part in parts) - unused,
        "nonembedding_active": sum(
            part.parameters if part.active is None else part.active
            for part in parts
            if part.group not in EMBEDDING_GROUPS
        )
        - unused,
        "groups": groups,
        "zeros": pruned,
    }


def forward_flops(components: Iterable[Component], batch: int = 1) -> dict[str, int]:
    """Forward FLOPs per example, by component; ``batch`` is the number of examples."""
    return {part.name: 2 * part.matmul * part.tokens + part.attention + part.among * batch for part in components}


def training_flops(components: Iterable[Component], batch: int = 1) -> dict[str, int]:
    """Training FLOPs per example, by component; ``batch`` is the number of examples.

    Products without weights count three times (forward and two gradients), twice where a side of ``among`` is held
    still, or once if frozen (k = 2)."""

    def flops(part: Component) -> int:
        weighted = part.k * part.matmul * part.tokens
        if part.k == 2:
            return weighted + part.attention + part.among * batch
        return weighted + 3 * part.attention + (2 if part.held else 3) * part.among * batch

    return {part.name: flops(part) for part in components}


def training_scores(components: Iterable[Component]) -> float:
    """Attention scores per example that a training step computes and differentiates; a third counts where frozen."""
    return sum(part.scores * (1 / 3 if part.k == 2 else 1) for part in components)


def executed_flops(components: Iterable[Component], batch: int = 1) -> dict[str, int]:
    """Training FLOPs per example that a program without remat executes, which has no gradient of the data."""
    parts = list(components)
    convention = training_flops(parts, batch)
    return {part.name: convention[part.name] - (2 * part.matmul * part.tokens if part.first else 0) for part in parts}


def jaxpr_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs (2 per multiply-add) of every product, ragged or not, and convolution in a trace of the function.

    A scan counts its body times its length, a cond its most expensive branch. Arguments may be ShapeDtypeStructs:
    nothing is computed.

    Raises:
      ValueError: a while loop contains a matrix product, so its trip count is unknown.
    """
    import jax  # imported here only, so that planning does not pay for it

    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contract, _), _ = params["dimension_numbers"]
            contracted = math.prod(equation.invars[0].aval.shape[axis] for axis in contract)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * contracted
        elif name == "ragged_dot_general":  # each row meets the weights of its own group alone
            dims = params["ragged_dot_dimension_numbers"]
            (contract, _), _ = dims.dot_dimension_numbers
            contracted = math.prod(equation.invars[0].aval.shape[axis] for axis in contract)
            output = equation.outvars[0].aval.shape
            groups = output[0] if dims.lhs_ragged_dimensions[0] in contract else 1
            total += 2 * math.prod(output) * contracted // groups
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_axis = params["dimension_numbers"].rhs_spec[0]
            per_output = math.prod(size for axis, size in enumerate(kernel) if axis != out_axis)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * per_output
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        elif name == "while":
            if _count(params["cond_jaxpr"].jaxpr) + _count(params["body_jaxpr"].jaxpr):
                raise ValueError("a while loop has no static trip count; count one iteration of its body instead")
        else:
            inner = sum(_count(sub) for value in params.values() for sub in _jaxprs(value))
            total += inner * (params["length"] if name == "scan" else 1)
    return total


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [inner for item in value for inner in _jaxprs(item)]
    if hasattr(value, "eqns"):
        return [value]
    return [value.jaxpr] if hasattr(value, "jaxpr") and hasattr(value.jaxpr, "eqns") else []
