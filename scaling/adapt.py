"""Fine-tuning that trains little: LoRA, adapters and prompts on any family that has a plain ``Stack`` as a part.

A block of cells that starts from other runs (``init_from``) says how it adapts them::

    adapt = {"kind": "lora", "rank": 8, "alpha": 16.0, "weights": ("q", "v")}
    adapt = {"kind": "adapter", "rank": 64}
    adapt = {"kind": "prompt", "length": 16}

What is trained is one more part of the model, ``adapt``, which holds leaves for each adapted stack. Every part of the
family is frozen, but for those in ``whole`` and, with adapters, the norms. Without ``adapt`` a child is tuned in full.

``applied`` gives the family whose model is adapted: a module with the same functions, which step, count and plan use as
any other. Its count holds every layer of an adapted stack to be passed through by a gradient (k = 4), as in a scan over
the layers. Unrolled layers execute less, since the first needs no gradient of its own input.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from scaling import families, parts, settings
from scaling.blocks import added, stack
from scaling.blocks.execution import Execution, using
from scaling.blocks.logical import Axes, Parameters
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.records.types import JSON
from scaling.settings import setting

PART = "adapt"
FIELD = "adapt"
NEAR = 1e-3  # spread of an adapter's first weights; the second are zero (Houlsby 2019 draws both so)
WEIGHTS = tuple(name for name, axes in (*stack.AXES.items(), *stack.CROSS_AXES.items()) if len(axes) > 2)
NORMS = tuple(name for name in (*stack.AXES, *stack.CROSS_AXES) if name.endswith("norm"))


@dataclass(frozen=True)
class Lora:
    """W x becomes W x + (alpha / rank) B A x; A is uniform within 1 / sqrt(fan-in), B zero (arXiv 2106.09685).

    Attributes:
      weights: of each layer that are adapted. parts: stacks; (): all. whole: parts that are trained besides, whole.
    """

    rank: int = setting(8, least=1)
    alpha: float = setting(16.0, above=0)
    weights: tuple[str, ...] = ("q", "v")
    parts: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """y becomes y + up(GELU(down(y))) where a branch ends, without biases; norms are trained too (arXiv 1902.00751).

    Attributes:
      rank: width of the bottleneck. parts, whole: as of ``Lora``.
    """

    rank: int = setting(64, least=1)
    parts: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """``length`` vectors before the first position of one stack (arXiv 2104.08691).

    They begin as the embeddings of tokens drawn from the child's own data, normalised as the model's input is. D does
    not count them, FLOPs do.
    """

    length: int = setting(16, least=1)
    parts: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


Adapt: TypeAlias = Lora | Adapter | Prompt
KINDS: dict[str, type[Adapt]] = {"lora": Lora, "adapter": Adapter, "prompt": Prompt}
_Shapes = Mapping[str, tuple[int, ...]]  # of a stack's weights


def read(section: str, written: object) -> Adapt | None:
    """What a block's ``adapt``, or a record, says; None if it is empty.

    Raises:
      UserError: it is not a mapping or has a wrong value (INVALID), or names an unknown kind or field (UNKNOWN).
    """
    fields = settings.mapping(section, written)
    if not fields:
        return None
    kind = fields.pop("kind", "")
    settings.require_known(f"{section}.kind", kind, KINDS)
    found = settings.read(KINDS[kind], section, fields)
    settings.check(found, section)
    for name, value in vars(found).items():
        if isinstance(value, tuple) and not (all(isinstance(each, str) for each in value) and _distinct(value)):
            raise UserError(f"{section}.{name}", value, "must be names, each once")
    if isinstance(found, Lora) and not found.weights:
        raise UserError(f"{section}.weights", "()", "name at least one weight, such as ('q', 'v')")
    return found


def _distinct(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


def record(adapt: Adapt | None) -> dict[str, JSON]:
    """The fields of an adaptation, as ``read`` takes them; {} for None."""
    if adapt is None:
        return {}
    return {"kind": _kind(adapt), **settings.fields_of(adapt)}


def _kind(adapt: Adapt) -> str:
    return next(name for name, kind in KINDS.items() if isinstance(adapt, kind))


@functools.cache
def applied(family: ModuleType, adapt: Adapt | None) -> ModuleType:
    """The family whose model is adapted, which has the functions of ``scaling.families``; the family itself for None.

    Its functions raise UserError if a part or weight does not exist (UNKNOWN), a prompt has no table or no one stack to
    belong to (UNSUPPORTED, CONFLICT), or its stack has experts (UNSUPPORTED).
    """
    if adapt is None:
        return family
    module = ModuleType(family.__name__)
    own = _Adapted(family, adapt)
    functions = {"init": own.init, "loss": own.loss, "axes": own.axes, "components": own.components}
    functions |= {name: getattr(own, name) for name in ("metrics", "logits", "loss_and_aux") if hasattr(family, name)}
    if isinstance(adapt, Prompt):
        functions |= {"begin": own.begin, "begins_with": lambda config, length=adapt.length: length}
    vars(module).update({**vars(family), **functions})
    return module


def frozen(family: ModuleType, config: Any, adapt: Adapt) -> tuple[str, ...]:
    """Parts of the family that its adaptation does not train.

    Raises:
      UserError: a part of ``whole`` does not exist (UNKNOWN).
    """
    shapes, never = _shapes(family, config), families.frozen(family, config)
    for part in adapt.whole:
        settings.require_known(f"{FIELD}.whole", part, shapes)
    norms = [name for name, leaf in shapes.items() if not isinstance(leaf, Mapping) and len(leaf.shape) == 1]
    trained = {*adapt.whole, *(norms if isinstance(adapt, Adapter) else ())}
    return tuple(name for name in shapes if name not in trained and name not in never)


def freeze(family: ModuleType, config: Any, adapt: Adapt, batch: Mapping[str, np.ndarray]) -> parts.Freezing:
    """What freezing all that the adaptation does not train means for the adapted model.

    Args:
      batch: as of ``parts.freeze``.

    Raises:
      UserError: as ``frozen``; or the step has other FLOPs than its components would count, as where the family itself
        freezes what is adapted, and counts no gradient in it (UNSUPPORTED).
    """
    still = frozen(family, config, adapt)
    if not still:
        return parts.TRAINED
    try:
        with using(Execution(unroll=0)):  # every layer is counted alike, as it runs in a scan
            return parts.freeze(applied(family, adapt), config, still, batch)
    except UserError as error:
        if error.code is not Code.UNSUPPORTED:
            raise
        remedy = f"with {_kind(adapt)} its step has other FLOPs than are counted; adapt other parts, or tune it in full"
        raise UserError(FIELD, family.__name__.rpartition(".")[2], remedy, Code.UNSUPPORTED) from error


@functools.cache
def _shapes(family: ModuleType, config: Any) -> Mapping[str, Any]:
    return jax.eval_shape(lambda: family.init(jax.random.key(0), config))


class _Adapted:
    """The functions of an adapted family."""

    def __init__(self, family: ModuleType, adapt: Adapt):
        self.family, self.adapt = family, adapt

    def init(self, key: jax.Array, config: Any) -> Parameters:
        """The family's parameters, as without the adaptation, and what is added to its stacks."""
        drawn = _draw(jax.random.fold_in(key, 0xADA), self.leaves(config))
        return {**self.family.init(key, config), PART: drawn}

    def begin(self, parameters: Parameters, tokens_K: jax.Array) -> Parameters:
        """The parameters once parts are inherited: a prompt is embeddings of these tokens."""
        part = next(iter(parameters[PART]))
        table_VD: Any = parameters["embedding"]
        return {**parameters, PART: {part: {added.PROMPT: stack.rms_norm(table_VD[tokens_K])}}}

    def loss(self, parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Any) -> Any:
        """The family's loss with the additions among its weights."""
        return self.family.loss(self.merged(parameters), batch, key, config)

    def loss_and_aux(self, parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Any) -> Any:
        """The family's loss with the additions among its weights, and what it hands to ``after``."""
        return self.family.loss_and_aux(self.merged(parameters), batch, key, config)

    def metrics(self, parameters: Parameters, batch: dict[str, jax.Array], config: Any) -> Any:
        """The family's metrics with the additions among its weights."""
        return self.family.metrics(self.merged(parameters), batch, config)

    def logits(self, parameters: Parameters, *arguments: Any) -> Any:
        """The family's logits with the additions among its weights."""
        return self.family.logits(self.merged(parameters), *arguments)

    def axes(self, config: Any) -> Axes:
        """Logical axes of the family's parameters and of the additions."""
        every = self.leaves(config)
        return {**self.family.axes(config), PART: {part: {n: leaf.axes for n, leaf in own} for part, own in every}}

    def components(self, config: Any) -> list[Component]:
        """The family's components, on more positions behind a prompt, and those of the additions."""
        parts = self.family.components(config)
        for part, shapes in self.stacks(config).items():
            if isinstance(self.adapt, Prompt):
                parts = [_longer(each, part, self.adapt.length) for each in parts]
            parts += _components(part, shapes, self.adapt, parts)
        return parts

    def merged(self, parameters: Parameters) -> Parameters:
        """The family's parameters with the additions among the weights of their stacks."""
        own: Any = {name: value for name, value in parameters.items() if name != PART}
        given: Any = parameters[PART]
        for part, leaves in given.items():
            own[part] = _merged(own[part], leaves, self.adapt)
        return own

    def leaves(self, config: Any) -> list[tuple[str, list[tuple[str, _Leaf]]]]:
        """What is added, by part."""
        return [(part, list(_leaves(self.adapt, shapes))) for part, shapes in self.stacks(config).items()]

    def stacks(self, config: Any) -> dict[str, _Shapes]:
        """Shapes of the weights of each adapted stack, by part."""
        known = _stacks(self.family, config)
        for part in self.adapt.parts:
            settings.require_known(f"{FIELD}.parts", part, known)
        chosen = {part: shapes for part, shapes in known.items() if part in (self.adapt.parts or known)}
        if isinstance(self.adapt, Prompt):
            _check_prompt(self.family, config, chosen)
        if isinstance(self.adapt, Lora):
            has = {name for shapes in chosen.values() for name in shapes if name in WEIGHTS}
            for name in self.adapt.weights:
                settings.require_known(f"{FIELD}.weights", name, sorted(has))
        return chosen


