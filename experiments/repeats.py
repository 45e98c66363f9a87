"""What a repeated token is worth: 1 to 32 epochs of a small corpus, read causally or by masked diffusion.

    scaling plan --config=experiments/repeats.py            # and :diffusion, with --json for `compare --expected`
    scaling run --config=experiments/repeats.py --workdir=runs/repeats-causal
    scaling run --config=experiments/repeats.py:diffusion --workdir=runs/repeats-diffusion
    scaling fit runs/repeats-causal --law=repeats           # R_D: repetitions after which more are worth little

Five sizes of gpt (6k to 99k non-embedding parameters), or of bert with masked diffusion, on 128 kB of Python's standard
library; D from a quarter of it (one epoch and less) to 32 epochs in steps of two, a second seed at two sizes. Both arms
share sizes, D, seeds and the bytes they see. The losses are of one text: nats/byte exactly for gpt, a bound on them for
diffusion. Question (Nie 2024, arXiv 2410.18514, states it at 1e18 FLOPs and more): does diffusion gain from more epochs
where the causal model has begun to overfit?

``:large`` and ``:large-diffusion`` are the same question for a GPU: 6M to 34M parameters on 8 MB, up to 64 epochs.
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
ARMS = ("causal", "diffusion", "large", "large-diffusion")
RATES = {"causal": 0.028, "diffusion": 0.005}  # as in bert.py


def get_config(argument: str = "") -> ConfigDict:
    """The study of one arm."""
    arm = argument or "causal"
    config = study.base("repeats", arm, ARMS)
    config.repeats = True
    config.recipe.learning_rate = RATES["diffusion" if arm.endswith("diffusion") else "causal"]
    if arm.endswith("diffusion"):
        config.family, config.model.objective = "bert", "diffusion"
    large = arm.startswith("large")
    unique, epochs = (8 * 10**6, 64) if large else (128 * K, 32)
    config.data.small = {"source": "stdlib", "limit": unique}
    if large:
        config.model.context, config.model.dtype, config.recipe.batch = 1024, "bfloat16", 64
    tokens, more = [], unique // 4
    while more <= unique * epochs:
        tokens.append(more)
        more *= 2
    sizes, twice = ((12, 13, 14, 15), (12, 14)) if large else ((0, 1, 2, 3, 4), (0, 2))
    config.cells.grid = study.block("grid", "small", sizes, tokens=tuple(tokens))
    config.cells.seeds = study.block("grid", "small", twice, tokens=tuple(tokens), seeds=(1,), role="seed")
    return config
