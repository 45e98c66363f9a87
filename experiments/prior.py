"""From captions to CLIP's vectors of their pictures: DALL-E 2's prior, and two bounds that it must fall below.

scaling run --config=experiments/prior.py --workdir=runs/prior
scaling run --config=experiments/prior.py:rates --workdir=runs/prior-rates     # five rates at two places
scaling run --config=experiments/prior.py:large --workdir=runs/prior-large     # for a GPU; not run
python experiments/prior.py --workdir=runs/prior            # the two bounds; also written as bounds.json

One clip (size 2, 65,536 pairs of scenes; 0.108 nats among 64), then four sizes x three D of the prior on its vectors of
32 numbers, three seeds at three sizes: 31 cells. D counts positions, 10 a picture of 32 x 32; N leaves the clip out.

2026-11-30, Intel Xeon with AVX-512 (model 167), jax 0.10.2, two workers at low priority under a load of 8 to 13: 268
CPU-seconds, 10.7 minutes by the clock (``plan`` asks for 83 seconds of one idle core); rates 157 CPU-seconds.

**Rate.** Loss (``x0``) at 0.00125, 0.0025, 0.005, 0.01, 0.02, seed 0: size 1 on 16,384 pictures 0.0604, 0.0495, 0.0457,
0.0445, 0.0452; size 3 on 65,536 0.0406, 0.0398, 0.0393, 0.0395, 0.0397. So 0.01 is bracketed at both, the best at the
first and 0.0002 worse than 0.005 at the second.

**Bounds**, of which a model that is at its best has at most as much: 0.2855 +- 0.0002 without the text, 0.0088 +-
0.0003 with it. They are exact for the covariances of the vectors; these are of 16,384 pictures.

**With the text**, seeds 0, 1, 2 (the error starts at 1):

    N          16,384 pictures         32,768                  65,536
    12,144     .0171, .0170, .0168     .0152, .0151, .0155     .0138, .0131, .0142
    23,000     .0158, .0160, .0162     .0147, .0146, .0146     .0137, .0131, .0132
    37,056     .0156, .0155, .0153     .0141, .0143, .0142     .0128, .0129, .0128
    74,768     .0149                   .0136                   .0123

**Without it**

    12,144     .3226, .3341, .3284     .3019, .3035, .3014     .2866, .2861, .2873
    23,000     .3095, .3198, .3169     .2977, .2973, .2980     .2847, .2841, .2842
    37,056     .3176, .3109, .3145     .2981, .2937, .2957     .2844, .2827, .2837
    74,768     .3114                   .2974                   .2827

``scaling fit``, Chinchilla's form: with the text E 0 [0, 0.0078], alpha 0.34 [0.15, 0.91], beta 0.17 [0.16, 0.46], a
0.34 [0.18, 0.69]; without it E 0.248 [0.148, 0.266], a 0.24 [0.09, 0.75]; ``x0``, which is both, E 0.028 [0.006,
0.038], a 0.77 [0.17, 0.92]. **a is not identified** for any of the three. Both E are below their bounds.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from scaling import study
from scaling.records.value import Value
from scaling.verbs import experiment

K = 2**10
POSITIONS, PAIR = 10, 22  # of an example: of the prior's stack, and of clip
SCENES, RENDERED, GROUPS = 256, 64, 8
RATES = (0.00125, 0.0025, 0.005, 0.01, 0.02)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for five learning rates at two places, ``large`` for the sizes of a GPU."""
    config, large = study.base("prior", argument, ("rates", "large")), argument == "large"
    config.family = "prior"
    shape = {"clip_width": 128, "clip_layers": 4, "clip_heads": 8} if large else {"clip_width": 32, "clip_heads": 4}
    config.model = {"patch": 8, **shape}
    config.recipe.batch, config.recipe.learning_rate = 64, 0.01
    config.data.scenes = config.data.pairs = {"source": "scenes"}
    config.evaluation = {"tokens": 24 * K, "batch": 64}  # of captions, six each: 4,096 pictures
    size, pairs = (8, 512) if large else (2, 64)
    config.cells.towers = study.block(
        "grid",
        "pairs",
        (size,),
        tokens=(pairs * K * PAIR,),
        seeds=(9,),  # its pairs are not those of the children
        family="clip",
        model={"patch": 8},
        recipe={"learning_rate": 0.005},
    )
    start = {part: {"block": "towers", "size": size, "seed": 9} for part in ("image", "text")}
    tokens = tuple(pictures * K * POSITIONS for pictures in ((256, 512, 1024) if large else (16, 32, 64)))
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                own: dict[str, Any] = {"recipe": {"learning_rate": rate}, "init_from": start}
                cells = study.block("grid", "scenes", (size,), tokens=(count,), **own)
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8, 10) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", "scenes", sizes, tokens=tokens, init_from=start)
    again: dict[str, Any] = {"seeds": (1, 2), "role": "seed", "init_from": start}
    config.cells.seeds = study.block("grid", "scenes", sizes[:3], tokens=tokens, **again)
    return config


