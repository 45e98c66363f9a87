"""Shared by the suite: a small study on a known source, and one compilation cache for the session."""

import os
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from ml_collections import ConfigDict
from references import NOT_HERE

hypothesis.settings.register_profile("suite", derandomize=True)  # the same examples everywhere: no run fails by chance
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every process that the suite starts shares one persistent cache, so that a shape compiles once."""
    own = tmp_path_factory.getbasetemp()
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "xla"  # several pytest processes: theirs
    cache.mkdir(exist_ok=True)
    folder = os.environ.setdefault("SCALING_CACHE", str(cache))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    return folder


@pytest.fixture(scope="session", autouse=True)
def reference_speed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Plans of the suite cost the same on every machine, and none measures it first."""
    from scaling import speed

    path = tmp_path_factory.mktemp("speed") / "speed.json"
    speed.remember(path, speed.REFERENCE)
    os.environ["SCALING_SPEED"] = str(path)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says how many tests of truth did not run for want of a table that may not be shipped."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NOT_HERE in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests need published runs without a licence; their twins ran")


def tiny_config(**cells: Any) -> ConfigDict:
    """The smallest study that trains for real: one layer of width 8 on a world of 16 contexts."""
    from scaling import study

    config = study.base("tiny")
    config.data.known = {"source": "zipf", "base": 4, "targets": 8}
    config.model = {"width": 8, "layers": 1, "heads": 1, "context": 12}
    config.recipe.batch = 4
    config.recipe.warmup_steps = 4
    config.chunk = 10
    config.evaluation = {"tokens": 1024, "batch": 32}
    config.cells = cells or {"grid": study.block("grid", "known", (0,), tokens=(48 * 30, 48 * 60))}
    return config


@pytest.fixture
def tiny() -> Callable[..., ConfigDict]:
    """``tiny(name=block, ...)``: see ``tiny_config``."""
    return tiny_config
