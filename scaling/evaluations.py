"""Evaluates a checkpoint of a finished run by itself: on its own data or on other data, in another dtype, in few bits.

What is found is a record of its own, ``runs/RUN/evaluations/IDENTITY.json``, beside the result, which stays as it is.
On the data, the step and the dtype of the result, it holds the losses of the result: bit by bit, if the machine, the
threads and the mesh are those of the training.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import msgspec

from scaling import count, data, device, families, inputs, parents, quantise
from scaling.checkpoint import Checkpoints
from scaling.errors import Code, NewerVersion, UserError
from scaling.records import Record, identity, read_typed, write_json
from scaling.records.files import make_folder
from scaling.records.types import (
    JSON,
    DataDescription,
    Environment,
    EvaluationRecord,
    ProgramSpec,
    Result,
    RunSpec,
)
from scaling.records.unit import Unit
from scaling.run import Run, configuration, source_of

FOLDER = "evaluations"


@dataclass(frozen=True)
class Question:
    """How a checkpoint is evaluated; the defaults are those of its training.

    Attributes:
      dataset: name of other data, for the record. data: configuration of its source; None: the data of the run.
      dtype: of the computation. bits: of the weights of the blocks, rounded; 0: they are not.
      shots: answered examples before each question of the data, whose answers are scored; None: no questions.
    """

    dataset: str = ""
    data: Mapping[str, JSON] | None = None
    dtype: str = ""
    bits: int = 0
    shots: int | None = None


class Finished:
    """A finished run of a study, and its parameters at one step, which are read once.

    Args:
      workdir: of the study. program, spec: of its study.json.
      step: of a checkpoint; None for the last.

    Raises:
      UserError: the run is not finished (MISSING), did not end as done (INVALID), its result is damaged (DAMAGED), or
        there is no checkpoint of that step (MISSING).
    """

    def __init__(self, workdir: Path, program: ProgramSpec, spec: RunSpec, step: int | None = None):
        self.workdir, self.program, self.spec = Path(workdir), program, spec
        self._record = Record(self.workdir / "runs" / spec.run)
        self._hash = parents.finished("run", self._record)
        result = self._record.result
        assert result is not None
        self._result: Result = result
        self.step = result.steps if step is None else step
        place = parents.place(self.workdir, spec.run, program.options.checkpoints)
        self._checkpoints = Checkpoints(place, stage=self._record.path / "staging")
        self._parameters: Mapping[str, Any] | None = None
        kept = self._checkpoints.steps()
        if self.step not in kept:
            held = f"the checkpoints that were kept are of {', '.join(map(str, kept))}" if kept else "none was kept"
            remedy = f"{spec.run} has no checkpoint of that step: {held}; train with config.keep_final"
            raise UserError("step", self.step, remedy, Code.MISSING)
        self.problems: list[str] = []  # records that could not be read, and were written again

    @property
    def decayed(self) -> bool:
        """Whether the checkpoint is of the end of a schedule that decayed."""
        return self._result.decayed and self.step == self._result.steps

    @property
    def causal(self) -> bool:
        """Whether the headline loss is given by position."""
        manifest = self.spec.manifest
        return families.terms(families.load(manifest.family), configuration(manifest))[manifest.headline].causal

    def check(self, question: Question) -> None:
        """Checks that the question can be asked of this run; nothing is computed or written.

        Raises:
          UserError: the data lacks what the model reads (MISSING), or has other tokens (CONFLICT); the data of the run
            is another by now (CHANGED); the model has no such dtype (INVALID); or the data has no questions (MISSING),
            the model does not predict each token from those before it (UNSUPPORTED), or its context is too short for so
            many answered examples (CONFLICT).
        """
        run = self._run(question)
        if question.shots is None:
            return
        if not hasattr(run.source, "questions"):
            remedy = f"asks dataset {run.spec.manifest.dataset}, which has no questions with candidates"
            raise UserError("shots", question.shots, remedy, Code.MISSING)
        if not (self.causal and "vocab" in run.trainer.family.batch_spec(run.trainer.config)):
            remedy = f"{self.spec.manifest.headline} is no loss of a text that is read in its order"
            raise UserError("shots", question.shots, remedy, Code.UNSUPPORTED)
        run.source.questions(run.trainer.text, question.shots, 1)

    def evaluate(self, question: Question) -> EvaluationRecord:
        """The answer, which is written beside the result; one that is recorded already is read.

        Raises:
          UserError: as ``check``; or the checkpoint is damaged (DAMAGED), or not what the run ended with (CHANGED); or
            a newer version has answered (NewerVersion).
        """
        run = self._run(question)
        asked = {
            "run": run.spec.manifest.identity,
            "step": self.step,
            "result": self._hash,
            "data": run.spec.manifest.data,
            "options": run.options.evaluation,
            "dtype": run.trainer.config.dtype,
            "bits": question.bits,
            **({} if question.shots is None else {"shots": question.shots}),
        }
        path = self._record.path / FOLDER / f"{identity(asked)}.json"
        make_folder(path.parent, inside=self.workdir)
        try:
            return read_typed(path, EvaluationRecord)
        except FileNotFoundError:
            pass
        except UserError as error:
            if error.code is not Code.DAMAGED or isinstance(error, NewerVersion):
                raise
            self.problems.append(str(error))
        answer = self._answer(run, question)
        write_json(path, answer)
        return answer

    def _run(self, question: Question) -> Run:
        """The run with the data and the dtype of the question, and a mesh that this machine has."""
        program, manifest = self.program, self.spec.manifest
        if question.dtype:
            manifest = msgspec.structs.replace(manifest, config={**manifest.config, "dtype": question.dtype})
        if question.data is not None:
            program = msgspec.structs.replace(program, data=data.resolve(question.data))
            source, family = source_of(program), families.load(manifest.family)
            _require_alike(question.dataset, source, source_of(self.program), family, configuration(manifest))
            description = DataDescription.of(source.describe())
            manifest = msgspec.structs.replace(manifest, data=description, dataset=question.dataset)
        options = program.options
        if math.prod(options.mesh.values()) > jax.device_count():
            options = msgspec.structs.replace(options, mesh=dict.fromkeys(options.mesh, 1))
        program = msgspec.structs.replace(program, options=options)
        spec = msgspec.structs.replace(self.spec, manifest=manifest)
        return Run(spec, program, self.workdir)

    def _answer(self, run: Run, question: Question) -> EvaluationRecord:
        trainer, manifest, begun = run.trainer, run.spec.manifest, time.perf_counter()
        parameters, quantisation = self._loaded(trainer.abstract["params"]), None
        beside = families.beside(trainer.family, trainer.config)
        axes = {part: own for part, own in trainer.family.axes(trainer.config).items() if part not in beside}
        shapes = {part: trainer.abstract["params"][part] for part in axes}
        if question.bits:
            model = {part: parameters[part] for part in axes}
            parameters = {**parameters, **quantise.quantise(model, axes, question.bits)}
        trained = getattr(trainer.config, "weight_bits", 0)  # to which every pass rounds them, also those of few bits
        if rounded := [bits for bits in (question.bits, trained) if bits]:
            quantisation = quantise.stored(shapes, axes, min(rounded))
        state, dtype, shots = {"params": parameters}, trainer.config.dtype, question.shots
        evaluation = run.evaluate(state) if shots is None else run.answers(state, shots)
        headline, units = (manifest.headline, manifest.terms) if shots is None else _asked(run, shots)
        planned, result = self.spec.manifest, self._result
        own = manifest.data == planned.data and self.step == result.steps and dtype == configuration(planned).dtype
        plain = own and not question.bits and shots is None
        components = trainer.family.components(trainer.config)
        flops = count.forward_flops(components, run.options.evaluation.batch)
        return EvaluationRecord(
            run=self.spec.run,
            identity=manifest.identity,
            step=self.step,
            result=self._hash,
            parameters=self._checkpoints.digest(self.step),
            dataset=manifest.dataset,
            data=manifest.data,
            options=run.options.evaluation,
            dtype=dtype,
            quantisation=quantisation,
            bytes=quantise.size_in_bytes(manifest.parameters.dense, dtype, quantisation),
            forward_flops=sum(flops.values()),
            headline=headline,
            terms=units,
            shots=shots,
            evaluation=evaluation,
            reproduces=evaluation == result.evaluation if plain and result.evaluation else None,
            environment=msgspec.convert(device.environment(run.options.mesh), Environment),
            execution={**dataclasses.asdict(trainer.how), "ran": sorted(trainer.attention)},
            seconds=time.perf_counter() - begun,
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        )

    def _loaded(self, abstract: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters of the checkpoint, checked against their hashes."""
        if self._parameters is None:
            digest = self._result.parameters if self.step == self._result.steps else None
            self._parameters = self._checkpoints.parameters(self.step, abstract, digest)
        return self._parameters


