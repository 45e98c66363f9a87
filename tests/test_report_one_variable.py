"""Reports of laws that have no N, or that give no loss: no part speaks of what the law does not have."""

import re

import numpy as np
import pandas as pd
import pytest
from report_study import Page

from scaling import cli


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
