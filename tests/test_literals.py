"""Names of special tokens within a text: they are counted, and read as tokens or as text as was said."""

import json
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from test_own_sources import SIDE, load, samples, write_tar
from test_prepare import END, contents, source, texts, training, write_jsonl, write_parquet, write_tokenizer

from scaling import cli, data, plan, study
from scaling.data import _tokenizer
from scaling.errors import Code

SPELLED = [f"an article on {END} and {END}", *texts(40), f"{END}"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def prepare(capsys: pytest.CaptureFixture, path: Path, out: Path, *flags: str) -> dict:
    assert cli.main(["data", "prepare", str(path), f"--out={out}", "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def ends(out: Path) -> int:
    """Tokens 0, which ends documents, on both sides of the split."""
    made = source(out)
    return int((training(made) == 0).sum() + sum((each.tokens == 0).sum() for each in made.documents))


def test_they_are_counted_and_read_as_was_said(tmp_path, capsys, tokenizer):
    path = write_jsonl(tmp_path / "a.jsonl", SPELLED)
    flag = f"--tokenizer={tokenizer}"
    token = prepare(capsys, path, tmp_path / "token", flag)
    assert token["literals"] == 3 and ends(tmp_path / "token") == len(SPELLED) + 3
    text = prepare(capsys, path, tmp_path / "text", flag, "--specials=text")
    assert text["literals"] == 0 and ends(tmp_path / "text") == len(SPELLED)
    assert token["tokenizer"]["sha256"] != text["tokenizer"]["sha256"]
    coder = __import__("tokenizers").Tokenizer.from_file(str(tokenizer))
    read = coder.decode(training(source(tmp_path / "text")).tolist())
    held = [coder.decode(each.tokens.tolist()) for each in source(tmp_path / "text").documents]
    assert "".join([read, *held]).count(END) == 3
    assert cli.main(["data", "prepare", str(path), f"--out={tmp_path / 'new'}", flag]) == 0
    assert "3 names of special tokens" in capsys.readouterr().out
    before = contents(tmp_path / "token")
    assert cli.main(["data", "prepare", str(path), f"--out={tmp_path / 'token'}", flag, "--specials=text"]) == 2
    assert cli.main(["data", "prepare", str(path), f"--out={tmp_path / 'x'}", flag, "--specials=drop"]) == 2
    assert "specials = drop: " in capsys.readouterr().err
    assert contents(tmp_path / "token") == before and not (tmp_path / "x").exists()


def test_text_without_them_gives_the_same_tokens_either_way(tmp_path, capsys, tokenizer):
    path, flag = write_jsonl(tmp_path / "a.jsonl", texts(40)), f"--tokenizer={tokenizer}"
    token, text = (prepare(capsys, path, tmp_path / how, flag, f"--specials={how}") for how in ("token", "text"))
    assert token["literals"] == text["literals"] == 0
    assert [shard["sha256"] for shard in token["shards"]] == [shard["sha256"] for shard in text["shards"]]


def test_bytes_spell_no_token():
    assert _tokenizer.load("bytes").count_literals(END.encode()) == 0


def test_an_end_that_is_no_special_token_is_seen_too(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1, "b": 2}, unk_token="a"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = _tokenizer.load(str(tmp_path / "tokenizer.json"))
    assert loaded.end == 1 and loaded.count_literals(b"a </s> b") == 1
    as_text = _tokenizer.load(str(tmp_path / "tokenizer.json"), specials="text")
    assert as_text.encode([b"a </s> b"])[0].tolist() == [0, 1, 2]  # the library reads only special tokens as text
    assert as_text.count_literals(b"a </s> b") == 1


def test_bytes_are_the_same_whatever_specials_says_and_older_folders_are_read(tmp_path, capsys):
    path, out = write_jsonl(tmp_path / "a.jsonl", texts(40)), tmp_path / "out"
    first = prepare(capsys, path, out)
    assert "specials" not in first["asked"]
    assert prepare(capsys, path, out, "--specials=text") == first
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["asked"]["specials"] = "text"
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert prepare(capsys, path, out) == first and source(out).vocab == 256


def warned(fields: dict, **model: object) -> list[str]:
    config = study.base("spelled")
    config.data.mine = fields
    config.family = "fusion" if "side" in fields else "gpt"
    config.model, config.recipe.batch = dict(model), 8
    config.cells.grid = study.block("grid", "mine", (0,), tokens=(28 * 8 * 4,))
    return [text for text in plan.make(study.resolve(config)).warnings if "special token" in text]


def test_sources_of_text_and_captions_say_so(tmp_path, tokenizer):
    path = write_parquet(tmp_path / "a.parquet", SPELLED)
    fields = {"source": "parquet", "path": str(path), "tokenizer": str(tokenizer)}
    found = data.remarks(data.load(fields))
    assert [(each.code, each.count, each.example) for each in found] == [("literals", 2, "a.parquet:0")]
    assert len(warned(fields, context=28)) == 1 and not warned({**fields, "specials": "text"}, context=28)
    captions = samples(60)
    captions[7]["txt"] = f"a sign that says {END}"
    tar = {"source": "webdataset", "path": str(write_tar(tmp_path / "a.tar", captions)), "side": SIDE}
    tar["tokenizer"] = str(tokenizer)
    assert "a.tar:00007" in warned(tar, patch=3, text=24)[0]
    whole = load("webdataset", tmp_path / "a.tar", side=SIDE, tokenizer=str(tokenizer), specials="text")
    tokens, mask = whole._text(np.array([7]), [whole.store.caption(7)], 60)
    assert (tokens[0, 1:] == whole.tokenizer.end).argmax() == mask.sum() - 1  # only the end is the end
    with refuses(Code.INVALID, "data.specials", "drop"):
        data.load({**fields, "specials": "drop"})
