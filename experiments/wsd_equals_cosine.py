"""Is a decay branch of a shared WSD stem as good as a cosine run made for its D? And what does sharing save?

    scaling plan --config=experiments/wsd_equals_cosine.py
    scaling run  --config=experiments/wsd_equals_cosine.py --workdir=runs/wsd_equals_cosine
    python experiments/wsd_equals_cosine.py --workdir=runs/wsd_equals_cosine      # the table; also in equivalence.json

Two sizes (25k and 99k parameters), D of 0.5, 1 and 2M bytes of stdlib, three seeds, four arms: ``branch``: the
branches of one stem a size and seed; ``whole``: WSD runs of the same lengths on stems of their own (other seeds; with
the same seed they would be the same bits); ``cosine``: a cosine to a tenth of the peak over each D, as Hoffmann 2022
(arXiv 2203.15556) trained; ``cosine to 0``. Same learning rate everywhere: it was chosen for WSD, so the comparison
leans, if at all, towards WSD.

The test is of equivalence (two one-sided tests at 5 %, so a 90 % interval inside the margin) with a margin of 0.3 % of
the loss, on the mean difference of log loss over sizes and D. Cosines and branch share seeds and data order and are
paired; what seeds and stems have in common is one cluster, so a size and seed counts once. The FLOPs saved are those
of the plan: the stem once, against a whole run for each D.

72 runs, 4.2e13 FLOPs, about 14 CPU-minutes (AMD EPYC with AVX-512, one worker on a shared core; 2026-11-22). Mean
difference of log loss with its 90 % interval, and by D:

    branch - whole        +0.41 % [-0.18, +0.99]   cannot tell   +0.7, +0.1, +0.4 %
    branch - cosine       -1.97 % [-2.11, -1.83]   different     -2.6, -1.7, -1.6 %
    branch - cosine to 0  -2.71 % [-2.88, -2.53]   different     -3.9, -2.5, -1.7 %

Not equal: the branches are better, least so for the longest runs, and cost 30 % less than the cosine runs (the 90 %
interval of three seeds holds no tuning: a cosine spends half of its steps below half of the peak, and the peak was
chosen for WSD, which these short runs of 512 to 2048 steps want high). Nothing says that branches of a stem differ from
whole runs; three seeds resolve 0.6 %, not the margin.

``:smoke`` is one size, two small D and two seeds: a look at the path, no answer.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from scaling import study
from scaling.errors import Code, UserError
from scaling.records import Manifest, read_study
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.card import Interval

K, M = 2**10, 2**20
MARGIN = 0.003
ARMS: tuple[str, ...] = ("branch", "whole", "cosine", "cosine to 0")


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for the smallest one."""
    config, smoke = study.base("wsd_equals_cosine", argument, ("smoke",)), argument == "smoke"
    config.data.stdlib = {"source": "stdlib"}
    sizes, tokens = ((0,), (64 * K, 128 * K)) if smoke else ((2, 4), (M // 2, M, 2 * M))
    seeds = (0, 1) if smoke else (0, 1, 2)
    config.evaluation.tokens = (16 if smoke else 256) * K
    config.cells.branch = study.block("grid", "stdlib", sizes, tokens=tokens, seeds=seeds)
    for index, amount in enumerate(tokens):
        own = tuple(100 * (index + 1) + seed for seed in seeds)
        config.cells[f"whole_{index}"] = study.block("grid", "stdlib", sizes, tokens=(amount,), seeds=own)
    for name, share in (("cosine", 0.1), ("cosine_to_0", 0.0)):
        recipe = {"schedule": "cosine", "final_fraction": share}
        config.cells[name] = study.block("grid", "stdlib", sizes, tokens=tokens, seeds=seeds, recipe=recipe)
    return config


def rows(workdir: Path) -> Any:
    """One row a finished run: arm, size, D, seed (of its position in the arm), log loss."""
    import pandas as pd

    found = []
    for manifest, result in experiment.finished(workdir):
        loss = math.log(result.evaluation["loss"].value)
        found.append(
            {
                "arm": arm_of(manifest),
                "size": manifest.size,
                "D": manifest.tokens.D,
                "seed": manifest.seed % 100,
                "y": loss,
            }
        )
    return pd.DataFrame(found)


def arm_of(manifest: Manifest) -> str:
    """The arm that a run belongs to."""
    if manifest.recipe["schedule"] == "cosine":
        return "cosine" if manifest.recipe["final_fraction"] else "cosine to 0"
    return "branch" if manifest.seed < 100 else "whole"


class Comparison(Value):
    """Mean difference of log loss of two arms, its 90 % interval and degrees of freedom, and the mean at each D.

    ``verdict``: ``equal`` where the interval is within the margin, ``different`` where it is outside, else
    ``cannot tell``.
    """

    one: str
    two: str
    difference: Interval
    df: float
    margin: float
    verdict: str
    by_D: dict[str, float]


class Answer(Value):
    """The comparisons, and training FLOPs by arm with the share that is ``saved``."""

    comparisons: tuple[Comparison, ...]
    flops: dict[str, float]
    runs: int


def difference(table: Any, one: str, two: str, *, paired: bool) -> Comparison:
    """Mean difference of log loss, ``one`` - ``two``, over cells, with its 90 % interval and the verdict.

    ``paired``: arms share seeds, and the mean difference of a size and seed is one observation. Otherwise the arms'
    runs are independent: each arm's means of a size and seed have their own variance (Welch), and those of an arm
    whose D share no stem are more independent than that says.
    """
    import numpy as np
    from scipy import stats

    from analysis.card import Interval

    means = {arm: table[table["arm"] == arm].groupby(["size", "seed"])["y"].mean() for arm in (one, two)}
    if paired:
        both = (means[one] - means[two]).dropna()
        # Sizes may differ for good: the noise is that of seeds within a size.
        groups = [group.to_numpy() for _, group in both.groupby("size")]
    else:
        groups = [
            m.loc[size].to_numpy() * sign
            for m, sign in ((means[one], 1), (means[two], -1))
            for size in sorted(set(table["size"]))
        ]
    sizes = table["size"].nunique()
    centre = sum(float(group.mean()) for group in groups) / sizes
    parts = [float(np.var(group, ddof=1)) / len(group) / sizes**2 for group in groups]
    error = math.sqrt(sum(parts))
    df = sum(parts) ** 2 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, groups))
    half = float(stats.t.ppf(0.95, df)) * error
    lo, hi = centre - half, centre + half
    equal = lo > -MARGIN and hi < MARGIN
    verdict = "equal" if equal else "different" if lo > MARGIN or hi < -MARGIN else "cannot tell"
    by_d = table.groupby(["arm", "D"])["y"].mean()
    return Comparison(
        one=one,
        two=two,
        difference=Interval(value=centre, lo=lo, hi=hi),
        df=df,
        margin=MARGIN,
        verdict=verdict,
        by_D={str(d): float(by_d[one, d] - by_d[two, d]) for d in sorted(set(table["D"]))},
    )


