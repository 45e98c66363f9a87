"""The three approaches of Hoffmann 2022 (arXiv 2203.15556) to N_opt ~ C^a and D_opt ~ C^b, on the same runs.

1. Envelope: at each compute the size with the lowest loss, then a power law through the winners.
2. IsoFLOP parabolas: at each compute a parabola of the loss in log N, then a power law through the minima.
3. Parametric: the optimum of a fitted law.

Approaches 1 and 2 need losses of several sizes at equal compute. A table with isoFLOP groups is used as it is; in a
grid of sizes and tokens the loss of each size is interpolated along D, never extrapolated, to common budgets. A budget
whose optimum is not bracketed by smaller and larger sizes is left out and reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from msgspec import field
from msgspec.structs import replace
from scipy import special

from analysis.card import SCHEMA, ApproachesDifference, ApproachesDisagree, Conventions, Interval, NotIdentified, Value
from analysis.engine.frontier import Cost, Fitted, cost_table, frontier
from analysis.table.runs import Runs
from scaling.errors import UserError

SAME = 0.05  # budgets closer than 5 % are one budget; sizes and tokens closer than a fifth of that are one
WINDOW = 10.0  # a parabola is fitted to the sizes within this factor of the best one; the sensitivity to it is reported
NARROW = 4.0
MIN_BUDGETS = 3
SIMULATIONS = 2000


class Point(Value):
    """The optimum of one budget; None where it has none. ``edge``: it is left out, as it is at an extreme size."""

    C: float
    N: float | None
    D: float | None
    loss: float | None
    edge: bool


class Reason(Value, tag_field="why"):
    """Base of the reasons why an approach identifies nothing."""


class NoSharedCompute(Reason, tag="no_shared_compute"):
    """Fewer than three sizes at any compute: no isoFLOP groups, and ``sizes`` sizes with two or more D, too few or too
    far apart."""

    sizes: int


class FewOptima(Reason, tag="few_optima"):
    """Too few different sizes that win in the envelope, or too few budgets with a bracketed minimum."""

    found: int
    needed: int
    of: Literal["sizes", "budgets"]


class FewLeft(Reason, tag="few_left"):
    """Leaving out one size leaves too few optima to estimate the uncertainty."""


class WideExponent(Reason, tag="wide_exponent"):
    """The interval of a is so wide that any allocation fits."""

    a: float
    half_width: float


class NoOptimum(Reason, tag="no_optimum"):
    """A compute budget does not determine N under the law: the reason, or the law's ``columns``."""

    no_optimum: str | None
    columns: tuple[str, ...]


class NoInterior(Reason, tag="no_interior"):
    """The fitted law has no interior optimum."""


class OpenDraws(Reason, tag="open_draws"):
    """A share of the fit's draws has no interior optimum."""

    share: float


class OneLine(Reason, tag="one_line"):
    """D follows from N in the runs, so that the law's exponents are not told apart."""


AnyReason = NoSharedCompute | FewOptima | FewLeft | WideExponent | NoOptimum | NoInterior | OpenDraws | OneLine


class Approach(Value):
    """The result of one approach: N_opt ~ C^a and D_opt ~ C^b.

    Attributes:
      law: the law of the parametric approach.
      why: why it is not identified, or None. Without identification the intervals are open; the estimate stays.
      level: confidence of the intervals.
      scheme: how the intervals were made (the fit's scheme for the parametric approach); None without intervals.
      mode: source of losses at equal compute: ``isoflop`` groups of the table, or a ``grid``, where the losses of
        ``sizes`` sizes were interpolated to ``common`` budgets.
      exact_cost: whether the parametric approach uses the exact cost of a token by size; else C = 6ND.
      budgets: how many optima the power law is fitted to.
      C: the geometric middle of the range in FLOPs, at which N and D are given.
      N_coefficient, D_coefficient: factors of C^a and C^b.
      sensitivity: a by the window of sizes that the parabolas are fitted to.
      depends_on_window: whether some of those lie outside the interval of a.
    """

    kind: Literal["envelope", "parabolas", "parametric"]
    level: float
    law: str | None = None
    why: AnyReason | None = None
    scheme: str | None = None
    df: float | None = None
    mode: Literal["isoflop", "grid"] | None = None
    sizes: int = 0
    common: int = 0
    exact_cost: bool = False
    budgets: int | None = None
    points: tuple[Point, ...] = ()
    C: float | None = None
    a: Interval | None = None
    b: Interval | None = None
    N: Interval | None = None
    D: Interval | None = None
    N_coefficient: Interval | None = None
    D_coefficient: Interval | None = None
    sensitivity: dict[str, float | None] = field(default_factory=dict)
    depends_on_window: bool = False

    @property
    def identified(self) -> bool:
        """Whether a and the optimum have informative intervals."""
        return self.why is None


