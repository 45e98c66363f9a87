"""compare: fitted laws of several work directories or cards, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError, choose
from scaling.flags import Flag
from scaling.records import records
from scaling.verbs._declare import JSON, LEVEL, Verb, law_names
from scaling.verbs._study import declared
from scaling.verbs.show import card_name, law_name, pairs, print_json, study_of

if TYPE_CHECKING:
    from analysis.decide.compare import Member
    from analysis.decide.design import ExpectedPrecision
    from analysis.decide.paired import PairedDifference
    from analysis.fitting import Fit

Place = tuple[str, str]  # a short name, and the path that tells apart two of the same name


def compare(options: SimpleNamespace) -> int:
    """Compares exponents (differences and pooled values), and compute at equal loss where the losses are comparable."""
    from analysis.decide import compare as comparing
    from analysis.show import comparisons

    if any((path / "manifest.json").is_file() for path in options.paths):
        paired = _paired(options)
        return _print(options, paired, comparisons.paired(paired))
    margins = pairs("margin", options.margin, float)
    if options.expected:
        power = comparing.power(_plans(options), level=options.level, margins=margins)
        return _print(options, power, comparisons.power(power))
    members = _labelled([member for path in options.paths for member in _members(path, options)])
    comparison = comparing.compare(members, level=options.level, margins=margins, axis=options.axis)
    return _print(options, comparison, comparisons.comparison(comparison))


def _print(options: SimpleNamespace, answer: object, lines: Sequence[str]) -> int:
    if options.json:
        print_json(answer)
    else:
        print("\n".join(lines))
    return 0


def _apart(places: Sequence[Place]) -> list[str]:
    """The shortest labels that are unique: names, or names with their paths."""
    short = [name for name, _ in places]
    return short if len(set(short)) == len(short) else [f"{name} of {place}" for name, place in places]


# --- planned studies


def _plans(options: SimpleNamespace) -> dict[str, ExpectedPrecision]:
    """Expected precision of each plan, by a label made of study and data set."""
    from analysis.decide.compare import PlannedStudy
    from scaling.records.typed import read_typed

    places: list[Place] = []
    precisions: list[ExpectedPrecision] = []
    remedy = "write a plan with `scaling plan --config=FILE.py --json > PLAN.json`"
    for path in options.paths:
        try:
            plan = read_typed(path, PlannedStudy, remedy=remedy)
        except FileNotFoundError:
            raise UserError("compare", path, f"does not exist; {remedy}", Code.MISSING) from None
        for dataset, expected in plan.expected_precision.items():
            if options.dataset in (None, dataset):
                precisions.append(expected)
                places.append((f"{plan.study} {dataset}", str(path)))
    labels = _apart(places)
    if len(set(labels)) < len(labels):
        remedy = "the same plan is given twice; to compare it with itself, give a copy under another name"
        raise UserError("compare", ", ".join(labels), remedy, Code.CONFLICT)
    return dict(zip(labels, precisions))


# --- two runs


def _paired(options: SimpleNamespace) -> PairedDifference:
    """The difference of two runs of a study on the documents that both were evaluated on."""
    from analysis.decide.paired import difference

    if len(options.paths) != 2:
        raise UserError("compare", len(options.paths), "give two run directories, or cards and work directories")
    for path in options.paths:
        if not (path / "manifest.json").is_file():
            raise UserError("compare", path, "is not a run directory; give two of them, or cards and work directories")
    return difference(*options.paths, level=options.level)


# --- fits


def _labelled(members: Sequence[tuple[Place, Member]]) -> list[Member]:
    """The members, each labelled with the shortest name that is unique."""
    labels = _apart([place for place, _ in members])
    return [replace(member, label=label) for label, (_, member) in zip(labels, members)]


def _members(path: Path, options: SimpleNamespace) -> list[tuple[Place, Member]]:
    """The member of one card, or one member for each data set of a work directory that has a card."""
    if not path.is_dir():
        return [((path.stem, str(path)), _member(path, study_of(path)))]
    datasets = declared(path)
    if options.dataset is not None:
        if options.dataset not in datasets:
            remedy = f"is not in {path}; {choose(options.dataset, datasets)}"
            raise UserError("dataset", options.dataset, remedy, Code.UNKNOWN)
        datasets = [options.dataset]
    law = law_name(options.law)
    cards = {dataset: path / "fits" / card_name(dataset, law, options.n) for dataset in datasets}
    there = {dataset: card for dataset, card in cards.items() if card.exists()}
    if not there:
        first = next(iter(cards.values()))
        raise UserError("fit", first, f"there is no such card; make it with `scaling fit {path}`", Code.MISSING)
    return [((dataset, str(path)), _member(card, path)) for dataset, card in there.items()]


def _member(card: Path, workdir: Path | None) -> Member:
    from analysis.decide.compare import Member
    from analysis.fitting import load_fit

    fitted = load_fit(card)
    ratio, data = _measured(workdir, fitted) if workdir is not None else (None, None)
    return Member(card.stem, fitted, ratio, data)


def _measured(workdir: Path, fitted: Fit) -> tuple[float | None, str | None]:
    """Bits per byte for one nat of the fitted loss, and the hash of the data; None where the runs disagree."""
    runs = set(fitted.runs)
    ratios, hashes = set(), set()
    for record in records(workdir):
        if record.path.name not in runs or (result := record.result) is None:
            continue
        manifest = record.manifest
        term = result.evaluation.get(fitted.conventions.term or manifest.headline)
        bits, value = (None, None) if term is None else (term.bits_per_byte, term.value)
        ratios.add(round(bits / value, 6) if bits and value else None)
        hashes.add(manifest.data.sha256)
    ratio = ratios.pop() if len(ratios) == 1 else None
    return ratio, (hashes.pop() if len(hashes) == 1 else None)


VERB = Verb(
    summary="compare laws of several data sets, families or recipes, or the losses of two runs",
    positional=("FIT.json|WORKDIR|RUN...",),
    flags=(
        Flag(
            "law", str, "compare the cards of this law in a work directory (default: the default law)", offers=law_names
        ),
        Flag(
            "n",
            str,
            "compare the cards in which N counts these parameters: nonembedding or total",
            "nonembedding",
            offers=lambda: ("nonembedding", "total"),
        ),
        Flag("dataset", str, "data set of a work directory (default: all that have a card)"),
        Flag("margin", str, "largest difference that still counts as equal, such as 'a=0.05,alpha=0.1'"),
        Flag(
            "axis",
            str,
            "loss scale for equal-loss compute: auto (only if all losses have the same unit) or bits_per_byte",
            "auto",
        ),
        Flag(
            "expected",
            bool,
            "compare plans (files of `plan --json`): which differences could be detected",
            False,
        ),
        LEVEL,
        JSON,
    ),
    example="scaling compare one.json two.json",
    call=compare,
)
