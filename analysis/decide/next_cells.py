"""The next cells to train for a fit, chosen from a study's ladder and stems or from the sizes around a table's.

In a study a cell costs what training it adds: the decay alone for a branch of an existing stem, also the missing part
of the stem for a longer branch, and a whole stem with its compilation for a new size or seed. For a table of another
trainer every cell is a whole run, at C = 6ND or at the cost by size of the table's own rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from analysis import laws
from analysis.card import SCHEMA, NotIdentified, Value, Warning
from analysis.check import diagnose
from analysis.decide import design
from analysis.engine.frontier import Cost, cost_table, flops_for
from analysis.fitting.below_zero import moved
from analysis.table.rounding import rounded
from analysis.table.runs import load
from scaling.errors import Code, UserError
from scaling.records import Record, read_study

if TYPE_CHECKING:
    from analysis.fitting import Fit
    from scaling.records.types import LadderRow, Manifest, RunSpec

Array = np.ndarray
SETS = 8  # parameter sets over which a design is averaged: the estimate and draws
AROUND = 4.0  # factor around the optimum's tokens per parameter that is allowed beside the range of the fitted runs
FINER = 2.0  # ratio of neighbouring D in the pool
LARGER = 6  # number of sizes beyond a table's largest


class Safeguards(Value):
    """Limits that keep a design from trusting the law where it is least true.

    Attributes:
      ratios: smallest and largest tokens per parameter; by default the range of the fitted runs, and a factor 4 around
        the optimum at the target's budget.
      share: share of the spend kept for the top decade of compute.
      drift: error of the law as an sd of log loss per e-fold (``decide.design``); by default the card's discrepancy.
    """

    ratios: tuple[float, float] | None = None
    share: float = design.TOP_SHARE
    drift: float | None = None

    def check(self) -> None:
        """Raises a UserError that names an invalid value."""
        if not 0 <= self.share < 1:
            raise UserError("share", self.share, "must be a share of the spend, from 0 to below 1")
        if self.drift is not None and not (math.isfinite(self.drift) and self.drift >= 0):
            raise UserError("drift", self.drift, "must be an sd of log loss per e-fold, such as 0.005")
        if self.ratios is not None and not 0 < self.ratios[0] < self.ratios[1] < math.inf:
            text = f"{self.ratios[0]:g},{self.ratios[1]:g}"
            raise UserError("ratios", text, "must be two rising positive numbers")


class NextCell(Value):
    """A cell to train.

    Attributes:
      price: its cost in FLOPs when the cells before it are trained.
      half_width_after: expected half-width of the target then.
      size, seed, stem, new_stem: of a study; a table has ``seed`` alone, where further seeds were requested.
    """

    N: float
    D: float
    C: float
    tokens_per_parameter: float
    price: float
    half_width_after: float
    size: int | None = None
    seed: int | None = None
    stem: str | None = None
    new_stem: bool | None = None


class HalfWidth(Value):
    """Half-width of an interval, before and after the cells."""

    before: float
    after: float


class TopDecade(Value):
    """``share`` of the spend in the decade of compute from ``start`` FLOPs; at least ``least`` was requested."""

    start: float
    share: float
    least: float


class TopDecadeUnfilled(Warning, tag="top_decade"):
    """Less of the spend than requested is in the top decade of compute, as no more useful cells were left there."""

    share: float
    least: float


class RoughHalfWidths(Warning, tag="rough"):
    """Part of the fit is not identified, so half-widths by linearisation are rough: fit again after each list."""


ProposalWarning = TopDecadeUnfilled | RoughHalfWidths


class Proposal(Value):
    """Which cells to train next, in order, and the expected interval of the target.

    Attributes:
      half_width: of the target's interval at ``level``, now and expected after all cells.
      tokens_per_parameter: bounds of the cells considered.
      parameter_sets: number of the fit's parameter sets over which half-widths are averaged.
      candidates: number of cells considered.
      price: ``stems``: each stem is paid once, a branch only for its own steps; ``whole_runs`` for a table.
      workdir: of the study; None for a table.
    """

    law: str
    target: str
    budget: float
    spent: float
    level: float
    half_width: HalfWidth
    cells: tuple[NextCell, ...]
    top_decade: TopDecade
    tokens_per_parameter: tuple[float, float]
    noise: design.Noise
    parameter_sets: int
    candidates: int
    price: Literal["stems", "whole_runs"]
    dataset: str | None
    workdir: str | None
    warnings: tuple[ProposalWarning, ...]
    kind: Literal["next"] = "next"
    schema: Literal[2] = SCHEMA


class _Row(Value):
    """The names that belong to a cell of a pool."""

    size: int | None = None
    seed: int | None = None
    stem: str | None = None
    new_stem: bool | None = None


def next_cells(
    fit: Fit,
    *,
    target: str,
    budget: float,
    workdir: str | Path | None = None,
    seeds: Sequence[int] = (),
    safeguards: Safeguards | None = None,
    level: float = 0.95,
) -> Proposal:
    """Which cells to train next, in order, and the expected interval of the target.

    Args:
      target: see ``design.parse_target``.
      budget: FLOPs that may be spent, stems included.
      workdir: the fitted study; None where the fit is of a table.
      seeds: further seeds (new stems of any size) that may be trained, beside those of the fitted runs.
      level: confidence of the half-widths.

    Raises:
      UserError: an invalid target or budget, a budget that pays for no cell, or bounds that leave no cell.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise UserError("budget", budget, "must be a positive number of FLOPs")
    fit = moved(fit, fit.card.offset)  # of losses below zero: widths do not depend on a constant in the loss
    safeguards = safeguards or Safeguards()
    safeguards.check()
    question = design.parse_target(target, fit.law)
    if set(fit.law.columns) - {"N", "D"} or not {"N", "D"} <= set(fit.columns):
        remedy = f"next designs cells in N and D; fit {laws.default().name}"
        raise UserError("law", fit.law.name, remedy, Code.UNSUPPORTED)
    cost, done = cost_table(fit), _done(fit, workdir)
    bounds = safeguards.ratios or _ratios(done, fit, question, cost)
    pool, rows = _study_pool(fit, Path(workdir), seeds, budget) if workdir else _table_pool(fit, cost, seeds, budget)
    pool, rows = _within(pool, rows, bounds, float(np.min(done.C)))
    drift = (fit.discrepancy.k or design.DRIFT) if safeguards.drift is None else safeguards.drift
    noise = design.Noise(run=float(np.median(fit.sigma_run)), stem=float(np.median(fit.sigma_stem)), drift=drift)
    step = max(1, len(fit.draws) // (SETS - 1))
    thetas = np.vstack([fit.theta[None], fit.draws[::step][: SETS - 1]])
    request = design.Request(question, budget, level, safeguards.share)
    selection = design.propose(fit.law, thetas, done.columns, pool, request, noise=noise, cost=cost)
    _require_told_apart(fit, done, pool, selection)
    return Proposal(
        law=fit.law.name,
        target=question.text,
        budget=budget,
        spent=selection.spent,
        level=level,
        half_width=HalfWidth(before=selection.before, after=selection.after),
        cells=_cells(pool, rows, selection),
        top_decade=TopDecade(start=selection.top_from, share=selection.top_share, least=safeguards.share),
        tokens_per_parameter=bounds,
        noise=noise,
        parameter_sets=selection.parameter_sets,
        candidates=len(rows),
        price="stems" if pool.decay else "whole_runs",
        dataset=fit.data.dataset,
        workdir=None if workdir is None else str(workdir),
        warnings=_warnings(fit, selection, safeguards.share),
    )


def _cells(pool: design.Pool, rows: Sequence[_Row], selection: design.Selection) -> tuple[NextCell, ...]:
    cells = []
    for j, price, width in zip(selection.chosen, selection.prices, selection.after_each):
        n, d, row = float(pool.N[j]), float(pool.D[j]), rows[j]
        cells.append(
            NextCell(
                N=n,
                D=d,
                C=float(pool.C[j]),
                tokens_per_parameter=d / n,
                price=price,
                half_width_after=width,
                size=row.size,
                seed=row.seed,
                stem=row.stem,
                new_stem=row.new_stem,
            )
        )
    return tuple(cells)


def _require_told_apart(fit: Fit, done: _Done, pool: design.Pool, selection: design.Selection) -> None:
    """Raises a UserError where D = k N in all runs and chosen cells: no such runs tell the terms of N and D apart."""
    chosen = list(selection.chosen)
    together = {name: np.concatenate([getattr(done, name), getattr(pool, name)[chosen]]) for name in ("N", "D")}
    r = diagnose.correlation(fit.law, pd.DataFrame(together))
    if r is not None and abs(r) > diagnose.CONFOUNDED:
        ratio = float(np.median(together["D"] / together["N"]))
        remedy = "in all runs and all cells to choose from: they cannot tell the terms of N and D apart; widen --ratios"
        raise UserError("D/N", f"{ratio:.3g}", remedy, Code.NOT_IDENTIFIED)


def _warnings(fit: Fit, selection: design.Selection, share: float) -> tuple[ProposalWarning, ...]:
    warnings: list[ProposalWarning] = []
    if selection.top_share < share:
        warnings.append(TopDecadeUnfilled(share=selection.top_share, least=share))
    if any(isinstance(w, NotIdentified) for w in fit.warnings):
        warnings.append(RoughHalfWidths())
    return tuple(warnings)


@dataclass(frozen=True)
class _Done:
    """N, D and C of the fitted runs, (n,) each, and their stems where they share any."""

    N: Array
    D: Array
    C: Array
    stem: list[str] | None

    @property
    def columns(self) -> dict[str, Array | list[str]]:
        """The columns that ``design`` takes."""
        columns: dict[str, Array | list[str]] = {"N": self.N, "D": self.D, "C": self.C}
        return columns if self.stem is None else {**columns, "stem": self.stem}


def _done(fit: Fit, workdir: str | Path | None) -> _Done:
    """The fitted runs with their stems from the study, whose runs must be those of the card."""
    n, d = fit.columns["N"], fit.columns["D"]
    stem = None
    if workdir is not None:
        table = load(workdir, dataset=fit.data.dataset, n=fit.conventions.n or "nonembedding").table
        stems = dict(zip(table["run"], table["stem"]))
        stem = [str(stems.get(run, run)) for run in fit.runs]
    elif fit.noise.groups is not None:
        stem = [_by_size(size) for size in rounded(n)]
    return _Done(n, d, fit.columns.get("C", 6 * n * d), stem)


def _by_size(n: float) -> str:
    """Name of the stem for rows of a table that share an effect by size."""
    return f"N {n:.9g}"


def _ratios(done: _Done, fit: Fit, target: design.Target, cost: Cost | None) -> tuple[float, float]:
    """Bounds of tokens per parameter: the range of the fitted runs, and around the optimum at the target's budget."""
    ratios = done.D / done.N
    low, high = float(ratios.min()), float(ratios.max())
    if target.budget is not None:
        ends = [
            design.Target(name, target.budget).values(fit.law, fit.theta[None], cost)[0]
            for name in ("log_N_opt", "log_D_opt")
        ]
        best = math.exp(ends[1] - ends[0])
        if math.isfinite(best):
            low, high = min(low, best / AROUND), max(high, best * AROUND)
    return low * 0.999, high * 1.001


def _within(
    pool: design.Pool, rows: list[_Row], bounds: tuple[float, float], lowest: float
) -> tuple[design.Pool, list[_Row]]:
    """The cells within bounds of tokens per parameter that cost at least as much as the cheapest fitted run."""
    ratio = pool.D / pool.N
    inside = (bounds[0] <= ratio) & (ratio <= bounds[1]) & (lowest * 0.999 <= pool.C)
    if not inside.any():
        text = f"tokens per parameter in {bounds[0]:.3g} to {bounds[1]:.3g} at {lowest:.3g} FLOPs or more"
        remedy = "leave no cell to train that is new; widen --ratios or give --seeds"
        raise UserError("ratios", text, remedy, Code.TOO_FEW)
    kept = np.flatnonzero(inside)
    stems = [pool.stem[i] for i in kept]
    part = replace(pool, N=pool.N[kept], D=pool.D[kept], per_token=pool.per_token[kept], stem=stems)
    return part, [rows[i] for i in kept]


def _doublings(first: float, most: float) -> list[float]:
    return [first * FINER**k for k in range(int(math.log(most / first, FINER)) + 1)] if most >= first else []


def _table_pool(fit: Fit, cost: Cost | None, seeds: Sequence[int], budget: float) -> tuple[design.Pool, list[_Row]]:
    """The sizes of a table and larger ones at doublings of its smallest D, as whole runs."""
    sizes = sorted(set(rounded(fit.columns["N"]).tolist()))
    ratio = max(1.2, float(np.exp(np.median(np.diff(np.log(sizes)))))) if len(sizes) > 1 else FINER
    sizes += [sizes[-1] * ratio**k for k in range(1, LARGER + 1)]
    lowest = float(fit.columns["D"].min())
    cells = []
    for n in sizes:
        per_token = float(flops_for(n, 1.0, cost))
        for d in _doublings(lowest, budget / per_token):
            cells += [(n, d, per_token, seed) for seed in (None, *seeds)]
    if not cells:
        raise UserError("budget", f"{budget:g}", "is below the cheapest run of the table; nothing can be trained")
    n, d, per_token = (np.array([cell[i] for cell in cells]) for i in range(3))
    by_size = fit.noise.groups is not None and fit.noise.groups.kind == "size"
    stems = [_by_size(cell[0]) if by_size else i for i, cell in enumerate(cells)]
    return design.Pool(n, d, per_token, stems), [_Row(seed=cell[3]) for cell in cells]


def _study_pool(fit: Fit, workdir: Path, seeds: Sequence[int], budget: float) -> tuple[design.Pool, list[_Row]]:
    """Every size of the study's ladder at doublings of its smallest D, on the stems of the fitted seeds or new ones."""
    study = read_study(workdir)
    dataset = fit.data.dataset or ""
    runs = tuple(r for program in study.programs for r in program.runs if r.manifest.dataset == dataset)
    known = _Study(workdir, study.ladder.get(dataset, ()), runs)
    if not known.ladder or not known.fitted:
        remedy = f"has no ladder in {workdir / 'study.json'}; plan the study again"
        raise UserError("dataset", dataset, remedy, Code.MISSING)
    count = f"N_{fit.conventions.n or 'nonembedding'}"
    if not hasattr(known.ladder[0], count):
        remedy = "the ladder counts N_nonembedding and N_total; fit with --n of these"
        raise UserError("fit", count, remedy, Code.UNSUPPORTED)
    cells, overhead = known.cells(tuple(seeds), budget)
    if not cells:
        raise UserError("budget", f"{budget:g}", "buys nothing new in this study; give more, or --seeds")
    n = np.array([getattr(row, count) for row, _, _ in cells], float)
    d = np.array([tokens for _, tokens, _ in cells])
    per_token = np.array([row.flops_per_token for row, _, _ in cells], float)
    pool = design.Pool(n, d, per_token, [cell.stem for _, _, cell in cells], known.decay, known.trained, overhead)
    return pool, [cell for _, _, cell in cells]


@dataclass(frozen=True)
class _Study:
    """The ladder and the planned runs of one data set of a study."""

    workdir: Path
    ladder: tuple[LadderRow, ...]
    runs: tuple[RunSpec, ...]

    @cached_property
    def manifests(self) -> list[Manifest]:
        """Manifests of all runs, stems included."""
        return [run.manifest for run in self.runs]

    @cached_property
    def fitted(self) -> list[Manifest]:
        """Manifests of the runs that laws are fitted to."""
        return [m for m in self.manifests if m.role in ("fit", "seed")]

    @property
    def decay(self) -> float | None:
        """Share of a run that is decay; None where runs share no stems."""
        recipe = self.fitted[0].recipe
        return float(recipe["decay_fraction"]) if recipe["schedule"] == "wsd" else None

    @property
    def unique(self) -> float:
        """Largest number of tokens of a run: those of the data, unless the study repeats them."""
        repeated = any(m.tokens.epochs > 1 for m in self.manifests)
        return math.inf if repeated else float(self.fitted[0].tokens.unique)

    @cached_property
    def held_out(self) -> set[tuple[int, int]]:
        """Sizes and seeds of held-out cells: a fitted branch of their stem would give the outcome away."""
        return {(m.size, m.seed) for m in self.manifests if m.role == "holdout"}

    @cached_property
    def stems(self) -> list[Manifest]:
        """Stems that may have further branches."""
        stems = [run.manifest for run in self.runs if run.kind == "stem"]
        return [m for m in stems if (m.size, m.seed) not in self.held_out]

    @property
    def trained(self) -> dict[str, float]:
        """Tokens of each stem."""
        return {m.run: float(m.tokens.D) for m in self.stems}

    def cells(
        self, seeds: tuple[int, ...], budget: float
    ) -> tuple[list[tuple[LadderRow, int, _Row]], dict[str, float]]:
        """Ladder row, tokens and names of every new cell, and the FLOPs of compiling a new size, by stem."""
        lowest = min(m.tokens.D for m in self.fitted)
        planned = {(m.size, m.tokens.D, m.seed) for m in self.manifests if m.role != "stem"}
        names = {(m.size, m.seed): m.run for m in self.stems}
        own = sorted({m.seed for m in self.fitted})
        sizes, unique, compilation = {m.size for m in self.fitted}, self.unique, self._compilation()
        cells, overhead = [], {}
        for row in self.ladder:
            step = row.batch * row.context
            for seed in sorted({*own, *seeds}):
                # A size under a further seed is a new stem, and allowed only where that seed was requested.
                unasked = seed != own[0] and seed not in seeds and (row.size, seed) not in names
                if unasked or (row.size, seed) in self.held_out:
                    continue
                stem = names.get((row.size, seed), f"new {row.size} seed {seed}")
                new = (row.size, seed) not in names
                if row.size not in sizes:
                    overhead[stem] = compilation
                for d in _doublings(lowest, min(unique, budget / row.flops_per_token / (self.decay or 1.0))):
                    d = max(1, round(d / step)) * step
                    if d <= unique and (row.size, d, seed) not in planned:
                        cells.append((row, d, _Row(size=row.size, seed=seed, stem=stem, new_stem=new)))
        return cells, overhead

    def _compilation(self) -> float:
        """Cost of compiling a new size, in FLOPs that could be trained meanwhile; 0 where no run records it."""
        seconds, rates = [], []
        for run in self.runs:
            if run.manifest.role == "holdout" or (result := Record(self.workdir / "runs" / run.run).result) is None:
                continue
            if result.status == "done" and result.seconds.train > 0:
                seconds.append(result.seconds.compile)
                rates.append(run.flops / result.seconds.train)
        return float(max(seconds) * np.median(rates)) if seconds else 0.0
