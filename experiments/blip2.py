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
    """The study; ``rates``: four learning rates at two places of both stages, ``large``: sizes for a GPU."""
    config: Any = study.base("blip2", argument, ("rates", "large"))
    config.family, config.recipe.batch, config.recipe.learning_rate = "blip2", 32, RATE
    config.data.represented = {"source": "scenes"}
    config.data.said, config.data.pictures = ({"source": "scenes", "world": world} for world in (1, 2))
    config.data.language = {"source": "interleaved"}
    config.evaluation = {"tokens": 6 * 2 * K, "batch": 32}  # 2,048 pictures
    sizes, seeds, thousands, before, vit, gpt = (0, 1, 2, 3), (0, 1, 2), (8, 16, 32), (16, 32), 2, 1
    shown: dict[str, Any] = {"patch": 8}
    config.model = {**shown, "vocab": 20}
    if argument == "rates":
        sizes, seeds = (1, 3), (0,)
    if argument == "large":
        sizes, thousands, before, vit, gpt = (6, 8, 10, 12), (256, 512, 1024), (512, 512), 4, 4
        config.recipe.batch, shown = 256, {"patch": 4, "dtype": "bfloat16"}
        shape = {f"{part}_{name}": value for part in ("vision", "language") for name, value in WIDE.items()}
        config.model = {**shown, **shape, "vocab": 20, "queries": 16, "project": 64}
    tokens = tuple(count * K * POSITIONS["captions"] for count in thousands)
    pictures, words = before[0] * K * (32 // shown["patch"]) ** 2, before[1] * K * POSITIONS["language"]
    parent: dict[str, Any] = {"recipe": {"learning_rate": 0.01, "batch": 16}, "seeds": seeds}
    spoken = {**parent, "family": "gpt", "model": {**shown, "context": POSITIONS["language"]}}
    del spoken["model"]["patch"]
    config.cells.tower = study.block(
        "grid", "pictures", (vit,), tokens=(pictures,), family="vit", model=shown, **parent
    )
    config.cells.language = study.block("grid", "language", (gpt,), tokens=(words,), **spoken)
    tower_of = inherited("tower", tower.PARTS, size=vit)
    both = inherited("language", zip(LANGUAGE, LANGUAGE), size=gpt)

    def second(first: str, **fields: Any) -> dict[str, Any]:
        """A second stage from the run of the first of its size and seed with the most data."""
        handed = {part: {"block": first, "tokens": tokens[-1]} for part in (*tower.PARTS, "qformer")}
        return {"model": {"stage": "generate"}, "init_from": {**handed, **both}, **fields}

    config.cells.represent = study.block("grid", "represented", sizes, tokens=tokens, init_from=tower_of)
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                own: dict[str, Any] = {"tokens": (count,), "recipe": {"learning_rate": rate}}
                name = f"{place}_{rate:g}".replace(".", "_")
                if rate != RATE:
                    cells = study.block("grid", "represented", (size,), init_from=tower_of, **own)
                    config.cells[f"represent_{name}"] = cells
                config.cells[f"generate_{name}"] = study.block("grid", "said", (size,), **second("represent"), **own)
        return config
    config.cells.generate = study.block("grid", "said", sizes, tokens=tokens, **second("represent"))
    again: dict[str, Any] = {"tokens": tokens, "seeds": seeds[1:], "role": "seed"}
    config.cells.again = study.block("grid", "represented", sizes[:3], init_from=tower_of, **again)
    config.cells.seeds = study.block("grid", "said", sizes[:3], **second("again"), **again)
    return config
