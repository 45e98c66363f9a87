"""What moves the exponent of N_opt ~ C^a from Kaplan's towards Chinchilla's, one cause at a time, on small runs.

    scaling plan --config=experiments/kaplan_to_chinchilla.py
    scaling run  --config=experiments/kaplan_to_chinchilla.py --workdir=runs/kaplan_to_chinchilla
    python experiments/kaplan_to_chinchilla.py --workdir=runs/kaplan_to_chinchilla    # also exponents.json

After Porian 2024 (arXiv 2406.19146), who took a from 0.835 to 0.497 on RefinedWeb so. Five sizes (6k to 99k
parameters), D from 128k to 2M bytes of stdlib, four sets of runs that differ in training, read on
several accounts:

| step | runs | N | C |
|---|---|---|---|
| kaplan | constant learning rate, one for all sizes; warmup of 512 steps whatever D | without head | 6 N D |
| + head and attention in C | same | without head | exact |
| + head in N | same | with head | exact |
| + short warmup | warmup of 40 steps | with head | exact |
| + decay | the rate falls to 0 over the last 30 % of each D | with head | exact |
| + learning rate by size | the width rule, tuned at width 32 | with head | exact |

Accounting is changed after the fact, training by a re-run. Each a is a slope of log N_opt at the same compute as the
others, by the fitted Chinchilla form (approach 3, 95 % intervals from its draws), with isoFLOP parabolas (approach 2)
beside it. A recipe of `scaling tune` takes the place of the width rule with
``--config.cells.tuned.recipe.name=recipe.json --config.cells.tuned_seeds.recipe.name=recipe.json``.

154 runs, 3.2e13 FLOPs, 10 minutes of one CPU core by `scaling plan` (AMD EPYC with AVX-512, jax 0.10.2). 2026-11-22:

| step | a, by the law | a, by isoFLOP | loss at the largest |
|---|---|---|---|
| kaplan | 0.80 [0.60, 0.87] | not identified | 1.603 |
| + head and attention in C | 0.91 [0.66, 1.00] | not identified | 1.603 |
| + head in N | 0.76 [0.55, 0.89] | not identified | 1.603 |
| + short warmup | 0.59 [0.46, 0.73] | 0.81, no bounds | 1.594 |
| + decay | 0.59 [0.38, 0.71] | 0.71, no bounds | 1.526 |
| + learning rate by size | 0.48 [0.35, 0.71] | 0.58, no bounds | 1.525 |

From Kaplan's 0.80 the exponent comes down, as Porian's does; the long warmup, which hurts short runs, moves it most.
No step is clear of the one before it by its intervals. The whole way is by its estimates (0.80 is above the last
interval), though not by its intervals, which share 0.60 to 0.71. Seed noise refutes the law's form where the rate never
decays, not where it does.

``:smoke`` is three small sizes at three D: a look at the path, no answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from scaling import study
from scaling.errors import Code, UserError
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.card import Interval

K, M = 2**10, 2**20
# Training of each set of runs; what each adds to the one before it is one cause.
PLAIN = {"name": "standard", "schedule": "constant", "warmup_steps": 512}
ARMS = {
    "plain": PLAIN,
    "warmup": {**PLAIN, "warmup_steps": 40},
    "decay": {"name": "standard", "warmup_steps": 40},
    "tuned": {"name": "width", "warmup_steps": 40},
}
# (step, set of runs, whether N counts the head, whether C is exact)
STEPS = (
    ("kaplan", "plain", False, False),
    ("+ head and attention in C", "plain", False, True),
    ("+ head in N", "plain", True, True),
    ("+ short warmup", "warmup", True, True),
    ("+ decay", "decay", True, True),
    ("+ learning rate by size", "tuned", True, True),
)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for the smallest one."""
    config, smoke = study.base("kaplan_to_chinchilla", argument, ("smoke",)), argument == "smoke"
    config.data.stdlib = {"source": "stdlib"}
    config.evaluation.tokens = (16 if smoke else 256) * K
    sizes, tokens = (
        ((0, 1, 2), (16 * K, 32 * K, 64 * K)) if smoke else ((0, 1, 2, 3, 4), (M // 8, M // 4, M // 2, M, 2 * M))
    )
    for name, recipe in ARMS.items():
        # Block by block the recipe differs in name, so that none is inherited from the study.
        config.cells[name] = study.block("grid", "stdlib", sizes, tokens=tokens, recipe=recipe)
        config.cells[f"{name}_seeds"] = study.block(
            "grid", "stdlib", sizes[1::2], tokens=tokens, seeds=(1,), role="seed", recipe=recipe
        )
    return config


def rows(workdir: Path) -> Any:
    """One row a finished run: its set of runs, counts, loss. Runs that never decay are part of this study."""
    import pandas as pd

    found = []
    for manifest, result in experiment.finished(workdir):
        recipe, config = manifest.recipe, manifest.config
        if recipe["schedule"] == "constant":
            arm = "plain" if recipe["warmup_steps"] == PLAIN["warmup_steps"] else "warmup"
        else:
            arm = "decay" if recipe["parametrisation"] == "standard" else "tuned"
        without, head = manifest.parameters.nonembedding, config["vocab"] * config["width"]
        found.append(
            {
                "run": manifest.run,
                "stem": manifest.stem or manifest.run,
                "seed": manifest.seed,
                "arm": arm,
                "D": float(manifest.tokens.D),
                "N_without": float(without),
                "N_with": float(without + head),
                "C_exact": float(manifest.flops.training),
                "loss": result.evaluation["loss"].value,
            }
        )
    return pd.DataFrame(found)


class Answer(Value):
    """A step of the way: its account of N and C, and the exponent a by the law and by isoFLOP parabolas.

    Intervals are open, or None, where the runs do not show the exponent. ``warnings``: the codes of the fit's.
    """

    step: str
    runs: str
    rows: int
    N: str
    C: str
    a: Interval | None
    a_isoflop: Interval | None
    alpha: float
    beta: float
    loss_at_largest: float
    warnings: tuple[str, ...]


def analyse(workdir: Path) -> list[Answer]:
    """The exponent at each step, by approaches 3 and 2, with intervals or the reason why there is none."""
    from analysis.check import approaches
    from analysis.fitting import fit
    from analysis.table import runs

    table, answers = rows(workdir), []
    for step, arm, with_head, exact in STEPS:
        own = table[table["arm"] == arm].copy()
        if own.empty:
            remedy = f"holds no finished run of the set {arm}; finish the study first"
            raise UserError("workdir", workdir, remedy, Code.MISSING)
        own["N"] = own["N_with" if with_head else "N_without"]
        own["C"] = own["C_exact"] if exact else 6 * own["N"] * own["D"]
        loaded = runs.from_frame(own[["run", "stem", "seed", "N", "D", "C", "loss"]], source=f"{workdir}, {arm}")
        fitted = fit(loaded, "chinchilla")
        answers.append(
            Answer(
                step=step,
                runs=arm,
                rows=len(loaded),
                N="with head" if with_head else "without head",
                C="exact" if exact else "6 N D",
                a=approaches.approach3(loaded, fitted).a,
                a_isoflop=approaches.approach2(loaded).a,
                alpha=fitted.params["alpha"],
                beta=fitted.params["beta"],
                loss_at_largest=float(own.sort_values(["N", "D"])["loss"].iloc[-1]),
                warnings=tuple(warning.code for warning in fitted.warnings),
            )
        )
    return answers


def lines(answers: list[Answer]) -> list[str]:
    return show.table(
        answers,
        {
            "step": lambda row: row.step,
            "N": lambda row: row.N,
            "C": lambda row: row.C,
            "a (law)": lambda row: show.interval(row.a, 3),
            "a (isoFLOP)": lambda row: show.interval(row.a_isoflop, 3),
            "loss at the largest": lambda row: f"{row.loss_at_largest:.4f}",
        },
    )


if __name__ == "__main__":
    experiment.command(__doc__, "exponents.json", analyse, lines)
