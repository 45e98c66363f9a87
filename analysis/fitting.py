"""``fit``: a table of runs and a law in, a card with honest intervals out. The card holds all that a reader needs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from analysis import card as cards
from analysis import laws
from analysis.card import AnyWarning, Derived, FitCard, Interval, finite
from analysis.check import approaches, diagnose, replicates
from analysis.check import discrepancy as beyond_range
from analysis.check.influence import influence, of_curves
from analysis.engine.estimate import Estimate, Objective, estimate
from analysis.engine.estimate import objective as parse_objective
from analysis.engine.inference import BY_GROUP, SCHEMES, Inference, infer
from analysis.laws import Law, published
from scaling.errors import Code, UserError
from scaling.records.typed import read_bytes, read_typed, write_atomic

if TYPE_CHECKING:
    from analysis.table.runs import Runs

Array = np.ndarray
DRAWS = 1000
AGAIN = "write one with `scaling fit`"


class Prediction(NamedTuple):
    """Losses of n cells, each (n,): the median of the draws' laws, and the ends of a central interval."""

    value: Array
    lo: Array
    hi: Array


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A fitted law: its card, and draws of what the card has intervals of. Immutable.

    Attributes:
      card: every number, with what was done and what is wrong.
      law: the formula.
      draws: (S, P), parameters in the order of ``law.names``.
      sigma_run, sigma_stem: (S,), the noise of log loss that goes with each draw.
    """

    card: FitCard
    law: Law
    draws: Array
    sigma_run: Array
    sigma_stem: Array

    def __post_init__(self) -> None:
        for name in ("draws", "sigma_run", "sigma_stem"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.params.items())
        return f"Fit({self.law.name}: {values}; {len(self.card.runs)} rows)"

    @property
    def params(self) -> dict[str, float]:
        """The estimate."""
        return {name: cell.value for name, cell in self.card.params.items()}

    @property
    def intervals(self) -> dict[str, Interval]:
        """Parameters and, where there is an optimum, a and b."""
        return self.card.intervals

    @property
    def derived(self) -> Derived:
        return self.card.derived

    @property
    def level(self) -> float:
        return self.card.level

    @property
    def warnings(self) -> tuple[AnyWarning, ...]:
        return self.card.warnings

    @property
    def noise(self) -> cards.Noise:
        return self.card.noise

    @property
    def conventions(self) -> cards.Conventions:
        return self.card.conventions

    @property
    def data(self) -> cards.Data:
        return self.card.data

    @property
    def scope(self) -> cards.Scope:
        return self.card.scope

    @property
    def discrepancy(self) -> cards.Discrepancy:
        return self.card.discrepancy

    @property
    def seed(self) -> int:
        return self.card.seed

    @property
    def theta(self) -> Array:
        """The estimate as an array (P,)."""
        return self.law.vector(self.params)

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the fitted rows."""
        return self.card.runs.run

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Columns of the fitted rows, each (n,); not-a-number where a row has none."""
        found = {c: np.array(v, dtype=np.float64) for c, v in self.card.runs.columns.items()}
        for values in found.values():
            values.flags.writeable = False
        return found

    def samples(self, columns: Mapping[str, Any], *, new_run: bool = True, discrepancy: bool = True) -> Array:
        """Losses (S, n) at columns of n rows: each draw's law, and with ``new_run`` the noise of an untried run.

        Beyond the fitted range the law itself may be wrong: ``discrepancy`` adds the card's term for that (nothing
        within the range). Rows that name one ``stem`` share a stem effect; without that column every row has its own.
        The draws carry heavy tails where runs are few. Deterministic in the fit's seed.
        """
        losses = self.law.predict(self.draws, columns)
        if discrepancy and self.discrepancy.k > 0:
            x = np.broadcast_to(beyond_range.beyond(self.scope, columns), losses.shape[1:])
            rng = np.random.default_rng([self.seed, 2])
            losses = losses * np.exp(beyond_range.deviations(self.discrepancy, x, len(losses), rng))
        if not new_run:
            return losses
        rng = np.random.default_rng([self.seed, 1])
        noise = rng.standard_normal(losses.shape) * self.sigma_run[:, None]
        stems = columns.get("stem")
        codes = np.arange(losses.shape[1]) if stems is None else pd.factorize(np.asarray(stems))[0]
        shared = rng.standard_normal((len(losses), losses.shape[1]))[:, codes]
        return losses * np.exp(noise + shared * self.sigma_stem[:, None])

    def predict(
        self,
        columns: Mapping[str, Any] | None = None,
        *,
        level: float = 0.95,
        new_run: bool = True,
        discrepancy: bool = True,
        **named: Any,
    ) -> Prediction:
        """Losses with central intervals of ``samples``; one distribution gives all three numbers.

        The law at the estimate may lie elsewhere in it where draws are skewed.

        Args:
          columns: of n rows; or by keyword, numbers or arrays: ``fit.predict(N=1e9, D=2e10)``.
          level: of the interval.

        Raises:
          UserError: a column that the law needs and lacks, or a value that it cannot take.
        """
        cells: dict[str, Any] = {**(columns or {}), **{name: np.atleast_1d(value) for name, value in named.items()}}
        drawn = self.samples(cells, new_run=new_run, discrepancy=discrepancy)
        lo, hi = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        value = np.median(self.law.predict(self.draws, cells), axis=0)
        return Prediction(value, np.minimum(lo, value), np.maximum(hi, value))

    def spread(self, quantity: Callable[[Array], Array], level: float) -> Interval:
        """Median and central interval of a function of parameters, (S, P) -> (S,), over the draws."""
        drawn = quantity(self.draws)
        value, lo, hi = (float(np.quantile(drawn, q)) for q in (0.5, (1 - level) / 2, (1 + level) / 2))
        return Interval(value=value, lo=lo, hi=hi)

    def reduced(self, law: str | Law) -> Fit:
        """This fit as one of a law whose parameters are among its own: ``lr_loss`` at its best rate is chinchilla."""
        form = laws.get(law)
        params = {name: self.card.params[name] for name in form.names}
        card = msgspec.structs.replace(self.card, law=form.name, params=params)
        draws = self.draws[:, [self.law.index(name) for name in form.names]]
        return type(self)(card, form, draws, self.sigma_run, self.sigma_stem)

    def with_discrepancy(self, term: cards.Discrepancy) -> Fit:
        """This fit with another term for how wrong the law may be beyond its runs (``check.discrepancy.term``)."""
        card = msgspec.structs.replace(self.card, discrepancy=term)
        return type(self)(card, self.law, self.draws, self.sigma_run, self.sigma_stem)

    def save(self, path: str | Path) -> Fit:
        """Writes the draws beside ``path`` (named by their hash), then the card.

        Returns:
          This fit with a card that names the draws.

        Raises:
          UserError: the directory cannot be written or the disk is full.
        """
        path = Path(path)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, draws=self.draws, sigma_run=self.sigma_run, sigma_stem=self.sigma_stem)
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        sidecar = path.with_name(f"{path.stem}.{digest[:12]}.npz")
        write_atomic(sidecar, data)
        card = msgspec.structs.replace(self.card, draws=cards.Draws(file=sidecar.name, sha256=digest))
        write_atomic(path, cards.encode(card))
        return type(self)(card, self.law, self.draws, self.sigma_run, self.sigma_stem)


def read_card(path: str | Path) -> FitCard:
    """A saved card.

    Raises:
      UserError: MISSING, or DAMAGED where the file is no fit card of this version.
    """
    try:
        return read_typed(path, FitCard, field="fit", remedy=AGAIN)
    except FileNotFoundError:
        raise UserError("fit", path, f"there is no such card; {AGAIN}", Code.MISSING) from None


def load_fit(path: str | Path, law: str | Law | None = None) -> Fit:
    """The fit of a saved card.

    Args:
      law: where the card's own cannot be found by its name.

    Raises:
      UserError: the card or its sidecar is missing, damaged or not the one that was saved, or its law is not found or
        another one.
    """
    path = Path(path)
    card = read_card(path)
    form = _law_of(card, path, law)
    if card.draws is None:
        raise UserError("fit", path, f"names no draws; {AGAIN}", Code.DAMAGED)
    sidecar = path.with_name(card.draws.file) if Path(card.draws.file).name == card.draws.file else None
    if sidecar is None:
        raise UserError("draws", card.draws.file, "the sidecar must lie beside the card; fit again", Code.DAMAGED)
    try:
        data = read_bytes(sidecar)
    except FileNotFoundError:
        raise UserError("draws", sidecar, "the sidecar must lie beside the card; fit again", Code.MISSING) from None
    if hashlib.sha256(data).hexdigest() != card.draws.sha256:
        raise UserError("draws", sidecar, "the file is not the one that the card names; fit again", Code.CHANGED)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            draws, run, stem = (arrays[name] for name in ("draws", "sigma_run", "sigma_stem"))
            made = Fit(card, form, draws, run, stem)
    except (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError("draws", sidecar, f"it cannot be read ({error}); fit again", Code.DAMAGED) from None
    S = len(made.sigma_run)
    if made.draws.shape != (S, len(form.names)) or made.sigma_stem.shape != (S,):
        raise UserError("draws", sidecar, "its arrays have other shapes; fit again", Code.DAMAGED)
    return made


def _law_of(card: FitCard, path: Path, law: str | Law | None) -> Law:
    try:
        form = laws.get(card.law) if law is None else laws.get(law)
    except UserError as error:
        if law is not None or error.code is not Code.UNKNOWN:
            raise
        raise UserError("law", card.law, "give the Law: load_fit(path, law=...)", Code.MISSING) from error
    if form.names != tuple(card.params):
        remedy = f"has parameters {', '.join(form.names)}; the card has {', '.join(card.params)}"
        raise UserError("law", form.name, remedy, Code.CONFLICT)
    return form


# --- fitting


def fit(  # ten keywords: each is one choice of the user, and a flag of the shell
    runs: Runs,
    law: str | Law = "chinchilla",
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
      law: a name or a ``Law``. One of x is fitted in the only column that x can be.
      objective: auto (Huber adapted to the noise), squares, huber:<delta>, student or student:<nu>; raw: before it for
        residuals of the loss itself.
      level: of the intervals, from 0.5 to 1.
      fixed: parameters that are held, and at which values.
      priors: normal ones, {name: (mean, standard deviation)}, on exponents, scales and the floor.
      scheme: auto, or likelihood-t, profile-t, delta-t, bootstrap, bootstrap-runs, jackknife-t; ``all`` is auto with
        the intervals of the others on the card beside it.
      discrepancy: auto (learned over real studies), off, or a scale of log loss per e-fold beyond the runs.
      weights: none, seeds (``replicates.weights``) or a column of precisions.

    Raises:
      UserError: too few rows or values, bad numbers, rows that may not be fitted, or a wrong option.
    """
    plan = _Plan(
        form=_in_column(laws.get(law), runs.table),
        kind=parse_objective(objective),
        fixed={name: float(value) for name, value in (fixed or {}).items()},
        priors={name: (float(mean), float(sd)) for name, (mean, sd) in (priors or {}).items()},
        level=level,
        seed=seed,
        scheme=scheme,
    )
    form = plan.form
    term = beyond_range.term(form.name, discrepancy)
    table = _checked(runs, form, plan.fixed)
    loss = table["loss"].to_numpy(dtype=np.float64)
    response = loss / loss.mean() if plan.kind.raw else np.log(loss)
    w, weighing = replicates.weights(weights, response, table, form.columns)
    point = estimate(form, table, loss, plan.kind, fixed=plan.fixed, priors=plan.priors, w=w)
    at = plan.infer(point, table, "auto" if scheme == "all" else scheme)
    numbers = _numbers(form, at, table, level)
    subject = diagnose.Subject(
        point=point,
        inference=at,
        y=point.y,
        table=table,
        level=level,
        noise=_noise(point, at, table),
        influence=_influence(point, at, table),
        intervals=numbers.intervals,
    )
    warnings = (*runs.warnings, *diagnose.left_out(runs.dropped, table, form), *diagnose.diagnose(subject))
    card = FitCard(
        law=form.name,
        formula=form.formula,
        source=form.source,
        params=numbers.params,
        fixed=plan.fixed,
        priors=plan.priors,
        derived=numbers.derived,
        scheme=at.described(scheme, level),
        objective=_objective(point, at, table),
        weights=weighing,
        evaluation=_evaluation(table),
        optima=point.optima,
        warnings=warnings,
        conventions=runs.conventions,
        data=_data(runs),
        scope=_scope(table),
        noise=subject.noise,
        discrepancy=term,
        throughput=_throughput(table),
        runs=_rows(form, at, table, w),
        influence=subject.influence,
        # The tokenizer of records of this house is their own; a table may hold the published runs themselves.
        published=published.beside(form, numbers.intervals, same_loss=runs.conventions.origin != "records"),
        draws=None,
        seed=seed,
        schemes=plan.schemes(point, at, table, numbers) if scheme == "all" else {},
    )
    made = Fit(card, form, at.theta, at.sigma, at.sigma_stem)
    differs = approaches.disagreement(runs, made)
    if differs is None:
        return made
    return dataclasses.replace(made, card=msgspec.structs.replace(card, warnings=(*warnings, differs)))


