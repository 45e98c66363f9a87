"""The flags of verbs that train: which engine, and what each engine declares in its own file."""

from __future__ import annotations

from scaling import launch
from scaling.flags import Flag

TRAINING = (
    Flag("engine", str, f"where to train: {', '.join(launch.engines())}", "local"),
    Flag("retry_failed", bool, "train failed and rejected runs once more", False),
    *launch.flags(),
)
