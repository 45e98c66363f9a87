"""Codes of pictures after their captions: DALL-E's second stage on the codes of one VQ-VAE.

scaling run --config=experiments/dalle.py --workdir=runs/dalle
scaling run --config=experiments/dalle.py:rates --workdir=runs/dalle-rates     # five rates at two places
scaling run --config=experiments/dalle.py:large --workdir=runs/dalle-large     # for a GPU; not run
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
TOKENIZER = {"block": "tokenizer", "size": 1, "seed": 9}


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for learning rates at two places, ``large`` for the sizes of a GPU."""
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
