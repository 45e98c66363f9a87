"""What is pre-training worth in tokens of the text that a run is tuned on, at each N and D? And does it pay?

    scaling plan --config=experiments/transfer.py
    scaling run  --config=experiments/transfer.py --workdir=runs/transfer
    python experiments/transfer.py --workdir=runs/transfer      # the table; also written as transfer.json

Three curves on worlds whose entropy is exact, so that losses are compared by their nats above it: ``scratch``, on 0.06M
to 1M tokens; ``before``, pre-trained on 0.13M tokens of a text with the same 256 contexts and their preferences, but
flatter frequencies and softer answers (exponent 0 and peak 4, where the text has 0.6 and 8); ``tuned`` in full from
these, on 0.03M to 0.13M tokens of the text. gpt, four sizes, three seeds of everything: parent, child and curve share
a seed, so seeds are independent replications. D_T is the effective data transferred of Hernandez 2021 (arXiv
2102.01293): the tokens that a run from scratch needs on top for the loss of the tuned one, read off the curve between
its runs. ``once`` is the FLOPs of pre-training and tuning over those of a run from scratch with the same loss.

2026-11-30, 116 cells, 4.5e12 FLOPs, about 190 CPU-seconds (Intel Xeon with AVX-512, jax 0.10.2, one worker on a shared
core; the curve from scratch was trained in one go with parents of 0.5M tokens, the rest in a second). 95 % t intervals
of three seeds:

         N        D  excess  D_T                          once
     6,256   32,768  0.1724  235,938 [59,184, 940,563]    0.56
     6,256   65,536  0.1462  256,917 [58,677, 1,124,910]  0.56
     6,256  131,072  0.1185  270,456 [50,384, 1,451,777]  0.59
    13,976   32,768  0.1497  207,020 [161,814, 264,854]   0.68
    13,976   65,536  0.1274  221,251 [168,265, 290,922]   0.68
    13,976  131,072  0.1024  220,782 [123,953, 393,249]   0.74
    24,768   32,768  0.1097  281,999 [80,041, 993,540]    0.48
    24,768   65,536  0.0931  293,580 [67,592, 1,275,142]  0.50
    24,768  131,072  0.0735  303,675 [56,643, 1,628,079]  0.54
    55,568   32,768  0.0641  378,314 [207,416, 690,023]   0.39
    55,568   65,536  0.0543  402,780 [222,360, 729,590]   0.41
    55,568  131,072  0.0421  442,840 [201,042, 975,457]   0.45

Pre-training buys data at every N: 0.2M to 0.4M tokens of the text for 0.13M of another. D_T = k D^a N^b has a = 0.08
[0.04, 0.12]; **b is not identified**: 0.24 [-0.33, 0.80]. A tuned run costs 0.4 to 0.7 of one from scratch with the
same loss, its parent included: a token of the other text teaches more here than one of the text itself, perhaps as it
shows rare contexts more often (not tested). The nats of tuned runs have a standard deviation of 15 to 46 % over seeds,
so three of them leave a factor of 1.3 to 5.4 each way to D_T.

Rates: both are bracketed at two sizes, one D and one seed (half and twice: from scratch +18 and +19 % of those nats,
tuned +8 and +3 %). That of tuning was found in a pilot: at the rate of pre-training, four times as high, tuned runs
were 1.6 to 2.3 times as far from the entropy, and D_T would be too low. Not shown: other amounts of pre-training, whose
own rate was not bracketed; other distances between the texts; depth apart from width; D_T where tuned runs pass the
curve from scratch. ``:large`` is the same for a GPU and has not been run, ``:smoke`` two sizes at two seeds: a look at
the path, no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
RATE = {"scratch": 0.01, "tuned": 0.0025}
RATES = (0.5, 2.0)  # times that, at two sizes and one D, for what the rate costs
TEXT = {"source": "zipf", "exponent": 0.6, "peak": 8.0}
BEFORE = {"source": "zipf", "exponent": 0.0, "peak": 4.0}  # of the same world: contexts, their codes and their tables


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for a look at the path, ``large`` for a GPU."""
    config: Any = study.base("transfer", argument, ("smoke", "large"))
    config.recipe = {"name": "width", "learning_rate": RATE["scratch"], "batch": 4, "warmup_steps": 20}
    config.evaluation.tokens = 16 * K
    sizes, seeds = (0, 1, 2, 3), (0, 1, 2)
    before, scratch, tuned = M // 8, (64 * K, 128 * K, 256 * K, 512 * K, M), (32 * K, 64 * K, 128 * K)
    if argument == "smoke":
        sizes, seeds = (0, 1), (0, 1)
        before, scratch, tuned = 16 * K, (4 * K, 8 * K, 16 * K, 32 * K), (4 * K, 8 * K)
    if argument == "large":
        sizes, config.model.context, config.recipe["batch"] = (8, 10, 12, 14), 256, 32
        before, scratch, tuned = 16 * M, (8 * M, 16 * M, 32 * M, 64 * M, 128 * M), (4 * M, 8 * M, 16 * M)
    config.data.before = BEFORE
    for name in ("scratch", "tuned", "scratch_rates", "tuned_rates"):
        config.data[name] = TEXT
    start: dict[str, Any] = {"init_from": {"*": "before"}}
    config.cells.before = study.block("grid", "before", sizes, tokens=(before,), seeds=seeds)
    config.cells.scratch = study.block("grid", "scratch", sizes, tokens=scratch, seeds=seeds)
    rate = {"recipe": {"learning_rate": RATE["tuned"]}}
    config.cells.tuned = study.block("grid", "tuned", sizes, tokens=tuned, seeds=seeds, **rate, **start)
    for arm, further in (("scratch", {}), ("tuned", start)):
        for index, times in enumerate(RATES):
            fields = {"recipe": {"learning_rate": RATE[arm] * times}, **further}
            cells = study.block("grid", f"{arm}_rates", sizes[1::2], tokens=tuned[-1:], **fields)
            config.cells[f"{arm}_{index}"] = cells
    return config


