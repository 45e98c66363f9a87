"""run --evaluate: evaluates checkpoints of finished runs by themselves, on other data, in few bits, by questions."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError, choose, printable
from scaling.flags import Flag
from scaling.records.types import FEWEST_BITS, MOST_BITS, Evaluation, EvaluationRecord, ProgramSpec, RunSpec
from scaling.records.types import JSON as Json
from scaling.verbs import _tables
from scaling.verbs._study import default_workdir
from scaling.verbs.show import count, pairs, print_json, table

if TYPE_CHECKING:
    import pandas as pd

    from scaling.evaluations import Finished, Question

EVALUATE = Flag(
    "evaluate", bool, "train nothing: evaluate final parameters by themselves, as the next flags say", False
)
ASKED = (
    Flag("run", str, "with --evaluate: names of runs, separated by commas (default: all that have their parameters)"),
    Flag("step", int, "with --evaluate: of another checkpoint than the last"),
    Flag("data", str, "with --evaluate: a data set of the study, a file or folder, or source=NAME,FIELD=VALUE,..."),
    Flag("dtype", str, "with --evaluate: of the computation: float32 or bfloat16"),
    Flag("bits", str, "with --evaluate: round the weights of the blocks, such as 8,4,3"),
    Flag("shots", str, "with --evaluate: questions of the data after so many answered examples, such as 0,1,4"),
    Flag("positions", bool, "with --evaluate: losses by position in the context", False),
    Flag("out", str, "with --evaluate: a table for `scaling fit`, .csv or .parquet"),
)
TABLES = {".csv": "csv", ".parquet": "parquet"}


@dataclass
class Answers:
    """What was evaluated: by run, the answer with the weights as they are first; and how many runs were left out.

    Attributes:
      sealed: held-out runs whose forecasts are not sealed. dropped: those without their parameters. damaged: those
        whose result cannot be read.
    """

    runs: list[tuple[Finished, list[EvaluationRecord]]] = field(default_factory=list)
    sealed: int = 0
    dropped: int = 0
    damaged: int = 0

    @property
    def records(self) -> list[EvaluationRecord]:
        """All of them."""
        return [record for _, records in self.runs for record in records]


def refuse(options: SimpleNamespace, flags: Iterable[Flag], remedy: str) -> None:
    """Refuses flags that do not go with what is asked for (CONFLICT)."""
    for flag in flags:
        if (value := getattr(options, flag.name)) != flag.default:
            raise UserError(flag.name, value, remedy, Code.CONFLICT)


def evaluate(options: SimpleNamespace) -> int:
    """Evaluates, prints what was found, and writes the table that ``--out`` names."""
    workdir = _workdir(options)
    for name in ("run", "data", "dtype", "bits", "shots"):
        if (value := getattr(options, name)) is not None and not value.strip(" ,"):
            raise UserError(name, value or "nothing", "say which, or leave it out", Code.MISSING)
    out = None if options.out is None else _writable(Path(options.out))
    bits, shots = _bits(options.bits), _shots(options.shots)
    if bits and shots:
        raise UserError("shots", options.shots, "goes without --bits", Code.CONFLICT)
    answers = Answers()
    chosen = _chosen(workdir, options.run, answers)
    _compute_as_a_worker()
    questions = _questions(workdir, options, bits, shots)
    finished = _finished(workdir, chosen, options, answers)
    for each in finished:  # before anything is computed or written
        for question in questions:
            each.check(question)
        if options.positions and not each.causal:
            raise UserError("positions", True, f"{each.spec.manifest.headline} has none", Code.UNSUPPORTED)
    for number, each in enumerate(finished, 1):
        answers.runs.append((each, [each.evaluate(question) for question in questions]))
        print(f"{number}/{len(finished)} {each.spec.run}", file=sys.stderr, flush=True)
        for problem in each.problems:
            print(printable(f"warning: {problem}; it is written again"), file=sys.stderr)
    if out is not None:
        from scaling.records import write_atomic

        write_atomic(out, _tables.content(_frame(answers), TABLES[out.suffix]))
    if options.json:
        kind = {"schema": 1, "kind": "evaluations", "workdir": str(workdir)}
        left = {"sealed": answers.sealed, "dropped": answers.dropped, "damaged": answers.damaged}
        print_json({**kind, **left, "evaluations": answers.records})
        return 0
    further = *(_by_position(answers) if options.positions else ()), *(_by_shots(answers) if shots else ())
    for line in (*_lines(answers), *further):
        print(line)
    if out is not None:
        print(f"written: {out}")
    return 0


def _workdir(options: SimpleNamespace) -> Path:
    if options.workdir:
        return Path(options.workdir)
    if options.config is None:
        remedy = "give --workdir of a study, or the --config that trained it"
        raise UserError("workdir", "nothing", remedy, Code.MISSING)
    return default_workdir(options.config.name, options.argument)


def _writable(out: Path) -> Path:
    from scaling.records.typed import check_writable

    if out.suffix not in TABLES:
        raise UserError("out", out, f"must end with {' or '.join(TABLES)}")
    _tables.check(TABLES[out.suffix], "out", out)
    check_writable(out, "out")
    return out


def _chosen(workdir: Path, names: str | None, answers: Answers) -> list[tuple[ProgramSpec, RunSpec]]:
    """The runs that are asked for; without names, the cells that are done and may be seen."""
    from scaling.status import StatusReader

    reader = StatusReader(workdir)
    rows = {row.run: row for row in reader.read().runs}
    planned = {spec.run: (program, spec) for program in reader.programs for spec in program.runs}
    if names is None:
        done = [row for row in rows.values() if row.state == "done" and row.kind != "stem"]
        answers.sealed = sum(row.hidden for row in done)
        answers.damaged = sum(row.state == "damaged" for row in rows.values() if row.kind != "stem")
        return [planned[row.run] for row in done if not row.hidden]
    asked = list(dict.fromkeys(filter(None, names.split(","))))
    for name in asked:
        if name not in rows:
            raise UserError("run", name, f"is no run of {workdir}; {choose(name, rows)}", Code.UNKNOWN)
        if rows[name].hidden:
            remedy = f"is held out, or of the stem of one that is; `scaling predict {workdir}` seals forecasts first"
            raise UserError("run", name, remedy, Code.CONFLICT)
    return [planned[name] for name in asked]


def _finished(
    workdir: Path, chosen: Sequence[tuple[ProgramSpec, RunSpec]], options: SimpleNamespace, answers: Answers
) -> list[Finished]:
    """The runs with the checkpoint that is asked for; those of no name may lack it, and are counted."""
    from scaling.evaluations import Finished

    found = []
    for program, spec in chosen:
        try:
            found.append(Finished(workdir, program, spec, options.step))
        except UserError as error:
            if options.run is not None or error.code is not Code.MISSING:
                raise
            answers.dropped += 1
    if not found:
        what = f"{answers.dropped} are done without the checkpoint; train with config.keep_final"
        what = what if answers.dropped else "none is done and may be seen"
        raise UserError("workdir", workdir, f"has no run to evaluate: {what}", Code.MISSING)
    return found


def _compute_as_a_worker() -> None:
    """Gives this process the threads and the cache of a worker, on which the last bits of a loss depend."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns there of what is then refused in one line
    if "jax" in sys.modules:
        return
    from scaling.engines.local import accelerated, cores
    from scaling.worker.environment import bind, usable_cache, variables

    cpu = not accelerated()
    os.environ.update(variables(usable_cache(None), single=cpu))
    if cpu:
        bind(str(cores()[0]))


