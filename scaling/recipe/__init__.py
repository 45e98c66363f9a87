"""Recipes: named rules that turn a cell's shape and D into hyperparameters.

A recipe is a frozen record of pure functions' settings; its name and every number that it gave are in each run record.
Learning rate and weight decay reach the training step as one traced number per step, computed here on the host, so
that cells which differ only in rate, decay, schedule, seed or length share one compiled program.

``rules`` holds the record, the named recipes and the rules of learning rate and batch; ``parametrisation`` what each
parameter group makes of them; ``schedule`` the rate over the steps; ``optimizers`` the directions; ``tuned`` what the
fit in a recipe file says of a cell.

What was read of the sources that they name: of 2405.18392 (1 - sqrt) and 2502.16982 (muon's scale) the authors' code,
epfml/schedules-and-scaling and MoonshotAI/Moonlight; of 2310.17813 (spectral condition) the abstract, which states it;
of 2205.10287 (square root) the abstract, and the whole rule in others' code that follows it; of 2503.04715 (Step Law) a
summary of the constants and one of where its cosine ends.
"""

from scaling.recipe.optimizers import optimizer
from scaling.recipe.parametrisation import decayed, epsilons, multipliers
from scaling.recipe.rules import (
    OPTIMIZERS,
    PARAMETRISATIONS,
    RECIPES,
    TRACED,
    Recipe,
    decided,
    load,
    named,
    read,
    record,
    resolve,
    static,
)
from scaling.recipe.schedule import decay_steps, rate
from scaling.recipe.tuned import best, regret

__all__ = [
    "OPTIMIZERS",
    "PARAMETRISATIONS",
    "RECIPES",
    "TRACED",
    "Recipe",
    "best",
    "decay_steps",
    "decayed",
    "decided",
    "epsilons",
    "load",
    "multipliers",
    "named",
    "optimizer",
    "rate",
    "read",
    "record",
    "regret",
    "resolve",
    "static",
]
