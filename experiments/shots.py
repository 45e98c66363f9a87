"""Which task is it? Answers after k examples whose task is not named: a loss and an error of the same questions.

    scaling run --config=experiments/shots.py --workdir=runs/shots
    scaling run --evaluate --workdir=runs/shots --shots=0,1,3,7 --out=shots.csv
    scaling run --config=experiments/shots.py:rates --workdir=runs/shots-rates

gpt on windows of eight prompts of one of four tasks, which only the answers tell; four sizes x three D, three seeds at
three sizes: 30 cells. A question has four candidates, so chance is 3/4. Known, in nats per token of an answer of three
symbols, of which a twentieth are wrong: -ln 0.95 = 0.051 for the right answer of a task that is known, and ln 4 / 3 =
0.462 more before the first example, where no candidate is likelier than another.

2026-11-30, Intel Xeon with AVX-512, jax 0.10.2, 1,024 questions a run; means over the seeds, after 0, 1, 7 examples:

    N, D              nats per token of the right answer    share of wrong choices
     6,256, 1.05M     1.09  1.08  1.08                      .748  .714  .718
            2.10M      .85   .80   .81                      .749  .668  .677
            4.19M      .71   .46   .46                      .751  .387  .393
    13,976, 1.05M      .89   .85   .85                      .749  .703  .691
            2.10M      .66   .38   .35                      .758  .357  .320
            4.19M      .58   .18   .13                      .748  .103  .045
    24,768, 1.05M      .75   .64   .65                      .758  .554  .549
            2.10M      .60   .24   .21                      .764  .185  .150
            4.19M      .57   .13   .09                      .750  .054  .018
    55,568, 1.05M      .67   .44   .43                      .768  .460  .440
            2.10M      .60   .17   .11                      .748  .077  .035
            4.19M      .56   .09   .06                      .747  .030  .004

Without an example all are at chance, as what is asked cannot be known. Nearly all that examples teach, the first does.
**The error falls where the loss does, later and more steeply**: at size 0, from 1.08 to 0.81 nats it goes from .72 to
.68, from 0.81 to 0.46 to .39; nothing in it comes without a sign in the loss. **No law of the error holds**:
`downstream` and `downstream_sigmoid` on the loss of the same answers leave 16 % after one example and 29 to 33 % after
seven, and structure rejects both. Chinchilla's form of the loss after seven: E 0.27 [0.08, 0.37], where 0.051 is exact,
a 0.50 [0.29, 0.69]: rejected, and not identified.

**Rates**, a pilot of one seed and 512 questions: 0.01 is bracketed at size 0; 0.005, the lowest that was tried, is the
best at size 3. After 0, 1, 3, 7 examples:

    N       D      rate   nats per token of the right answer   share of wrong choices
     6,256  1.05M  0.005  1.305  1.271  1.203  1.218           .750  .731  .746  .742
                   0.01   1.248  1.243  1.244  1.236           .746  .723  .723  .707
                   0.02   1.334  1.302  1.292  1.265           .748  .736  .744  .725
            4.19M  0.005  0.748  0.587  0.589  0.585           .762  .551  .594  .533
                   0.01   0.653  0.471  0.463  0.442           .709  .500  .461  .451
                   0.02   0.698  0.659  0.669  0.658           .717  .658  .672  .664
    55,568  1.05M  0.005  0.668  0.426  0.396  0.434           .785  .457  .400  .443
                   0.01   0.623  0.574  0.566  0.581           .770  .631  .613  .672
                   0.02   0.815  0.779  0.769  0.754           .752  .693  .701  .688
            4.19M  0.005  0.560  0.087  0.058  0.057           .750  .023  .010  .004
                   0.01   0.559  0.098  0.079  0.084           .707  .037  .018  .023
                   0.02   0.573  0.113  0.075  0.073           .752  .027  .006  .012
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from scaling import study

M = 2**20
SYMBOLS, VOCABULARY, NOISE, BLOCKS = 3, 8, 0.05, 8
RATE = {0: 0.01, 1: 0.01, 2: 0.005, 3: 0.005}  # by size; the larger ones of ``large`` have the last
RATES = (0.0025, 0.005, 0.01, 0.02)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for four learning rates at two places, ``large`` for the sizes of a GPU."""
    config, large = study.base("shots", argument, ("rates", "large")), argument == "large"
    world: dict[str, Any] = {"named": False, "symbols": SYMBOLS, "vocabulary": VOCABULARY, "noise": NOISE}
    config.data.asked = {"source": "instructions", **world}
    config.model = {"context": BLOCKS * (2 * SYMBOLS + 2)}
    config.recipe.batch, config.keep_final = 16, True
    config.evaluation = {"tokens": 12 * 2**10, "batch": 64}  # of answers: 1,024 questions with four candidates each
    tokens = tuple((16 if large else 1) * count * M for count in (1, 2, 4))
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("narrow", 0, tokens[2]), ("wide", 3, tokens[0])):
                cells = study.block("grid", "asked", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    for size in (4, 5, 6, 8) if large else tuple(RATE):
        seeds = (0, 1, 2) if size < 3 else (0,)
        recipe = {"learning_rate": RATE.get(size, RATE[3])}
        config.cells[f"size_{size}"] = study.block("grid", "asked", (size,), tokens=tokens, seeds=seeds, recipe=recipe)
    return config
