"""The interface of ``import analysis``: from a table of runs to a law, its predictions and allocations.

    import analysis
    fit = analysis.fit("runs.csv")
    fit                                  # a summary; HTML in a notebook
    fit.predict(N=7e9, D=1e12)
    fit.optimal(flops=1e24)
    fit.plot()

Packages above the fit are imported on first use, so that a fit does not load figures or allocations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pandas as pd

from analysis import laws
from analysis.fitting import Fit as _Fit
from analysis.fitting import fit as _fit
from analysis.fitting import load_fit
from analysis.laws import Law
from analysis.table.runs import Runs, from_frame
from analysis.table.runs import load as _load
from analysis.table.units import Units
from scaling.errors import Code, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.decide.allocate import Allocation
    from analysis.decide.compare import Axis, Comparison
    from analysis.decide.gate import Gate, GatePlan, Side
    from analysis.engine.frontier import Cost


class Fit(_Fit):
    """A fitted law with intervals, predictions and allocations. Immutable.

    Made by ``analysis.fit`` and ``Fit.load``.

    Attributes:
      card: all results, how they were made, and warnings (``analysis.card.FitCard``).
      law: the formula.
      params: the estimate by name.
      intervals: parameters, and the exponents a and b of the optimum, as ``Interval(value, lo, hi)``.
      draws: (S, P), parameters in the order of ``law.names``; all other intervals derive from them.
      warnings: typed warnings, one per kind.
    """

    def __repr__(self) -> str:
        from analysis.show.tables import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from analysis.show.tables import summary_html

        return summary_html(self)

    @classmethod
    def load(cls, path: str | Path, law: str | Law | None = None) -> Self:
        """Reads a card that ``save`` wrote.

        Args:
          path: of the card.
          law: needed where the card's law is not registered under its name, as one made in Python.

        Raises:
          UserError: the card or its draws are missing or damaged, or the law is unknown or has other parameters.
        """
        return cls.of(load_fit(path, law))

    @classmethod
    def of(cls, fit: _Fit) -> Self:
        """Adds these methods to a fit of ``analysis.fitting``."""
        return cls(fit.card, fit.law, fit.draws, fit.sigma_run, fit.sigma_stem)

    def optimal(
        self,
        *,
        flops: float | None = None,
        params: float | None = None,
        tokens: float | None = None,
        loss: float | None = None,
        level: float = 0.95,
        cost: Cost | None = None,
        force: bool = False,
    ) -> Allocation:
        """What to train: given one number the compute-optimal others, given two the loss of that cell.

        Args:
          flops: training FLOPs.
          params: N, counted as in the fitted runs.
          tokens: training tokens D.
          loss: a target, alone: the least compute that reaches it, with its N and D.
          level: confidence of the intervals.
          cost: C(N, D); by default that of the fitted runs, else 6 N D.
          force: answer with a warning instead of refusing.

        Returns:
          N, D, FLOPs, tokens per parameter and the loss of a new run there, each ``Interval(value, lo, hi)``; printing
          it also gives the assumptions.

        Raises:
          UserError: NOT_IDENTIFIED, BEYOND (over 100 times the largest fitted compute), UNSUPPORTED or INVALID.

        Example:
          >>> fit.optimal(flops=1e24).N.value  # doctest: +SKIP
          1.1e11
        """
        from analysis.decide.allocate import optimal
        from analysis.decide.target_loss import reaching
        from analysis.show.readable import ReadableAllocation

        if loss is not None and (flops, params, tokens) != (None, None, None):
            raise UserError("loss", loss, "is a target; give it alone", Code.CONFLICT)
        if loss is not None:
            answer = reaching(self, loss, level=level, cost=cost, force=force)
        else:
            answer = optimal(self, flops=flops, params=params, tokens=tokens, level=level, cost=cost, force=force)
        return ReadableAllocation(**msgspec.structs.asdict(answer))

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Plots runs and fitted law: loss against tokens, one line per size, or against the law's only column.

        Other figures are in ``analysis.plots``.

        Args:
          ax: axes to draw into; by default those of a new figure.

        Returns:
          The figure.
        """
        from analysis.show.plots import loss

        return loss(self, ax=ax)

    def to_frame(self) -> pd.DataFrame:
        """Parameters and derived numbers, one per row: ``value``, ``lo``, ``hi``, ``unit``, ``identified``, meaning."""
        from analysis.show.tables import to_frame

        return to_frame(self)

    def to_latex(self) -> str:
        """A LaTeX table (booktabs) of the numbers with their intervals, and a caption."""
        from analysis.show.tables import to_latex

        return to_latex(self)

    def to_python(self) -> str:
        """Python source of the law as a function of its columns, which needs only numpy."""
        from analysis.show.tables import to_python

        return to_python(self)


