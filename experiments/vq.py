"""Pictures of rendered scenes through a codebook of 64 codes: a VQ-VAE's error, and how many codes it uses.

    scaling run --config=experiments/vq.py --workdir=runs/vq                      # moving averages
    scaling run --config=experiments/vq.py:codebook --workdir=runs/vq-codebook    # a term of the loss

Four sizes x three D, a second seed at two sizes: 18 cells. D counts patches, 64 a picture of 32 x 32. The noise of a
picture alone costs 0.0056 (33 levels of a byte): no error can be less.

2026-11-30, about 4 CPU-minutes (AMD EPYC with AVX2, jax 0.10.2; one worker on two cores with a load of 20 to 28 took 29
minutes). Squared error per pixel value, and the perplexity of the codes of 64 pictures; seed 1 in brackets.

    N         0.13M patches   0.26M           0.52M           perplexity
     13,536   0.058 (0.058)   0.054 (0.043)   0.040 (0.028)    1.5 (1.7)   1.6 (2.1)   2.0 (2.7)
     29,488   0.057           0.053           0.046            1.4         1.5         1.5
     51,584   0.059 (0.056)   0.043 (0.043)   0.035 (0.032)    1.4 (1.7)   1.9 (1.9)   2.1 (2.1)
    114,208   0.055           0.037           0.025            9.2        12.0        13.3

**Codes collapse at three of four sizes**: these use one to three of 64, the largest nine to thirteen, and the error
follows the codes in use: at 0.52M the two seeds of the smallest size (0.040, 0.028) differ by more than sizes do. So no
law of N is fitted here: it would be one of the collapse. No code is restarted. Nor does it show more: the rate is that
of vit's mim, not bracketed, there are two seeds at two sizes, and the arm ``codebook`` has not been run.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``codebook`` for a codebook that a term of the loss moves, instead of moving averages."""
    config = study.base("vq", argument, ("codebook",))
    config.family = "vq"
    config.model.objective = argument or "ema"
    config.recipe.learning_rate = 0.01
    config.data.scenes = {"source": "scenes"}
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # of captions, six each: 2,048 pictures
    tokens = tuple(count * K for count in (128, 256, 512))  # patches, 64 a picture
    config.cells.grid = study.block("grid", "scenes", (0, 1, 2, 3), tokens=tokens)
    config.cells.seeds = study.block("grid", "scenes", (0, 2), tokens=tokens, seeds=(1,), role="seed")
    return config