def rows(workdir: Path) -> Any:
    """One row a finished run: arm, size, N, D, seed, rate, C, C_parents, and the nats above the entropy."""
    import pandas as pd

    found = []
    for manifest, result in experiment.finished(workdir):
        own = {"arm": manifest.dataset, "size": manifest.size, "seed": manifest.seed, "D": manifest.tokens.D}
        own |= {"N": manifest.parameters.nonembedding, "C": manifest.flops.training, "C_parents": manifest.parent_flops}
        entropy = manifest.data.entropy
        assert entropy is not None  # of a source that knows it
        own |= {"rate": manifest.recipe["learning_rate"], "excess": result.evaluation["loss"].value - entropy}
        found.append(own)
    return pd.DataFrame(found)


class Gain(Value):
    """What pre-training is worth to runs of one size and D.

    Attributes:
      excess: nats above the entropy, geometric mean over seeds.
      transferred: D_T, the tokens that a run from scratch needs on top for the same loss: geometric mean over seeds and
        its 95 % t interval. None if it is not positive, or out of reach, at some seed.
      beyond: seeds at which the tuned run is better than every run from scratch. none: seeds at which D_T <= 0, or
        the tuned run is worse than the shortest run from scratch.
      once: FLOPs of pre-training and tuning over those of a run from scratch with the same loss. repaid: how many tuned
        runs must share a pre-training to cost less than runs from scratch. Both None where ``transferred`` is.
    """

    size: int
    N: int
    D: int
    excess: float
    transferred: Interval | None
    beyond: int
    none: int
    once: float | None
    repaid: float | None


class Answer(Value):
    """Gains by size and D, the slopes of D_T = k D^a N^b, and what other rates give.

    Attributes:
      cells: of the fit: those whose D_T is known at every seed. a, b: mean over the fits to each seed, and its 95 % t
        interval; None with too few cells.
      rates: {arm: {times the rate: excess over that at the rate}}, geometric mean over sizes, of one seed.
    """

    gains: tuple[Gain, ...]
    cells: int
    a: Interval | None
    b: Interval | None
    rates: dict[str, dict[str, float]]


