"""The seal of a prediction: what was forecast before an outcome was read, hashed so that a later change is seen.

``prediction.json`` is a list of entries. Each entry's hash covers its content and the hash of the entry before it; the
hash of the file covers all of them. Only what is sealed here may be opened (``analysis.table.runs.open_holdouts``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.records import canonical, read_json

FILE = "prediction.json"


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def stamp(prediction: dict[str, Any]) -> dict[str, Any]:
    """The prediction with the hash of each entry, chained, and of the whole written in."""
    entries: list[dict[str, Any]] = []
    for entry in prediction["entries"]:
        previous = entries[-1]["sha256"] if entries else None
        body = {key: value for key, value in entry.items() if key != "sha256"} | {"previous": previous}
        entries.append({**body, "sha256": digest(body)})
    body = {key: value for key, value in prediction.items() if key != "sha256"} | {"entries": entries}
    return {**body, "sha256": digest(body)}


def read(workdir: str | Path) -> dict[str, Any] | None:
    """The verified prediction of a work directory, or None where nothing was sealed yet.

    Raises:
      UserError: the file was changed after it was sealed.
    """
    path = Path(workdir) / FILE
    try:
        prediction = read_json(path)
    except FileNotFoundError:
        return None
    try:
        intact = stamp(prediction) == prediction
    except (KeyError, TypeError, AttributeError, ValueError):
        intact = False
    if not intact:
        raise UserError("prediction", path, "was changed after it was sealed; restore the sealed file")
    return prediction


def sealed_runs(workdir: str | Path) -> set[str]:
    """Run ids whose forecasts are sealed in a verified prediction; empty where there is none."""
    prediction = read(workdir)
    return {cell["run"] for entry in prediction["entries"] for cell in entry["cells"]} if prediction else set()
