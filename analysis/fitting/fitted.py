"""``Fit``: a card with the draws behind its intervals; saving and loading the two."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import pandas as pd

from analysis import card as cards
from analysis import laws
from analysis.card import AnyWarning, Derived, FitCard, Interval
from analysis.check import discrepancy as beyond_range
from analysis.laws import Law
from scaling.errors import Code, UserError
from scaling.records.typed import read_bytes, read_typed, write_atomic

Array = np.ndarray
AGAIN = "write one with `scaling fit TABLE --out=fit.json`"


class Prediction(NamedTuple):
    """Losses at n cells, each (n,): the median of the samples, and the ends of a central interval."""

    value: Array
    lo: Array
    hi: Array


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A fitted law: its card, and the draws behind the card's intervals. Immutable.

    Attributes:
      card: all results, how they were made, and warnings.
      law: the formula.
      draws: (S, P), parameters in the order of ``law.names``.
      sigma_run, sigma_stem: (S,), sd of log loss of a run and of a stem, for each draw.
    """

    card: FitCard
    law: Law
    draws: Array
    sigma_run: Array
    sigma_stem: Array
    _columns: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("draws", "sigma_run", "sigma_stem"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))
        columns = {name: _read_only(values) for name, values in self.card.runs.columns.items()}
        object.__setattr__(self, "_columns", columns)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.params.items())
        return f"Fit({self.law.name}: {values}; {len(self.card.runs)} rows)"

    @property
    def params(self) -> dict[str, float]:
        """The estimate."""
        return {name: cell.value for name, cell in self.card.params.items()}

    @property
    def intervals(self) -> dict[str, Interval]:
        """Intervals of the parameters and, where the law has an optimum, of a and b."""
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

    @property
    def columns(self) -> dict[str, Array]:
        """Columns of the fitted rows, each (n,) and read-only; NaN where a row has no value."""
        return dict(self._columns)

    @property
    def variable(self) -> str | None:
        """The only column of a law of one variable; None for other laws."""
        return self.law.columns[0] if len(self.law.columns) == 1 and not self.law.curve else None

    def beyond(self, columns: Mapping[str, Any]) -> Array:
        """e-folds (n,) by which rows lie beyond the fitted runs: in C, N and D, or in the column of one variable."""
        column = self.variable
        if column is None or column in ("C", "N", "D"):
            return beyond_range.beyond(self.scope, columns)
        lo, hi = self.span
        values = np.atleast_1d(np.asarray(columns[column], dtype=np.float64))
        return np.log(np.maximum(np.maximum(values / hi, lo / values), 1.0))

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest value of the column of a law of one variable among the fitted rows."""
        values = self._columns[self.law.columns[0]]
        return float(values.min()), float(values.max())

    def _of_law(self, columns: Mapping[str, Any]) -> Mapping[str, Any]:
        """The columns, with x as another name for that of a law of one variable."""
        column = self.variable
        if column is None or column in columns or "x" not in columns:
            return columns
        return {**{name: value for name, value in columns.items() if name != "x"}, column: columns["x"]}

    def _gained(self, columns: Mapping[str, Any], losses: Array) -> Array:
        """How far each draw's log of ``losses`` (S, n), with the offset, lies below that at the nearest fitted value;
        infinite where above."""
        column, (lo, hi) = self.law.columns[0], self.span
        nearest = np.clip(np.atleast_1d(np.asarray(columns[column], dtype=np.float64)), lo, hi)
        gained = np.log((self.law.predict(self.draws, {column: nearest}) + self.card.offset) / losses)
        return np.where(gained > 0, gained, np.inf)

    def samples(self, columns: Mapping[str, Any], *, new_run: bool = True, discrepancy: bool = True) -> Array:
        """Losses (S, n) at columns of n rows under each draw's law; ``new_run`` adds the noise of a new run.

        ``discrepancy`` adds the card's term for the law being wrong beyond the fitted range (zero within it). Under a
        law of one variable that falls beyond it, this never takes the loss above that of the nearest fitted value. The
        column of such a law may also be named x. Rows with the same ``stem`` share a stem effect; without that column
        every row has its own. With few runs the draws have heavy tails. Deterministic in the fit's seed.
        """
        columns = self._of_law(columns)
        offset = self.card.offset
        losses = self.law.predict(self.draws, columns) + offset
        if discrepancy and self.discrepancy.k > 0:
            x = np.broadcast_to(self.beyond(columns), losses.shape[1:])
            rng = np.random.default_rng([self.seed, 2])
            off = beyond_range.deviations(self.discrepancy, x, len(losses), rng)
            if self.variable is not None and self.law.quantity == "loss":
                off = beyond_range.below(self.discrepancy, x, off, self._gained(columns, losses))
            losses = losses * np.exp(off)
        if not new_run:
            return losses - offset
        rng = np.random.default_rng([self.seed, 1])
        noise = rng.standard_normal(losses.shape) * self.sigma_run[:, None]
        stems = columns.get("stem")
        codes = np.arange(losses.shape[1]) if stems is None else pd.factorize(np.asarray(stems))[0]
        shared = rng.standard_normal((len(losses), losses.shape[1]))[:, codes]
        return losses * np.exp(noise + shared * self.sigma_stem[:, None]) - offset

    def predict(
        self,
        columns: Mapping[str, Any] | None = None,
        *,
        level: float = 0.95,
        new_run: bool = True,
        discrepancy: bool = True,
        **named: Any,
    ) -> Prediction:
        """Median losses with central intervals, from the distribution of ``samples``.

        Where the draws are skewed, the law at the estimate differs from the median.

        Args:
          columns: of n rows; or by keyword, numbers or arrays: ``fit.predict(N=1e9, D=2e10)``, ``fit.predict(x=1e23)``
            for a law of one variable, whatever its column.
          level: confidence of the interval.

        Raises:
          UserError: a missing column of the law, or a value outside its domain.
        """
        cells = self._of_law({**(columns or {}), **{name: np.atleast_1d(value) for name, value in named.items()}})
        drawn = self.samples(cells, new_run=new_run, discrepancy=discrepancy)
        lo, hi = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        value = np.median(self.law.predict(self.draws, cells), axis=0)
        return Prediction(value, np.minimum(lo, value), np.maximum(hi, value))

    def spread(self, quantity: Callable[[Array], Array], level: float) -> Interval:
        """Median and central interval over the draws of a function of the parameters, (S, P) -> (S,)."""
        drawn = quantity(self.draws)
        value, lo, hi = (float(np.quantile(drawn, q)) for q in (0.5, (1 - level) / 2, (1 + level) / 2))
        return Interval(value=value, lo=lo, hi=hi)

    def reduced(self, law: str | Law) -> Self:
        """This fit as a fit of a law with a subset of its parameters: ``lr_loss`` at its best rate is chinchilla."""
        form = laws.get(law)
        params = {name: self.card.params[name] for name in form.names}
        card = msgspec.structs.replace(self.card, law=form.name, params=params)
        draws = self.draws[:, [self.law.index(name) for name in form.names]]
        return type(self)(card, form, draws, self.sigma_run, self.sigma_stem)

    def with_discrepancy(self, term: cards.Discrepancy) -> Self:
        """This fit with another discrepancy term for the law beyond its runs (see ``check.discrepancy.term``)."""
        card = msgspec.structs.replace(self.card, discrepancy=term)
        return type(self)(card, self.law, self.draws, self.sigma_run, self.sigma_stem)

    def save(self, path: str | Path) -> Self:
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


def _read_only(values: Any) -> Array:
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


def read_card(path: str | Path) -> FitCard:
    """A saved card.

    Raises:
      UserError: MISSING, or DAMAGED where the file is no fit card of this version.
    """
    table = f"if it is a table, `scaling fit {path} --out=fit.json` writes its card"
    remedy = AGAIN if Path(path).suffix.lower() == ".json" else table
    try:
        return read_typed(path, FitCard, field="fit", remedy=remedy)
    except FileNotFoundError:
        raise UserError("fit", path, f"there is no such card; {AGAIN}", Code.MISSING) from None


def load_fit(path: str | Path, law: str | Law | None = None) -> Fit:
    """The fit of a saved card.

    Args:
      law: needed where the card's law is not registered under its name.

    Raises:
      UserError: the card or its sidecar is missing, damaged or changed, or the law is unknown or has other parameters.
    """
    card = read_card(path)
    form = _law_of(card, Path(path), law)
    return Fit(card, form, *_arrays(card, Path(path)))


def check_fit(path: str | Path) -> None:
    """Reads a saved card, and its draws against their hash. A law that is not registered here is not asked about.

    Raises:
      UserError: as ``load_fit``, but not where the law is unknown. No Python file is executed.
    """
    card = read_card(path)
    if ".py:" not in card.law:
        try:
            _law_of(card, Path(path), None)
        except UserError as error:
            if error.code is not Code.MISSING:
                raise
    _arrays(card, Path(path))


def _arrays(card: FitCard, path: Path) -> tuple[Array, Array, Array]:
    """The draws of a card, and the sd of a run and of a stem for each. Raises UserError, see ``load_fit``."""
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
            draws, run, stem = (_read_only(arrays[name]) for name in ("draws", "sigma_run", "sigma_stem"))
    except (KeyError, ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError("draws", sidecar, f"it cannot be read ({error}); fit again", Code.DAMAGED) from None
    if draws.shape != (run.size, len(card.params)) or not run.shape == stem.shape == (run.size,):
        raise UserError("draws", sidecar, "its arrays have other shapes; fit again", Code.DAMAGED)
    return draws, run, stem


def _law_of(card: FitCard, path: Path, law: str | Law | None) -> Law:
    try:
        form = laws.get(card.law, folder=path.parent) if law is None else laws.get(law)
    except UserError as error:
        if law is not None or error.code not in (Code.UNKNOWN, Code.MISSING):
            raise
        raise UserError("law", card.law, "give the Law: load_fit(path, law=...)", Code.MISSING) from error
    if form.names != tuple(card.params):
        remedy = f"has parameters {', '.join(form.names)}; the card has {', '.join(card.params)}"
        raise UserError("law", form.name, remedy, Code.CONFLICT)
    return form
