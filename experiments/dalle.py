"""Captions, then pictures as codes of one VQ-VAE: DALL-E's second stage, and the floor that its codes have.

    scaling run --config=experiments/dalle.py --workdir=runs/dalle
    scaling run --config=experiments/dalle.py:rates --workdir=runs/dalle-rates     # five rates at two places
    scaling run --config=experiments/dalle.py:large --workdir=runs/dalle-large     # for a GPU; not run
    python experiments/dalle.py --workdir=runs/dalle            # a bound on the floor; also written as bound.json

One tokenizer (vq of size 1, 0.52M patches, rows restarted; it uses 52 of 64 codes, error 0.0254), then four sizes x
three D of what reads its codes, three seeds at three sizes: 31 cells. D counts positions, 6 of text and 64 codes a
picture of 32 x 32. N leaves the tokenizer out. Every size has two layers.

2026-11-30, Intel Xeon with AVX-512 (model 167), jax 0.10.2, two workers, load 9 to 14: 307 CPU-seconds, 11.5 minutes by
the clock; 6.0e12 FLOPs, of which the tokenizer's passes are 8 % (size 3) to 36 % (size 0).

**Rate.** Nats per code at 0.0025, 0.005, 0.01, 0.02, 0.04, seed 0: size 3 at 2.3M 0.8643, 0.8437, 0.8322, 0.8225,
0.8569; size 1 at 0.57M 1.1760, 1.0854, 1.0317, 1.0300, 1.0287. 0.02 is bracketed at the first, and 0.0013 worse than
the largest at the second.

**Nats per code, given the text**, seeds 0, 1, 2 (ln 64 is 4.159; the frequencies of the codes alone give about 3.95):

    N          0.57M positions         1.15M                   2.29M
     6,256     1.096, 1.099, 1.095     1.033, 1.035, 1.036     0.983, 0.986, 1.000
    13,976     1.030, 1.023, 1.022     0.950, 0.950, 0.940     0.905, 0.902, 0.890
    24,768     0.986, 1.002, 0.982     0.915, 0.937, 0.916     0.867, 0.882, 0.872
    55,568     0.946                   0.876                   0.823

``scaling fit``, Chinchilla's form: E 0.655 [0.478, 0.721], alpha 0.54 [0.31, 0.81], beta 0.54 [0.33, 0.76], residual
0.86 %, more than seeds explain. **a is not identified** (0.50 [0.34, 0.66]). With the tokenizer in N (``--n=total``)
alpha would be 2.1 [1.4, 2.8] and a 0.21: a constant of 17,368 in N bends the law.

**The interval of E holds a bound that is measured without a model.** Given scene and places, the noise of the pixels
leaves 0.543 +- 0.002 nats per code, were it independent between patches; the places (1,536, equally likely) have
0.115. So the entropy of the codes given the caption is at most 0.658, by ``bound``: measured on the tokenizer, without
a model of the codes. How much less it is, is not known.

**The caption's nats are at their floor and fit no law**: 1.388 to 1.395, where 1.3863 (ln 4,096 over six) is exact; E
1.377 [1.312, 1.389], exponents not identified. Words are independent: all there is to learn is their frequencies.

It does not show: another tokenizer, whose losses have another unit; depth; sizes beyond the tokenizer's own; rates at
more than two places and one seed; pictures drawn from the model, or how good they are.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from scaling import study
from scaling.records.value import Value
from scaling.verbs import experiment

K = 2**10
PLACES = 4 * 6 * 8 * 8  # of the two objects of a scene, equally likely whatever its caption
SCENES, RENDERED = 256, 256
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
TOKENIZER = {"block": "tokenizer", "size": 1, "seed": 9}


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` is for learning rates, ``large`` for a GPU."""
    config, large = study.base("dalle", argument, ("rates", "large")), argument == "large"
    config.family = "dalle"
    config.recipe.learning_rate = 0.02
    config.data.scenes = config.data.pictures = {"source": "scenes"}
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # of captions, six each: 2,048 pictures
    config.cells.tokenizer = study.block(
        "grid",
        "pictures",
        (1,),
        tokens=(512 * K,),  # patches, 64 a picture
        seeds=(9,),  # its pictures are not those of the children
        family="vq",
        model={"decay": 0.9, "restart": 0.1},
        recipe={"learning_rate": 0.005},
    )
    start = {part: TOKENIZER for part in ("encoder", "codebook")}
    pictures = (64, 128, 256) if large else (8, 16, 32)
    tokens = tuple(count * K * 70 for count in pictures)  # positions: six of text and 64 codes a picture
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                recipe = {"learning_rate": rate}
                cells = study.block("grid", "scenes", (size,), tokens=(count,), recipe=recipe, init_from=start)
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8, 10) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", "scenes", sizes, tokens=tokens, init_from=start)
    config.cells.seeds = study.block(
        "grid", "scenes", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed", init_from=start
    )
    return config


class Bound(Value):
    """An upper bound on the entropy of the codes given the caption, in nats per code.

    Attributes:
      noise: entropy of a patch's code given the scene and its places, mean over patches; se: its standard error over
        scenes. Codes that depend on each other beyond that have less together.
      places: entropy of the places, over the number of patches. total: the sum of both.
    """

    noise: float
    se: float
    places: float
    total: float


def marginal(codes_RP: Any) -> float:
    """Mean over P patches of the entropy of a patch's code over R pictures, in nats, with Miller's correction."""
    import numpy as np

    found = []
    for codes_R in np.asarray(codes_RP).T:
        share = np.unique(codes_R, return_counts=True)[1] / len(codes_R)
        found.append(-(share * np.log(share)).sum() + (len(share) - 1) / (2 * len(codes_R)))
    return float(np.mean(found))


def bound(workdir: Path, scenes: int = SCENES, rendered: int = RENDERED) -> Bound:
    """The bound of the codes of a finished study's tokenizer, from ``scenes`` that are rendered ``rendered`` times.

    Raises:
      UserError: there is no study of dalle, or its tokenizer has no final parameters (MISSING).
    """
    import jax
    import numpy as np

    from scaling.data import scenes as world
    from scaling.data._random import key, mix
    from scaling.families import dalle

    parameters, config = experiment.start(workdir, "dalle")
    tokenize = jax.jit(lambda image_BHWC: dalle.tokenize(parameters, image_BHWC, config))
    source = world.make(world.Config())
    scene, _, places, _ = source._draw(key(0, 2), np.arange(scenes))
    values = []
    for number in range(scenes):
        starts = mix(np.arange(rendered, dtype=np.uint64) + np.uint64(number * rendered))
        same, where = (np.repeat(each[number : number + 1], rendered, axis=0) for each in (scene, places))
        values.append(marginal(tokenize(source.render(same, where, starts))))
    noise, placed = float(np.mean(values)), math.log(PLACES) / config.patches
    return Bound(noise=noise, se=float(np.std(values)) / math.sqrt(scenes), places=placed, total=noise + placed)


def lines(found: Bound) -> list[str]:
    """The bound as text."""
    return [
        f"codes given scene and places: at most {found.noise:.4f} +- {found.se:.4f} nats/code",
        f"places: {found.places:.4f}",
        f"the floor is at most {found.total:.4f}",
    ]


if __name__ == "__main__":
    experiment.command(__doc__, "bound.json", bound, lines)
