"""CONTRIBUTING.md: the file of every recipe, put in place in a copy of the packages, is found and works."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# The path on a line of its own, then the file's code.
FILES = dict(re.findall(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
RECIPES = {"A family", "A law", "A source", "An engine", "An importer", "A verb"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, and of the battery of laws, with the files of the page and nothing else changed."""
    place = tmp_path_factory.mktemp("house")
    for name in ("scaling", "analysis"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "tests").mkdir()
    for name in ("law_tables.py", "refusals.py", "selection.py", "test_laws.py"):
        shutil.copy(ROOT / "tests" / name, place / "tests")
    for path, code in FILES.items():
        assert not (place / path).exists(), path
        (place / path).write_text(code)
    return place


def run(house: Path, *command: str, cwd: Path | None = None) -> str:
    """Standard output of Python with these arguments, in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(house), "JAX_PLATFORMS": "cpu"}
    whole = [sys.executable, "-P", *command]
    done = subprocess.run(whole, cwd=cwd or house, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def scaling(house: Path, *arguments: str, cwd: Path | None = None) -> str:
    return run(house, "-c", "import sys; from scaling.cli import main; sys.exit(main())", *arguments, cwd=cwd)


def test_every_recipe_is_one_file():
    sections = set(re.findall(r"^## (An? .*)$", PAGE, re.MULTILINE))
    assert sections == RECIPES
    assert len(FILES) == len(RECIPES) - 1  # that of a family is scaling/families/README.md, which has a test of its own
    assert (ROOT / "scaling" / "families" / "README.md").exists()
    for code in FILES.values():
        assert code.startswith('"""') and max(map(len, code.splitlines())) <= 120


def test_the_files_pass_the_linter(house: Path):
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "check", "--no-cache", f"--config={ROOT / 'pyproject.toml'}", *FILES]
    done = subprocess.run(command, cwd=house, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_law(house: Path, tmp_path: Path):
    assert "M3 of Alabdulmohsin 2022" in scaling(house, "laws")
    c = np.geomspace(1e6, 1e10, 40)
    rng = np.random.default_rng(0)
    loss = 400 * (1 / c + 1e-8) ** 0.3 * np.exp(0.002 * rng.standard_normal(40))
    rows = "\n".join(f"{x},{y}" for x, y in zip(c, loss))
    (tmp_path / "runs.csv").write_text(f"C,loss\n{rows}\n")
    card = json.loads(scaling(house, "fit", str(tmp_path / "runs.csv"), "--law=shifted:C", "--json"))
    for name, true in (("x0", 1e8), ("a", 0.3)):
        cell = card["params"][name]
        assert cell["lo"] < true < cell["hi"] and cell["value"] == pytest.approx(true, rel=0.05)


@pytest.mark.system  # a minute on a busy machine
def test_a_law_passes_the_battery(house: Path):
    run(house, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(house / "tests" / "test_laws.py"), "-k", "shifted")


SOURCE = """
import json, sys
import numpy as np
from scaling import data
source = data.load({"source": "gz", "path": sys.argv[1]})
one, two = (source.batch(np.arange(6), seed=3, context=32)["tokens"] for _ in range(2))
assert (one == two).all() and one.shape == (6, 33)
assert (source.batch(np.array([4]), seed=3, context=32)["tokens"][0] == one[4]).all()
held = source.evaluation(32)
assert held["documents"] and len(held["tokens"]) > 0
print(json.dumps(source.describe()))
"""
STUDY = """
from scaling import study

def get_config(argument=""):
    config = study.base("gz")
    config.data.books = {"source": "gz", "path": "books"}
    config.model.context = 32
    config.cells.grid = study.block("grid", "books", (0,), tokens=(32 * 64,))
    return config
"""


def test_a_source(house: Path, tmp_path: Path):
    books = tmp_path / "books"
    books.mkdir()
    for i in range(100):
        text = f"This is text {i} of a hundred. " * 30
        (books / f"{i}.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    about = json.loads(run(house, "-c", SOURCE, str(books)))
    assert about["source"] == "gz" and about["unique_tokens"] < about["bytes"]
    (tmp_path / "mine.py").write_text(STUDY)
    made = json.loads(scaling(house, "plan", "--config=mine.py", "--json", cwd=tmp_path))
    assert len(made["cells"]) == 1


TINY = """
from scaling import study

def get_config(argument=""):
    config = study.base("tiny")
    config.data.known = {"source": "zipf", "base": 4, "targets": 8}
    config.model = {"width": 8, "layers": 1, "heads": 1, "context": 12}
    config.recipe = {"batch": 4, "warmup_steps": 4}
    config.evaluation = {"tokens": 1024, "batch": 32}
    config.cells.grid = study.block("grid", "known", (0,), tokens=(48 * 30,))
    return config
"""


@pytest.mark.system  # it trains a run
def test_an_engine(house: Path, tmp_path: Path):
    assert "--niceness=INTEGER" in scaling(house, "run", "--engine=background", "--help")
    (tmp_path / "tiny.py").write_text(TINY)
    study = ("--config=tiny.py", "--workdir=w")
    status = json.loads(scaling(house, "run", *study, "--engine=background", "--json", cwd=tmp_path))
    assert status["counts"]["done"] == status["counts"]["total"] >= 1
    again = scaling(house, "run", *study, "--engine=background", cwd=tmp_path)
    assert again.startswith("nothing to do")


def test_an_importer(house: Path, tmp_path: Path):
    lines = [
        f"[rank0]:[titan] 2026-01-01 - root - INFO - step: {s:2}  loss:  {9 - s / 10:.4f}  grad_norm:  1.0"
        for s in (1, 10)
    ]
    (tmp_path / "train.log").write_text("starting\n" + "\n".join(lines) + "\n")
    told = ("--set=N=31M,tokens_per_step=512*1024", "--out=runs.csv", "--json")
    made = json.loads(scaling(house, "import", "train.log", *told, cwd=tmp_path))
    assert made["from"] == "torchtitan" and made["lacking"] == []
    assert (tmp_path / "runs.csv").read_text().splitlines()[1:] == [f"{tmp_path.name},31000000.0,5242880.0,10.0,8.0"]


def test_a_verb(house: Path):
    assert "cite" in scaling(house, "--help")
    assert "example: scaling cite gadre" in scaling(house, "cite", "--help")
    assert "2403.08540" in scaling(house, "cite", "gadre")
    assert json.loads(scaling(house, "cite", "porian", "--json"))["licence"] == "MIT"
