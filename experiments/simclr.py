"""Two views of every picture told from all others (SimCLR) on rendered scenes.

    scaling plan --config=experiments/simclr.py
    scaling run --config=experiments/simclr.py --workdir=runs/simclr
    scaling run --config=experiments/simclr.py:plain --workdir=runs/simclr-plain   # views whose colours stay
    scaling plan --config=experiments/simclr.py:large                              # sizes for a GPU

Four sizes (10,096 to 68,624 non-embedding parameters) x three D, a second and a third seed at three sizes: 30 cells. D
counts patches, 16 of 8 x 8 a picture, each seen in two views; 16,384 to 65,536 pictures in batches of 64. Evaluation:
4,096 pictures in batches of 64, each view among 127 others. Known: 4.844 = ln 127 where all vectors are alike, and no
less than 2.863, where the views of a picture are equal and the pictures a regular simplex (temperature 0.5), which 32
numbers have no room for; views that are too different to be told keep a loss above that, which is not known.

2026-11-30, Intel Xeon with AVX-512 (model 167), jax 0.10.2, two workers beside other work: 7 minutes, 418 CPU-seconds.

**Rate.** Loss at 0.0003, 0.000625, 0.00125, 0.0025, 0.005, seed 0: size 1 at 0.26M patches 4.370, 4.296, 4.182, 4.159,
4.204; size 3 at 1.05M 4.051, 3.983, 3.874, 3.875, 3.886. So 0.0025 is the best of five at one place,
and 0.001 behind its half at the other, where that costs 0.022 at the first.

**Loss** (nats per view), seeds 0, 1, 2; then the share of pictures whose nearest other has another label (32 labels:
shape and colour of the large object), their mean:

    N         0.26M patches              0.52M                      1.05M
     10,096   4.221, 4.268, 4.292  .80   4.072, 4.138, 4.161  .80   3.961, 3.984, 3.980  .82
     19,928   4.159, 4.225, 4.195  .78   3.957, 4.059, 3.995  .82   3.858, 3.953, 3.853  .84
     32,960   4.185, 4.170, 4.196  .79   3.974, 3.947, 4.023  .83   3.848, 3.840, 3.917  .84
     68,624   4.170                .78   3.989                .81   3.875                .82

``scaling fit``, Chinchilla's form, 30 runs: E 3.56 [2.69, 3.74], alpha 2.8 [0.29, 2.9], beta 0.50 [0.18, 0.93], a 0.15
[0.09, 0.63], not identified; residual 0.81 %, which the noise of seeds explains (p = 0.40). Beyond size 1 no gain in N
is seen. **A lower loss is not a better neighbour**: the more pictures are seen, the more often the nearest picture has
another label, at every size (.79 to .83 in the mean). A label is half a colour, which views change or remove; the arm
``plain``, which would tell, has not been run.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
RATES = (0.0003, 0.000625, 0.00125, 0.0025, 0.005)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``plain`` for views whose colours stay, ``rates`` for five learning rates at two places, ``large`` for
    the sizes of a GPU."""
    config, large = study.base("simclr", argument, ("plain", "rates", "large")), argument == "large"
    config.family = "simclr"
    config.model = {"patch": 8, "labels": 32, "jitter": 0.0 if argument == "plain" else 0.5}
    config.data.scenes = {"source": "scenes"}
    config.recipe.batch, config.recipe.learning_rate = 64, 0.0025
    config.evaluation = {"tokens": 24 * K, "batch": 64}  # of captions, six each: 4,096 pictures
    tokens = tuple(pictures * K * 16 for pictures in ((256, 512, 1024) if large else (16, 32, 64)))  # 16 a picture
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                cells = study.block("grid", "scenes", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8, 10) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", "scenes", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "scenes", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed")
    return config
