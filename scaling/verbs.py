"""What each verb of the command line does: one function a verb, from its options to an exit status.

Heavy modules are imported by the verb that needs them; training happens in workers, never here.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling.errors import UserError
from scaling.status import SETTLED, StatusReader, activity, duration, headline, study_status

STANDARD = ("product", "product_floor", "chinchilla", "kaplan")
CONVENTIONS = ("nonembedding", "total")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def table(rows: Sequence[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], object]]) -> list[str]:
    """Lines of an aligned table: a title and a function of the row for each column. Numbers go to the right."""
    cells = [[str(show(row)) for show in columns.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(list(columns), *cells)]
    right = [all(re.fullmatch(r"[-+]?[\d.][\d.,e+%-]*|-?", cell) for cell in column) for column in zip(*cells)]
    right = right or [False] * len(columns)
    lines = []
    for line in [list(columns), *cells]:
        padded = (text.rjust(width) if end else text.ljust(width) for text, width, end in zip(line, widths, right))
        lines.append("  ".join(padded).rstrip())
    return lines


def _count(value: float) -> str:
    """A count for people: 6,144, 98.3k, 1.05M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    return f"{value:,.0f}"


def _interval(cell: dict[str, Any] | None, digits: int = 4) -> str:
    """``value [lo, hi]`` with open ends where they are not known."""
    if not cell or cell.get("value") is None:
        return "not identified"
    lo, hi = cell.get("lo"), cell.get("hi")
    ends = ("-inf" if lo is None else f"{lo:.{digits}g}", "inf" if hi is None else f"{hi:.{digits}g}")
    return f"{cell['value']:.{digits}g} [{ends[0]}, {ends[1]}]"


def _pairs(field: str, text: str | None, kind: type) -> dict[str, Any]:
    """``a=1,b=2`` as a dictionary."""
    found = {}
    for item in filter(None, (text or "").split(",")):
        name, sign, value = item.partition("=")
        try:
            found[name.strip()] = kind(value.strip())
        except ValueError:
            sign = ""
        if not sign or not value.strip():
            raise UserError(field, item, "must be NAME=VALUE[,NAME=VALUE ...]")
    return found


# --- plan, run, status


def default_workdir(name: str, argument: str | None) -> Path:
    """runs/NAME, or runs/NAME-ARGUMENT for an argument of the configuration that is not in its name already."""
    slug = re.sub(r"[^\w.-]+", "-", argument or "").strip("-")
    return Path("runs") / (name if not slug or name.endswith(f"-{slug}") else f"{name}-{slug}")


def _planned(options: SimpleNamespace) -> tuple[Any, Path]:
    from scaling import plan as plans
    from scaling import study as studies

    study = studies.resolve(options.config)
    workdir = Path(options.workdir) if options.workdir else default_workdir(study.name, options.argument)
    return plans.make(study, workdir if workdir.is_dir() else None), workdir


