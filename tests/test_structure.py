"""The walls, measured: rooms of analysis, sizes of functions, types in place of dictionaries, prose in one room."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("scaling", "analysis")
VALUES = ("interval", "warning", "card")
ROOMS = (*VALUES, "laws", "table", "engine", "check", "fitting", "decide", "show", "reference", "api")
LINES, PARAMETERS = 60, 8
LOOSE = 60  # annotations dict[str, Any] at the edges that parse


def files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, list[str]]]:
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, text.splitlines()


def excused(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], word: str) -> bool:
    """Whether a comment above the function, or beside or under its ``def``, gives a reason: ``# long: ...``."""
    near = lines[max(node.lineno - 3, 0) : node.body[0].lineno]
    return any(re.search(rf"# (.*; )?{word}: \w+", line) for line in near)


def test_rooms_of_analysis_import_downwards_only():
    for path in files("analysis"):
        room = path.relative_to(ROOT / "analysis").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in ROOMS, f"{path.relative_to(ROOT)} is in no room of the house"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "analysis":
                parts = node.module.split(".")
                targets = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                targets = [a.name.split(".")[1] for a in node.names if a.name.startswith("analysis.")]
            else:
                continue
            for target in targets:
                assert target in ROOMS, f"{path.relative_to(ROOT)}:{node.lineno} imports {target}"
                here = f"{path.relative_to(ROOT)}:{node.lineno} imports {target}, above it"
                assert ROOMS.index(target) <= ROOMS.index(room), here


def test_functions_can_be_read_at_once():
    """At most 60 lines and 8 parameters, or a comment ``# long: why`` / ``# wide: why`` at the definition."""
    wrong = []
    for path in files(*PACKAGES):
        for node, lines in functions(path):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            count = len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)
            count -= bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
            if length > LINES and not excused(node, lines, "long"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines")
            if count > PARAMETERS and not excused(node, lines, "wide"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {count} parameters")
    assert not wrong, "\n".join(wrong)


def test_dictionaries_of_anything_stay_at_the_edges():
    found = {str(p.relative_to(ROOT)): p.read_text().count("dict[str, Any]") for p in files(*PACKAGES)}
    found = {path: count for path, count in found.items() if count}
    assert sum(found.values()) < LOOSE, sorted(found.items(), key=lambda item: -item[1])


def test_nothing_is_kept_from_the_formatter():
    skip = "# fmt: " + "skip"
    for path in files(*PACKAGES, "tests", "benchmarks", "experiments"):
        assert skip not in path.read_text(), path.relative_to(ROOT)


def test_no_prose_below_show():
    """Rooms below ``show`` hold no sentence for people: nothing is called message, verdict or words there."""
    for path in files("analysis"):
        room = path.relative_to(ROOT / "analysis").parts[0].removesuffix(".py")
        if room in (*VALUES, "table", "engine", "check", "fitting", "decide"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = node.arg if isinstance(node, ast.keyword | ast.arg) else getattr(node, "id", None)
                assert name not in ("message", "verdict", "sentence", "words"), f"{path.relative_to(ROOT)}: {name}"
