"""Logs as `scaling import` may find them: packed, in other encodings, cut off, larger than what is kept of them."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis.table import importers
from analysis.table.importers import Told
from scaling import cli
from scaling.errors import Code, UserError

TEXT = "step,loss\n" + "".join(f"{s},{5 - s / 1000}\n" for s in range(1, 1001))
PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKED)
def test_packed_logs(ending: str, tmp_path: Path):
    path = tmp_path / f"mine.csv.{ending}"
    packed = PACKED[ending](TEXT.encode())
    path.write_bytes(packed)
    made = importers.read([path], Told())
    assert (made.table["run"].iloc[0], made.table["step"].iloc[0]) == ("mine", 1000)
    path.write_bytes(packed[: len(packed) - 12])
    with refuses(Code.DAMAGED, "path", path):
        importers.read([path], Told())


LOGS = Path(__file__).parent / "fixtures" / "logs"
TOLD = {
    "d8.log": {"N": "params_total"},
    "printed.log": {"step": "epoch"},
    "run-abc12345.wandb": {"loss": "train/loss"},
    "runs.csv": {"loss": "val/loss"},
}
CUT = {"truncated", "damaged", "unended"}


def left(made: importers.Imported) -> dict[str, int]:
    return {one.why: one.count for one in made.left}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_log_in_pieces_or_damaged_is_read_as_far_as_it_goes(tmp_path: Path):
    (path,) = (LOGS / "tensorboard/simple").iterdir()
    cut = tmp_path / path.name
    cut.write_bytes(path.read_bytes()[:-30])
    made = importers.read([cut], Told())
    assert left(made) == {"truncated": 1} and made.table["step"].iloc[0] == 150
    data = (LOGS / "wandb/run-abc12345.wandb").read_bytes()
    (tmp_path / "w.wandb").write_bytes(data[: len(data) // 2])
    assert left(importers.read([tmp_path / "w.wandb"], Told(columns={"loss": "train/loss"})))["truncated"] == 1
    text = (LOGS / "maxtext/metrics.jsonl").read_text().splitlines()
    torn = write(tmp_path / "m.jsonl", "\n".join([*text[:-1], text[-1][:40]]))
    assert left(importers.read([torn], Told())) == {"truncated": 1}
    torn = write(tmp_path / "m.jsonl", "\n".join([*text[:2], text[2][:40], *text[3:]]))  # whole, its last line open
    assert left(importers.read([torn], Told())) == {"damaged": 1}
    torn = write(tmp_path / "m.csv", "epoch,step,val_loss\n0,9,3.5\n0,19,3.2\n0,2")
    assert left(importers.read([torn], Told())) == {"truncated": 1}


@pytest.mark.parametrize("log", [log for log in sorted(LOGS.rglob("*.*")) if "version" not in log.name], ids=str)
def test_a_file_that_is_cut_is_said_to_be(log: Path, tmp_path: Path):
    """Wherever it is cut but between two lines or records: it is refused, or what cannot be read is counted."""
    if log.name in ("make.py", "written_by.json") or log.is_dir():
        return
    data, told = log.read_bytes(), Told(columns=TOLD.get(log.name, {}))
    before, read = {left.why for left in importers.read([log], told).left}, 0
    for share in (0.3, 0.5, 0.7, 0.9, 0.97):
        end = int(share * len(data))
        while b"\n" in data[end - 2 : end + 1]:
            end += 1
        (tmp_path / log.name).write_bytes(data[:end])
        try:
            made = importers.read([tmp_path / log.name], told)
        except UserError as error:
            assert error.code in (Code.DAMAGED, Code.UNSUPPORTED), error
            continue
        assert {left.why for left in made.left} & CUT - before, (share, made.left)
        read += 1
    assert read or data.count(b"\n") == 1 or log.suffix == ".json"  # a JSON value is whole or none


def test_a_number_that_is_cut_is_no_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A printed log ends its lines; of a table, which may be typed, the row counts and the cut is said."""
    for name, text in (("train.log", "step 5: train loss 4.1, val loss 4.25\n"), ("llmc.log", "s:5 tel:4.25\n")):
        (tmp_path / name).write_text(text + text.replace("5", "9", 1).rstrip("5\n"))
        made = importers.read([tmp_path / name], Told())
        assert made.table["loss"].tolist() == [4.25] and left(made) == {"truncated": 1}
        assert made.left[0].first == f"{name}, line 2"
    for text, why in ((TEXT, []), (TEXT[:-2], ["unended"])):
        (tmp_path / "mine.csv").write_text(text)
        made = importers.read([tmp_path / "mine.csv"], Told())
        assert made.table["step"].tolist() == [1000] and [one.why for one in made.left] == why
        command = ["import", str(tmp_path / "mine.csv"), f"--out={tmp_path / 'out.csv'}"]
        assert cli.main([*command, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert [one["why"] for one in said["kept"]] == why and said["left_out"] == []
        assert cli.main(command) == 0 and ("kept: 1" in capsys.readouterr().out) == bool(why)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_with_a_mark(encoding: str, tmp_path: Path):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "mine.csv").write_bytes((mark + TEXT).encode(encoding))
    assert importers.read([tmp_path / "mine.csv"], Told()).table["step"].iloc[0] == 1000


@pytest.mark.parametrize(
    "text", [TEXT.replace(",", ";"), TEXT.replace(",", "\t"), "sep=;\n" + TEXT.replace(",", ";"), "\n" + TEXT]
)
def test_separators(text: str, tmp_path: Path):
    (tmp_path / "mine.csv").write_text(text)
    assert importers.read([tmp_path / "mine.csv"], Told()).table["loss"].iloc[0] == 4.0


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("analysis.table.importers.source.LONGEST", 4096)
    (tmp_path / "long.csv").write_text(TEXT + "1001," + "9" * 5000)
    with refuses(Code.DAMAGED, "path"):
        importers.read([tmp_path / "long.csv"], Told())
    (tmp_path / "long.json").write_text('{"log_history": [' + ", ".join(['{"step": 1, "loss": 3.0}'] * 400) + "]}")
    with refuses(Code.DAMAGED, "path"):
        importers.read([tmp_path / "long.json"], Told())


def test_a_log_that_begins_with_a_program_is_recognised(tmp_path: Path):
    (tmp_path / "run.txt").write_text("import torch\n" * 10_000 + "step:5/10 val_loss:3.5 train_time:9ms\n")
    made = importers.read([tmp_path / "run.txt"], Told())
    assert made.kind == "nanogpt" and made.table["loss"].iloc[0] == 3.5


def test_a_chart_without_runs_is_refused(tmp_path: Path):
    (tmp_path / "log.csv").write_text("step,loss\n1,3\n")
    with refuses(Code.DAMAGED, "path"):
        importers.read([tmp_path / "log.csv"], Told(), "wandb_chart")


def test_a_file_of_a_folder_without_losses_is_counted(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"step": 0, "learning/loss": 3.0}\n{"step": 9, "learning/loss": 2.0}\n')
    (tmp_path / "b.jsonl").write_text('{"learning/loss": 3.0}\n{"learning/loss": 2.0}\n')
    made = importers.read([tmp_path], Told())
    assert made.files == 1 and left(made) == {"no_step": 2, "other": 1}
    with refuses(Code.MISSING, "path", tmp_path / "b.jsonl"):
        importers.read([tmp_path / "b.jsonl"], Told())


def test_fit_points_at_import_of_an_excel_table(tmp_path: Path):
    frame = pd.DataFrame({"N": [1e6, 2e6], "D": [1e8, 1e8], "loss": [3.0, 2.9]})
    frame.to_excel(tmp_path / "runs.xlsx", index=False)
    with refuses(Code.UNSUPPORTED, "path", tmp_path / "runs.xlsx") as caught:
        analysis.load(tmp_path / "runs.xlsx")
    assert "scaling import" in caught.value.remedy


def test_a_title_above_a_table_in_excel_is_none_of_its_rows(tmp_path: Path):
    frame = pd.DataFrame({"N": [1e6, 2e6], "D": [1e8, 1e8], "loss": [3.0, 2.9]})
    with pd.ExcelWriter(tmp_path / "titled.xlsx") as book:
        frame.to_excel(book, index=False, startrow=3)
        book.sheets["Sheet1"].cell(1, 2, "Our runs of May")
    made = importers.read([tmp_path / "titled.xlsx"], Told())
    assert made.kind == "runs" and made.table["loss"].tolist() == [3.0, 2.9]


@pytest.mark.parametrize("kind", importers.importers())
def test_a_long_line_is_read_in_time_that_grows_with_it(kind: str, tmp_path: Path):
    """A pattern that tried every start of a line of 400 kB would not come back within the suite."""
    line = "[1] logging_writer.py:48] [1] a=" + "Train x" * 50_000 + "[" * 50_000
    (tmp_path / "long.log").write_text(line + "\n")
    with pytest.raises(UserError):
        importers.read([tmp_path / "long.log"], Told(), kind)
