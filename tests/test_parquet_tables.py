"""Parquet as a table of runs: read as the same CSV is, and every damage one line."""

import decimal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting import fit
from analysis.table.runs import load
from scaling import cli

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)
N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(5e7, 2e9, 5).round(), np.geomspace(5e8, 4e10, 4).round()))
LOSS = (1.8 + 480 / N**0.35 + 2000 / D**0.37) * np.exp(0.003 * RNG.standard_normal(len(N)))
TABLE = pd.DataFrame({"N": N.astype(np.int64), "D": D.astype(np.int64), "loss": LOSS, "role": "fit"})


def test_a_parquet_table_is_fitted_as_its_csv_is(tmp_path):
    TABLE.to_csv(tmp_path / "runs.csv", index=False)
    TABLE.to_parquet(tmp_path / "runs.parquet")
    first, second = (fit(load(tmp_path / f"runs.{kind}"), "chinchilla").card for kind in ("csv", "parquet"))
    assert first.params == second.params and first.data.rows == second.data.rows == 20
    assert 0.2 < first.params["alpha"].value < 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.astype({"N": "Int64", "loss": "string"}),
        lambda table: table.astype({"N": "float64", "role": "category"}),
        lambda table: table.set_index("N"),
        lambda table: table.assign(loss=[decimal.Decimal(str(value)) for value in table["loss"]]),
    ],
)
def test_any_type_of_numbers_is_read(tmp_path, change):
    change(TABLE).to_parquet(tmp_path / "runs.parquet")
    runs = load(tmp_path / "runs.parquet")
    np.testing.assert_array_equal(runs.table["N"], TABLE["N"].astype(float))
    np.testing.assert_array_equal(runs.table["loss"], TABLE["loss"])


def _bytes(change):
    def write(path: Path) -> None:
        TABLE.to_parquet(path)
        path.write_bytes(change(path.read_bytes()))

    return write


def _twice(path: Path) -> None:
    columns = [pa.array(TABLE[name]) for name in ("N", "D", "loss", "loss")]
    parquet.write_table(pa.table(columns, names=["N", "D", "loss", "loss"]), path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_bytes(lambda raw: raw[:-50]), "is no Parquet that can be read (Could not open Parquet input source"),
        (_bytes(lambda raw: b""), "is no Parquet that can be read"),
        (_bytes(lambda raw: b"N,D,loss\n1,2,3\n"), "is no Parquet that can be read"),
        (_bytes(lambda raw: raw[:20] + bytes(40) + raw[60:]), "cannot be read"),
        (_twice, "is no Parquet that can be read (Multiple matches"),
        (lambda path: TABLE[:0].to_parquet(path), "has no rows"),
        (lambda path: TABLE.drop(columns="N").to_parquet(path), "no column N"),
        (lambda path: TABLE.assign(loss=TABLE["loss"].mask(N > 1e9)).to_parquet(path), "row 5, column loss = nan"),
        (lambda path: TABLE.assign(loss=[[2.0, 1.9]] * 20).to_parquet(path), "row 1, column loss = [2.  1.9]"),
    ],
)
def test_a_bad_parquet_table_is_one_line(tmp_path, capsys, write, words):
    write(tmp_path / "runs.parquet")
    assert cli.main(["fit", str(tmp_path / "runs.parquet")]) == cli.EXIT_USER
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err, captured.err


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    TABLE.to_parquet(tmp_path / "runs.parquet")
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["fit", str(tmp_path / "runs.parquet")]) == cli.EXIT_USER
    assert "needs pyarrow, which is not installed: pip install 'scaling-lab[data]'" in capsys.readouterr().err
