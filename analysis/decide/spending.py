"""Allocations under a condition: a cap on N, a given D/N, scarce data, lifetime inference, device hours.

Each is the allocation of ``decide.allocate`` restricted to a curve of cells (N, D(N)): the estimate and every draw
choose their own cell, and intervals are the spread.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.card import Throughput, Value
from analysis.decide.allocate import Allocation, Cells, answer, displaced, positive, require_interior
from analysis.engine.frontier import (
    UNIQUE,
    Cost,
    bisect,
    cost_table,
    estimate_and_draws,
    flops_for,
    frontier,
    log_losses,
    minimum_along,
    size_for,
    tokens_for,
)
from scaling.errors import Code, UserError
from scaling.records import records

if TYPE_CHECKING:
    from analysis.fitting import Fit
    from analysis.laws import Law

Array = np.ndarray
CONDITIONS = ("max_params", "tokens_per_parameter", "unique_tokens", "inference_tokens")
DRAWS = 200  # draws under lifetime inference, where each solves for its own D at every N


class Budget(Value):
    """The budget, ``flops`` or ``device_hours``, and at most one condition on the cell.

    Attributes:
      throughput: tokens per second of one device by size, needed for device hours (``measured``).
      max_params: upper limit of N.
      tokens_per_parameter: D = this * N.
      unique_tokens: tokens of data available. A law of repeated data determines how often to repeat them; under any
        other law D stops at the unique tokens.
      inference_tokens: tokens served over the model's lifetime. The target is the lowest loss that ``flops`` can reach;
        the cell is the (N, D) with that loss and the least 6 N D + 2 N D_inference (Sardana 2023, arXiv 2401.00448).
    """

    flops: float | None = None
    device_hours: float | None = None
    throughput: Throughput | None = None
    max_params: float | None = None
    tokens_per_parameter: float | None = None
    unique_tokens: float | None = None
    inference_tokens: float | None = None

    @property
    def asked(self) -> dict[str, float]:
        """The given numbers by name. UserError names one that is not a positive number."""
        return positive(**{name: getattr(self, name) for name in ("flops", "device_hours", *CONDITIONS)})


class Condition(Value, tag_field="mode"):
    """Base class for the effect of a condition on the cell."""

    @property
    def mode(self) -> str:
        """The tag."""
        return str(self.__struct_config__.tag)


class MaxParams(Condition, tag="max_params"):
    """``binds``: the optimum lies above the cap, and the rest goes into tokens."""

    binds: bool


class FixedRatio(Condition, tag="tokens_per_parameter"):
    """N and D follow from the budget and D/N; only the loss is uncertain."""


class UniqueTokens(Condition, tag="unique_tokens"):
    """Under a law without repeats. ``binds``: D stops at the unique tokens, and the rest goes into N."""

    binds: bool


class Repeats(Condition, tag="repeats"):
    """Under a law of repeated data: the number of ``epochs`` over the unique tokens."""

    epochs: float


class Inference(Condition, tag="inference_tokens"):
    """The least training and inference compute for the lowest loss that the ``budget`` (FLOPs) can reach.

    Attributes:
      lifetime_flops: FLOPs of training and serving this cell.
      training_optimal_lifetime: FLOPs of training and serving the training-optimal cell.
      saving: share of the latter that is saved.
    """

    budget: float
    target_loss: float
    lifetime_flops: float
    training_optimal_lifetime: float
    saving: float


class DeviceHours(Condition, tag="device_hours"):
    """Tokens per second by size as measured; constant FLOPs per second beyond the measured sizes."""


AnyCondition = MaxParams | FixedRatio | UniqueTokens | Repeats | Inference | DeviceHours


class Unconstrained(Value):
    """The unconstrained optimum of the same budget; None where the law has none."""

    N: float | None
    D: float | None


class Spending(Allocation, kw_only=True):
    """An allocation under a condition.

    Attributes:
      unconstrained: None under a law of repeats.
      cost_of_condition: relative increase of the loss over the unconstrained optimum; None where it is not defined.
    """

    condition: AnyCondition
    unconstrained: Unconstrained | None = None
    cost_of_condition: float | None = None


class _Choice(NamedTuple):
    """Cells chosen under a condition, and the unconstrained optima (1 + S,); None under a law of repeats."""

    cells: Cells
    condition: AnyCondition
    plain: Cells | None


def spend(fit: Fit, budget: Budget, *, level: float = 0.95, cost: Cost | None = None, force: bool = False) -> Spending:
    """What to train for a budget of FLOPs or device hours under at most one condition.

    Args:
      level, cost, force: as in ``allocate.optimal``.

    Raises:
      UserError: no budget or conflicting ones, an invalid number, or an allocation that ``optimal`` would refuse.
    """
    asked = budget.asked
    conditions = [name for name in CONDITIONS if name in asked]
    if ("flops" in asked) == ("device_hours" in asked):
        remedy = "give one of --flops and --device_hours"
        raise UserError("predict", ", ".join(asked) or "nothing", remedy, Code.CONFLICT)
    if len(conditions) > 1:
        raise UserError("predict", ", ".join(conditions), "give one condition at a time", Code.CONFLICT)
    cost = cost_table(fit) if cost is None else cost
    choice = _choose(fit, budget, cost)
    plain = answer(fit, asked, choice.cells, level=level, cost=cost, force=force)
    free = None if choice.plain is None else Unconstrained(N=_value(choice.plain.log_n), D=_value(choice.plain.log_d))
    fields = {name: getattr(plain, name) for name in plain.__struct_fields__}
    return Spending(**fields, condition=choice.condition, unconstrained=free, cost_of_condition=_price(fit, choice))


def _price(fit: Fit, choice: _Choice) -> float | None:
    """Relative increase of the loss over the unconstrained optimum, where a condition binds."""
    if choice.plain is None or choice.plain.undefined[0]:
        return None
    if not isinstance(choice.condition, MaxParams | FixedRatio | UniqueTokens):
        return None
    n, d = (np.exp([getattr(c, name)[0] for c in (choice.cells, choice.plain)]) for name in ("log_n", "log_d"))
    two = log_losses(fit.law, fit.theta[None], n, d)[0]
    return float(np.expm1(two[0] - two[1])) if np.isfinite(two).all() else None


def _choose(fit: Fit, budget: Budget, cost: Cost | None) -> _Choice:
    """The cells that the estimate and every draw choose under the budget's condition."""
    theta, flops, rate = estimate_and_draws(fit), budget.flops or 0.0, cost
    if budget.device_hours is not None:
        flops, rate = _hours(budget.device_hours, budget.throughput)
        if condition := next((name for name in CONDITIONS if name in budget.asked), None):
            raise UserError("device_hours", budget.device_hours, f"give --flops with --{condition}", Code.CONFLICT)
    repeats = [c for c in fit.law.columns if c in UNIQUE]
    if repeats:
        return _repeated(fit, theta, flops, rate, repeats[0], budget.unique_tokens)
    log_n, log_d = (x[:, 0] for x in frontier(fit, np.array([flops]), rate))
    plain = displaced(fit, Cells(log_n, log_d), rate)
    if budget.max_params is not None:
        return _capped(plain, flops, budget.max_params, rate)
    if budget.tokens_per_parameter is not None:
        return _Choice(_fixed_ratio(flops, budget.tokens_per_parameter, rate), FixedRatio(), plain)
    if budget.unique_tokens is not None:
        return _scarce(plain, flops, budget.unique_tokens, rate)
    if budget.inference_tokens is not None:
        require_interior(fit, plain)
        life = _Lifetime(fit.law, budget.inference_tokens, cost)
        return _Choice(*life.least(theta, log_n, log_d, flops), plain)
    return _Choice(plain, DeviceHours(), plain)


