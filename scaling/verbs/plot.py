"""plot: writes the figures of a study or of a fit card."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from scaling.flags import Flag
from scaling.records import SCHEMA
from scaling.records.files import refuse_links
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json


def plot(options: SimpleNamespace) -> int:
    """Writes the figures of a study or of one fit card."""
    from analysis.show.plots import save_all, save_fit

    path = options.path
    out = Path(options.out) if options.out else (path if path.is_dir() else path.parent) / "figures"
    if path.is_dir() and not options.out:
        refuse_links(out, inside=path)
    paths = save_all(path, out) if path.is_dir() else save_fit(path, out)
    if options.json:
        print_json({"schema": SCHEMA, "kind": "plots", "paths": [str(each) for each in paths]})
        return 0
    print("\n".join(map(str, paths)))
    return 0


VERB = Verb(
    summary="write the figures of a study or of a fit card as files",
    positional=("WORKDIR|FIT.json",),
    flags=(Flag("out", str, "directory of the figures (default: figures, beside the card or in the study)"), JSON),
    example="scaling plot fit.json",
    call=plot,
)
