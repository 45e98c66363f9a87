"""Contrast of pictures and captions on rendered scenes, with zero-shot classification and retrieval measured.

    scaling run --config=experiments/clip.py --workdir=runs/clip
    scaling run --config=experiments/clip.py:noise --workdir=runs/clip-noise     # 30 % of captions are another scene's
    scaling run --config=experiments/clip.py:sound --workdir=runs/clip-sound     # a third tower hears the scene

Four sizes x three D, a second seed at two sizes: 18 cells. D counts positions, 22 a pair: 16 patches of 8 x 8 pixels
and 6 of text; 16,384 to 65,536 pairs in batches of 64. Evaluation has batches of 64 whatever the training batch, and
the unit of the loss says so: ln 64 = 4.159 at the start, as for any guess that ignores the picture. At best 0.0106:
two of 64 captions may be the same one of 4,096.

At a learning rate of 0.02 it took 667 s on two cores of an AMD EPYC with AVX-512 under a load of 19 (2026-11-22; `plan`
says 103 s of one idle core, pictures not counted). Nats per pair, and the share of pictures classified wrongly without
a label seen (chance: 0.969):

    N         16,384 pairs   32,768        65,536        (seed 1)
     12,512   0.606 0.725    0.301 0.705   0.217 0.719   1.027 0.689   0.389 0.639   0.279 0.586
     49,536   2.562 0.876    1.760 0.847   0.572 0.711
    197,376   0.664 0.633    0.393 0.645   0.241 0.502   0.778 0.789   0.501 0.776   0.453 0.776
    308,128   0.614 0.786    0.520 0.734   0.321 0.690

``scaling fit --law=chinchilla``: beta 1.31 [1.17, 2.0], E 0.033 [0.008, 0.44], which holds the floor; alpha at its
bound of 0 and the allocation not identified, residual 49 %. D counts here, N does not show.
"""

from ml_collections import ConfigDict

from scaling import study
from scaling.errors import UserError

K = 2**10
POSITIONS = 22


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``noise`` for captions of which 30 % tell of another scene, ``sound`` for a third tower."""
    if argument not in ("", "noise", "sound"):
        raise UserError("config argument", argument, "this experiment knows noise, sound or none")
    config = study.base("-".join(filter(None, ("clip", argument))))
    config.family = "clip"
    config.model.patch = 8
    variants = {"noise": {"swap": 0.3}, "sound": {"sound": True}}
    config.data.scenes = {"source": "scenes", **variants.get(argument, {})}
    config.recipe.batch, config.recipe.learning_rate = 64, 0.005
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # tokens of captions, six each: 2,048 pairs
    positions = POSITIONS + (10 if argument == "sound" else 0)
    tokens = tuple(pairs * K * positions for pairs in (16, 32, 64))
    config.cells.grid = study.block("grid", "scenes", (0, 2, 4, 5), tokens=tokens)
    config.cells.seeds = study.block("grid", "scenes", (0, 4), tokens=tokens, seeds=(1,), role="seed")
    return config
