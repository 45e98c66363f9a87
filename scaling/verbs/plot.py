"""plot: writes the figures of studies, fit cards or tables, for one column of a paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import UserError
from scaling.flags import Flag
from scaling.records import SCHEMA
from scaling.records.files import refuse_links
from scaling.records.typed import reading_once
from scaling.verbs._declare import JSON, TABLE, Verb
from scaling.verbs._inputs import fit_of, of_table
from scaling.verbs.show import print_json

if TYPE_CHECKING:
    from analysis.show.workdir_summary import WorkdirSummary


def plot(options: SimpleNamespace) -> int:
    """Writes the figures that the data support and says which they do not, with the reason."""
    from analysis.show.plots import save_summaries

    path = options.paths[0]
    study = path.is_dir() and len(options.paths) == 1
    out = Path(options.out) if options.out else (path if study else path.parent) / "figures"
    if study and not options.out:
        refuse_links(out, inside=path)
    only, formats = _names("only", options.only), _names("format", options.format)
    with reading_once():
        summaries = [_summary(each, options) for each in options.paths]
    saved = save_summaries(summaries, out, only=only, formats=formats or None)
    if options.json:
        left_out = {name: str(error) for name, error in saved.left_out.items()}
        print_json({"schema": SCHEMA, "kind": "plots", "paths": list(map(str, saved.paths)), "left_out": left_out})
        return 0
    print("\n".join(map(str, saved.paths)))
    for name, error in saved.left_out.items():
        print(f"not drawn: {name}: {error}")
    return 0


def _names(flag: str, text: str | None) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if text is not None and not names:
        raise UserError(flag, text or "nothing", "give names separated by commas")
    return names


def _summary(path: Path, options: SimpleNamespace) -> WorkdirSummary:
    """What the figures of a study, a card or a table are drawn from."""
    from analysis.show import workdir_summary

    if path.is_dir():
        of_table(options, path)
        return workdir_summary.collect(path)
    fit, runs = fit_of(path, options)
    summary = workdir_summary.of_one(fit, path)
    return replace(summary, datasets=tuple(replace(part, runs=runs) for part in summary.datasets))


VERB = Verb(
    summary="write figures of a study, a fit card or a table, for one column of a paper",
    positional=("WORKDIR|FIT.json|FILE...",),
    flags=(
        *TABLE,
        Flag("out", str, "folder (default: figures, in the study or beside the file), or FILE.pdf for one figure"),
        Flag("only", str, "figures to draw, such as 'isoflop,optimum' (default: all that the runs allow)"),
        Flag("format", str, "formats, such as pdf,png (default: pdf,svg,png, or that of --out=FILE.pdf)"),
        JSON,
    ),
    example="scaling plot fit.json --only=frontier --format=pdf",
    call=plot,
)
