"""``scaling init``: an experiment file for the user's own data, that runs as it is and fits the hours."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from scaling import cli, plan, speed, study
from scaling.data._recognise import recognise
from scaling.errors import Code
from scaling.verbs import init as verb
from scaling.verbs.init import RESERVE


def words(size: int, seed: int = 0) -> bytes:
    """Text of random words, no two pieces alike."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, size, dtype=np.uint8)
    letters[rng.random(size) < 0.18] = 32
    return letters.tobytes()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(4):
        (folder / f"{number}.md").write_bytes(words(600_000, number))
    (folder / "notes.json").write_text('{"about": "texts"}')
    return folder


def test_what_is_written_runs_as_it_is_and_fits_the_hours(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", str(texts), "--hours=0.5", "--out=law.py", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    options = cli.parse("plan", ["--config=law.py"])
    resolved = study.resolve(options.config)
    made = plan.make(resolved)
    assert resolved.name == "law" and resolved.datasets["mine"]["glob"] == "**/*.md"
    assert made.wall(verb.workers()) == pytest.approx(said["seconds"])
    assert said["seconds"] <= 0.5 * 3600 * RESERVE
    rows = made.rows()
    assert {row.role for row in rows} == {"fit", "seed", "holdout"} and all(row.epochs <= 1 for row in rows)
    assert max(row.D for row in rows) == said["longest"] <= said["unique"]
    assert said["identified"] and said["expected"]["a"] <= 0.15 and said["hours_needed"] is None
    assert made.warnings == ()
    text = (tmp_path / "law.py").read_text()
    assert max(map(len, text.splitlines())) <= 120 and "tune" in text


@pytest.mark.system
def test_few_hours_say_what_would_identify_the_exponents(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    slow = tmp_path / "slow.json"
    speed.remember(slow, speed.Speed(rate=4e9, score=2e-7, compile=60.0))
    monkeypatch.setenv("SCALING_SPEED", str(slow))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", str(texts), "--hours=0.4", "--json"]) == 0
    few = json.loads(capsys.readouterr().out)
    assert not few["identified"] and few["hours_needed"] > 0.4
    enough = few["hours_needed"] * 1.001
    assert cli.main(["init", str(texts), f"--hours={enough}", "--out=enough.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identified"]
    with refuses(Code.INVALID, "hours"):
        cli._dispatch(["init", str(texts), "--hours=0.001", "--out=no.py"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["enough.py", "mine.py", "slow.json"]


def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("mine")
    os.symlink("nowhere", tmp_path / "link.py")
    empty, pictures, rows, small = (tmp_path / name for name in ("empty", "pictures", "rows", "small"))
    for folder in (empty, pictures, rows, small):
        folder.mkdir()
    (pictures / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (rows / "a.jsonl").write_text('{"text": "a"}\n' * 10_000)
    (small / "a.txt").write_bytes(words(40_000))
    before = sorted(tmp_path.iterdir())
    good = str(texts)
    for arguments, code in (
        ([good, "--hours=0"], Code.INVALID),
        ([good, "--hours=-1"], Code.INVALID),
        ([good, "--hours=nan"], Code.INVALID),
        ([good, "--hours=inf"], Code.INVALID),
        ([good, "--out=there.py"], Code.CONFLICT),
        ([good, "--out=link.py"], Code.CONFLICT),
        ([good, "--out=mine.txt"], Code.INVALID),
        ([good, "--out=my study.py"], Code.INVALID),
        ([good, "--out=empty/../nowhere.py/mine.py", "--vocab=7"], Code.CONFLICT),
        ([good, "--kind=jsonl"], Code.INVALID),
        ([str(tmp_path / "no")], Code.MISSING),
        ([str(empty)], Code.MISSING),
        ([str(pictures)], Code.UNSUPPORTED),
        ([str(rows)], Code.UNSUPPORTED),
        ([str(small)], Code.TOO_FEW),
    ):
        with refuses(code):
            cli._dispatch(["init", *arguments])
        assert cli.main(["init", *arguments]) == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == 1, said.err
        assert sorted(tmp_path.iterdir()) == before, arguments


def test_the_content_says_what_reads_the_data(tmp_path: Path):
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def source(path: Path) -> dict[str, str]:
        found = recognise(path)
        assert found.pop("path") == str(path)
        return found

    assert source(write("book", b"once upon a time " * 99)) == {"source": "text"}
    assert source(write("data.bin", bytes(999))) == {"source": "bin"}
    assert source(write("shard_000.u32", (20240801).to_bytes(4, "little") * 99)) == {"source": "bin"}
    assert source(write("table.dat", b"PAR1" + bytes(99))) == {"source": "parquet"}
    assert source(write("gpt/train.bin", bytes(999)).parent) == {"source": "bin"}
    assert source(write("tokens/manifest.json", b"{}").parent) == {"source": "prepared"}
    write("mixed/a.rst", b"a line of text " * 999)
    assert source(write("mixed/b.txt", b"short").parent) == {"source": "text", "glob": "**/*.rst"}
    with refuses(Code.UNSUPPORTED):
        recognise(write("packed.csv", b"text,label\n" + b"a,1\n" * 999))


def test_wide_tokens_are_read_as_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokens = np.random.default_rng(0).integers(0, 50_000, 3_000_000).astype("uint32")
    tokens.tofile(tmp_path / "train.bin")
    fields, source = verb._load(tmp_path / "train.bin", 60_000, "auto")
    assert fields["dtype"] == "uint32" and source.vocab == 60_000
    with refuses(Code.CONFLICT, "data.vocab"):
        verb._load(tmp_path / "train.bin", 1_000, "auto")


def test_the_written_file_is_python_whatever_the_path_is(tmp_path: Path, design: Callable[..., Any]):
    for name in ('a"""b', "a\\b\nc", "é{x}"):
        fields = {"source": "text", "path": str(tmp_path / name)}
        text = verb.source_text(*design(fields))
        scope: dict[str, Any] = {}
        exec(compile(text, "mine.py", "exec"), scope)
        assert scope["get_config"]().data.mine.path == fields["path"]


@pytest.fixture
def design() -> Callable[..., Any]:
    def made(fields: dict[str, Any]) -> Any:
        written = verb.Written(
            out="a b/mine.py",
            source="text",
            unique=10**6,
            sizes=(1, 2, 3, 4),
            longest=10**5,
            seconds=60.0,
            expected={"a": 0.1},
            identified=True,
            hours_needed=None,
        )
        return written, verb.Design(verb.TEMPLATES[0], (1, 2, 3, 4), 1000, 8, 64), fields, ["a line"]

    return made