# long: most of it is the docstring
def load(  # wide: each keyword is one choice of the user, and a flag of the shell
    data: str | Path | pd.DataFrame,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    units: Units | None = None,
    keep: Collection[str] = (),
    best_of_cell: bool = False,
    law: str | Law | None = None,
    warmup: int | None = None,
    term: str | None = None,
    below_zero: bool = False,
) -> Runs:
    """Reads and checks runs that a law may be fitted to.

    Args:
      data: a DataFrame, a .csv, .tsv, .json, .jsonl or .parquet table of N, D, loss and perhaps C (else 6 ND),
        a work directory of this trainer, or a published set, ``reference:NAME``.
      where: a selection of rows such as ``"outlier == 0 and N > 1e6"``.
      dataset: which data set; sets are never mixed.
      n: which parameters are N: ``nonembedding``, ``total``, ``active`` in a work directory, or a column of a table.
      columns: the table's own names where they differ, such as ``{"loss": "val_loss"}``, or arithmetic of its columns,
        such as ``{"N": "transformer + head"}``.
      units: units of the table by the names N, D, C, loss or the law's: ``{"N": "M", "D": "B"}`` for millions and
        billions, ``{"C": "PF-days"}``, ``{"loss": "bits"}`` or ``"ppl"``, or a conversion factor.
      keep: marks in the table that leave out no row: ``status``, ``decayed``, ``role``.
      best_of_cell: fit only the lowest loss of rows with equal N and D, as after a sweep of learning rates.
      law: the law to fit; N and D are required only if it has them.
      warmup: for learning curves: steps of a linear rise from 0 to the first learning rate in the table.
      term: for a work directory: which loss term or metric to use.
      below_zero: losses may be zero or negative, as those of densities; fit them with ``objective="raw:auto"``.

    Returns:
      The rows, the rows dropped and why, and what the columns mean.

    Raises:
      UserError: no such path, an unusable table (row and column are named), or a selection without rows.
    """
    selected: Mapping[str, Any] = {
        "where": where,
        "dataset": dataset,
        "n": n,
        "columns": columns,
        "best_of_cell": best_of_cell,
        "law": law,
        "warmup": warmup,
        "below_zero": below_zero,
    }
    if isinstance(data, pd.DataFrame):
        if term is not None:
            raise UserError(
                "term", term, "is for work directories; name the column: columns={'loss': ...}", Code.UNSUPPORTED
            )
        return from_frame(data, units=units, keep=keep, **selected)
    if str(data).startswith("reference:"):
        for name, value in (("units", units), ("term", term), ("keep", keep)):
            if value:
                raise UserError(name, value, f"is not for {data}, which has its own; leave it out", Code.CONFLICT)
        from analysis import reference

        return reference.load(data, **selected)
    return _load(data, term=term, units=units, keep=keep, **selected)


