"""Evaluation losses with standard errors by document. numpy only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def term_summary(nats, count, document, names, reference=None, *, bytes_per_token=None, entropy=None) -> dict[str, Any]:
    """Mean of a loss term over evaluation windows, with its standard error by document (ratio estimator).

    Args:
      nats, count: (windows,) summed loss and number of predictions of each window.
      document, names: (windows,) index of each window's document, and the documents' names.
      reference: (windows,) the summed exact -log p under the source's own distribution, where it is known. The sample's
        deviation from the exact ``entropy`` is then taken out of the mean (a control variate): what is left of the
        error is that of the excess loss alone.
    """
    sums = np.bincount(document, np.asarray(nats, np.float64), len(names))
    counts = np.bincount(document, np.asarray(count, np.float64), len(names))
    sample, value, noise = sums.sum() / counts.sum(), sums.sum() / counts.sum(), sums
    if reference is not None and entropy is not None:
        exact = np.bincount(document, reference, len(names))
        noise = sums - exact
        value = noise.sum() / counts.sum() + entropy
    residual = noise - noise.sum() / counts.sum() * counts
    groups = max(2, np.count_nonzero(counts))
    error = math.sqrt(groups / (groups - 1) * np.square(residual).sum()) / counts.sum()
    seen = counts > 0
    return {
        "value": float(value),
        "count": int(counts.sum()),
        "se": error,
        "sample": float(sample),
        "bits_per_byte": None if bytes_per_token is None else float(value) / math.log(2) / bytes_per_token,
        "documents": {
            "id": [name for name, keep in zip(names, seen) if keep],
            "sum": [round(float(x), 4) for x in sums[seen]],
            "count": [int(x) for x in counts[seen]],
        },
    }
