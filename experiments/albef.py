"""Pictures and captions aligned and then read together, with a slow teacher and without one, at equal FLOPs (ALBEF)."""

from typing import Any

from ml_collections import ConfigDict

from scaling import count, families, study

K = 2**10
POSITIONS = 22  # of a pair: 16 patches of 8 x 8 pixels and 6 of text
RATE, RATES = 0.005, (0.0025, 0.005, 0.01, 0.02)
BATCH = 16
PLAIN = {"queue": 0, "alpha": 0.0}  # neither teacher nor queue


def longer(size: int, model: dict[str, Any], batch: int) -> float:
    """By how much more data costs as much without the teacher as some data with it, at a size of the ladder."""
    flops = []
    for fields in (model, {**model, **PLAIN}):
        config = families.configure(families.load("albef"), size, **fields)
        flops.append(sum(count.training_flops(families.load("albef").components(config), batch).values()))
    return flops[0] / flops[1]


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates``: four learning rates at two places for both arms, ``large``: sizes for a GPU."""
    config: Any = study.base("albef", argument, ("rates", "large"))
    large = argument == "large"
    sizes, thousands, batch = ((4, 6, 8, 10), (128, 256, 512), 256) if large else ((0, 1, 2, 3), (4, 8, 16), BATCH)
    model = {"patch": 8, "queue": 4 * batch, "decay": 0.99}
    config.family, config.model = "albef", model
    config.data.scenes = {"source": "scenes", "held": True}
    config.data.plain = {"source": "scenes", "held": True}
    config.recipe.batch, config.recipe.learning_rate = batch, RATE
    config.evaluation = {"tokens": 6 * K, "batch": 16}  # of captions, six each: 1,024 pairs
    tokens = tuple(count * K * POSITIONS for count in thousands)
    if argument == "rates":
        for rate in RATES:
            for place, size, amount in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                for arm, own in (("scenes", {}), ("plain", PLAIN)):
                    fields: dict[str, Any] = {"recipe": {"learning_rate": rate}, "model": own}
                    cells = study.block("grid", arm, (size,), tokens=(amount,), **fields)
                    config.cells[f"{arm}_{place}_{rate:g}".replace(".", "_")] = cells
        return config
    for size in sizes:
        seeds, more = (0, 1, 2) if size in sizes[:3] else (0,), longer(size, model, batch)
        config.cells[f"taught_{size}"] = study.block("grid", "scenes", (size,), tokens=tokens, seeds=seeds)
        equal: dict[str, Any] = {"tokens": tuple(round(more * amount) for amount in tokens), "seeds": seeds}
        config.cells[f"plain_{size}"] = study.block("grid", "plain", (size,), model=PLAIN, **equal)
    return config
