# %% [markdown]
# # Fit the logs of any trainer
#
# `analysis` needs a table with N, D and loss and nothing else: no training run, no accelerator, no JAX. The table here
# is drawn from a law whose coefficients are known, so that the intervals can be held against the truth. Put your own
# CSV in its place. Open this file as a notebook with jupytext, or run it: `python notebooks/fit_a_table.py`.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.check import approaches
from analysis.decide import allocate
from analysis.fitting import fit
from analysis.table import runs

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}

# %%
rng = np.random.default_rng(0)
rows = []
for n in np.geomspace(4e7, 4e9, 8):
    for d in np.geomspace(1e9, 8e10, 6):
        loss = TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"]
        rows.append({"N": round(n), "D": round(d), "loss": loss * np.exp(0.003 * rng.standard_normal())})
path = Path(tempfile.mkdtemp()) / "runs.csv"
pd.DataFrame(rows).to_csv(path, index=False)

# %% [markdown]
# Every parameter comes with its interval, and the card says by which scheme and why.

# %%
table = runs.load(path)
chinchilla = fit(table, "chinchilla")
print(chinchilla.card()["interval"])
for name, cell in chinchilla.intervals.items():
    print(f"{name:20} {cell['value']:10.4g}  [{cell['lo']:.4g}, {cell['hi']:.4g}]  truth {TRUTH.get(name, '')}")
print(chinchilla.verdict)

# %% [markdown]
# The compute-optimal model for a budget, and what the three approaches of Hoffmann et al. (2022) say of its exponent.

# %%
best = allocate.optimal(chinchilla, flops=1e22)
for name in ("N", "D", "tokens_per_parameter", "loss"):
    cell = best[name]
    print(f"{name:20} {cell['value']:10.4g}  [{cell['lo']:.4g}, {cell['hi']:.4g}]")
print(f"extrapolation: {best['extrapolation_ratio']:.1f} times the largest fitted compute")
print(approaches.compare_approaches(table, chinchilla)["verdict"])
