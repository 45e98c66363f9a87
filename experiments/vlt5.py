"""VL-T5 on rendered scenes: missing words, questions, matching and captions as one text-to-text model.

    scaling run --config=experiments/vlt5.py --workdir=runs/vlt5
    scaling run --config=experiments/vlt5.py:rates --workdir=runs/vlt5-rates
    scaling plan --config=experiments/vlt5.py:large            # sizes for a GPU; not run

Four sizes (20,512 to 147,360 parameters that are no table) x 16,384 to 65,536 examples, three seeds at three sizes, 30
cells; a picture is its two objects' regions; each task has a quarter of the examples. Floors given the picture are 0;
a token of an answer costs 0.832 without it.

2026-11-30, Intel Xeon with AVX-512, jax 0.10.2, two workers under a load of 12: 10 minutes, 284 CPU-seconds. Nats per
target token, seed 0 (three seeds at the first three sizes):

    N         examples   span    vqa     match   caption
     20,512   16,384     0.600   0.880   0.380   1.454
              65,536     0.316   0.469   0.071   0.790
     41,472   65,536     0.091   0.133   0.048   0.241
     69,600   65,536     0.104   0.152   0.008   0.271
    147,360   16,384     0.468   0.709   0.350   1.161
              65,536     0.087   0.129   0.019   0.233

Chinchilla's form, 95 %: beta 1.19 [1.03, 1.91], 1.22 [1.07, 1.98], 1.56 [1.21, 2.86] and 1.14 [1.00, 1.91], alpha 1.45
[0.80, 2.79], 1.51 [0.83, 2.88], 1.56 [0.74, 2.89] and 1.47 [0.80, 2.76],
a 0.45 [0.29, 0.67], 0.45 [0.29, 0.68], 0.50 [0.34, 0.75] and 0.44 [0.30, 0.68], E 0 at best. None is
identified, residuals are 29 to 74 %, and **the tasks' exponents cannot be told apart**. Losses are a staircase:
captions stop near 0.69 = 3 ln 4 / 6 (colours alone) and 0.23 = ln 4 / 6 (all but where the large object is); which step
a run is on is its seed's.

**Rate.** Mean of the four losses at 0.001, 0.002, 0.004, 0.008, seed 0: size 1 on 32,768 examples 0.436, 0.566, 0.452,
0.783; size 3 on 65,536 0.117, 0.347, 0.352, 0.352. 0.001 is the best and the lowest that was tried: not bracketed from
below (0.0005 of ``:rates`` was not run). Not shown: more data, patches, shares of the tasks, grounding.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
POSITIONS = 8  # two regions and six of the caption
RATE, RATES = 0.001, (0.0005, 0.001, 0.002, 0.004, 0.008)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for five learning rates at two places, ``large`` for the sizes of a GPU."""
    config, large = study.base("vlt5", argument, ("rates", "large")), argument == "large"
    config.family = "vlt5"
    config.model = {"vocab": 24, "regions": 2}
    config.data.graphs = {"source": "graphs"}
    config.recipe.batch, config.recipe.learning_rate = 32, RATE
    config.evaluation = {"tokens": 24 * K, "batch": 256}  # words of 4,096 captions and their ends
    sizes, thousands = ((6, 8, 10, 12), (512, 1024, 2048)) if large else ((0, 1, 2, 3), (16, 32, 64))
    tokens = tuple(count * K * POSITIONS for count in thousands)
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("narrow", 1, tokens[1]), ("wide", 3, tokens[2])):
                cells = study.block("grid", "graphs", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    config.cells.grid = study.block("grid", "graphs", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "graphs", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed")
    return config