def plan(options: SimpleNamespace) -> int:
    """The cells of a study and their price. Writes nothing."""
    if options.config is None:
        raise UserError("config", "nothing", "give --config=FILE.py or the name of an installed experiment (demo)")
    made, workdir = _planned(options)
    rows, totals = made.rows(), made.totals
    if options.json:
        _print_json({"schema": 1, "kind": "plan", "study": made.study.name, "workdir": str(workdir), "cells": rows,
                     "totals": totals, "warnings": list(made.warnings)})  # fmt: skip
        return 0
    columns: dict[str, Callable[[dict[str, Any]], object]] = {
        "dataset": lambda row: row["dataset"],
        "role": lambda row: row["role"],
        "size": lambda row: row["size"],
        "N": lambda row: f"{row['N']:,}",
        "total": lambda row: f"{row['N_total']:,}",
        "D": lambda row: f"{row['D']:,}",
        "D/N": lambda row: f"{row['D'] / row['N']:.3g}",
        "steps": lambda row: f"{row['steps']:,}",
        "batch": lambda row: row["batch"],
        "lr": lambda row: f"{row['learning_rate']:.3g}",
        "seed": lambda row: row["seed"],
        "FLOPs": lambda row: f"{row['flops']:.3e}",
        "6ND": lambda row: f"{row['6ND']:.3e}",
        "seconds": lambda row: f"{row['seconds']:.1f}",
    }
    if any(row["cost"] for row in rows):
        columns["cost"] = lambda row: f"{row['cost']:.2f}"
    print("\n".join(table(rows, columns)))
    groups: dict[tuple[Any, ...], dict[str, int]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["size"]), row["groups"])
    names = list(dict.fromkeys(name for counts in groups.values() for name in counts))
    listed = [{"dataset": key[0], "size": key[1], **counts} for key, counts in groups.items()]
    print("\nparameters by group")
    shown = {name: (lambda row, name=name: row.get(name, "")) for name in ("dataset", "size", *names)}
    print("\n".join(table(listed, shown)))
    price = f", cost {totals['cost']:.2f}" if totals["cost"] else ""
    time = duration(totals["device_seconds"])
    print(f"\n{totals['cells']} cells in {totals['programs']} programs, {totals['flops']:.3e} FLOPs (a stem once)")
    print(f"about {time} of one CPU core{price}")
    for text in made.warnings:
        print(f"warning: {text}")
    return 0


def run(options: SimpleNamespace) -> int:
    """Trains what is not final. 0 all done; 1 some failed; 2 some were rejected; 130 after a Ctrl-C."""
    from scaling import launch
    from scaling.launch import worker
    from scaling.launch.progress import follow

    if options.config is not None:
        from scaling import plan as plans

        made, workdir = _planned(options)
        plans.write(made, workdir)
    elif options.workdir:
        workdir = Path(options.workdir)
    else:
        raise UserError("config", "nothing", "give --config=FILE.py, or --workdir of a study to continue")
    reader = StatusReader(workdir)
    if options.retry_failed:
        worker.reset(workdir, reader.programs)
    pending = [p for p in reader.programs if not all(worker.settled(workdir, spec) for spec in p["runs"])]
    given = {"workers": options.workers, "cache": options.cache, "execute": options.execute}
    engine = launch.engine(options.engine)(workdir, max_attempts=options.max_attempts, **given)
    signalled = problem = None
    if pending:
        engine.submit(pending)
        left = duration(reader.read(engine.size)["seconds"]["eta"])
        print(f"{reader.name}: {len(pending)} of {len(reader.programs)} programs to train on {engine.size} workers, "
              f"about {left}; {workdir}", file=sys.stderr, flush=True)  # fmt: skip
        signalled, problem = follow(engine, reader, sys.stderr)
    status = reader.read()
    if problem is not None and signalled is None:
        raise problem
    if options.json:
        _print_json(status)
    elif pending:
        print(headline(status))
    else:
        print(f"nothing to do: all {status['counts']['total']} runs of {workdir} are final")
    if signalled is not None:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130 if signalled == signal.SIGINT else 128 + signalled
    _print_failures(status, sys.stderr)
    return 2 if status["counts"]["rejected"] else 1 if status["counts"]["failed"] else 0


def _print_failures(status: dict[str, Any], stream: Any) -> None:
    reasons: dict[tuple[str, str], list[str]] = {}
    for failure in status["failures"]:
        reasons.setdefault((failure["status"], failure["reason"]), []).append(failure["run"])
    for (state, reason), runs in reasons.items():
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        print(f"{state}: {runs[0]}{more}: {reason}", file=stream)
    if status["retry"]:
        print(f"to train them again: {status['retry']}", file=stream)