def _stacks(family: ModuleType, config: Any) -> dict[str, _Shapes]:
    """Shapes of the weights of each stack of a family, by the part that it is."""
    found = {}
    for part, held in _shapes(family, config).items():
        if isinstance(held, Mapping) and {"attention_norm", "q", "o", "mlp_norm"} <= held.keys():
            found[part] = {name: leaf.shape for name, leaf in held.items()}
    if not found:
        name = family.__name__.rpartition(".")[2]
        raise UserError(FIELD, name, "has no part that is a plain stack; tune it in full", Code.UNSUPPORTED)
    return found


def _check_prompt(family: ModuleType, config: Any, stacks: Mapping[str, _Shapes]) -> None:
    name = family.__name__.rpartition(".")[2]
    if len(stacks) > 1:
        remedy = f"a prompt belongs to one stack; give {FIELD}.parts as one of them"
        raise UserError(f"{FIELD}.parts", ", ".join(stacks), remedy, Code.CONFLICT)
    if "embedding" not in _shapes(family, config):
        raise UserError(f"{FIELD}.kind", "prompt", f"{name} has no table of tokens to begin from", Code.UNSUPPORTED)
    if any("router" in shapes for shapes in stacks.values()):
        remedy = "experts have a capacity by positions of text; adapt them by lora or adapter"
        raise UserError(f"{FIELD}.kind", "prompt", remedy, Code.UNSUPPORTED)


