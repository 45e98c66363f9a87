"""Training: what turns a program into run records, alone or beside others in one ensemble (``drive``).

A program is a stem with its branches, or one whole run. The order in which a run starts is: its result exists, then
nothing is done; else its own newest checkpoint that verifies; else, for a branch, the stem at the branch step (in
memory, or from the stem's checkpoint there); else initialisation. Every way gives the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling import data, device, distributed, drive, families, recipe
from scaling import mesh as meshes
from scaling.blocks import execution
from scaling.checkpoint import Checkpoints
from scaling.errors import UserError
from scaling.evaluate import term_summary
from scaling.records import Record, canonical, finite
from scaling.step import State, Trainer

# A mean loss this far above the first step's is divergence: nothing fits a law with it, and it rarely comes back.
DIVERGENCE_MARGIN = 1.0


class Interrupted(Exception):
    """The run was asked to stop; its state is in a checkpoint."""


class Diverged(Exception):
    """The loss is not finite, or far above where it began; ``steps`` were taken when that was seen."""

    def __init__(self, text: str, steps: int):
        super().__init__(text)
        self.steps = steps


@functools.cache
def _trainer(family: str, config: str, rules: str, mesh_shape: str, chunk: int, how: str) -> Trainer:
    """One trainer a shape and process. ``rules`` comes without what is traced, so that cells share it."""
    module = families.load(family)
    return Trainer(module, module.Config(**json.loads(config)), recipe.Recipe(**json.loads(rules)),
                   json.loads(mesh_shape), chunk, execution.of(json.loads(how)))  # fmt: skip


@functools.cache
def _source(config: str) -> Any:
    return data.load(json.loads(config))


@functools.cache
def _evaluation(config: str, text: int, tokens: int) -> dict[str, Any]:
    return _source(config).evaluation(text, tokens)


# What a trainer does not depend on: these reach the compiled chunk as arrays, or not at all.
TRACED = ("learning_rate", "weight_decay", "warmup_steps", "decay_fraction", "schedule", "final_fraction", "name")
TRACED += ("decay_shape", "rule", "base_rate", "base_batch", "base_tokens", "rate_law", "batch_law", "tuned")


def _shape(manifest: dict[str, Any], options: dict[str, Any]) -> tuple[str, str, str, str, int, str]:
    static = {name: value for name, value in manifest["recipe"].items() if name not in TRACED}
    static = {name: value for name, value in static.items() if name in recipe.Recipe.__dataclass_fields__}
    config, shape = canonical(manifest["config"]), canonical(options["mesh"])
    how = canonical(options.get("execution", {}))
    return manifest["family"], config, canonical(static), shape, options["chunk"], how


def trainer_of(manifest: dict[str, Any], options: dict[str, Any]) -> Trainer:
    """The trainer for a run's manifest, shared by every run of the shape in this process."""
    return _trainer(*_shape(manifest, options))


def alike(program: dict[str, Any]) -> str:
    """What programs have in common that one program can train as members: the trainer, and the data."""
    return canonical([*_shape(program["runs"][0]["manifest"], program["options"]), program["data"]])


