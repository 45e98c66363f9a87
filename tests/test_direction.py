"""The house: one direction of imports, light packages, and rooms that can be read at once."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each room and the rooms of scaling that it may import; "records <- count, recipe <- ... <- cli" of the design.
LEVELS = [
    {"errors", "flags", "settings", "inputs", "devices"},
    {"records"},
    {"index", "spend", "speed", "count", "recipe", "evaluate", "device", "distributed"},
    {"blocks", "objectives", "quantise"},
    {"families"},
    {"data", "mesh", "checkpoint"},
    {"study", "step", "parents", "parts", "naming", "adapt", "distill", "prune"},
    {"plan", "shapes", "lineage", "run", "train", "drive", "evaluations"},
    {"worker"},
    {"status", "engines", "calibrate"},
    {"progress"},
    {"cli", "verbs"},
]
LEVEL = {name: index for index, names in enumerate(LEVELS) for name in names}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "scaling" and parts[1] in LEVEL else None


def test_every_room_of_scaling_imports_downwards_only():
    for path in sorted((ROOT / "scaling").rglob("*.py")):
        relative = path.relative_to(ROOT / "scaling")
        if relative.name == "__init__.py" and len(relative.parts) == 1:
            assert _imports(path) <= {"__future__.annotations"}
            continue
        room = relative.parts[0].removesuffix(".py")
        assert room in LEVEL, f"{relative} is in no level of the house"
        for imported in _imports(path):
            assert not imported.startswith("analysis") or room in ("verbs", "status"), f"{relative} imports {imported}"
            target = _room(imported)
            if target is not None and target != room:
                assert LEVEL[target] <= LEVEL[room], f"{relative} imports {imported}, above it"
                assert LEVEL[target] < LEVEL[room] or {room, target} <= LEVELS[LEVEL[room]], relative


def test_families_know_nothing_of_optimisers_meshes_or_loops():
    for path in [*(ROOT / "scaling/families").glob("*.py"), *(ROOT / "scaling/blocks").glob("*.py")]:
        for imported in _imports(path):
            assert "optax" not in imported and "sharding" not in imported
            assert _room(imported) in (
                None,
                "families",
                "blocks",
                "objectives",
                "count",
                "errors",
                "settings",
                "records",
                "inputs",  # what a family's own INPUTS are made of
            )


def test_analysis_meets_the_trainer_at_the_record_only():
    for path in sorted((ROOT / "analysis").rglob("*.py")):
        slow = (
            path == ROOT / "analysis/engine/jax_surface.py"
        )  # only when a law without derivatives of its own is fitted
        for imported in _imports(path):
            assert slow or not imported.startswith("jax"), path
            if imported.startswith("scaling"):
                assert _room(imported) in ("errors", "records"), f"{path.name} imports {imported}"


@pytest.mark.parametrize(
    ("module", "libraries"),
    [("scaling", set()), ("scaling.errors", set()), ("scaling.records", {"msgspec", "typing_extensions"})],
)
def test_the_base_is_light(module: str, libraries: set[str]):
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"scaling"} <= libraries


def test_a_csv_is_fitted_without_jax(tmp_path: Path):
    rows = ["N,D,loss"]
    rows += [f"{n},{d},{1.7 + 400 / n**0.34 + 2000 / d**0.36}" for n in (1e6, 3e6, 1e7, 3e7) for d in (1e8, 3e8, 1e9)]
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    code = (
        "import sys; from analysis.fitting import fit; from analysis.table.runs import load\n"
        f"card = fit(load({str(tmp_path / 'runs.csv')!r}), 'chinchilla').card\n"
        "assert abs(card.params['alpha'].value - 0.34) < 0.01, card.params\n"
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_no_room_is_too_large_to_read():
    for folder in ("scaling", "analysis", "experiments", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            assert lines <= 600, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_pickle_is_loaded():
    for folder in ("scaling", "analysis", "experiments", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            imported = _imports(path)
            assert not {name.split(".")[0] for name in imported} & {"pickle", "dill", "joblib", "cloudpickle"}, path
            assert "allow_pickle=True" not in path.read_text()
