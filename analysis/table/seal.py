"""The seal of a prediction: forecasts made before their outcomes were read, hashed so that later changes are detected.

``prediction.json`` is a list of entries. Each entry's hash covers its content and the hash of the entry before it; the
hash of the file covers all entries. Only outcomes of cells sealed here may be read
(``analysis.table.workdir.open_holdouts``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from analysis.card import SCHEMA, Value
from scaling.errors import Code, UserError
from scaling.records import canonical, read_json

FILE = "prediction.json"
LOCK = ".prediction.lock"  # there while a process seals


class Forecaster(Value):
    """A forecaster: a law fitted on one count of parameters, or the naive forecaster on it (``law`` is None)."""

    law: str | None
    n: str

    @property
    def naive(self) -> bool:
        """Whether it is the naive forecaster: the nearest cell with its local slopes."""
        return self.law is None


class SealedFit(Value):
    """A fit card in ``fits/`` as it was when its forecasts were sealed; ``draws`` is the hash of its draws."""

    file: str
    sha256: str
    draws: str


class SealedCell(Value):
    """A held-out cell as planned.

    Attributes:
      N: by count of parameters (nonembedding, total ...).
      beyond: which of N and D lie beyond the fitted runs.
      compute_ratio: its training FLOPs over the largest of the fitted runs.
    """

    run: str
    dataset: str
    N: dict[str, float]
    D: float
    C: float
    beyond: tuple[Literal["N", "D"], ...]
    compute_ratio: float
    status: str


class Forecast(Value):
    """One forecaster's loss at one cell: its value, central 50 % and 95 % intervals, and 50 quantiles."""

    run: str
    dataset: str
    forecaster: Forecaster
    value: float
    interval50: tuple[float, float]
    interval95: tuple[float, float]
    quantiles: tuple[float, ...]


class Region(Value):
    """Joint region of the log losses of ``runs`` if the form is true: an ellipsoid; ``limit`` bounds the distance."""

    dataset: str
    forecaster: Forecaster
    runs: tuple[str, ...]
    centre: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    limit: float


class Shares(Value):
    """Mean and range of several probabilities."""

    mean: float
    lowest: float
    highest: float


class Power(Value):
    """What the held-out cells can show, by simulation from each forecaster in turn as the truth.

    Attributes:
      refute: probability that the column's forecaster is refuted when the row's is true.
      choose: probability that the true one gets the best CRPS.
      level: of the region; outcomes outside it refute.
    """

    cells: int
    level: float
    forecasters: tuple[Forecaster, ...]
    refute: tuple[tuple[float, ...], ...]
    choose: tuple[float, ...]

    @property
    def chance(self) -> float:
        """Probability that a forecaster is chosen by chance."""
        return 1 / len(self.forecasters)

    @property
    def chosen(self) -> float:
        """Mean probability that the true law is chosen; 0 without a law."""
        laws = [share for who, share in zip(self.forecasters, self.choose) if not who.naive]
        return sum(laws) / len(laws) if laws else 0.0

    @property
    def wrong_forms(self) -> Shares | None:
        """Probabilities that a law of another form than the true one is refuted; None with one form."""
        laws = [(i, who.law) for i, who in enumerate(self.forecasters) if not who.naive]
        shares = [self.refute[i][j] for i, true in laws for j, tested in laws if true != tested]
        return Shares(mean=sum(shares) / len(shares), lowest=min(shares), highest=max(shares)) if shares else None


class NaiveNoise(Value):
    """Sd of log loss that the naive forecaster assumes: between seeds, or of the best law's residuals."""

    n: str
    sd: float
    df: int
    of: Literal["seeds", "residuals"]


class Entry(Value):
    """What was sealed at one time. ``power`` and ``naive`` are by data set; ``previous`` is the last entry's hash."""

    time: str
    fits: tuple[SealedFit, ...]
    cells: tuple[SealedCell, ...]
    forecasts: tuple[Forecast, ...]
    joint: tuple[Region, ...]
    power: dict[str, Power]
    naive: dict[str, tuple[NaiveNoise, ...]]
    previous: str | None = None
    sha256: str = ""


class Prediction(Value):
    """Everything sealed in a work directory."""

    entries: tuple[Entry, ...]
    sha256: str = ""
    kind: Literal["prediction"] = "prediction"
    schema: Literal[2] = SCHEMA

    @property
    def cells(self) -> tuple[SealedCell, ...]:
        """The sealed cells of all entries."""
        return tuple(cell for entry in self.entries for cell in entry.cells)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a value or Struct, without its own field ``sha256``."""
    plain = msgspec.to_builtins(value)
    return hashlib.sha256(canonical({k: v for k, v in plain.items() if k != "sha256"}).encode()).hexdigest()


def stamp(prediction: Prediction) -> Prediction:
    """The prediction with the chained hash of each entry and the hash of the whole filled in."""
    entries: list[Entry] = []
    for entry in prediction.entries:
        chained = msgspec.structs.replace(entry, previous=entries[-1].sha256 if entries else None)
        entries.append(msgspec.structs.replace(chained, sha256=digest(chained)))
    whole = msgspec.structs.replace(prediction, entries=tuple(entries))
    return msgspec.structs.replace(whole, sha256=digest(whole))


def read(workdir: str | Path) -> Prediction | None:
    """The verified prediction of a work directory, or None where nothing was sealed yet.

    Raises:
      UserError: CHANGED: the file was changed after it was sealed; DAMAGED: it is no prediction, or of another version.
    """
    path = Path(workdir) / FILE
    try:
        data = read_json(path)
    except FileNotFoundError:
        return None
    if not _intact(data):
        changed = "was changed after it was sealed"
        raise UserError("prediction", path, f"{changed}; restore the sealed file", Code.CHANGED, problem=changed)
    try:
        return msgspec.convert(data, Prediction)
    except msgspec.ValidationError as error:
        remedy = f"is sealed by another version of this program ({error}); read it with that one"
        raise UserError("prediction", path, remedy, Code.DAMAGED) from error


def _intact(data: Any) -> bool:
    """Whether every hash of a file matches its content, and every entry names the one before."""
    previous = None
    try:
        for entry in data["entries"]:
            if entry["previous"] != previous or digest(entry) != entry["sha256"]:
                return False
            previous = entry["sha256"]
        return digest(data) == data["sha256"]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return False


def sealed_runs(workdir: str | Path) -> frozenset[str]:
    """Run ids whose forecasts are sealed in a verified prediction; empty where there is none."""
    prediction = read(workdir)
    return frozenset(cell.run for cell in prediction.cells) if prediction else frozenset()
