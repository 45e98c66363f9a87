"""The contract of sources, held by every one of them, and each source's own files, splits and errors."""

import contextlib
import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses
from test_own_sources import samples, write_tar
from test_prepare import texts, write_parquet, write_records

from scaling import cli, data, plan, study
from scaling.data import _documents, _prepare, _random, _tokenizer, _tokens, stdlib
from scaling.data.bin import HEADER
from scaling.errors import Code

CONTEXT = 32


def write_words(path: Path, count: int, seed: int = 0) -> None:
    words = np.random.default_rng(seed).integers(0, 4000, count)
    path.write_bytes(b" ".join(b"w%d" % word for word in words) + b"\n")


def write_llmc(path: Path, tokens: np.ndarray, count: int | None = None, version: int = 1) -> None:
    header = np.zeros(HEADER, "<i4")
    header[:3] = 20240520, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, dict]:
    """One small configuration of every source that exists; a new source has to be added here to be tested."""
    root = tmp_path_factory.mktemp("data")
    (root / "text").mkdir()
    for number in range(40):
        write_words(root / "text" / f"{number}.txt", 1500, number)
    tokens = np.random.default_rng(0).integers(0, 1000, 60_000)
    tokens.astype("<u2").tofile(root / "tokens.bin")
    files = _documents.inputs([str(root / "text")])
    _prepare.prepare(_prepare.Job(files, root / "prepared", _tokenizer.load("bytes"), shard_tokens=20_000))
    own = {}
    for name, path, write in (
        ("webdataset", root / "a.tar", lambda path: write_tar(path, samples(1200))),
        ("parquet", root / "a.parquet", lambda path: write_parquet(path, texts(400))),
        ("arrayrecord", root / "a.array_record", lambda path: write_records(path, texts(400))),
    ):
        with contextlib.suppress(pytest.skip.Exception):  # the library is not installed
            own[name] = {"source": name, "path": str(write(path))}
    if "webdataset" in own:
        own["webdataset"] |= {"side": 6, "classes": 7}
    return {
        **own,
        "stdlib": {"source": "stdlib"},
        "text": {"source": "text", "path": str(root / "text")},
        "bin": {"source": "bin", "path": str(root / "tokens.bin"), "vocab": 1000, "fraction": 0.1, "block": 512},
        "prepared": {"source": "prepared", "path": str(root / "prepared")},
        "zipf": {"source": "zipf"},
        "markov": {"source": "markov", "vocab": 8, "order": 2},
        "rhm": {"source": "rhm"},
        "instructions": {"source": "instructions"},
        "linear": {"source": "linear"},
        "scenes": {"source": "scenes"},
        "graphs": {"source": "graphs"},
        "interleaved": {"source": "interleaved"},
        "moving": {"source": "moving"},
        "gaussian": {"source": "gaussian"},
        "tones": {"source": "tones", "rate": 4000, "window": 128, "hop": 64, "mel": 12, "tones": 8, "notes": 5},
    }


@pytest.fixture(params=data.names())
def source(request, sources) -> data.Source:
    if request.param in ("webdataset", "parquet", "arrayrecord") and request.param not in sources:
        pytest.skip("needs the extra data")
    return data.load(sources[request.param])


def rows(source: data.Source, indices, seed: int = 0, context: int = CONTEXT) -> np.ndarray:
    return source.batch(np.asarray(indices, np.int64), seed=seed, context=context)["tokens"]


def test_shapes_types_and_vocabulary(source):
    batch = source.batch(np.arange(5), seed=3, context=CONTEXT)
    assert batch["tokens"].shape == (5, CONTEXT + 1) and batch["tokens"].dtype == np.int32
    evaluation = source.evaluation(CONTEXT, 4000)
    count = len(evaluation["tokens"])
    assert evaluation["tokens"].shape == (count, CONTEXT + 1) and evaluation["tokens"].dtype == np.int32
    assert evaluation["mask"].shape == (count, CONTEXT) and evaluation["mask"].dtype == np.float32
    assert evaluation["document"].shape == (count,) and evaluation["document"].dtype == np.int32
    assert set(evaluation["document"]) == set(range(len(evaluation["documents"])))
    assert len(set(evaluation["documents"])) == len(evaluation["documents"]) > 1
    for tokens in (batch["tokens"], evaluation["tokens"]):
        assert tokens.min() >= 0 and tokens.max() < source.vocab
    if "mask" in batch:
        assert batch["mask"].shape == (5, CONTEXT) and batch["mask"].dtype == np.float32
        assert hasattr(source, "loss_tokens") or (batch["mask"] == batch["mask"][0]).all()