# long: most of it is the docstring
def fit(  # wide: each keyword is one choice of the user, and a flag of the shell
    data: str | Path | pd.DataFrame | Runs,
    law: str | Law | None = None,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    units: Units | None = None,
    keep: Collection[str] = (),
    best_of_cell: bool = False,
    warmup: int | None = None,
    term: str | None = None,
    objective: str = "auto",
    level: float = 0.95,
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
    scheme: str = "auto",
    discrepancy: str | float = "auto",
    weights: str = "none",
) -> Fit:
    """Fits a law to a table of runs.

    Deterministic in ``seed``.

    Args:
      data: a DataFrame, a path or a published set as in ``load``, or what ``load`` returned.
      law: a name of ``analysis.laws.REGISTRY``, one with ties or a column (``chinchilla[beta=alpha]``, ``power:C``),
        ``FILE.py:NAME``, or a ``Law``; by default L = E + A N^-alpha + B D^-beta, or that of a published set.
      where, dataset, n, columns, units, keep, best_of_cell, warmup, term: as in ``load``.
      objective: ``auto`` (Huber adapted to the noise), ``squares``, ``huber:DELTA``, ``student`` or ``student:NU``;
        ``raw:`` before it for residuals of the loss itself instead of its logarithm, of losses below zero too.
      level: confidence of the intervals, from 0.5 to 1.
      fixed: ``{name: value}`` of the parameters to hold.
      priors: normal priors, ``{name: (mean, standard deviation)}``.
      scheme: of the intervals: ``auto``, ``likelihood-t``, ``profile-t``, ``delta-t``, ``bootstrap``,
        ``bootstrap-runs``, ``jackknife-t``, or ``all``.
      discrepancy: possible error of the law beyond the runs: ``auto`` (learned from real studies), ``off``, or a scale
        of log loss per e-fold.
      weights: ``none``, ``seeds`` or a column of precisions.

    Returns:
      The fit; printing it gives a summary.

    Raises:
      UserError: an unusable table, too few rows, invalid numbers, an unknown law or an invalid option.

    Example:
      >>> fit = analysis.fit(df, columns={"N": "params", "loss": "val_loss"}, units={"D": "B"})  # doctest: +SKIP
    """
    form, columns = _form(data, law, columns)
    reading: Mapping[str, Any] = {
        "where": where,
        "dataset": dataset,
        "n": n,
        "columns": columns,
        "units": units,
        "keep": keep,
        "best_of_cell": best_of_cell,
        "warmup": warmup,
        "term": term,
    }
    if isinstance(data, Runs):
        given = [name for name, value in reading.items() if value and (name, value) != ("n", "nonembedding")]
        if given:
            raise UserError(given[0], reading[given[0]], "is for `load`, which made these runs", Code.CONFLICT)
        runs = data
    else:
        runs = load(data, law=form, below_zero=objective.startswith("raw:"), **reading)
    made = _fit(
        runs,
        form,
        objective=objective,
        level=level,
        fixed=fixed,
        priors=priors,
        seed=seed,
        scheme=scheme,
        discrepancy=discrepancy,
        weights=weights,
    )
    return Fit.of(made)


def compare(
    *fits: _Fit,
    labels: Sequence[str] | None = None,
    level: float = 0.95,
    margins: Mapping[str, float] | None = None,
    axis: Axis = "auto",
    seed: int = 0,
) -> Comparison:
    """Differences of exponents between fits of different runs, and their pooled means.

    Args:
      fits: two or more.
      labels: their names in the result; by default the data set, law or path that distinguishes them.
      level: confidence of the intervals.
      margins: by quantity, the difference below which two are called equal.
      axis: of compute for equal loss: ``auto`` or ``bits_per_byte``.
      seed: of the draws.

    Returns:
      For each quantity that the fits share: its intervals, the difference of each pair with its outcome, and the
      pooled mean; printing it gives a table.

    Raises:
      UserError: TOO_FEW: fewer than two fits; CONFLICT: fits of the same runs or label; MIXED: counts of N that differ.
    """
    from analysis.decide.compare import Member
    from analysis.decide.compare import compare as _compare
    from analysis.show.readable import ReadableComparison

    names = _labels(fits) if labels is None else list(labels)
    if len(names) != len(fits):
        raise UserError("labels", ", ".join(names), f"give one for each of the {len(fits)} fits")
    members = [Member(name, fit) for name, fit in zip(names, fits)]
    found = _compare(members, level=level, margins=margins, axis=axis, seed=seed)
    return ReadableComparison(**msgspec.structs.asdict(found))


