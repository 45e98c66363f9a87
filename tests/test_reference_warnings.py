"""What the tool itself says of published runs: rows that pull the fit or are wrong, approaches and papers that differ.

The warnings stand on cards of plain tables with default settings. Tests on tables without a licence are skipped where
those are not at hand (``references``); the planted twins always run.
"""

import contextlib
import dataclasses
import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from references import reference_file as reference
from selection import mostly_system

from analysis import card
from analysis.card import Interval
from analysis.check.approaches import approach2
from analysis.fitting import Fit, fit
from analysis.laws import published
from analysis.show.sentences import sentence, verdict
from analysis.table.runs import Runs, from_frame, load
from scaling import cli


def warned(f: Fit, kind: type) -> list[Any]:
    return [w for w in f.warnings if isinstance(w, kind)]


def printed(*arguments: object) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main([str(argument) for argument in arguments]) == 0
    return out.getvalue()


def surface(n: Any, d: Any) -> Any:
    return 1.8 + 480 / n**0.35 + 2000 / d**0.37


def grid(sizes: int, tokens: int, noise: float, seed: int) -> pd.DataFrame:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(5e7, 2e9, sizes), np.geomspace(5e8, 4e10, tokens)))
    loss = surface(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(n.size))
    return pd.DataFrame({"N": n, "D": d, "loss": loss})


# --- rows that pull the fit, and hide each other ----------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["auto", "huber:1e-3", "squares"])
def test_the_five_outliers_of_chinchilla_are_named_as_influential(objective):
    """Besiroglu 2024 drops the five highest losses. Alone the fifth moves a by 0.005 and lies 2.6 noise units off."""
    path = reference("chinchilla_besiroglu")
    five = {f"line {i + 2}" for i in np.flatnonzero(pd.read_csv(path)["excluded_by_besiroglu"])}
    (found,) = warned(fit(load(path), objective=objective), card.Influential)
    assert len(five) == 5 and five <= set(found.group.runs) and len(found.group.runs) <= 8
    assert found.group.change < -0.05  # LAWS: five outliers move a by 0.05
    assert five <= {row.run for row in found.rows} and "each hides the others" in sentence(found)
    assert max(abs(row.change) for row in found.rows) < abs(found.group.change) / 2


def planted_mask(seed: int) -> Runs:
    """110 good rows with 0.5 % noise, and six of large N and fewer tokens than any that lie 2.5 to 50 % too high."""
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(7.7, 10.1, 110), 10 ** rng.uniform(8.9, 11.3, 110)
    table = pd.DataFrame({"N": n, "D": d, "loss": surface(n, d) * np.exp(0.005 * rng.standard_normal(110))})
    n, d = np.geomspace(2e9, 6e9, 6), np.geomspace(8e8, 2.5e8, 6)
    off = pd.DataFrame({"N": n, "D": d, "loss": surface(n, d) * np.exp([0.025, 0.05, 0.15, 0.2, 0.4, 0.4])})
    return from_frame(pd.concat([off, table], ignore_index=True))


def test_planted_rows_that_hide_each_other_are_named_together():
    f = fit(planted_mask(0))
    (found,) = warned(f, card.Influential)
    hidden = {f"row {i}" for i in range(1, 7)}
    assert set(found.group.runs) == hidden
    residual = dict(zip(f.runs, np.log(f.columns["loss"] / f.columns["fitted"])))
    for row in ("row 1", "row 2"):  # seen from the common fit they are no outliers
        assert abs(residual[row]) < 4.5 * f.noise.sigma_run
    assert {row.run for w in warned(f, card.Outliers) for row in w.rows} == hidden
    true, without = 0.37 / 0.72, f.intervals["a"].value + found.group.change
    assert abs(without - true) < 0.01 < abs(f.intervals["a"].value - true)


def test_clean_tables_name_nothing():
    """Of 200 such tables, seeds 0 to 199, none names a row."""
    for seed in range(5):
        f = fit(from_frame(grid(8, 5, 0.01, seed)))
        assert not warned(f, card.Influential) and not warned(f, card.Outliers)


# --- approaches that disagree -----------------------------------------------------------------------------------------


MARIN = [("comma", 0.426, 0.330), ("dclm", 0.432, 0.368), ("nemotron", 0.444, 0.374)]


@pytest.mark.parametrize(("dataset", "two", "three"), mostly_system(MARIN, MARIN[0]))
def test_marins_approaches_2_and_3_disagree_and_the_card_says_so(dataset, two, three):
    runs = load(reference("marin_isoflop"), dataset=dataset, where="not outlier")
    assert approach2(runs).sensitivity["all sizes"] == pytest.approx(two, abs=6e-4)
    reproduction = fit(runs, objective="huber:1e-3", scheme="delta-t")
    assert reproduction.intervals["a"].value == pytest.approx(three, abs=6e-4)
    for f in (reproduction, fit(runs)) if dataset == "comma" else (fit(runs),):
        (found,) = warned(f, card.ApproachesDisagree)
        assert sentence(found).startswith("approaches 2 and 3 disagree: ") and found.a.disagree
        assert abs(found.a.difference) > found.a.allowed


