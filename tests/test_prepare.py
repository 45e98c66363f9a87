"""`scaling data prepare`: the tokens that it writes, whatever the format, crash or mistake; and their source."""

import fcntl
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses

from scaling import cli, data
from scaling.data import _documents, _prepare, _tokenizer, _tokens
from scaling.data._preparation import Manifest
from scaling.data._tokenizer import CONTINUES, WITHIN
from scaling.data.prepared import Shards
from scaling.errors import Code
from scaling.records import read_json, read_typed, write_json

ROOT = Path(__file__).parents[1]
END = "<|endoftext|>"


def texts(count: int = 60, seed: int = 0) -> list[str]:
    """Different documents of 20 to 120 words, some of them beyond ASCII."""
    rng = np.random.default_rng(seed)
    words = ["größe", "loss", "token", "Δ", "law", "compute", "日本", "a", "of", "data"]
    return [f"{seed}.{number} " + " ".join(rng.choice(words, rng.integers(20, 120))) for number in range(count)]


def write_tokenizer(path: Path, vocab: int = 300, end: str = END) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts(30, 9), trainer)
    made.enable_truncation(7)  # what a file of a fine-tuned model may ask for, and nobody training on text wants
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def write_text(path: Path, found: list[str]) -> Path:
    path.mkdir()
    for number, text in enumerate(found):
        (path / f"{number:03}.txt").write_text(text)
    return path


def write_jsonl(path: Path, found: list[str]) -> Path:
    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(found))
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def write_parquet(path: Path, found: list[str]) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"id": range(len(found)), "text": found}), path, row_group_size=17)
    return path


def write_saved(path: Path, found: list[str]) -> Path:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"id": list(range(len(found))), "text": found})
    made.save_to_disk(str(path), num_shards=2)
    return path


def write_records(path: Path, found: list[str]) -> Path:
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for text in found:
        writer.write(text.encode())
    writer.close()
    return path


def job(paths: list[Path], out: Path, tokenizer: str | Path = "bytes", end: str = "auto", **options) -> _prepare.Job:
    files = _documents.inputs([str(path) for path in paths])
    return _prepare.Job(files, out, _tokenizer.load(str(tokenizer), end), **options)


def source(out: Path) -> _tokens.TokenSource:
    made = data.load({"source": "prepared", "path": str(out)})
    assert isinstance(made, _tokens.TokenSource)
    return made


def training(made: _tokens.TokenSource) -> np.ndarray:
    assert not isinstance(made.train, np.ndarray)
    return made.train.gather(np.array([0]), len(made.train))[0]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


