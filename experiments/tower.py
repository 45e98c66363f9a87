"""Is early fusion ahead of a frozen tower that is really pre-trained? With the tower's FLOPs in, and out.

    scaling run --config=experiments/tower.py --workdir=runs/tower
    python experiments/tower.py --workdir=runs/tower      # the comparison; also written as tower.json
    scaling run --config=experiments/tower.py:rates --workdir=runs/tower-rates

Captions of rendered scenes, as in `fusion.py`: four sizes x three D, three seeds at three sizes, by early fusion and by
late fusion whose ViT a run of ``vit`` of the same seed has learnt to name the large object with, on 32,768 other
pictures, and which then stays as it is. 70 cells. At each D the loss of the tower is held against that of early fusion
of the same size and seed; and its FLOPs, without and with those of its pre-training, against those that early fusion
needs for the same loss, read off its own three runs.

Expected before: by the seeds of `fusion.py` a logarithm of a loss has a standard deviation of 0.12 (early) to 0.28
(late), so ten pairs tell a loss ratio of 1.24 or more from 1 at 95 %.

2026-11-30, Intel Xeon with AVX-512, jax 0.10.2, one worker, four and a half minutes beside other work. D of 180,224,
360,448 and 720,896 positions, ten pairs each; the tower's loss, and its FLOPs without and with its pre-training, over
those of early fusion:

    D          loss                 FLOPs, tower out     tower in             pairs within early's runs
    180,224    0.95 [0.86, 1.06]    0.52 [0.47, 0.57]    2.10 [1.91, 2.32]    7; 3 are worse than its shortest run
    360,448    1.49 [1.31, 1.68]    0.91 [0.80, 1.02]    2.24 [2.06, 2.44]    9; 1 is better than its longest run
    720,896    2.05 [1.76, 2.38]    1.67 [1.45, 1.91]    2.89 [2.58, 3.24]    10

**With the tower's FLOPs early fusion is ahead at every D. Without them the tower is ahead where captions are few,
at about half of the FLOPs, and behind where they are many.** The first row's FLOPs are of seven pairs of ten: the three
that are worse than all of early fusion's runs have no such ratio, so that it is too low. That the ViT's task helps the
captions is likely, since they name its object; another was not tried. Rates are those of older studies; ``:rates`` was
not run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.transfer import equivalent, interval
from scaling import study
from scaling.blocks import tower
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.card import Interval

K = 2**10
POSITIONS, PATCHES = 22, 16  # of the stack, and of a picture
RATE = {"early": 0.01, "tower": 0.0035, "vit": 0.01}  # LOG.md, 2026-11-22, rates; that of vit as flamingo's
TIMES = (0.5, 2.0)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for the rate at one place, ``large`` for the sizes of a GPU."""
    config, large = study.base("tower", argument, ("rates", "large")), argument == "large"
    config.family, config.model = "fusion", {"patch": 8}
    config.data.early = config.data.tower = {"source": "scenes"}
    config.data.pictures = {"source": "scenes", "world": 1}  # other pictures
    config.recipe.batch = 32
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # tokens of captions, six each: 2,048 pictures
    sizes, thousands = ((8, 10, 12, 13), (512, 1024, 2048)) if large else ((0, 2, 4, 5), (8, 16, 32))
    before = thousands[-1] * K * PATCHES
    tokens = tuple(count * K * POSITIONS for count in thousands)
    late = {"fusion": "late", "frozen": True}
    for size in sizes[1:2] if argument == "rates" else sizes:
        seeds = (0, 1, 2) if size in sizes[:3] and argument != "rates" else (0,)
        shown: dict[str, Any] = {"family": "vit", "model": {"layers": _vision(size), "patch": 8}, "seeds": seeds}
        shown["recipe"] = {"learning_rate": RATE["vit"]}
        config.cells[f"vit_{size}"] = study.block("grid", "pictures", (size,), tokens=(before,), **shown)
        start = {part: {"block": f"vit_{size}", "part": source} for part, source in tower.PARTS.items()}
        for arm in ("early", "tower"):
            more: dict[str, Any] = {} if arm == "early" else {"model": late, "init_from": start}
            for name, times in [(arm, 1.0)] if argument != "rates" else [(f"{arm}_{x:g}", x) for x in (*TIMES, 1.0)]:
                rate = {"learning_rate": RATE[arm] * times}
                cells = study.block("grid", arm, (size,), tokens=tokens, seeds=seeds, recipe=rate, **more)
                config.cells[f"{name}_{size}".replace(".", "_")] = cells
    return config


