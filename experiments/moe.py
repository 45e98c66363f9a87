"""Mixture of experts against the plain model at equal active parameters, and grouped queries.

    scaling run --config=experiments/moe.py --workdir=runs/moe
    scaling run --config=experiments/moe.py:dense --workdir=runs/moe-dense
    scaling run --config=experiments/moe.py:gqa --workdir=runs/moe-gqa
    scaling fit runs/moe --law=chinchilla --n=nonembedding_active              # and runs/moe-dense
    scaling compare runs/moe runs/moe-dense --n=nonembedding_active

gpt with 4 experts, one used by each token, against gpt: the same active parameters but for the router. Four sizes x
four D on the bytes of Python's standard library, a second seed at two sizes: 24 cells each. ``:large`` and
``:large-dense`` are the comparison for a GPU: 6M to 34M active parameters, 50M to 400M tokens.

2026-11-22, 3 CPU-minutes an arm (AMD EPYC with AVX-512, jax 0.10.2). Expected before: a difference in
a to +-0.30 at 95 %. What came, in nats/byte (seed 1 in brackets):

             active N         N   0.5M           1.0M           2.1M           4.2M
    dense       6,256     6,256   2.088 (2.085)  1.970 (1.966)  1.894 (1.893)  1.846 (1.847)
    experts     6,384    18,672   2.162 (2.145)  1.986 (1.970)  1.861 (1.850)  1.776 (1.757)
    dense      55,568    55,568   1.837          1.660          1.545          1.473
    experts    55,952   166,544   1.899          1.698          1.564          1.470

**Measured with a capacity by the example**: 1.25 within each 64 bytes, in evaluation too, which drops tokens. The code
has since been mended (groups of 1,024 tokens, capacity 2.0 in evaluation, ``dropless``; CHANGELOG.md), and the study
has not been run again. So what follows is of that capacity as much as of experts, above all where experts are behind,
and the FLOPs charge slots that ``dropless`` does not have:

Experts are behind where a token is scarce, ahead where it is not: the two lines cross between 1M and 2M tokens at the
smallest size, between 2M and 4M at the largest. ``compare`` on active N: a differs by 0.02 [-0.23, 0.27], cannot
tell; on the compute-optimal way dense needs 0.82 [0.72, 0.96] times the training FLOPs of experts for an equal loss
at 2e11, 0.88 [0.67, 1.3] at 1.4e12. The law's form is wrong along D for dense by 1 % (the card's warning
``stem_effects``). ``gqa``, one head of keys and values: a differs from dense by -0.08 [-0.30, 0.13], cannot tell, and
for an equal loss dense needs 1.0 [0.89, 1.1] times the FLOPs at 3e11 and 0.78 [0.56, 1.1] at 1.8e12.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
RATES = {"moe": 0.014, "dense": 0.028, "gqa": 0.028}  # LOG.md, 2026-11-22, rates
MODELS = {"moe": {"experts": 4}, "dense": {}, "gqa": {"kv_heads": 1}}
ARMS = (*MODELS, "large", "large-dense")


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``dense`` for the same without experts, ``gqa`` for shared keys and values."""
    arm = argument or "moe"
    config = study.base("moe", arm, ARMS)
    plain = arm.removeprefix("large-").replace("large", "moe")
    config.data.stdlib = {"source": "stdlib"}
    config.model = MODELS[plain]
    config.recipe.learning_rate = RATES[plain]
    sizes, twice, tokens = (0, 1, 2, 3), (0, 2), (512 * K, 1024 * K, 2048 * K, 4096 * K)
    if arm.startswith("large"):
        config.model = {**MODELS[plain], "context": 512, "dtype": "bfloat16"}
        config.recipe.batch, config.repeats = 64, True
        sizes, twice, tokens = (12, 13, 14, 15), (12, 14), (5 * 10**7, 10**8, 2 * 10**8, 4 * 10**8)
    config.cells.grid = study.block("grid", "stdlib", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "stdlib", twice, tokens=tokens, seeds=(1,), role="seed")
    return config
