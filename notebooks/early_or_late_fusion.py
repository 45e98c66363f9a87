# %% [markdown]
# # Early or late fusion
#
# Two ways to let a language model see pictures: *early*, one stack over patches and words, or *late*, a vision tower
# whose output the stack reads. Which scales better? Both arms of `experiments/fusion.py` were trained on 2026-11-22:
# captions of rendered scenes, four sizes x three numbers of pictures. Nothing is trained here. The losses below are
# those of its lab note, in nats per token of a caption; N, D and C come from the same study, which is planned. N counts
# the projection of patches, which the fits of the note left out: theirs are a little different.

# %%
import contextlib
import io
import json

import pandas as pd

import analysis
from scaling.cli import main as scaling

LOSSES = """
size  D        seed  early  late
0     360448   0     0.627  1.036
0     360448   1     0.748
0     720896   0     0.410  0.639
0     720896   1     0.437
0     1441792  0     0.270  0.370
0     1441792  1     0.352  0.547
2     360448   0     0.489  0.866
2     720896   0     0.268  0.653
2     1441792  0     0.151  0.319
4     360448   0     0.438  0.873
4     360448   1     0.392
4     720896   0     0.294  0.467
4     720896   1     0.293
4     1441792  0     0.199  0.416
4     1441792  1     0.152  0.287
5     360448   0     0.455  0.560
5     720896   0     0.248  0.399
5     1441792  0     0.143  0.283
"""


# %%
def runs_of(arm: str) -> pd.DataFrame:
    """The runs of an arm: N, D and C of the planned cells, and the losses of the lab note."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        scaling(["plan", f"--config=fusion:{arm}", "--json"])
    cells = pd.DataFrame(json.loads(said.getvalue())["cells"])[["size", "N", "D", "seed", "flops"]]
    losses = pd.read_csv(io.StringIO(LOSSES), sep=r"\s+", na_values="-").dropna(subset=[arm])
    runs = cells.merge(losses[["size", "D", "seed", arm]], on=["size", "D", "seed"])
    runs = runs.rename(columns={"flops": "C", arm: "loss"})[["N", "D", "C", "seed", "loss"]]
    return runs.assign(dataset="scenes")


early, late = runs_of("early"), runs_of("late")
print(early.head(4).to_string(index=False))
print(len(early), "runs of early,", len(late), "of late")

# %% [markdown]
# A law of each arm. With so few runs much is open; what is not identified is said, and not compared as if it were.

# %%
fits = {"early": analysis.fit(early), "late": analysis.fit(late)}
for arm, fit in fits.items():
    print(arm, {name: f"{cell.value:.3g}" for name, cell in fit.intervals.items()})
    print("  warnings:", ", ".join(warning.code for warning in fit.warnings))

# %% [markdown]
# Differences with their intervals, and what they allow to say. "Cannot tell" is not "equal".

# %%
comparison = analysis.compare(*fits.values(), labels=list(fits))
print(comparison)

# %%
analysis.plots.compared(comparison)

# %% [markdown]
# The question that a budget asks: how much compute does early save for the same loss? It is asked of the runs that no
# other run beats at as much compute. The floor is known here: a caption follows from its picture, so that nothing is
# left to guess. The answer comes with the power that these runs have.

# %%
print(analysis.gate(late, early, labels=("late", "early"), floor=0.0))
