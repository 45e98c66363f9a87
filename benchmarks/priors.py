"""Learns the prior of the default forecast, and of the discrepancy of laws alone, from cuts of real studies.

    python benchmarks/priors.py --shared=../shared

The sets, cuts and method are those of league_protocol.md, version 4. ``--shared`` names the folder that holds
``reference_runs``. What is written, to ``--pool``, are learned numbers and the names of sets and sources, no rows. The
league calls the same functions without the source of the set that it scores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from scipy import optimize, special

from analysis.check import discrepancy
from analysis.decide import pool
from scaling.records import write_json

Array = np.ndarray
DFS = (2.0, 3.0, 4.0, 6.0, 10.0, 20.0)
WORTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
ETAS = (0.5, 1.0, 2.0, 3.0, 4.0)
EVEN = (0.1, 0.3, 1.0)  # strengths of the pull of the weights towards even ones
APART = (0.0, 0.5, 1.0, 1.5)
GROWTHS = (0.5, 0.75, 1.0)
SETS = {  # sources, and the licence of their repository; no row of them is shipped
    "hoffmann": "points of Hoffmann 2022 by Besiroglu 2024 and by apple/ml-scalefit: none stated",
    "porian": "formll/resolving-scaling-law-discrepancies: MIT",
    "gadre": "mlfoundations/scaling: MIT",
    "muennighoff": "huggingface/datablations: Apache-2.0",
    "gemstones": "mcleish7/gemstone-scaling-laws: MIT",
    "steplaw": "step-law/steplaw: none stated",
    "marin": "Marin runs by Open-Athena/scaling-law-analysis: none stated",
}
SCALES = np.linspace(math.log(1e-3), math.log(0.12), 40)


class Case(NamedTuple):
    """One cut of one set: what the default forecast hears below it, and forecasts (V, n) of the runs above it."""

    set: str
    source: str
    heard: pool.Heard
    forecasts: Array
    outcome: Array
    x: Array


class Alone(NamedTuple):
    """One cut of one set under one law: its rolling residuals, and those above the cut with their sd."""

    set: str
    source: str
    cuts: Sequence[discrepancy.Residuals]
    residual: Array
    spread: Array
    x: Array


class _Padded:
    """Cases as arrays (cases, laws, rows), with what is missing masked, so that weights are learned in milliseconds."""

    def __init__(self, cases: Sequence[Case]):
        rows, names = max(len(c.outcome) for c in cases), pool.NAMES
        self.forecast = np.zeros((len(cases), len(names), rows))
        self.outcome, self.share = np.zeros((len(cases), rows)), np.zeros((len(cases), rows))
        self.score, self.there = np.zeros((len(cases), len(names))), np.full((len(cases), len(names)), -np.inf)
        for i, case in enumerate(cases):
            at, n = [names.index(name) for name in case.heard.names], len(case.outcome)
            self.forecast[i, at, :n], self.outcome[i, :n], self.share[i, :n] = case.forecasts, case.outcome, 1 / n
            self.score[i, at], self.there[i, at] = pool.scores(case.heard), 0.0
        of = [c.set for c in cases]
        sets = list(dict.fromkeys(of))
        self.member = np.array([[(name == s) / of.count(s) for name in of] for s in sets])

    def errors(self, theta: Array, eta: float) -> tuple[Array, Array]:
        """Mean absolute error of each set, and its derivative in theta (sets, laws)."""
        log = theta - eta * self.score + self.there
        weight = np.exp(log - log.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        off = self.outcome - np.einsum("cl,clr->cr", weight, self.forecast)
        slope = -np.einsum("cr,clr->cl", np.sign(off) * self.share, self.forecast)
        slope = weight * (slope - (weight * slope).sum(axis=1, keepdims=True))
        return self.member @ (np.abs(off) * self.share).sum(axis=1), self.member @ slope

    def cost(self, theta: Array, eta: float, even: float) -> tuple[float, Array]:
        """Mean over sets of the log error, with the pull to even weights, and its gradient."""
        error, slope = self.errors(theta, eta)
        share = special.softmax(theta)
        value = np.log(error + pool.EXACT).mean() - even * np.log(share).mean()
        return float(value), (slope / (error + pool.EXACT)[:, None]).mean(axis=0) - even * (1 / len(theta) - share)


def fitted_weights(data: _Padded, eta: float, even: float) -> Array:
    start = np.zeros(len(pool.NAMES))
    bounds = [(-5.0, 5.0)] * len(start)
    found: Any = optimize.minimize(data.cost, start, args=(eta, even), jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x


def learn_weights(cases: Sequence[Case]) -> tuple[dict[str, float], float]:
    """Weights by law and eta. eta and the pull to even weights are those of the lowest mean log error of sets whose
    source was left out, among the sources of ``cases``."""
    sources = sorted({c.source for c in cases})
    rounds = [[_Padded([c for c in cases if (c.source == s) is out]) for out in (False, True)] for s in sources]
    tried = []
    for eta in ETAS:
        for even in EVEN:
            left = [test.errors(fitted_weights(train, eta, even), eta)[0] for train, test in rounds]
            tried.append((float(np.log(np.concatenate(left) + pool.EXACT).mean()), eta, even))
    _, eta, even = min(tried)
    share = special.softmax(fitted_weights(_Padded(cases), eta, even))
    return {name: float(v) for name, v in zip(pool.NAMES, share)}, eta


def log_density(residual: Array, spread: Array, x: Array, k: Array, df: Array) -> Array:
    """Mean over rows of minus the log density of Student's t, for each of the k (q,) with df (q,)."""
    k, df = k[:, None], df[:, None]
    variance = spread**2 + (k * x) ** 2
    tail = (df + 1) / 2 * np.log1p(residual**2 / df / variance)
    constant = special.gammaln(df / 2) - special.gammaln((df + 1) / 2) + 0.5 * np.log(df)
    return (0.5 * np.log(variance) + tail + constant).mean(axis=1)


