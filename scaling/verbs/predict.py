"""predict: what to train for a budget, from a card; or seals the forecasts of a study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records import read_study
from scaling.records.typed import plain
from scaling.verbs._declare import DISCREPANCY, JSON, LEVEL, Verb
from scaling.verbs.show import interval, print_json, study_of, table

if TYPE_CHECKING:
    from analysis.card import Interval
    from analysis.decide.allocate import Allocation
    from analysis.decide.pool import Forecast
    from analysis.fitting import Fit
    from analysis.table.seal import Forecast as Sealed
    from scaling.records.types import LadderRow, StudyRecord

CELL = ("flops", "params", "tokens", "loss", "x")
CONDITIONS = ("max_params", "tokens_per_parameter", "unique_tokens", "inference_tokens", "device_hours")


@dataclass(frozen=True)
class Rate:
    """The best learning rate under a law that has one, and the relative loss increase (regret) at a ``given`` one."""

    best: Interval
    given: float | None = None
    regret: Interval | None = None


@dataclass(frozen=True)
class RecipeAt:
    """Learning rate, batch (sequences) and steps that the study's recipe sets at the answered N and D.

    Attributes:
      size: the nearest size of the study's ladder.
      fitted: whether they come from a rule fitted by ``scaling tune``.
      note: where they come from, in words.
      best: for a tuned recipe, its best learning rate and batch (tokens).
      regret: for a tuned recipe, the relative loss increase over the best.
    """

    learning_rate: float
    batch: int
    size: int
    steps: int
    fitted: bool
    note: str
    best: dict[str, Interval] = field(default_factory=dict)
    regret: Interval | None = None


def predict(options: SimpleNamespace) -> int:
    """Prints what to train for a budget, from a card; or seals the forecasts of a study."""
    if options.path.is_dir():
        return _seal(options)
    from analysis import laws
    from analysis.check.discrepancy import term
    from analysis.decide.chain import through
    from analysis.fitting import load_fit
    from analysis.show.allocations import allocation, chained, several

    whole = load_fit(options.path)
    if options.discrepancy != "auto":
        whole = whole.with_discrepancy(term(whole.law.name, options.discrepancy))
    at_best = laws.reduced(whole.law)  # answers in N and D assume the best hyperparameter
    fitted = whole if at_best is None else whole.reduced(at_best)
    if options.x is not None:
        return _at_x(whole, options)
    workdir, steps = study_of(options.path), _steps(options)
    answer = _answer(fitted, workdir, options)
    recipe, rate = _recipe(workdir, fitted, answer), _rate(whole, answer, options)
    together = _together(whole, answer)
    cell = {"N": answer.N.value, "D": answer.D.value, "C": answer.flops.value}
    chain = through(fitted, cell, steps, attempts=options.attempts, level=options.level) if steps else None
    if options.json:
        more = {"law": whole.law.name, "recipe": recipe, "learning_rate": rate, "forecast": together, "through": chain}
        print_json({**plain(answer), **more})
        return 0
    more_lines = [*_rate_lines(rate), *_recipe_lines(recipe), *several(together), *chained(chain)]
    print("\n".join(allocation(answer, whole.law.name, more_lines)))
    return 0


def _together(whole: Fit, answer: Allocation) -> Forecast | None:
    """The default forecast at the answer: by several laws, where it lies beyond the runs of a fit of the default law
    and the user has not chosen another error for that law."""
    from analysis import laws
    from analysis.decide.pool import FEWEST, pool

    beyond = answer.discrepancy is not None and answer.discrepancy.e_folds_beyond > 0 and not whole.card.offset
    default = whole.law.name == laws.default().name and whole.discrepancy.setting == "auto"
    if not (beyond and default and len(whole.runs) >= FEWEST):
        return None
    flops = answer.flops.value if "C" in whole.columns else None
    return pool(whole).at(answer.N.value, answer.D.value, flops, level=answer.level)


def _at_x(fitted: Fit, options: SimpleNamespace) -> int:
    """Prints the loss at a value of the column of a law of one variable."""
    from analysis.decide.chain import through
    from analysis.decide.one_variable import at_value
    from analysis.show.allocations import chained, point

    _alone("x", options)
    steps = _steps(options)
    answer = at_value(fitted, options.x, level=options.level)
    cell = {answer.column: answer.x}
    chain = through(fitted, cell, steps, attempts=options.attempts, level=options.level) if steps else None
    if options.json:
        print_json({**plain(answer), "through": chain} if steps else answer)
    else:
        print("\n".join([*point(answer), *chained(chain)]))
    return 0


def _steps(options: SimpleNamespace) -> list[Fit]:
    """The fits of ``--through``, in order. UserError for attempts without them."""
    from analysis.fitting import load_fit

    paths = [text.strip() for text in (options.through or "").split(",") if text.strip()]
    if not paths and options.attempts is not None:
        raise UserError("attempts", options.attempts, "is for a law of attempts; name its card with --through")
    return [load_fit(path) for path in paths]


def _alone(flag: str, options: SimpleNamespace) -> None:
    """UserError where another number is given beside ``flag``, which determines all of them."""
    others = (name for name in (*CELL, *CONDITIONS) if name != flag and getattr(options, name) is not None)
    if other := next(others, None):
        remedy = f"cannot be given with --{flag}; give one of them"
        raise UserError(other, getattr(options, other), remedy, Code.CONFLICT)


def _answer(fitted: Fit, workdir: Path | None, options: SimpleNamespace) -> Allocation:
    from analysis.decide.allocate import optimal
    from analysis.decide.spending import Budget, measured, spend

    conditions = {name: getattr(options, name) for name in CONDITIONS if getattr(options, name) is not None}
    more = {"level": options.level, "force": options.force}
    if options.loss is not None:
        from analysis.decide.target_loss import reaching

        _alone("loss", options)
        return reaching(fitted, options.loss, **more)
    if not conditions:
        return optimal(fitted, flops=options.flops, params=options.params, tokens=options.tokens, **more)
    for name in ("params", "tokens"):
        if (value := getattr(options, name)) is not None:
            raise UserError(
                name, value, f"cannot be given with --{next(iter(conditions))}; give --flops", Code.CONFLICT
            )
    throughput = fitted.card.throughput  # of a table that has the column
    if "device_hours" in conditions and workdir is not None:
        throughput = measured(workdir, fitted.data.dataset, fitted.conventions.n or "nonembedding")
    return spend(fitted, Budget(flops=options.flops, throughput=throughput, **conditions), **more)


# --- hyperparameters at the answer


def _rate(fitted: Fit, answer: Allocation, options: SimpleNamespace) -> Rate | None:
    """Best learning rate at the answer, with the regret of a given one; None if the law has no learning rate."""
    given, tuning = options.learning_rate, fitted.law.tuning
    if tuning is None:
        if given is not None:
            remedy = f"law {fitted.law.name} has no learning rate; fit one that does (see `scaling laws`)"
            raise UserError("learning_rate", given, remedy, Code.UNSUPPORTED)
        return None
    if given is not None and not (given > 0 and math.isfinite(given)):
        raise UserError("learning_rate", given, "must be positive")
    cell = {"N": answer.N.value, "D": answer.D.value}
    best = fitted.spread(lambda theta: tuning.best(theta, cell)[..., 0], options.level)
    if given is None:
        return Rate(best)
    there = {**cell, tuning.column: given}
    return Rate(best, given, fitted.spread(lambda theta: tuning.regret(theta, there)[..., 0], options.level))


def _rate_lines(rate: Rate | None) -> list[str]:
    if rate is None:
        return []
    lines = [f"  best learning rate {interval(rate.best, 3)}, by the law"]
    if rate.regret is not None:
        ends = f"{rate.regret.lo:.2%} to {rate.regret.hi:.2%}"
        lines.append(f"  at {rate.given:.3g} the loss is {rate.regret.value:.2%} ({ends}) above that")
    return lines


def _recipe(workdir: Path | None, fitted: Fit, answer: Allocation) -> RecipeAt | None:
    """Learning rate, batch and steps from the study's recipe, with intervals if `scaling tune` fitted it.

    A rule in N and D is evaluated at the answer; otherwise they are those of the nearest size of the ladder.
    """
    if workdir is None or fitted.conventions.n not in ("nonembedding", "total"):
        return None
    study, dataset = read_study(workdir), fitted.data.dataset or ""
    rows = {_size(row, fitted.conventions.n): row for row in study.ladder.get(dataset, ())}
    if not rows:
        return None
    n, tokens = answer.N.value, answer.D.value
    size = min(rows, key=lambda size: abs(math.log(size / n)))
    row = rows[size]
    # rules take non-embedding parameters; the N of the card may count others
    return _at(study, dataset, row, n * row.N_nonembedding / size, tokens)


def _size(row: LadderRow, n: str) -> int:
    return row.N_total if n == "total" else row.N_nonembedding


def _at(study: StudyRecord, dataset: str, row: LadderRow, parameters: float, tokens: float) -> RecipeAt:
    from scaling import recipe

    manifests = (spec.manifest for program in study.programs for spec in program.runs)
    resolved = next((m.recipe for m in manifests if m.dataset == dataset and m.role == "fit"), {})
    rules = recipe.Recipe(**{k: v for k, v in resolved.items() if k in recipe.Recipe.__dataclass_fields__})
    rate, batch = row.learning_rate, row.batch
    note = f"a rule, not fitted (the study's recipe at size {row.size}, the nearest on its ladder)"
    if rules.rule != "fixed":
        rules = recipe.resolve(rules, parameters, tokens, row.context)
        rate, batch = rules.learning_rate, rules.batch
        note = f"rule {rules.name} at this N and D, not fitted"
    steps = max(1, round(tokens / (batch * row.context)))
    if (fit := study.tuned.get(rules.tuned)) is None:
        return RecipeAt(rate, batch, row.size, steps, False, note)
    regret = _interval(recipe.regret(fit, parameters, tokens, rate, batch * row.context))
    note = "tuned here" if rules.rule == "law" else "set by hand beside a tuned recipe"
    note += f"; regret {regret.value:.2%} of the loss, at most {regret.hi:.2%}"
    best = {name: _interval(cell) for name, cell in recipe.best(fit, parameters, tokens).items()}
    return RecipeAt(rate, batch, row.size, steps, rules.rule == "law", note, best, regret)


def _interval(cell: Mapping[str, float]) -> Interval:
    from analysis.card import Interval

    return Interval(value=cell["value"], lo=cell["lo"], hi=cell["hi"])


def _recipe_lines(recipe: RecipeAt | None) -> list[str]:
    if recipe is None:
        return []
    units = {"learning_rate": "", "batch": " tokens"}
    return [
        f"  learning rate {recipe.learning_rate:.3g}, batch {recipe.batch}, {recipe.steps:,} steps: {recipe.note}",
        *(
            f"    best {name.replace('_', ' ')} {interval(cell, 3)}{units[name]}, as tuned"
            for name, cell in recipe.best.items()
        ),
    ]


# --- the seal


def _seal(options: SimpleNamespace) -> int:
    from analysis.decide import forecast
    from analysis.show.answers import forecaster, sentence

    for name in (*CELL, *CONDITIONS, "through", "attempts"):
        if getattr(options, name) is not None:
            raise UserError(
                name, getattr(options, name), "is for a fit card; sealing a study's forecasts does not take it"
            )
    result = forecast.seal(options.path)
    if options.json:
        print_json(result)
        return 0
    entry = result.entry
    print(sentence(result))
    for dataset, power in entry.power.items():
        print(f"expected power, {dataset}: {sentence(power)}")
    columns: dict[str, Callable[[Sealed], object]] = {
        "forecaster": lambda row: forecaster(row.forecaster),
        "loss": lambda row: f"{row.value:.4f}",
        "95 % interval": lambda row: "{:.4f} to {:.4f}".format(*row.interval95),
    }
    for cell in entry.cells:
        beyond = " and ".join(cell.beyond) or "nothing"
        print(f"\n{cell.run}: {cell.compute_ratio:.2g} times the largest fitted compute, beyond it in {beyond}")
        rows = [row for row in entry.forecasts if row.run == cell.run]
        print("\n".join("  " + line for line in table(rows, columns)))
    return 0


VERB = Verb(
    summary="say what to train for a compute budget; or seal forecasts of a study's held-out runs",
    positional=("FIT.json|WORKDIR",),
    flags=(
        Flag("flops", float, "training compute in FLOPs"),
        Flag("params", float, "number of parameters N"),
        Flag("tokens", float, "number of training tokens D"),
        Flag("loss", float, "a target: show the least compute that reaches this loss, with its N and D"),
        Flag("x", float, "for a law of one variable: the value of its column"),
        Flag("through", str, "cards of further laws, such as error.json,pass.json: loss to error to pass@k"),
        Flag("attempts", float, "with --through: k, for a law that has it (pass_at_k)"),
        Flag("learning_rate", float, "for a law of the learning rate (`scaling laws`): show the regret of this one"),
        Flag("max_params", float, "with --flops: at most this many parameters"),
        Flag("tokens_per_parameter", float, "with --flops: train at this D/N instead of the optimal one"),
        Flag("unique_tokens", float, "with --flops: unique tokens available; training beyond them repeats data"),
        Flag("inference_tokens", float, "with --flops: tokens to serve; minimises training plus serving compute"),
        Flag("device_hours", float, "instead of --flops: hours on one device, at the measured speed of the runs"),
        LEVEL,
        DISCREPANCY,
        Flag("force", bool, "answer even if the fit does not support it; the answer then says why not", False),
        JSON,
    ),
    example="scaling predict fit.json --flops=1e18",
    call=predict,
)
