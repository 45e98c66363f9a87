# %% [markdown]
# # A law by tonight
#
# From an experiment file to a law, a forecast made before its outcome, and a report. The study here is the smallest
# that shows the whole path: ten runs of 6k to 25k parameters, under a minute on two cores. It knows too little for a
# law that one would use, and says so. For tonight take `experiments/demo.py`, or your own text: `scaling plan` gives
# the price before anything is trained. Every call below is a command of the shell, `scaling plan --config=tonight.py`
# and so on.

# %%
import os
import tempfile
from pathlib import Path

import analysis
from scaling.cli import main as scaling

os.chdir(tempfile.mkdtemp())

# %% [markdown]
# An experiment file is a function that returns a configuration. `zipf` is a synthetic source whose entropy is known,
# so that the fitted floor can be held against the truth; `{"source": "text", "path": "books"}` would be your own
# text. Three sizes times three D; one run is held out, with four times as many tokens, and stays sealed until it is
# forecast.

# %%
Path("tonight.py").write_text(
    """
from scaling import study

def get_config(argument=""):
    config = study.base("tonight", argument)
    config.data.known = {"source": "zipf"}
    config.recipe.learning_rate, config.recipe.warmup_steps = 0.02, 8
    config.evaluation.tokens = 16 * 1024
    tokens = tuple(1024 * k for k in (16, 32, 64))
    config.cells.grid = study.block("grid", "known", (0, 1, 2), tokens=tokens)
    config.cells.held_out = study.block(
        "pairs", "known", (2,), tokens=(256 * 1024,), seeds=(100,), role="holdout"
    )
    return config
"""
)
scaling(["plan", "--config=tonight.py", "--workdir=tonight"])

# %% [markdown]
# All three D of a size are branches of one run at a constant learning rate, so that a size costs little more than its
# longest run. `run` may be interrupted at any time; the same command goes on.

# %%
scaling(["run", "--config=tonight.py", "--workdir=tonight"])

# %% [markdown]
# The law with its intervals. What nine runs cannot show is said: a number that is not identified has no business in a
# paper, and none in a plan.

# %%
fit = analysis.fit("tonight")
print(fit)

# %%
fit.plot()

# %% [markdown]
# The forecast of the held-out run is written and hashed first; only then is its loss read, and scored.

# %%
scaling(["fit", "tonight"])
scaling(["predict", "tonight"])

# %% [markdown]
# The report is one HTML file that answers first: N, D and the loss for a budget. `scaling plot tonight` writes the
# figures for a paper.

# %%
scaling(["report", "tonight", "--out=tonight.html"])
