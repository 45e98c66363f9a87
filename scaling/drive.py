"""Drives runs chunk by chunk: one, or several of one shape as members of one program.

A run is a generator. It asks for a chunk (``Ask``), is sent its new state and what came of the chunk, yields None
when it has gathered what the next chunk needs, and goes on to ask again; whatever else it does (logs, checkpoints,
evaluation, its end) is between. One loop in one thread serves all of them, so that runs know nothing of each other.

What may be together: programs of one trainer, which differ in seed, learning rate, decay, schedule and length. The runs
of one program follow each other, since a branch begins with a state of its stem; stems, branches and whole runs of
different programs are members alike, each at its own step.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from scaling.errors import UserError
from scaling.step import Ensemble, State, Trainer


class Ask(NamedTuple):
    """A chunk that a run wants: what ``Trainer.chunk`` takes. The state is used up."""

    trainer: Trainer
    state: State
    hyper: dict[str, Any]
    batches: dict[str, np.ndarray]


# Waits for the device: the metrics of the chunk on the host, its seconds, and by how many members they were shared.
Outcome = Callable[[], tuple[dict[str, np.ndarray], float, int]]
Work = Generator[Any, Any, None]  # yields an Ask, is sent (State, Outcome), yields None, and so on
Ended = Callable[[Exception | None], object]


def drive(works: Iterator[tuple[Work, Ended]], size: int) -> None:
    """Takes every run to its end, up to ``size`` at a time; a place that becomes free is filled again.

    Args:
      works: runs of one trainer, each with what is called at its end: with None, or with what it raised. The others go
        on, unless ``ended`` raises.

    Raises:
      UserError: so many do not fit into memory.
    """
    ended: dict[Work, Ended] = {}

    def advance(work: Work, answer: Any = None) -> Ask | None:
        problem = None
        try:
            return work.send(answer)
        except StopIteration:
            pass
        except Exception as error:
            problem = error
        ended.pop(work)(problem)

    while True:
        ended.update(itertools.islice(works, size - len(ended)))
        if not ended:
            return
        asks = {work: ask for work in list(ended) if (ask := advance(work)) is not None}
        if asks:
            for work, answer in zip(asks, chunk(list(asks.values()), size)):
                advance(work, answer)


def chunk(asks: Sequence[Ask], size: int) -> list[tuple[State, Outcome]]:
    """What comes of the chunks, in a program of ``size`` members; a free place repeats the first run for no steps."""
    trainer = asks[0].trainer
    begun = trainer.clock()
    if size == 1:
        state, metrics = trainer.chunk(*asks[0][1:])
        states = [state]
    else:
        idle = asks[0]._replace(hyper={**asks[0].hyper, "steps": np.int32(0)})
        members = [*asks, *[idle] * (size - len(asks))]
        ensemble = _ensemble(trainer, size)
        with _fits(size):
            state = ensemble.join([ask.state for ask in members])
            hyper, batches = _stack([ask.hyper for ask in members]), _stack([ask.batches for ask in members])
            state, metrics = ensemble.chunk(state, hyper, batches)
            states = ensemble.part(state)

    @functools.cache
    def wait() -> tuple[dict[str, np.ndarray], float]:  # the first member that asks waits for all
        with _fits(size):
            jax.block_until_ready(metrics)  # on a CPU np.asarray of what found no memory aborts the process
            found = {name: np.asarray(value).reshape(size, -1) for name, value in metrics.items()}
        return found, trainer.clock() - begun

    def outcome(member: int) -> tuple[dict[str, np.ndarray], float, int]:
        found, seconds = wait()
        return {name: value[member] for name, value in found.items()}, seconds, len(asks)

    return [(states[member], functools.partial(outcome, member)) for member in range(len(asks))]


def speedup(ask: Callable[[], Ask], size: int) -> float:
    """Steps a second of ``size`` runs together over those of one alone, by the better of two chunks each; 0 where they
    do not fit into memory."""

    def seconds(members: int) -> float:
        return min(chunk([ask()] * members, members)[0][1]()[1] for _ in range(2))

    try:
        return size * seconds(1) / seconds(size)
    except UserError:
        return 0.0


@contextlib.contextmanager
def _fits(size: int) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if size == 1 or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError("ensemble", size, "so many runs do not fit into the device's memory; lower it") from error


@functools.cache
def _ensemble(trainer: Trainer, size: int) -> Ensemble:
    return Ensemble(trainer, size)


def _stack(trees: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([tree[name] for tree in trees]) for name in trees[0]}
