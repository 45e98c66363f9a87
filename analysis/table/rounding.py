"""Values that are equal to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
EQUAL = 1e-3  # values of one column that differ by less are one setting, rounded differently
APART = 10.0  # times their own spread by which such values lie apart from all others


def rounded(values: Any) -> Array:
    """A column (n,) whose values that are equal to rounding are replaced by one of them.

    Sizes and tokens that were computed from one budget differ in the last digits. A level is a set of values within
    ``EQUAL`` that are ``APART`` times as far from all others, so that a dense column, as of a learning curve, stays as
    it is. Columns with zeros or negative numbers too.
    """
    column = np.asarray(values, dtype=np.float64)
    distinct, index = np.unique(column, return_inverse=True)
    if len(distinct) < 2 or not (np.isfinite(distinct).all() and distinct[0] > 0):
        return column
    logs, out, start = np.log(distinct), distinct.copy(), 0
    starts = [0]
    for i in range(1, len(logs)):
        if logs[i] - logs[start] > EQUAL:
            start = i
            starts.append(i)
    for first, end in zip(starts, [*starts[1:], len(logs)]):
        spread = logs[end - 1] - logs[first]
        below = logs[first] - logs[first - 1] if first else np.inf
        above = logs[end] - logs[end - 1] if end < len(logs) else np.inf
        if min(below, above) >= APART * spread:
            out[first:end] = distinct[(first + end) // 2]
    return out[index.reshape(-1)]
