"""Diffusion of Gaussian fields, whose smallest loss is known exactly, and of rendered scenes.

    scaling plan --config=experiments/dit.py
    scaling run --config=experiments/dit.py --workdir=runs/dit              # predicts the noise (eps)
    scaling run --config=experiments/dit.py:v --workdir=runs/dit-v          # or v; x0: the data
    scaling run --config=experiments/dit.py:scenes --workdir=runs/dit-scenes
    scaling plan --config=experiments/dit.py:large                          # sizes for a GPU

Four sizes (14,304 to 102,752 non-embedding parameters) x three D, a second and a third seed at three sizes: 30 cells. D
counts patches, 16 of 2 x 2 x 3 numbers a field; 16,384 to 65,536 fields in batches of 64. Evaluation: 4,096 fields,
whose times are stratified over all 1000.

Known: the expected loss of the best prediction over the 1000 times, in ``scaling/data/gaussian.py``; E of a fit should
be that number, which no run may be below by more than its error.

    target    all      t < 250   250 to 499   500 to 749   750 to 999
    eps       0.2257   0.6943    0.1844       0.0232       0.0008
    v         0.8732   0.8323    0.7334       0.9301       0.9971
    x0        0.6475   0.1380    0.5489       0.9068       0.9963

**Not run yet**, and the learning rate is not bracketed: it is that of ``vit``. ``:rates`` is a study of five rates at
one size, to be run first.

It differs from a published study of DiT (Liang 2024, arXiv 2410.08184: latents of pictures, captions, 1e17 to 6e18
FLOPs) in all that makes pictures hard. It can show whether a fit finds a floor that is known, and how the excess loss
falls in N and in D; not what the exponents would be on pictures. ``:scenes`` has pictures and classes, and no floor
that is known.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
TARGETS = ("eps", "v", "x0")
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``eps``, ``v`` or ``x0`` for a target, ``scenes`` for pictures, ``rates`` for five learning rates at
    one size, ``large`` for the sizes of a GPU."""
    config, large = study.base("dit", argument, (*TARGETS, "scenes", "rates", "large")), argument == "large"
    config.family = "dit"
    config.recipe.batch, config.recipe.learning_rate = 64, 0.01
    if argument == "scenes":
        name, positions = "scenes", 64
        config.data.scenes = {"source": "scenes"}
        config.evaluation = {"tokens": 24 * K, "batch": 64}  # of captions, six each: 4,096 pictures
    else:
        name, positions = "fields", 16
        config.data.fields = {"source": "gaussian"}
        predicts = argument if argument in TARGETS else "eps"
        config.model = {"field": 8, "patch": 2, "classes": 0, "predicts": predicts}
        config.evaluation = {"tokens": 16 * 4 * K, "batch": 256}
    examples = (256, 512, 1024) if large else (16, 32, 64)
    tokens = tuple(count * K * positions for count in examples)
    if argument == "rates":
        for rate in RATES:
            cells = study.block("grid", name, (1,), tokens=tokens[:1], recipe={"learning_rate": rate})
            config.cells[f"rate_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8, 10) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", name, sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", name, sizes[:3], tokens=tokens, seeds=(1, 2), role="seed")
    return config
