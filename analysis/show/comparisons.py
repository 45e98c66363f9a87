"""Comparisons as text: of fits, of what planned studies can show, and of two runs on the same documents."""

from __future__ import annotations

from analysis.decide.compare import POWER, Comparison, ComparisonPower, EqualLoss, NotComparable
from analysis.decide.paired import PairedDifference
from analysis.show.answers import loss_words, pair, sentence
from analysis.show.numbers import aligned, digits, interval, percent

_THREE, _FOUR = digits(3), digits(4)


def comparison(compared: Comparison) -> list[str]:
    """Lines of text: the exponents of each fit, their differences, the pooled means, and compute for equal loss."""
    names, pooled = list(compared.quantities), [each.pooled for each in compared.quantities.values()]
    rows = [["member", "law", "runs", *names]]
    for member in compared.members:
        cells = [each.members.get(member.label) for each in compared.quantities.values()]
        rows.append([member.label, member.law, str(member.rows), *(interval(cell, _THREE) for cell in cells)])
    if pooled:
        rows.append(["pooled", "", "", *(interval(each.mean, _THREE) for each in pooled)])
    lines = aligned(rows)
    lines += [f"{member.label}: {sentence(warning)}" for member in compared.members for warning in member.of_fit]
    lines.append("" if names else "no exponent means the same in these fits")
    lines += [pair(name, each) for name in names for each in compared.quantities[name].pairs]
    for name, each in zip(names, pooled):
        if each.tau is not None:
            lines.append(f"pooled {name}: {interval(each.mean, _THREE)}, sd between members {each.tau:.2g}")
    return lines + [line for entry in compared.equal_loss for line in _equal_loss(entry)]


def _equal_loss(entry: EqualLoss | NotComparable) -> list[str]:
    head = f"compute for equal loss, {entry.two} over {entry.one}"
    if isinstance(entry, NotComparable):
        return [f"{head}: {sentence(entry)}"]
    axis = "bits per byte" if entry.axis is None else loss_words(entry.axis)
    rows = [["C", "loss", "times the compute"]]
    rows += [[f"{row.C:.3g}", f"{row.loss:.4f}", interval(row.compute_ratio, _THREE)] for row in entry.rows]
    return [f"{head} ({axis})", *("  " + line for line in aligned(rows))]


def power(powers: ComparisonPower) -> list[str]:
    """Lines of text: the differences of exponents that planned studies can be expected to show."""
    rows = [["exponent", "of", f"± at {percent(powers.level)}", f"seen by {POWER:.0%} from", "margin"]]
    rows[0].append("equal ones shown equal")
    for row in powers.pairs:
        chances = [_number(row.half_width, ".2g"), _number(row.seen, ".2g"), f"{row.margin}"]
        rows.append([row.quantity, f"{row.one} - {row.two}", *chances, _number(row.equal, ".0%")])
    return [*aligned(rows), *dict.fromkeys(map(sentence, powers.priors.values()))]


def _number(value: float | None, style: str) -> str:
    return "too few runs" if value is None else format(value, style)


def paired(result: PairedDifference) -> list[str]:
    """Lines of text: the difference of two runs on the documents on which both were evaluated."""
    return [
        *(f"{row.run}: {row.loss:.5g}, standard error {row.se:.2g}" for row in (result.one, result.two)),
        f"difference of {result.term} in {result.unit}: {interval(result.difference, _FOUR)}, {percent(result.level)}",
        f"  standard error {result.se:.2g} paired over {result.documents} documents, {result.se_unpaired:.2g} if they "
        "were not; both are of the evaluation alone, without the noise of seeds",
    ]
