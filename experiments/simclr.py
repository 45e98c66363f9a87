"""Two views of every picture told from all others (SimCLR) on rendered scenes."""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
RATES = (0.0003, 0.000625, 0.00125, 0.0025, 0.005)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``plain`` for views whose colours stay, ``rates`` for five learning rates at two places, ``large`` for
    the sizes of a GPU."""
    config, large = study.base("simclr", argument, ("plain", "rates", "large")), argument == "large"
    config.family = "simclr"
    config.model = {"patch": 8, "labels": 32, "jitter": 0.0 if argument == "plain" else 0.5}
    config.data.scenes = {"source": "scenes"}
    config.recipe.batch, config.recipe.learning_rate = 64, 0.0025
    config.evaluation = {"tokens": 24 * K, "batch": 64}  # of captions, six each: 4,096 pictures
    tokens = tuple(pictures * K * 16 for pictures in ((256, 512, 1024) if large else (16, 32, 64)))  # 16 a picture
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                cells = study.block("grid", "scenes", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8, 10) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", "scenes", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "scenes", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed")
    return config
