"""The best learning rate and batch from a small sweep, and how they follow N and D.

Near its best point the log loss of a cell (N, D) is a parabola in log learning rate and log batch. All cells share its
curvature, and the best point moves with log N and log D:

    log L = c(N, D) + h x^2 + r x b + g b^2 + (x and b) times (linear in log N, log D)

with x = log learning rate, b = log batch in tokens. That is linear in its coefficients, and the best point is a power
law, k N^p D^q in each, the form of Step Law (Li 2025, arXiv 2503.04715; there a batch follows D alone). Runs of one
stem share their noise, so intervals are jackknifed over stems.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from scaling.errors import UserError

Array = np.ndarray
# Log loss above a cell's best within which a parabola is trusted: the first that leaves enough runs, and that noise
# does not fill. Seeds of a rate are in or out by their mean: chosen one by one, the lucky ones would flatten it.
WINDOWS = (0.03, 0.06, 0.12, 0.25)
NOISES = 3.0  # standard errors of a mean over seeds that a window holds at least
DRAWS = 400
JACKKNIFE = 80  # groups of stems that are left out in turn, at most
IDENTIFIED = 0.975  # share of draws with a minimum, below which there is none to speak of


def optima(table: Any, level: float = 0.95) -> list[dict[str, Any]]:
    """By (N, D, batch): the best learning rate of a parabola through the best run and its neighbours.

    ``learning_rate`` is {"value", "lo", "hi"} or None where the best run is the first or the last of its sweep; the
    noise of the intervals is pooled over all parabolas, and they are None where no run is left over to measure it.
    """
    found, residuals, spare = [], 0.0, 0
    for (n, d, batch), group in table.groupby(["N", "D", "batch"], sort=True):
        rates = group.groupby("learning_rate")["loss"].apply(lambda x: float(np.exp(np.log(x).mean()))).sort_index()
        best = int(np.argmin(rates.to_numpy()))
        row = {"N": float(n), "D": float(d), "batch": float(batch), "best_run": float(rates.index[best]),
               "loss": float(rates.iloc[best]), "learning_rate": None}  # fmt: skip
        found.append(row)
        if not 0 < best < len(rates) - 1:
            continue
        near = group[group["learning_rate"].isin(rates.index[max(0, best - 2) : best + 3])]
        near = near[np.log(near["loss"]) < math.log(row["loss"]) + WINDOWS[-1]]
        x, y = np.log(near["learning_rate"]) - math.log(row["best_run"]), np.log(near["loss"])
        design = np.stack([np.ones(len(x)), x, x * x], 1)
        beta, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        if rank == 3 and beta[2] > 0:
            residuals += float(np.sum((y - design @ beta) ** 2))
            spare += len(x) - 3
            row["fit"] = (beta, np.linalg.inv(design.T @ design))
    for row in found:
        if "fit" in row:
            beta, inverse = row.pop("fit")
            at = -beta[1] / (2 * beta[2])
            slope = np.array([0.0, -1 / (2 * beta[2]), beta[1] / (2 * beta[2] ** 2)])
            wide = None
            if spare:
                spread = math.sqrt(residuals / spare * float(slope @ inverse @ slope))
                wide = float(stats.t.ppf((1 + level) / 2, spare)) * spread
            row["learning_rate"] = _cell(row["best_run"] * math.exp(at), wide)
    return found


def fit(table: Any, *, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
    """The laws of the best learning rate and batch over the runs of a sweep.

    Args:
      table: columns N, D, loss, learning_rate, batch (in tokens) and stem.

    Returns the plain values of a recipe file's ``fit``: ``rate_law`` and ``batch_law`` ({k, p, q}, each with an
    interval; ``batch_law`` is None where the best batch lies outside the sweep, and ``batch`` is then the best one
    swept), ``curvature``, ``draws`` of (h, r, g, log k, p, q, log k, p, q) for lr and batch, ``optima``, ``scope``,
    ``warnings``.

    Raises:
      UserError: too few runs, or no minimum within the sweep.
    """
    table = table.reset_index(drop=True)
    for column in ("N", "D", "loss", "learning_rate", "batch", "stem"):
        if column not in table:
            raise UserError("column", column, f"the table has {', '.join(map(str, table.columns))}")
    warnings: list[str] = []
    many = table["batch"].nunique() > 2
    found = _fit(table, many, seed)
    if many and (reason := _no_batch(table, found)):
        warnings.append(f"batch: {reason}; the best one swept is kept, and the learning rate is tuned at it")
        cells = table.groupby(["N", "D", "batch"])["loss"].min().reset_index()
        best = cells.loc[cells.groupby(["N", "D"])["loss"].idxmin(), "batch"]
        table = table[table["batch"] == best.mode().max()].reset_index(drop=True)
        found = _fit(table, False, seed)
    rows = optima(table, level)
    if found["minimum"] < IDENTIFIED:
        swept = sorted(set(table["learning_rate"]))
        at = [sum(row["best_run"] == end for row in rows) for end in (swept[0], swept[-1])]
        ends = f"{at[0]} of {len(rows)} cells are best at {swept[0]:.3g}, {at[1]} of {len(rows)} at {swept[-1]:.3g}"
        remedy = "widen it, or add seeds" if any(at) else f"noise of {found['noise']:.2%} a run hides it; add seeds"
        raise UserError("rates", ", ".join(f"{rate:.3g}" for rate in swept),
                        f"the sweep shows no best one ({ends}); {remedy}")  # fmt: skip
    for row in rows:
        if row["learning_rate"] is None:
            warnings.append(f"N {row['N']:.4g}, D {row['D']:.4g}, batch {row['batch']:.4g}: the best run, "
                            f"learning rate {row['best_run']:.3g}, is at the edge of the sweep")  # fmt: skip
    draws = found["draws"]
    tail = [(1 - level) / 2, (1 + level) / 2]

    def law(first: int) -> dict[str, Any]:
        cells = {}
        for i, name in enumerate(("k", "p", "q"), first):
            value, (lo, hi) = found["point"][i], np.quantile(draws[:, i], tail)
            power = math.exp if name == "k" else float
            cells[name] = {"value": power(value), "lo": power(min(lo, value)), "hi": power(max(hi, value))}
        return cells

    h = found["point"][0]
    return {
        "rate_law": law(3),
        "batch_law": law(6) if found["batch"] else None,
        "batch": None if found["batch"] else float(table["batch"].mode().max()),
        "curvature": {"value": float(h), **dict(zip(("lo", "hi"), map(float, np.quantile(draws[:, 0], tail))))},
        "level": level,
        "noise": found["noise"],
        "window": found["window"],
        "runs": found["rows"],
        "stems": found["stems"],
        "scope": {c: [float(table[c].min()), float(table[c].max())] for c in ("N", "D", "learning_rate", "batch")},
        "point": [float(x) for x in found["point"]],
        "draws": [[float(f"{x:.6g}") for x in draw] for draw in draws],
        "optima": rows,
        "warnings": warnings,
    }


def _fit(table: Any, many: bool, seed: int) -> dict[str, Any]:
    """The pooled parabola, jackknifed over stems."""
    x, b, n, d = (np.log(table[c].to_numpy(np.float64)) for c in ("learning_rate", "batch", "N", "D"))
    y = np.log(table["loss"].to_numpy(np.float64))
    at = {name: float(v.mean()) for name, v in (("x", x), ("b", b), ("n", n), ("d", d))}
    x, b, n, d = x - at["x"], b - at["b"], n - at["n"], d - at["d"]
    keys = ["N", "D"] if many else ["N", "D", "batch"]
    cell = table.groupby(keys).ngroup().to_numpy()
    varied = [v if np.ptp(v) > 1e-9 else np.zeros_like(x) for v in (n, d)]
    columns = [x * x, x, x * varied[0], x * varied[1]]
    if many:
        columns += [x * b, b * b, b, b * varied[0], b * varied[1]]
    design = np.stack(columns, 1)
    free = np.flatnonzero(np.any(design != 0, axis=0))
    rate = pd.Series(y).groupby([cell, table["batch"], table["learning_rate"]])
    mean = rate.transform("mean").to_numpy()
    best = pd.Series(mean).groupby(cell).transform("min").to_numpy()
    # A parabola needs the best learning rate and its neighbours, whatever they cost.
    beside = table.assign(y=mean, best=best).groupby(["N", "D", "batch"])[["learning_rate", "y", "best"]].apply(_beside)
    beside = beside.droplevel([0, 1, 2]).sort_index().to_numpy(bool)

    def within(window: float) -> tuple[Array, Array, Array]:
        """Which rows count, their cells (rows, cells), and beside these the free columns of the design."""
        keep = (mean <= best + window) | (beside & (mean <= best + WINDOWS[-1]))
        levels = cell[keep][:, None] == np.unique(cell[keep])
        return keep, levels, np.column_stack([levels, design[keep][:, free]])

    def enough(window: float) -> bool:
        keep, _, both = within(window)
        spare = int(keep.sum()) - both.shape[1]
        if spare < 4:
            return False
        left = y[keep] - both @ np.linalg.lstsq(both, y[keep], rcond=None)[0]
        seeds = keep.sum() / len(set(zip(cell[keep], b[keep], x[keep])))
        return NOISES * math.sqrt(left @ left / spare / seeds) <= window

    window = next(filter(enough, WINDOWS), WINDOWS[-1])
    keep, levels, both = within(window)
    stems = pd.factorize(table["stem"].to_numpy()[keep])[0] % JACKKNIFE

    def solve(chosen: Array) -> Array:
        beta = np.zeros(design.shape[1])
        beta[free] = np.linalg.lstsq(both[chosen], y[keep][chosen], rcond=None)[0][levels.shape[1] :]
        return beta

    everything = np.ones(int(keep.sum()), bool)
    count, params = int(stems.max()) + 1, both.shape[1]
    if keep.sum() <= params or count <= len(free) or np.linalg.matrix_rank(both) < params:
        raise UserError("runs", int(keep.sum()), f"within {window:.0%} of their cell's best, in {count} stems: too few "
                        f"for a parabola of {len(free)} coefficients; sweep more learning rates")  # fmt: skip
    beta = solve(everything)
    left = np.stack([solve(stems != g) for g in range(count)])
    covariance = (count - 1) / count * (left - left.mean(0)).T @ (left - left.mean(0))
    df = max(1, count - len(free))
    rng = np.random.default_rng(seed)
    root = np.linalg.svd(covariance)
    normal = rng.standard_normal((DRAWS, len(beta))) * np.sqrt(np.maximum(root[1], 0)) @ root[0].T
    spread = normal / np.sqrt(rng.chisquare(df, DRAWS) / df)[:, None]
    drawn = np.stack([_laws(one, at, many) for one in np.vstack([beta, beta + spread])])
    point, draws = drawn[0], drawn[1:]
    minimum = np.isfinite(draws).all(1)
    fitted = design[keep] @ beta
    residual = (y[keep] - fitted) - pd.Series(y[keep] - fitted).groupby(cell[keep]).transform("mean").to_numpy()
    return {
        "point": point,
        "draws": draws[minimum],
        "minimum": float(minimum.mean()) if np.isfinite(point).all() else 0.0,
        "batch": many,
        "noise": float(np.sqrt(residual @ residual / max(1, int(keep.sum()) - params))),
        "window": window,
        "rows": int(keep.sum()),
        "stems": count,
    }


def _beside(group: Any) -> Any:
    """Whether a run of one (N, D, batch), where that holds the best of its cell, has its best rate or one beside."""
    if group["y"].min() > group["best"].min():
        return pd.Series(False, index=group.index)
    rates = group.groupby("learning_rate")["y"].mean().sort_index()
    best = int(np.argmin(rates.to_numpy()))
    return group["learning_rate"].isin(rates.index[max(0, best - 1) : best + 2])


def _laws(beta: Array, at: dict[str, float], many: bool) -> Array:
    """(h, r, g, log k, p, q, log k, p, q) of the best point; NaN where the parabola has no minimum."""
    h, b0, bn, bd = beta[:4]
    r, g, g0, gn, gd = beta[4:] if many else (0.0, 0.0, 0.0, 0.0, 0.0)
    hessian = np.array([[2 * h, r], [r, 2 * g]])
    if h <= 0 or (many and np.linalg.det(hessian) <= 0):
        return np.full(9, np.nan)
    # The gradient vanishes: hessian (x, b) = -(b0 + bn n + bd d, g0 + gn n + gd d), in each of 1, n, d.
    right = -np.array([[b0, bn, bd], [g0, gn, gd]])
    move = np.linalg.solve(hessian, right) if many else np.vstack([right[0] / (2 * h), np.zeros(3)])
    out = [h, r, g]
    for name, (start, p, q) in zip(("x", "b"), move):
        out += [at[name] + start - p * at["n"] - q * at["d"], p, q]
    return np.array(out)


def _no_batch(table: Any, found: dict[str, Any]) -> str | None:
    """Why a sweep over batches has no best one; None where it has."""
    if found["minimum"] < IDENTIFIED:
        return "the sweep shows no best one"
    cells = table[["N", "D"]].drop_duplicates()
    log_k, p, q = found["point"][6:]
    best = np.exp(log_k + p * np.log(cells["N"]) + q * np.log(cells["D"]))
    lo, hi = table["batch"].min(), table["batch"].max()
    if (best < lo).any() or (best > hi).any():
        return f"the best is {best.min():.3g} to {best.max():.3g} tokens, outside the sweep's {lo:.4g} to {hi:.4g}"
    return None


def _cell(value: float, log_half_width: float | None) -> dict[str, Any]:
    if log_half_width is None:
        return {"value": float(value), "lo": None, "hi": None}
    return {"value": float(value), "lo": float(value * math.exp(-log_half_width)),
            "hi": float(value * math.exp(log_half_width))}  # fmt: skip
