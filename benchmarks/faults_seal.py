"""``scaling predict`` seals while each of its calls fails in turn, for ``faults.py``."""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from faults_rows import ERRORS, UNREACHED, Row, Sealing, tried
from faults_workers import ROOT, Page, Worker

sys.path.append(str(ROOT / "tests"))


def seals(options: argparse.Namespace, done: list[Row]) -> Iterator[Sealing]:
    """A row for each trial; all of them in one process, unless they are done."""
    if any(isinstance(row, Sealing) for row in done):
        return
    rows, said = options.folder / "rows", options.folder / "seals"
    if (process := Worker(lambda: trials(options.folder, rows), said)).wait() != 0:
        raise RuntimeError(process.traceback()[-2000:])
    yield from msgspec.json.Decoder(Sealing).decode_lines(rows.read_bytes())


def trials(folder: Path, rows: Path) -> int:
    """Every call with each error, and with every fifth all from there on."""
    from test_damaged_files import made

    whole, workdir = folder / "whole", folder / "study-seal"
    made(whole)
    wanted = without_times(whole)
    (whole / "prediction.json").unlink()
    page = Page(workdir)
    page.attach()
    total = trial(whole, page, wanted, errno.EIO, UNREACHED).calls
    with rows.open("wb") as file:
        for first in range(1, total + 1):
            for error in ERRORS:
                for for_good in (False, True)[: 2 if first % 5 == 0 else 1]:
                    file.write(msgspec.json.encode(trial(whole, page, wanted, error, first, for_good)) + b"\n")
                    file.flush()
    return 0


def trial(whole: Path, page: Page, wanted: Any, error: int, first: int, for_good: bool = False) -> Sealing:
    """`scaling predict` while its calls fail, and again while none does."""
    workdir = whole.with_name("study-seal")
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(whole, workdir)
    row = tried(Sealing, "seal", page, lambda: predict(workdir), error, first, for_good)
    seal = workdir / "prediction.json"
    held = seal.read_bytes() if seal.exists() else None
    if (second := predict(workdir))[0] != 0:
        row.problems.append(f"the second time: {second}")
    if held is not None and seal.read_bytes() != held:
        row.problems.append("what was sealed changed")
    if without_times(workdir) != wanted:
        row.problems.append("the seal differs from the undisturbed one")
    return row


def predict(workdir: Path) -> tuple[int, str]:
    """Exit status and standard error of the verb; a traceback where it raises."""
    from test_damaged_files import run

    try:
        return run(["predict", str(workdir)])
    except Exception as error:
        return 1, f"{type(error).__name__}: {error}"


def without_times(workdir: Path) -> Any:
    """The entries of a seal, but for when they were made and the hashes of that."""
    entries = json.loads((workdir / "prediction.json").read_bytes())["entries"]
    return [
        {key: value for key, value in each.items() if key not in ("time", "sha256", "previous")} for each in entries
    ]
