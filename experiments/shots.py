"""Which task is it? Answers after k examples whose task is not named: a loss and an error of the same questions.

    scaling run --config=experiments/shots.py --workdir=runs/shots
    scaling run --evaluate --workdir=runs/shots --shots=0,1,3,7 --out=shots.csv
    scaling run --config=experiments/shots.py:rates --workdir=runs/shots-rates

gpt on windows of eight prompts of one of four tasks, which only the answers tell; four sizes x three D, three seeds at
three sizes: 30 cells. A question has four candidates, so chance is 3/4. Known, in nats per token of an answer of three
symbols, of which a twentieth are wrong: -ln 0.95 = 0.051 for the right answer of a task that is known, and ln 4 / 3 =
0.462 more before the first example, where no candidate is likelier than another.

**The study has not been run to its end: this is its pilot.** 2026-11-30, two sizes, two D, three rates, one seed, 512
questions, standard errors of the share 0.003 to 0.025; Intel Xeon with AVX-512, jax 0.10.2. After 0, 1, 3, 7 examples:

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

Without an example all are at chance within 2.1 standard errors, as what is asked cannot be known. Nearly all that
examples teach, the first one does. The best run is 0.006 above the least loss after seven. From 1.05M to 4.19M tokens
size 0 (rate 0.01) halves the loss of the answer after one example and more (1.24 to 0.47), while its wrong choices go
from .72 to .50: the loss counts that symbols are learnt at all, of which the choice says nothing. Rates: 0.01 is
bracketed at size 0; 0.005, the lowest, is the best at size 3. Four places and one seed: no law is fitted, and no
emergence is shown or excluded.
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
