# %% [markdown]
# # A budget
#
# You have runs at small scale and a budget of compute. Which N and D, what loss, how sure, and what does it cost to
# choose differently? The runs are those of Gadre et al. (2024), which come with the package; put your own table in
# their place.

# %%
import pandas as pd

import analysis
from scaling.errors import UserError

fit = analysis.fit("reference:gadre")
print(fit)

# %% [markdown]
# The compute-optimal model of one budget, with intervals. They hold the noise of the runs and, beyond the runs, a
# term for the law being wrong there, which was learned from other studies.

# %%
fit.optimal(flops=1e21)

# %% [markdown]
# Several budgets. How far each extrapolates belongs beside the number.

# %%
rows = []
for flops in (1e19, 1e20, 1e21, 1e22):
    best = fit.optimal(flops=flops)
    rows.append(
        {
            "FLOPs": f"{flops:.0e}",
            "N": f"{best.N.value:.3g} ({best.N.lo:.3g} to {best.N.hi:.3g})",
            "D": f"{best.D.value:.3g} ({best.D.lo:.3g} to {best.D.hi:.3g})",
            "loss": f"{best.loss.value:.3f} ({best.loss.lo:.3f} to {best.loss.hi:.3f})",
            "times the largest run": f"{best.extrapolation_ratio:.2g}",
        }
    )
pd.DataFrame(rows).set_index("FLOPs")

# %% [markdown]
# A model is used after it is trained, so a smaller one trained for longer is often wanted. What half of N costs, and
# twice, at the same compute: the valley is flat, and the choice is yours within it.

# %%
flops = 1e21
best = fit.optimal(flops=flops)
for factor in (0.25, 0.5, 1, 2, 4):
    size = factor * best.N.value
    tokens = flops / (6 * size)
    loss = float(fit.law.predict(fit.theta, {"N": [size], "D": [tokens]})[0])
    same = fit.optimal(loss=loss).flops.value
    print(f"{factor:5} N: N {size:.3g}, D {tokens:.3g}, loss {loss:.4f}, worth {same / flops:.0%} of the compute")

# %% [markdown]
# A target instead of a budget: the least compute that reaches a loss, with its interval. A floor makes such answers
# expensive and unsure, and one below it is refused.

# %%
fit.optimal(loss=2.6)

# %%
try:
    fit.optimal(loss=1.0)
except UserError as error:
    print(f"{error.code.name}: {error}")

# %%
analysis.plots.contours(fit)
