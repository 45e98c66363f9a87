"""BLIP-2 on rendered scenes: a Q-Former between a ViT and a language model that are not trained, in its two stages.

    scaling plan --config=experiments/blip2.py            # the first stage, and the ViTs that it inherits
    scaling run --config=experiments/blip2.py --workdir=runs/blip2
    scaling fit runs/blip2 --dataset=represented --law=chinchilla --n=trainable --term=text
    scaling run --config=experiments/blip2.py:rates --workdir=runs/blip2-rates    # four rates at two places
    scaling plan --config=experiments/blip2.py:generate   # the second stage on one seed of the first; not run
    scaling plan --config=experiments/blip2.py:large      # sizes for a GPU; not run

First stages of four sizes (44,048 to 134,672 parameters that are no table, of which a ViT of size 2 has 30,912; 13,617
to 105,201 are trained) on 8,192 to 32,768 pictures with true captions, each from a ViT of its seed. D counts positions
of text, six a picture. Evaluation: 2,048 other pictures, in batches of 32 as in training.

Known. Contrast: ln 32 = 3.466 at first, and no less than 0.651, the entropy of the smoothed targets (a little more,
since captions of a batch may be equal). Matching: ln 2 = 0.693 at first, 0.637 for what knows the shares of right and
wrong alone. Text: ln 20 = 2.996 near its start, 1.386 for what knows captions and sees nothing, 0.809 for what knows
the large object of a picture and nothing else, and 0 at best.

2026-11-30, Intel Xeon with AVX-512 (model 167), jax 0.10.2, two workers on two cores with a load of 30 to 50: no time
of its own can be given. The workers of ``rates`` had used 597 CPU-seconds when 26 of 40 records were done. ``plan``
asks for 1.5 minutes of one idle core, which these loads do not confirm. Runs that ``rates`` and the study share were
trained once.

**Rate.** The sum of the three losses at 0.0025, 0.005, 0.01, 0.02, seed 0: size 1 on 8,192 pictures 2.994, 2.857,
2.969, 3.050; size 3 on 32,768 2.050, 2.030, 2.048, 2.125. So 0.005 is bracketed at both. By itself the contrast on few
pictures has 1.300 at 0.0025 for 1.340, and the text 0.926 at twice the rate for 0.933.

**Loss**, seeds 0, 1, 2, at 8,192, 16,384 and 32,768 pictures, by trained parameters:

    contrast
       13,617    1.345, 1.382, 1.395      1.176, 1.205, 1.205      1.061, 1.084, 1.085
       28,449    1.340, 1.261, 1.372      1.136, 1.114, 1.167      1.019, 1.029, 1.052
       48,657    1.275, 1.272, 1.279      1.125, 1.133, 1.123      1.003, 0.997, 1.023
      105,201    1.236                    1.075                    0.971
    matching
       13,617    0.635, 0.636, 0.634      0.574, 0.583, 0.527      0.463, 0.454, 0.453
       28,449    0.584, 0.629, 0.636      0.491, 0.495, 0.617      0.412, 0.419, 0.471
       48,657    0.555, 0.599, 0.619      0.474, 0.483, 0.501      0.402, 0.405, 0.426
      105,201    0.550                    0.460                    0.385
    text
       13,617    0.990, 0.979, 1.028      0.827, 0.915, 0.915      0.731, 0.767, 0.766
       28,449    0.933, 0.915, 0.953      0.853, 0.778, 0.816      0.707, 0.714, 0.738
       48,657    0.900, 0.914, 0.933      0.765, 0.791, 0.778      0.690, 0.694, 0.711
      105,201    0.833                    0.726                    0.673

Each loss falls with each step of D and, by seed 0, of N but one (text at 16,384). On 32,768 pictures the text is below
0.809, so what the frozen ViT passes on is more than the label that it was trained to name (of which it had 36 % wrong).

**No allocation.** ``scaling fit``, Chinchilla's form, 30 runs, by trained parameters: contrast E 0.44 [0.15, 0.81],
alpha 0.16 [0.09, 1.7], beta 0.56 [0.33, 0.78], a 0.78 [0.23, 0.87]; matching E 0 [0, 0.26], alpha 0.47 [0.21, 2.2],
beta 0.31 [0.28, 0.69], a 0.39 [0.14, 0.72]; text E 0.06 [0.03, 0.57], alpha 0.16 [0.13, 2.1], beta 0.42 [0.24, 1.1], a
0.72 [0.17, 0.84]. Residuals are 1.7, 5.1 and 2.9 %. E of the contrast holds its floor; that of the text is above 0,
which pictures allow, though perhaps not through this ViT. By all parameters that are no table, text: a 0.27 [0.10,
0.71].

**Second stage, rates alone.** Behind a language model of size 1 that reads captions one after another (0.897 on them,
0.903 is its bound), from first stages on 32,768 pictures, nats of text at the four rates: size 1 on 8,192 pictures
1.152, 1.066, 1.099, 1.148; size 3 on 32,768 0.921, 0.955, 1.057, 0.988. There the best is at the edge, so its grid
(``generate``) was not run. The same size 3 reads 0.673 off its own text half in the first stage: it seems that a
Q-Former, like a Flamingo, cannot make a frozen language model say what it knows; the language model had never seen a
caption right after the start either, and which of the two it is was not asked.

Not shown: a law of N_v, N_q and N_lm, since ViT and language model have one size; other batches, on which contrast and
matching depend; a ViT that was trained longer or on another objective; a GPU's sizes.
"""

