"""Comparisons for people: fits beside one another, what planned studies can show, two runs on the same documents."""

from __future__ import annotations

from analysis.decide.compare import POWER, Comparison, ComparisonPower, EqualLoss, NotComparable
from analysis.decide.paired import PairedDifference
from analysis.show.answers import loss_words, pair, sentence
from analysis.show.numbers import aligned, digits, interval, percent

_THREE, _FOUR = digits(3), digits(4)


def comparison(found: Comparison) -> list[str]:
    """Lines: the exponents of each fit, their differences, the pool, and compute for equal loss."""
    names, pooled = list(found.quantities), [each.pooled for each in found.quantities.values()]
    rows = [["member", "law", "runs", *names]]
    for member in found.members:
        cells = [each.members.get(member.label) for each in found.quantities.values()]
        rows.append([member.label, member.law, str(member.rows), *(interval(cell, _THREE) for cell in cells)])
    if pooled:
        rows.append(["pooled", "", "", *(interval(each.mean, _THREE) for each in pooled)])
    lines = [*aligned(rows), "" if names else "no exponent means the same in these fits"]
    lines += [pair(name, each) for name in names for each in found.quantities[name].pairs]
    for name, each in zip(names, pooled):
        if each.tau is not None:
            lines.append(f"pooled {name}: {interval(each.mean, _THREE)}, sd between members {each.tau:.2g}")
    return lines + [line for entry in found.equal_loss for line in _equal_loss(entry)]


def _equal_loss(entry: EqualLoss | NotComparable) -> list[str]:
    head = f"compute for equal loss, {entry.two} over {entry.one}"
    if isinstance(entry, NotComparable):
        return [f"{head}: {sentence(entry)}"]
    axis = "bits per byte" if entry.axis is None else loss_words(entry.axis)
    rows = [["C", "loss", "times the compute"]]
    rows += [[f"{row.C:.3g}", f"{row.loss:.4f}", interval(row.compute_ratio, _THREE)] for row in entry.rows]
    return [f"{head} ({axis})", *("  " + line for line in aligned(rows))]


def power(found: ComparisonPower) -> list[str]:
    """Lines: the differences of exponents that planned studies can be expected to show."""
    rows = [["exponent", "of", f"± at {percent(found.level)}", f"seen by {POWER:.0%} from", "margin"]]
    rows[0].append("equal ones shown equal")
    for row in found.pairs:
        chances = [_number(row.half_width, ".2g"), _number(row.seen, ".2g"), f"{row.margin}"]
        rows.append([row.quantity, f"{row.one} - {row.two}", *chances, _number(row.equal, ".0%")])
    return [*aligned(rows), *dict.fromkeys(map(sentence, found.priors.values()))]


def _number(value: float | None, style: str) -> str:
    return "too few runs" if value is None else format(value, style)


def paired(found: PairedDifference) -> list[str]:
    """Lines: the difference of two runs on the documents that both were evaluated on."""
    return [
        *(f"{row.run}: {row.loss:.5g}, standard error {row.se:.2g}" for row in (found.one, found.two)),
        f"difference of {found.term} in {found.unit}: {interval(found.difference, _FOUR)}, {percent(found.level)}",
        f"  standard error {found.se:.2g} paired over {found.documents} documents, {found.se_unpaired:.2g} if they "
        "were not; of the evaluation alone, no seed's",
    ]
