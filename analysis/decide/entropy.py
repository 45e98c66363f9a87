"""Losses and fitted floors against the exact entropy of known sources: no model beats it."""

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

BELOW = 3.0  # standard errors below the entropy that no chance explains


class Lowest(Value):
    """The run that comes nearest to the entropy, or farthest below it."""

    run: str
    loss: float
    se: float


class FloorCheck(Value):
    """The fitted floor of a law, and whether its interval ``holds`` the exact entropy."""

    law: str
    n: str
    interval: Interval
    holds: bool


class EntropyCheck(Value):
    """Losses and floors of a data set against the exact ``entropy`` of its source, nats per token.

    Attributes:
      below: runs that lie more than ``BELOW`` standard errors below it.
      largest_excess, smallest_excess: of the losses over it.
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
    """By data set; empty where no source is known."""

    datasets: dict[str, EntropyCheck]
    kind: Literal["entropy"] = "entropy"
    schema: Literal[2] = SCHEMA


def check_entropy(workdir: str | Path) -> EntropyChecks:
    """Losses and fitted floors against the exact entropy of known sources.

    No model beats the entropy, so every loss must be at or above it within its standard error; held-out losses count
    once they are sealed. ``floors`` are the fitted ones of every card, whose interval should hold the exact value.
    """
    workdir = Path(workdir)
    found: dict[str, EntropyCheck] = {}
    for dataset in datasets(workdir):
        try:
            table: Any = load(workdir, dataset=dataset).table
        except UserError as error:
            if error.code is Code.TOO_FEW:
                continue  # nothing of it is finished
            raise
        if "entropy" not in table or table["entropy"].isna().all():
            continue
        if set(load_holdouts(workdir, dataset)["run"]) & sealed.sealed_runs(workdir):
            opened = open_holdouts(workdir, dataset)
            table = pd.concat([table, opened], ignore_index=True) if len(opened) else table
        cards = [each.card for each in fit_cards(workdir) if each.card.data.dataset == dataset]
        found[dataset] = _entropy(table, cards)
    return EntropyChecks(datasets=found)


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
    """The irreducible loss of a fit beside the exact entropy; None of a law without one."""
    name = laws.get(card.law).irreducible
    if name is None or card.conventions.n is None:
        return None
    cell = card.params[name]
    holds = (cell.lo is None or cell.lo <= exact) and (cell.hi is None or exact <= cell.hi)
    return FloorCheck(law=card.law, n=card.conventions.n, interval=cell, holds=holds)