@dataclass(frozen=True)
class _Numbers:
    """Parameters and derived numbers with the intervals of one scheme."""

    params: dict[str, Interval]
    derived: Derived

    @property
    def intervals(self) -> dict[str, Interval]:
        pair = (("a", self.derived.a), ("b", self.derived.b))
        return {**self.params, **{name: cell for name, cell in pair if cell is not None}}


@dataclass(frozen=True)
class _Plan:
    """What is asked of a fit, checked."""

    form: Law
    kind: Objective
    fixed: dict[str, float]
    priors: dict[str, tuple[float, float]]
    level: float
    seed: int
    scheme: str

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise UserError("level", self.level, "give a probability from 0.5 to 1, such as 0.95")
        if self.seed < 0:
            raise UserError("seed", self.seed, "must be zero or more")
        if self.scheme not in (*SCHEMES, "all"):
            raise UserError("scheme", self.scheme, f"choose one of {', '.join(SCHEMES)}, all", Code.UNKNOWN)

    def infer(self, point: Estimate, table: pd.DataFrame, scheme: str) -> Inference:
        return infer(point, point.y, table, draws=DRAWS, seed=self.seed, scheme=scheme, level=self.level)

    def schemes(
        self, point: Estimate, at: Inference, table: pd.DataFrame, numbers: _Numbers
    ) -> dict[str, cards.SchemeIntervals]:
        """The intervals of every scheme that the design allows, the one that was chosen first."""
        own = cards.SchemeIntervals(scheme=at.described("all", self.level), intervals=numbers.intervals)
        found = {at.scheme: own}
        grouped = at.groups is not None and len(at.groups.names) > 2
        for name in SCHEMES[1:]:
            if name not in found and (grouped or name not in BY_GROUP):
                other = self.infer(point, table, name)
                made = _numbers(self.form, other, table, self.level).intervals
                found[name] = cards.SchemeIntervals(scheme=other.described(name, self.level), intervals=made)
        return found


