"""Fits of losses that may be zero or negative, as of densities or less those of a unigram model.

The engine, its noise and its discrepancy are those of positive losses. A floor is a constant in the loss, so that such
losses are fitted with an offset added to them and the floor is stated without it: ``FitCard.offset``. Only residuals of
the loss itself do not depend on the offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from analysis.card import AnyWarning, FitCard, Interval
from analysis.engine.losses import Objective
from analysis.laws import Law
from analysis.table.frame import Runs
from analysis.warning import Doubtful, Misfit, NotIdentified, ParameterAtBound, SeveralOptima
from scaling.errors import Code, UserError

if TYPE_CHECKING:
    from analysis.fitting.fitted import Fit

SPREADS = 2.0  # between the least loss and -offset, below which no floor is looked for: as in usual studies


def offset_of(losses: Any, law: Law, objective: Objective) -> float:
    """What to add to losses (n,) so that they are positive; 0 where they are.

    Raises:
      UserError: some losses are not positive and residuals are of their logarithm (INVALID), or the law has no
        constant that could lie below zero (UNSUPPORTED).
    """
    values = np.asarray(losses, dtype=np.float64)
    if not np.isfinite(values).all() or (values > 0).all():
        return 0.0
    least = float(values.min())
    if not objective.raw:
        remedy = "is not positive: fit residuals of the loss itself instead of its logarithm (--objective=raw:auto)"
        raise UserError("loss", least, remedy)
    if not law.constant:
        remedy = f"is not positive, and law {law.name} has no constant that could be: fit one with a floor (chinchilla)"
        raise UserError("loss", least, remedy, Code.UNSUPPORTED)
    return SPREADS * max(float(np.ptp(values)), 1e-3 * abs(least)) - least


def raised(runs: Runs, law: Law, objective: Objective) -> tuple[Runs, float]:
    """The runs with the offset added to every loss, and the offset. UserError as for ``offset_of``."""
    offset = offset_of(runs.table["loss"], law, objective) if "loss" in runs.table else 0.0
    return (higher(runs, offset) if offset else runs), offset


def higher(runs: Runs, by: float) -> Runs:
    """The runs with every loss higher ``by`` so much."""
    return replace(runs, table=runs.table.assign(loss=runs.table["loss"] + by))


def held(law: Law, fixed: Mapping[str, float], offset: float) -> dict[str, float]:
    """Values to hold, that of the floor with the offset."""
    return {name: value + offset if name == law.floor else value for name, value in fixed.items()}


def require_above(fit: Fit, what: str) -> None:
    """Raises a UserError (UNSUPPORTED) where losses of the fit are below zero, which ``what`` cannot show."""
    if fit.card.offset:
        remedy = f"has losses below zero, of which there is no {what}; see fit.columns and fit.predict"
        raise UserError("fit", fit.law.name, remedy, Code.UNSUPPORTED)


def moved(fit: Fit, by: float) -> Fit:
    """The fit of losses that are all higher ``by`` so much: its floor, its rows and its offset."""
    if not by:
        return fit
    card, name = fit.card, str(fit.law.floor)
    columns = dict(card.runs.columns)
    for column in ("loss", "fitted"):
        columns[column] = tuple(None if value is None else value + by for value in columns[column])
    draws = np.array(fit.draws)
    draws[:, fit.law.index(name)] += by
    schemes = {
        key: msgspec.structs.replace(scheme, intervals=_named(scheme.intervals, name, by))
        for key, scheme in card.schemes.items()
    }
    optima = tuple(msgspec.structs.replace(o, params={**o.params, name: o.params[name] + by}) for o in card.optima)
    made: FitCard = msgspec.structs.replace(
        card,
        params=_named(card.params, name, by),
        fixed=held(fit.law, card.fixed, by),
        priors={key: (mean + by * (key == name), sd) for key, (mean, sd) in card.priors.items()},
        optima=optima,
        warnings=tuple(_warning(w, name, by) for w in card.warnings),
        runs=msgspec.structs.replace(card.runs, columns=columns),
        schemes=schemes,
        offset=card.offset - by,
    )
    return type(fit)(made, fit.law, draws, fit.sigma_run, fit.sigma_stem)


def _named(intervals: Mapping[str, Interval], name: str, by: float) -> dict[str, Interval]:
    return {key: cell.moved(by) if key == name else cell for key, cell in intervals.items()}


def _warning(w: AnyWarning, name: str, by: float) -> AnyWarning:
    """A warning with its numbers of the floor moved."""
    match w:
        case ParameterAtBound(parameter=parameter, bound=bound) if parameter == name and bound is not None:
            return msgspec.structs.replace(w, bound=bound + by)
        case NotIdentified(parameter=parameter) | Doubtful(parameter=parameter) if parameter == name:
            ends = {end: None if getattr(w, end) is None else getattr(w, end) + by for end in ("lo", "hi")}
            return msgspec.structs.replace(w, bound=w.bound + by, **ends)
        case SeveralOptima(ranges=ranges) if name in ranges:
            low, high = ranges[name]
            return msgspec.structs.replace(w, ranges={**ranges, name: (low + by, high + by)})
        case Misfit(floors=floors):
            return msgspec.structs.replace(w, floors={law: value + by for law, value in floors.items()})
    return w
