"""The three ways of Hoffmann 2022 (arXiv 2203.15556) to N_opt ~ C^a and D_opt ~ C^b, on the same runs, side by side.

1. Envelope: at each compute the size with the lowest loss, then a power law through the winners.
2. IsoFLOP parabolas: at each compute a parabola of the loss in log N, then a power law through the minima.
3. Parametric: the optimum of a fitted law.

Approaches 1 and 2 need losses of several sizes at equal compute. A table that has them (isoFLOP groups) is used as it
is; of a grid of sizes x tokens the loss of each size is interpolated along D, never beyond it, to common budgets. A
budget whose optimum is not bracketed by smaller and larger sizes says nothing and is left out, counted and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special
from scipy.interpolate import PchipInterpolator

from analysis.card import ApproachesDifference, ApproachesDisagree, Interval
from analysis.engine.frontier import Cost, cost_table, frontier
from analysis.table.runs import Runs
from scaling.errors import UserError

SAME = 0.05  # budgets closer than 5 % are one budget; sizes and tokens closer than a fifth of that are one
WINDOW = 10.0  # a parabola sees the sizes within this factor of the best one; the sensitivity to it is reported
NARROW = 4.0
MIN_BUDGETS = 3
SIMULATIONS = 2000


@dataclass(frozen=True)
class Budget:
    """Losses of several sizes at one compute: arrays (sizes,) sorted by N; ``source`` the row or size of each."""

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
    runs: Runs, fit: Any | None = None, *, level: float = 0.95, cost: Cost | None = None
) -> dict[str, Any]:
    """Approaches 1, 2 and, with a ``Fit``, 3 on the same runs, and whether they disagree. JSON.

    Args:
      cost: of approach 3 (see ``analysis.decide.allocate``); by default the exact cost by size where the runs have one.
    """
    results = {"1": approach1(runs, level=level), "2": approach2(runs, level=level)}
    if fit is not None:
        results["3"] = approach3(runs, fit, level=level, cost=cost)
    pairs, sentences = [], []
    names = list(results)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            pair, sentence = _compare(one, results[one], two, results[two])
            pairs.append(pair)
            sentences.append(sentence)
    table: Any = runs.table
    return {
        "schema": 1,
        "kind": "approaches",
        "approaches": results,
        "comparison": pairs,
        "verdict": " ".join(sentences),
        "range": {"C_min": float(table["C"].min()), "C_max": float(table["C"].max())},
        "conventions": runs.conventions,
        "data": {"rows": len(table), "sha256": runs.sha256, "source": runs.source, "dataset": runs.dataset},
    }


def disagreement(runs: Runs, fit: Any) -> ApproachesDisagree | None:
    """The warning of a card whose law and the parabolas of the same isoFLOP runs disagree; None where they do not.

    Only of tables that are groups of equal compute, for which approach 2 was made: of a grid it sees interpolated
    losses, and ``compare_approaches`` says what it finds there.
    """
    table: Any = runs.table
    if set(fit.law.columns) != {"N", "D"} or not {"N", "D", "C", "loss"} <= set(table.columns):
        return None
    n, _, _, log_c = _columns(runs)
    if not _isoflop(n, log_c):
        return None
    two, three = approach2(runs, level=fit.level), approach3(runs, fit, level=fit.level)
    pair, _ = _compare("2", two, "3", three)
    if not pair["disagree"]:
        return None
    sizes = two["at_reference"]["N"], three["at_reference"]["N"]
    return ApproachesDisagree(
        a=ApproachesDifference(**pair["a"]),
        N=ApproachesDifference(**pair["N"]),
        a_values=(Interval(**two["a"]), Interval(**three["a"])),
        N_values=(Interval(**sizes[0]), Interval(**sizes[1])),
        C=_reference(runs),
        parabola_window=two["sensitivity"] if any(w["name"] == "parabola_window" for w in two["warnings"]) else None,
    )


def approach1(runs: Runs, *, level: float = 0.95) -> dict[str, Any]:
    """The envelope of the runs: which size has the lowest loss at each compute."""
    return _empirical(runs, "envelope", _envelope, 0.05, level)


def approach2(runs: Runs, *, level: float = 0.95, window: float = WINDOW) -> dict[str, Any]:
    """IsoFLOP parabolas in log N, over the sizes within a factor ``window`` of the best one of each budget."""
    result = _empirical(runs, "isoFLOP parabolas", lambda b: _parabolas(b, window), np.log(2.0), level)
    groups = budgets(runs, np.log(2.0))[1]
    others = {f"within {NARROW:g}x": NARROW, "all sizes": np.inf}
    found = {f"within {window:g}x": result["a"]["value"]}
    for name, other in others.items():
        line = _line(_parabolas(groups, other)[0], _reference(runs))
        found[name] = None if line is None else float(line[0])
    result["sensitivity"] = found
    values = [v for v in found.values() if v is not None]
    if result["a"]["lo"] is not None and (min(values) < result["a"]["lo"] or max(values) > result["a"]["hi"]):
        text = ", ".join(f"{v:.3f} {k}" for k, v in found.items() if v is not None)
        message = f"a depends on which sizes the parabola sees ({text}): its known bias, which the interval leaves out"
        result["warnings"].append({"name": "parabola_window", "message": message})
    return result


def approach3(runs: Runs, fit: Any, *, level: float = 0.95, cost: Cost | None = None) -> dict[str, Any]:
    """The optimum of a fitted law; a and b are slopes of log N_opt and log D_opt over a decade of compute."""
    cost = cost_table(fit) if cost is None else cost
    reference = _reference(runs)
    span = np.exp(np.array([-0.5, 0.0, 0.5]) * np.log(10.0)) * reference
    result = _blank(f"parametric ({fit.law.name})", "draws of the fit", None, level)
    try:
        log_n, log_d = frontier(fit, span, cost)
    except UserError as error:
        return _unidentified(result, error.remedy)
    slopes = [(x[:, 2] - x[:, 0]) / np.log(10.0) for x in (log_n, log_d)]
    a, b = slopes
    v = np.stack(
        [a, log_n[:, 1], b, log_d[:, 1], log_n[:, 1] - a * np.log(reference), log_d[:, 1] - b * np.log(reference)], 1
    )
    bad = np.asarray(~np.isfinite(v).all(axis=1))
    if bad[0]:
        return _unidentified(result, "the fitted law has no interior optimum here")
    draws = np.where(bad[1:, None], np.nan, v[1:])
    tail = (1 - level) / 2
    lo, hi = np.full(6, np.nan), np.full(6, np.nan)
    if bad[1:].mean() <= tail:
        lo, hi = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    if cost is None:  # the card's own interval of a and b, which may be a profile
        for i, name in ((0, "a"), (2, "b")):
            entry = getattr(fit.derived, name)
            if entry is not None and entry.lo is not None and entry.hi is not None:
                lo[i], hi[i] = entry.lo, entry.hi
    result["budgets"] = None
    result["interval"]["scheme"] = fit.card.scheme.name
    result["interval"]["df"] = fit.card.scheme.df
    result["cost"] = "C = 6ND" if cost is None else "exact cost by size"
    _fill(result, v[0], lo, hi, reference)
    if bad[1:].mean() > tail:
        return _unidentified(result, f"{bad[1:].mean():.0%} of the draws of the fit have no interior optimum")
    return result


# --- budgets


def budgets(runs: Runs, step: float) -> tuple[str, list[Budget], list[_Curve]]:
    """Groups of equal compute: ``isoflop`` groups as they are, or a ``grid`` interpolated every ``step`` in log C."""
    n, d, loss, log_c = _columns(runs)
    groups = _isoflop(n, log_c)
    if groups:
        found = []
        for g in groups:
            g = g[np.argsort(n[g], kind="stable")]
            found.append(Budget(float(np.exp(log_c[g].mean())), n[g], d[g], loss[g]))
        return "isoflop", found, []
    curves = _curves(n, d, loss, log_c)
    return "grid", _interpolate(curves, step), curves


def _columns(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """N, D, loss and log C, (rows,) each."""
    n, d, loss, c = (np.asarray(runs.table[name], dtype=float) for name in ("N", "D", "loss", "C"))
    return n, d, loss, np.log(c)


def _isoflop(n: np.ndarray, log_c: np.ndarray) -> list[np.ndarray]:
    """Rows of each group of equal compute, where most of the table is made of such groups; else none."""
    groups = [g for g in _clusters(log_c, SAME) if float(np.ptp(log_c[g])) <= 2 * SAME]
    groups = [g for g in groups if len(_clusters(np.log(n[g]), SAME / 5)) >= 3]
    return groups if len(groups) >= 2 and sum(len(g) for g in groups) >= 0.6 * len(n) else []


def _clusters(values: np.ndarray, gap: float) -> list[np.ndarray]:
    """Indices of values that are chained by steps of at most ``gap``, in order."""
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
    found = []
    for j, log_c in enumerate(grid):
        have = np.isfinite(losses[:, j])
        if have.sum() >= 3:
            found.append(Budget(float(np.exp(log_c)), n[have], np.exp(tokens[have, j]), np.exp(losses[have, j])))
    return found


# --- optima of budgets: arrays of (log C, log N, log D), rows


def _envelope(groups: list[Budget]) -> tuple[np.ndarray, list[dict[str, Any]], Any]:
    found, points = [], []
    for g in groups:
        i = int(np.argmin(g.loss))
        edge = bool(g.N[i] <= g.N.min() * 1.01 or g.N[i] >= g.N.max() / 1.01)
        points.append({"C": g.C, "N": float(g.N[i]), "D": float(g.D[i]), "loss": float(g.loss[i]), "edge": edge})
        if not edge:
            found.append((np.log(g.C), np.log(g.N[i]), np.log(g.D[i])))
    return np.array(found).reshape(-1, 3), points, None


def _parabolas(groups: list[Budget], window: float) -> tuple[np.ndarray, list[dict[str, Any]], Any]:
    """Minima of the parabolas, and for each kept budget what simulating its noise needs."""
    found, points, designs = [], [], []
    for g in groups:
        log_n = np.log(g.N)
        best = log_n[np.argmin(g.loss)]
        near = np.abs(log_n - best) <= np.log(window) + 1e-9
        if len(_clusters(log_n[near], SAME / 5)) < 3:
            near = np.abs(log_n - best) <= np.sort(np.abs(log_n - best))[min(2, len(log_n) - 1)] + 1e-9
        if len(_clusters(log_n[near], SAME / 5)) < 3:
            points.append({"C": g.C, "N": None, "D": None, "loss": None, "edge": True})
            continue
        x = log_n[near] - best
        design = np.stack([np.ones_like(x), x, x * x], 1)
        hat = np.linalg.pinv(design)
        c0, c1, c2 = (float(v) for v in hat @ g.loss[near])
        at = best - c1 / (2 * c2) if c2 > 0 else np.nan
        inside = bool(c2 > 0 and log_n.min() < at < log_n.max())
        log_d = float(np.interp(at, log_n, np.log(g.D))) if inside else np.nan
        edge = not inside or bool(best <= log_n.min() + 0.01 or best >= log_n.max() - 0.01)
        point = {"C": g.C, "N": None, "D": None, "loss": None, "edge": edge}
        if inside:
            point |= {"N": float(np.exp(at)), "D": float(np.exp(log_d)), "loss": c0 - c1 * c1 / (4 * c2)}
        points.append(point)
        if not edge:
            found.append((np.log(g.C), at, log_d))
            designs.append((best, hat, design, g.loss[near]))
    return np.array(found).reshape(-1, 3), points, designs


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


def _empirical(
    runs: Runs, name: str, optima_of: Callable[[list[Budget]], Any], step: float, level: float
) -> dict[str, Any]:
    mode, groups, curves = budgets(runs, step)
    optima, points, designs = optima_of(groups)
    reference = _reference(runs)
    result = _blank(name, "", None, level)
    result["mode"] = {
        "isoflop": "isoFLOP groups of the table, as they are",
        "grid": f"a grid: the loss of {len(curves)} sizes interpolated along D to {len(groups)} common budgets",
    }[mode]
    result["points"], result["budgets"] = points, len(optima)
    edges = [p["C"] for p in points if p["edge"]]
    if edges:
        message = f"{len(edges)} of {len(points)} budgets have their optimum at an edge of the sizes and are left out"
        result["warnings"].append({"name": "edge", "message": message, "C": edges})
    if not groups:
        sizes = len(curves)
        reason = f"fewer than three sizes share a compute: no isoFLOP groups, and {sizes} sizes with two or more D"
        return _unidentified(result, reason)
    line = _line(optima, reference)
    winners = len(_clusters(optima[:, 1], SAME / 5)) if designs is None else len(optima)
    if line is None or min(len(optima), winners) < MIN_BUDGETS:
        if line is not None:
            _fill(result, line, np.full(6, np.nan), np.full(6, np.nan), reference)
        what = "sizes win inside the range" if designs is None else "budgets have a bracketed minimum"
        return _unidentified(result, f"only {min(len(optima), winners)} {what}; {MIN_BUDGETS} are needed")
    if mode == "grid":
        error, df = _jackknife(curves, step, optima_of, reference, winners)
        scheme = "delete-one-size jackknife, Student t"
    elif designs is None:
        error, df = _residual_error(optima, reference), len(optima) - 2
        scheme = "scatter of the optima about the line, Student t"
    else:
        error, df = _simulated_error(optima, designs, reference)
        scheme = "noise about the parabolas, simulated; widened where the minima scatter more; Student t"
    if error is None:
        _fill(result, line, np.full(6, np.nan), np.full(6, np.nan), reference)
        return _unidentified(result, "leaving out one size leaves too few optima to tell how sure this is")
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    result["interval"] = {"level": level, "scheme": scheme, "df": int(df)}
    _fill(result, line, line - half, line + half, reference)
    if half[0] > 0.5:
        return _unidentified(result, f"the interval of a is {line[0]:.2f} ± {half[0]:.2f}: any allocation fits")
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
    """Pools the residuals of all parabolas, redraws them, refits; Birge's ratio covers scatter beyond that noise."""
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
    # At one compute ln D moves against ln N by the slope of ln D in ln N, which is -1 for 6ND.
    return np.array([a, n, a, n, k, k]), df


