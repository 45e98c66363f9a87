"""Learning curves: the loss at every step of a run as a function of its whole learning-rate schedule.

``annealing_columns`` and ``multipower_columns`` compute the laws' columns from a schedule, one row per requested step;
rows of several runs are concatenated. Step 0 is the first of the schedule, including the linear warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws import jets
from analysis.laws.base import Array, amplitude, exponent, floor, scale
from analysis.laws.smooth import Smooth, Value

_NO = "it follows one size; N is not in it"


def annealing_columns(rate: Array, at: Array, *, first: int = 0, memory: float = 0.999) -> dict[str, Array]:
    """S1 = sum of learning rates and S2 = annealing area with a momentum ``memory`` at the steps ``at`` (n,).

    Changes before step ``first``, during the warm-up, do not count as annealing.
    """
    drop = -np.diff(rate, prepend=rate[0])
    drop[:first] = 0.0
    momentum = np.empty(len(rate))
    value = 0.0
    for i, fall in enumerate(drop):
        value = memory * value + fall
        momentum[i] = value
    return {"S1": np.cumsum(rate)[at], "S2": np.cumsum(momentum)[at]}


def multipower_columns(rate: Array, at: Array, *, first: int = 0, bins: int = 64) -> dict[str, Array]:
    """S1 (n,) and the drops of the learning rate before each step: their sizes, rates and areas since, (n, bins).

    At most ``bins`` changes are kept separate; more are merged into ``bins`` bins of nearly equal total change.
    """
    drop = -np.diff(rate, prepend=rate[0])
    total = np.cumsum(rate)
    steps = np.flatnonzero(drop != 0)
    steps = steps[steps >= first]
    label = np.arange(len(steps))
    if len(steps) > bins:
        size = np.cumsum(np.abs(drop[steps]))
        label = np.minimum((size / size[-1] * bins).astype(int), bins - 1)
        # a bin that mixes rises and falls would cancel: split by sign
        _, label = np.unique(label * 2 + (drop[steps] > 0), return_inverse=True)
    count = int(label.max()) + 1 if len(steps) else 1
    shape = (len(at), count)
    out = {"S1": total[at], "drop": np.zeros(shape), "eta": np.ones(shape), "span": np.zeros(shape)}
    change, level, before = drop[steps], rate[steps], total[steps] - rate[steps]
    for row, t in enumerate(at):
        past = slice(0, int(np.searchsorted(steps, t, side="right")))
        weight = np.bincount(label[past], np.abs(change[past]), count)
        seen = weight > 0
        for name, values in (("eta", level), ("span", total[t] - before)):
            mean = np.bincount(label[past], np.abs(change[past]) * values[past], count)
            out[name][row, seen] = mean[seen] / weight[seen]
        out["drop"][row] = np.bincount(label[past], change[past], count)
    return out


annealing = Smooth(
    "annealing",
    "L = L0 + A S1^-alpha - C S2",
    (
        floor("L0", "loss without end of training"),
        amplitude("A", "what too little training costs at S1 = 1"),
        exponent("alpha", "slope in the sum of learning rates"),
        amplitude("C", "gain per annealing area", "loss/S2"),
    ),
    (),
    "Tissue 2024, arXiv 2408.11029",
    inputs=("S1", "S2"),
    signed=("S2",),
    logs=lambda m, p, c: {"A": -p["alpha"] * m.log(c["S1"]), "C": m.log(m.maximum(c["S2"], 0.0))},
    amplitudes=("A", "C"),
    negative=("C",),
    curve=lambda rate, at, first: annealing_columns(rate, at, first=first),
    no_optimum=_NO,
    example={"L0": 2.6, "A": 0.6, "alpha": 0.5, "C": 2.0},
)


def _gain(C: Any, beta: Any, gamma: Any, c: Mapping[str, Any]) -> Any:
    """sum_k drop_k (1 - (C eta_k^-gamma span_k + 1)^-beta): (S, n) of parameters (S, 1); or a jet of jets."""
    made = (C, beta, gamma)
    if not any(isinstance(v, jets.Jet) for v in made):
        x = np.asarray(C)[..., None] * np.exp(-np.asarray(gamma)[..., None] * np.log(c["eta"])) * c["span"]
        return (c["drop"] * -np.expm1(-np.asarray(beta)[..., None] * np.log1p(x))).sum(-1)
    C, beta, gamma = (v if isinstance(v, jets.Jet) else jets.Jet(v, {}, {}) for v in made)
    b, scale, eta = beta.v[..., None], C.v[..., None], np.log(c["eta"])
    x = scale * np.exp(-gamma.v[..., None] * eta) * c["span"]
    log = np.log1p(x)
    weight = c["drop"] * np.exp(-b * log)  # drop (1 + x)^-beta
    share = x / (1 + x)
    slope = b * weight * share  # by log x, which is log C - gamma log eta + log span
    bend = slope * (1 - (b + 1) * share)
    cross = weight * share * (1 - b * log)
    value = (c["drop"] - weight).sum(-1)
    # log C and gamma act through log x; C itself through log C
    first = [slope.sum(-1) / C.v, (weight * log).sum(-1), -(slope * eta).sum(-1)]
    second = {
        (0, 0): (bend - slope).sum(-1) / C.v**2,
        (0, 1): cross.sum(-1) / C.v,
        (0, 2): -(bend * eta).sum(-1) / C.v,
        (1, 1): -(weight * log * log).sum(-1),
        (1, 2): -(cross * eta).sum(-1),
        (2, 2): (bend * eta * eta).sum(-1),
    }
    return jets.compose((C, beta, gamma), value, first, second)


def _multipower(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    if m in (np, jets):
        gain = _gain(p["C"], p["beta"], p["gamma"], c)
    else:
        x = m.exp(m.log(p["C"]) - p["gamma"] * m.log(c["eta"])) * c["span"]
        gain = (c["drop"] * -m.expm1(-p["beta"] * m.log1p(x))).sum(-1)
    return {"A": -p["alpha"] * m.log(c["S1"]), "+": -p["B"] * gain}


multipower = Smooth(
    "multipower",
    "L = L0 + A S1^-alpha - B sum_k drop_k (1 - (C eta_k^-gamma span_k + 1)^-beta)",
    (
        floor("L0", "loss without end of training"),
        amplitude("A", "what too little training costs at S1 = 1"),
        exponent("alpha", "slope in the sum of learning rates", grid=(0.2, 1.0)),
        scale("B", "loss per learning rate", "gain of a drop of the learning rate", (50.0, 2000.0)),
        scale("C", "1", "how soon the gain comes", (0.3, 10.0)),
        exponent("beta", "slope of the gain's approach", grid=(0.3, 1.0)),
        exponent("gamma", "how the rate after the drop delays it", grid=(0.3, 1.0)),
    ),
    (),
    "multi-power law, Luo 2025, arXiv 2503.12811",
    inputs=("S1", "drop", "eta", "span"),
    signed=("drop", "span"),
    logs=_multipower,
    amplitudes=("A",),
    # the published coefficients use sums over the whole run, including the warm-up's rise (a negative drop)
    curve=lambda rate, at, first: multipower_columns(rate, at),
    no_optimum=_NO,
    example={"L0": 2.6, "A": 0.6, "alpha": 0.45, "B": 440.0, "C": 2.1, "beta": 0.6, "gamma": 0.65},
)
