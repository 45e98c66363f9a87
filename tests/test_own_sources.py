"""Users' own files as sources: webdataset tars, Parquet and Arrow tables, ArrayRecord; what they read and refuse."""

import io
import json
import pickle
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses
from test_cli import scaling
from test_prepare import texts, training, write_parquet, write_records, write_saved, write_tokenizer

from scaling import data, plan, study
from scaling.data import _documents, _pairs, _prepare, _random, _tokenizer, _tokens
from scaling.data.arrayrecord import Joined
from scaling.errors import Code, UserError
from scaling.records import records

SIDE = 6


def picture(number: int, side: int = SIDE, kind: str = "PNG") -> bytes:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def samples(count: int = 120) -> list[dict[str, Any]]:
    return [
        {
            "__key__": f"{number:05}",
            "png": picture(number),
            "txt": f"picture {number} of größe",
            "cls": str(number % 7),
        }
        for number in range(count)
    ]


def write_tar(path: Path, found: list[dict[str, Any]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in found:
            for ending, value in sample.items():
                if ending != "__key__":
                    content = value if isinstance(value, bytes) else value.encode()
                    member = tarfile.TarInfo(f"{sample['__key__']}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return path


def load(name: str, path: Path, **fields: Any) -> Any:
    return data.load({"source": name, "path": str(path), **fields})


def pairs(path: Path, **fields: Any) -> _pairs.Pairs:
    return load("webdataset", path, **{"side": SIDE, "classes": 7, **fields})


def seen(source: _pairs.Pairs, count: int) -> dict[bytes, tuple[str, int]]:
    """Pixels of each training example, to its caption and label."""
    batch = source.batch(np.arange(count), seed=1, context=40)
    found = {}
    for image, tokens, mask, label in zip(batch["image"], batch["tokens"], batch["mask"], batch["label"]):
        length = int(mask.sum()) - 1
        assert tokens[0] == 256 and (tokens[length + 1 :] == 256).all() and (mask[: length + 1] == 1).all()
        found[image.tobytes()] = (bytes(tokens[1 : length + 1].astype(np.uint8)).decode(), int(label))
    return found


# webdataset


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves its tar open
def test_what_webdataset_writes_is_read_whole_and_right(tmp_path):
    library = pytest.importorskip("webdataset")
    found = samples()
    for shard in range(3):
        with library.TarWriter(str(tmp_path / f"{shard}.tar")) as writer:
            for sample in found[shard::3]:
                writer.write({**sample, "cls": int(sample["cls"])})
    source = pairs(tmp_path)
    train, held = len(source._sides[0]), len(source._sides[1])
    assert train + held == 120 and 2 <= held <= 20
    examples = seen(source, train)
    assert len(examples) == train and source.unique_tokens(40) == train * 40
    evaluation = source.evaluation(40)
    names = dict(zip(evaluation["documents"], evaluation["image"]))
    for number, sample in enumerate(found):
        raw = pixels(number).tobytes()
        if raw in examples:
            assert examples[raw] == (sample["txt"], int(sample["cls"]))
        else:
            assert names[f"{number % 3}.tar:{sample['__key__']}"].tobytes() == raw
    # The same samples as the library groups.
    keys = [each["__key__"] for each in library.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False)]
    assert keys == [source.store.name(number).split(":")[1] for number in range(40)]
    assert source.supplies == {"vocab": 257, "image": SIDE, "classes": 7}


def test_no_pickle_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was loaded')",))

    trap = {name: pickle.dumps(Trap()) for name in ("pkl", "pyd", "pth", "npy", "ten", "mp")}
    write_tar(tmp_path / "a.tar", [{**sample, **trap} for sample in samples(60)])
    assert len(seen(pairs(tmp_path / "a.tar"), 50)) >= 50 - 1
    with refuses(Code.DAMAGED, "data.image") as caught:
        pairs(tmp_path / "a.tar", image="pkl").batch(np.arange(4), seed=0, context=40)
    assert re.fullmatch(r"a\.tar:000\d\d", str(caught.value.value))


def test_a_process_reads_its_own_rows_only(tmp_path):
    found = samples()
    found[34]["png"] = found[34]["png"][:60]
    source = pairs(write_tar(tmp_path / "a.tar", found))
    order = list(range(len(source._sides[0])))
    bad = []
    for index in order:
        try:
            source.batch(np.array([index]), seed=0, context=40)
        except UserError as error:
            bad.append(index)
            assert (error.code, error.field, error.value) == (Code.DAMAGED, "data.image", "a.tar:00034")
    assert len(bad) == 1
    mine = np.array([index for index in order if index % 2 != bad[0] % 2])  # the share of one of two processes
    assert len(source.batch(mine, seed=0, context=40)["image"]) == len(mine)


def test_pictures_are_cut_to_their_middle_and_scaled():
    image = pytest.importorskip("PIL.Image")
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (10, 200, 30)
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        image.fromarray(wide).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
        small = _pairs.decode(buffer.getvalue(), 8, "x")
        assert small.shape == (8, 8, 3) and (abs(small[:, 2:6].astype(int) - (10, 200, 30)) < 12).all()
    grey = io.BytesIO()
    image.fromarray(np.full((9, 9), 77, np.uint8)).save(grey, "PNG")
    assert (_pairs.decode(grey.getvalue(), 4, "x") == 77).all()


def test_a_caption_that_is_too_long_is_cut_and_its_false_end_does_not_count(tmp_path):
    source = pairs(write_tar(tmp_path / "a.tar", samples()))
    batch = source.batch(np.arange(30), seed=0, context=10)
    assert (batch["tokens"][:, 10] == 256).all() and (batch["tokens"][:, 1:10] < 256).all()
    assert (batch["mask"][:, :9] == 1).all() and (batch["mask"][:, 9] == 0).all()
    assert source.loss_tokens(10) == 9
    whole = source.batch(np.arange(len(source._sides[0])), seed=0, context=40)["mask"]
    assert source.loss_tokens(40) == pytest.approx(float(whole.sum(axis=1).mean()))


def test_captions_by_a_tokenizer_and_pictures_without_captions(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(60))
    source = pairs(path, tokenizer=str(write_tokenizer(tmp_path / "tokenizer.json")))
    coder = __import__("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokens = source.batch(np.arange(3), seed=0, context=40)["tokens"]
    assert source.vocab == 300 and (tokens[:, 0] == 299).all() and not (tokens == 0).any()
    own = np.where(tokens == 299, 0, np.where(tokens == 0, 299, tokens))  # the file's end is its token 0
    ends = tokens[:, 1:].argmax(axis=1) + 1  # where a tower of text pools
    for row, end in zip(own, ends):
        assert coder.decode(row[1:end]).startswith("picture ") and coder.decode(row[1:end]).endswith(" of größe")
    assert (np.take_along_axis(tokens, ends[:, None], 1) == 299).all()
    with refuses(Code.MISSING, "end", "none"):
        pairs(path, tokenizer=str(tmp_path / "tokenizer.json"), end="none")
    bare = pairs(path, text="")
    assert (
        bare.supplies == {"image": SIDE, "classes": 7} and not bare.batch(np.arange(3), seed=0, context=9)["mask"].any()
    )
    assert len(bare.evaluation(9, 9)["image"]) == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 512 * 41 + 3])


def _header(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    begin = raw.index(b"00007.txt")
    raw[begin + 3] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "fields", "code", "field", "value"),
    [
        (_cut, {}, Code.DAMAGED, "data.path", "a.tar:00006"),
        (_header, {}, Code.DAMAGED, "data.path", "a.tar:00007"),
        (lambda path: path.write_bytes(b""), {}, Code.DAMAGED, "data.path", "a.tar:its beginning"),
        (lambda path: path.write_bytes(b"no tar at all" * 99), {}, Code.DAMAGED, "data.path", "a.tar:its beginning"),
        (Path.unlink, {}, Code.MISSING, "data.path", None),
        (None, {"text": "caption"}, Code.MISSING, "data.text", "a.tar:00000"),
        (None, {"image": "jpg"}, Code.MISSING, "data.image", "a.tar:00000"),
        (None, {"classes": 5}, Code.CONFLICT, "data.label", None),
        (None, {"tokenizer": "nowhere.json"}, Code.MISSING, "tokenizer", "nowhere.json"),
        (None, {"side": 0}, Code.INVALID, "data.side", 0),
        (None, {"classes": -1}, Code.INVALID, "data.classes", -1),
    ],
)
def test_damaged_tars_and_wrong_fields(tmp_path, damage, fields, code, field, value):
    path = write_tar(tmp_path / "a.tar", samples(40))
    if damage is not None:
        damage(path)
    with refuses(code, field, value) as caught:
        pairs(path, **fields).batch(np.arange(30), seed=0, context=40)
    if code is Code.CONFLICT:  # a label of 5 or more, and the sample that has it
        assert int(str(caught.value.value)) >= 5 and re.search(r"a\.tar:000\d\d", caught.value.remedy)