def measured(workdir: str | Path, dataset: str | None, n: str = "nonembedding") -> Throughput:
    """Tokens per second of one device by size, the median over the finished runs of a study.

    Args:
      n: the parameter count used for sizes: a field of the manifest's ``parameters`` or one of its groups.

    Raises:
      UserError: MISSING: no finished run records its speed.
    """
    speeds: dict[float, list[float]] = {}
    for record in records(Path(workdir)):
        manifest = record.manifest
        if manifest.role == "holdout" or dataset not in (None, manifest.dataset):
            continue
        speed = record.result.tokens_per_second if record.result is not None else None
        devices = (manifest.environment.device_count if manifest.environment is not None else 1) or 1
        size = getattr(manifest.parameters, n, None) or manifest.parameters.groups.get(n)
        if speed and size:
            speeds.setdefault(float(size), []).append(float(speed) / devices)
    if not speeds:
        remedy = "no finished run of this study says how fast it was; give --flops"
        raise UserError("device_hours", workdir, remedy, Code.MISSING)
    sizes = sorted(speeds)
    return Throughput(N=tuple(sizes), tokens_per_second=tuple(float(np.median(speeds[size])) for size in sizes))


def _value(logs: Array) -> float | None:
    return float(np.exp(logs[0])) if np.isfinite(logs[0]) else None


def _hours(hours: float, throughput: Throughput | None) -> tuple[float, Cost]:
    """The budget and the cost of a token by size, in FLOPs at the speed of the largest measured size."""
    if throughput is None:
        remedy = "needs tokens per second of a device by size: a study's own runs or a column tokens_per_second"
        raise UserError("device_hours", hours, f"{remedy}; give a card that has them, or --flops", Code.MISSING)
    n = np.asarray(throughput.N, dtype=float)
    seconds = 1 / np.asarray(throughput.tokens_per_second, dtype=float)
    order = np.argsort(n)
    unit = float(6 * n[order[-1]] / seconds[order[-1]])
    return hours * 3600 * unit, {"N": n[order].tolist(), "flops_per_token": (seconds[order] * unit).tolist()}


