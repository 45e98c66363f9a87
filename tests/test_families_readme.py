"""The worked example of scaling/families/README.md: the family on that page, under the battery of every family."""

import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import test_families
import test_families_training
from selection import mostly_system

from scaling import families, plan, study

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "scaling" / "families" / "README.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
# One device against a mesh with every axis, in a process of its own, since JAX counts devices once.
ELSEWHERE = """
import json, sys
from scaling import families
families.__path__.append(sys.argv[1])
from mesh_battery import BATCH, STEPS, batch_of, name_of, small, train
module, config = small("lstm", layers=1)
print(json.dumps({name_of(shape): train(module, config, shape)[2]["losses"] for shape in ((1, 1, 1), (2, 2, 2))}))
"""


def cases(test: Callable) -> list[dict]:
    """The arguments of a test of the battery, its own parameters times the families and objectives that exist now."""
    axes = []
    for mark in test.pytestmark:  # type: ignore[attr-defined]
        names = mark.args[0] if isinstance(mark.args[0], tuple) else (mark.args[0],)
        values = [("lstm", "")] if names == ("name", "case") else mark.args[1]
        values = [getattr(value, "values", value) for value in values]  # what ``mostly_system`` marked
        axes.append([dict(zip(names, value if isinstance(value, tuple) else (value,))) for value in values])
    return [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*axes)]


BATTERY = {
    name: test
    for battery in (test_families, test_families_training)
    for name, test in vars(battery).items()
    if name.startswith("test_") and "case" in inspect.signature(test).parameters
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of families beside the package's, with the page's code in it and nothing else changed."""
    place, before = tmp_path_factory.mktemp("families"), list(families.__path__)
    (place / "lstm.py").write_text(CODE)
    families.__path__.append(str(place))
    yield place
    families.__path__[:] = before
    sys.modules.pop("scaling.families.lstm", None)


def test_it_is_found_and_short():
    assert families.names() == sorted([*test_families.FAMILIES, "lstm"])
    assert len(CODE.splitlines()) < 80 and max(map(len, CODE.splitlines())) <= 120


@pytest.mark.parametrize("name", mostly_system(list(BATTERY), "test_analytic_counts_equal_the_traced_program"))
def test_it_passes_the_battery(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert len(BATTERY) >= 9
    asked = inspect.signature(BATTERY[name]).parameters
    fixtures = {"tmp_path": tmp_path, "monkeypatch": monkeypatch}
    given = {fixture: value for fixture, value in fixtures.items() if fixture in asked}
    for arguments in cases(BATTERY[name]):
        try:
            BATTERY[name](**arguments, **given)
        except pytest.skip.Exception:
            assert arguments["tied"] is False  # the page's family has one head


@pytest.mark.system
def test_it_trains_alike_on_a_mesh(folder: Path):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    alone = losses["1x1x1"]
    assert losses["2x2x2"] == pytest.approx(alone, rel=1e-5)
    assert alone[-1] != pytest.approx(alone[0], rel=1e-3)  # something was learnt


def test_it_does_not_see_what_comes():
    module, config = test_families.small("lstm", context=8)
    parameters = test_families.initial(module, config, 0.3)
    batch = test_families.batch_of(module, config, 2)
    other = {"tokens": batch["tokens"].copy()}
    other["tokens"][:, 5] = (other["tokens"][:, 5] + 1) % config.vocab
    one, two = (
        np.asarray(jax.jit(module.Model(config).apply)({"params": parameters}, b["tokens"][:, :-1]))
        for b in (batch, other)
    )
    np.testing.assert_array_equal(one[:, :5], two[:, :5])
    assert np.abs(one[:, 5:] - two[:, 5:]).max(axis=(0, 2)).min() > 1e-4


def test_it_is_planned_like_any_other(tiny):
    config = tiny()
    config.family, config.model = "lstm", {"context": 12, "layers": 1}
    made = plan.make(study.resolve(config))
    assert {row.N for row in made.rows()} == {8 * 16 * 16 + 2 * 16}
