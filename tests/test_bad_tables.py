"""Bad tables: one line that names the row and the column and exit 2, or a named warning. Never a traceback, never a
silent fit. Fuzzed: a sound table with one kind of harm done to it."""

import contextlib
import io
import itertools
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from refusals import refuses

from analysis import card
from analysis.fitting import fit
from analysis.show.sentences import sentence
from analysis.table.quality import GAP
from analysis.table.runs import load
from scaling import cli
from scaling.errors import Code, UserError

CELLS = [(n, d) for n in np.geomspace(5e7, 2e9, 5) for d in np.geomspace(5e8, 4e10, 4)]
RNG = np.random.default_rng(0)
ROWS = [
    [f"{n:.6g}", f"{d:.6g}", f"{(1.8 + 480 / n**0.35 + 2000 / d**0.37) * math.exp(0.003 * e):.6f}"]
    for (n, d), e in zip(CELLS, RNG.standard_normal(len(CELLS)))
]
COLUMNS = ("N", "D", "loss")
NOT_POSITIVE = ("nan", "NaN", "inf", "-inf", "0", "0.0", "-1", "-3e7", "", "n/a", "many", "1e5 tokens", "1,5", "--")


def write(path: Path, rows) -> Path:
    lines = [",".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in (COLUMNS, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def scaling(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def changed(row, column, cell):
    rows = [list(r) for r in ROWS]
    rows[row][column] = cell
    return rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.integers(0, len(ROWS) - 1), column=st.integers(0, 2), cell=st.sampled_from(NOT_POSITIVE))
def test_a_cell_that_is_no_positive_number_is_named_by_line_and_column(tmp_path, row, column, cell):
    path = write(tmp_path / "t.csv", changed(row, column, cell))
    code, out, err = scaling("fit", path)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"line {row + 2}, column {COLUMNS[column]} = " in err and "must be a positive number" in err


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.sets(st.integers(0, len(ROWS) - 1), min_size=1, max_size=8),
    column=st.integers(0, 1),
    unit=st.sampled_from([1e6, 1e9]),
)
def test_millions_or_billions_among_units_are_named_by_line_and_column(tmp_path, rows, column, unit):
    table = [list(r) for r in ROWS]
    for row in rows:
        table[row][column] = f"{float(table[row][column]) / unit:.6g}"
    path = write(tmp_path / "t.csv", table)
    values = sorted(float(r[column]) for r in table)
    assume(max(b / a for a, b in itertools.pairwise(values)) > GAP)
    code, _, err = scaling("fit", path)
    assert code == 2 and err.count("\n") == 1
    assert f"line {min(rows) + 2}, column {COLUMNS[column]} = " in err and "millions or billions" in err


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.sets(st.integers(0, len(ROWS) - 1), min_size=1, max_size=3), bits=st.booleans())
def test_bits_among_nats_are_a_warning_with_the_rows(tmp_path, rows, bits):
    # Statistical: of 5 and 6 rows in bits it misses or misnames some in 3 and 4 % of such tables.
    table = [list(r) for r in ROWS]
    for row in rows:
        table[row][2] = f"{float(table[row][2]) * (1 / math.log(2) if bits else math.log(2)):.6f}"
    (found,) = load(write(tmp_path / "t.csv", table)).warnings
    named = tuple(f"line {row + 2}" for row in sorted(rows))
    assert found == card.MixedUnits(rows=named, of=len(ROWS), looks_like="bits" if bits else "nats")
    assert "column loss" in sentence(found) and ("in bits" if bits else "in nats") in sentence(found)


def test_a_sound_table_has_no_warning_of_the_table_and_a_warning_reaches_the_card(tmp_path):
    assert load(write(tmp_path / "a.csv", ROWS)).warnings == ()
    path = write(tmp_path / "b.csv", changed(7, 2, f"{float(ROWS[7][2]) / math.log(2):.6f}"))
    code, out, _ = scaling("fit", path, "--json")
    assert code == 0
    (found,) = (w for w in msgspec.json.decode(out, type=card.FitCard).warnings if isinstance(w, card.MixedUnits))
    assert found.rows == ("line 9",)
    assert "mixed_units" in scaling("fit", path)[1]


def test_duplicates_are_dropped_or_named(tmp_path):
    runs = load(write(tmp_path / "a.csv", [*ROWS, ROWS[3]]))
    assert len(runs) == len(ROWS)
    assert runs.dropped == (card.Dropped(row=f"line {len(ROWS) + 2}", why="copy", detail="line 5"),)
    assert sentence(runs.dropped[0]) == "the same in every cell as line 5"
    text = "\n".join(["N,D,loss,note", *(",".join([*r, str(i)]) for i, r in enumerate([*ROWS, ROWS[3]]))])
    (tmp_path / "b.csv").write_text(text)
    (found,) = load(tmp_path / "b.csv").warnings
    assert found == card.Duplicates(rows=("line 5", f"line {len(ROWS) + 2}"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS[:3], "rows = 3"),
        (ROWS[:1], "loss = "),
        ([r for r in ROWS if r[0] == ROWS[0][0]] * 2, "rows = 4"),
        ([[ROWS[0][0], d, loss] for _, d, loss in ROWS], "N = "),
        ([[n, ROWS[0][1], loss] for n, _, loss in ROWS], "D = "),
        ([[n, d, "2.5"] for n, d, _ in ROWS], "loss"),
        ([], "has no rows"),
    ],
)
def test_too_little_is_refused_in_words(tmp_path, rows, words):
    code, out, err = scaling("fit", write(tmp_path / "t.csv", rows))
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err, err


NUMBER = st.one_of(
    st.floats(1e-3, 1e15).map(lambda x: f"{x:.4g}"), st.sampled_from([*NOT_POSITIVE, "1e8", "1e9", "2.5", "3"])
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=0, max_size=12))
def test_any_table_is_fitted_or_refused_in_one_line(tmp_path, rows):
    path = write(tmp_path / "t.csv", [list(r) for r in rows])
    try:
        found = fit(load(path), "chinchilla").card
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert msgspec.json.decode(card.encode(found), type=card.FitCard) == found
        assert all(math.isfinite(p.value) for p in found.params.values())


def test_a_floor_that_is_held_above_the_losses_is_refused(tmp_path):
    runs = load(write(tmp_path / "t.csv", ROWS))
    least = min(runs.table["loss"])
    with refuses(Code.CONFLICT, "fixed"):
        fit(runs, fixed={"E": 1.1 * least})
    assert fit(runs, fixed={"E": 0.9 * least}).theta[0] == 0.9 * least
