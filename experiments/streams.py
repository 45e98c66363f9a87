"""One stream against two over the regions of a picture and its caption, at equal FLOPs.

    scaling run --config=experiments/streams.py --workdir=runs/streams
    python experiments/streams.py --workdir=runs/streams       # the comparison; also written as streams.json
    scaling run --config=experiments/streams.py:rates --workdir=runs/streams-rates
    scaling plan --config=experiments/streams.py:large         # sizes for a GPU; not run

Four sizes (one stream: 6k to 56k parameters that are no table) x three D, three seeds at three sizes, of both arms: 60
cells. A picture is its two objects' regions, whose class of 32 is told where one is hidden; the caption five words. At
a size, two streams cost 1.27 to 1.35 times the FLOPs of one. Each loss of two streams is held against that of one of
the same size and seed at the same FLOPs, on lines between the logarithms of its three runs.

Expected before: half-widths of a of 0.29 (one) and 0.25 (two), so that no allocation would be identified.

2026-11-30, Intel Xeon with AVX-512, jax 0.10.2, one worker: four and a half minutes beside other work. Losses of two
streams over those of one at equal FLOPs, ten pairs of size and seed each, geometric mean [95 % t interval]:

    positions    words               regions                matching
    131,072      0.94 [0.71, 1.24]   3.75 [1.87, 7.52]      1.38 [1.13, 1.70]
    262,144      1.09 [0.75, 1.59]   51.2 [16.9, 155]       2.29 [1.65, 3.18]

**Words: cannot be told. Regions and matching: one stream is ahead.** A region's class is told from the caption; one
stream learns to near 0 on 262,144 positions, two streams later. Chinchilla's form of the words: E 0 [0, 0.24] and
0.065 [0.014, 0.31], a 0.66 [0.28, 0.82] and 0.68 [0.20, 0.81]: neither is identified.

**Rate.** Sum of the three losses at 0.00125, 0.0025, 0.005, seed 0; 0.01 was tried at size 3 of two streams, where
words are at 0.69 for 0.24 at 0.005, and is not in ``:rates`` as run:

    one, size 1    4.85 3.55 2.79    one, size 3    1.43 0.49 0.37
    two, size 1    4.57 3.99 3.84    two, size 3    2.42 1.75 1.12

Not shown: sizes at their best D, other shares of the tasks, patches, the other units of the caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from experiments.transfer import interval
from scaling import study
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.card import Interval

K = 2**10
POSITIONS = 8  # two regions and six of text
RATE, RATES = 0.005, (0.00125, 0.0025, 0.005, 0.01)
ARMS: dict[str, dict[str, Any]] = {"one": {"streams": "one"}, "two": {"streams": "two"}}


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for four learning rates at two places, ``large`` for the sizes of a GPU."""
    config, large = study.base("streams", argument, ("rates", "large")), argument == "large"
    config.family = "streams"
    config.model = {"vocab": 24, "regions": 2, "predicts": "class"}
    config.recipe.batch, config.recipe.learning_rate = 64, RATE
    config.evaluation = {"tokens": 24 * K, "batch": 256}  # words of 4,096 captions and their ends
    sizes, thousands = ((8, 10, 12, 13), (256, 512, 1024)) if large else ((0, 1, 2, 3), (16, 32, 64))
    tokens = tuple(count * K * POSITIONS for count in thousands)
    for arm, model in ARMS.items():
        config.data[arm] = {"source": "graphs"}
        own: dict[str, Any] = {"model": model}
        if argument == "rates":
            for rate in RATES:
                for place, size, count in (("narrow", 1, tokens[0]), ("wide", 3, tokens[1])):
                    more = {**own, "recipe": {"learning_rate": rate}}
                    cells = study.block("grid", arm, (size,), tokens=(count,), **more)
                    config.cells[f"{arm}_{place}_{rate:g}".replace(".", "_")] = cells
            continue
        config.cells[arm] = study.block("grid", arm, sizes, tokens=tokens, **own)
        config.cells[f"{arm}_seeds"] = study.block(
            "grid", arm, sizes[:3], tokens=tokens, seeds=(1, 2), role="seed", **own
        )
    return config


class Run(Value):
    """A finished run: FLOPs, and the value of each term."""

    arm: str
    size: int
    seed: int
    D: int
    C: float
    losses: dict[str, float]


class Row(Value):
    """Losses of two streams over those of one at equal FLOPs: geometric mean over ``pairs``, and 95 % t interval."""

    term: str
    D: int
    pairs: int
    ratio: Interval


def compared(runs: Sequence[Run]) -> list[Row]:
    """A row for each term and each D of two streams at which one has runs of less and of more FLOPs."""
    one: dict[tuple[int, int], list[Run]] = {}
    for run in sorted((run for run in runs if run.arm == "one"), key=lambda run: run.C):
        one.setdefault((run.size, run.seed), []).append(run)
    found = []
    for term in runs[0].losses:
        for amount in sorted({run.D for run in runs}):
            ratios = []
            for run in (run for run in runs if run.arm == "two" and amount == run.D):
                curve = one.get((run.size, run.seed), [])
                if curve and curve[0].C <= run.C <= curve[-1].C:
                    c, loss = np.log([each.C for each in curve]), np.log([each.losses[term] for each in curve])
                    ratios.append(math.log(run.losses[term]) - float(np.interp(math.log(run.C), c, loss)))
            if len(ratios) > 1:
                found.append(Row(term, amount, len(ratios), interval(ratios).exp()))
    return found


def analyse(workdir: Path) -> list[Row]:
    """The comparison of a work directory."""
    return compared(
        [
            Run(
                arm=m.dataset,
                size=m.size,
                seed=m.seed,
                D=m.tokens.D,
                C=float(m.flops.training),
                losses={term: each.value for term, each in result.evaluation.items()},
            )
            for m, result in experiment.finished(workdir)
        ]
    )


def lines(rows: Sequence[Row]) -> list[str]:
    """The comparison as a table."""
    return list(
        show.table(
            rows,
            {
                "loss": lambda row: row.term,
                "D": lambda row: f"{row.D:,}",
                "pairs": lambda row: row.pairs,
                "two over one": lambda row: f"{row.ratio.value:.2f} [{row.ratio.lo:.2f}, {row.ratio.hi:.2f}]",
            },
        )
    )


if __name__ == "__main__":
    experiment.command(__doc__, "streams.json", analyse, lines)
