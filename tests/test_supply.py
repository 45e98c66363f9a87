"""A family that asks for what a source does not supply: one clear line and exit 2, before anything is trained."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses
from test_cli import scaling
from test_own_sources import samples, write_tar
from test_prepare import texts, write_parquet, write_records

from scaling import data, families, plan, study
from scaling.data import _documents, _prepare, _tokenizer
from scaling.errors import Code

SOURCES = data.names()
CASES = [
    (name, objective) for name in families.names() for objective in getattr(families.load(name), "OBJECTIVES", ("",))
]
FILE = """
from scaling import study

def get_config(argument=""):
    config = study.base("supply")
    config.family, config.model, config.data.mine = {family!r}, {model!r}, {source!r}
    config.cells.grid = study.block("grid", "mine", (0,), tokens=(4096,))
    return config
"""


@pytest.fixture(scope="module")
def supplied(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], Any]]:
    """``supplied(name)``: the configuration of a source and what it loads, of files from small ones.

    The test is skipped where the library that writes them is not installed.
    """
    folder = tmp_path_factory.mktemp("sources")
    np.random.default_rng(0).integers(0, 50, 200_000).astype("<u2").tofile(folder / "train.bin")
    for i in range(4):
        (folder / f"{i}.txt").write_text(f"the words of file {i} " * 1000)
    _prepare.prepare(_prepare.Job(_documents.inputs([str(folder)]), folder / "prepared", _tokenizer.load("bytes")))
    fields: dict[str, dict[str, Any]] = {
        "text": {"path": folder},
        "bin": {"path": folder, "vocab": 50},
        "prepared": {"path": folder / "prepared"},
        "webdataset": {"path": folder / "a.tar", "side": 32, "classes": 7},
        "parquet": {"path": folder / "a.parquet"},
        "arrayrecord": {"path": folder / "a.array_record"},
    }
    writers: dict[str, Callable[[Path], object]] = {
        "webdataset": lambda path: write_tar(path, samples()),
        "parquet": lambda path: write_parquet(path, texts(400)),
        "arrayrecord": lambda path: write_records(path, texts(400)),
    }

    @functools.cache
    def source(name: str) -> tuple[dict[str, Any], Any]:
        own = dict(fields.get(name, {}))
        if name in writers:
            writers[name](own["path"])
        config = {"source": name, **own, **({"path": str(own["path"])} if own else {})}
        return config, data.load(config)

    return source


SIZED = ("vocab", "classes", "image", "video", "field", "mel", "frames", "regions", "region_side")


def planned(folder: Path, family: str, source: dict[str, Any], **model: Any) -> tuple[int, str]:
    """Exit status of ``scaling plan`` and what it said of a mistake, one line for certain."""
    (folder / "exp.py").write_text(FILE.format(family=family, model=model, source=source))
    code, out, err = scaling("plan", f"--config={folder / 'exp.py'}", f"--workdir={folder / 'w'}")
    assert out == "" and err.startswith("scaling: error: ") and err.count("\n") == 1 and len(err) < 300, err
    return code, err


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("family", "objective"), CASES)
def test_every_family_on_every_source(family: str, objective: str, source: str, supplied: Any, tmp_path: Path):
    """It is planned where the source has all that it reads; else the line says what it lacks, or what does not fit."""
    config, loaded = supplied(source)
    module, has = families.load(family), data.supplies(loaded)
    model = {"objective": objective} if objective else {}
    known = {field.name for field in dataclasses.fields(module.Config)}
    sizes = {field: has[field] for field in SIZED if field in has and field in known}  # as a study takes them
    spec = module.batch_spec(families.configure(module, 0, **model, **sizes))
    if lacking := [field for field in spec if field not in ("context", "text") and field not in has]:
        code, err = planned(tmp_path, family, config, **model)
        assert code == 2 and f" family = {family}: " in err and f" {lacking[0]}" in err
        return
    base: Any = study.base("supply")
    base.family, base.model, base.data.mine, base.repeats = family, model, config, True
    base.cells.grid = study.block("grid", "mine", (0,), tokens=(4096,))
    if families.inherits(module, families.configure(module, 0, **model, **sizes)):
        with refuses(Code.MISSING, "cells.grid.init_from"):  # all that it lacks is its parent
            study.resolve(base)
    else:
        assert len(plan.make(study.resolve(base)).rows()) == 1
    for field in set(spec) & set(SIZED) & known:
        wrong = has[field] * 2 if field in ("image", "frames") else has[field] - 1
        code, err = planned(tmp_path, family, config, **model, **{field: wrong})
        assert code == 2 and f" model.{field} = {wrong}: " in err and f" {has[field]}" in err
    if "context" in has and "context" in known:
        code, err = planned(tmp_path, family, config, **model, context=10**8)
        assert code == 2 and " model.context = 100000000: " in err
        code, err = planned(tmp_path, family, config, **model, context=has["context"] + 1)
        assert code == 2 and f" model.context = {has['context'] + 1}: " in err and f" {has['context']:,} " in err


@pytest.mark.parametrize("source", ["arrayrecord", "bin", "parquet", "prepared", "text", "webdataset"])
def test_a_source_of_files_without_any(source: str, tmp_path: Path):
    for path in ("", "nowhere"):
        code, err = planned(tmp_path, "gpt", {"source": source, "path": path})
        assert code == 2 and f"path = {path}: " in err


@pytest.mark.parametrize(
    ("source", "context", "least"),
    [
        ({"source": "rhm"}, 48, 32),
        ({"source": "zipf", "digits": 4, "base": 4}, 3, 4),
        ({"source": "markov", "vocab": 4, "order": 4}, 3, 4),
        ({"source": "scenes"}, 4, 6),
    ],
)
def test_a_context_that_a_world_cannot_fill(source: dict, context: int, least: int, tmp_path: Path):
    code, err = planned(tmp_path, "gpt", source, context=context)
    assert code == 2 and f" model.context = {context}: " in err and f" {least}" in err
