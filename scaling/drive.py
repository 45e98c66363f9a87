"""Drives runs chunk by chunk: one alone, or several of one shape as members of an ensemble.

A run is a generator. It yields a ``ChunkRequest``, is sent the new state and the outcome of the chunk, yields None once
it has gathered the batches of the next chunk, and then yields the next request; logging, checkpoints and evaluation
happen in between. One loop in one thread serves all runs, so runs do not know about each other.

Programs of one trainer can train together: they may differ in seed, learning rate, decay, schedule and length. The runs
of one program train one after another, since a branch starts from a state of its stem. A stem, a branch and a whole run
of three programs can be three members, each at its own step.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from scaling.errors import Code, UserError
from scaling.step import Ensemble, State, Trainer


class ChunkRequest(NamedTuple):
    """The arguments of ``Trainer.chunk`` for the next chunk of a run. The state is donated."""

    trainer: Trainer
    state: State
    hyper: dict[str, Any]
    batches: dict[str, np.ndarray]


# Waits for the device; returns the metrics of the chunk, its seconds, and the number of members that share those.
Outcome = Callable[[], tuple[dict[str, np.ndarray], float, int]]
RunCoroutine = Generator[Any, Any, None]  # yields a ChunkRequest, is sent (State, Outcome), yields None, and so on
OnExit = Callable[[Exception | None], object]


def drive(runs: Iterator[tuple[RunCoroutine, OnExit]], size: int) -> None:
    """Trains every run to its end, up to ``size`` at a time; a finished run is replaced by the next.

    Args:
      runs: runs of one trainer, each with a function that is called at its end, with None or the exception that it
        raised. The other runs continue, unless that function raises.

    Raises:
      UserError: ``size`` runs do not fit in memory (ENVIRONMENT).
    """
    active: dict[RunCoroutine, OnExit] = {}

    def advance(run: RunCoroutine, answer: Any = None) -> ChunkRequest | None:
        problem = None
        try:
            return run.send(answer)
        except StopIteration:
            pass
        except Exception as error:
            problem = error
        active.pop(run)(problem)

    while True:
        active.update(itertools.islice(runs, size - len(active)))
        if not active:
            return
        requests = {run: request for run in list(active) if (request := advance(run)) is not None}
        if requests:
            for run, answer in zip(requests, chunk(list(requests.values()), size)):
                advance(run, answer)


def chunk(requests: Sequence[ChunkRequest], size: int) -> list[tuple[State, Outcome]]:
    """Trains the chunks of the requests as one program of ``size`` members; returns their states and outcomes.

    Unused members repeat the first request with zero steps."""
    trainer = requests[0].trainer
    begun = trainer.clock()
    if size == 1:
        state, metrics = trainer.chunk(*requests[0][1:])
        states = [state]
    else:
        idle = requests[0]._replace(hyper={**requests[0].hyper, "steps": np.int32(0)})
        members = [*requests, *[idle] * (size - len(requests))]
        ensemble = _ensemble(trainer, size)
        with _fits(size):
            state = ensemble.join([member.state for member in members])
            hyper, batches = (
                _stack([member.hyper for member in members]),
                _stack([member.batches for member in members]),
            )
            state, metrics = ensemble.chunk(state, hyper, batches)
            states = ensemble.part(state)

    @functools.cache
    def wait() -> tuple[dict[str, np.ndarray], float]:  # the first member that calls it waits for all
        with _fits(size):
            jax.block_until_ready(metrics)  # on CPU, np.asarray aborts the process if the computation ran out of memory
            arrays = {name: np.asarray(value).reshape(size, -1) for name, value in metrics.items()}
        return arrays, trainer.clock() - begun

    def outcome(member: int) -> tuple[dict[str, np.ndarray], float, int]:
        arrays, seconds = wait()
        return {name: value[member] for name, value in arrays.items()}, seconds, len(requests)

    return [(states[member], functools.partial(outcome, member)) for member in range(len(requests))]


def speedup(request: Callable[[], ChunkRequest], size: int) -> float:
    """Steps per second of ``size`` runs together over those of one alone, from the faster of two chunks each; 0 if
    they do not fit in memory."""

    def seconds(members: int) -> float:
        return min(chunk([request()] * members, members)[0][1]()[1] for _ in range(2))

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
        remedy = "this many runs do not fit in the device's memory; lower it"
        raise UserError("ensemble", size, remedy, Code.ENVIRONMENT) from error


@functools.cache
def _ensemble(trainer: Trainer, size: int) -> Ensemble:
    return Ensemble(trainer, size)


def _stack(trees: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([tree[name] for tree in trees]) for name in trees[0]}
