"""``fit`` turns a table of runs and a law into a card with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import pandas as pd

from analysis import card as cards
from analysis import laws
from analysis.card import FitCard
from analysis.check import approaches, diagnose, replicates
from analysis.check import discrepancy as beyond_range
from analysis.engine.estimate import Estimate, Objective, estimate
from analysis.engine.estimate import objective as parse_objective
from analysis.engine.inference import BY_GROUP, SCHEMES, infer
from analysis.engine.uncertainty import Inference
from analysis.fitting import below_zero
from analysis.fitting.fitted import Fit
from analysis.fitting.parts import (
    Numbers,
    array_columns,
    data_of,
    evaluation_of,
    floors_of,
    influence_of,
    noise_of,
    numbers_of,
    objective_of,
    rows_of,
    scope_of,
    throughput_of,
)
from analysis.laws import Law, published
from analysis.table.frame import Runs
from scaling.errors import Code, UserError, choose

Array = np.ndarray
DRAWS = 1000
ABOVE = 0.05  # of the smallest loss: noise is less


# wide: each keyword is one choice of the user and a command-line flag; long: half of it is the text of help()
def fit(
    runs: Runs,
    law: str | Law | None = None,
    *,
    objective: str = "auto",
    level: float = 0.95,
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
    scheme: str = "auto",
    discrepancy: str | float = "auto",
    weights: str = "none",
) -> Fit:
    """Fits ``law`` to the rows of ``runs.table`` (columns of the law, ``loss``, optional stem, seed, epochs ...).

    Deterministic in ``seed``.

    Args:
      law: a name or a ``Law``; by default ``laws.default``. A law of x is fitted in the only column that x can be.
      objective: auto (Huber adapted to the noise), squares, huber:<delta>, student or student:<nu>; raw: before it for
        residuals of the loss itself.
      level: confidence of the intervals, from 0.5 to 1.
      fixed: {name: value} of the parameters to hold.
      priors: normal priors, {name: (mean, standard deviation)}, on exponents, scales and the floor.
      scheme: auto, or likelihood-t, profile-t, delta-t, bootstrap, bootstrap-runs, jackknife-t; ``all`` is auto, with
        the intervals of the other schemes beside it on the card.
      discrepancy: auto (learned from real studies), off, or a scale of log loss per e-fold beyond the runs.
      weights: none, seeds (``replicates.weights``) or a column of precisions.

    Raises:
      UserError: too few rows or values, invalid numbers, rows that must not be fitted, or an invalid option.
    """
    form = _in_column(laws.default() if law is None else laws.get(law), runs.table)
    kind = parse_objective(objective)
    runs, offset = below_zero.raised(runs, form, kind)
    plan = _Plan(
        form=form,
        kind=kind,
        fixed=below_zero.held(form, {name: float(value) for name, value in (fixed or {}).items()}, offset),
        priors={
            name: (float(mean) + (offset if name == form.floor else 0.0), float(sd))
            for name, (mean, sd) in (priors or {}).items()
        },
        level=level,
        seed=seed,
        scheme=scheme,
        discrepancy=beyond_range.term(form, discrepancy),
        offset=offset,
    )
    table = _checked(runs, form, plan.fixed)
    loss = table["loss"].to_numpy(dtype=np.float64)
    response = loss / loss.mean() if plan.kind.raw else np.log(loss)
    w, weighing = replicates.weights(weights, response, table, form.columns)
    point = estimate(form, table, loss, plan.kind, fixed=plan.fixed, priors=plan.priors, w=w)
    at = plan.infer(point, table, "auto" if scheme == "all" else scheme)
    numbers = numbers_of(form, at, table, level, plan.discrepancy)
    subject = diagnose.Subject(
        point=point,
        inference=at,
        y=point.y,
        table=table,
        level=level,
        noise=noise_of(point, at, table),
        influence=influence_of(point, at, table),
        intervals=numbers.intervals,
    )
    card = _card(plan, runs, subject, numbers, w)
    card = msgspec.structs.replace(card, weights=weighing)
    made = Fit(card, form, at.theta, at.sigma, at.sigma_stem)
    if (differs := approaches.disagreement(runs, made)) is not None:
        made = dataclasses.replace(made, card=msgspec.structs.replace(card, warnings=(*card.warnings, differs)))
    return below_zero.moved(made, -offset) if offset else made


def _card(plan: _Plan, runs: Runs, fit: diagnose.Subject, numbers: Numbers, w: Array | None) -> FitCard:
    """The card of a fit, before the account of its weights is added."""
    form, point, at, table = plan.form, fit.point, fit.inference, fit.table
    return FitCard(
        law=form.name,
        formula=form.formula,
        source=form.source,
        params=numbers.params,
        fixed=plan.fixed,
        priors=plan.priors,
        derived=numbers.derived,
        scheme=at.described(plan.scheme, plan.level),
        objective=objective_of(point, at, table),
        weights=None,
        evaluation=evaluation_of(table),
        optima=point.optima,
        warnings=(*runs.warnings, *diagnose.left_out(runs.dropped, table, form), *_with_floors(fit)),
        conventions=runs.conventions,
        data=data_of(runs),
        scope=scope_of(table),
        noise=fit.noise,
        discrepancy=plan.discrepancy,
        throughput=throughput_of(table),
        runs=rows_of(form, at, table, w),
        influence=fit.influence,
        # Records of this project name their own tokenizer; a table may hold the published runs themselves.
        published=published.beside(
            form, numbers.intervals, same_loss=runs.conventions.origin != "records" and not plan.offset
        ),
        draws=None,
        seed=plan.seed,
        schemes=plan.schemes(point, at, table, numbers) if plan.scheme == "all" else {},
    )


def _with_floors(fit: diagnose.Subject) -> list[cards.AnyWarning]:
    """Every warning of a fit. One of misfit says what floors other laws find that fit the rows as well."""
    return [
        msgspec.structs.replace(w, floors=floors_of(fit)) if isinstance(w, cards.Misfit) else w
        for w in diagnose.diagnose(fit)
    ]


@dataclass(frozen=True)
class _Plan:
    """The checked options of a fit."""

    form: Law
    kind: Objective
    fixed: dict[str, float]
    priors: dict[str, tuple[float, float]]
    level: float
    seed: int
    scheme: str
    discrepancy: cards.Discrepancy
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise UserError("level", self.level, "give a probability from 0.5 to 1, such as 0.95")
        if self.seed < 0:
            raise UserError("seed", self.seed, "must be zero or more")
        if self.scheme not in (*SCHEMES, "all"):
            raise UserError("scheme", self.scheme, choose(self.scheme, (*SCHEMES, "all")), Code.UNKNOWN)

    def infer(self, point: Estimate, table: pd.DataFrame, scheme: str) -> Inference:
        return infer(point, point.y, table, draws=DRAWS, seed=self.seed, scheme=scheme, level=self.level)

    def schemes(
        self, point: Estimate, at: Inference, table: pd.DataFrame, numbers: Numbers
    ) -> dict[str, cards.SchemeIntervals]:
        """The intervals of every scheme that the design allows, the chosen one first."""
        own = cards.SchemeIntervals(scheme=at.described("all", self.level), intervals=numbers.intervals)
        schemes = {at.scheme: own}
        grouped = at.groups is not None and len(at.groups.names) > 2
        for name in SCHEMES[1:]:
            if name not in schemes and (grouped or name not in BY_GROUP):
                other = self.infer(point, table, name)
                intervals = numbers_of(self.form, other, table, self.level).intervals
                schemes[name] = cards.SchemeIntervals(scheme=other.described(name, self.level), intervals=intervals)
        return schemes


def _in_column(law: Law, table: pd.DataFrame) -> Law:
    """A law of x, in the only column of the table that x can be; unchanged where there is none or more than one."""
    if law.columns != ("x",) or "x" in table:
        return law
    known = [c for c in ("N", "D", "C") if c in table]
    others = [c for c in table if table[c].dtype.kind in "fiu" and c not in ("seed", "loss_se")]
    others = [c for c in others if not table[c].equals(table["loss"])]  # the loss, by either name
    columns = known or others
    return law.in_column(str(columns[0])) if len(columns) == 1 else law


def _checked(runs: Runs, law: Law, fixed: Mapping[str, float]) -> pd.DataFrame:
    """The rows to fit. UserError names the row and column of a bad number."""
    table = runs.table.reset_index(drop=True)
    for column in (*law.columns, "loss"):
        if column not in table:
            how = f"name it with --columns={column}=COLUMN, or arithmetic of columns"
            how += ", such as U=D/epochs" if column == "U" and "epochs" in table else ""
            hint = f"; {how}" if column != "x" else f"; say which of them is x, such as {law.name}:C"
            remedy = f"the table has {', '.join(map(str, table.columns))}{hint}"
            raise UserError("column", column, remedy, Code.MISSING)
        if column not in array_columns(table):
            _check_column(table, column, law)
    same = next((c for c in law.columns if c in table and table[c].equals(table["loss"])), None)
    if same is not None:
        remedy = f"holds what law {law.name} is fitted to; say which column is which with --columns=loss=COLUMN"
        raise UserError("column", same, remedy, Code.CONFLICT)
    if "role" in table:
        for role in ("holdout", "stem"):
            if bool((table["role"] == role).any()):
                remedy = "held-out and undecayed rows are never fitted; select other rows"
                raise UserError("role", role, remedy, Code.CONFLICT)
    if len(diagnose.levels(table["loss"], 1e-12)) < 2:
        raise UserError("loss", f"{table['loss'].iloc[0]} in every row", "there is nothing to fit", Code.TOO_FEW)
    held, least = fixed.get(law.irreducible or ""), float(np.min(table["loss"]))
    if held is not None and least > 0 and held > (1 + ABOVE) * least:
        remedy = f"holds the irreducible loss above the smallest loss, {least:.4g}; give what no run can be below"
        raise UserError("fixed", f"{law.irreducible}={held:g}", remedy, Code.CONFLICT)
    P = len(law.coordinates) - len(fixed)
    if P < 1:
        remedy = f"leaves nothing of law {law.name} to fit; leave a parameter free"
        raise UserError("fixed", ", ".join(fixed), remedy, Code.CONFLICT)
    if len(table) < P + 1:
        remedy = f"law {law.name} has {P} free parameters and needs {P + 1} runs or more"
        raise UserError("rows", len(table), remedy, Code.TOO_FEW)
    for column in law.columns:
        if column not in (*array_columns(table), *law.steady) and len(diagnose.levels(table[column], 1e-6)) < 2:
            what = f"{table[column].iloc[0]} in every row"
            raise UserError(column, what, "vary it, or fit another law", Code.TOO_FEW)
    return table


def _check_column(table: pd.DataFrame, column: str, law: Law) -> None:
    values = np.asarray(pd.to_numeric(pd.Series(table[column]), errors="coerce"), dtype=np.float64)
    bad = ~(np.isfinite(values) & ((values > 0) | (column in law.signed)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        name = table["run"].iloc[row] if "run" in table else row
        raise UserError(f"{column} of row {name}", table[column].iloc[row], "a positive finite number is needed")
