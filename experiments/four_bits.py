"""What do four bits cost as D/N grows? Runs that are rounded after training, beside what they are without.

    scaling run --config=experiments/four_bits.py --workdir=runs/four-bits
    scaling run --evaluate --workdir=runs/four-bits --bits=4,3 --out=bits.csv
    scaling fit bits.csv --law=post_training --columns='loss=delta' --where='delta > 2 * delta_se'

gpt on a world of known entropy, four sizes x three D (a factor of 16, D/N from 1.2 to 168), three seeds: 36 cells.
`post_training` is the cost by N, D and bits, gamma_D its exponent in D.

Expected before: from the nine runs of LOG.md (what few bits cost) the cost at 4 bits goes as D to the power of about 1,
and a run's cost differs by perhaps 0.3 in its logarithm from seed to seed (a guess); 36 runs over a factor of 16 in D
then give the exponent to +-0.09.

2026-11-30, Intel Xeon with AVX-512, jax 0.10.2: 32 of the 36 runs (size 0 lacks four), about 190 CPU-seconds of
training. Nats that rounding costs, seed 0, +- the error by document:

    N, D/N at most     0.07M tokens               0.26M                      1.05M
                       4 bits         3 bits      4 bits         3 bits      4 bits         3 bits
     6,256, 168        .0022 +-.0003  .0102       .0039 +-.0007  .0335       .0072 +-.0008  .0631
    13,976, 75         .0005 +-.0003  .0024       .0041 +-.0005  .0206       .0039 +-.0007  .0285
    24,768, 42         .0011 +-.0002  .0162       .0026 +-.0004  .0181       .0042 +-.0006  .0352
    55,568, 19         .0002 +-.0002  .0025       .0011 +-.0002  .0070       .0010 +-.0003  .0073

**It grows with D and falls with N.** By least squares of ln cost on ln N and ln D (31 costs above 0 at 4 bits, 32 at
3), four bits cost as D to the 0.37 [0.16, 0.57] and N to the -0.58 [-0.88, -0.28]; three as D to the 0.62 [0.46, 0.78]
and N to the -0.62 [-0.86, -0.38]. ``scaling fit``, both: gamma_D 0.46 [0.35, 0.57], gamma_N 0.56 [0.32, 0.83], the
form rejected (p 0.0001). The residual standard deviation is 0.62, twice what was expected; an exponent of 1 is not
what these runs have. Not shown: larger models, other data, grouped scales; rows of one stem are taken for independent.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from scaling import study

K = 2**10
TEXT = {"source": "zipf", "exponent": 0.6, "peak": 8.0}


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``large`` for the sizes of a GPU."""
    config, large = study.base("four_bits", argument, ("large",)), argument == "large"
    config.data.text, config.keep_final = TEXT, True
    config.recipe = {"name": "width", "learning_rate": 0.01, "batch": 4, "warmup_steps": 20}
    config.evaluation.tokens = 16 * K
    sizes, tokens = (0, 1, 2, 3), tuple(count * K for count in (64, 256, 1024))
    if large:
        sizes, config.model.context, config.recipe["batch"] = (8, 10, 12, 14), 256, 32
        tokens = tuple(256 * count for count in tokens)
    config.cells.grid = study.block("grid", "text", sizes, tokens=tokens, seeds=(0, 1, 2))
    return config
