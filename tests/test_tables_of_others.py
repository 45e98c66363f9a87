"""Tables of other people: their names, units and extra columns are read as they mean them, said, or questioned."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis import card
from analysis.show.tables import summary
from analysis.table.names import available
from analysis.table.runs import Runs
from analysis.table.units import written
from scaling import cli
from scaling.errors import Code

CELLS = [(n, n * ratio) for n in (31e6, 74e6, 165e6, 420e6, 760e6) for ratio in (5, 20, 80, 150)]
N, D = (np.array(column) for column in zip(*CELLS))
LOSS = 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28
NOISY = LOSS * np.exp(0.003 * np.random.default_rng(3).standard_normal(len(LOSS)))
A = 0.28 / (0.34 + 0.28)


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"N": N, "D": D, "loss": NOISY, **columns})


def shell(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def questions(runs: Runs) -> list[str]:
    return [w.column for w in runs.warnings if isinstance(w, card.QuestionedUnits)]


def compact(value: float) -> str:
    return f"{value / 1e6:g}M" if value < 1e9 else f"{value / 1e9:g}B"


@pytest.mark.parametrize(
    ("columns", "units"),
    [
        ({"N": N / 1e6, "D": D / 1e9}, {"N": "M", "D": "B"}),
        ({"N": N / 1e3, "D": D / 1e12}, {"N": "thousands", "D": "T"}),
        ({"N": N / 1e9, "D": D / 1e9}, {"N": "G", "D": "billions"}),
        ({"loss": np.exp(NOISY)}, {"loss": "ppl"}),
        ({"loss": NOISY / np.log(2)}, {"loss": "bits"}),
        ({"C": 6 * N * D / 8.64e19}, {"C": "PF-days"}),
        ({"C": 6 * N * D / 1e18}, {"C": "EFLOPs"}),
        ({"C": 2 * N * D}, {"C": "forward"}),
        ({"C": 6 * N * D / 1e21}, {"C": "1e21"}),
    ],
)
def test_declared_units_give_the_same_runs(columns, units):
    read = analysis.load(table(**columns), units=units).table
    for name, wanted in (("N", N), ("D", D), ("C", 6 * N * D), ("loss", NOISY)):
        np.testing.assert_allclose(read[name], wanted, rtol=1e-12)


@pytest.mark.parametrize(
    "cells",
    [
        {"N": [compact(n) for n in N], "D": [compact(d) for d in D]},
        {"N": [f"{n:,.0f}" for n in N], "D": [f"{d:,.0f}" for d in D]},
        {"N": [f"{n / 1e6:g} m" for n in N], "D": [f"{d / 1e9:g}G" for d in D]},
        {"D": [f"{d:.4e}" for d in D]},
        {"loss": [f"{loss:.5f}".replace(".", ",") for loss in NOISY]},
        {"N": [f"{n:,.0f}".replace(",", ".") for n in N]},
    ],
)
def test_numbers_as_people_write_them(cells, tmp_path):
    table(**cells).to_csv(tmp_path / "t.csv", index=False)
    read = analysis.load(tmp_path / "t.csv").table
    for name, wanted in (("N", N), ("D", D), ("loss", NOISY)):
        np.testing.assert_allclose(read[name], wanted, rtol=1e-4)


def test_decimal_commas_beside_semicolons(tmp_path):
    text = table(loss=np.round(NOISY, 3)).to_csv(index=False, sep=";").replace(".0;", ";").replace(".", ",")
    (tmp_path / "t.csv").write_text(text)
    np.testing.assert_allclose(analysis.load(tmp_path / "t.csv").table["loss"], NOISY, atol=5e-4)


def test_commas_that_can_be_either_are_refused():
    with refuses(Code.CONFLICT, "column loss"):
        analysis.load(table(loss=[f"{loss:.3f}".replace(".", ",") for loss in NOISY]))
    with refuses(Code.INVALID, "row 1, column N", "31,5"):
        analysis.load(table(N=["31,5", *N[1:]]))
    with refuses(Code.INVALID, "row 2, column loss", "3.1x"):
        analysis.load(table(loss=[NOISY[0], "3.1x", *NOISY[2:]]))


@pytest.mark.parametrize(
    ("columns", "asked"),
    [
        ({"N": N / 1e6, "D": D / 1e9}, "N"),
        ({"D": D / 1e9}, "D/N"),
        ({"N": N / 1e3, "D": D / 1e9}, "D/N"),
        ({"D": D * 1e9}, "D/N"),
        ({"N": N * 1e6, "D": D * 1e6}, "6ND"),
        ({"C": 2 * N * D}, "C/6ND"),
        ({"C": 6 * N * D / 8.64e19}, "C/6ND"),
        ({"C": 6 * N * D * 1e3}, "C/6ND"),
        ({"loss": np.exp(NOISY)}, "loss"),
    ],
)
def test_a_whole_table_in_another_unit_is_questioned_and_the_remedy_works(columns, asked):
    assert questions(analysis.load(table(**columns))) == [asked]
    assert "--units" in summary(analysis.fit(table(**columns), seed=1))


def test_usual_tables_are_not_questioned():
    for columns in ({}, {"C": 6 * N * D}, {"C": 8 * N * D}, {"D": N * 0.5}, {"D": N * 2e4}, {"loss": NOISY + 7}):
        assert questions(analysis.load(table(**columns))) == []


def test_tokens_from_compute_and_parameters():
    frame = pd.DataFrame({"parameters": N, "compute_budget": 6 * N * D, "final_loss": NOISY})
    runs = analysis.load(frame)
    np.testing.assert_allclose(runs.table["D"], D, rtol=1e-12)
    assert (runs.conventions.tokens, runs.conventions.flops) == ("C/6N", "column")
    fit = analysis.fit(frame)
    a = fit.intervals["a"]
    assert a.lo is not None and a.hi is not None and a.lo < A < a.hi
    assert "C / 6N" in summary(fit)


def test_arithmetic_of_columns(tmp_path):
    frame = pd.DataFrame({"body": N - 1e6, "lm-head": np.full(len(N), 1e6), "D": D / 2, "two": 2, "val_bpb": NOISY})
    columns = {"N": "body + `lm-head`", "D": "two * D", "loss": "val_bpb"}
    runs = analysis.load(frame, columns=columns)
    np.testing.assert_allclose(runs.table["N"], N)
    np.testing.assert_allclose(runs.table["D"], D)
    assert runs.conventions.columns == columns
    frame.to_csv(tmp_path / "t.csv", index=False)
    code, out, _ = shell("fit", tmp_path / "t.csv", "--columns=N=body + `lm-head`,D=D*two,loss=val_bpb")
    assert code == 0 and "body + `lm-head` of the table" in out
    for wrong in ("body + nothing", "body +", "body > 3", "__import__('os')", "body.sum()", "3"):
        with refuses(Code.INVALID if wrong != "body + nothing" else Code.UNKNOWN):
            analysis.load(frame, columns={**columns, "N": wrong})
    with refuses(Code.MISSING, "columns", "N=bodies"):
        analysis.load(frame, columns={**columns, "N": "bodies"})


def test_a_validation_loss_is_preferred_and_said():
    for other in ("loss", "final_loss"):
        frame = pd.DataFrame({"N": N, "D": D, other: NOISY - 0.2, "val_loss": NOISY})
        fit = analysis.fit(frame)
        assert (fit.conventions.columns["loss"], fit.conventions.aside) == ("val_loss", (other,))
        assert f"not {other}" in summary(fit)
    assert analysis.load(table(train_loss=1.0)).conventions.columns["loss"] == "loss"
    with refuses(Code.CONFLICT, "column", "val_loss, test_loss"):
        analysis.load(pd.DataFrame({"N": N, "D": D, "val_loss": NOISY, "test_loss": NOISY}))


def test_a_letter_is_a_column_only_beside_its_fellows():
    width = pd.DataFrame({"params": N, "d": 512, "tokens_trained": D, "loss": NOISY})
    assert analysis.load(width).conventions.columns["D"] == "tokens_trained"
    letters = pd.DataFrame({"n": N, "d": D, "c": 6 * N * D, "loss": NOISY})
    assert analysis.load(letters).conventions.columns == {"N": "n", "D": "d", "C": "c", "loss": "loss"}
    for text in (table(c="cosine"), table(C="cosine")):
        assert analysis.load(text).conventions.flops == "6ND"
    with refuses(Code.MISSING, "table", "no column D"):
        analysis.load(pd.DataFrame({"params": N, "d": 512, "loss": NOISY}))


def test_perplexity_names_its_remedy(tmp_path):
    pd.DataFrame({"N": N, "D": D, "ppl": np.exp(NOISY)}).to_csv(tmp_path / "t.csv", index=False)
    code, _, err = shell("fit", tmp_path / "t.csv")
    assert code == 2 and "--columns=loss=ppl --units=loss=ppl" in err
    code, out, _ = shell("fit", tmp_path / "t.csv", "--columns=loss=ppl", "--units=loss=ppl")
    assert code == 0 and "in ppl" in out


def test_a_loss_in_bits_is_answered_with_its_unit():
    with refuses(Code.MISSING, "table") as caught:
        analysis.load(table(val_bpb=NOISY / np.log(2)).drop(columns="loss"))
    assert "--columns=loss=val_bpb --units=loss=bits" in caught.value.remedy


@pytest.mark.parametrize("mark", ["_", " ", "'", "\u2019", "\u00a0", "\u202f"])
def test_marks_between_thousands(mark: str):
    cells = pd.Series([f"{int(n):,}".replace(",", mark) for n in N], dtype=object)
    np.testing.assert_array_equal(written(cells, "N", count=True), N)
    assert written(pd.Series([f"31{mark}00", f"3{mark}1"], dtype=object), "N", count=True).isna().all()


def test_names_of_single_runs_are_no_stems():
    names = [f"r{i}" for i in range(len(N))]
    alone = analysis.fit(table())
    for column in ("run", "run_name", "run_id"):
        fit = analysis.fit(table(**{column: names}))
        assert fit.intervals == alone.intervals and fit.noise.groups == alone.noise.groups
        assert list(fit.runs) == names
    shared = [f"r{i // 2}" for i in range(len(N))]
    stems = analysis.fit(table(run=shared)).noise.groups
    assert stems is not None and (stems.kind, stems.count) == ("stem", len(N) // 2)


def swept() -> pd.DataFrame:
    rates = np.tile([3e-4, 1e-3, 3e-3], len(N))
    loss = np.repeat(NOISY, 3) * (1 + 0.02 * np.log(rates / 1e-3) ** 2)
    return pd.DataFrame({"N": np.repeat(N, 3), "D": np.repeat(D, 3), "lr": rates, "loss": loss})


def test_settings_that_were_swept_are_said_and_the_best_of_each_cell_fitted(tmp_path):
    (warning,) = [w for w in analysis.load(swept()).warnings if isinstance(w, card.SweptSettings)]
    assert (warning.columns, warning.cells, warning.of) == (("lr",), len(N), len(N)) and "lr_loss" in warning.laws
    best = analysis.load(swept(), best_of_cell=True)
    assert len(best) == len(N) and {row.why for row in best.dropped} == {"not_best"} and len(best.dropped) == 2 * len(N)
    np.testing.assert_allclose(best.table["loss"], NOISY)
    assert not any(isinstance(w, card.SweptSettings) for w in best.warnings)
    assert not any(isinstance(w, card.SweptSettings) for w in analysis.load(swept(), law="lr_loss").warnings)
    swept().to_csv(tmp_path / "t.csv", index=False)
    code, out, _ = shell("fit", tmp_path / "t.csv", "--best_of_cell")
    assert code == 0 and f"{2 * len(N)} rows dropped" in out and "swept_settings" not in out
    code, out, _ = shell("fit", tmp_path / "t.csv")
    assert code == 0 and "--best_of_cell" in out


def test_marked_rows_are_counted_and_a_flag_keeps_them(tmp_path):
    marked = table(status=["running"] * 3 + ["finished"] * (len(N) - 3))
    assert len(analysis.load(marked)) == len(N) - 3 and len(analysis.load(marked, keep=("status",))) == len(N)
    table(status="running").to_csv(tmp_path / "t.csv", index=False)
    code, _, err = shell("fit", tmp_path / "t.csv")
    assert code == 2 and f"{len(N)} by status" in err and "--keep=status" in err
    assert shell("fit", tmp_path / "t.csv", "--keep=status")[0] == 0
    with refuses(Code.UNKNOWN, "keep", "states"):
        analysis.load(marked, keep=("states",))


def test_all_laws_are_those_of_the_tables_columns(tmp_path):
    """A learning rate makes room for the law that knows it; a table of C and loss has the laws of one variable."""

    def allowed(frame: pd.DataFrame, **columns: str) -> set[str]:
        return {law.name for law in analysis.laws.of_columns(available(frame, columns))}

    assert {"chinchilla", "skaling", "kaplan", "lr_loss"} <= allowed(swept())
    assert not {"lr_loss", "repeats", "annealing", "transfer"} & allowed(table())
    assert allowed(pd.DataFrame({"params": N, "flops": N})) == allowed(table())
    assert "precision" in allowed(table(width=4), bits="width") and "power_floor" in allowed(table(), x="D")
    assert "bnsl3" not in {law.name for law in analysis.laws.of_columns({"x", "r1", "r2", "r3"})}  # 3 shares, no breaks
    first = np.linspace(0.1, 0.9, 12)
    mixed = pd.DataFrame({"r1": first, "r2": 1 - first, "loss": 1.5 + np.exp(0.8 * first - 0.3)})
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    code, out, _ = shell("fit", tmp_path / "mixed.csv", "--law=all")
    assert code == 0 and ": mixture2 " in out
    mixed.drop(columns="r2").to_csv(tmp_path / "q.csv", index=False)
    code, _, err = shell("fit", tmp_path / "q.csv", "--law=all")
    assert code == 2 and err.count("\n") == 1
    assert [row["name"] for row in json.loads(shell("laws", "--columns=N,experts", "--json")[1])] == ["routing"]
    assert shell("laws", "--columns=")[0] == shell("laws", "--columns= ,")[0] == 2
    assert shell("laws", "--columns=N,expert")[0] == 2 and shell("laws", "--columns=learning_rat")[0] == 2
    for columns, expected in (("C", "power_floor:C"), ("r1,r2,r3,r4,r5", "mixture5"), ("N,streams", "parallel")):
        named = [row["name"] for row in json.loads(shell("laws", f"--columns={columns}", "--json")[1])]
        assert expected in named and not {"mixture2", "mixture4"} & set(named)


def test_a_mixture_of_any_number_of_domains():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(6), 60)
    effects = np.array([0.3, -0.5, 0.1, 0.6, -0.2, -1.0])
    loss = (1.8 + np.exp(shares @ effects)) * np.exp(1e-3 * rng.standard_normal(60))
    frame = pd.DataFrame(shares, columns=pd.Index([f"r{i}" for i in range(1, 7)])).assign(loss=loss)
    fit = analysis.fit(frame, "mixture6")
    c = fit.intervals["c"]
    assert c.lo is not None and c.hi is not None and c.lo < 1.8 < c.hi
    assert analysis.laws.get("mixture6") is analysis.laws.get("mixture6")
    for name in ("mixture1", "mixture101", "mixture", "chinchilla7"):
        with refuses(Code.UNKNOWN, "law", name):
            analysis.laws.get(name)


def test_wrong_units_are_one_line(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    for units, value in (("N=parsec", "N=parsec"), ("Q=M", "Q"), ("loss=M", "loss=M"), ("D=-1", "D=-1")):
        code, out, err = shell("fit", tmp_path / "t.csv", f"--units={units}")
        assert code == 2 and not out and err.count("\n") == 1 and f"units = {value}" in err
    with refuses(Code.CONFLICT, "units"):
        analysis.load("reference:gadre", units={"D": "B"})
    with refuses(Code.UNSUPPORTED, "units"):
        analysis.load(Path(tmp_path), units={"D": "B"})


def test_logs_that_alternate_between_training_and_evaluation():
    steps = np.arange(50, 2001, 50)
    rate = 1e-3 * (1 - steps / 2001)
    evaluated = steps % 200 == 0
    loss = 3 + 5 / np.sqrt(steps)
    frame = pd.DataFrame({"step": steps, "lr": [str(r) for r in rate], "val_loss": [f"{x:.4f}" for x in loss]})
    frame.loc[~evaluated, "val_loss"] = ""
    runs = analysis.load(frame, law="annealing", warmup=50)
    np.testing.assert_array_equal(runs.table["step"], steps[evaluated])
    (row,) = [row for row in runs.dropped if row.why == "no_loss"]
    assert "30" in row.detail
    frame.loc[3, "val_loss"] = "wrong"
    with refuses(Code.INVALID, "row 4, column val_loss", "wrong"):
        analysis.load(frame, law="annealing", warmup=50)
    assert len(analysis.load(frame, law="annealing", where="step > 300", warmup=50)) == 9  # left out, not judged


def test_two_kinds_of_runs_in_one_table_are_said_but_names_of_machines_are_not():
    hosts = np.random.default_rng(3).choice(["a1", "a2", "b7"], 2 * len(N)).tolist()
    two = {
        "N": np.tile(N, 2),
        "D": np.tile(D, 2),
        "mix": ["web"] * len(N) + ["code"] * len(N),
        "host": hosts,
        "rates": [[1, 2]] * 2 * len(N),
    }
    scatter = 1 + 0.003 * np.random.default_rng(4).standard_normal(2 * len(N))
    for gain, said in ((1.03, [("mix",)]), (1.0, [])):
        loss = np.tile(NOISY, 2) * np.repeat([1, gain], len(N)) * scatter
        runs = analysis.load(pd.DataFrame({**two, "loss": loss}))
        found = [w for w in runs.warnings if isinstance(w, card.SweptSettings)]
        assert [w.columns for w in found] == said
        for warning in found:
            assert (warning.cells, warning.groups) == (len(N), ("web", "code"))
            assert np.expm1(warning.spread_log) == pytest.approx(0.03, abs=0.004)
