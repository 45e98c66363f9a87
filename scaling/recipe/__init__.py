"""Recipes: named rules that turn a cell's shape and D into hyperparameters.

A recipe is a frozen record of settings; its name and all resulting numbers are in every run record. Learning rate and
weight decay are computed on the host and passed to the training step as one traced number per step, so cells that
differ only in rate, decay, schedule, seed or length share one compiled program.

``rules`` has the record, the named recipes and the rules for learning rate and batch; ``parametrisation`` the
multipliers of each parameter group; ``schedule`` the rate over the steps; ``optimizers`` the update directions;
``tuned`` the predictions of the fit in a recipe file.

What these modules rely on: for 2405.18392 (1 - sqrt) and 2502.16982 (muon's scale) the authors' code,
epfml/schedules-and-scaling and MoonshotAI/Moonlight; for 2310.17813 (spectral condition) its abstract; for 2205.10287
(square root) its abstract, and other people's code for the whole rule; for 2503.04715 (Step Law) summaries of its
constants and of the end of its cosine.
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
from scaling.recipe.schedule import decay_steps, decays, rate
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
    "decays",
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