def test_an_example_is_a_function_of_seed_and_index_alone(source):
    indices = np.random.default_rng(1).integers(0, source.unique_tokens(CONTEXT) // CONTEXT, 40)
    whole = rows(source, indices)
    np.testing.assert_array_equal(whole, np.concatenate([rows(source, indices[:7]), rows(source, indices[7:])]))
    np.testing.assert_array_equal(whole[::-1], rows(source, indices[::-1]))
    np.testing.assert_array_equal(whole[13:14], rows(source, indices[13:14]))


def test_a_smaller_d_is_a_prefix_of_a_larger_one(source):
    np.testing.assert_array_equal(rows(source, np.arange(100))[:60], rows(source, np.arange(60)))


def test_seeds_give_other_examples_and_the_same_evaluation(source):
    assert (rows(source, np.arange(50), seed=0) != rows(source, np.arange(50), seed=1)).any(axis=1).mean() > 0.9
    first, second = source.evaluation(CONTEXT, 2000), source.evaluation(CONTEXT, 2000)
    np.testing.assert_array_equal(first["tokens"], second["tokens"])


def test_a_smaller_evaluation_is_a_prefix_and_holds_what_was_asked(source):
    small, large = source.evaluation(CONTEXT, 1500), source.evaluation(CONTEXT, 3000)
    count = len(small["tokens"])
    np.testing.assert_array_equal(large["tokens"][:count], small["tokens"])
    np.testing.assert_array_equal(large["mask"][:count], small["mask"])
    assert 1500 <= small["mask"].sum() < 1500 + CONTEXT
    names = [[part["documents"][number] for number in part["document"][:count]] for part in (small, large)]
    assert names[0] == names[1]


def test_description_is_json_and_stable_in_a_fresh_process(source, sources):
    about = source.describe()
    config = sources[about["source"]]
    code = f"from scaling import data; print(data.load({config!r}).describe())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(about)
    assert {"source", "sha256", "bytes", "unique_tokens", "entropy"} <= about.keys()
    assert all(isinstance(value, str | int | float | None) for value in about.values())
    assert len(about["sha256"]) == 64 and not any("/" in str(value) for value in about.values())


def test_contract_imports_no_jax():
    code = "import sys; from scaling import data; data.load({'source': 'stdlib'}); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Windows over tokens that are held


def made(count: int, documents: int = 3, length: int = 50) -> _tokens.TokenSource:
    held = [
        _tokens.Document(f"d{n}", np.arange(1000 * n, 1000 * n + length), hashlib.sha256(bytes([n])).digest())
        for n in range(1, documents + 1)
    ]
    return _tokens.TokenSource(np.arange(count), held, vocab=10**6, bytes_per_token=1.0)


@given(st.integers(1, 3000), st.integers(0, 2**63))
@settings(deadline=None, max_examples=40)
def test_the_order_is_a_permutation(size, secret):
    image = _random.permute(np.arange(size), size, _random.key(secret))
    np.testing.assert_array_equal(np.sort(image), np.arange(size))


def test_the_order_looks_random():
    size = 20_000
    image = _random.permute(np.arange(size), size, _random.key(7))
    assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 4 / size**0.5
    assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 4 / size**0.5
    first = [int(_random.permute(np.array([0]), 10, _random.key(seed, 0))[0]) for seed in range(2000)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 33.7  # chi-squared with 9 degrees of freedom, p = 1e-4


def test_an_epoch_has_each_target_once_and_the_next_has_another_order():
    source = made(1007)
    assert source.unique_tokens(10) == 1000 and source.windows(10) == 100
    first, second = rows(source, range(100), context=10), rows(source, range(100, 200), context=10)
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch[:, 1:].ravel()), np.arange(1, 1001))
    assert (first != second).any()
    across = rows(source, range(90, 110), context=10)
    np.testing.assert_array_equal(across, np.concatenate([first[90:], second[:10]]))


@pytest.mark.parametrize(("count", "context", "windows"), [(10, 10, 0), (11, 10, 1), (20, 10, 1), (21, 10, 2)])
def test_a_window_needs_its_last_target(count, context, windows):
    assert made(count).windows(context) == windows


def test_no_window_at_all_is_an_error_not_a_wrong_shape():
    with pytest.raises(ValueError, match="no window"):
        rows(made(10), [0], context=10)


