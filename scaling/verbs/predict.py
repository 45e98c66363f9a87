"""predict: what a card says of a budget, and the seal of a study's forecasts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling.errors import UserError
from scaling.flags import Flag
from scaling.records import read_json
from scaling.verbs._declare import DISCREPANCY, JSON, LEVEL, Verb
from scaling.verbs.show import interval, print_json, study_of, table

CONDITIONS = ("max_params", "tokens_per_parameter", "unique_tokens", "inference_tokens", "device_hours")


def predict(options: SimpleNamespace) -> int:
    """What a card says of a budget; or the seal of a study's forecasts."""
    if options.path.is_dir():
        return _seal(options)
    from analysis.check.discrepancy import term
    from analysis.decide.allocate import optimal
    from analysis.fitting import load_fit

    fitted = load_fit(options.path)
    if options.discrepancy != "auto":
        fitted.discrepancy = term(fitted.law.name, options.discrepancy)
    inside = fitted
    if fitted.law.name == "lr_loss":  # every question of N and D is asked at the best rate
        fitted = fitted.reduced("chinchilla")
    workdir = study_of(options.path)
    asked = {"flops": options.flops, "params": options.params, "tokens": options.tokens}
    conditions = {name: getattr(options, name) for name in CONDITIONS if getattr(options, name) is not None}
    if conditions:
        answer = _conditional(fitted, workdir, asked, conditions, options)
    else:
        answer = optimal(fitted, **asked, level=options.level, force=options.force)
    answer["recipe"] = _rule(workdir, fitted, answer)
    answer |= {"law": inside.law.name, "learning_rate": _inside(inside, answer, options)}
    if options.json:
        print_json(answer)
        return 0
    print(f"{answer['law']}, {answer['level']:.0%} intervals, {answer['extrapolation_ratio']:.3g} times the largest "
          "fitted compute")  # fmt: skip
    for name, label in (("N", "N"), ("D", "D"), ("tokens_per_parameter", "D/N"), ("flops", "FLOPs"), ("loss", "loss")):
        print(f"  {label:6} {interval(answer[name])}")
    if (wrong := answer["discrepancy"]) and wrong["e_folds_beyond"] > 0:
        far = f"{wrong['e_folds_beyond']:.2g} e-folds beyond these runs"
        text = f"  discrepancy, {far}: {wrong['log_loss']:.2%} of the loss"
        print(text + (f", a factor of {math.exp(wrong['optimum']):.2g} of the optimum" if wrong["optimum"] else "")
              + " (t scales, in the intervals)")  # fmt: skip
    if found := answer["learning_rate"]:
        print(f"  best learning rate {interval(found['best'], 3)}, by the law")
        if "regret" in found:
            low, high = (f"{found['regret'][end]:.2%}" for end in ("lo", "hi"))
            print(f"  at {found['given']:.3g} the loss is {found['regret']['value']:.2%} ({low} to {high}) above that")
    if answer["recipe"]:
        rule = answer["recipe"]
        steps = f"batch {rule['batch']}, {rule['steps']:,} steps"
        print(f"  learning rate {rule['learning_rate']:.3g}, {steps}: {rule['note']}")
        for name, unit in (("learning_rate", ""), ("batch", " tokens")):
            if name in rule.get("best", {}):
                print(f"    best {name.replace('_', ' ')} {interval(rule['best'][name], 3)}{unit}, as tuned")
    rise = answer["sensitivity"]
    # where a condition binds one of them may be below zero
    print(f"  at this compute half of N changes the loss by {rise['half_N']:+.2%}, twice N by {rise['double_N']:+.2%}")
    for text in answer.get("notes", ()):
        print(f"  {text}")
    if answer.get("cost_of_condition") is not None:
        plain = answer["unconstrained"]
        print(f"  without the condition N {plain['N']:.4g}, D {plain['D']:.4g}; "
              f"it costs {answer['cost_of_condition']:.2%} of the loss")  # fmt: skip
    print(f"  N is {answer['conventions'].get('N', '?')}; cost: {answer['conventions']['cost']}")
    for entry in answer["warnings"]:
        print(f"  warning {entry['name']}: {entry['message']}")
    return 0


def _inside(fitted: Any, answer: dict[str, Any], options: SimpleNamespace) -> dict[str, Any] | None:
    """The best learning rate at the answer by a law that has it inside, and what a given one costs; else None."""
    rate = options.learning_rate
    if fitted.law.name != "lr_loss":
        if rate is not None:
            raise UserError("learning_rate", rate, f"law {fitted.law.name} holds none; fit lr_loss")
        return None
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise UserError("learning_rate", rate, "must be positive")
    from analysis.laws import hyper

    n, d = answer["N"]["value"], answer["D"]["value"]
    found = {"best": fitted.spread(lambda theta: hyper.best_learning_rate(theta, n, d)[..., 0], options.level)}
    if rate is not None:
        cell = {"N": n, "D": d, "learning_rate": rate}
        found |= {"given": rate, "regret": fitted.spread(lambda t: hyper.regret(t, cell)[..., 0], options.level)}
    return found


