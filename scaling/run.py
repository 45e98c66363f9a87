"""Trains one run: its chunks, checkpoints, evaluation and result."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from scaling import adapt, data, device, distill, distributed, drive, families, inputs, parents, prune, recipe, settings
from scaling import mesh as meshes
from scaling.blocks.execution import Execution
from scaling.checkpoint import Checkpoints
from scaling.count import training_flops
from scaling.errors import Code, NewerVersion, UserError
from scaling.evaluate import choices, term_summary
from scaling.records import Record, canonical
from scaling.records.files import refuse_links
from scaling.records.types import (
    Environment,
    Evaluation,
    Manifest,
    Options,
    ProgramSpec,
    Result,
    RunSpec,
    Seconds,
    Status,
    StepRow,
    Utilisation,
)
from scaling.step import Placed, State, Trainer

# A mean loss this far above the first step's counts as divergence: it rarely recovers, and is useless for a fit.
DIVERGENCE_MARGIN = 1.0
KEPT_BYTES = 2**25  # of an evaluation set that stays on the devices between runs


class Interrupted(Exception):
    """The run was asked to stop; its state is in a checkpoint."""


class Diverged(Exception):
    """The loss is not finite, or far above its first value; ``steps`` is the number of steps when it was detected."""

    def __init__(self, text: str, steps: int):
        super().__init__(text)
        self.steps = steps


@functools.cache
def _trainer(
    family: str, config: str, rules: str, mesh_shape: str, chunk: int, how: str, freeze: str, added: str
) -> Trainer:
    """One trainer per shape and process. ``rules`` excludes traced fields, so that cells share trainers."""
    adapted, distilled, pruned = json.loads(added)
    module = adapt.applied(families.load(family), adapt.read("adapt", adapted))
    module = prune.applied(distill.from_record(module, distilled), prune.read(prune.FIELD, pruned))
    execution = Execution.from_dict(json.loads(how))
    shape = _configuration(family, config)
    learned = settings.read(recipe.Recipe, "manifest.recipe", json.loads(rules))
    mesh = json.loads(mesh_shape)
    own = sum(training_flops(module.components(shape), learned.batch).values())
    flops = learned.batch * (own + families.further(module, shape))
    peak = device.peak(jax.devices()[0].device_kind)
    steps = device.steps_at_once(chunk, flops / math.prod(mesh.values()), peak)
    return Trainer(module, shape, learned, mesh, steps, execution, json.loads(freeze))


@functools.cache
def _configuration(family: str, config: str) -> Any:
    return settings.read(families.load(family).Config, "manifest.config", json.loads(config))


def configuration(manifest: Manifest) -> Any:
    """The family's ``Config`` of a run. Raises UserError if the manifest holds none (INVALID, UNKNOWN)."""
    return _configuration(manifest.family, canonical(manifest.config))


@functools.cache
def _source(config: str) -> Any:
    return data.load(json.loads(config))


class Fixed(NamedTuple):
    """What is evaluated: the evaluation set of a source (its configuration, loss tokens), or its questions after so
    many answered examples."""

    config: str
    tokens: int
    shots: int | None = None


@functools.cache
def _evaluation(source: Fixed, text: int) -> dict[str, Any]:
    if source.shots is None:
        return _source(source.config).evaluation(text, source.tokens)
    return _source(source.config).questions(text, source.shots, source.tokens)


def _placed_batches(trainer: Trainer, source: Fixed, total: int, size: int) -> Iterator[Placed]:
    """The first ``total`` windows of what is evaluated, batch by batch."""
    fixed = _evaluation(source, trainer.text)
    arrays = {name: value for name, value in fixed.items() if name in trainer.reads}
    others = inputs.partner(np.arange(total), total)
    arrays |= {inputs.OTHER + name: fixed[name][others] for name in trainer.partners}
    whole = {name: fixed[name] for name in trainer.reads_whole if name in fixed}
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        yield trainer.place_evaluation({name: value[rows] for name, value in arrays.items()}, start, whole)


