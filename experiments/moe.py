"""Mixture of experts against the plain model at equal active parameters, and grouped queries.

    scaling run --config=experiments/moe.py --workdir=runs/moe
    scaling run --config=experiments/moe.py:dense --workdir=runs/moe-dense
    scaling run --config=experiments/moe.py:gqa --workdir=runs/moe-gqa

gpt with 4 experts, one used by each token, against gpt: the same active parameters but for the router. Four sizes x
three D on the bytes of Python's standard library, a second seed at two sizes: 18 cells each.

``moe`` took 160 s on two cores of an AMD EPYC with AVX-512 under a load of ten (2026-11-22):

    active N    N         0.13M   0.26M   0.52M   (seed 1)
      6,384      18,672   2.674   2.384   2.159   2.585  2.366  2.141
     14,168      41,816   2.607   2.277   2.013
     25,024      74,176   2.625   2.266   1.986   2.500  2.200  1.952
     55,952     166,544   2.413   2.125   1.877

The load balance ends at 1.04 to 1.06, where 1 is even. ``scaling fit --law=chinchilla`` on all parameters: alpha 0.16
[0.12, 1.1], beta 0.26 [0.22, 0.44], E and the allocation not identified. ``dense`` and ``gqa`` were not run yet.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
RATES = {"moe": 0.014, "dense": 0.028, "gqa": 0.028}  # LOG.md, 2026-11-22, rates


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``dense`` for the same without experts, ``gqa`` for shared keys and values."""
    arm = argument or "moe"
    config = study.base("moe", arm, RATES)
    config.data.stdlib = {"source": "stdlib"}
    config.model = {"moe": {"experts": 4}, "dense": {}, "gqa": {"kv_heads": 1}}[arm]
    config.recipe.learning_rate = RATES[arm]
    tokens = (512 * K, 1024 * K, 2048 * K, 4096 * K)
    config.cells.grid = study.block("grid", "stdlib", (0, 1, 2, 3), tokens=tokens)
    config.cells.seeds = study.block("grid", "stdlib", (0, 2), tokens=tokens, seeds=(1,), role="seed")
    return config
