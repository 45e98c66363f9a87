"""fit: fits laws to the runs of a study or a table, and writes their cards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records import SCHEMA, write_json
from scaling.records.files import refuse_links
from scaling.verbs._declare import COLUMNS, DISCREPANCY, JSON, LEVEL, UNITS, WHERE, Verb, law_names
from scaling.verbs.show import card_name, interval, pairs, print_json, safe, table

if TYPE_CHECKING:
    from analysis.card import Conventions
    from analysis.check.approaches import Approaches
    from analysis.decide.ranking import Ranked
    from analysis.fitting import Fit
    from analysis.laws import Law
    from analysis.table.runs import Runs

CONVENTIONS = ("nonembedding", "total")


def fit(options: SimpleNamespace) -> int:
    """Fits laws and writes their cards."""
    batch = _batch(options)
    if not batch.fits:
        raise batch.skipped[0]
    if options.json:
        _print_json(batch)
        return 0
    from analysis.show.tables import summary

    if batch.many:
        print("\n".join(table(batch.fits, FIT_COLUMNS)))
        print("* not identified at this scale; the cards have all numbers and warnings")
        if any(fit.card.offset for fit in batch.fits):
            print("losses below zero: residuals and errors are shares of the loss with the offset that its card adds")
        if batch.ranks:
            print("\n".join(["", *table(batch.ranks, RANK_COLUMNS)]))
            print("errors of log loss; rolling: fit the cheaper runs, predict the rest; left out: leave-one-out")
    else:
        print(summary(batch.fits[0]))
    _print_approaches(batch)
    for text in dict.fromkeys(map(str, batch.skipped)):  # once for both counts of N
        print(f"not fitted: {text}")
    if written := batch.written:
        print(f"written: {written[0]}" + (f" and {len(written) - 1} more" if len(written) > 1 else ""))
    if batch.fresh:
        print(f"up to date: {batch.fresh} of {len(batch.fits)} cards were fitted to these same runs")
    return 0


def _batch(options: SimpleNamespace) -> _Batch:
    """Makes every fit that was requested: laws x counts of N x loss terms x data sets."""
    from analysis.table import runs as tables

    path, study = options.path, options.path.is_dir()
    every, named = options.law == "all" or (study and options.law is None), pairs("columns", options.columns, str)
    if every and study:
        laws = _standard()
    else:
        laws = _allowed(path, named) if every else _laws(options.law or _recommended(path), named)
    several = study and every
    conventions = (options.n,) if options.n else CONVENTIONS if several else ("nonembedding",)
    datasets: Iterable[str | None] = (options.dataset,)
    if several and options.dataset is None:
        datasets = tables.datasets(path)
    batch = _Batch(options, named, many=len(laws) > 1 or len(conventions) > 1)
    for dataset in datasets:
        terms = (several and options.term is None and tables.terms(path, dataset)) or (options.term,)
        for term in terms:
            for n in conventions:
                batch.fit(dataset, n, laws, term)
    return batch


def _recommended(path: Path) -> str | None:
    """The law of a set of published runs, ``reference:NAME``; None for any other path."""
    from analysis import reference

    source = reference.find(path)
    return None if source is None else source.law


def _standard() -> tuple[Law, ...]:
    from analysis import laws

    return laws.standard()


def _allowed(path: Path, named: dict[str, str]) -> tuple[Law, ...]:
    """The laws of a loss that the columns of a table allow; laws of x where ``--columns`` names it."""
    from analysis import laws, reference
    from analysis.table import names, read

    if "x" in named:
        return _placed(laws.of_columns({"x"}), named)
    source = reference.find(path)
    frame = read.read(path)[0] if source is None else reference.frame(str(path))
    chosen = {**({} if source is None else source.columns), **named}
    if not (found := laws.of_columns(names.available(frame, chosen))):
        have = ", ".join(str(c) for c in frame.columns)
        remedy = f"no law of a loss has only columns of this table ({have}); name them with --columns"
        raise UserError("law", "all", remedy, Code.MISSING)
    return found


def _laws(wanted: str | None, named: dict[str, str]) -> tuple[Law, ...]:
    """The laws of ``--law``. A single law in x takes the column that ``--columns`` gives for x."""
    from analysis import laws

    if wanted is None:
        return (laws.default(),)
    chosen = [laws.get(name) for name in re.split(r",(?![^\[]*\])", wanted)]  # commas inside [] separate ties
    if len(chosen) == 1 and "x" in named and chosen[0].columns == ("x",):
        chosen = list(_placed(chosen, named))
    return tuple({law.name: law for law in chosen}.values())


def _placed(found: Sequence[Law], named: dict[str, str]) -> tuple[Law, ...]:
    """The laws of x in the column that is x, which ``named`` then has no more (see ``laws.placed``)."""
    from analysis import laws

    made = [laws.placed(law, named) for law in found]
    if made and "x" not in made[0][1]:
        del named["x"]
    return tuple(law for law, _ in made)


def _print_json(batch: _Batch) -> None:
    cards = [fit.card for fit in batch.fits]
    if not batch.many:
        print_json(cards[0])
        return
    skipped = [str(error) for error in batch.skipped]
    print_json(
        {
            "schema": SCHEMA,
            "kind": "fits",
            "fits": cards,
            "approaches": batch.approaches,
            "files": batch.written,
            "ranks": batch.ranks,
            "skipped": skipped,
        }
    )


def _print_approaches(batch: _Batch) -> None:
    for result in batch.approaches:
        from analysis.show.approach_sentences import compared

        about = f"N {_counted(result.conventions)}{_of(result.conventions.term)}"
        print(f"approaches 1, 2, 3 on {result.data.dataset or result.data.source} ({about}): {compared(result)}")


def _short(fit: Fit, name: str | None) -> str:
    """An interval for the table of fits, with a * if it is not identified."""
    from analysis.check.diagnose import missing

    cell = fit.intervals.get(name or "")
    return "-" if cell is None else interval(cell, 3) + ("*" if name in missing(fit.warnings) else "")


def _refuted(fit: Fit) -> str:
    from analysis.show.sentences import refuted

    p = fit.noise.lack_of_fit.p
    return "-" if p is None else f"{'yes' if refuted(fit.warnings) else 'no'} (p {p:.2g})"


FIT_COLUMNS: dict[str, Callable[[Fit], object]] = {
    "data": lambda fit: fit.data.dataset or fit.data.source,
    "loss": lambda fit: fit.conventions.term or "-",
    "law": lambda fit: fit.law.name,
    "N": lambda fit: fit.conventions.n or "-",
    "runs": lambda fit: fit.data.rows,
    "residual": lambda fit: f"{fit.card.objective.rms_log_residual:.2%}",
    "refuted by seed noise": _refuted,
    "floor": lambda fit: _short(fit, fit.law.irreducible),
    "a (N_opt ~ C^a)": lambda fit: _short(fit, "a"),
}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


RANK_COLUMNS: dict[str, Callable[[Ranked], object]] = {
    "law": lambda row: row.law,
    "parameters": lambda row: row.parameters,
    "AICc above the best": lambda row: "-" if row.delta_aicc is None else f"{row.delta_aicc:.1f}",
    "rolling error": lambda row: _share(row.rolling_rms),
    "rolling CRPS": lambda row: _share(row.rolling_crps),
    "left out": lambda row: _share(row.loo_rms),
}


class _Batch:
    """The fits, cards and files of one call. If several fits were requested, those that fail are skipped.

    Attributes:
      fits, written, approaches, skipped: the fits, files, comparisons of approaches and errors so far.
      ranks: the ranking of several laws on one table.
      fresh: number of cards that existed already, for the same runs and request.
    """

    def __init__(self, options: SimpleNamespace, columns: dict[str, str], *, many: bool):
        self.options, self.many = options, many
        self.fits: list[Fit] = []
        self.written: list[str] = []
        self.approaches: list[Approaches] = []
        self.ranks: list[Ranked] = []
        self.skipped: list[UserError] = []
        self.fresh = 0
        self._card = Path(options.out) if options.out and not many else None
        self._folder = Path(options.out) if options.out else options.path / "fits" if options.path.is_dir() else None
        self._asked = {
            "objective": options.objective,
            "level": options.level,
            "fixed": pairs("fixed", options.fixed, float),
            "priors": pairs("prior", options.prior, _normal, "MEAN:SD"),
            "scheme": options.scheme,
            "discrepancy": options.discrepancy,
            "weights": options.weights,
            "seed": options.seed,
        }
        self._columns = columns
        if self._columns and options.path.is_dir():
            raise UserError("columns", options.columns, "is for tables; a study names its own columns")

    def fit(self, dataset: str | None, n: str, wanted: Sequence[Law], term: str | None = None) -> None:
        """Fits the laws to one loss term on one data set under one count of N, and compares the three approaches."""
        try:
            runs = self._load(dataset, n, wanted, term)
        except UserError as error:
            return self._skip(error)
        label, folder = runs.dataset or self.options.path.stem, self._place(runs, term)
        if self.many and len(runs) <= min(len(law.names) for law in wanted):  # said once, such as of a lone parent
            return self._skip(
                UserError("rows", len(runs), f"are too few for any of these laws ({label})", Code.TOO_FEW)
            )
        fits: dict[str, Fit] = {}
        for law in wanted:
            target = self._card or (folder and folder / card_name(label, law.name, n))
            about = f"{label}, {law.name}{_count(runs.conventions)}{_of(term)}"
            if (fitted := self._fit(runs, law, target, about)) is not None:
                fits[law.name] = fitted
        self.fits += fits.values()
        if len(fits) > 1 and not self.options.path.is_dir():  # for a study, the report ranks them
            from analysis.decide.ranking import rank
            from analysis.fitting.below_zero import moved

            self.ranks += rank([moved(fit, fit.card.offset) for fit in fits.values()])
        if self.many:
            self._compare(runs, fits, folder and folder / card_name(label, "approaches", n))

    def _load(self, dataset: str | None, n: str, wanted: Sequence[Law], term: str | None) -> Runs:
        from analysis import reference
        from analysis.table import runs as tables

        options = self.options
        more: dict[str, Any] = {"columns": self._columns} if self._columns else {}
        if options.objective.startswith("raw:") and not options.path.is_dir():
            more["below_zero"] = True
        if options.best_of_cell:
            more["best_of_cell"] = True
        if len(wanted) == 1 or not any({"N", "D"} <= set(law.columns) for law in wanted):
            more["law"] = wanted[0]
        if options.warmup is not None:
            more["warmup"] = options.warmup
        marks = tuple(filter(None, (options.keep or "").split(",")))
        of_table = {"units": pairs("units", options.units, str), "keep": marks}
        if term is None and reference.find(options.path) is not None:
            if any(of_table.values()):
                name = next(name for name, value in of_table.items() if value)
                remedy = f"is not for {options.path}, which has its own; leave it out"
                raise UserError(name, getattr(options, name), remedy, Code.CONFLICT)
            return reference.load(options.path, where=options.where, dataset=dataset, n=n, **more)
        return tables.load(options.path, where=options.where, dataset=dataset, n=n, term=term, **of_table, **more)

    def _place(self, runs: Runs, term: str | None) -> Path | None:
        """The folder of the cards. Forecasts and report read the headline term's; other terms have a folder each."""
        from analysis.table import runs as tables

        folder = self._folder
        if folder and term is not None and term != tables.terms(self.options.path, runs.dataset)[0]:
            folder /= safe(term)
        if folder and not self.options.out:
            refuse_links(folder, inside=self.options.path)
        return folder

    def _fit(self, runs: Runs, law: Law, target: Path | None, about: str) -> Fit | None:
        """The fit of one law, loaded from its card if that is up to date; None if the law cannot be fitted."""
        from analysis.fitting import fit as fit_law

        if self.many and target and (known := self._known(target, runs, law)):
            self.fresh += 1
            return known
        try:
            fitted = fit_law(runs, law, **self._asked)
        except UserError as error:
            self._skip(UserError(error.field, error.value, f"{error.remedy} ({about})", error.code))
            return None
        if target is None:
            return fitted
        self.written.append(str(target))
        return fitted.save(target)

    def _compare(self, runs: Runs, fits: dict[str, Fit], target: Path | None) -> None:
        from analysis import laws
        from analysis.check.approaches import compare_approaches
        from analysis.fitting.below_zero import higher, moved

        if (fitted := fits.get(laws.default().name)) is None:
            return
        offset = fitted.card.offset
        result = compare_approaches(higher(runs, offset), moved(fitted, offset), level=self.options.level)
        self.approaches.append(result)
        if target:
            write_json(target, result)

    def _known(self, target: Path, runs: Runs, law: Law) -> Fit | None:
        """The fit stored at ``target`` if it is for these runs and this request, with its draws intact; else None."""
        from analysis.check.discrepancy import term
        from analysis.engine.estimate import objective
        from analysis.fitting import load_fit

        if not target.exists():
            return None
        try:
            known = load_fit(target, law)
        except UserError:
            return None  # damaged, or another law: fit again
        card, ask = known.card, self._asked
        same = (
            card.law == law.name and card.formula == law.formula,
            card.data.sha256 == runs.sha256,
            card.conventions == runs.conventions,
            card.objective.name == objective(ask["objective"]).name,
            card.level == ask["level"],
            card.scheme.asked == ask["scheme"],
            card.fixed == ask["fixed"],
            card.priors == ask["priors"],
            ("none" if card.weights is None else card.weights.name) == ask["weights"],
            card.seed == ask["seed"],
            card.discrepancy == term(law.name, ask["discrepancy"]),
        )
        return known if all(same) else None

    def _skip(self, error: UserError) -> None:
        if not self.many:
            raise error
        self.skipped.append(error)


