"""Hidden frames of a video as codes, hidden words of its caption, and whether the two belong together: VideoBERT.

scaling run --config=experiments/videobert.py --workdir=runs/videobert
scaling fit runs/videobert --dataset=videos --term=video --law=chinchilla       # and text, alignment
scaling run --config=experiments/videobert.py:rates --workdir=runs/videobert-rates    # four rates at two places
scaling run --config=experiments/videobert.py:alone --workdir=runs/videobert-alone    # the paper's regimes; not run
scaling run --config=experiments/videobert.py:large --workdir=runs/videobert-large    # for a GPU; not run
python experiments/videobert.py --workdir=runs/videobert      # the floor of the codes; also written as floor.json
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.dalle import marginal
from scaling import study
from scaling.data import moving
from scaling.errors import Code, UserError
from scaling.records import read_study
from scaling.records.value import Value
from scaling.verbs import experiment

K = 2**10
POSITIONS = 68  # of a video: four of text and 16 codes for each of four frames
RATE, RATES = 0.01, (0.005, 0.01, 0.02, 0.04)
TOKENIZER = {"block": "tokenizer", "size": 1, "seed": 9}
VIDEOS, RENDERED = 128, 256
CAPTIONS = math.prod(moving.CHOICES)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``alone`` for words without videos and codes without texts, ``rates`` for learning rates at two
    places, ``large`` for a GPU."""
    config, large = study.base("videobert", argument, ("alone", "rates", "large")), argument == "large"
    config.family, config.model = "videobert", {"text": 4, "masks": "alone" if argument == "alone" else "joint"}
    config.recipe.learning_rate = RATE
    config.data.videos = config.data.pictures = {"source": "moving"}
    config.evaluation = {"tokens": 12 * K, "batch": 64}  # of captions, four each: 3,072 videos
    config.cells.tokenizer = study.block(
        "grid",
        "pictures",
        (1,),
        tokens=(512 * K,),  # patches, 16 a frame
        seeds=(9,),  # its frames are not of the children's videos
        family="vq",
        model={"decay": 0.9, "restart": 0.1},
        recipe={"learning_rate": 0.005},
    )
    start = {part: TOKENIZER for part in ("encoder", "codebook")}
    tokens = tuple(count * K * POSITIONS for count in ((64, 128, 256) if large else (8, 16, 32)))
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("short", 1, tokens[0]), ("long", 3, tokens[-1])):
                recipe = {"learning_rate": rate}
                cells = study.block("grid", "videos", (size,), tokens=(count,), recipe=recipe, init_from=start)
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8, 10) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", "videos", sizes, tokens=tokens, init_from=start)
    config.cells.seeds = study.block(
        "grid", "videos", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed", init_from=start
    )
    return config


def alignment(captions: int = CAPTIONS) -> float:
    """Smallest nats of whether a caption is the video's own, if half are another's, equal with probability 1/captions.

    Of the captions that fit, one in captions + 1 is another's.
    """
    fits, other = (1 + 1 / captions) / 2, 1 / (captions + 1)
    return fits * -sum(p * math.log(p) for p in (other, 1 - other))


class Floor(Value):
    """Smallest losses that any model has: nats per hidden code, and its standard error over videos; per pair.

    A hidden frame's code given all other frames and the text is at best known up to the noise of its own pixels.
    """

    video: float
    se: float
    alignment: float


def floor(workdir: Path, videos: int = VIDEOS, rendered: int = RENDERED) -> Floor:
    """The floor of a finished study's tokenizer, from ``videos`` that are rendered ``rendered`` times.

    Raises:
      UserError: there is no study of videobert, or its tokenizer has no final parameters (MISSING).
    """
    import jax

    from scaling.families import videobert
    from scaling.run import Run

    programs = [each for each in read_study(workdir).programs if each.runs[-1].manifest.family == "videobert"]
    if not programs:
        raise UserError("workdir", workdir, "holds no study of videobert", Code.MISSING)
    run = Run(programs[0].runs[-1], programs[0], workdir)
    parameters, config = run.initial()["params"], run.trainer.config
    tokenize = jax.jit(lambda video_BFHWC: videobert.tokenize(parameters, video_BFHWC, config))
    source, rng, values = moving.make(moving.Config()), np.random.default_rng(0), []
    for _ in range(videos):
        caption, first = (np.tile(rng.integers(0, most), (rendered, 1)) for most in (moving.CHOICES, moving.STATES))
        start = rng.integers(0, 2**64, rendered, np.uint64, endpoint=False)
        values.append(marginal(tokenize(source.render(caption, first, start))))
    return Floor(video=float(np.mean(values)), se=float(np.std(values)) / math.sqrt(videos), alignment=alignment())


def lines(found: Floor) -> list[str]:
    """The floor as text."""
    return [
        f"codes of a hidden frame, given all else: {found.video:.4f} +- {found.se:.4f} nats/code",
        "words, given the video: 0",
        f"alignment: {found.alignment:.4f} nats/pair",
    ]


if __name__ == "__main__":
    experiment.command(__doc__, "floor.json", floor, lines)