def spent(workdir: Path) -> dict[str, float]:
    """Training FLOPs of each arm as planned, and the share that sharing a stem saves over whole runs."""
    total = dict.fromkeys(ARMS, 0.0)
    for program in read_study(workdir).programs:
        total[arm_of(program.runs[0].manifest)] += program.flops
    return {**total, "saved": 1 - total["branch"] / total["cosine"]}


def analyse(workdir: Path) -> Answer:
    """The comparisons and the FLOPs."""
    table = rows(workdir)
    seeds = table.groupby(["arm", "size"])["seed"].nunique().unstack(fill_value=0)
    if len(seeds) < len(ARMS) or seeds.to_numpy().min() < 2:
        remedy = "needs two finished seeds of each arm and size; finish the study first"
        raise UserError("workdir", workdir, remedy, Code.TOO_FEW)
    found = tuple(difference(table, "branch", arm, paired=arm != "whole") for arm in ARMS[1:])
    return Answer(comparisons=found, flops=spent(workdir), runs=len(table))


def lines(answer: Answer) -> list[str]:
    flops = answer.flops
    columns = {
        "arms": lambda row: f"{row.one} - {row.two}",
        "log loss, 90 %": lambda row: _percent(row.difference),
        "margin": lambda row: f"{row.margin:.1%}",
        "verdict": lambda row: row.verdict,
        "by D": lambda row: ", ".join(f"{int(d):,}: {value:+.2%}" for d, value in row.by_D.items()),
    }
    cost = f"FLOPs: branches {flops['branch']:.3g}, cosine runs {flops['cosine']:.3g}: {flops['saved']:.0%} saved"
    return [*show.table(answer.comparisons, columns), cost]


def _percent(cell: Interval) -> str:
    return f"{cell.value:+.3%} [{cell.lo:+.3%}, {cell.hi:+.3%}]"


if __name__ == "__main__":
    experiment.command(__doc__, "equivalence.json", analyse, lines)
