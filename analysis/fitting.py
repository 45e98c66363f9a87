"""``fit``: a table of runs and a law in, a card with honest intervals out. The card holds all that a reader needs."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis import laws
from analysis.check import approaches, diagnose, replicates
from analysis.check import discrepancy as beyond_range
from analysis.check import rolling as crossval
from analysis.check.influence import influence, of_curves
from analysis.engine.estimate import HUBER_K, estimate, refit
from analysis.engine.estimate import objective as parse_objective
from analysis.engine.inference import SCHEMES, Inference, infer
from analysis.laws import Law, published
from scaling.errors import UserError
from scaling.records import finite, read_json, write_atomic, write_json

if TYPE_CHECKING:
    from analysis.table.runs import Runs

Array = np.ndarray
DRAWS = 1000


class Fit:
    """A fitted law. Every number is on its card; the draws (S, P) in natural parameters are in a sidecar.

    ``sigma_run`` and ``sigma_stem`` (S,) are the noise of log loss that goes with each draw.
    """

    def __init__(self, card: dict[str, Any], draws: Array, sigma_run: Array, sigma_stem: Array):
        self._card = card
        self.law: Law = laws.get(card["law"])
        self.draws, self.sigma_run, self.sigma_stem = draws, sigma_run, sigma_stem
        self.params: dict[str, float] = {k: float(v["value"]) for k, v in card["params"].items()}
        self.intervals: dict[str, dict[str, Any]] = {
            **card["params"],
            **{k: v for k, v in card["derived"].items() if "value" in v},
        }
        self.derived: dict[str, Any] = card["derived"]
        self.level: float = card["interval"]["level"]
        self.warnings: list[dict[str, Any]] = card["warnings"]
        self.noise: dict[str, Any] = card["noise"]
        self.conventions: dict[str, Any] = card["conventions"]
        self.data: dict[str, Any] = card["data"]
        self.scope: dict[str, Any] = card["scope"]
        self.seed = int(card["seed"])
        self.verdict: str = card["verdict"]
        # a card of before the term existed knows none
        self.discrepancy: dict[str, Any] = card.get("discrepancy") or beyond_range.term(card["law"], "off")

    @property
    def theta(self) -> Array:
        """The estimate as an array (P,)."""
        return self.law.vector(self.params)

    def samples(self, columns: Mapping[str, Any], *, new_run: bool = True, discrepancy: bool = True) -> Array:
        """Losses (S, n) at columns of n rows: each draw's law, and with ``new_run`` the noise of an untried run.

        Beyond the fitted range the law itself may be wrong: ``discrepancy`` adds the card's term for that (nothing
        within the range). Rows that name one ``stem`` share a stem effect; without that column every row has its own.
        The draws carry heavy tails where runs are few. Deterministic in the fit's seed.
        """
        losses = self.law.predict(self.draws, columns)
        if discrepancy and self.discrepancy["k"] > 0:
            x = np.broadcast_to(beyond_range.beyond(self.scope, columns), losses.shape[1:])
            rng = np.random.default_rng([int(self._card["seed"]), 2])
            losses = losses * np.exp(beyond_range.deviations(self.discrepancy, x, len(losses), rng))
        if not new_run:
            return losses
        rng = np.random.default_rng([int(self._card["seed"]), 1])
        noise = rng.standard_normal(losses.shape) * self.sigma_run[:, None]
        stems = columns.get("stem")
        codes = np.arange(losses.shape[1]) if stems is None else pd.factorize(np.asarray(stems))[0]
        shared = rng.standard_normal((len(losses), losses.shape[1]))[:, codes]
        return losses * np.exp(noise + shared * self.sigma_stem[:, None])

    def predict(
        self, columns: Mapping[str, Any], *, level: float = 0.95, new_run: bool = True, discrepancy: bool = True
    ) -> dict[str, Array]:
        """{"value", "lo", "hi"}, each (n,): the median of the draws' laws and the central interval of ``samples``.

        One distribution gives all three. The law at the estimate may lie elsewhere in it where draws are skewed.
        """
        drawn = self.samples(columns, new_run=new_run, discrepancy=discrepancy)
        lo, hi = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        value = np.median(self.law.predict(self.draws, columns), axis=0)
        return {"value": value, "lo": np.minimum(lo, value), "hi": np.maximum(hi, value)}

    def spread(self, quantity: Callable[[Array], Array], level: float) -> dict[str, float]:
        """{"value", "lo", "hi"} of a function of parameters, (S, P) -> (S,): the draws' median and central interval."""
        drawn = quantity(self.draws)
        value, lo, hi = (float(np.quantile(drawn, q)) for q in (0.5, (1 - level) / 2, (1 + level) / 2))
        return {"value": value, "lo": lo, "hi": hi}

    def reduced(self, law: str) -> Fit:
        """This fit as one of a law whose parameters are among its own: ``lr_loss`` at its best rate is chinchilla."""
        names = laws.get(law).names
        params = {name: self._card["params"][name] for name in names}
        card = {**self._card, "law": law, "params": params, "discrepancy": self.discrepancy}
        draws = self.draws[:, [self.law.index(name) for name in names]]
        return Fit(card, draws, self.sigma_run, self.sigma_stem)

    def card(self) -> dict[str, Any]:
        """The card as plain JSON values (a copy)."""
        return json.loads(json.dumps(self._card, allow_nan=False))

    def save(self, path: str | Path) -> Path:
        """Writes the draws beside ``path`` (named by their hash), then the card. Returns the sidecar's path."""
        path = Path(path)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, draws=self.draws, sigma_run=self.sigma_run, sigma_stem=self.sigma_stem)
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        sidecar = path.with_name(f"{path.stem}.{digest[:12]}.npz")
        write_atomic(sidecar, data)
        self._card["draws"] = {"file": sidecar.name, "sha256": digest}
        write_json(path, self._card)
        return sidecar


