"""Does the best learning rate stay where it is as the model grows, and under which parametrisation?

    scaling plan --config=experiments/lr_transfer.py
    scaling run  --config=experiments/lr_transfer.py --workdir=runs/lr_transfer
    python experiments/lr_transfer.py --workdir=runs/lr_transfer          # the table; also written as transfer.json

Learning rates a factor sqrt 2 apart, three seeds, at widths 16 to 128 (two layers, heads of 8) under standard, width
and mup, and at 2 to 16 layers (width 32) under mup and completep. The head is not tied, so that standard differs from
mup in the learning rates of matrices alone. Nine rates a shape, a factor of 16: under standard they are centred half
way between staying and falling with the width, so that neither answer lies at the edge. 131,072 bytes of stdlib a run,
128 steps of 16 x 64.

The answer is the exponent e of lr* ~ width^e (or layers^e): one parabola in log learning rate for all shapes of a
parametrisation (``decide.tune``), its interval jackknifed over runs, and what it makes of lr* over the whole range.
0 is transfer. Width 1/m in the learning rate of matrices is what mup does; the width rule differs from it in a tied
table alone, so with this head the two must agree, and only mup is trained.

405 runs, 4.9e13 FLOPs, 14 minutes of one idle CPU core by `scaling plan` (AMD EPYC with AVX-512, jax 0.10.2). Noise of
a run is about 2 % of its loss, and grows with the rate. 2026-11-22, 95 % intervals:

| axis | parametrisation | lr* ~ axis^e | over the range of 8 | best at each |
|---|---|---|---|---|
| width | standard | -0.85 [-1.7, -0.47] | 0.17 [0.03, 0.38] | 0.057 (edge), 0.016, 0.011, 0.0044 |
| width | mup | 0.08 [-0.14, 0.31] | 1.2 [0.75, 1.9] | 0.019, 0.016, 0.031, 0.0047 |
| layers | mup | 0.06 [-0.34, 0.73] | 1.1 [0.49, 4.6] | 0.016, 0.015, 0.019, 0.019 |
| layers | completep | 0.59 [0.33, 1.2] | 3.4 [2.0, 12] | 0.016, 0.045, 0.044, 0.08 (edge) |

So mup's optimum stays with width where standard's falls almost as 1/width. Over depth mup needs no help at this length,
and completep's optimum rises: with 16 layers 128 steps end at 2.46 at a rate of 0.02 and at 2.42 at 0.08.

``:smoke`` is two widths and two depths, three rates and two seeds: a look at the path, no answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from scaling import study
from scaling.errors import UserError
from scaling.records import Manifest, Result
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.card import Interval
    from analysis.decide.tune import SweptCell

K = 2**10
BASE_WIDTH, BASE_DEPTH, RATE = 32, 2, 0.02
AXES = {"width": ("standard", "mup"), "layers": ("mup", "completep")}


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for the smallest one."""
    config, smoke = study.base("lr_transfer", argument, ("smoke",)), argument == "smoke"
    config.data.stdlib = {"source": "stdlib"}
    config.recipe = {"name": "width", "warmup_steps": 20, "base_width": BASE_WIDTH, "base_depth": BASE_DEPTH}
    widths, depths = ((16, 32), (2, 4)) if smoke else ((16, 32, 64, 128), (2, 4, 8, 16))
    steps, seeds, tokens = (1, (0, 1), 16 * K) if smoke else (4, (0, 1, 2), 128 * K)
    config.evaluation.tokens = (16 if smoke else 128) * K
    shapes = [
        (axis, name, width, BASE_DEPTH)
        for axis, names in AXES.items()
        for name in names
        for width in widths
        if axis == "width"
    ]
    shapes += [("layers", name, BASE_WIDTH, depth) for name in AXES["layers"] for depth in depths]
    for axis, name, width, depth in shapes:
        centre = RATE * (BASE_WIDTH / width) ** 0.5 if name == "standard" else RATE
        for step in range(-steps, steps + 1):
            config.cells[f"{axis}_{name}_{width}x{depth}_{step + steps}"] = study.block(
                "grid",
                "stdlib",
                (0,),
                tokens=(tokens,),
                seeds=seeds,
                model={"width": width, "layers": depth, "heads": width // 8, "tied": False},
                recipe={"parametrisation": name, "learning_rate": centre * 2 ** (step / 2)},
            )
    return config


def rows(workdir: Path) -> Any:
    """One row a finished run: parametrisation, width, layers, learning_rate, seed, loss."""
    import pandas as pd

    return pd.DataFrame([_row(manifest, result) for manifest, result in experiment.finished(workdir)])


def _row(manifest: Manifest, result: Result) -> dict[str, Any]:
    recipe, config = manifest.recipe, manifest.config
    return {
        "run": manifest.run,
        "stem": manifest.stem,
        "seed": manifest.seed,
        "width": config["width"],
        "layers": config["layers"],
        "parametrisation": recipe["parametrisation"],
        "learning_rate": recipe["learning_rate"],
        "D": float(manifest.tokens.D),
        "batch": float(manifest.tokens.per_step),
        "loss": result.evaluation["loss"].value,
    }


class Answer(Value):
    """How the best learning rate moves along an axis (width or layers) under a parametrisation.

    Attributes:
      exponent: e of lr* ~ axis^e; None where the sweep shows no best rate, and ``reason`` why.
      span: largest over smallest of the axis. factor: by which lr* changes over it.
      optima: the best at each shape, whose N is the axis. noise, curvature, runs: of the fit.
    """

    axis: str
    parametrisation: str
    exponent: Interval | None = None
    reason: str = ""
    span: float | None = None
    factor: Interval | None = None
    optima: tuple[SweptCell, ...] = ()
    noise: float | None = None
    curvature: Interval | None = None
    runs: int | None = None


def analyse(workdir: Path) -> list[Answer]:
    """For each axis and parametrisation: the exponent of the best learning rate, and the best one at each shape."""
    from analysis.card import Interval
    from analysis.decide import tune

    table, answers = rows(workdir), []
    for axis, names in AXES.items():
        fixed = {"width": ("layers", BASE_DEPTH), "layers": ("width", BASE_WIDTH)}[axis]
        for name in names:
            # At the base shape all parametrisations are one program, and its runs serve both.
            base = (table["width"] == BASE_WIDTH) & (table["layers"] == BASE_DEPTH) & (name != "standard")
            own = table[(table[fixed[0]] == fixed[1]) & ((table["parametrisation"] == name) | base)]
            own = own.drop_duplicates([axis, "learning_rate", "seed"])
            own["N"] = own[axis].astype(float)
            try:
                found = tune.fit(own)
            except UserError as error:
                answers.append(Answer(axis=axis, parametrisation=name, reason=str(error)))
                continue
            exponent, span = found.rate_law.p, float(own["N"].max() / own["N"].min())
            lo, hi = (None if end is None else span**end for end in (exponent.lo, exponent.hi))
            answers.append(
                Answer(
                    axis=axis,
                    parametrisation=name,
                    exponent=exponent,
                    span=span,
                    factor=Interval(value=span**exponent.value, lo=lo, hi=hi),
                    optima=found.optima,
                    noise=found.noise,
                    curvature=found.curvature,
                    runs=found.runs,
                )
            )
    return answers


def lines(answers: list[Answer]) -> list[str]:
    return show.table(
        answers,
        {
            "axis": lambda row: row.axis,
            "parametrisation": lambda row: row.parametrisation,
            "lr* ~ axis^e": lambda row: show.interval(row.exponent, 2),
            "over the range": lambda row: show.interval(row.factor, 3) if row.exponent else row.reason,
            "best at each": lambda row: ", ".join(f"{cell.N:g}: {_best(cell)}" for cell in row.optima),
        },
    )


def _best(cell: SweptCell) -> str:
    found = cell.learning_rate
    return f"{cell.best_run:.3g} (edge)" if found is None else f"{found.value:.3g}"


if __name__ == "__main__":
    experiment.command(__doc__, "transfer.json", analyse, lines)