def _whole(field: str, text: str | None) -> list[int]:
    """Whole numbers, each once, ascending."""
    try:
        return sorted({int(item) for item in (text or "").split(",") if item.strip()})
    except ValueError:
        raise UserError(field, text, "must be whole numbers separated by commas, such as 2,4,8") from None


def _shots(text: str | None) -> list[int]:
    shots = _whole("shots", text)
    if shots and shots[0] < 0:
        raise UserError("shots", shots[0], "must be 0 or more")
    return shots


def _bits(text: str | None) -> list[int]:
    bits = _whole("bits", text)[::-1]
    for number in bits:
        if not FEWEST_BITS <= number <= MOST_BITS:
            raise UserError("bits", number, f"must be from {FEWEST_BITS} to {MOST_BITS}")
    return bits


def _questions(workdir: Path, options: SimpleNamespace, bits: Sequence[int], shots: Sequence[int]) -> list[Question]:
    """The questions to every run: first its loss with the weights as they are."""
    from scaling.evaluations import Question
    from scaling.records import read_study

    source = None
    if options.data is not None:
        known = dict(read_study(workdir).datasets)
        known |= {} if options.config is None else options.config.data.to_dict()
        source = _source(options.data, known)
    what = printable(options.data or ""), source, options.dtype or ""
    return [*(Question(*what, number) for number in (0, *bits)), *(Question(*what, shots=number) for number in shots)]


def _source(text: str, known: Mapping[str, dict[str, Json]]) -> dict[str, Json]:
    """The configuration of a source, by the name of a data set, its fields, or where its files are."""
    from scaling.data._recognise import recognise
    from scaling.verbs._config import literal

    if text in known:
        return known[text]
    if Path(text).expanduser().exists():
        return {**recognise(Path(text))}
    if "=" in text:
        return pairs("data", text, literal)
    remedy = f"is no file and no data set; {choose(text, known)}, or give source=NAME,FIELD=VALUE"
    raise UserError("data", text, remedy, Code.UNKNOWN)


# --- what is printed and written