def status(options: SimpleNamespace) -> int:
    """What is done and what is left."""
    found = study_status(options.path)
    if options.json:
        _print_json(found)
        return 0
    columns: dict[str, Callable[[dict[str, Any]], object]] = {
        "run": lambda row: row["run"],
        "role": lambda row: row["role"],
        "N": lambda row: f"{row['N']:,}",
        "D": lambda row: f"{row['D']:,}",
        "state": lambda row: row["state"],
        "step": lambda row: f"{row['step']}/{row['steps']}",
        "loss": lambda row: "sealed" if row["hidden"] else "" if row["loss"] is None else f"{row['loss']:.4f}",
        "se": lambda row: "" if row["se"] is None else f"{row['se']:.4f}",
        "seconds": lambda row: f"{row['seconds']:.1f}",
        "attempts": lambda row: row["attempts"],
    }
    print("\n".join(table(found["runs"], columns)))
    print()
    print(headline(found))
    for line in activity(found):
        print(f"  {line}")
    flops, seconds = found["flops"], found["seconds"]
    print(f"spent {flops['done']:.3e} of {flops['total']:.3e} FLOPs, {duration(seconds['spent'])} of device time; "
          f"left {duration(seconds['left'])}")  # fmt: skip
    if any(row["hidden"] and row["state"] in SETTLED for row in found["runs"]):
        print(f"held-out losses stay sealed until `scaling predict {options.path}`")
    _print_failures(found, sys.stdout)
    for text in found["warnings"]:
        print(f"warning: {text}")
    return 0


# --- fit, predict


def fit(options: SimpleNamespace) -> int:
    """Fits laws and writes their cards."""
    from analysis import runs as tables
    from analysis.laws import get

    path, study = options.path, options.path.is_dir()
    wanted = options.law or ("all" if study else "chinchilla")
    laws = STANDARD if wanted == "all" else (get(wanted).name,)
    conventions = (options.n,) if options.n else CONVENTIONS if study and wanted == "all" else ("nonembedding",)
    datasets: Iterable[str | None] = (options.dataset,)
    if study and options.dataset is None and wanted == "all":
        datasets = tables.datasets(path)
    batch = _Fits(options, many=len(laws) > 1 or len(conventions) > 1)
    for dataset in datasets:
        for n in conventions:
            batch.fit(dataset, n, laws)
    cards, written, approaches, skipped = batch.cards, batch.written, batch.approaches, batch.skipped
    many = batch.many
    if not cards:
        raise skipped[0]
    if options.json:
        whole = {"schema": 1, "kind": "fits", "fits": cards, "approaches": approaches, "files": written,
                 "skipped": [str(error) for error in skipped]}  # fmt: skip
        _print_json(whole if many else cards[0])
        return 0
    if many:
        print("\n".join(table(cards, FIT_COLUMNS)))
        print("* not identified at this scale; the cards hold every number, warning and verdict")
    else:
        print("\n".join(_card_lines(cards[0])))
    for result in approaches:
        print(f"approaches 1, 2, 3 on {result['data']['dataset'] or path} (N {result['n']}): {result['verdict']}")
    for error in skipped:
        print(f"not fitted: {error}")
    if written:
        print(f"written: {written[0]}" + (f" and {len(written) - 1} more" if len(written) > 1 else ""))
    if batch.fresh:
        print(f"up to date: {batch.fresh} of {len(cards)} cards are of these runs already")
    return 0


def _short(card: dict[str, Any], name: str) -> str:
    cell = card["params"].get(name) or card["derived"].get(name)
    if not cell or cell.get("value") is None:
        return "-"
    open_ended = any(w["name"] == "not_identified" and w.get("quantity", name) == name for w in card["warnings"])
    return _interval(cell, 3) + ("*" if open_ended else "")


def _refuted(card: dict[str, Any]) -> str:
    p = ((card["noise"].get("lack_of_fit") or {}).get("p")) if card["noise"] else None
    named = any(w["name"] == "refuted" for w in card["warnings"])
    return "-" if p is None else f"{'yes' if named else 'no'} (p {p:.2g})"


FIT_COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "data": lambda card: card["data"]["dataset"] or card["data"]["source"],
    "law": lambda card: card["law"],
    "N": lambda card: card["conventions"].get("n", "-"),
    "runs": lambda card: card["data"]["rows"],
    "residual": lambda card: f"{card['objective']['rms_log_residual']:.2%}",
    "refuted by seed noise": _refuted,
    "floor E": lambda card: _short(card, "E"),
    "a (N_opt ~ C^a)": lambda card: _short(card, "a"),
}


