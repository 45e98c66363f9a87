"""gate: how much compute a change saves, the runs of a variant against the law of its base."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records import records
from scaling.verbs._declare import JSON, LEVEL, Verb
from scaling.verbs.show import pairs, print_json

if TYPE_CHECKING:
    from analysis.decide.gate import Side
    from analysis.table.runs import Runs

COUNT = 1000  # a number of runs is below it, a budget in FLOPs above


def gate(options: SimpleNamespace) -> int:
    """Prints the compute multiplier of a variant with its verdict; of a base alone the power of a gate against it."""
    from analysis.decide import gate as gating
    from analysis.show import gate_sentences

    if len(options.paths) > 2:
        raise UserError("gate", len(options.paths), "give one base and one variant; gate each variant by itself")
    if len(options.paths) == 1 and options.power is None:
        remedy = "give the VARIANT too, or --power=RUNS for what a gate against this base could tell"
        raise UserError("gate", options.path, remedy, Code.MISSING)
    asked = {"margin": options.margin, "level": options.level, "floor": options.floor}
    base, *variants = _sides(options)
    if not variants:
        plan = gating.plan(base, _budgets(options.power), **asked)
        return _print(options, plan, gate_sentences.plan(plan))
    if options.power is not None:
        remedy = "is for a base alone, before the runs; a gate prints the power of its own runs"
        raise UserError("power", options.power, remedy, Code.CONFLICT)
    found = gating.gate(base, variants[0], **asked)
    return _print(options, found, gate_sentences.gate(found))


def _print(options: SimpleNamespace, answer: object, lines: list[str]) -> int:
    if options.json:
        print_json(answer)
    else:
        print("\n".join(lines))
    return 0


def _sides(options: SimpleNamespace) -> list[Side]:
    """The runs of each path, labelled with its name, or with the path where two names are one."""
    from analysis.api import load
    from analysis.decide.gate import LAW, Side

    names = [(path.name if path.is_dir() else path.stem) or str(path) for path in options.paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in options.paths]
    of_table = {
        "columns": pairs("columns", options.columns, str),
        "units": pairs("units", options.units, str),
        "best_of_cell": options.best_of_cell,
    }
    for name, given, kind in (
        *((name, value, False) for name, value in of_table.items()),
        ("term", options.term, True),
    ):
        if given and all(path.is_dir() is not kind for path in options.paths):
            what = "work directories" if kind else "tables"
            raise UserError(name, getattr(options, name), f"is for {what}; leave it out", Code.UNSUPPORTED)
    sides = []
    for path, label in zip(options.paths, labels):
        own = {"term": options.term} if path.is_dir() else {**of_table, "law": LAW}
        runs = load(path, where=options.where, dataset=options.dataset, n=options.n, **own)
        sides.append(Side(label, runs, _data(path, runs) if path.is_dir() else None))
    return sides


def _data(workdir: Path, runs: Runs) -> str | None:
    """The hash of the data of the runs; None where they disagree."""
    used = set(runs.table["run"])
    hashes = {record.manifest.data.sha256 for record in records(workdir) if record.path.name in used}
    return hashes.pop() if len(hashes) == 1 else None


def _budgets(text: str) -> int | list[float]:
    """``3``: a number of runs; ``1e18,3e18,1e19``: their compute in FLOPs."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        remedy = "give a number of runs (3), or the budget of each in FLOPs (1e18,3e18,1e19)"
        raise UserError("power", text, remedy) from None
    if len(values) == 1 and values[0] < COUNT and values[0] == int(values[0]):
        return int(values[0])
    return values


VERB = Verb(
    summary="say how much compute a change saves: the runs of a variant against the law of its base",
    positional=("BASE [VARIANT]...",),
    flags=(
        Flag("margin", float, "smallest change of compute that counts, as a share", 0.05),
        Flag("power", str, "with BASE alone: number of runs planned, or their budgets in FLOPs, separated by commas"),
        Flag("floor", float, "irreducible loss of the base (default: pinned by forecasts of its dearer runs)"),
        Flag("where", str, "use only the rows that satisfy this, such as 'N > 1e6 and outlier == 0'"),
        Flag("dataset", str, "data set of the losses, where there are several"),
        Flag("n", str, "what N counts: nonembedding, total, a parameter group or a column", "nonembedding"),
        Flag("columns", str, "columns of the tables, such as 'C=flops,loss=val_loss'"),
        Flag("units", str, "units of the tables, such as 'N=M,D=B,C=PF-days,loss=bits'"),
        Flag("best_of_cell", bool, "use only the lowest loss of rows with equal N and D, as after a sweep", False),
        Flag("term", str, "loss or metric of work directories (default: the headline loss)"),
        LEVEL,
        JSON,
    ),
    example="scaling gate runs.csv other.csv",
    call=gate,
)
