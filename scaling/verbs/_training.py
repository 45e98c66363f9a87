"""The flags of verbs that train: which engine, and what each engine declares in its own file."""

from __future__ import annotations

from scaling import engines
from scaling.flags import Flag

TRAINING = (
    Flag("engine", str, f"where to train: {', '.join(engines.engines())}", "local"),
    Flag("retry_failed", bool, "train failed and rejected runs once more", False),
    *engines.flags(),
)