def test_marins_disagreement_is_printed():
    text = printed("fit", reference("marin_isoflop"), "--dataset=comma", "--where=not outlier")
    assert "warning approaches_disagree: approaches 2 and 3 disagree" in text


def isoflop(loss: Any, noise: float, seed: int) -> Runs:
    c = np.repeat(np.geomspace(1e18, 1e21, 6), 9)
    n = 0.1 * (c / 6) ** 0.5 * np.tile(np.geomspace(1 / 5, 5, 9), 6)
    d = c / 6 / n
    y = loss(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return from_frame(pd.DataFrame({"N": n, "D": d, "C": c, "loss": y}))


def bent(n: Any, d: Any) -> Any:
    """A surface whose valley at equal C lies elsewhere than the form can put it."""
    return surface(n, d) + 0.02 * np.log(n / (0.1 * (n * d) ** 0.5) / 3) ** 2


def test_a_planted_disagreement_is_printed(tmp_path):
    isoflop(bent, 1e-3, 0).table[["N", "D", "C", "loss"]].to_csv(tmp_path / "runs.csv", index=False)
    text = printed("fit", tmp_path / "runs.csv")
    assert "warning approaches_disagree: approaches 2 and 3 disagree" in text


def test_planted_disagreement_is_on_the_card_and_agreement_is_not():
    (found,) = warned(fit(isoflop(bent, 1e-3, 0)), card.ApproachesDisagree)
    assert found.a.disagree or found.N.disagree
    for seed in range(3):
        assert not warned(fit(isoflop(surface, 0.003, seed)), card.ApproachesDisagree)


# --- a row that is wrong ----------------------------------------------------------------------------------------------


def stray(runs: Runs) -> list[tuple[str, list[str]]]:
    return [(w.column, list(w.rows)) for w in runs.warnings if isinstance(w, card.StrayValue)]


def test_obsscalings_wrong_row_is_named_by_row_and_column():
    """btlm-3b-8k-base has D 6.27e14 where 627e9 is meant; its C agrees with that D, so 6ND tells nothing."""
    path = reference("obsscaling_base_llm")
    assert path.read_text().splitlines()[140].startswith("cerebras/btlm-3b-8k-base,")
    runs = load(path, where="D > 0", columns={"loss": "MMLU"})
    assert stray(runs) == [("D", ["line 141"])]
    text = printed("fit", path, "--where=D > 0", "--columns=loss=MMLU")
    assert "warning stray_value: column D: 1 of 123 rows (line 141 (6.27e+14))" in text


@pytest.mark.parametrize(
    ("column", "factor", "named"),
    [("D", 1000, "D"), ("N", 1e-3, "N"), ("D", 30, "D/N"), ("C", 10, "C/6ND"), ("C", 0.1, "C/6ND")],
)
def test_a_planted_slip_is_named_by_row_and_column(column, factor, named):
    rng = np.random.default_rng(0)
    n = 10 ** rng.uniform(7, 10, 60)
    table = pd.DataFrame({"N": n, "D": n * np.exp(rng.uniform(1.5, 4, 60))})
    table["C"] = 6 * table["N"] * table["D"] * np.exp(rng.uniform(0, 0.3, 60))
    table["loss"] = surface(table["N"], table["D"])
    assert stray(from_frame(table)) == []
    row = int(np.argsort(n)[{"N": 0, "D": -1 if named == "D" else 20}.get(column, 30)])
    table.loc[row, column] *= factor
    assert stray(from_frame(table)) == [(named, [f"row {row + 1}"])]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("chinchilla_besiroglu", {}),
        ("datablations_c4_all", {}),
        ("porian_isoflop", {"dataset": "rw"}),
        ("marin_isoflop", {"dataset": "dclm"}),
        ("gadre_overtraining", {"dataset": "rpj", "columns": {"loss": "loss_c4"}}),
        ("gemstones", {"where": "subset == 'cool_end'"}),
        ("steplaw_moe_lr_bs", {"columns": {"loss": "smooth_loss"}}),
    ],
)
def test_sound_published_tables_have_no_stray_value(name, how):
    assert stray(load(reference(name), **how)) == []


# --- a flat valley ----------------------------------------------------------------------------------------------------


def unidentified(f: Fit) -> dict[str, card.NotIdentified]:
    return {w.parameter: w for w in f.warnings if isinstance(w, card.NotIdentified)}


