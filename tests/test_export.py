"""`scaling export`: trackers and tables from records, once each, and never what is sealed."""

import contextlib
import io
import json
from pathlib import Path

import handmade
import pandas as pd
import pytest

import analysis
from analysis.table import importers
from analysis.table.importers import Told
from scaling import cli
from scaling.records import Record, write_study
from scaling.records.types import StepRow

EVERY, LAST = 4, 16


def shell(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def exported(*arguments: object) -> dict[str, int]:
    code, out, err = shell("export", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def train(record: Record, first: int, last: int) -> None:
    rows = range(first, last + 1, EVERY)
    record.append(
        *[StepRow(step=s, loss=4 - s / 100, norm=1.0, learning_rate=0.01, tokens=s * 1024, seconds=1.0) for s in rows]
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A finished run, one that trains, and a held-out one without a sealed forecast."""
    place = tmp_path / "work"
    for i, (role, ended) in enumerate((("fit", True), ("fit", False), ("holdout", True))):
        about = handmade.manifest(f"r{i}", n=1000 * 2**i, d=LAST * 1024, role=role)
        result = handmade.result(3.0 - 0.1 * i, steps=LAST, tokens=LAST * 1024) if ended else None
        train(handmade.write(place, about, result), EVERY, LAST)
    return place


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_tables_are_fitted_as_the_records_are(work: Path, to: str):
    assert exported(work, f"--to={to}")["sealed"] == 1
    folder = work / "export" / to
    read = analysis.load(folder / f"runs.{to}").table
    direct = analysis.load(work).table
    for name in ("N", "D", "C", "loss"):
        assert list(read[name]) == list(direct[name])
    steps = pd.read_csv(folder / "steps.csv") if to == "csv" else pd.read_parquet(folder / "steps.parquet")
    assert list(steps["run"].unique()) == ["r0", "r1"] and len(steps) == 8
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert exported(work, f"--to={to}")["files"] == []
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_flops_of_a_large_model_are_more_than_an_integer_of_parquet_holds(tmp_path: Path):
    flops = []
    for i in (1, 2):
        about = handmade.manifest(f"r{i}", n=i * 10**9, d=3 * 10**9)
        handmade.write(tmp_path, about, handmade.result(3.0 - 0.1 * i))
        flops.append(about.flops.training)
    assert exported(tmp_path, "--to=parquet")["runs"] == 2
    assert list(pd.read_parquet(tmp_path / "export/parquet/runs.parquet")["C"]) == flops and min(flops) > 2**64


@pytest.mark.parametrize("to", ["tensorboard", "wandb"])
def test_a_tracker_is_given_each_step_once(work: Path, to: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    count = exported(work, f"--to={to}")
    assert (count["runs"], count["steps"], count["results"], count["sealed"]) == (2, 8, 1, 1)
    again = exported(work, f"--to={to}")
    assert (again["runs"], again["steps"], again["results"]) == (0, 0, 0)
    train(Record(work / "runs/r1"), LAST + EVERY, LAST + 2 * EVERY)
    more = exported(work, f"--to={to}")
    assert (more["runs"], more["steps"]) == (1, 2)
    kind = {"tensorboard": "tensorboard", "wandb": "wandb_file"}[to]
    told = Told(columns={"loss": "train/loss"}, points="all")
    table = importers.read([work / "export" / to], told, kind).table
    of = {str(run): list(rows["step"]) for run, rows in table.groupby("run")}
    assert of == {"r0": [4, 8, 12, 16], "r1": [4, 8, 12, 16, 20, 24]}
    assert list(table["D"]) == [step * 1024 for step in table["step"]]
    final = importers.read([work / "export" / to], Told(columns={"loss": "eval/loss"}), kind).table
    assert list(final["run"]) == ["r0"] and final["loss"].iloc[0] == pytest.approx(3.0)


def test_it_follows_until_every_run_has_a_result(work: Path, monkeypatch: pytest.MonkeyPatch):
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:
            return  # nothing has changed, so nothing is printed
        about = Record(work / "runs/r1")
        train(about, LAST + EVERY, LAST + EVERY)
        about.finish(handmade.result(2.9, steps=LAST + EVERY, tokens=1))

    monkeypatch.setattr("time.sleep", sleep)
    code, out, _ = shell("export", work, "--to=csv", "--follow", "--every=0.5")
    assert code == 0 and looks == [0.5, 0.5] and len(out.splitlines()) == 5 and "Ctrl-C" in out
    assert list(pd.read_csv(work / "export/csv/runs.csv")["run"]) == ["r0", "r1"]


def test_it_does_not_wait_for_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It waited for ever: a failed run has no loss, and its record no result until it is trained again."""
    workdir = tmp_path / "work"
    about = [handmade.manifest(f"r{i}", n=1000, d=LAST * 1024) for i in range(2)]
    write_study(workdir, handmade.study(*map(handmade.program, about)))
    failed = handmade.result(status="failed", reason="FloatingPointError")
    train(handmade.write(workdir, about[0], handmade.result(3.0, steps=LAST, tokens=LAST * 1024)), EVERY, LAST)
    handmade.write(workdir, about[1], failed)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    code, out, _ = shell("export", workdir, "--to=csv", "--follow")
    assert code == 0 and "retry_failed" in out


def test_wrong_input_is_one_line(work: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for wrong in (
        (work,),
        (work, "--to=csw"),
        (work, "--to=csv", "--every=0"),
        (work, "--to=csv", "--every=nan"),
        (tmp_path / "empty", "--to=csv"),
        (tmp_path / "file", "--to=csv"),
        (work, "--to=csv", f"--out={tmp_path / 'file'}"),
    ):
        code, out, err = shell("export", *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not (work / "export").exists()
    state = work / "export/tensorboard/exported.json"
    state.parent.mkdir(parents=True)
    state.write_text("{")
    assert shell("export", work, "--to=tensorboard")[0] == 2


@pytest.mark.parametrize(
    ("to", "module", "extra"),
    [("parquet", "pyarrow", "data"), ("tensorboard", "tensorboard", "trackers"), ("wandb", "wandb", "trackers")],
)
def test_an_absent_extra_is_one_line_and_leaves_no_folder(
    to: str, module: str, extra: str, work: Path, monkeypatch: pytest.MonkeyPatch
):
    import importlib

    real = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=module)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    code, out, err = shell("export", work, f"--to={to}")
    assert (code, out, err.count("\n")) == (2, "", 1) and f"pip install 'scaling-lab[{extra}]'" in err
    assert not (work / "export").exists()


def test_the_command_of_the_docs(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shlex

    Record(work / "runs/r1").finish(handmade.result(2.9, steps=LAST, tokens=1))
    (tmp_path / "runs").mkdir()
    work.rename(tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[1] / "docs" / "how-to" / "logs.md"
    lines = [line.strip() for line in page.read_text().splitlines()]
    (command,) = [shlex.split(line, comments=True) for line in lines if line.startswith("scaling export ")]
    code, out, err = shell(*command[1:])
    assert code == 0 and "8 steps" in out, err
