# %% [markdown]
# # Somebody else's runs
#
# `analysis` needs a table with N, D and loss and nothing else: no training run, no accelerator, no JAX. The table
# here is drawn from a law whose coefficients are known, so that the intervals can be held against the truth. Put your
# own CSV in its place; `scaling import` makes one of the logs of 18 other trainers.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import analysis
from analysis.check.approaches import compare_approaches
from analysis.show.approach_sentences import compared

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}

# %%
rng = np.random.default_rng(0)
rows = []
for n in np.geomspace(4e7, 4e9, 8):
    for d in np.geomspace(1e9, 8e10, 6):
        loss = TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"]
        seen = loss * np.exp(0.003 * rng.standard_normal())
        rows.append({"params": round(n), "tokens_B": round(d) / 1e9, "val_loss": seen})
path = Path(tempfile.mkdtemp()) / "runs.csv"
pd.DataFrame(rows).to_csv(path, index=False)

# %% [markdown]
# The table may be a file or a DataFrame, with names and units of its own. Every parameter comes with its interval;
# the summary says by which scheme, and what is wrong or unknowable about the fit.

# %%
names = {"N": "params", "D": "tokens_B", "loss": "val_loss"}
runs = analysis.load(pd.read_csv(path), columns=names, units={"D": "B"})
fit = analysis.fit(runs)
print(fit)

# %%
for name, cell in fit.intervals.items():
    print(f"{name:20} {cell.value:10.4g}  [{cell.lo:.4g}, {cell.hi:.4g}]  truth {TRUTH.get(name, '')}")
print("warnings:", [warning.code for warning in fit.warnings])

# %% [markdown]
# The loss of a run that was not made, and the compute-optimal model for a budget.

# %%
loss = fit.predict(N=7e9, D=1.4e11)
print(f"{'loss of 7B':20} {loss.value[0]:10.4g}  [{loss.lo[0]:.4g}, {loss.hi[0]:.4g}]")
best = fit.optimal(flops=1e22)
for name, cell in (("N", best.N), ("D", best.D), ("D / N", best.tokens_per_parameter), ("loss", best.loss)):
    print(f"{name:20} {cell.value:10.4g}  [{cell.lo:.4g}, {cell.hi:.4g}]")
print(f"extrapolation: {best.extrapolation_ratio:.1f} times the largest fitted compute")

# %%
fit.plot()

# %% [markdown]
# What the three approaches of Hoffmann et al. (2022) say of the exponent of the optimum on these runs.

# %%
print(compared(compare_approaches(runs, fit)))

# %% [markdown]
# Published runs come with the package, each with its source and licence. Here the models of Gadre et al. (2024) that
# were trained on C4, and where their optimum lies beside published laws.

# %%
gadre = analysis.fit("reference:gadre")
print(gadre.to_frame()[["value", "lo", "hi", "identified"]].round(3))

# %%
analysis.plots.optimum(gadre)