# --- the leaves that are added to a stack


@dataclass(frozen=True)
class _Leaf:
    """An added parameter: its shape and logical axes, and its spread: 0 for zeros, negative for uniform."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    spread: float = 0.0


def _leaves(adapt: Adapt, shapes: _Shapes) -> Iterator[tuple[str, _Leaf]]:
    layers, width = shapes["attention_norm"]
    every = {**stack.AXES, **stack.CROSS_AXES}
    if isinstance(adapt, Prompt):
        yield added.PROMPT, _Leaf((adapt.length, width), ("prompt", "embed"), 1.0)
    elif isinstance(adapt, Adapter):
        for place in _places(shapes):
            down, up = added.adapter(place)
            yield down, _Leaf((layers, width, adapt.rank), ("layers", "embed", "rank"), NEAR)
            yield up, _Leaf((layers, adapt.rank, width), ("layers", "rank", "embed"))
        for name in NORMS:
            if name in shapes:
                yield name, _Leaf(shapes[name], every[name])
    else:
        for name in adapt.weights:
            if name not in shapes:
                continue  # of another stack
            first, second = added.lora(name)
            (_, *inside), outside = _sides(shapes[name], name)
            (_, *inner), outer = _sides(every[name], name)
            spread = -1 / math.sqrt(math.prod(inside))
            yield first, _Leaf((layers, *inside, adapt.rank), ("layers", *inner, "rank"), spread)
            yield second, _Leaf((layers, adapt.rank, *outside), ("layers", "rank", *outer))


def _sides(value: Sequence[Any], name: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a weight has one of for each axis, before and behind its product: (layers and inputs, outputs)."""
    split = len(value) - 1 if name in ("o", "cross_o", "down") else 2
    return tuple(value[:split]), tuple(value[split:])


