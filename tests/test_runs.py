"""The table of runs: what is read, what is dropped with a reason, what is refused, and what stays sealed."""

import json
from pathlib import Path

import handmade
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import reference_file
from refusals import refuses

from analysis import card
from analysis.table import seal as sealed
from analysis.table.runs import datasets, from_frame, load, load_holdouts, open_holdouts
from analysis.table.select import select
from scaling.errors import Code, UserError
from scaling.records import Manifest, Record, write_json

GOOD = "N,D,loss\n1e6,1e8,4.0\n2e6,1e8,3.8\n4e6,2e8,3.5\n"


def manifest(run, *, n=1000, d=10_000, role="fit", **fields) -> Manifest:
    """A run of which N_total is 2 n, and n / 2 parameters are in the group mlp; its exact count is 1.5 times 6 N D."""
    made = handmade.manifest(run, n=n, d=d, role=role, **fields)
    parameters = handmade.edited(made.parameters, total=2 * n, groups={"mlp": n // 2})
    return handmade.edited(made, parameters=parameters, flops=handmade.edited(made.flops, training=9 * n * d))


def add(workdir, run, loss=2.0, *, status="done", decayed=True, stem=None, role="fit", **fields) -> Record:
    kind = "stem" if role == "stem" else "whole" if stem is None else "branch"
    about = manifest(run, role=role, kind=kind, stem=stem, branch_step=None if stem is None else 8, **fields)
    if status == "unfinished":
        return handmade.write(Path(workdir), about)
    reason = None if status == "done" else "nan at step 3"
    ended = handmade.result(loss, se=0.01, status=status, reason=reason, decayed=decayed)
    return handmade.write(Path(workdir), about, ended)


def table(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_csv_gets_compute_and_conventions(tmp_path):
    runs = load(table(tmp_path, GOOD))
    assert list(runs.table.columns[:5]) == ["run", "N", "D", "C", "loss"]
    assert runs.table["C"].tolist() == [6e14, 1.2e15, 4.8e15]
    assert runs.conventions == card.Conventions(
        origin="table", flops="6ND", columns={"N": "N", "D": "D", "loss": "loss"}
    )
    assert runs.table["run"].tolist() == ["line 2", "line 3", "line 4"]
    assert runs.dropped == () and runs.dataset is None


def test_formats_agree_and_order_does_not_matter(tmp_path):
    rows = [{"N": 1e6, "D": 1e8, "loss": 4.0}, {"N": 2e6, "D": 1e8, "loss": 3.8}, {"N": 4e6, "D": 2e8, "loss": 3.5}]
    jsonl = table(tmp_path, "\n".join(json.dumps(r) for r in rows), "a.jsonl")
    tsv = table(tmp_path, GOOD.replace(",", "\t"), "a.tsv")
    back = table(tmp_path, "\ufeffloss,D,N\n\n3.5,2e8,4e6\n3.8,1e8,2e6\n4.0,1e8,1e6\n")
    hashes = {load(path).sha256 for path in (jsonl, tsv, back)} | {from_frame(pd.DataFrame(rows)).sha256}
    assert len(hashes) == 1
    assert load(table(tmp_path, GOOD.replace("3.5", "3.50001"))).sha256 not in hashes


def test_aliases_and_named_columns(tmp_path):
    path = table(tmp_path, "Params,tokens,flops,loss_c4,lr\n1e6,1e8,7e14,4.0,0.1\n2e6,1e8,1e15,3.9,0.2\n")
    with refuses(Code.MISSING, "table", "no column loss") as caught:
        load(path)
    assert "rename loss_c4 to loss" in caught.value.remedy
    runs = load(path, columns={"loss": "loss_c4"})
    assert runs.table["C"].tolist() == [7e14, 1e15] and runs.table["learning_rate"].tolist() == [0.1, 0.2]
    with refuses(Code.CONFLICT, "column", "val_loss, test_loss"):
        load(table(tmp_path, "N,D,val_loss,test_loss\n1,1,1,1\n"))
    runs = load(table(tmp_path, "N,N_total,D,loss\n1,2,3,4\n"), n="total")
    assert runs.table["N"].tolist() == [2.0]
    assert runs.conventions.columns["N"] == "N_total" and runs.conventions.n == "total"
    with refuses(Code.MISSING, "n", "total"):
        load(table(tmp_path, GOOD), n="total")


@pytest.mark.parametrize(
    ("line", "code", "field", "value"),
    [
        ("1e6,1e8,abc", Code.INVALID, "line 5, column loss", "abc"),
        ("1e6,1e8,nan", Code.INVALID, "line 5, column loss", "nan"),
        ("1e6,1e8,inf", Code.INVALID, "line 5, column loss", "inf"),
        ("1e6,,3.0", Code.INVALID, "line 5, column D", "empty"),
        ("0,1e8,3.0", Code.INVALID, "line 5, column N", "0"),
        ("1e6,-1e8,3.0", Code.INVALID, "line 5, column D", "-1e8"),
        ("1e6,1e8,-3.0", Code.INVALID, "line 5, column loss", "-3.0"),
        ("1e200,1e200,3.0", Code.INVALID, "line 5", "N 1e+200 and D 1e+200"),
        ("1e6,1e8", Code.DAMAGED, "table", "{path}, line 5"),
    ],
)
def test_bad_cells_are_named_by_line_and_column(tmp_path, line, code, field, value):
    path = table(tmp_path, GOOD + line + "\n")
    with refuses(code, field, value.format(path=path)):
        load(path)


@pytest.mark.parametrize(
    ("text", "name", "code", "field", "value"),
    [
        ("", "a.csv", Code.MISSING, "table", "{path}"),
        ("N,D,loss\n", "a.csv", Code.MISSING, "table", "{path}"),
        ("N,D,N,loss\n1,2,3,4\n", "a.csv", Code.CONFLICT, "column", "N"),
        ("N|D|loss\n1|2|3\n", "a.csv", Code.MISSING, "table", "no column N"),
        ('{"N": 1, "D": 2, "loss": 3}\n{"N": ', "a.jsonl", Code.DAMAGED, "table", "{path}, line 2"),
        ("[1, 2]\n", "a.jsonl", Code.DAMAGED, "table", "{path}, line 1"),
        ("N,D,loss\n1,2,3\n", "a.xlsx", Code.UNSUPPORTED, "path", "{path}"),
    ],
)
def test_unusable_files(tmp_path, text, name, code, field, value):
    path = table(tmp_path, text, name)
    with refuses(code, field, value.format(path=path)):
        load(path)
    with refuses(Code.MISSING, "path", tmp_path / "nowhere.csv"):
        load(tmp_path / "nowhere.csv")


def test_bad_rows_outside_the_selection_do_no_harm(tmp_path):
    path = table(tmp_path, "N,D,loss,ok\n1,2,3,1\n1,2,broken,0\n2,2,3,1\n")
    assert len(load(path, where="ok == 1")) == 2
    with refuses(Code.INVALID, "line 3, column loss", "broken"):
        load(path)


def test_copies_are_dropped_and_replicates_kept(tmp_path):
    runs = load(table(tmp_path, "N,D,loss\n1,2,3\n1,2,3\n1,2,3.1\n"))
    assert runs.table["loss"].tolist() == [3.0, 3.1]
    assert runs.dropped == (card.Dropped(row="line 3", why="copy", detail="line 2"),)


def test_exported_records_keep_their_meaning(tmp_path):
    text = "N,D,loss,status,decayed,role\n1,2,3,done,True,fit\n1,3,3,diverged,True,fit\n1,4,3,done,False,fit\n"
    runs = load(table(tmp_path, text + "1,5,1,done,True,holdout\n"))
    assert runs.dropped == (
        card.Dropped(row="line 3", why="status", detail="diverged"),
        card.Dropped(row="line 4", why="undecayed", detail="False"),
        card.Dropped(row="line 5", why="role", detail="holdout"),
    )
    assert len(runs) == 1


def test_datasets_of_a_table_are_not_mixed(tmp_path):
    path = table(tmp_path, "N,D,loss,dataset\n1,2,3,a\n2,2,3,b\n")
    with refuses(Code.MIXED, "dataset", "a, b"):
        load(path)
    assert load(path, dataset="b").table["N"].tolist() == [2.0]
    with refuses(Code.UNKNOWN, "dataset", "c") as caught:
        load(path, dataset="c")
    assert "a, b" in caught.value.remedy


FRAME = pd.DataFrame({"N": [1.0, 2.0, 3.0], "ok": [True, False, True], "kind": ["a", "b", "c"], "x y": [1.0, 0.0, 0.0]})


@pytest.mark.parametrize(
    "where, expected",
    [
        ("N > 1", [0, 1, 1]),
        ("1 < N <= 2", [0, 1, 0]),
        ("kind == 'a' | kind == 'c'", [1, 0, 1]),
        ("not ok", [0, 1, 0]),
        ("~ok & N == 2", [0, 1, 0]),
        ("ok == False", [0, 1, 0]),
        ("kind in ['a', 'b'] and kind not in ('b',)", [1, 0, 0]),
        ("`x y` == 1", [1, 0, 0]),
        ("n * 2 - 1 >= 5", [0, 0, 1]),
        ("kind != '&|~'", [1, 1, 1]),
    ],
)
def test_selection(where, expected):
    assert select(FRAME, where).tolist() == [bool(x) for x in expected]


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').getcwd() == ''",
        "N.sum() > 1",
        "@N > 1",
        "N",
        "1 < 2",
        "lambda: 1",
        "[i for i in N]",
        "N > ",
        "M > 1",
        "kind == 3",
        "kind * 2 == 'aa'",
        "9 ** 9 ** 9 ** 9 > N",
        "N == (1, 2)",
        "kind['a'] == 1",
        "(" * 300,
        "f'{N}' == kind",
    ],
)
def test_selection_is_nothing_but_selection(where):
    with refuses(Code.UNKNOWN if where == "M > 1" else Code.INVALID, "where"):
        select(FRAME, where)


def test_selection_of_nothing(tmp_path):
    with refuses(Code.TOO_FEW, "where", "N > 1e9"):
        load(table(tmp_path, GOOD), where="N > 1e9")


def test_workdir_reads_only_finished_decayed_fit_runs(tmp_path):
    add(tmp_path, "stem", role="stem")
    add(tmp_path, "a", 2.5, stem="stem")
    add(tmp_path, "b", 2.4, role="seed", seed=1)
    add(tmp_path, "c", status="diverged")
    add(tmp_path, "d", decayed=False)
    add(tmp_path, "e", status="unfinished")
    add(tmp_path, "f", -1.0)
    add(tmp_path, "h", 1.0, role="holdout")
    (tmp_path / "runs" / "h" / "result.json").write_text("not even JSON: it must not be read")
    runs = load(tmp_path)
    assert runs.table["run"].tolist() == ["a", "b"] and runs.table["stem"].tolist() == ["stem", "b"]
    assert runs.dropped == (
        card.Dropped(row="c", why="status", detail="diverged", reason="nan at step 3"),
        card.Dropped(row="d", why="undecayed"),
        card.Dropped(row="e", why="unfinished"),
        card.Dropped(row="f", why="no_loss", detail="loss"),
    )
    assert runs.table["C"].tolist() == [9e7, 9e7] and runs.conventions.n == "nonembedding"
    assert load(tmp_path, n="total").table["N"].tolist() == [2000.0, 2000.0]
    assert load(tmp_path, n="mlp").table["N"].tolist() == [500.0, 500.0]
    with refuses(Code.UNKNOWN, "n", "nope"):
        load(tmp_path, n="nope")
    assert load(tmp_path, where="seed == 1").table["run"].tolist() == ["b"]


def test_datasets_of_a_workdir(tmp_path):
    with refuses(Code.MISSING, "workdir", tmp_path):
        load(tmp_path)
    add(tmp_path, "a", dataset="one")
    assert load(tmp_path).dataset == "one"
    add(tmp_path, "b", dataset="two")
    with refuses(Code.CONFLICT, "dataset", "one, two"):
        load(tmp_path)
    write_json(tmp_path / "study.json", handmade.study(datasets={"two": {}, "one": {}}))
    assert load(tmp_path).table["run"].tolist() == ["b"] and datasets(tmp_path) == ["two", "one"]
    with refuses(Code.UNKNOWN, "dataset", "three") as caught:
        load(tmp_path, dataset="three")
    assert "two, one" in caught.value.remedy
    (tmp_path / "runs" / "b" / "result.json").unlink()
    with refuses(Code.TOO_FEW, "workdir", tmp_path) as caught:
        load(tmp_path)
    assert "unfinished" in caught.value.remedy


def test_manifest_that_lacks_a_count(tmp_path):
    plain = msgspec.to_builtins(manifest("a"))
    del plain["parameters"]["nonembedding"]
    path = tmp_path / "runs" / "a" / "manifest.json"
    write_json(path, plain)
    with refuses(Code.DAMAGED, value=path) as caught:
        load(tmp_path)
    assert "nonembedding" in caught.value.remedy


def sealed_cell(run: str) -> sealed.SealedCell:
    return sealed.SealedCell(
        run=run,
        dataset="text",
        N={"nonembedding": 1000.0},
        D=1e4,
        C=9e7,
        beyond=(),
        compute_ratio=1.0,
        status="planned",
    )


def test_holdouts_stay_closed_until_sealed(tmp_path):
    add(tmp_path, "a")
    add(tmp_path, "h1", 1.5, role="holdout")
    add(tmp_path, "h2", 1.4, role="holdout")
    add(tmp_path, "h3", role="holdout", status="unfinished")
    write_json(tmp_path / "study.json", handmade.study(handmade.program(manifest("h4", role="holdout"))))
    cells = load_holdouts(tmp_path)
    assert cells["run"].tolist() == ["h1", "h2", "h3", "h4"] and "loss" not in cells
    assert cells["status"].tolist() == ["done", "done", "unfinished", "planned"]
    with refuses(Code.MISSING, "prediction", tmp_path / sealed.FILE):
        open_holdouts(tmp_path)
    entry = sealed.Entry(
        time="now", fits=(), cells=(sealed_cell("h1"), sealed_cell("h3")), forecasts=(), joint=(), power={}, naive={}
    )
    write_json(tmp_path / sealed.FILE, sealed.stamp(sealed.Prediction(entries=(entry,))))
    opened = open_holdouts(tmp_path)
    assert opened["run"].tolist() == ["h1"] and opened["loss"].tolist() == [1.5]
    text = (tmp_path / sealed.FILE).read_text()
    assert '"h3"' in text
    (tmp_path / sealed.FILE).write_text(text.replace('"h3"', '"h2"'))
    with refuses(Code.CHANGED, "prediction", tmp_path / sealed.FILE):
        open_holdouts(tmp_path)


def test_reference_tables():
    gem = load(reference_file("gemstones"), where="subset == 'hot_100b+'")
    assert len(gem) == 770 and len(set(gem.table["stem"])) == 22
    assert len(load(reference_file("gadre_overtraining"), dataset="rpj", columns={"loss": "loss_c4"})) == 35


def test_reference_tables_without_a_licence():
    assert len(load(reference_file("chinchilla_besiroglu"), where="excluded_by_besiroglu == 0")) == 240
    assert len(load(reference_file("marin_isoflop"), dataset="comma", where="not outlier")) == 80


def test_a_large_table_is_quick(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"N": rng.lognormal(15, 1, 20000), "D": rng.lognormal(20, 1, 20000), "loss": rng.uniform(2, 4, 20000)}
    )
    frame.to_csv(tmp_path / "big.csv", index=False)
    assert len(load(tmp_path / "big.csv")) == 20000


CELLS = st.one_of(
    st.floats().map(repr), st.integers().map(str), st.text(max_size=6), st.sampled_from(["", "1e6", "2", "-"])
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=5), where=st.text(max_size=12) | st.none())
def test_any_table_is_read_or_refused_in_words(tmp_path, rows, where):
    path = tmp_path / "fuzz.csv"
    path.write_text("N,D,loss\n" + "\n".join(",".join(row) for row in rows), encoding="utf-8", errors="replace")
    try:
        runs = load(path, where=where)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        values = runs.table[["N", "D", "C", "loss"]].to_numpy()
        assert len(values) and np.isfinite(values).all() and (values > 0).all()


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="Nok &|~()<>=!.'\"[]`1*-+,@_\n\x00", max_size=20))
def test_any_selection_is_a_mask_or_refused(where):
    try:
        mask = select(FRAME, where)
    except UserError:
        return
    assert mask.dtype == bool and len(mask) == 3