def gate(
    base: str | Path | pd.DataFrame | Runs,
    variant: str | Path | pd.DataFrame | Runs,
    *,
    labels: Sequence[str] = ("base", "variant"),
    margin: float = 0.05,
    level: float = 0.95,
    floor: float | None = None,
) -> Gate:
    """How much compute a change saves: the runs of a variant against the law of its base.

    Of a study with N and D the compute-optimal runs are used: the minima of its isoFLOP budgets, or the runs that no
    other beats at as much compute; of a table with C and loss all.

    Args:
      base: a DataFrame, a path or a published set as in ``load``, or what ``load`` returned; four runs or more.
      variant: likewise, three runs or more, of the same loss on the same data.
      labels: the names of both in the result.
      margin: smallest change of the multiplier that counts, such as 0.05.
      level: confidence of the intervals.
      floor: irreducible loss of the base in the unit of its losses, where it is known; by default it is pinned by
        forecasts of the dearer runs from the cheaper.

    Returns:
      The compute multiplier (compute at which the base reaches the variant's loss, over the variant's) with its
      interval and outcome, the base's law, and the power of the gate; printing it gives the text.

    Raises:
      UserError: MIXED: losses, data or compute that must not be compared; CONFLICT: the same runs twice; TOO_FEW runs;
        NOT_IDENTIFIED: losses of the base that do not fall; BEYOND: a loss at or below the floor; INVALID options.

    Example:
      >>> analysis.gate("base.csv", "change.csv").multiplier  # doctest: +SKIP
      Interval(value=1.29, lo=1.26, hi=1.32, unit='')
    """
    from analysis.decide.gate import gate as _gate
    from analysis.show.readable import ReadableGate

    if len(labels) != 2:
        raise UserError("labels", ", ".join(labels), "give two, of the base and of the variant")
    sides = [_side(label, data) for label, data in zip(labels, (base, variant))]
    found = _gate(*sides, margin=margin, level=level, floor=floor)
    return ReadableGate(**msgspec.structs.asdict(found))


def plan_gate(
    base: str | Path | pd.DataFrame | Runs,
    budgets: int | Sequence[float] = 3,
    *,
    margin: float = 0.05,
    level: float = 0.95,
    floor: float | None = None,
) -> GatePlan:
    """What a gate against this base will be able to tell, before the variant is trained.

    Args:
      base: as in ``gate``.
      budgets: compute in FLOPs of each planned run of the variant, or their number, at the base's dearest budgets.
      margin, level, floor: as in ``gate``.

    Returns:
      The base's law and the power: the probability that a change which saves the margin shows it, and the multipliers
      that are told with a probability of 80 %; printing it gives the text.

    Raises:
      UserError: as ``gate``.
    """
    from analysis.decide.gate import plan
    from analysis.show.readable import ReadableGatePlan

    found = plan(_side("base", base), budgets, margin=margin, level=level, floor=floor)
    return ReadableGatePlan(**msgspec.structs.asdict(found))


def _side(label: str, data: str | Path | pd.DataFrame | Runs) -> Side:
    """Runs to gate with, of which only C and the loss must be known."""
    from analysis.decide.gate import LAW, Side

    return Side(label, data if isinstance(data, Runs) else load(data, law=LAW))


def _labels(fits: Sequence[_Fit]) -> list[str]:
    """The shortest names that distinguish the fits."""
    stems = [fit.data.dataset or Path(fit.data.source).stem for fit in fits]
    whole = [f"{fit.law.name} of {stem}" for fit, stem in zip(fits, stems)]
    for names in (stems, [fit.law.name for fit in fits], whole):
        if len(set(names)) == len(fits):
            return names
    return [f"{name} {i + 1}" for i, name in enumerate(whole)]


def _form(
    data: object, law: str | Law | None, columns: Mapping[str, str] | None
) -> tuple[Law, Mapping[str, str] | None]:
    """The law to fit and the columns to read; a law of x is put in the column that ``columns`` calls x."""
    if law is None and isinstance(data, str | Path) and str(data).startswith("reference:"):
        from analysis import reference

        law = reference.source(str(data)).law
    form = laws.default() if law is None else laws.get(law)
    return (form, None) if columns is None else laws.placed(form, columns)