from typing import Any

from ml_collections import ConfigDict

from scaling import study
from scaling.blocks import tower

K = 2**10
RATE, RATES = 0.005, (0.0025, 0.005, 0.01, 0.02)
POSITIONS = {"captions": 6, "language": 21}  # of text in an example
LANGUAGE = ("embedding", "stack", "norm")
WIDE = {"width": 64, "layers": 2, "heads": 4}  # of vit and gpt of size 4


def inherited(block: str, parts: Any, **where: Any) -> dict[str, Any]:
    """Parts from the cells of a block, each with the child's seed; ``parts`` maps their names to those there."""
    return {part: {"block": block, "part": source, **where} for part, source in dict(parts).items()}


def get_config(argument: str = "") -> ConfigDict:
    """The first stage; ``generate``: the second, from one seed of the first; ``rates``: four learning rates at two
    places of both; ``large``: both at sizes for a GPU."""
    config: Any = study.base("blip2", argument, ("generate", "rates", "large"))
    config.family, config.recipe.batch, config.recipe.learning_rate = "blip2", 32, RATE
    config.data.represented, config.data.pictures = ({"source": "scenes", "world": world} for world in (0, 2))
    config.evaluation = {"tokens": 6 * 2 * K, "batch": 32}  # 2,048 pictures
    sizes, seeds, thousands, before, vit, gpt = (0, 1, 2, 3), (0,), (8, 16, 32), (16, 32), 2, 1
    shown: dict[str, Any] = {"patch": 8}
    config.model = {**shown, "vocab": 20}
    if argument == "":
        seeds = 0, 1, 2
    if argument == "rates":
        sizes = 1, 3
    if argument == "large":
        sizes, thousands, before, vit, gpt = (6, 8, 10, 12), (256, 512, 1024), (512, 512), 4, 4
        config.recipe.batch, shown = 256, {"patch": 4, "dtype": "bfloat16"}
        shape = {f"{part}_{name}": value for part in ("vision", "language") for name, value in WIDE.items()}
        config.model = {**shown, **shape, "vocab": 20, "queries": 16, "project": 64}
    tokens = tuple(count * K * POSITIONS["captions"] for count in thousands)
    pictures = before[0] * K * (32 // shown["patch"]) ** 2
    parent: dict[str, Any] = {"recipe": {"learning_rate": 2 * RATE, "batch": 16}, "seeds": seeds}
    seen: dict[str, Any] = {"family": "vit", "model": shown, **parent}
    config.cells.tower = study.block("grid", "pictures", (vit,), tokens=(pictures,), **seen)
    tower_of = inherited("tower", tower.PARTS, size=vit)
    config.cells.represent = study.block("grid", "represented", sizes, tokens=tokens, init_from=tower_of)
    if argument == "":
        again: dict[str, Any] = {"seeds": seeds[1:], "role": "seed", "init_from": tower_of}
        config.cells.again = study.block("grid", "represented", sizes[:3], tokens=tokens, **again)
        return config
    config.data.said, config.data.language = {"source": "scenes", "world": 1}, {"source": "interleaved"}
    words = before[1] * K * POSITIONS["language"]
    told = {**parent, "family": "gpt", "model": {**shown, "context": POSITIONS["language"]}}
    del told["model"]["patch"]
    config.cells.language = study.block("grid", "language", (gpt,), tokens=(words,), **told)
    # A second stage starts from the first of its size and seed with the most data.
    handed = {part: {"block": "represent", "tokens": tokens[-1]} for part in (*tower.PARTS, "qformer")}
    start = {**handed, **inherited("language", zip(LANGUAGE, LANGUAGE), size=gpt)}
    second: dict[str, Any] = {"model": {"stage": "generate"}, "init_from": start}
    if argument != "rates":
        config.cells.generate = study.block("grid", "said", sizes, tokens=tokens, **second)
        return config
    for rate in RATES:
        for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
            own: dict[str, Any] = {"tokens": (count,), "recipe": {"learning_rate": rate}}
            name = f"{place}_{rate:g}".replace(".", "_")
            if rate != RATE:
                cells = study.block("grid", "represented", (size,), init_from=tower_of, **own)
                config.cells[f"represent_{name}"] = cells
            config.cells[f"generate_{name}"] = study.block("grid", "said", (size,), **second, **own)
    return config