@functools.cache
def _unseen(trainer: Trainer, source: Fixed) -> set[str]:
    """Loss terms of which no example has been evaluated yet: see ``Run.require_evaluation``, which empties it."""
    return set(trainer.terms)


@functools.lru_cache(maxsize=1)
def _kept_batches(trainer: Trainer, source: Fixed, total: int, size: int) -> list[Placed]:
    """These batches, kept on the devices for the next run: placing them takes half the time of a short run."""
    return list(_placed_batches(trainer, source, total, size))


def shape_of(manifest: Manifest, options: Options) -> tuple[str, str, str, str, int, str, str, str]:
    """Everything that compilation depends on; runs of equal shape share a trainer."""
    return (
        manifest.family,
        canonical(manifest.config),
        canonical(recipe.static(manifest.recipe)),
        canonical(options.mesh),
        options.chunk,
        canonical(options.execution),
        canonical(manifest.frozen),
        canonical([manifest.adapt, manifest.distill, manifest.prune]),
    )


def trainer_of(manifest: Manifest, options: Options) -> Trainer:
    """The trainer for a run's manifest, shared by all runs of its shape in this process."""
    return _trainer(*shape_of(manifest, options))


def source_of(program: ProgramSpec) -> Any:
    """The source of a program's data, loaded once per process."""
    return _source(canonical(program.data))