class Pair(Value):
    """Two approaches, by name, and whether they differ in a, or in N at C, by more than their combined intervals.

    The differences are None where one of the two is not identified.
    """

    one: str
    two: str
    a: ApproachesDifference | None = None
    N: ApproachesDifference | None = None
    disagree: bool | None = None
    C: float | None = None


class ApproachesData(Value):
    """The runs that the approaches were applied to."""

    rows: int
    sha256: str
    source: str
    dataset: str | None


class Approaches(Value):
    """Approaches by name ("1", "2", "3") on the same runs, their pairwise differences, and the range of compute."""

    approaches: dict[str, Approach]
    pairs: tuple[Pair, ...]
    C_min: float
    C_max: float
    conventions: Conventions
    data: ApproachesData
    kind: Literal["approaches"] = "approaches"
    schema: Literal[2] = SCHEMA


@dataclass(frozen=True)
class Budget:
    """Losses of several sizes at one compute: arrays (sizes,) sorted by N."""

    C: float
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class _Curve:
    """Loss of one size along D, in logs."""

    N: float
    log_c: np.ndarray
    log_d: np.ndarray
    log_loss: np.ndarray


def compare_approaches(
    runs: Runs, fit: Fitted | None = None, *, level: float = 0.95, cost: Cost | None = None
) -> Approaches:
    """Approaches 1, 2 and, with a ``Fit``, 3 on the same runs, and whether they disagree.

    Args:
      level: confidence of the intervals.
      cost: for approach 3 (see ``analysis.decide.allocate``); by default the exact cost by size where the runs have it.
    """
    results = {"1": approach1(runs, level=level), "2": approach2(runs, level=level)}
    if fit is not None:
        results["3"] = approach3(runs, fit, level=level, cost=cost)
    flops = np.asarray(runs.table["C"], dtype=float)
    return Approaches(
        approaches=results,
        pairs=tuple(_pair(one, results[one], two, results[two]) for one, two in itertools.combinations(results, 2)),
        C_min=float(flops.min()),
        C_max=float(flops.max()),
        conventions=runs.conventions,
        data=ApproachesData(rows=len(runs), sha256=runs.sha256, source=str(runs.source), dataset=runs.dataset),
    )


def disagreement(runs: Runs, fit: Fitted) -> ApproachesDisagree | None:
    """A card's warning that its law and the parabolas of the same isoFLOP runs disagree; None where they agree.

    Only for tables of isoFLOP groups, which approach 2 was made for. On a grid it would use interpolated losses;
    ``compare_approaches`` reports what they show.
    """
    if set(fit.law.columns) != {"N", "D"} or not {"N", "D", "C", "loss"} <= set(runs.table.columns):
        return None
    n, _, _, log_c = _columns(runs)
    if not _isoflop(n, log_c):
        return None
    two, three = approach2(runs, level=fit.level), approach3(runs, fit, level=fit.level)
    pair = _pair("2", two, "3", three)
    if not pair.disagree:
        return None
    assert pair.a and pair.N and two.a and three.a and two.N and three.N
    return ApproachesDisagree(
        a=pair.a,
        N=pair.N,
        a_values=(two.a, three.a),
        N_values=(two.N, three.N),
        C=_reference(runs),
        parabola_window=two.sensitivity if two.depends_on_window else None,
    )


def approach1(runs: Runs, *, level: float = 0.95) -> Approach:
    """Approach 1, the envelope of the runs: the size with the lowest loss at each compute."""
    return _empirical(runs, Approach(kind="envelope", level=level), _envelope, 0.05)


