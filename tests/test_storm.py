"""``benchmarks/faults.py`` small: every kind of fault has its turn, and what it finds is what is written down."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_league import room

ROOT = Path(__file__).resolve().parents[1]
NEEDS = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(os.environ.get("CC", "cc")) is None,
    reason="the calls of libc are made to fail by a library that a C compiler makes, and processes are read in /proc",
)


def faults(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows that the benchmark wrote."""
    progress = tmp_path / "rows.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), *arguments]
    ran = subprocess.run(
        [*command, f"--folder={tmp_path / 'studies'}", f"--progress={progress}", f"--out={tmp_path / 'out.json'}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads(line) for line in progress.read_text().splitlines()]


@NEEDS
@pytest.mark.system
def test_a_dozen_faults_cost_no_bit(tmp_path: Path):
    count = 12
    rows = faults(tmp_path, "--part=storm", f"--chains={count}", "--seed=5")
    assert [problem for row in rows for problem in row["problems"]] == []
    assert sum(len(row["faults"]) for row in rows) == count
    assert faults(tmp_path, "--part=storm", f"--chains={count}", "--seed=5") == rows  # nothing is left to do
    faults(tmp_path, "--part=table")
    table = json.loads((tmp_path / "out.json").read_text())["storm"]
    assert table["faults"] == {"chains": count, "trainer": 0}


@NEEDS
def test_the_library_fails_the_calls_that_it_is_told_to(tmp_path: Path):
    """What the faults rest on: of what is below the directory the n-th call, and of a full disk no reading."""
    code = f"""
import errno, os, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from faults_workers import Page, under_library
folder = Path({str(tmp_path)!r})
under_library(folder)
place = folder / "w"
place.mkdir(exist_ok=True)
page = Page(place)
page.attach()
def call(name):
    try:
        descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, name.encode())
        return ""
    except OSError as error:
        return errno.errorcode[error.errno]
page.fail(errno.ENOSPC, 2, 2)
said = [call("a"), call("b"), str(page.fields.struck), page.fields.what.decode(), str(page.fields.calls)]
page.fail(errno.EROFS)
said += [call("c"), (place / "b").read_text(), str((place / "c").exists())]
(folder / "outside").write_text("x")
page.fail(errno.EIO)
try:
    (place / "b").read_text()
except OSError as error:
    said.append(errno.errorcode[error.errno])
page.heal()
said.append(call("d"))
print(said)
"""
    (tmp_path / "it.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "it.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = ["ENOSPC", "", "1", "write a", "4", "EROFS", "b", "False", "EIO", ""]
    assert ran.stdout.strip() == str(expected), ran.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="the page is laid out as there")
def test_a_trial_says_what_must_not_happen_and_is_a_row_of_its_part():
    script = room("faults")
    page, rows = script.Page(ROOT), []
    for kind, ended, fine in (
        (script.Trial, (0, ""), True),
        (script.Trial, (2, "one line"), True),
        (script.Sealing, (2, "two\nlines"), False),
        (script.Sealing, (2, ""), False),
        (script.Sealing, (1, "one line"), False),
    ):
        rows.append(script.tried(kind, "chains", page, iter([ended]).__next__, errno.EIO, 3, True))
        assert (rows[-1].problems == []) == fine and page.fields.first == script.UNREACHED
        assert (page.fields.last, page.fields.error) == (script.UNREACHED, errno.EIO)
    rows.append(script.Group("chains", 1, [script.Fault("two launchers", "0,0")], 1, {"0": 2}, 1.5, ["lost"]))
    read = msgspec.json.Decoder(script.Row).decode_lines(msgspec.json.Encoder().encode_lines(rows))
    assert read == rows
    table = script.table(read)
    assert (table["calls"]["trials"], table["seals"]["trials"], len(table["seals"]["problems"])) == (2, 3, 3)
    assert table["storm"]["faults"] == {"chains": 1, "trainer": 0} and table["storm"]["problems"] == ["lost"]


def test_every_kind_has_its_turn_and_a_seed_is_an_order():
    script, storm = room("faults"), room("faults_storm")
    for ground in ("chains", "trainer"):
        order = script.schedule(ground, 400, 1)
        counts = {kind: order.count(kind) for kind in order}
        assert max(counts.values()) - min(counts.values()) <= 1 and order == script.schedule(ground, 400, 1)
        wanted = set(storm.KINDS) if ground == "trainer" else set(storm.KINDS) - set(storm.OF_THE_TRAINER)
        assert wanted - set(counts) <= {"another user"}  # which takes root


def test_what_damages_a_file_damages_it(tmp_path: Path):
    storm, path = room("faults_storm"), tmp_path / "f"
    for seed in range(20):
        path.write_bytes(b"0123456789")
        storm.flip(path, random.Random(seed))
        changed = [a ^ b for a, b in zip(path.read_bytes(), b"0123456789", strict=True) if a != b]
        assert len(changed) == 1 and changed[0].bit_count() == 1
        path.write_bytes(b"0123456789")
        storm.cut(path, random.Random(seed))
        assert b"0123456789".startswith(path.read_bytes()) and path.stat().st_size < 10
    storm.lose(path, random.Random(0))
    assert not path.exists() and errno.ENOSPC in storm.DISK.values()