def _places(shapes: _Shapes) -> list[str]:
    return [place for place in added.PLACES if f"{place}_norm" in shapes]


def _draw(key: jax.Array, every: Sequence[tuple[str, Sequence[tuple[str, _Leaf]]]]) -> Parameters:
    drawn: dict[str, dict[str, jax.Array]] = {part: {} for part, _ in every}
    for number, (part, name, leaf) in enumerate((part, *own) for part, leaves in every for own in leaves):
        own_key, spread = jax.random.fold_in(key, number), leaf.spread
        if spread > 0:
            value = spread * jax.random.truncated_normal(own_key, -2.0, 2.0, leaf.shape)
        else:
            value = jax.random.uniform(own_key, leaf.shape, minval=spread, maxval=-spread) if spread else None
        drawn[part][name] = jnp.zeros(leaf.shape) if value is None else value
    return drawn


def _merged(weights: Mapping[str, jax.Array], leaves: Mapping[str, jax.Array], adapt: Adapt) -> dict[str, jax.Array]:
    """The weights of a stack with what is added: norms are moved, low-rank products scaled."""
    found = dict(weights)
    for name, leaf in leaves.items():
        if name in weights:
            found[name] = weights[name] + leaf
        elif isinstance(adapt, Lora) and name.endswith("_b"):
            found[name] = leaf * (adapt.alpha / adapt.rank)
        else:
            found[name] = leaf
    return found


# --- counting


def _prefix(part: str) -> str:
    return "" if part == "stack" else f"{part}_"


def _longer(component: Component, part: str, length: int) -> Component:
    """A component of a stack with so many positions more; its products without weights grow with their pairs."""
    name, prefix, time = component.name, _prefix(part), component.tokens
    if component.part != part or not time or name == f"{prefix}cross_memory":
        return component
    power = 2 if name == f"{prefix}attention" else 1  # the memory of a cross attention stays as it is
    grown, before = (time + length) ** power, time**power
    attention, scores = component.attention * grown // before, component.scores * grown // before
    return dataclasses.replace(component, tokens=time + length, attention=attention, scores=scores)


def _components(part: str, shapes: _Shapes, adapt: Adapt, parts: Sequence[Component]) -> list[Component]:
    prefix = _prefix(part)
    time = {component.name: component.tokens for component in parts}
    length, memory = time[f"{prefix}attention"], time.get(f"{prefix}cross_memory", 0)
    sizes = {name: math.prod(leaf.shape) for name, leaf in _leaves(adapt, shapes)}
    made = []
    for name, size in sizes.items():
        product = name not in shapes and name != added.PROMPT
        seen = memory if name.startswith(("cross_k_", "cross_v_")) and product else length
        own = Component(f"{prefix}{name}_{PART}" if name in shapes else f"{prefix}{name}", PART, size, part=PART)
        made.append(dataclasses.replace(own, matmul=size, tokens=seen) if product else own)
    return made
