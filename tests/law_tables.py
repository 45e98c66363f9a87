"""Tables of plausible columns for any law of the registry: what the batteries of laws plant coefficients in."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.laws import curves
from analysis.table.runs import Runs, from_frame

RANGES: dict[str, tuple[float, float]] = {
    "N": (1e6, 1e9),
    "D": (1e8, 1e11),
    "C": (1e15, 1e21),
    "U": (3e7, 3e10),
    "x": (1e4, 1e8),
    "experts": (1, 512),
    "granularity": (1, 32),
    "bits": (1.5, 16),
    "weight_bits": (1.5, 16),
    "activation_bits": (1.5, 16),
    "cache_bits": (1.5, 16),
    "batch": (16, 4096),
    "steps": (1e3, 1e5),
    "learning_rate": (1e-4, 1e-2),
    "width": (64, 4096),
    "depth": (2, 64),
    "streams": (1, 8),
    "sparsity": (0.02, 0.95),
    "unimodal": (2, 4),
    "teacher_loss": (1.9, 2.6),
    "student_loss": (2, 3),
    "vocabulary": (1e3, 1e5),
    "error": (0.1, 0.95),
    "attempts": (1, 300),
    "tuning_tokens": (1e5, 1e9),
    "pretraining_tokens": (1e9, 1e12),
}


def columns_of(law: Any, n: int = 60, seed: int = 1) -> dict[str, np.ndarray]:
    """Columns of ``law``, n rows (a multiple of 3), log-uniform over ``RANGES`` or what the law says of them."""
    rng = np.random.default_rng(seed)
    if "S1" in law.columns:
        return schedules(law, n)
    if "r1" in law.columns:
        shares = rng.dirichlet(np.ones(len(law.columns)), n)
        return dict(zip(law.columns, shares.T))
    ranges = {**RANGES, "x": (2.0, 6.0)} if law.quantity in ("error", "other_loss") else RANGES  # x is a loss
    out = {c: np.exp(rng.uniform(np.log(ranges[c][0]), np.log(ranges[c][1]), n)) for c in law.columns}
    if "experts" in out:
        out["experts"] = np.round(out["experts"])
    return out


def schedules(law: Any, n: int) -> dict[str, np.ndarray]:
    """A cosine, a step and a constant learning rate, a third of the rows each."""
    parts = []
    for steps, kind in ((2000, "cosine"), (3000, "step"), (1500, "constant")):
        t, warm = np.arange(steps), 100
        rate = 3e-4 * np.minimum((t + 1) / warm, 1.0)
        if kind == "cosine":
            rate *= np.where(t < warm, 1, 0.55 + 0.45 * np.cos(np.pi * (t - warm) / (steps - warm)))
        if kind == "step":
            rate *= np.where(t > 0.7 * steps, 0.3, 1.0)
        at = np.linspace(200, steps - 1, n // 3).astype(int)
        if "S2" in law.columns:
            parts.append(curves.annealing_columns(rate, at, first=warm))
        else:
            parts.append(curves.multipower_columns(rate, at, first=warm, bins=12))
    wide = max(v.shape[1] if v.ndim > 1 else 0 for part in parts for v in part.values())

    def padded(name: str, v: np.ndarray) -> np.ndarray:
        fill = 1.0 if name == "eta" else 0.0
        return v if v.ndim == 1 else np.pad(v, ((0, 0), (0, wide - v.shape[1])), constant_values=fill)

    return {k: np.concatenate([padded(k, part[k]) for part in parts]) for k in parts[0]}


def runs_of(law: Any, noise: float = 0.0, n: int = 120, seed: int = 1) -> Runs:
    """A table of runs of the law's example, with N, D where the law has none, and log-normal noise."""
    rng = np.random.default_rng(seed + 100)
    columns = columns_of(law, n, seed)
    frame = pd.DataFrame(
        {**{k: np.exp(rng.uniform(np.log(RANGES[k][0]), np.log(RANGES[k][1]), n)) for k in ("N", "D")}, **columns}
    )
    frame["loss"] = law.predict(law.example, columns) * np.exp(noise * rng.standard_normal(n))
    return from_frame(frame)