def approach2(runs: Runs, *, level: float = 0.95, window: float = WINDOW) -> Approach:
    """Approach 2, isoFLOP parabolas in log N over the sizes within a factor ``window`` of each budget's best one."""
    plain = Approach(kind="parabolas", level=level)
    result = _empirical(runs, plain, lambda groups: _parabolas(groups, window), np.log(2.0))
    groups = budgets(runs, np.log(2.0))[1]
    exponents = {f"within {window:g}x": None if result.a is None else result.a.value}
    for name, other in ((f"within {NARROW:g}x", NARROW), ("all sizes", np.inf)):
        line = _line(_parabolas(groups, other)[0], _reference(runs))
        exponents[name] = None if line is None else float(line[0])
    seen, a = [v for v in exponents.values() if v is not None], result.a
    leaves = a is not None and a.lo is not None and a.hi is not None and (min(seen) < a.lo or max(seen) > a.hi)
    return replace(result, sensitivity=exponents, depends_on_window=leaves)


def approach3(runs: Runs, fit: Fitted, *, level: float = 0.95, cost: Cost | None = None) -> Approach:
    """Approach 3, the optimum of a fitted law; a and b are slopes of log N_opt and log D_opt over a decade of C."""
    cost = cost_table(fit) if cost is None else cost
    reference = _reference(runs)
    span = np.exp(np.array([-0.5, 0.0, 0.5]) * np.log(10.0)) * reference
    blank = Approach(kind="parametric", law=fit.law.name, level=level, exact_cost=cost is not None)
    try:
        log_n, log_d = frontier(fit, span, cost)
    except UserError:
        return replace(blank, why=NoOptimum(no_optimum=fit.law.no_optimum, columns=fit.law.columns))
    a, b = ((x[:, 2] - x[:, 0]) / np.log(10.0) for x in (log_n, log_d))
    v = np.stack(
        [a, log_n[:, 1], b, log_d[:, 1], log_n[:, 1] - a * np.log(reference), log_d[:, 1] - b * np.log(reference)], 1
    )
    bad = np.asarray(~np.isfinite(v).all(axis=1))
    if bad[0]:
        return replace(blank, why=NoInterior())
    draws = np.where(bad[1:, None], np.nan, v[1:])
    tail, share = (1 - level) / 2, float(bad[1:].mean())
    lo, hi = np.full(6, np.nan), np.full(6, np.nan)
    if share <= tail:
        lo, hi = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    if cost is None:  # the card's own interval of a and b, which may be a profile
        for i, cell in ((0, fit.derived.a), (2, fit.derived.b)):
            if cell is not None and cell.lo is not None and cell.hi is not None:
                lo[i], hi[i] = cell.lo, cell.hi
    scheme = fit.card.scheme
    result = _filled(replace(blank, scheme=scheme.name, df=scheme.df), v[0], lo, hi, reference)
    if any(isinstance(w, NotIdentified) and (w.parameter, w.why) == ("a", "collinear") for w in fit.card.warnings):
        return _unidentified(result, OneLine())
    return result if share <= tail else _unidentified(result, OpenDraws(share=share))


# --- budgets


def budgets(runs: Runs, step: float) -> tuple[Literal["isoflop", "grid"], list[Budget], list[_Curve]]:
    """Groups of equal compute: the table's ``isoflop`` groups, or a ``grid`` interpolated every ``step`` in log C."""
    n, d, loss, log_c = _columns(runs)
    groups = _isoflop(n, log_c)
    if groups:
        isoflop = []
        for g in groups:
            g = g[np.argsort(n[g], kind="stable")]
            isoflop.append(Budget(float(np.exp(log_c[g].mean())), n[g], d[g], loss[g]))
        return "isoflop", isoflop, []
    curves = _curves(n, d, loss, log_c)
    return "grid", _interpolate(curves, step), curves


def _columns(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """N, D, loss and log C, (rows,) each."""
    n, d, loss, c = (np.asarray(runs.table[name], dtype=float) for name in ("N", "D", "loss", "C"))
    return n, d, loss, np.log(c)


def _isoflop(n: np.ndarray, log_c: np.ndarray) -> list[np.ndarray]:
    """Rows of each group of equal compute; empty unless such groups make up most of the table."""
    groups = [g for g in _clusters(log_c, SAME) if float(np.ptp(log_c[g])) <= 2 * SAME]
    groups = [g for g in groups if len(_clusters(np.log(n[g]), SAME / 5)) >= 3]
    return groups if sum(len(g) for g in groups) >= 0.6 * len(n) else []


def _clusters(values: np.ndarray, gap: float) -> list[np.ndarray]:
    """Indices of values in clusters, in order; neighbours in a cluster are at most ``gap`` apart."""
    if len(values) == 0:
        return []
    order = np.argsort(values, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(values[order]) > gap) + 1)


