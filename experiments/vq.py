"""Pictures of rendered scenes through a codebook of 64 codes: a VQ-VAE's error, and how many codes it uses.

    scaling run --config=experiments/vq.py --workdir=runs/vq                      # moving averages, rows restarted
    scaling run --config=experiments/vq.py:none --workdir=runs/vq-none            # no restarts
    scaling run --config=experiments/vq.py:codebook --workdir=runs/vq-codebook    # a term of the loss
    scaling run --config=experiments/vq.py:rates --workdir=runs/vq-rates          # four rates at two places

Four sizes x three D, a second and a third seed at three sizes: 30 cells. D counts patches, 64 a picture of 32 x 32. The
noise of a picture alone costs 0.0056 (33 levels of a byte): no error can be less.

2026-11-30, Intel Xeon with AVX-512 (model 167), jax 0.10.2, one worker on two cores with a load of 5 to 10: 5 minutes,
114 CPU-seconds.

**Why codes collapsed.** Before the decoder has learnt anything, all vectors of the encoder contract to a few rows (size
1, decay 0.99: the distance to a row falls from 0.59 to 0.004 within 32 steps, the perplexity from 7.4 to 1.2), and no
row that is never chosen moves. One change at a time, perplexity and error after 256 steps at a rate of 0.01, seed 0:

    as it was                              1.4   0.054      restart 0.1                           43.6   0.056
    beta 0                                 2.1   0.046      restart 0.5                           17.7   0.058
    decay 0.9                              2.3   0.050      restart 0.1, decay 0.9                56.7   0.041
    rate 0.002                             1.8   0.048      restart 0.03, decay 0.9               51.7   0.047

So neither the commitment, nor the rate, nor faster averages alone; restarts are the cure (Jukebox, arXiv 2005.00341;
SoundStream, arXiv 2107.03312), with averages of ten steps rather than of a hundred. Rows from the encoder's first
vectors were not tried apart: with restarts they are, in effect, what dead rows become.

**Rate.** At 0.0025, 0.005, 0.01, 0.02: size 3 at 0.52M 0.0276, 0.0246, 0.0311, 0.0559 (of 33 codes; the vectors no
longer differ from their rows, 0.0001); size 1 at 0.13M 0.0550, 0.0548, 0.0541, 0.0484. 0.005 is bracketed at the first;
at the second it is 0.0064 worse than the largest, which is not usable at the first.

**Squared error** per pixel value, seeds 0, 1, 2; perplexity of the codes of 64 pictures, over all cells of a size:

    N          0.13M patches           0.26M                   0.52M                   perplexity
     13,536    .0550, .0450, .0445     .0414, .0351, .0366     .0285, .0258, .0238     32 to 58
     29,488    .0548, .0549, .0546     .0418, .0398, .0385     .0290, .0277, .0275     52 to 57
     51,584    .0469, .0548, .0433     .0361, .0447, .0340     .0271, .0280, .0248     51 to 58
    114,208    .0549                   .0366                   .0246                   54

**Codes no longer collapse**: 32 to 58 of 64 in all 30 cells (1.4 to 13 of 64 before, in 18). **But no law of N is
seen.** Seeds of a size differ by up to 0.012 at 0.13M and 0.005 at 0.52M, as much as sizes do; the error is mostly one
of D. ``scaling fit``, Chinchilla's form: residual 8.6 %, E 0 [0, 0.014], a 0.44 [0.16, 0.82], not identified. At 0.13M
six of ten runs are on a plateau of 0.055, pictures without what is in them. It does not show what follows beyond 0.52M
patches, the arms ``none`` and ``codebook`` (not run), nor more than one seed at the largest size.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
RATES = (0.0025, 0.005, 0.01, 0.02)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``none`` without restarts, ``codebook`` for a codebook that a term of the loss moves, and not moving
    averages, ``rates`` for learning rates at two places."""
    config = study.base("vq", argument, ("none", "codebook", "rates"))
    config.family = "vq"
    config.recipe.learning_rate = 0.005
    if argument == "codebook":
        config.model.objective = "codebook"
    else:
        config.model = {"decay": 0.9, "restart": 0.0 if argument == "none" else 0.1}
    config.data.scenes = {"source": "scenes"}
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # of captions, six each: 2,048 pictures
    tokens = tuple(count * K for count in (128, 256, 512))  # patches, 64 a picture
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                cells = study.block("grid", "scenes", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    config.cells.grid = study.block("grid", "scenes", (0, 1, 2, 3), tokens=tokens)
    config.cells.seeds = study.block("grid", "scenes", (0, 1, 2), tokens=tokens, seeds=(1, 2), role="seed")
    return config