class Run:
    """A run in training, and its record.

    Raises:
      UserError: the data differs from the planned data (CHANGED).
    """

    def __init__(self, spec: RunSpec, program: ProgramSpec, workdir: Path):
        self.spec, self.options, manifest = spec, program.options, spec.manifest
        self.record = Record(Path(workdir) / "runs" / spec.run, strict=False)
        self.workdir = Path(workdir)
        place = parents.place(self.workdir, spec.run, self.options.checkpoints)
        for folder in ("checkpoints", "staging"):
            refuse_links(self.record.path / folder, inside=Path(workdir))
        self.checkpoints = Checkpoints(place, stage=self.record.path / "staging")
        # Branch points: these checkpoints are not pruned.
        branch_steps = {each.branch_step for each in program.runs[1:]} if spec.kind == "stem" else set()
        self.points = {step for step in branch_steps if step is not None}
        self.trainer = trainer_of(manifest, self.options)
        fields = recipe.Recipe.__dataclass_fields__
        self.rules = recipe.Recipe(**{k: v for k, v in manifest.recipe.items() if k in fields})
        self.source, self.source_config = source_of(program), canonical(program.data)
        self.seed, self.steps, self.branch_step = manifest.seed, spec.steps, spec.branch_step or 0
        self.damage: UserError | None = None
        self.replaced = 0  # examples of the latest batches
        self.parents: list[str] = []  # sha256 of the result of each parent, see require_parents
        self.keeps_final = self.options.keep_final or spec.keep
        # Not final, but already there: of a shorter stem, or of a failed attempt. The result of this run follows it.
        self.before = None if self.final else self.record.result
        # A stem never decays, so its schedule has no end.
        self.schedule_steps = None if spec.kind == "stem" else spec.steps
        actual, planned = self.source.describe()["sha256"], manifest.data.sha256
        if distributed.anyone(actual != planned):
            raise UserError("data", actual, f"is not what was planned ({planned}); plan again", Code.CHANGED)

    @property
    def final(self) -> bool:
        """Whether the run has a result that more training would not change."""
        result = self.record.result
        return result is not None and result.status != "failed" and not self.spec.is_longer(result)

    def require_parents(self, others: Sequence[Run]) -> None:
        """Checks that the runs that this one starts from are final, and the same as in earlier attempts.

        Args:
          others: the runs of its program, whose manifests may hold the hashes of that time.

        Raises:
          UserError: see ``parents.check``; in every process of a group.
        """
        asked = self.spec.manifest.parents
        if not asked:
            return
        hashes, problem = [], None
        if distributed.primary():
            try:
                recorded = [run.record.manifest for run in others if run.record.begun]
                hashes = parents.check(self.workdir, asked, recorded)
            except UserError as error:
                code = Code.ENVIRONMENT if isinstance(error, NewerVersion) else error.code
                problem = error.field, str(error.value), error.remedy, code
        self.parents, problem = distributed.agree([hashes, problem])
        if problem is not None:
            field, value, remedy, code = problem
            raise UserError(field, value, remedy, Code(code))

    def require_evaluation(self, state: State) -> None:
        """Checks before the first step that the evaluation set holds an example of every loss term: usually one batch,
        once for all runs of a shape.

        Raises:
          UserError: it does not, is not finite, or is too small for a term that depends on the batch.
        """
        source = Fixed(self.source_config, self.options.evaluation.tokens)
        unseen, total = _unseen(self.trainer, source), self._evaluated(source)
        if not unseen:
            return
        for placed in self._batches(source, total):
            outputs = jax.block_until_ready(self.trainer.evaluate_placed(state["params"], placed))  # see drive.chunk
            unseen -= {term for term, (_, count) in outputs.items() if np.any(np.asarray(count))}
            if not unseen:
                return
        raise self._without_example(min(unseen))

    def _without_example(self, term: str) -> UserError:
        remedy = f"holds no example with {term}; evaluate more"
        return UserError("evaluation.tokens", self.options.evaluation.tokens, remedy, Code.CONFLICT)

    def begin(self) -> None:
        """Writes the manifest, including the environment of this process and the results of its parents."""
        if not distributed.primary():
            return
        environment = msgspec.convert(device.environment(self.options.mesh), Environment)
        path, planned = self.record.path / "manifest.json", self.spec.manifest
        extended = self.spec.kind == "stem" and path.exists() and self.record.manifest.steps < self.steps
        if extended or (planned.parents and path.exists() and self.record.manifest.environment is None):
            path.unlink()  # an extended stem is described at its new length; a refused child has not begun yet
        given = tuple(
            msgspec.structs.replace(each, result=now) for each, now in zip(planned.parents, self.parents, strict=True)
        )
        self.record.begin(msgspec.structs.replace(planned, environment=environment, parents=given))

    def initial(self) -> State:
        """The state before the first step: drawn from the seed, with the parts that it inherits from its parents."""
        state = self.trainer.init(self.seed)
        stage = self.record.path / "staging"
        for parent in self.spec.manifest.parents:
            abstract, url = self.trainer.abstract["params"], self.options.checkpoints
            inherited = parents.inherit(self.workdir, parent, abstract, stage, url)
            state = {**state, "params": {**state["params"], **inherited}}
        given = {part for parent in self.spec.manifest.parents for part in parent.parts}
        if (length := self.trainer.begins_with) and adapt.PART not in given:
            state = {**state, "params": self.trainer.begin(state["params"], self._tokens(length))}
        return state

    def _tokens(self, count: int) -> np.ndarray:
        """So many tokens drawn from the first batch of the training data, as often as they stand there, int32."""
        text, rng = self.trainer.text, np.random.default_rng(self.seed)
        examples = np.arange(self.rules.batch, dtype=np.int64)
        tokens = self.source.batch(examples, seed=self.seed, context=text)["tokens"].ravel()
        return rng.choice(tokens, count, replace=count > len(tokens)).astype(np.int32)

    def hyper(self, start: int, count: int) -> dict[str, Any]:
        """The traced hyperparameters of ``count`` steps from ``start``, padded to the chunk."""
        size = self.trainer.steps_per_chunk
        share = recipe.rate(self.rules, np.arange(start, start + size), self.schedule_steps)
        hyper = {
            "learning_rate": np.float32(self.rules.learning_rate) * share,
            "weight_decay": np.float32(self.rules.weight_decay) * share,
            "steps": np.int32(count),
        }
        return {**hyper, "progress": self._progress(np.arange(start, start + size))} if self.trainer.paced else hyper

    def _progress(self, step: np.ndarray) -> np.ndarray:
        """Share of the run that is done before each of these steps; 1 beyond its end."""
        return np.minimum(step / np.float32(self.steps), 1).astype(np.float32)

    def batches(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Batches of ``count`` steps from ``start``, (C, rows, ...), with this process's rows of each batch.

        Steps beyond ``count`` repeat the first batch. If the data is damaged, ``raise_damage`` raises it later."""
        size, rows = self.trainer.steps_per_chunk, meshes.rows(self.trainer.mesh, self.rules.batch)
        partners = self.trainer.partners
        others = inputs.partner(rows, self.rules.batch) if partners else rows
        read = np.union1d(rows, others)
        step = np.where(np.arange(size) < count, np.arange(size), 0) + start
        indices = (step[:, None] * self.rules.batch + read).astype(np.int64)
        # Raised later, in raise_damage: a chunk may be running, and all processes of a group must stop together.
        try:
            flat = self.source.batch(indices.ravel(), seed=self.seed, context=self.trainer.text)
        except UserError as error:
            self.damage = error
            return {}
        replaced = getattr(self.source, "replaced", None)  # of a source that may skip damaged samples
        own = slice(None) if len(read) == len(rows) else np.searchsorted(read, rows)
        self.replaced = 0 if replaced is None else int(replaced.reshape(size, -1)[:count, own].sum())
        self.damage = _not_finite(flat, f"steps {start} to {start + count}")
        batches = {name: value.reshape(size, len(read), *value.shape[1:]) for name, value in flat.items()}
        pairs = {inputs.OTHER + name: batches[name][:, np.searchsorted(read, others)] for name in partners}
        return {**{name: value[:, own] for name, value in batches.items()}, **pairs}

    def raise_damage(self) -> None:
        """Raises UserError in every process of the group if any of them has unreadable examples."""
        if distributed.anyone(self.damage is not None):
            remedy = "examples of another process cannot be read; see its log"
            raise self.damage or UserError("data", "damaged", remedy, Code.DAMAGED)

    def advance(self, state: State, start: int, stop: int, tick: Callable[[int], bool]) -> Generator[Any, Any, State]:
        """Trains from step ``start`` to ``stop`` in chunks, as a coroutine for ``drive``; returns the final state.

        Args:
          tick: called with the step after each chunk; returns whether to stop early.

        Raises:
          Interrupted: after a checkpoint, when told to stop.
          Diverged: the loss of a chunk is not finite or far above the first.
        """
        size, saved = self.trainer.steps_per_chunk, time.monotonic()
        reference = self._first_loss()
        count = min(size - start % size, stop - start)
        batches = self.batches(start, count) if start < stop else {}
        waited = 0.0  # seconds of the last save that training waited for
        while start < stop:
            self.raise_damage()
            hyper, replaced = self.hyper(start, count), self.replaced
            state, outcome = yield drive.ChunkRequest(self.trainer, state, hyper, batches)
            # The device is busy and nothing has waited for it yet: meanwhile the host gathers the next batches.
            following = min(size, stop - start - count)
            batches = self.batches(start + count, following) if following else {}
            yield  # other members gather theirs
            metrics, seconds, members = outcome()
            losses = metrics["loss"][:count]
            first = float(losses[0]) if reference is None else reference
            mean = _mean_loss(losses, start, first)
            start += count
            row = StepRow(
                step=start,
                loss=mean,
                norm=float(metrics["norm"][:count].mean()),
                learning_rate=float(hyper["learning_rate"][count - 1]),
                tokens=start * self.rules.batch * self.trainer.context,
                seconds=seconds / members + waited,
                members=members,
                first_loss=first if reference is None else None,
                replaced=distributed.total(replaced) if hasattr(self.source, "replaced") else 0,
                **(self._noise(state, batches, start) if self.options.noise_scale and following else {}),
            )
            if distributed.primary():
                self.record.append(row)
            reference, waited = first, 0.0
            if distributed.anyone(tick(start)):
                self.checkpoints.save(start, state)
                raise Interrupted(f"{self.spec.run} at step {start}")
            if distributed.anyone(time.monotonic() - saved > self.options.checkpoint_seconds) and start < stop:
                begun = time.monotonic()
                self.checkpoints.save(start, state, wait=False)
                self.checkpoints.keep(self.points, newest=self.options.keep_last)
                saved = time.monotonic()
                waited = saved - begun
            count = following
        return state

    def _first_loss(self) -> float | None:
        """Loss of the run's first step, from any row that has it: a restarted run has several rows for one step."""
        steps = (row for row in self.record.rows() if isinstance(row, StepRow))
        return distributed.agree(next((row.first_loss for row in steps if row.first_loss is not None), None))

    def _noise(self, state: State, batches: dict[str, np.ndarray], step: int) -> dict[str, float]:
        """Gradient noise on the next batch, which these parameters have not been trained on."""
        self.raise_damage()
        fresh = {name: value[0] for name, value in batches.items()}
        noise = self.trainer.noise(state["params"], fresh, step, float(self._progress(np.array(step))))
        return {f"gradient_{name}": x for name, x in noise.items()}

    def complete(self, state: State) -> None:
        """Ends a run that was trained to its last step."""
        self.checkpoints.wait()
        if self.keeps_final:
            self.checkpoints.save(self.steps, state)
        self.finish("done", steps=self.steps, state=state)
        self.checkpoints.keep([self.steps] if self.keeps_final else [])

    def finish(self, status: Status, *, steps: int, reason: str | None = None, state: State | None = None) -> None:
        """Evaluates ``state``, if given, and writes the result."""
        rows = self.record.steps()
        begun = self.trainer.clock()
        evaluation = {} if state is None else self.evaluate(state)
        train, evaluate = sum(row.seconds for row in rows), self.trainer.clock() - begun
        seconds = Seconds(train=train, evaluate=evaluate, compile=self.trainer.charge())
        per_step = self.rules.batch * self.trainer.context
        speed = per_step * sum(_lengths(rows, self.branch_step)) / train if train > 0 else None
        if not distributed.primary():
            return
        result = Result(
            status=status,
            reason=reason,
            steps=steps,
            tokens=per_step * steps,
            decayed=self.spec.kind != "stem" and recipe.decays(self.rules, self.steps),
            train_loss=rows[-1].loss if rows else None,
            evaluation=evaluation,
            seconds=seconds,
            tokens_per_second=speed,
            mfu=self._utilisation(speed),
            execution={**dataclasses.asdict(self.trainer.how), "ran": sorted(self.trainer.attention)},
            checkpoint_problems=tuple(self.checkpoints.problems),
            replaced=sum(row.replaced for row in rows) or None,
            parents=tuple(self.parents),
            parameters=self.checkpoints.digest(steps) if self.keeps_final and state is not None else None,
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        )
        if not self.record.finish(result, replaces=self.before):
            print(f"{self.spec.run}: has another result already, which stays", file=sys.stderr, flush=True)

    def _utilisation(self, speed: float | None) -> Utilisation | None:
        """Model FLOPs utilisation; None if the speed or the device's peak is unknown."""
        peak = device.peak(jax.devices()[0].device_kind)
        if speed is None or peak is None:
            return None
        flops, tokens = self.spec.manifest.flops, self.spec.manifest.tokens.D
        rate = speed / (peak * self.trainer.mesh.size)
        return Utilisation(exact=flops.training / tokens * rate, six_nd=flops.six_nd / tokens * rate)

    def evaluate(self, state: State) -> dict[str, Evaluation]:
        """Every loss term on the fixed evaluation set, with standard errors by document; causal terms also by position.

        If a term depends on the batch, the set is cut to whole batches, and standard errors of such terms are by batch,
        since its examples are each other's negatives.
        """
        terms, size = self.trainer.terms, self.options.evaluation.batch
        source = Fixed(self.source_config, self.options.evaluation.tokens)
        fixed, total = _evaluation(source, self.trainer.text), self._evaluated(source)
        reference, entropy = fixed.get("reference"), self.source.describe().get("entropy")
        if hasattr(self.source, "expected_reference"):
            entropy = self.source.expected_reference(self.trainer.text)
        batches = np.arange(total) // size, [f"batch {number} of {size}" for number in range(-(-total // size))]
        summaries = {}
        for name, (nats, count) in self._term_sums(state, source, total).items():
            term = terms[name]
            if not np.any(count):
                raise self._without_example(name)
            summaries[name] = term_summary(
                nats,
                count,
                *(batches if term.batchwise else (fixed["document"][:total], fixed["documents"])),
                reference[:total] if term.causal and reference is not None else None,
                bytes_per_token=self.source.bytes_per_token if term.likelihood else None,
                entropy=entropy if term.causal else None,
                positions=term.causal,
            )
        return summaries

    def _evaluated(self, source: Fixed) -> int:
        """Number of examples of the evaluation set that are evaluated."""
        fixed, size = _evaluation(source, self.trainer.text), self.options.evaluation.batch
        if damage := _not_finite(fixed, "evaluation windows"):
            raise damage
        total = len(fixed["document"])
        if not any(term.batchwise for term in self.trainer.terms.values()):
            return total
        if total < 2 * size:
            raise UserError("evaluation.tokens", source.tokens, f"must fill two batches of {size} examples")
        return total - total % size

    def answers(self, state: State, shots: int) -> dict[str, Evaluation]:
        """The source's questions, each after ``shots`` answered examples: see ``evaluate.choices``.

        Raises:
          UserError: as ``questions`` of ``data.Source``."""
        source = Fixed(self.source_config, self.options.evaluation.tokens, shots)
        fixed = _evaluation(source, self.trainer.text)
        headline = next(iter(self.trainer.terms))
        nats, count = self._term_sums(state, source, len(fixed["document"]))[headline]
        return choices(nats, count, fixed["right"], self.source.candidates, fixed["document"], fixed["documents"])

    def _term_sums(self, state: State, source: Fixed, total: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Summed loss and number of predictions of the first ``total`` windows, by term; (total,) or (total, T)."""
        sums: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        for placed in self._batches(source, total):
            outputs = self.trainer.evaluate_placed(state["params"], placed)
            for term, pair in jax.block_until_ready(outputs).items():  # see drive.chunk
                for kept, values in zip(sums.setdefault(term, ([], [])), pair):
                    kept.append(np.asarray(values)[: total - placed.first])
        return {name: (np.concatenate(nats), np.concatenate(count)) for name, (nats, count) in sums.items()}

    def _batches(self, source: Fixed, total: int) -> Iterable[Placed]:
        """The first ``total`` windows of what is evaluated, on the devices; kept there if they are few."""
        size, fixed = self.options.evaluation.batch, _evaluation(source, self.trainer.text)
        if self.trainer.together > 1:
            step = math.lcm(self.trainer.together, meshes.ways(self.trainer.mesh.shape))
            size = -(-size // step) * step
        read = {*self.trainer.reads, *self.trainer.reads_whole}
        small = sum(value.nbytes for name, value in fixed.items() if name in read) <= KEPT_BYTES
        batches = _kept_batches if small else _placed_batches
        return batches(self.trainer, source, total, size)


def _mean_loss(losses: np.ndarray, start: int, first: float) -> float:
    """Mean loss of a chunk that began at step ``start``; ``first`` is the loss of the run's first step.

    Raises:
      Diverged: the loss is not finite, or too far above ``first``."""
    mean = float(losses.mean())
    if math.isfinite(mean) and mean <= first + DIVERGENCE_MARGIN:
        return mean
    end = start + len(losses)
    bad = end if math.isfinite(mean) else int(np.flatnonzero(~np.isfinite(losses))[0]) + start + 1
    raise Diverged(f"loss {mean:.4g} by step {bad} (first step: {first:.4g})", end)


def _not_finite(batch: dict[str, Any], where: str) -> UserError | None:
    """The error to raise if the batch has numbers that are not finite; else None."""
    for name, value in batch.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            remedy = f"{where} contain values that are not finite; repair the data"
            return UserError(f"data.{name}", "nan", remedy, Code.DAMAGED)
    return None


def _lengths(rows: list[StepRow], start: int) -> Iterator[int]:
    for row in rows:
        yield row.step - start
        start = row.step