class _Run:
    """One run record while it trains."""

    def __init__(self, spec: dict[str, Any], program: dict[str, Any], workdir: Path):
        self.spec, self.options, manifest = spec, program["options"], spec["manifest"]
        self.record = Record(Path(workdir) / "runs" / spec["run"])
        url = self.options.get("checkpoints")
        place = f"{url.rstrip('/')}/{spec['run']}" if url else self.record.path / "checkpoints"
        self.checkpoints = Checkpoints(place, stage=self.record.path / "staging")
        # Where branches leave: these checkpoints are not pruned.
        self.points = {each["branch_step"] for each in program["runs"][1:]} if spec["kind"] == "stem" else set()
        self.trainer = trainer_of(manifest, self.options)
        fields = recipe.Recipe.__dataclass_fields__
        self.rules = recipe.Recipe(**{k: v for k, v in manifest["recipe"].items() if k in fields})
        self.source_config = canonical(program["data"])
        self.seed, self.steps = manifest["seed"], spec["steps"]
        self.damage: UserError | None = None
        # A stem never decays, so its schedule has no end.
        self.schedule_steps = None if spec["kind"] == "stem" else spec["steps"]
        actual, planned = _source(self.source_config).describe(), manifest["data"]
        if distributed.anyone(actual["sha256"] != planned["sha256"]):
            raise UserError("data", actual["sha256"], f"is not what was planned ({planned['sha256']}); plan again")

    @property
    def final(self) -> bool:
        result = self.record.result
        if result is None or result["status"] == "failed":
            return False
        return self.spec["kind"] != "stem" or result["status"] != "done" or result["steps"] >= self.steps

    def begin(self) -> None:
        if not distributed.primary():
            return
        manifest = {**self.spec["manifest"], "environment": device.environment(self.options["mesh"])}
        path = self.record.path / "manifest.json"
        if self.spec["kind"] == "stem" and path.exists() and self.record.manifest["steps"] < self.steps:
            path.unlink()  # an extended stem is described at its new length
        self.record.begin(manifest)

    def hyper(self, start: int, count: int) -> dict[str, Any]:
        """The traced hyperparameters of ``count`` steps from ``start``, padded to the chunk."""
        size = self.trainer.steps_per_chunk
        share = recipe.rate(self.rules, np.arange(start, start + size), self.schedule_steps)
        return {
            "learning_rate": np.float32(self.rules.learning_rate) * share,
            "weight_decay": np.float32(self.rules.weight_decay) * share,
            "steps": np.int32(count),
        }

    def batches(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Batches of ``count`` steps from ``start``, (C, B, ...), of B what this process places; the padding repeats
        the first."""
        size, rows = self.trainer.steps_per_chunk, meshes.rows(self.trainer.mesh, self.rules.batch)
        step = np.where(np.arange(size) < count, np.arange(size), 0) + start
        indices = (step[:, None] * self.rules.batch + rows).astype(np.int64)
        # Damage is raised when the batch is used: a chunk may be under way, and other processes must hear of it.
        try:
            flat = _source(self.source_config).batch(indices.ravel(), seed=self.seed, context=self.trainer.text)
        except UserError as error:
            self.damage = error
            return {}
        self.damage = _not_finite(flat, f"steps {start} to {start + count}")
        return {name: value.reshape(size, len(rows), *value.shape[1:]) for name, value in flat.items()}

    def hear_of_damage(self) -> None:
        """UserError in every process where one of them has examples that cannot be trained on."""
        if distributed.anyone(self.damage is not None):
            raise self.damage or UserError("data", "damaged", "examples of another process cannot be read; see its log")

    def advance(self, state: State, start: int, stop: int, tick: Callable[[int], bool]) -> Generator[Any, Any, State]:
        """Trains from step ``start`` to ``stop``, by chunks as ``drive`` serves them; returns the state.

        Args:
          tick: ``tick(step)`` reports and says whether to stop early.

        Raises:
          Interrupted: after a checkpoint, when told to stop.
          Diverged: the loss of a chunk is not finite or far above the first.
        """
        size, saved = self.trainer.steps_per_chunk, time.monotonic()
        # Of every row that was written: a run that began anew has rows of the same steps without it.
        first_losses = (row["first_loss"] for row in self.record.rows() if "first_loss" in row)
        reference = distributed.agree(next(first_losses, None))
        count = min(size - start % size, stop - start)
        batches = self.batches(start, count) if start < stop else {}
        while start < stop:
            self.hear_of_damage()
            hyper = self.hyper(start, count)
            state, outcome = yield drive.Ask(self.trainer, state, hyper, batches)
            # The device is at work and nothing has waited for it: meanwhile the host gathers what comes next.
            following = min(size, stop - start - count)
            batches = self.batches(start + count, following) if following else {}
            yield  # other members gather theirs
            metrics, seconds, members = outcome()
            losses = metrics["loss"][:count]
            first = float(losses[0]) if reference is None else reference
            mean = float(losses.mean())
            if not math.isfinite(mean) or mean > first + DIVERGENCE_MARGIN:
                bad = (
                    int(np.flatnonzero(~np.isfinite(losses))[0]) + start + 1
                    if not math.isfinite(mean)
                    else start + count
                )
                raise Diverged(f"loss {mean:.4g} by step {bad} (first step: {first:.4g})", start + count)
            start += count
            row = {
                "step": start,
                "loss": mean,
                "norm": float(metrics["norm"][:count].mean()),
                "learning_rate": float(hyper["learning_rate"][count - 1]),
                "tokens": start * self.rules.batch * self.trainer.context,
                "seconds": seconds / members,
                **({"members": members} if members > 1 else {}),
            }
            if self.options.get("noise_scale") and following:
                self.hear_of_damage()
                # On the next batch, which these parameters have not seen.
                fresh = {name: value[0] for name, value in batches.items()}
                row |= {f"gradient_{name}": x for name, x in self.trainer.noise(state["params"], fresh, start).items()}
            if distributed.primary():
                self.record.append([row if reference is not None else {**row, "first_loss": first}])
            reference = first
            if distributed.anyone(tick(start)):
                self.checkpoints.save(start, state)
                raise Interrupted(f"{self.spec['run']} at step {start}")
            if distributed.anyone(time.monotonic() - saved > self.options["checkpoint_seconds"]) and start < stop:
                self.checkpoints.save(start, state, wait=False)
                self.checkpoints.keep(self.points, newest=self.options.get("keep_last", 2))
                saved = time.monotonic()
            count = following
        return state

    def finish(self, status: str, *, steps: int, reason: str | None = None, state: State | None = None) -> None:
        """Evaluates ``state`` where there is one and writes the result."""
        rows = self.record.steps()
        begun = self.trainer.clock()
        evaluation = {} if state is None else self.evaluate(state)
        seconds = {"train": sum(row["seconds"] for row in rows), "evaluate": self.trainer.clock() - begun}
        seconds["compile"] = self.trainer.charge()
        tokens = self.rules.batch * self.trainer.context * steps
        measured = self.rules.batch * self.trainer.context * sum(_lengths(rows, self.spec["branch_step"] or 0))
        speed = measured / seconds["train"] if seconds["train"] > 0 else None
        if not distributed.primary():
            return
        self.record.finish(
            {
                "status": status,
                "reason": reason,
                "steps": steps,
                "tokens": tokens,
                "decayed": self.spec["kind"] != "stem" and self.rules.schedule != "constant",
                "train_loss": finite(rows[-1]["loss"]) if rows else None,
                "evaluation": evaluation,
                "seconds": seconds,
                "tokens_per_second": speed,
                "mfu": self._mfu(speed),
                "execution": {**dataclasses.asdict(self.trainer.how), "ran": sorted(self.trainer.attention)},
                "checkpoint_problems": self.checkpoints.problems,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
        )

    def _mfu(self, speed: float | None) -> dict[str, float] | None:
        """Model FLOPs over the peak, by the exact count and by 6 N D; None where the peak is unknown."""
        peak = device.peak(jax.devices()[0].device_kind)
        if speed is None or peak is None:
            return None
        flops, tokens = self.spec["manifest"]["flops"], self.spec["manifest"]["tokens"]["D"]
        rate = speed / (peak * self.trainer.mesh.size)
        return {name: flops[key] / tokens * rate for name, key in (("exact", "training"), ("6ND", "6ND"))}

    def evaluate(self, state: State) -> dict[str, Any]:
        """Every loss term on the fixed evaluation set, with a standard error by document; the causal by position.

        Where a term depends on the batch, the set is cut to whole batches, and the error of such a term is by batch:
        its examples are each other's negatives.
        """
        settings, source = self.options["evaluation"], _source(self.source_config)
        fixed = _evaluation(self.source_config, self.trainer.text, settings["tokens"])
        if damage := _not_finite(fixed, "evaluation windows"):
            raise damage
        reference = fixed.get("reference")
        size, total = settings["batch"], len(fixed["document"])
        if any(term.batchwise for term in self.trainer.terms.values()):
            if total < 2 * size:
                raise UserError("evaluation.tokens", settings["tokens"], f"must fill two batches of {size} examples")
            total -= total % size
        apart = ("document", "documents", "reference", "prompts")
        arrays = {name: value for name, value in fixed.items() if name not in apart}
        sums: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        for start in range(0, total, size):
            rows = np.minimum(np.arange(start, start + size), total - 1)
            batch = {name: value[rows] for name, value in arrays.items()}
            seen = self.trainer.evaluate(state["params"], batch, start // size, fixed.get("prompts"))
            for term, (nats, count) in jax.block_until_ready(seen).items():  # see drive.chunk
                for kept, values in zip(sums.setdefault(term, ([], [])), (nats, count)):
                    kept.append(np.asarray(values)[: total - start])
        batches = np.arange(total) // size, [f"batch {number} of {size}" for number in range(-(-total // size))]
        found = {}
        for name, (nats, count) in sums.items():
            term = self.trainer.terms[name]
            about = {"bytes_per_token": source.bytes_per_token if term.likelihood else None}
            about["entropy"] = source.describe().get("entropy") if term.causal else None
            documents = batches if term.batchwise else (fixed["document"][:total], fixed["documents"])
            exact = reference[:total] if term.causal and reference is not None else None
            summed = (np.concatenate(nats), np.concatenate(count))
            found[name] = term_summary(*summed, *documents, exact, positions=term.causal, **about)
        return found


def _not_finite(batch: dict[str, Any], where: str) -> UserError | None:
    """What to raise where numbers of the data are not finite."""
    for name, value in batch.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            return UserError(f"data.{name}", "nan", f"{where} hold values that are not finite; mend the data")
    return None


def _lengths(rows: list[dict[str, Any]], start: int) -> Iterator[int]:
    for row in rows:
        yield row["step"] - start
        start = row["step"]


def prepare(program: dict[str, Any]) -> Callable[[], None]:
    """What compiles the steps of a program, to be called in another thread while this one trains."""
    first = program["runs"][0]
    trainer = trainer_of(first["manifest"], program["options"])
    source = _source(canonical(program["data"]))
    example = source.batch(np.zeros(1, np.int64), seed=first["manifest"]["seed"], context=trainer.text)
    return functools.partial(trainer.prepare, example)


def speedup(program: dict[str, Any], size: int, workdir: Path) -> float:
    """Measures, by ten steps, how many times as fast ``size`` programs such as this train together as one by one."""
    run = _Run(program["runs"][0], program, workdir)
    count = min(10, run.trainer.steps_per_chunk)
    hyper, batches = run.hyper(0, count), run.batches(0, count)
    run.hear_of_damage()
    return drive.speedup(lambda: drive.Ask(run.trainer, run.trainer.init(run.seed), hyper, batches), size)


def execute(
    program: dict[str, Any],
    workdir: Path,
    *,
    progress: Callable[[str, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Trains what is not final of a program, alone; see ``work``."""
    alone = work(program, workdir, progress=progress, should_stop=should_stop)
    for ask in alone:
        alone.send(drive.chunk([ask], 1)[0])


def work(
    program: dict[str, Any],
    workdir: Path,
    *,
    progress: Callable[[str, int], None],
    should_stop: Callable[[], bool],
) -> drive.Work:
    """What is not final of a program, to be driven: the stem to each branch step in turn, each branch from there.

    Args:
      program: as ``plan`` writes it into study.json.
      progress: called at each chunk with the run's name and the training FLOPs of this program done so far.
      should_stop: polled at each chunk; once true, the state is checkpointed and ``Interrupted`` raised.

    Raises:
      UserError: the data is not the planned data, or a checkpoint cannot be written.
    """
    runs = [_Run(spec, program, workdir) for spec in program["runs"]]
    trunk, branches = runs[0], runs[1:]
    per_step = {run: run.spec["flops"] // max(1, run.steps - (run.spec["branch_step"] or 0)) for run in runs}
    final = dict(zip(runs, distributed.agree([run.final for run in runs])))
    done = {run: run.spec["flops"] if final[run] else 0 for run in runs}

    def ticker(run: _Run) -> Callable[[int], bool]:
        def tick(step: int) -> bool:
            done[run] = per_step[run] * (step - (run.spec["branch_step"] or 0))
            progress(run.spec["run"], sum(done.values()))
            return should_stop()

        return tick

    if distributed.anyone(should_stop()):
        raise Interrupted(program["program"])
    waiting = sorted((run for run in branches if not final[run]), key=lambda run: run.spec["branch_step"])
    if final[trunk] and not waiting:
        return
    trunk.begin()
    trainer, state, at = trunk.trainer, None, 0
    ends = {run.spec["branch_step"] for run in waiting} | ({trunk.steps} if not final[trunk] else set())
    failure = distributed.agree(trunk.record.result if trunk.record.status == "diverged" else None)
    for end in sorted(ends):
        if failure is None or end < failure["steps"]:  # a branch that is new may leave before its stem diverged
            try:
                if any(at < step <= end for step in trunk.checkpoints.steps()):
                    at, state = trunk.checkpoints.load(trainer.abstract, at_most=end) or (at, state)
                if state is None:
                    at, state = 0, trainer.init(trunk.seed)
                state, resumed, at = (yield from trunk.advance(state, at, end, ticker(trunk))), at, end
                if branches and resumed < end:
                    trunk.checkpoints.save(end, state)
            except Diverged as problem:
                failure = {"steps": problem.steps, "reason": str(problem)}
                trunk.finish("diverged", **failure)
        for run in waiting:
            if run.spec["branch_step"] == end:
                run.begin()
                if failure is not None and failure["steps"] <= end:
                    run.finish("diverged", steps=failure["steps"], reason=f"its stem diverged: {failure['reason']}")
                elif state is not None:
                    yield from _finish_run(run, jax.tree.map(jnp.copy, state), end, ticker(run))
    if failure is None and not final[trunk]:
        if branches:
            trunk.finish("done", steps=at)
        elif state is not None:
            _complete(trunk, state)
    points = {run.spec["branch_step"] for run in branches}
    if branches and at > 0:
        trunk.checkpoints.keep(points | set(trunk.checkpoints.steps()[-1:]))


def _finish_run(run: _Run, state: State, start: int, tick: Callable[[int], bool]) -> drive.Work:
    """Takes a branch from its stem's state, or from its own newer checkpoint, to its result."""
    found = run.checkpoints.load(run.trainer.abstract)
    start, state = (start, state) if found is None else found
    try:
        state = yield from run.advance(state, start, run.steps, tick)
    except Diverged as problem:
        run.finish("diverged", steps=problem.steps, reason=str(problem))
        return
    _complete(run, state)


def _complete(run: _Run, state: State) -> None:
    run.checkpoints.wait()
    if run.options["keep_final"]:
        run.checkpoints.save(run.steps, state)
    run.finish("done", steps=run.steps, state=state)
    run.checkpoints.keep([run.steps] if run.options["keep_final"] else [])