def _conditional(
    fitted: Any, workdir: Path | None, asked: dict[str, Any], conditions: dict[str, Any], options: SimpleNamespace
) -> dict[str, Any]:
    from analysis.decide.spending import measured, spend

    for name in ("params", "tokens"):
        if asked[name] is not None:
            raise UserError(name, asked[name], f"cannot be given with --{next(iter(conditions))}; give --flops")
    throughput = fitted.card().get("throughput")  # of a table that has it
    if "device_hours" in conditions and workdir is not None:
        throughput = measured(workdir, fitted.data.get("dataset"), fitted.conventions.get("n", "nonembedding"))
    return spend(
        fitted, flops=asked["flops"], throughput=throughput, level=options.level, force=options.force, **conditions
    )


def _rule(workdir: Path | None, fitted: Any, answer: dict[str, Any]) -> dict[str, Any] | None:
    """Learning rate, batch and steps by the recipe of the study, with intervals where `scaling tune` fitted it.

    Under a rule of N and D they are the rule's at the answer; else the recipe's at the nearest size of the ladder.
    """
    if workdir is None:
        return None
    from scaling import recipe

    study = read_json(workdir / "study.json")
    dataset = fitted.data.get("dataset")
    ladder = study.get("ladder", {}).get(dataset) or []
    count = f"N_{fitted.conventions.get('n', 'nonembedding')}"
    rows = [row for row in ladder if row.get(count)]
    if not rows:
        return None
    row = min(rows, key=lambda row: abs(math.log(row[count] / answer["N"]["value"])))
    rate, batch, tokens = row["learning_rate"], row["batch"], answer["D"]["value"]
    manifests = (spec["manifest"] for program in study["programs"] for spec in program["runs"])
    held = next((m["recipe"] for m in manifests if m["dataset"] == dataset and m["role"] == "fit"), {})
    rules = recipe.Recipe(**{k: v for k, v in held.items() if k in recipe.Recipe.__dataclass_fields__})
    # A rule counts non-embedding parameters, the card perhaps others.
    parameters = answer["N"]["value"] * row["N_nonembedding"] / row[count]
    note = f"a rule, not fitted (the study's recipe at size {row['size']}, the nearest of its ladder)"
    if rules.rule != "fixed":
        rules = recipe.resolve(rules, parameters, tokens, row["context"])
        rate, batch = rules.learning_rate, rules.batch
        note = f"rule {rules.name} at this N and D, not fitted"
    found: dict[str, Any] = {"learning_rate": rate, "batch": batch, "size": row["size"], "fitted": False, "note": note}
    found["steps"] = max(1, round(tokens / (batch * row["context"])))
    if (fit := study.get("tuned", {}).get(rules.tuned)) is not None:
        note = "tuned here" if rules.rule == "law" else "set by hand beside a tuned recipe"
        found |= {"fitted": rules.rule == "law", "note": note, "best": recipe.best(fit, parameters, tokens),
                  "regret": recipe.regret(fit, parameters, tokens, rate, batch * row["context"])}  # fmt: skip
        found["note"] += f"; regret {found['regret']['value']:.2%} of the loss, at most {found['regret']['hi']:.2%}"
    return found


def _seal(options: SimpleNamespace) -> int:
    from analysis.decide import forecast

    for name in ("flops", "params", "tokens", *CONDITIONS):
        if getattr(options, name) is not None:
            raise UserError(name, getattr(options, name), "needs a fit card; a study's own cells are sealed without it")
    result = forecast.seal(options.path)
    if options.json:
        print_json(result)
        return 0
    entry = result["entry"]
    print(result["message"])
    for dataset, power in entry["power"].items():
        print(f"expected power, {dataset}: {power['sentence']}")
    for cell in entry["cells"]:
        beyond = " and ".join(cell["beyond"]) or "nothing"
        print(f"\n{cell['run']}: {cell['compute_ratio']:.2g} times the largest fitted compute, beyond it in {beyond}")
        rows = [row for row in entry["forecasts"] if row["run"] == cell["run"]]
        columns: dict[str, Callable[[dict[str, Any]], object]] = {
            "forecaster": lambda row: row["forecaster"],
            "loss": lambda row: f"{row['value']:.4f}",
            "95 % interval": lambda row: "{:.4f} to {:.4f}".format(*row["interval95"]),
        }
        print("\n".join("  " + line for line in table(rows, columns)))
    return 0


VERB = Verb(
    summary="what to train for a compute budget, by a fit card; of a study: seal forecasts of its held-out runs",
    positional=("FIT.json|WORKDIR",),
    flags=(
        Flag("flops", float, "training compute in FLOPs"),
        Flag("params", float, "number of parameters N"),
        Flag("tokens", float, "number of training tokens D"),
        Flag("learning_rate", float, "of a law with a learning rate (lr_loss): what this one costs"),
        Flag("max_params", float, "with --flops: no more parameters than this"),
        Flag("tokens_per_parameter", float, "with --flops: train at this D/N, whatever is optimal"),
        Flag("unique_tokens", float, "with --flops: tokens of data there are; beyond them they repeat"),
        Flag("inference_tokens", float, "with --flops: tokens to be served; least compute of training and serving"),
        Flag("device_hours", float, "in place of --flops: hours of one device, at the measured speed of the runs"),
        LEVEL,
        DISCREPANCY,
        Flag("force", bool, "answer even where the fit does not support it; the answer says why not", False),
        JSON,
    ),
    example="scaling predict fit.json --flops=1e18",
    call=predict,
)
