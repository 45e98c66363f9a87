"""report: writes one self-contained HTML file for a study."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from scaling.errors import UserError
from scaling.flags import Flag
from scaling.records import SCHEMA
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json


def report(options: SimpleNamespace) -> int:
    """Writes the report and prints its short form: the law, what it predicts, how the sealed forecasts came out."""
    workdir = _study(options.path)
    from analysis.decide import forecast
    from analysis.show.report import summary, write
    from analysis.table import seal as sealed

    path = write(workdir, Path(options.out) if options.out else None)
    if options.json:
        scored = forecast.score(workdir) if sealed.read(workdir) else None
        print_json({"schema": SCHEMA, "kind": "report", "path": str(path), "forecasts": scored})
        return 0
    print(summary(workdir))
    return 0


def _study(path: Path) -> Path:
    if not path.is_dir():
        raise UserError("workdir", path, "is not a directory; give the work directory of a study")
    return path


VERB = Verb(
    summary="write the report of a study, one HTML file with its figures, and print a summary",
    positional=("WORKDIR",),
    flags=(Flag("out", str, "file to write (default: WORKDIR/report.html)"), JSON),
    example="scaling report runs/demo-smoke",
    call=report,
)
