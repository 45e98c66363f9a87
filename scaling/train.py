"""Trains a program and writes its run records, alone or with others in one ensemble (``drive``).

A program is a stem with its branches, or one whole run. A run that has a result is not trained again. Otherwise it
starts from its newest checkpoint that verifies; else, for a branch, from the stem at the branch step (in memory, or
from the stem's checkpoint); else from initialisation: what is drawn, and what it inherits from its parents. All of
these give the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from scaling import distributed, drive
from scaling.records import canonical
from scaling.records.types import ProgramSpec
from scaling.run import Diverged, Interrupted, Run, shape_of, source_of, trainer_of
from scaling.step import State

__all__ = ["Diverged", "Interrupted", "batching_key", "execute", "prepare", "speedup", "trainer_of", "work"]

Progress = Callable[[str, int], None]
ShouldStop = Callable[[], bool]


def batching_key(program: ProgramSpec) -> str:
    """A key that is equal for programs which can train together in one ensemble: same trainer, same data."""
    return canonical([*shape_of(program.runs[0].manifest, program.options), program.data])


def prepare(program: ProgramSpec) -> Callable[[], None]:
    """Returns a function that compiles the steps of a program, to be called in another thread during training."""
    first = program.runs[0].manifest
    trainer = trainer_of(first, program.options)
    example = source_of(program).batch(np.zeros(1, np.int64), seed=first.seed, context=trainer.text)
    return functools.partial(trainer.prepare, example)


def speedup(program: ProgramSpec, size: int, workdir: Path) -> float:
    """Measures, over ten steps, the speedup of training ``size`` such programs together rather than one by one."""
    run = Run(program.runs[0], program, workdir)
    count = min(10, run.trainer.steps_per_chunk)
    hyper, batches = run.hyper(0, count), run.batches(0, count)
    run.raise_damage()
    return drive.speedup(lambda: drive.ChunkRequest(run.trainer, run.trainer.init(run.seed), hyper, batches), size)


def execute(program: ProgramSpec, workdir: Path, *, progress: Progress, should_stop: ShouldStop) -> None:
    """Trains the runs of a program that are not final, on its own; see ``work``."""
    alone = work(program, workdir, progress=progress, should_stop=should_stop)
    for request in alone:
        alone.send(drive.chunk([request], 1)[0])


def work(program: ProgramSpec, workdir: Path, *, progress: Progress, should_stop: ShouldStop) -> drive.RunCoroutine:
    """A coroutine for ``drive`` that trains every run that is not final: the stem, and each branch at its step.

    Args:
      program: of study.json.
      progress: called at each chunk with the run's name and the training FLOPs of this program done so far.
      should_stop: polled at each chunk; once true, the state is checkpointed and ``Interrupted`` raised.

    Raises:
      UserError: the data differs from the plan (CHANGED), or a checkpoint cannot be written (ENVIRONMENT).
    """
    yield from _Program(program, workdir, progress, should_stop).train()


class _Program:
    """A program in training: the state of its trunk, and its progress.

    Attributes:
      trunk: the stem, or the whole run. branches: the runs that start from it. stops: the steps at which they do, where
        a chunk ends also if such a branch is final: a row's loss is the mean since the row before.
      state, at: state of the trunk and its step; None before it is initialised or loaded.
      failure: set if the trunk diverged; branches that start before that step are still trained.
    """

    def __init__(self, program: ProgramSpec, workdir: Path, progress: Progress, should_stop: ShouldStop):
        self.program, self.progress, self.should_stop = program, progress, should_stop
        self.runs = [Run(spec, program, workdir) for spec in program.runs]
        self.trunk, self.branches = self.runs[0], self.runs[1:]
        self.stops = sorted({run.branch_step for run in self.branches})
        self.final = dict(zip(self.runs, distributed.agree([run.final for run in self.runs])))
        self.flops_done = {run: run.spec.flops if self.final[run] else 0 for run in self.runs}
        self.state: State | None = None
        self.at = 0
        self.failure: Diverged | None = None

    def train(self) -> drive.RunCoroutine:
        """Trains every run that is not final to its result."""
        if distributed.anyone(self.should_stop()):
            raise Interrupted(self.program.program)
        trunk, branches = self.trunk, self.branches
        waiting = sorted((run for run in branches if not self.final[run]), key=lambda run: run.branch_step)
        if self.final[trunk] and not waiting:
            return
        for run in (trunk, *waiting):
            run.require_parents(self.runs)
        trunk.begin()
        self.failure = self._earlier_failure()
        for end in sorted({run.branch_step for run in waiting} | ({trunk.steps} if not self.final[trunk] else set())):
            yield from self._advance_trunk(end)
            for run in waiting:
                if run.branch_step == end:
                    yield from self._train_branch(run, end)
        if self.failure is None and not self.final[trunk]:
            if branches:
                trunk.finish("done", steps=self.at)
            elif self.state is not None:
                trunk.complete(self.state)
        if branches and self.at > 0:
            trunk.checkpoints.keep({run.branch_step for run in branches} | set(trunk.checkpoints.steps()[-1:]))

    def _earlier_failure(self) -> Diverged | None:
        """The divergence of the trunk in an earlier attempt; None if it did not diverge."""
        result = self.trunk.record.result
        diverged = result is not None and result.status == "diverged"
        held = distributed.agree([result.reason, result.steps] if result is not None and diverged else None)
        return None if held is None else Diverged(*held)

    def _advance_trunk(self, end: int) -> drive.RunCoroutine:
        """Trains the trunk to step ``end``, unless it diverges or has diverged before that."""
        trunk = self.trunk
        if self.failure is not None and self.failure.steps <= end:
            return
        try:
            if any(self.at < step <= end for step in trunk.checkpoints.steps()):
                self.at, self.state = trunk.checkpoints.load(trunk.trainer.abstract, at_most=end) or (
                    self.at,
                    self.state,
                )
            if self.state is None:
                self.at, self.state = 0, trunk.initial()
                trunk.require_evaluation(self.state)
            resumed = self.at
            for stop in (*(step for step in self.stops if resumed < step < end), end):
                self.state = yield from trunk.advance(self.state, self.at, stop, self._tick(trunk))
                self.at = stop
            if self.branches and resumed < end:
                trunk.checkpoints.save(end, self.state)
        except Diverged as problem:
            self.failure = problem
            trunk.finish("diverged", steps=problem.steps, reason=str(problem))

    def _train_branch(self, run: Run, step: int) -> drive.RunCoroutine:
        """Trains a branch to its result, from the trunk's state at ``step`` or from its own newer checkpoint."""
        run.begin()
        if self.failure is not None and self.failure.steps <= step:
            run.finish("diverged", steps=self.failure.steps, reason=f"its stem diverged: {self.failure}")
            return
        if self.state is None:
            return
        # A copy, since training donates its state and the trunk continues from this one.
        start, state = run.checkpoints.load(run.trainer.abstract) or (step, jax.tree.map(jnp.copy, self.state))
        try:
            state = yield from run.advance(state, start, run.steps, self._tick(run))
        except Diverged as problem:
            run.finish("diverged", steps=problem.steps, reason=str(problem))
            return
        run.complete(state)

    def _tick(self, run: Run) -> Callable[[int], bool]:
        """A callback that reports the step of a run and returns whether to stop."""
        per_step = run.spec.flops // max(1, run.spec.own_steps)

        def tick(step: int) -> bool:
            self.flops_done[run] = per_step * (step - run.branch_step)
            self.progress(run.spec.run, sum(self.flops_done.values()))
            return self.should_stop()

        return tick
