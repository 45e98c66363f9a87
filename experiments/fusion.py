"""Captions of rendered scenes by early fusion, and by late fusion, one flag apart.

    scaling run --config=experiments/fusion.py --workdir=runs/fusion-early
    scaling run --config=experiments/fusion.py:late --workdir=runs/fusion-late
    scaling run --config=experiments/fusion.py:frozen --workdir=runs/fusion-frozen    # late, its ViT as it was drawn
    scaling run --config=experiments/fusion.py:joint --workdir=runs/fusion-joint      # patches are predicted, too
    scaling run --config=experiments/fusion.py:large                                  # and :large-late, for a GPU

Four sizes x three D, a second seed at two sizes: 18 cells. D counts positions of the stack, 22 an example: 16 patches
of 8 x 8 pixels and 6 of text; 16,384 to 65,536 pictures in batches of 32. Known, in nats per token of a caption and its
end: ln 19 = 2.944 at the start, 1.386 (five choices, six tokens) for what never looks at the picture, 0 at best.

N leaves out the projection of patches, 192 numbers to the width, which is counted since (CHANGELOG.md): 9,328 to
169,424. The tower of ``frozen`` is not trained by anything: this is no study of a pre-trained one.

2026-11-22, ``late`` 97 CPU-seconds (AMD EPYC with AVX-512, jax 0.10.2), at rates swept for each. Expected before: a
difference in a to +-0.34 at 95 %. Nats per token of a caption (seed 1 in brackets):

    size, N of early   16,384 pictures           32,768                    65,536
                       early          late       early          late       early          late
    0   6,256          0.627 (0.748)  1.036      0.410 (0.437)  0.639      0.270 (0.352)  0.370 (0.547)
    2  24,768          0.489          0.866      0.268          0.653      0.151          0.319
    4  98,688          0.438 (0.392)  0.873      0.294 (0.293)  0.467      0.199 (0.152)  0.416 (0.287)
    5  154,064         0.455          0.560      0.248          0.399      0.143          0.283

Early is the better one in every cell. ``compare``: exponents cannot be told apart (a by -0.48 [-0.55, 0.16]); for an
equal loss late needs 1.2 [0.2, 4.3] times the compute at 2e10 FLOPs, 2.8 [0.7, 9.7] at 4e10, and beyond that no bound
is known. Neither allocation is identified (residuals 10 and 18 %); both floors hold the true one: E 0 [0, 0.13] and 0
[0, 0.32].

``frozen`` (92 CPU-seconds), its tower as it was drawn: 0.831 (0.958), 0.700 (0.783), 0.616 (0.674) at size 0, 0.504,
0.406, 0.312 at size 5. It beats the trained tower on 16,384 pictures in all but one cell and loses on 65,536 in all
but one. ``joint`` (126 CPU-seconds): text 0.509 (0.882), 0.355 (0.378), 0.291 (0.292) at size 0, 0.326, 0.182, 0.123
at size 5, below ``early`` there, but above it at size 2 (0.240 against 0.151): no verdict.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
RATES = {"early": 0.01, "late": 0.0035, "frozen": 0.0035, "joint": 0.01}  # LOG.md, 2026-11-22, rates
VARIANTS = {
    "early": {},
    "late": {"fusion": "late"},
    "frozen": {"fusion": "late", "frozen": True},
    "joint": {"objective": "joint"},
}
ARMS = (*VARIANTS, "large", "large-late")


def get_config(argument: str = "") -> ConfigDict:
    """The study of one of ARMS; early is the default."""
    arm = argument or "early"
    config = study.base("fusion", arm, ARMS)
    variant = arm.removeprefix("large-").replace("large", "early")
    config.family = "fusion"
    config.model = {"patch": 8, **VARIANTS[variant]}
    config.data.scenes = {"source": "scenes"}
    config.recipe.batch, config.recipe.learning_rate = 32, RATES[variant]
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # tokens of captions, six each: 2,048 pictures
    positions, sizes, twice, thousands = 22, (0, 2, 4, 5), (0, 4), (16, 32, 64)
    if arm.startswith("large"):
        config.model = {**config.model, "patch": 4, "dtype": "bfloat16"}
        config.recipe.batch, config.evaluation = 256, {"tokens": 96 * K, "batch": 64}
        positions, sizes, twice, thousands = 70, (12, 13, 14, 15), (12, 14), (512, 1024, 2048, 4096)
    tokens = tuple(pictures * K * positions for pictures in thousands)
    config.cells.grid = study.block("grid", "scenes", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "scenes", twice, tokens=tokens, seeds=(1,), role="seed")
    return config