@pytest.mark.system
def test_datablations_valley_is_flagged():
    """Both optima lie in the range that the card calls not identified; the interval at the estimate holds neither."""
    runs = load(reference("datablations_c4_fit182"))
    entry = published.get("muennighoff2023").params
    held = {k: entry[k] for k in ("E", "A", "B", "alpha", "beta")}
    f = fit(runs, "repeats", objective="huber:1e-3", fixed=held)
    found = unidentified(f)
    for name, optima in (("R_D", (15.3718, 46.99)), ("R_N", (5.3151, 2.330))):
        lo, hi, cell = found[name].lo, found[name].hi, f.intervals[name]
        assert lo is not None and hi is not None and cell.lo is not None and cell.hi is not None
        assert all(lo <= at * 1.0002 and at <= hi * 1.0002 for at in optima)
        assert cell.lo > min(optima) or cell.hi < max(optima)
        assert f"{name} =" in verdict(f).partition("Not identified at this scale:")[2]
    assert "R_N" in unidentified(fit(runs, "repeats", fixed=held))
    assert "R_N" in unidentified(fit(runs, "repeats"))  # nothing asked for: all seven are free


def repeats(n: int, most: float, seed: int) -> Runs:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"N": 10 ** rng.uniform(7, 9.9, n), "U": 10 ** rng.uniform(8, 10, n)})
    table["D"] = table["U"] * np.exp(rng.uniform(0, math.log(most), n))
    law = published.get("muennighoff2023")
    table["loss"] = law.predict(table) * np.exp(0.002 * rng.standard_normal(n))
    return from_frame(table)


def test_planted_repetitions_identify_their_worth_only_where_there_are_many():
    entry = published.get("muennighoff2023").params
    held = {k: entry[k] for k in ("E", "A", "B", "alpha", "beta", "R_N")}
    assert unidentified(fit(repeats(110, 100, 0), "repeats", fixed=held)) == {}
    few = fit(repeats(110, 1.5, 0), "repeats", fixed=held)  # half an epoch more tells no half-life of 15
    (found,) = unidentified(few).values()
    assert found.parameter == "R_D" and "Not identified at this scale: R_D" in verdict(few)


# --- published fits beside one's own ----------------------------------------------------------------------------------


def outside(parameter: card.PublishedParameter) -> tuple[bool, bool]:
    """Whether the published value lies outside the interval here, and the value here outside the published one."""
    return parameter.outside_here, parameter.outside_published


def test_step_laws_disagreement_is_on_the_card():
    table = pd.read_csv(reference("steplaw_dense_lr_bs"))
    best = table.loc[table.groupby(["N", "D"])["smooth_loss"].idxmin()]
    cells: Any = best[["N", "D"]].astype(float)
    (lr,) = fit(from_frame(cells.assign(loss=best["lr"])), "best_lr", objective="squares").card.published
    assert lr.name == "steplaw2025-lr" and "differs in p" in sentence(lr) and "raw rows" in lr.note
    assert outside(lr.params["p"]) == (False, True)
    batch = fit(from_frame(cells.assign(loss=best["batch_seqs"] * 2048.0)), "growth:D", objective="squares")
    assert [sentence(entry) for entry in batch.card.published] == ["agrees in k; differs in a"]


def test_planted_runs_of_a_published_law_agree_with_it_and_others_do_not():
    entry = published.get("besiroglu2024")
    table = grid(8, 6, 0.0, 0)
    table["loss"] = entry.predict(table) * np.exp(0.001 * np.random.default_rng(1).standard_normal(48))
    found = {entry.name: entry for entry in fit(from_frame(table)).card.published}
    assert sentence(found["besiroglu2024"]) == "agrees in E, A, B, alpha, beta"
    assert "differs in" in sentence(found["mcleish2025"]) and "beta" in sentence(found["mcleish2025"])
    assert True in outside(found["mcleish2025"].params["beta"])
    assert found["besiroglu2024"].params["alpha"].interval == (0.317, 0.373)


def test_a_published_interval_that_excludes_the_value_here_is_told():
    here = {"p": Interval(value=-0.8, lo=-1.1, hi=-0.5), "q": Interval(value=0.3, lo=0.3, hi=0.3)}
    (found,) = published.beside("best_lr", here)
    assert outside(found.params["p"]) == (False, True) and "q" not in found.params
    narrow = {"p": Interval(value=-0.8, lo=-0.85, hi=-0.75)}
    assert outside(published.beside("best_lr", narrow)[0].params["p"]) == (True, True)


def test_losses_of_other_tokens_are_not_beside_the_published_ones():
    table = grid(8, 6, 0.0, 0)
    table["loss"] = published.get("besiroglu2024").predict(table)
    runs = from_frame(table)
    own = dataclasses.replace(runs, conventions=card.Conventions(origin="records", n="nonembedding", term="mlm"))
    beside = fit(own).card.published
    assert beside
    for entry in beside:
        assert set(entry.params) == {"alpha", "beta"}, entry.name
