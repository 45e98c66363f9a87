"""Laws of several data sets, families or recipes beside one another: what differs, what is equal, what cannot be told.

Compared are numbers that mean the same in every fit: the exponents of the optimum, those of a law among its own fits,
the compute that halves what is reducible, and, only where the losses are one quantity on one axis, the compute for
equal loss. Losses of different data, objectives or units
are never put on one axis. Verdicts are tests at the stated level: ``different`` (the interval of the difference leaves
out zero), ``equal within the margin`` (two one-sided tests: Schuirmann 1987, doi 10.1007/BF01068419), both, or
``cannot tell``. Members are pooled as random effects (Paule and Mandel 1982, doi 10.6028/jres.087.022; interval of
Hartung and Knapp 2001, doi 10.1002/sim.791), each drawn towards the mean by its share of the variance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from analysis.decide.design import PLAN_TARGETS
from analysis.engine.frontier import cost_table, optimum_along
from scaling.errors import UserError

Array = np.ndarray
MARGIN = 0.05  # of equality, where none is given: a tenth of an exponent of one half
MARGINS = {"c": 0.02, "log2_compute_to_halve": 0.5}
POINTS = 9  # losses at which compute is compared
POWER = 0.8  # of the comparisons that are to see a difference
OPEN = 0.10  # share of draws without an answer above which there is none


@dataclass(frozen=True)
class Member:
    """One fit to compare: its label, the fit, what one nat of its loss is in bits per byte (None: not bytes), and the
    hash of the data that it was measured on (None: not known)."""

    label: str
    fit: Any
    bits_per_byte: float | None = None
    data: str | None = None


def compare(
    members: list[Member],
    *,
    level: float = 0.95,
    margins: Mapping[str, float] | None = None,
    axis: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Every pair of members on every number that they share, and all of them pooled. JSON.

    Args:
      margins: the difference of each quantity below which two are called equal; MARGIN and MARGINS where none is given.
      axis: of equal loss. auto: the loss itself where it is one quantity; bits_per_byte: where every loss is a
        likelihood of bytes (of any data: what is compared is then how hard the data are, too).

    Raises:
      UserError: fewer than two fits, fits of the same runs, or counts of N that differ.
    """
    margins = dict(margins or {})
    _check(members, level, margins, axis)
    several = len({m.fit.law.name for m in members}) > 1
    values = {m.label: _quantities(m.fit, several) for m in members}
    shared = [
        k for k in dict.fromkeys(k for v in values.values() for k in v) if sum(k in v for v in values.values()) > 1
    ]
    unknown = set(margins) - set(shared)
    if unknown:
        raise UserError("margin", sorted(unknown)[0], f"is not shared by the fits; choose from {', '.join(shared)}")
    rng = np.random.default_rng(seed)
    quantities: dict[str, Any] = {}
    for name in shared:
        own = {label: v[name] for label, v in values.items() if name in v}
        margin = margins.get(name, MARGINS.get(name, MARGIN))
        pairs = [
            _difference(name, one, own[one], two, own[two], level, margin, rng)
            for one, two in itertools.combinations(own, 2)
        ]
        quantities[name] = {
            "members": {label: _cell(draws, level) for label, draws in own.items()},
            "margin": margin,
            "pairs": pairs,
            "pooled": pool({label: (float(d[0]), _spread(d)) for label, d in own.items()}, level=level),
        }
    equal = [_equal_loss(one, two, axis, level, rng) for one, two in itertools.combinations(members, 2)]
    return {
        "schema": 1,
        "kind": "comparison",
        "level": level,
        "members": [
            {"label": m.label, "law": m.fit.law.name, "dataset": m.fit.data.get("dataset"), "n": _n(m.fit),
             "loss": m.fit.conventions.get("loss"), "rows": m.fit.data.get("rows")}
            for m in members
        ],
        "quantities": quantities,
        "equal_loss": equal,
        "verdict": " ".join(p["sentence"] for name in shared if name == "a" for p in quantities[name]["pairs"])
        or "The fits share no allocation exponent.",
    }  # fmt: skip


