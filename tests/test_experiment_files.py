"""Experiment files and what is asked of them before anything is trained."""

import json
import os
import sys

import pytest
from test_cli import EXPERIMENT, scaling
from test_cli import place as place


@pytest.mark.parametrize("out", ["folder", "file/recipe.json"])
def test_a_recipe_that_cannot_be_written_is_refused_before_the_sweep(place, out):
    code, _, err = scaling("tune", "--config=exp.py", f"--out={out}")
    assert code == 2 and err.count("\n") == 1 and f"out = {out}: " in err
    assert not (place / "runs").exists()


def test_an_edit_within_a_second_is_read(place, monkeypatch):
    """Bytecode, found by size and second of a file, would give the old cells."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for tokens in ("20", "30"):
        (place / "exp.py").write_text(EXPERIMENT.replace("20", tokens))
        os.utime(place / "exp.py", (1, 1))
        _, out, _ = scaling("plan", "--config=exp.py", "--json")
        assert json.loads(out)["cells"][0]["D"] == 48 * int(tokens)
    assert not (place / "__pycache__").exists()


@pytest.mark.parametrize(
    ("line", "head"),
    [
        ("del config.recipe", "config.recipe = nothing"),
        ("del config.cells", "config.cells = nothing"),
        ("config.model.width = 10**400", "model.width = 1000"),
        ("config.model.width = 10**5000", "model.width = a number of thousands of digits"),
        ("config.evaluation.tokens = 10**400", "config.evaluation.tokens = 1000"),
        ("config.cells.grid.tokens = (10**400,)", "cells.grid.tokens = 1000"),
        ("config.cells.grid.seeds = (10**5000,)", "cells.grid.seeds = a number of thousands of digits"),
    ],
)
def test_what_an_experiment_leaves_out_or_no_machine_can_count_is_one_line(place, line, head):
    (place / "mine.py").write_text(EXPERIMENT.replace("    return", f"    {line}\n    return"))
    code, _, err = scaling("plan", "--config=mine.py")
    assert code == 2 and err.startswith(f"scaling: error: {head}") and err.count("\n") == 1, err
