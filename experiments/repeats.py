"""What a repeated token is worth: 1 to 32 epochs of a small corpus, read causally or by masked diffusion.

    scaling plan --config=experiments/repeats.py            # and :diffusion, with --json for `compare --expected`
    scaling run --config=experiments/repeats.py --workdir=runs/repeats-causal
    scaling run --config=experiments/repeats.py:diffusion --workdir=runs/repeats-diffusion
    scaling run --config=experiments/repeats.py:fresh --workdir=runs/repeats-fresh        # and :fresh-diffusion
    scaling fit runs/repeats-causal --law=repeats           # R_D: repetitions after which more are worth little

Five sizes of gpt (6k to 99k non-embedding parameters), or of bert with masked diffusion, on 128 kB of Python's standard
library; D from a quarter of it (one epoch and less) to 32 epochs in steps of two, a second seed at two sizes. Both arms
share sizes, D, seeds and the bytes they see. ``fresh`` and ``fresh-diffusion`` are the same cells on new bytes: what an
epoch is worth is told by them, and not by a law alone. The losses are of one text: nats/byte exactly for gpt, a bound
on them for diffusion. Question (Nie 2024, arXiv 2410.18514, states it at 1e18 FLOPs and more): does diffusion gain from
more epochs where the causal model has begun to overfit?

``:large`` and ``:large-diffusion`` are the same question for a GPU: 6M to 34M parameters on 8 MB, up to 64 epochs.

**Measured without the arms of fresh bytes**, and with a diffusion that was not given the byte before the text, which
gpt is given (CHANGELOG.md); not run again since.

2026-11-22, about 4 CPU-minutes an arm (AMD EPYC with AVX-512, jax 0.10.2). Expected before: beta to +-0.02, a to
+-0.15. Nats/byte by epochs, 95 % intervals:

| | N | 1 | 2 | 4 | 8 | 16 | 32 | R_D |
|---|---|---|---|---|---|---|---|---|
| causal | 6,256 | 2.473 | 2.287 | 2.145 | 2.069 | 2.038 | 2.026 | 2.5 [2.2, 3.8]; |
| | 98,688 | 2.254 | 2.024 | 1.885 | 1.898 | 2.079 | 2.570 | to 8 epochs 3.5 [3.2, 9.5] |
| diffusion | 6,256 | 3.174 | 3.126 | 3.115 | 3.099 | 2.809 | 2.569 | no end seen: 21 or more |
| | 98,688 | 3.126 | 2.850 | 2.687 | 2.438 | 2.274 | 2.171 | |

**Yes**: the causal model is best at 4 epochs at the largest size, at 8 and 16 at the next ones, and not past its best
by 32 at the smallest; diffusion gains up to 32 at every size. What its repetitions are worth in new bytes these runs
cannot tell: there was no arm of fresh ones. It has not come below the causal model's best (1.885) by then. A loss that
rises again is no law of this form (residual 5.4 %; 1.6 % up to 8 epochs), E, a and R_N are not identified, and below
one epoch diffusion has not left the loss of the bytes' frequencies (3.1).
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
ARMS = ("causal", "diffusion", "fresh", "fresh-diffusion", "large", "large-diffusion")
RATES = {"causal": 0.028, "diffusion": 0.005}  # as in bert.py


def get_config(argument: str = "") -> ConfigDict:
    """The study of one arm."""
    arm = argument or "causal"
    config = study.base("repeats", arm, ARMS)
    config.repeats = not arm.startswith("fresh")
    config.recipe.learning_rate = RATES["diffusion" if arm.endswith("diffusion") else "causal"]
    if arm.endswith("diffusion"):
        config.family, config.model.objective = "bert", "diffusion"
    large = arm.startswith("large")
    unique, epochs = (8 * 10**6, 64) if large else (128 * K, 32)
    config.data.small = {"source": "stdlib", "limit": unique if config.repeats else 0}
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
