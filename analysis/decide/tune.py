"""The best learning rate and batch from a small sweep, and how they follow N and D.

Near its best point the log loss of a cell (N, D) is a parabola in log learning rate and log batch. All cells share its
curvature, and the best point moves with log N and log D:

    log L = c(N, D) + h x^2 + r x b + g b^2 + (x and b) times (linear in log N, log D)

with x = log learning rate, b = log batch in tokens. The model is linear in its coefficients, and the best learning rate
and batch are power laws k N^p D^q, the form of Step Law (Li 2025, arXiv 2503.04715, where the batch depends on D
alone). Runs of one stem share their noise, so intervals are jackknifed over stems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.card import Interval, Value, Warning
from analysis.table.rounding import rounded
from scaling.errors import Code, UserError

Array = np.ndarray
Table = Any  # a DataFrame, whose stubs leave the types of cells and columns open
COLUMNS = ("N", "D", "loss", "learning_rate", "batch", "stem")
# Log loss above a cell's best within which runs are fitted by a parabola: the first window with enough runs that is
# wider than the noise. Seeds of a rate are selected by their mean: selecting single lucky runs would flatten it.
WINDOWS = (0.03, 0.06, 0.12, 0.25)
NOISES = 3.0  # smallest width of a window, in standard errors of a mean over seeds
DRAWS = 400
JACKKNIFE = 80  # groups of stems left out in turn, at most
IDENTIFIED = 0.975  # share of draws with a minimum below which the minimum is not identified
SPARE = 4  # residual degrees of freedom that a window needs to measure the noise


class PowerLaw(Value):
    """k N^p D^q, each with its interval."""

    k: Interval
    p: Interval
    q: Interval


class SweptCell(Value):
    """A swept (N, D, batch in tokens).

    Attributes:
      best_run, loss: the learning rate with the lowest mean loss over seeds, and that loss.
      learning_rate: the minimum of a parabola; None where ``best_run`` is the first or last rate of its sweep.
    """

    N: float
    D: float
    batch: float
    best_run: float
    loss: float
    learning_rate: Interval | None = None


class NoBestBatch(Warning, tag="no_best_batch"):
    """A sweep over batches identifies no best one; the learning rate is tuned at the best batch swept.

    Attributes:
      why: the parabola has no minimum, or the ``best`` batches lie outside the range ``swept`` (tokens).
    """

    why: Literal["no_minimum", "outside"]
    best: tuple[float, float] | None
    swept: tuple[float, float]


class EdgeOfSweep(Warning, tag="edge_of_sweep"):
    """The best run of a cell, with this learning rate, is at the edge of the sweep."""

    N: float
    D: float
    batch: float
    learning_rate: float


TuneWarning = NoBestBatch | EdgeOfSweep


class Tuned(Value):
    """The laws of the best learning rate and batch: what a recipe file holds under ``fit``.

    Attributes:
      rate_law, batch_law: laws of the best learning rate and batch. ``batch_law`` is None where the best batch lies
        outside the sweep; ``batch`` (tokens) is then the best one swept.
      curvature: h of the parabola: at x e-folds from the best learning rate the log loss is h x^2 above its minimum.
      noise: sd of log loss of a run.
      window: log loss above a cell's best within which runs are used.
      runs, stems: numbers used.
      scope: smallest and largest N, D, learning_rate and batch of the sweep.
      point, draws: (h, r, g, log k, p, q of the learning rate, log k, p, q of the batch), the estimate and each draw.
    """

    rate_law: PowerLaw
    batch_law: PowerLaw | None
    batch: float | None
    curvature: Interval
    level: float
    noise: float
    window: float
    runs: int
    stems: int
    scope: dict[str, tuple[float, float]]
    point: tuple[float, ...]
    draws: tuple[tuple[float, ...], ...]
    optima: tuple[SweptCell, ...]
    warnings: tuple[TuneWarning, ...]


def optima(table: Table, level: float = 0.95) -> tuple[SweptCell, ...]:
    """The best learning rate of each (N, D, batch), from a parabola through the best run and its neighbours.

    The noise is pooled over all parabolas; intervals are open where no degrees of freedom are left to measure it.

    Args:
      table: columns N, D, loss, learning_rate, batch (in tokens).
      level: confidence of the intervals.
    """
    cells = _settings(table).groupby(["N", "D", "batch"], sort=True)
    swept = [_parabola(group, *key) for key, group in cells]
    fitted = [parabola for _, parabola in swept if parabola is not None]
    spare = sum(parabola.spare for parabola in fitted)
    variance = sum(parabola.residuals for parabola in fitted) / spare if spare else None
    quantile = float(special.stdtrit(spare, (1 + level) / 2)) if spare else math.nan
    cells = []
    for cell, parabola in swept:
        if parabola is not None:
            rate, sd = cell.best_run * math.exp(parabola.shift), parabola.sd(variance)
            cell = SweptCell(
                N=cell.N,
                D=cell.D,
                batch=cell.batch,
                best_run=cell.best_run,
                loss=cell.loss,
                learning_rate=_around(rate, None if sd is None else quantile * sd),
            )
        cells.append(cell)
    return tuple(cells)


@dataclass(frozen=True)
class _Parabola:
    """A parabola of log loss in log learning rate relative to the best run: coefficients (3,), their covariance (3, 3)
    per unit of noise variance, residual sum of squares and degrees of freedom."""

    beta: Array
    inverse: Array
    residuals: float
    spare: int

    @property
    def shift(self) -> float:
        """Position of the minimum relative to the best run, in e-folds."""
        return float(-self.beta[1] / (2 * self.beta[2]))

    def sd(self, variance: float | None) -> float | None:
        """Standard error of the shift at a noise variance."""
        beta = self.beta
        slope = np.array([0.0, -1 / (2 * beta[2]), beta[1] / (2 * beta[2] ** 2)])
        return None if variance is None else math.sqrt(variance * float(slope @ self.inverse @ slope))


def _settings(table: Table) -> Table:
    """The table with settings that are equal to rounding made equal."""
    return table.assign(**{name: rounded(table[name]) for name in ("N", "D", "batch", "learning_rate")})


def _parabola(group: Any, n: float, d: float, batch: float) -> tuple[SweptCell, _Parabola | None]:
    """The best run of a cell, and the parabola around it where it has neighbours and a minimum."""
    rates = group.groupby("learning_rate")["loss"].apply(lambda x: float(np.exp(np.log(x).mean()))).sort_index()
    best = int(np.argmin(rates.to_numpy()))
    at, loss = float(rates.index[best]), float(rates.iloc[best])
    cell = SweptCell(N=float(n), D=float(d), batch=float(batch), best_run=at, loss=loss)
    if not 0 < best < len(rates) - 1:
        return cell, None
    near = group[group["learning_rate"].isin(rates.index[max(0, best - 2) : best + 3])]
    near = near[np.log(near["loss"]) < math.log(loss) + WINDOWS[-1]]
    x, y = np.log(near["learning_rate"]) - math.log(at), np.log(near["loss"])
    design = np.stack([np.ones(len(x)), x, x * x], 1)
    beta, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    if rank < 3 or beta[2] <= 0:
        return cell, None
    squares = float(np.sum((y - design @ beta) ** 2))
    return cell, _Parabola(beta, np.linalg.inv(design.T @ design), squares, len(x) - 3)


def fit(table: Table, *, level: float = 0.95, seed: int = 0) -> Tuned:
    """The laws of the best learning rate and batch over the runs of a sweep.

    Args:
      table: columns N, D, loss, learning_rate, batch (in tokens) and stem.
      level: confidence of the intervals.
      seed: of the draws.

    Raises:
      UserError: MISSING: a column; TOO_FEW: too few runs; NOT_IDENTIFIED: no minimum within the sweep.
    """
    table = table.reset_index(drop=True)
    for column in COLUMNS:
        if column not in table:
            remedy = f"the table has {', '.join(map(str, table.columns))}"
            raise UserError("column", column, remedy, Code.MISSING)
    table, warnings = _settings(table), list[TuneWarning]()
    many = table["batch"].nunique() > 2
    pooled = _fit(table, many, seed)
    if many and (problem := _no_batch(table, pooled)):
        warnings.append(problem)
        cells = table.groupby(["N", "D", "batch"])["loss"].min().reset_index()
        best = cells.loc[cells.groupby(["N", "D"])["loss"].idxmin(), "batch"]
        table = table[table["batch"] == best.mode().max()].reset_index(drop=True)
        pooled = _fit(table, False, seed)
    rows = optima(table, level)
    if pooled.minimum < IDENTIFIED:
        raise _no_minimum(table, rows, pooled.noise)
    warnings += [
        EdgeOfSweep(N=row.N, D=row.D, batch=row.batch, learning_rate=row.best_run)
        for row in rows
        if row.learning_rate is None
    ]
    tail = [(1 - level) / 2, (1 + level) / 2]
    low, high = (float(end) for end in np.quantile(pooled.draws[:, 0], tail))
    return Tuned(
        rate_law=pooled.law(3, tail),
        batch_law=pooled.law(6, tail) if pooled.batch else None,
        batch=None if pooled.batch else float(table["batch"].mode().max()),
        curvature=Interval(value=float(pooled.point[0]), lo=low, hi=high),
        level=level,
        noise=pooled.noise,
        window=pooled.window,
        runs=pooled.rows,
        stems=pooled.stems,
        scope={c: (float(table[c].min()), float(table[c].max())) for c in ("N", "D", "learning_rate", "batch")},
        point=tuple(float(x) for x in pooled.point),
        draws=tuple(tuple(float(f"{x:.6g}") for x in draw) for draw in pooled.draws),
        optima=rows,
        warnings=tuple(warnings),
    )


def _no_minimum(table: Table, rows: tuple[SweptCell, ...], noise: float) -> UserError:
    swept = sorted(set(table["learning_rate"]))
    at = [sum(row.best_run == end for row in rows) for end in (swept[0], swept[-1])]
    ends = f"{at[0]} of {len(rows)} cells are best at {swept[0]:.3g}, {at[1]} of {len(rows)} at {swept[-1]:.3g}"
    remedy = "widen it, or add seeds" if any(at) else f"noise of {noise:.2%} a run hides it; add seeds"
    rates = ", ".join(f"{rate:.3g}" for rate in swept)
    return UserError("rates", rates, f"the sweep shows no best one ({ends}); {remedy}", Code.NOT_IDENTIFIED)


@dataclass(frozen=True)
class _Pooled:
    """The parabola of all cells: ``point`` (9,) and ``draws`` (S, 9) as in ``Tuned``, the share of draws with a
    minimum, and the data of the fit."""

    point: Array
    draws: Array
    minimum: float
    batch: bool
    noise: float
    window: float
    rows: int
    stems: int

    def law(self, first: int, tail: list[float]) -> PowerLaw:
        """The power law of (log k, p, q), which start at column ``first``."""
        cells = []
        for i in range(first, first + 3):
            value, (lo, hi) = float(self.point[i]), np.quantile(self.draws[:, i], tail)
            ends = (value, min(float(lo), value), max(float(hi), value))
            value, low, high = map(math.exp, ends) if i == first else ends
            cells.append(Interval(value=value, lo=low, hi=high))
        return PowerLaw(k=cells[0], p=cells[1], q=cells[2])


class _Sweep:
    """The rows of a sweep as a linear design: an intercept for each cell (N, D), and the terms of the parabola."""

    def __init__(self, table: Table, many: bool):
        x, b, n, d = (np.log(table[c].to_numpy(np.float64)) for c in ("learning_rate", "batch", "N", "D"))
        self.y = np.log(table["loss"].to_numpy(np.float64))
        self.centre = {name: float(v.mean()) for name, v in (("x", x), ("b", b), ("n", n), ("d", d))}
        self.x, self.b = x - self.centre["x"], b - self.centre["b"]
        self.stem, self.many = table["stem"].to_numpy(), many
        n, d = n - self.centre["n"], d - self.centre["d"]
        self.cell = table.groupby(["N", "D"] if many else ["N", "D", "batch"]).ngroup().to_numpy()
        self.design = self._design(*(v if np.ptp(v) > 1e-9 else np.zeros_like(v) for v in (n, d)))
        self.free = np.flatnonzero(np.any(self.design != 0, axis=0))
        rate = pd.Series(self.y).groupby([self.cell, table["batch"], table["learning_rate"]])
        self.mean = rate.transform("mean").to_numpy()
        self.best = pd.Series(self.mean).groupby(self.cell).transform("min").to_numpy()
        # A parabola needs the best learning rate and its neighbours, whatever their loss.
        seen = table.assign(y=self.mean, best=self.best).groupby(["N", "D", "batch"])[["learning_rate", "y", "best"]]
        self.beside = seen.apply(_beside).droplevel([0, 1, 2]).sort_index().to_numpy(bool)

    def _design(self, n: Array, d: Array) -> Array:
        x, b = self.x, self.b
        columns = [x * x, x, x * n, x * d]
        if self.many:
            columns += [x * b, b * b, b, b * n, b * d]
        return np.stack(columns, 1)

    def within(self, window: float) -> _Window:
        """The rows within a window."""
        keep = (self.mean <= self.best + window) | (self.beside & (self.mean <= self.best + WINDOWS[-1]))
        levels = self.cell[keep][:, None] == np.unique(self.cell[keep])
        return _Window(keep, levels, np.column_stack([levels, self.design[keep][:, self.free]]))

    def enough(self, window: float) -> bool:
        """Whether a window leaves enough degrees of freedom and is wider than the noise of a mean over seeds."""
        rows = self.within(window)
        y, spare = self.y[rows.keep], int(rows.keep.sum()) - rows.both.shape[1]
        if spare < SPARE:
            return False
        left = y - rows.both @ np.linalg.lstsq(rows.both, y, rcond=None)[0]
        distinct = set(zip(self.cell[rows.keep], self.b[rows.keep], self.x[rows.keep]))
        seeds = rows.keep.sum() / len(distinct)
        return NOISES * math.sqrt(left @ left / spare / seeds) <= window

    def solve(self, rows: _Window, chosen: Array) -> Array:
        """Coefficients of the parabola from some rows of a window; zero for terms that do not vary."""
        beta = np.zeros(self.design.shape[1])
        solved = np.linalg.lstsq(rows.both[chosen], self.y[rows.keep][chosen], rcond=None)[0]
        beta[self.free] = solved[rows.levels.shape[1] :]
        return beta


class _Window(NamedTuple):
    """Mask of a sweep's rows in use, their cells (rows, cells), and the cells beside the design's free columns."""

    keep: Array
    levels: Array
    both: Array


def _fit(table: Table, many: bool, seed: int) -> _Pooled:
    """The pooled parabola, jackknifed over stems."""
    sweep = _Sweep(table, many)
    window = next(filter(sweep.enough, WINDOWS), WINDOWS[-1])
    rows, free = sweep.within(window), len(sweep.free)
    kept, params = int(rows.keep.sum()), rows.both.shape[1]
    stems = pd.factorize(sweep.stem[rows.keep])[0] % JACKKNIFE
    count = int(stems.max()) + 1
    if kept <= params or count <= free or np.linalg.matrix_rank(rows.both) < params:
        remedy = (
            f"within {window:.0%} of their cell's best, in {count} stems: too few for a parabola of {free} "
            "coefficients; sweep more learning rates"
        )
        raise UserError("runs", kept, remedy, Code.TOO_FEW)
    beta = sweep.solve(rows, np.ones(kept, bool))
    left = np.stack([sweep.solve(rows, stems != g) for g in range(count)])
    covariance = (count - 1) / count * (left - left.mean(0)).T @ (left - left.mean(0))
    spread = _t_draws(covariance, max(1, count - free), np.random.default_rng(seed))
    points = np.stack([_best_points(one, sweep.centre, many) for one in np.vstack([beta, beta + spread])])
    point, draws = points[0], points[1:]
    minimum = np.isfinite(draws).all(1)
    error = pd.Series(sweep.y[rows.keep] - sweep.design[rows.keep] @ beta)
    residual = (error - error.groupby(sweep.cell[rows.keep]).transform("mean")).to_numpy()
    return _Pooled(
        point=point,
        draws=draws[minimum],
        minimum=float(minimum.mean()) if np.isfinite(point).all() else 0.0,
        batch=many,
        noise=float(np.sqrt(residual @ residual / max(1, kept - params))),
        window=window,
        rows=kept,
        stems=count,
    )


def _t_draws(covariance: Array, df: int, rng: np.random.Generator) -> Array:
    """Draws (DRAWS, P) from a t distribution around zero."""
    root = np.linalg.svd(covariance)
    normal = rng.standard_normal((DRAWS, len(covariance))) * np.sqrt(np.maximum(root[1], 0)) @ root[0].T
    return normal / np.sqrt(rng.chisquare(df, DRAWS) / df)[:, None]


def _beside(group: Any) -> Any:
    """Mask of runs of one (N, D, batch) at or next to the best learning rate, if the cell's best run is among them."""
    if group["y"].min() > group["best"].min():
        return pd.Series(False, index=group.index)
    rates = group.groupby("learning_rate")["y"].mean().sort_index()
    best = int(np.argmin(rates.to_numpy()))
    return group["learning_rate"].isin(rates.index[max(0, best - 1) : best + 2])