def _jackknife(
    curves: list[_Curve], step: float, optima_of: Callable[[list[Budget]], Any], reference: float, winners: int
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


def _blank(name: str, scheme: str, df: int | None, level: float) -> dict[str, Any]:
    empty = {"value": None, "lo": None, "hi": None}
    return {
        "name": name,
        "identified": True,
        "reason": None,
        "a": dict(empty),
        "b": dict(empty),
        "coefficient": {"N": dict(empty), "D": dict(empty)},
        "at_reference": {"C": None, "N": dict(empty), "D": dict(empty)},
        "budgets": 0,
        "interval": {"level": level, "scheme": scheme, "df": df},
        "warnings": [],
    }


def _fill(result: dict[str, Any], value: np.ndarray, lo: np.ndarray, hi: np.ndarray, reference: float) -> None:
    def interval(i: int, change: Callable[[float], Any] = float) -> dict[str, Any]:
        cells = (value[i], lo[i], hi[i])
        with np.errstate(over="ignore"):
            found = [float(change(c)) if np.isfinite(c) else None for c in cells]
        return dict(
            zip(("value", "lo", "hi"), [c if c is None or np.isfinite(c) else None for c in found], strict=True)
        )

    result["a"], result["b"] = interval(0), interval(2)
    result["coefficient"] = {"N": interval(4, np.exp), "D": interval(5, np.exp)}
    result["at_reference"] = {"C": reference, "N": interval(1, np.exp), "D": interval(3, np.exp)}


def _unidentified(result: dict[str, Any], reason: str) -> dict[str, Any]:
    """Keeps the estimate, if any, and takes its interval away: 'not identified' is a result."""
    result["identified"], result["reason"] = False, reason
    for entry in (result["a"], result["b"], *result["coefficient"].values()):
        entry["lo"] = entry["hi"] = None
    for name in ("N", "D"):
        result["at_reference"][name]["lo"] = result["at_reference"][name]["hi"] = None
    result["warnings"].append({"name": "not_identified", "message": reason})
    return result


def _compare(one: str, x: dict[str, Any], two: str, y: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Whether two approaches differ by more than their intervals allow together (added in squares)."""
    pair: dict[str, Any] = {"pair": [int(one), int(two)], "a": None, "N": None, "disagree": None}
    for name, result in ((one, x), (two, y)):
        if not result["identified"]:
            reason = f"{name} is not identified ({result['reason']})"
            return pair, f"Approaches {one} and {two} cannot be compared: {reason}."
    at, n = x["at_reference"]["C"], (x["at_reference"]["N"], y["at_reference"]["N"])
    pair["a"] = _differ(x["a"], y["a"], np.asarray)
    pair["N"] = _differ(*n, np.log)
    pair["disagree"] = pair["a"]["disagree"] or pair["N"]["disagree"]
    exponents = f"a = {_text(x['a'])} and {_text(y['a'])}"
    if pair["a"]["disagree"]:
        exclude = " and the intervals exclude each other" if pair["a"]["exclude"] else ""
        apart = f"{abs(pair['a']['difference']):.3f} apart where noise allows {pair['a']['allowed']:.3f}{exclude}"
        return pair, f"Approaches {one} and {two} disagree: {exponents}, {apart}."
    if pair["N"]["disagree"]:
        sizes = " and ".join(f"{e['value']:.3g} ({e['lo']:.3g} to {e['hi']:.3g})" for e in n)
        where = f"on N at {at:.2g} FLOPs: {sizes}"
        return pair, f"Approaches {one} and {two} agree on the exponent ({exponents}) but disagree {where}."
    return pair, f"Approaches {one} and {two} agree within their intervals: {exponents}."


def _differ(p: dict[str, Any], q: dict[str, Any], scale: Callable[[Any], Any]) -> dict[str, Any]:
    (v, low, high), (w, below, above) = ([float(scale(e[k])) for k in ("value", "lo", "hi")] for e in (p, q))
    facing = (high - v, w - below) if w > v else (v - low, above - w)
    allowed = float(np.hypot(*facing))
    exclude = low > above or below > high
    return {"difference": v - w, "allowed": allowed, "disagree": abs(v - w) > allowed, "exclude": exclude}


def _text(entry: dict[str, Any]) -> str:
    return f"{entry['value']:.3f} ({entry['lo']:.3f} to {entry['hi']:.3f})"