WRITERS: dict[str, Callable[[Path, list[str]], Path]] = {
    "text": write_text,
    "a.jsonl": write_jsonl,
    "a.jsonl.gz": write_jsonl,
    "a.parquet": write_parquet,
    "saved": write_saved,
    "a.array_record": write_records,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_tokens_and_loses_none(tmp_path, tokenizer, name):
    found = texts()
    path = WRITERS[name](tmp_path / name, found)
    manifest, new = _prepare.prepare(job([path], tmp_path / "out", tokenizer, shard_tokens=1500))
    assert new and manifest.train.documents + manifest.evaluation.documents == len(found)
    assert len(manifest.shards) > 4 and manifest.tokenizer.end == 0
    made = source(tmp_path / "out")
    coder = __import__("tokenizers").Tokenizer.from_file(str(tokenizer))
    threshold = manifest.split.threshold
    held = [text for text in found if _tokens.below(hashlib.sha256(text.encode()).digest(), threshold)]
    kept = [text for text in found if text not in held]
    assert held and "".join(text + END for text in kept) == coder.decode(training(made), skip_special_tokens=False)
    assert [coder.decode(each.tokens) for each in made.documents] == held
    assert made.vocab == 300 and made.bytes_per_token is not None
    assert made.bytes_per_token * manifest.evaluation.tokens == pytest.approx(sum(len(t.encode()) for t in held))


def test_words_of_a_tokenizer_are_those_of_its_text(tmp_path):
    path, tokenizer = write_text(tmp_path / "text", texts(30)), write_tokenizer(tmp_path / "small.json", 270)
    _prepare.prepare(job([path], tmp_path / "out", tokenizer))
    made, coder = source(tmp_path / "out"), __import__("tokenizers").Tokenizer.from_file(str(tokenizer))
    batch, held, told = made.batch(np.arange(8), seed=0, context=60), made.evaluation(60), made.marks
    assert told is not None
    assert made.supplies["marks"] == made.vocab and held["marks"].shape == held["tokens"].shape
    whole = 0
    for tokens, marks in zip(batch["tokens"], batch["marks"]):
        assert marks.dtype == np.uint8 and (marks == told[tokens]).all()
        begins = ~((marks[1:] & CONTINUES > 0) & (marks[:-1] & WITHIN > 0))
        for word in np.split(tokens, np.flatnonzero(begins) + 1)[1:-1]:
            text = coder.decode(word, skip_special_tokens=False)
            assert re.fullmatch(r" ?\w+|\W|<[|]endoftext[|]>| [^\w ]", text), text
            whole += len(word) > 1
    assert whole > 20
    _prepare.prepare(job([path], tmp_path / "bytes"))
    assert "marks" not in source(tmp_path / "bytes").supplies
    (tmp_path / "out" / "tokens.marks").write_bytes(bytes(made.vocab))
    with refuses(Code.DAMAGED, "data.path", tmp_path / "out" / "tokens.marks"):
        source(tmp_path / "out")


def test_windows_cross_shards_as_if_there_were_none(tmp_path):
    path = write_text(tmp_path / "text", texts())
    _prepare.prepare(job([path], tmp_path / "many", shard_tokens=900))
    _prepare.prepare(job([path], tmp_path / "one"))
    many, one = source(tmp_path / "many"), source(tmp_path / "one")
    assert isinstance(many.train, Shards) and isinstance(one.train, Shards)
    assert len(many.train.parts) > 10 and len(one.train.parts) == 1
    indices = np.arange(3 * one.windows(700))
    np.testing.assert_array_equal(
        many.batch(indices, seed=4, context=700)["tokens"], one.batch(indices, seed=4, context=700)["tokens"]
    )
    np.testing.assert_array_equal(many.evaluation(64)["tokens"], one.evaluation(64)["tokens"])
    held = np.concatenate([training(one), training(one)])
    plain = _tokens.TokenSource(held[: len(one.train)], one.documents, 256, 1.0)
    np.testing.assert_array_equal(
        plain.batch(indices, seed=4, context=700)["tokens"], one.batch(indices, seed=4, context=700)["tokens"]
    )


def test_plain_text_is_cut_between_lines_words_or_characters(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"line {number} é\n" for number in range(3000)))
    for text, ends in ((lines.read_bytes(), b"\n"), (b"ab " * 900, b" "), ("é".encode() * 900, b"\xa9")):
        path = tmp_path / "x.txt"
        path.write_bytes(text)
        each = _documents.Input(path, "x.txt")
        pieces = list(_documents.documents(each, "", 101))
        assert b"".join(piece for piece, _ in pieces) == text
        assert all(50 <= len(piece) <= 101 and piece.endswith(ends) for piece, _ in pieces[:-1])
        assert [after for _, after in pieces] == np.cumsum([len(piece) for piece, _ in pieces]).tolist()
        assert list(_documents.documents(each, "", 101, pieces[4][1])) == pieces[5:]
    path.write_bytes(b"\xbf" * 1000)  # no text at all: still cut, and nothing lost
    assert b"".join(piece for piece, _ in _documents.documents(each, "", 101)) == b"\xbf" * 1000


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "text"])
def test_reading_goes_on_where_it_stopped(tmp_path, name):
    path = WRITERS[name](tmp_path / name, texts(70))
    each = _documents.inputs([str(path)])[0]
    whole = list(_documents.documents(each, "text", 0))
    for number in (0, 16, 17, len(whole) - 1):
        assert list(_documents.documents(each, "text", 0, whole[number][1])) == whole[number + 1 :]


