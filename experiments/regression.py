"""How many points does a Transformer need to know a line that it has never seen? Against the exact answer.

    scaling run --config=experiments/regression.py --workdir=runs/regression
    scaling run --config=experiments/regression.py:rates --workdir=runs/regression-rates

Eight points of a function of two numbers, new in every example, without noise; four sizes x three D (points), three
seeds at three sizes: 30 cells. Known: 1 at the start, and after k points at best 1, 1/2, 0, 0 ..., so 0.1875 a point;
least squares reaches it.

2026-11-30, Intel Xeon with AVX-512 (model 167), jax 0.10.2, one worker; 28 of the 30 runs, about 210 CPU-seconds, 30
minutes of a core under a load of 16 to 45. Squared error, seeds 0, 1, 2 (standard errors 0.003 to 0.015):

    N          0.26M points            0.52M                   1.05M
     6,304     .511, .315, .333        .337, .286              .292, .262
    14,048     .708, .299, .558        .462, .272, .431        .249, .254, .352
    24,864     .442, .294, .284        .331, .265, .254        .277, .240, .238
    55,712     .311                    .265                    .242

Excess over the best prediction of the same points, at 1.05M points and seed 0, by how many points are known:

    N          none     1        2 and 3    4 to 7
     6,304     -.001    .015     .236       .088
    14,048     -.001    .013     .157       .042
    24,864     .000     .021     .213       .068
    55,712     -.001    .010     .146       .033

**Where nothing is known, all are at the floor; with one point 0.01 to 0.02 above it; where the function is known, far
above it.** Two points tell it exactly, and after two or three the largest model still has 0.15 of the variance 1 of y;
after four to seven 0.03. So what is left is not the statistics but the arithmetic, in which more points help. No run is
below the floor.

**Seeds differ by more than sizes do**: .708 and .299 at one place. A run stays near 1 at the points that it could know
until it learns to use the pairs, and then falls; seeds differ in when. With four numbers and twelve points in place of
two and eight, a pilot at 0.38M points had not left the plateau (1.006, seed 0, rates 0.0025 and 0.01, size 3).

**No law is identified.** ``scaling fit``, 28 runs: Chinchilla's form E 0 [0, 0.264], a 0.74 [0.16, 0.89], residual
22 %, which the seeds explain (p 0.59); a product of powers with a floor 0.164 [0.014, 0.268]. Both hold 0.1875.

Rate: in a pilot of two sizes at 0.51M and 1.54M points 0.0025 beats 0.005 in all four places (.266 against .468, .233
against .311 at size 3; .339 against .456, .285 against .312 at size 0); nothing lower was tried, so it is not
bracketed (``rates`` would). Not shown: noise, where ridge regression is the best; more numbers; depth, which is two
layers at every size. ``:large`` has not been run.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from scaling import study

K = 2**10
POINTS, DIMS = 8, 2
RATES = (0.00125, 0.0025, 0.005)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for three learning rates at two places, ``large`` for the sizes of a GPU."""
    config, large = study.base("regression", argument, ("rates", "large")), argument == "large"
    dims, context = (16, 40) if large else (DIMS, POINTS)
    config.family, config.data.linear = "regression", {"source": "linear", "dims": dims}
    config.model = {"dims": dims, "context": context}
    config.recipe.batch, config.recipe.learning_rate = 32, RATES[1]
    config.evaluation = {"tokens": 2048 * context, "batch": 256}
    tokens = tuple((64 if large else 1) * count * K for count in (256, 512, 1024))
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("narrow", 0, tokens[2]), ("wide", 3, tokens[1])):
                cells = study.block("grid", "linear", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", "linear", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "linear", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed")
    return config