class _Fits:
    """Fits, cards and files of one call. Where several fits were asked for, one that cannot be made is skipped.

    Attributes:
      cards, written, approaches, skipped: what came of it so far.
      fresh: cards that were there already, of the same runs and request.
    """

    def __init__(self, options: SimpleNamespace, *, many: bool):
        self.options, self.many = options, many
        self.cards: list[dict[str, Any]] = []
        self.written: list[str] = []
        self.approaches: list[dict[str, Any]] = []
        self.skipped: list[UserError] = []
        self.fresh = 0
        self._card = Path(options.out) if options.out and not many else None
        self._folder = Path(options.out) if options.out else options.path / "fits" if options.path.is_dir() else None
        self._fixed = _pairs("fixed", options.fixed, float)
        self._columns = _pairs("columns", options.columns, str)
        if self._columns and options.path.is_dir():
            raise UserError("columns", options.columns, "is for tables; the columns of a study have their names")

    def fit(self, dataset: str | None, n: str, names: Sequence[str]) -> None:
        """Fits the laws to one data set under one convention, and compares the three approaches."""
        from analysis import runs as tables
        from analysis.approaches import compare_approaches
        from analysis.fit import fit as fit_law
        from scaling.records import write_json

        options, chinchilla, fresh = self.options, None, 0
        try:
            more = {"columns": self._columns} if self._columns else {}
            found = tables.load(options.path, where=options.where, dataset=dataset, n=n, **more)
        except UserError as error:
            return self._skip(error)
        label = found.dataset or options.path.stem
        for law in names:
            target = self._card or (self._folder and self._folder / _safe(f"{label}-{law}-{n}.json"))
            if self.many and target and (known := self._known(target, found, law)):
                self.cards.append(known)
                fresh += 1
                continue
            try:
                fitted = fit_law(found, law, objective=options.objective, level=options.level, fixed=self._fixed)
            except UserError as error:
                self._skip(UserError(error.field, error.value, f"{error.remedy} ({label}, {law}, N {n})"))
                continue
            chinchilla = fitted if law == "chinchilla" else chinchilla
            if target:
                fitted.save(target)
                self.written.append(str(target))
            self.cards.append(fitted.card())
        self.fresh += fresh
        if self.many and chinchilla is not None:
            result = {**compare_approaches(found, chinchilla, level=options.level), "n": n}
            self.approaches.append(result)
            if self._folder:
                write_json(self._folder / _safe(f"{label}-approaches-{n}.json"), result)

    def _known(self, target: Path, found: Any, law: str) -> dict[str, Any] | None:
        """The card at ``target`` if it is of these runs and this request, and its draws are intact."""
        from analysis.estimate import objective
        from analysis.fit import load_fit

        if not target.exists():
            return None
        try:
            card = load_fit(target).card()
        except UserError:
            return None  # damaged: fit again
        asked = (law, found.sha256, self.options.level, objective(self.options.objective).name, self._fixed)
        made = (card["law"], card["data"]["sha256"], card["interval"]["level"], card["objective"]["name"])
        return card if (*made, card["fixed"]) == asked and card["conventions"] == found.conventions else None

    def _skip(self, error: UserError) -> None:
        if not self.many:
            raise error
        self.skipped.append(error)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _card_lines(card: dict[str, Any]) -> list[str]:
    """A fit card for people."""
    data, interval = card["data"], card["interval"]
    title = f"{data['dataset'] or data['source']}: {card['law']}  {card['formula']}"
    lines = [title, f"  {data['rows']} runs; N is {card['conventions'].get('N', '?')}"]
    for name, cell in card["params"].items():
        lines.append(f"  {name:8} {_interval(cell)}  {cell.get('unit') or ''}".rstrip())
    for name, what in (("a", "N"), ("b", "D")):
        if card["derived"].get(name):
            lines.append(f"  {name:8} {_interval(card['derived'][name])}  exponent of C in the optimal {what}")
    for budget, cell in (card["derived"].get("tokens_per_parameter") or {}).items():
        lines.append(f"  D/N at {budget} FLOPs: {_interval(cell, 3)}")
    residual = card["objective"].get("rms_log_residual")
    quality = "" if residual is None else f", residual {residual:.2%}"
    how = f"{interval['level']:.0%} intervals by {interval['scheme']}, objective {card['objective']['name']}"
    lines.append(f"  {how}{quality}")
    lines.append(f"  {len(card['optima'])} close optima, {len(data['dropped'])} rows dropped")
    lines += [f"    dropped {row['row']}: {row['reason']}" for row in data["dropped"][:5]]
    lines += [f"  warning {entry['name']}: {entry['message']}" for entry in card["warnings"]]
    return [*lines, f"  {card['verdict']}"]