def _repeated(fit: Fit, theta: Array, flops: float, cost: Cost | None, column: str, unique: float | None) -> _Choice:
    """The optimum under a law whose ``column`` is the number of unique tokens."""
    if unique is None:
        remedy = "is a law of repeated data: give --unique_tokens, the data there are"
        raise UserError("law", fit.law.name, remedy, Code.MISSING)
    log_n, log_d = minimum_along(fit.law, theta, flops, cost, {column: unique})
    cells = displaced(fit, Cells(log_n, log_d, columns={column: unique}), cost)
    return _Choice(cells, Repeats(epochs=float(np.exp(cells.log_d[0])) / unique), None)


def _capped(plain: Cells, flops: float, most: float, cost: Cost | None) -> _Choice:
    """N no larger than ``most``; the rest of the budget goes into tokens."""
    log_n = np.minimum(plain.log_n, np.log(most))
    log_d = np.where(np.isfinite(log_n), np.log(tokens_for(flops, np.exp(log_n), cost)), np.nan)
    return _Choice(Cells(log_n, log_d, plain.moved), MaxParams(binds=bool(plain.log_n[0] > log_n[0])), plain)


def _scarce(plain: Cells, flops: float, unique: float, cost: Cost | None) -> _Choice:
    """D no larger than the unique tokens; the rest of the budget goes into N."""
    log_d = np.minimum(plain.log_d, np.log(unique))
    log_n = np.where(plain.log_d > np.log(unique), size_for(flops, unique, cost), plain.log_n)
    return _Choice(Cells(log_n, log_d, plain.moved), UniqueTokens(binds=bool(plain.log_d[0] > log_d[0])), plain)


def _fixed_ratio(flops: float, ratio: float, cost: Cost | None) -> Cells:
    """The cell on D = ``ratio`` N that costs the budget."""

    def above(log_n: Array) -> Array:
        return flops_for(np.exp(log_n), ratio * np.exp(log_n), cost) > flops

    log_n = bisect(above, np.log([flops / 6 / ratio]) / 2)
    return Cells(log_n, log_n + np.log(ratio))


class _Lifetime(NamedTuple):
    """Training and ``served`` inference tokens of one model, at the cost of training."""

    law: Law
    served: float
    cost: Cost | None

    def flops(self, n: Any, d: Any) -> Array:
        """Lifetime FLOPs: a served token costs a forward pass, a third of a trained token."""
        return flops_for(n, d, self.cost) + flops_for(n, self.served / 3, self.cost)

    def _reaches(self, theta: Array, n: Array, goal: float, log_d: Array) -> Array:
        """Whether sizes ``n`` reach the log loss ``goal`` with exp(``log_d``) tokens, (sizes,)."""
        return log_losses(self.law, theta, n, np.exp(log_d))[0] <= goal

    def least(self, theta: Array, best_n: Array, best_d: Array, budget: float) -> tuple[Cells, Inference]:
        """Cells with the least lifetime compute at each parameter set's own lowest loss: ln N and ln D (1 + S,).

        NaN where there is none. The effect of the discrepancy on N and D is not derived for this condition.
        """
        count = min(len(theta), 1 + DRAWS)
        chosen = np.concatenate([[0], np.linspace(1, len(theta) - 1, count - 1).round().astype(int)]).astype(int)
        pairs = [self._of(theta[i : i + 1], float(best_n[i]), float(best_d[i])) for i in chosen]
        log_n, log_d = np.array(pairs).T
        goal = self._goal(theta[:1], best_n[0], best_d[0])
        before = float(self.flops(np.exp(best_n[0]), np.exp(best_d[0])))
        after = float(self.flops(np.exp(log_n[0]), np.exp(log_d[0])))
        loss, saving = float(np.exp(goal)), 1 - after / before
        told = Inference(
            budget=budget,
            target_loss=loss,
            lifetime_flops=after,
            training_optimal_lifetime=before,
            saving=saving,
        )
        return Cells(log_n, log_d, moved=None), told

    def _goal(self, theta: Array, best_n: float, best_d: float) -> float:
        return float(log_losses(self.law, theta, np.exp([best_n]), np.exp([best_d]))[0, 0])

    def _of(self, theta: Array, best_n: float, best_d: float) -> tuple[float, float]:
        """ln N and ln D for one parameter set (1, P)."""
        if not np.isfinite(best_n):
            return np.nan, np.nan
        goal = self._goal(theta, best_n, best_d)
        x = best_n + np.linspace(-5.0, 0.5, 111)
        n = np.exp(x)
        log_d = bisect(partial(self._reaches, theta, n, goal), np.full(len(x), best_d + 7.5), 12.5)
        d = np.exp(log_d)
        reached = log_d < best_d + 19.9  # smaller models never reach this loss
        life = np.where(reached, self.flops(n, d), np.inf)
        j = int(np.argmin(life))
        if j in (0, len(x) - 1) or not np.isfinite(life[[j - 1, j + 1]]).all():
            return float(x[j]), float(np.log(d[j]))
        left, middle, right = np.log(life[j - 1 : j + 2])
        bend = left - 2 * middle + right
        shift = (left - right) / (2 * bend) if bend > 0 else 0.0
        at = float(x[j] + shift * (x[1] - x[0]))
        return at, float(np.interp(at, x, np.log(d)))
