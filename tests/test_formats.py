"""What a file holds is told by its content: every format under any name, and what would train as another thing."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from test_prepare import contents, job, source, texts, training, write_parquet, write_records

from scaling import cli, data
from scaling.data import _documents, _files, _formats, _prepare
from scaling.errors import Code

TEXTS = [*texts(40), 'quotes "and", commas;\nlines\r\nand\ttabs', '{"text": "within"}', "é" * 200_000]


def rows() -> list[dict[str, object]]:
    return [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


def lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows()).encode()


def array(indent: int | None = None) -> bytes:
    return json.dumps(rows(), indent=indent, ensure_ascii=False).encode()


def table(delimiter: str = ",") -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerows([["id", "text"], *([row["id"], row["text"]] for row in rows())])
    return buffer.getvalue().encode()


def arrow(codec: str, content: bytes) -> bytes:
    return bytes(pytest.importorskip("pyarrow").Codec(codec).compress(content, asbytes=True))


def feather(kind: str) -> bytes:
    pa, buffer = pytest.importorskip("pyarrow"), io.BytesIO()
    made = pa.table({"id": range(len(TEXTS)), "text": TEXTS})
    with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(buffer, made.schema) as writer:
        writer.write_table(made, max_chunksize=7)
    return buffer.getvalue()


FILES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "c4-train.00000-of-01024.json.gz": ("jsonl", "gzip", lambda: gzip.compress(lines())),
    "shard.json": ("json", "", array),
    "pretty.json": ("json", "", lambda: array(2)),
    "marked.json": ("json", "", lambda: b"\xef\xbb\xbf" + array()),
    "lines.json": ("jsonl", "", lines),
    "lines.txt": ("jsonl", "", lines),
    "array.jsonl": ("json", "", array),
    "docs.csv": ("csv", "", table),
    "semicolon.csv": ("csv", "", lambda: b"\xef\xbb\xbf" + table(";")),
    "docs.tsv": ("tsv", "", lambda: table("\t")),
    "table.txt": ("csv", "", lambda: table("\t")),
    "docs.csv.bz2": ("csv", "bz2", lambda: bz2.compress(table())),
    "pile.jsonl.zst": ("jsonl", "zstd", lambda: arrow("zstd", lines()[:9000]) + arrow("zstd", lines()[9000:])),
    "pile.lz4": ("jsonl", "lz4", lambda: arrow("lz4", lines())),
    "shard.json.xz": ("json", "xz", lambda: lzma.compress(array())),
    "unpacked.jsonl.gz": ("jsonl", "", lines),
    "packed.jsonl": ("jsonl", "gzip", lambda: gzip.compress(lines())),
    "nameless": ("jsonl", "zstd", lambda: arrow("zstd", lines())),
    "data.bin": ("arrow", "", lambda: feather("file")),
    "stream": ("arrow", "", lambda: feather("stream")),
}


@pytest.mark.parametrize("name", FILES)
def test_content_tells_the_format_under_any_name(tmp_path, name):
    kind, packing, content = FILES[name]
    path = tmp_path / name
    path.write_bytes(content())
    each = _documents.inputs([str(path)])[0]
    assert each.format == _formats.Format(kind, packing)
    read = list(_documents.documents(each, "text", 0))
    assert [document.decode() for document, _ in read] == TEXTS
    for number in (0, 19, len(read) - 1):  # reading goes on where it stopped
        assert list(_documents.documents(each, "text", 0, read[number][1])) == read[number + 1 :]


@pytest.mark.parametrize(("name", "write"), [("a.data", write_parquet), ("a.txt", write_records)])
def test_binary_tables_too(tmp_path, name, write):
    each = _documents.inputs([str(write(tmp_path / name, TEXTS))])[0]
    assert [document.decode() for document, _ in _documents.documents(each, "text", 0)] == TEXTS


@pytest.mark.parametrize(
    "content",
    [
        b"Once upon a time, there was a tale,\nand it went on, as tales do, for long.\n" * 9,
        b"[link](https://x.org), [1] and {braces}\n[{not json}]\n" * 9,
        b'{"a": 1}\nis how JSON looks.\n' * 9,
        b"{ int x; }\n" * 9,
        b"<!doctype html>\n<p>a page</p>\n" * 9,
        "Größe, naïve\n".encode("latin-1") * 9,
        b"a,b,c\nof the song\n" * 9,
        b"step by step,\nline by line,\n" * 9,
        b"form\x0cfeeds, \x1b[1mcolours\x1b[0m, one \x00 in a thousand letters " * 3 + b"text " * 300,
        b"",
    ],
)
def test_text_stays_text(content):
    for name in ("enwik8", "a.txt", "a.md", "a.log"):
        assert _formats.kind_of(content, name) == "text"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.jsonl", lines())
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(lines())
        file.addfile(member, io.BytesIO(lines()))
    return buffer.getvalue()


def numpy_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(9000, dtype=np.uint16))
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
REFUSED = {
    "zip.jsonl": zipped,
    "tar.txt": tarred,
    "data.tar.gz": lambda: gzip.compress(tarred()),
    "twice.gz": lambda: gzip.compress(gzip.compress(lines())),
    "tokens.npy": numpy_file,
    "model.pt": lambda: pickle.dumps({"text": TEXTS[:3]}),
    "train.bin": lambda: np.arange(9000, dtype=np.uint16).tobytes(),
    "llmc.bin": lambda: struct.pack("<3i", 20240520, 1, 9) + bytes(1012) + bytes(range(18)),
    "pointer.parquet": lambda: POINTER,
    "pointer.txt": lambda: POINTER,
    "utf16.txt": lambda: "some text\n".encode("utf-16") * 9,
    "utf16le.csv": lambda: ("id,text\n" * 99).encode("utf-16-le"),
    "object.json": lambda: json.dumps({"data": rows()}, indent=1).encode(),
    "page.jsonl": lambda: b"<!DOCTYPE html><html><head><title>404</title></head></html>\n" * 9,
    "page.txt.gz": lambda: b"<html>not found</html>\n" * 9,
    "report.pdf": lambda: b"%PDF-1.7\n" + b"text " * 99,
    "a.parquet.gz": lambda: gzip.compress(b"PAR1" * 99),
    "noise": lambda: np.random.default_rng(0).bytes(9000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_train_as_another_thing_is_refused_before_anything_is_written(tmp_path, capsys, name):
    path, out = tmp_path / name, tmp_path / "out"
    path.write_bytes(REFUSED[name]())
    with refuses(Code.UNSUPPORTED, "path", name):
        print(_documents.inputs([str(path)])[0].format)
    assert cli.main(["data", "prepare", str(path), f"--out={out}"]) == cli.EXIT_USER
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and f"path = {name}: " in captured.err
    assert not out.exists()


DAMAGED = {
    "a.json": (lambda: array()[:-21], "a.json, after byte"),
    "b.json": (lambda: array() + b"[", "b.json, after byte"),
    "c.json": (lambda: b"[1, 2, 3]", None),
    "d.csv": (lambda: table() + b"3,4,5\n", "d.csv, before byte"),
    "e.csv": (lambda: table() + b'3,"4', "e.csv"),
    "f.csv": (lambda: b"id,body\n1,a\n", None),
    "g.csv": (lambda: b"text,text\n1,a\n", None),
    "h.jsonl.zst": (lambda: arrow("zstd", np.random.default_rng(0).bytes(90_000).hex().encode())[:-9], "h.j"),
    "i.xz": (lambda: lzma.compress(lines())[:-40], "i.xz"),
    "j.bz2": (lambda: bz2.compress(b"a" * 99)[:-4], "j.bz2"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(tmp_path, name):
    content, value = DAMAGED[name]
    (tmp_path / name).write_bytes(content())
    with refuses(Code.DAMAGED if value else Code.MISSING, "path" if value else "column") as caught:
        list(_documents.documents(_documents.inputs([str(tmp_path / name)])[0], "text", 0))
    assert str(caught.value.value).startswith(value or "text")


def test_damaged_rows_are_skipped_if_allowed_and_counted(tmp_path, capsys):
    found = lines().splitlines(keepends=True)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    whole.write_bytes(b"".join([*found[:7], *found[8:]]))
    broken.write_bytes(b"".join([*found[:7], b'{"text": "torn\n', b'{"text": 3}\n', b'{"id": 4}\n', *found[8:]]))
    expected, _ = _prepare.prepare(job([whole], tmp_path / "whole"))
    for allowed in (0, 2):
        out = tmp_path / f"out{allowed}"
        with refuses(Code.DAMAGED):
            _prepare.prepare(job([broken], out, damaged=allowed))
    manifest, _ = _prepare.prepare(job([broken], tmp_path / "out", damaged=3, shard_tokens=20_000))
    assert manifest.damaged == 3 and expected.damaged == 0
    assert (manifest.train, manifest.evaluation) == (expected.train, expected.evaluation)
    assert training(source(tmp_path / "out")).tobytes() == training(source(tmp_path / "whole")).tobytes()
    same, _ = _prepare.prepare(job([whole], tmp_path / "tolerant", damaged=3))
    assert same == expected
    (tmp_path / "a.csv").write_bytes(table() + b"3,4,5\n")
    assert cli.main(["data", "prepare", str(tmp_path / "a.csv"), f"--out={tmp_path / 'csv'}", "--damaged=1"]) == 0
    assert "1 damaged rows were skipped" in capsys.readouterr().out


def test_the_kind_may_be_given_and_is_part_of_what_was_asked(tmp_path, capsys):
    path, out = tmp_path / "config.json", tmp_path / "out"
    path.write_bytes(json.dumps({"data": rows()}, indent=1).encode())
    command = ["data", "prepare", str(path), f"--out={out}", "--cut=4096"]
    assert cli.main([*command, "--kind=text"]) == 0
    assert "read as text: 1" in capsys.readouterr().out
    before = contents(out)
    assert cli.main([*command, "--kind=jsonl"]) == cli.EXIT_USER
    assert f"out = {out}: " in capsys.readouterr().err and contents(out) == before
    assert cli.main([*command, "--kind=yaml"]) == cli.EXIT_USER
    assert "kind = yaml: " in capsys.readouterr().err


def test_zstd_without_its_reader_names_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.zst").write_bytes(arrow("zstd", lines()))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with refuses(Code.ENVIRONMENT) as caught:
        list(_documents.documents(_documents.inputs([str(tmp_path / "a.zst")])[0], "text", 0))
    assert "pip install 'scaling-lab[data]'" in caught.value.remedy


# The source `text`, which reads the bytes as they are


@pytest.mark.parametrize("name", ["c4-train.00000-of-01024.json.gz", "shard.json", "lines.txt", "docs.csv", "data.bin"])
def test_the_source_of_raw_text_refuses_what_is_none(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name][2]() * 9)  # a source of text wants 32 kB
    fields = {"source": "text", "path": str(tmp_path), "glob": "*"}
    with refuses(Code.UNSUPPORTED, "data.path", name):
        data.load(fields)
    assert data.load({**fields, "kind": "text"}).vocab == 256


# Folders as hubs lay them out


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("test/a.txt", True),
        ("data/validation-00000-of-00002.parquet", True),
        ("c4-validation.00000-of-00008.json.gz", True),
        ("en/wiki.test.tokens", True),
        ("ptb.valid.txt", True),
        ("dev-v1.1.json", True),
        ("validation_matched.jsonl", True),
        ("Val/x.jpg", True),
        ("test1.csv", True),
        ("cc3m-val-0001.tar", True),
        ("train/a.txt", False),
        ("train-00000-of-00002.parquet", False),
        ("testimony.txt", False),
        ("contest/devices.txt", False),
        ("test_of_time.txt", False),
        ("tests/x.txt", False),
        ("src/test/java/A.java", False),
        ("pkg/foo_test.go", False),
        ("train_test_mix.jsonl", False),
    ],
)
def test_names_of_test_and_validation_files(name, held):
    assert _files.is_held(name) == held


def write_layout(root: Path) -> Path:
    for folder, seed in (("train", 1), ("validation", 2), ("test", 3)):
        (root / folder).mkdir(parents=True)
        for number, text in enumerate(texts(30, seed)):
            (root / folder / f"{number:02}.txt").write_text(text)
    (root / "README.md").write_text("---\nlicense: mit\n---\n")
    (root / "extra.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(5, 4)))
    (root / "picture.svg").write_text("<svg/>")
    return root


def test_test_and_validation_files_are_never_trained_on_and_that_is_said(tmp_path, capsys):
    root, out = write_layout(tmp_path / "hub"), tmp_path / "out"
    assert cli.main(["data", "prepare", str(root), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "read as jsonl: 1, text: 30" in printed
    assert "60 files named test or validation (test/00.txt, " in printed and "picture.svg" in printed
    made = source(out)
    kept = training(made).tobytes().decode() + "".join(bytes(each.tokens).decode() for each in made.documents)
    meant = [*texts(30, 1), *texts(5, 4)]
    assert all(text in kept for text in meant) and len(kept) == sum(map(len, meant))
    held = _documents.find([str(root / "validation")], evaluation=True)
    manifest, _ = _prepare.prepare(job([root], tmp_path / "own", evaluation=held.files))
    assert manifest.evaluation.documents == 30 and manifest.train.documents == 35
    (root / "only").mkdir()
    (root / "only" / "test.txt").write_text("x" * 99)
    with refuses(Code.MISSING, "path", root / "only"):
        _documents.find([str(root / "only")])
    assert len(_documents.find([str(root / "only")], evaluation=True).files) == 1
    assert len(_documents.find([str(root)], "test/*.txt").files) == 30  # asked for by name


def test_files_that_describe_the_others_are_left_out_and_named(tmp_path, capsys):
    root = tmp_path / "mixed"
    root.mkdir()
    for number, text in enumerate(texts(30)):
        (root / f"{number}.txt").write_text(text)
    (root / "docs.csv").write_bytes(table())
    (root / "labels.csv").write_text("file,label\n0.txt,3\n1.txt,4\n")
    (root / "metadata.json").write_text(json.dumps({"license": "mit", "files": 30}, indent=1))
    (root / "records.json").write_text(json.dumps([{"file": "0.txt"}]))
    (root / "code.tar.gz").write_bytes(gzip.compress(tarred()))
    assert cli.main(["data", "prepare", str(root), f"--out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert "read as csv: 1, text: 30" in printed and "1 files of other names (code.tar.gz)" in printed
    assert "3 JSON or CSV files that are empty, one object, or without the column text (labels.csv, " in printed
    found = _documents.find([str(root)], column="text")
    assert (found.unknown, found.lacking) == (["code.tar.gz"], ["labels.csv", "metadata.json", "records.json"])
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "labels.csv").write_text("file,label\n0.txt,3\n1.txt,4\n")
    assert cli.main(["data", "prepare", str(alone), f"--out={tmp_path / 'none'}"]) == cli.EXIT_USER
    assert "column = text: " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pointer.txt", "page.jsonl", "zip.jsonl", "utf16.txt", "twice.gz", "noise"])
def test_a_shard_that_is_no_json_among_good_ones_is_refused_and_not_left_out(tmp_path, capsys, kind):
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for name in ("a.json", "c.json"):
        (root / name).write_bytes(lines())
    (root / "b.json").write_bytes(REFUSED[kind]())
    assert cli.main(["data", "prepare", str(root), f"--out={out}"]) == cli.EXIT_USER
    assert "path = b.json: " in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("ending", [".json", ".csv", ".tsv", ".json.gz", ".csv.gz"])
def test_empty_parts_hold_no_documents(tmp_path, ending):
    content = {"json": array(), "csv": table(), "tsv": table("\t")}[ending.split(".")[1]]
    packed = gzip.compress if ending.endswith(".gz") else bytes
    (tmp_path / f"part-00000{ending}").write_bytes(packed(content))
    empty = tmp_path / f"part-00001{ending}"
    empty.write_bytes(packed(b""))
    found = _documents.find([str(tmp_path)], column="text")
    assert [each.name for each in found.files] == [f"part-00000{ending}"] and found.lacking == [empty.name]
    both = _documents.find([str(tmp_path)], f"*{ending}", column="text").files
    assert [len(list(_documents.documents(each, "text", 0))) for each in both] == [len(TEXTS), 0]


def test_damaged_lines_are_numbered_without_reading_the_file_again_for_each(tmp_path, monkeypatch):
    path, opened, unpack = tmp_path / "a.jsonl", [], _formats.unpack
    path.write_text('{"text": "a"}\n\n' + "torn\n" * 40)
    monkeypatch.setattr(_formats, "unpack", lambda *given: opened.append(given) or unpack(*given))
    each = _documents.inputs([str(path)])[0]
    whole = '{"text": "a"}\n\n'
    for start, first in ((len(whole), 3), (len(whole + "torn\n"), 4)):
        opened.clear()
        errors = [error for error, _ in _documents.documents(each, "text", 0, start, tolerant=True)]
        assert [error.value for error in errors] == [f"a.jsonl, line {number}" for number in range(first, 43)]
        assert len(opened) == 2  # to read, and once to count the lines before


def test_only_the_readme_of_the_folder_itself_describes_the_others(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/README.md"):
        (tmp_path / name).write_text("how it is used")
    (tmp_path / "a.jsonl").write_bytes(lines())
    found = _documents.find([str(tmp_path)], column="text")
    assert [each.name for each in found.files] == ["a.jsonl", "docs/README.md"] and found.unknown == ["README.md"]


def test_names_are_parted_unless_the_pattern_asks_for_them():
    names = ["a.txt", "test/a.txt", "b.txt"]
    assert _files.apart(names, "**/*.txt") == (["a.txt", "b.txt"], ["test/a.txt"])
    assert _files.apart(names, "test/*") == (names, [])


def test_sources_leave_them_out_and_a_plan_says_so(tmp_path, tiny):
    from scaling import plan, study

    root = write_layout(tmp_path / "hub")
    for folder in ("train", "test"):
        for path in (root / folder).iterdir():
            path.write_text(path.read_text() * 9)
    made = data.load({"source": "text", "path": str(root)})
    assert made.describe()["files"] == 30 and len(data.remarks(made)) == 1
    assert (data.remarks(made)[0].code, data.remarks(made)[0].count) == ("held", 60)
    config = tiny(grid=study.block("grid", "mine", (0,), tokens=(48 * 30,)))
    config.data = {"mine": {"source": "text", "path": str(root)}}
    assert any("60" in text and "test/00.txt" in text for text in plan.make(study.resolve(config)).warnings)
    only = tmp_path / "only"
    only.mkdir()
    (root / "test").rename(only / "test")
    with refuses(Code.MISSING, "data.glob", "te*/*.txt"):
        data.load({"source": "text", "path": str(only), "glob": "te*/*.txt"})
    assert data.load({"source": "text", "path": str(only), "glob": "test/*.txt"}).describe()["files"] == 30