def _in_column(law: Law, table: pd.DataFrame) -> Law:
    """A law of x in the one column of the table that x can be; as it is where there is no such column or several."""
    if law.columns != ("x",) or "x" in table:
        return law
    known = [c for c in ("N", "D", "C") if c in table]
    others = [c for c in table if table[c].dtype.kind in "fiu" and c not in ("seed", "loss_se")]
    others = [c for c in others if not table[c].equals(table["loss"])]  # the loss, under this name or the table's own
    found = known or others
    return laws.single(law, str(found[0])) if len(found) == 1 else law


def _checked(runs: Runs, law: Law, fixed: Mapping[str, float]) -> pd.DataFrame:
    """The rows to fit. UserError names the row and column of a bad number."""
    table = runs.table.reset_index(drop=True)
    for column in (*law.columns, "loss"):
        if column not in table:
            hint = "" if column != "x" else f"; say which of them is x, such as {law.name}:C"
            remedy = f"the table has {', '.join(map(str, table.columns))}{hint}"
            raise UserError("column", column, remedy, Code.MISSING)
        if column not in _arrays(table):
            _check_column(table, column, law)
    if "role" in table:
        for role in ("holdout", "stem"):
            if bool((table["role"] == role).any()):
                remedy = "held-out and undecayed rows are never fitted; select other rows"
                raise UserError("role", role, remedy, Code.CONFLICT)
    if len(diagnose.levels(table["loss"], 1e-12)) < 2:
        raise UserError("loss", f"{table['loss'].iloc[0]} in every row", "there is nothing to fit", Code.TOO_FEW)
    P = len(law.coordinates) - len(fixed)
    if P < 1:
        remedy = f"leaves nothing of law {law.name} to fit; leave a parameter free"
        raise UserError("fixed", ", ".join(fixed), remedy, Code.CONFLICT)
    if len(table) < P + 1:
        remedy = f"law {law.name} has {P} free parameters and needs {P + 1} runs or more"
        raise UserError("rows", len(table), remedy, Code.TOO_FEW)
    for column in law.columns:
        if column not in (*_arrays(table), *law.steady) and len(diagnose.levels(table[column], 1e-6)) < 2:
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


