"""What the other verbs say of a folder of logs, and of one that is no study."""

import shutil
from pathlib import Path

import pytest
from refusals import refuses
from test_import import LOGS, shell, write

import analysis
from scaling.errors import Code


@pytest.mark.parametrize("command", ["fit", "report", "plot", "predict", "next --target=a", "compare"])
def test_each_verb_points_at_import_of_a_folder(command: str, tmp_path: Path):
    shutil.copytree(LOGS / "keras", tmp_path / "logs")
    verb, *flags = command.split()
    code, out, err = shell(verb, tmp_path / "logs", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and "scaling import" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["logs", "training.log"]


def test_another_mistake_is_said_before_the_hint(tmp_path: Path):
    path = write(tmp_path / "metrics.csv", "epoch,step,val_loss,N,D\n0,9,3.5,1e6,1e8\n0,19,3.2,1e6,2e8\n")
    with refuses(Code.MISSING, "columns", "loss=val"):
        analysis.load(path, columns={"loss": "val"})
    with refuses(Code.MISSING, "n"):
        analysis.load(path, n="nonembeding")


@pytest.mark.parametrize("verb", ["status", "verify", "cancel"])
def test_a_folder_without_a_study_is_not_told_to_be_planned(verb: str, tmp_path: Path):
    code, out, err = shell(verb, tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1) and "--config" not in err and "work directory of a study" in err
    code, _, err = shell("run", f"--workdir={tmp_path}")
    assert code == 2 and "--config" in err and not list(tmp_path.iterdir())
