import json
import multiprocessing
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.records import Record, canonical, identity, read_json, records, write_atomic, write_json


def test_identity_is_of_the_content_not_of_its_writing():
    assert identity({"a": 1, "b": [1.5, "x"]}) == identity({"b": [1.5, "x"], "a": 1})
    assert identity({"a": 1}) != identity({"a": 2})
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})


def test_a_torn_line_is_ended_and_the_last_row_of_a_step_counts(tmp_path: Path):
    record = Record(tmp_path)
    record.append([{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 30, "lo')  # a crash in the middle of a write
    record.append([{"step": 20, "loss": 2.5}, {"event": "start"}])
    assert [row["loss"] for row in record.steps()] == [3.0, 2.5]
    assert record.events("start") == [{"event": "start"}]


def test_a_manifest_stays_and_a_result_ends(tmp_path: Path):
    record = Record(tmp_path / "runs" / "a")
    record.begin({"run": "a"})
    record.begin({"run": "b"})
    assert record.manifest == {"run": "a"}
    assert record.status == "unfinished" and record.result is None
    record.finish({"status": "done", "reason": None})
    assert record.status == "done"
    assert [found.path.name for found in records(tmp_path)] == ["a"]
    assert records(tmp_path / "absent") == []


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
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "below", "x")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_json(tmp_path / "bad.json")
    assert "\n" not in str(UserError("field", "a\nb", "c\nd"))


def test_the_schema_is_a_schema():
    import jsonschema

    schema = json.loads((Path(__file__).parents[1] / "scaling" / "records" / "record.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