def load_fit(path: str | Path) -> Fit:
    """The fit of a saved card. UserError when the card or its sidecar is missing, damaged or of another kind."""
    path = Path(path)
    try:
        card = read_json(path)
    except FileNotFoundError:
        raise UserError("fit", path, "there is no such card; write one with `scaling fit`") from None
    if not isinstance(card, dict) or card.get("kind") != "fit" or card.get("schema") != 1:
        raise UserError("fit", path, "this is not a fit card of schema 1; write one with `scaling fit`")
    sidecar = path.with_name(str(card["draws"]["file"]))
    if sidecar.parent != path.parent or not sidecar.is_file():
        raise UserError("draws", sidecar, "the sidecar must lie beside the card; fit again")
    data = sidecar.read_bytes()
    if hashlib.sha256(data).hexdigest() != card["draws"]["sha256"]:
        raise UserError("draws", sidecar, "the file is not the one that the card names; fit again")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return Fit(card, arrays["draws"], arrays["sigma_run"], arrays["sigma_stem"])
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError("draws", sidecar, f"it cannot be read ({error}); fit again") from None


def fit(
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

    ``objective``: auto (Huber adapted to the noise), squares, huber:<delta>, student or student:<nu>, each with raw:
    before it for residuals of the loss itself. ``fixed`` holds parameters at values, ``priors`` are normal ones,
    {name: (mean, standard deviation)}, on exponents, scales and the floor. ``scheme``: auto, or likelihood-t,
    profile-t, delta-t, bootstrap, bootstrap-runs, jackknife-t on request; ``all`` is auto with the intervals of the
    others on the card beside it. ``discrepancy``: auto (learned over real studies), off, or a scale of log loss per
    e-fold beyond the runs.
    ``weights``: none, seeds (``replicates.weights``) or a column of precisions. Deterministic in ``seed``.
    Raises UserError for too few rows or values, bad numbers, or rows that may not be fitted.
    """
    form, kind = _in_column(laws.get(law), runs.table), parse_objective(objective)
    fixed, priors = dict(fixed or {}), dict(priors or {})
    wrong = beyond_range.term(form.name, discrepancy)
    if not 0.5 <= level < 1:
        raise UserError("level", level, "give a probability from 0.5 to 1, such as 0.95")
    if seed < 0:
        raise UserError("seed", seed, "must be zero or more")
    if scheme not in (*SCHEMES, "all"):
        raise UserError("scheme", scheme, f"choose one of {', '.join(SCHEMES)}, all")
    table = _checked(runs, form, fixed)
    loss = table["loss"].to_numpy(dtype=np.float64)
    w, weighing = replicates.weights(weights, loss / loss.mean() if kind.raw else np.log(loss), table, form.columns)
    point = estimate(form, table, loss, kind, fixed=fixed, priors=priors, w=w)
    y = point.y
    how: dict[str, Any] = {"draws": DRAWS, "seed": seed, "level": level}
    inference = infer(point, y, table, scheme="auto" if scheme == "all" else scheme, **how)
    value, draws = inference.theta_hat, inference.theta
    params, derived = _numbers(form, inference, table, level)
    noise = _noise(point, inference, y, table)
    intervals = {**params, **{k: v for k, v in derived.items() if "value" in v}}
    ids = diagnose.names_of(table)
    influential = of_curves(point, y, inference) if form.curve else influence(point, y, ids)
    warnings = diagnose.diagnose(
        point, inference, y, table, level=level, noise=noise, influential=influential, intervals=intervals
    )
    warnings = [*runs.warnings, *diagnose.left_out(runs.dropped, table, form), *warnings]
    fitted = np.atleast_1d(form.predict(value, table))
    residual = np.log(table["loss"].to_numpy(dtype=np.float64)) - np.log(fitted)
    named = [c for c in dict.fromkeys(("N", "D", "C", "step", *form.columns)) if c in table and c not in _arrays(table)]
    card = {
        "schema": 1,
        "kind": "fit",
        "law": form.name,
        "formula": form.formula,
        "source": form.source,
        "params": params,
        "fixed": {k: float(v) for k, v in fixed.items()},
        "priors": {k: [float(v) for v in pair] for k, pair in priors.items()},
        "derived": derived,
        "derived_note": form.no_optimum or "C = 6 N D on the card's N",
        "interval": {
            "level": level,
            "scheme": inference.scheme,
            "df": inference.df,
            "reason": inference.reason,
            "asked": scheme,
        },
        "objective": {
            "name": kind.name,
            "delta": finite(point.delta),
            "value": point.value,
            "rms_log_residual": float(np.sqrt(np.mean(residual**2))),
        },
        "weights": weighing,
        "evaluation": _evaluation(table),
        "optima": point.optima,
        "warnings": _plain(warnings),
        "verdict": diagnose.verdict(form, intervals, warnings, noise, level),
        "conventions": dict(runs.conventions),
        "data": {
            "rows": len(table),
            "dropped": list(runs.dropped),
            "sha256": runs.sha256,
            "source": str(runs.source),
            "dataset": runs.dataset,
        },
        "scope": _scope(table),
        "noise": noise,
        "discrepancy": wrong,
        "throughput": _throughput(table),
        "runs": _rows(table, table.loc[:, named], loss=loss, fitted=fitted, residual_log=residual),
        "influence": _plain(influential),
        # Records of this house have tokens of their own; a table of someone's runs may have the published ones.
        "published": published.beside(form.name, intervals, same_loss="term" not in runs.conventions),
        "draws": {"file": None, "sha256": None},
        "seed": seed,
    }
    if w is not None:
        for row, weight in zip(card["runs"], w):
            row["weight"] = float(weight)
    if scheme == "all":
        card["schemes"] = {inference.scheme: _scheme(inference, params, derived)}
        for other in SCHEMES[1:]:
            grouped = inference.groups is not None and len(inference.groups.names) > 2
            if other not in card["schemes"] and (grouped or other not in ("bootstrap-runs", "jackknife-t")):
                at = infer(point, y, table, scheme=other, **how)
                card["schemes"][other] = _scheme(at, *_numbers(form, at, table, level))
    made = Fit(card, draws, inference.sigma, inference.sigma_stem)
    if (differs := approaches.disagreement(runs, made)) is not None:
        made.warnings.append(_plain(differs))
    return made


def _arrays(table: pd.DataFrame) -> set[str]:
    """Columns whose cells hold an array, as a law of whole schedules has them."""
    return {str(c) for c in table if len(table) and isinstance(table[c].iloc[0], np.ndarray)}


def _rows(table: pd.DataFrame, named: pd.DataFrame, **more: Array) -> list[dict[str, Any]]:
    runs = [str(v) for v in (table["run"].tolist() if "run" in table else table.index)]
    columns = {**{str(c): named[c].to_numpy(dtype=np.float64) for c in named}, **more}
    names = ("run", *columns)
    return [dict(zip(names, row)) for row in zip(runs, *(v.tolist() for v in columns.values()))]


def _throughput(table: pd.DataFrame) -> dict[str, list[float]] | None:
    """Tokens per second of one device by size, of a table that has them: what a budget of device hours needs."""
    if not {"N", "tokens_per_second"} <= set(table):
        return None
    speed: Any = pd.to_numeric(table["tokens_per_second"], errors="coerce")
    median = speed[np.isfinite(speed) & (speed > 0)].groupby(table["N"]).median()
    return {"N": [float(n) for n in median.index], "tokens_per_second": median.tolist()} if len(median) else None


def _numbers(law: Law, at: Inference, table: pd.DataFrame, level: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and derived numbers with the intervals of one scheme."""
    value, draws, tail = at.theta_hat, at.theta, [(1 - level) / 2, (1 + level) / 2]
    params = {}
    for i, p in enumerate(law.params):
        lo, hi = at.profiled.get(p.name) or np.quantile(draws[:, i], tail)
        params[p.name] = _cell(value[i], lo, hi, p.unit)
    return params, _derived(law, value, draws, table, tail, at.profiled)


def _scheme(at: Inference, params: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    """A scheme's intervals, for the card's comparison of schemes."""
    shown = {**params, **{k: v for k, v in derived.items() if "value" in v}}
    return {"df": at.df, "reason": at.reason, "intervals": shown}


def _evaluation(table: pd.DataFrame) -> dict[str, Any] | None:
    """The evaluation set's own error: common to all runs, so it moves the floor once and weighs no run."""
    if "loss_se" not in table:
        return None
    se = np.asarray(table["loss_se"], dtype=np.float64)
    se = se[np.isfinite(se)]
    note = (
        "of the loss on one evaluation set that all runs share: other text would have shifted every loss, and so the "
        "floor, by this much, once; it weighs no run and is in no interval"
    )
    return {"se": float(np.median(se)), "note": note} if len(se) else None


def _cell(value: float, lo: float, hi: float, unit: str) -> dict[str, Any]:
    """One number with its interval; null where an end is infinite."""
    ends = (min(lo, value), max(hi, value))
    return {
        "value": float(value),
        **{k: finite(v) if abs(v) < 1e290 else None for k, v in zip(("lo", "hi"), ends)},
        "unit": unit,
    }


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
            raise UserError("column", column, f"the table has {', '.join(map(str, table.columns))}{hint}")
        if column in _arrays(table):
            continue
        values = np.asarray(pd.to_numeric(pd.Series(table[column]), errors="coerce"), dtype=np.float64)
        bad = ~(np.isfinite(values) & ((values > 0) | (column in law.signed)))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            name = table["run"].iloc[row] if "run" in table else row
            raise UserError(f"{column} of row {name}", table[column].iloc[row], "a positive finite number is needed")
    if "role" in table:
        for role in ("holdout", "stem"):
            if bool((table["role"] == role).any()):
                raise UserError("role", role, "held-out and undecayed rows are never fitted; select other rows")
    if len(diagnose.levels(table["loss"], 1e-12)) < 2:
        raise UserError("loss", f"{table['loss'].iloc[0]} in every row", "there is nothing to fit")
    P = len(law.coordinates) - len(fixed)
    if P < 1:
        raise UserError("fixed", ", ".join(fixed), f"leaves nothing of law {law.name} to fit; leave a parameter free")
    if len(table) < P + 1:
        raise UserError("rows", len(table), f"law {law.name} has {P} free parameters and needs {P + 1} runs or more")
    for column in law.columns:
        if column not in (*_arrays(table), *law.steady) and len(diagnose.levels(table[column], 1e-6)) < 2:
            raise UserError(column, f"{table[column].iloc[0]} in every row", "vary it, or fit another law")
    return table


def _derived(
    law: Law, value: Array, draws: Array, table: pd.DataFrame, tail: list[float], profiled: Mapping[str, Any]
) -> dict[str, Any]:
    """a, b and tokens per parameter at three budgets from the largest compute on, C = 6 N D."""
    centre, spread = law.exponents(value), law.exponents(draws)
    if centre is None or spread is None:
        return {}
    out: dict[str, Any] = {}
    for name in ("a", "b"):
        seen = spread[name][np.isfinite(spread[name])]
        lo, hi = profiled.get(name) or (np.quantile(seen, tail) if len(seen) else (-math.inf, math.inf))
        out[name] = _cell(centre[name][0], lo, hi, "exponent") if np.isfinite(centre[name][0]) else None
    out = {k: v for k, v in out.items() if v}
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
            cells[f"{c:.0e}"] = _cell(ratio[j], lo, hi, "tokens/parameter")
    out["tokens_per_parameter"] = cells
    return out


def _noise(point: Any, inference: Any, y: Array, table: pd.DataFrame) -> dict[str, Any]:
    lack = replicates.pure_error(y, table, point)
    groups = inference.groups
    return {
        "sigma_run": inference.sigma_hat,
        "sigma_stem": inference.sigma_hat * math.sqrt(inference.rho),
        "sigma_stem_hi": float(np.quantile(inference.sigma_stem, 0.95)),
        "groups": None if groups is None else {"kind": groups.kind, "count": len(groups.names)},
        "pure_error": {"sd": lack["sd"], "df": lack["df"]},
        "lack_of_fit": {k: lack[k] for k in ("F", "df1", "df2", "p")},
    }


def _scope(table: pd.DataFrame) -> dict[str, Any]:
    out: dict[str, Any] = {"rows": len(table)}
    for c in ("C", "N", "D"):
        if c in table:
            values = np.asarray(table[c], dtype=np.float64)
            out[f"{c}_min"], out[f"{c}_max"] = float(values.min()), float(values.max())
    if "N" in table and "D" in table:
        out["ND_max"] = float(np.max(np.asarray(table["N"], np.float64) * np.asarray(table["D"], np.float64)))
    out["sizes"] = len(diagnose.levels(table["N"])) if "N" in table else None
    return out


def _plain(value: Any) -> Any:
    """JSON values: numpy scalars to Python's, not-finite numbers to null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    return finite(float(value)) if isinstance(value, (float, np.floating)) else value


def rank(fits: list[Fit]) -> list[dict[str, Any]]:
    """Laws fitted to the same losses, best first by AICc.

    Each {"law", "N", "parameters", "aicc", "delta_aicc", "rms_log_residual", "loo_rms", "rolling_rms",
    "rolling_crps", "lack_of_fit_p", "refuted"}. AICc uses the Huber loss with one threshold for all, that of the best
    fit. ``loo_rms`` leaves out each run in turn; ``rolling_rms`` fits the cheaper two thirds and scores the rest;
    ``rolling_crps`` scores whole forecasts of log loss over several cuts (``check.rolling``). None where too few
    runs remain. Raises UserError when the fits are not of the same losses.
    """
    if not fits:
        return []
    cards = [f.card() for f in fits]
    losses = [sorted((r["run"], r["loss"]) for r in c["runs"]) for c in cards]
    if any(other != losses[0] for other in losses):
        raise UserError("fits", len(fits), "laws are ranked on the same runs only; fit them to one table")
    scored = [_held_out(f, card) for f, card in zip(fits, cards)]
    n = len(losses[0])
    delta = max(HUBER_K * min(1.4826 * float(np.median(np.abs(r))) for r, _ in scored), 1e-12)
    out = []
    for f, card, (r, scores) in zip(fits, cards, scored):
        psi = np.clip(r, -delta, delta)
        q = max(float((psi * (r - 0.5 * psi)).sum()), 1e-300)
        k = len(f.law.params) - len(card["fixed"]) + 1
        aicc = n * math.log(2 * q / n) + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf)
        p = f.noise["lack_of_fit"]["p"]
        row = {
            "law": f.law.name,
            "N": f.conventions.get("N"),
            "parameters": k - 1,
            "aicc": finite(aicc),
            "rms_log_residual": float(np.sqrt(np.mean(r**2))),
            "lack_of_fit_p": p,
            "refuted": None if p is None else p < diagnose.REFUTED,
            **scores,
        }
        out.append(row)
    out.sort(key=lambda row: math.inf if row["aicc"] is None else row["aicc"])
    best = out[0]["aicc"]
    for row in out:
        row["delta_aicc"] = None if row["aicc"] is None or best is None else row["aicc"] - best
    return out


def _held_out(f: Fit, card: dict[str, Any]) -> tuple[Array, dict[str, float | None]]:
    """Residuals of the plain robust fit (a stem effect would absorb what a wrong law misses), and its two scores."""
    table = pd.DataFrame(card["runs"])
    kind = parse_objective(card["objective"]["name"].replace("huber:auto", "auto"))
    priors = card.get("priors") or {}
    w = table["weight"].to_numpy(dtype=np.float64) if card.get("weights") else None
    point = estimate(f.law, table, table["loss"], kind, fixed=card["fixed"], priors=priors, w=w)
    y = point.y
    out: dict[str, float | None] = {"loo_rms": None, "rolling_rms": None, "rolling_crps": None}
    out["rolling_crps"] = crossval.rolling(
        table, f.law, objective=kind, fixed=card["fixed"], priors=priors, setting=f.discrepancy["k"], seed=card["seed"]
    )["crps"]
    n = len(y)
    if n <= 400:
        z, _ = refit(point, y, w=1.0 - np.eye(n))
        miss = y - np.diagonal(point.surface.evaluate(z)[0])
        out["loo_rms"] = float(np.sqrt(np.mean(miss**2)))
    cost = table["C"] if "C" in table else table[f.law.columns[0]]
    order = np.argsort(cost.to_numpy(), kind="stable")
    below, above = table.iloc[order[: (2 * n) // 3]], table.iloc[order[(2 * n) // 3 :]]
    enough = len(below) > len(f.law.coordinates) - len(card["fixed"])
    if enough and len(above) and all(len(diagnose.levels(below[c], 1e-6)) > 1 for c in f.law.columns):
        part = estimate(f.law, below, below["loss"], kind, fixed=card["fixed"], priors=priors)
        miss = np.log(above["loss"].to_numpy()) - np.log(f.law.predict(part.theta, above))
        out["rolling_rms"] = float(np.sqrt(np.mean(miss**2)))
    return y - point.surface.evaluate(point.z[None])[0][0], out