def equivalent(amounts: Sequence[float], excess: Sequence[float], reached: float) -> float:
    """D at which the curve from scratch reaches an excess loss, between its runs linear in logarithms.

    0 if the shortest run is better, infinity if none is as good.
    """
    import numpy as np

    order = np.argsort(amounts)
    tokens, falling = np.log(np.asarray(amounts)[order]), np.minimum.accumulate(np.log(np.asarray(excess)[order]))
    wanted = math.log(reached)
    if wanted > falling[0]:
        return 0.0
    if wanted < falling[-1]:
        return math.inf
    return float(math.exp(np.interp(-wanted, -falling, tokens)))


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t interval of independent values."""
    import numpy as np
    from scipy import stats

    from analysis.card import Interval

    centre, half = float(np.mean(values)), math.inf
    if len(values) > 1:
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Interval(value=centre, lo=centre - half, hi=centre + half)


def gain(tuned: Any, scratch: Any) -> tuple[Gain, dict[int, float]]:
    """The gain at one size and D, and log D_T by seed where it is known.

    Args:
      tuned: runs of one size and D, a seed each. scratch: those from scratch of the same size.
    """
    import numpy as np

    logs, beyond, none, costs = {}, 0, 0, []
    for row in tuned.itertuples():
        own = scratch[scratch["seed"] == row.seed]
        equal = equivalent(own["D"].tolist(), own["excess"].tolist(), float(row.excess))
        beyond, none = beyond + math.isinf(equal), none + (equal <= row.D)
        if row.D < equal < math.inf:
            logs[int(row.seed)] = math.log(equal - row.D)
            costs.append((row.C_parents, row.C, equal * float((own["C"] / own["D"]).mean())))
    known = len(logs) == len(tuned)
    parents, cost, alone = (float(x) for x in np.mean(costs, axis=0)) if known else (math.nan,) * 3
    mean = interval(list(logs.values())) if known else None
    first = tuned.iloc[0]
    found = Gain(
        size=int(first["size"]),
        N=int(first["N"]),
        D=int(first["D"]),
        excess=float(np.exp(np.log(tuned["excess"]).mean())),
        transferred=None if mean is None else mean.exp(),
        beyond=beyond,
        none=none,
        once=(parents + cost) / alone if known else None,
        repaid=parents / (alone - cost) if known and alone > cost else None,
    )
    return found, logs


def slopes(points: Sequence[tuple[int, int, dict[int, float]]]) -> tuple[Interval, Interval] | None:
    """a and b of D_T = k D^a N^b, fitted to each seed by least squares of log D_T.

    Args:
      points: N, D and log D_T by seed, of cells that have all seeds. None if they are too few to fit.
    """
    import numpy as np

    x = np.array([[1.0, math.log(d), math.log(n)] for n, d, _ in points]).reshape(-1, 3)
    if len(x) < 4 or np.linalg.matrix_rank(x) < 3:
        return None
    fits = [np.linalg.lstsq(x, [logs[seed] for *_, logs in points], rcond=None)[0] for seed in points[0][2]]
    return interval([float(fit[1]) for fit in fits]), interval([float(fit[2]) for fit in fits])


def analyse(workdir: Path) -> Answer:
    """The three curves, compared.

    Raises:
      UserError: an arm has fewer than two seeds (TOO_FEW).
    """
    table: Any = rows(workdir)
    seeds = [table[table["arm"] == arm]["seed"].nunique() for arm in ("scratch", "tuned")]
    if min(seeds) < 2:
        raise UserError("workdir", workdir, "needs two finished seeds of scratch and tuned", Code.TOO_FEW)
    scratch, tuned = (table[table["arm"] == arm] for arm in ("scratch", "tuned"))
    gains, points = [], []
    for (size, amount), own in tuned.groupby(["size", "D"]):
        found, logs = gain(own, scratch[scratch["size"] == size])
        gains.append(found)
        if found.transferred is not None:
            points.append((found.N, int(amount), logs))
    fitted = slopes(points)
    a, b = fitted or (None, None)
    return Answer(gains=tuple(gains), cells=len(points), a=a, b=b, rates=_rates(table))


def _rates(table: Any) -> dict[str, dict[str, float]]:
    import numpy as np

    found: dict[str, dict[str, list[float]]] = {}
    for row in table[table["arm"].str.endswith("_rates")].itertuples():
        arm = row.arm.removesuffix("_rates")
        same = (table["size"] == row.size) & (table["D"] == row.D) & (table["seed"] == row.seed)
        base = table[(table["arm"] == arm) & same]["excess"]
        if len(base):
            ratios = found.setdefault(arm, {}).setdefault(f"{row.rate / RATE[arm]:g}", [])
            ratios.append(math.log(row.excess / base.iloc[0]))
    return {arm: {times: math.exp(np.mean(x)) for times, x in own.items()} for arm, own in found.items()}


def lines(answer: Answer) -> list[str]:
    columns = {
        "N": lambda row: f"{row.N:,}",
        "D": lambda row: f"{row.D:,}",
        "excess": lambda row: f"{row.excess:.4f}",
        "D_T": lambda row: _transferred(row),
        "once": lambda row: "-" if row.once is None else f"{row.once:.2f}",
        "repaid by": lambda row: "-" if row.repaid is None else f"{row.repaid:.1f}",
    }
    found = show.table(answer.gains, columns)
    for name, cell in (("a", answer.a), ("b", answer.b)):
        text = "too few cells" if cell is None else f"{cell.value:.2f} [{cell.lo:.2f}, {cell.hi:.2f}]"
        found.append(f"slope {name} of D_T = k D^a N^b, from {answer.cells} cells: {text}")
    for arm, by_rate in answer.rates.items():
        shown = ", ".join(f"{value:.2f} at {times} times the rate" for times, value in by_rate.items())
        found.append(f"{arm}: the excess is {shown}")
    return found


def _transferred(row: Gain) -> str:
    if row.transferred is None:
        return f"not known ({row.beyond} seeds beyond the curve, {row.none} without a gain)"
    return f"{row.transferred.value:,.0f} [{row.transferred.lo:,.0f}, {row.transferred.hi:,.0f}]"


if __name__ == "__main__":
    experiment.command(__doc__, "transfer.json", analyse, lines)
