from ml_collections import ConfigDict

from scaling import study
from scaling.errors import UserError

K = 2**10


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``diffusion`` for masked diffusion instead of masked language modelling."""
    if argument not in ("", "mlm", "diffusion"):
        raise UserError("config argument", argument, "this experiment knows mlm (the default) and diffusion")
    config = study.base(f"bert-{argument or 'mlm'}")
    config.family = "bert"
    config.model.objective = argument or "mlm"
    config.data.stdlib = {"source": "stdlib"}
    tokens = (128 * K, 256 * K, 512 * K)
    config.cells.grid = study.block("grid", "stdlib", (0, 1, 2, 3), tokens=tokens)
    config.cells.seeds = study.block("grid", "stdlib", (0, 2), tokens=tokens, seeds=(1,), role="seed")
    return config