def _arrays(table: pd.DataFrame) -> set[str]:
    """Columns whose cells hold an array, as a law of whole schedules has them."""
    return {str(c) for c in table if len(table) and isinstance(table[c].iloc[0], np.ndarray)}


# --- parts of a card


def _numbers(law: Law, at: Inference, table: pd.DataFrame, level: float) -> _Numbers:
    value, draws, tail = at.theta_hat, at.theta, [(1 - level) / 2, (1 + level) / 2]
    params = {}
    for i, p in enumerate(law.params):
        lo, hi = at.profiled.get(p.name) or np.quantile(draws[:, i], tail)
        params[p.name] = _interval(value[i], lo, hi, p.unit)
    return _Numbers(params, _derived(at, table, tail))


def _interval(value: float, lo: float, hi: float, unit: str) -> Interval:
    """One number with its interval, which holds it; None where an end is infinite."""
    low, high = (finite(end) if abs(end) < 1e290 else None for end in (min(lo, value), max(hi, value)))
    return Interval(value=float(value), lo=low, hi=high, unit=unit)


def _derived(at: Inference, table: pd.DataFrame, tail: list[float]) -> Derived:
    """a, b and tokens per parameter at three budgets from the largest compute on, C = 6 N D."""
    law, value, draws = at.surface.law, at.theta_hat, at.theta
    centre, spread = law.exponents(value), law.exponents(draws)
    if centre is None or spread is None:
        return Derived()
    pair: dict[str, Interval] = {}
    for name in ("a", "b"):
        seen = spread[name][np.isfinite(spread[name])]
        lo, hi = at.profiled.get(name) or (np.quantile(seen, tail) if len(seen) else (-math.inf, math.inf))
        if np.isfinite(centre[name][0]):
            pair[name] = _interval(centre[name][0], lo, hi, "exponent")
    top = math.floor(math.log10(float(np.max(6 * np.asarray(table["N"] * table["D"])))) + 1e-9)
    budgets = np.array([10.0 ** (top + k) for k in range(3)])
    n, d = law.optimum(value, budgets)
    ns, ds = law.optimum(draws, budgets)
    with np.errstate(all="ignore"):
        ratio, ratios = (d / n)[0], ds / ns
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    cells = {}
    for j, c in enumerate(budgets):
        lo, hi = np.quantile(ratios[:, j], tail, method="nearest")
        if np.isfinite(ratio[j]):
            cells[f"{c:.0e}"] = _interval(ratio[j], lo, hi, "tokens/parameter")
    return Derived(a=pair.get("a"), b=pair.get("b"), tokens_per_parameter=cells)


