"""Checks losses and fitted floors against the exact entropy of known sources, which no model can beat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import laws
from analysis.card import SCHEMA, FitCard, Interval, Value
from analysis.decide.forecast import fit_cards
from analysis.table import seal as sealed
from analysis.table.runs import datasets, load, load_holdouts, open_holdouts
from scaling.errors import Code, UserError

BELOW = 3.0  # standard errors below the entropy beyond which chance is no explanation


class Lowest(Value):
    """The run with the lowest loss relative to the entropy."""

    run: str
    loss: float
    se: float


class FloorCheck(Value):
    """The fitted floor of a law, and whether its interval contains the exact entropy (``holds``)."""

    law: str
    n: str
    interval: Interval
    holds: bool


class EntropyCheck(Value):
    """Losses and floors of a data set against the exact ``entropy`` of its source, in nats per token.

    Attributes:
      below: runs more than ``BELOW`` standard errors below the entropy.
      largest_excess, smallest_excess: largest and smallest loss less the entropy.
    """

    entropy: float
    runs: int
    below: tuple[str, ...]
    lowest: Lowest
    largest_excess: float
    smallest_excess: float
    floors: tuple[FloorCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every loss is at or above the entropy within its standard error."""
        return not self.below


class EntropyChecks(Value):
    """Checks by data set; empty where no source is known."""

    datasets: dict[str, EntropyCheck]
    kind: Literal["entropy"] = "entropy"
    schema: Literal[2] = SCHEMA


def check_entropy(workdir: str | Path) -> EntropyChecks:
    """Losses and fitted floors against the exact entropy of known sources.

    No model beats the entropy, so every loss must be at or above it within its standard error; held-out losses are
    included once they are sealed. The intervals of all fitted floors should contain the exact value.
    """
    workdir = Path(workdir)
    checks: dict[str, EntropyCheck] = {}
    for dataset in datasets(workdir):
        try:
            table: Any = load(workdir, dataset=dataset).table
        except UserError as error:
            if error.code is Code.TOO_FEW:
                continue  # no run of it is finished
            raise
        if "entropy" not in table or table["entropy"].isna().all():
            continue
        if set(load_holdouts(workdir, dataset)["run"]) & sealed.sealed_runs(workdir):
            opened = open_holdouts(workdir, dataset)
            table = pd.concat([table, opened], ignore_index=True) if len(opened) else table
        cards = [sealable.card for sealable in fit_cards(workdir) if sealable.card.data.dataset == dataset]
        checks[dataset] = _entropy(table, cards)
    return EntropyChecks(datasets=checks)


def _entropy(table: Any, cards: Sequence[FitCard]) -> EntropyCheck:
    exact = float(table["entropy"].dropna().iloc[0])
    loss = np.asarray(table["loss"], float)
    error = np.asarray(table["loss_se"], float) if "loss_se" in table else np.zeros(len(loss))
    error = np.where(np.isfinite(error), error, 0.0)
    excess = loss - exact
    lowest = int(np.argmin(excess))
    return EntropyCheck(
        entropy=exact,
        runs=len(loss),
        below=tuple(str(run) for run in table["run"][excess < -BELOW * error]),
        lowest=Lowest(run=str(table["run"].iloc[lowest]), loss=float(loss[lowest]), se=float(error[lowest])),
        largest_excess=float(excess.max()),
        smallest_excess=float(excess.min()),
        floors=tuple(floor for card in cards if (floor := _floor(card, exact)) is not None),
    )


def _floor(card: FitCard, exact: float) -> FloorCheck | None:
    """The irreducible loss of a fit beside the exact entropy; None for a law without a floor."""
    name = laws.get(card.law).irreducible
    if name is None or card.conventions.n is None:
        return None
    cell = card.params[name]
    holds = (cell.lo is None or cell.lo <= exact) and (cell.hi is None or exact <= cell.hi)
    return FloorCheck(law=card.law, n=card.conventions.n, interval=cell, holds=holds)
