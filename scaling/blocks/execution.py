"""How a traced program is executed, as against what it computes: the same numbers to rounding, at another cost.

Families never see this. Whoever traces a loss does so under ``using(how)``, the blocks ask ``current()``, and what ran
is noted there. It is recorded with each run and is no part of its identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax

from scaling.errors import UserError

# What the backward pass of a layer finds in memory; the rest it computes again. ``dots`` keeps the outputs of products
# with weights (no batch axis in them), so attention scores and activations are what is computed twice.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
ATTENTION = ("auto", "own", "xla", "cudnn", "splash")


@dataclass(frozen=True)
class Execution:
    """Choices of the machine, not of the model.

    Attributes:
      remat: what each layer keeps for its gradient: ``none`` recomputes nothing, ``dots`` what is cheap, ``full`` all.
      microbatches: the batch is taken in so many equal parts, one after another, and their gradients are added.
        A family that draws at random draws anew for each part, so that its numbers change; others keep theirs.
      loss_chunk: positions of an example whose logits exist at once; 0: all.
      attention: ``own`` (blocks/attention.py), ``xla`` or ``cudnn`` (jax.nn.dot_product_attention), ``splash`` (TPU);
        ``auto`` takes the fastest that can do the work, ``own`` on a CPU.
      unroll: layers up to which a stack is unrolled; deeper ones are scanned. Scanning costs 1.2 to 1.33x in step time
        on a CPU and saves compile time from about 8 layers on.
    """

    remat: str = "none"
    microbatches: int = 1
    loss_chunk: int = 0
    attention: str = "auto"
    unroll: int = 8

    def __post_init__(self):
        for field, choices in (("remat", REMAT), ("attention", ATTENTION)):
            if getattr(self, field) not in choices:
                raise UserError(f"execution.{field}", getattr(self, field), f"choose one of {', '.join(choices)}")
        for field, least in (("microbatches", 1), ("loss_chunk", 0), ("unroll", 0)):
            value = getattr(self, field)
            if type(value) is not int or value < least:
                raise UserError(f"execution.{field}", value, f"must be a whole number of at least {least}")


def of(fields: dict[str, Any]) -> Execution:
    """The Execution of a configuration's fields. UserError where one is unknown or cannot be."""
    known = [field.name for field in dataclasses.fields(Execution)]
    for name, value in fields.items():
        if name not in known:
            raise UserError(f"execution.{name}", value, f"unknown field; choose from {', '.join(known)}")
    return Execution(**fields)


_ACTIVE: ContextVar[tuple[Execution, set[str]]] = ContextVar("execution", default=(Execution(), set()))


@contextmanager
def using(how: Execution, ran: set[str] | None = None) -> Iterator[None]:
    """Whatever is traced inside is executed as ``how`` says; ``ran`` receives the attention backends that ran."""
    token = _ACTIVE.set((how, set() if ran is None else ran))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def current() -> Execution:
    """The execution of what is being traced."""
    return _ACTIVE.get()[0]


def note(backend: str) -> None:
    """Says that this attention backend ran."""
    _ACTIVE.get()[1].add(backend)
