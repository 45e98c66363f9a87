"""Evaluation losses with standard errors by document, and by position in the context. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from scaling.records.types import Documents, Evaluation, Positions

Array = np.ndarray


def term_summary(
    nats: ArrayLike,
    count: ArrayLike,
    document: Array,
    names: Sequence[str],
    reference: ArrayLike | None = None,
    *,
    bytes_per_token: float | None = None,
    entropy: float | None = None,
    positions: bool = False,
) -> Evaluation:
    """Mean of a loss term over evaluation windows, with its standard error by document (ratio estimator).

    Args:
      nats: summed loss of each window, (windows,), or of each of its positions, (windows, T).
      count: number of predictions, same shape as ``nats``.
      document: (windows,), index of each window's document in ``names``.
      names: names of the documents.
      reference: exact -log p under the source's own distribution, if known; same shape as ``nats``. It serves as a
        control variate whose mean is ``entropy``: the remaining error is that of the excess loss.
      bytes_per_token: to compute bits per byte; None if that is meaningless.
      entropy: of the source, in nats per prediction.
      positions: whether to compute the loss by position, see ``by_position``; needs (windows, T).
    """
    nats, count = np.asarray(nats, np.float64), np.asarray(count, np.float64)
    exact = None if reference is None else np.asarray(reference, np.float64)
    sums, counts = (_by_document(values, document, len(names)) for values in (nats, count))
    sample, error = _ratio(sums, counts)
    value = sample
    if exact is not None and entropy is not None:
        value, error = _ratio(sums - _by_document(exact, document, len(names)), counts)
        value += entropy
    evaluated = counts > 0
    return Evaluation(
        value=value,
        count=int(counts.sum()),
        se=error,
        sample=sample,
        bits_per_byte=None if bytes_per_token is None else value / math.log(2) / bytes_per_token,
        documents=Documents(
            id=tuple(name for name, keep in zip(names, evaluated) if keep),
            sum=tuple(round(float(x), 4) for x in sums[evaluated]),
            count=tuple(int(x) for x in counts[evaluated]),
        ),
        positions=by_position(nats, count, document, len(names), exact) if positions else None,
    )


def choices(
    nats: ArrayLike, count: ArrayLike, right: Array, candidates: int, document: Array, names: Sequence[str]
) -> dict[str, Evaluation]:
    """Questions with C candidates for their answer, of which the one with the fewest nats per token is chosen.

    ``answer`` is the loss of the right candidate, in nats per token; ``error`` the share of questions for which another
    is chosen, where n of them at the nats of the right one count n / (n + 1): without knowledge it is 1 - 1 / C.

    Args:
      nats, count: of the window of each candidate, (questions C,) or (questions C, T), those of a question together.
      right: bool, one of each question's. document: index of each window's document in ``names``. (questions C,) both.
      candidates: of a question, C.
    """
    sums, counts = (np.asarray(each, np.float64).reshape(len(right), -1).sum(axis=1) for each in (nats, count))
    score = (sums / counts).reshape(-1, candidates)
    own = score[right.reshape(-1, candidates)][:, None]
    fewer, equal = (score < own).sum(axis=1), (score == own).sum(axis=1)
    wrong = np.where(fewer > 0, 1, 1 - 1 / equal)
    asked = document[right]
    return {
        "answer": term_summary(sums[right], counts[right], asked, names),
        "error": term_summary(wrong, np.ones(len(wrong)), asked, names),
    }


def by_position(nats: Array, count: Array, document: Array, documents: int, exact: Array | None) -> Positions:
    """Mean loss in bins of positions, with standard errors by document.

    A position is the number of tokens of the window that the prediction sees. Bins end at ``upto`` = 1, 2, 4, 8 ... and
    T; bins without predictions are left out. If the source is known, ``excess`` is the mean loss above the source's own
    -log p of the same tokens, the lower bound at every position.

    Args:
      nats, count: summed loss and number of predictions, (windows, T).
      document: (windows,), index of each window's document.
      documents: number of documents.
      exact: -log p under the source's own distribution, (windows, T); None if unknown.
    """
    time = nats.shape[1]
    ends = [*(1 << power for power in range((time - 1).bit_length())), time]
    rows = []
    for start, end in zip([0, *ends], ends):
        inside = np.s_[:, start:end]
        sums, counts = (_by_document(values[inside], document, documents) for values in (nats, count))
        if not counts.any():
            continue
        row = [end, int(counts.sum()), *_ratio(sums, counts)]
        if exact is not None:
            row += _ratio(sums - _by_document(exact[inside], document, documents), counts)
        rows.append(row)
    names = ("upto", "count", "value", "se", *(("excess", "excess_se") if exact is not None else ()))
    columns = zip(*rows) if rows else ((),) * len(names)
    return Positions(**dict(zip(names, map(tuple, columns))))


def _by_document(values: Array, document: Array, documents: int) -> Array:
    """Sums over the windows and positions of each document, (documents,)."""
    return np.bincount(document, values.reshape(len(values), -1).sum(axis=1), documents)


def _ratio(sums: Array, counts: Array) -> tuple[float, float | None]:
    """Ratio of sums to counts over documents, and its standard error by document; None for a single document."""
    value, groups = float(sums.sum() / counts.sum()), np.count_nonzero(counts)
    if groups < 2:
        return value, None
    residual = sums - value * counts
    return value, math.sqrt(groups / (groups - 1) * float(np.square(residual).sum())) / float(counts.sum())


def change(after: Evaluation, before: Evaluation) -> tuple[float, float | None]:
    """Mean of ``after`` minus that of ``before`` on the same documents, and its standard error by document.

    What the documents have in common cancels. The error is None where they are not the same, or fewer than two.
    """
    value, one, two = after.value - before.value, after.documents, before.documents
    if one is None or two is None or (one.id, one.count) != (two.id, two.count):
        return value, None
    return value, _ratio(np.asarray(one.sum) - np.asarray(two.sum), np.asarray(one.count, np.float64))[1]
