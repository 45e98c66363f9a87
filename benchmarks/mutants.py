"""Mutation testing: a seeded sample of small faults in ``analysis/`` and ``scaling/``, each run against quick tests.

    python benchmarks/mutants.py --count=40 --seed=0 --out=benchmarks/mutants.jsonl

A mutant is one change of the syntax tree: a comparison turned or moved to its edge, a number one higher, an operator
or ``and`` and ``or`` exchanged, a condition negated, or a statement dropped (a call, an augmented assignment, an ``if``
that only raises, returns or continues). It is put into a copy of the working tree, and the test files nearest to its
module (``tests_of``) run there without their ``system`` cases until the first failure. ``killed``: a test failed that
passes without the mutant; ``survived``: all passed; ``error``: none ran, or the one that failed does without the mutant
too; ``timeout``: neither, within ``--limit`` seconds. Every outcome is a line of ``--out``, so that the same command
goes on where it was stopped. Goal: 90 % killed.
"""

from __future__ import annotations

import argparse
import ast
import collections
import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES, FILES = ("analysis", "scaling"), 5  # most test files a mutant is run against
COPIED = ("analysis", "scaling", "tests", "benchmarks", "experiments", "docs", "notebooks")
LARGEST = 2**20  # bytes of a file beside the packages that is copied
OF_THE_TEXT = ("test_structure.py", "test_direction.py", "test_literals.py")  # they read source, not behaviour
TURNED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


class Mutant(NamedTuple):
    """One change: what stands at a place of a file, and what is put there instead."""

    path: str
    line: int
    column: int
    kind: str
    before: str
    after: str


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of the syntax tree. Annotations and decorators stay as they are."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    for node in _code(ast.parse(source)):
        for kind, after in _changes(node):
            yield Mutant(path, *_place(node), kind, _text(lines, node), after)


