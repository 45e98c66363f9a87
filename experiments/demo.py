"""The demo: a scaling law of small byte-level GPTs, fitted, used to predict, and tested by training.

    make demo                                             everything below, in a fresh environment
    scaling plan --config=experiments/demo.py             the cells and their price
    scaling run  --config=experiments/demo.py --workdir=runs/demo
    scaling fit runs/demo; scaling predict runs/demo; scaling report runs/demo

Two data sets. ``stdlib``: the bytes of this Python's standard library, real text. ``known``: a source with a power-law
spectrum whose entropy is known exactly, so that a fitted floor can be held against the truth. On each, five sizes from
6k to 99k non-embedding parameters, D from 0.26M tokens to 1M (small sizes: 4M) as decay branches of one WSD stem a size
and seed, and held-out cells beyond the ladder in N, in D and in both, on stems of their own; their losses stay sealed
until the forecasts are written.

On two idle cores (AMD EPYC with AVX-512, Python 3.11.7, jax 0.10.2, cold caches) `make demo` took 5 min 1 s in a fresh
clone, installation included, 8.4 CPU-minutes in all. On stdlib's 34 runs it gave E 1.20 [1.04, 1.29], alpha 0.481
[0.303, 0.698], beta 0.599 [0.517, 0.694], a 0.554 [0.454, 0.665]; the product form refuted (p 0.0004); held-out cells
missed by 1.3 % on average, 3 of 3 inside 95 %. The text differs between Python builds, and so do the numbers.

``--config=experiments/demo.py:smoke`` is the same study with the smallest cells, for a look at the whole path.
"""

from ml_collections import ConfigDict

from scaling import study

K, M = 2**10, 2**20


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for the smallest one."""
    config = study.base("demo", argument, ("smoke",))
    config.data.stdlib = {"source": "stdlib"}
    config.data.known = {"source": "zipf"}
    config.recipe.learning_rate = 0.02
    if argument:
        config.evaluation.tokens = 16 * K
        for name in ("stdlib", "known"):
            sizes, tokens = (0, 1, 2), (16 * K, 32 * K, 64 * K)
            config.cells[f"{name}_grid"] = study.block("grid", name, sizes, tokens=tokens)
            config.cells[f"{name}_seeds"] = study.block("grid", name, (0, 1), tokens=tokens, seeds=(1,), role="seed")
        config.cells.holdouts = study.block(
            "pairs", "stdlib", (3, 1, 3), tokens=(64 * K, 192 * K, 128 * K), seeds=(100,), role="holdout"
        )
        return config
    # At these D a byte-level model wants hundreds of tokens per parameter, so the small sizes go on to 4M: that brings
    # the compute-optimal size inside the ladder. The smallest D is 256 steps; below it the noise of seeds is above 1 %.
    for size, longest in ((0, 4 * M), (1, 4 * M), (2, 4 * M), (3, 2 * M), (4, M)):
        tokens = tuple(d for d in (256 * K, 512 * K, M, 2 * M, 4 * M) if d <= longest)
        config.cells[f"stdlib_{size}"] = study.block("grid", "stdlib", (size,), tokens=tokens)
    config.cells.known_grid = study.block("grid", "known", (0, 1, 2, 3, 4), tokens=(256 * K, 512 * K, M))
    for name in ("stdlib", "known"):
        config.cells[f"{name}_seeds"] = study.block(
            "grid", name, (1, 3), tokens=(256 * K, 512 * K, M), seeds=(1, 2), role="seed"
        )
    # Larger N; larger D; both, at 5.7 times the largest fitted compute. Each on a stem of its own.
    config.cells.holdouts = study.block(
        "pairs", "stdlib", (6, 2, 5), tokens=(512 * K, 6 * M, 5 * M), seeds=(100,), role="holdout"
    )
    return config