def test_evaluation_has_each_target_once_and_masks_the_rest():
    source = made(100, documents=3, length=50)
    evaluation = source.evaluation(20)
    assert len(evaluation["tokens"]) == 9 and evaluation["mask"].sum() == 3 * 49
    for number, name in enumerate(evaluation["documents"]):
        mine = evaluation["document"] == number
        targets = evaluation["tokens"][mine][:, 1:][evaluation["mask"][mine] == 1]
        begin = 1000 * int(name[1:])
        np.testing.assert_array_equal(np.sort(targets), np.arange(begin + 1, begin + 50))
    assert (evaluation["tokens"][:, 1:][evaluation["mask"] == 0] == 0).all()


# stdlib


@pytest.mark.parametrize("context", [51, 70, 100, 149])
def test_documents_shorter_than_the_context_are_packed_as_in_training(context):
    source = made(10_000, documents=3, length=50)
    assert source.supplies["context"] == 150 and source.longest == 50
    evaluation = source.evaluation(context)
    tokens, mask = evaluation["tokens"], evaluation["mask"] == 1
    whole = np.concatenate([document.tokens for document in source.documents])
    assert mask.all(axis=1).sum() == 149 // context and mask.sum() == 149  # every target once, few of them padded
    np.testing.assert_array_equal(np.sort(tokens[:, 1:][mask]), np.sort(whole[1:]))
    np.testing.assert_array_equal(np.sort(tokens[:, 0]), np.sort(whole[:149:context]))
    assert len(set(evaluation["documents"])) == len(tokens) == len(set(evaluation["document"].tolist()))
    some = source.evaluation(context, 1)
    np.testing.assert_array_equal(some["tokens"], tokens[:1])


def test_packing_is_for_contexts_that_no_document_fills(tmp_path):
    source = made(10_000, documents=3, length=50)
    assert len(set(source.evaluation(50)["document"])) == 3 and not source.evaluation(50)["mask"][:, -1].any()
    lines = "".join(json.dumps({"text": f"document {number} of a few words"}) + "\n" for number in range(3000))
    (tmp_path / "a.jsonl").write_text(lines)
    assert cli.main(["data", "prepare", str(tmp_path / "a.jsonl"), f"--out={tmp_path / 'out'}"]) == 0
    config = study.base("packed")
    config.data.mine = {"source": "prepared", "path": str(tmp_path / "out")}
    config.model.context = 256
    config.recipe.batch = 2
    config.cells.grid = study.block("grid", "mine", (0,), tokens=(10_000,))
    planned = plan.make(study.resolve(config))
    assert planned.rows()[0].D and any("packed" in text for text in planned.warnings)
    config.model.context = 24
    assert not any("packed" in text for text in plan.make(study.resolve(config)).warnings)