def _objective(point: Estimate, at: Inference, table: pd.DataFrame) -> cards.Objective:
    fitted = np.atleast_1d(at.surface.law.predict(at.theta_hat, table))
    residual = np.log(table["loss"].to_numpy(dtype=np.float64)) - np.log(fitted)
    rms = float(np.sqrt(np.mean(residual**2)))
    name = point.objective.name
    return cards.Objective(name=name, delta=finite(point.delta), value=point.value, rms_log_residual=rms)


def _noise(point: Estimate, at: Inference, table: pd.DataFrame) -> cards.Noise:
    error, lack = replicates.pure_error(point.y, table, point)
    return cards.Noise(
        sigma_run=at.sigma_hat,
        sigma_stem=at.sigma_hat * math.sqrt(at.rho),
        sigma_stem_hi=float(np.quantile(at.sigma_stem, 0.95)),
        groups=None if at.groups is None else cards.Groups(kind=at.groups.kind, count=len(at.groups.names)),
        pure_error=error,
        lack_of_fit=lack,
    )


def _influence(point: Estimate, at: Inference, table: pd.DataFrame) -> tuple[cards.Influence, ...]:
    if point.surface.law.curve:
        return of_curves(point, point.y, at)
    return influence(point, point.y, diagnose.names_of(table))


