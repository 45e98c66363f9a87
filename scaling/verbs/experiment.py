"""Helpers for the scripts of experiments/ that analyse finished runs: a command that behaves like a verb."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.errors import Code, UserError
from scaling.flags import Flag, read
from scaling.records import Manifest, Result, read_study, records, write_json
from scaling.verbs._declare import JSON
from scaling.verbs.show import print_json
from scaling.worker import EXIT_USER


def finished(workdir: Path) -> Iterator[tuple[Manifest, Result]]:
    """Manifest and result of each finished cell of a work directory (stems are not cells).

    Raises:
      UserError: no run is finished (MISSING).
    """
    count = 0
    for record in records(workdir):
        manifest, result = record.manifest, record.result
        if result is not None and result.status == "done" and manifest.kind != "stem":
            count += 1
            yield manifest, result
    if not count:
        raise UserError("workdir", workdir, "holds no finished run; run the study first", Code.MISSING)


def start(workdir: Path, family: str) -> tuple[Any, Any]:
    """Parameters before the first step, with what parents gave, and configuration of a study's first run of a family.

    Raises:
      UserError: there is no run of the family, or a parent has no final parameters (MISSING).
    """
    from scaling.run import Run

    programs = [each for each in read_study(workdir).programs if each.runs[-1].manifest.family == family]
    if not programs:
        raise UserError("workdir", workdir, f"holds no study of {family}", Code.MISSING)
    run = Run(programs[0].runs[-1], programs[0], workdir)
    return run.initial()["params"], run.trainer.config


def command(doc: str | None, file: str, analyse: Callable[[Path], Any], lines: Callable[[Any], list[str]]) -> None:
    """``python experiments/NAME.py --workdir=W [--json]``: prints the answer, and writes it to ``W/file``.

    Exits with 2 and one line on a UserError.

    Args:
      doc: the docstring of the script, whose first line is its help.
      file: name of the answer in the work directory.
      analyse: computes the answer, JSON-serialisable, from the work directory.
      lines: the answer as printed lines of text.
    """
    flags = (Flag("workdir", str, "directory of the study"), JSON)
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"usage: python {sys.argv[0]} --workdir=DIRECTORY [--json]\n\n  {(doc or '').splitlines()[0]}")
        sys.exit(0)
    try:
        given = read(flags, sys.argv[1:])
        if given.positional or "workdir" not in given.flags:
            raise UserError(
                "workdir", " ".join(given.positional) or "nothing", "give --workdir=DIRECTORY", Code.MISSING
            )
        workdir = Path(str(given.flags["workdir"]))
        answer = analyse(workdir)
        write_json(workdir / file, answer)
    except UserError as error:
        print(f"scaling: error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
    if given.flags.get("json"):
        print_json(answer)
    else:
        print("\n".join(lines(answer)))