def _counted(conventions: Conventions) -> str:
    """What N is: the name of the count for records, the column for a table."""
    if conventions.n is not None:
        return conventions.n
    return f"column {conventions.columns['N']} of the table" if "N" in conventions.columns else "not in it"


def _count(conventions: Conventions) -> str:
    """``, N total``; empty for a table, which does not say what N counts."""
    return "" if conventions.n is None else f", N {conventions.n}"


def _of(term: str | None) -> str:
    return "" if term is None else f", {term}"


def _normal(text: str) -> tuple[float, float]:
    mean, sd = map(float, text.split(":"))
    return mean, sd


def _schemes() -> tuple[str, ...]:
    from analysis.engine.inference import SCHEMES

    return (*SCHEMES, "all")


VERB = Verb(
    summary="fit scaling laws to the runs of a study, or to a table (csv, jsonl, json, parquet)",
    positional=("PATH",),
    flags=(
        Flag(
            "law",
            str,
            "laws to fit, separated by commas, or all that the columns allow; see `scaling laws` (default: chinchilla; "
            "study: all)",
            offers=lambda: (*law_names(), "all"),
        ),
        Flag(
            "n",
            str,
            "what N counts: nonembedding, total, a parameter group or a column (study: the first two)",
        ),
        Flag("dataset", str, "data set of a study (default: all)"),
        Flag("term", str, "loss or metric of a study (default: all; with --law, the headline loss)"),
        WHERE,
        COLUMNS,
        UNITS,
        Flag("keep", str, "fit also rows that the table marks by status, decayed or role, such as 'status'"),
        Flag("best_of_cell", bool, "fit only the lowest loss of rows with equal N and D, as after a sweep", False),
        Flag("fixed", str, "parameters to hold at a value, such as 'E=1.69,alpha=0.34'"),
        Flag("prior", str, "normal priors NAME=MEAN:SD, such as 'E=1.7:0.1,A=400:50'"),
        Flag(
            "objective",
            str,
            "loss of the log residuals: auto (Huber, scaled to the noise), squares, huber:DELTA, student or "
            "student:NU; raw:NAME takes residuals of the loss itself, which may then be negative",
            "auto",
        ),
        Flag(
            "weights",
            str,
            "weights of the rows: none, seeds (inverse variance between seeds) or the name of a column",
            "none",
        ),
        Flag(
            "scheme",
            str,
            "how intervals are computed: auto, likelihood-t, profile-t, delta-t, bootstrap, bootstrap-runs or "
            "jackknife-t; all computes and compares them",
            "auto",
            offers=_schemes,
        ),
        Flag("seed", int, "random seed of posterior draws and bootstrap", 0),
        Flag("warmup", int, "for learning curves: warm-up steps before the first row of each run"),
        LEVEL,
        DISCREPANCY,
        Flag("out", str, "file for the card, or directory for several cards (default for a study: WORKDIR/fits)"),
        JSON,
    ),
    example="scaling fit runs.csv --law=chinchilla",
    call=fit,
)
