"""What is wrong with a fit or not identified by it, as typed warnings (``card``), and how well each number is known.

Identification is a property of the design (sizes, tokens, noise). It is judged by the intervals expected at the fitted
law (``expected``), independent of the noise that happened: judging by the estimate selects lucky studies (winner's
curse).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
from scipy import special

from analysis import card
from analysis.card import AnyWarning, Dropped, Influence, Interval, Noise, Warning, finite
from analysis.check.expected import expected
from analysis.check.influence import FAR, LARGE, Together, outlying, together
from analysis.check.structure import EXACT
from analysis.engine import profile
from analysis.engine.estimate import Estimate
from analysis.engine.uncertainty import Inference
from analysis.laws import Law

Array = np.ndarray
Intervals = Mapping[str, Interval]
FLOOR_REACHED = 0.01  # a floor whose expected interval reaches this is not identified
ROUNDING = 1e-4  # of log losses that are written to four digits
WIDE_A = 0.15  # an allocation exponent with a wider expected half-width is not identified
KNOWN = 2.0  # a positive scale that is not known within this factor either way is not identified
# most studies of a design at the limit show a smaller width, but fewer than 3 % one below this (benchmarks/coverage.py)
DOUBTFUL_A = 0.085
COLLINEAR = 0.95  # correlation of log N and log D above which their exponents are hard to tell apart
CONFOUNDED = 0.999  # and above which D is a function of N: they are not told apart, whatever the intervals say
REFUTED = 0.01
DIVERGED = math.log(1.5)  # excess of log loss over the law of the other runs above which a run looks diverged
Standing = Literal["yes", "roughly", "no", "by_form"]
STANDINGS: tuple[Standing, ...] = ("yes", "roughly", "no", "by_form")


class Subject(msgspec.Struct, frozen=True):
    """The fit under examination: the point estimate, its uncertainty, the rows and what is known about them.

    Attributes:
      y: (n,), the values that the surface was fitted to.
      level: confidence of the intervals.
      intervals: by name of parameter or derived number.
      influence: refits without single rows.
    """

    point: Estimate
    inference: Inference
    y: Array
    table: pd.DataFrame
    level: float
    noise: Noise
    influence: tuple[Influence, ...]
    intervals: Intervals

    @property
    def law(self) -> Law:
        return self.point.surface.law


def diagnose(fit: Subject) -> tuple[AnyWarning, ...]:
    """Every warning of a fit."""
    point, y = fit.point, fit.y
    off, apart = outlying(point, y) if point.scale > 1e-10 else (np.zeros(0, dtype=int), np.zeros(len(y)))
    warnings: list[AnyWarning] = [
        *_bounds(fit),
        *_stem_effects(fit),
        *_not_linear(fit),
        *_identification(fit),
        *_scales(fit),
        *_design(fit),
        *_influential(fit, off, apart),
        *_outliers(fit, off, apart),
        *_heteroscedastic(fit),
        *_optima(fit),
        *_mixed(fit),
    ]
    lack = fit.noise.lack_of_fit
    if lack.p is not None and lack.p < REFUTED and lack.F is not None and lack.df1 and lack.df2:
        warnings.append(card.Refuted(F=lack.F, df1=lack.df1, df2=lack.df2, p=lack.p))
    return (*warnings, *_misfit(fit))


def _misfit(fit: Subject) -> list[AnyWarning]:
    found = fit.noise.structure
    if found is None or found.p >= REFUTED or found.size_log < EXACT:
        return []
    return [card.Misfit(**msgspec.structs.asdict(found), floors={})]


# --- the law and the design


def _bounds(fit: Subject) -> list[AnyWarning]:
    """Free coordinates that end at a bound."""
    surface, z = fit.point.surface, fit.inference.z_hat
    warnings: list[AnyWarning] = []
    for i, c in enumerate(fit.law.coordinates):
        low, high = z[i] <= surface.lower[i] + 1e-9, z[i] >= surface.upper[i] - 1e-9
        if fit.point.free[i] and (low or high):
            bound = c.lower if low else c.upper
            warnings.append(
                card.ParameterAtBound(
                    parameter=c.name, side="lower" if low else "upper", bound=bound if math.isfinite(bound) else None
                )
            )
    return warnings


def _stem_effects(fit: Subject) -> list[AnyWarning]:
    """None for exact losses or for hardly more rows than parameters, which cannot show a misfit."""
    sd, spare = fit.inference.capped, len(fit.y) - int(fit.point.free.sum())
    return [card.StemEffects(sd=sd)] if sd is not None and sd > ROUNDING and spare >= len(fit.law.names) else []


def _not_linear(fit: Subject) -> list[AnyWarning]:
    left = fit.inference.left
    return [] if left is None else [card.NotLinear(size_log=finite(left[0]), expected_log=left[1])]


def _identification(fit: Subject) -> list[AnyWarning]:
    """Whether the floor and the allocation exponent are identified, by the design and by the intervals."""
    warnings: list[AnyWarning] = []
    hoped, floor = expected(fit.inference, fit.level, FLOOR_REACHED), fit.law.floor
    if floor and hoped.floor_statistic is not None:
        cell, reach = fit.intervals[floor], hoped.floor_statistic
        df = fit.inference.df
        worst = reach * float(2 * special.gammaincinv(df / 2, 0.05)) / df  # at the upper 95 % bound of the noise
        about: dict[str, Any] = {
            "parameter": floor,
            "why": "floor",
            "lo": cell.lo,
            "hi": cell.hi,
            "expected_statistic": reach,
        }
        if reach < 1 or cell.lo is None or cell.lo < FLOOR_REACHED:
            warnings.append(card.NotIdentified(**about))
        elif worst < 1:
            warnings.append(card.Doubtful(**about))
    return warnings if hoped.a_half_width is None else [*warnings, *_allocation(fit, hoped.a_half_width)]


def _allocation(fit: Subject, width: float) -> list[AnyWarning]:
    """Whether a is identified, where the design lets a half-width of ``width`` be expected."""
    if "a" not in fit.intervals:
        return [card.NotIdentified(parameter="a", why="flat")]
    cell = fit.intervals["a"]
    half_width, ends = cell.half_width, {"lo": cell.lo, "hi": cell.hi}
    if cell.lo != cell.hi and abs(correlation(fit.law, fit.table) or 0.0) > CONFOUNDED:
        names = ("a", *(name for name in fit.law.exponent_names if fit.intervals[name].lo != fit.intervals[name].hi))
        lost = {name: fit.intervals[name] for name in names}
        return [card.NotIdentified(parameter=p, why="collinear", lo=c.lo, hi=c.hi) for p, c in lost.items()]
    about: dict[str, Any] = {
        "parameter": "a",
        "why": "wide",
        **ends,
        "half_width": finite(half_width),
        "expected_half_width": min(width, 1e9),
    }
    if max(width, half_width) > WIDE_A:
        return [card.NotIdentified(**about)]
    return [card.Doubtful(**about)] if max(width, half_width) > DOUBTFUL_A else []


def correlation(law: Law, table: pd.DataFrame) -> float | None:
    """Correlation of log N and log D over the rows; None for a law that has not both."""
    if not {"N", "D"} <= set(law.columns):
        return None
    logs = np.log([np.asarray(table[c], dtype=np.float64) for c in ("N", "D")])
    return float(np.corrcoef(logs)[0, 1]) if (np.ptp(logs, axis=1) > 0).all() else None


def _scales(fit: Subject) -> list[AnyWarning]:
    """Half-lives, breaks and other positive scales that are not identified.

    Either they are not known within a factor ``KNOWN`` either way, or the card's interval, made around the estimate,
    ends more than that factor short of values that fit equally well.
    """
    warnings: list[AnyWarning] = []
    for name, (low, high) in profile.ranges(fit.point, fit.inference, fit.level).items():
        cell = fit.intervals[name]
        ends = cell.lo or 0.0, math.inf if cell.hi is None else cell.hi
        lo, hi = min(low, ends[0]), max(high, ends[1])
        # the factor by which the printed interval is too short
        short = max(hi / ends[1] if ends[1] < math.inf else 1.0, ends[0] / max(lo, 1e-300))
        if hi > KNOWN**2 * lo or short > KNOWN:
            warnings.append(card.NotIdentified(parameter=name, why="scale", lo=lo, hi=finite(hi)))
    return warnings


def _design(fit: Subject) -> list[AnyWarning]:
    """Too few values or rows, collinear columns, losses that do not fall with N."""
    law, table, P = fit.law, fit.table, int(fit.point.free.sum())
    warnings: list[AnyWarning] = []
    for column in law.columns:
        if table[column].dtype == object or column in law.steady:
            continue  # schedules, an array in each row, and columns whose terms have no curvature
        count = len(levels(table[column]))
        need = P + 1 if len(law.columns) == 1 else 2 + (law.floor is not None) + (column == "N")
        if count < need:
            warnings.append(card.TooFewValues(column=column, found=count, needed=need))
    if len(fit.y) < 2 * P:
        warnings.append(card.TooFewRuns(rows=len(fit.y), parameters=P))
    if {"N", "D"} <= set(law.columns):
        r = correlation(law, table)
        if r is not None and abs(r) > COLLINEAR:
            warnings.append(card.Collinear(correlation=r))
        # With repeats, bits or a learning rate more than N differs; a best learning rate need not fall with N.
        if set(law.columns) == {"N", "D"} and law.quantity in ("loss", "other_loss"):
            warnings += _monotone(table, fit.noise)
    return warnings


def _monotone(table: pd.DataFrame, noise: Noise) -> list[AnyWarning]:
    """Larger models that are worse at equal D by more than three standard deviations of a difference of two runs."""
    sd = noise.pure_error.sd or noise.sigma_run  # a badly tuned size hides in sigma_stem
    if len(table) > LARGE:
        table = table.iloc[np.linspace(0, len(table) - 1, LARGE // 4).astype(int)]  # enough pairs
    D = np.log(np.asarray(table["D"], dtype=np.float64))
    N, y = np.asarray(table["N"], dtype=np.float64), np.log(np.asarray(table["loss"], dtype=np.float64))
    worst: tuple[float, int, int] | None = None
    count = 0
    for i in range(len(y)):
        rise = np.where((np.abs(D - D[i]) < 0.02) & (N[i] * 1.02 < N), y - y[i], -np.inf)
        j = int(np.argmax(rise))
        if rise[j] > 3 * math.sqrt(2) * max(sd, 1e-6):
            count += 1
            if worst is None or rise[j] > worst[0]:
                worst = (float(rise[j]), i, j)
    if worst is None:
        return []
    rise, i, j = worst
    return [
        card.NotMonotone(rows=count, rise_log=rise, D=float(math.exp(D[i])), N_small=float(N[i]), N_large=float(N[j]))
    ]


# --- rows


def _influential(fit: Subject, off: Array, residual: Array) -> list[AnyWarning]:
    """Rows that determine a (or the first exponent), singly or together where they mask each other."""
    # one standard error, or in large tables eight times what a row moves it by on average: normal noise moves it by six
    share = 0.5 * min(1.0, 8 / math.sqrt(len(fit.y)))
    names = names_of(fit.table)

    def moves(row: Influence | Together) -> bool:
        cell = fit.intervals.get(row.quantity)
        return cell is not None and abs(row.change) > cell.half_width * share

    rows: list[card.InfluentialRow] = []
    group = None if fit.law.curve else together(fit.point, fit.y, off)  # whole learning curves are left out, not steps
    if group is not None and moves(group):
        for i, change, back in zip(group.rows, group.alone, group.back):
            about: dict[str, Any] = {"run": names[i], "residual": float(residual[i]), "quantity": group.quantity}
            rows.append(card.InfluentialRow(**about, change=change, change_of_others=-back))
    hidden = None
    if group is not None and rows:
        runs, alone = tuple(row.run for row in rows), max(map(abs, group.alone))
        hidden = card.InfluentialGroup(runs=runs, quantity=group.quantity, change=group.change, largest_alone=alone)
    named = {row.run for row in rows}
    for row in fit.influence:
        if moves(row) and row.run not in named:
            rows.append(
                card.InfluentialRow(run=row.run, residual=row.residual, quantity=row.quantity, change=row.change)
            )
    return [card.Influential(rows=tuple(rows), share=share, group=hidden)] if rows else []


def _outliers(fit: Subject, off: Array, apart: Array) -> list[AnyWarning]:
    """Rows ``off`` the law that the others follow, and those so far above it that training must have failed."""
    if not len(off):
        return []
    names = names_of(fit.table)
    listed = tuple(card.OutlyingRow(run=names[i], residual=float(apart[i])) for i in off[:50])
    full = math.isinf(fit.point.delta)
    warnings: list[AnyWarning] = [card.Outliers(count=len(off), limit=FAR, rows=listed, full_weight=full)]
    if fit.law.quantity != "loss" or fit.law.curve:
        return warnings
    fitted = fit.law.predict(fit.inference.theta_hat, fit.table)
    gap = np.log(np.asarray(fit.table["loss"], dtype=np.float64)) - np.log(fitted)
    rows = [i for i in off if gap[i] > DIVERGED]
    if rows:
        ratios = tuple(math.exp(gap[i]) for i in rows)
        bad = tuple(names[i] for i in rows)
        warnings.append(card.Diverged(rows=bad, ratios=ratios, of=len(gap), limit=math.exp(DIVERGED)))
    return warnings


def spearman(x: Array, y: Array) -> tuple[float, float]:
    """Spearman's rank correlation of x and y, (n,) each, and its two-sided p by the t distribution.

    As ``scipy.stats.spearmanr``, without the half second that its import takes.
    """
    ranks = np.stack([pd.Series(values).rank() for values in (x, y)])
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant has no correlation; a perfect one has p = 0
        r, spare = np.corrcoef(ranks)[0, 1], len(x) - 2
        return float(r), 2 * float(special.stdtr(spare, -abs(r) * np.sqrt(spare / ((1 + r) * (1 - r)))))


def _heteroscedastic(fit: Subject) -> list[AnyWarning]:
    point, n = fit.point, len(fit.y)
    if n < 20 or "C" not in fit.table or point.scale <= 1e-10:
        return []
    residual = np.abs(fit.y - point.surface.evaluate(fit.inference.z_hat[None])[0][0]) / point.scale
    cost = np.asarray(fit.table["C"], dtype=np.float64)
    rank, p = spearman(residual, cost)
    if not p < 0.01:
        return []
    order = np.argsort(cost, kind="stable")
    low, high = residual[order[: n // 2]], residual[order[n // 2 :]]
    ratio = float(np.median(high) / max(np.median(low), 1e-12))
    return [card.Heteroscedastic(spearman=rank, p=p, ratio=ratio)]


def _optima(fit: Subject) -> list[AnyWarning]:
    """Different optima within 1 % of the best objective, and the parameters in which they differ."""
    optima = fit.point.optima
    if len(optima) < 2:
        return []
    ranges = {}
    for name in fit.law.names:
        values = [optimum.params[name] for optimum in optima]
        if max(values) > 1.5 * min(values) > 0 or max(values) - min(values) > abs(max(values)) / 3:
            ranges[name] = (min(values), max(values))
    return [card.SeveralOptima(count=len(optima), ranges=ranges)]


def _mixed(fit: Subject) -> list[AnyWarning]:
    """Rows with several epochs or different schedules under a law that models neither."""
    table, law = fit.table, fit.law
    warnings: list[AnyWarning] = []
    epochs = np.asarray(table["epochs"], dtype=np.float64) if "epochs" in table else np.ones(1)
    if (epochs > 1.0001).any() and "U" not in law.columns:
        warnings.append(card.MixedEpochs(rows=int((epochs > 1.0001).sum()), largest=float(np.nanmax(epochs))))
    if "schedule" in table and not law.curve:
        kinds = table["schedule"].dropna().astype(str).value_counts()
        if len(kinds) > 1:
            warnings.append(card.MixedSchedules(rows={str(k): int(v) for k, v in kinds.items()}))
    return warnings


def left_out(dropped: Sequence[Dropped], table: pd.DataFrame, law: Law) -> tuple[AnyWarning, ...]:
    """Warnings about rows that were left out of a table, and about checkpoints among those kept.

    Args:
      dropped: the rows left out, with the reason.
      table: the rows kept.
      law: the law fitted to them.
    """
    warnings: list[AnyWarning] = []
    diverged = tuple(row.row for row in dropped if row.why == "status" and row.detail == "diverged")
    undecayed = tuple(row.row for row in dropped if row.why == "undecayed")
    if diverged:
        warnings.append(card.LeftOut(why="diverged", rows=diverged, of=len(diverged) + len(table)))
    if undecayed:
        warnings.append(card.LeftOut(why="undecayed", rows=undecayed, of=len(undecayed) + len(table)))
    if "run" in table and "decayed" not in table and not law.curve and {"N", "D", "C"} & set(law.columns):
        runs = len(set(table["run"]))
        if early := len(table) - runs:
            warnings.append(card.Checkpoints(rows=early, runs=runs, of=len(table)))
    return tuple(warnings)


# --- helpers, and what warnings mean for a number


def levels(values: Any, tolerance: float = 0.02) -> list[float]:
    """Distinct values, ascending; those within ``tolerance`` above one count as that one.

    Of it, not of their neighbour: ten thousand sizes over three decades are many, though each is close to the next.
    """
    found: list[float] = []
    for value in np.unique(np.asarray(values, dtype=np.float64)):
        if not found or value > found[-1] * (1 + tolerance):
            found.append(float(value))
    return found


def names_of(table: pd.DataFrame) -> list[str]:
    """Names of the rows: column ``run``, with the step or D where a run has several rows; else row numbers."""
    if "run" not in table:
        return [str(v) for v in table.index]
    again, names = table["run"].duplicated(keep=False), table["run"].astype(str)
    column = next((c for c in ("step", "D") if c in table and table[c].dtype.kind in "iuf"), None)
    if column is not None and again.any():
        names = names.where(~again, names + table[column].map(f" at {column} {{:.6g}}".format))
    return names.tolist()


def missing(warnings: Iterable[Warning]) -> set[str]:
    """Names of parameters and derived numbers, such as a, that the warnings call not identified."""
    return {w.parameter for w in warnings if isinstance(w, card.NotIdentified | card.ParameterAtBound)}


def standing(law: Law, intervals: Intervals, warnings: Iterable[Warning]) -> dict[str, Standing]:
    """How well the exponents of a fit, its floor and the exponents of the optimum are known, by name.

    ``yes``; ``roughly``: an exponent or scale not known within a factor ``KNOWN``; ``no``: not identified; ``by_form``:
    the formula determines it, whatever the runs. Nothing is ``yes`` where the draws of a linearised law left the fit.
    """
    warnings = tuple(warnings)
    lost, astray = missing(warnings), any(isinstance(w, card.NotLinear) for w in warnings)
    derived = [name for name in ("a", "b") if name in intervals and name not in law.names]
    own = [name for name in law.names if name in law.exponent_names or name == law.floor]
    out: dict[str, Standing] = {}
    for name in dict.fromkeys([*own, *derived[:1], *sorted(lost & set(intervals))]):
        cell, vague = intervals[name], name not in (law.floor, *derived)
        by_form = name in derived and cell.lo == cell.hi
        out[name] = "no" if name in lost else "by_form" if by_form else "yes"
        if out[name] == "yes" and (astray or (vague and not _within_factor(cell))):
            out[name] = "roughly"
    if "b" in derived:
        out["b"] = out["a"]  # b is 1 - a
    return out


def _within_factor(cell: Interval) -> bool:
    """Whether an interval is a point, or has one sign and ends within a factor ``KNOWN`` either way."""
    lo, hi = cell.lo, cell.hi
    if lo is None or hi is None:
        return False
    return lo == hi or (lo * hi > 0 and max(abs(lo), abs(hi)) < KNOWN**2 * min(abs(lo), abs(hi)))
