"""The parts of a card that follow from a fitted law and its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import card as cards
from analysis import laws
from analysis.card import Derived, Interval, finite
from analysis.check import diagnose, discrepancy, replicates
from analysis.check.influence import influence, of_curves
from analysis.check.structure import structure
from analysis.engine.estimate import Estimate, estimate
from analysis.engine.uncertainty import Inference
from analysis.laws import Law
from analysis.table.frame import Runs
from analysis.table.rounding import rounded

Array = np.ndarray
DECADE = math.log(10)
MANY = 5000  # rows above which other laws are not tried for their floors


@dataclass(frozen=True)
class Numbers:
    """Parameters and derived numbers with the intervals of one scheme."""

    params: dict[str, Interval]
    derived: Derived

    @property
    def intervals(self) -> dict[str, Interval]:
        pair = (("a", self.derived.a), ("b", self.derived.b))
        return {**self.params, **{name: cell for name, cell in pair if cell is not None}}


def numbers_of(
    law: Law, at: Inference, table: pd.DataFrame, level: float, term: cards.Discrepancy | None = None
) -> Numbers:
    """``term``: the discrepancy, which widens what lies beyond the runs."""
    value, draws, tail = at.theta_hat, at.theta, [(1 - level) / 2, (1 + level) / 2]
    params = {}
    for i, p in enumerate(law.params):
        lo, hi = at.profiled.get(p.name) or np.quantile(draws[:, i], tail)
        params[p.name] = _interval(value[i], lo, hi, p.unit)
    return Numbers(params, _derived(at, table, tail, term))


def _interval(value: float, lo: float, hi: float, unit: str) -> Interval:
    """A number with its interval, widened to include it; an infinite end is None."""
    low, high = (finite(end) if abs(end) < 1e290 else None for end in (min(lo, value), max(hi, value)))
    return Interval(value=float(value), lo=low, hi=high, unit=unit)


def _derived(at: Inference, table: pd.DataFrame, tail: list[float], term: cards.Discrepancy | None) -> Derived:
    """a, b and tokens per parameter at three budgets from the largest compute on, C = 6 N D."""
    law, value, draws = at.surface.law, at.theta_hat, at.theta
    centre, spread = law.exponents(value), law.exponents(draws)
    if centre is None or spread is None:
        return Derived()
    pair: dict[str, Interval] = {}
    for name in ("a", "b"):
        finite = spread[name][np.isfinite(spread[name])]
        lo, hi = at.profiled.get(name) or (np.quantile(finite, tail) if len(finite) else (-math.inf, math.inf))
        if np.isfinite(centre[name][0]):
            pair[name] = _interval(centre[name][0], lo, hi, "exponent")
    scope, moves = scope_of(table), np.zeros(len(draws))  # of log N by an error of the law of one t scale
    if term is not None and term.k > 0:
        moves = np.random.default_rng(3).standard_t(term.df, len(draws))
        if "a" in pair:
            pair["a_beyond"] = _beyond(
                pair["a"].value, spread["a"], discrepancy.shift(term, DECADE) * moves, table, tail
            )
    top = math.floor(math.log10(float(np.max(6 * np.asarray(table["N"] * table["D"])))) + 1e-9)
    budgets = np.array([10.0 ** (top + k) for k in range(3)])
    n, d = law.optimum(value, budgets)
    ns, ds = law.optimum(draws, budgets)
    with np.errstate(all="ignore"):
        ratio, ratios = (d / n)[0], ds / ns
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    cells = {}
    for j, c in enumerate(budgets):
        if not np.isfinite(ratio[j]):
            continue
        at_edge = not (0 < n[0, j] < math.inf and 0 < d[0, j] < math.inf)
        x = 0.0 if at_edge else float(discrepancy.beyond(scope, {"N": n[0, j], "D": d[0, j]})[0])
        apart = np.exp(-2 * (0.0 if term is None else discrepancy.shift(term, x)) * moves)  # N up is D down
        lo, hi = np.quantile(ratios[:, j] * apart, tail, method="nearest")
        cells[f"{c:.0e}"] = _interval(ratio[j], lo, hi, "tokens/parameter")
    return Derived(**pair, tokens_per_parameter=cells)


def _beyond(value: float, draws: Array, moves: Array, table: pd.DataFrame, tail: list[float]) -> Interval:
    """a over the chord from the middle of the runs to a decade beyond them, whose end is moved by ``moves`` (S,)."""
    log_c = np.log(np.asarray(table["N"] * table["D"], dtype=np.float64))
    ends = draws + moves / (DECADE + np.ptp(log_c) / 2)
    lo, hi = np.quantile(ends[np.isfinite(ends)], tail) if np.isfinite(ends).any() else (-math.inf, math.inf)
    return _interval(value, lo, hi, "exponent")


def objective_of(point: Estimate, at: Inference, table: pd.DataFrame) -> cards.Objective:
    fitted = np.atleast_1d(at.surface.law.predict(at.theta_hat, table))
    residual = np.log(table["loss"].to_numpy(dtype=np.float64)) - np.log(fitted)
    rms = float(np.sqrt(np.mean(residual**2)))
    name = point.objective.name
    return cards.Objective(name=name, delta=finite(point.delta), value=point.value, rms_log_residual=rms)


def noise_of(point: Estimate, at: Inference, table: pd.DataFrame) -> cards.Noise:
    error, lack = replicates.pure_error(point.y, table, point)
    return cards.Noise(
        sigma_run=at.sigma_hat,
        sigma_stem=at.sigma_hat * math.sqrt(at.rho),
        sigma_stem_hi=float(np.quantile(at.sigma_stem, 0.95)),
        groups=None if at.groups is None else cards.Groups(kind=at.groups.kind, count=len(at.groups.names)),
        pure_error=error,
        lack_of_fit=lack,
        structure=structure(point, at, table),
    )


def floors_of(subject: diagnose.Subject) -> dict[str, float]:
    """Irreducible losses by law, of this law and of those of the same columns that fit the rows at least as well."""
    point, table = subject.point, subject.table
    law, loss = point.surface.law, table["loss"].to_numpy(dtype=np.float64)
    if law.irreducible is None or len(table) > MANY:
        return {}

    def misfit(of: Law, theta: Array) -> float:
        return float(np.mean(np.log(np.atleast_1d(of.predict(theta, table)) / loss) ** 2))

    own = subject.inference.theta_hat
    found = {law.name: float(own[law.names.index(law.irreducible)])}
    for other in laws.REGISTRY.values():
        if other.name == law.name or other.columns != law.columns or other.irreducible is None:
            continue
        if len(table) <= len(other.names):
            continue
        theta = estimate(other, table, loss, point.objective).theta
        if misfit(other, theta) <= misfit(law, own):
            found[other.name] = float(theta[other.names.index(other.irreducible)])
    return found


def influence_of(point: Estimate, at: Inference, table: pd.DataFrame) -> tuple[cards.Influence, ...]:
    if point.surface.law.curve:
        return of_curves(point, point.y, at)
    return influence(point, point.y, diagnose.names_of(table))


def evaluation_of(table: pd.DataFrame) -> cards.EvaluationError | None:
    """The evaluation set's own error, common to all runs: it shifts the floor and does not enter the weights."""
    if "loss_se" not in table:
        return None
    se = np.asarray(table["loss_se"], dtype=np.float64)
    se = se[np.isfinite(se)]
    return cards.EvaluationError(se=float(np.median(se))) if len(se) else None


