"""VL-T5 on rendered scenes: missing words, questions, matching and captions as one text-to-text model.

scaling run --config=experiments/vlt5.py --workdir=runs/vlt5
scaling run --config=experiments/vlt5.py:rates --workdir=runs/vlt5-rates
scaling plan --config=experiments/vlt5.py:large            # sizes for a GPU; not run
"""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
POSITIONS = 8  # two regions and six of the caption
RATE, RATES = 0.004, (0.001, 0.002, 0.004, 0.008)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for four learning rates at two places, ``large`` for the sizes of a GPU."""
    config, large = study.base("vlt5", argument, ("rates", "large")), argument == "large"
    config.family = "vlt5"
    config.model = {"vocab": 24, "regions": 2}
    config.data.graphs = {"source": "graphs"}
    config.recipe.batch, config.recipe.learning_rate = 32, RATE
    config.evaluation = {"tokens": 24 * K, "batch": 256}  # words of 4,096 captions and their ends
    sizes, thousands = ((6, 8, 10, 12), (256, 512, 1024, 2048)) if large else ((0, 1, 2, 3), (32, 64, 128, 256))
    tokens = tuple(count * K * POSITIONS for count in thousands)
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("narrow", 1, tokens[0]), ("wide", 3, tokens[1])):
                cells = study.block("grid", "graphs", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    config.cells.grid = study.block("grid", "graphs", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "graphs", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed")
    return config