def _asked(run: Run, shots: int) -> tuple[str, dict[str, Unit]]:
    """The headline of answers to questions, and the units."""
    given = f"the question and {shots} answered before it"
    among = run.source.candidates
    return "answer", {
        "answer": Unit(given=given),
        "error": Unit(quantity="share", per="question", given=given, among=among),
    }


def _require_alike(dataset: str, source: Any, own: Any, family: ModuleType, config: Any) -> None:
    """Raises UserError unless a model can read a source, and its tokens are those that the model was trained on."""
    spec = family.batch_spec(config)
    name = family.__name__.rpartition(".")[2]
    supplied, text = data.supplies(source), families.text(spec)
    inputs.require_supply(family, spec, supplied, dataset, name)
    if text > supplied.get("context", text):
        remedy = f"its evaluation documents have {supplied['context']:,} tokens, fewer than the context of {text:,}"
        raise UserError("data", dataset, remedy, Code.CONFLICT)
    if "vocab" in spec and (other := _tokens(source)) != (trained := _tokens(own)):
        raise UserError("data", dataset, f"has tokens of {other}; the run was trained on {trained}", Code.CONFLICT)


def _tokens(source: Any) -> str:
    """What the tokens of a source are: losses per token, and tokens, mean the same only where this is equal."""
    about = source.describe()
    tokenizer = about.get("tokenizer")
    if source.vocab == 256 and tokenizer in (None, "bytes") and source.bytes_per_token == 1.0:
        return "bytes"
    if tokenizer is not None:
        return f"the tokenizer {tokenizer} (sha256 {str(about.get('tokenizer_sha256'))[:12]})"
    return f"a vocabulary of {source.vocab}"
