"""The wheel: which names it claims, what it holds, and that it works from another directory than the repository."""

import email
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import scaling
from analysis import reference

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built by its backend."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_claims_two_names(files: set[str]):
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"scaling", "analysis"}


def test_every_file_of_the_packages_is_in_the_wheel(files: set[str]):
    for package in ("scaling", "analysis"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in files
    assert {"scaling/py.typed", "analysis/py.typed", "scaling/records/record.schema.json"} <= files
    for name in reference.names():
        assert {f"analysis/reference/{name}.toml", f"analysis/reference/{reference.path(name).name}"} <= files


def test_experiments_are_inside_and_figures_are_not(wheel: Path, files: set[str]):
    names = {path.name for path in (ROOT / "experiments").glob("*.py")}
    assert {name.removeprefix("scaling/_experiments/") for name in files if "_experiments/" in name} == names
    assert wheel.stat().st_size < 3e6


def test_licence_and_version(wheel: Path, files: set[str]):
    folder = next(name.split("/")[0] for name in files if ".dist-info/" in name)
    with zipfile.ZipFile(wheel) as archive:
        about = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        text = archive.read(f"{folder}/licenses/LICENSE").decode()
    assert about["Version"] == scaling.__version__
    licences = {reference.source(name).licence for name in reference.names()} | {"Apache-2.0"}
    assert set(about["License-Expression"].split(" AND ")) == licences
    assert "Apache License" in text and "The scaling-lab authors" in text
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [scaling.__version__]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    """Output of the shell command as the entry point starts it: without the current directory in the path."""
    code = f"import sys, scaling.cli as cli; assert cli.__file__.startswith({str(installed)!r}); sys.exit(cli.main())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_finds_its_experiments_beside_folders_of_the_same_names(installed: Path, tmp_path: Path):
    for name in ("analysis", "scaling", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the folder of a user')")
    made = json.loads(run(installed, tmp_path, "plan", "--config=demo:smoke", "--json"))
    assert made["cells"]


def test_the_wheel_fits_published_runs(installed: Path, tmp_path: Path):
    assert "growth:C" in run(installed, tmp_path, "fit", "reference:porian_optima")
