"""How a traced program is executed: the same numbers to rounding, at another cost in time and memory.

Families never see this. A loss is traced under ``using(how)``, the blocks ask ``current()``, and ``note`` collects the
attention backends that ran. It is recorded with each run and is no part of the run's identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import jax

from scaling.settings import check, read, setting

# What is kept of a layer for its backward pass; the rest is recomputed. ``dots`` keeps the outputs of products with
# weights (which have no batch axis), so attention scores and activations are recomputed.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
ATTENTION = ("auto", "own", "xla", "cudnn", "splash")


@dataclass(frozen=True)
class Execution:
    """Settings of the machine, not of the model.

    Attributes:
      remat: what the backward pass recomputes: ``none`` nothing, ``dots`` what is cheap, ``full`` everything.
      microbatches: equal parts of the batch that are trained one after another; their gradients are added.
        A family whose loss is random draws anew for each part, so its numbers change; others keep theirs.
      loss_chunk: positions of an example whose logits exist at once; 0: all.
      attention: ``own`` (blocks/attention.py), ``xla`` or ``cudnn`` (jax.nn.dot_product_attention), ``splash`` (TPU);
        ``auto`` takes the fastest that can do the work, ``own`` on a CPU.
      unroll: layers up to which a stack is unrolled; deeper ones are scanned. Scanning costs 1.2 to 1.33x in step time
        on a CPU and saves compile time from about 8 layers on.
    """

    remat: str = setting("none", choices=REMAT)
    microbatches: int = setting(1, least=1)
    loss_chunk: int = setting(0, least=0)
    attention: str = setting("auto", choices=ATTENTION)
    unroll: int = setting(8, least=0)

    def __post_init__(self):
        check(self, "execution")

    @classmethod
    def from_dict(cls, values: object) -> Execution:
        """From the ``execution`` section of a configuration.

        Raises:
          UserError: a field is unknown (UNKNOWN) or cannot hold its value (INVALID).
        """
        return read(cls, "execution", values)


_ACTIVE: ContextVar[tuple[Execution, set[str]]] = ContextVar("execution", default=(Execution(), set()))


@contextmanager
def using(how: Execution, ran: set[str] | None = None) -> Iterator[None]:
    """Traces what is inside for this execution; ``ran`` receives the attention backends that ran."""
    token = _ACTIVE.set((how, set() if ran is None else ran))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def current() -> Execution:
    """The execution of what is being traced."""
    return _ACTIVE.get()[0]


def note(backend: str) -> None:
    """Records that this attention backend ran."""
    _ACTIVE.get()[1].add(backend)
