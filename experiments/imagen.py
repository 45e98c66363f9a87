"""Pictures from captions, with a text encoder that was trained on text alone: Imagen's layout, and what that was worth.

scaling plan --config=experiments/imagen.py
scaling run --config=experiments/imagen.py --workdir=runs/imagen
scaling fit runs/imagen --dataset=trained --law=chinchilla
python experiments/imagen.py --workdir=runs/imagen     # one encoder over the other; also written as imagen.json
scaling run --config=experiments/imagen.py:rates --workdir=runs/imagen-rates    # four rates at two places
scaling plan --config=experiments/imagen.py:large      # sizes for a GPU; not run
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.transfer import interval
from scaling import study
from scaling.blocks import captions
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.card import Interval

K = 2**10
POSITIONS, PATCHES = 21, 64  # of a document, and of a picture
RATE, RATES = 0.01, (0.005, 0.01, 0.02, 0.04)
BEFORE = {"tokens": (32 * K * POSITIONS,), "recipe": {"learning_rate": 0.0025, "batch": 16, "weight_decay": 0.003}}
# By arm, how its encoder is trained; a step at such a rate moves nothing, so that the last is as it was drawn.
ENCODERS: dict[str, dict[str, Any]] = {
    "trained": BEFORE,
    "undecayed": {**BEFORE, "recipe": {**BEFORE["recipe"], "weight_decay": 0.0}},
    "drawn": {"tokens": (16 * POSITIONS,), "recipe": {"learning_rate": 1e-9, "batch": 16, "warmup_steps": 1}},
}


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for four learning rates at two places of two arms, ``large`` for the sizes of a GPU."""
    config, large = study.base("imagen", argument, ("rates", "large")), argument == "large"
    config.family, config.recipe.batch, config.recipe.learning_rate = "dit", 32, RATE
    config.model = {"predicts": "x0", "condition": "text", "text_vocab": 20}
    config.data.documents = {"source": "interleaved"}
    config.evaluation = {"tokens": (48 if large else 12) * K, "batch": 64}  # of captions, six each: 2,048 pictures
    sizes, thousands = ((4, 5, 6, 8), (256, 512, 1024)) if large else ((0, 1, 2, 3), (8, 16, 32))
    amounts = tuple(count * K * PATCHES for count in thousands)
    seeds = (0,) if argument == "rates" else (0, 1, 2)
    for arm in ("trained", "drawn") if argument == "rates" else ENCODERS:
        config.data[arm], encoder = {"source": "scenes"}, ENCODERS[arm]
        told: dict[str, Any] = {"family": "t5", "model": {"context": POSITIONS}, "seeds": seeds}
        config.cells[f"{arm}_text"] = study.block("grid", "documents", (1,), **told, **encoder)
        start = {part: {"block": f"{arm}_text", "size": 1, "part": source} for part, source in captions.PARTS.items()}
        own: dict[str, Any] = {"tokens": amounts, "init_from": start}
        if argument == "rates":
            for rate in RATES:
                for place, size, count in (("short", 1, amounts[0]), ("long", 3, amounts[-1])):
                    own |= {"tokens": (count,), "recipe": {"learning_rate": rate}}
                    config.cells[f"{arm}_{place}_{rate:g}".replace(".", "_")] = study.block("grid", arm, (size,), **own)
        elif arm == "undecayed":
            few = {**own, "tokens": amounts[:2], "seeds": seeds}
            config.cells[f"{arm}_seeds"] = study.block("grid", arm, sizes[1:2], **few)
        else:
            config.cells[f"{arm}_grid"] = study.block("grid", arm, sizes, **own)
            few = {**own, "tokens": amounts[:2], "seeds": seeds[1:]}
            config.cells[f"{arm}_seeds"] = study.block("grid", arm, sizes[:3], role="seed", **few)
    return config


def variance(told: str, scenes: int = 300, rendered: int = 64) -> tuple[float, float]:
    """Mean variance of a pixel that is left, and its standard error: the least error of what sees nothing but noise.

    Args:
      told: ``caption``; ``bag``: its words in no order; ``nothing``.
    """
    import numpy as np

    from scaling.data import scenes as world

    source, rng, found = world.make(world.Config()), np.random.default_rng(0), []
    for _ in range(scenes):
        scene = np.repeat(rng.integers(world.CHOICES)[None], rendered, axis=0)
        if told == "nothing":
            scene = rng.integers(world.CHOICES, size=scene.shape)
        if told == "bag":  # of two colours and of two shapes, which is whose is not known
            for pair in ([0, 3], [1, 4]):
                swapped = rng.random((rendered, 1)) < 0.5
                scene[:, pair] = np.where(swapped, scene[:, pair[::-1]], scene[:, pair])
        places = world.places(scene, rng.random((rendered, 20)))
        starts = rng.integers(0, 2**63, rendered).astype(np.uint64)
        picture = source.render(scene, places, starts) / 127.5
        found.append(picture.var(axis=0, ddof=1).mean())
    return float(np.mean(found)), float(np.std(found)) / math.sqrt(scenes)


class Run(Value):
    """A finished run: its loss, and that under the captions of other pictures."""

    arm: str
    size: int
    seed: int
    D: int
    loss: float
    another: float


class Row(Value):
    """An arm at one D, against that whose encoder was trained: geometric means and 95 % t intervals.

    Attributes:
      runs: number of them. another: loss under another picture's caption over that under one's own.
      pairs: of runs of the same size and seed. ratio: the arm's loss over that with the trained encoder.
    """

    arm: str
    D: int
    runs: int
    another: Interval
    pairs: int
    ratio: Interval | None


def compared(runs: Sequence[Run]) -> list[Row]:
    """A row for each arm and D that has two runs."""
    at = {(run.D, run.size, run.seed): run.loss for run in runs if run.arm == "trained"}
    found = []
    for arm, amount in sorted({(run.arm, run.D) for run in runs}):
        own = [run for run in runs if (run.arm, run.D) == (arm, amount)]
        if len(own) < 2:
            continue
        pairs = [(run.loss, at[place]) for run in own if (place := (run.D, run.size, run.seed)) in at]
        ratio = None
        if arm != "trained" and len(pairs) > 1:
            ratio = interval([math.log(one / other) for one, other in pairs]).exp()
        another = interval([math.log(run.another / run.loss) for run in own]).exp()
        found.append(Row(arm, amount, len(own), another, len(pairs), ratio))
    return found


def analyse(workdir: Path) -> list[Row]:
    """The comparison of a work directory."""
    return compared(
        [
            Run(m.dataset, m.size, m.seed, m.tokens.D, *(result.evaluation[name].value for name in ("x0", "another")))
            for m, result in experiment.finished(workdir)
            if m.family == "dit"
        ]
    )


def lines(rows: Sequence[Row]) -> list[str]:
    """The comparison as a table."""

    def shown(each: Interval | None) -> str:
        return "" if each is None else f"{each.value:.3f} [{each.lo:.3f}, {each.hi:.3f}]"

    columns = {
        "arm": lambda row: row.arm,
        "D": lambda row: f"{row.D:,}",
        "runs": lambda row: row.runs,
        "another caption over one's own": lambda row: shown(row.another),
        "pairs": lambda row: row.pairs,
        "loss over trained": lambda row: shown(row.ratio),
    }
    return list(show.table(rows, columns))


if __name__ == "__main__":
    experiment.command(__doc__, "imagen.json", analyse, lines)