def predict(options: SimpleNamespace) -> int:
    """What a card says of a budget; or the seal of a study's forecasts."""
    if options.path.is_dir():
        return _seal(options)
    from analysis.allocate import optimal
    from analysis.fit import load_fit

    fitted = load_fit(options.path)
    asked = {"flops": options.flops, "params": options.params, "tokens": options.tokens}
    answer = optimal(fitted, **asked, level=options.level, force=options.force)
    if options.json:
        _print_json(answer)
        return 0
    print(f"{answer['law']}, {answer['level']:.0%} intervals, {answer['extrapolation_ratio']:.3g} times the largest "
          "fitted compute")  # fmt: skip
    for name, label in (("N", "N"), ("D", "D"), ("tokens_per_parameter", "D/N"), ("flops", "FLOPs"), ("loss", "loss")):
        print(f"  {label:6} {_interval(answer[name])}")
    print(f"  N is {answer['conventions'].get('N', '?')}; cost: {answer['conventions']['cost']}")
    for entry in answer["warnings"]:
        print(f"  warning {entry['name']}: {entry['message']}")
    return 0


def _seal(options: SimpleNamespace) -> int:
    from analysis import forecast

    for name in ("flops", "params", "tokens"):
        if getattr(options, name) is not None:
            raise UserError(name, getattr(options, name), "needs a fit card; a study's own cells are sealed without it")
    result = forecast.seal(options.path)
    if options.json:
        _print_json(result)
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


# --- report, plot, laws


def report(options: SimpleNamespace) -> int:
    """Writes the report and prints its short form: the law, what it predicts, how the sealed forecasts came out."""
    workdir = _study(options.path)
    from analysis import forecast, sealed
    from analysis.report import summary, write

    path = write(workdir, Path(options.out) if options.out else None)
    if options.json:
        verdict = forecast.score(workdir)["verdict"] if sealed.read(workdir) else None
        _print_json({"schema": 1, "kind": "report", "path": str(path), "forecasts": verdict})
        return 0
    print(summary(workdir))
    return 0


def plot(options: SimpleNamespace) -> int:
    """Writes the figures of a study or of one fit card."""
    from analysis.plots import save_all, save_fit

    path = options.path
    out = Path(options.out) if options.out else (path if path.is_dir() else path.parent) / "figures"
    paths = save_all(path, out) if path.is_dir() else save_fit(path, out)
    if options.json:
        _print_json({"schema": 1, "kind": "plots", "paths": [str(each) for each in paths]})
        return 0
    print("\n".join(map(str, paths)))
    return 0


def _study(path: Path) -> Path:
    if not path.is_dir():
        raise UserError("workdir", path, "does not exist; give the directory of a study")
    return path


def laws(options: SimpleNamespace) -> int:
    """The functional forms."""
    from analysis.laws import REGISTRY

    if options.json:
        _print_json([
            {"name": law.name, "formula": law.formula, "columns": list(law.columns), "source": law.source,
             "no_optimum": law.no_optimum,
             "params": [{"name": p.name, "unit": p.unit, "meaning": p.meaning} for p in law.params]}
            for law in REGISTRY.values()
        ])  # fmt: skip
        return 0
    for law in REGISTRY.values():
        print(f"{law.name:14} {law.formula}\n{'':14} {law.source}")
        for parameter in law.params:
            print(f"{'':16} {parameter.name:8} {parameter.meaning}, {parameter.unit}")
    return 0