def _vision(size: int) -> int:
    """Blocks of the tower: as many as a fusion of the size has for pictures."""
    from scaling.families import fusion

    return fusion.ladder(size)["vision_layers"]


class Run(Value):
    """A finished run of a caption's loss: nats per token, and FLOPs without and with those of its parents."""

    arm: str
    size: int
    seed: int
    D: int
    loss: float
    C: float
    C_all: float


class Row(Value):
    """Tower against early fusion at one D, over pairs of the same size and seed.

    Attributes:
      pairs: number of them. loss: the tower's loss over that of early fusion: geometric mean and 95 % t interval.
      out, whole: its FLOPs without and with the pre-training of the tower, over those that early fusion needs for the
        same loss, read off its own three runs: geometric mean and 95 % t interval over the pairs where it is between
        them. inside: number of these. better, worse: pairs whose tower is better than the longest early run, or worse
        than the shortest.
    """

    D: int
    pairs: int
    loss: Interval
    out: Interval | None
    whole: Interval | None
    inside: int
    better: int
    worse: int


def compared(runs: Sequence[Run]) -> list[Row]:
    """A row for each D."""
    early: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        if run.arm == "early":
            early.setdefault((run.size, run.seed), []).append(run)
    found = []
    for amount in sorted({run.D for run in runs if run.arm == "tower"}):
        ratios, costs, outside = [], [], []
        for run in (each for each in runs if each.arm == "tower" and amount == each.D):
            curve = early[run.size, run.seed]
            (same,) = [each.loss for each in curve if amount == each.D]
            ratios.append(math.log(run.loss / same))
            needed = equivalent([each.C for each in curve], [each.loss for each in curve], run.loss)
            if 0 < needed < math.inf:
                costs.append((math.log(run.C / needed), math.log(run.C_all / needed)))
            else:
                outside.append(needed)
        out, whole = (interval(values).exp() for values in zip(*costs)) if len(costs) > 1 else (None, None)
        counts = len(costs), sum(each > 0 for each in outside), sum(each == 0 for each in outside)
        found.append(Row(amount, len(ratios), interval(ratios).exp(), out, whole, *counts))
    return found


def analyse(workdir: Path) -> list[Row]:
    """The comparison of a work directory."""
    return compared(
        [
            Run(m.dataset, m.size, m.seed, m.tokens.D, result.evaluation["text"].value, c, c + m.parent_flops)
            for m, result in experiment.finished(workdir)
            if m.family == "fusion" and (c := float(m.flops.training))
        ]
    )


def lines(rows: Sequence[Row]) -> list[str]:
    """The comparison as a table."""

    def shown(each: Interval | None) -> str:
        return "" if each is None else f"{each.value:.2f} [{each.lo:.2f}, {each.hi:.2f}]"

    return list(
        show.table(
            rows,
            {
                "D": lambda row: f"{row.D:,}",
                "pairs": lambda row: row.pairs,
                "loss": lambda row: shown(row.loss),
                "FLOPs, tower out": lambda row: shown(row.out),
                "in": lambda row: shown(row.whole),
                "inside": lambda row: row.inside,
                "better": lambda row: row.better,
                "worse": lambda row: row.worse,
            },
        )
    )


if __name__ == "__main__":
    experiment.command(__doc__, "tower.json", analyse, lines)
