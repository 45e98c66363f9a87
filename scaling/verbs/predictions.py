"""predict: what a card says of a budget, and the seal of a study's forecasts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling.errors import UserError
from scaling.records import read_json
from scaling.verbs.show import interval, print_json, table

CONDITIONS = ("max_params", "tokens_per_parameter", "unique_tokens", "inference_tokens", "device_hours")


def predict(options: SimpleNamespace) -> int:
    """What a card says of a budget; or the seal of a study's forecasts."""
    if options.path.is_dir():
        return _seal(options)
    from analysis.allocate import optimal
    from analysis.discrepancy import term
    from analysis.fit import load_fit

    fitted = load_fit(options.path)
    if options.discrepancy != "auto":
        fitted.discrepancy = term(fitted.law.name, options.discrepancy)
    workdir = _workdir(options.path)
    asked = {"flops": options.flops, "params": options.params, "tokens": options.tokens}
    conditions = {name: getattr(options, name) for name in CONDITIONS if getattr(options, name) is not None}
    if conditions:
        answer = _conditional(fitted, workdir, asked, conditions, options)
    else:
        answer = optimal(fitted, **asked, level=options.level, force=options.force)
    answer["recipe"] = _rule(workdir, fitted, answer)
    if options.json:
        print_json(answer)
        return 0
    print(f"{answer['law']}, {answer['level']:.0%} intervals, {answer['extrapolation_ratio']:.3g} times the largest "
          "fitted compute")  # fmt: skip
    for name, label in (("N", "N"), ("D", "D"), ("tokens_per_parameter", "D/N"), ("flops", "FLOPs"), ("loss", "loss")):
        print(f"  {label:6} {interval(answer[name])}")
    if answer["recipe"]:
        rule = answer["recipe"]
        steps = f"batch {rule['batch']}, {rule['steps']:,} steps"
        print(f"  learning rate {rule['learning_rate']:.3g}, {steps}: {rule['note']}")
    rise = answer["sensitivity"]
    print(
        f"  2x off in N at this compute costs {rise['half_N']:.2%} (half) or {rise['double_N']:.2%} (twice) of the loss"
    )
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


def _workdir(card: Path) -> Path | None:
    """The study in whose fits/ a card lies."""
    card = card.resolve()
    return card.parent.parent if card.parent.name == "fits" and (card.parent.parent / "study.json").exists() else None


def _conditional(
    fitted: Any, workdir: Path | None, asked: dict[str, Any], conditions: dict[str, Any], options: SimpleNamespace
) -> dict[str, Any]:
    from analysis.spending import measured, spend

    for name in ("params", "tokens"):
        if asked[name] is not None:
            raise UserError(name, asked[name], f"cannot be given with --{next(iter(conditions))}; give --flops")
    throughput = None
    if "device_hours" in conditions and workdir is not None:
        throughput = measured(workdir, fitted.data.get("dataset"), fitted.conventions.get("n", "nonembedding"))
    return spend(
        fitted, flops=asked["flops"], throughput=throughput, level=options.level, force=options.force, **conditions
    )


def _rule(workdir: Path | None, fitted: Any, answer: dict[str, Any]) -> dict[str, Any] | None:
    """Learning rate, batch and steps by the rule of the study's recipe at the nearest size of its ladder."""
    if workdir is None:
        return None
    ladder = read_json(workdir / "study.json").get("ladder", {}).get(fitted.data.get("dataset")) or []
    count = f"N_{fitted.conventions.get('n', 'nonembedding')}"
    rows = [row for row in ladder if row.get(count)]
    if not rows:
        return None
    row = min(rows, key=lambda row: abs(math.log(row[count] / answer["N"]["value"])))
    steps = max(1, round(answer["D"]["value"] / (row["batch"] * row["context"])))
    return {
        "learning_rate": row["learning_rate"],
        "batch": row["batch"],
        "steps": steps,
        "size": row["size"],
        "fitted": False,
        "note": f"a rule, not fitted (the study's recipe at size {row['size']}, the nearest of its ladder)",
    }


def _seal(options: SimpleNamespace) -> int:
    from analysis import forecast

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