def _evaluation(table: pd.DataFrame) -> cards.EvaluationError | None:
    """The evaluation set's own error: common to all runs, so it moves the floor once and weighs no run."""
    if "loss_se" not in table:
        return None
    se = np.asarray(table["loss_se"], dtype=np.float64)
    se = se[np.isfinite(se)]
    return cards.EvaluationError(se=float(np.median(se))) if len(se) else None


def _data(runs: Runs) -> cards.Data:
    about = {"sha256": runs.sha256, "source": str(runs.source), "dataset": runs.dataset}
    return cards.Data(rows=len(runs), dropped=tuple(runs.dropped), **about)


def _scope(table: pd.DataFrame) -> cards.Scope:
    ends: dict[str, float] = {}
    for c in ("C", "N", "D"):
        if c in table:
            values = np.asarray(table[c], dtype=np.float64)
            ends[f"{c}_min"], ends[f"{c}_max"] = float(values.min()), float(values.max())
    if "N" in table and "D" in table:
        ends["ND_max"] = float(np.max(np.asarray(table["N"], np.float64) * np.asarray(table["D"], np.float64)))
    sizes = len(diagnose.levels(table["N"])) if "N" in table else None
    return cards.Scope(rows=len(table), sizes=sizes, **ends)


def _throughput(table: pd.DataFrame) -> cards.Throughput | None:
    """Tokens per second of one device by size, of a table that has them: what a budget of device hours needs."""
    if not {"N", "tokens_per_second"} <= set(table):
        return None
    speed: Any = pd.to_numeric(table["tokens_per_second"], errors="coerce")
    median = speed[np.isfinite(speed) & (speed > 0)].groupby(table["N"]).median()
    if not len(median):
        return None
    return cards.Throughput(N=tuple(float(n) for n in median.index), tokens_per_second=tuple(median.tolist()))


def _rows(law: Law, at: Inference, table: pd.DataFrame, w: Array | None) -> cards.Rows:
    """The fitted rows: columns of the law, the loss, and what the law gives."""
    loss, fitted = table["loss"].to_numpy(dtype=np.float64), np.atleast_1d(law.predict(at.theta_hat, table))
    arrays = _arrays(table)
    named = [c for c in dict.fromkeys(("N", "D", "C", "step", *law.columns)) if c in table and c not in arrays]
    columns = {c: table[c].to_numpy(dtype=np.float64) for c in named}
    columns |= {"loss": loss, "fitted": fitted, "residual_log": np.log(loss) - np.log(fitted)}
    if w is not None:
        columns["weight"] = w
    names = table["run"].tolist() if "run" in table else table.index
    return cards.Rows(run=tuple(str(v) for v in names), columns={c: _cells(v) for c, v in columns.items()})


def _cells(values: Array) -> tuple[float | None, ...]:
    if np.isfinite(values).all():
        return tuple(values.tolist())
    return tuple(finite(v) for v in values.tolist())