def power(
    hopes: Mapping[str, Mapping[str, Any]], *, level: float = 0.95, margins: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """What a comparison of planned studies can tell, before their runs, from what each hopes for. JSON.

    Of each pair and exponent: the half-width of the difference's interval, the difference that 80 % of such pairs of
    studies would show, and the chance that studies with no difference at all are found equal within the margin (two
    one-sided tests). None where a study has too few cells.

    Args:
      hopes: {label: what ``design.hope`` returned at ``level``}.

    Raises:
      UserError: fewer than two plans, a level or a margin that is none, an exponent that no plan hopes for.
    """
    if len(hopes) < 2:
        raise UserError("compare", len(hopes), "needs two planned studies or more")
    margins = dict(margins or {})
    _valid(level, margins)
    for label, found in hopes.items():
        if found["level"] != level:
            raise UserError(
                "level", level, f"the plan {label} holds intervals of {found['level']:g}; leave --level out"
            )
    names = [name for name in PLAN_TARGETS if name != "E"]
    for name in margins:
        if name not in names:
            raise UserError("margin", name, f"is no exponent that a plan hopes for; choose from {', '.join(names)}")
    quantile, rows = float(stats.norm.ppf(0.5 + level / 2)), []
    for name, (one, two) in itertools.product(names, itertools.combinations(hopes, 2)):
        widths = [hopes[label]["half_widths"][name] for label in (one, two)]
        margin = margins.get(name, MARGIN)
        row: dict[str, Any] = {"quantity": name, "one": one, "two": two, "margin": margin, "half_width": None}
        if None not in widths:
            width = math.hypot(*widths)
            error = width / quantile
            equal = 2 * float(stats.norm.cdf(margin / error - stats.norm.ppf(level))) - 1
            row |= {"half_width": width, "seen": width + float(stats.norm.ppf(POWER)) * error, "equal": max(0.0, equal)}
        rows.append(row)
    return {"schema": 1, "kind": "power", "level": level, "pairs": rows,
            "priors": {label: found["prior"] for label, found in hopes.items()}}  # fmt: skip


def pool(members: Mapping[str, tuple[float, float]], *, level: float = 0.95) -> dict[str, Any]:
    """Random-effects mean of {label: (value, standard error)}: partial pooling. JSON.

    ``tau`` is the sd between members beyond their errors, ``prediction`` the interval for a member not seen (None with
    two members), ``shrunk`` each member drawn to the mean. Members without a finite error are left out and named.
    """
    used = {k: v for k, v in members.items() if math.isfinite(v[0]) and math.isfinite(v[1]) and v[1] > 0}
    out: dict[str, Any] = {"left_out": sorted(set(members) - set(used)), "value": None, "lo": None, "hi": None}
    if len(used) < 2:
        return {**out, "tau": None, "prediction": None, "shrunk": {}}
    y, se = np.array(list(used.values())).T
    k = len(y)

    def excess(tau2: float) -> float:
        w = 1 / (se**2 + tau2)
        return float((w * (y - (w * y).sum() / w.sum()) ** 2).sum()) - (k - 1)

    tau2 = 0.0
    if excess(0.0) > 0:
        root: Any = optimize.brentq(excess, 0.0, float(np.ptp(y) ** 2 * k + 1e-300))
        tau2 = float(root)
    w = 1 / (se**2 + tau2)
    mean = float((w * y).sum() / w.sum())
    # Hartung and Knapp's factor; never below 1, or two members that agree by luck would give a point.
    factor = max(1.0, float((w * (y - mean) ** 2).sum()) / (k - 1))
    error = math.sqrt(factor / w.sum())
    t = float(stats.t.ppf(0.5 + level / 2, k - 1))
    out.update(value=mean, lo=mean - t * error, hi=mean + t * error, tau=math.sqrt(tau2), members=k)
    out["prediction"] = None
    if k > 2:
        wide = float(stats.t.ppf(0.5 + level / 2, k - 2)) * math.sqrt(tau2 + error**2)
        out["prediction"] = [mean - wide, mean + wide]
    weight = tau2 / (tau2 + se**2)
    out["shrunk"] = {label: float(mean + weight[i] * (y[i] - mean)) for i, label in enumerate(used)}
    return out


def comparable(one: Member, two: Member) -> str | None:
    """None where the losses of two fits are one quantity on one axis; else the reason why not."""
    a, b = one.fit.data.get("dataset"), two.fit.data.get("dataset")
    if a is None or b is None:
        return "a table does not say what its loss was measured on; name its data set in a column `dataset`"
    if a != b or (None not in (one.data, two.data) and one.data != two.data):
        return f"the losses are of different data ({a} of {one.label} and {b} of {two.label})"
    x, y = one.fit.conventions.get("loss"), two.fit.conventions.get("loss")
    if x != y:
        return f"the losses are different quantities ({x}; {y})"
    return None


def _check(members: list[Member], level: float, margins: Mapping[str, float], axis: str) -> None:
    if len(members) < 2:
        raise UserError("compare", len(members), "needs two fits or more; give cards or work directories")
    _valid(level, margins)
    if axis not in ("auto", "bits_per_byte"):
        raise UserError("axis", axis, "choose auto or bits_per_byte")
    for one, two in itertools.combinations(members, 2):
        if one.fit.data.get("sha256") == two.fit.data.get("sha256"):
            what = (
                "are of the same runs: their errors are shared; laws on one table are ranked by `scaling fit --law=all`"
            )
            raise UserError("compare", f"{one.label}, {two.label}", what)
        if _n(one.fit) != _n(two.fit):
            what = (
                f"count N differently ({_n(one.fit)}; {_n(two.fit)}), which moves every exponent; fit both with one --n"
            )
            raise UserError("compare", f"{one.label}, {two.label}", what)
    labels = [m.label for m in members]
    if len(set(labels)) < len(labels):
        raise UserError("compare", ", ".join(labels), "two fits have one name; give cards with names of their own")


def _valid(level: float, margins: Mapping[str, float]) -> None:
    if not 0.5 <= level < 1:
        raise UserError("level", level, "give a probability from 0.5 to 1, such as 0.95")
    for name, margin in margins.items():
        if not (math.isfinite(margin) and margin > 0):
            raise UserError("margin", f"{name}={margin}", "must be a positive number")


def _n(fit: Any) -> str | None:
    """The count of N: of records by its name; a table's own words are taken as equal to another table's."""
    return fit.conventions.get("n")


def _quantities(fit: Any, several: bool) -> dict[str, Array]:
    """Numbers that mean the same in every fit: the estimate first, then the draws, (1 + S,).

    A parameter means the same in fits of one law; where there are ``several`` its name says which it is of.
    """
    theta = np.vstack([fit.law.vector(fit.params)[None], fit.draws])
    out = {}
    pair = fit.law.exponents(theta)
    if pair is not None:
        out["a"] = pair["a"]
    own = {p.name: theta[:, fit.law.index(p.name)] for p in fit.law.params if p.unit == "exponent"}
    out |= {f"{name} of {fit.law.name}" if several else name: values for name, values in own.items()}
    if fit.law.name == "chinchilla":
        total = own["alpha"] + own["beta"]
        with np.errstate(divide="ignore", invalid="ignore"):
            # along the optimum both terms fall as C^-c: how fast what is reducible shrinks with compute, without E
            out["c"] = np.where(total > 0, own["alpha"] * own["beta"] / total, 0.0)
            out["log2_compute_to_halve"] = 1 / out["c"]
    return out


def _spread(draws: Array) -> float:
    """Standard error of the draws: half of the central 68 %, which heavy tails do not blow up."""
    good = draws[1:][np.isfinite(draws[1:])]
    if len(good) < (1 - OPEN) * (len(draws) - 1) or len(good) == 0:
        return math.inf
    lo, hi = np.quantile(good, [0.15866, 0.84134])
    return float(hi - lo) / 2


def _cell(draws: Array, level: float) -> dict[str, float | None]:
    value, rest = float(draws[0]), draws[1:]
    ends = [None, None]
    if np.isfinite(rest).mean() > 1 - (1 - level) / 2:
        ends = [float(v) for v in np.quantile(rest[np.isfinite(rest)], [(1 - level) / 2, (1 + level) / 2])]
    return {"value": value if math.isfinite(value) else None, "lo": ends[0], "hi": ends[1]}


def _difference(
    name: str, one: str, x: Array, two: str, y: Array, level: float, margin: float, rng: np.random.Generator
) -> dict[str, Any]:
    """x - y of independent fits, its interval, and the verdict."""
    size = 4000
    with np.errstate(invalid="ignore"):
        gap = rng.choice(x[1:], size) - rng.choice(y[1:], size)
        drawn = np.concatenate([[x[0] - y[0]], gap])
    cell = _cell(drawn, level)
    found: dict[str, Any] = {"one": one, "two": two, "difference": cell, "margin": margin}
    if cell["lo"] is None or cell["value"] is None:
        verdict, inner = "cannot tell", None
    else:
        good = gap[np.isfinite(gap)]
        inner = [float(v) for v in np.quantile(good, [1 - level, level])]
        lo, hi = cell["lo"], cell["hi"]
        assert lo is not None and hi is not None
        different = lo > 0 or hi < 0
        equal = -margin < inner[0] and inner[1] < margin
        verdict = "different, but within the margin" if different and equal else "different" if different else (
            "equal within the margin" if equal else "cannot tell"
        )  # fmt: skip
    words = "not identified" if inner is None else f"{cell['value']:.3g} [{cell['lo']:.3g}, {cell['hi']:.3g}]"
    sentence = f"{name}: {one} - {two} = {words}: {verdict} (margin {margin:g})."
    return {**found, "equivalence_interval": inner, "verdict": verdict, "sentence": sentence}


def _equal_loss(one: Member, two: Member, axis: str, level: float, rng: np.random.Generator) -> dict[str, Any]:
    """How much compute two needs for the loss that one reaches, where both fits have seen it; or why not."""
    head = {"one": one.label, "two": two.label}
    reason, scale = comparable(one, two), (1.0, 1.0)
    if axis == "bits_per_byte":
        reason = None
        if one.bits_per_byte is None or two.bits_per_byte is None:
            lacking = one.label if one.bits_per_byte is None else two.label
            reason = f"the loss of {lacking} is not known to be a likelihood of bytes"
        else:
            scale = (one.bits_per_byte, two.bits_per_byte)
    offers = ["exponents (a, alpha, beta)", "c: how fast the loss above its floor falls with compute"]
    if one.bits_per_byte is not None and two.bits_per_byte is not None and axis == "auto":
        offers.append("bits per byte (--axis=bits_per_byte): both are likelihoods of bytes")
    if reason is not None:
        return {**head, "status": "refused", "reason": f"{reason}; never put on one axis", "offers": offers}
    try:
        rows = _compute_for_loss(one.fit, two.fit, scale, level, rng)
    except UserError as error:
        return {**head, "status": "refused", "reason": str(error), "offers": offers}
    if not rows:
        reason = "no loss is reached by both within the compute that was fitted"
        return {**head, "status": "refused", "reason": reason, "offers": offers}
    unit = "bits per byte" if axis == "bits_per_byte" else one.fit.conventions.get("loss")
    return {**head, "status": "compared", "axis": unit, "rows": rows}


def _frontier(fit: Any, flops: Array, most: int, rng: np.random.Generator, scale: float) -> Array:
    """Log of the best loss at budgets (1 + S, k): the estimate, then ``most`` of the draws in random order."""
    theta = np.vstack([fit.law.vector(fit.params)[None], fit.draws[rng.choice(len(fit.draws), most)]])
    log_n, log_d = optimum_along(fit.law, theta, flops, cost_table(fit))
    out = np.full(log_n.shape, np.nan)
    for i, t in enumerate(theta):
        good = np.isfinite(log_n[i])
        if good.any():
            out[i, good] = np.log(fit.law.predict(t, {"N": np.exp(log_n[i, good]), "D": np.exp(log_d[i, good])}))
    return out + math.log(scale)


def _compute_for_loss(
    one: Any, two: Any, scale: tuple[float, float], level: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """At each compute C of one: the loss, and C' / C where two's best loss is the same, with its interval."""
    for fit in (one, two):
        if "C_min" not in fit.scope:
            raise UserError("law", fit.law.name, "its runs do not say what they cost")
    low = max(one.scope["C_min"], two.scope["C_min"])
    high = min(one.scope["C_max"], two.scope["C_max"])
    budgets = np.geomspace(one.scope["C_min"], one.scope["C_max"], POINTS)
    wide = np.geomspace(two.scope["C_min"] / 10, two.scope["C_max"] * 10, 61)
    most = min(300, len(one.draws), len(two.draws))
    first, second = _frontier(one, budgets, most, rng, scale[0]), _frontier(two, wide, most, rng, scale[1])
    rows = []
    for k, c in enumerate(budgets):
        if not low * 0.999 <= c <= high * 1.001:
            continue
        ratio = np.full(len(first), np.nan)
        for i in range(len(first)):
            curve = second[i]
            good = np.isfinite(curve)
            if np.isfinite(first[i, k]) and good.sum() > 1:
                falling = curve[good][::-1]
                if falling[0] <= first[i, k] <= falling[-1]:
                    ratio[i] = np.interp(first[i, k], falling, np.log(wide[good])[::-1]) - math.log(c)
        cell = _cell(ratio, level)
        if cell["value"] is not None:
            row = {name: None if v is None else math.exp(v) for name, v in cell.items()}
            rows.append({"C": float(c), "loss": float(np.exp(first[0, k])), "compute_ratio": row})
    return rows