def scale_costs(rows: Sequence[Alone]) -> dict[tuple[float, float], Array]:
    """{(df, worth): mean over sets of minus the log density, for each k of ``SCALES``}."""
    of = [row.set for row in rows]
    heard = [
        np.sum([discrepancy.likelihood(cut) for cut in r.cuts], axis=0) + np.zeros_like(discrepancy.K) for r in rows
    ]
    costs = {}
    for df in DFS:
        for worth in WORTHS:
            total, before = np.zeros(len(SCALES)), discrepancy.log_prior(np.exp(SCALES), df)
            for row, log in zip(rows, heard):
                at = discrepancy.matched(before + worth * log)
                density = log_density(row.residual, row.spread, row.x, *at)
                total += density / of.count(row.set) / len(set(of))
            costs[df, worth] = total
    return costs


def learn_scales(laws: Mapping[str, Sequence[Alone]]) -> dict[str, discrepancy.Prior]:
    """Priors of k by law, and of a law that is none of them (``OTHER``: as if they all were it). Degrees of freedom and
    the worth of a cut are common to all laws: one study says little of them."""
    every = {name: scale_costs(rows) for name, rows in laws.items()}
    common: dict[tuple[float, float], float] = {
        at: sum(float(costs[at].min()) for costs in every.values()) for at in next(iter(every.values()))
    }
    best = min(common, key=lambda at: common[at])
    every[discrepancy.OTHER] = {best: np.sum([costs[best] for costs in every.values()], axis=0)}
    rows = {**laws, discrepancy.OTHER: [row for rows in laws.values() for row in rows]}
    return {name: _prior(rows[name], costs[best], best) for name, costs in every.items()}


def _prior(rows: Sequence[Alone], costs: Array, at: tuple[float, float]) -> discrepancy.Prior:
    k = float(np.exp(SCALES[int(np.argmin(costs))]))
    shared = common_part(rows, discrepancy.Prior(k, at[0], at[1], 0.0, 0, 0))
    return discrepancy.Prior(k, at[0], at[1], shared, len({r.set for r in rows}), len({r.source for r in rows}))


def common_part(rows: Sequence[Alone], prior: discrepancy.Prior) -> float:
    """The part of the deviation's variance that cells of one study share (``discrepancy.common_part``)."""
    at = [discrepancy.updated(prior, row.cuts)[0] for row in rows]
    r, s = (np.concatenate([getattr(row, name) for row in rows]) for name in ("residual", "spread"))
    kx = np.concatenate([k * row.x for k, row in zip(at, rows)])
    study = np.repeat(np.arange(len(rows)), [len(row.x) for row in rows])
    return round(discrepancy.common_part(r, s, kx, study, 1.0), 3)


def learn_pool(cases: Sequence[Case]) -> pool.Prior:
    """The prior of the default forecast."""
    weights, eta = learn_weights(cases)
    tried = []
    for factor in APART:
        for growth in GROWTHS:
            rows = [_as_alone(case, weights, eta, factor, growth) for case in cases]
            for at, costs in scale_costs(rows).items():
                tried.append((float(costs.min()), factor, growth, at, costs, rows))
    _, factor, growth, at, costs, rows = min(tried, key=lambda one: one[:4])
    return pool.Prior(weights, eta, factor, growth, _prior(rows, costs, at))


class Learned(NamedTuple):
    """The priors of laws by name, and of the default forecast."""

    laws: dict[str, discrepancy.Prior]
    pool: pool.Prior


def learn(cases: Sequence[Case], laws: dict[str, list[Alone]], without: str | None = None) -> Learned:
    """All priors, from the sets of every source but one."""
    rows = {law: [row for row in rows if row.source != without] for law, rows in laws.items()}
    return Learned(learn_scales(rows), learn_pool([case for case in cases if case.source != without]))


def plain(learned: Learned) -> dict[str, Any]:
    """The priors as JSON, to five digits."""
    return _rounded(msgspec.to_builtins({"laws": learned.laws, "pool": learned.pool}))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write(learned: Learned, path: str | None) -> None:
    """Writes the file that the package holds."""
    about = {"schema": 1, "made_by": "benchmarks/priors.py", "method": "league_protocol.md, version 4", "sets": SETS}
    if path:
        write_json(path, {**about, "prior": plain(learned)["pool"]})


def main() -> None:
    import league  # it imports this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--pool", default="analysis/decide/pool.json")
    options = parser.parse_args()
    found = league.gather(league.studies(Path(options.shared)), rivals=False)
    write(learn(found.cases, found.alone), options.pool)


def _as_alone(case: Case, weights: dict[str, float], eta: float, factor: float, growth: float) -> Alone:
    """The weighted forecast as if it were a law."""
    share = pool.weights_of(weights, eta, case.heard)
    middle, away = pool.apart(share, case.forecasts)
    spread = pool.spread(float(share @ case.heard.noise), away, factor)
    cuts = pool.residuals(share, case.heard, factor, growth)
    return Alone(case.set, case.source, cuts, case.outcome - middle, spread, pool.grown(case.x, growth))


if __name__ == "__main__":
    main()
