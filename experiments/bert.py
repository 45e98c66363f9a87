"""Masked tokens against the causal model: allocation under each objective, on the bytes of Python's standard library.

    scaling tune --config=experiments/bert.py --out=runs/bert-mlm.json        # and :diffusion, :causal
    scaling plan --config=experiments/bert.py --json > mlm.json               # and :causal --json > causal.json
    scaling compare --expected mlm.json causal.json                           # what the comparison can tell
    scaling run  --config=experiments/bert.py --workdir=runs/bert-mlm
    scaling run  --config=experiments/bert.py:causal --workdir=runs/bert-causal
    scaling fit runs/bert-mlm --law=chinchilla; scaling fit runs/bert-causal --law=chinchilla
    scaling compare runs/bert-mlm runs/bert-causal

Five sizes (6k to 99k non-embedding parameters, the same stack in every arm) x four D from 0.5 to 4 MB, a second
seed at two sizes: 28 cells an arm, on the same bytes in the same order. ``mlm`` hides 15 %; ``diffusion`` a random
share with weight 1/t, a bound on nats/byte; ``causal`` is gpt. Losses of mlm and causal are on no common axis: compared
are exponents. Published at 1e19 FLOPs and more: N_opt ~ C^0.556 causal, C^0.760 mlm (Cheng 2024, arXiv 2411.02142).
``:large`` and ``:large-causal`` are the comparison for a GPU: 6M to 34M parameters, 50M to 400M tokens.

2026-11-22, 4.5 CPU-minutes an arm (AMD EPYC with AVX-512, jax 0.10.2). Expected before: a difference in a to +-0.20 at
95 %, seen with a chance of 80 % from 0.28 on. What came, losses at 0.5 and 4 MB, 95 % intervals:

| | N 6,256 | N 98,688 | alpha | beta | a | residual |
|---|---|---|---|---|---|---|
| mlm, nats/hidden byte | 2.27, 1.71 | 1.77, 1.17 | 0.21 [0.18, 0.63] | 0.32 [0.23, 0.48] | 0.60 [0.31, 0.71] | 3.0 % |
| causal, nats/byte | 2.09, 1.85 | 1.79, 1.45 | 0.51 [0.31, 0.73] | 0.63 [0.41, 0.86] | 0.55 [0.41, 0.69] | 1.1 % |

``compare``: a differs by 0.05 [-0.28, 0.22], cannot tell; beta by -0.31 [-0.54, -0.03], different: masked losses fall
more slowly with D here. No floor of mlm is identified. The form is wrong for causal by 1 % along
D (the card's warning ``stem_effects``).
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
ARMS = ("mlm", "diffusion", "causal", "large", "large-causal")
RATES = {"mlm": 0.01, "diffusion": 0.005, "causal": 0.028}  # LOG.md, 2026-11-22, rates


def get_config(argument: str = "") -> ConfigDict:
    """The study of one arm."""
    arm = argument or "mlm"
    config = study.base("bert", arm, ARMS)
    objective = arm.removeprefix("large-").replace("large", "mlm")
    if objective != "causal":
        config.family, config.model.objective = "bert", objective
    config.recipe.learning_rate = RATES[objective]
    config.data.stdlib = {"source": "stdlib"}
    sizes, twice, tokens = (0, 1, 2, 3, 4), (0, 2), (512 * K, 1024 * K, 2048 * K, 4096 * K)
    if arm.startswith("large"):
        config.model.context, config.model.dtype, config.recipe.batch = 512, "bfloat16", 64
        config.repeats = True
        sizes, twice, tokens = (12, 13, 14, 15), (12, 14), (5 * 10**7, 10**8, 2 * 10**8, 4 * 10**8)
    config.cells.grid = study.block("grid", "stdlib", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "stdlib", twice, tokens=tokens, seeds=(1,), role="seed")
    return config