def _curves(n: np.ndarray, d: np.ndarray, loss: np.ndarray, log_c: np.ndarray) -> list[_Curve]:
    curves = []
    for size in _clusters(np.log(n), SAME / 5):
        cells = [size[g] for g in _clusters(np.log(d[size]), SAME / 5)]
        if len(cells) >= 2:  # one D is a point, not a curve
            mean = [[x[cell].mean() for cell in cells] for x in (log_c, np.log(d), np.log(loss))]
            if np.all(np.diff(mean[0]) > 0):
                curves.append(_Curve(float(np.exp(np.log(n[size]).mean())), *(np.array(x) for x in mean)))
    return curves


def _interpolate(curves: list[_Curve], step: float) -> list[Budget]:
    from scipy.interpolate import PchipInterpolator  # slow to import, and only grids need it

    if len(curves) < 3:
        return []
    ends = [(c.log_c[0], c.log_c[-1]) for c in curves]
    low, high = sorted(lo for lo, _ in ends)[2], sorted(hi for _, hi in ends)[-3]  # at least three sizes overlap
    if high <= low:
        return []
    grid = np.linspace(low, high, max(2, int(np.ceil((high - low) / step)) + 1))
    losses = np.full((len(curves), len(grid)), np.nan)
    tokens = np.full((len(curves), len(grid)), np.nan)
    for i, curve in enumerate(curves):
        inside = (grid >= curve.log_c[0] - 1e-9) & (grid <= curve.log_c[-1] + 1e-9)
        at = np.clip(grid[inside], curve.log_c[0], curve.log_c[-1])
        losses[i, inside] = PchipInterpolator(curve.log_c, curve.log_loss)(at)
        tokens[i, inside] = np.interp(at, curve.log_c, curve.log_d)
    n = np.array([c.N for c in curves])
    groups = []
    for j, log_c in enumerate(grid):
        have = np.isfinite(losses[:, j])
        if have.sum() >= 3:
            groups.append(Budget(float(np.exp(log_c)), n[have], np.exp(tokens[have, j]), np.exp(losses[have, j])))
    return groups


# --- optima of budgets: an array with rows (log C, log N, log D); all points; the designs for simulating their noise

Optima = tuple[np.ndarray, list[Point], Any]


def _envelope(groups: list[Budget]) -> Optima:
    optima, points = [], []
    for g in groups:
        i = int(np.argmin(g.loss))
        edge = bool(g.N[i] <= g.N.min() * 1.01 or g.N[i] >= g.N.max() / 1.01)
        points.append(Point(C=g.C, N=float(g.N[i]), D=float(g.D[i]), loss=float(g.loss[i]), edge=edge))
        if not edge:
            optima.append((np.log(g.C), np.log(g.N[i]), np.log(g.D[i])))
    return np.array(optima).reshape(-1, 3), points, None


def _parabolas(groups: list[Budget], window: float) -> Optima:
    """Minima of the parabolas, and for each budget kept the design for simulating its noise."""
    optima, points, designs = [], [], []
    for g in groups:
        log_n = np.log(g.N)
        best = log_n[np.argmin(g.loss)]
        near = np.abs(log_n - best) <= np.log(window) + 1e-9
        if len(_clusters(log_n[near], SAME / 5)) < 3:
            near = np.abs(log_n - best) <= np.sort(np.abs(log_n - best))[min(2, len(log_n) - 1)] + 1e-9
        if len(_clusters(log_n[near], SAME / 5)) < 3:
            points.append(Point(C=g.C, N=None, D=None, loss=None, edge=True))
            continue
        x = log_n[near] - best
        design = np.stack([np.ones_like(x), x, x * x], 1)
        hat = np.linalg.pinv(design)
        c0, c1, c2 = (float(v) for v in hat @ g.loss[near])
        at = best - c1 / (2 * c2) if c2 > 0 else np.nan
        inside = bool(c2 > 0 and log_n.min() < at < log_n.max())
        log_d = float(np.interp(at, log_n, np.log(g.D))) if inside else np.nan
        edge = not inside or bool(best <= log_n.min() + 0.01 or best >= log_n.max() - 0.01)
        point = Point(C=g.C, N=None, D=None, loss=None, edge=edge)
        if inside:
            point = replace(point, N=float(np.exp(at)), D=float(np.exp(log_d)), loss=c0 - c1 * c1 / (4 * c2))
        points.append(point)
        if not edge:
            optima.append((np.log(g.C), at, log_d))
            designs.append((best, hat, design, g.loss[near]))
    return np.array(optima).reshape(-1, 3), points, designs


