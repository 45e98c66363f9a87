"""Lack of fit without replicates: smooth structure that a law leaves in its residuals.

A law that holds leaves noise. Where a polynomial in the logarithms of the law's columns explains more of the residuals
than noise does, the form is wrong at these runs. The law is linearised at the estimate, and an F test compares it with
the law plus the polynomial (Draper and Smith 1998, Applied Regression Analysis, chapter 2).
"""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pandas as pd
from scipy import special

from analysis.card import Structure
from analysis.engine.estimate import Estimate
from analysis.engine.groups import Groups
from analysis.engine.random_effects import best_ratio, ratio_scores
from analysis.engine.surface import Weighted
from analysis.engine.uncertainty import Inference

Array = np.ndarray
SPARE = 4  # least degrees of freedom of the noise
CUBIC = 40  # rows from which the polynomial is cubic
GAIN = 1.0  # of the log likelihood by an effect of groups, below which there is none
EXACT = 1e-4  # rms of log loss below which structure is rounding, or the optimiser's tolerance


def structure(point: Estimate, at: Inference, table: pd.DataFrame) -> Structure | None:
    """The test at a fit; None where the design leaves no room for it, or for laws of learning curves.

    Rows of one stem or size may share an effect. Where they do, structure counts within them, whatever their effects,
    or beyond the effects of the size that the law and the polynomial leave, with the degrees of freedom of the groups.
    """
    law, free = at.surface.law, at.free
    if law.curve:
        return None
    trend = _trend(table, law.columns)
    if trend is None:
        return None
    root = point.surface.root if isinstance(point.surface, Weighted) else np.ones(len(trend))
    f, state = at.surface.evaluate(at.z_hat[None])
    G = at.surface.jacobian(state)[0]
    inside = (at.z_hat > at.surface.lower + 1e-9) & (at.z_hat < at.surface.upper - 1e-9)
    G, r, trend = G[:, free & inside], at.pseudo - f[0], trend * root[:, None]
    if not (np.isfinite(G).all() and np.isfinite(r).all()):
        return None  # a formula without a finite slope here
    plain = _test(G, trend, r, len(r))
    if plain is None or at.groups is None or (rho := _effect(G, trend, r, at.groups)) == 0.0:
        return plain
    groups, count = at.groups, len(at.groups.names)
    within = _test(_within(G, groups), _within(trend, groups), _within(r, groups), len(r) - count)
    means = _basis(groups.sums(np.concatenate([G, trend], 1).T).T / groups.counts[:, None])
    white = [groups.whiten(x.T, rho).T for x in (G, trend)]
    whole = _test(white[0], white[1], groups.whiten(r, rho), len(r), count - means.shape[1])
    tests = [test for test in (within, whole) if test is not None]
    if not tests:
        return None
    best = min(tests, key=lambda test: test.p)
    p = min(1.0, len(tests) * best.p)  # the smaller of two (Bonferroni)
    return msgspec.structs.replace(best, p=p, share=plain.share, size_log=plain.size_log)


def _trend(table: pd.DataFrame, columns: tuple[str, ...]) -> Array | None:
    """Monomials (n, q) of the standardised logarithms of those columns that are positive numbers and vary."""
    numbers = [table[c].to_numpy(dtype=np.float64) for c in columns if c in table and table[c].dtype.kind in "fiu"]
    logs = [np.log(x) for x in numbers if bool((x > 0).all()) and np.ptp(np.log(x)) > 1e-6]
    if not logs:
        return None
    scaled = [(x - x.mean()) / x.std() for x in logs]
    degree = 3 if len(table) >= CUBIC else 2
    parts = [
        np.prod(chosen, axis=0)
        for power in range(1, degree + 1)
        for chosen in itertools.combinations_with_replacement(scaled, power)
    ]
    return np.stack([np.ones(len(table)), *parts], 1)


def _effect(G: Array, trend: Array, r: Array, groups: Groups) -> float:
    """Ratio of group to run variance (REML) that the law and the polynomial together leave, 0 without evidence for it.

    A ratio that hardly raises the likelihood is noise, and would take the test the degrees of freedom of the rows.
    """
    scores = ratio_scores(_basis(np.concatenate([G, trend], 1)), r, groups)
    return best_ratio(scores) if float(scores.max() - scores[0]) > GAIN else 0.0


def _within(x: Array, groups: Groups) -> Array:
    """x (n, ...) less its mean in each group."""
    return x - (groups.sums(x.T) / groups.counts)[..., groups.codes].T


def _basis(X: Array) -> Array:
    """An orthonormal basis of the columns of X (n, k)."""
    size = np.linalg.norm(X, axis=0)
    X = X[:, size > 1e-12 * max(float(size.max(initial=0.0)), 1e-300)]
    if not X.shape[1]:
        return X
    u, s, _ = np.linalg.svd(X / np.linalg.norm(X, axis=0), full_matrices=False)
    return u[:, s > 1e-8 * s[0]]


def _test(G: Array, trend: Array, r: Array, rows: int, most: int | None = None) -> Structure | None:
    """The F test of the polynomial beside the law.

    Args:
      rows: independent rows, fewer than r has where means were removed.
      most: degrees of freedom of the noise, at most.
    """
    law = _basis(G)
    left = r - law @ (law.T @ r)
    beyond = _basis(trend - law @ (law.T @ trend))
    df1, df2 = beyond.shape[1], rows - law.shape[1] - beyond.shape[1]
    if most is not None:
        df2 = min(df2, most)
    if df1 < 1 or df2 < SPARE:
        return None
    explained, whole = float(((beyond.T @ left) ** 2).sum()), max(float((left**2).sum()), 1e-300)
    noise = max(whole - explained, len(r) * 1e-24)
    F = explained / df1 / (noise / df2)
    size = math.sqrt(max(explained - df1 * noise / df2, 0.0) / len(r))
    return Structure(F=F, df1=df1, df2=df2, p=float(special.fdtrc(df1, df2, F)), share=explained / whole, size_log=size)
