import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import handmade
import msgspec
import pytest
from refusals import refuses

from scaling.errors import Code, UserError
from scaling.records import (
    Manifest,
    Record,
    canonical,
    identity,
    read_json,
    read_study,
    read_typed,
    records,
    schema,
    write_atomic,
    write_json,
)
from scaling.records.typed import reading_once
from scaling.records.types import RetryRow, StepRow


def test_identity_is_of_the_content_not_of_its_writing():
    assert identity({"a": 1, "b": [1.5, "x"]}) == identity({"b": [1.5, "x"], "a": 1})
    assert identity({"a": 1}) != identity({"a": 2})
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})


def step(number: int, loss: float) -> StepRow:
    return StepRow(step=number, loss=loss, norm=1.0, learning_rate=0.1, tokens=number, seconds=1.0)


def test_a_torn_line_is_ended_and_the_last_row_of_a_step_counts(tmp_path: Path):
    record = Record(tmp_path)
    record.append(step(10, 3.0), step(20, 2.0))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"event": "step", "step": 30, "lo')  # a crash in the middle of a write
    record.append(step(20, 2.5), RetryRow(time="now"))
    assert [row.loss for row in record.steps()] == [3.0, 2.5]
    assert record.events(RetryRow) == [RetryRow(time="now")]
    with pytest.raises(ValueError):
        record.append(step(30, float("nan")))


def test_a_manifest_stays_and_a_result_ends(tmp_path: Path):
    record = Record(tmp_path / "runs" / "a")
    first = handmade.manifest("a")
    record.begin(first)
    record.begin(handmade.manifest("b"))
    assert record.manifest == first
    assert record.status == "unfinished" and record.result is None
    ended = handmade.result(2.5)
    record.finish(ended)
    assert record.status == "done" and record.result == ended
    assert [found.path.name for found in records(tmp_path)] == ["a"]
    assert records(tmp_path / "absent") == []


def test_records_are_immutable():
    made: Any = handmade.manifest("a")
    with pytest.raises(AttributeError):
        made.run = "b"


@pytest.mark.parametrize(
    "change",
    [
        {"headline": "accuracy"},  # is no term
        {"kind": "branch"},  # of no stem
        {"run": "../elsewhere"},
        {"run": ".."},
        {"identity": "xyz"},
        {"size": -1},
        {"role": "judge"},
        {"steps": 10.5},
        {"schema": 1},
        {"colour": "red"},
        {"terms": {"loss": "nats/token"}},
    ],
)
def test_a_manifest_that_cannot_be_is_damaged(tmp_path: Path, change):
    path = tmp_path / "manifest.json"
    write_json(path, {**msgspec.to_builtins(handmade.manifest("a")), **change})
    with refuses(Code.DAMAGED, "file", path):
        read_typed(path, Manifest)
    good = msgspec.to_builtins(handmade.manifest("a"))
    for name in {"seed", "tokens", "config"} - set(change):
        write_json(path, {key: value for key, value in good.items() if key != name})
        with refuses(Code.DAMAGED, "file", path) as caught:
            read_typed(path, Manifest)
        assert name in str(caught.value)


DAMAGE = {
    "empty": b"",
    "truncated": b'{"run": "a',
    "no_utf8": b'{"run": "\xff"}',
    "latin": b"\xff\xfe",
    "list": b"[1, 2]",
    "number": b"3",
    "null": b"null",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep_field": b'{"config": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_001,
    "huge_integer": b'{"seed": ' + b"1" * 5_000 + b"}",
    "nan": b'{"seed": NaN}',
    "long_value": b'{"role": "' + b"x" * 2_000_000 + b'"}',
}


@pytest.mark.parametrize("name", [*DAMAGE, "directory", "loop", "below_a_file"])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name):
    path = tmp_path / "file.json"
    if name == "directory":
        path.mkdir()
    elif name == "loop":
        path.symlink_to(path)
    elif name == "below_a_file":
        (tmp_path / "plain").write_text("")
        path = tmp_path / "plain" / "file.json"
    else:
        path.write_bytes(DAMAGE[name])
    readers = [lambda: read_typed(path, Manifest, remedy="mend it")]
    if name in ("empty", "truncated", "no_utf8", "latin", "deep", "huge_integer", "directory", "loop", "below_a_file"):
        readers.append(lambda: read_json(path))
    for read in readers:
        with refuses(Code.DAMAGED, "file", path) as caught:
            read()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_missing_file_is_the_callers_to_name(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_typed(tmp_path / "none.json", Manifest)
    with refuses(Code.MISSING, "workdir"):
        read_study(tmp_path)


def test_a_damaged_row_is_named_by_its_line(tmp_path: Path):
    record = Record(tmp_path)
    record.append(step(1, 3.0))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "step": "two"}\n')
    with refuses(Code.DAMAGED, "file", tmp_path / "metrics.jsonl") as caught:
        record.steps()
    assert "line 2" in str(caught.value)


def _write_many(path: str) -> None:
    for index in range(200):
        write_json(path, {"index": index, "fill": "x" * 5000})


def test_a_reader_never_sees_a_part(tmp_path: Path):
    path = tmp_path / "file.json"
    write_json(path, {"index": -1, "fill": ""})
    process = multiprocessing.get_context("spawn").Process(target=_write_many, args=(str(path),))
    process.start()
    while process.is_alive():
        assert set(read_json(path)) == {"index", "fill"}
    process.join()
    assert read_json(path)["index"] == 199
    assert [left.name for left in tmp_path.iterdir()] == ["file.json"]


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with refuses(Code.ENVIRONMENT, "path"):
        write_atomic(tmp_path / "file" / "below", "x")
    assert "\n" not in str(UserError("field", "a\nb", "c\nd"))


def test_the_committed_schema_is_that_of_the_types():
    """After a change of the types: python -m scaling.records.schema."""
    import jsonschema

    made = schema.json_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    assert read_json(schema.FILE) == json.loads(json.dumps(made))
    for name, value in (("manifest.json", handmade.manifest("a")), ("result.json", handmade.result(2.0))):
        jsonschema.validate(json.loads(canonical(value)), {**made, **made["properties"][name]})


def test_ten_thousand_records_load_quickly(tmp_path: Path):
    handmade.write(tmp_path, handmade.manifest("a"), handmade.result(2.0))
    record, begun = Record(tmp_path / "runs" / "a"), time.process_time()
    for _ in range(1000):
        assert record.manifest.headline == "loss" and record.result is not None
    assert time.process_time() - begun < 1.0  # a tenth of that where nobody else is at work


def test_within_a_block_a_file_is_read_once_and_after_it_again(tmp_path):
    record = handmade.write(tmp_path, handmade.manifest("run"))
    with reading_once():
        first = record.manifest
        (record.path / "manifest.json").write_text("{")
        assert record.manifest is first and record.result is None
        record.finish(handmade.result(2.0))
        assert record.result == handmade.result(2.0)  # what was missing is looked for again
    with refuses(Code.DAMAGED, "file"):
        _ = record.manifest