class Bounds(Value):
    """Upper bounds on the least loss, by term of the time ("x0": all times).

    Attributes:
      without_text: what Gaussian vectors of the covariance of all pictures would have.
      with_text: the same of the mean covariance of the pictures of one caption.
      se: standard errors of the two, over all times, from groups of the pictures.
    """

    without_text: dict[str, float]
    with_text: dict[str, float]
    se: dict[str, float]


def gaussian(covariance_EE: np.ndarray, a: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Mean squared error of the best linear prediction of x from a x + s eps, by time: the mean over the eigenvalues l
    of l s^2 / (a^2 l + s^2). Of Gaussian x no prediction is better; of any other with this covariance, some are."""
    values = np.linalg.eigvalsh(covariance_EE)
    a, s = (np.square(each)[:, None] for each in (a, s))
    return (values * s / (a * values + s)).mean(axis=1)


def bounds(workdir: Path) -> Bounds:
    """The bounds for the vectors of a finished study's clip, from scenes that are rendered anew.

    Raises:
      UserError: there is no study of prior, or its clip has no final parameters (MISSING).
    """
    import jax
    import jax.numpy as jnp

    from scaling.data import scenes as world
    from scaling.data._random import key
    from scaling.families import dit, prior

    parameters, config = experiment.start(workdir, "prior")
    source = world.make(world.Config())
    start, u = world.numbers(key(0, 2), np.arange(SCENES * RENDERED))
    text_NT = jnp.zeros((RENDERED, config.text + 1), jnp.int32)  # of no account here

    @jax.jit
    def vectors(image_BHWC: jax.Array) -> jax.Array:
        return prior.give(parameters, {"tokens": text_NT, "image": image_BHWC}, jax.random.key(0), config).image_BE

    def seen(scene: np.ndarray) -> np.ndarray:
        """Vectors (scenes, rendered, E) of pictures whose places and pixels are drawn anew."""
        each = (slice(first, first + RENDERED) for first in range(0, len(u), RENDERED))
        found = [vectors(source.render(scene[at], world.places(scene[at], u[at]), start[at])) for at in each]
        return np.asarray(found, np.float64)

    alike = seen(np.repeat(world.choices(u[::RENDERED]), RENDERED, axis=0))
    every = seen(world.choices(u)).reshape(1, -1, config.clip_width)
    covariances = {}
    for name, found in (("without_text", every), ("with_text", alike)):
        apart = found - found.mean(axis=1, keepdims=True)
        groups = apart.reshape(GROUPS, -1, config.clip_width) * math.sqrt(found.shape[1] / (found.shape[1] - 1))
        covariances[name] = np.einsum("gne,gnf->gef", groups, groups) / groups.shape[1]
    levels = prior.noise_levels()

    def by_term(name: str) -> dict[str, float]:
        error = gaussian(covariances[name].mean(axis=0), *levels)
        parts = zip(dit.bins(), error.reshape(dit.BINS, -1).mean(axis=1).tolist())
        return {"x0": float(error.mean()), **dict(parts)}

    spread = {name: [gaussian(each, *levels).mean() for each in found] for name, found in covariances.items()}
    se = {name: float(np.std(each, ddof=1)) / math.sqrt(GROUPS) for name, each in spread.items()}
    return Bounds(without_text=by_term("without_text"), with_text=by_term("with_text"), se=se)


def lines(found: Bounds) -> list[str]:
    """The bounds as text."""
    rows = {"without_text": found.without_text, "with_text": found.with_text}
    said = {name: ", ".join(f"{term} {value:.4f}" for term, value in row.items()) for name, row in rows.items()}
    return [f"{name}: at most {text} (+- {found.se[name]:.4f} of x0)" for name, text in said.items()]


if __name__ == "__main__":
    experiment.command(__doc__, "bounds.json", bounds, lines)