# --- power laws through optima


def _reference(runs: Runs) -> float:
    """The compute at which approaches are compared: the geometric middle of the fitted range."""
    return float(np.sqrt(runs.table["C"].min() * runs.table["C"].max()))


def _line(optima: np.ndarray, reference: float) -> np.ndarray | None:
    """(a, ln N_ref, b, ln D_ref, ln k_N, ln k_D) by least squares, or None where two optima do not exist."""
    if len(optima) < 2 or np.ptp(optima[:, 0]) <= 0:
        return None
    x = optima[:, 0] - np.log(reference)
    design = np.stack([x, np.ones_like(x)], 1)
    (a, n), (b, d) = (np.linalg.lstsq(design, optima[:, i], rcond=None)[0] for i in (1, 2))
    return np.array([a, n, b, d, n - a * np.log(reference), d - b * np.log(reference)])


def _empirical(runs: Runs, blank: Approach, optima_of: Callable[[list[Budget]], Optima], step: float) -> Approach:
    mode, groups, curves = budgets(runs, step)
    optima, points, designs = optima_of(groups)
    reference, level = _reference(runs), blank.level
    result = replace(blank, mode=mode, sizes=len(curves), common=len(groups), points=tuple(points), budgets=len(optima))
    if not groups:
        return _unidentified(result, NoSharedCompute(sizes=len(curves)))
    line = _line(optima, reference)
    winners = len(_clusters(optima[:, 1], SAME / 5)) if designs is None else len(optima)
    if line is None or min(len(optima), winners) < MIN_BUDGETS:
        of: Literal["sizes", "budgets"] = "sizes" if designs is None else "budgets"
        few = FewOptima(found=min(len(optima), winners), needed=MIN_BUDGETS, of=of)
        return _unidentified(result if line is None else _estimate(result, line, reference), few)
    if mode == "grid":
        scheme, (error, df) = "jackknife", _jackknife(curves, step, optima_of, reference, winners)
    elif designs is None:
        scheme, error, df = "scatter", _residual_error(optima, reference), len(optima) - 2
    else:
        scheme, (error, df) = "simulated", _simulated_error(optima, designs, reference)
    if error is None:
        return _unidentified(_estimate(result, line, reference), FewLeft())
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    result = _filled(replace(result, scheme=scheme, df=float(df)), line, line - half, line + half, reference)
    if half[0] > 0.5:
        return _unidentified(result, WideExponent(a=float(line[0]), half_width=float(half[0])))
    return result


def _residual_error(optima: np.ndarray, reference: float) -> np.ndarray:
    x = optima[:, 0] - np.log(reference)
    design = np.stack([x, np.ones_like(x)], 1)
    inverse = np.linalg.inv(design.T @ design)
    out = []
    for i in (1, 2):
        residual = optima[:, i] - design @ np.linalg.lstsq(design, optima[:, i], rcond=None)[0]
        covariance = inverse * (residual @ residual) / (len(x) - 2)
        shift = np.array([-np.log(reference), 1.0])  # ln k = ln N_ref - a ln C_ref
        out.append(np.sqrt([covariance[0, 0], covariance[1, 1], shift @ covariance @ shift]))
    return np.array([out[0][0], out[0][1], out[1][0], out[1][1], out[0][2], out[1][2]])


def _simulated_error(optima: np.ndarray, designs: list[Any], reference: float) -> tuple[np.ndarray, int]:
    """Redraws the pooled residuals of all parabolas and refits; Birge's ratio covers scatter beyond that noise."""
    df = sum(len(loss) - 3 for *_, loss in designs)
    if df < 3:
        return _residual_error(optima, reference), len(optima) - 2
    squares = sum(float(np.sum((loss - design @ (hat @ loss)) ** 2)) for _, hat, design, loss in designs)
    sigma, rng = np.sqrt(squares / df), np.random.default_rng(0)
    moved = np.empty((SIMULATIONS, len(designs)))
    for k, (best, hat, design, loss) in enumerate(designs):
        fitted = design @ (hat @ loss)
        c = (fitted + sigma * rng.standard_normal((SIMULATIONS, len(loss)))) @ hat.T
        flat = c[:, 2] <= 0
        x = design[:, 1]
        at = np.clip(-c[:, 1] / np.where(flat, np.nan, 2 * c[:, 2]), x.min(), x.max())
        moved[:, k] = best + np.where(flat, np.where(c[:, 1] > 0, x.min(), x.max()), at)
    spread = np.maximum(moved.std(0), 1e-12)
    x = optima[:, 0] - np.log(reference)
    design = np.stack([x, np.ones_like(x)], 1)
    coefficients = moved @ np.linalg.pinv(design).T
    residual = optima[:, 1] - design @ np.linalg.lstsq(design, optima[:, 1], rcond=None)[0]
    birge = max(1.0, float(np.sqrt(np.sum((residual / spread) ** 2) / (len(x) - 2))))
    shifted = coefficients[:, 1] - coefficients[:, 0] * np.log(reference)
    a, n, k = (birge * float(v.std()) for v in (coefficients[:, 0], coefficients[:, 1], shifted))
    # At constant compute ln D changes with ln N by the slope of ln D in ln N, which is -1 for 6ND.
    return np.array([a, n, a, n, k, k]), df