def test_a_crash_at_any_commit_changes_nothing(tmp_path, monkeypatch, tokenizer):
    paths = [write_text(tmp_path / "text", texts(12, 1)), write_parquet(tmp_path / "a.parquet", texts(40, 2))]
    _prepare.prepare(job(paths, tmp_path / "whole", tokenizer, shard_tokens=1500))
    expected = contents(tmp_path / "whole")

    class Crash(Exception):
        pass

    crashes = 0
    for name in ("write_json", "write_atomic"):
        for number in range(1, 6):
            left = [number]

            def torn(path, value, name=name, left=left):
                left[0] -= 1
                if left[0] == 0:
                    raise Crash
                getattr(__import__("scaling.records", fromlist=[name]), name)(path, value)

            out = tmp_path / f"{name}{number}"
            with monkeypatch.context() as patch:
                patch.setattr(_prepare, name, torn)
                with pytest.raises(Crash):
                    _prepare.prepare(job(paths, out, tokenizer, shard_tokens=1500))
            crashes += 1
            with refuses(Code.MISSING, "data.path", out):
                source(out)
            _prepare.prepare(job(paths, out, tokenizer, shard_tokens=1500))
            assert contents(out) == expected
    assert crashes == 10


def test_kill_at_any_moment_changes_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, texts(3000))
    out, whole = tmp_path / "out", tmp_path / "whole"
    _prepare.prepare(job([path], whole, shard_tokens=20_000))
    command = [sys.executable, "-m", "scaling.cli", "data", "prepare", str(path), "--shard_tokens=20000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for kill in (3, 15):
        with subprocess.Popen([*command, f"--out={out}"], env=environment, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while len(list(out.glob("train-*.bin"))) < kill and time.monotonic() < deadline:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert not (out / "manifest.json").exists()
    done = len(read_json(out / "progress.json")["shards"])
    assert 15 <= done < len(read_json(whole / "manifest.json")["shards"])
    again = subprocess.run([*command, f"--out={out}"], env=environment, capture_output=True, text=True, check=True)
    assert "nothing to do" not in again.stdout and contents(out) == contents(whole)
    manifest, new = _prepare.prepare(job([path], out, shard_tokens=20_000))
    assert manifest == read_typed(out / "manifest.json", Manifest) and not new


def test_memory_does_not_grow_with_the_text(tmp_path):
    peaks = []
    for size in (3, 12):
        path = tmp_path / f"{size}.txt"
        path.write_bytes(b"".join(b"%d some words of a line\n" % number for number in range(size * 40_000)))
        asked = job([path], tmp_path / f"out{size}", cut=2**16, shard_tokens=2**19)
        tracemalloc.start()
        _prepare.prepare(asked)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 2**18 and peaks[1] < 24 * 2**20, peaks


def test_evaluation_files_of_their_own_and_their_copies_left_out(tmp_path):
    found = texts(40)
    train = write_jsonl(tmp_path / "train.jsonl", found)
    held = write_jsonl(tmp_path / "held.jsonl", [*texts(5, 3), found[7], found[8]])
    files = _documents.inputs([str(held)])
    for shard_tokens in (2**20, 1000):  # in one go; and with evaluation written before
        out = tmp_path / f"out{shard_tokens}"
        manifest, _ = _prepare.prepare(job([train], out, evaluation=files, shard_tokens=shard_tokens))
        assert manifest.copies == 2 and manifest.evaluation.documents == 7
        made = source(out)
        assert training(made).tobytes().decode() == "".join(text for text in found if text not in found[7:9])
        assert [each.tokens.tobytes().decode() for each in made.documents] == [*texts(5, 3), found[7], found[8]]


def test_a_column_of_tokens_and_empty_rows(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [[number % 250, 3, 250] for number in range(99)]
    parquet.write_table(pa.table({"ids": [*rows, None, []]}), tmp_path / "a.parquet")
    manifest, _ = _prepare.prepare(job([tmp_path], tmp_path / "out", column="ids"))
    made = source(tmp_path / "out")
    assert manifest.empty == 2 and made.bytes_per_token is None and made.describe()["bytes"] is None
    seen = [*training(made).reshape(-1, 3).tolist(), *(each.tokens.tolist() for each in made.documents)]
    assert sorted(seen) == sorted(rows)


# Mistakes, through the command line


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line of an error with status 2."""
    assert cli.main(["data", "prepare", *map(str, arguments)]) == cli.EXIT_USER
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured
    return captured.err


MISTAKES = {
    "nowhere": (lambda root: None, "path = {root}/in: "),
    "empty": (lambda root: (root / "in").write_bytes(b""), "path = {root}/in: "),
    "folder": (lambda root: (root / "in").mkdir(), "path = {root}/in: "),
    "one document": (lambda root: (root / "in").write_text("short"), "path = {root}/out: "),
    "column": (lambda root: write_jsonl(root / "in.jsonl", ["a"] * 3), "column = body: "),
    "parquet column": (
        lambda root: write_parquet(root / "in.parquet", ["a"]),
        "column = body: ",
    ),
    "json": (lambda root: (root / "in.jsonl").write_text('{"body": "a"}\n{"bo'), "path = in.jsonl, line 2: "),
    "number": (lambda root: (root / "in.jsonl").write_text('{"body": 3}\n'), "column body = in.jsonl, line 1: "),
    "parquet": (lambda root: (root / "in.parquet").write_bytes(b"PAR1" * 9), "path = in.parquet: "),
    "arrow": (lambda root: (root / "in.arrow").write_bytes(b"ARROW" * 9), "path = in.arrow: "),
    "gzip": (lambda root: (root / "in.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9]), "path = in.jsonl.gz: "),
    "records": (lambda root: (root / "in.array_record").write_bytes(b"?"), "path = in.array_record: "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_inputs_are_one_line(tmp_path, capsys, name):
    make, words = MISTAKES[name]
    make(tmp_path)
    made = [path for path in tmp_path.iterdir() if path.name.startswith("in")] or [tmp_path / "in"]
    line = refused(capsys, made[0], f"--out={tmp_path / 'out'}", "--column=body")
    assert words.format(root=tmp_path) in line, line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tokenizer=nowhere.json"], "tokenizer = nowhere.json: "),
        (["--tokenizer={root}/text/000.txt"], "tokenizer = {root}/text/000.txt: "),
        (["--tokenizer={tokenizer}", "--end=<s>"], "end = <s>: "),
        (["--end=<s>"], "end = <s>: "),
        (["--share=1"], "share = 1.0: "),
        (["--cut=3"], "cut = 3: "),
        (["--shard_tokens=0"], "shard_tokens = 0: "),
        (["--glob=/x"], "glob = /x: "),
        (["--glob=*.rst"], "path = {root}/text: "),
        (["--evaluation=nowhere"], "path = nowhere: "),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, tokenizer, flags, words):
    path = write_text(tmp_path / "text", texts(3))
    given = [flag.format(root=tmp_path, tokenizer=tokenizer) for flag in flags]
    words = words.format(root=tmp_path)
    assert words in refused(capsys, path, f"--out={tmp_path / 'out'}", *given)
    assert cli.main(["data", "prepare", str(path)]) == cli.EXIT_USER
    assert "out = nothing: " in capsys.readouterr().err
    assert cli.main(["data", "improve", str(path)]) == cli.EXIT_USER
    assert "data = improve: " in capsys.readouterr().err


def test_text_that_is_no_text_needs_bytes(tmp_path, capsys, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\n" * 9000)
    line = refused(capsys, tmp_path / "a.txt", f"--out={tmp_path / 'out'}", f"--tokenizer={tokenizer}", "--share=0.5")
    assert "path = a.txt: " in line


def test_a_token_that_the_tokenizer_lacks(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": [1, {number}]}}\n' for number in range(250, 260)))
    line = refused(capsys, tmp_path / "a.jsonl", f"--out={tmp_path / 'out'}")
    assert "tokenizer = bytes: " in line and " 256 " in line and "a.jsonl" in line


@pytest.mark.parametrize("module", ["pyarrow", "tokenizers", "array_record"])
def test_a_missing_extra_is_one_line(tmp_path, capsys, monkeypatch, tokenizer, module):
    writer = {"pyarrow": "a.parquet", "tokenizers": "text", "array_record": "a.array_record"}[module]
    path = WRITERS[writer](tmp_path / writer, texts(4))
    for name in [name for name in sys.modules if name.split(".")[0] == module] + [module]:
        monkeypatch.setitem(sys.modules, name, None)
    line = refused(capsys, path, f"--out={tmp_path / 'out'}", *([f"--tokenizer={tokenizer}"] * (writer == "text")))
    assert "pip install 'scaling-lab[data]'" in line and module.replace("_", "-") in line


def test_what_changed_or_belongs_to_another_is_left_alone(tmp_path, capsys, tokenizer):
    path, out = write_text(tmp_path / "text", texts(12)), tmp_path / "out"
    _prepare.prepare(job([path], out))
    before = contents(out)
    for flag in (f"--tokenizer={tokenizer}", "--share=0.1", "--cut=100"):
        line = refused(capsys, path, f"--out={out}", flag)
        assert f"out = {out}: " in line and f" {flag[2:].split('=')[0]};" in line
    assert "path = 1 files: " in refused(capsys, path / "000.txt", f"--out={out}")
    (path / "003.txt").write_text("another text " * 40_000)  # with which another cut would be chosen
    assert "path = 003.txt: " in refused(capsys, path, f"--out={out}")
    assert f"out = {path}: " in refused(capsys, path, f"--out={path}")
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert f"out = {out}: " in refused(capsys, path, f"--out={out}")
    os.close(handle)
    assert contents(out) == before


def test_an_input_that_changes_while_it_is_read(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", texts(40))

    def grow(what: str, *_) -> None:
        if what == "tokenizing":
            with open(path, "a") as file:
                file.write("\n")

    with refuses(Code.CHANGED, "path", "a.jsonl"):
        _prepare.prepare(job([path], tmp_path / "out", shard_tokens=500), grow)


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[5] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "name", "code", "field"),
    [
        (_shorten, "train-00001.bin", Code.DAMAGED, "path"),
        (Path.unlink, "evaluation-00000.bin", Code.DAMAGED, "path"),
        (_flip, "train-00000.bin", Code.DAMAGED, "path"),
        (_flip, "evaluation-00000.documents", Code.DAMAGED, "path"),
        (Path.unlink, "evaluation-00000.documents", Code.DAMAGED, "path"),
        (lambda path: path.write_text('{"a": '), "manifest.json", Code.DAMAGED, "data.path"),
        (lambda path: write_json(path, {"kind": "tokens", "schema": 2}), "manifest.json", Code.DAMAGED, "data.path"),
        (lambda path: write_json(path, {"kind": "tokens", "schema": 1}), "manifest.json", Code.DAMAGED, "data.path"),
        (Path.unlink, "manifest.json", Code.MISSING, "data.path"),
    ],
)
def test_damage_is_found_before_training(tmp_path, capsys, damage, name, code, field):
    path, out = write_text(tmp_path / "text", texts(40)), tmp_path / "out"
    _prepare.prepare(job([path], out, shard_tokens=6000, share=0.3))
    damage(out / name)
    with refuses(code, field) as caught:
        source(out)
    assert str(caught.value.value) in (str(out / name), str(out))
    if name.endswith((".bin", ".documents")):
        assert name.split(".")[0] in refused(capsys, path, f"--out={out}", "--shard_tokens=6000", "--share=0.3")


def test_a_large_folder_is_not_read_but_its_tokens_are_watched(tmp_path, monkeypatch):
    path, out = write_text(tmp_path / "text", texts(40)), tmp_path / "out"
    _prepare.prepare(job([path], out, share=0.3))
    manifest = read_json(out / "manifest.json")
    manifest["tokenizer"]["vocab"] = 100
    write_json(out / "manifest.json", manifest)
    monkeypatch.setattr(_tokens, "HASH_WHOLE", 10)
    _flip(out / "train-00000.bin")
    made = source(out)
    with refuses(Code.CONFLICT, "data.vocab", 100):
        made.batch(np.arange(20), seed=0, context=64)


def test_a_study_takes_its_vocabulary_and_refuses_a_smaller_model(tmp_path, tokenizer, tiny):
    from scaling import study

    path = write_text(tmp_path / "text", texts(200))
    _prepare.prepare(job([path], tmp_path / "out", tokenizer))
    config = tiny(grid=study.block("grid", "mine", (0,), tokens=(48 * 30,)))
    config.data = {"mine": {"source": "prepared", "path": str(tmp_path / "out")}}
    made = study.resolve(config)
    assert made.cells[0].config.vocab == 300
    config.model.vocab = 200
    with refuses(Code.CONFLICT, "model.vocab", 200) as caught:
        study.resolve(config)
    assert "300" in caught.value.remedy