def _place(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _text(lines: list[bytes], node: Any) -> str:
    """What stands at a node."""
    if node.lineno == node.end_lineno:
        return lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()
    first, last = lines[node.lineno - 1][node.col_offset :], lines[node.end_lineno - 1][: node.end_col_offset]
    return b"".join([first, *lines[node.lineno : node.end_lineno - 1], last]).decode()


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node`` that are executed, without annotations, decorators and literal types."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):  # no wording
                yield child
                yield from _code(child)


def _changes(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The kinds of change that a node allows, with its new text."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in TURNED:
            yield "comparison", ast.unparse(ast.Compare(left, [TURNED[type(op)]()], [right]))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SWAPPED:
            yield "operator", ast.unparse(ast.BinOp(left, SWAPPED[type(op)](), right))
        case ast.BoolOp(op=op, values=values):
            yield "and/or", ast.unparse(ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values))
        case ast.Constant() if type(node.value) in (int, float):
            yield "number", repr(ast.literal_eval(node) + 1)
        case ast.IfExp(test=test, body=body, orelse=other):
            yield "condition", ast.unparse(ast.IfExp(test, other, body))
        case ast.If(test=_, body=[ast.Raise() | ast.Return() | ast.Continue()], orelse=[]):
            yield "dropped", "pass"
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield "dropped", "pass"


def mutated(source: str, mutant: Mutant) -> str:
    """The file with the change. The rest of its text stays as it is."""
    lines = source.splitlines(keepends=True)
    start = len("".join(lines[: mutant.line - 1]).encode()) + mutant.column
    data, old = source.encode(), mutant.before.encode()
    if data[start : start + len(old)] != old:
        raise ValueError(f"{mutant.path}:{mutant.line} has changed")
    new = mutant.after if mutant.kind == "dropped" else f"({mutant.after})" if " " in mutant.after else mutant.after
    return (data[:start] + new.encode() + data[start + len(old) :]).decode()


def sample(root: Path, count: int, seed: int, packages: Sequence[str] = PACKAGES) -> list[Mutant]:
    """``count`` mutants of ``packages``, uniform over all of them, in random order."""
    found = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            found += mutants(str(path.relative_to(root)), path.read_text())
    return random.Random(seed).sample(found, min(count, len(found)))


def tests_of(root: Path, path: str) -> list[str]:
    """The test files nearest to a module: those that import it, then those that import what imports it. A module that
    nothing imports is found by its package."""
    tests, modules = _imports(root)
    chosen: list[str] = []
    ring, looked = {_dotted(path)}, set[str]()
    while ring and len(chosen) < FILES:
        looked |= ring
        stems = {module.rpartition(".")[2].strip("_") for module in ring}
        direct = [name for name, found in tests.items() if found & ring]
        chosen += [name for name in tests if Path(name).stem.removeprefix("test_") in stems and name not in chosen]
        chosen += sorted((name for name in direct if name not in chosen), key=lambda name: len(tests[name]))
        above = {module for module, found in modules.items() if found & ring}
        ring = (above or {module.rpartition(".")[0] for module in ring if "." in module}) - looked
    return list(dict.fromkeys(chosen))[:FILES]


@functools.cache
def _imports(root: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What every test file and every module imports, in dotted names."""
    names = [p for p in sorted((root / "tests").glob("test_*.py")) if p.name not in OF_THE_TEXT]
    tests = {p.relative_to(root).as_posix(): _imported(p.read_text()) for p in names}
    paths = [p for package in PACKAGES for p in (root / package).rglob("*.py")]
    return tests, {_dotted(p.relative_to(root).as_posix()): _imported(p.read_text()) for p in paths}


def _imported(text: str) -> set[str]:
    found = set(re.findall(r"^[ ]*import ([\w.]+)", text, re.MULTILINE))
    for module, names in re.findall(r"^[ ]*from ([\w.]+) import (\([^)]*\)|[^\n]*)", text, re.MULTILINE):
        found |= {module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))}
    return found


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def outcome(root: Path, mutant: Mutant, limit: float) -> dict[str, object]:
    """Runs the tests of a mutant in a copy of the tree."""
    files = tests_of(root, mutant.path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        copy.mkdir()
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "figures"))
        for path in root.iterdir():
            if path.is_file() and not path.name.startswith(".") and path.stat().st_size < LARGEST:
                shutil.copy(path, copy / path.name)
        target = copy / mutant.path
        plain = target.read_text()
        target.write_text(mutated(plain, mutant))
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        asked = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not system", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*asked, *files], cwd=copy, env=environment, capture_output=True, text=True, timeout=limit
            )
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
            target.write_text(plain)
            broken = False
            if failed:  # a test that fails without the mutant too kills nothing
                again = [*asked, failed[1]]
                done_again = subprocess.run(again, cwd=copy, env=environment, capture_output=True, timeout=limit)
                broken = done_again.returncode == 1
        except subprocess.TimeoutExpired:
            return {"outcome": "timeout", "tests": files}
    # 5: no test was there to fail; other than 1: no test ran, as where a module cannot be imported
    status = {0: "survived", 5: "survived", 1: "killed"}.get(done.returncode, "error")
    if broken:
        status = "error"
    return {"outcome": status, "tests": files, "by": failed[1] if failed else None}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Runs the mutants that ``--out`` lacks and prints the count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--under", choices=PACKAGES, help="mutants of this package only")
    parser.add_argument("--limit", type=float, default=300, help="seconds for the tests of one mutant")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    known: dict[tuple[object, ...], dict[str, object]] = {}
    if options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
        known = {tuple(row[name] for name in (*Mutant._fields, "seed")): row for row in rows}
    wanted = sample(root, options.count, options.seed, PACKAGES if options.under is None else (options.under,))
    print(f"seed {options.seed}: {len(wanted)} mutants, {sum((*m, options.seed) in known for m in wanted)} done before")
    for mutant in wanted:
        if (*mutant, options.seed) in known:
            continue
        row = {**mutant._asdict(), "seed": options.seed, **outcome(root, mutant, options.limit)}
        known[(*mutant, options.seed)] = row
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['outcome']:9} {mutant.path}:{mutant.line} {mutant.kind}: {mutant.before[:60]!r}", flush=True)
    counts = collections.Counter(known[(*m, options.seed)]["outcome"] for m in wanted)
    others = ", ".join(f"{name} {counts[name]}" for name in ("survived", "error", "timeout"))
    print(f"killed {counts['killed']} of {len(wanted)}; {others}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
