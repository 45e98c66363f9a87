"""The mutation script: what it changes, which tests it takes, and that it goes on where it was stopped."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("mutants", ROOT / "benchmarks" / "mutants.py")
assert spec is not None and spec.loader is not None
mutants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutants)

SOURCE = '''"""A file with ü."""
LIMIT: int = 3


def clipped(x: float, top: float = 2.5) -> float:
    """At most the top."""
    if x != x:
        raise ValueError(f"no number {x + 1}")
    print(x)
    return top if x > top and top > 0 else x * 2
'''


def test_every_kind_of_change_is_one_place_of_code():
    found = list(mutants.mutants("a.py", SOURCE))
    kinds = {m.kind for m in found}
    assert kinds == {"comparison", "operator", "and/or", "number", "condition", "dropped"}
    assert {m.before for m in found if m.kind == "number"} == {"3", "2.5", "0", "2"}  # none of the message
    for mutant in found:
        text = mutants.mutated(SOURCE, mutant)
        ast.parse(text)
        assert text != SOURCE and text.splitlines()[0] == SOURCE.splitlines()[0]
        assert len(set(text.splitlines()) ^ set(SOURCE.splitlines())) <= 3  # one place
    with pytest.raises(ValueError, match="has changed"):
        mutants.mutated(SOURCE.replace("3", "4"), next(m for m in found if m.before == "3"))


def test_the_sample_is_that_of_its_seed(tmp_path):
    for folder in ("analysis", "scaling"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(SOURCE)
    one, two, other = (mutants.sample(tmp_path, 9, seed) for seed in (0, 0, 1))
    assert one == two != other and len(set(one)) == 9 and {m.path for m in one} == {"analysis/a.py", "scaling/a.py"}


def test_the_nearest_tests_of_a_module():
    assert mutants.tests_of(ROOT, "analysis/decide/gate.py")[0] == "tests/test_gate.py"
    assert "tests/test_laws.py" in mutants.tests_of(ROOT, "analysis/laws/nd.py")  # found by its package
    for path in ("analysis/fitting/parts.py", "scaling/verbs/fit.py", "scaling/worker/__init__.py"):
        assert 0 < len(mutants.tests_of(ROOT, path)) <= mutants.FILES, path


@pytest.mark.system
def test_a_run_goes_on_where_it_was_stopped(tmp_path, capsys):
    for folder in ("analysis", "scaling", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['system: s']\n")
    (tmp_path / "analysis" / "top.py").write_text("def top(x):\n    return x if x > 2 else 2\n\n\nUNUSED = 7\n")
    test = "from analysis.top import top\n\n\ndef test_top():\n    assert [top(1), top(3)] == [2, 3]\n"
    (tmp_path / "tests" / "test_top.py").write_text(test)
    out = tmp_path / "out.jsonl"
    assert mutants.main(["--count=2", f"--out={out}"], tmp_path) == 0
    assert len(out.read_text().splitlines()) == 2 and "2 mutants, 0 done" in capsys.readouterr().out
    assert mutants.main(["--count=9", f"--out={out}"], tmp_path) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    outcomes = {(row["kind"], row["before"]): row["outcome"] for row in rows}
    assert outcomes["number", "7"] == "survived" and outcomes["condition", "x if x > 2 else 2"] == "killed"
    assert len(rows) == len(set(outcomes)) + 1  # the number 2 stands twice
    assert "2 done before" in capsys.readouterr().out
