"""Pictures and captions aligned and then read together, with a slow teacher and without one, at equal FLOPs (ALBEF).

    scaling plan --config=experiments/albef.py
    scaling run --config=experiments/albef.py --workdir=runs/albef
    scaling fit runs/albef --dataset=scenes --law=chinchilla        # and --dataset=plain
    scaling run --config=experiments/albef.py:rates --workdir=runs/albef-rates    # four rates at two places, both arms
    scaling plan --config=experiments/albef.py:large                              # sizes for a GPU

Does the teacher, 2 FLOPs a weight and position in its passes, pay? Data set ``scenes`` has it and a queue of four
batches; ``plain`` has neither and, at each size, 1.22 or 1.23 times the pairs, which cost as much. Four sizes (17,168
to 131,216) x 2,048 to 8,192 pairs (``plain``: more): 24 cells, seed 0. D counts positions, 22 a pair. The teacher keeps
0.99 a step, not the paper's 0.995: a run has 128 to 512 steps. Evaluation: 1,024 pairs in batches of 16.

Compare arms by ``contrast_plain`` (at the start ln 16 = 2.773, at best .0027, since two of 16 captions may be one of
3,840), ``words_plain`` (ln 19 = 2.944, at best 0) and ``retrieval``, in which no teacher has a part; not by
``contrast`` and ``words``, whose targets are the teacher's, nor by ``matching``, whose negatives are the harder the
better the contrast is.

2026-11-30, Intel Xeon with AVX-512, jax 0.10.2, two workers on two cores with a load of 18 to 45: 28 minutes, which
says little; ``plan`` asks for 24 s of two idle cores.

**Rate.** Sum of the three losses at 0.0025, 0.005, 0.01, 0.02, of size 0 on 2,048 pairs: with the teacher 6.26, 6.18,
6.34, 6.48, without 3.67, 3.38, 3.37, 5.13; of size 1 on 8,192: 2.60, 2.59, 2.85, 3.13 and 1.57, 1.50, 1.59, 2.48. So
0.005 is bracketed, 0.02 behind at one place. By ``contrast_plain`` alone the teacher's arm wants less: 1.46 and .190 at
0.0025, the least that was tried, for 1.60 and .215.

**Loss** at equal FLOPs, on 2,048, 4,096 and 8,192 pairs with the teacher; with it, then without:

    N          contrast_plain                        words_plain                         retrieval
     17,168    1.60 .797 .261   .948 .410 .212       1.93 1.48 1.04   1.65 1.10 .893     .67 .27 .118   .41 .14 .113
     35,696    1.46 .734 .215   .762 .342 .203       1.82 1.46 1.07   1.60 1.04 .899     .59 .29 .095   .24 .13 .107
     60,880    1.01 .348 .165   .844 .380 .212       1.79 1.27 .962   1.54 1.16 .893     .44 .12 .066   .33 .13 .112
    131,216    1.21 .407 .169   .608 .279 .186       1.84 1.24 .951   1.41 1.03 .885     .50 .15 .076   .21 .12 .105

**The teacher does not pay on few pairs, nor in words on any of these**: 0.07 to 0.43 nats behind in all twelve. In
contrast it is behind in nine, and ahead at the two largest sizes on 8,192 pairs (and once on 4,096), where 41 and 28 %
fewer are retrieved wrong: the arms may cross. One seed: which of these differences seeds would make is not known.

``scaling fit``, Chinchilla's form, 12 runs an arm: with the teacher ``words_plain`` alpha 0.32 [0.17, 2.4], beta 0.53
[0.48, 1.2], E 0 [0, 0.75], ``contrast_plain`` beta 1.5 [1.4, 2.8], E 0 [0, 0.16]; without it beta 1.3 [0.62, 2.2] and
1.5 [1.3, 1.9], and no gain in N is seen. **a is not identified** in any; residuals 3.6 to 20 %.
"""

from typing import Any

from ml_collections import ConfigDict

from scaling import count, families, study

K = 2**10
POSITIONS = 22  # of a pair: 16 patches of 8 x 8 pixels and 6 of text
RATE, RATES = 0.005, (0.0025, 0.005, 0.01, 0.02)
BATCH = 16
PLAIN = {"queue": 0, "alpha": 0.0}  # neither teacher nor queue


def longer(size: int, model: dict[str, Any], batch: int) -> float:
    """By how much more data costs as much without the teacher as some data with it, at a size of the ladder."""
    flops = []
    for fields in (model, {**model, **PLAIN}):
        config = families.configure(families.load("albef"), size, **fields)
        flops.append(sum(count.training_flops(families.load("albef").components(config), batch).values()))
    return flops[0] / flops[1]


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates``: four learning rates at two places for both arms, ``large``: sizes for a GPU."""
    config: Any = study.base("albef", argument, ("rates", "large"))
    large = argument == "large"
    sizes, thousands, batch = ((4, 6, 8, 10), (128, 256, 512), 256) if large else ((0, 1, 2, 3), (2, 4, 8), BATCH)
    model = {"patch": 8, "queue": 4 * batch, "decay": 0.99}
    config.family, config.model = "albef", model
    config.data.scenes = {"source": "scenes", "held": True}
    config.data.plain = {"source": "scenes", "held": True}
    config.recipe.batch, config.recipe.learning_rate = batch, RATE
    config.evaluation = {"tokens": 6 * K, "batch": 16}  # of captions, six each: 1,024 pairs
    tokens = tuple(count * K * POSITIONS for count in thousands)
    if argument == "rates":
        for rate in RATES:
            for place, size, amount in (("short", 0, tokens[0]), ("long", 1, tokens[-1])):
                for arm, own in (("scenes", {}), ("plain", PLAIN)):
                    fields: dict[str, Any] = {"recipe": {"learning_rate": rate}, "model": own}
                    cells = study.block("grid", arm, (size,), tokens=(amount,), **fields)
                    config.cells[f"{arm}_{place}_{rate:g}".replace(".", "_")] = cells
        return config
    for size in sizes:
        more = longer(size, model, batch)
        equal = tuple(round(more * amount) for amount in tokens)
        config.cells[f"taught_{size}"] = study.block("grid", "scenes", (size,), tokens=tokens)
        config.cells[f"plain_{size}"] = study.block("grid", "plain", (size,), tokens=equal, model=PLAIN)
    return config
