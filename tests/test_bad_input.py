"""What only shows when training begins, through the command line: one clear line, exit 2, nothing lost."""

from pathlib import Path

import pytest
from test_cli import EXPERIMENT, ROOT, scaling

from scaling.records import read_json, read_study, write_json

TEXT = """
from scaling import study

def get_config(argument=""):
    config = study.base("short")
    config.data.mine = {"source": "text", "path": "text"}
    config.model = {"width": 8, "layers": 1, "heads": 1, "context": 90000}
    config.cells = {"grid": study.block("grid", "mine", (0,), tokens=(1500000,))}
    return config
"""
# The study's own source, of which the third example has a mask that is no number.
NAN = """
import numpy as np
from scaling import run
from scaling.train import Interrupted, execute

class Damaged:
    def __init__(self, source):
        self.source = source

    def __getattr__(self, name):
        return getattr(self.source, name)

    def batch(self, indices, *, seed, context):
        mask = np.where((indices == 2)[:, None], np.nan, np.ones((1, context))).astype(np.float32)
        return {**self.source.batch(indices, seed=seed, context=context), "mask": mask}

load = run._source
run._source = lambda config: Damaged(load(config))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    (tmp_path / "short.py").write_text(TEXT)
    (tmp_path / "damaged.py").write_text(NAN)
    (tmp_path / "text").mkdir()
    for name in "abcdefghij":
        (tmp_path / "text" / f"{name}.txt").write_text(f"{name} word " * 1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "head"),
    [
        ("exp.py --config.mesh.data=8", "recipe.batch = 4"),
        ("exp.py --config.mesh.data=5", "evaluation.batch = 32"),
        ("exp.py --config.execution.microbatches=3", "execution.microbatches = 3"),
        ("exp.py --config.mesh.tensor=0", "mesh.tensor = 0"),
        ("exp.py --config.mesh.model=2", "config.mesh.model = 2"),
        ("exp.py --config.recipe.name=dream", "recipe.name = dream"),
        ("exp.py --config.checkpoints=ftp://a/b", "config.checkpoints = ftp://a/b"),
        ("exp.py --config.keep_last=0", "config.keep_last = 0"),
        ("short.py", "model.context = 90000"),
    ],
)
def test_what_a_plan_can_see_is_refused_there(place, arguments, head):
    code, out, err = scaling("plan", *f"--config={arguments}".split())
    assert code == 2 and out == "" and err.startswith(f"scaling: error: {head}: ") and err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("field", "head"),
    [("mesh.data=4", "mesh = data 4"), ("execution.attention=cudnn", "execution.attention = cudnn")],
)
def test_what_this_machine_lacks_blames_no_run(place, field, head):
    code, _, err = scaling("run", "--config=exp.py", "--workdir=w", "--workers=1", f"--config.{field}")
    assert code == 2 and err.splitlines()[-1].startswith(f"scaling: error: {head}: "), err
    assert not list((place / "w").glob("runs/*/result.json"))


def test_numbers_of_the_data_that_are_none_reject_the_run(place):
    code, _, err = scaling("run", "--config=exp.py", "--workdir=w", "--workers=1", "--execute=damaged:execute")
    line = next(line for line in err.splitlines() if line.startswith("rejected: "))
    assert code == 2 and "data.mask = nan: " in line


@pytest.mark.system
def test_a_checkpoint_of_another_configuration_and_one_that_was_cut_short(place):
    """The first is refused and left as it is; after the second the run falls back, and says so."""
    plan = ("run", "--config=exp.py", "--workdir=w", "--workers=1", "--config.cells.grid.seeds=(0, 1)")
    assert scaling(*plan, "--execute=nothing:at_all")[0] != 0  # writes the plan, and trains nothing
    stems = [program.program for program in read_study(place / "w").programs]
    foreign, torn = (place / "w" / "runs" / stem / "checkpoints" for stem in stems)
    write_json(foreign / "10.json", {"step": 10, "leaves": {"['params']['other']": "0"}})
    (foreign / "10").mkdir()
    (torn / "10").mkdir(parents=True)
    (torn / "10.json").write_text('{"step": 10, "lea')
    code, _, err = scaling("run", "--workdir=w", "--workers=1")
    assert code == 2, err
    rejected = next(line for line in err.splitlines() if line.startswith("rejected: "))
    assert (
        rejected.startswith(f"rejected: {stems[0]} ") and "is of another configuration; use another workdir" in rejected
    )
    warning = next(line for line in err.splitlines() if line.startswith("warning: "))
    assert (
        warning.startswith(f"warning: {stems[1]}: checkpoint 10: sidecar unreadable ")
        and "using an older one" in warning
    )
    assert read_json(place / "w" / "runs" / stems[1] / "result.json")["status"] == "done"
    assert (foreign / "10").is_dir() and (foreign / "10.json").is_file()
