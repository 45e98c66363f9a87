"""import: makes a table that `fit` takes of the logs of another trainer or tracker."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records.typed import check_writable
from scaling.verbs import _tables
from scaling.verbs._declare import JSON, Verb
from scaling.verbs._inputs import keep_inputs
from scaling.verbs.show import pairs, print_json

if TYPE_CHECKING:
    from analysis.table.importers import Imported, Told
    from analysis.table.importers.collect import Left
    from analysis.table.importers.contract import Cell

FORMATS = (".csv", ".parquet")
COUNTERS = ("_step", "Step")  # of W&B
KEPT = "unended"  # counted with what is left out, and read all the same
REASONS = {
    "damaged": "lines, rows or records that cannot be read",
    "truncated": "records or lines within which a file is cut off; what followed is missing",
    "unended": "last rows without an end of line, as if the file were cut off within their last cell",
    "no_step": "rows without a step",
    "not_a_number": "logged values that are no finite number",
    "repeated": "values of a step logged again (the last one counts)",
    "superseded": "values of steps that a resumed run logged again",
    "summary": "means over a whole run, which are no loss at a step",
    "smoothed": "smoothed series",
    "no_loss": "runs without this loss",
    "no_N": "rows without N, where others have it",
    "no_tokens": "rows without tokens, where others have them",
    "untrained": "losses before the first step",
    "unmatched": "rows of --runs that name no run of the logs",
    "diverged": "runs whose last loss is no number",
    "short": "runs with fewer losses than --average",
    "other": "files that are empty or of another kind",
}


def import_(options: SimpleNamespace) -> int:
    """Reads logs, writes the table, and says what was read, what was taken for what, and what was left out."""
    out = _out(options)
    from analysis.table import importers
    from scaling.records import write_atomic

    made = importers.read(options.paths, _told(options), getattr(options, "from"), options.sheet)
    write_atomic(out, _tables.content(made.table, out.suffix.lower()[1:]))
    if options.json:
        print_json(
            {
                "kind": "import",
                "path": str(out),
                "from": made.kind,
                "files": made.files,
                "runs": made.runs,
                "rows": len(made.table),
                "columns": made.columns,
                "aside": made.aside,
                "units": made.units,
                "decayed": made.decayed,
                "lacking": made.lacking,
                "left_out": [_counts(left) for left in made.left if left.why != KEPT],
                "kept": [_counts(left) for left in made.left if left.why == KEPT],
            }
        )
        return 0
    print("\n".join([*_said(made), f"written: {out}, {len(made.table)} rows; columns {', '.join(made.table)}"]))
    return 0


def _counts(left: Left) -> dict[str, object]:
    return {"why": left.why, "count": left.count, "first": left.first}


def _told(options: SimpleNamespace) -> Told:
    from analysis.table.importers import Told

    facts: dict[str, Cell] = dict(pairs("set", options.set, str))
    return Told(
        columns=pairs("columns", options.columns, str),
        units=pairs("units", options.units, str),
        n=options.n,
        facts=facts,
        runs=_runs(Path(options.runs)) if options.runs else {},
        pattern=options.pattern,
        points=options.points,
        average=options.average,
        smoothed=options.smoothed,
        decayed=options.decayed,
        restarted=options.restarted,
    )


def _runs(path: Path) -> dict[str, dict[str, Cell]]:
    """The facts of each run of a table with a column run."""
    from analysis.table.read import read, typed

    frame: Any = read(path)[0]
    if "run" not in frame:
        raise UserError("runs", path, f"has no column run; its columns are {', '.join(map(str, frame))}", Code.MISSING)
    names = frame["run"].astype(str)
    if names.duplicated().any():
        raise UserError("runs", names[names.duplicated()].iloc[0], f"has two rows in {path}", Code.CONFLICT)
    cells = {str(c): typed(frame[c]) for c in frame if c != "run"}
    return {
        run: {c: column.iloc[i] for c, column in cells.items() if str(column.iloc[i]).strip() not in ("", "nan")}
        for i, run in enumerate(names)
    }


def _out(options: SimpleNamespace) -> Path:
    if not options.out:
        raise UserError("out", "nothing", "give --out=FILE.csv or FILE.parquet, the table to write", Code.MISSING)
    out = Path(options.out)
    if out.suffix.lower() not in FORMATS:
        raise UserError("out", out, f"must end with {' or '.join(FORMATS)}", Code.UNSUPPORTED)
    check_writable(out, "out")
    keep_inputs(out, options.paths)
    _tables.check(out.suffix.lower()[1:], "out", out)
    return out


def _said(made: Imported) -> list[str]:
    """What was read and taken, what was left out and why, and what a fit still needs."""
    from analysis.table import importers

    files, runs = (f"{count} {what}{'s' * (count != 1)}" for count, what in ((made.files, "file"), (made.runs, "run")))
    lines = [f"read as {made.kind}, {importers.find(made.kind).about}: {files}, {runs}"]
    taken = ", ".join(f"{name} = {column}" for name, column in made.columns.items())
    if taken:
        lines.append(f"taken: {taken}" + (f" (not {', '.join(made.aside)})" if made.aside else ""))
    unit = made.units.get("loss")
    lines.append(f"loss: converted from {unit} to nats" if unit else "loss: as logged; --units=loss=... if not nats")
    if "step" in made.table and not re.search(r"val|eval|test|dev", made.columns.get("loss", "val"), re.IGNORECASE):
        lines.append("loss: of training batches; --average=20 takes the mean of the last 20")
    if made.columns.get("step") in COUNTERS:
        lines.append(
            "step: of W&B, which counts its log calls; if they are not the steps, export the trainer's own step"
        )
    if made.units.keys() - {"loss"}:
        lines.append("units: " + ", ".join(f"{name} in {unit}" for name, unit in made.units.items() if name != "loss"))
    lines += [
        f"{'kept' if left.why == KEPT else 'left out'}: {left.count} {REASONS[left.why]}; the first: {left.first}"
        for left in made.left
    ]
    if made.decayed == "unknown":
        lines.append("not known: whether the learning rates had decayed; say --decayed or --nodecayed")
    elif made.decayed is not None and (
        before := [decayed is True for decayed in made.table["decayed"].tolist()].count(False)
    ):
        lines.append(f"not decayed: {before} rows, which fit leaves out (--keep=decayed fits them)")
    if "N" in made.lacking:
        lines.append("not known: N; say --set=N=31M, --runs=TABLE or --pattern (or fit a law without N)")
    if "D" in made.lacking:
        logged = "--set=tokens_per_step=512*1024, or " if "step" in made.columns or "step" in made.table else ""
        lines.append(f"not known: D; say {logged}--columns=D=NAME")
    return lines


def _importers() -> Iterable[str]:
    from analysis.table.importers import importers

    return importers()


def _counted() -> Iterable[str]:
    from analysis.table.importers.make import COUNTED

    return COUNTED


VERB = Verb(
    summary="make a table that fit takes of the logs of another trainer or tracker",
    positional=("PATH...",),
    flags=(
        Flag("out", str, "table to write: .csv or .parquet"),
        Flag(
            "from", str, "whose logs they are, such as tensorboard or nanogpt (default: by content)", offers=_importers
        ),
        Flag("set", str, "what the logs do not say, of every run: 'N=31M,tokens_per_step=512*1024,seed=1'"),
        Flag("runs", str, "the same by run: a table with a column run, and columns N, tokens_per_step, ..."),
        Flag("pattern", str, r"the same from the names of the runs: a regular expression, 'gpt-(?P<N>\d+M)'"),
        Flag(
            "columns",
            str,
            "which name of the log is what: 'loss=val/loss,D=tokens'; 'N=body+head'; 'run=name,step=iter'",
        ),
        Flag("units", str, "units that are not parameters, tokens, FLOPs, nats: 'loss=bits,C=PF-days,N=M'"),
        Flag("n", str, "what N counts: total, nonembedding, active, trainable (default: not said)", offers=_counted),
        Flag("points", str, "final (a row a run), all (a row a loss), curves (with all learning rates)", "final"),
        Flag("average", int, "the final loss is a mean of so many logged ones", 1),
        Flag("smoothed", bool, "take losses that are named as smoothed", False),
        Flag("decayed", bool, "the learning rate had decayed at the last loss, or --nodecayed (default: as logged)"),
        Flag("restarted", bool, "a log whose steps start over is one run that was started again", False),
        Flag("sheet", str, "of an Excel file with several sheets"),
        JSON,
    ),
    example="scaling import log.txt --set='N=31M,tokens_per_step=512*1024' --out=imported.csv",
    call=import_,
)