def test_stdlib_leaves_out_tests_tables_and_packages(tmp_path):
    def put(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    kept = {f"m{n:03}.py": f"value = {n}\n" * 50 for n in range(200)}
    kept |= {"encodings/utf_8.py": "import codecs\n", "tests.py": "x = 1\n"}
    for name, text in kept.items():
        put(name, text)
    for folder in stdlib.SKIPPED_FOLDERS:
        put(f"{folder}/a.py", "no\n")
    put("json/tests/a.py", "no\n")
    put("encodings/cp037.py", "import codecs\ndecoding_table = (\n)\n")
    put("pydoc_data/topics.py", "no\n")
    put("_sysconfigdata_x.py", "no\n")
    put("empty.py", "")
    put("readme.txt", "no\n")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    assert dict(stdlib.files(tmp_path)) == {name: text.encode() for name, text in kept.items()}
    source = stdlib.make(stdlib.Config(), tmp_path)
    assert source.describe()["bytes"] == sum(len(text) for text in kept.values())
    held = {document.name for document in source.documents}
    expected = {name for name, text in kept.items() if _tokens.held_out(hashlib.sha256(text.encode()).digest())}
    assert held == expected and held
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert stdlib.make(stdlib.Config(), moved).describe() == source.describe()
    (moved / "m000.py").write_text("value = 1_0\n" * 50)
    assert stdlib.make(stdlib.Config(), moved).describe()["sha256"] != source.describe()["sha256"]


def test_stdlib_of_this_python_is_code_and_is_split_by_file():
    source = stdlib.make(stdlib.Config())
    about = source.describe()
    assert about["python"] == ".".join(map(str, sys.version_info[:3]))
    assert about["bytes"] > 5e6 and about["bytes"] == about["unique_tokens"] + about["evaluation_bytes"]
    assert 0.01 < about["evaluation_bytes"] / about["bytes"] < 0.15
    assert source.unique_tokens(64) > 2e6
    train = source.train.tobytes()
    for document in source.documents:
        text = document.tokens.tobytes()
        assert len(text) < 200 or text not in train, document.name


def test_a_limit_keeps_a_part_of_the_library_and_the_same_evaluation():
    whole, part = stdlib.make(stdlib.Config()), stdlib.make(stdlib.Config(limit=65536))
    assert part.unique_tokens(64) == 65535 // 64 * 64 and len(part.train) == 65536
    assert part.train[:2000].tobytes() in whole.train.tobytes()
    assert part.train[:2000].tobytes() != whole.train[:2000].tobytes()  # by hash, not from the letter a
    one, two = (source.evaluation(64, 4096) for source in (whole, part))
    assert (one["tokens"] == two["tokens"]).all() and part.describe()["sha256"] == whole.describe()["sha256"]
    for limit in (-1, 10**9):
        with refuses(Code.INVALID if limit < 0 else Code.TOO_FEW, "data.limit"):
            stdlib.make(stdlib.Config(limit=limit))


def test_stdlib_without_source_files(tmp_path):
    with refuses(Code.MISSING, "data.source", "stdlib"):
        stdlib.make(stdlib.Config(), tmp_path)


# text


def text(path: Path, **fields) -> _tokens.TokenSource:
    source = data.load({"source": "text", "path": str(path), **fields})
    assert isinstance(source, _tokens.TokenSource)
    return source


def test_text_of_many_files_is_split_by_whole_file(sources):
    root = Path(sources["text"]["path"])
    source = text(root)
    contents = {path.name: path.read_bytes() for path in root.iterdir()}
    held = {document.name: document.tokens.tobytes() for document in source.documents}
    assert held and all(contents[name] == content for name, content in held.items())
    expected = b"".join(contents[name] for name in sorted(contents) if name not in held)
    assert source.train.tobytes() == expected


def test_text_of_one_file_is_split_by_block_with_a_gap(tmp_path):
    write_words(tmp_path / "book.txt", 60_000)
    whole = (tmp_path / "book.txt").read_bytes()
    source = text(tmp_path / "book.txt")
    share = sum(len(document.tokens) for document in source.documents) / len(whole)
    assert len(source.documents) >= 2 and 0.03 < share < 0.15
    train = source.train.tobytes()
    for document in source.documents:
        begin = whole.index(document.tokens.tobytes())
        around = whole[begin - 20 : begin + len(document.tokens) + 20]
        assert around[:40] not in train and around[-40:] not in train
    renamed = tmp_path / "other.txt"
    (tmp_path / "book.txt").rename(renamed)
    assert text(renamed).describe() == source.describe()


def test_text_where_the_hash_chooses_badly_still_has_both_sides(tmp_path):
    for size in (6000, 12_000, 24_000, 100_000):
        for seed in range(6):
            path = tmp_path / f"{size}-{seed}.txt"
            write_words(path, size, seed)
            about = text(path).describe()
            assert 0.008 < about["evaluation_bytes"] / about["bytes"] < 0.3, (size, seed)


@pytest.mark.parametrize(
    ("prepare", "fields", "code", "field"),
    [
        (lambda root: None, {"path": ""}, Code.MISSING, "data.path"),
        (lambda root: None, {"path": "{root}/nowhere"}, Code.MISSING, "data.path"),
        (lambda root: None, {}, Code.MISSING, "data.glob"),
        (lambda root: write_words(root / "a.txt", 100), {}, Code.TOO_FEW, "data.path"),
        (lambda root: write_words(root / "a.md", 9000), {}, Code.MISSING, "data.glob"),
        (lambda root: write_words(root / "a.txt", 9000), {"glob": ""}, Code.INVALID, "data.glob"),
        (lambda root: (root / "a.txt").write_bytes(b"a" * 65536), {}, Code.TOO_FEW, "data.path"),
    ],
)
def test_text_errors(tmp_path, prepare, fields, code, field):
    prepare(tmp_path)
    given = {"path": str(tmp_path), **{key: value.format(root=tmp_path) for key, value in fields.items()}}
    with refuses(code, field, {"glob": "**/*.txt", **given}[field.removeprefix("data.")]):
        data.load({"source": "text", **given})


# bin

TOKENS = np.random.default_rng(5).integers(0, 500, 20_000)


def binary(path: Path, **fields) -> _tokens.TokenSource:
    source = data.load({"source": "bin", "path": str(path), "vocab": 500, "block": 256, **fields})
    assert isinstance(source, _tokens.TokenSource)
    return source


def held_tokens(source: _tokens.TokenSource) -> np.ndarray:
    return np.concatenate([document.tokens for document in source.documents])


def test_nanogpt_folder(tmp_path):
    TOKENS[:15_000].astype("<u2").tofile(tmp_path / "train.bin")
    TOKENS[15_000:].astype("<u2").tofile(tmp_path / "val.bin")
    source = binary(tmp_path)
    np.testing.assert_array_equal(source.train, TOKENS[:15_000])
    np.testing.assert_array_equal(held_tokens(source), TOKENS[15_000:])
    assert isinstance(source.train, np.memmap) and source.bytes_per_token is None
    assert rows(source, [0]).dtype == np.int32
    named = binary(tmp_path / "train.bin", val=str(tmp_path / "val.bin"))
    assert named.describe() == source.describe()


def test_uint32_and_llmc_hold_the_same_tokens(tmp_path):
    TOKENS.astype("<u4").tofile(tmp_path / "wide.bin")
    write_llmc(tmp_path / "llmc.bin", TOKENS)
    TOKENS.astype("<u2").tofile(tmp_path / "raw.bin")
    found = [binary(tmp_path / "wide.bin", dtype="uint32"), binary(tmp_path / "llmc.bin"), binary(tmp_path / "raw.bin")]
    for source in found:
        cut = 20_000 - 200
        np.testing.assert_array_equal(source.train, TOKENS[: cut - 256])
        np.testing.assert_array_equal(held_tokens(source), TOKENS[cut:])
    assert found[1].describe() == found[2].describe() != found[0].describe()
    large = np.array([70_000, 3] * 2000)
    large.astype("<u4").tofile(tmp_path / "large.bin")
    assert rows(binary(tmp_path / "large.bin", dtype="uint32", vocab=70_001), [0]).max() == 70_000


def test_bytes_per_token_is_what_was_given(tmp_path):
    TOKENS.astype("<u2").tofile(tmp_path / "a.bin")
    assert binary(tmp_path / "a.bin", bytes_per_token=4).bytes_per_token == 4.0
    for wrong in (-4.0, float("inf"), float("nan")):
        with refuses(Code.INVALID, "data.bytes_per_token", wrong):
            binary(tmp_path / "a.bin", bytes_per_token=wrong)


def test_a_hash_by_sample_sees_sizes_and_says_so(tmp_path, monkeypatch):
    TOKENS.astype("<u2").tofile(tmp_path / "a.bin")
    TOKENS[:-1].astype("<u2").tofile(tmp_path / "b.bin")
    monkeypatch.setattr("scaling.data._tokens.HASH_WHOLE", 1000)
    first, second = binary(tmp_path / "a.bin").describe(), binary(tmp_path / "b.bin").describe()
    assert first["sha256_of"] == "sample" and first["sha256"] != second["sha256"]


def test_a_token_that_the_first_look_missed_is_found_in_its_batch(tmp_path):
    tokens = np.zeros(3_000_000, "<u2")
    tokens.tofile(tmp_path / "a.bin")
    source = binary(tmp_path / "a.bin")
    tampered = np.memmap(tmp_path / "a.bin", "<u2", mode="r+")
    tampered[:] = 600
    with refuses(Code.CONFLICT, "data.vocab") as caught:
        rows(source, [5])
    assert "600" in caught.value.remedy
    with refuses(Code.CONFLICT, "data.vocab"):
        source.evaluation(CONTEXT, 100)


@pytest.mark.parametrize(
    ("content", "fields", "code", "field", "number"),
    [
        (None, {}, Code.MISSING, "data.path", ""),
        ("folder", {}, Code.MISSING, "data.path", ""),
        (b"", {}, Code.TOO_FEW, "data.path", ""),
        (b"\1\0\1", {}, Code.DAMAGED, "data.path", "multiple of 2"),
        (b"\1\0" * 3001, {"dtype": "uint32"}, Code.DAMAGED, "data.path", "multiple of 4"),
        (b"\1\0" * 3000, {"dtype": "int64"}, Code.INVALID, "data.dtype", ""),
        (b"\1\0" * 3000 + b"\x58\2", {}, Code.CONFLICT, "data.vocab", "600"),
        (b"\1\0" * 3000, {"vocab": 1}, Code.INVALID, "data.vocab", "2"),
        (b"\1\0" * 3000, {"block": 1}, Code.INVALID, "data.block", "2"),
        (b"\1\0" * 3000, {"block": 5000}, Code.TOO_FEW, "data.fraction", "3000"),
        (b"\1\0" * 3000, {"fraction": 1.5}, Code.INVALID, "data.fraction", ""),
        (b"\1\0" * 3000, {"val": "nowhere.bin"}, Code.MISSING, "data.path", ""),
        (b"\xff\xff\xff\xff" * 1000, {"dtype": "uint32"}, Code.CONFLICT, "data.vocab", "4294967295"),
    ],
)
def test_bin_errors(tmp_path, content, fields, code, field, number):
    path = tmp_path / "tokens.bin"
    if content == "folder":
        path.mkdir()
        (path / "train.bin").mkdir()
    elif content is not None:
        path.write_bytes(content)
    with refuses(code, field, fields.get(field.removeprefix("data."))) as caught:
        binary(path, **fields)
    assert number in caught.value.remedy


@pytest.mark.parametrize(
    ("count", "version", "code", "numbers"),
    [
        (20_001, 1, Code.DAMAGED, ("20001", "20000")),
        (19_999, 1, Code.DAMAGED, ("19999", "20000")),
        (20_000, 2, Code.UNSUPPORTED, ("2",)),
    ],
)
def test_llmc_header_against_the_file(tmp_path, count, version, code, numbers):
    write_llmc(tmp_path / "a.bin", TOKENS, count, version)
    with refuses(code, "data.path", tmp_path / "a.bin") as caught:
        binary(tmp_path / "a.bin")
    assert all(number in caught.value.remedy for number in numbers)


def test_llmc_header_alone_is_truncated(tmp_path):
    (tmp_path / "a.bin").write_bytes(struct.pack("<3i", 20240520, 1, 5))
    with refuses(Code.DAMAGED, "data.path", tmp_path / "a.bin"):
        binary(tmp_path / "a.bin")


# load

SOURCES = "arrayrecord, bin, gaussian, graphs, instructions, interleaved, linear, markov, moving, parquet, prepared, "
SOURCES += "rhm, scenes, stdlib, text, tones, webdataset, zipf"


@pytest.mark.parametrize(
    ("config", "code", "field", "names"),
    [
        ({}, Code.UNKNOWN, "source", SOURCES),
        ({"source": "webtext"}, Code.UNKNOWN, "source", SOURCES),
        ({"source": "_tokens"}, Code.UNKNOWN, "source", SOURCES),
        ({"source": "stdlib", "path": "x"}, Code.UNKNOWN, "data.path", "limit"),
        ({"source": "text", "paht": "x"}, Code.UNKNOWN, "data.paht", "path, glob"),
        ({"source": "bin", "vocab": "x"}, Code.INVALID, "data.vocab", ""),
        ({"source": "bin", "vocab": True}, Code.INVALID, "data.vocab", ""),
        ({"source": "bin", "fraction": "0.1"}, Code.INVALID, "data.fraction", ""),
        ({"source": "text", "path": None}, Code.INVALID, "data.path", ""),
    ],
)
def test_wrong_configurations_name_what_exists(config, code, field, names):
    with refuses(code, field, config.get(field.removeprefix("data."))) as caught:
        data.load(config)
    assert names in caught.value.remedy


def test_resolve_writes_the_defaults_out():
    assert data.resolve({"source": "text", "path": "x"}) == {
        "source": "text",
        "path": "x",
        "glob": "**/*.txt",
        "kind": "auto",
    }
    assert repr(data.resolve({"source": "bin", "bytes_per_token": 4, "path": "x"})["bytes_per_token"]) == "4.0"


def test_a_source_is_found_by_its_file(tmp_path, monkeypatch):
    (tmp_path / "ones.py").write_text(
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Config:\n    n: int = 1\n"
        "def make(config):\n    return config\n"
    )
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(tmp_path)])
    assert "ones" in data.names()
    made_by_it = data.load({"source": "ones", "n": 3})
    assert dataclasses.asdict(made_by_it) == {"n": 3}  # type: ignore[call-overload]
