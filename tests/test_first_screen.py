"""The first screen of a report of a table: what a reader who sees nothing else can say, and that no part denies it."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from refusals import refuses
from report_study import Page

import analysis
from analysis.check.approaches import FewOptima, OneLine
from analysis.show.approach_sentences import why_not
from analysis.show.numbers import plain_formula
from analysis.show.report.answer import answer
from analysis.show.report.chart import _colour
from analysis.show.workdir_summary import of_one
from analysis.table.quality import warnings
from analysis.warning import MixedUnits
from scaling import cli
from scaling.errors import Code
from scaling.verbs._inputs import fit_of


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Losses in which N and D act on each other, as in no sum of a term of each: their residuals reject the form."""
    rng, rows = np.random.default_rng(0), []
    for n in np.geomspace(1e7, 1e9, 6):
        for ratio in (5, 20, 80, 160):
            d = n * ratio
            bump = 0.02 * np.log(ratio / 30) * np.log(n / 1e8)
            loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(bump + 0.002 * rng.standard_normal())
            rows.append({"params": n / 1e6, "tokens": d, "final": loss})
    path = tmp_path_factory.mktemp("table") / "mine.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def page(table):
    columns = "--columns=N=params,D=tokens,loss=final"
    assert cli.main(["report", str(table), columns, "--units=N=M"]) == 0
    return Page(table.with_suffix(".html").read_text())


def test_it_says_how_sure_and_what_to_do_next(page):
    first = json.loads(page.scripts[0])["steps"]
    assert all("tokens per parameter" in s["note"] and "95 % intervals" in s["note"] for s in first if not s["reason"])
    assert "Before spending more, test the law at 3× the largest run: a run with N = " in page.text
    assert "--force" not in page.text  # a flag of another verb


def test_a_form_that_the_first_screen_rejects_is_rejected_in_the_table_of_laws(page):
    assert "The form is rejected" in page.text and "by a trend" in page.text and "not tested" not in page.text


def test_options_of_a_table_are_refused_for_a_card(table, tmp_path, capsys):
    card = tmp_path / "fit.json"
    named = "--columns=N=params,D=tokens,loss=final"
    assert cli.main(["fit", str(table), named, "--units=N=M", f"--out={card}"]) == 0
    for verb in ("report", "plot"):
        out = tmp_path / verb
        with refuses(Code.CONFLICT, "law", "kaplan"):
            fit_of(card, SimpleNamespace(law="kaplan", columns=None, units=None, where=None))
        assert cli.main([verb, str(card), "--law=kaplan", f"--out={out}"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1 and not out.exists()


def test_losses_whose_records_say_their_unit_are_not_asked_for_it():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4)))
    loss = 1.7 + 400 * n**-0.34 + 410 * d**-0.28
    loss[[3, 11]] /= np.log(2)
    rows = pd.DataFrame({"run": [f"r{i}" for i in range(20)], "N": n, "D": d, "C": 6 * n * d, "loss": loss})
    assert any(isinstance(w, MixedUnits) for w in warnings(rows, unit_known=False))
    assert not any(isinstance(w, MixedUnits) for w in warnings(rows, unit_known=True))


def test_small_words():
    assert plain_formula("L = E + A N^-alpha + B D^-beta") == "L = E + A N⁻ᵅ + B D⁻ᵝ"
    assert plain_formula("x^(p / q) + y^alpha_N") == "x^(p / q) + y^α_N"  # what has no raised letters stays
    assert "only 1 size has" in why_not(FewOptima(found=1, needed=3, of="sizes"))
    near = np.log([1.0, 7.5, 15.0, 40.0, 140.0, 690.0])
    assert len({_colour(near, float(np.exp(size))) for size in near}) == 6


def test_one_budget_is_told_as_not_identified_wherever_its_numbers_stand():
    n = np.geomspace(1e7, 1e9, 9)
    d = 1e18 / 6 / n
    loss = (1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28) * np.exp(0.003 * np.random.default_rng(0).standard_normal(9))
    table = pd.DataFrame({"N": n, "D": d, "loss": loss})
    made = analysis.fit(table)
    summary = of_one(made, Path("one.csv"))
    (part,) = summary.datasets
    shown = answer(summary, part)
    assert shown is not None and not shown.steps and shown.chart is not None
    assert [tile.meaning.count("not identified") for tile in shown.tiles] == [1, 1]  # a, and the floor
    third = part.approaches[part.n or ""].approaches["3"]
    assert isinstance(third.why, OneLine) and third.a is not None and third.a.lo is None
    for drawing in shown.chart.drawings.values():  # the runs stand at one C: its ticks are not all called 10¹⁸
        ticks = re.findall(r'text-anchor="middle">([^<]+)</text>', drawing.svg)
        assert len(ticks) == len(set(ticks)) > 2