def test_captions_that_are_no_text_are_named(tmp_path):
    found = [{**sample, "txt": b"\xff\xfe"} for sample in samples(40)]
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    source = pairs(write_tar(tmp_path / "a.tar", found), tokenizer=str(tokenizer))
    for use in (
        lambda: source.batch(np.arange(9), seed=0, context=40),
        lambda: source.loss_tokens(40),  # which a plan asks for
        lambda: source.evaluation(40, 100),
    ):
        with refuses(Code.DAMAGED, "data.text") as caught:
            use()
        assert re.fullmatch(r"a\.tar:000\d\d", str(caught.value.value))


def test_a_large_picture_is_refused_not_unpacked(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 20)
    with refuses(Code.DAMAGED, "data.image") as caught:
        pairs(write_tar(tmp_path / "a.tar", samples(40))).batch(np.arange(2), seed=0, context=40)
    assert re.fullmatch(r"a\.tar:000\d\d", str(caught.value.value))
    assert "decompression bomb" in caught.value.remedy  # Pillow's own reason


# Parquet and what `datasets` saves


def write_pictures(path: Path, count: int = 120, saved: bool = False) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {
        "img": [{"bytes": picture(number), "path": None} for number in range(count)],
        "caption": [f"picture {number} of größe" for number in range(count)],
        "label": [number % 7 for number in range(count)],
    }
    features = datasets.Features(
        {"img": datasets.Image(), "caption": datasets.Value("string"), "label": datasets.ClassLabel(num_classes=7)}
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    if saved:
        made.save_to_disk(str(path), num_shards=2)
    else:
        made.to_parquet(str(path), batch_size=32)
    return path


@pytest.mark.parametrize("saved", [False, True])
def test_pictures_of_datasets_are_those_of_the_tar(tmp_path, monkeypatch, saved):
    monkeypatch.setattr("scaling.data.parquet.HELD", 20_000)  # of the four row groups two
    path = write_pictures(tmp_path / ("saved" if saved else "a.parquet"), saved=saved)
    fields = {"image": "img", "text": "caption", "side": SIDE, "classes": 7}
    source = load("parquet", path, **fields)
    tar = pairs(write_tar(tmp_path / "a.tar", samples()))
    assert source.digests == tar.digests
    for mine, theirs in (
        (source.batch(np.arange(50), seed=3, context=30), tar.batch(np.arange(50), seed=3, context=30)),
        (source.evaluation(30, 90), tar.evaluation(30, 90)),
    ):
        for name in ("tokens", "mask", "image", "label"):
            np.testing.assert_array_equal(mine[name], theirs[name])
    assert source.describe()["samples"] == tar.describe()["samples"]


@pytest.mark.parametrize("write", [write_parquet, write_saved])
def test_text_in_tables_is_split_and_tokenized_as_prepare_does(tmp_path, write):
    path = write(tmp_path / ("a.parquet" if write is write_parquet else "saved"), texts())
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer.json"))
    source = load("parquet", path, tokenizer=tokenizer)
    job = _prepare.Job(_documents.inputs([str(path)]), tmp_path / "out", _tokenizer.load(tokenizer))
    _prepare.prepare(job)
    prepared = load("prepared", tmp_path / "out")
    np.testing.assert_array_equal(source.train, training(prepared))
    assert [each.digest[:8] for each in source.documents] == [each.digest for each in prepared.documents]
    assert source.bytes_per_token == prepared.bytes_per_token
    np.testing.assert_array_equal(
        source.batch(np.arange(20), seed=2, context=50)["tokens"],
        prepared.batch(np.arange(20), seed=2, context=50)["tokens"],
    )


def test_an_end_token_beyond_16_bits_is_not_cut(tmp_path):
    """The words of every document fit into 16 bits; the token that ends it does not."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{number}": number for number in range(70_000)} | {"</s>": 70_000}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    path = write_parquet(tmp_path / "a.parquet", [f"w{number} w{number + 1} w3" for number in range(300)])
    source = load("parquet", path, tokenizer=str(tmp_path / "tokenizer.json"))
    rows = source.train.reshape(-1, 4)
    assert source.vocab == 70_001 and (rows[:, 3] == 70_000).all() and (rows[:, 1] == rows[:, 0] + 1).all()
    assert all(each.tokens[3] == 70_000 and each.name == f"a.parquet:{each.tokens[0]}" for each in source.documents)


def test_a_column_of_tokens_has_no_bytes(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [[number % 250, number // 250, 250] for number in range(400)]
    parquet.write_table(pa.table({"ids": rows}), tmp_path / "a.parquet")
    source = load("parquet", tmp_path / "a.parquet", text="ids")
    assert source.bytes_per_token is None and source.describe()["bytes"] is None
    assert sorted([*source.train.reshape(-1, 3).tolist(), *(e.tokens.tolist() for e in source.documents)]) == sorted(
        rows
    )
    parquet.write_table(pa.table({"ids": [*rows, [3, 256]]}), tmp_path / "a.parquet")
    with refuses(Code.CONFLICT, "tokenizer", "bytes") as caught:
        load("parquet", tmp_path / "a.parquet", text="ids")
    assert "256" in caught.value.remedy and "a.parquet" in caught.value.remedy


def test_an_empty_table_among_others_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", texts(40))
    (tmp_path / "b.parquet").write_bytes(b"")
    with refuses(Code.DAMAGED, "data.path", "b.parquet"):
        load("parquet", tmp_path)


def _broken_row_group(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[8:400] = bytes(392)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "fields", "code", "field", "value"),
    [
        (Path.unlink, {}, Code.MISSING, "path", None),
        (lambda path: path.rename(path.with_suffix(".csv")), {}, Code.MISSING, "path", None),
        (lambda path: path.write_bytes(b"PAR1"), {}, Code.DAMAGED, "data.path", "a.parquet"),
        (_broken_row_group, {}, Code.DAMAGED, "path", "a.parquet"),
        (None, {"text": "body"}, Code.MISSING, "data.text", "body"),
        (None, {"text": ""}, Code.MISSING, "data.text", "''"),
        (None, {"text": "id"}, Code.DAMAGED, "column id", "a.parquet, row 0"),
        (None, {"image": "img"}, Code.MISSING, "data.image", "img"),
        (None, {"image": "text"}, Code.DAMAGED, "data.image", "a.parquet:0"),
        (None, {"end": "</s>"}, Code.UNKNOWN, "end", "</s>"),
    ],
)
def test_damaged_tables_and_wrong_fields(tmp_path, damage, fields, code, field, value):
    path = write_parquet(tmp_path / "a.parquet", texts(40))
    if damage is not None:
        damage(path)
    with refuses(code, field, value) as caught:
        load("parquet", path, **fields)
    if fields.get("text") == "body":
        assert "id, text" in caught.value.remedy


def test_too_much_text_for_memory_is_for_prepare(tmp_path, monkeypatch):
    monkeypatch.setattr("scaling.data.parquet.LARGEST", 1000)
    with refuses(Code.UNSUPPORTED, "data.path"):
        load("parquet", write_parquet(tmp_path / "a.parquet", texts(40)))


# ArrayRecord


def write_tokens(path: Path, rows: list[np.ndarray]) -> Path:
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(row.tobytes())
    writer.close()
    return path


def test_records_give_the_batches_of_the_same_tokens_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 60_000, rng.integers(0, 300)).astype("<u2") for _ in range(150)]
    write_tokens(tmp_path / "a.array_record", rows[:70])
    write_tokens(tmp_path / "b.array_record", rows[70:])
    source = load("arrayrecord", tmp_path, dtype="uint16", vocab=60_000)
    assert isinstance(source.train, Joined)
    kept = [rows[number] for number in source.train.which.tolist()]
    held = [each.tokens[0 : len(each.tokens)] for each in source.documents]
    assert sorted(map(bytes, [*kept, *held])) == sorted(bytes(row) for row in rows if len(row))
    documents = [_tokens.Document(e.name, e.tokens[0 : len(e.tokens)], e.digest) for e in source.documents]
    plain = _tokens.TokenSource(np.concatenate(kept), documents, 60_000, None)
    for indices, context in ((np.arange(300), 40), (np.arange(30), 700)):
        np.testing.assert_array_equal(
            source.batch(indices, seed=5, context=context)["tokens"],
            plain.batch(indices, seed=5, context=context)["tokens"],
        )
    np.testing.assert_array_equal(source.evaluation(64)["tokens"], plain.evaluation(64)["tokens"])


def test_text_records_are_what_grain_reads_and_what_prepare_writes(tmp_path):
    grain = pytest.importorskip("grain")
    found = texts()
    path = write_records(tmp_path / "a.array_record", found)
    source = load("arrayrecord", path)
    theirs = grain.MapDataset.source(grain.sources.ArrayRecordDataSource([str(path)]))
    assert [record.decode() for record in theirs] == found
    job = _prepare.Job(_documents.inputs([str(path)]), tmp_path / "out", _tokenizer.load("bytes"))
    _prepare.prepare(job)
    np.testing.assert_array_equal(
        source.batch(np.arange(40), seed=1, context=60)["tokens"],
        load("prepared", tmp_path / "out").batch(np.arange(40), seed=1, context=60)["tokens"],
    )
    pipeline = grain.MapDataset.range(40).map(lambda i: source.batch(np.array([i]), seed=1, context=60)["tokens"][0])
    np.testing.assert_array_equal(pipeline.batch(40)[0], source.batch(np.arange(40), seed=1, context=60)["tokens"])
    assert source.bytes_per_token == 1.0 and b"".join(
        bytes(theirs[int(number)]) for number in source.train.which
    ) == bytes(source.train.gather(np.array([0]), len(source.train))[0])


def _flip(offset: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        raw = bytearray(path.read_bytes())
        raw[offset] ^= 0xFF
        path.write_bytes(raw)

    return damage


@pytest.mark.parametrize(
    ("damage", "fields", "code", "field", "value"),
    [
        (_flip(3000), {}, Code.DAMAGED, "data.path", r"a\.array_record:\d+"),
        (lambda path: path.write_bytes(b""), {}, Code.DAMAGED, "data.path", r"a\.array_record"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:70_000]),
            {},
            Code.DAMAGED,
            "data.path",
            r"a\.array_record",
        ),
        (Path.unlink, {}, Code.MISSING, "data.path", r".*a\.array_record"),
        (None, {"dtype": "uint32", "vocab": 2**31}, Code.DAMAGED, "data.path", r"a\.array_record:\d+"),
        (None, {"vocab": 100}, Code.CONFLICT, "data.vocab", "100"),
        (None, {"dtype": "int8"}, Code.INVALID, "data.dtype", "int8"),
        (None, {"vocab": 1}, Code.INVALID, "data.vocab", "1"),
        (None, {"bytes_per_token": -4.0}, Code.INVALID, "data.bytes_per_token", r"-4\.0"),
    ],
)
def test_damaged_records_and_wrong_fields(tmp_path, damage, fields, code, field, value):
    path = write_records(tmp_path / "a.array_record", texts(150))
    if damage is not None:
        damage(path)
    with refuses(code, field) as caught:
        load("arrayrecord", path, **fields)
    assert re.fullmatch(value, str(str(caught.value.value)))
    if code is Code.CONFLICT:
        assert re.search(r"a\.array_record:\d+", caught.value.remedy)


# What is missing


@pytest.mark.parametrize(
    ("name", "module", "fields"),
    [
        ("webdataset", "PIL", {"side": SIDE}),
        ("parquet", "pyarrow", {}),
        ("arrayrecord", "array_record", {}),
        ("webdataset", "tokenizers", {"tokenizer": "tokenizer.json"}),
    ],
)
def test_a_missing_extra_names_what_to_install(tmp_path, monkeypatch, name, module, fields):
    monkeypatch.chdir(tmp_path)
    path = {
        "webdataset": lambda: write_tar(tmp_path / "a.tar", samples(40)),
        "parquet": lambda: write_parquet(tmp_path / "a.parquet", texts(4)),
        "arrayrecord": lambda: write_records(tmp_path / "a.array_record", texts(4)),
    }[name]()
    (tmp_path / "tokenizer.json").write_text(json.dumps({}))
    for each in [each for each in sys.modules if each.split(".")[0] == module] + [module]:
        monkeypatch.setitem(sys.modules, each, None)
    with refuses(Code.ENVIRONMENT, "source") as caught:
        load(name, path, **fields).batch(np.arange(2), seed=0, context=40)
    assert "pip install 'scaling-lab[data]'" in caught.value.remedy
    assert ("pillow" if module == "PIL" else module.replace("_", "-")) in str(caught.value)


# Planning and training


def test_the_loss_tokens_of_captions_are_their_mean_times_the_examples(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples())
    config = study.base("captions")
    config.family, config.model, config.recipe.batch = "fusion", {"patch": 3, "text": 24}, 8
    config.data.mine = {"source": "webdataset", "path": str(path), "side": SIDE}
    config.cells.grid = study.block("grid", "mine", (0,), tokens=(28 * 8 * 10,))
    manifest = plan.make(study.resolve(config)).programs[0].runs[-1].manifest
    mean = load("webdataset", path, side=SIDE).loss_tokens(24)
    assert mean != round(mean) and manifest.steps == 10 and manifest.tokens.loss == round(80 * mean)


STUDY = """
from scaling import study

def get_config(argument=""):
    config = study.base("tars")
    config.family = "vit"
    for name in ("good", "bad"):
        config.data[name] = {"source": "webdataset", "path": name, "side": 6, "classes": 7}
        config.cells[name] = study.block("grid", name, (0,), tokens=(4 * 8 * 10,))
    config.data.tolerant = {"source": "webdataset", "path": "bad", "side": 6, "classes": 7, "damaged": 1}
    config.cells.tolerant = study.block("grid", "tolerant", (0,), tokens=(4 * 8 * 10,))
    config.model = {"width": 8, "layers": 1, "heads": 1, "patch": 3}
    config.recipe.batch = 8
    config.recipe.warmup_steps = 2
    config.chunk = 5
    config.evaluation = {"tokens": 16, "batch": 4}
    return config
"""


@pytest.mark.system
def test_tars_train_and_a_corrupt_sample_rejects_its_run_by_file_and_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "exp.py").write_text(STUDY)
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    found = samples()
    write_tar(tmp_path / "good" / "a.tar", found)
    train = pairs(tmp_path / "good")._sides[0]
    broken = int(train[_random.permute(np.arange(60, 61), len(train), _random.key(0, 0))][0])  # in the second chunk
    found[broken]["png"] = found[broken]["png"][:70]
    write_tar(tmp_path / "bad" / "a.tar", found)
    code, _, err = scaling("run", "--config=exp.py", "--workdir=w", "--workers=1")
    line = next((line for line in err.splitlines() if line.startswith("rejected: ")), "")
    assert code == 2 and f"data.image = a.tar:{broken:05}: is not a readable picture" in line, err
    ended = [record.result for record in records(tmp_path / "w") if record.manifest.dataset == "good"]
    assert ended and all(result is not None and result.status == "done" for result in ended)
    assert any(result and "class" in result.evaluation for result in ended)
    found = [record for record in records(tmp_path / "w") if record.manifest.dataset == "tolerant"]
    replaced = [record.result.replaced for record in found if record.result is not None]
    assert sum(count or 0 for count in replaced) == 1 and len(replaced) == 2  # in the stem or its branch
    assert sum("1 examples of damaged samples" in line for line in err.splitlines()) == 1, err
