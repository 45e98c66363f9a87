"""Spectrograms of tone sequences by Tacotron 2, where the text determines the sound: the floor is exactly 0."""

from ml_collections import ConfigDict

from scaling import study

K = 2**10
NOTES, SLOT, TONES, LANGUAGES = 4, 4, 16, 16
FRAMES = NOTES * SLOT
SOUND = {"rate": 8000, "window": 256, "hop": 128, "mel": 40}
DETERMINED = {"noise": 0.0, "hiss": 0.0, "variety": 0.0}  # the text tells all of the sound
RATES = (0.005, 0.01, 0.02, 0.04)


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``rates`` for four learning rates at two places, ``large`` for the sizes of a GPU."""
    config, large = study.base("tacotron", argument, ("rates", "large")), argument == "large"
    config.family = "tacotron"
    config.recipe.batch, config.recipe.learning_rate = 16, 0.02
    world = {"notes": NOTES, "slot": SLOT, "tones": TONES, "languages": LANGUAGES}
    config.data.tones = {"source": "tones", **SOUND, **world, **DETERMINED}
    vocab = LANGUAGES * (TONES + 1) + 4
    config.model = {"mel": SOUND["mel"], "frames": FRAMES, "text": NOTES + 3, "vocab": vocab, "filters": 8, "reach": 5}
    config.evaluation = {"tokens": K * (NOTES + 1), "batch": 256}  # words and ends: 1,024 clips
    clips = (32, 64, 128) if large else (4, 8, 16)
    tokens = tuple(count * K * FRAMES for count in clips)
    if argument == "rates":
        for rate in RATES:
            for place, size, count in (("narrow", 0, tokens[1]), ("wide", 2, tokens[0])):
                cells = study.block("grid", "tones", (size,), tokens=(count,), recipe={"learning_rate": rate})
                config.cells[f"{place}_{rate:g}".replace(".", "_")] = cells
        return config
    sizes = (4, 5, 6, 8, 10) if large else (0, 1, 2, 3)
    config.cells.grid = study.block("grid", "tones", sizes, tokens=tokens)
    config.cells.seeds = study.block("grid", "tones", sizes[:3], tokens=tokens, seeds=(1, 2), role="seed")
    return config
