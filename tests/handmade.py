"""Records written by hand, for tests that need runs and train none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from scaling.records import Record, identity
from scaling.records.types import (
    DataDescription,
    Evaluation,
    EvaluationOptions,
    Flops,
    LadderRow,
    Manifest,
    Options,
    Parameters,
    ProgramSpec,
    Result,
    RunSpec,
    Seconds,
    StudyRecord,
    Tokens,
)
from scaling.records.unit import NATS_PER_TOKEN

CONTEXT, BATCH = 64, 16


def manifest(
    run: str, *, n: int = 1000, d: int = 2**14, seed: int = 0, entropy: float | None = None, **fields: Any
) -> Manifest:
    """A whole run of gpt, trained for ``loss``; ``fields`` replace what a Manifest has."""
    unset = {"study": "handmade", "kind": "whole", "role": "fit", "dataset": "text", "identity": identity(run)}
    unset |= {"family": "gpt", "size": 0, "config": {"context": CONTEXT}, "headline": "loss"}
    recipe = {"name": "width", "learning_rate": 0.01, "batch": BATCH, "schedule": "wsd", "decay_fraction": 0.2}
    made = {
        "recipe": recipe,
        "parameters": Parameters(
            total=n + 100,
            nonembedding=n,
            trainable=n + 100,
            active=n + 100,
            nonembedding_active=n,
            groups={"embedding": 100, "mlp": n},
        ),
        "steps": max(1, d // (CONTEXT * BATCH)),
        "tokens": Tokens(D=d, per_step=CONTEXT * BATCH, loss=d, counted="tokens", unique=2**30, epochs=d / 2**30),
        "flops": Flops(
            training=7 * n * d, six_nd=6 * n * d, forward_per_example=2 * n * CONTEXT, parts={"all": 7 * n * d}
        ),
        "terms": {"loss": NATS_PER_TOKEN},
        "data": DataDescription(source="text", sha256="0" * 64, entropy=entropy),
    }
    return Manifest(**{"run": run, "seed": seed, **unset, **made, **fields})


def result(loss: float | None = None, *, se: float | None = 0.001, status: Any = "done", **fields: Any) -> Result:
    """How a run ended; ``evaluation`` has ``loss`` alone unless it is given."""
    evaluation = {} if loss is None else {"loss": Evaluation(value=loss, count=1000, se=se, sample=loss)}
    unset = {"steps": 16, "tokens": 2**14, "decayed": True, "finished": "2026-01-01T00:00:00+0000"}
    return Result(**{"status": status, "evaluation": evaluation, "seconds": Seconds(train=1.0), **unset, **fields})


def options(**fields: Any) -> Options:
    """What ``study.base`` sets."""
    mesh = {"ensemble": 1, "data": 1, "fsdp": 1, "tensor": 1}
    unset = {"chunk": 50, "mesh": mesh, "checkpoint_seconds": 60.0}
    return Options(**{**unset, "evaluation": EvaluationOptions(tokens=4096, batch=64), **fields})


def program(*manifests: Manifest, **fields: Any) -> ProgramSpec:
    """The runs of these manifests as one program, the stem first."""
    runs = tuple(
        RunSpec(
            run=m.run,
            kind=m.kind,
            role=m.role,
            steps=m.steps,
            branch_step=m.branch_step,
            flops=m.flops.training,
            manifest=m,
        )
        for m in manifests
    )
    unset = {"program": manifests[0].run, "shape": "gpt 0", "seconds": 10.0, "data": {"source": "text"}}
    unset |= {"flops": sum(run.flops for run in runs), "options": options()}
    return ProgramSpec(**{**unset, "runs": runs, **fields})


def study(*programs: ProgramSpec, **fields: Any) -> StudyRecord:
    """study.json of these programs."""
    named = {program.runs[0].manifest.dataset: program.data for program in programs}
    unset: dict[str, Any] = {"name": "handmade", "datasets": named, "options": options()}
    return StudyRecord(**{**unset, "ladder": {name: ladder() for name in named}, "programs": programs, **fields})


def ladder(sizes: int = 4) -> tuple[LadderRow, ...]:
    """Sizes that double."""
    return tuple(
        LadderRow(
            size=i,
            N_nonembedding=1000 * 2**i,
            N_total=1000 * 2**i + 100,
            flops_per_token=7000.0 * 2**i,
            learning_rate=0.01,
            batch=BATCH,
            context=CONTEXT,
        )
        for i in range(sizes)
    )


def write(workdir: Path, about: Manifest, ended: Result | None = None) -> Record:
    """The record of a run."""
    record = Record(workdir / "runs" / about.run)
    record.begin(about)
    if ended is not None:
        record.finish(ended)
    return record


def ended(record: Record) -> Result:
    """The result of a run, which has one."""
    result = record.result
    assert result is not None, f"{record.path.name} has not ended"
    return result


def edited(value: Any, **fields: Any) -> Any:
    """The Struct with fields replaced."""
    return msgspec.structs.replace(value, **fields)
