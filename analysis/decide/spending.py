"""Budgets with a condition: a cap on N, a given D/N, scarce data, a life of inference, device hours.

Each is the allocation of ``decide.allocate`` on a curve of cells (N, D(N)) of its own: the estimate and every draw
choose their cell, and intervals are the spread. The result has the shape of ``allocate.optimal`` and ``mode``,
``unconstrained`` (the plain optimum of the same budget) and ``cost_of_condition`` (loss above it, as a fraction).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.decide.allocate import answer, displaced
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
from scaling.errors import UserError
from scaling.records import records

MODES = ("max_params", "tokens_per_parameter", "unique_tokens", "inference_tokens")
DRAWS = 200  # of a life of inference, where every draw solves for its own D at each N


def spend(
    fit: Any,
    *,
    flops: float | None = None,
    device_hours: float | None = None,
    throughput: Mapping[str, Any] | None = None,
    max_params: float | None = None,
    tokens_per_parameter: float | None = None,
    unique_tokens: float | None = None,
    inference_tokens: float | None = None,
    level: float = 0.95,
    cost: Cost | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """What to train for ``flops`` or ``device_hours`` under at most one condition. JSON.

    Args:
      throughput: tokens per second of one device by size, {"N": [...], "tokens_per_second": [...]} (``measured``).
      max_params: N is at most this.
      tokens_per_parameter: D = this * N.
      unique_tokens: the data there are. A law with repeats says how often they are worth repeating; another law says
        nothing of repeats, and D stops at the unique tokens.
      inference_tokens: tokens served over the model's life. The loss is the one that ``flops`` reach at best; of all
        (N, D) with that loss the one with the least 6 N D + 2 N D_inference (Sardana 2023, arXiv 2401.00448).

    Raises:
      UserError: nothing or too much asked, a bad number, or an answer that is not supported (see ``optimal``).
    """
    given = {"flops": flops, "device_hours": device_hours, "max_params": max_params, "unique_tokens": unique_tokens}
    given |= {"tokens_per_parameter": tokens_per_parameter, "inference_tokens": inference_tokens}
    asked = {name: float(value) for name, value in given.items() if value is not None}
    for name, value in asked.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(name, value, "must be a positive number")
    conditions = [name for name in MODES if name in asked]
    if ("flops" in asked) == ("device_hours" in asked):
        raise UserError("predict", ", ".join(asked) or "nothing", "give one of --flops and --device_hours")
    if len(conditions) > 1:
        raise UserError("predict", ", ".join(conditions), "give one condition at a time")
    cost = cost_table(fit) if cost is None else cost
    budget, rate = asked.get("flops", 0.0), cost
    if device_hours is not None:
        budget, rate = _hours(float(device_hours), throughput)
        if conditions:
            raise UserError("device_hours", device_hours, f"give --flops with --{conditions[0]}")
    mode, more = (conditions or ["device_hours"])[0], None
    law, theta = fit.law, estimate_and_draws(fit)
    best_n = best_d = np.full(len(theta), np.nan)
    repeats = [c for c in law.columns if c in UNIQUE]
    notes: list[str] = []
    extra: dict[str, Any] = {}
    if repeats:
        if mode != "unique_tokens":
            raise UserError("law", law.name, "is a law of repeated data: give --unique_tokens, the data there are")
        more = {repeats[0]: asked["unique_tokens"]}
        log_n, log_d, moved = displaced(fit, *minimum_along(law, theta, budget, rate, more), rate, more=more)
        epochs = float(np.exp(log_d[0])) / asked["unique_tokens"]
        extra["epochs"] = epochs
        notes.append(f"{epochs:.3g} epochs of the unique tokens, by the law's own worth of a repeat")
    else:
        true_n, true_d = (x[:, 0] for x in frontier(fit, np.array([budget]), rate))
        best_n, best_d, moved = displaced(fit, true_n, true_d, rate)
        log_n, log_d = best_n, best_d
        extra["unconstrained"] = {"N": _value(best_n), "D": _value(best_d)}
        if mode == "max_params":
            log_n = np.minimum(best_n, np.log(asked[mode]))
            log_d = np.where(np.isfinite(log_n), np.log(tokens_for(budget, np.exp(log_n), rate)), np.nan)
            binds = bool(best_n[0] > log_n[0])
            notes.append("the cap binds: the rest goes into tokens" if binds else "the optimum is below the cap")
        elif mode == "tokens_per_parameter":
            log_n, log_d = _fixed_ratio(budget, asked[mode], rate)
            moved = 0.0
            notes.append("N and D follow from the budget and D/N; only the loss is uncertain")
        elif mode == "unique_tokens":
            log_d = np.minimum(best_d, np.log(asked[mode]))
            binds = bool(best_d[0] > log_d[0])
            log_n = np.where(best_d > np.log(asked[mode]), size_for(budget, asked[mode], rate), best_n)
            notes.append(
                f"D stops at the unique tokens and the rest goes into N: {law.name} says nothing of repeats"
                if binds
                else "the optimum needs no repeats"
            )
            extra["corner"] = binds
        elif mode == "inference_tokens":
            log_n, log_d, found = _lifetime(fit, theta, true_n, true_d, asked[mode], cost)
            moved = None  # not derived for this condition
            extra.update(found)
            notes.append(
                f"least training and inference compute for the loss that {budget:.3g} FLOPs reach at best; "
                f"it saves {found['saving']:.1%} of the lifetime compute"
            )
        else:
            notes.append("tokens per second by size as measured; beyond the sizes, at constant FLOPs per second")
    out = answer(fit, asked, log_n, log_d, level=level, cost=cost, force=force, more=more, moved=moved)
    if "unconstrained" in extra and mode in ("max_params", "tokens_per_parameter", "unique_tokens"):
        at = theta[:1]
        two = log_losses(law, at, np.exp([log_n[0], best_n[0]]), np.exp([log_d[0], best_d[0]]))[0]
        extra["cost_of_condition"] = float(np.expm1(two[0] - two[1])) if np.isfinite(two).all() else None
    return {**out, "mode": mode, **extra, "notes": notes}


def measured(workdir: str | Path, dataset: str | None, n: str = "nonembedding") -> dict[str, list[float]]:
    """Tokens per second of one device by size, the median over the finished runs of a study.

    Raises:
      UserError: no finished run says how fast it was.
    """
    found: dict[float, list[float]] = {}
    for record in records(Path(workdir)):
        manifest = record.manifest
        if manifest.get("role") == "holdout" or (dataset is not None and manifest.get("dataset") != dataset):
            continue
        speed = (record.result or {}).get("tokens_per_second")
        devices = (manifest.get("environment") or {}).get("device_count") or 1
        size = {**manifest["parameters"].get("groups", {}), **manifest["parameters"]}.get(n)
        if speed and size:
            found.setdefault(float(size), []).append(float(speed) / devices)
    if not found:
        raise UserError("device_hours", workdir, "no finished run of this study says how fast it was; give --flops")
    sizes = sorted(found)
    return {"N": sizes, "tokens_per_second": [float(np.median(found[size])) for size in sizes]}


def _value(logs: np.ndarray) -> float | None:
    return float(np.exp(logs[0])) if np.isfinite(logs[0]) else None


def _hours(hours: float, throughput: Mapping[str, Any] | None) -> tuple[float, Cost]:
    """The budget and the cost of a token by size, in units of what 6N FLOPs take at the largest measured size."""
    if not throughput:
        remedy = "needs tokens per second of a device by size: a study's own runs or a column tokens_per_second"
        raise UserError("device_hours", hours, f"{remedy}; give a card that has them, or --flops")
    n = np.asarray(throughput["N"], dtype=float)
    seconds = 1 / np.asarray(throughput["tokens_per_second"], dtype=float)
    order = np.argsort(n)
    unit = float(6 * n[order[-1]] / seconds[order[-1]])
    return hours * 3600 * unit, {"N": n[order].tolist(), "flops_per_token": (seconds[order] * unit).tolist()}


def _fixed_ratio(budget: float, ratio: float, cost: Cost | None) -> tuple[np.ndarray, np.ndarray]:
    """ln N and ln D = ln N + ln ``ratio`` that cost the budget, (1,) each."""

    def above(log_n: np.ndarray) -> np.ndarray:
        return flops_for(np.exp(log_n), ratio * np.exp(log_n), cost) > budget

    log_n = bisect(above, np.log([budget / 6 / ratio]) / 2)
    return log_n, log_n + np.log(ratio)


def _reaches(law: Any, theta: np.ndarray, n: np.ndarray, goal: float, log_d: np.ndarray) -> np.ndarray:
    """Whether sizes ``n`` come down to the log loss ``goal`` with exp(``log_d``) tokens, (sizes,)."""
    return log_losses(law, theta, n, np.exp(log_d))[0] <= goal


def _lifetime(
    fit: Any, theta: np.ndarray, best_n: np.ndarray, best_d: np.ndarray, served: float, cost: Cost | None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """ln N and ln D of the least lifetime compute at each parameter set's own loss, NaN where it has none."""
    count = min(len(theta), 1 + DRAWS)
    chosen = np.concatenate([[0], np.linspace(1, len(theta) - 1, count - 1).round().astype(int)]).astype(int)
    log_n, log_d = np.full(count, np.nan), np.full(count, np.nan)
    found: dict[str, Any] = {}
    for k, i in enumerate(chosen):
        if not np.isfinite(best_n[i]):
            continue
        at = theta[i : i + 1]
        goal = log_losses(fit.law, at, np.exp(best_n[i : i + 1]), np.exp(best_d[i : i + 1]))[0, 0]
        x = best_n[i] + np.linspace(-5.0, 0.5, 111)
        n = np.exp(x)
        log_tokens = bisect(partial(_reaches, fit.law, at, n, goal), np.full(len(x), best_d[i] + 7.5), 12.5)
        d = np.exp(log_tokens)
        reached = log_tokens < best_d[i] + 19.9  # smaller models never come to this loss
        # a token served costs a forward pass, a third of a token trained
        life = np.where(reached, flops_for(n, d, cost) + flops_for(n, served / 3, cost), np.inf)
        j = int(np.argmin(life))
        if j in (0, len(x) - 1) or not np.isfinite(life[[j - 1, j + 1]]).all():
            log_n[k], log_d[k] = x[j], np.log(d[j])
        else:
            left, middle, right = np.log(life[j - 1 : j + 2])
            bend = left - 2 * middle + right
            shift = (left - right) / (2 * bend) if bend > 0 else 0.0
            log_n[k] = x[j] + shift * (x[1] - x[0])
            log_d[k] = np.interp(log_n[k], x, np.log(d))
        if k == 0:
            plain = np.exp(best_n[0])
            before = float(flops_for(plain, np.exp(best_d[0]), cost) + flops_for(plain, served / 3, cost))
            n0, d0 = np.exp(log_n[0]), np.exp(log_d[0])
            after = float(flops_for(n0, d0, cost) + flops_for(n0, served / 3, cost))
            found = {"target_loss": float(np.exp(goal)), "lifetime_flops": after, "training_optimal_lifetime": before}
            found["saving"] = 1 - after / before
    return log_n, log_d, found
