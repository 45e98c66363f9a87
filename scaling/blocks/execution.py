"""Execution settings of a traced program: they change time and memory, and the numbers only by rounding.

Families do not see them. A loss is traced under ``using(how)``, blocks call ``current()``, and ``note`` collects the
attention backends that ran. They are recorded with each run but are not part of its identity. Whether a loss is traced
for evaluation is told in the same way (``evaluating``); it changes the numbers of blocks that say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import jax

from scaling.settings import check, read, setting

# What a layer keeps for its backward pass; the rest is recomputed. ``dots`` keeps the outputs of products with
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
      microbatches: number of equal parts of the batch that are processed one after another, adding gradients; 0: on one
        CPU so many that what a part computes stays in the caches (``Trainer``), elsewhere 1.
      loss_chunk: positions per example whose logits exist at once; 0: all.
      attention: ``own`` (blocks/attention.py), ``xla`` or ``cudnn`` (jax.nn.dot_product_attention), ``splash`` (TPU);
        ``auto`` takes the fastest that supports the inputs, ``own`` on a CPU.
      unroll: largest number of layers of a stack that is unrolled; deeper ones are scanned. Scanning takes 1.2 to 1.33x
        the step time on a CPU, and saves compile time from about 8 layers on.
    """

    remat: str = setting("none", choices=REMAT)
    microbatches: int = setting(0, least=0)
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


_ACTIVE: ContextVar[tuple[Execution, set[str], bool]] = ContextVar("execution", default=(Execution(), set(), False))


@contextmanager
def using(how: Execution, ran: set[str] | None = None, *, evaluating: bool = False) -> Iterator[None]:
    """Within this context, traces use ``how``; the names of attention backends that ran are added to ``ran``."""
    token = _ACTIVE.set((how, set() if ran is None else ran, evaluating))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def current() -> Execution:
    """The execution settings of the current trace."""
    return _ACTIVE.get()[0]


def evaluating() -> bool:
    """Whether the current trace is of an evaluation, not of a step."""
    return _ACTIVE.get()[2]


def note(backend: str) -> None:
    """Records that this attention backend ran."""
    _ACTIVE.get()[1].add(backend)
