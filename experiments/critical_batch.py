"""The critical batch size of a small model, from the gradient noise scale and from a sweep of batches, side by side.

    scaling plan --config=experiments/critical_batch.py
    scaling run  --config=experiments/critical_batch.py --workdir=runs/critical_batch
    python experiments/critical_batch.py --workdir=runs/critical_batch      # the table; also written as critical.json

One size (25k parameters), batches of 4 to 128 sequences of 64 bytes of stdlib, two seeds, constant learning rates that
follow the square root of the batch (0.02 at 16), warmup of 20 steps. Small batches see 1M bytes and large ones up to
8M, so that all pass the same losses. The gradient noise scale is measured once in ten steps, on the next batch in
eight parts. At each target loss: the knee of steps against examples over the batches, and the noise scale of the
gradients in the runs' rows between this target and the one before.

12 runs, 8.8e12 FLOPs, 293 CPU-seconds (one worker on a core of an AMD EPYC with AVX-512, shared; 2026-11-22). Critical
batch in tokens, 95 % intervals:

    training loss   by the sweep             gradient noise scale
    2.443           696 [537, 905]           1060 [590, 1920]
    2.191           1210 [990, 1510]         1630 [1100, 2410]
    1.939           2290 [1930, 2710]        1950 [1790, 2120]
    1.687           5930 [3960, 9160]        2510 [2260, 2780]

Both grow as the loss falls and agree within a factor of 1.5 but for the last row, where the sweep says twice as much:
only batches of 32 and more went that far, and their learning rates follow a rule that nobody tuned at this size.

``:smoke`` is four batches at a tenth of D: a look at the path, no answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from scaling import study
from scaling.errors import Code, UserError
from scaling.records import Record
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.decide.critical_batch import CriticalBatch, NoiseScale

K, M = 2**10, 2**20


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for the smallest one."""
    config, smoke = study.base("critical_batch", argument, ("smoke",)), argument == "smoke"
    config.data.stdlib = {"source": "stdlib"}
    config.evaluation.tokens = (16 if smoke else 128) * K
    config.chunk, config.noise_scale = 10, True
    config.recipe = {"name": "sqrt", "base_tokens": 0, "schedule": "constant", "warmup_steps": 20}
    batches = (4, 8, 16, 32) if smoke else (4, 8, 16, 32, 64, 128)
    for batch in batches:
        tokens = M * max(1, batch // 16) // (10 if smoke else 1)
        config.cells[f"batch_{batch}"] = study.block(
            "grid",
            "stdlib",
            (0 if smoke else 2,),
            tokens=(tokens,),
            seeds=(0,) if smoke else (0, 1),
            recipe={"batch": batch},
        )
    return config


class Row(Value):
    """A target loss: the critical batch by the sweep, and the noise scale of rows from the target before to it."""

    sweep: CriticalBatch
    noise_scale: NoiseScale | None


def analyse(workdir: Path) -> list[Row]:
    """At target losses that every batch passes: the critical batch by the sweep and by the gradients."""
    from analysis.decide import critical_batch as batch

    runs, context = {}, 0
    for manifest, _ in experiment.finished(workdir):
        context = manifest.config["context"]
        steps = Record(workdir / "runs" / manifest.run).steps()
        runs[manifest.run] = (float(manifest.tokens.per_step), steps)
    # From where every batch has left its warmup down to what the worst of them reaches, in equal steps of loss.
    start = min(next((row.loss for row in rows if row.step >= 30), rows[-1].loss) for _, rows in runs.values())
    end = max(min(row.loss for row in rows) for _, rows in runs.values())
    if not end < start:
        raise UserError("workdir", workdir, "its runs share no range of losses; train longer", Code.NOT_IDENTIFIED)
    targets = [start + (end - start) * (i + 1) / 4 for i in range(4)]
    answers, above = [], start
    for found in batch.sweep(runs, targets):
        near = [row for _, rows in runs.values() for row in rows if found.loss <= row.loss < above]
        answers.append(Row(sweep=found, noise_scale=batch.noise_scale(near, context)))
        above = found.loss
    return answers


def lines(answers: list[Row]) -> list[str]:
    from analysis.show.tuning_sentences import no_critical_batch

    return show.table(
        answers,
        {
            "training loss": lambda row: f"{row.sweep.loss:.3f}",
            "runs": lambda row: row.sweep.runs,
            "critical batch, sweep (tokens)": lambda row: (
                show.interval(row.sweep.critical, 3) if row.sweep.critical else no_critical_batch(row.sweep)
            ),
            "gradient noise scale (tokens)": lambda row: show.interval(row.noise_scale and row.noise_scale.interval, 3),
        },
    )


if __name__ == "__main__":
    experiment.command(__doc__, "critical.json", analyse, lines)
