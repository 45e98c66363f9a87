"""BLIP-2 on rendered scenes: a Q-Former between a ViT and a language model that are not trained, in its two stages."""

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
