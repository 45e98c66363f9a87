"""Captions of rendered scenes by early fusion, and by late fusion, one flag apart.

    scaling run --config=experiments/fusion.py --workdir=runs/fusion-early
    scaling run --config=experiments/fusion.py:late --workdir=runs/fusion-late
    scaling run --config=experiments/fusion.py:frozen --workdir=runs/fusion-frozen    # late, its ViT as it was drawn
    scaling run --config=experiments/fusion.py:joint --workdir=runs/fusion-joint      # patches are predicted, too

Four sizes x three D, a second seed at two sizes: 18 cells. D counts positions of the stack, 22 an example: 16 patches
of 8 x 8 pixels and 6 of text; 16,384 to 65,536 pictures in batches of 32. Known, in nats per token of a caption and its
end: ln 19 = 2.944 at the start, 1.386 (five choices, six tokens) for what never looks at the picture, 0 at best.

``early`` took 737 s on two cores of an AMD EPYC with AVX-512 under a load of 19 (2026-11-22; `plan` says 108 s of one
idle core, pictures not counted):

    N         16,384 pictures   32,768   65,536   (seed 1)
      6,256   0.606             0.435    0.278    0.668  0.470  0.301
     24,768   0.583             0.364    0.198
     98,688   0.392             0.213    0.121    0.661  0.285  0.158
    154,064   0.727             0.444    0.191

``scaling fit --law=chinchilla``: alpha 0.98 [0.49, 2.6], beta 0.96 [0.91, 1.6], E 0 [0, 0.10], which holds the true
floor, residual 20 %; a 0.49 [0.30, 0.73], not identified. The largest size is no better than the one before it.
``late``, ``frozen`` and ``joint`` were not run yet.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
POSITIONS = 22
RATES = {"early": 0.01, "late": 0.0035, "frozen": 0.0035, "joint": 0.01}  # LOG.md, 2026-11-22, rates
VARIANTS = {
    "early": {},
    "late": {"fusion": "late"},
    "frozen": {"fusion": "late", "frozen": True},
    "joint": {"objective": "joint"},
}


def get_config(argument: str = "") -> ConfigDict:
    """The study of one of VARIANTS; early is the default."""
    variant = argument or "early"
    config = study.base("fusion", variant, VARIANTS)
    config.family = "fusion"
    config.model = {"patch": 8, **VARIANTS[variant]}
    config.data.scenes = {"source": "scenes"}
    config.recipe.batch, config.recipe.learning_rate = 32, RATES[variant]
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # tokens of captions, six each: 2,048 pictures
    tokens = tuple(pictures * K * POSITIONS for pictures in (16, 32, 64))
    config.cells.grid = study.block("grid", "scenes", (0, 2, 4, 5), tokens=tokens)
    config.cells.seeds = study.block("grid", "scenes", (0, 4), tokens=tokens, seeds=(1,), role="seed")
    return config
