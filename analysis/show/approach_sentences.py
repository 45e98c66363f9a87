"""Sentences about approaches 1, 2 and 3 to the compute-optimal allocation (``check.approaches``)."""

from __future__ import annotations

from analysis.check.approaches import (
    AnyReason,
    Approach,
    Approaches,
    FewLeft,
    FewOptima,
    NoInterior,
    NoOptimum,
    NoSharedCompute,
    OneLine,
    OpenDraws,
    Pair,
    WideExponent,
)
from analysis.show.numbers import plural
from analysis.show.sentences import disagreement, exponents, parabola_window

_SCHEMES = {
    "jackknife": "delete-one-size jackknife, Student t",
    "scatter": "scatter of the optima about the line, Student t",
    "simulated": "noise about the parabolas, simulated; widened where the minima scatter more; Student t",
}


def approach_name(approach: Approach) -> str:
    """What an approach does, in a few words."""
    names = {"envelope": "envelope", "parabolas": "isoFLOP parabolas"}
    return names.get(approach.kind, f"parametric ({approach.law})")


def approach_method(approach: Approach) -> str:
    """The source of an approach's optima."""
    if approach.mode == "isoflop":
        return "isoFLOP groups of the table, as they are"
    if approach.mode == "grid":
        return f"a grid: the loss of {approach.sizes} sizes interpolated along D to {approach.common} common budgets"
    if approach.a is None:
        return ""
    return "exact cost by size" if approach.exact_cost else "C = 6ND"


def approach_scheme(approach: Approach) -> str:
    """How the intervals were made; empty where there are none."""
    if approach.scheme is None:
        return ""
    freedom = "" if approach.df is None else f", {approach.df:g} degrees of freedom"
    return _SCHEMES.get(approach.scheme, approach.scheme) + freedom


def approach_notes(approach: Approach) -> list[str]:
    """Further notes on the numbers of an approach."""
    notes, edges = [], sum(point.edge for point in approach.points)
    if edges:
        notes.append(
            f"{edges} of {len(approach.points)} budgets have their optimum at an edge of the sizes and are left out"
        )
    if approach.depends_on_window:
        notes.append(parabola_window(approach.sensitivity))
    return notes


def why_not(why: AnyReason) -> str:
    """Why an approach identifies nothing."""
    match why:
        case NoSharedCompute():
            if why.sizes < 3:
                has = "has" if why.sizes == 1 else "have"
                return f"no three sizes share a compute, and only {plural(why.sizes, 'size')} {has} two or more D"
            return f"no three of the {why.sizes} sizes share a compute"
        case FewOptima():
            budgets, has = why.of == "budgets", "has" if why.found == 1 else "have"
            what = "a minimum between sizes" if budgets else "the lowest loss at a budget inside the range"
            found = plural(why.found, "budget" if budgets else "size")
            return f"only {found} {has} {what}; {why.needed} are needed"
        case FewLeft():
            return "leaving out one size leaves too few optima to tell how sure this is"
        case WideExponent():
            return f"the interval of a is {why.a:.2f} ± {why.half_width:.2f}: any allocation fits"
        case NoOptimum():
            return why.no_optimum or f"it is a law of {', '.join(why.columns)} and needs N and D"
        case NoInterior():
            return "the fitted law has no interior optimum here"
        case OneLine():
            return "D follows from N in these runs, so that the exponents of the law cannot be told apart"
        case OpenDraws():
            return f"{why.share:.0%} of the draws of the fit have no interior optimum"


def compared(result: Approaches) -> str:
    """Which approaches identify nothing, by reason, and whether the others agree, one sentence per pair."""
    lost: dict[str, list[str]] = {}
    for name, approach in result.approaches.items():
        if approach.why is not None:
            lost.setdefault(why_not(approach.why), []).append(name)
    said = [
        f"Approach{'es' if len(names) > 1 else ''} {' and '.join(names)} {'are' if len(names) > 1 else 'is'} not "
        f"identified ({why})."
        for why, names in lost.items()
    ]
    return " ".join([*said, *(text for pair in result.pairs if (text := _pair(result, pair)))])


def _pair(result: Approaches, pair: Pair) -> str:
    head, x, y = f"Approaches {pair.one} and {pair.two}", result.approaches[pair.one], result.approaches[pair.two]
    if x.why is not None or y.why is not None:
        return ""
    if x.a is None or y.a is None or x.N is None or y.N is None or pair.a is None or pair.N is None:
        return f"{head} cannot be compared."
    if not (pair.a.disagree or pair.N.disagree):
        return f"{head} agree within their intervals: {exponents(x.a, y.a)}."
    return f"{head} {disagreement(pair.a, (x.a, y.a), (x.N, y.N), pair.C)}."
