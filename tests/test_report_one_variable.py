"""Reports of laws that have no N, or that give no loss: no part speaks of what the law does not have."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from report_study import Page

import analysis
from analysis import laws
from analysis.decide.one_variable import at_value
from analysis.fitting.fitted import read_card
from analysis.show.tables import summary
from scaling import cli
from scaling.errors import Code, UserError


def page_of(folder, capsys, rows, law, columns):
    """The page of a table, and what the command printed."""
    pd.DataFrame(rows).to_csv(folder / "mine.csv", index=False)
    assert cli.main(["report", str(folder / "mine.csv"), f"--law={law}", f"--columns={columns}"]) == 0
    return Page((folder / "mine.html").read_text()), capsys.readouterr().out


def test_a_law_of_compute_says_nothing_of_n(tmp_path, capsys):
    c, rng = np.geomspace(1e17, 1e21, 10), np.random.default_rng(0)
    rows = {"C": c, "loss": (1.7 + 1000 * c**-0.15) * np.exp(0.003 * rng.standard_normal(10))}
    page, printed = page_of(tmp_path, capsys, rows, "power_floor", "x=C")
    for said in (page.text, printed):
        assert "N =" not in said and "grows as" not in said
    assert re.search(r"\ba 0\.1\d+ \[[^]]*\] yes slope\b", page.text)  # the a of the law: N_opt has none here
    assert "Approaches 1, 2 and 3" not in page.text  # nobody could run them on this table
    assert "irreducible loss" in page.text and "expect loss" in page.text


@pytest.mark.parametrize(
    ("law", "columns", "names", "quantity"),
    [
        ("growth", "x=C,loss=n_opt", ("C", "n_opt"), "value"),
        ("downstream", "x=val,loss=wrong", ("val", "wrong"), "error"),
    ],
)
def test_what_is_no_loss_is_called_none(tmp_path, capsys, law, columns, names, quantity):
    rng = np.random.default_rng(1)
    x = np.geomspace(1e18, 1e21, 7) if law == "growth" else np.linspace(4, 2.2, 9)
    y = 0.01 * x**0.55 if law == "growth" else 0.9 - 1.2 * np.exp(-0.7 * x)
    rows = dict(zip(names, (x, y * np.exp(0.003 * rng.standard_normal(len(x))))))
    page, printed = page_of(tmp_path, capsys, rows, law, columns)
    assert f"expect {quantity} " in page.text and f": {quantity} " in printed
    assert "expect loss" not in page.text and "irreducible" not in page.text
    assert "another unit?" not in page.text  # a perplexity is asked about, the values of other columns are not


def errors(loss: np.ndarray) -> np.ndarray:
    return (0.9 - 6.3 * np.exp(-1.1 * loss)) * np.exp(0.005 * np.random.default_rng(2).standard_normal(len(loss)))


@pytest.mark.parametrize(
    ("name", "law", "columns"),
    [
        ("loss", "downstream", {}),
        ("loss", "downstream", {"loss": "error"}),
        ("loss", "downstream", {"loss": "error", "x": "loss"}),
        ("val_loss", "downstream", {"x": "val_loss"}),
        ("val_loss", "downstream:val_loss", {}),
    ],
)
def test_an_error_is_made_of_a_loss_whatever_their_columns_are_called(name, law, columns):
    loss = np.linspace(2.2, 3.6, 20)
    fit = analysis.fit(pd.DataFrame({name: loss, "error": errors(loss)}), law, columns=columns)
    assert dict(zip(fit.law.names, fit.theta)) == pytest.approx({"eps": 0.9, "k": 6.3, "gamma": 1.1}, rel=0.1)


def test_a_law_of_a_loss_is_asked_at_lower_losses(tmp_path, capsys):
    """Its runs get better to the left; and where it would give an error below zero, there is no answer."""
    loss = np.linspace(2.2, 3.6, 20)
    rows = {"loss": loss, "error": errors(loss)}
    page, printed = page_of(tmp_path, capsys, rows, "downstream", "x=loss,loss=error")
    assert "% of the smallest loss" in page.text and "× the largest" not in page.text + printed
    assert "test the law at 95 % of the smallest: a run at loss = 2.09 " in page.text
    fit = analysis.fit(pd.DataFrame(rows), "downstream")
    assert at_value(fit, 2.0).loss.value == pytest.approx(0.9 - 6.3 * np.exp(-2.2), rel=0.1)
    with refuses(Code.INVALID, "x", 1.3):
        at_value(fit, 1.3)


@pytest.mark.parametrize(
    ("names", "law", "code", "field"),
    [
        (("loss", "acc"), "downstream", Code.MISSING, "law"),
        (("loss", "acc"), "downstream:acc", Code.MISSING, "law"),
        (("loss", "other"), "loss_to_loss", Code.MISSING, "law"),
        (("loss", "error"), "downstream:loss", Code.CONFLICT, "law"),
        (("val_loss", "seconds"), "power_floor:val_loss", Code.CONFLICT, "column"),
    ],
)
def test_a_column_is_not_fitted_to_itself_nor_a_loss_taken_for_an_error(names, law, code, field):
    table = pd.DataFrame(dict(zip(names, (np.linspace(2.2, 3.6, 20), np.linspace(0.3, 0.8, 20)))))
    with refuses(code, field):
        analysis.fit(table, law)


def test_an_error_of_the_compute_is_asked_at_more_compute():
    """Not every law of an error is one of a loss."""
    c = np.geomspace(1e17, 1e21, 12)
    law = replace(laws.get("power:C"), quantity="error")
    fit = analysis.fit(pd.DataFrame({"C": c, "loss": 30 * c**-0.1}), law)
    assert not fit.law.of_a_loss and fit.theta[1] == pytest.approx(0.1, rel=0.01)


def test_a_table_with_accuracies_is_fitted_as_the_refusal_says_and_the_card_names_both_columns():
    loss = np.linspace(2.2, 3.6, 20)
    table = pd.DataFrame({"N": 1e8, "loss": loss, "accuracy": 1 - errors(loss)})
    with pytest.raises(UserError) as refused:
        analysis.fit(table, "downstream")
    (error,) = re.findall(r"here loss=(\S+)", str(refused.value))
    fit = analysis.fit(table, "downstream", columns={"x": "loss", "loss": error})
    assert fit.theta[0] == pytest.approx(0.9, rel=0.1)
    assert "; x is column loss of the table; loss is 1-accuracy of the table\n" in summary(fit)


def test_a_table_is_no_fit_card(tmp_path):
    (tmp_path / "a.csv").write_text("N,D,loss\n1,2,3\n")
    with refuses(Code.DAMAGED, "fit", tmp_path / "a.csv"):
        read_card(tmp_path / "a.csv")
