"""Every value that a card or a decision holds has a sentence, and tables of a fit say what the card says."""

import functools
import math
import types
import typing
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from law_tables import columns_of, runs_of

from analysis import card, laws
from analysis.check import approaches
from analysis.decide import allocate, compare, entropy, next_cells, one_variable, spending, tune
from analysis.fitting import fit
from analysis.show import answers, tables, tuning_sentences
from analysis.show.approach_sentences import why_not
from analysis.show.numbers import interval, short
from analysis.show.sentences import meaning, sentence, verdict
from scaling.records.unit import Unit


def example(kind: Any) -> Any:
    """A value of a type, made of its annotations: every field set to something plausible."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        return example(next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        parts = [a for a in arguments if a is not Ellipsis]
        return tuple(example(a) for a in (parts * 2 if Ellipsis in arguments else parts))
    if origin is dict:
        return {example(arguments[0]): example(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: example(hints[f.name]) for f in msgspec.structs.fields(kind)})
    return {str: "N", int: 3, float: 0.25, bool: True}[kind]


def choices(kind: Any) -> list[Any]:
    """Values of a type with each Literal of its field ``why`` in turn."""
    made = example(kind)
    hints = typing.get_type_hints(kind)
    for field in ("why", "setting"):
        if typing.get_origin(hints.get(field)) is typing.Literal:
            return [msgspec.structs.replace(made, **{field: word}) for word in typing.get_args(hints[field])]
    return [made]


assert answers.sentence is tuning_sentences.sentence is sentence  # one dispatcher, which the rooms above extend
WARNINGS = typing.get_args(card.AnyWarning)
DECISIONS = (
    *typing.get_args(allocate.AllocationWarning),
    *typing.get_args(spending.AnyCondition),
    *typing.get_args(compare.AnyReason),
    *typing.get_args(next_cells.ProposalWarning),
    one_variable.OutsideRange,
    tune.NoBestBatch,
    tune.EdgeOfSweep,
    compare.NotComparable,
    entropy.EntropyCheck,
)
OTHERS = (card.Dropped, card.Scheme, card.Discrepancy, card.Weights, card.EvaluationError, card.PublishedFit)


@pytest.mark.parametrize("kind", [*WARNINGS, *OTHERS, *DECISIONS], ids=lambda kind: kind.__name__)
def test_every_value_has_a_sentence(kind):
    for value in choices(kind):
        said = sentence(value)
        assert len(said) > 3 and "None" not in said and "{" not in said, said
        assert said == said.strip() and "  " not in said


@pytest.mark.parametrize("kind", typing.get_args(approaches.AnyReason), ids=lambda kind: kind.__name__)
def test_every_reason_of_an_approach_has_a_sentence(kind):
    for value in choices(kind):
        assert why_not(value) and "None" not in why_not(value)


def test_what_has_no_sentence_is_refused():
    with pytest.raises(TypeError, match="no sentence for int"):
        sentence(3)


def test_every_warning_is_a_type_of_its_own_with_its_code():
    codes = [example(kind).code for kind in WARNINGS]
    assert len(set(codes)) == len(codes) and all(code == code.lower() and " " not in code for code in codes)
    classes = {kind for kind in vars(card).values() if isinstance(kind, type) and issubclass(kind, card.Warning)}
    assert classes - {card.Warning} == set(WARNINGS)


def test_a_sentence_names_its_numbers():
    stray = card.StrayValue(column="D", rows=("row 3",), values=(1e12,), of=60, factor=1e3, side="above")
    assert sentence(stray).startswith("column D: 1 of 60 rows (row 3 (1e+12)) lies 1e+03 times above all others")
    group = card.InfluentialGroup(runs=("a", "b"), quantity="a", change=0.2, largest_alone=0.01)
    row = card.InfluentialRow(run="c", residual=5.0, quantity="a", change=-0.1)
    both = sentence(card.Influential(rows=(row,), share=0.25, group=group))
    assert "+0.200 when 2 runs" in both and "more than 0.25 of its half-width" in both and "c (-0.100)" in both
    open_ended = card.NotIdentified(parameter="x0", why="scale", lo=2.0, hi=None)
    assert "x0 is not identified: 2 and more" in sentence(open_ended)


def test_conventions_say_what_the_loss_is():
    records = card.Conventions(origin="records", n="total", term="text", unit=Unit(given="the image"))
    assert meaning(records)["loss"] == "text on the evaluation set, nats/token, given the image"
    assert meaning(records)["N"] == "total parameters of the records"
    table = card.Conventions(origin="table", flops="6ND", columns={"N": "params", "loss": "val"})
    assert meaning(table) == {
        "N": "column params of the table",
        "loss": "column val of the table",
        "C": "6ND, as the table has no C",
    }
    curves = card.Conventions(origin="curves", columns={"loss": "loss"}, warmup=200)
    assert "after a linear rise from 0 over 200 steps" in meaning(curves)["learning rate"]


def test_numbers_with_open_ends():
    def cell(lo, hi):
        return card.Interval(value=0.5, lo=lo, hi=hi)

    assert interval(cell(None, 1.2345)) == "0.5 [open, 1.23]"
    assert interval(cell(None, None), reason="flat") == "0.5 (no interval: flat)"
    assert interval(cell(0.5, 0.5)) == "0.5 (given)" and interval(None) == "not identified"
    assert interval(cell(1e3, 2e6), short) == "0.5 [1k, 2M]"


# --- tables of a fit


@functools.cache
def fitted(law="chinchilla"):
    return fit(runs_of(laws.get(law), noise=0.003, n=40), law)


def test_a_summary_says_all_that_the_card_says():
    found = fitted()
    text = tables.summary(found)
    for name, cell in found.intervals.items():
        assert f"{name} " in text and f"{cell.value:.4g}" in text
    for w in found.warnings:
        assert f"warning {w.code}: {sentence(w)}" in text
    assert text.endswith(verdict(found)) and "intervals by" in text and "None" not in text
    assert verdict(found).startswith(("Identified at this scale", "Not identified", "Known roughly", "The form"))
    page = tables.summary_html(found)
    assert page.count("<tr>") == 1 + len(tables.parameters(found)) and "chinchilla" in page


def test_a_frame_holds_the_intervals():
    found = fitted()
    frame = tables.to_frame(found)
    assert list(frame.columns) == ["value", "lo", "hi", "unit", "identified", "meaning"]
    assert frame.index.name == "parameter" and list(frame.index[:5]) == list(found.law.names)
    for name, cell in found.card.params.items():
        assert frame.loc[name, "value"] == cell.value
        assert frame.loc[name, "lo"] == (-math.inf if cell.lo is None else cell.lo)
    assert isinstance(frame, pd.DataFrame) and frame.loc["D/N"].shape[0] == 3


def test_a_latex_table_is_closed_and_has_every_number():
    text = tables.to_latex(fitted())
    assert text.count(r"\begin{") == text.count(r"\end{") == 2 and text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0 and r"\toprule" in text and r"$\alpha$" in text and "95\\,\\% intervals" in text
    assert text.count(r" \\") == 1 + len(tables.parameters(fitted()))


REGISTERED = [*laws.REGISTRY, "power:C", "chinchilla[beta=0.8*alpha]", "kaplan[alpha_D=alpha_N]", "bnsl1:C"]


@pytest.mark.parametrize("name", REGISTERED)
def test_python_of_a_law_is_the_law(name):
    law = laws.get(name)
    theta = {p: float(value) for p, value in law.example.items()}
    columns = columns_of(law, 9)
    found: Any = types.SimpleNamespace(law=law, params=theta)
    space: dict = {}
    text = tables.to_python(found)
    exec(text, space)
    with np.errstate(divide="ignore"):  # before the first drop of the learning rate its area is 0
        losses = space["loss"](*columns.values())
    np.testing.assert_allclose(losses, law.predict(law.vector(theta), columns), rtol=1e-12)
    few = max(18, len(law.names) + 10)  # a line a parameter, and no more than it takes
    assert text.startswith("import numpy as np\n") and len(text.splitlines()) <= few and "analysis" not in text


def test_python_of_a_column_that_is_called_as_a_parameter():
    law = laws.get("power:A")
    found: Any = types.SimpleNamespace(law=law, params={"A": 3.0, "a": 0.5})
    space: dict = {}
    exec(tables.to_python(found), space)
    assert space["loss"](np.array([4.0]))[0] == pytest.approx(1.5, rel=1e-12)
