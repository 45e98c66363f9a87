"""compare: laws of several work directories or cards beside one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling.errors import UserError
from scaling.flags import Flag
from scaling.records import read_json, records
from scaling.verbs._declare import JSON, LEVEL, Verb
from scaling.verbs.show import card_name, interval, pairs, print_json, study_of, table


def compare(options: SimpleNamespace) -> int:
    """Exponents, their differences and verdicts, the pooled values, and compute for equal loss where that means one."""
    from analysis.decide import compare as comparing

    if any((path / "manifest.json").is_file() for path in options.paths):
        return _paired(options)
    margins = pairs("margin", options.margin, float)
    if options.expected:
        return _power(options, margins)
    members = [member for path in options.paths for member in _members(path, options)]
    found = comparing.compare(_labelled(members), level=options.level, margins=margins, axis=options.axis)
    if options.json:
        print_json(found)
        return 0
    print("\n".join(_lines(found)))
    return 0


def _power(options: SimpleNamespace, margins: dict[str, float]) -> int:
    """What the comparison of planned studies can tell, before their runs."""
    from analysis.decide.compare import POWER, power

    names: list[tuple[str, str]] = []
    hopes: list[dict[str, Any]] = []
    for path in options.paths:
        remedy = "is no plan; write one with `scaling plan --config=FILE.py --json > PLAN.json`"
        try:
            plan = read_json(path)
            for dataset, hope in plan["hopes"].items():
                if options.dataset in (None, dataset):
                    hopes.append({key: hope[key] for key in ("half_widths", "level", "prior")})
                    names.append((f"{plan['study']} {dataset}", str(path)))
        except (OSError, KeyError, TypeError, AttributeError):
            raise UserError("compare", path, remedy) from None
    labels = _apart(names)
    if len(set(labels)) < len(labels):
        raise UserError("compare", ", ".join(labels), "one plan is given twice; give a copy of it under another name")
    found = power(dict(zip(labels, hopes)), level=options.level, margins=margins)
    if options.json:
        print_json(found)
        return 0
    shown: dict[str, Callable[[dict[str, Any]], object]] = {
        "exponent": lambda row: row["quantity"],
        "of": lambda row: f"{row['one']} - {row['two']}",
        f"± at {found['level']:.0%}": lambda row: _number(row["half_width"], ".2g"),
        f"seen by {POWER:.0%} from": lambda row: _number(row.get("seen"), ".2g"),
        "margin": lambda row: row["margin"],
        "equal ones shown equal": lambda row: _number(row.get("equal"), ".0%"),
    }
    print("\n".join([*table(found["pairs"], shown), *dict.fromkeys(found["priors"].values())]))
    return 0


def _number(value: float | None, style: str) -> str:
    return "too few runs" if value is None else format(value, style)


def _paired(options: SimpleNamespace) -> int:
    """Two runs of a study on the documents that both were evaluated on."""
    from analysis.decide.paired import difference

    if len(options.paths) != 2:
        raise UserError("compare", len(options.paths), "takes two run directories, or cards and work directories")
    for path in options.paths:
        if not (path / "manifest.json").is_file():
            raise UserError("compare", path, "is no run directory; give two of them, or cards and work directories")
    found = difference(*options.paths, level=options.level)
    if options.json:
        print_json(found)
        return 0
    for side in ("one", "two"):
        row = found[side]
        print(f"{row['run']}: {row['loss']:.5g}, standard error {row['se']:.2g}")
    print(f"difference of {found['unit']}: {interval(found['difference'])}, {found['level']:.0%}")
    print(f"  standard error {found['se']:.2g} paired over {found['documents']} documents, "
          f"{found['se_unpaired']:.2g} if they were not; of the evaluation alone, no seed's")  # fmt: skip
    return 0


def _apart(names: list[tuple[str, str]]) -> list[str]:
    """The shortest labels that tell things of these names and places apart."""
    short = [name for name, _ in names]
    return short if len(set(short)) == len(short) else [f"{name} of {place}" for name, place in names]


def _labelled(members: list[tuple[str, str, Any]]) -> list[Any]:
    """Members under the shortest names that tell them apart."""
    labels = _apart([(name, place) for name, place, _ in members])
    return [replace(member, label=label) for label, (_, _, member) in zip(labels, members)]


def _members(path: Path, options: SimpleNamespace) -> list[tuple[str, str, Any]]:
    """(short name, place, member) of a card, or of every data set of a work directory that has the card."""
    if not path.is_dir():
        return [(path.stem, str(path), _member(path, study_of(path)))]
    try:
        datasets = list(read_json(path / "study.json")["datasets"])
    except (FileNotFoundError, KeyError):
        raise UserError("workdir", path, "holds no study.json; give the directory of a study, or fit cards") from None
    if options.dataset is not None:
        if options.dataset not in datasets:
            raise UserError("dataset", options.dataset, f"is not in {path}; it has {', '.join(datasets)}")
        datasets = [options.dataset]
    cards = [path / "fits" / card_name(dataset, options.law, options.n) for dataset in datasets]
    there = [(d, c) for d, c in zip(datasets, cards) if c.exists()]
    if not there:
        raise UserError("fit", cards[0], f"there is no such card; make it with `scaling fit {path}`")
    return [(dataset, str(path), _member(card, path)) for dataset, card in there]


def _member(card: Path, workdir: Path | None) -> Any:
    from analysis.decide.compare import Member
    from analysis.fitting import load_fit

    fitted = load_fit(card)
    ratio, data = _measured(workdir, fitted) if workdir is not None else (None, None)
    return Member(card.stem, fitted, ratio, data)


def _measured(workdir: Path, fitted: Any) -> tuple[float | None, str | None]:
    """Bits per byte of one nat of the fitted loss, and the hash of its data; None where the runs do not agree."""
    runs = {row["run"] for row in fitted.card()["runs"]}
    ratios, hashes = set(), set()
    for record in records(workdir):
        if record.path.name not in runs or (result := record.result) is None:
            continue
        name = fitted.conventions.get("term") or record.manifest.get("headline", "loss")
        term = (result.get("evaluation") or {}).get(str(name)) or {}
        bits, value = term.get("bits_per_byte"), term.get("value")
        ratios.add(round(bits / value, 6) if bits and value else None)
        hashes.add((record.manifest.get("data") or {}).get("sha256"))
    ratio = ratios.pop() if len(ratios) == 1 else None
    return ratio, (hashes.pop() if len(hashes) == 1 else None)


def _lines(found: dict[str, Any]) -> list[str]:
    names = list(found["quantities"])
    rows = [
        {"member": m["label"], "law": m["law"], "runs": m["rows"],
         **{k: interval(found["quantities"][k]["members"].get(m["label"]), 3) for k in names}}
        for m in found["members"]
    ]  # fmt: skip
    pooled = {k: found["quantities"][k]["pooled"] for k in names}
    if pooled:
        rows.append({"member": "pooled", "law": "", "runs": "", **{k: interval(v, 3) for k, v in pooled.items()}})
    columns: dict[str, Callable[[dict[str, Any]], object]] = {
        key: (lambda row, key=key: row[key]) for key in ("member", "law", "runs", *names)
    }
    lines = [*table(rows, columns), "" if names else "no exponent means the same in these fits"]
    lines += [pair["sentence"] for k in names for pair in found["quantities"][k]["pairs"]]
    for k, cell in pooled.items():
        if cell["tau"] is not None:
            lines.append(f"pooled {k}: {interval(cell, 3)}, sd between members {cell['tau']:.2g}")
    for entry in found["equal_loss"]:
        head = f"compute for equal loss, {entry['two']} over {entry['one']}"
        if entry["status"] == "refused":
            lines.append(f"{head}: refused: {entry['reason']}; compare instead {'; '.join(entry['offers'])}")
            continue
        lines.append(f"{head} ({entry['axis']})")
        shown: dict[str, Callable[[dict[str, Any]], object]] = {
            "C": lambda row: f"{row['C']:.3g}",
            "loss": lambda row: f"{row['loss']:.4f}",
            "times the compute": lambda row: interval(row["compute_ratio"], 3),
        }
        lines += ["  " + line for line in table(entry["rows"], shown)]
    return lines


VERB = Verb(
    summary="compare fitted laws of several data sets, families or recipes, or the losses of two runs",
    positional=("FIT.json|WORKDIR|RUN...",),
    flags=(
        Flag("law", str, "which cards of a work directory", "chinchilla"),
        Flag("n", str, "what N counts in those cards", "nonembedding"),
        Flag("dataset", str, "data set of a work directory (default: every one with a card)"),
        Flag("margin", str, "differences that count as equal, such as 'a=0.05,alpha=0.1'"),
        Flag(
            "axis",
            str,
            "loss axis of equal-loss compute: auto (where losses are one quantity) or bits_per_byte",
            "auto",
        ),
        Flag("expected", bool, "compare plans (files of `plan --json`): which differences their runs can show", False),
        LEVEL,
        JSON,
    ),
    example="scaling compare one.json two.json",
    call=compare,
)