def data_of(runs: Runs) -> cards.Data:
    about = {"sha256": runs.sha256, "source": str(runs.source), "dataset": runs.dataset}
    return cards.Data(rows=len(runs), dropped=tuple(runs.dropped), **about)


def scope_of(table: pd.DataFrame) -> cards.Scope:
    ends: dict[str, float] = {}
    for c in ("C", "N", "D"):
        if c in table:
            values = np.asarray(table[c], dtype=np.float64)
            ends[f"{c}_min"], ends[f"{c}_max"] = float(values.min()), float(values.max())
    if "N" in table and "D" in table:
        ends["ND_max"] = float(np.max(np.asarray(table["N"], np.float64) * np.asarray(table["D"], np.float64)))
    sizes = len(diagnose.levels(table["N"])) if "N" in table else None
    return cards.Scope(rows=len(table), sizes=sizes, **ends)


def throughput_of(table: pd.DataFrame) -> cards.Throughput | None:
    """Tokens per second of one device by size, where the table has them; a budget in device hours needs them."""
    if not {"N", "tokens_per_second"} <= set(table):
        return None
    speed: Any = pd.to_numeric(table["tokens_per_second"], errors="coerce")
    sizes = pd.Series(rounded(table["N"]), index=table.index, name="N")
    median = speed[np.isfinite(speed) & (speed > 0)].groupby(sizes).median()
    if not len(median):
        return None
    return cards.Throughput(N=tuple(float(n) for n in median.index), tokens_per_second=tuple(median.tolist()))


def rows_of(law: Law, at: Inference, table: pd.DataFrame, w: Array | None) -> cards.Rows:
    """The fitted rows: columns of the law, the loss, and the law's prediction."""
    loss, fitted = table["loss"].to_numpy(dtype=np.float64), np.atleast_1d(law.predict(at.theta_hat, table))
    arrays = array_columns(table)
    named = [c for c in dict.fromkeys(("N", "D", "C", "step", *law.columns)) if c in table and c not in arrays]
    columns = {c: table[c].to_numpy(dtype=np.float64) for c in named}
    columns |= {"loss": loss, "fitted": fitted, "residual_log": np.log(loss) - np.log(fitted)}
    if w is not None:
        columns["weight"] = w
    names = table["run"].tolist() if "run" in table else table.index
    return cards.Rows(run=tuple(str(v) for v in names), columns={c: _cells(v) for c, v in columns.items()})


def _cells(values: Array) -> tuple[float | None, ...]:
    if np.isfinite(values).all():
        return tuple(values.tolist())
    return tuple(finite(v) for v in values.tolist())


def array_columns(table: pd.DataFrame) -> set[str]:
    """Columns whose entries are arrays, as in laws of whole schedules."""
    return {str(c) for c in table if len(table) and isinstance(table[c].iloc[0], np.ndarray)}
