"""Tables as people's spreadsheets, trackers and scripts write them: read alike, or one line that names the cause."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis import laws
from analysis.show.sentences import sentence
from analysis.table import text_files
from scaling.errors import Code, UserError

CELLS = [(n, n * ratio) for n in (31e6, 74e6, 165e6, 420e6, 1.1e9) for ratio in (5, 20, 60, 150)]
NOISE = np.exp(0.003 * np.random.default_rng(2).standard_normal(len(CELLS)))
TABLE = pd.DataFrame(
    [(int(n), int(d), round((1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * e, 5)) for (n, d), e in zip(CELLS, NOISE)],
    columns=pd.Index(["N", "D", "loss"]),
)
CSV = TABLE.to_csv(index=False)


def codes(fit: analysis.Fit) -> set[str]:
    return {warning.code for warning in fit.warnings}


def grouped(mark: str) -> str:
    """The table with a mark between thousands."""
    return "N,D,loss\n" + "".join(
        f"{n:,}".replace(",", mark) + "," + f"{d:,}".replace(",", mark) + f",{loss}\n"
        for n, d, loss in TABLE.itertuples(index=False)
    )


FILES: dict[str, bytes] = {
    "semicolons.csv": CSV.replace(",", ";").encode(),
    "tabs.csv": CSV.replace(",", "\t").encode(),
    "sep.csv": b"sep=;\n" + CSV.replace(",", ";").encode(),
    "sep_crlf.csv": b"sep=,\r\n" + CSV.replace("\n", "\r\n").encode(),
    "trailing.csv": CSV.replace("\n", ",,\n").encode(),
    "trailing_in_rows.csv": CSV.replace("\n", ",\n").replace("loss,\n", "loss\n", 1).encode(),
    "utf16.csv": CSV.encode("utf-16"),
    "utf16_without_a_mark.csv": CSV.encode("utf-16-le"),
    "utf16_the_other_way.csv": CSV.encode("utf-16-be"),
    "index.csv": TABLE.to_csv().encode(),
    "index_of_some.csv": TABLE.set_index(3 * TABLE.index + 2).to_csv().encode(),
    "spaces.csv": grouped(" ").encode(),
    "narrow_spaces.csv": grouped("\u202f").encode(),
    "swiss.csv": grouped("'").encode(),
    "mark.csv": CSV.encode("utf-8-sig"),
    "packed.csv.gz": gzip.compress(CSV.encode()),
    "packed_without_a_word.csv": gzip.compress(CSV.encode()),
    "words.csv": CSV.replace(",", " ").encode(),
    "aligned.csv": TABLE.to_string(index=False).encode(),
    "numpy.csv": ("# " + CSV.replace(",", " ")).encode(),
    "numpy_with_commas.csv": ("# " + CSV).encode(),
    "comments.csv": ("# our runs of May\n# a, b, c\n" + CSV).encode(),
    "comment_above_words.dat": ("# our runs\n" + CSV.replace(",", " ")).encode(),
    "by_another_name.txt": CSV.encode(),
    "no_last_end.csv": CSV.rstrip("\n").encode(),
    "rows.json": TABLE.to_json(orient="records").encode(),
    "columns.json": TABLE.to_json().encode(),
    "lists.json": json.dumps(TABLE.to_dict("list")).encode(),
    "rows.jsonl.gz": gzip.compress(TABLE.to_json(orient="records", lines=True).encode()),
    "rows.jsonl": TABLE.to_json(orient="records", lines=True).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_however_it_is_written_it_is_the_same_table(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(FILES[name])
    read = analysis.load(tmp_path / name).table
    for column in TABLE:
        np.testing.assert_array_equal(read[column], TABLE[column])


@pytest.mark.parametrize(("unit", "log"), [("log10", np.log10), ("ln", np.log)])
def test_logarithms_are_a_unit(unit: str, log: Callable[[Any], Any]):
    logs = TABLE.assign(N=log(TABLE["N"]), D=log(TABLE["D"]))
    read = analysis.load(logs, units={"N": unit, "D": unit}).table
    np.testing.assert_allclose(read[["N", "D"]], TABLE[["N", "D"]])
    with pytest.raises(UserError):
        analysis.load(logs, units={"loss": unit})
    if unit == "log10":
        (said,) = [sentence(w) for w in analysis.load(logs).warnings if w.code == "questioned_units"]
        assert "N=log10" in said


@pytest.mark.parametrize(
    ("name", "content", "code", "value"),
    [
        ("t.csv", b"N,D,,loss\n1e6,1e8,3,4\n", Code.MISSING, "column 3"),
        ("t.csv", b",N,D,loss\n2,1e6,1e8,4\n1,1e6,1e8,4\n", Code.MISSING, "column 1"),
        ("t.csv", b"Our runs of May,,\n" + CSV.encode(), Code.DAMAGED, "first line"),
        ("t.csv", b"# N, D, loss, of May\nour runs\n" + CSV.encode(), Code.DAMAGED, "first line"),
        ("t.csv", b"\x00\x01\x02" * 100, Code.DAMAGED, "t.csv"),
        ("t.csv", CSV.encode() + b"1,2,3,4\n", Code.DAMAGED, "line 22"),
        ("t.csv", b"sep=;\nN;D;loss\n1;2\n", Code.DAMAGED, "line 3"),
        ("t.csv.gz", gzip.compress(CSV.encode())[:-20], Code.DAMAGED, "t.csv.gz"),
        ("t.csv", b"\xff\xfe\x00", Code.DAMAGED, "t.csv"),
        ("t.csv", CSV.encode()[:-5], Code.DAMAGED, "line 21"),
        ("t.json", b'{"N": [1, 2], "D": [3]}', Code.DAMAGED, "t.json"),
        ("t.json", b"[" * 100_000, Code.DAMAGED, "t.json"),
        ("t.xlsx", b"PK", Code.UNSUPPORTED, "t.xlsx"),
    ],
)
def test_what_is_no_table_names_its_cause(name: str, content: bytes, code: Code, value: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with refuses(code) as caught:
        analysis.load(tmp_path / name)
    assert value in str(caught.value.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("last", "cut"), [("lr", False), ("Val_Loss", True), ("bpb", True), ("ppl", True)])
def test_only_a_loss_may_have_been_cut(last: str, cut: bool, tmp_path: Path):
    """Settings are as short as they are."""
    path = tmp_path / "t.csv"
    path.write_text(
        f"N,D,loss,{last}\n" + "\n".join(f"1e6,1e8,3.1234,{x}" for x in ("0.00125", "0.0025", "0.005", "0.1"))
    )
    if cut:
        with refuses(Code.DAMAGED, "table", f"{path}, line 5"):
            text_files.delimited(path, ",")
    else:
        assert text_files.delimited(path, ",")[0][last].tolist() == ["0.00125", "0.0025", "0.005", "0.1"]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_a_line_without_an_end_is_not_read_to_its_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with (tmp_path / name).open("wb") as file:
        file.truncate(1_500_000_000)
    monkeypatch.setattr(text_files, "LONGEST", 1 << 22)
    tracemalloc.start()
    with refuses(Code.DAMAGED, "table", f"{tmp_path / name}, line 1"):
        analysis.load(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()


@pytest.mark.parametrize("status", ["done", "finished", "Completed", "SUCCESS"])
def test_a_finished_run_is_finished_in_any_tracker(status: str):
    runs = analysis.load(TABLE.assign(status=[status] * (len(TABLE) - 2) + ["crashed", "failed"]))
    assert len(runs.table) == len(TABLE) - 2 and [row.detail for row in runs.dropped] == ["crashed", "failed"]


def test_a_best_learning_rate_need_not_fall_with_the_size():
    n, d = (np.array(values) for values in zip(*CELLS))
    rate = 0.3 * n**-0.2 * d**0.1 * np.exp(0.3 * np.random.default_rng(1).standard_normal(len(n)))
    fit = analysis.fit(pd.DataFrame({"N": n, "D": d, "lr": rate}), law="best_lr", columns={"loss": "lr"})
    assert "not_monotone" not in codes(fit)


def test_shares_that_leave_a_domain_out_are_refused():
    shares = np.random.default_rng(0).dirichlet(np.ones(5), 30)
    table = pd.DataFrame(shares, columns=pd.Index([f"r{i}" for i in range(1, 6)])).assign(loss=np.linspace(2, 3, 30))
    with refuses(Code.INVALID, "shares") as caught:
        analysis.fit(table, law="mixture4")
    assert caught.value.value == f"{shares[0, :4].sum():.4g}"


def test_shares_written_in_two_digits_or_in_percent():
    """Rounded shares add to .99 or 1.01; a domain that is left out of them, or percentages, are another thing."""
    law: Any = laws.get("mixture4")
    shares = np.random.default_rng(0).dirichlet(np.ones(4), 40)
    columns = {f"r{i + 1}": column for i, column in enumerate(np.round(shares.T, 2))}
    assert np.abs(sum(columns.values()) - 1).max() > 0.009
    law.arrays(columns)
    with refuses(Code.INVALID, "shares"):
        law.arrays({name: np.round(0.9 * column, 2) for name, column in columns.items()})
    with refuses(Code.INVALID, "shares") as caught:
        law.arrays({name: 100 * column for name, column in columns.items()})
    assert "percentages" in caught.value.remedy


def test_a_steep_curve_of_one_run_has_its_slope_and_no_warning_of_studies():
    step = np.arange(1.0, 101.0, 4)
    error = (0.31 + 0.62 / (1 + (step / 17) ** 6)) * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(step)))
    table = pd.DataFrame({"run": "a", "step": step, "error": error})
    fit = analysis.fit(table, law="saturating", columns={"x": "step", "loss": "error"})
    assert fit.params["a"] == pytest.approx(6, abs=1) and fit.params["E"] == pytest.approx(0.31, abs=0.01)
    assert not {"checkpoints", "parameter_at_bound", "stem_effects"} & codes(fit)
    assert fit.noise.groups is None  # an effect that all rows share is part of the level


@pytest.mark.parametrize("rows", ["exact", "few"])
def test_a_form_that_holds_is_not_called_wrong_on_few_or_exact_rows(rows: str):
    n, d = (np.array(values) for values in zip(*CELLS))
    exact = pd.DataFrame({"N": n, "D": d, "loss": 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28})
    fit = analysis.fit(exact if rows == "exact" else TABLE.iloc[[0, 5, 9, 10, 14, 19]])
    assert "stem_effects" not in codes(fit), [sentence(warning) for warning in fit.warnings]


def test_a_card_in_the_place_of_a_table_is_called_a_card(tmp_path):
    (tmp_path / "card.json").write_text('{"kind": "fit", "schema": 2, "law": {}}')
    with refuses(Code.DAMAGED, "table") as caught:
        analysis.load(tmp_path / "card.json")
    assert "card of kind fit" in str(caught.value)