def _lines(answers: Answers) -> Iterator[str]:
    from scaling.evaluate import change

    rows = [
        (each, first, record)
        for each, (first, *more) in answers.runs
        for record in (first, *more)
        if record.shots is None
    ]

    def changed(row: tuple[Finished, EvaluationRecord, EvaluationRecord]) -> str:
        _, first, record = row
        if record is first:
            return ""
        value, error = change(_headline(record), _headline(first))
        return f"{value:+.4f}" + ("" if error is None else f" +- {error:.4f}")

    columns: dict[str, Callable[[tuple[Finished, EvaluationRecord, EvaluationRecord]], object]] = {
        "run": lambda row: row[2].run,
        "step": lambda row: row[2].step,
        "dtype": lambda row: row[2].dtype,
        "bits": lambda row: "" if row[2].quantisation is None else row[2].quantisation.bits,
        "loss": lambda row: f"{_headline(row[2]).value:.4f}",
        "se": lambda row: "" if (se := _headline(row[2]).se) is None else f"{se:.4f}",
        "by rounding": changed,
        "bytes": lambda row: count(row[2].bytes),
    }
    if not any(record.quantisation for record in answers.records):
        del columns["bits"], columns["by rounding"]
    yield from table(rows, columns)
    first = answers.records[0]
    yield ""
    what = dict.fromkeys(f"{each.headline} in {each.terms[each.headline]} on {each.dataset}" for _, _, each in rows)
    yield printable(f"{'; '.join(what)}; beside each result.json")
    planned = [each.program.options.mesh for each, _ in answers.runs]
    if planned[0] != first.environment.mesh:
        yield f"on one device, as this machine has too few for the mesh {planned[0]}"
    own = [record.reproduces for record in answers.records if record.reproduces is not None]
    if own:
        yield f"{sum(own)} of {len(own)} losses are those of the training's own evaluation, bit by bit"
    if "bits" in columns:
        yield "bytes count rounded weights at their bits; FLOPs stay, since they are multiplied in the dtype"
    if answers.sealed:
        yield f"left out: {answers.sealed} held-out runs, until `scaling predict` has sealed their forecasts"
    if answers.dropped:
        yield f"left out: {answers.dropped} runs without that checkpoint (config.keep_final keeps the last)"
    if answers.damaged:
        yield f"left out: {answers.damaged} runs whose result cannot be read; see `scaling verify`"


def _headline(record: EvaluationRecord) -> Evaluation:
    return record.evaluation[record.headline]


def _by_position(answers: Answers) -> Iterator[str]:
    """A table of the headline loss by position, one line for each end of a bin."""
    for record in answers.records:
        positions = _headline(record).positions
        if positions is None:
            continue
        bits = "" if record.quantisation is None else f", {record.quantisation.bits} bits"
        yield f"\n{record.run}, {record.dtype}{bits}"
        rows = list(zip(positions.upto, positions.value, positions.se, strict=True))
        yield from table(
            rows,
            {
                "up to token": lambda row: row[0],
                "loss": lambda row: f"{row[1]:.4f}",
                "se": lambda row: "" if row[2] is None else f"{row[2]:.4f}",
            },
        )


def _by_shots(answers: Answers) -> Iterator[str]:
    """A table of the answers to questions, a line for each number of examples before them."""
    rows = [record for record in answers.records if record.shots is not None]
    yield ""
    yield from table(
        rows,
        {
            "run": lambda record: record.run,
            "shots": lambda record: record.shots,
            "answer": lambda record: f"{record.evaluation['answer'].value:.4f}",
            "error": lambda record: f"{record.evaluation['error'].value:.4f}",
            "se": lambda record: "" if (se := record.evaluation["error"].se) is None else f"{se:.4f}",
        },
    )
    yield "answer: nats per token of the right one; error: share of the questions for which another candidate has fewer"
    yield f"nats per token, {_chance(rows[0]):.4g} by chance"


def _chance(record: EvaluationRecord) -> float:
    """The error of what knows nothing."""
    among = record.terms["error"].among
    assert among is not None
    return 1 - 1 / among


def _frame(answers: Answers) -> pd.DataFrame:
    """The table that `scaling fit` takes: a row for each answer, with the bits of the weights of the blocks."""
    import pandas as pd

    from scaling.evaluate import change

    rows = []
    for finished, (first, *more) in answers.runs:
        for record in (first, *more):
            rows.append(_row(finished, record))
            if record.shots is not None:
                error = record.evaluation["error"]
                rows[-1] |= {"shots": record.shots, "error": error.value, "error_se": error.se}
                rows[-1] |= {"chance": _chance(record), "val_loss": _headline(first).value}
            elif record is not first:
                value, error = change(_headline(record), _headline(first))
                rows[-1] |= {"delta": value, "delta_se": error}
    return pd.DataFrame(rows)


def _row(finished: Finished, record: EvaluationRecord) -> dict[str, Json]:
    manifest, evaluation = finished.spec.manifest, _headline(record)
    wide = 32 if record.dtype == "float32" else 16
    return {
        "run": record.run,
        "stem": manifest.stem or record.run,
        "dataset": record.dataset,
        "family": manifest.family,
        "role": manifest.role,
        "seed": manifest.seed,
        "N": manifest.parameters.nonembedding,
        "N_total": manifest.parameters.total,
        "D": manifest.tokens.D * record.step // manifest.steps,
        "C": manifest.flops.training * record.step // manifest.steps,
        "step": record.step,
        "decayed": finished.decayed,
        "dtype": record.dtype,
        "bits": wide if record.quantisation is None else record.quantisation.bits,
        "bytes": record.bytes,
        "loss": evaluation.value,
        "se": evaluation.se,
    }