def _jackknife(
    curves: list[_Curve], step: float, optima_of: Callable[[list[Budget]], Optima], reference: float, winners: int
) -> tuple[np.ndarray | None, int]:
    lines = []
    for i in range(len(curves)):
        optima = optima_of(_interpolate(curves[:i] + curves[i + 1 :], step))[0]
        line = _line(optima, reference)
        if line is not None and len(_clusters(optima[:, 1], 1e-6)) >= 2:
            lines.append(line)
    if len(lines) < max(3, len(curves) - 1):
        return None, 0
    values, m = np.array(lines), len(lines)
    return np.sqrt((m - 1) / m * ((values - values.mean(0)) ** 2).sum(0)), max(1, min(m - 1, winners - 1))


# --- results


def _filled(result: Approach, value: np.ndarray, lo: np.ndarray, hi: np.ndarray, reference: float) -> Approach:
    """The result with the numbers of ``_line`` and their intervals; None where not finite."""

    def interval(i: int, change: Callable[[float], Any] = float) -> Interval | None:
        with np.errstate(over="ignore"):
            cells = [float(change(x[i])) for x in (value, lo, hi)]
        centre, low, high = (cell if np.isfinite(cell) else None for cell in cells)
        return None if centre is None else Interval(value=centre, lo=low, hi=high)

    return replace(
        result,
        C=reference,
        a=interval(0),
        b=interval(2),
        N=interval(1, np.exp),
        D=interval(3, np.exp),
        N_coefficient=interval(4, np.exp),
        D_coefficient=interval(5, np.exp),
    )


def _estimate(result: Approach, line: np.ndarray, reference: float) -> Approach:
    """The result with the estimate alone."""
    nothing = np.full(6, np.nan)
    return _filled(result, line, nothing, nothing, reference)


def _unidentified(result: Approach, why: AnyReason) -> Approach:
    """The result with its estimate, if any, but without intervals: 'not identified' is a result."""
    cells = {name: getattr(result, name) for name in ("a", "b", "N", "D", "N_coefficient", "D_coefficient")}
    opened = {name: cell and replace(cell, lo=None, hi=None) for name, cell in cells.items()}
    return replace(result, why=why, **opened)


def _pair(one: str, x: Approach, two: str, y: Approach) -> Pair:
    """Whether two approaches differ by more than their intervals combined (in quadrature)."""
    if not (x.identified and y.identified):
        return Pair(one=one, two=two)
    a, n = _differ(x.a, y.a, np.asarray), _differ(x.N, y.N, np.log)
    return Pair(one=one, two=two, a=a, N=n, disagree=a.disagree or n.disagree, C=x.C)


def _differ(p: Interval | None, q: Interval | None, scale: Callable[[Any], Any]) -> ApproachesDifference:
    (v, low, high), (w, below, above) = ([float(scale(end)) for end in _ends(cell)] for cell in (p, q))
    facing = (high - v, w - below) if w > v else (v - low, above - w)
    allowed = float(np.hypot(*facing))
    exclude = low > above or below > high
    return ApproachesDifference(difference=v - w, allowed=allowed, disagree=abs(v - w) > allowed, exclude=exclude)


def _ends(cell: Interval | None) -> tuple[float, float, float]:
    """Value and ends of an interval of an identified approach, all of whose intervals are closed."""
    assert cell is not None and cell.lo is not None and cell.hi is not None
    return cell.value, cell.lo, cell.hi