def _best_points(beta: Array, centre: dict[str, float], many: bool) -> Array:
    """(h, r, g, log k, p, q, log k, p, q) of the minimum; NaN where the parabola has none."""
    h, b0, bn, bd = beta[:4]
    r, g, g0, gn, gd = beta[4:] if many else (0.0, 0.0, 0.0, 0.0, 0.0)
    hessian = np.array([[2 * h, r], [r, 2 * g]])
    if h <= 0 or (many and np.linalg.det(hessian) <= 0):
        return np.full(9, np.nan)
    # Where the gradient is zero, hessian (x, b) = -(b0 + bn n + bd d, g0 + gn n + gd d), for each of 1, n, d.
    right = -np.array([[b0, bn, bd], [g0, gn, gd]])
    move = np.linalg.solve(hessian, right) if many else np.vstack([right[0] / (2 * h), np.zeros(3)])
    out = [h, r, g]
    for name, (start, p, q) in zip(("x", "b"), move):
        out += [centre[name] + start - p * centre["n"] - q * centre["d"], p, q]
    return np.array(out)


def _no_batch(table: Table, pooled: _Pooled) -> NoBestBatch | None:
    """Why a sweep over batches identifies no best one; None where it does."""
    swept = (float(table["batch"].min()), float(table["batch"].max()))
    if pooled.minimum < IDENTIFIED:
        return NoBestBatch(why="no_minimum", best=None, swept=swept)
    cells = table[["N", "D"]].drop_duplicates()
    log_k, p, q = pooled.point[6:]
    best = np.exp(log_k + p * np.log(cells["N"]) + q * np.log(cells["D"]))
    if (best < swept[0]).any() or (best > swept[1]).any():
        return NoBestBatch(why="outside", best=(float(best.min()), float(best.max())), swept=swept)
    return None


def _around(value: float, log_half_width: float | None) -> Interval:
    if log_half_width is None:
        return Interval(value=float(value), lo=None, hi=None)
    factor = math.exp(log_half_width)
    return Interval(value=float(value), lo=float(value * math.exp(-log_half_width)), hi=float(value * factor))
