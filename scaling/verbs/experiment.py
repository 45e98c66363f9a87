"""What a script of experiments/ does once its runs are there: a command with the manners of the verbs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from scaling.errors import Code, UserError
from scaling.records import Manifest, Result, records, write_json
from scaling.verbs.show import print_json
from scaling.worker import EXIT_USER


def finished(workdir: Path) -> Iterator[tuple[Manifest, Result]]:
    """Manifest and result of each finished cell of a work directory; stems are none.

    Raises:
      UserError: there is none.
    """
    count = 0
    for record in records(workdir):
        manifest, result = record.manifest, record.result
        if result is not None and result.status == "done" and manifest.kind != "stem":
            count += 1
            yield manifest, result
    if not count:
        raise UserError("workdir", workdir, "holds no finished run; run the study first", Code.MISSING)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in the one line of the verbs, not below three of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError("arguments", " ".join(sys.argv[1:]) or "none", f"{message}; --help lists what there is")


def command(doc: str | None, file: str, analyse: Callable[[Path], Any], lines: Callable[[Any], list[str]]) -> None:
    """``python experiments/NAME.py --workdir=W [--json]``: the answer as a table or as JSON, and in ``W/file``.

    Exits with 2 and one line on a UserError.
    """
    parser = _Parser(description=(doc or "").split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    try:
        options = parser.parse_args()
        answer = analyse(options.workdir)
        write_json(options.workdir / file, answer)
    except UserError as error:
        print(f"scaling: error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
    if options.json:
        print_json(answer)
    else:
        print("\n".join(lines(answer)))
